//! Locks that one process has, such as that of a store's folder.

use std::fs::File;
use std::io;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// A lock, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Whether the file that is locked is the one that lies there now.
    pub fn is_at(&self, path: &Path) -> bool {
        let here = self.0.metadata().map(|file| (file.dev(), file.ino()));
        let there = std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }
}

/// Why a lock was not had.
#[derive(Debug)]
pub enum LockRefused {
    /// Another process has it, or this one already; its number, if it wrote one.
    Held(Option<u32>),
    /// The system said so.
    Io(io::Error),
}

/// Takes the lock that is a file, made if needed, and writes this process's number into it.
///
/// # Errors
/// When somebody has it, or the file cannot be had.
pub fn lock(path: &Path) -> Result<Lock, LockRefused> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(LockRefused::Io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            return Err(LockRefused::Held(read.ok().and_then(|_| text.trim().parse().ok())));
        }
        Err(error) => return Err(LockRefused::Io(error.into())),
    }
    // It is for whoever is refused to read; on a full disk it may not be had.
    let _ = sign(&mut file);
    Ok(Lock(file))
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
