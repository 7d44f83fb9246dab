//! Applying an event: the one way a state changes, live, in recovery, in the follower and in every proof.

use std::sync::Arc;

use crate::counter::{Counter, CounterKey};
use crate::event::{Activated, Effect, Event, Recorded, Reserved, Settled};
use crate::policy::Unit;
use crate::reservation::Reservation;
use crate::state::{Bounds, IdHash, PolicyRecord, Remembered, State};
use crate::time::Timestamp;

/// An event that does not follow from the state: the ledger is damaged, or we have a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A counter would go below zero or past what it can hold.
    #[error("counter {limit} of {unit:?} cannot take {change:+} ({what} is {at})")]
    Counter {
        /// The limit's name.
        limit: Arc<str>,
        /// The counter's unit.
        unit: Unit,
        /// Which side of it.
        what: &'static str,
        /// Where it stands.
        at: u64,
        /// The change.
        change: i64,
    },
    /// A reservation was granted under an id that is already open.
    #[error("reservation {0} is already open")]
    AlreadyOpen(Arc<str>),
    /// A reservation was settled that is neither open nor remembered.
    #[error("reservation {0} is not open")]
    NotOpen(Arc<str>),
}

impl State {
    /// Applies the event of the entry with this sequence and instant.
    ///
    /// # Errors
    /// When the event does not follow from the state; the state is then no longer to be used.
    pub fn apply(
        &mut self,
        sequence: u64,
        instant: Timestamp,
        event: &Event,
    ) -> Result<(), ApplyError> {
        self.sequence = sequence;
        self.instant = self.instant.max(instant);
        match event {
            Event::Activated(event) => {
                self.apply_activated(instant, event);
                Ok(())
            }
            Event::Reserved(event) => self.apply_reserved(sequence, instant, event),
            Event::Settled(event) => self.apply_settled(sequence, instant, event),
            Event::Recorded(event) => self.apply_recorded(sequence, instant, event),
        }
    }

    fn apply_activated(&mut self, instant: Timestamp, event: &Activated) {
        // A limit that leaves and comes back has missed what happened between: it counts anew since now.
        self.limits_since.retain(|identity, _| event.identities.contains(identity));
        for identity in &event.identities {
            self.limits_since.entry(*identity).or_insert(instant);
        }
        let record = PolicyRecord {
            activated_at: instant,
            digest: event.digest.clone(),
            policy: event.policy.clone(),
            source: event.source.clone(),
            rollups: event.rollups.clone(),
        };
        self.policies.insert(event.version, Arc::new(record));
    }

    fn apply_reserved(
        &mut self,
        sequence: u64,
        instant: Timestamp,
        event: &Reserved,
    ) -> Result<(), ApplyError> {
        if self.reservations.contains_key(&event.id) {
            return Err(ApplyError::AlreadyOpen(event.id.clone()));
        }
        for hold in &event.holds {
            let amount = i64::try_from(hold.amount).unwrap_or(i64::MAX);
            self.change(&hold.counter, 0, amount, 1)?;
        }
        let reservation = Reservation {
            sequence,
            digest: event.digest,
            granted_at: instant,
            expires_at: instant.after(event.ttl),
            model: event.model.clone(),
            service_tier: event.service_tier.clone(),
            labels: event.labels.clone(),
            input: event.input.clone(),
            counted: event.counted.clone(),
            output_tokens_granted: event.output_tokens_granted,
            choices: event.choices,
            policy_version: event.policy_version,
            unsettled: event.unsettled,
            holds: event.holds.clone(),
            hour: event.hour,
            mapped: event.mapped.clone(),
        };
        self.reservations.insert(event.id.clone(), reservation);
        Ok(())
    }

    fn apply_settled(
        &mut self,
        sequence: u64,
        instant: Timestamp,
        event: &Settled,
    ) -> Result<(), ApplyError> {
        self.change_all(&event.effects)?;
        match (self.reservations.remove(&event.id), event.replaces_sequence) {
            (Some(reservation), None) => {
                for hold in &reservation.holds {
                    self.change(&hold.counter, 0, 0, -1)?;
                    self.drop_if_dead(&hold.counter, instant);
                }
            }
            (None, Some(_)) => {}
            _ => return Err(ApplyError::NotOpen(event.id.clone())),
        }
        self.remember(sequence, instant, &event.id, event.digest);
        Ok(())
    }

    fn apply_recorded(
        &mut self,
        sequence: u64,
        instant: Timestamp,
        event: &Recorded,
    ) -> Result<(), ApplyError> {
        self.change_all(&event.effects)?;
        self.remember(sequence, instant, &event.id, event.digest);
        Ok(())
    }

    fn change_all(&mut self, effects: &[Effect]) -> Result<(), ApplyError> {
        for effect in effects {
            self.change(&effect.counter, effect.committed, effect.reserved, 0)?;
        }
        Ok(())
    }

