//! A limit's identity: a digest over all that makes its counters what they are, the same in every version.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::policy::{CalendarUnit, LabelMatch, Limit, Unit, Window};
use crate::time::Timestamp;

/// Writes values so that no two different sequences of them write the same bytes.
struct Encoding(SipHasher13);

impl Encoding {
    fn number(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.write(text.as_bytes());
    }

    fn texts<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a str>) {
        self.number(texts.len() as u64);
        texts.for_each(|text| self.text(text));
    }

    /// The order of keys and of values means nothing, so it makes no difference.
    fn matches(&mut self, matches: &[LabelMatch]) {
        let mut matches: Vec<&LabelMatch> = matches.iter().collect();
        matches.sort_by(|a, b| a.key.cmp(&b.key));
        self.number(matches.len() as u64);
        for entry in matches {
            let mut values: Vec<&str> = entry.values.iter().map(|value| &**value).collect();
            values.sort_unstable();
            values.dedup();
            self.text(&entry.key);
            self.texts(values.into_iter());
        }
    }

    fn instant(&mut self, instant: Option<Timestamp>) {
        self.number(u64::from(instant.is_some()));
        self.0.write(&instant.unwrap_or_default().0.to_le_bytes());
    }

    fn window(&mut self, window: &Window) {
        match window {
            Window::Open => self.number(0),
            Window::Request => self.number(1),
            Window::Fixed(length) => {
                self.number(2);
                self.number(length.0);
            }
            Window::Calendar(unit, zone) => {
                self.number(3);
                self.calendar(*unit);
                self.zone(zone);
            }
            Window::Total { from, until } => {
                self.number(4);
                self.instant(*from);
                self.instant(*until);
            }
        }
    }

    /// A month that starts on its first day is written as it was before months could start on another.
    fn calendar(&mut self, unit: CalendarUnit) {
        let (number, anchors) = match unit {
            CalendarUnit::Hour => (1, [None, None]),
            CalendarUnit::Day => (2, [None, None]),
            CalendarUnit::Month { starts_on: 1 } => (3, [None, None]),
            CalendarUnit::Month { starts_on } => (4, [None, Some(starts_on)]),
            CalendarUnit::Week { starts_on } => (5, [None, Some(starts_on)]),
            CalendarUnit::Quarter { starts_in, starts_on } => {
                (6, [Some(starts_in), Some(starts_on)])
            }
            CalendarUnit::Year { starts_in, starts_on } => (7, [Some(starts_in), Some(starts_on)]),
        };
        self.number(number);
        for anchor in anchors.into_iter().flatten() {
            self.number(u64::from(anchor.unsigned_abs()));
        }
    }

    fn zone(&mut self, zone: &jiff::tz::TimeZone) {
        self.text(zone.iana_name().unwrap_or_default());
        let fixed = zone.to_fixed_offset().map_or(0, |offset| i64::from(offset.seconds()));
        self.0.write(&fixed.to_le_bytes());
    }
}

impl Limit {
    /// A digest over name, match, except, scope and window. Amounts are not part of it: editing them keeps
    /// what was counted.
    pub fn identity(&self) -> u64 {
        let mut encoding = Encoding(SipHasher13::new());
        encoding.text(&self.name);
        encoding.matches(&self.matches);
        encoding.matches(&self.except);
        encoding.texts(self.scope.iter().map(|key| &**key));
        encoding.window(&self.window);
        encoding.0.finish()
    }

    /// The parts of which another limit of the same name has others, by their names in a policy file: those
    /// that make up an identity.
    pub(crate) fn parts_changed(&self, other: &Self) -> Vec<&'static str> {
        let digest = |write: &dyn Fn(&mut Encoding)| {
            let mut encoding = Encoding(SipHasher13::new());
            write(&mut encoding);
            encoding.0.finish()
        };
        let parts = |limit: &Self| {
            let scope: Vec<&str> = limit.scope.iter().map(|key| &**key).collect();
            [
                ("window", digest(&|encoding| encoding.window(&limit.window))),
                ("scope", digest(&|encoding| encoding.texts(scope.iter().copied()))),
                ("match", digest(&|encoding| encoding.matches(&limit.matches))),
                ("except", digest(&|encoding| encoding.matches(&limit.except))),
            ]
        };
        let pairs = parts(self).into_iter().zip(parts(other));
        pairs.filter(|(one, two)| one != two).map(|((name, _), _)| name).collect()
    }
}

/// What tells the counters of a limit's one unit from those of every other limit and unit.
pub(crate) fn of_unit(identity: u64, unit: Unit) -> u64 {
    // Asked for on the way to each grant, so it must be cheap: identities are spread already.
    identity ^ u64::from(unit as u8).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
