//! Segments made ahead: a thread that writes the next one out with zeros before it is needed.
//!
//! The data thread so never waits for a file to grow, a sync has no sizes to write, and the space is
//! certain. When no further segment can be made, the one at hand is what settlements go on in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::fault;
use crate::number::{narrow, wide};
use crate::segment;
use crate::shared::{Shared, lock};

/// The thread's name.
const THREAD: &str = "bursar-segments";

/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);

/// How much is written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What the names of segments that are not in use yet begin with.
const PREFIX: &str = "spare-";

/// A file of zeros that is to become a segment.
#[derive(Debug)]
pub(crate) struct Spare {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// The file.
    pub(crate) file: File,
    /// Its length.
    pub(crate) bytes: u64,
}

/// The place where the next segment is put and taken.
pub(crate) struct Spares {
    slot: Mutex<Slot>,
    changed: Condvar,
    /// Whether the segment being made is wanted no more.
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Slot {
    ready: Option<Spare>,
    failed: Option<Arc<str>>,
    closing: bool,
}

/// What the thread needs to know.
pub(crate) struct Settings {
    /// The store's folder.
    pub(crate) dir: PathBuf,
    /// The length of a segment.
    pub(crate) segment_bytes: u64,
    /// The most bytes of all segments.
    pub(crate) ledger_bytes_max: u64,
}

impl Spares {
    /// Starts the thread.
    pub(crate) fn start(settings: Settings, shared: Arc<Shared>) -> io::Result<Arc<Self>> {
        let spares = Arc::new(Self {
            slot: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let mine = spares.clone();
        let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
            shared.guard(THREAD, || mine.run(&settings, &shared));
            // Nobody waits for what nobody makes.
            let mut slot = lock(&mine.slot);
            slot.failed.get_or_insert_with(|| "no thread makes segments any more".into());
            drop(slot);
            mine.changed.notify_all();
        })?;
        *lock(&spares.thread) = Some(thread);
        Ok(spares)
    }

    /// The next segment, waiting for it while it is being made.
    ///
    /// # Errors
    /// Why none can be made.
    pub(crate) fn take(&self) -> Result<Spare, Arc<str>> {
        let mut slot = lock(&self.slot);
        loop {
            if let Some(spare) = slot.ready.take() {
                self.changed.notify_all();
                return Ok(spare);
            }
            if let Some(reason) = &slot.failed {
                return Err(reason.clone());
            }
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether one is ready, waiting for it while it is being made.
    pub(crate) fn available(&self) -> bool {
        let mut slot = lock(&self.slot);
        while slot.ready.is_none() && slot.failed.is_none() {
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        slot.ready.is_some()
    }

    /// Ends the thread and removes the segment nobody took.
    pub(crate) fn close(&self) {
        self.stopping.store(true, Ordering::Release);
        lock(&self.slot).closing = true;
        self.changed.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        if let Some(spare) = lock(&self.slot).ready.take() {
            // What stays behind is removed at the next opening.
            let _ = std::fs::remove_file(&spare.path);
        }
    }

    fn run(&self, settings: &Settings, shared: &Shared) {
        for number in 1_u64.. {
            match make_within(settings, shared, number, &self.stopping) {
                Ok(spare) => {
                    let mut slot = lock(&self.slot);
                    slot.failed = None;
                    slot.ready = Some(spare);
                    drop(slot);
                    // Last, so that whoever sees no reason finds the segment.
                    shared.set_segments_reason(None);
                }
                Err(reason) => {
                    shared.set_segments_reason(Some(&reason));
                    lock(&self.slot).failed = Some(reason.into());
                }
            }
            self.changed.notify_all();
            if self.rest() {
                return;
            }
        }
    }

    /// Waits until another segment is to be made, or says that the store closes.
    fn rest(&self) -> bool {
        let mut slot = lock(&self.slot);
        loop {
            if slot.closing {
                return true;
            }
            if slot.failed.is_some() {
                let waited = self.changed.wait_timeout(slot, RETRY);
                slot = waited.unwrap_or_else(PoisonError::into_inner).0;
                return slot.closing;
            }
            if slot.ready.is_none() {
                return false;
            }
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn make_within(
    settings: &Settings,
    shared: &Shared,
    number: u64,
    stopping: &AtomicBool,
) -> Result<Spare, String> {
    let bytes = shared.bytes.load(Ordering::Acquire);
    let max = settings.ledger_bytes_max;
    if bytes.saturating_add(settings.segment_bytes) > max {
        return Err(format!("the ledger has {bytes} bytes of the {max} it may have"));
    }
    let folder = segment::folder(&settings.dir);
    let path = folder.join(format!("{PREFIX}{number}.tmp"));
    let made = enough_room(&folder, settings.segment_bytes);
    match made.and_then(|()| write_zeros(&path, settings.segment_bytes, stopping)) {
        Ok(file) => {
            shared.bytes.fetch_add(settings.segment_bytes, Ordering::AcqRel);
            Ok(Spare { path, file, bytes: settings.segment_bytes })
        }
        Err(error) => {
            let _ = std::fs::remove_file(&path);
            let folder = folder.display();
            Err(format!("the ledger's next segment cannot be made in {folder}: {error}"))
        }
    }
}

/// Fails where a file system says that it has not so many bytes free: each attempt would otherwise take, for a
/// moment, what little the index and the books still have.
fn enough_room(folder: &Path, bytes: u64) -> io::Result<()> {
    fault::point("segment-make")?;
    let known = rustix::fs::statvfs(folder)?;
    let free = known.f_bavail.saturating_mul(known.f_frsize);
    // One that keeps no account of its blocks says that it has none at all.
    if known.f_blocks > 0 && free < bytes {
        let error: io::Error = Errno::NOSPC.into();
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!("{error}: {bytes} bytes are needed and {free} are free"),
        ));
    }
    Ok(())
}

fn write_zeros(path: &Path, bytes: u64, stopping: &AtomicBool) -> io::Result<File> {
    let file = create(path)?;
    let zeros = vec![0; CHUNK_BYTES.min(narrow(bytes))];
    let mut at = 0;
    while at < bytes {
        if stopping.load(Ordering::Acquire) {
            return Err(io::Error::other("the store is closing"));
        }
        let chunk = zeros.get(..narrow(bytes - at).min(zeros.len())).unwrap_or_default();
        fault::point("segment-write")?;
        file.write_all_at(chunk, at)?;
        at += wide(chunk.len());
    }
    fault::point("segment-sync")?;
    file.sync_all()?;
    Ok(file)
}

/// A segment for the start-up path: its space is certain, its zeros are the file system's word.
pub(crate) fn make_quickly(dir: &Path, bytes: u64) -> io::Result<Spare> {
    let path = segment::folder(dir).join(format!("{PREFIX}0.tmp"));
    let file = create(&path)?;
    let allocated = match fault::point("open-make") {
        Ok(()) => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    match allocated {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes)?,
        Err(error) => {
            let _ = std::fs::remove_file(&path);
            return Err(error.into());
        }
    }
    Ok(Spare { path, file, bytes })
}

fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).open(path)
}

/// Removes what an earlier process made ahead and did not use.
pub(crate) fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(segment::folder(dir))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(PREFIX) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
