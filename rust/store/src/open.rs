//! Opening a ledger: what holds is kept, what may not have reached the disk is written again, and a break in
//! what had reached it is refused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bursar_quota::ApplyError;

use crate::crash;
use crate::fault;
use crate::frame::{self, FRAME_BYTES};
use crate::index::IndexError;
use crate::intern::Interner;
use crate::number::wide;
use crate::options::Options;
use crate::read::ReadError;
use crate::segment::{self, HEADER_BYTES, Header, Holder, Listed, Segment};
use crate::spare;
use crate::survey::{Place, Survey};
use crate::writer::{self, Active};
use crate::{codec, lock};

/// In what steps file systems give room.
const BLOCK_BYTES: u64 = 4 << 10;

/// A store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is out of bounds.
    #[error("{0}")]
    Settings(String),
    /// A file or folder cannot be used.
    #[error("{path} cannot be used: {error}; {}", remedy(error))]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has the store.
    #[error("{dir} is in use by {}; stop it, or give this one a folder of its own", who(*pid))]
    Locked {
        /// The store's folder.
        dir: PathBuf,
        /// The other process, if it said.
        pid: Option<u32>,
    },
    /// An entry that had been durable is broken or gone.
    #[error(
        "{path} is broken at byte {offset}: entry {sequence} had reached the disk and cannot be read; \
         nothing was changed; bring this file back from a copy of the data directory"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The entry.
        sequence: u64,
    },
    /// The index has what the ledger has not: files of the ledger are gone, or the index is another's.
    #[error(
        "the index is at entry {index} and the ledger ends at entry {ledger}; nothing was changed; \
         restore the ledger's files, or remove the folder `index` to accept the loss"
    )]
    IndexAhead {
        /// The index's last entry.
        index: u64,
        /// The ledger's.
        ledger: u64,
    },
    /// The ledger was written by another version.
    #[error(
        "{path} has format {got}, this version reads {}; nothing was changed; \
         serve it with the bursar that wrote it",
        segment::VERSION
    )]
    Format {
        /// The segment.
        path: PathBuf,
        /// Its format.
        got: u32,
    },
    /// Files of two ledgers lie in one folder.
    #[error("{path} is of another ledger than the rest of the folder")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The index cannot be used.
    #[error("{}{}", .0, room_remedy(.0))]
    Index(#[from] IndexError),
    /// An entry cannot be read although its checksum holds.
    #[error(transparent)]
    Read(ReadError),
    /// An entry does not follow from those before it.
    #[error(
        "entry {sequence} does not follow from those before it: {error}; nothing was changed; bring the \
         data directory back from a copy of it"
    )]
    Apply {
        /// Its number.
        sequence: u64,
        /// Why.
        error: ApplyError,
    },
}

fn who(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on that disk",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "let this user write there, or name another data directory"
        }
        _ => "name a data directory on a disk that can be read and written",
    }
}

fn room_remedy(error: &IndexError) -> &'static str {
    if matches!(error, IndexError::Full(_)) { "; free space on that disk" } else { "" }
}

impl OpenError {
    /// An error of a file.
    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        Self::Io { path: path.into(), error }
    }
}

/// What opening found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last entry.
    pub last_sequence: u64,
    /// The last entry of the index, which was loaded.
    pub index_sequence: u64,
    /// How many entries were applied on top of it.
    pub entries_replayed: u64,
    /// How many entries that were not known durable were written again.
    pub entries_rewritten: u64,
    /// How many entries were cut off because one before them had not reached the disk.
    pub entries_cut: u64,
}

/// Makes the folders and takes the lock.
pub(crate) fn enter(dir: &Path, options: &Options) -> Result<lock::Lock, OpenError> {
    if let Some(mistake) = options.mistake() {
        return Err(OpenError::Settings(mistake));
    }
    let folder = segment::folder(dir);
    std::fs::create_dir_all(&folder).map_err(|error| OpenError::io(&folder, error))?;
    let lock = lock::lock(&dir.join("lock")).map_err(|refused| match refused {
        lock::LockRefused::Held(pid) => OpenError::Locked { dir: dir.into(), pid },
        lock::LockRefused::Io(error) => OpenError::io(dir, error),
    })?;
    crash::point("open-locked");
    Ok(lock)
}

