//! What is asked of the rules and what they answer.

use std::sync::Arc;

use crate::event::{Event, Recorded, Reserved, Settled};
use crate::labels::Labels;
use crate::policy::Unit;
use crate::reservation::{Counted, ReservationState};
use crate::time::{Milliseconds, Timestamp};
use crate::usage::{Line, Outcome};

/// May this be spent? Bounds of text and lists are checked by whoever read the message.
#[derive(Debug, Clone)]
pub struct ReserveRequest {
    /// The caller's id.
    pub id: Arc<str>,
    /// A digest of the request's content as it was sent.
    pub digest: u64,
    /// The models, the wanted one first and then the fallbacks, each with the input as counted for it.
    pub candidates: Vec<Candidate>,
    /// The service tier; empty means standard.
    pub service_tier: Arc<str>,
    /// Labels as sent.
    pub labels: Arc<Labels>,
    /// The most output for each choice.
    pub output_tokens_max: u64,
    /// The least that would do; none means the most.
    pub output_tokens_min: Option<u64>,
    /// How many choices, at least one.
    pub choices: u32,
    /// How long it lives; none means the policy's.
    pub ttl: Option<Milliseconds>,
    /// Decide and change nothing.
    pub dry_run: bool,
}

/// A model that would do, with the input as counted for it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// `provider/model`.
    pub model: Arc<str>,
    /// The estimate of the input.
    pub input: Box<[Line]>,
    /// How it was counted.
    pub counted: Counted,
}

/// The answer to a Reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReserveAnswer {
    /// It fits. The event is to be entered, except for a dry run.
    Granted(Box<Grant>, Option<Event>),
    /// It does not; nothing changes.
    Denied(Box<Denial>),
    /// It was granted before.
    Replayed(Box<Grant>),
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The caller's id.
    pub id: Arc<str>,
    /// Other than open only when replayed.
    pub state: ReservationState,
    /// The model to call.
    pub model: Arc<str>,
    /// Tokens of the input.
    pub input_tokens: u64,
    /// How they were counted.
    pub counted: Counted,
    /// Output granted, for each choice.
    pub output_tokens_granted: u64,
    /// Tokens set aside: input, and output of all choices.
    pub tokens_reserved: u64,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The limit with the least room left, relative to its amount.
    pub tightest: Option<Standing>,
    /// What the caller should know.
    pub advisories: Vec<Advisory>,
    /// The policy it was granted by.
    pub policy_version: u64,
    /// The sequence the answer depends on: 0 for a grant whose event is not yet entered.
    pub sequence: u64,
}

/// Where one limit stands for one scope value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The limit's name.
    pub limit: Arc<str>,
    /// The unit.
    pub unit: Unit,
    /// Scope labels and values, in the policy's order.
    pub scope: Box<[(Box<str>, Box<str>)]>,
    /// The amount in force.
    pub amount: u64,
    /// The scope value is exempt: nothing is refused, and the amount is [`crate::Policy::UNLIMITED_STATED`].
    pub unlimited: bool,
    /// Used for certain.
    pub committed: u64,
    /// Set aside.
    pub reserved: u64,
    /// The window's first instant.
    pub window_start: Option<Timestamp>,
    /// The first instant after it.
    pub window_end: Option<Timestamp>,
    /// How long until nothing remains, at the window's rate so far.
    pub exhausted_in: Option<Milliseconds>,
    /// Since when the counter counts, where its window began before.
    pub incomplete_since: Option<Timestamp>,
}

impl Standing {
    /// What may still be taken.
    pub fn remaining(&self) -> u64 {
        if self.unlimited {
            return self.amount;
        }
        self.amount.saturating_sub(self.committed).saturating_sub(self.reserved)
    }
}

/// Why something was denied; the numbers are given by whoever words the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A limit has not enough left.
    Limit,
    /// The request alone is larger than a limit on each request allows.
    RequestCap,
    /// A label is missing or has a value that is not allowed.
    Untagged,
    /// No further counter may be made for a limit.
    TooManyCounters,
    /// No further reservation may be open.
    TooManyReservations,
    /// More limits apply than one request may have.
    TooManyLimits,
}

/// A denial. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason of the first shortfall, or what else stood in the way.
    pub reason: Reason,
    /// Every limit that refused, the slowest to clear first.
    pub shortfalls: Vec<Shortfall>,
    /// The least time after which the same request fits, if time alone does it.
    pub retry_after: Option<Milliseconds>,
    /// What to do about it, in a sentence.
    pub hint: String,
    /// The policy that decided.
    pub policy_version: u64,
}

/// A limit that refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Where it stands.
    pub standing: Standing,
    /// What was asked of it.
    pub requested: u64,
    /// When it alone would have room, if time alone does it.
    pub retry_after: Option<Milliseconds>,
    /// Whether a settlement may clear it sooner.
    pub clears_on_settle: bool,
}

/// What kind of thing a caller should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Advice {
    /// A label was renamed, was missing, or had a value that is not allowed.
    LabelMapped,
    /// The provider's total differs from the sum of the lines.
    TotalMismatch,
    /// Some usage reached the ledger and the reports only.
    Uncounted,
}

/// Something the caller should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advisory {
    /// What kind.
    pub advice: Advice,
    /// The limit it concerns; may be empty.
    pub limit: Arc<str>,
    /// In a sentence.
    pub text: String,
}

