//! The frames of a connection as they come in, by their heads alone: whether a first request has come, and
//! whether what comes is a flood of frames that ask for nothing.

use std::time::{Duration, Instant};

/// What every HTTP/2 client says first, in length.
const PREFACE_BYTES: usize = 24;
/// The head of a frame: its length, type, flags and stream.
const HEAD_BYTES: usize = 9;
const TYPE_DATA: u8 = 0;
const TYPE_HEADERS: u8 = 1;
const TYPE_WINDOW_UPDATE: u8 = 8;
const TYPE_CONTINUATION: u8 = 9;
const FLAG_END_STREAM: u8 = 1;
const FLAG_END_HEADERS: u8 = 4;

/// So many frames that ask for nothing, such as resets, pings, settings and empty data, within so long are a
/// flood. The server takes each at little cost, so what this bounds is how much of it one caller gets.
const FLOOD_FRAMES: u32 = 10_000;
const FLOOD_SPAN: Duration = Duration::from_secs(5);

/// What is known of a connection's frames. It is told all bytes as they come, and keeps almost none.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes of the preface or of a frame's body that are still to come.
    skip: usize,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// Whether the frame that is skipped is the last of a request's headers.
    ends_headers: bool,
    asked: bool,
    idle_frames: u32,
    idle_since: Instant,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_len: 0,
            ends_headers: false,
            asked: false,
            idle_frames: 0,
            idle_since: Instant::now(),
        }
    }

    /// Whether a whole request has come: its headers, at least.
    pub(crate) fn asked(&self) -> bool {
        self.asked
    }

    /// Takes the bytes that came; says whether they are a flood.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut floods = false;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            self.asked |= self.skip == 0 && self.ends_headers;
            let Some((byte, rest)) = bytes.split_first() else { return floods };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.head_len) {
                *place = *byte;
                self.head_len += 1;
            }
            if self.head_len == HEAD_BYTES {
                floods |= self.enter();
            }
        }
    }

    /// Goes into the frame whose head is whole; says whether it is one too many.
    fn enter(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.ends_headers =
            matches!(kind, TYPE_HEADERS | TYPE_CONTINUATION) && flags & FLAG_END_HEADERS != 0;
        self.head_len = 0;
        let asks = match kind {
            TYPE_DATA => self.skip > 0 || flags & FLAG_END_STREAM != 0,
            TYPE_HEADERS | TYPE_WINDOW_UPDATE => true,
            _ => false,
        };
        if asks {
            return false;
        }
        self.idle_frames += 1;
        if self.idle_frames < FLOOD_FRAMES {
            return false;
        }
        self.idle_frames = 0;
        std::mem::replace(&mut self.idle_since, Instant::now()).elapsed() < FLOOD_SPAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const TYPE_RST_STREAM: u8 = 3;

    fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], body].concat()
    }

    #[test]
    fn a_request_has_come_with_the_last_byte_of_its_headers_however_they_are_cut() {
        let settings = frame(4, 0, &[0; 6]);
        let headers = frame(TYPE_HEADERS, 0, b"begun");
        let rest = frame(TYPE_CONTINUATION, FLAG_END_HEADERS, b"ended");
        let said = [PREFACE, &settings, &headers, &rest].concat();
        for cut in 1..=said.len() {
            let mut frames = Frames::new();
            let pieces: Vec<_> = said.chunks(cut).collect();
            for (number, piece) in pieces.iter().enumerate() {
                assert!(!frames.asked(), "pieces of {cut}: before piece {number}");
                assert!(!frames.take(piece));
            }
            assert!(frames.asked(), "pieces of {cut}");
        }
    }

    #[test]
    fn empty_headers_are_a_request_and_pings_are_none() {
        let mut frames = Frames::new();
        frames.take(PREFACE);
        frames.take(&frame(6, 1, &[0; 8]).repeat(100));
        assert!(!frames.asked());
        frames.take(&frame(TYPE_HEADERS, FLAG_END_HEADERS, b""));
        assert!(frames.asked());
    }

    #[test]
    fn resets_at_once_are_a_flood_and_calls_are_none() {
        let mut frames = Frames::new();
        frames.take(PREFACE);
        let headers = frame(TYPE_HEADERS, FLAG_END_HEADERS, b"h");
        let call = [headers, frame(TYPE_DATA, FLAG_END_STREAM, b"d")].concat();
        assert!(!frames.take(&call.repeat(20_000)));
        let reset = frame(TYPE_RST_STREAM, 0, &[0; 4]);
        assert!(!frames.take(&reset.repeat(9_999)));
        assert!(frames.take(&reset));
    }
}
