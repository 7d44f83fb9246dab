//! Reading: one entry by its sequence, and a segment from its beginning.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bursar_quota::{Event, Timestamp};

use crate::codec::{self, CodecError};
use crate::fault;
use crate::frame::{self, Found, Frame};
use crate::intern::Symbols;
use crate::number::{narrow, wide};
use crate::segment::{self, HEADER_BYTES};

/// How far apart the entries are whose places are kept.
const OFFSETS_EVERY_BYTES: u64 = 64 << 10;

/// The most segments whose symbols are kept for reading.
const LOADED_MAX: usize = 8;

/// The most symbols kept for reading, of all segments.
const LOADED_SYMBOLS_MAX: usize = 1 << 20;

/// An entry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The ledger has no entry of that number.
    #[error("the ledger has no entry {0}")]
    Absent(u64),
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What lies there is no whole entry.
    #[error("{path} is broken at byte {offset}: entry {sequence} was expected")]
    Broken {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Which entry was expected.
        sequence: u64,
    },
    /// The segment was written by another version.
    #[error("{path} has format {got}, this version reads {}", segment::VERSION)]
    Format {
        /// The segment.
        path: PathBuf,
        /// Its format.
        got: u32,
    },
    /// The entry is whole and means nothing.
    #[error("entry {sequence} in {path}: {error}")]
    Codec {
        /// The segment.
        path: PathBuf,
        /// Its number.
        sequence: u64,
        /// What is wrong with it.
        error: CodecError,
    },
}

/// Where some entries of a segment are: one for each [`OFFSETS_EVERY_BYTES`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Offsets(Vec<(u64, u64)>);

impl Offsets {
    /// Takes where an entry is, if it is far enough from the last one taken.
    pub(crate) fn note(&mut self, sequence: u64, offset: u64) {
        if self.0.last().is_none_or(|(_, last)| offset >= last + OFFSETS_EVERY_BYTES) {
            self.0.push((sequence, offset));
        }
    }

    /// The last known place at or before an entry's.
    pub(crate) fn before(&self, sequence: u64) -> u64 {
        let at = self.0.partition_point(|(known, _)| *known <= sequence);
        at.checked_sub(1).and_then(|at| self.0.get(at)).map_or(HEADER_BYTES, |(_, offset)| *offset)
    }
}

/// What reading a segment's entries needs.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// All it defines.
    pub(crate) symbols: Arc<Symbols>,
    /// Where some of its entries are.
    pub(crate) offsets: Arc<Offsets>,
}

/// The segments read last, by first sequence, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct Cache(Vec<(u64, Loaded)>);

impl Cache {
    /// What is kept of a segment, which is then the last to go.
    pub(crate) fn get(&mut self, first_sequence: u64) -> Option<Loaded> {
        let at = self.0.iter().position(|(first, _)| *first == first_sequence)?;
        let entry = self.0.remove(at);
        let loaded = entry.1.clone();
        self.0.push(entry);
        Some(loaded)
    }

    /// Keeps a segment's symbols, within the bounds.
    pub(crate) fn put(&mut self, first_sequence: u64, loaded: Loaded) {
        self.0.push((first_sequence, loaded));
        let symbols = |all: &[(u64, Loaded)]| -> usize {
            all.iter().map(|(_, loaded)| loaded.symbols.len()).sum()
        };
        while self.0.len() > 1
            && (self.0.len() > LOADED_MAX || symbols(&self.0) > LOADED_SYMBOLS_MAX)
        {
            self.0.remove(0);
        }
    }
}

/// The next entry of a segment's bytes; none where they end, for whatever reason.
pub(crate) fn entry_at(bytes: &[u8], offset: u64, segment: u64) -> Option<Frame<'_>> {
    match frame::at(bytes, narrow(offset), segment) {
        Found::Entry(frame) => Some(frame),
        Found::End | Found::Short | Found::Bad => None,
    }
}

/// Reads a segment from its beginning to learn what it defines and where its entries are.
pub(crate) fn load(path: &Path, segment: u64) -> Result<Loaded, ReadError> {
    let bytes = fault::point("read").and_then(|()| std::fs::read(path));
    let bytes = bytes.map_err(|error| io_error(path, error))?;
    let (mut symbols, mut offsets) = (Symbols::default(), Offsets::default());
    let mut offset = HEADER_BYTES;
    while let Some(frame) = entry_at(&bytes, offset, segment) {
        codec::parse(frame.body)
            .and_then(|body| symbols.define(&body))
            .map_err(|error| codec_error(path, frame.sequence, error))?;
        offsets.note(frame.sequence, offset);
        offset += frame.length();
    }
    Ok(Loaded { symbols: Arc::new(symbols), offsets: Arc::new(offsets) })
}

/// Finds an entry in a file and decodes it.
pub(crate) fn find(
    (file, path): (&File, &Path),
    segment: u64,
    sequence: u64,
    (symbols, offsets): (&Symbols, &Offsets),
) -> Result<(Timestamp, Event), ReadError> {
    let mut at = offsets.before(sequence);
    let mut window = OFFSETS_EVERY_BYTES;
    loop {
        let bytes = fault::point("read").and_then(|()| read_at(file, at, window));
        let bytes = bytes.map_err(|error| io_error(path, error))?;
        let mut inside = 0;
        while let Found::Entry(frame) = frame::at(&bytes, inside, segment) {
            match frame.sequence.cmp(&sequence) {
                Ordering::Less => inside += frame.bytes.len(),
                Ordering::Equal => return decode(path, symbols, &frame),
                Ordering::Greater => return Err(ReadError::Absent(sequence)),
            }
        }
        let broken = ReadError::Broken { path: path.into(), offset: at + wide(inside), sequence };
        match frame::number_32(&bytes, inside).map(u64::from) {
            Some(0) => return Err(ReadError::Absent(sequence)),
            Some(length) if wide(inside) + length <= wide(bytes.len()) => return Err(broken),
            None if wide(bytes.len()) < window => return Err(ReadError::Absent(sequence)),
            Some(_) if wide(bytes.len()) < window => return Err(broken),
            length => window = window.max(length.unwrap_or(0)),
        }
        at += wide(inside);
    }
}

/// Finds an entry among the bytes of a turn.
pub(crate) fn find_pending(
    bytes: &[u8],
    segment: u64,
    sequence: u64,
    symbols: &Symbols,
) -> Result<(Timestamp, Event), ReadError> {
    let mut offset = 0;
    while let Some(frame) = entry_at(bytes, offset, segment) {
        if frame.sequence == sequence {
            return decode(Path::new("the turn's buffer"), symbols, &frame);
        }
        offset += frame.length();
    }
    Err(ReadError::Absent(sequence))
}

/// The event of an entry whose segment's symbols are known.
pub(crate) fn decode(
    path: &Path,
    symbols: &Symbols,
    frame: &Frame<'_>,
) -> Result<(Timestamp, Event), ReadError> {
    codec::parse(frame.body)
        .and_then(|body| codec::decode(symbols, frame.sequence, frame.instant, body))
        .map(|event| (frame.instant, event))
        .map_err(|error| codec_error(path, frame.sequence, error))
}

/// Up to so many bytes from an offset; fewer at the end of the file.
pub(crate) fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; narrow(length)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + wide(filled)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// An error of a segment's file.
pub(crate) fn io_error(path: &Path, error: io::Error) -> ReadError {
    ReadError::Io { path: path.into(), error }
}

/// An entry that means nothing.
pub(crate) fn codec_error(path: &Path, sequence: u64, error: CodecError) -> ReadError {
    ReadError::Codec { path: path.into(), sequence, error }
}
