//! A policy as the rules see it: checked, compiled, immutable.

use std::sync::Arc;

use crate::time::{Milliseconds, Timestamp};

/// What a limit counts; the numbers are those of `bursar.v1.Unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Unit {
    /// Tokens of every meter.
    Tokens = 1,
    /// Calls.
    Requests = 3,
    /// Reservations open at once.
    Concurrency = 4,
}

/// A named set of limits with its label rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: Box<str>,
    /// The zone of usage hours.
    pub time_zone: jiff::tz::TimeZone,
    /// Rules for declared labels.
    pub labels: Vec<LabelRule>,
    /// How long a reservation lives when its request does not say.
    pub ttl: Milliseconds,
    /// What one that nobody settles is charged.
    pub unsettled: Unsettled,
    /// The limits, at most [`Policy::LIMITS_MAX`].
    pub limits: Vec<Limit>,
    /// The keys usage is kept by.
    pub rollups: Vec<Box<str>>,
}

impl Policy {
    /// The most limits a policy may have.
    pub const LIMITS_MAX: usize = 256;
    /// The most limits that may apply to one request.
    pub const LIMITS_PER_REQUEST_MAX: usize = 16;
    /// The most labels in a scope.
    pub const SCOPE_LABELS_MAX: usize = 4;
    /// The largest amount of a limit.
    pub const AMOUNT_MAX: u64 = 1 << 53;
    /// What stands for no amount at all, where a scope value is unlimited; more than any amount may be.
    pub const UNLIMITED: u64 = u64::MAX;
    /// What a standing says instead: the largest number that a double holds with all before it.
    pub const UNLIMITED_STATED: u64 = (1 << 53) - 1;
    /// The most overrides of a limit.
    pub const OVERRIDES_MAX: usize = 10_000;
    /// The most rollup keys.
    pub const ROLLUPS_MAX: usize = 8;
    /// Labels every policy knows without declaring them.
    pub const BUILT_IN: [&'static str; 11] = [
        "tenant",
        "team",
        "user",
        "feature",
        "service",
        "environment",
        "session",
        "agent",
        "prompt",
        "prompt_version",
        "model_version",
    ];
    /// Labels that come from the request itself; callers cannot set them.
    pub const FROM_REQUEST: [&'static str; 3] = ["model", "provider", "service_tier"];
}

/// What is allowed of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRule {
    /// The label's key.
    pub key: Box<str>,
    /// The values allowed, sorted; none means any.
    pub values: Vec<Box<str>>,
    /// Old values and the new ones they stand for, sorted by the old.
    pub renamed: Vec<(Box<str>, Box<str>)>,
    /// What happens when it is missing.
    pub missing: Fallback,
    /// What happens when its value is not allowed; never [`Fallback::Skip`].
    pub otherwise: Fallback,
}

/// What happens when a label's value cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fallback {
    /// It counts under the value `(none)`.
    #[default]
    None,
    /// The request is denied.
    Deny,
    /// Limits scoped by the label do not apply.
    Skip,
    /// This value stands in.
    As(Box<str>),
}

/// What a reservation that nobody settles is charged; the numbers are those of `bursar.v1.Unsettled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Unsettled {
    /// Nothing; once dispatched, its input.
    Release = 1,
    /// Its input.
    ChargeInput = 2,
    /// All that was reserved.
    ChargeEstimate = 3,
}

/// At most so much per window, for each value of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name; shared by every counter of it.
    pub name: Arc<str>,
    /// Whom it concerns: every one must match.
    pub matches: Vec<LabelMatch>,
    /// Whom it does not: left out where every one matches; empty leaves nobody out.
    pub except: Vec<LabelMatch>,
    /// The labels it counts by, in the policy's order.
    pub scope: Vec<Box<str>>,
    /// The span it counts over.
    pub window: Window,
    /// How much of what, each unit once.
    pub amounts: Vec<Amount>,
    /// Other amounts for some scope values; for each unit the first that is for a value decides.
    pub overrides: Vec<Override>,
}

/// Another amount for some values of a limit's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Whom it is for: keys of the scope, every one must match.
    pub matches: Vec<LabelMatch>,
    /// What they may have.
    pub allowed: Allowed,
}

/// What an override allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// So much; units that are not named keep the limit's amount.
    Amounts(Vec<Amount>),
    /// Anything: it is counted and never refused.
    Unlimited,
}

/// A label and the values that match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMatch {
    /// The label's key.
    pub key: Box<str>,
    /// Values: equal, or a prefix where the last character is `*`.
    pub values: Vec<Box<str>>,
}

/// At most so much of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// What is counted.
    pub unit: Unit,
    /// How much.
    pub amount: u64,
}

/// The span a limit counts over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// No span: what is open now. Only for concurrency, which is never written beside another unit.
    Open,
    /// Each request alone.
    Request,
    /// Spans of equal length aligned to the Unix epoch.
    Fixed(Milliseconds),
    /// Spans of a calendar in a zone.
    Calendar(CalendarUnit, jiff::tz::TimeZone),
    /// Everything from the first instant to before the second.
    Total {
        /// The first instant that counts; none means all.
        from: Option<Timestamp>,
        /// The first that no longer counts; none means never.
        until: Option<Timestamp>,
    },
}

/// The spans of a calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarUnit {
    /// Hours as the zone's clocks show them.
    Hour,
    /// Days, of 23 and 25 hours too.
    Day,
    /// Weeks.
    Week {
        /// The day they start on, 1 (Monday) to 7 (Sunday).
        starts_on: i8,
    },
    /// Months.
    Month {
        /// The day they start on, 1 to 28.
        starts_on: i8,
    },
    /// Three months each.
    Quarter {
        /// The month the first of a year starts in, 1 to 12.
        starts_in: i8,
        /// The day of the month they start on, 1 to 28.
        starts_on: i8,
    },
    /// Twelve months each.
    Year {
        /// The month they start in, 1 to 12.
        starts_in: i8,
        /// The day of the month they start on, 1 to 28.
        starts_on: i8,
    },
}
