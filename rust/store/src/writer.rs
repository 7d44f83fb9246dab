//! The writer: entries into the turn's buffer, one write per turn, the change from segment to segment.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bursar_quota::{Event, Timestamp};

use crate::codec;
use crate::crash;
use crate::fault;
use crate::frame::{self, FRAME_BYTES};
use crate::intern::{Interner, Symbols};
use crate::number::{narrow, wide};
use crate::read::{Loaded, Offsets};
use crate::segment::{self, Digest, HEADER_BYTES, Header, Holder, Segment};
use crate::shared::{Poisoned, Shared};
use crate::spare::{Spare, Spares};
use crate::sync::Syncer;

/// The most bytes of a segment that are kept for settlements.
const KEPT_BYTES_MAX: u64 = 1 << 20;

/// More than the entry of any settlement takes, whose lines and labels are bounded.
const SETTLEMENT_BYTES_MAX: u64 = 64 << 10;

/// The segment that is being written.
pub(crate) struct Active {
    /// The file and its header.
    pub(crate) segment: Arc<Segment>,
    /// Where the next entry goes, those in the turn's buffer included.
    pub(crate) end: u64,
    /// What it has defined.
    pub(crate) interner: Interner,
    /// The digest over its entries.
    pub(crate) digest: Digest,
    /// Where some of its entries are.
    pub(crate) offsets: Offsets,
}

/// Bytes of a turn that go to one segment.
struct Chunk {
    segment: Arc<Segment>,
    offset: u64,
    bytes: Vec<u8>,
    first_sequence: u64,
    through: u64,
    /// Where the file lies before it is renamed to the segment's path.
    spare_path: Option<PathBuf>,
}

/// What writes the ledger.
pub(crate) struct Writer {
    dir: PathBuf,
    holder: Holder,
    shared: Arc<Shared>,
    spares: Arc<Spares>,
    syncer: Arc<Syncer>,
    active: Active,
    pending: Vec<Chunk>,
    /// The buffer of the last turn, kept for the next.
    buffer: Vec<u8>,
    next_sequence: u64,
    /// Bytes of the active segment that are kept for settlements until another segment follows for certain.
    kept_bytes: u64,
    /// Bytes of it that one settlement may take: with less than that not even one is accepted.
    last_bytes: u64,
}

/// What a writer is put together from.
pub(crate) struct Parts {
    /// The store's folder.
    pub(crate) dir: PathBuf,
    /// Positions and failures.
    pub(crate) shared: Arc<Shared>,
    /// Segments made ahead.
    pub(crate) spares: Arc<Spares>,
    /// The sync thread.
    pub(crate) syncer: Arc<Syncer>,
    /// Where to go on.
    pub(crate) active: Active,
    /// The number of the next entry.
    pub(crate) next_sequence: u64,
    /// The usual length of a segment.
    pub(crate) segment_bytes: u64,
}

/// A segment that was left, with what readers need of it.
pub(crate) type Left = (u64, Loaded);

