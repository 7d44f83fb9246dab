//! Events: what happened, with its effects, so that replaying needs no policy and no clock.

use std::sync::Arc;

use crate::counter::CounterKey;
use crate::labels::Labels;
use crate::policy::Unsettled;
use crate::reservation::{Counted, Hold, ReservationState};
use crate::state::IdHash;
use crate::time::{Milliseconds, Timestamp};
use crate::usage::{Line, Outcome, tokens_reserved};

/// What one entry of the ledger holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A policy came into force.
    Activated(Activated),
    /// A reservation was granted.
    Reserved(Box<Reserved>),
    /// A reservation was committed, released or expired, in time or late.
    Settled(Box<Settled>),
    /// Usage without a reservation was entered.
    Recorded(Box<Recorded>),
}

/// A policy came into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    /// Its version, one more than the one before.
    pub version: u64,
    /// The digest of the file it was read from and of all it names.
    pub digest: Box<[u8]>,
    /// The policy as a message; the rules never read it.
    pub policy: Box<[u8]>,
    /// The file as it was read.
    pub source: Box<[u8]>,
    /// The keys usage is kept by from here on.
    pub rollups: Vec<Box<str>>,
    /// The identities of its limits' counters, one for each unit of a limit.
    pub identities: Vec<u64>,
}

/// A change to one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Which counter.
    pub counter: Arc<CounterKey>,
    /// By how much what is committed changes.
    pub committed: i64,
    /// By how much what is reserved changes.
    pub reserved: i64,
}

/// A reservation was granted at the entry's instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The caller's id.
    pub id: Arc<str>,
    /// A digest of the request's content.
    pub digest: u64,
    /// The model granted.
    pub model: Arc<str>,
    /// The service tier; empty means standard.
    pub service_tier: Arc<str>,
    /// Labels as mapped.
    pub labels: Arc<Labels>,
    /// Labels as sent, where different.
    pub labels_sent: Option<Arc<Labels>>,
    /// The estimate of the input.
    pub input: Box<[Line]>,
    /// How the input was counted.
    pub counted: Counted,
    /// Output granted, for each choice.
    pub output_tokens_granted: u64,
    /// How many choices.
    pub choices: u32,
    /// How long it lives.
    pub ttl: Milliseconds,
    /// The policy it was granted by.
    pub policy_version: u64,
    /// What happens if nobody settles it.
    pub unsettled: Unsettled,
    /// What it took from each counter.
    pub holds: Box<[Hold]>,
    /// The first instant of the grant's hour, in the policy's zone.
    pub hour: Timestamp,
    /// Keys of labels that were renamed or stood in.
    pub mapped: Box<[Box<str>]>,
}

impl Reserved {
    /// Tokens reserved: input, and output for every choice.
    pub fn tokens_reserved(&self) -> u64 {
        tokens_reserved(&self.input, self.output_tokens_granted, self.choices)
    }
}

/// A reservation was committed, released or expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The caller's id.
    pub id: Arc<str>,
    /// Committed, released or expired.
    pub state: ReservationState,
    /// A digest of the settling request's content; 0 for an expiry.
    pub digest: u64,
    /// The sequence of the reservation's entry.
    pub reserved_sequence: u64,
    /// The sequence of the settlement that this one replaces: it came late, or refunds an expiry.
    pub replaces_sequence: Option<u64>,
    /// The changes to counters.
    pub effects: Vec<Effect>,
    /// What was used, or assumed; usage reports add these.
    pub lines: Vec<Line>,
    /// What the replaced settlement had in its lines; usage reports take these back.
    pub replaced_lines: Vec<Line>,
    /// Whether the replaced settlement counted as a call.
    pub replaced_call: bool,
    /// The model granted: usage that is replaced was reported under it.
    pub granted_model: Arc<str>,
    /// The tier granted; empty means standard.
    pub granted_service_tier: Arc<str>,
    /// The labels granted, without those added at settling.
    pub granted_labels: Arc<Labels>,
    /// Whether this one does.
    pub call: bool,
    /// How the call ended; none for a release or an expiry.
    pub outcome: Option<Outcome>,
    /// The model that answered.
    pub model: Arc<str>,
    /// Its version; may be empty.
    pub model_version: Arc<str>,
    /// The tier that billed; empty means standard.
    pub service_tier: Arc<str>,
    /// The provider's response id; may be empty.
    pub response_id: Box<str>,
    /// The reservation's labels and those added at settling.
    pub labels: Arc<Labels>,
    /// The provider's stated total where it differs from the sum of the lines.
    pub total_tokens_stated: Option<u64>,
    /// The call's latency in milliseconds; 0 means not stated.
    pub latency_ms: u64,
    /// Time to the first token in milliseconds; 0 means not stated.
    pub first_token_ms: u64,
    /// The policy the reservation was granted by.
    pub policy_version: u64,
    /// Tokens that had been reserved.
    pub tokens_reserved: u64,
    /// The first instant of the grant's hour, in the policy's zone.
    pub hour: Timestamp,
    /// Why it was released, in the caller's words; may be empty.
    pub reason: Box<str>,
    /// Whether some of it reached the ledger and the reports only, because no counter could take it.
    pub uncounted: bool,
    /// Whether the call is known to have been dispatched, so that it can no longer be given back.
    pub dispatched: bool,
}

