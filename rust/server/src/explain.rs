//! Why a request is granted or denied, and what a reservation took: the rules' answers in words.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{
    Candidate, CounterKey, Explained, Explanation, Held, Hold, Labels, ReserveAnswer,
    ReserveRequest, Reserved, Rules, Timestamp, WhyNot,
};

use crate::count;
use crate::engine::Engine;
use crate::fault::Fault;
use crate::reservations::History;
use crate::wire::{answer, ask, event};

/// The id of a request that is explained and has none: nothing is kept under it.
const NO_ID: &str = "explain";

/// What a label counts as that is missing.
const MISSING: &str = "missing";

/// Reads a request as Reserve would, and counts its input on whichever thread asks.
pub(crate) fn request(mut message: v1::ReserveRequest) -> Result<ReserveRequest, Fault> {
    if message.reservation_id.is_empty() {
        message.reservation_id = NO_ID.into();
    }
    let ask::Reserve { mut request, models, input, .. } = ask::reserve(message)?;
    request.candidates = count::candidates(models, &input);
    Ok(request)
}

/// Says of a request what every limit says to it now, and what Reserve would answer.
pub(crate) fn hypothetical(
    engine: &mut Engine,
    request: &ReserveRequest,
) -> Result<v1::ExplainResponse, Fault> {
    let now = engine.begin()?;
    let explanation = engine.rules(now).explain(request)?;
    let policy_name = engine.in_force().1.policy().name.to_string();
    let Explanation { labels, limits, answer, .. } = explanation;
    let answer = match answer {
        ReserveAnswer::Granted(grant, _) | ReserveAnswer::Replayed(grant) => {
            answer::granted(&grant, false, now)
        }
        ReserveAnswer::Denied(denial) => answer::denied(*denial),
    };
    Ok(v1::ExplainResponse {
        limits: limits.into_iter().map(explained).collect(),
        answer: Some(answer),
        labels: event::labels(&labels),
        policy_name,
    })
}

/// Says of a reservation which limits of the policy that granted it took how much, and why others did not.
pub(crate) fn reservation(
    engine: &mut Engine,
    history: &History,
) -> Result<Option<v1::ExplainResponse>, Fault> {
    let Some((granted_at, grant)) = history.grant() else { return Ok(None) };
    let now = engine.begin()?;
    let policy = engine.policy(grant.policy_version)?;
    let rules =
        Rules { policy: &policy, policy_version: grant.policy_version, ..engine.rules(now) };
    let others = rules.explain(&again(grant))?.limits.into_iter();
    let took = |entry: &Explained| {
        let of =
            |hold: &&Hold| hold.counter.limit == entry.limit && hold.counter.unit == entry.unit;
        grant.holds.iter().find(of)
    };
    let limits = others.map(|entry| match took(&entry) {
        Some(hold) => held_by(&rules, hold),
        None => v1::ExplainedLimit { refuses: false, binds: false, ..explained(entry) },
    });
    Ok(Some(v1::ExplainResponse {
        limits: limits.collect(),
        answer: Some(event::grant(granted_at, grant, history.state(), now)),
        labels: event::labels(&grant.labels),
        policy_name: policy.policy().name.to_string(),
    }))
}

/// The request that a grant answered, as far as the ledger has it.
fn again(grant: &Reserved) -> ReserveRequest {
    let labels: &Arc<Labels> = grant.labels_sent.as_ref().unwrap_or(&grant.labels);
    ReserveRequest {
        id: grant.id.clone(),
        digest: grant.digest,
        candidates: vec![Candidate {
            model: grant.model.clone(),
            input: grant.input.clone(),
            counted: grant.counted.clone(),
        }],
        service_tier: grant.service_tier.clone(),
        labels: labels.clone(),
        output_tokens_max: grant.output_tokens_granted,
        output_tokens_min: None,
        choices: grant.choices,
        ttl: Some(grant.ttl),
        dry_run: true,
    }
}

fn held_by(rules: &Rules<'_>, hold: &Hold) -> v1::ExplainedLimit {
    let key: &CounterKey = &hold.counter;
    let standing = rules.standing(key, rules.state.counter(key));
    v1::ExplainedLimit {
        limit: key.limit.to_string(),
        unit: i32::from(key.unit as u8),
        applies: true,
        standing: standing.as_ref().map(answer::standing),
        requested: hold.amount,
        ..v1::ExplainedLimit::default()
    }
}

fn explained(entry: Explained) -> v1::ExplainedLimit {
    let bare = v1::ExplainedLimit {
        limit: entry.limit.to_string(),
        unit: i32::from(entry.unit as u8),
        ..v1::ExplainedLimit::default()
    };
    match entry.held {
        Err(why_not) => v1::ExplainedLimit { why_not: words(&why_not), ..bare },
        Ok(held) => {
            let Held { standing, requested, refuses, binds, output_tokens_fit } = *held;
            v1::ExplainedLimit {
                applies: true,
                standing: Some(answer::standing(&standing)),
                requested,
                refuses,
                binds,
                output_tokens_fit,
                ..bare
            }
        }
    }
}

/// Why a limit does not concern a request, for a person.
fn words(why_not: &WhyNot) -> String {
    match why_not {
        WhyNot::Match { key, value, wanted } => {
            let value = value.as_deref().unwrap_or(MISSING);
            format!("match: {key} is {value}, not {}", wanted.join(" or "))
        }
        WhyNot::Except(pairs) => {
            let pairs: Vec<_> =
                pairs.iter().map(|(key, value)| format!("{key} is {value}")).collect();
            format!("except: {}", pairs.join(" and "))
        }
        WhyNot::Skipped { key } => {
            format!("scope: {key} is missing, and the policy skips limits counted by it then")
        }
        WhyNot::NotBegun(from) => format!("window: it counts from {} on", instant(*from)),
        WhyNot::Ended(until) => format!("window: it counted until {}", instant(*until)),
        WhyNot::TooManyLimits(applying) => format!(
            "{applying} limits concern the request, more than may: this is one of those beyond, and the \
             request is denied"
        ),
        WhyNot::NoWindow => "window: no calendar reaches this instant".into(),
    }
}

fn instant(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| format!("{} ms after 1970", at.0), |at| at.to_string())
}
