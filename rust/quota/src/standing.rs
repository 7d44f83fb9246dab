//! Standings: where a limit stands for one scope value, and which is tightest.

use std::cmp::Ordering;

use crate::counter::{Counter, CounterKey, Span};
use crate::identity::of_unit;
use crate::policy::{Limit, Policy, Unit, Window};
use crate::request::Standing;
use crate::rules::Rules;
use crate::seat::Seat;
use crate::time::{Milliseconds, Timestamp};

impl Rules<'_> {
    /// Where a counter stands, by the amount in force; none if its limit is no longer in force.
    pub fn standing(&self, key: &CounterKey, counter: Counter) -> Option<Standing> {
        Some(self.standing_of(&self.parts_of(key, counter)?, key.scope.clone()))
    }

    /// What the standing of a counter is made of; none if its limit is no longer in force.
    pub(crate) fn parts_of(&self, key: &CounterKey, counter: Counter) -> Option<Parts<'_>> {
        let (limit, amount) = self.policy.amount_of(key.identity, key.unit, &key.scope)?;
        let (identity, unit, span) = (key.identity, key.unit, key.span);
        Some(Parts { limit, identity, unit, amount, span, counter })
    }

    pub(crate) fn standing_of(
        &self,
        parts: &Parts<'_>,
        scope: Box<[(Box<str>, Box<str>)]>,
    ) -> Standing {
        Standing {
            limit: parts.limit.name.clone(),
            unit: parts.unit,
            scope,
            amount: if parts.is_unlimited() { Policy::UNLIMITED_STATED } else { parts.amount },
            unlimited: parts.is_unlimited(),
            committed: parts.counter.committed,
            reserved: parts.counter.reserved,
            window_start: parts.span.start,
            window_end: parts.span.end,
            exhausted_in: self.exhausted_in(parts),
            incomplete_since: self.incomplete_since(parts),
        }
    }

    /// How long until nothing remains at the window's rate so far; none if that is not within the window.
    fn exhausted_in(&self, parts: &Parts<'_>) -> Option<Milliseconds> {
        if matches!(parts.limit.window, Window::Open | Window::Request) || parts.is_unlimited() {
            return None;
        }
        let taken = parts.counter.taken();
        let remaining = parts.amount.saturating_sub(taken);
        if remaining == 0 {
            return Some(Milliseconds(0));
        }
        let began = parts.span.start.or_else(|| self.since(parts))?;
        let elapsed = began.until(self.now);
        if taken == 0 || elapsed.0 == 0 {
            return None;
        }
        let left = u128::from(remaining) * u128::from(elapsed.0) / u128::from(taken);
        let left = Milliseconds(u64::try_from(left).ok()?);
        let end = parts.span.end.unwrap_or(Timestamp(i64::MAX));
        (self.now.after(left) < end).then_some(left)
    }

    /// Since when a limit counts, where it came into force after its window began and calls may have been
    /// made before it did.
    fn incomplete_since(&self, parts: &Parts<'_>) -> Option<Timestamp> {
        let since = self.since(parts)?;
        let (_, first) = self.state.policies().next()?;
        let missed = match parts.limit.window {
            Window::Request => false,
            // What was open before it is settled or expired by then.
            Window::Open => self.now < since.after(Policy::TTL_MAX),
            _ => parts.span.start.is_none_or(|start| start < since),
        };
        (missed && first.activated_at < since).then_some(since)
    }

    fn since(&self, parts: &Parts<'_>) -> Option<Timestamp> {
        self.state.limits_since.get(&of_unit(parts.identity, parts.unit)).copied()
    }
}

/// What a standing is made of.
pub(crate) struct Parts<'a> {
    pub(crate) limit: &'a Limit,
    pub(crate) identity: u64,
    pub(crate) unit: Unit,
    pub(crate) amount: u64,
    pub(crate) span: Span,
    pub(crate) counter: Counter,
}

impl<'a> Parts<'a> {
    /// What the standing of a seat is made of, with what its counter has or would have.
    pub(crate) fn of_seat(seat: &Seat<'a>, counter: Counter) -> Self {
        Self {
            limit: seat.limit,
            identity: seat.ready.identity,
            unit: seat.amount.unit,
            amount: seat.amount.amount,
            span: seat.span,
            counter,
        }
    }

    /// Whether an override exempts the scope value.
    pub(crate) fn is_unlimited(&self) -> bool {
        self.amount == Policy::UNLIMITED
    }

    /// Compares by the share of the amount that is left, the least first.
    pub(crate) fn by_share_left(&self, other: &Self) -> Ordering {
        let left = |parts: &Self| u128::from(parts.amount.saturating_sub(parts.counter.taken()));
        let cross = |left: u128, amount: u64| left * u128::from(amount.max(1));
        cross(left(self), other.amount).cmp(&cross(left(other), self.amount))
    }
}
