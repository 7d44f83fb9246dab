"""`bursar bench` as a process: what it measured is counted to the token, here and elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tests.system.conftest import Serve

BURSAR = str(Path(sys.executable).with_name("bursar"))
FEW = ("--quick", "--repeats", "1", "--in-flight", "1", "--in-flight", "16", "--connections", "2")
WIDE = """
policy: wide
limits:
  - name: everything
    window: {total: {from: 2026-01-01}}
    amount: {tokens: 1_000_000_000_000}
"""
NARROW = WIDE.replace("1_000_000_000_000", "1k")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BURSAR, "bench", "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def facts(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def test_what_the_clients_were_told_is_what_ledger_standings_and_books_say(directory: Path) -> None:
    found = facts(bench(*FEW, "--data", str(directory)))
    assert found["ok"] is True
    assert found["audit"]["differences"] == []
    assert set(found["audit"]["compared"]) == {
        "the ledger's entries",
        "the standings",
        "the books",
        "the sidecar",
        "usage summed from the ledger",
        "the index against the ledger",
    }
    rows = {
        (each["transport"], each["calls"], each["durability"], each["in_flight"])
        for each in found["cells"]
    }
    assert len(rows) == len(found["cells"]) == 2 * 2 * 2 * 2
    assert all(each[of]["count"] > 0 for each in found["cells"] for of in ("echo", "bursar"))
    clients = found["clients"]
    assert clients["committed"] > 0
    assert clients["granted"] == clients["committed"] + clients["released"]
    assert list(directory.iterdir()) == []


def test_a_sidecar_that_runs_is_driven_and_the_runs_own_entries_are_audited(serve: Serve) -> None:
    served = serve(WIDE)
    admin = ("--admin-listen", served.ready["admin_listen"])
    few = ("--quick", "--repeats", "1", "--in-flight", "4", "--durability", "process")
    for target, transport in ((served.socket, "socket"), (served.listen, "tcp")):
        found = facts(bench(*few, "--target", target, *admin))
        assert found["audit"]["differences"] == []
        assert {each["transport"] for each in found["cells"]} == {transport}
    assert served.ask("status")["reservations_open"] == 0


def test_a_target_that_nobody_vouches_for_is_not_said_to_be_audited(serve: Serve) -> None:
    served = serve(WIDE)
    few = ("--quick", "--repeats", "1", "--in-flight", "4", "--calls", "reserve")
    found = facts(bench(*few, "--target", served.socket, "--admin-listen", "127.0.0.1:1"))
    assert found["audit"] is None
    assert "--admin-listen" in found["not_audited"]


def test_a_target_that_denies_is_an_answer_with_what_it_needs(serve: Serve) -> None:
    served = serve(NARROW)
    done = bench(*FEW, "--target", served.socket)
    assert done.returncode == 1
    assert "Reserve was denied" in done.stderr
    assert "needs a policy that grants" in done.stderr


def test_a_wrong_question_and_a_target_that_is_not_there_have_their_own_exit_codes() -> None:
    assert bench("--target", "somewhere").returncode == 2
    assert bench("--in-flight", "9", "--connections", "2").returncode == 2
    nobody = bench("--quick", "--target", "127.0.0.1:1")
    assert nobody.returncode == 3
    assert "cannot connect to 127.0.0.1:1" in nobody.stderr
