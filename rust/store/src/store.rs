//! The store: what the data thread holds in its hand.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bursar_quota::{Event, State, Timestamp};

use crate::follower::{self, Follower};
use crate::handle::IndexHandle;
use crate::index::Index;
use crate::lock::Lock;
use crate::open::{self, OpenError, Recovery};
use crate::options::Options;
use crate::read::{self, Cache, ReadError};
use crate::segment;
use crate::shared::{Poisoned, Room, Shared};
use crate::spare::{self, Spares};
use crate::survey::Survey;
use crate::sync::Syncer;
use crate::writer::{Active, Parts, Writer};

/// A ledger and its index, open for one process.
pub struct Store {
    dir: PathBuf,
    shared: Arc<Shared>,
    writer: Writer,
    syncer: Arc<Syncer>,
    spares: Arc<Spares>,
    follower: Arc<Follower>,
    index: Arc<Index>,
    /// Every segment's first sequence and id, in order.
    segments: Vec<(u64, u64)>,
    cache: Cache,
    recovery: Recovery,
    closed: bool,
    _lock: Lock,
}

/// A store that was opened, with what it holds.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The state after its last entry.
    pub state: State,
    /// What opening found and did.
    pub recovery: Recovery,
}

/// How a store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The last sequence given.
    pub sequence: u64,
    /// The last sequence written out.
    pub written: u64,
    /// The last sequence known durable.
    pub durable: u64,
    /// The last sequence in the index.
    pub index_sequence: u64,
    /// Bytes of all segments, the one made ahead included.
    pub bytes: u64,
    /// How many segments there are.
    pub segments: usize,
    /// Entries cut off at opening, because one before them had not reached the disk.
    pub cut: u64,
    /// Why no further segment can be made, if so.
    pub ledger_full: Option<String>,
    /// Why the index cannot follow for want of room, if so.
    pub index_full: Option<String>,
    /// Why nothing more may be answered, if something failed.
    pub poisoned: Option<String>,
}

impl Store {
    /// Locks the folder, reads what is there, and starts the threads.
    ///
    /// # Errors
    /// When another process has it, or what had been durable cannot be read: see [`OpenError`].
    pub fn open(dir: &Path, options: Options) -> Result<Opened, OpenError> {
        let recovered = recover(dir, &options)?;
        let (state, recovery) = (recovered.state, recovered.recovery);
        let io = |error| OpenError::io(dir, error);
        let (listed, _) = segment::list(dir).map_err(io)?;
        let shared = Arc::new(Shared::default());
        shared.bytes.store(listed.iter().map(|one| one.bytes).sum(), Ordering::Release);
        shared.written.store(recovery.last_sequence, Ordering::Release);
        shared.durable.store(recovery.last_sequence, Ordering::Release);
        shared.index_sequence.store(recovery.index_sequence, Ordering::Release);
        let folder = segment::folder(dir);
        let syncer = Syncer::start(folder, options.sync_interval, shared.clone()).map_err(io)?;
        let spare_settings = spare::Settings {
            dir: dir.into(),
            segment_bytes: options.segment_bytes,
            ledger_bytes_max: options.ledger_bytes_max,
        };
        let spares = Spares::start(spare_settings, shared.clone()).map_err(io)?;
        let settings = follower::Settings {
            dir: dir.into(),
            holder: recovered.active.segment.header.holder,
            interval: options.follow_interval,
            bytes_max: options.follow_bytes,
            bounds: options.bounds,
        };
        let index = recovered.index;
        let follower = Follower::start(settings, index.clone(), shared.clone()).map_err(io)?;
        let writer = Writer::new(Parts {
            dir: dir.into(),
            shared: shared.clone(),
            spares: spares.clone(),
            syncer: syncer.clone(),
            active: recovered.active,
            next_sequence: recovery.last_sequence + 1,
            segment_bytes: options.segment_bytes,
        });
        let segments = listed
            .iter()
            .filter_map(|one| one.header.map(|header| (one.first_sequence, header.id)))
            .collect();
        let store = Self {
            dir: dir.into(),
            shared,
            writer,
            syncer,
            spares,
            follower,
            index,
            segments,
            cache: Cache::default(),
            recovery,
            closed: false,
            _lock: recovered.lock,
        };
        Ok(Opened { store, state, recovery })
    }

