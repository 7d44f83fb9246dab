//! What the data plane counts. How it reads as Prometheus' text is in `page`.

use std::array;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bursar_quota::{
    CommitAnswer, Compiled, Event, Labels, Reason, RecordAnswer, ReleaseAnswer, ReserveAnswer,
    Reserved,
};

mod page;

pub(crate) use page::render;
pub use page::{FAMILIES, Family};

/// The calls whose latencies are kept, in the order of [`Method`].
pub(crate) const METHODS: [&str; 5] = ["Reserve", "Commit", "Release", "Record", "CountTokens"];

/// A call that is served.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Method {
    Reserve,
    Commit,
    Release,
    Record,
    CountTokens,
}

/// The upper bounds of the buckets of latencies, in microseconds.
pub(crate) const BUCKETS_US: [u64; 14] =
    [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// The upper bounds of the buckets of how many counters a grant takes from.
pub(crate) const BUCKETS_COUNTERS: [usize; 6] = [0, 1, 2, 4, 8, 16];

/// The value of a label that is missing, where nothing stands in for it.
const NONE: &str = "(none)";

/// Labels that a model or a line has, not a caller: they are never missing.
const NEVER_MISSING: [&str; 5] = ["model", "provider", "service_tier", "component", "source"];

/// How often what has happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    granted: u64,
    dry_run: u64,
    replayed: u64,
    denied: BTreeMap<Reason, u64>,
    /// By limit: the names of the policy in force, at most as many as it may have.
    refused: BTreeMap<Arc<str>, u64>,
    /// By how many counters it took from, cumulated when shown; the last is of more than any bound.
    granted_from: [u64; BUCKETS_COUNTERS.len() + 1],
    counters_taken_from: u64,
    /// By the label that is missing or stood in for: labels usage is kept by, as many as there may be.
    unattributed: BTreeMap<Box<str>, u64>,
    tokens_reserved: u64,
    tokens_committed: u64,
    tokens_overrun: u64,
    overruns: u64,
    committed: u64,
    committed_late: u64,
    released: u64,
    recorded: u64,
    settled_again: u64,
    /// Reservations that nobody settled in time.
    pub(crate) expired: u64,
    failed: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub(crate) fn decided(&mut self, answer: &ReserveAnswer, policy: &Compiled) {
        match answer {
            ReserveAnswer::Granted(_, Some(Event::Reserved(reserved))) => {
                self.granted += 1;
                self.reserved(reserved, policy);
            }
            ReserveAnswer::Granted(_, Some(_)) => self.granted += 1,
            ReserveAnswer::Granted(_, None) => self.dry_run += 1,
            ReserveAnswer::Replayed(_) => self.replayed += 1,
            ReserveAnswer::Denied(denial) => {
                *self.denied.entry(denial.reason).or_default() += 1;
                let mut said: Option<&Arc<str>> = None;
                for shortfall in &denial.shortfalls {
                    let limit = &shortfall.standing.limit;
                    // A limit of several units counts once.
                    if said.replace(limit).is_none_or(|before| before != limit) {
                        *self.refused.entry(limit.clone()).or_default() += 1;
                    }
                }
            }
        }
    }

    fn reserved(&mut self, reserved: &Reserved, policy: &Compiled) {
        let from = reserved.holds.len();
        let bucket = BUCKETS_COUNTERS.iter().position(|bound| from <= *bound);
        if let Some(count) = self.granted_from.get_mut(bucket.unwrap_or(BUCKETS_COUNTERS.len())) {
            *count += 1;
        }
        self.counters_taken_from += u64::try_from(from).unwrap_or(u64::MAX);
        self.tokens_reserved = self.tokens_reserved.saturating_add(reserved.tokens_reserved());
        let sent = reserved.labels_sent.as_deref().unwrap_or(&reserved.labels);
        self.attribute(sent, &reserved.labels, policy);
    }

    /// Counts each label that usage is kept by and that nobody gave.
    fn attribute(&mut self, sent: &Labels, mapped: &Labels, policy: &Compiled) {
        for key in &policy.policy().rollups {
            let given = sent.get(key).is_some() && mapped.get(key) != Some(NONE);
            if !given && !NEVER_MISSING.contains(&&**key) {
                match self.unattributed.get_mut(key) {
                    Some(count) => *count += 1,
                    None => {
                        self.unattributed.insert(key.clone(), 1);
                    }
                }
            }
        }
    }

    /// Forgets what is counted by names that a policy has no more.
    pub(crate) fn activated(&mut self, policy: &Compiled) {
        let policy = policy.policy();
        self.refused.retain(|name, _| policy.limits.iter().any(|limit| *limit.name == **name));
        self.unattributed.retain(|key, _| policy.rollups.contains(key));
    }

    pub(crate) fn committed(&mut self, answer: &CommitAnswer) {
        match (answer.replayed, answer.late) {
            (true, _) => self.settled_again += 1,
            (false, true) => self.committed_late += 1,
            (false, false) => self.committed += 1,
        }
        if !answer.replayed {
            self.tokens_committed = self.tokens_committed.saturating_add(answer.tokens_committed);
            self.tokens_overrun = self.tokens_overrun.saturating_add(answer.tokens_overrun);
            self.overruns += u64::from(answer.tokens_overrun > 0);
        }
    }

    pub(crate) fn released(&mut self, answer: &ReleaseAnswer) {
        if answer.replayed { self.settled_again += 1 } else { self.released += 1 }
    }

    pub(crate) fn recorded(&mut self, answer: &RecordAnswer) {
        if answer.replayed {
            self.settled_again += 1;
        } else {
            self.recorded += 1;
            self.tokens_committed = self.tokens_committed.saturating_add(answer.tokens_committed);
        }
    }

    pub(crate) fn failed(&mut self, name: &'static str) {
        *self.failed.entry(name).or_default() += 1;
    }
}

/// How long answers to each call took, from the question read to the answer known to be safe.
#[derive(Debug)]
pub(crate) struct Latencies([Latency; METHODS.len()]);

/// How long answers to one call took.
#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(array::from_fn(|_| Latency::default()))
    }
}

impl Latencies {
    pub(crate) fn add(&self, method: Method, took: Duration) {
        let Some(latency) = self.0.get(method as usize) else { return };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound);
        if let Some(bucket) = bucket.and_then(|at| latency.buckets.get(at)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        latency.count.fetch_add(1, Ordering::Relaxed);
        latency.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}
