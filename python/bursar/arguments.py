"""What a caller may write for a span, a number or a choice, and what the wire says for it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, TypedDict, get_args

from bursar.errors import InvalidRequest
from bursar.v1 import quota_pb2

OutcomeName = Literal["completed", "cancelled", "failed", "unknown"]
DurabilityName = Literal["process", "power"]


class CommitArguments(TypedDict, total=False):
    """What `commit` takes besides the answer, by name."""

    outcome: OutcomeName | None
    """How the call ended; None: completed if there is usage, else unknown."""
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


def to_seconds(span: timedelta | float) -> float:
    """Gives a timeout in seconds; raises InvalidRequest unless it is above zero."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not seconds > 0:
        raise InvalidRequest(f"a timeout must be above zero (got {span!r})")
    return seconds


def to_wait_s(wait: timedelta | float | None) -> float:
    """Gives how long to wait in seconds; None is 0; raises InvalidRequest below 0."""
    if wait is None:
        return 0.0
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
    if not seconds >= 0:
        raise InvalidRequest(f"wait must be at least 0 (got {wait!r})")
    return seconds


def to_ms(span: timedelta | float | None, name: str) -> int:
    """Gives whole milliseconds; None is 0, which says nothing; raises InvalidRequest below 0."""
    if span is None:
        return 0
    ms = round((span.total_seconds() if isinstance(span, timedelta) else span) * 1000)
    return whole(ms, name)


def whole(value: object, name: str) -> int:
    """Gives the value back; raises InvalidRequest unless it is a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{name} must be a whole number of at least 0 (got {value!r})")
    return value


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
