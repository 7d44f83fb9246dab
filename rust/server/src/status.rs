//! What operators ask of the data plane: its status, its policy, and where its counters stand.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{Counter, CounterKey, Span, Timestamp, Unit};
use prost::Message as _;

use crate::engine::Engine;
use crate::fault::Fault;
use crate::wire::answer;

/// The most standings in one answer, and how many where the question does not say.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;

/// The ledger and who follows it; the books' sequence is the control plane's to add.
pub(crate) fn ledger(engine: &Engine) -> v1::LedgerStatus {
    let status = engine.store.status();
    v1::LedgerStatus {
        sequence: status.sequence,
        durable_sequence: status.durable,
        index_sequence: status.index_sequence,
        books_sequence: 0,
        bytes: status.bytes,
        bytes_max: engine.ledger_bytes_max,
        segments: wide(status.segments),
        entries_cut: status.cut,
        poisoned: engine.poisoned.clone().or(status.poisoned).unwrap_or_default(),
    }
}

/// What the data plane knows of its status.
pub(crate) fn status(engine: &mut Engine) -> v1::GetStatusResponse {
    let now = engine.clock.now();
    let not_ready_reason = not_ready(engine);
    let (version, policy) = engine.in_force();
    let digest = engine.state.policy(version).map(|record| hexadecimal(&record.digest));
    v1::GetStatusResponse {
        ready: not_ready_reason.is_empty(),
        not_ready_reason,
        policy_name: policy.policy().name.to_string(),
        policy_version: version,
        policy_digest: digest.unwrap_or_default(),
        ledger: Some(ledger(engine)),
        reservations_open: wide(engine.state.reservations_len()),
        reservations_open_max: wide(engine.bounds.reservations_open_max),
        counters: wide(engine.state.counters_len()),
        counters_max: wide(engine.bounds.counters_max),
        settled_ids: wide(engine.state.remembered_len()),
        settled_ids_max: wide(engine.bounds.settled_ids_max),
        settled_horizon_unix_ms: engine.state.horizon().map_or(0, |forgotten| forgotten.0),
        window_time_unix_ms: now.0,
        ..Default::default()
    }
}

fn not_ready(engine: &Engine) -> String {
    if let Some(why) = &engine.poisoned {
        return format!("the ledger could not be written: {why}");
    }
    if engine.draining {
        return "it is stopping".into();
    }
    match engine.store.room() {
        bursar_store::Room::Free => String::new(),
        bursar_store::Room::SettlementsOnly(why) | bursar_store::Room::Nothing(why) => {
            why.to_string()
        }
    }
}

/// The policy in force.
pub(crate) fn policy(engine: &Engine) -> Result<v1::GetPolicyResponse, Fault> {
    let Some((version, record)) = engine.state.policy_in_force() else {
        return Ok(v1::GetPolicyResponse::default());
    };
    let policy = v1::Policy::decode(&*record.policy)
        .map_err(|error| Fault::Bug(format!("policy version {version} cannot be read: {error}")))?;
    Ok(v1::GetPolicyResponse {
        policy: Some(policy),
        version,
        digest: hexadecimal(&record.digest),
        activated_at_unix_ms: record.activated_at.0,
        source: String::from_utf8_lossy(&record.source).into_owned(),
    })
}

