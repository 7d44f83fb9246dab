//! What the data thread, the sync thread, the thread that makes segments and the follower share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The store failed in a way that only a restart can judge: nothing more may be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger cannot go on: {0}; restart to read what is on disk")]
pub struct Poisoned(pub Arc<str>);

/// What the disk has room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// Everything.
    Free,
    /// No further reservation: the rest is kept for settlements; the text says why.
    SettlementsOnly(Arc<str>),
    /// Nothing any more; the text says why.
    Nothing(Arc<str>),
}

type Listener = Box<dyn Fn() + Send + Sync>;

/// Positions, failures and who is told.
#[derive(Default)]
pub(crate) struct Shared {
    /// The last sequence written out.
    pub(crate) written: AtomicU64,
    /// The last sequence known durable.
    pub(crate) durable: AtomicU64,
    /// How many syncs there were, and how many microseconds they took together.
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_us: AtomicU64,
    /// The last sequence in the index.
    pub(crate) index_sequence: AtomicU64,
    /// Bytes of all segments, and of those made ahead.
    pub(crate) bytes: AtomicU64,
    /// Whether one of the reasons below is set: looked at on each decision.
    tight: AtomicBool,
    failed: AtomicBool,
    reasons: Mutex<Reasons>,
    listener: Mutex<Option<Listener>>,
}

#[derive(Default)]
struct Reasons {
    poisoned: Option<Arc<str>>,
    /// Why no further segment can be made.
    segments: Option<Arc<str>>,
    /// Why the index cannot follow.
    index: Option<Arc<str>>,
}

/// A lock whose holder never panics between two changes, so what a panic left is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The last sequence known durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Says that nothing more may be answered; the first reason stays.
    pub(crate) fn poison(&self, reason: &str) {
        lock(&self.reasons).poisoned.get_or_insert_with(|| reason.into());
        self.failed.store(true, Ordering::Release);
        self.tell();
    }

    /// Does the whole work of a thread. A panic of it poisons: whoever waits for that thread would wait for ever.
    pub(crate) fn guard(&self, thread: &str, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.poison(&format!("the thread {thread} panicked: this is a bug in bursar"));
        }
    }

    /// Fails if something failed before.
    pub(crate) fn check(&self) -> Result<(), Poisoned> {
        match self.poisoned() {
            None => Ok(()),
            Some(reason) => Err(Poisoned(reason)),
        }
    }

    /// Why nothing more may be answered.
    pub(crate) fn poisoned(&self) -> Option<Arc<str>> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.reasons).poisoned.clone()
    }

    /// Why reservations must wait, if they must.
    pub(crate) fn tight(&self) -> Option<Arc<str>> {
        if !self.tight.load(Ordering::Acquire) {
            return None;
        }
        let reasons = lock(&self.reasons);
        reasons.segments.clone().or_else(|| reasons.index.clone())
    }

    /// Sets or clears why no further segment can be made.
    pub(crate) fn set_segments_reason(&self, reason: Option<&str>) {
        self.set(|reasons| reasons.segments = reason.map(Into::into));
    }

    /// Sets or clears why the index cannot follow.
    pub(crate) fn set_index_reason(&self, reason: Option<&str>) {
        self.set(|reasons| reasons.index = reason.map(Into::into));
    }

    /// Whether the index cannot follow for want of room.
    pub(crate) fn index_full(&self) -> bool {
        lock(&self.reasons).index.is_some()
    }

    fn set(&self, change: impl FnOnce(&mut Reasons)) {
        let mut reasons = lock(&self.reasons);
        change(&mut reasons);
        let tight = reasons.segments.is_some() || reasons.index.is_some();
        let before = self.tight.swap(tight, Ordering::AcqRel);
        drop(reasons);
        if tight != before {
            self.tell();
        }
    }

    /// Why no further segment can be made, and why the index cannot follow.
    pub(crate) fn reasons(&self) -> [Option<Arc<str>>; 2] {
        let reasons = lock(&self.reasons);
        [reasons.segments.clone(), reasons.index.clone()]
    }

    /// Sets who is told after each sync, after each failure, and when there is no room or room again.
    pub(crate) fn listen(&self, listener: Listener) {
        *lock(&self.listener) = Some(listener);
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&self) {
        if let Some(listener) = &*lock(&self.listener) {
            listener();
        }
    }
}
