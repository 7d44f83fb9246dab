"""A bench from its first process to its audit: against a sidecar of its own, or one that runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from statistics import median
from typing import Any

from bursar.bench import audit
from bursar.bench.echo import EchoProcess
from bursar.bench.measure import Cell, Clients, Plan, cells
from bursar.bench.place import Disk, Placement, on_core
from bursar.demo.check import Check
from bursar.demo.sidecar import DemoSidecar

_HELD = 500
_HELD_SPAN_MS = 10_000

Say = Callable[[str], None]


def own(plan: Plan, place: Placement, data: Path, say: Say) -> dict[str, Any]:
    """Measures a sidecar of its own, with its data below `data`, and audits it; leaves nothing."""
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="bursar-")))
        below = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="bursar-", dir=data)))
        policy = undo.enter_context(as_file(files("bursar.bench") / "policy.yaml"))
        began_unix_ms = time.time_ns() // 1_000_000
        with on_core(place.server):
            sidecar = DemoSidecar(directory, policy, data=below / "data", listen="127.0.0.1:0")
            undo.callback(sidecar.kill)
            sidecar.start()
            echo = EchoProcess(directory / "echo.sock")
            undo.callback(echo.close)
        targets = {
            "socket": (f"unix:{echo.socket}", f"unix:{sidecar.socket}"),
            "tcp": (echo.listen, sidecar.listen),
        }
        clients, check = Clients(), Check()
        undo.enter_context(on_core(place.client))
        disk = undo.enter_context(Disk(below))
        measured = _cells(plan, targets, clients, disk, say)
        say("the audit")
        held = clients.connect(targets["socket"][1], connections=1, in_flight=64)
        held.round(commit=False, power=False, span_ms=_HELD_SPAN_MS, count_max=_HELD)
        audit.running(
            check, sidecar, clients.tally(),
            run=clients.run,
            tokens_held=held.tally()["tokens_granted"],
            began_unix_ms=began_unix_ms,
        )  # fmt: skip
        held.release()
        check.same("the sidecar", "exit code", 0, sidecar.stop())
        audit.stopped(check, sidecar.data_directory, clients.tally(), run=clients.run)
        return _report(plan, measured, clients, place=place.words, check=check)


def target(
    plan: Plan, place: Placement, address: str, ledger: Path | str, say: Say
) -> dict[str, Any]:
    """Measures the sidecar that runs at `address`; audits the run where `ledger` is a directory.

    Otherwise `ledger` says why it cannot.
    """
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="bursar-")))
        with on_core(place.server):
            echo = EchoProcess(directory / "echo.sock")
            undo.callback(echo.close)
        undo.enter_context(on_core(place.client))
        disk = undo.enter_context(Disk(directory))
        targets = {"socket": (f"unix:{echo.socket}", address), "tcp": (echo.listen, address)}
        clients = Clients()
        measured = _cells(plan, targets, clients, disk, say)
        words = f"client on core {place.client}, echo on core {place.server}, target where it is"
        if isinstance(ledger, str):
            return _report(plan, measured, clients, place=words, not_audited=ledger)
        say("the audit")
        check = Check()
        audit.elsewhere(check, ledger, clients.tally(), run=clients.run)
        return _report(plan, measured, clients, place=words, check=check)


def _cells(
    plan: Plan, targets: dict[str, tuple[str, str]], clients: Clients, disk: Disk, say: Say
) -> list[Cell]:
    measured: list[Cell] = []
    for cell in cells(plan, targets.__getitem__, clients, disk):
        measured.append(cell)
        done = f"{len(measured)} of {plan.rows}"
        say(
            f"{done}: {cell.transport}, {cell.calls}, {cell.durability}, {cell.in_flight} in flight"
        )
    return measured


def _report(
    plan: Plan,
    measured: list[Cell],
    clients: Clients,
    *,
    place: str,
    check: Check | None = None,
    not_audited: str = "",
) -> dict[str, Any]:
    syncs_ns = [sync for cell in measured for sync in cell.syncs_ns]
    return {
        "ok": check is None or not check.differences,
        "placement": place,
        "repeats": plan.repeats,
        "span_ms": plan.span_ms,
        "fdatasync_us": round(median(syncs_ns) / 1_000, 1) if syncs_ns else None,
        "cells": [cell.facts() for cell in measured],
        "clients": dict(clients.tally()),
        "audit": None
        if check is None
        else {"compared": dict(check.compared), "differences": check.differences},
        "not_audited": not_audited or None,
    }
