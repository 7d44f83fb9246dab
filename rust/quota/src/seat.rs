//! Seats: the counters a request would take from, and what is left in them.

use std::sync::Arc;

use crate::compile::Ready;
use crate::counter::{Counter, CounterKey, KeyRef, Span};
use crate::pattern::Values;
use crate::policy::{Amount, Limit, Policy, Unit, Window};
use crate::rules::Rules;
use crate::time::Timestamp;

/// One amount of one limit that applies to a request at an instant.
pub(crate) struct Seat<'a> {
    pub(crate) limit: &'a Limit,
    pub(crate) ready: &'a Ready,
    pub(crate) amount: Amount,
    pub(crate) span: Span,
    /// What the counter has; zero where there is none yet.
    pub(crate) counter: Counter,
    /// The key everyone shares, of a counter that is live.
    pub(crate) live: Option<&'a Arc<CounterKey>>,
}

/// More limits apply than one request may have; the number is how many.
pub(crate) struct TooManyLimits(pub(crate) usize);

impl Seat<'_> {
    /// What may still be taken.
    pub(crate) fn remaining(&self) -> u64 {
        self.amount.amount.saturating_sub(self.counter.taken())
    }

    /// What a request of so many tokens takes.
    pub(crate) fn asked(&self, tokens: u64) -> u64 {
        match self.amount.unit {
            Unit::Tokens => tokens,
            Unit::Requests | Unit::Concurrency => 1,
        }
    }

    /// Whether a request of so many tokens does not fit.
    pub(crate) fn refuses(&self, tokens: u64) -> bool {
        self.asked(tokens) > self.remaining()
    }

    /// Whether it keeps a counter.
    pub(crate) fn counts(&self) -> bool {
        self.limit.window.counts()
    }

    /// The instant at which a request of so many tokens that is refused fits, if nothing but time passes.
    pub(crate) fn clears_at(&self, tokens: u64) -> Option<Timestamp> {
        match self.limit.window {
            Window::Open | Window::Request => None,
            // After it has ended it no longer applies.
            Window::Total { .. } => self.span.end,
            // The next one starts empty.
            Window::Fixed(_) | Window::Calendar(..) => {
                (self.asked(tokens) <= self.amount.amount).then_some(self.span.end).flatten()
            }
        }
    }
}

impl<'a> Rules<'a> {
    /// Every seat of the limits that apply to a call at an instant, in the policy's order.
    pub(crate) fn seats(
        &self,
        values: &Values<'_>,
        at: Timestamp,
    ) -> Result<Vec<Seat<'a>>, TooManyLimits> {
        let mut seats = Vec::with_capacity(Policy::LIMITS_PER_REQUEST_MAX);
        let mut limits = 0;
        let policy = self.policy;
        for ready in policy.concerning(values) {
            let Some(limit) = policy.limit(ready) else { continue };
            let Some(span) = limit.window.span(at) else { continue };
            limits += 1;
            if limits > Policy::LIMITS_PER_REQUEST_MAX {
                continue;
            }
            self.seats_under((ready, limit), values, span, &mut seats);
        }
        if limits > Policy::LIMITS_PER_REQUEST_MAX {
            return Err(TooManyLimits(limits));
        }
        Ok(seats)
    }

    /// Adds the seats of one limit, in the order of its amounts.
    pub(crate) fn seats_under(
        &self,
        (ready, limit): (&'a Ready, &'a Limit),
        values: &Values<'_>,
        span: Span,
        seats: &mut Vec<Seat<'a>>,
    ) {
        let scope = self.policy.scope(ready, values);
        let value = |place: usize| scope.pairs().get(place).map_or("", |(_, value)| *value);
        for amount in &limit.amounts {
            let amount = ready.amount_for(*amount, value);
            let counted = limit.window.counts().then(|| {
                self.state.counter_at(KeyRef {
                    identity: ready.identity,
                    unit: amount.unit,
                    scope: scope.pairs(),
                    span,
                    limit: &limit.name,
                })
            });
            let (live, counter) = match counted.flatten() {
                Some((key, counter)) => (Some(key), counter),
                None => (None, Counter::default()),
            };
            seats.push(Seat { limit, ready, amount, span, counter, live });
        }
    }

    /// The key of a seat's counter: the one everyone shares, or a new one.
    pub(crate) fn seat_key(&self, seat: &Seat<'_>, values: &Values<'_>) -> Arc<CounterKey> {
        seat.live.cloned().unwrap_or_else(|| {
            let scope = self.policy.scope(seat.ready, values);
            let key = KeyRef {
                identity: seat.ready.identity,
                unit: seat.amount.unit,
                scope: scope.pairs(),
                span: seat.span,
                limit: &seat.limit.name,
            };
            key.to_key()
        })
    }
}
