"""The demo from its first line to its verdict."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bursar.demo import check, show
from bursar.demo.passages import SOURCE, passages
from bursar.demo.sidecar import DemoSidecar
from bursar.demo.traffic import CALLERS, Result, calls, drive
from bursar.v1 import quota_pb2

PASSAGES = 240
_KILLED = "bold magenta"

# A day that ends while the demo runs would begin new counters, and the sums would not be of one.
_BEFORE_MIDNIGHT = timedelta(seconds=60)


def run(console: Console) -> dict[str, Any]:
    """Runs the demo, printing as it goes; returns its summary, `ok` only if all agrees."""
    with ExitStack() as undo:
        directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="bursar-demo-")))
        policy = undo.enter_context(as_file(files("bursar.demo") / "policy.yaml"))
        sidecar = DemoSidecar(directory, policy)
        undo.callback(sidecar.kill)
        _wait_out_midnight(console)
        began_s = time.monotonic()
        console.print(
            Text.assemble(
                ("bursar demo", "bold"),
                f": {PASSAGES} passages of {SOURCE}, {CALLERS} callers at once.\n"
                "No model is called: StandInModel streams the words of each passage back, a token "
                "each,\n"
                "under the names of two models, so that the sidecar counts with their tokenizer.",
            )
        )
        start_s = sidecar.start()
        console.print(f"A sidecar on the example policy is ready after {start_s:.1f} s.")
        console.print()
        results, restart = _traffic(sidecar, console)
        summary = _report(sidecar, results, restart, console)
        summary["stopped_with"] = sidecar.stop()
        summary["ok"] = summary["ok"] and summary["stopped_with"] == 0
        summary["seconds"] = round(time.monotonic() - began_s, 1)
    return summary


def _wait_out_midnight(console: Console) -> None:
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    if midnight - now < _BEFORE_MIDNIGHT:
        console.print("It is almost midnight in UTC: waiting for it, so that all is of one day.")
        time.sleep((midnight - now).total_seconds() + 1)


def _traffic(sidecar: DemoSidecar, console: Console) -> tuple[list[Result], dict[str, Any]]:
    """Makes every call, and kills the sidecar when half of them have been answered."""
    results: list[Result] = []
    restart: dict[str, Any] = {}
    for result in drive(f"unix:{sidecar.socket}", calls(passages(PASSAGES))):
        results.append(result)
        console.print(show.line(result), no_wrap=True, overflow="ellipsis")
        if len(results) == PASSAGES // 2:
            killed = sidecar.process_id
            sidecar.kill()
            console.print(
                f"     SIGKILL to the sidecar (process {killed}) with callers waiting",
                style=_KILLED,
            )
            start_s = sidecar.start()
            console.print(
                f"     started again as process {sidecar.process_id} in {start_s:.1f} s; "
                "the callers go on by themselves",
                style=_KILLED,
            )
            restart = {"after_decisions": len(results), "signal": "SIGKILL", "seconds": start_s}
    return results, restart


def _report(
    sidecar: DemoSidecar, results: Sequence[Result], restart: dict[str, Any], console: Console
) -> dict[str, Any]:
    """Asks where everything stands, compares it with what the callers know, and prints both."""
    books = check.by_books(sidecar.usage(*check.ROLLUPS))
    ledger = check.by_ledger(sidecar.data_directory)
    callers = check.by_callers(results)
    standings = [each for page in sidecar.standings() for each in page.standings]
    decisions = Counter(result.decision for result in results)
    done = check.Check()
    check.compare_usage(done, "usage in the books", callers, books)
    check.compare_usage(done, "usage in the ledger", callers, ledger)
    check.compare_standings(done, sidecar.policy().policy, standings, results)
    _check_run(done, results, decisions, restart)
    console.print()
    console.print(show.standings(standings))
    console.print(show.usage(callers, books, ledger))
    console.print(show.verdict(done, decisions))
    return {
        "ok": not done.differences,
        "text_source": SOURCE,
        "passages": len({result.call.passage.text for result in results}),
        "decisions": dict(decisions),
        "endings": dict(Counter(result.ending for result in results if result.ending)),
        "killed": restart,
        "limits": [_standing_facts(each) for each in standings],
        "usage": [
            {**dict(zip(check.ROLLUPS, key, strict=True)), "tokens": tokens, "calls": count}
            for key, (tokens, count) in sorted(books.items())
        ],
        "compared": dict(done.compared),
        "differences": done.differences,
    }


def _check_run(
    done: check.Check, results: Sequence[Result], decisions: Counter[str], restart: dict[str, Any]
) -> None:
    done.true(
        f"all {PASSAGES} passages were asked about, each its own",
        holds=len({result.call.passage.text for result in results}) == PASSAGES,
    )
    done.true("some calls were denied", holds=decisions["denied"] > 0)
    done.true("some calls were cut to the output that fits", holds=decisions["cut"] > 0)
    done.true("the sidecar was killed and started again", holds=bool(restart))
    done.true("every call was decided", holds=not decisions["undecided"])
    done.true(
        "every grant was settled",
        holds=not any(result.error or result.ending == "unsettled" for result in results),
    )


def _standing_facts(standing: quota_pb2.Standing) -> dict[str, Any]:
    return {
        "limit": standing.limit,
        "unit": quota_pb2.Unit.Name(standing.unit).removeprefix("UNIT_").lower(),
        "scope": dict(standing.scope),
        "amount": standing.amount,
        "committed": standing.committed,
        "reserved": standing.reserved,
        "remaining": standing.remaining,
    }
