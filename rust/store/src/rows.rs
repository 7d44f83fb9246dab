//! The rows of the index: keys and values as bytes, and back.

use std::sync::Arc;

use bursar_proto::ledger::v1 as pb;
use bursar_quota::{
    Counted, Counter, CounterKey, Hold, IdHash, Labels, Line, Meter, PolicyRecord, Remembered,
    Reservation, Span, Timestamp, UsageKey, UsageSums,
};
use prost::Message as _;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::codec;
use crate::intern::{self, CodecError};

/// The bytes of a hash in a key.
pub(crate) const HASH_BYTES: usize = 16;

/// A hash of bytes, the same in every process and version.
pub(crate) fn hash(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = SipHasher13::new();
    std::hash::Hasher::write(&mut hasher, bytes);
    hasher.finish128().as_u128().to_be_bytes()
}

/// An instant as bytes that sort as instants do.
pub(crate) fn instant_key(at: Timestamp) -> [u8; 8] {
    (at.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// The instant of such bytes.
pub(crate) fn instant_of(bytes: &[u8]) -> Option<Timestamp> {
    number_of(bytes).map(|bits| Timestamp((bits ^ (1 << 63)).cast_signed()))
}

/// The number at the beginning of a key.
pub(crate) fn number_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_be_bytes)
}

/// A counter's row without its amounts.
fn counter_row(key: &CounterKey) -> pb::CounterRow {
    pb::CounterRow {
        limit: key.limit.to_string(),
        identity: key.identity,
        unit: u32::from(key.unit as u8),
        scope: flat(key.scope.iter().map(|(label, value)| (&**label, &**value))),
        start_unix_ms: key.span.start.map(|start| start.0),
        end_unix_ms: key.span.end.map(|end| end.0),
        ..Default::default()
    }
}

/// A counter's key in the table.
pub(crate) fn counter_key(key: &CounterKey) -> [u8; HASH_BYTES] {
    hash(&counter_row(key).encode_to_vec())
}

/// A counter's key among the endings.
pub(crate) fn ending_key(end: Timestamp, counter: &[u8; HASH_BYTES]) -> Vec<u8> {
    [&instant_key(end)[..], &counter[..]].concat()
}

/// A counter's row.
pub(crate) fn counter_out(key: &CounterKey, counter: Counter) -> Vec<u8> {
    let Counter { committed, reserved, holders } = counter;
    pb::CounterRow { committed, reserved, holders, ..counter_row(key) }.encode_to_vec()
}

/// A counter of a row.
pub(crate) fn counter_in(bytes: &[u8]) -> Result<(Arc<CounterKey>, Counter), CodecError> {
    let row = pb::CounterRow::decode(bytes).map_err(CodecError::Message)?;
    let key = CounterKey {
        identity: row.identity,
        unit: intern::unit(row.unit)?,
        scope: pairs(row.scope).into(),
        span: Span { start: row.start_unix_ms.map(Timestamp), end: row.end_unix_ms.map(Timestamp) },
        limit: row.limit.into(),
    };
    let (committed, reserved, holders) = (row.committed, row.reserved, row.holders);
    Ok((Arc::new(key), Counter { committed, reserved, holders }))
}

/// A reservation's row.
pub(crate) fn reservation_out(id: &str, reservation: &Reservation) -> Vec<u8> {
    pb::ReservationRow {
        id: id.into(),
        digest: reservation.digest,
        granted_at_unix_ms: reservation.granted_at.0,
        expires_at_unix_ms: reservation.expires_at.0,
        model: reservation.model.to_string(),
        service_tier: reservation.service_tier.to_string(),
        labels: flat(reservation.labels.iter()),
        input: reservation.input.iter().map(line_out).collect(),
        counted_method: u32::from(reservation.counted.method as u8),
        counted_tokenizer: reservation.counted.tokenizer.to_string(),
        output_tokens_granted: reservation.output_tokens_granted,
        choices: reservation.choices,
        policy_version: reservation.policy_version,
        unsettled: u32::from(reservation.unsettled as u8),
        holds: reservation.holds.iter().map(hold_out).collect(),
        hour_unix_ms: reservation.hour.0,
        mapped_labels: reservation.mapped.iter().map(|key| key.to_string()).collect(),
    }
    .encode_to_vec()
}

/// A reservation of a row; `counter` gives the counter of a key in the table.
pub(crate) fn reservation_in<E: From<CodecError>>(
    sequence: u64,
    bytes: &[u8],
    mut counter: impl FnMut(&[u8]) -> Result<Arc<CounterKey>, E>,
) -> Result<(Arc<str>, Reservation), E> {
    let row = pb::ReservationRow::decode(bytes).map_err(CodecError::Message)?;
    let holds: Result<Box<[Hold]>, E> = row
        .holds
        .iter()
        .map(|hold| {
            let counter = counter(&hold.counter)?;
            Ok(Hold { counter, amount: hold.amount, by_model: hold.by_model })
        })
        .collect();
    let input: Result<Box<[Line]>, CodecError> = row.input.into_iter().map(line_in).collect();
    let reservation = Reservation {
        sequence,
        digest: row.digest,
        granted_at: Timestamp(row.granted_at_unix_ms),
        expires_at: Timestamp(row.expires_at_unix_ms),
        model: row.model.into(),
        service_tier: row.service_tier.into(),
        labels: Arc::new(Labels::new(pairs(row.labels))),
        input: input?,
        counted: Counted {
            method: codec::method(row.counted_method)?,
            tokenizer: row.counted_tokenizer.into(),
        },
        output_tokens_granted: row.output_tokens_granted,
        choices: row.choices,
        policy_version: row.policy_version,
        unsettled: codec::unsettled(row.unsettled)?,
        holds: holds?,
        hour: Timestamp(row.hour_unix_ms),
        mapped: row.mapped_labels.into_iter().map(Into::into).collect(),
    };
    Ok((row.id.into(), reservation))
}