/// Usage without a reservation was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The caller's id.
    pub id: Arc<str>,
    /// A digest of the request's content.
    pub digest: u64,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// The changes to counters.
    pub effects: Vec<Effect>,
    /// What was used.
    pub lines: Vec<Line>,
    /// How the call ended.
    pub outcome: Outcome,
    /// The model.
    pub model: Arc<str>,
    /// Its version; may be empty.
    pub model_version: Arc<str>,
    /// The tier that billed; empty means standard.
    pub service_tier: Arc<str>,
    /// The provider's response id; may be empty.
    pub response_id: Box<str>,
    /// Labels as mapped.
    pub labels: Arc<Labels>,
    /// Labels as sent, where different.
    pub labels_sent: Option<Arc<Labels>>,
    /// The provider's stated total where it differs from the sum of the lines.
    pub total_tokens_stated: Option<u64>,
    /// The call's latency in milliseconds; 0 means not stated.
    pub latency_ms: u64,
    /// The policy it was counted by.
    pub policy_version: u64,
    /// The first instant of the hour it happened in, in the policy's zone.
    pub hour: Timestamp,
    /// Whether some of it reached the ledger and the reports only.
    pub uncounted: bool,
}

/// One row of the state that an event reads or changes: what a follower must load before it applies the event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Touched<'a> {
    /// A counter.
    Counter(&'a Arc<CounterKey>),
    /// A reservation that may be open.
    Reservation(&'a Arc<str>),
    /// An id that may be remembered.
    Id(IdHash),
    /// A policy's version.
    Policy(u64),
}

impl Event {
    /// The policy whose rollup keys its usage is grouped by: the one a reservation was granted by, or a
    /// record counted by, so that what a later settlement takes back leaves the group it was added to.
    pub fn policy_version(&self) -> Option<u64> {
        match self {
            Self::Activated(_) => None,
            Self::Reserved(event) => Some(event.policy_version),
            Self::Settled(event) => Some(event.policy_version),
            Self::Recorded(event) => Some(event.policy_version),
        }
    }

    /// The rows the event reads or changes, except the counters of the reservation it ends: those are in
    /// its holds, and loaded with it.
    pub fn touches(&self) -> Vec<Touched<'_>> {
        match self {
            Self::Activated(event) => vec![Touched::Policy(event.version)],
            Self::Reserved(event) => {
                let counters = event.holds.iter().map(|hold| Touched::Counter(&hold.counter));
                counters.chain([Touched::Reservation(&event.id)]).collect()
            }
            Self::Settled(event) => {
                let counters = event.effects.iter().map(|effect| Touched::Counter(&effect.counter));
                let id = [Touched::Reservation(&event.id), Touched::Id(IdHash::of(&event.id))];
                counters.chain(id).collect()
            }
            Self::Recorded(event) => {
                let counters = event.effects.iter().map(|effect| Touched::Counter(&effect.counter));
                counters.chain([Touched::Id(IdHash::of(&event.id))]).collect()
            }
        }
    }
}
