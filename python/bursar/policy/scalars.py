"""Scalars as a person writes them: numbers, durations, instants and zones, each read exactly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

AMOUNT_MAX = 2**53
"""The largest amount of a limit, so that every language's numbers hold it."""

NUMBER = re.compile(r"(0|[1-9][0-9]*(?:_[0-9]+)*)(\.[0-9]+)?([kM]?)")
"""What a number looks like."""

DURATION = re.compile(r"([1-9][0-9]*)([smhd])")
"""What a duration looks like."""

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
"""What a date, and the beginning of an instant, looks like."""

_DIGITS_MAX = 32
_YEARS = range(1970, 9000)  # no zone moves an instant of these years out of what calendars reach
_INSTANT = re.compile(
    DATE.pattern
    + r"([T ][0-9]{2}(:?[0-9]{2}){0,2}([.,][0-9]+)?(Z|[+-]([0-9]{2})(:?[0-9]{2}){0,2})?)?"
)
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}
DAY_MS = 86_400_000
"""A day of 24 hours, in milliseconds."""

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


class ScalarError(ValueError):
    """A scalar cannot be read; `what` completes "it must …" and `hint` says what to write."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, or None where none is alike."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def whole_number(text: object) -> int:
    """Reads `16_000`, `16k` or `1.5M` as a whole number from 0 to 2^53; raises ScalarError."""
    what = f"be a whole number from 0 to {AMOUNT_MAX:,} (2^53)"
    if not isinstance(text, str) or len(text) > _DIGITS_MAX:
        raise ScalarError(what, "write a number such as 500, 16_000, 200k or 1.5M")
    match = NUMBER.fullmatch(text)
    if match is None:
        raise ScalarError(what, _number_hint(text))
    digits, fraction, suffix = match.groups()
    number = Decimal(digits.replace("_", "") + (fraction or "")) * _FACTORS[suffix]
    if number != number.to_integral_value():
        raise ScalarError(what, "write it without a fraction")
    if number > AMOUNT_MAX:
        raise ScalarError(what, "write a smaller number, or leave the limit out to have none")
    return int(number)


def _number_hint(text: str) -> str:
    if text.startswith("-"):
        return "write 0 to forbid it altogether"
    if text[-1:] in {"K", "m", "g", "G", "B"}:
        return "thousands are written k, millions M: 200k, 1.5M"
    if text == "unlimited":
        return (
            "to have no limit, leave it out; an override frees a whole limit: `amount: unlimited`"
        )
    if "," in text:
        return f"write {text.replace(',', '_')}: digits are grouped by _"
    return "write a number such as 500, 16_000, 200k or 1.5M"


def duration_ms(text: object, *, at_least: str, at_most: str) -> int:
    """Reads `30s`, `5m`, `1h` or `7d` as milliseconds within two durations; raises ScalarError."""
    what = f"be a duration from {at_least} to {at_most}"
    hint = "write a whole number and s, m, h or d: 30s, 5m, 1h, 7d"
    if not isinstance(text, str) or len(text) > _DIGITS_MAX:
        raise ScalarError(what, hint)
    span = _span_ms(text)
    if span is None:
        if text.isdigit():
            hint = f"write its unit: {text}s, {text}m, {text}h or {text}d"
        raise ScalarError(what, hint)
    if span < (_span_ms(at_least) or 0):
        raise ScalarError(what, f"write {at_least} or more")
    if span > (_span_ms(at_most) or 0):
        raise ScalarError(what, f"write {at_most} or less")
    return span


def _span_ms(text: str) -> int | None:
    match = DURATION.fullmatch(text)
    return int(match[1]) * _UNIT_MS[match[2]] if match else None


def instant_unix_ms(text: object, zone: ZoneInfo) -> int:
    """Reads a date, or an instant with or without an offset, as milliseconds since 1970 UTC.

    A date is the first instant of its day in `zone`; an instant without an offset is of `zone`.
    Raises ScalarError.
    """
    what = f"be a date or an instant of the years {_YEARS.start} to {_YEARS.stop - 1}"
    hint = "write 2026-01-31, 2026-01-31T09:00 in the policy's zone, or 2026-01-31T09:00:00Z"
    if not isinstance(text, str) or not DATE.match(text):
        raise ScalarError(what, hint)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ScalarError(what, _impossible(text) or hint) from None
    if moment.year not in _YEARS:
        raise ScalarError(what, "leave it out to have no bound")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return round((moment.astimezone(UTC) - datetime.fromtimestamp(0, UTC)).total_seconds() * 1000)


def _impossible(text: str) -> str:
    """Why an instant that is written well cannot be; empty where it is not written well."""
    match = _INSTANT.fullmatch(text)
    if match is None:
        return ""
    offset_hours = match[5]
    if offset_hours is not None and int(offset_hours) >= 24:  # noqa: PLR2004  a day's
        return "an offset is less than 24 hours, such as +02:00; Z is UTC"
    return "there is no such day or time"


def time_zone(text: object) -> str:
    """Reads the name of an IANA zone, such as `Europe/Berlin`; raises ScalarError."""
    what = "be the name of an IANA time zone"
    hint = "write a name such as Europe/Berlin, America/New_York or UTC"
    if not isinstance(text, str) or not text:
        raise ScalarError(what, hint)
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = nearest(text, zone_names())
        raise ScalarError(what, f"did you mean {near}?" if near else hint) from None
    return text


@cache
def zone_names() -> frozenset[str]:
    """The names of all zones this machine knows."""
    return frozenset(available_timezones())
