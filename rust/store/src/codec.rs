//! Events as the bodies of entries, and back.

use std::sync::Arc;

use bursar_proto::ledger::v1 as pb;
use bursar_quota::{
    Activated, Basis, Counted, Effect, Event, Hold, Labels, Line, Meter, Method, Milliseconds,
    Outcome, Recorded, ReservationState, Reserved, Settled, Timestamp, Unsettled,
};
use prost::Message as _;

pub use crate::intern::CodecError;
use crate::intern::{Interner, Symbols};
use crate::uuid;

/// Encodes an event, defining what the segment has not defined yet.
pub(crate) fn encode(
    interner: &mut Interner,
    sequence: u64,
    instant: Timestamp,
    event: &Event,
) -> Vec<u8> {
    let mut body = pb::Body::default();
    let mut encoder = Encoder { interner, body: &mut body, sequence, instant };
    let event = match event {
        Event::Activated(event) => pb::body::Event::Activated(activated_out(event)),
        Event::Reserved(event) => pb::body::Event::Reserved(encoder.reserved(event)),
        Event::Settled(event) => pb::body::Event::Settled(encoder.settled(event)),
        Event::Recorded(event) => pb::body::Event::Recorded(encoder.recorded(event)),
    };
    body.event = Some(event);
    body.encode_to_vec()
}

/// Reads a body without taking what it defines.
pub(crate) fn parse(bytes: &[u8]) -> Result<pb::Body, CodecError> {
    pb::Body::decode(bytes).map_err(CodecError::Message)
}

/// The event of a body whose segment's symbols, its own included, are known.
pub(crate) fn decode(
    symbols: &Symbols,
    sequence: u64,
    instant: Timestamp,
    body: pb::Body,
) -> Result<Event, CodecError> {
    let decoder = Decoder { symbols, sequence, instant };
    match body.event.ok_or(CodecError::Event)? {
        pb::body::Event::Activated(event) => Ok(Event::Activated(activated_in(event))),
        pb::body::Event::Reserved(event) => {
            decoder.reserved(event).map(Box::new).map(Event::Reserved)
        }
        pb::body::Event::Settled(event) => decoder.settled(event).map(Box::new).map(Event::Settled),
        pb::body::Event::Recorded(event) => {
            decoder.recorded(event).map(Box::new).map(Event::Recorded)
        }
    }
}

fn activated_out(event: &Activated) -> pb::Activated {
    pb::Activated {
        version: event.version,
        digest: event.digest.to_vec(),
        policy: event.policy.to_vec(),
        source: event.source.to_vec(),
        rollups: event.rollups.iter().map(|key| key.to_string()).collect(),
        identities: event.identities.clone(),
    }
}

fn activated_in(event: pb::Activated) -> Activated {
    Activated {
        version: event.version,
        digest: event.digest.into(),
        policy: event.policy.into(),
        source: event.source.into(),
        rollups: event.rollups.into_iter().map(Into::into).collect(),
        identities: event.identities,
    }
}

struct Encoder<'a> {
    interner: &'a mut Interner,
    body: &'a mut pb::Body,
    sequence: u64,
    instant: Timestamp,
}