    /// Changes one counter, making it if it is not live.
    fn change(
        &mut self,
        key: &Arc<CounterKey>,
        committed: i64,
        reserved: i64,
        holders: i32,
    ) -> Result<(), ApplyError> {
        let counter = self.counter(key);
        let fail = |what, at, change| ApplyError::Counter {
            limit: key.limit.clone(),
            unit: key.unit,
            what,
            at,
            change,
        };
        let changed = Counter {
            committed: counter
                .committed
                .checked_add_signed(committed)
                .ok_or_else(|| fail("committed", counter.committed, committed))?,
            reserved: counter
                .reserved
                .checked_add_signed(reserved)
                .ok_or_else(|| fail("reserved", counter.reserved, reserved))?,
            holders: counter
                .holders
                .checked_add_signed(holders)
                .ok_or_else(|| fail("holders", u64::from(counter.holders), i64::from(holders)))?,
        };
        self.put_counter(key.clone(), changed);
        Ok(())
    }

    /// Puts a counter's row as it is: for loading a state that was stored.
    pub fn put_counter(&mut self, key: Arc<CounterKey>, counter: Counter) {
        if let Some(row) = self.counters.get_mut(&key) {
            *row = counter;
            return;
        }
        if let Some(end) = key.span.end {
            self.endings.insert((end, key.clone()));
        }
        *self.counters_by_limit.entry(key.identity).or_default() += 1;
        self.counters_in_order.insert(key.clone());
        self.counters.insert(key, counter);
    }

    /// Puts an open reservation's row as it is: for loading a state that was stored.
    pub fn put_reservation(&mut self, id: Arc<str>, reservation: Reservation) {
        self.reservations.insert(id, reservation);
    }

    /// Puts a remembered id's row as it is: for loading a state that was stored.
    pub fn put_remembered(&mut self, id: IdHash, remembered: Remembered, instant: Timestamp) {
        if let Some(before) = self.remembered.insert(id, remembered) {
            self.remembered_order.remove(&before.sequence);
        }
        self.remembered_order.insert(remembered.sequence, (id, instant));
    }

    /// Puts a policy's row as it is: for loading a state that was stored.
    pub fn put_policy(&mut self, version: u64, record: Arc<PolicyRecord>) {
        self.policies.insert(version, record);
    }

    /// Puts when a limit first came into force: for loading a state that was stored.
    pub fn put_limit_since(&mut self, identity: u64, since: Timestamp) {
        self.limits_since.insert(identity, since);
    }

    /// Puts how far the rows are: for loading a state that was stored.
    pub fn put_position(&mut self, sequence: u64, instant: Timestamp, horizon: Option<Timestamp>) {
        self.sequence = sequence;
        self.instant = instant;
        self.horizon = horizon;
    }

    fn remember(&mut self, sequence: u64, instant: Timestamp, id: &str, digest: u64) {
        self.put_remembered(IdHash::of(id), Remembered { sequence, digest }, instant);
    }

    /// Drops a counter that nothing can reach any more: its window has ended, or it counts what is open
    /// and nothing is.
    fn drop_if_dead(&mut self, key: &Arc<CounterKey>, now: Timestamp) {
        let counter = self.counter(key);
        if !counter.dead(key, now) || self.counters.remove(key).is_none() {
            return;
        }
        if let Some(end) = key.span.end {
            self.endings.remove(&(end, key.clone()));
        }
        self.counters_in_order.remove(key);
        if let Some(count) = self.counters_by_limit.get_mut(&key.identity) {
            *count -= 1;
            if *count == 0 {
                self.counters_by_limit.remove(&key.identity);
            }
        }
    }

    /// Forgets what no decision can reach any more: counters whose window has ended and that no open
    /// reservation refers to, and ids beyond the bounds. At most `steps_max` rows of each kind; says
    /// whether there may be more.
    pub fn forget(&mut self, now: Timestamp, bounds: &Bounds, steps_max: usize) -> bool {
        let ended: Vec<_> = self
            .endings
            .iter()
            .take_while(|(end, _)| *end <= now)
            .filter(|(_, key)| self.counter(key).holders == 0)
            .map(|(_, key)| key.clone())
            .take(steps_max)
            .collect();
        for key in &ended {
            self.drop_if_dead(key, now);
        }
        let more = self.forget_ids(now, bounds, steps_max);
        ended.len() == steps_max || more
    }

    /// Forgets ids beyond the bounds, at most so many; says whether there may be more. Where there are none
    /// it looks at one row only.
    pub fn forget_ids(&mut self, now: Timestamp, bounds: &Bounds, steps_max: usize) -> bool {
        let mut ids = 0;
        while ids < steps_max && self.forget_oldest_id(now, bounds) {
            ids += 1;
        }
        ids == steps_max
    }

    fn forget_oldest_id(&mut self, now: Timestamp, bounds: &Bounds) -> bool {
        let Some((sequence, (id, instant))) = self.remembered_order.first_key_value() else {
            return false;
        };
        let (sequence, id, instant) = (*sequence, *id, *instant);
        let expired = instant.after(bounds.settled_span) < now;
        if !expired && self.remembered.len() <= bounds.settled_ids_max {
            return false;
        }
        self.remembered_order.remove(&sequence);
        self.remembered.remove(&id);
        self.horizon = self.horizon.max(Some(instant));
        true
    }
}

impl Counter {
    /// Whether nothing can reach the counter any more: no open reservation refers to it, and its window
    /// has ended or, where it counts what is open, nothing is.
    pub fn dead(self, key: &CounterKey, now: Timestamp) -> bool {
        self.holders == 0 && (key.unit == Unit::Concurrency || key.span.ended(now))
    }
}
