//! Reading a ledger's entries in order, from the files alone: for the follower, for scans, for proofs.

use std::fs::File;
use std::path::{Path, PathBuf};

use bursar_quota::{Event, Timestamp};

use crate::codec;
use crate::frame::{self, Found};
use crate::intern::Symbols;
use crate::number::{narrow, wide};
use crate::read::{self, ReadError};
use crate::segment::{self, Digest, HEADER_BYTES, Header, Listed};

/// How much is read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// An entry with its number and instant.
pub(crate) type Entry = (u64, Timestamp, Event);

/// A place in a ledger from which it is read on.
pub(crate) struct Tail {
    dir: PathBuf,
    next_sequence: u64,
    current: Option<Current>,
}

/// The segment that is being read.
struct Current {
    path: PathBuf,
    file: File,
    header: Header,
    offset: u64,
    symbols: Symbols,
    digest: Digest,
    /// The first sequence of the segment behind it, if there was one when this one was opened.
    limit: Option<u64>,
    window: Vec<u8>,
    window_at: u64,
}

/// What lies where a segment is read on.
enum Next {
    /// An entry; none if it was only read for what it defines.
    Entry(Option<Entry>),
    /// Nothing whole.
    Nothing,
}

impl Tail {
    /// Begins after an entry.
    pub(crate) fn after(dir: &Path, sequence: u64) -> Self {
        Self { dir: dir.into(), next_sequence: sequence + 1, current: None }
    }

    /// The next entries up to a sequence, of about so many bytes; none when there is no whole one left.
    ///
    /// # Errors
    /// When a file cannot be read, or is broken where a further one follows it.
    pub(crate) fn batch(&mut self, through: u64, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        let mut out = Vec::new();
        let mut bytes = 0;
        while self.next_sequence <= through && bytes < bytes_max {
            if self.current.is_none() && !self.advance()? {
                break;
            }
            let wanted = self.next_sequence;
            let Some(current) = &mut self.current else { break };
            let before = current.offset;
            let at_limit = current.limit == Some(wanted);
            let next = if at_limit { Next::Nothing } else { current.next(wanted)? };
            match next {
                Next::Entry(Some(entry)) => {
                    bytes += current.offset - before;
                    self.next_sequence += 1;
                    out.push(entry);
                }
                Next::Entry(None) => {}
                Next::Nothing if self.advance()? => {}
                Next::Nothing => break,
            }
        }
        Ok(out)
    }

    /// Goes to the segment of the next entry; false if there is none yet.
    fn advance(&mut self) -> Result<bool, ReadError> {
        let folder = segment::folder(&self.dir);
        let (listed, _) =
            segment::list(&self.dir).map_err(|error| read::io_error(&folder, error))?;
        let wanted = self.next_sequence;
        let after = listed.partition_point(|one| one.first_sequence <= wanted);
        let Some(found) = after.checked_sub(1).and_then(|at| listed.get(at)) else {
            return match listed.first() {
                Some(first) => Err(broken(&first.path, 0, wanted)),
                None => Ok(false),
            };
        };
        let limit = listed.get(after).map(|next| next.first_sequence);
        if let Some(current) = &mut self.current {
            if found.first_sequence == current.header.first_sequence {
                if limit.is_some() && current.limit.is_some() {
                    return Err(broken(&current.path, current.offset, wanted));
                }
                // Another segment was begun since this one was opened: by now this one is whole.
                current.limit = limit;
                return Ok(limit.is_some());
            }
            let follows = found.header.is_none_or(|header| {
                header.digest_before == current.digest.value() && found.first_sequence == wanted
            });
            if !follows {
                return Err(broken(&found.path, 0, wanted));
            }
        }
        match Current::open(found, limit)? {
            Some(current) => self.current = Some(current),
            None if limit.is_some() => return Err(broken(&found.path, 0, wanted)),
            None => return Ok(false),
        }
        Ok(true)
    }
}

impl Current {
    fn open(listed: &Listed, limit: Option<u64>) -> Result<Option<Self>, ReadError> {
        if let Some(got) = listed.other_format {
            return Err(ReadError::Format { path: listed.path.clone(), got });
        }
        let Some(header) = listed.header else { return Ok(None) };
        let file = File::open(&listed.path).map_err(|error| read::io_error(&listed.path, error))?;
        Ok(Some(Self {
            path: listed.path.clone(),
            file,
            header,
            offset: HEADER_BYTES,
            symbols: Symbols::default(),
            digest: Digest::default(),
            limit,
            window: Vec::new(),
            window_at: 0,
        }))
    }

    fn next(&mut self, wanted: u64) -> Result<Next, ReadError> {
        self.fill()?;
        let inside = narrow(self.offset - self.window_at);
        let Found::Entry(frame) = frame::at(&self.window, inside, self.header.id) else {
            // It may be half written: the next look is at the file again.
            self.window = Vec::new();
            return Ok(Next::Nothing);
        };
        let sequence = frame.sequence;
        if sequence > wanted {
            return Err(broken(&self.path, self.offset, wanted));
        }
        let wrong = |error| read::codec_error(&self.path, sequence, error);
        let body = codec::parse(frame.body).map_err(wrong)?;
        self.symbols.define(&body).map_err(wrong)?;
        self.digest.take(frame.bytes);
        self.offset += frame.length();
        if sequence < wanted {
            return Ok(Next::Entry(None));
        }
        let event = codec::decode(&self.symbols, sequence, frame.instant, body).map_err(wrong)?;
        Ok(Next::Entry(Some((sequence, frame.instant, event))))
    }

    /// Sees to it that the window holds the whole entry at the offset, as far as the file has it.
    fn fill(&mut self) -> Result<(), ReadError> {
        let inside = narrow(self.offset.saturating_sub(self.window_at));
        let length = frame::number_32(&self.window, inside).map_or(0, u64::from);
        let whole = length > 0 && wide(inside) + length <= wide(self.window.len());
        if whole {
            return Ok(());
        }
        let read = |length| {
            read::read_at(&self.file, self.offset, length)
                .map_err(|error| read::io_error(&self.path, error))
        };
        let mut window = read(WINDOW_BYTES)?;
        let length = frame::number_32(&window, 0).map_or(0, u64::from);
        if length > wide(window.len()) && wide(window.len()) == WINDOW_BYTES {
            let rest = self.file.metadata().map_err(|error| read::io_error(&self.path, error))?;
            window = read(length.min(rest.len().saturating_sub(self.offset)))?;
        }
        (self.window, self.window_at) = (window, self.offset);
        Ok(())
    }
}

fn broken(path: &Path, offset: u64, sequence: u64) -> ReadError {
    ReadError::Broken { path: path.into(), offset, sequence }
}

/// Reads every whole entry from a sequence on, in order, without a lock: also while a sidecar writes, up to
/// the entry it is writing.
///
/// # Errors
/// When a file cannot be read, or is broken where a further one follows it.
pub fn scan(
    dir: &Path,
    from: u64,
    mut each: impl FnMut(u64, Timestamp, &Event),
) -> Result<(), ReadError> {
    let mut tail = Tail::after(dir, from.max(1) - 1);
    loop {
        let batch = tail.batch(u64::MAX, WINDOW_BYTES)?;
        if batch.is_empty() {
            return Ok(());
        }
        for (sequence, instant, event) in &batch {
            each(*sequence, *instant, event);
        }
    }
}