fn hold_out(hold: &Hold) -> pb::HoldRow {
    let counter = counter_key(&hold.counter).to_vec();
    pb::HoldRow { counter, amount: hold.amount, by_model: hold.by_model }
}

fn line_out(line: &Line) -> pb::LineRow {
    pb::LineRow {
        meter: u32::from(line.meter as u8),
        tokens: line.tokens,
        component: line.component.to_string(),
        source: line.source.to_string(),
        basis: u32::from(line.basis as u8),
    }
}

fn line_in(row: pb::LineRow) -> Result<Line, CodecError> {
    Ok(Line {
        meter: meter(row.meter)?,
        tokens: row.tokens,
        component: row.component.into(),
        source: row.source.into(),
        basis: codec::basis(row.basis)?,
    })
}

fn meter(number: u32) -> Result<Meter, CodecError> {
    Meter::from_number(number).ok_or(CodecError::Value { field: "meter", value: u64::from(number) })
}

/// A remembered id's row: its hash, its digest, the instant of its settlement.
pub(crate) fn remembered_out(id: IdHash, digest: u64, instant: Timestamp) -> Vec<u8> {
    [&id.0.to_be_bytes()[..], &digest.to_be_bytes(), &instant_key(instant)].concat()
}

/// A remembered id of a row.
pub(crate) fn remembered_in(
    sequence: u64,
    bytes: &[u8],
) -> Result<(IdHash, Remembered, Timestamp), CodecError> {
    let parse = || {
        let id = bytes.first_chunk().copied().map(u128::from_be_bytes)?;
        let digest = number_of(bytes.get(16..)?)?;
        Some((IdHash(id), Remembered { sequence, digest }, instant_of(bytes.get(24..)?)?))
    };
    parse().ok_or(CodecError::Value { field: "remembered row of entry", value: sequence })
}

/// A policy's row.
pub(crate) fn policy_out(record: &PolicyRecord) -> Vec<u8> {
    pb::PolicyRow {
        activated_at_unix_ms: record.activated_at.0,
        digest: record.digest.to_vec(),
        policy: record.policy.to_vec(),
        source: record.source.to_vec(),
        rollups: record.rollups.iter().map(|key| key.to_string()).collect(),
    }
    .encode_to_vec()
}

/// A policy of a row.
pub(crate) fn policy_in(bytes: &[u8]) -> Result<PolicyRecord, CodecError> {
    let row = pb::PolicyRow::decode(bytes).map_err(CodecError::Message)?;
    Ok(PolicyRecord {
        activated_at: Timestamp(row.activated_at_unix_ms),
        digest: row.digest.into(),
        policy: row.policy.into(),
        source: row.source.into(),
        rollups: row.rollups.into_iter().map(Into::into).collect(),
    })
}

/// A usage group's key in the table: its generation and a hash of its labels and hour.
pub(crate) fn usage_key(generation: u64, key: &UsageKey) -> Vec<u8> {
    let bytes = usage_row(key).encode_to_vec();
    [&generation.to_be_bytes()[..], &hash(&bytes)].concat()
}

fn usage_row(key: &UsageKey) -> pb::UsageRow {
    pb::UsageRow { hour_unix_ms: key.hour.0, labels: flat(key.labels.iter()), ..Default::default() }
}

/// A usage group's row.
pub(crate) fn usage_out(key: &UsageKey, sums: &UsageSums) -> Vec<u8> {
    let mut tokens = Vec::with_capacity(sums.tokens.len() * 3);
    for ((meter, basis), count) in &sums.tokens {
        tokens.extend([i64::from(*meter as u8), i64::from(*basis as u8), *count]);
    }
    pb::UsageRow {
        tokens,
        calls: sums.calls,
        calls_assumed: sums.calls_assumed,
        calls_overrun: sums.calls_overrun,
        calls_late: sums.calls_late,
        latency_ms_sum: sums.latency_ms_sum,
        latency_calls: sums.latency_calls,
        ..usage_row(key)
    }
    .encode_to_vec()
}

/// A usage group of a row.
pub(crate) fn usage_in(bytes: &[u8]) -> Result<(UsageKey, UsageSums), CodecError> {
    let row = pb::UsageRow::decode(bytes).map_err(CodecError::Message)?;
    let mut sums = UsageSums {
        calls: row.calls,
        calls_assumed: row.calls_assumed,
        calls_overrun: row.calls_overrun,
        calls_late: row.calls_late,
        latency_ms_sum: row.latency_ms_sum,
        latency_calls: row.latency_calls,
        ..Default::default()
    };
    for triple in row.tokens.chunks_exact(3) {
        let [number, basis, count] = *triple else { continue };
        let number = u32::try_from(number).unwrap_or(0);
        let basis = codec::basis(u32::try_from(basis).unwrap_or(0))?;
        sums.tokens.insert((meter(number)?, basis), count);
    }
    let labels = Labels::new(pairs(row.labels));
    Ok((UsageKey { hour: Timestamp(row.hour_unix_ms), labels }, sums))
}

fn flat<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    pairs.flat_map(|(key, value)| [key.to_owned(), value.to_owned()]).collect()
}

fn pairs(flat: Vec<String>) -> Vec<(Box<str>, Box<str>)> {
    let mut out = Vec::with_capacity(flat.len() / 2);
    let mut texts = flat.into_iter();
    while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
        out.push((key.into(), value.into()));
    }
    out
}
