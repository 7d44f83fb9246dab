//! The survey of a ledger at opening: which entries hold, which are known durable, and where it breaks off.

use std::collections::VecDeque;
use std::path::PathBuf;

use bursar_quota::{Event, State, Timestamp};

use crate::codec;
use crate::frame::{self, Found, Frame};
use crate::intern::Symbols;
use crate::number::narrow;
use crate::open::OpenError;
use crate::read::{self, Offsets};
use crate::segment::{Digest, HEADER_BYTES, Header, Listed};

/// How much is compared with zeros at once.
const ZEROS: [u8; 4096] = [0; 4096];

/// An entry that is not known durable.
pub(crate) struct Unsure {
    /// Its number.
    pub(crate) sequence: u64,
    /// When it happened.
    pub(crate) instant: Timestamp,
    /// What happened.
    pub(crate) event: Event,
    /// Where it is, and what the digest was before it.
    pub(crate) place: Place,
}

/// A place in the ledger.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Which of the surveyed segments.
    pub(crate) segment: usize,
    /// Where in it.
    pub(crate) offset: u64,
    /// The digest of the segment's entries before it; at its beginning, that of the segment before.
    pub(crate) digest: u128,
}

/// What a ledger holds, from the segment that the index does not cover whole.
pub(crate) struct Survey {
    /// The segments, the first one read at the beginning.
    pub(crate) segments: Vec<Listed>,
    /// The last sequence that holds with all before it.
    pub(crate) last_sequence: u64,
    /// The highest sequence that a valid entry, or the index, knows durable.
    pub(crate) durable: u64,
    /// The highest of them that an entry knows.
    pub(crate) durable_by_entries: u64,
    /// Entries that hold and are not known durable, in order.
    pub(crate) unsure: VecDeque<Unsure>,
    /// Where the entries that hold end; none where there is no segment to go on in.
    pub(crate) end: Option<Place>,
    /// Whether nothing but zeros follows.
    pub(crate) clean: bool,
    /// Valid entries found behind a broken one.
    pub(crate) stray: u64,
    /// How many entries were applied.
    pub(crate) applied: u64,
    /// What the last segment defines.
    pub(crate) symbols: Symbols,
    /// Where some of its entries are.
    pub(crate) offsets: Offsets,
    /// The digest over them.
    pub(crate) digest: Digest,
}

impl Survey {
    /// Reads the segments from the one the state's sequence leads into, and applies what the state lacks.
    pub(crate) fn run(mut segments: Vec<Listed>, state: &mut State) -> Result<Self, OpenError> {
        let next = state.sequence() + 1;
        let covered = segments.iter().rposition(|one| one.first_sequence <= next).unwrap_or(0);
        segments.drain(..covered);
        if let Some(first) = segments.first()
            && first.first_sequence > next
        {
            let path = first.path.clone();
            return Err(OpenError::Corrupt { path, offset: 0, sequence: next });
        }
        let mut survey = Self {
            last_sequence: segments.first().map_or(0, |one| one.first_sequence - 1),
            segments,
            durable: state.sequence(),
            durable_by_entries: 0,
            unsure: VecDeque::new(),
            end: None,
            clean: true,
            stray: 0,
            applied: 0,
            symbols: Symbols::default(),
            offsets: Offsets::default(),
            digest: Digest::default(),
        };
        survey.walk(state)?;
        Ok(survey)
    }

    /// The path and the place where the entries that hold end.
    pub(crate) fn end_path(&self) -> (PathBuf, u64) {
        let place = self.end.unwrap_or(Place { segment: 0, offset: 0, digest: 0 });
        let path = self.segments.get(place.segment).map(|listed| listed.path.clone());
        (path.unwrap_or_default(), place.offset)
    }

