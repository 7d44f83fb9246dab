//! The index: the tables of one LMDB environment, exact at one sequence of the ledger.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bursar_proto::ledger::v1 as pb;
use bursar_quota::{ApplyError, Counter, CounterKey, PolicyRecord, State, Timestamp};
use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};
use prost::Message as _;
use rustix::io::Errno;

use crate::intern::CodecError;
use crate::number::{narrow, wide};
use crate::read::ReadError;
use crate::rows::{self, HASH_BYTES};
use crate::segment::Holder;

/// The format of the tables written and read here.
const VERSION: u32 = 1;

/// The length of LMDB's lock file with its usual 126 readers.
const LOCK_FILE_BYTES: u64 = 8 << 10;

/// The one key of the table `meta`.
const META: &[u8] = b"meta";

/// The tables' names, in the order of [`Tables`].
const NAMES: [&str; 9] = [
    "meta",
    "counters",
    "endings",
    "reservations",
    "remembered",
    "policies",
    "limits-since",
    "usage",
    "generations",
];

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The folder cannot be made.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// LMDB said so.
    #[error("the index: {0}")]
    Lmdb(heed::Error),
    /// The disk or the index's bound is full.
    #[error("the index has no room: {0}")]
    Full(heed::Error),
    /// Its file is not what LMDB wrote.
    #[error(
        "the index is damaged: {0}; remove the folder `index` to have it made anew from the ledger"
    )]
    Damaged(heed::Error),
    /// A row means nothing.
    #[error(
        "a row of the index: {0}; remove the folder `index` to have it made anew from the ledger"
    )]
    Row(#[from] CodecError),
    /// Two keys have one hash, or a row names one that is not there.
    #[error(
        "the index's table `{0}` contradicts itself; remove the folder `index` to have it made anew"
    )]
    Inconsistent(&'static str),
    /// It was written by another version.
    #[error("the index has format {0}, this version reads {VERSION}; remove the folder `index`")]
    Version(u32),
    /// An entry does not follow from those before it.
    #[error("the index cannot follow at entry {sequence}: {error}")]
    Apply {
        /// Its number.
        sequence: u64,
        /// Why.
        error: ApplyError,
    },
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The books are further than the ledger.
    #[error("the books are at entry {books} and the ledger ends at entry {ledger}")]
    BooksAhead {
        /// Where the books are.
        books: u64,
        /// The ledger's last entry.
        ledger: u64,
    },
    /// A page of usage was asked for that is not kept any more.
    #[error("this page of usage is not kept any more; begin with the first one again")]
    PageGone,
    /// The store is closed, or was before this was done.
    #[error("the store is closed")]
    Closed,
    /// It took longer than the caller would wait.
    #[error("the index is at entry {index_sequence} and did not reach {wanted} in time")]
    Late {
        /// Where it is.
        index_sequence: u64,
        /// Where it should be.
        wanted: u64,
    },
}

impl IndexError {
    /// Whether LMDB says that nothing can be done with the index until it is opened again: a page that says
    /// what is committed could not be written, so it is not known what is.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self, Self::Lmdb(heed::Error::Mdb(MdbError::Panic)))
    }
}

impl From<heed::Error> for IndexError {
    fn from(error: heed::Error) -> Self {
        match &error {
            heed::Error::Mdb(MdbError::MapFull) => Self::Full(error),
            heed::Error::Io(io) if io.kind() == io::ErrorKind::StorageFull => Self::Full(error),
            heed::Error::Mdb(MdbError::Corrupted | MdbError::Invalid | MdbError::PageNotFound) => {
                Self::Damaged(error)
            }
            _ => Self::Lmdb(error),
        }
    }
}

/// A table of bytes by bytes.
pub(crate) type Table = heed::Database<'static, Bytes, Bytes>;

/// The tables.
pub(crate) struct Tables {
    /// How far the index is: one row.
    pub(crate) meta: Table,
    /// Live counters by hash.
    pub(crate) counters: Table,
    /// Hashes of counters whose window ends, by when.
    pub(crate) endings: Table,
    /// Open reservations by sequence.
    pub(crate) reservations: Table,
    /// Remembered ids by the sequence that settled them.
    pub(crate) remembered: Table,
    /// Policies by version.
    pub(crate) policies: Table,
    /// Since when each limit is in force, by identity.
    pub(crate) limits_since: Table,
    /// Usage groups by generation and hash.
    pub(crate) usage: Table,
    /// Generations of usage by number.
    pub(crate) generations: Table,
}

