//! Windows: which span of time holds an instant.

use jiff::ToSpan as _;
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
            Self::Calendar(CalendarUnit::Week { starts_on }, zone) => {
                let first = |date| first_of_week(date, *starts_on);
                dates(zone, at, first, |first| first.checked_add(7.days()).ok())
            }
            Self::Calendar(CalendarUnit::Month { starts_on }, zone) => {
                months(zone, at, 1, (1, *starts_on))
            }
            Self::Calendar(CalendarUnit::Quarter { starts_in, starts_on }, zone) => {
                months(zone, at, 3, (*starts_in, *starts_on))
            }
            Self::Calendar(CalendarUnit::Year { starts_in, starts_on }, zone) => {
                months(zone, at, 12, (*starts_in, *starts_on))
            }
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

/// The last date up to this one on which a week starts.
fn first_of_week(date: Date, starts_on: i8) -> Option<Date> {
    let into = (date.weekday().to_monday_one_offset() - starts_on).rem_euclid(7);
    date.checked_sub(into.days()).ok()
}

/// The span of so many months that holds an instant; they are counted from a month and start on a day.
fn months(
    zone: &TimeZone,
    at: Timestamp,
    length: i32,
    (starts_in, starts_on): (i8, i8),
) -> Option<Span> {
    let first = |date: Date| {
        let begun = if date.day() < starts_on { 1 } else { 0 };
        let month = i32::from(date.year()) * 12 + i32::from(date.month()) - 1 - begun;
        let start = month - (month - (i32::from(starts_in) - 1)).rem_euclid(length);
        let year = i16::try_from(start.div_euclid(12)).ok()?;
        Date::new(year, i8::try_from(start.rem_euclid(12) + 1).ok()?, starts_on).ok()
    };
    // Days up to the 28th are in every month, so this never lands on another day.
    dates(zone, at, first, |first| first.checked_add(length.months()).ok())
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
