//! Usage grouped: what one event adds to, or takes back from, the sums by hour and labels.

use std::collections::BTreeMap;

use crate::compile::from_request;
use crate::event::{Event, Recorded, Settled};
use crate::labels::Labels;
use crate::mapping::NONE;
use crate::reservation::ReservationState;
use crate::time::Timestamp;
use crate::usage::{Basis, Line, Meter, Outcome, tokens_sum};

/// The rollup key whose value is a line's component.
const COMPONENT: &str = "component";

/// A group: usage of one hour that shares its labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageKey {
    /// The first instant of the hour, in the policy's zone.
    pub hour: Timestamp,
    /// A value for each rollup key; `component` is empty on the group that has calls and latency.
    pub labels: Labels,
}

/// Sums of a group; changes, so they may be negative.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageSums {
    /// Tokens by meter and basis.
    pub tokens: BTreeMap<(Meter, Basis), i64>,
    /// Calls.
    pub calls: i64,
    /// Calls of unknown outcome, or whose usage was assumed.
    pub calls_assumed: i64,
    /// Calls that used more tokens than were reserved.
    pub calls_overrun: i64,
    /// Calls settled after they had expired or been released.
    pub calls_late: i64,
    /// The sum of stated latencies, in milliseconds.
    pub latency_ms_sum: i64,
    /// How many calls stated a latency.
    pub latency_calls: i64,
}

impl UsageSums {
    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        for (key, tokens) in &other.tokens {
            let sum = self.tokens.entry(*key).or_default();
            *sum = sum.saturating_add(*tokens);
        }
        self.tokens.retain(|_, tokens| *tokens != 0);
        for (sum, more) in [
            (&mut self.calls, other.calls),
            (&mut self.calls_assumed, other.calls_assumed),
            (&mut self.calls_overrun, other.calls_overrun),
            (&mut self.calls_late, other.calls_late),
            (&mut self.latency_ms_sum, other.latency_ms_sum),
            (&mut self.latency_calls, other.latency_calls),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// Whether every sum is zero.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What an event adds to each group, by rollup keys: those of the policy that [`Event::policy_version`]
/// names. Lines go to the group of their component; calls and latency once, to the one without.
pub fn group(event: &Event, rollups: &[Box<str>]) -> Vec<(UsageKey, UsageSums)> {
    let mut groups = Groups { rollups, sums: BTreeMap::new() };
    match event {
        Event::Activated(_) | Event::Reserved(_) => {}
        Event::Settled(event) => settled(event, &mut groups),
        Event::Recorded(event) => recorded(event, &mut groups),
    }
    groups.sums.retain(|_, sums| !sums.is_zero());
    groups.sums.into_iter().collect()
}

fn settled(event: &Settled, groups: &mut Groups<'_>) {
    let granted = Whose {
        hour: event.hour,
        model: &event.granted_model,
        tier: &event.granted_service_tier,
        labels: &event.granted_labels,
    };
    // What was replaced was assumed at an expiry, and reported as what was granted.
    groups.lines(&granted, &event.replaced_lines, -1);
    if event.replaced_call {
        let sums = groups.of(&granted, "");
        sums.calls -= 1;
        sums.calls_assumed -= 1;
    }
    let answered = Whose {
        hour: event.hour,
        model: &event.model,
        tier: &event.service_tier,
        labels: &event.labels,
    };
    groups.lines(&answered, &event.lines, 1);
    if event.call {
        let committed = event.state == ReservationState::Committed;
        let overrun = tokens_sum(&event.lines) > event.tokens_reserved;
        let sums = groups.of(&answered, "");
        sums.call(event.outcome, &event.lines, event.latency_ms);
        sums.calls_overrun += i64::from(overrun);
        sums.calls_late += i64::from(committed && event.replaces_sequence.is_some());
    }
}

fn recorded(event: &Recorded, groups: &mut Groups<'_>) {
    let whose = Whose {
        hour: event.hour,
        model: &event.model,
        tier: &event.service_tier,
        labels: &event.labels,
    };
    groups.lines(&whose, &event.lines, 1);
    groups.of(&whose, "").call(Some(event.outcome), &event.lines, event.latency_ms);
}

impl UsageSums {
    fn call(&mut self, outcome: Option<Outcome>, lines: &[Line], latency_ms: u64) {
        let unknown = outcome.is_none_or(|outcome| outcome == Outcome::Unknown);
        let assumed = unknown || lines.iter().any(|line| line.basis == Basis::Assumed);
        self.calls += 1;
        self.calls_assumed += i64::from(assumed);
        self.latency_ms_sum = self.latency_ms_sum.saturating_add_unsigned(latency_ms);
        self.latency_calls += i64::from(latency_ms > 0);
    }
}

/// Whose usage it is.
struct Whose<'a> {
    hour: Timestamp,
    model: &'a str,
    tier: &'a str,
    labels: &'a Labels,
}

struct Groups<'a> {
    rollups: &'a [Box<str>],
    sums: BTreeMap<UsageKey, UsageSums>,
}

impl Groups<'_> {
    fn of(&mut self, whose: &Whose<'_>, component: &str) -> &mut UsageSums {
        let pair = |key: &str| {
            let value = match key {
                COMPONENT => component,
                key => from_request(key, whose.model, whose.tier)
                    .or_else(|| whose.labels.get(key))
                    .unwrap_or(NONE),
            };
            (Box::<str>::from(key), Box::<str>::from(value))
        };
        let labels = Labels::new(self.rollups.iter().map(|key| pair(key)));
        self.sums.entry(UsageKey { hour: whose.hour, labels }).or_default()
    }

    fn lines(&mut self, whose: &Whose<'_>, lines: &[Line], sign: i64) {
        for line in lines.iter().filter(|line| line.tokens > 0) {
            let tokens = i64::try_from(line.tokens).unwrap_or(i64::MAX);
            let sums = self.of(whose, &line.component);
            let sum = sums.tokens.entry((line.meter, line.basis)).or_default();
            *sum = sum.saturating_add(sign.saturating_mul(tokens));
            if *sum == 0 {
                sums.tokens.remove(&(line.meter, line.basis));
            }
        }
    }
}