/// What was used under a reservation.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The reservation's id.
    pub id: Arc<str>,
    /// A digest of the request's content.
    pub digest: u64,
    /// What was used; none only if the outcome is unknown or failed.
    pub lines: Vec<Line>,
    /// How the call ended.
    pub outcome: Outcome,
    /// What answered; none means the model granted.
    pub model: Option<Arc<str>>,
    /// Its version; may be empty.
    pub model_version: Arc<str>,
    /// The tier that billed; none means the reservation's.
    pub service_tier: Option<Arc<str>>,
    /// The provider's response id; may be empty.
    pub response_id: Box<str>,
    /// Labels added to the reservation's; may not change them.
    pub labels: Arc<Labels>,
    /// The provider's stated total.
    pub total_tokens: Option<u64>,
    /// The call's latency in milliseconds; 0 means not stated.
    pub latency_ms: u64,
    /// Time to the first token in milliseconds; 0 means not stated.
    pub first_token_ms: u64,
}

/// The answer to a Commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitAnswer {
    /// Tokens counted.
    pub tokens_committed: u64,
    /// Tokens beyond what was reserved.
    pub tokens_overrun: u64,
    /// Whether it came after expiry or release.
    pub late: bool,
    /// Whether it was committed before with the same content.
    pub replayed: bool,
    /// What the caller should know.
    pub advisories: Vec<Advisory>,
    /// The limit with the least room left among those the reservation was taken from.
    pub tightest: Option<Standing>,
    /// The entry the answer depends on: 0 for one whose event is not yet entered.
    pub sequence: u64,
    /// The event to be entered; none when replayed.
    pub event: Option<Event>,
}

/// Gives a reservation back.
#[derive(Debug, Clone)]
pub struct ReleaseRequest {
    /// The reservation's id.
    pub id: Arc<str>,
    /// A digest of the request's content.
    pub digest: u64,
    /// Why, in the caller's words.
    pub reason: Box<str>,
}

/// The answer to a Release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseAnswer {
    /// Tokens given back: what was reserved, or what expiry had charged.
    pub tokens_released: u64,
    /// Whether it was released before with the same content.
    pub replayed: bool,
    /// The entry the answer depends on: 0 for one whose event is not yet entered.
    pub sequence: u64,
    /// The event to be entered; none when replayed.
    pub event: Option<Event>,
}

/// Usage that had no reservation.
#[derive(Debug, Clone)]
pub struct RecordRequest {
    /// The caller's id.
    pub id: Arc<str>,
    /// A digest of the request's content.
    pub digest: u64,
    /// The model that answered.
    pub model: Arc<str>,
    /// Its version; may be empty.
    pub model_version: Arc<str>,
    /// The tier that billed; empty means standard.
    pub service_tier: Arc<str>,
    /// Labels as sent.
    pub labels: Arc<Labels>,
    /// What was used.
    pub lines: Vec<Line>,
    /// How the call ended.
    pub outcome: Outcome,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// The provider's response id; may be empty.
    pub response_id: Box<str>,
    /// The provider's stated total.
    pub total_tokens: Option<u64>,
    /// The call's latency in milliseconds; 0 means not stated.
    pub latency_ms: u64,
}

/// The answer to a Record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAnswer {
    /// Tokens counted.
    pub tokens_committed: u64,
    /// Whether it was recorded before with the same content.
    pub replayed: bool,
    /// What the caller should know.
    pub advisories: Vec<Advisory>,
    /// The entry the answer depends on: 0 for one whose event is not yet entered.
    pub sequence: u64,
    /// The event to be entered; none when replayed.
    pub event: Option<Event>,
}

/// What the ledger says of an id that is remembered: its latest settlement or record and, of a
/// reservation, the grant. Whoever asks the rules reads it for them, and only then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// A reservation that is no longer open.
    Settled {
        /// The instant of the grant.
        granted_at: Timestamp,
        /// The grant's entry.
        reserved: Box<Reserved>,
        /// The sequence of the latest settlement.
        sequence: u64,
        /// The latest settlement.
        settled: Box<Settled>,
    },
    /// Usage that had no reservation.
    Recorded {
        /// Its sequence.
        sequence: u64,
        /// Its entry.
        recorded: Box<Recorded>,
    },
}

/// A question that has no answer. Nothing changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The question is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of the message.
        field: &'static str,
        /// What it is, and what it must be.
        problem: String,
    },
    /// The id was used with other content.
    #[error("{id} was used before with other content: {hint}")]
    Conflict {
        /// The id.
        id: Arc<str>,
        /// What to do.
        hint: &'static str,
    },
    /// No such reservation.
    #[error("no reservation {0} is known: it was never granted here, or settled too long ago")]
    NotFound(Arc<str>),
    /// The reservation is past that.
    #[error("reservation {id} is {state}: {hint}")]
    NotOpen {
        /// The id.
        id: Arc<str>,
        /// Where it stands.
        state: ReservationState,
        /// What to do.
        hint: &'static str,
    },
    /// The usage occurred before what is remembered, so counting it could count it twice.
    #[error(
        "usage that occurred at or before {horizon} can no longer be recorded: ids that old are forgotten"
    )]
    TooOld {
        /// The newest instant forgotten.
        horizon: Timestamp,
    },
}
