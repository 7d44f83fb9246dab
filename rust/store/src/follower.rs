//! The follower's thread: every so often, what has become durable goes into the index.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bursar_quota::Bounds;

use crate::index::{Index, IndexError};
use crate::segment::Holder;
use crate::shared::{Shared, lock};
use crate::tail::Tail;

/// The thread's name.
const THREAD: &str = "bursar-follower";

/// How often the thread looks whether what somebody waits for has become durable.
const LOOK: Duration = Duration::from_millis(2);

/// How nice the thread is to those that answer callers, as `nice(1)` has it.
const NICENESS: i32 = 10;

/// What the follower is told.
pub(crate) struct Settings {
    /// The store's folder.
    pub(crate) dir: PathBuf,
    /// Whose ledger it is.
    pub(crate) holder: Holder,
    /// How often it follows when nobody waits.
    pub(crate) interval: Duration,
    /// How many bytes of entries it takes in one transaction.
    pub(crate) bytes_max: u64,
    /// The bounds of what is remembered.
    pub(crate) bounds: Bounds,
}

/// The way to the follower's thread.
pub(crate) struct Follower {
    work: Mutex<Work>,
    wake: Condvar,
    moved: Condvar,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Work {
    /// The sequence somebody waits for.
    wanted: u64,
    closing: bool,
    /// Whether closing means to leave at once, without catching up.
    hurried: bool,
    ended: bool,
}

impl Follower {
    /// Starts the thread.
    pub(crate) fn start(
        settings: Settings,
        index: Arc<Index>,
        shared: Arc<Shared>,
    ) -> io::Result<Arc<Self>> {
        let follower = Arc::new(Self {
            work: Mutex::default(),
            wake: Condvar::new(),
            moved: Condvar::new(),
            shared,
            thread: Mutex::default(),
        });
        let mine = follower.clone();
        let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
            mine.shared.guard(THREAD, || mine.run(&settings, &index));
            lock(&mine.work).ended = true;
            mine.moved.notify_all();
        })?;
        *lock(&follower.thread) = Some(thread);
        Ok(follower)
    }

    /// Waits until the index has an entry.
    ///
    /// # Errors
    /// When it takes too long, or the store fails or closes meanwhile.
    pub(crate) fn catch_up(&self, wanted: u64, timeout: Duration) -> Result<u64, IndexError> {
        let deadline = Instant::now() + timeout;
        let mut work = lock(&self.work);
        loop {
            let index_sequence = self.shared.index_sequence.load(Ordering::Acquire);
            if index_sequence >= wanted {
                return Ok(index_sequence);
            }
            if work.ended {
                return Err(IndexError::Closed);
            }
            work.wanted = work.wanted.max(wanted);
            self.wake.notify_one();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(IndexError::Late { index_sequence, wanted });
            }
            work = self.moved.wait_timeout(work, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the thread: at once, or when the index has all that is durable.
    pub(crate) fn close(&self, hurried: bool) {
        let mut work = lock(&self.work);
        work.closing = true;
        work.hurried |= hurried;
        drop(work);
        self.wake.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn run(&self, settings: &Settings, index: &Index) {
        // On Linux this is the calling thread's alone; where it is refused, the work is only less polite.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let mut tail = None;
        let mut full = false;
        while self.rest(settings.interval, full) {
            full = false;
            match self.follow(settings, index, &mut tail) {
                Ok(()) => self.shared.set_index_reason(None),
                Err(error @ IndexError::Full(_)) => {
                    self.shared.set_index_reason(Some(&error.to_string()));
                    tail = None;
                    full = true;
                }
                Err(error) => {
                    self.shared.poison(&error.to_string());
                    break;
                }
            }
        }
    }

    /// Waits until there is something to do; false when the thread is to end. Where there was no room, nobody's
    /// waiting brings the next attempt forward: each one costs writes that come to nothing.
    fn rest(&self, interval: Duration, full: bool) -> bool {
        let until = Instant::now() + interval;
        let mut work = lock(&self.work);
        loop {
            let behind = self.shared.index_sequence.load(Ordering::Acquire);
            let durable = self.shared.durable();
            if work.closing {
                // What a full disk does not take now is taken after the next opening.
                let caught_up = behind >= durable || self.shared.index_full();
                return !work.hurried && !caught_up;
            }
            let left = until.saturating_duration_since(Instant::now());
            let waited_for = work.wanted > behind && !full;
            if durable > behind && (waited_for || left.is_zero()) {
                return true;
            }
            let pause = if waited_for { LOOK } else { left.max(LOOK) };
            work = self.wake.wait_timeout(work, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes all that is durable, a batch to a transaction.
    fn follow(
        &self,
        settings: &Settings,
        index: &Index,
        tail: &mut Option<Tail>,
    ) -> Result<(), IndexError> {
        loop {
            let at = self.shared.index_sequence.load(Ordering::Acquire);
            let through = self.shared.durable();
            if at >= through || lock(&self.work).hurried {
                return Ok(());
            }
            let tail = tail.get_or_insert_with(|| Tail::after(&settings.dir, at));
            let entries = tail.batch(through, settings.bytes_max)?;
            if entries.is_empty() {
                return Err(crate::read::ReadError::Absent(at + 1).into());
            }
            let sequence = index.follow(settings.holder, &entries, &settings.bounds)?;
            self.shared.index_sequence.store(sequence, Ordering::Release);
            self.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_was_no_room_waiting_for_the_index_brings_no_attempt_forward() {
        let follower = Follower {
            work: Mutex::new(Work { wanted: 7, ..Work::default() }),
            wake: Condvar::new(),
            moved: Condvar::new(),
            shared: Arc::default(),
            thread: Mutex::default(),
        };
        follower.shared.durable.store(7, Ordering::Release);
        let hour = Duration::from_secs(3600);
        assert!(follower.rest(hour, false), "somebody waits for it");
        std::thread::scope(|scope| {
            let resting = scope.spawn(|| follower.rest(hour, true));
            // Time for it to come back at once, if that is what it does; a slow machine only makes this see less.
            std::thread::sleep(LOOK * 10);
            follower.close(true);
            assert!(!resting.join().unwrap(), "it tried again at once");
        });
    }
}