    /// A way to the index for other threads.
    pub fn index(&self) -> IndexHandle {
        IndexHandle {
            dir: self.dir.clone(),
            index: Arc::downgrade(&self.index),
            follower: Arc::downgrade(&self.follower),
            syncer: Arc::downgrade(&self.syncer),
            shared: self.shared.clone(),
        }
    }

    /// What the disk has room for; to be asked before each decision. Near a segment's end it waits until it is
    /// known whether another follows.
    pub fn room(&self) -> Room {
        let exhausted = self.writer.exhausted();
        match self.shared.tight() {
            None => Room::Free,
            Some(reason) if exhausted => Room::Nothing(reason),
            Some(reason) => Room::SettlementsOnly(reason),
        }
    }

    /// Whether an entry of so many bytes that is no settlement has a place; to be asked before one that may be
    /// large. Like [`Store::room`] it may wait.
    pub fn has_place(&self, bytes: u64) -> bool {
        self.writer.has_place(bytes)
    }

    /// Puts an event into the turn's buffer and gives its sequence; nothing is written before
    /// [`Store::flush`]. An event that has no place poisons the store, and the flush says so.
    pub fn append(&mut self, instant: Timestamp, event: &Event) -> u64 {
        let (sequence, left) = self.writer.append(instant, event);
        if let Some((first_sequence, loaded)) = left {
            self.cache.put(first_sequence, loaded);
            let header = self.writer.active().segment.header;
            self.segments.push((header.first_sequence, header.id));
        }
        sequence
    }

    /// Writes out the turn, in one write unless it changes segments; gives the last sequence written.
    ///
    /// # Errors
    /// When a write fails or is short, or anything failed before: nothing of the turn may be answered.
    pub fn flush(&mut self) -> Result<u64, Poisoned> {
        self.writer.flush()
    }

    /// The last sequence known durable.
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// Sets who is told, on whichever thread it happens, after each sync and each failure, and when there is no
    /// room or room again. It must not call [`Store::on_durable`].
    pub fn on_durable(&self, listener: Box<dyn Fn() + Send + Sync>) {
        self.shared.listen(listener);
    }

    /// Says that somebody waits for all that was appended to be durable.
    pub fn request_sync(&self) {
        self.syncer.request(self.writer.last_sequence());
    }

    /// Reads an entry back, also one of the turn that is not written out yet. An old one may mean reading
    /// its segment.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn read(&mut self, sequence: u64) -> Result<(Timestamp, Event), ReadError> {
        if sequence == 0 || sequence > self.writer.last_sequence() {
            return Err(ReadError::Absent(sequence));
        }
        let at = self.segments.partition_point(|(first, _)| *first <= sequence);
        let segment = at.checked_sub(1).and_then(|at| self.segments.get(at)).copied();
        let Some((first_sequence, id)) = segment else { return Err(ReadError::Absent(sequence)) };
        let active = self.writer.active();
        if first_sequence == active.segment.header.first_sequence {
            let symbols = active.interner.symbols();
            if let Some((bytes, id)) = self.writer.pending(sequence) {
                return read::find_pending(bytes, id, sequence, symbols);
            }
            let file = (&active.segment.file, active.segment.path.as_path());
            return read::find(file, id, sequence, (symbols, &active.offsets));
        }
        let path = segment::path_of(&self.dir, first_sequence);
        let loaded = match self.cache.get(first_sequence) {
            Some(loaded) => loaded,
            None => {
                let loaded = read::load(&path, id)?;
                self.cache.put(first_sequence, loaded.clone());
                loaded
            }
        };
        if let Some((bytes, id)) = self.writer.pending(sequence) {
            return read::find_pending(bytes, id, sequence, &loaded.symbols);
        }
        let file = File::open(&path).map_err(|error| read::io_error(&path, error))?;
        read::find((&file, &path), id, sequence, (&loaded.symbols, &loaded.offsets))
    }

    /// How many syncs of the ledger there were, and how many microseconds they took together.
    pub fn syncs(&self) -> (u64, u64) {
        let of = |counted: &AtomicU64| counted.load(Ordering::Relaxed);
        (of(&self.shared.syncs), of(&self.shared.sync_us))
    }

    /// How the store stands.
    pub fn status(&self) -> StoreStatus {
        let [ledger_full, index_full] =
            self.shared.reasons().map(|reason| reason.map(|reason| reason.to_string()));
        StoreStatus {
            ledger_full,
            index_full,
            sequence: self.writer.last_sequence(),
            written: self.shared.written.load(Ordering::Acquire),
            durable: self.shared.durable(),
            index_sequence: self.shared.index_sequence.load(Ordering::Acquire),
            bytes: self.shared.bytes.load(Ordering::Acquire),
            segments: self.segments.len(),
            cut: self.recovery.entries_cut,
            poisoned: self.shared.poisoned().map(|reason| reason.to_string()),
        }
    }

    /// Writes out the turn, makes it durable, lets the index catch up, and ends the threads.
    ///
    /// # Errors
    /// When something failed, now or before; what is on disk is then for the next opening to read.
    pub fn close(mut self) -> Result<(), Poisoned> {
        let flushed = self.flush();
        self.end(flushed.is_err());
        flushed.and_then(|_| self.shared.check())
    }

    fn end(&mut self, hurried: bool) {
        if !std::mem::replace(&mut self.closed, true) {
            self.syncer.close();
            self.follower.close(hurried);
            self.spares.close();
        }
    }
}

