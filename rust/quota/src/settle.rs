//! Settling: what every settlement starts from, and what it does to counters.

use std::sync::Arc;

use crate::compile::{Compiled, Ready};
use crate::counter::{Counter, CounterKey, KeyRef};
use crate::event::{Effect, Settled};
use crate::labels::Labels;
use crate::pattern::Values;
use crate::policy::{Unit, Unsettled};
use crate::request::{Past, Refusal, Standing};
use crate::reservation::{Hold, ReservationState};
use crate::rules::Rules;
use crate::time::Timestamp;
use crate::usage::{Basis, Line, Meter, tokens_sum};

/// What a settlement starts from: a reservation that is open, or one that no longer is.
pub(crate) struct Grounds<'a> {
    pub(crate) id: &'a Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) granted_at: Timestamp,
    pub(crate) model: &'a Arc<str>,
    pub(crate) service_tier: &'a Arc<str>,
    pub(crate) labels: &'a Arc<Labels>,
    pub(crate) input: &'a [Line],
    pub(crate) output_tokens: u64,
    pub(crate) unsettled: Unsettled,
    pub(crate) holds: &'a [Hold],
    pub(crate) policy_version: u64,
    pub(crate) hour: Timestamp,
    pub(crate) mapped: &'a [Box<str>],
    /// The settlement it replaces, with its sequence, where the reservation is not open.
    pub(crate) replaces: Option<(u64, &'a Settled)>,
}

/// What a unit counts of a call of so many tokens.
pub(crate) fn usage_in(unit: Unit, tokens: u64) -> u64 {
    match unit {
        Unit::Tokens => tokens,
        Unit::Requests => 1,
        Unit::Concurrency => 0,
    }
}

impl<'a> Grounds<'a> {
    /// Finds a reservation, open or past.
    pub(crate) fn find(
        rules: &Rules<'a>,
        id: &'a Arc<str>,
        past: Option<&'a Past>,
    ) -> Result<Self, Refusal> {
        if let Some(open) = rules.state.reservation(id) {
            return Ok(Self {
                id,
                sequence: open.sequence,
                granted_at: open.granted_at,
                model: &open.model,
                service_tier: &open.service_tier,
                labels: &open.labels,
                input: &open.input,
                output_tokens: open.output_tokens_granted.saturating_mul(u64::from(open.choices)),
                unsettled: open.unsettled,
                holds: &open.holds,
                policy_version: open.policy_version,
                hour: open.hour,
                mapped: &open.mapped,
                replaces: None,
            });
        }
        match past {
            None => Err(Refusal::NotFound(id.clone())),
            Some(Past::Recorded { .. }) => Err(Refusal::NotOpen {
                id: id.clone(),
                state: ReservationState::Recorded,
                hint: "the id belongs to usage that was recorded; it is counted",
            }),
            Some(Past::Settled { granted_at, reserved, sequence, settled }) => Ok(Self {
                id,
                sequence: settled.reserved_sequence,
                granted_at: *granted_at,
                model: &reserved.model,
                service_tier: &reserved.service_tier,
                labels: &reserved.labels,
                input: &reserved.input,
                output_tokens: reserved
                    .output_tokens_granted
                    .saturating_mul(u64::from(reserved.choices)),
                unsettled: reserved.unsettled,
                holds: &reserved.holds,
                policy_version: reserved.policy_version,
                hour: reserved.hour,
                mapped: &reserved.mapped,
                replaces: Some((*sequence, settled)),
            }),
        }
    }

    pub(crate) fn tokens_reserved(&self) -> u64 {
        tokens_sum(self.input).saturating_add(self.output_tokens)
    }

    /// What an expiry charged and a later settlement takes back.
    fn charged(&self) -> Option<&'a Settled> {
        let (_, settled) = self.replaces?;
        (settled.state == ReservationState::Expired).then_some(settled)
    }

    /// What is charged if nobody says what was used; none if nothing is. Marked as assumed.
    pub(crate) fn assumed(&self, dispatched: bool) -> Option<Vec<Line>> {
        let assumed = |line: &Line| Line { basis: Basis::Assumed, ..line.clone() };
        let mut lines: Vec<Line> = match self.unsettled {
            Unsettled::Release if !dispatched => return None,
            _ => self.input.iter().map(assumed).collect(),
        };
        if self.unsettled == Unsettled::ChargeEstimate && self.output_tokens > 0 {
            lines.push(Line::plain(Meter::Output, self.output_tokens, Basis::Assumed));
        }
        if lines.is_empty() {
            // The call is marked as one of unknown cost even where nothing is known of it.
            lines.push(Line::plain(Meter::Input, 0, Basis::Assumed));
        }
        Some(lines)
    }

    /// A settlement without usage; whoever settles adds what there was.
    pub(crate) fn settled(&self, state: ReservationState, digest: u64) -> Settled {
        let charged = self.charged();
        Settled {
            id: self.id.clone(),
            state,
            digest,
            reserved_sequence: self.sequence,
            replaces_sequence: self.replaces.map(|(sequence, _)| sequence),
            effects: Vec::new(),
            lines: Vec::new(),
            replaced_lines: charged.map(|settled| settled.lines.clone()).unwrap_or_default(),
            replaced_call: charged.is_some_and(|settled| settled.call),
            granted_model: self.model.clone(),
            granted_service_tier: self.service_tier.clone(),
            granted_labels: self.labels.clone(),
            call: false,
            outcome: None,
            model: self.model.clone(),
            model_version: "".into(),
            service_tier: self.service_tier.clone(),
            response_id: "".into(),
            labels: self.labels.clone(),
            total_tokens_stated: None,
            latency_ms: 0,
            first_token_ms: 0,
            policy_version: self.policy_version,
            tokens_reserved: self.tokens_reserved(),
            hour: self.hour,
            reason: "".into(),
            uncounted: false,
            dispatched: false,
        }
    }
}

