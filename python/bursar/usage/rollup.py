"""Usage by group: what arrives from the ledger, what is asked, and how hours are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

HOUR, METER, BASIS = "hour", "meter", "basis"
FACTS = (HOUR, METER, BASIS)
"""What usage may be grouped by besides labels."""

LINE_LABEL = "component"
"""The label that belongs to lines of usage, so that it splits calls."""

GROUP_BY_MAX = 8
ROWS_MAX = 10_000
ROWS_DEFAULT = 1_000

METERS = {
    1: "input", 2: "cache_read", 3: "cache_write", 4: "output", 5: "reasoning", 6: "embedding",
    7: "audio_input", 8: "audio_output", 9: "image_input", 10: "image_output",
    11: "cache_write_long",
}  # fmt: skip
"""The meters' words by their numbers in the contract."""

OUTPUT_METERS = (4, 5, 8, 10)
"""The meters of what a model wrote; all others are of what it was given."""

BASES = {1: "measured", 2: "estimated", 3: "assumed"}
"""The bases' words by their numbers in the contract."""

MEASURED, ASSUMED = 1, 3

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """How many calls there were, of which kinds, and their stated latencies in milliseconds."""

    calls: int = 0
    calls_assumed: int = 0
    calls_overrun: int = 0
    calls_late: int = 0
    latency_ms_sum: int = 0
    latency_calls: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Changes to the usage of one hour that shares its labels: tokens by meter and basis, calls."""

    hour_unix_ms: int
    labels: Mapping[str, str]
    tokens: Mapping[tuple[int, int], int]
    calls: Calls = field(default_factory=Calls)


@dataclass(frozen=True, slots=True)
class Batch:
    """A page of changes between two sequences of the ledger; the last page of them or not."""

    after_sequence: int
    through_sequence: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question: a span of hours (first included, last not), what to group by, which usage.

    `until_unix_ms` None is open. `after` is the group of the last row of the page before.
    """

    from_unix_ms: int = 0
    until_unix_ms: int | None = None
    group_by: tuple[str, ...] = ()
    match: Mapping[str, str] = field(default_factory=dict)
    rows_max: int = ROWS_DEFAULT
    after: tuple[str | int, ...] = ()

    @property
    def splits_calls(self) -> bool:
        """Whether the question splits usage finer than calls, so that rows have none."""
        return bool({METER, BASIS, LINE_LABEL}.intersection(self.group_by))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The usage of one group; `group` has a value for each name grouped by, in that order."""

    group: tuple[str | int, ...]
    tokens: int
    input_tokens: int
    output_tokens: int
    assumed_tokens: int
    calls: Calls


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, whether more follow, and the last sequence of the ledger they include."""

    rows: tuple[Row, ...]
    more: bool
    through_sequence: int


def hour_floor(unix_ms: int, zone: ZoneInfo) -> int:
    """The first instant of the zone's hour that holds `unix_ms`, both in ms since 1970 UTC."""
    local = _local(unix_ms, zone)
    into = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    return unix_ms - into // timedelta(milliseconds=1)


def hour_ceiling(unix_ms: int, zone: ZoneInfo) -> int:
    """The first instant of an hour of the zone that is not before `unix_ms`."""
    floor = hour_floor(unix_ms, zone)
    return floor if floor == unix_ms else hour_floor(floor + 3_600_000, zone)


def hour_words(unix_ms: int, zone: ZoneInfo) -> str:
    """The instant as RFC 3339 with the zone's offset, such as `2026-11-23T20:00:00+01:00`."""
    return _local(unix_ms, zone).isoformat(timespec="seconds")


def _local(unix_ms: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(milliseconds=unix_ms)).astimezone(zone)


def words_of(
    group_by: tuple[str, ...], group: tuple[str | int, ...], zone: ZoneInfo
) -> dict[str, str]:
    """A row's group as words by name: hours as instants in `zone`, meters and bases by name."""
    words: dict[str, str] = {}
    for name, value in zip(group_by, group, strict=True):
        if name == HOUR:
            words[name] = hour_words(int(value), zone)
        elif name == METER:
            words[name] = METERS.get(int(value), str(value))
        elif name == BASIS:
            words[name] = BASES.get(int(value), str(value))
        else:
            words[name] = str(value)
    return words
