"""The audit: what the clients were told, against the ledger, the standings and the books."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from bursar import _core  # noqa: TID251  the ledger is read beside the sidecar, not through it
from bursar.demo.check import Check
from bursar.demo.sidecar import DemoSidecar
from bursar.v1 import admin_pb2, quota_pb2, usage_pb2

_FIGURES = (
    "granted", "tokens_granted", "committed", "tokens_committed", "released", "tokens_released",
)  # fmt: skip
_LIMITS = 3
_CATCH_UP_S_MAX = 10.0


def running(
    check: Check,
    sidecar: DemoSidecar,
    clients: Mapping[str, int],
    *,
    run: str,
    tokens_held: int,
    began_unix_ms: int,
) -> None:
    """Audits a sidecar of our own while it serves and `tokens_held` are still reserved."""
    totals = _core.scan_totals(data_directory=sidecar.data_directory, id_prefix=run)
    ledger(check, clients, totals)
    standings(
        check,
        [each for page in sidecar.standings() for each in page.standings],
        tokens_committed=clients.get("tokens_committed", 0),
        tokens_held=tokens_held,
        began_unix_ms=began_unix_ms,
    )
    books(check, clients, sidecar.usage("model"))


def ledger(check: Check, clients: Mapping[str, int], totals: Mapping[str, int]) -> None:
    """Compares every call and token with the ledger's entries of the run."""
    for name in _FIGURES:
        check.same("the ledger's entries", _words(name), clients.get(name, 0), totals[name])
    check.same("the ledger's entries", "expired", 0, totals["expired"])


def standings(
    check: Check,
    found: Iterable[quota_pb2.Standing],
    *,
    tokens_committed: int,
    tokens_held: int,
    began_unix_ms: int,
) -> None:
    """Compares every limit whose window holds the whole run, which the total's always does."""
    seen = set()
    for each in found:
        seen.add(each.limit)
        if each.window_start_unix_ms > began_unix_ms:
            continue
        what = "the standings"
        check.same(what, f"{each.limit}: tokens committed", tokens_committed, each.committed)
        check.same(what, f"{each.limit}: tokens reserved", tokens_held, each.reserved)
    check.same("the standings", "limits that are listed", _LIMITS, len(seen))


def books(check: Check, clients: Mapping[str, int], rows: Iterable[admin_pb2.UsageRow]) -> None:
    """Compares usage as the books have it."""
    rows = list(rows)
    tokens, calls = sum(each.tokens for each in rows), sum(each.calls for each in rows)
    check.same("the books", "tokens committed", clients.get("tokens_committed", 0), tokens)
    check.same("the books", "calls committed", clients.get("committed", 0), calls)


def stopped(check: Check, data: Path, clients: Mapping[str, int], *, run: str) -> None:
    """Audits what a sidecar of our own left on disk, once it has stopped and holds nothing."""
    totals = _core.scan_totals(data_directory=data, id_prefix=run)
    ledger(check, clients, totals)
    settled = totals["committed"] + totals["released"]
    check.same("the ledger's entries", "reservations still open", 0, totals["granted"] - settled)
    batch = usage_pb2.UsageBatch.FromString(_core.scan_usage(data_directory=data))
    tokens = sum(each.tokens for group in batch.groups for each in group.tokens)
    calls = sum(group.calls for group in batch.groups)
    what = "usage summed from the ledger"
    check.same(what, "tokens committed", clients.get("tokens_committed", 0), tokens)
    check.same(what, "calls committed", clients.get("committed", 0), calls)
    report = _core.verify(data_directory=data)
    check.same("the index against the ledger", "problems", [], report["problems"])


def elsewhere(check: Check, data: Path, clients: Mapping[str, int], *, run: str) -> None:
    """Audits the run's own reservations in the ledger of a sidecar that others use too."""
    deadline_s = time.monotonic() + _CATCH_UP_S_MAX
    totals = _core.scan_totals(data_directory=data, id_prefix=run)
    while totals["released"] < clients.get("released", 0) and time.monotonic() < deadline_s:
        totals = _core.scan_totals(data_directory=data, id_prefix=run)
    ledger(check, clients, totals)


def _words(name: str) -> str:
    kind = name.removeprefix("tokens_")
    return f"{'calls' if kind == name else 'tokens'} {kind}"