    fn walk(&mut self, state: &mut State) -> Result<(), OpenError> {
        let segments = self.segments.clone();
        let mut broken = false;
        let mut digest_before = None;
        for (at, listed) in segments.iter().enumerate() {
            let bytes = listed.load().map_err(|error| OpenError::io(&listed.path, error))?;
            let follows = !broken
                && listed.first_sequence == self.last_sequence + 1
                && listed.header.is_some_and(|header| {
                    digest_before.is_none_or(|digest| digest == header.digest_before)
                });
            let Some(header) = listed.header.filter(|_| follows) else {
                self.clean = false;
                if !broken {
                    broken = true;
                    self.end =
                        Some(Place { segment: at, offset: 0, digest: digest_before.unwrap_or(0) });
                }
                if let Some(header) = listed.header {
                    self.salvage(&bytes, HEADER_BYTES, header.id);
                }
                continue;
            };
            let limit = segments.get(at + 1).map(|next| next.first_sequence);
            let (offset, reached) =
                self.segment((at, &header, &listed.path), &bytes, limit, state)?;
            if !reached {
                broken = true;
                self.salvage(&bytes, offset, header.id);
            }
            digest_before = Some(self.digest.value());
        }
        Ok(())
    }

    /// Takes a segment's entries; says where they end and whether the next segment goes on from there.
    fn segment(
        &mut self,
        (at, header, path): (usize, &Header, &std::path::Path),
        bytes: &[u8],
        limit: Option<u64>,
        state: &mut State,
    ) -> Result<(u64, bool), OpenError> {
        (self.symbols, self.offsets, self.digest) = Default::default();
        let mut place = Place { segment: at, offset: HEADER_BYTES, digest: header.digest_before };
        while limit != Some(self.last_sequence + 1) {
            let Found::Entry(frame) = frame::at(bytes, narrow(place.offset), header.id) else {
                break;
            };
            if frame.sequence != self.last_sequence + 1 {
                break;
            }
            self.entry(path, &frame, place, state)?;
            place.offset += frame.length();
            place.digest = self.digest.value();
        }
        self.end = Some(place);
        Ok((place.offset, limit == Some(self.last_sequence + 1)))
    }

    fn entry(
        &mut self,
        path: &std::path::Path,
        frame: &Frame<'_>,
        place: Place,
        state: &mut State,
    ) -> Result<(), OpenError> {
        let sequence = frame.sequence;
        let wrong = |error| OpenError::Read(read::codec_error(path, sequence, error));
        let body = codec::parse(frame.body).map_err(wrong)?;
        self.symbols.define(&body).map_err(wrong)?;
        self.digest.take(frame.bytes);
        self.offsets.note(sequence, place.offset);
        self.last_sequence = sequence;
        self.raise(frame.durable_through);
        if sequence <= state.sequence() {
            return Ok(());
        }
        let event = codec::decode(&self.symbols, sequence, frame.instant, body).map_err(wrong)?;
        state
            .apply(sequence, frame.instant, &event)
            .map_err(|error| OpenError::Apply { sequence, error })?;
        self.applied += 1;
        if sequence > self.durable {
            self.unsure.push_back(Unsure { sequence, instant: frame.instant, event, place });
        }
        Ok(())
    }

    /// Takes note of what an entry knows durable.
    fn raise(&mut self, durable: u64) {
        self.durable_by_entries = self.durable_by_entries.max(durable);
        self.durable = self.durable.max(durable);
        while self.unsure.front().is_some_and(|unsure| unsure.sequence <= self.durable) {
            self.unsure.pop_front();
        }
    }

    /// Looks for valid entries behind the place where a segment broke off: one of them may know that what
    /// is broken was durable.
    fn salvage(&mut self, bytes: &[u8], from: u64, segment: u64) {
        let expected = self.last_sequence + 1;
        let mut at = narrow(from);
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.len() >= ZEROS.len() && rest.starts_with(&ZEROS) {
                // A frame that begins in these zeros has at most three zeros of its length in them.
                at += ZEROS.len() - 3;
                continue;
            }
            self.clean &= rest.iter().take(1).all(|byte| *byte == 0);
            let plausible = frame::claimed_sequence(bytes, at)
                .is_some_and(|claimed| claimed >= expected && claimed - expected < 1 << 32);
            match plausible.then(|| frame::at(bytes, at, segment)) {
                Some(Found::Entry(frame)) => {
                    self.clean = false;
                    self.stray += 1;
                    self.raise(frame.durable_through);
                    at += frame.bytes.len();
                }
                _ => at += 1,
            }
        }
    }
}
