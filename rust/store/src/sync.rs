//! The sync thread: it makes durable whatever has been written since it last did.
//!
//! There is no timer that holds an answer back. While somebody waits, it syncs as fast as the disk does and
//! each sync takes everything written meanwhile; while nobody does, it syncs within `sync_interval`, so
//! that the follower moves.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crash;
use crate::fault;
use crate::segment::{self, Segment};
use crate::shared::{Shared, lock};

/// The thread's name.
const THREAD: &str = "bursar-sync";

/// The way to the sync thread.
pub(crate) struct Syncer {
    work: Mutex<Work>,
    changed: Condvar,
    asleep: AtomicBool,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Work {
    /// Segments written to and not synced since, oldest first.
    segments: Vec<Arc<Segment>>,
    /// Whether a file was renamed into the folder since that was synced.
    folder: bool,
    /// The last sequence written out.
    written: u64,
    /// The last sequence somebody waits for.
    requested: u64,
    /// Since when something is not synced.
    since: Option<Instant>,
    closing: bool,
}

impl Syncer {
    /// Starts the thread.
    pub(crate) fn start(
        folder: PathBuf,
        interval: Duration,
        shared: Arc<Shared>,
    ) -> io::Result<Arc<Self>> {
        let syncer = Arc::new(Self {
            work: Mutex::default(),
            changed: Condvar::new(),
            asleep: AtomicBool::new(false),
            shared,
            thread: Mutex::default(),
        });
        let mine = syncer.clone();
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || mine.shared.guard(THREAD, || mine.run(&folder, interval)))?;
        *lock(&syncer.thread) = Some(thread);
        Ok(syncer)
    }

    /// Says what has been written, and whether a file was renamed for it.
    pub(crate) fn written(&self, segment: &Arc<Segment>, through: u64, renamed: bool) {
        let mut work = lock(&self.work);
        let known = work.segments.last().is_some_and(|last| Arc::ptr_eq(last, segment));
        if !known {
            work.segments.push(segment.clone());
        }
        work.folder |= renamed;
        work.written = through;
        let wake = work.since.is_none() || work.requested > self.shared.durable();
        work.since.get_or_insert_with(Instant::now);
        drop(work);
        if wake {
            self.wake();
        }
    }

    /// Says that somebody waits for a sequence to be durable.
    pub(crate) fn request(&self, sequence: u64) {
        let mut work = lock(&self.work);
        work.requested = work.requested.max(sequence);
        drop(work);
        self.wake();
    }

    /// Syncs what is written and ends the thread.
    pub(crate) fn close(&self) {
        lock(&self.work).closing = true;
        self.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    fn run(&self, folder: &std::path::Path, interval: Duration) {
        while let Some((segments, sync_folder, written)) = self.next(interval) {
            crash::point("sync");
            let began = Instant::now();
            let synced = sync(&segments, sync_folder.then_some(folder));
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.shared.syncs.fetch_add(1, Ordering::Relaxed);
            self.shared.sync_us.fetch_add(took, Ordering::Relaxed);
            if let Err(error) = synced {
                self.shared.poison(&format!("a sync of the ledger failed: {error}"));
                return;
            }
            crash::point("synced");
            if sync_folder {
                crash::point("change-done");
            }
            self.shared.durable.store(written, Ordering::Release);
            self.shared.tell();
        }
    }

    /// Waits for something to sync; none when the store closes and everything is.
    fn next(&self, interval: Duration) -> Option<(Vec<Arc<Segment>>, bool, u64)> {
        let mut work = lock(&self.work);
        loop {
            let waited_for = work.requested > self.shared.durable() || work.closing;
            let age = work.since.map(|since| since.elapsed());
            match age {
                Some(age) if waited_for || age >= interval => {
                    work.since = None;
                    let folder = std::mem::take(&mut work.folder);
                    return Some((std::mem::take(&mut work.segments), folder, work.written));
                }
                None if work.closing => return None,
                _ => {}
            }
            let timeout = age.map_or(Duration::from_secs(60), |age| interval.saturating_sub(age));
            self.asleep.store(true, Ordering::SeqCst);
            let waited = self.changed.wait_timeout(work, timeout);
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.asleep.store(false, Ordering::SeqCst);
        }
    }
}

/// Syncs segments in their order, then the folder they were renamed into.
fn sync(segments: &[Arc<Segment>], folder: Option<&std::path::Path>) -> io::Result<()> {
    for segment in segments {
        fault::point("sync")?;
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&segment.file))?;
    }
    let Some(folder) = folder else { return Ok(()) };
    fault::point("sync-folder")?;
    segment::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc;

    use super::*;
    use crate::segment::{Header, Holder};

    #[test]
    fn a_failed_sync_poisons_and_tells() {
        // No file of this kind can be synced.
        let path = PathBuf::from("/proc/self/stat");
        let file = File::open(&path).unwrap();
        let header =
            Header { holder: Holder(1), id: 1, epoch: 0, first_sequence: 1, digest_before: 0 };
        let segment = Arc::new(Segment { path, file, header, capacity: 0 });
        let shared = Arc::new(Shared::default());
        let (tell, told) = mpsc::channel();
        shared.listen(Box::new(move || tell.send(()).unwrap_or_default()));
        let syncer = Syncer::start("/".into(), Duration::from_secs(3600), shared.clone()).unwrap();
        syncer.written(&segment, 7, false);
        syncer.request(7);
        told.recv().unwrap();
        assert_eq!(shared.durable(), 0);
        let reason = shared.check().unwrap_err().to_string();
        assert!(reason.contains("a sync of the ledger failed"), "{reason}");
        syncer.close();
    }
}
