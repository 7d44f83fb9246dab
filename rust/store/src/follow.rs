//! Following: some entries into the index, in one transaction, by the function that also replays.

use std::sync::Arc;

use bursar_quota::{CounterKey, Event, State, Timestamp, group};
use hashbrown::{HashMap, HashSet};
use heed::RwTxn;

use crate::generations::Usage;
use crate::index::{Index, IndexError, Position};
use crate::rows;
use crate::segment::Holder;
use crate::tail::Entry;

/// The rows of a batch, loaded as it needs them.
struct Batch<'a, 'txn> {
    index: &'a Index,
    txn: RwTxn<'txn>,
    state: State,
    counters: HashSet<Arc<CounterKey>>,
    /// Reservations by sequence, with their ids.
    reservations: HashMap<u64, Arc<str>>,
    /// Settlements that a later one replaced.
    replaced: Vec<u64>,
    policies: HashMap<u64, Vec<Box<str>>>,
    activated: Vec<u64>,
    limits_loaded: bool,
    usage: Usage,
}

impl Index {
    /// Applies entries that follow on the index's position, and forgets what the bounds say.
    ///
    /// # Errors
    /// When LMDB fails, an entry does not follow, or there is no room; nothing is then changed.
    pub(crate) fn follow(
        &self,
        holder: Holder,
        entries: &[Entry],
        bounds: &bursar_quota::Bounds,
    ) -> Result<u64, IndexError> {
        let txn = self.write()?;
        let mut state = State::default();
        if let Some(position) = self.position(&txn)? {
            state.put_position(position.sequence, position.instant, position.horizon);
        }
        let mut batch = Batch {
            index: self,
            txn,
            state,
            counters: HashSet::new(),
            reservations: HashMap::new(),
            replaced: Vec::new(),
            policies: HashMap::new(),
            activated: Vec::new(),
            limits_loaded: false,
            usage: Usage::default(),
        };
        for (sequence, instant, event) in entries {
            if *sequence != batch.state.sequence() + 1 {
                return Err(IndexError::Inconsistent("meta"));
            }
            batch.load(*sequence, event)?;
            let applied = batch.state.apply(*sequence, *instant, event);
            applied.map_err(|error| IndexError::Apply { sequence: *sequence, error })?;
            batch.count(event)?;
        }
        batch.finish(holder, bounds)
    }
}

impl Batch<'_, '_> {
    /// Loads the rows that an event reads or changes and that are not loaded yet.
    fn load(&mut self, sequence: u64, event: &Event) -> Result<(), IndexError> {
        match event {
            Event::Activated(event) => {
                self.activated.push(event.version);
                if !std::mem::replace(&mut self.limits_loaded, true) {
                    self.index.load_limits(&self.txn, &mut self.state)?;
                }
            }
            Event::Reserved(event) => {
                for hold in &event.holds {
                    self.load_counter(&hold.counter)?;
                }
                self.reservations.insert(sequence, event.id.clone());
            }
            Event::Settled(event) => {
                for effect in &event.effects {
                    self.load_counter(&effect.counter)?;
                }
                match event.replaces_sequence {
                    Some(replaced) => self.load_remembered(replaced)?,
                    None => self.load_reservation(event.reserved_sequence, &event.id)?,
                }
            }
            Event::Recorded(event) => {
                for effect in &event.effects {
                    self.load_counter(&effect.counter)?;
                }
            }
        }
        Ok(())
    }

    fn load_counter(&mut self, key: &Arc<CounterKey>) -> Result<(), IndexError> {
        if !self.counters.insert(key.clone()) {
            return Ok(());
        }
        let Some((known, counter)) = self.index.counter(&self.txn, &rows::counter_key(key))? else {
            return Ok(());
        };
        if known != *key {
            return Err(IndexError::Inconsistent("counters"));
        }
        self.state.put_counter(key.clone(), counter);
        Ok(())
    }

    fn load_reservation(&mut self, sequence: u64, id: &Arc<str>) -> Result<(), IndexError> {
        if self.reservations.insert(sequence, id.clone()).is_some() {
            return Ok(());
        }
        let key = sequence.to_be_bytes();
        let Some(row) = self.index.tables.reservations.get(&self.txn, &key)? else {
            return Ok(());
        };
        let (known, reservation) = rows::reservation_in(sequence, row, |hash| {
            let counter = self.index.counter(&self.txn, hash)?;
            counter.map(|(key, _)| key).ok_or(IndexError::Inconsistent("reservations"))
        })?;
        for hold in &reservation.holds {
            self.load_counter(&hold.counter)?;
        }
        self.state.put_reservation(known, reservation);
        Ok(())
    }

    fn load_remembered(&mut self, sequence: u64) -> Result<(), IndexError> {
        self.replaced.push(sequence);
        let row = self.index.tables.remembered.get(&self.txn, &sequence.to_be_bytes())?;
        if let Some(row) = row {
            let (id, remembered, instant) = rows::remembered_in(sequence, row)?;
            self.state.put_remembered(id, remembered, instant);
        }
        Ok(())
    }