impl Writer {
    /// Goes on after opening.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            dir: parts.dir,
            holder: parts.active.segment.header.holder,
            shared: parts.shared,
            spares: parts.spares,
            syncer: parts.syncer,
            active: parts.active,
            pending: Vec::new(),
            buffer: Vec::new(),
            next_sequence: parts.next_sequence,
            kept_bytes: (parts.segment_bytes / 4).min(KEPT_BYTES_MAX),
            last_bytes: (parts.segment_bytes / 16).min(SETTLEMENT_BYTES_MAX),
        }
    }

    /// The last sequence given.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// The segment that is being written.
    pub(crate) fn active(&self) -> &Active {
        &self.active
    }

    /// Whether the active segment has no place for a settlement and no other follows it. Once it has no more
    /// than what is kept, this waits while the next one is being made: so that is not used up before it is
    /// known to be needed.
    pub(crate) fn exhausted(&self) -> bool {
        self.left() < self.kept_bytes && !self.spares.available() && self.left() < self.last_bytes
    }

    /// Whether an entry of so many bytes has a place that is not kept for settlements; waits while one is being
    /// made.
    pub(crate) fn has_place(&self, bytes: u64) -> bool {
        bytes.saturating_add(self.kept_bytes) <= self.left() || self.spares.available()
    }

    fn left(&self) -> u64 {
        self.active.segment.capacity.saturating_sub(self.active.end)
    }

    /// Puts an event into the turn's buffer; gives its sequence and, if a segment was left for it, that.
    pub(crate) fn append(&mut self, instant: Timestamp, event: &Event) -> (u64, Option<Left>) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let mut body = codec::encode(&mut self.active.interner, sequence, instant, event);
        let mut left = None;
        let length = wide(body.len() + FRAME_BYTES);
        let empty = self.active.end <= HEADER_BYTES;
        if self.active.end + length > self.active.segment.capacity
            || (self.active.interner.full() && !empty && self.spares.available())
        {
            match self.change_segment(sequence) {
                Ok(leaving) => left = Some(leaving),
                Err(reason) => {
                    self.shared.poison(&format!("entry {sequence} has no place: {reason}"));
                    return (sequence, None);
                }
            }
            body = codec::encode(&mut self.active.interner, sequence, instant, event);
            let length = wide(body.len() + FRAME_BYTES);
            let capacity = self.active.segment.capacity;
            if self.active.end + length > capacity {
                let reason = format!("an entry of {length} bytes fits no segment of {capacity}");
                self.shared.poison(&reason);
                return (sequence, left);
            }
        }
        self.put(sequence, instant, &body);
        (sequence, left)
    }

    fn put(&mut self, sequence: u64, instant: Timestamp, body: &[u8]) {
        if self.pending.is_empty() {
            self.pending.push(Chunk {
                segment: self.active.segment.clone(),
                offset: self.active.end,
                bytes: std::mem::take(&mut self.buffer),
                first_sequence: sequence,
                through: sequence,
                spare_path: None,
            });
        }
        let Some(chunk) = self.pending.last_mut() else { return };
        let at = chunk.bytes.len();
        let durable = self.shared.durable();
        let id = chunk.segment.header.id;
        frame::put(&mut chunk.bytes, id, (sequence, instant), durable, body);
        chunk.through = sequence;
        let frame = chunk.bytes.get(at..).unwrap_or_default();
        self.active.digest.take(frame);
        self.active.offsets.note(sequence, self.active.end);
        // Only a panic is asked for here.
        let _ = fault::point("append");
        self.active.end += wide(frame.len());
        crash::point("append");
    }

    /// Leaves the active segment for the next one, which begins with the sequence.
    fn change_segment(&mut self, sequence: u64) -> Result<Left, String> {
        let spare = self.spares.take().map_err(|reason| reason.to_string())?;
        let before = &self.active.segment.header;
        let header = Header {
            holder: self.holder,
            id: draw_id().map_err(|error| format!("/dev/urandom cannot be read: {error}"))?,
            epoch: before.epoch,
            first_sequence: sequence,
            digest_before: self.active.digest.value(),
        };
        let first_before = before.first_sequence;
        let (active, spare_path) = begin(spare, header, segment::path_of(&self.dir, sequence));
        self.pending.push(Chunk {
            segment: active.segment.clone(),
            offset: 0,
            bytes: header.encode(),
            first_sequence: sequence,
            through: sequence,
            spare_path: Some(spare_path),
        });
        let left = std::mem::replace(&mut self.active, active);
        let loaded = Loaded {
            symbols: Arc::new(left.interner.into_symbols()),
            offsets: Arc::new(left.offsets),
        };
        Ok((first_before, loaded))
    }

    /// Writes out the turn.
    ///
    /// # Errors
    /// When a write fails or is short, now or before.
    pub(crate) fn flush(&mut self) -> Result<u64, Poisoned> {
        self.shared.check()?;
        for mut chunk in std::mem::take(&mut self.pending) {
            crash::point("write");
            if let Err(error) = write(&self.shared, &chunk) {
                self.shared.poison(&format!("a write to the ledger failed: {error}"));
                return self.shared.check().map(|()| chunk.through);
            }
            crash::point("written");
            let renamed = chunk.spare_path.is_some();
            self.shared.written.store(chunk.through, Ordering::Release);
            self.syncer.written(&chunk.segment, chunk.through, renamed);
            chunk.bytes.clear();
            self.buffer = chunk.bytes;
        }
        Ok(self.shared.written.load(Ordering::Acquire))
    }

    /// The bytes of the turn's buffer that hold a sequence, with its segment's id.
    pub(crate) fn pending(&self, sequence: u64) -> Option<(&[u8], u64)> {
        let chunk = self
            .pending
            .iter()
            .find(|chunk| (chunk.first_sequence..=chunk.through).contains(&sequence))?;
        let header = if chunk.spare_path.is_some() { narrow(HEADER_BYTES) } else { 0 };
        Some((chunk.bytes.get(header..)?, chunk.segment.header.id))
    }
}

#[cfg(test)]
impl Writer {
    /// From here on no write to the active segment succeeds.
    pub(crate) fn break_file(&mut self) {
        let Segment { path, header, capacity, .. } = &*self.active.segment;
        let (path, header, capacity) = (path.clone(), *header, *capacity);
        let file = std::fs::File::open(&path).unwrap();
        self.active.segment = Arc::new(Segment { path, file, header, capacity });
    }
}

fn write(shared: &Shared, chunk: &Chunk) -> io::Result<()> {
    fault::point("write")?;
    let halved = fault::point("write-short").is_err();
    let bytes = chunk.bytes.get(..if halved { chunk.bytes.len() / 2 } else { chunk.bytes.len() });
    let bytes = bytes.unwrap_or_default();
    let written =
        rustix::io::retry_on_intr(|| rustix::io::pwrite(&chunk.segment.file, bytes, chunk.offset))?;
    if written < chunk.bytes.len() {
        let wanted = chunk.bytes.len();
        return Err(io::Error::other(format!("{written} of {wanted} bytes were taken")));
    }
    if let Some(spare_path) = &chunk.spare_path {
        crash::point("change-write");
        fault::point("rename")?;
        std::fs::rename(spare_path, &chunk.segment.path)?;
        crash::point("change-rename");
    }
    // From here on the entries are the ledger's.
    debug_assert!(shared.written.load(Ordering::Acquire) < chunk.through);
    Ok(())
}

/// Makes a file of zeros the segment that is written next; gives where it lies until it is renamed.
pub(crate) fn begin(spare: Spare, header: Header, path: PathBuf) -> (Active, PathBuf) {
    let segment = Segment { path, file: spare.file, header, capacity: spare.bytes };
    let active = Active {
        segment: Arc::new(segment),
        end: HEADER_BYTES,
        interner: Interner::resume(Symbols::default()),
        digest: Digest::default(),
        offsets: Offsets::default(),
    };
    (active, spare.path)
}

/// A new segment's id.
pub(crate) fn draw_id() -> io::Result<u64> {
    segment::draw().map(|bits| u64::try_from(bits >> 64).unwrap_or_default())
}