impl Encoder<'_> {
    fn reserved(&mut self, event: &Reserved) -> pb::Reserved {
        let (id, uuid) = uuid::pack(&event.id);
        let mut holds = Vec::with_capacity(event.holds.len() * 2);
        let mut holds_by_model = 0;
        for (bit, hold) in event.holds.iter().enumerate() {
            holds.push(self.interner.counter(&hold.counter, self.body));
            holds.push(hold.amount);
            holds_by_model |= u64::from(hold.by_model) << bit.min(63);
        }
        pb::Reserved {
            id,
            uuid,
            digest: event.digest,
            model: self.string(&event.model),
            labels: self.labels(&event.labels),
            input: self.lines(&event.input),
            counted_method: u32::from(event.counted.method as u8),
            counted_tokenizer: self.string(&event.counted.tokenizer),
            output_tokens_granted: event.output_tokens_granted,
            choices: event.choices,
            ttl_ms: event.ttl.0,
            policy_version: event.policy_version,
            unsettled: u32::from(event.unsettled as u8),
            holds,
            hour_before_ms: self.distance(event.hour),
            holds_by_model,
            service_tier: self.string(&event.service_tier),
            labels_sent: event.labels_sent.as_ref().map(|labels| self.labels(labels)),
            mapped_labels: event.mapped.iter().map(|key| self.string(key)).collect(),
        }
    }

    fn settled(&mut self, event: &Settled) -> pb::Settled {
        let (id, uuid) = uuid::pack(&event.id);
        pb::Settled {
            id,
            uuid,
            state: u32::from(event.state as u8),
            digest: event.digest,
            reserved_before: self.sequence.saturating_sub(event.reserved_sequence),
            effects: self.effects(&event.effects),
            lines: self.lines(&event.lines),
            outcome: event.outcome.map_or(0, |outcome| u32::from(outcome as u8)),
            call: event.call,
            model: self.string(&event.model),
            labels: self.labels(&event.labels),
            hour_before_ms: self.distance(event.hour),
            latency_ms: event.latency_ms,
            tokens_reserved: event.tokens_reserved,
            policy_version: event.policy_version,
            response_id: event.response_id.to_string(),
            model_version: self.string(&event.model_version),
            service_tier: self.string(&event.service_tier),
            first_token_ms: event.first_token_ms,
            replaces_before: event
                .replaces_sequence
                .map_or(0, |replaced| self.sequence.saturating_sub(replaced)),
            replaced_lines: self.lines(&event.replaced_lines),
            replaced_call: event.replaced_call,
            total_tokens_stated: event.total_tokens_stated,
            reason: event.reason.to_string(),
            uncounted: event.uncounted,
            dispatched: event.dispatched,
            granted_model: (event.granted_model != event.model)
                .then(|| self.string(&event.granted_model)),
            granted_service_tier: (event.granted_service_tier != event.service_tier)
                .then(|| self.string(&event.granted_service_tier)),
            granted_labels: (event.granted_labels != event.labels)
                .then(|| self.labels(&event.granted_labels)),
        }
    }

    fn recorded(&mut self, event: &Recorded) -> pb::Recorded {
        let (id, uuid) = uuid::pack(&event.id);
        pb::Recorded {
            id,
            uuid,
            digest: event.digest,
            occurred_before_ms: self.distance(event.occurred_at),
            effects: self.effects(&event.effects),
            lines: self.lines(&event.lines),
            outcome: u32::from(event.outcome as u8),
            model: self.string(&event.model),
            model_version: self.string(&event.model_version),
            service_tier: self.string(&event.service_tier),
            response_id: event.response_id.to_string(),
            labels: self.labels(&event.labels),
            labels_sent: event.labels_sent.as_ref().map(|labels| self.labels(labels)),
            total_tokens_stated: event.total_tokens_stated,
            latency_ms: event.latency_ms,
            policy_version: event.policy_version,
            hour_before_ms: self.distance(event.hour),
            uncounted: event.uncounted,
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        self.interner.string(text, self.body)
    }

    fn labels(&mut self, labels: &Arc<Labels>) -> u32 {
        self.interner.label_set(labels, self.body)
    }

    /// How far before the entry an instant is; wraps for instants half of all time away, and back again.
    fn distance(&self, at: Timestamp) -> i64 {
        self.instant.0.wrapping_sub(at.0)
    }

    fn effects(&mut self, effects: &[Effect]) -> Vec<i64> {
        let mut out = Vec::with_capacity(effects.len() * 3);
        for effect in effects {
            let counter = self.interner.counter(&effect.counter, self.body);
            out.extend([counter.cast_signed(), effect.committed, effect.reserved]);
        }
        out
    }

    fn lines(&mut self, lines: &[Line]) -> Vec<u64> {
        let mut out = Vec::with_capacity(lines.len() * 2);
        for line in lines {
            let named = !line.component.is_empty() || !line.source.is_empty();
            let kind = u64::from(line.meter as u8) << 3 | u64::from(line.basis as u8);
            out.extend([kind | u64::from(named) << 2, line.tokens]);
            if named {
                out.push(u64::from(self.string(&line.component)));
                out.push(u64::from(self.string(&line.source)));
            }
        }
        out
    }
}