/// The segments that count, checked to be of one ledger; what they replaced and what was never used is removed.
pub(crate) fn segments(dir: &Path, index: Option<Holder>) -> Result<Vec<Listed>, OpenError> {
    let folder = segment::folder(dir);
    let failed = |error| OpenError::io(&folder, error);
    spare::remove_leftovers(dir).map_err(failed)?;
    let (kept, replaced) = segment::list(dir).map_err(failed)?;
    for listed in kept.iter().chain(&replaced) {
        if let Some(got) = listed.other_format {
            return Err(OpenError::Format { path: listed.path.clone(), got });
        }
    }
    let mut holder = index;
    for listed in &kept {
        let Some(header) = listed.header else { continue };
        if *holder.get_or_insert(header.holder) != header.holder {
            return Err(OpenError::Foreign { path: listed.path.clone() });
        }
    }
    remove(&replaced)?;
    Ok(kept)
}

/// Refuses a ledger that lost what had been durable.
pub(crate) fn judge(survey: &Survey) -> Result<(), OpenError> {
    if survey.last_sequence >= survey.durable {
        return Ok(());
    }
    let ended = survey.clean && survey.durable_by_entries <= survey.last_sequence;
    if survey.segments.is_empty() || ended {
        let (index, ledger) = (survey.durable, survey.last_sequence);
        return Err(OpenError::IndexAhead { index, ledger });
    }
    let (path, offset) = survey.end_path();
    Err(OpenError::Corrupt { path, offset, sequence: survey.last_sequence + 1 })
}

/// The segment to go on in: the last one, or a new one that holds again what may not have reached the disk.
pub(crate) fn resume(
    dir: &Path,
    options: &Options,
    holder: Option<Holder>,
    survey: Survey,
) -> Result<(Active, u64), OpenError> {
    let rewritten = wide(survey.unsure.len());
    let last = survey.segments.len().checked_sub(1);
    let at_end = survey.end.filter(|end| Some(end.segment) == last && end.offset > 0);
    if let Some(end) = at_end
        && survey.clean
        && survey.unsure.is_empty()
        && let Some(listed) = survey.segments.get(end.segment)
        && let Some(header) = listed.header
    {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&listed.path)
            .map_err(|error| OpenError::io(&listed.path, error))?;
        let active = Active {
            segment: Segment { path: listed.path.clone(), file, header, capacity: listed.bytes }
                .into(),
            end: end.offset,
            interner: Interner::resume(survey.symbols),
            digest: survey.digest,
            offsets: survey.offsets,
        };
        return Ok((active, rewritten));
    }
    rewrite(dir, options, holder, &survey).map(|active| (active, rewritten))
}

/// Writes what is not known durable to a new segment, and cuts the ledger off where that begins.
fn rewrite(
    dir: &Path,
    options: &Options,
    holder: Option<Holder>,
    survey: &Survey,
) -> Result<Active, OpenError> {
    let folder = segment::folder(dir);
    let failed = |error| OpenError::io(&folder, error);
    let cut = survey.unsure.front().map(|unsure| unsure.place).or(survey.end);
    let first_sequence =
        survey.unsure.front().map_or(survey.last_sequence + 1, |unsure| unsure.sequence);
    // A file without a header holds nothing, and could not be told from one that counts once this is done.
    let headless: Vec<Listed> =
        survey.segments.iter().filter(|listed| listed.header.is_none()).cloned().collect();
    remove(&headless)?;
    let epoch =
        survey.segments.iter().filter_map(|listed| listed.header).map(|one| one.epoch).max();
    let drawn = segment::draw().map_err(failed)?;
    let header = Header {
        holder: holder.unwrap_or(Holder(drawn)),
        id: writer::draw_id().map_err(failed)?,
        epoch: epoch.map_or(0, |epoch| epoch + 1),
        first_sequence,
        digest_before: cut.map_or(0, |place| place.digest),
    };
    let active = write_again(dir, options, header, survey).map_err(failed)?;
    crash::point("open-rename");
    if let Some(cut) = cut {
        cut_off(survey, cut, &active.segment.path)?;
    }
    segment::sync_folder(&folder).map_err(failed)?;
    crash::point("open-cut");
    Ok(active)
}

