//! Windows of calendars: every instant is in exactly one, whatever the clocks do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

use bursar_quota::{CalendarUnit, Milliseconds, Span, Timestamp, Window, hour_of};
use jiff::tz::TimeZone;
use proptest::prelude::*;

/// Zones with much that is odd: half hours, midnights that are skipped or come twice, days that never were.
const ZONES: [&str; 16] = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Scoresbysund",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "Asia/Kolkata",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
];

const HOUR_MS: i64 = 3_600_000;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn instant(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

fn span(window: &Window, at: Timestamp) -> (Timestamp, Timestamp) {
    let Span { start, end } = window.span(at).unwrap();
    (start.unwrap(), end.unwrap())
}

fn span_of(unit: CalendarUnit, name: &str, at: &str) -> (Timestamp, Timestamp) {
    span(&Window::Calendar(unit, zone(name)), instant(at))
}

fn units() -> impl Strategy<Value = CalendarUnit> {
    prop_oneof![
        Just(CalendarUnit::Hour),
        Just(CalendarUnit::Day),
        (1..=7i8).prop_map(|starts_on| CalendarUnit::Week { starts_on }),
        (1..=28i8).prop_map(|starts_on| CalendarUnit::Month { starts_on }),
        (1..=12i8, 1..=28i8)
            .prop_map(|(starts_in, starts_on)| CalendarUnit::Quarter { starts_in, starts_on }),
        (1..=12i8, 1..=28i8)
            .prop_map(|(starts_in, starts_on)| CalendarUnit::Year { starts_in, starts_on }),
    ]
}

/// An instant from 1900 to 2100, mostly close to where the zone's clocks change.
fn instant_in(zone: &TimeZone, at: i64, by: i64, near: bool) -> Timestamp {
    let instant = jiff::Timestamp::from_millisecond(at).unwrap();
    let change = near.then(|| zone.following(instant).next()).flatten();
    Timestamp(change.map_or(at, |change| change.timestamp().as_millisecond() + by))
}

/// A zone with an instant in it.
fn places() -> impl Strategy<Value = (TimeZone, Timestamp)> {
    let at = prop_oneof![-2_208_988_800_000..4_102_444_800_000i64, 0..1_900_000_000_000i64];
    let by = prop_oneof![-5_400_000..5_400_000i64, -90_000..90_000i64, Just(0), Just(-1)];
    let place = (0..ZONES.len(), at, by, proptest::bool::weighted(0.8));
    place.prop_map(|(name, at, by, near)| {
        let zone = zone(ZONES[name]);
        let at = instant_in(&zone, at, by, near);
        (zone, at)
    })
}

/// Holds what is true of the windows around an instant that tile the line.
fn check_tiles(window: &Window, at: Timestamp) -> Result<(), TestCaseError> {
    let (start, end) = span(window, at);
    prop_assert!(start <= at && at < end);
    prop_assert_eq!(span(window, start), (start, end));
    prop_assert_eq!(span(window, Timestamp(end.0 - 1)), (start, end));
    prop_assert_eq!(span(window, end).0, end);
    prop_assert_eq!(span(window, Timestamp(start.0 - 1)).1, start);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn calendar_windows_tile_the_line(unit in units(), (zone, at) in places()) {
        check_tiles(&Window::Calendar(unit, zone), at)?;
    }

    #[test]
    fn fixed_windows_tile_the_line(length in 1..1_000_000u64, (_, at) in places()) {
        check_tiles(&Window::Fixed(Milliseconds(length * 1000)), at)?;
    }

    #[test]
    fn an_hour_shows_one_hour_of_the_clock_and_never_lasts_longer((zone, at) in places()) {
        let (start, end) = span(&Window::Calendar(CalendarUnit::Hour, zone.clone()), at);
        prop_assert!(end.0 - start.0 <= HOUR_MS);
        let shown = |at: i64| {
            let at = jiff::Timestamp::from_millisecond(at).unwrap();
            let time = zone.to_datetime(at);
            (time.date(), time.hour(), zone.to_offset(at))
        };
        prop_assert_eq!(shown(start.0), shown(end.0 - 1));
        prop_assert_ne!(shown(start.0 - 1), shown(start.0));
        prop_assert_ne!(shown(end.0), shown(end.0 - 1));
        prop_assert_eq!(hour_of(&zone, at), start);
    }
}

#[test]
fn days_have_23_and_25_hours_where_clocks_change() {
    let length = |name, at| {
        let (start, end) = span_of(CalendarUnit::Day, name, at);
        end.0 - start.0
    };
    assert_eq!(length("Europe/Berlin", "2026-03-29T12:00:00Z"), 23 * HOUR_MS);
    assert_eq!(length("Europe/Berlin", "2026-10-25T12:00:00Z"), 25 * HOUR_MS);
    assert_eq!(length("Europe/Berlin", "2026-10-26T12:00:00Z"), 24 * HOUR_MS);
    assert_eq!(length("Australia/Lord_Howe", "2026-04-05T03:00:00Z"), 24 * HOUR_MS + HOUR_MS / 2);
}

#[test]
fn a_day_without_midnight_begins_at_its_first_instant() {
    // Havana's clocks go from 0:00 to 1:00.
    let (start, end) = span_of(CalendarUnit::Day, "America/Havana", "2026-03-08T12:00:00Z");
    assert_eq!((start, end), (instant("2026-03-08T05:00:00Z"), instant("2026-03-09T04:00:00Z")));
    // Toronto's once went from 23:30 to 0:30.
    let (start, _) = span_of(CalendarUnit::Day, "America/Toronto", "1919-03-31T12:00:00Z");
    assert_eq!(start, instant("1919-03-31T04:30:00Z"));
}

#[test]
fn a_day_that_never_was_has_no_window() {
    // Samoa went from the 29th of December 2011 to the 31st.
    let (start, end) = span_of(CalendarUnit::Day, "Pacific/Apia", "2011-12-30T09:00:00Z");
    assert_eq!((start, end), (instant("2011-12-29T10:00:00Z"), instant("2011-12-30T10:00:00Z")));
    let (start, _) = span_of(CalendarUnit::Day, "Pacific/Apia", "2011-12-30T11:00:00Z");
    assert_eq!(start, instant("2011-12-30T10:00:00Z"));
}

#[test]
fn a_date_the_clock_shows_again_is_over_once_the_next_began() {
    // Newfoundland's clocks went from 0:01 back to 23:01 of the day before.
    let (start, _) = span_of(CalendarUnit::Day, "America/St_Johns", "1990-10-28T03:00:00Z");
    assert_eq!(start, instant("1990-10-28T02:30:00Z"));
}

#[test]
fn months_begin_in_their_zone() {
    let (start, end) =
        span_of(CalendarUnit::Month { starts_on: 1 }, "Asia/Kolkata", "2026-01-31T18:30:00Z");
    assert_eq!((start, end), (instant("2026-01-31T18:30:00Z"), instant("2026-02-28T18:30:00Z")));
}

#[test]
fn a_total_does_not_apply_outside_its_instants() {
    let window = Window::Total { from: Some(Timestamp(10)), until: Some(Timestamp(20)) };
    assert_eq!(window.span(Timestamp(9)), None);
    assert_eq!(window.span(Timestamp(20)), None);
    let span = Span { start: Some(Timestamp(10)), end: Some(Timestamp(20)) };
    assert_eq!(window.span(Timestamp(10)), Some(span));
    assert_eq!(window.span(Timestamp(19)), Some(span));
    let all = Window::Total { from: None, until: None };
    assert_eq!(all.span(Timestamp(i64::MIN)), Some(Span::ALWAYS));
}

#[test]
fn an_instant_no_calendar_reaches_is_in_no_calendar_window() {
    let window = Window::Calendar(CalendarUnit::Day, zone("Europe/Berlin"));
    assert_eq!(window.span(Timestamp(i64::MIN)), None);
    assert_eq!(window.span(Timestamp(i64::MAX)), None);
    assert_eq!(Window::Fixed(Milliseconds(60_000)).span(Timestamp(i64::MAX)), None);
}

#[test]
fn a_week_starts_on_its_day_whatever_the_clocks_do() {
    // New York's clocks go forward on Sunday the 8th of March 2026.
    let week = |starts_on, at| span_of(CalendarUnit::Week { starts_on }, "America/New_York", at);
    let (start, end) = week(7, "2026-03-08T12:00:00Z");
    assert_eq!((start, end), (instant("2026-03-08T05:00:00Z"), instant("2026-03-15T04:00:00Z")));
    let (start, end) = week(1, "2026-03-08T12:00:00Z");
    assert_eq!((start, end), (instant("2026-03-02T05:00:00Z"), instant("2026-03-09T04:00:00Z")));
}

#[test]
fn quarters_and_years_are_counted_from_the_month_the_year_starts_in() {
    let quarter = CalendarUnit::Quarter { starts_in: 2, starts_on: 1 };
    let (start, end) = span_of(quarter, "UTC", "2026-01-31T23:00:00Z");
    assert_eq!((start, end), (instant("2025-11-01T00:00:00Z"), instant("2026-02-01T00:00:00Z")));
    let year = CalendarUnit::Year { starts_in: 4, starts_on: 6 };
    let (start, end) = span_of(year, "Europe/London", "2026-04-05T22:59:59Z");
    assert_eq!((start, end), (instant("2025-04-05T23:00:00Z"), instant("2026-04-05T23:00:00Z")));
    let month = CalendarUnit::Month { starts_on: 15 };
    let (start, end) = span_of(month, "UTC", "2026-03-14T12:00:00Z");
    assert_eq!((start, end), (instant("2026-02-15T00:00:00Z"), instant("2026-03-15T00:00:00Z")));
}
