//! What is answered, as messages.

use std::collections::BTreeMap;

use bursar_proto::v1;
use bursar_quota::{
    Advice, Advisory, CommitAnswer, Counted, Denial, Grant, Milliseconds, Reason, RecordAnswer,
    ReleaseAnswer, Shortfall, Standing, Timestamp,
};

/// The most elements of a list in an answer.
const LIST_MAX: usize = 64;

pub(crate) fn granted(grant: &Grant, replayed: bool, now: Timestamp) -> v1::ReserveResponse {
    let message = v1::Grant {
        reservation_id: grant.id.to_string(),
        state: i32::from(grant.state as u8),
        model: grant.model.to_string(),
        input_tokens: grant.input_tokens,
        counted_by: Some(counted_by(&grant.counted)),
        output_tokens_granted: grant.output_tokens_granted,
        tokens_reserved: grant.tokens_reserved,
        cost_reserved_nanos: 0,
        expires_in_ms: now.until(grant.expires_at).0,
        expires_at_unix_ms: grant.expires_at.0,
        tightest: grant.tightest.as_ref().map(standing),
        advisories: advisories(&grant.advisories),
    };
    reserve_response(v1::reserve_response::Outcome::Grant(message), grant.policy_version, replayed)
}

pub(crate) fn denied(denied: Denial) -> v1::ReserveResponse {
    let version = denied.policy_version;
    reserve_response(v1::reserve_response::Outcome::Denial(denial(denied)), version, false)
}

pub(crate) fn denial(denial: Denial) -> v1::Denial {
    v1::Denial {
        reason: reason(denial.reason).into(),
        shortfalls: denial.shortfalls.iter().take(LIST_MAX).map(shortfall).collect(),
        retry_after_ms: denial.retry_after.map(milliseconds),
        hint: denial.hint,
        escalation_id: String::new(),
    }
}

fn reserve_response(
    outcome: v1::reserve_response::Outcome,
    policy_version: u64,
    replayed: bool,
) -> v1::ReserveResponse {
    v1::ReserveResponse {
        outcome: Some(outcome),
        policy_version,
        price_version: 0,
        currency: String::new(),
        replayed,
    }
}

/// The answer to a Commit whose entry has this sequence.
pub(crate) fn committed(answer: &CommitAnswer, sequence: u64) -> v1::CommitResponse {
    v1::CommitResponse {
        tokens_committed: answer.tokens_committed,
        cost_committed_nanos: 0,
        tokens_overrun: answer.tokens_overrun,
        cost_overrun_nanos: 0,
        late: answer.late,
        replayed: answer.replayed,
        advisories: advisories(&answer.advisories),
        tightest: answer.tightest.as_ref().map(standing),
        ledger_sequence: sequence,
    }
}

/// The answer to a Release whose entry has this sequence.
pub(crate) fn released(answer: &ReleaseAnswer, sequence: u64) -> v1::ReleaseResponse {
    v1::ReleaseResponse {
        tokens_released: answer.tokens_released,
        cost_released_nanos: 0,
        replayed: answer.replayed,
        ledger_sequence: sequence,
    }
}

/// The answer to a Record whose entry has this sequence.
pub(crate) fn recorded(answer: &RecordAnswer, sequence: u64) -> v1::RecordResponse {
    v1::RecordResponse {
        tokens_committed: answer.tokens_committed,
        cost_committed_nanos: 0,
        replayed: answer.replayed,
        advisories: advisories(&answer.advisories),
        ledger_sequence: sequence,
    }
}

pub(crate) fn standing(standing: &Standing) -> v1::Standing {
    let scope = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
    v1::Standing {
        limit: standing.limit.to_string(),
        unit: i32::from(standing.unit as u8),
        scope: standing.scope.iter().map(scope).collect::<BTreeMap<_, _>>(),
        amount: standing.amount,
        committed: standing.committed,
        reserved: standing.reserved,
        remaining: standing.remaining(),
        window_start_unix_ms: standing.window_start.map(|start| start.0),
        window_end_unix_ms: standing.window_end.map(|end| end.0),
        exhausted_in_ms: standing.exhausted_in.map(milliseconds),
        incomplete_since_unix_ms: standing.incomplete_since.map(|since| since.0),
        unlimited: standing.unlimited,
    }
}

fn shortfall(shortfall: &Shortfall) -> v1::Shortfall {
    v1::Shortfall {
        standing: Some(standing(&shortfall.standing)),
        requested: shortfall.requested,
        retry_after_ms: shortfall.retry_after.map(milliseconds),
        clears_on_settle: shortfall.clears_on_settle,
    }
}

fn advisories(advisories: &[Advisory]) -> Vec<v1::Advisory> {
    let message = |advisory: &Advisory| v1::Advisory {
        advice: advice(advisory.advice).into(),
        limit: advisory.limit.to_string(),
        text: advisory.text.clone(),
    };
    advisories.iter().take(LIST_MAX).map(message).collect()
}

pub(crate) fn counted_by(counted: &Counted) -> v1::CountedBy {
    v1::CountedBy {
        method: i32::from(counted.method as u8),
        tokenizer: counted.tokenizer.to_string(),
    }
}

fn milliseconds(length: Milliseconds) -> u64 {
    length.0
}

fn advice(advice: Advice) -> v1::Advice {
    match advice {
        Advice::LabelMapped => v1::Advice::LabelMapped,
        Advice::TotalMismatch => v1::Advice::TotalMismatch,
        Advice::Uncounted => v1::Advice::Uncounted,
    }
}

pub(crate) fn reason(reason: Reason) -> v1::Reason {
    match reason {
        Reason::Limit => v1::Reason::Limit,
        Reason::RequestCap => v1::Reason::RequestCap,
        Reason::Untagged => v1::Reason::Untagged,
        Reason::TooManyCounters => v1::Reason::TooManyCounters,
        Reason::TooManyReservations => v1::Reason::TooManyReservations,
        Reason::TooManyLimits => v1::Reason::TooManyLimits,
    }
}
