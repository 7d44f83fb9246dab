//! The store: what the data thread holds in its hand.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bursar_quota::{Event, State, Timestamp};

use crate::lock::Lock;
use crate::open::{self, OpenError, Recovery};
use crate::options::Options;
use crate::read::{self, Cache, ReadError};
use crate::segment::{self, Holder};
use crate::shared::{Poisoned, Room, Shared};
use crate::spare::{Settings, Spares};
use crate::survey::Survey;
use crate::sync::Syncer;
use crate::writer::{Parts, Writer};

/// A ledger and its index, open for one process.
pub struct Store {
    dir: PathBuf,
    shared: Arc<Shared>,
    writer: Writer,
    syncer: Arc<Syncer>,
    spares: Arc<Spares>,
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
    /// Why nothing more may be answered, if something failed.
    pub poisoned: Option<String>,
}

impl Store {
    /// Locks the folder, reads what is there, and starts the threads.
    ///
    /// # Errors
    /// When another process has it, or what had been durable cannot be read: see [`OpenError`].
    pub fn open(dir: &Path, options: Options) -> Result<Opened, OpenError> {
        let lock = open::enter(dir, &options)?;
        let mut state = State::default();
        let index_sequence = state.sequence();
        let segments = open::segments(dir, None)?;
        let holder: Option<Holder> =
            segments.iter().find_map(|listed| listed.header).map(|header| header.holder);
        let survey = Survey::run(segments, &mut state)?;
        open::judge(&survey)?;
        let last_sequence = survey.last_sequence;
        let mut recovery = Recovery {
            last_sequence,
            index_sequence,
            entries_replayed: survey.applied,
            entries_rewritten: 0,
            entries_cut: survey.stray,
        };
        let (active, rewritten) = open::resume(dir, &options, holder, survey)?;
        recovery.entries_rewritten = rewritten;
        let io = |error| OpenError::io(dir, error);
        let (listed, _) = segment::list(dir).map_err(io)?;
        let shared = Arc::new(Shared::default());
        shared.bytes.store(listed.iter().map(|one| one.bytes).sum(), Ordering::Release);
        shared.written.store(last_sequence, Ordering::Release);
        shared.durable.store(last_sequence, Ordering::Release);
        shared.index_sequence.store(index_sequence, Ordering::Release);
        let folder = segment::folder(dir);
        let syncer = Syncer::start(folder, options.sync_interval, shared.clone()).map_err(io)?;
        let settings = Settings {
            dir: dir.into(),
            segment_bytes: options.segment_bytes,
            ledger_bytes_max: options.ledger_bytes_max,
        };
        let spares = Spares::start(settings, shared.clone()).map_err(io)?;
        let writer = Writer::new(Parts {
            dir: dir.into(),
            shared: shared.clone(),
            spares: spares.clone(),
            syncer: syncer.clone(),
            active,
            next_sequence: last_sequence + 1,
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
            segments,
            cache: Cache::default(),
            recovery,
            closed: false,
            _lock: lock,
        };
        Ok(Opened { store, state, recovery })
    }

    /// What the disk has room for; to be asked before each decision.
    pub fn room(&self) -> Room {
        match self.shared.tight() {
            None => Room::Free,
            Some(reason) if self.writer.exhausted() => Room::Nothing(reason),
            Some(reason) => Room::SettlementsOnly(reason),
        }
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

    /// Sets who is told, on the sync thread, after each sync and after each failure. It must not call
    /// [`Store::on_durable`].
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

    /// How the store stands.
    pub fn status(&self) -> StoreStatus {
        StoreStatus {
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
        self.end();
        flushed.and_then(|_| self.shared.check())
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.syncer.close();
            self.spares.close();
        }
    }
}

impl Drop for Store {
    /// Ends the threads; entries that were not flushed are lost, as they were never answered.
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("dir", &self.dir).field("status", &self.status()).finish()
    }
}
