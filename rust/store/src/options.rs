//! The settings of a store.

use std::time::Duration;

use bursar_quota::Bounds;

/// The settings of a store; every bound has its name here.
#[derive(Debug, Clone)]
pub struct Options {
    /// The length of a segment, [`Options::SEGMENT_BYTES_MIN`] to [`Options::SEGMENT_BYTES_MAX`]; one entry
    /// must fit into it.
    pub segment_bytes: u64,
    /// The most bytes of all segments together, at least two of them. Nothing is removed yet: once the
    /// bound is reached, reservations are refused and settlements go on in the last segment.
    pub ledger_bytes_max: u64,
    /// The most bytes of the index: address space that is reserved, not memory.
    pub index_bytes_max: u64,
    /// How long something written may stay unsynced when nobody waits for it.
    pub sync_interval: Duration,
    /// How often the index follows.
    pub follow_interval: Duration,
    /// How many bytes of entries the index takes in one transaction.
    pub follow_bytes: u64,
    /// The bounds of what is remembered.
    pub bounds: Bounds,
}

impl Options {
    /// The shortest segment: for tests.
    pub const SEGMENT_BYTES_MIN: u64 = 4 << 10;
    /// The longest segment.
    pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

    /// What is wrong with the settings, if anything.
    pub(crate) fn mistake(&self) -> Option<String> {
        let (min, max) = (Self::SEGMENT_BYTES_MIN, Self::SEGMENT_BYTES_MAX);
        if !(min..=max).contains(&self.segment_bytes) {
            let got = self.segment_bytes;
            return Some(format!("segment_bytes must be {min} to {max} (got {got})"));
        }
        if self.ledger_bytes_max / 2 < self.segment_bytes {
            let got = self.ledger_bytes_max;
            let needed = self.segment_bytes * 2;
            return Some(format!("ledger_bytes_max must be at least {needed} (got {got})"));
        }
        None
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            ledger_bytes_max: 16 << 30,
            index_bytes_max: 64 << 30,
            sync_interval: Duration::from_secs(1),
            follow_interval: Duration::from_secs(2),
            follow_bytes: 8 << 20,
            bounds: Bounds::default(),
        }
    }
}
