//! What happened and what is reserved, as messages for operators.

use std::collections::BTreeMap;

use bursar_proto::v1;
use bursar_quota::{
    CounterKey, Denial, Effect, Event, Hold, Labels, Line, Recorded, Reservation, ReservationState,
    Reserved, Settled, Timestamp, tokens_sum,
};

use super::answer;

/// An entry of the ledger in words.
pub(crate) fn entry(sequence: u64, at: Timestamp, event: &Event) -> v1::Event {
    let said = match event {
        Event::Activated(event) => v1::Event {
            kind: v1::EventKind::PolicyActivated.into(),
            policy_version: event.version,
            ..v1::Event::default()
        },
        Event::Reserved(event) => reserved(event),
        Event::Settled(event) => settled(event),
        Event::Recorded(event) => recorded(event),
    };
    v1::Event { sequence, occurred_at_unix_ms: at.0, ..said }
}

/// A denial, which leaves no entry.
pub(crate) fn denied(
    request: &bursar_quota::ReserveRequest,
    denial: Denial,
    at: Timestamp,
) -> v1::Event {
    let asked = request.candidates.first();
    let input = asked.map(|asked| &*asked.input).unwrap_or_default();
    let version = denial.policy_version;
    let output = request.output_tokens_max.saturating_mul(u64::from(request.choices));
    v1::Event {
        occurred_at_unix_ms: at.0,
        kind: v1::EventKind::Denied.into(),
        reservation_id: request.id.to_string(),
        model: asked.map(|asked| asked.model.to_string()).unwrap_or_default(),
        service_tier: request.service_tier.to_string(),
        labels: labels(&request.labels),
        lines: lines(input),
        tokens: tokens_sum(input).saturating_add(output),
        policy_version: version,
        denial: Some(answer::denial(denial)),
        ..v1::Event::default()
    }
}

fn reserved(event: &Reserved) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::Reserved.into(),
        reservation_id: event.id.to_string(),
        model: event.model.to_string(),
        service_tier: event.service_tier.to_string(),
        labels: labels(&event.labels),
        lines: lines(&event.input),
        tokens: event.tokens_reserved(),
        policy_version: event.policy_version,
        changes: event.holds.iter().map(hold).collect(),
        ..v1::Event::default()
    }
}

fn settled(event: &Settled) -> v1::Event {
    let kind = match event.state {
        ReservationState::Released => v1::EventKind::Released,
        ReservationState::Expired => v1::EventKind::Expired,
        _ => v1::EventKind::Committed,
    };
    let released = event.state == ReservationState::Released;
    v1::Event {
        kind: kind.into(),
        reservation_id: event.id.to_string(),
        model: event.model.to_string(),
        model_version: event.model_version.to_string(),
        service_tier: event.service_tier.to_string(),
        labels: labels(&event.labels),
        lines: lines(&event.lines),
        tokens: if released { event.tokens_reserved } else { tokens_sum(&event.lines) },
        outcome: event.outcome.map_or(0, |outcome| i32::from(outcome as u8)),
        late: event.replaces_sequence.is_some() && event.state == ReservationState::Committed,
        policy_version: event.policy_version,
        changes: event.effects.iter().map(effect).collect(),
        response_id: event.response_id.to_string(),
        latency_ms: event.latency_ms,
        release_reason: event.reason.to_string(),
        ..v1::Event::default()
    }
}

fn recorded(event: &Recorded) -> v1::Event {
    v1::Event {
        kind: v1::EventKind::Recorded.into(),
        reservation_id: event.id.to_string(),
        model: event.model.to_string(),
        model_version: event.model_version.to_string(),
        service_tier: event.service_tier.to_string(),
        labels: labels(&event.labels),
        lines: lines(&event.lines),
        tokens: tokens_sum(&event.lines),
        outcome: i32::from(event.outcome as u8),
        policy_version: event.policy_version,
        changes: event.effects.iter().map(effect).collect(),
        response_id: event.response_id.to_string(),
        latency_ms: event.latency_ms,
        ..v1::Event::default()
    }
}

