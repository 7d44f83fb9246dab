//! A reservation: an amount set aside under an id until settled or expired.

use std::sync::Arc;

use crate::counter::CounterKey;
use crate::labels::Labels;
use crate::policy::Unsettled;
use crate::time::Timestamp;
use crate::usage::{Line, tokens_reserved};

/// Where a reservation or a record stands; the numbers are those of `bursar.v1.State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReservationState {
    /// Granted and not settled.
    Open = 1,
    /// Settled by what was used.
    Committed = 2,
    /// Settled by giving it back.
    Released = 3,
    /// Ended by its deadline.
    Expired = 4,
    /// Usage that never had a reservation.
    Recorded = 5,
}

impl std::fmt::Display for ReservationState {
    /// The word for it, as the contract has it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Open => "open",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Recorded => "recorded",
        })
    }
}

/// How an input was counted; the numbers are those of `bursar.v1.Method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// The caller gave a number.
    Given = 1,
    /// By the model's own tokenizer.
    Exact = 2,
    /// By a good guess.
    Estimate = 3,
    /// By an upper bound.
    Bound = 4,
}

/// How an input was counted and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counted {
    /// In what way.
    pub method: Method,
    /// The tokenizer's name; may be empty.
    pub tokenizer: Arc<str>,
}

/// What a reservation took from one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which counter.
    pub counter: Arc<CounterKey>,
    /// How much.
    pub amount: u64,
    /// Whether its limit matches or counts by model, provider or service tier, and so follows what answered.
    pub by_model: bool,
}

/// An open reservation, all that settling it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The sequence of its entry.
    pub sequence: u64,
    /// A digest of the request's content.
    pub digest: u64,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// When its time is over, if nobody sets the wall clock meanwhile.
    pub expires_at: Timestamp,
    /// The model granted, aliases resolved.
    pub model: Arc<str>,
    /// The service tier; empty means standard.
    pub service_tier: Arc<str>,
    /// Its labels as mapped.
    pub labels: Arc<Labels>,
    /// The estimate of its input.
    pub input: Box<[Line]>,
    /// How the input was counted.
    pub counted: Counted,
    /// Output granted, for each choice.
    pub output_tokens_granted: u64,
    /// How many choices.
    pub choices: u32,
    /// The policy it was granted by.
    pub policy_version: u64,
    /// What happens if nobody settles it.
    pub unsettled: Unsettled,
    /// What it took.
    pub holds: Box<[Hold]>,
    /// The first instant of the grant's hour, in the policy's zone.
    pub hour: Timestamp,
    /// Keys of labels that were renamed or stood in.
    pub mapped: Box<[Box<str>]>,
}

impl Reservation {
    /// Tokens reserved: input, and output for every choice.
    pub fn tokens_reserved(&self) -> u64 {
        tokens_reserved(&self.input, self.output_tokens_granted, self.choices)
    }
}
