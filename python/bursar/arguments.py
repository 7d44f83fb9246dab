"""What a caller may write for a span, a number or a choice, and what the wire says for it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, TypedDict, get_args

from bursar.errors import InvalidRequest
from bursar.v1 import quota_pb2

NUMBER_MAX = 2**63 - 1
"""The largest number that is sent."""

NUMBER_32_MAX = 2**32 - 1
"""The largest number of a field of 32 bits."""

_SECONDS_MAX = 10.0**12

OutcomeName = Literal["completed", "cancelled", "failed", "unknown"]
DurabilityName = Literal["process", "power"]


class CommitArguments(TypedDict, total=False):
    """What `commit` takes besides the answer, by name."""

    outcome: OutcomeName | None
    """How the call ended; None: completed if there is usage, else unknown."""
    model: str | None
    """The model that answered, as `provider/model`, where it is another than the one granted."""
    labels: Mapping[str, str] | None
    """Labels to add to the reservation's; they change none."""
    latency: timedelta | float | None
    """How long the call took, in seconds if a number."""
    first_token: timedelta | float | None
    """How long until its first token, in seconds if a number."""
    durability: DurabilityName | None
    """What the answer survives; None: a loss of power."""
    timeout: timedelta | float | None
    """How long it holds its caller; None: at most 1 s, and not at all while the sidecar is away."""


class ReleaseArguments(TypedDict, total=False):
    """What `release` takes, by name."""

    reason: str
    """Why the call did not run, for the ledger."""
    durability: DurabilityName | None
    """What the answer survives; None: the sidecar's process."""
    timeout: timedelta | float | None
    """How long it holds its caller; None: as of `commit`."""


def new_id() -> str:
    """Makes a UUIDv7: unique without asking anyone, and in the order of time."""
    instant_ms = time.time_ns() // 1_000_000
    bits = (instant_ms & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    bits = bits & ~(0xF << 76) | 0x7 << 76  # the version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # the variant
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _seconds(span: object, name: str) -> float:
    """Gives a span in seconds; raises InvalidRequest for what is none."""
    if isinstance(span, timedelta):
        return span.total_seconds()
    if isinstance(span, bool) or not isinstance(span, (int, float)) or not abs(span) < _SECONDS_MAX:
        raise InvalidRequest(f"{name} must be seconds or a timedelta (got {span!r})")
    return float(span)


def to_seconds(span: timedelta | float) -> float:
    """Gives a timeout in seconds; raises InvalidRequest unless it is above zero."""
    seconds = _seconds(span, "a timeout")
    if not seconds > 0:
        raise InvalidRequest(f"a timeout must be above zero (got {span!r})")
    return seconds


def to_wait_s(wait: timedelta | float | None) -> float:
    """Gives how long to wait in seconds; None is 0; raises InvalidRequest below 0."""
    if wait is None:
        return 0.0
    seconds = _seconds(wait, "wait")
    if not seconds >= 0:
        raise InvalidRequest(f"wait must be at least 0 (got {wait!r})")
    return seconds


def to_ms(span: timedelta | float | None, name: str) -> int:
    """Gives whole milliseconds; None is 0, which says nothing; raises InvalidRequest below 0."""
    if span is None:
        return 0
    seconds = _seconds(span, name)
    if seconds < 0:
        raise InvalidRequest(f"{name} must be at least 0 (got {span!r})")
    return round(seconds * 1000)


def instant_unix_ms(instant: object, name: str) -> int:
    """Gives an instant; raises InvalidRequest unless it is a datetime with its zone."""
    if not isinstance(instant, datetime) or instant.tzinfo is None:
        raise InvalidRequest(
            f"{name} must be a datetime with a time zone, such as datetime.now(UTC) "
            f"(got {instant!r})"
        )
    return int(instant.timestamp() * 1000)


def whole(value: object, name: str, *, most: int = NUMBER_MAX) -> int:
    """Gives the value back; raises InvalidRequest unless it is a whole number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        span = "of at least 0" if most == NUMBER_MAX else f"from 0 to {most}"
        raise InvalidRequest(f"{name} must be a whole number {span} (got {value!r})")
    return value


def text(value: object, name: str) -> str:
    """Gives the value back; raises InvalidRequest unless it is a text that can be sent."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a text (got {value!r})")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"{name} must be Unicode text (got a lone surrogate in {value[:100]!r})"
        ) from None
    return value


def texts(values: object, name: str) -> list[str]:
    """Gives a list of texts; raises InvalidRequest for one text, or for what is no list of them."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise InvalidRequest(f"{name} must be a list of texts (got {values!r})")
    return [text(each, f"{name}[{place}]") for place, each in enumerate(values)]


def label_map(labels: object) -> dict[str, str]:
    """Gives labels; None is none; raises InvalidRequest for what is not texts by text."""
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise InvalidRequest(f'labels must be a dict such as {{"tenant": "acme"}} (got {labels!r})')
    return {
        text(key, "a label's key"): text(value, f"label {key}") for key, value in labels.items()
    }


def durability_to_wire(durability: DurabilityName | None) -> quota_pb2.Durability.ValueType:
    """Gives the wire's durability; None leaves it to the sidecar; raises InvalidRequest."""
    if durability is None:
        return quota_pb2.DURABILITY_UNSPECIFIED
    if durability not in get_args(DurabilityName):
        raise InvalidRequest(f"durability must be process or power (got {durability!r})")
    return quota_pb2.Durability.Value(f"DURABILITY_{durability.upper()}")


def outcome_to_wire(outcome: OutcomeName) -> quota_pb2.Outcome.ValueType:
    """Gives the wire's outcome; raises InvalidRequest for a word that is none."""
    if outcome not in get_args(OutcomeName):
        known = ", ".join(get_args(OutcomeName))
        raise InvalidRequest(f"outcome must be one of {known} (got {outcome!r})")
    return quota_pb2.Outcome.Value(f"OUTCOME_{outcome.upper()}")