/// A reservation that is open.
pub(crate) fn open(id: &str, reservation: &Reservation) -> v1::Reservation {
    v1::Reservation {
        reservation_id: id.into(),
        state: v1::State::Open.into(),
        model: reservation.model.to_string(),
        service_tier: reservation.service_tier.to_string(),
        labels: labels(&reservation.labels),
        input_tokens: tokens_sum(&reservation.input),
        counted_by: Some(answer::counted_by(&reservation.counted)),
        output_tokens_granted: reservation.output_tokens_granted,
        tokens_reserved: reservation.tokens_reserved(),
        tokens_committed: 0,
        reserved_at_unix_ms: reservation.granted_at.0,
        expires_at_unix_ms: reservation.expires_at.0,
        policy_version: reservation.policy_version,
        holds: reservation.holds.iter().map(hold).collect(),
    }
}

/// A reservation by its grant, and by its latest settlement if it is settled.
pub(crate) fn reservation(
    granted_at: Timestamp,
    grant: &Reserved,
    settlement: Option<&Settled>,
) -> v1::Reservation {
    let holds = if settlement.is_none() { &*grant.holds } else { &[] };
    let state = settlement.map_or(ReservationState::Open, |settled| settled.state);
    v1::Reservation {
        reservation_id: grant.id.to_string(),
        state: i32::from(state as u8),
        model: grant.model.to_string(),
        service_tier: grant.service_tier.to_string(),
        labels: labels(settlement.map_or(&grant.labels, |settled| &settled.labels)),
        input_tokens: tokens_sum(&grant.input),
        counted_by: Some(answer::counted_by(&grant.counted)),
        output_tokens_granted: grant.output_tokens_granted,
        tokens_reserved: grant.tokens_reserved(),
        tokens_committed: settlement.map_or(0, |settled| tokens_sum(&settled.lines)),
        reserved_at_unix_ms: granted_at.0,
        expires_at_unix_ms: granted_at.after(grant.ttl).0,
        policy_version: grant.policy_version,
        holds: holds.iter().map(hold).collect(),
    }
}

/// A record of usage that had no reservation.
pub(crate) fn record(at: Timestamp, record: &Recorded) -> v1::Reservation {
    v1::Reservation {
        reservation_id: record.id.to_string(),
        state: v1::State::Recorded.into(),
        model: record.model.to_string(),
        service_tier: record.service_tier.to_string(),
        labels: labels(&record.labels),
        tokens_committed: tokens_sum(&record.lines),
        reserved_at_unix_ms: at.0,
        policy_version: record.policy_version,
        ..v1::Reservation::default()
    }
}

/// The grant that a reservation got, as it was and as it stands now.
pub(crate) fn grant(
    granted_at: Timestamp,
    grant: &Reserved,
    state: ReservationState,
    now: Timestamp,
) -> v1::ReserveResponse {
    let expires_at = granted_at.after(grant.ttl);
    let message = v1::Grant {
        reservation_id: grant.id.to_string(),
        state: i32::from(state as u8),
        model: grant.model.to_string(),
        input_tokens: tokens_sum(&grant.input),
        counted_by: Some(answer::counted_by(&grant.counted)),
        output_tokens_granted: grant.output_tokens_granted,
        tokens_reserved: grant.tokens_reserved(),
        expires_in_ms: now.until(expires_at).0,
        expires_at_unix_ms: expires_at.0,
        ..v1::Grant::default()
    };
    v1::ReserveResponse {
        outcome: Some(v1::reserve_response::Outcome::Grant(message)),
        policy_version: grant.policy_version,
        replayed: true,
        ..v1::ReserveResponse::default()
    }
}

pub(crate) fn labels(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn lines(lines: &[Line]) -> Vec<v1::Line> {
    let message = |line: &Line| v1::Line {
        meter: i32::from(line.meter as u8),
        tokens: line.tokens,
        component: line.component.to_string(),
        source: line.source.to_string(),
        basis: i32::from(line.basis as u8),
    };
    lines.iter().map(message).collect()
}

fn hold(hold: &Hold) -> v1::CounterChange {
    change(&hold.counter, 0, i64::try_from(hold.amount).unwrap_or(i64::MAX))
}

fn effect(effect: &Effect) -> v1::CounterChange {
    change(&effect.counter, effect.committed, effect.reserved)
}

fn change(key: &CounterKey, committed: i64, reserved: i64) -> v1::CounterChange {
    let pair = |(label, value): &(Box<str>, Box<str>)| (label.to_string(), value.to_string());
    v1::CounterChange {
        limit: key.limit.to_string(),
        unit: i32::from(key.unit as u8),
        scope: key.scope.iter().map(pair).collect(),
        window_start_unix_ms: key.span.start.map(|at| at.0),
        window_end_unix_ms: key.span.end.map(|at| at.0),
        committed,
        reserved,
    }
}
