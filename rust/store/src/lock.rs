//! The lock of a store's folder: one process has it.

use std::fs::File;
use std::io;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The lock, held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held, never read")] File);

/// Why the lock was not had.
pub(crate) enum Refused {
    /// Another process has it; its number, if it wrote one.
    Held(Option<u32>),
    /// The system said so.
    Io(io::Error),
}

/// Takes the lock and writes this process's number into it.
pub(crate) fn take(dir: &Path) -> Result<Lock, Refused> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join("lock"))
        .map_err(Refused::Io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            return Err(Refused::Held(read.ok().and_then(|_| text.trim().parse().ok())));
        }
        Err(error) => return Err(Refused::Io(error.into())),
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
