"""How hours are told: in the policy's zone, also where it is off by half an hour."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from bursar.usage.rollup import Query, hour_ceiling, hour_floor, hour_words, words_of

KOLKATA = ZoneInfo("Asia/Kolkata")
BERLIN = ZoneInfo("Europe/Berlin")
HALF_PAST_MS = 1_774_747_800_000


@given(unix_ms=st.integers(0, 4_000_000_000_000), zone=st.sampled_from([KOLKATA, BERLIN]))
def test_every_instant_is_in_one_hour(unix_ms: int, zone: ZoneInfo) -> None:
    floor, ceiling = hour_floor(unix_ms, zone), hour_ceiling(unix_ms, zone)
    assert floor <= unix_ms <= ceiling
    assert hour_floor(floor, zone) == hour_ceiling(floor, zone) == floor
    assert ceiling - floor in {0, 3_600_000}
    assert hour_words(floor, zone)[14:19] == "00:00"


def test_an_hour_is_the_zones_hour() -> None:
    assert hour_floor(HALF_PAST_MS, KOLKATA) == HALF_PAST_MS
    assert hour_floor(HALF_PAST_MS, BERLIN) == HALF_PAST_MS - 1_800_000


def test_both_hours_of_the_night_that_the_clocks_go_back_are_told_apart() -> None:
    first, second = 1_792_886_400_000, 1_792_890_000_000
    assert hour_words(first, BERLIN) == "2026-10-25T02:00:00+02:00"
    assert hour_words(second, BERLIN) == "2026-10-25T02:00:00+01:00"
    assert hour_floor(second, BERLIN) == second


def test_a_group_is_told_in_words() -> None:
    names = ("hour", "meter", "basis", "feature")
    words = words_of(names, (0, 2, 3, "chat"), ZoneInfo("UTC"))
    assert words == {
        "hour": "1970-01-01T00:00:00+00:00",
        "meter": "cache_read",
        "basis": "assumed",
        "feature": "chat",
    }


def test_only_what_is_finer_than_a_call_splits_calls() -> None:
    assert not Query(group_by=("hour", "feature", "model")).splits_calls
    for name in ("meter", "basis", "component"):
        assert Query(group_by=("feature", name)).splits_calls
