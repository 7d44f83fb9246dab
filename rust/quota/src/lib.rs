//! The rules: what a request may spend, decided from a policy, a state and a time that are handed in.
//!
//! Nothing here reads a clock, a file or a socket. A decision is checked against the [`State`] and comes
//! back as an answer and, where something changes, an [`Event`]; [`State::apply`] is the only way a state
//! changes, live, in recovery and in every proof.

mod apply;
mod change;
mod check;
mod commit;
mod compile;
mod counter;
mod denial;
mod event;
mod explain;
mod identity;
mod labels;
mod mapping;
mod matching;
mod overrides;
mod pattern;
mod policy;
mod record;
mod release;
mod request;
mod reservation;
mod reserve;
mod rollup;
mod rules;
mod seat;
mod settle;
mod standing;
mod state;
mod time;
mod usage;
mod window;

pub use apply::ApplyError;
pub use change::{Anew, Difference};
pub use compile::{Compiled, from_request};
pub use counter::{Counter, CounterKey, Span};
pub use event::{Activated, Effect, Event, Recorded, Reserved, Settled, Touched};
pub use explain::{Explained, Explanation, Held, WhyNot};
pub use labels::Labels;
pub use policy::{
    Allowed, Amount, CalendarUnit, Fallback, LabelMatch, LabelRule, Limit, Override, Policy, Unit,
    Unsettled, Window,
};
pub use request::{
    Advice, Advisory, Candidate, CommitAnswer, CommitRequest, Denial, Grant, Past, Reason,
    RecordAnswer, RecordRequest, Refusal, ReleaseAnswer, ReleaseRequest, ReserveAnswer,
    ReserveRequest, Shortfall, Standing,
};
pub use reservation::{Counted, Hold, Method, Reservation, ReservationState};
pub use rollup::{UsageKey, UsageSums, group};
pub use rules::Rules;
pub use state::{Bounds, IdHash, PolicyRecord, Remembered, State};
pub use time::{Milliseconds, Timestamp};
pub use usage::{Basis, Line, Meter, Outcome, tokens_sum};
pub use window::hour_of;