/// One page of standings, by limit, unit and scope; windows that have ended are left out.
///
/// One pass over the counters that keeps a page's worth of them: nothing else is copied, so that decisions
/// wait no longer than that pass.
pub(crate) fn standings(
    engine: &mut Engine,
    request: &v1::ListStandingsRequest,
) -> Result<v1::ListStandingsResponse, Fault> {
    let after = match &*request.page_token {
        "" => None,
        token => Some(key_from_token(token).ok_or_else(|| {
            Fault::invalid(
                "page_token",
                "it is not one that an answer gave; leave it empty for the first page",
            )
        })?),
    };
    let size = match usize::try_from(request.page_size).unwrap_or(usize::MAX) {
        0 => PAGE_DEFAULT,
        size if size <= PAGE_MAX => size,
        size => {
            let problem = format!("got {size}; it must be at most {PAGE_MAX}");
            return Err(Fault::invalid("page_size", problem));
        }
    };
    let now = engine.begin()?;
    let wanted = |key: &CounterKey| {
        (request.limit.is_empty() || *key.limit == *request.limit)
            && !key.span.ended(now)
            && request.scope.iter().all(|(label, value)| has(key, label, value))
            && after.as_ref().is_none_or(|after| order(key, after) == Ordering::Greater)
    };
    let mut page = BinaryHeap::with_capacity(size + 2);
    for (key, counter) in engine.state.counters().filter(|(key, _)| wanted(key)) {
        if page.len() <= size || page.peek().is_some_and(|last| *last > Row(key, counter)) {
            page.push(Row(key, counter));
            if page.len() > size + 1 {
                page.pop();
            }
        }
    }
    let rows = page.into_sorted_vec();
    let next = if rows.len() > size { rows.get(size - 1) } else { None };
    let next_page_token = next.map(|row| token_of(row.0)).unwrap_or_default();
    let rules = engine.rules(now);
    let standings = rows.iter().take(size).filter_map(|row| rules.standing(row.0, row.1));
    Ok(v1::ListStandingsResponse {
        standings: standings.map(|standing| answer::standing(&standing)).collect(),
        next_page_token,
        sequence: engine.state.sequence(),
    })
}

fn has(key: &CounterKey, label: &str, value: &str) -> bool {
    key.scope.iter().any(|(known, has)| **known == *label && **has == *value)
}

/// A counter in the order of pages.
struct Row<'a>(&'a Arc<CounterKey>, Counter);

impl Ord for Row<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.0, other.0)
    }
}

impl PartialOrd for Row<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Row<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Row<'_> {}

fn order(a: &CounterKey, b: &CounterKey) -> Ordering {
    let of = |key: &CounterKey| (key.unit, key.span, key.identity);
    a.limit
        .cmp(&b.limit)
        .then_with(|| a.unit.cmp(&b.unit))
        .then_with(|| a.scope.cmp(&b.scope))
        .then_with(|| of(a).cmp(&of(b)))
}

/// A key as the text that asks for what comes after it.
fn token_of(key: &CounterKey) -> String {
    let mut parts =
        vec![key.limit.to_string(), (key.unit as u8).to_string(), key.identity.to_string()];
    parts.push(instant_text(key.span.start));
    parts.push(instant_text(key.span.end));
    parts
        .extend(key.scope.iter().flat_map(|(label, value)| [label.to_string(), value.to_string()]));
    // Any message with a list of texts will do: nobody but us reads it.
    let parts = v1::CountTokensRequest { texts: parts, ..Default::default() };
    hexadecimal(&parts.encode_to_vec())
}

fn instant_text(at: Option<Timestamp>) -> String {
    at.map(|at| at.0.to_string()).unwrap_or_default()
}

fn key_from_token(token: &str) -> Option<CounterKey> {
    let parts = v1::CountTokensRequest::decode(&*bytes_of(token)?).ok()?.texts;
    let [limit, unit, identity, start, end, scope @ ..] = parts.as_slice() else { return None };
    let unit = match &**unit {
        "1" => Unit::Tokens,
        "3" => Unit::Requests,
        "4" => Unit::Concurrency,
        _ => return None,
    };
    let instant = |text: &str| match text {
        "" => Some(None),
        text => text.parse().ok().map(|at| Some(Timestamp(at))),
    };
    let pair = |pair: &[String]| match pair {
        [label, value] => Some((label.as_str().into(), value.as_str().into())),
        _ => None,
    };
    Some(CounterKey {
        identity: identity.parse().ok()?,
        unit,
        scope: scope.chunks(2).map(pair).collect::<Option<_>>()?,
        span: Span { start: instant(start)?, end: instant(end)? },
        limit: limit.as_str().into(),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hexadecimal.as_bytes().chunks(2).map(pair).collect()
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_names_the_counter_it_was_made_of() {
        let key = CounterKey {
            identity: u64::MAX,
            unit: Unit::Requests,
            scope: [("tenant".into(), "acme, Inc.".into()), ("feature".into(), "".into())].into(),
            span: Span { start: Some(Timestamp(-5)), end: None },
            limit: "a-limit".into(),
        };
        assert_eq!(key_from_token(&token_of(&key)), Some(key));
        for wrong in ["zz", "a", "00", "🙂"] {
            assert_eq!(key_from_token(wrong), None, "{wrong}");
        }
    }
}
