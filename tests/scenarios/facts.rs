//! Questions as the rules take them, and their answers as replies: for runners that ask the rules directly.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bursar_quota::{
    Advice, Advisory, Basis, Candidate, CommitAnswer, CommitRequest, Counted, Denial, Grant,
    Labels, Line, Meter, Method, Reason, RecordAnswer, RecordRequest, Refusal, ReleaseAnswer,
    ReleaseRequest, ReservationState, ReserveAnswer, ReserveRequest, Standing, Timestamp,
};

use super::driver::Reply;
use super::parser::{Commit, Input, Record, Reserve};

/// A digest of what a question says besides its id.
fn digest(content: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

fn labels(pairs: &[(String, String)]) -> Arc<Labels> {
    Arc::new(Labels::new(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))))
}

pub fn reserve_request(ask: &Reserve) -> ReserveRequest {
    let mut content = Reserve { id: String::new(), ..ask.clone() };
    content.labels.sort();
    let input: Box<[Line]> = match &ask.input {
        Input::Tokens(0) => Box::default(),
        Input::Tokens(tokens) => [Line::plain(Meter::Input, *tokens, Basis::Estimated)].into(),
        Input::Lines(lines) => lines.clone().into(),
    };
    let counted = Counted { method: Method::Given, tokenizer: "".into() };
    let models = std::iter::once(&ask.model).chain(&ask.fallbacks);
    ReserveRequest {
        id: ask.id.as_str().into(),
        digest: digest(&format!("{content:?}")),
        candidates: models
            .map(|model| Candidate {
                model: model.as_str().into(),
                input: input.clone(),
                counted: counted.clone(),
            })
            .collect(),
        service_tier: ask.tier.as_str().into(),
        labels: labels(&ask.labels),
        output_tokens_max: ask.output_max,
        output_tokens_min: ask.output_min,
        choices: ask.choices,
        ttl: ask.ttl,
        dry_run: ask.dry,
    }
}

pub fn commit_request(ask: &Commit) -> CommitRequest {
    let mut content = Commit { id: String::new(), ..ask.clone() };
    content.labels.sort();
    content.lines.sort();
    CommitRequest {
        id: ask.id.as_str().into(),
        digest: digest(&format!("{content:?}")),
        lines: ask.lines.clone(),
        outcome: ask.outcome,
        model: ask.model.as_deref().map(Into::into),
        model_version: "".into(),
        service_tier: ask.tier.as_deref().map(Into::into),
        response_id: "".into(),
        labels: labels(&ask.labels),
        total_tokens: ask.total,
        latency_ms: 0,
        first_token_ms: 0,
    }
}

pub fn release_request(id: &str, reason: &str) -> ReleaseRequest {
    ReleaseRequest { id: id.into(), digest: digest(reason), reason: reason.into() }
}

pub fn record_request(ask: &Record, occurred_at: Timestamp) -> RecordRequest {
    let mut content = Record { id: String::new(), ..ask.clone() };
    content.labels.sort();
    content.lines.sort();
    content.when = super::parser::When::At(occurred_at);
    RecordRequest {
        id: ask.id.as_str().into(),
        digest: digest(&format!("{content:?}")),
        model: ask.model.as_str().into(),
        model_version: "".into(),
        service_tier: ask.tier.as_str().into(),
        labels: labels(&ask.labels),
        lines: ask.lines.clone(),
        outcome: ask.outcome,
        occurred_at,
        response_id: "".into(),
        total_tokens: ask.total,
        latency_ms: 0,
    }
}

pub fn refused(refusal: &Refusal) -> Reply {
    let (word, field) = match refusal {
        Refusal::Invalid { field, .. } => ("invalid", Some((*field).to_owned())),
        Refusal::Conflict { .. } => ("conflict", None),
        Refusal::NotFound(_) => ("not-found", None),
        Refusal::NotOpen { .. } => ("not-open", None),
        Refusal::TooOld { .. } => ("too-old", None),
    };
    Reply { word: word.to_owned(), field, ..Reply::default() }
}

