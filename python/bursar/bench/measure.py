"""Measuring: the echo and the sidecar driven by turns, each turn a ratio."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bursar import _core  # noqa: TID251  the load generator is no part of a sidecar
from bursar.bench.place import Disk

CALLS = ("reserve", "reserve+commit")
DURABILITIES = ("process", "power")
TRANSPORTS = ("socket", "tcp")

_SYNCS_PER_ROUND = 8
_NO_MAX = 2**63


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how often: `repeats` rounds of `span_ms` of each server and cell."""

    transports: Sequence[str] = TRANSPORTS
    calls: Sequence[str] = CALLS
    durabilities: Sequence[str] = DURABILITIES
    in_flight: Sequence[int] = (1, 128)
    connections: int = 1
    repeats: int = 9
    span_ms: int = 400

    @property
    def rows(self) -> int:
        """How many rows the report will have."""
        shapes = len(self.transports) * len(self.in_flight)
        return shapes * len(self.calls) * len(self.durabilities)


@dataclass(slots=True)
class Cell:
    """One row of the report: the rounds of the echo and of the sidecar, and the syncs between."""

    transport: str
    calls: str
    durability: str
    in_flight: int
    connections: int
    echo: list[_core._Round] = field(default_factory=list)
    bursar: list[_core._Round] = field(default_factory=list)
    syncs_ns: list[int] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """The row as plain values: medians over the rounds, ratios with least and greatest."""
        # What nobody who syncs can be quicker than: the echo, and a sync where one is waited for.
        sync_ns = median(self.syncs_ns) if self.syncs_ns else 0.0
        pairs = list(zip(self.echo, self.bursar, strict=True))
        return {
            "transport": self.transport,
            "calls": self.calls,
            "durability": self.durability,
            "in_flight": self.in_flight,
            "connections": self.connections,
            "echo": _medians(self.echo),
            "bursar": _medians(self.bursar),
            "fdatasync_us": round(sync_ns / 1_000, 1) if self.syncs_ns else None,
            "p50_ratio": _ratio([b["p50_ns"] / (a["p50_ns"] + sync_ns) for a, b in pairs]),
            "p99_ratio": _ratio([b["p99_ns"] / (a["p99_ns"] + sync_ns) for a, b in pairs]),
            "rate_ratio": _ratio([_rate(b) / _rate(a) for a, b in pairs]),
        }


class Clients:
    """Everybody who calls one server: how their ids begin, and what they were told, summed."""

    def __init__(self) -> None:
        self.run = str(uuid.uuid4())[:18]
        self._loads: list[_core.Load] = []

    def connect(self, target: str, *, connections: int, in_flight: int) -> _core.Load:
        """Connects to `target`, with `in_flight` callers over all of `connections`."""
        load = _core.Load(
            target=target,
            connections=connections,
            in_flight=in_flight // connections,
            run=f"{self.run}-{len(self._loads):04x}",
        )
        self._loads.append(load)
        return load

    def tally(self) -> Mapping[str, int]:
        """What all of them were told so far."""
        told: Counter[str] = Counter()
        for load in self._loads:
            told.update(load.tally())
        return told


def cells(
    plan: Plan,
    targets: Callable[[str], tuple[str, str]],
    clients: Clients,
    disk: Disk,
) -> Iterator[Cell]:
    """Measures cell after cell; `targets` gives the echo's and the sidecar's for a transport."""
    for transport in plan.transports:
        echo_target, bursar_target = targets(transport)
        for in_flight in plan.in_flight:
            shape = {"connections": min(plan.connections, in_flight), "in_flight": in_flight}
            echo = Clients().connect(echo_target, **shape)
            bursar = clients.connect(bursar_target, **shape)
            for calls in plan.calls:
                for durability in plan.durabilities:
                    cell = Cell(transport, calls, durability, in_flight, shape["connections"])
                    _measure(cell, plan, echo, bursar, disk)
                    yield cell


def _measure(cell: Cell, plan: Plan, echo: _core.Load, bursar: _core.Load, disk: Disk) -> None:
    """Drives both by turns, so that a machine whose speed drifts drifts for both."""
    commit, power = cell.calls != CALLS[0], cell.durability == "power"

    def turn(span_ms: int) -> tuple[_core._Round, _core._Round]:
        def drive(load: _core.Load) -> _core._Round:
            return load.round(commit=commit, power=power, span_ms=span_ms, count_max=_NO_MAX)

        rounds = drive(echo), drive(bursar)
        echo.forget()
        # Not measured: every round begins with nothing open.
        bursar.release()
        return rounds

    turn(max(1, plan.span_ms // 4))
    for _ in range(plan.repeats):
        of_echo, of_bursar = turn(plan.span_ms)
        cell.echo.append(of_echo)
        cell.bursar.append(of_bursar)
        if power:
            cell.syncs_ns += [disk.sync_ns() for _ in range(_SYNCS_PER_ROUND)]


def _rate(of: _core._Round) -> float:
    return of["count"] * 1e9 / of["elapsed_ns"]


def _medians(rounds: Sequence[_core._Round]) -> dict[str, float | int]:
    return {
        "count": sum(each["count"] for each in rounds),
        "p50_us": round(median(each["p50_ns"] for each in rounds) / 1_000, 1),
        "p99_us": round(median(each["p99_ns"] for each in rounds) / 1_000, 1),
        "per_second": round(median(_rate(each) for each in rounds)),
    }


def _ratio(values: Sequence[float]) -> dict[str, float]:
    found = {"median": median(values), "least": min(values), "greatest": max(values)}
    return {name: round(value, 3) for name, value in found.items()}