    /// Adds an event's usage to the groups of its policy's rollup keys.
    fn count(&mut self, event: &Event) -> Result<(), IndexError> {
        if let Event::Activated(event) = event {
            self.policies.insert(event.version, event.rollups.clone());
        }
        let Some(version) = event.policy_version() else { return Ok(()) };
        if !self.policies.contains_key(&version) {
            let record = self.index.policy(&self.txn, version)?;
            let rollups = record.map(|record| record.rollups).unwrap_or_default();
            self.policies.insert(version, rollups);
        }
        let rollups = self.policies.get(&version).map_or(&[][..], Vec::as_slice);
        for (key, sums) in group(event, rollups) {
            self.usage.add(key, &sums);
        }
        Ok(())
    }

    /// Writes the rows back and commits.
    fn finish(mut self, holder: Holder, bounds: &bursar_quota::Bounds) -> Result<u64, IndexError> {
        self.write_counters()?;
        self.write_reservations()?;
        self.write_remembered()?;
        self.write_policies()?;
        let mut position = Position {
            holder,
            sequence: self.state.sequence(),
            instant: self.state.instant(),
            horizon: self.state.horizon(),
        };
        self.index.add_usage(&mut self.txn, &self.usage)?;
        self.forget_counters(position.instant)?;
        self.forget_ids(&mut position, bounds)?;
        self.index.put_position(&mut self.txn, &position)?;
        crate::crash::point("follow");
        crate::fault::point("index-commit").map_err(heed::Error::Io)?;
        self.txn.commit()?;
        crate::crash::point("followed");
        Ok(position.sequence)
    }

    fn write_counters(&mut self) -> Result<(), IndexError> {
        let tables = &self.index.tables;
        for key in &self.counters {
            let hash = rows::counter_key(key);
            match self.state.live_counter(key) {
                Some((_, counter)) => {
                    let row = rows::counter_out(key, counter);
                    tables.counters.put(&mut self.txn, &hash, &row)?;
                    if let Some(end) = key.span.end {
                        tables.endings.put(&mut self.txn, &rows::ending_key(end, &hash), &[])?;
                    }
                }
                None => {
                    tables.counters.delete(&mut self.txn, &hash)?;
                    if let Some(end) = key.span.end {
                        tables.endings.delete(&mut self.txn, &rows::ending_key(end, &hash))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_reservations(&mut self) -> Result<(), IndexError> {
        let table = &self.index.tables.reservations;
        for (sequence, id) in &self.reservations {
            let key = sequence.to_be_bytes();
            match self.state.reservation(id).filter(|open| open.sequence == *sequence) {
                Some(open) => {
                    table.put(&mut self.txn, &key, &rows::reservation_out(id, open))?;
                }
                None => {
                    table.delete(&mut self.txn, &key)?;
                }
            }
        }
        Ok(())
    }

    fn write_remembered(&mut self) -> Result<(), IndexError> {
        let table = &self.index.tables.remembered;
        for sequence in &self.replaced {
            table.delete(&mut self.txn, &sequence.to_be_bytes())?;
        }
        for (id, remembered, instant) in self.state.remembered_in_order() {
            let row = rows::remembered_out(id, remembered.digest, instant);
            table.put(&mut self.txn, &remembered.sequence.to_be_bytes(), &row)?;
        }
        Ok(())
    }

    fn write_policies(&mut self) -> Result<(), IndexError> {
        let tables = &self.index.tables;
        for version in &self.activated {
            if let Some(record) = self.state.policy(*version) {
                let row = rows::policy_out(record);
                tables.policies.put(&mut self.txn, &version.to_be_bytes(), &row)?;
            }
        }
        if self.limits_loaded {
            tables.limits_since.clear(&mut self.txn)?;
            for (identity, since) in self.state.limits_since() {
                let value = rows::instant_key(since);
                tables.limits_since.put(&mut self.txn, &identity.to_be_bytes(), &value)?;
            }
        }
        Ok(())
    }

    /// Removes counters whose window has ended and that no open reservation refers to. One that is still
    /// referred to goes when that reservation is settled, by the rules themselves.
    fn forget_counters(&mut self, now: Timestamp) -> Result<(), IndexError> {
        let tables = &self.index.tables;
        let mut ended = Vec::new();
        for row in tables.endings.iter(&self.txn)? {
            let (key, _) = row?;
            if rows::instant_of(key).is_none_or(|end| end > now) {
                break;
            }
            ended.push(key.to_vec());
        }
        for key in ended {
            tables.endings.delete(&mut self.txn, &key)?;
            let hash = key.get(8..).unwrap_or_default();
            if let Some((counter_key, counter)) = self.index.counter(&self.txn, hash)?
                && counter.dead(&counter_key, now)
            {
                tables.counters.delete(&mut self.txn, hash)?;
            }
        }
        Ok(())
    }

    /// Removes ids beyond the bounds, oldest first, and moves the horizon.
    fn forget_ids(
        &mut self,
        position: &mut Position,
        bounds: &bursar_quota::Bounds,
    ) -> Result<(), IndexError> {
        let table = &self.index.tables.remembered;
        let max = crate::number::wide(bounds.settled_ids_max);
        let mut count = table.len(&self.txn)?;
        while let Some((key, row)) = table.first(&self.txn)? {
            let sequence = rows::number_of(key).unwrap_or_default();
            let (_, _, instant) = rows::remembered_in(sequence, row)?;
            if instant.after(bounds.settled_span) >= position.instant && count <= max {
                break;
            }
            table.delete(&mut self.txn, &sequence.to_be_bytes())?;
            count -= 1;
            position.horizon = position.horizon.max(Some(instant));
        }
        Ok(())
    }
}