struct Decoder<'a> {
    symbols: &'a Symbols,
    sequence: u64,
    instant: Timestamp,
}

impl Decoder<'_> {
    fn reserved(&self, event: pb::Reserved) -> Result<Reserved, CodecError> {
        let mut holds = Vec::with_capacity(event.holds.len() / 2);
        for (bit, pair) in event.holds.chunks_exact(2).enumerate() {
            let [counter, amount] = *pair else { continue };
            let by_model = event.holds_by_model >> bit.min(63) & 1 == 1;
            holds.push(Hold { counter: self.symbols.counter(counter)?, amount, by_model });
        }
        let mapped: Result<Box<[Box<str>]>, CodecError> = event
            .mapped_labels
            .iter()
            .map(|number| Ok((*self.symbols.string(*number)?).into()))
            .collect();
        Ok(Reserved {
            id: uuid::unpack(event.id, &event.uuid),
            digest: event.digest,
            model: self.symbols.string(event.model)?,
            service_tier: self.symbols.string(event.service_tier)?,
            labels: self.symbols.label_set(event.labels)?,
            labels_sent: self.labels_sent(event.labels_sent)?,
            input: self.lines(&event.input)?.into(),
            counted: Counted {
                method: method(event.counted_method)?,
                tokenizer: self.symbols.string(event.counted_tokenizer)?,
            },
            output_tokens_granted: event.output_tokens_granted,
            choices: event.choices,
            ttl: Milliseconds(event.ttl_ms),
            policy_version: event.policy_version,
            unsettled: unsettled(event.unsettled)?,
            holds: holds.into(),
            hour: self.before(event.hour_before_ms),
            mapped: mapped?,
        })
    }

    fn settled(&self, event: pb::Settled) -> Result<Settled, CodecError> {
        let replaces = event.replaces_before;
        Ok(Settled {
            id: uuid::unpack(event.id, &event.uuid),
            state: state(event.state)?,
            digest: event.digest,
            reserved_sequence: self.sequence.saturating_sub(event.reserved_before),
            replaces_sequence: (replaces > 0).then(|| self.sequence.saturating_sub(replaces)),
            effects: self.effects(&event.effects)?,
            lines: self.lines(&event.lines)?,
            replaced_lines: self.lines(&event.replaced_lines)?,
            replaced_call: event.replaced_call,
            call: event.call,
            outcome: match event.outcome {
                0 => None,
                number => Some(outcome(number)?),
            },
            model: self.symbols.string(event.model)?,
            model_version: self.symbols.string(event.model_version)?,
            service_tier: self.symbols.string(event.service_tier)?,
            response_id: event.response_id.into(),
            labels: self.symbols.label_set(event.labels)?,
            total_tokens_stated: event.total_tokens_stated,
            latency_ms: event.latency_ms,
            first_token_ms: event.first_token_ms,
            policy_version: event.policy_version,
            tokens_reserved: event.tokens_reserved,
            hour: self.before(event.hour_before_ms),
            reason: event.reason.into(),
            uncounted: event.uncounted,
            dispatched: event.dispatched,
            granted_model: self.symbols.string(event.granted_model.unwrap_or(event.model))?,
            granted_service_tier: self
                .symbols
                .string(event.granted_service_tier.unwrap_or(event.service_tier))?,
            granted_labels: self.symbols.label_set(event.granted_labels.unwrap_or(event.labels))?,
        })
    }

    fn recorded(&self, event: pb::Recorded) -> Result<Recorded, CodecError> {
        Ok(Recorded {
            id: uuid::unpack(event.id, &event.uuid),
            digest: event.digest,
            occurred_at: self.before(event.occurred_before_ms),
            effects: self.effects(&event.effects)?,
            lines: self.lines(&event.lines)?,
            outcome: outcome(event.outcome)?,
            model: self.symbols.string(event.model)?,
            model_version: self.symbols.string(event.model_version)?,
            service_tier: self.symbols.string(event.service_tier)?,
            response_id: event.response_id.into(),
            labels: self.symbols.label_set(event.labels)?,
            labels_sent: self.labels_sent(event.labels_sent)?,
            total_tokens_stated: event.total_tokens_stated,
            latency_ms: event.latency_ms,
            policy_version: event.policy_version,
            hour: self.before(event.hour_before_ms),
            uncounted: event.uncounted,
        })
    }

    fn labels_sent(&self, number: Option<u32>) -> Result<Option<Arc<Labels>>, CodecError> {
        number.map(|number| self.symbols.label_set(number)).transpose()
    }

    fn before(&self, distance_ms: i64) -> Timestamp {
        Timestamp(self.instant.0.wrapping_sub(distance_ms))
    }

    fn effects(&self, packed: &[i64]) -> Result<Vec<Effect>, CodecError> {
        let mut out = Vec::with_capacity(packed.len() / 3);
        for triple in packed.chunks_exact(3) {
            let [counter, committed, reserved] = *triple else { continue };
            let counter = self.symbols.counter(counter.cast_unsigned())?;
            out.push(Effect { counter, committed, reserved });
        }
        Ok(out)
    }

    fn lines(&self, packed: &[u64]) -> Result<Vec<Line>, CodecError> {
        let mut out = Vec::with_capacity(packed.len() / 2);
        let mut numbers = packed.iter().copied();
        while let Some(kind) = numbers.next() {
            let wrong = || CodecError::Value { field: "line", value: kind };
            let tokens = numbers.next().ok_or_else(wrong)?;
            let (mut component, mut source) = (0, 0);
            if kind >> 2 & 1 == 1 {
                component = numbers.next().ok_or_else(wrong)?;
                source = numbers.next().ok_or_else(wrong)?;
            }
            let name = |number: u64| self.symbols.string(u32::try_from(number).unwrap_or(u32::MAX));
            out.push(Line {
                meter: u32::try_from(kind >> 3)
                    .ok()
                    .and_then(Meter::from_number)
                    .ok_or_else(wrong)?,
                tokens,
                component: (*name(component)?).into(),
                source: (*name(source)?).into(),
                basis: basis(u32::try_from(kind & 3).unwrap_or(0))?,
            });
        }
        Ok(out)
    }
}

