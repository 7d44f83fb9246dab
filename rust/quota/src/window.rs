//! Windows: which span of time holds an instant.

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::counter::Span;
use crate::policy::{CalendarUnit, Window};
use crate::time::Timestamp;

const HOUR_MS: i64 = 60 * 60 * 1000;

impl Window {
    /// The span that holds an instant; none where the limit does not apply then.
    ///
    /// A window that counts no span has [`Span::ALWAYS`].
    pub fn span(&self, at: Timestamp) -> Option<Span> {
        match self {
            Self::Open | Self::Request => Some(Span::ALWAYS),
            Self::Fixed(length) => fixed(i64::try_from(length.0).ok()?, at),
            Self::Calendar(CalendarUnit::Hour, zone) => hour(zone, at),
            Self::Calendar(CalendarUnit::Day, zone) => {
                dates(zone, at, Some, |date| date.tomorrow().ok())
            }
            Self::Calendar(CalendarUnit::Month, zone) => dates(
                zone,
                at,
                |date| Some(date.first_of_month()),
                |first| first.last_of_month().tomorrow().ok(),
            ),
            Self::Total { from, until } => {
                let span = Span { start: *from, end: *until };
                span.holds(at).then_some(span)
            }
        }
    }
}

/// The first instant of the hour that holds an instant, as the zone's clocks show it.
pub fn hour_of(zone: &TimeZone, at: Timestamp) -> Timestamp {
    let start = hour(zone, at).and_then(|span| span.start);
    start.unwrap_or_else(|| Timestamp(at.0.saturating_sub(at.0.rem_euclid(HOUR_MS))))
}

fn fixed(length: i64, at: Timestamp) -> Option<Span> {
    let start = at.0.checked_sub(at.0.checked_rem_euclid(length)?)?;
    Some(Span { start: Some(Timestamp(start)), end: Some(Timestamp(start.checked_add(length)?)) })
}

/// An hour ends where the clock's hour does, and where the clock is put forward or back.
fn hour(zone: &TimeZone, at: Timestamp) -> Option<Span> {
    let offset_at = |instant: i64| {
        let instant = jiff::Timestamp::from_millisecond(instant).ok()?;
        Some(zone.to_offset(instant))
    };
    let offset = offset_at(at.0)?;
    let into = at.0.checked_add(i64::from(offset.seconds()) * 1000)?.rem_euclid(HOUR_MS);
    let (mut start, mut end) = (at.0 - into, at.0 - into + HOUR_MS);
    if offset_at(start)? != offset {
        let now = jiff::Timestamp::from_millisecond(at.0 + 1).ok()?;
        let shift = zone.preceding(now).find(|shift| before(zone, shift.timestamp()) != offset)?;
        start = start.max(shift.timestamp().as_millisecond());
    }
    if offset_at(end - 1)? != offset {
        let now = jiff::Timestamp::from_millisecond(at.0).ok()?;
        let shift = zone.following(now).find(|shift| shift.offset() != offset)?;
        end = end.min(shift.timestamp().as_millisecond());
    }
    Some(Span { start: Some(Timestamp(start)), end: Some(Timestamp(end)) })
}

/// The offset in force just before an instant.
fn before(zone: &TimeZone, instant: jiff::Timestamp) -> jiff::tz::Offset {
    let just_before = jiff::Timestamp::from_millisecond(instant.as_millisecond() - 1);
    zone.to_offset(just_before.unwrap_or(instant))
}

/// The span between the first instants of two dates: of the one that `first` makes of the date the clock
/// shows, and of the next. A date that the clock shows again after it was put back past midnight is over
/// when the next one first begins, so that spans never overlap.
fn dates(
    zone: &TimeZone,
    at: Timestamp,
    first: impl Fn(Date) -> Option<Date>,
    next: impl Fn(Date) -> Option<Date>,
) -> Option<Span> {
    let instant = jiff::Timestamp::from_millisecond(at.0).ok()?;
    let mut date = first(zone.to_datetime(instant).date())?;
    let mut start = first_instant(zone, date)?;
    loop {
        date = next(date)?;
        let end = first_instant(zone, date)?;
        if at < end {
            return Some(Span { start: Some(start), end: Some(end) });
        }
        start = end;
    }
}

/// The first instant of a date; of one that is skipped, the first instant after it.
fn first_instant(zone: &TimeZone, date: Date) -> Option<Timestamp> {
    let midnight = date.at(0, 0, 0, 0);
    let instant = match zone.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(midnight).ok()?,
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(midnight).ok()?,
        AmbiguousOffset::Gap { before, .. } => {
            let skipped = before.to_timestamp(midnight).ok()?.as_millisecond();
            let shift = jiff::Timestamp::from_millisecond(skipped + 1).ok()?;
            zone.preceding(shift).next()?.timestamp()
        }
    };
    Some(Timestamp(instant.as_millisecond()))
}
