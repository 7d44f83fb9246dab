//! Instants and lengths of time, in milliseconds; always handed in, never asked for.

use std::fmt;

/// An instant: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Milliseconds(pub u64);

impl fmt::Display for Timestamp {
    /// The instant in UTC, as RFC 3339 has it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => instant.fmt(out),
            Err(_) => write!(out, "{} ms since 1970", self.0),
        }
    }
}

impl fmt::Display for Milliseconds {
    /// The span for people, in its two largest units, never shorter than it is: `2 d 23 h`, `38 s`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
        if self.0 < 1_000 {
            return write!(out, "{} ms", self.0);
        }
        let seconds = self.0.div_ceil(1_000);
        let largest =
            UNITS.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
        let (unit, name) = UNITS[largest];
        let Some((smaller, smaller_name)) = UNITS.get(largest + 1) else {
            return write!(out, "{seconds} {name}");
        };
        let rest = (seconds % unit).div_ceil(*smaller);
        match (seconds / unit, rest) {
            (count, 0) => write!(out, "{count} {name}"),
            (count, rest) if rest * smaller == unit => write!(out, "{} {name}", count + 1),
            (count, rest) => write!(out, "{count} {name} {rest} {smaller_name}"),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_worded_in_its_two_largest_units_and_never_shorter_than_it_is() {
        let words = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_001, "2 s"),
            (38_000, "38 s"),
            (60_000, "1 min"),
            (252_000, "4 min 12 s"),
            (3_599_001, "1 h"),
            (3_735_000, "1 h 3 min"),
            (255_000_000, "2 d 23 h"),
            // A day that is all but full is a day more.
            (258_598_174, "3 d"),
        ];
        for (ms, expected) in words {
            assert_eq!(Milliseconds(ms).to_string(), expected, "{ms}");
        }
    }

    #[test]
    fn an_instant_is_worded_in_utc() {
        assert_eq!(Timestamp(1_772_323_200_000).to_string(), "2026-03-01T00:00:00Z");
        assert_eq!(Timestamp(i64::MAX).to_string(), format!("{} ms since 1970", i64::MAX));
    }
}