/// The environment and its tables.
pub(crate) struct Index {
    env: Env<WithoutTls>,
    /// The tables.
    pub(crate) tables: Tables,
}

/// How far an index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Whose ledger it follows.
    pub(crate) holder: Holder,
    /// The last sequence applied.
    pub(crate) sequence: u64,
    /// The highest instant applied.
    pub(crate) instant: Timestamp,
    /// The newest instant of which an id was forgotten.
    pub(crate) horizon: Option<Timestamp>,
}

impl Index {
    /// Opens the index of a store's folder, making it if there is none.
    ///
    /// # Errors
    /// When LMDB cannot open it, or it was written by another version.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Result<Self, IndexError> {
        let path = dir.join("index");
        let failed = |error| IndexError::Io { path: path.clone(), error };
        std::fs::create_dir_all(&path).map_err(failed)?;
        reserve_lock_file(&path).map_err(failed)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(narrow(bytes_max)).max_dbs(16);
        // SAFETY: the folder is the store's own: its lock keeps other sidecars out, `verify` in another
        // process goes through LMDB's own locking, and nothing truncates or writes the file besides LMDB.
        #[allow(unsafe_code, reason = "a memory map of a file is only as sound as its writers")]
        let env = unsafe { options.open(&path) }?;
        // Readers of a process that was killed would keep every page from being used again.
        env.clear_stale_readers()?;
        let short = fill_up(&env, &path.join("data.mdb")).map_err(failed)?;
        let tables = create(&env)?;
        let index = Self { env, tables };
        index.check_version()?;
        if short {
            index.read_all()?;
        }
        Ok(index)
    }

    /// A transaction that reads; it must be short, for no page is used again while it lasts.
    pub(crate) fn read(&self) -> Result<RoTxn<'_, WithoutTls>, IndexError> {
        Ok(self.env.read_txn()?)
    }

    /// The transaction that writes; others wait for it.
    pub(crate) fn write(&self) -> Result<RwTxn<'_>, IndexError> {
        Ok(self.env.write_txn()?)
    }

    /// Reads every row of every table, to meet what is damaged now.
    fn read_all(&self) -> Result<(), IndexError> {
        let txn = self.read()?;
        let Tables { meta, counters, endings, reservations, remembered, .. } = &self.tables;
        let Tables { policies, limits_since, usage, generations, .. } = &self.tables;
        let first = [meta, counters, endings, reservations, remembered];
        for table in first.into_iter().chain([policies, limits_since, usage, generations]) {
            for row in table.iter(&txn)? {
                row?;
            }
        }
        Ok(())
    }

    fn check_version(&self) -> Result<(), IndexError> {
        let txn = self.read()?;
        let Some(bytes) = self.tables.meta.get(&txn, META)? else { return Ok(()) };
        match pb::Meta::decode(bytes).map_err(CodecError::Message)?.version {
            VERSION => Ok(()),
            version => Err(IndexError::Version(version)),
        }
    }

    /// How far it is; none before the first entry.
    pub(crate) fn position(&self, txn: &RoTxn<'_>) -> Result<Option<Position>, IndexError> {
        let Some(bytes) = self.tables.meta.get(txn, META)? else { return Ok(None) };
        let row = pb::Meta::decode(bytes).map_err(CodecError::Message)?;
        let holder = row.holder.first_chunk().copied().map(u128::from_be_bytes);
        Ok(Some(Position {
            holder: Holder(holder.ok_or(IndexError::Inconsistent("meta"))?),
            sequence: row.sequence,
            instant: Timestamp(row.instant_unix_ms),
            horizon: row.horizon_unix_ms.map(Timestamp),
        }))
    }

    /// Says how far it is.
    pub(crate) fn put_position(
        &self,
        txn: &mut RwTxn<'_>,
        position: &Position,
    ) -> Result<(), IndexError> {
        let row = pb::Meta {
            version: VERSION,
            holder: position.holder.0.to_be_bytes().to_vec(),
            sequence: position.sequence,
            instant_unix_ms: position.instant.0,
            horizon_unix_ms: position.horizon.map(|horizon| horizon.0),
        };
        Ok(self.tables.meta.put(txn, META, &row.encode_to_vec())?)
    }

    /// The counter of a key in the table.
    pub(crate) fn counter(
        &self,
        txn: &RoTxn<'_>,
        key: &[u8],
    ) -> Result<Option<(Arc<CounterKey>, Counter)>, IndexError> {
        let row = self.tables.counters.get(txn, key)?;
        Ok(row.map(rows::counter_in).transpose()?)
    }

    /// The policy of a version.
    pub(crate) fn policy(
        &self,
        txn: &RoTxn<'_>,
        version: u64,
    ) -> Result<Option<PolicyRecord>, IndexError> {
        let row = self.tables.policies.get(txn, &version.to_be_bytes())?;
        Ok(row.map(rows::policy_in).transpose()?)
    }

    /// Puts since when limits are in force into a state.
    pub(crate) fn load_limits(&self, txn: &RoTxn<'_>, state: &mut State) -> Result<(), IndexError> {
        for row in self.tables.limits_since.iter(txn)? {
            let (key, value) = row?;
            if let (Some(identity), Some(since)) = (rows::number_of(key), rows::instant_of(value)) {
                state.put_limit_since(identity, since);
            }
        }
        Ok(())
    }

    /// The whole state; empty before the first entry.
    pub(crate) fn load(&self, txn: &RoTxn<'_>) -> Result<State, IndexError> {
        let mut state = State::default();
        let Some(position) = self.position(txn)? else { return Ok(state) };
        let mut keys = hashbrown::HashMap::<[u8; HASH_BYTES], Arc<CounterKey>>::new();
        for row in self.tables.counters.iter(txn)? {
            let (hash, value) = row?;
            let (key, counter) = rows::counter_in(value)?;
            if let Some(hash) = hash.first_chunk() {
                keys.insert(*hash, key.clone());
            }
            state.put_counter(key, counter);
        }
        for row in self.tables.reservations.iter(txn)? {
            let (key, value) = row?;
            let sequence = rows::number_of(key).unwrap_or_default();
            let (id, reservation) = rows::reservation_in(sequence, value, |hash| {
                let key = hash.first_chunk().and_then(|hash| keys.get(hash));
                key.cloned().ok_or(IndexError::Inconsistent("reservations"))
            })?;
            state.put_reservation(id, reservation);
        }
        for row in self.tables.remembered.iter(txn)? {
            let (key, value) = row?;
            let sequence = rows::number_of(key).unwrap_or_default();
            let (id, remembered, instant) = rows::remembered_in(sequence, value)?;
            state.put_remembered(id, remembered, instant);
        }
        for row in self.tables.policies.iter(txn)? {
            let (key, value) = row?;
            let version = rows::number_of(key).unwrap_or_default();
            state.put_policy(version, Arc::new(rows::policy_in(value)?));
        }
        self.load_limits(txn, &mut state)?;
        state.put_position(position.sequence, position.instant, position.horizon);
        Ok(state)
    }
}

