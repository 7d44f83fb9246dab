"""How numbers, durations and instants are read: exactly, or not at all."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.policy import scalars

BERLIN = ZoneInfo("Europe/Berlin")


@given(number=st.integers(0, scalars.AMOUNT_MAX))
def test_a_number_is_read_as_it_was_written(number: int) -> None:
    assert scalars.whole_number(str(number)) == number
    assert scalars.whole_number(f"{number:_}") == number


@given(thousandths=st.integers(0, scalars.AMOUNT_MAX // 1_000), suffix=st.sampled_from("kM"))
def test_a_suffix_is_decimal_and_exact(thousandths: int, suffix: str) -> None:
    text = f"{thousandths // 1_000}.{thousandths % 1_000:03}{suffix}"
    number = thousandths * {"k": 1, "M": 1_000}[suffix]
    assert scalars.whole_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "007",
        "1__0",
        "_1",
        "1_",
        "1e3",
        "0x10",
        "1,000",
        "16K",
        "1.5",
        "½",
        "٣",
        "1 k",
    ],
)
def test_what_is_not_plainly_a_number_is_refused(text: str) -> None:
    with pytest.raises(scalars.ScalarError):
        scalars.whole_number(text)


@given(count=st.integers(1, 366), unit=st.sampled_from("smhd"))
def test_a_duration_is_its_count_of_its_unit(count: int, unit: str) -> None:
    factor = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[unit]
    read = scalars.duration_ms(f"{count}{unit}", at_least="1s", at_most="366d")
    assert read == count * factor * 1_000


@pytest.mark.parametrize("text", ["", "0s", "5", "5w", "1h30m", "1.5h", "-1s", "5 m", "367d"])
def test_what_is_not_plainly_a_duration_is_refused(text: str) -> None:
    with pytest.raises(scalars.ScalarError):
        scalars.duration_ms(text, at_least="1s", at_most="366d")


@given(moment=st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(BERLIN)))  # noqa: DTZ001
def test_an_instant_with_an_offset_is_that_instant(moment: datetime) -> None:
    text = moment.isoformat(timespec="milliseconds")
    assert scalars.instant_unix_ms(text, ZoneInfo("UTC")) == int(moment.timestamp() * 1000)


def test_a_date_is_the_first_instant_of_its_day() -> None:
    assert scalars.instant_unix_ms("2026-01-01", BERLIN) == 1_767_222_000_000
    # In 2018, São Paulo's clocks went from 24:00 on 3 November to 01:00 on the 4th.
    gap = scalars.instant_unix_ms("2018-11-04", ZoneInfo("America/Sao_Paulo"))
    assert gap == 1_541_300_400_000


@given(
    moment=st.datetimes(),
    zone=st.sampled_from(["Europe/Berlin", "Pacific/Kiritimati", "America/New_York"]),
    offset=st.sampled_from(["", "Z", "-23:59", "+23:59", "+24:00", "+99:99"]),
)
def test_an_instant_is_read_or_refused_in_our_words(
    moment: datetime, zone: str, offset: str
) -> None:
    """Every year that Python can write, in zones on both sides of it."""
    text = moment.isoformat() + offset
    if 1970 <= moment.year <= 8999 and offset not in {"+24:00", "+99:99"}:
        assert isinstance(scalars.instant_unix_ms(text, ZoneInfo(zone)), int)
        return
    with pytest.raises(scalars.ScalarError) as caught:
        scalars.instant_unix_ms(text, ZoneInfo(zone))
    assert caught.value.what == "be a date or an instant of the years 1970 to 8999"
    assert "timedelta" not in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("2026-01-01T00:00+99:00", "an offset is less than 24 hours"),
        ("2026-13-01", "there is no such day or time"),
        ("2026-01-01T24:30", "there is no such day or time"),
        ("0000-01-01", "there is no such day or time"),
        ("2026-01-01" + "9" * 10_000, "write 2026-01-31, 2026-01-31T09:00 in"),
    ],
)
def test_an_instant_that_cannot_be_is_refused_with_what_is_wrong(text: str, hint: str) -> None:
    with pytest.raises(scalars.ScalarError) as caught:
        scalars.instant_unix_ms(text, BERLIN)
    assert caught.value.hint.startswith(hint)
    assert len(caught.value.hint) < 120


def test_a_zone_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(scalars.ScalarError) as caught:
        scalars.time_zone("Europe/Berln")
    assert caught.value.hint == "did you mean Europe/Berlin?"
    for text in ("", "../etc/passwd", "/etc/localtime", "Mars/Olympus", "x\0y"):
        with pytest.raises(scalars.ScalarError):
            scalars.time_zone(text)