fn write_again(
    dir: &Path,
    options: &Options,
    header: Header,
    survey: &Survey,
) -> io::Result<Active> {
    let mut bytes = header.encode();
    let (mut interner, mut digest) = (Interner::default(), segment::Digest::default());
    let mut places = Vec::new();
    for unsure in &survey.unsure {
        let body = codec::encode(&mut interner, unsure.sequence, unsure.instant, &unsure.event);
        let at = bytes.len();
        let entry = (unsure.sequence, unsure.instant);
        frame::put(&mut bytes, header.id, entry, survey.durable, &body);
        digest.take(bytes.get(at..).unwrap_or_default());
        places.push((unsure.sequence, wide(at)));
    }
    let end = wide(bytes.len());
    let needed = end + HEADER_BYTES + wide(FRAME_BYTES);
    let spare = match spare::make_quickly(dir, options.segment_bytes.max(needed)) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            let freed = give_back(survey)?;
            spare::make_quickly(dir, options.segment_bytes.min(freed).max(needed))?
        }
        made => made?,
    };
    fault::point("open-rewrite")?;
    spare.file.write_all_at(&bytes, 0)?;
    spare.file.sync_all()?;
    crash::point("open-rewrite");
    let path = segment::path_of(dir, header.first_sequence);
    let (mut active, spare_path) = writer::begin(spare, header, path);
    std::fs::rename(spare_path, &active.segment.path)?;
    segment::sync_folder(&segment::folder(dir))?;
    for (sequence, offset) in places {
        active.offsets.note(sequence, offset);
    }
    (active.interner, active.digest, active.end) = (interner, digest, end);
    Ok(active)
}

/// Frees what the last segment had ready for entries to come, where a full disk leaves no other room to write
/// again what it has; gives how many bytes. Every entry that holds stays where it is.
fn give_back(survey: &Survey) -> io::Result<u64> {
    let end = survey.end.filter(|end| end.offset > 0);
    let Some((end, listed)) = end.and_then(|end| Some((end, survey.segments.get(end.segment)?)))
    else {
        return Ok(0);
    };
    let file = File::options().write(true).open(&listed.path)?;
    file.set_len(end.offset)?;
    file.sync_all()?;
    Ok(listed.bytes.saturating_sub(end.offset.next_multiple_of(BLOCK_BYTES)))
}

/// Removes what a new segment replaces: the end of the segment it begins in, and every one after that.
fn cut_off(survey: &Survey, cut: Place, new: &Path) -> Result<(), OpenError> {
    for (at, listed) in survey.segments.iter().enumerate() {
        if at < cut.segment || listed.path == new || listed.header.is_none() {
            continue;
        }
        if at > cut.segment || cut.offset <= HEADER_BYTES {
            remove(std::slice::from_ref(listed))?;
            continue;
        }
        let file = File::options().write(true).open(&listed.path);
        file.and_then(|file| file.set_len(cut.offset).and_then(|()| file.sync_all()))
            .map_err(|error| OpenError::io(&listed.path, error))?;
    }
    Ok(())
}

fn remove(all: &[Listed]) -> Result<(), OpenError> {
    for listed in all {
        std::fs::remove_file(&listed.path).map_err(|error| OpenError::io(&listed.path, error))?;
    }
    Ok(())
}
