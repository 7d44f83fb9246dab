"""The bench's audit finds what differs, and names who says what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bursar.bench import audit
from bursar.demo.check import Check
from bursar.v1 import admin_pb2, quota_pb2

CLIENTS = {
    "granted": 3,
    "tokens_granted": 6_000,
    "committed": 2,
    "tokens_committed": 3_600,
    "released": 1,
    "tokens_released": 2_000,
}
LEDGER = {**CLIENTS, "expired": 0}
ROWS = [admin_pb2.UsageRow(tokens=3_600, calls=2)]
LIMITS = ("tenant-hour", "feature-month", "everything")
BEGAN_UNIX_MS = 1_000


def standings(committed: int = 3_600, hour_began_unix_ms: int = 0) -> list[quota_pb2.Standing]:
    made = [quota_pb2.Standing(limit=name, committed=committed, reserved=0) for name in LIMITS]
    made[0].window_start_unix_ms = hour_began_unix_ms
    return made


def compare(check: Check, found: list[quota_pb2.Standing]) -> None:
    audit.standings(
        check, found, tokens_committed=3_600, tokens_held=0, began_unix_ms=BEGAN_UNIX_MS
    )


def test_figures_that_agree_leave_no_difference() -> None:
    check = Check()
    audit.ledger(check, CLIENTS, LEDGER)
    audit.books(check, CLIENTS, ROWS)
    compare(check, standings())
    assert check.differences == []
    assert check.compared == {"the ledger's entries": 7, "the books": 2, "the standings": 7}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda check: audit.ledger(check, CLIENTS, {**LEDGER, "tokens_committed": 3_599}),
            "the ledger's entries: tokens committed: callers say 3600, it says 3599",
        ),
        (
            lambda check: audit.books(check, CLIENTS, ROWS * 2),
            "the books: calls committed: callers say 2, it says 4",
        ),
        (
            lambda check: compare(check, standings(committed=1)),
            "the standings: everything: tokens committed: callers say 3600, it says 1",
        ),
        (
            lambda check: compare(check, standings()[:2]),
            "the standings: limits that are listed: callers say 3, it says 2",
        ),
    ],
)
def test_a_figure_that_differs_is_named(wrong: Callable[[Check], None], said: str) -> None:
    check = Check()
    wrong(check)
    assert said in check.differences


def test_a_window_that_began_within_the_run_is_not_compared() -> None:
    check = Check()
    found = standings(hour_began_unix_ms=BEGAN_UNIX_MS + 1)
    found[0].committed = 1
    compare(check, found)
    assert check.differences == []
    assert check.compared == {"the standings": 5}
