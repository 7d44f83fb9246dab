//! Instants and lengths of time, in milliseconds; always handed in, never asked for.

/// An instant: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Milliseconds(pub u64);

impl Timestamp {
    /// The instant so much later, or the last one there is.
    pub fn after(self, length: Milliseconds) -> Self {
        Self(self.0.saturating_add_unsigned(length.0))
    }

    /// The instant so much earlier, or the first one there is.
    pub fn before(self, length: Milliseconds) -> Self {
        Self(self.0.saturating_sub_unsigned(length.0))
    }

    /// How long until `later`; zero if it is not later.
    pub fn until(self, later: Self) -> Milliseconds {
        Milliseconds(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}