/// Where a limit stands, as a reply to `peek` and as a part of others.
pub fn standing(standing: Option<&Standing>) -> Reply {
    let Some(standing) = standing else { return Reply::default() };
    let scope = standing.scope.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    Reply {
        remaining: Some(standing.remaining()),
        committed: Some(standing.committed),
        reserved: Some(standing.reserved),
        tightest: Some(standing.limit.to_string()),
        incomplete: standing.incomplete_since.is_some(),
        scope: scope.collect(),
        ..Reply::default()
    }
}

pub fn reserved(answer: &Result<ReserveAnswer, Refusal>) -> Reply {
    match answer {
        Err(refusal) => refused(refusal),
        Ok(ReserveAnswer::Granted(grant, _)) => granted(grant, false),
        Ok(ReserveAnswer::Replayed(grant)) => granted(grant, true),
        Ok(ReserveAnswer::Denied(denial)) => denied(denial),
    }
}

fn granted(grant: &Grant, replayed: bool) -> Reply {
    Reply {
        word: "granted".to_owned(),
        out: Some(grant.output_tokens_granted),
        holds: Some(grant.tokens_reserved),
        model: Some(grant.model.to_string()),
        state: Some(state(grant.state).to_owned()),
        expires_at: Some(grant.expires_at),
        replayed,
        advice: advice(&grant.advisories),
        ..standing(grant.tightest.as_ref())
    }
}

fn denied(denial: &Denial) -> Reply {
    let first = denial.shortfalls.first();
    Reply {
        word: "denied".to_owned(),
        by: denial.shortfalls.iter().map(|it| it.standing.limit.to_string()).collect(),
        reason: Some(reason(denial.reason).to_owned()),
        retry: denial.retry_after,
        settles: first.is_some_and(|shortfall| shortfall.clears_on_settle),
        ..standing(first.map(|shortfall| &shortfall.standing))
    }
}

pub fn committed(answer: &Result<CommitAnswer, Refusal>) -> Reply {
    match answer {
        Err(refusal) => refused(refusal),
        Ok(answer) => Reply {
            word: if answer.late { "late" } else { "committed" }.to_owned(),
            tokens: Some(answer.tokens_committed),
            overrun: Some(answer.tokens_overrun),
            replayed: answer.replayed,
            advice: advice(&answer.advisories),
            ..standing(answer.tightest.as_ref())
        },
    }
}

pub fn released(answer: &Result<ReleaseAnswer, Refusal>) -> Reply {
    match answer {
        Err(refusal) => refused(refusal),
        Ok(answer) => Reply {
            word: "released".to_owned(),
            tokens: Some(answer.tokens_released),
            replayed: answer.replayed,
            ..Reply::default()
        },
    }
}

pub fn recorded(answer: &Result<RecordAnswer, Refusal>) -> Reply {
    match answer {
        Err(refusal) => refused(refusal),
        Ok(answer) => Reply {
            word: "recorded".to_owned(),
            tokens: Some(answer.tokens_committed),
            replayed: answer.replayed,
            advice: advice(&answer.advisories),
            ..Reply::default()
        },
    }
}

pub fn state(state: ReservationState) -> &'static str {
    match state {
        ReservationState::Open => "open",
        ReservationState::Committed => "committed",
        ReservationState::Released => "released",
        ReservationState::Expired => "expired",
        ReservationState::Recorded => "recorded",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Limit => "limit",
        Reason::RequestCap => "request-cap",
        Reason::Untagged => "untagged",
        Reason::TooManyCounters => "too-many-counters",
        Reason::TooManyReservations => "too-many-reservations",
        Reason::TooManyLimits => "too-many-limits",
    }
}

fn advice(advisories: &[Advisory]) -> Vec<String> {
    let word = |advisory: &Advisory| match advisory.advice {
        Advice::LabelMapped => "label-mapped",
        Advice::TotalMismatch => "total-mismatch",
        Advice::Uncounted => "uncounted",
    };
    advisories.iter().map(|advisory| word(advisory).to_owned()).collect()
}
