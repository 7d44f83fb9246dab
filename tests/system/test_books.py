"""The books after a kill, wherever it falls: what the ledger says, once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from bursar import _core, wire
from bursar.books.books import Books, open_books
from bursar.usage.rollup import Query, Row
from bursar.v1 import usage_pb2

CHILD = Path(__file__).with_name("doomed_books.py")
DEATHS = [
    (place, transaction) for transaction in (1, 2, 4) for place in ("before-commit", "after-commit")
]
QUESTIONS = [
    (),
    ("feature",),
    ("tenant", "model"),
    ("hour", "meter", "basis"),
    ("component", "feature"),
]


def run(directory: Path, place: str, transaction: int) -> int:
    command = [sys.executable, str(CHILD), str(directory), place, str(transaction)]
    return subprocess.run(command, check=False, timeout=60).returncode


def answers(books: Books) -> list[tuple[Row, ...]]:
    return [books.query(Query(group_by=group_by)).rows for group_by in QUESTIONS]


def test_books_killed_between_draining_and_commit_equal_a_scan_of_the_ledger(
    directory: Path, tmp_path: Path
) -> None:
    data = directory / "data"
    data.mkdir()
    for place, transaction in DEATHS:
        assert run(data, place, transaction) == -signal.SIGKILL, f"{place} {transaction}"
    # What was drained and not acknowledged, and what nobody drained, is taken in after the restart.
    assert run(data, "nowhere", 0) == 0
    scanned = wire.batch(
        usage_pb2.UsageBatch.FromString(_core.scan_usage(data_directory=str(data)))
    )
    of_scan = open_books(tmp_path)
    of_scan.take([scanned])
    kept = open_books(data)
    assert kept.through_sequence() == scanned.through_sequence
    assert answers(kept) == answers(of_scan)
    (everything,) = answers(kept)[0]
    assert everything.calls.calls > 100
    kept.close()
    of_scan.close()
    assert _core.verify(data_directory=str(data))["problems"] == []
    sys.stdout.write(
        f"books killed {len(DEATHS)} times, {everything.calls.calls} calls, "
        f"{everything.tokens} tokens as the ledger has them\n"
    )
