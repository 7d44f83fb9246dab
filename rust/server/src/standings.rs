//! Where counters stand, a page at a time: read in steps, between which decisions go on.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{CounterKey, Span, Timestamp, Unit};
use prost::Message as _;

use crate::engine::Engine;
use crate::fault::Fault;
use crate::listing::{self, Page};
use crate::status::{bytes_of, hexadecimal};
use crate::wire::answer;

/// A checked question for standings.
pub(crate) struct Wanted {
    limit: String,
    scope: Vec<(String, String)>,
    size: usize,
}

/// Reads the question: what is wanted, and the counter after which the page begins.
pub(crate) fn wanted(
    request: v1::ListStandingsRequest,
) -> Result<(Wanted, Option<Arc<CounterKey>>), Fault> {
    let after = listing::token(&request.page_token, key_from_token)?.map(Arc::new);
    let size = listing::size(request.page_size)?;
    let scope = request.scope.into_iter().collect();
    Ok((Wanted { limit: request.limit, scope, size }, after))
}

/// A page of standings: each as it is when its step comes to it.
pub(crate) type Standings = Page<v1::Standing, Arc<CounterKey>>;

/// Takes one step: some of the counters after the last one looked at, in the policy's order of limits.
pub(crate) fn step(
    engine: &mut Engine,
    wanted: &Wanted,
    page: &mut Standings,
) -> Result<(), Fault> {
    let now = engine.begin()?;
    let policy = engine.in_force().1.clone();
    let rules = engine.rules(now);
    let end = wanted.size.min(page.found.len() + listing::ROWS_PER_STEP_MAX);
    let mut looked_at = 0;
    let mut reached = page.after.is_none();
    page.sequence = engine.state.sequence();
    for (limit, identity) in policy.limits() {
        let after = page.after.clone().filter(|key| key.identity == identity);
        reached |= after.is_some();
        if !reached || !(wanted.limit.is_empty() || *limit.name == *wanted.limit) {
            continue;
        }
        for (key, counter) in engine.state.counters_of(identity, after.as_deref()) {
            if looked_at == listing::LOOKED_AT_PER_STEP_MAX || page.found.len() == end {
                return Ok(());
            }
            looked_at += 1;
            page.after = Some(key.clone());
            let concerns = !key.span.ended(now)
                && wanted.scope.iter().all(|(label, value)| has(key, label, value));
            if let Some(standing) = concerns.then(|| rules.standing(key, counter)).flatten() {
                page.found.push(answer::standing(&standing));
            }
        }
    }
    if !reached {
        let problem = "the policy has changed since that answer; begin again without it";
        return Err(Fault::invalid("page_token", problem));
    }
    page.ended = true;
    Ok(())
}

/// The answer, once the page is full or nothing is left.
pub(crate) fn answered(page: Standings) -> v1::ListStandingsResponse {
    let next = page.after.filter(|_| !page.ended);
    v1::ListStandingsResponse {
        standings: page.found,
        next_page_token: next.map(|key| token_of(&key)).unwrap_or_default(),
        sequence: page.sequence,
    }
}

impl Wanted {
    /// How many rows a page has at most.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

fn has(key: &CounterKey, label: &str, value: &str) -> bool {
    key.scope.iter().any(|(known, has)| **known == *label && **has == *value)
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
