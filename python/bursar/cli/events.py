"""How commands show what happened: an event in a line, and what it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursar.cli import show

if TYPE_CHECKING:
    from bursar.v1 import admin_pb2

KINDS = (
    "reserved", "committed", "released", "expired", "recorded", "policy_activated", "denied",
)  # fmt: skip
"""The kinds of events, by the contract's names."""


def kind_of(event: admin_pb2.Event) -> str:
    """The kind of an event as a word."""
    from bursar.v1 import admin_pb2

    return show.word(admin_pb2.Event.DESCRIPTOR.fields_by_name["kind"], event.kind)


def kind_number(word: str) -> admin_pb2.EventKind.ValueType:
    """The contract's number of a kind."""
    from bursar.v1 import admin_pb2

    return admin_pb2.EventKind.Value(f"EVENT_KIND_{word.upper()}")


def in_a_line(event: admin_pb2.Event) -> str:
    """An event for a person: when, what, who, how much, and what refused."""
    parts = [show.instant(event.occurred_at_unix_ms), f"{kind_of(event):<9}"]
    if event.reservation_id:
        parts.append(event.reservation_id)
    if event.kind == kind_number("policy_activated"):
        parts.append(f"version {event.policy_version}")
    else:
        parts.append(f"{show.amount(event.tokens)} tokens")
    parts += [each for each in (event.model, show.labels(event.labels)) if each]
    if event.late:
        parts.append("late")
    if event.release_reason:
        parts.append(f"because {event.release_reason}")
    refused = [each.standing.limit for each in event.denial.shortfalls]
    if refused:
        parts.append(f"by {', '.join(dict.fromkeys(refused))}")
    elif event.HasField("denial"):
        parts.append(event.denial.hint)
    return "  ".join(parts)


def change(one: admin_pb2.CounterChange) -> str:
    """What an event changed in a counter: `tenant-day tokens: committed +97, reserved -400`."""
    scope = show.labels(one.scope)
    where = f"{one.limit} {scope}" if scope else one.limit
    from bursar.v1 import admin_pb2

    unit = show.word(admin_pb2.CounterChange.DESCRIPTOR.fields_by_name["unit"], one.unit)
    moved = [
        f"{name} {amount:+_}"
        for name, amount in (("committed", one.committed), ("reserved", one.reserved))
        if amount
    ]
    return f"{where} {unit}: {', '.join(moved) or 'nothing'}"
