//! The state: everything a decision looks at, and nothing that is not a function of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::counter::{Counter, CounterKey, KeyRef};
use crate::reservation::Reservation;
use crate::time::{Milliseconds, Timestamp};

/// The hash under which a settled id is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(pub u128);

impl IdHash {
    /// The hash of a caller's id; the same in every process and version.
    pub fn of(id: &str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(id.as_bytes());
        Self(hasher.finish128().as_u128())
    }
}

/// What memory keeps of an id that is settled, expired or recorded; the ledger has the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// The sequence of its latest settlement.
    pub sequence: u64,
    /// The digest of the content that settled it.
    pub digest: u64,
}

/// A policy as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRecord {
    /// When it came into force.
    pub activated_at: Timestamp,
    /// The digest of its file and of all it names.
    pub digest: Box<[u8]>,
    /// The policy as a message.
    pub policy: Box<[u8]>,
    /// The file as it was read.
    pub source: Box<[u8]>,
    /// The keys usage is kept by.
    pub rollups: Vec<Box<str>>,
}

/// The named bounds of what is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The most live counters in all; each limit has an equal share.
    pub counters_max: usize,
    /// The most open reservations.
    pub reservations_open_max: usize,
    /// The most remembered ids.
    pub settled_ids_max: usize,
    /// How long an id is remembered at most.
    pub settled_span: Milliseconds,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            counters_max: 1_000_000,
            reservations_open_max: 1_000_000,
            settled_ids_max: 2_000_000,
            settled_span: Milliseconds(24 * 60 * 60 * 1000),
        }
    }
}

/// Everything a decision looks at. It changes by [`State::apply`] and [`State::forget`] only.
#[derive(Debug, Default)]
pub struct State {
    /// The last sequence applied; 0 before the first.
    pub(crate) sequence: u64,
    /// The highest instant applied.
    pub(crate) instant: Timestamp,
    /// Policies by version.
    pub(crate) policies: BTreeMap<u64, Arc<PolicyRecord>>,
    /// Since when each unit of each limit in force has been so without a gap, by the identity of its counters.
    pub(crate) limits_since: HashMap<u64, Timestamp>,
    /// Live counters.
    pub(crate) counters: HashMap<Arc<CounterKey>, Counter>,
    /// Live counters in the order of their keys, so that they can be listed a few at a time.
    pub(crate) counters_in_order: BTreeSet<Arc<CounterKey>>,
    /// How many live counters each limit has, by identity.
    pub(crate) counters_by_limit: HashMap<u64, usize>,
    /// Live counters whose window ends, by when.
    pub(crate) endings: BTreeSet<(Timestamp, Arc<CounterKey>)>,
    /// Open reservations by id.
    pub(crate) reservations: HashMap<Arc<str>, Reservation>,
    /// Remembered ids.
    pub(crate) remembered: HashMap<IdHash, Remembered>,
    /// Remembered ids by the sequence that settled them, with its instant; what was replaced is gone.
    pub(crate) remembered_order: BTreeMap<u64, (IdHash, Timestamp)>,
    /// The newest instant forgotten: a Record from at or before it is refused.
    pub(crate) horizon: Option<Timestamp>,
}

impl State {
    /// The last sequence applied; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The highest instant of any entry applied.
    pub fn instant(&self) -> Timestamp {
        self.instant
    }

    /// The policy that came into force last, with its version.
    pub fn policy_in_force(&self) -> Option<(u64, &Arc<PolicyRecord>)> {
        self.policies.last_key_value().map(|(version, record)| (*version, record))
    }

    /// A policy by version.
    pub fn policy(&self, version: u64) -> Option<&Arc<PolicyRecord>> {
        self.policies.get(&version)
    }

    /// Every policy with its version, oldest first.
    pub fn policies(&self) -> impl Iterator<Item = (u64, &Arc<PolicyRecord>)> {
        self.policies.iter().map(|(version, record)| (*version, record))
    }

    /// Since when each unit of each limit in force has been so without a gap, by the identity of its counters;
    /// an activation changes all of it.
    pub fn limits_since(&self) -> impl Iterator<Item = (u64, Timestamp)> {
        self.limits_since.iter().map(|(identity, since)| (*identity, *since))
    }

    /// A counter; zero if it is not live.
    pub fn counter(&self, key: &CounterKey) -> Counter {
        self.counters.get(key).copied().unwrap_or_default()
    }

    /// A live counter and the key everyone shares.
    pub fn live_counter(&self, key: &CounterKey) -> Option<(&Arc<CounterKey>, Counter)> {
        self.counters.get_key_value(key).map(|(key, counter)| (key, *counter))
    }

    /// A live counter by a borrowed key.
    pub(crate) fn counter_at(&self, key: KeyRef<'_>) -> Option<(&Arc<CounterKey>, Counter)> {
        self.counters.get_key_value(&key).map(|(key, counter)| (key, *counter))
    }

    /// Every live counter, in no order.
    pub fn counters(&self) -> impl Iterator<Item = (&Arc<CounterKey>, Counter)> {
        self.counters.iter().map(|(key, counter)| (key, *counter))
    }

    /// The live counters of a limit in the order of their keys, after one of them if it is given.
    pub fn counters_of<'a>(
        &'a self,
        identity: u64,
        after: Option<&'a CounterKey>,
    ) -> impl Iterator<Item = (&'a Arc<CounterKey>, Counter)> {
        let from = after.map_or_else(
            || Bound::Included(CounterKey::first_of(identity)),
            |after| Bound::Excluded(after.clone()),
        );
        self.counters_in_order
            .range::<CounterKey, _>((from, Bound::Unbounded))
            .take_while(move |key| key.identity == identity)
            .map(|key| (key, self.counter(key)))
    }

    /// How many counters are live.
    pub fn counters_len(&self) -> usize {
        self.counters.len()
    }

    /// How many of a limit's counters are live.
    pub fn counters_of_limit(&self, identity: u64) -> usize {
        self.counters_by_limit.get(&identity).copied().unwrap_or(0)
    }

    /// An open reservation.
    pub fn reservation(&self, id: &str) -> Option<&Reservation> {
        self.reservations.get(id)
    }

    /// Every open reservation, in no order.
    pub fn reservations(&self) -> impl Iterator<Item = (&Arc<str>, &Reservation)> {
        self.reservations.iter()
    }

    /// How many reservations are open.
    pub fn reservations_len(&self) -> usize {
        self.reservations.len()
    }

    /// What is remembered of an id that is settled, expired or recorded.
    pub fn remembered(&self, id: IdHash) -> Option<Remembered> {
        self.remembered.get(&id).copied()
    }

    /// Every remembered id with the instant of its settlement, oldest first.
    pub fn remembered_in_order(&self) -> impl Iterator<Item = (IdHash, Remembered, Timestamp)> {
        self.remembered_order.iter().filter_map(|(_, (id, instant))| {
            self.remembered.get(id).map(|remembered| (*id, *remembered, *instant))
        })
    }

    /// How many ids are remembered.
    pub fn remembered_len(&self) -> usize {
        self.remembered.len()
    }

    /// The newest instant of which an id was forgotten; a Record that occurred at or before it is refused.
    pub fn horizon(&self) -> Option<Timestamp> {
        self.horizon
    }
}