/// Takes the space of LMDB's lock file ahead. LMDB writes to it through a memory map, where a full disk is no
/// error but a signal that ends the process.
fn reserve_lock_file(path: &Path) -> io::Result<()> {
    let mut options = std::fs::File::options();
    let file = options.read(true).write(true).create(true).truncate(false);
    let file = file.open(path.join("lock.mdb"))?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, LOCK_FILE_BYTES) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the file as long as LMDB says that it is, and says whether it was shorter. What LMDB reads beyond the
/// file's end is no error but a signal that ends the process; zeros are an error, unless nothing was there.
fn fill_up(env: &Env<WithoutTls>, path: &Path) -> io::Result<bool> {
    let pages = wide(env.info().last_page_number) + 1;
    let bytes = pages * u64::from(env.unnamed_database_stat().page_size);
    let file = std::fs::File::options().write(true).open(path)?;
    let short = file.metadata()?.len() < bytes;
    if short {
        file.set_len(bytes)?;
    }
    Ok(short)
}

fn create(env: &Env<WithoutTls>) -> Result<Tables, IndexError> {
    let txn = env.write_txn()?;
    let created =
        env.create_databases_and_commit(txn, |opener, txn| -> Result<_, heed::Error> {
            let mut all = Vec::with_capacity(NAMES.len());
            for name in NAMES {
                all.push(opener.create_database::<Bytes, Bytes>(txn, Some(name))?);
            }
            let all: Result<[_; 9], _> = all.try_into();
            Ok(match all {
                Ok(all) => CommitOrAbort::Commit(all),
                Err(_) => CommitOrAbort::Abort(()),
            })
        })?;
    let all = created.commit().ok_or(IndexError::Inconsistent("meta"))?;
    let [meta, counters, endings, reservations, remembered, ..] = all;
    let [.., policies, limits_since, usage, generations] = all;
    Ok(Tables {
        meta,
        counters,
        endings,
        reservations,
        remembered,
        policies,
        limits_since,
        usage,
        generations,
    })
}