/// What was read before any thread was started.
struct Recovered {
    lock: Lock,
    index: Arc<Index>,
    state: State,
    active: Active,
    recovery: Recovery,
}

fn recover(dir: &Path, options: &Options) -> Result<Recovered, OpenError> {
    let lock = open::enter(dir, options)?;
    let index = Arc::new(Index::open(dir, options.index_bytes_max)?);
    let (mut state, index_holder) = {
        let txn = index.read()?;
        (index.load(&txn)?, index.position(&txn)?.map(|position| position.holder))
    };
    let index_sequence = state.sequence();
    let segments = open::segments(dir, index_holder)?;
    let of_ledger = segments.iter().find_map(|listed| listed.header);
    let holder = of_ledger.map(|header| header.holder).or(index_holder);
    let survey = Survey::run(segments, &mut state)?;
    open::judge(&survey)?;
    let mut recovery = Recovery {
        last_sequence: survey.last_sequence,
        index_sequence,
        entries_replayed: survey.applied,
        entries_rewritten: 0,
        entries_cut: survey.stray,
    };
    let (active, rewritten) = open::resume(dir, options, holder, survey)?;
    recovery.entries_rewritten = rewritten;
    Ok(Recovered { lock, index, state, active, recovery })
}

impl Drop for Store {
    /// Ends the threads; entries that were not flushed are lost, as they were never answered.
    fn drop(&mut self) {
        self.end(true);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("dir", &self.dir).field("status", &self.status()).finish()
    }
}

#[cfg(test)]
mod tests {
    use bursar_quota::Activated;

    use super::*;

    #[test]
    fn after_a_failed_write_nothing_is_flushed_and_a_restart_has_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { index_bytes_max: 16 << 20, ..Options::default() };
        let event = Event::Activated(Activated {
            version: 1,
            digest: Box::default(),
            policy: Box::default(),
            source: Box::default(),
            rollups: Vec::new(),
            identities: Vec::new(),
        });
        let mut store = Store::open(folder.path(), options.clone()).unwrap().store;
        store.append(Timestamp(1), &event);
        assert_eq!(store.flush(), Ok(1));
        store.writer.break_file();
        store.append(Timestamp(2), &event);
        let failed = store.flush().unwrap_err();
        assert!(failed.to_string().contains("a write to the ledger failed"), "{failed}");
        store.append(Timestamp(3), &event);
        assert_eq!(store.flush(), Err(failed.clone()));
        assert_eq!(store.status().poisoned.as_deref(), Some(&*failed.0));
        assert_eq!(store.close(), Err(failed));
        let again = Store::open(folder.path(), options).unwrap();
        assert_eq!(again.recovery.last_sequence, 1);
    }
}