/// Changes to counters as they come together, one for each counter.
#[derive(Default)]
pub(crate) struct Changes {
    effects: Vec<Effect>,
    /// Whether something could not be counted.
    pub(crate) uncounted: bool,
}

impl Changes {
    pub(crate) fn add(&mut self, counter: &Arc<CounterKey>, committed: i64, reserved: i64) {
        if let Some(effect) = self.effects.iter_mut().find(|effect| effect.counter == *counter) {
            effect.committed = effect.committed.saturating_add(committed);
            effect.reserved = effect.reserved.saturating_add(reserved);
            return;
        }
        self.effects.push(Effect { counter: counter.clone(), committed, reserved });
    }

    fn contains(&self, counter: &CounterKey) -> bool {
        self.effects.iter().any(|effect| *effect.counter == *counter)
    }
}

/// A change of a counter by what was used.
pub(crate) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl Rules<'_> {
    /// Gives back what the reservation holds or, where it expired, what that charged.
    ///
    /// A counter whose window is over and that nobody refers to is not made again.
    pub(crate) fn take_back(&self, grounds: &Grounds<'_>, changes: &mut Changes) {
        if grounds.replaces.is_none() {
            for hold in grounds.holds {
                changes.add(&hold.counter, 0, -signed(hold.amount));
            }
        }
        for effect in grounds.charged().into_iter().flat_map(|settled| &settled.effects) {
            if self.alive(&effect.counter) {
                changes.add(&effect.counter, effect.committed.saturating_neg(), 0);
            }
        }
    }

    /// Counts usage in the counters the reservation was taken from, but not in those that are left out.
    pub(crate) fn count_in_holds(
        &self,
        grounds: &Grounds<'_>,
        tokens: u64,
        leave_out_by_model: bool,
        changes: &mut Changes,
    ) {
        for hold in grounds.holds.iter().filter(|hold| !(leave_out_by_model && hold.by_model)) {
            if grounds.replaces.is_none() || self.alive(&hold.counter) {
                changes.add(&hold.counter, signed(usage_in(hold.counter.unit, tokens)), 0);
            }
        }
    }

    /// Counts usage in the counters of limits at an instant, whose windows then may be over by now: those
    /// are left out. Says whether there were any.
    pub(crate) fn count_at<'p>(
        &self,
        policy: &'p Compiled,
        limits: impl Iterator<Item = &'p Ready>,
        values: &Values<'_>,
        at: Timestamp,
        tokens: u64,
        changes: &mut Changes,
    ) -> bool {
        let mut room = self.counter_room();
        let mut over = false;
        for ready in limits {
            let Some(limit) = policy.limit(ready).filter(|limit| limit.window.counts()) else {
                continue;
            };
            let Some(span) = limit.window.span(at) else { continue };
            if span.ended(self.now) {
                over = true;
                continue;
            }
            let scope = policy.scope(ready, values);
            let units = limit.amounts.iter().map(|amount| amount.unit);
            for unit in units.filter(|unit| *unit != Unit::Concurrency) {
                let key = KeyRef {
                    identity: ready.identity,
                    unit,
                    scope: scope.pairs(),
                    span,
                    limit: &limit.name,
                };
                let live = self.state.counter_at(key).map(|(key, _)| key.clone());
                let key = live.unwrap_or_else(|| key.to_key());
                let known = self.state.live_counter(&key).is_some() || changes.contains(&key);
                if known || room.take(ready.identity) {
                    changes.add(&key, signed(usage_in(unit, tokens)), 0);
                } else {
                    changes.uncounted = true;
                }
            }
        }
        over
    }

    /// Whether a correction still reaches a counter.
    fn alive(&self, key: &CounterKey) -> bool {
        !self.state.counter(key).dead(key, self.now)
    }

    /// The effects of changes, without those that change nothing and without committed amounts that a
    /// counter cannot hold.
    pub(crate) fn effects(&self, changes: Changes) -> (Vec<Effect>, bool) {
        let mut uncounted = changes.uncounted;
        let mut effects = changes.effects;
        for effect in &mut effects {
            let counter = self.state.counter(&effect.counter);
            if counter.committed.checked_add_signed(effect.committed).is_none() {
                effect.committed = 0;
                uncounted = true;
            }
        }
        effects.retain(|effect| effect.committed != 0 || effect.reserved != 0);
        (effects, uncounted)
    }

    /// The limit with the least room left among some counters, once effects have taken place; windows that
    /// are over are left out.
    pub(crate) fn tightest_of<'c>(
        &self,
        counters: impl Iterator<Item = &'c Arc<CounterKey>>,
        effects: &[Effect],
    ) -> Option<Standing> {
        let after = |key: &CounterKey| {
            let counter = self.state.counter(key);
            match effects.iter().find(|effect| *effect.counter == *key) {
                None => counter,
                Some(effect) => Counter {
                    committed: counter.committed.saturating_add_signed(effect.committed),
                    reserved: counter.reserved.saturating_add_signed(effect.reserved),
                    holders: counter.holders,
                },
            }
        };
        let current = counters.filter(|key| !key.span.ended(self.now));
        let parts = current.filter_map(|key| Some((key, self.parts_of(key, after(key))?)));
        let bounded = parts.filter(|(_, parts)| !parts.is_unlimited());
        let (key, parts) = bounded.min_by(|(_, a), (_, b)| a.by_share_left(b))?;
        Some(self.standing_of(&parts, key.scope.clone()))
    }
}