/// Finds the value of a number among all there are.
fn find<T: Copy>(
    field: &'static str,
    number: u32,
    all: &[T],
    number_of: fn(T) -> u8,
) -> Result<T, CodecError> {
    all.iter()
        .copied()
        .find(|value| u32::from(number_of(*value)) == number)
        .ok_or(CodecError::Value { field, value: u64::from(number) })
}

/// The basis of a number of `bursar.v1.Basis`.
pub(crate) fn basis(number: u32) -> Result<Basis, CodecError> {
    let all = [Basis::Measured, Basis::Estimated, Basis::Assumed];
    find("basis", number, &all, |value| value as u8)
}

fn outcome(number: u32) -> Result<Outcome, CodecError> {
    let all = [Outcome::Completed, Outcome::Cancelled, Outcome::Failed, Outcome::Unknown];
    find("outcome", number, &all, |value| value as u8)
}

/// The method of a number of `bursar.v1.Method`.
pub(crate) fn method(number: u32) -> Result<Method, CodecError> {
    let all = [Method::Given, Method::Exact, Method::Estimate, Method::Bound];
    find("counted_method", number, &all, |value| value as u8)
}

/// The rule of a number of `bursar.v1.Unsettled`.
pub(crate) fn unsettled(number: u32) -> Result<Unsettled, CodecError> {
    let all = [Unsettled::Release, Unsettled::ChargeInput, Unsettled::ChargeEstimate];
    find("unsettled", number, &all, |value| value as u8)
}

fn state(number: u32) -> Result<ReservationState, CodecError> {
    let all = [ReservationState::Committed, ReservationState::Released, ReservationState::Expired];
    find("state", number, &all, |value| value as u8)
}
