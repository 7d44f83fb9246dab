//! The frame of an entry: length, checksum, sequence, instant, how far the ledger was durable, body.
//!
//! ```text
//! 0       4       8           16          24      28
//! | length| crc   | sequence  | instant   | lag   | body …
//! ```
//!
//! All numbers are little-endian. `length` is that of the whole frame. `crc` is CRC-32C over everything
//! else, seeded with the segment's id, so that bytes of another segment never pass for this one's. `lag` is
//! the sequence less the last one known durable when the entry was made.

use bursar_quota::Timestamp;

use crate::number::{narrow, wide};

/// The bytes before an entry's body.
pub(crate) const FRAME_BYTES: usize = 28;

/// An entry as it lies in a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Its number; without gaps.
    pub(crate) sequence: u64,
    /// When it happened.
    pub(crate) instant: Timestamp,
    /// The last sequence known durable when it was made.
    pub(crate) durable_through: u64,
    /// The encoded `bursar.ledger.v1.Body`.
    pub(crate) body: &'a [u8],
    /// The whole frame.
    pub(crate) bytes: &'a [u8],
}

/// What lies at an offset.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    /// A whole entry whose checksum holds.
    Entry(Frame<'a>),
    /// Length zero, or the end of the bytes: nothing was written here.
    End,
    /// A length that runs past these bytes: broken, or still being written.
    Short,
    /// A frame whose length or checksum is wrong.
    Bad,
}

/// Appends a frame to a buffer.
pub(crate) fn put(
    out: &mut Vec<u8>,
    segment: u64,
    entry: (u64, Timestamp),
    durable_through: u64,
    body: &[u8],
) {
    let (sequence, instant) = entry;
    let at = out.len();
    let length = u32::try_from(FRAME_BYTES + body.len()).unwrap_or(u32::MAX);
    let lag = u32::try_from(sequence.saturating_sub(durable_through)).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&instant.0.to_le_bytes());
    out.extend_from_slice(&lag.to_le_bytes());
    out.extend_from_slice(body);
    if let Some(frame) = out.get_mut(at..) {
        let crc = checksum(segment, frame).to_le_bytes();
        if let Some(field) = frame.get_mut(4..8) {
            field.copy_from_slice(&crc);
        }
    }
}

/// Reads what lies at an offset of a segment's bytes.
pub(crate) fn at(bytes: &[u8], offset: usize, segment: u64) -> Found<'_> {
    let Some(rest) = bytes.get(offset..) else { return Found::End };
    let Some(length) = number_32(rest, 0) else { return Found::End };
    if length == 0 {
        return Found::End;
    }
    let length = narrow(u64::from(length));
    if length < FRAME_BYTES {
        return Found::Bad;
    }
    let Some(frame) = rest.get(..length) else { return Found::Short };
    match parse(frame, segment) {
        Some(frame) => Found::Entry(frame),
        None => Found::Bad,
    }
}

/// The sequence an offset claims, whether or not the rest holds: for looking for entries behind a broken one.
pub(crate) fn claimed_sequence(bytes: &[u8], offset: usize) -> Option<u64> {
    number_64(bytes, offset.checked_add(8)?)
}

fn parse(frame: &[u8], segment: u64) -> Option<Frame<'_>> {
    if number_32(frame, 4)? != checksum(segment, frame) {
        return None;
    }
    let sequence = number_64(frame, 8)?;
    Some(Frame {
        sequence,
        instant: Timestamp(number_64(frame, 16)?.cast_signed()),
        durable_through: sequence.saturating_sub(u64::from(number_32(frame, 24)?)),
        body: frame.get(FRAME_BYTES..)?,
        bytes: frame,
    })
}

/// CRC-32C over the frame without the field itself, seeded with the segment's id.
fn checksum(segment: u64, frame: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&segment.to_le_bytes());
    let length = crc32c::crc32c_append(seed, frame.get(..4).unwrap_or_default());
    crc32c::crc32c_append(length, frame.get(8..).unwrap_or_default())
}

/// The little-endian 32 bits at an offset.
pub(crate) fn number_32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// The little-endian 64 bits at an offset.
pub(crate) fn number_64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

impl Frame<'_> {
    /// The length of the whole frame.
    pub(crate) fn length(&self) -> u64 {
        wide(self.bytes.len())
    }
}
