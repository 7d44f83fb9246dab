"""When no decision can be made: what runs, what is kept on disk, and that it counts once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

import bursar
from bursar.testing import Failure, ScriptedSidecar
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from tests.python.sdk.conftest import Away, Connect

MODEL = "openai/gpt-4.1-mini"
ASKED = {"model": MODEL, "labels": {"tenant": "acme"}, "input_tokens": 100}
USAGE = {"input": 100, "output": 42}
SEND_S_MAX = 30.0


def _reserve(client: bursar.Client, **more: object) -> bursar.Reservation:
    return client.reserve(**{**ASKED, "output_tokens_max": 300, **more})  # type: ignore[arg-type]  # by name


def _spooled(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "spool").glob("*/*.spool"))


def test_allow_lets_the_call_through_and_counts_it_when_the_sidecar_is_back(
    away: Away, connect: Connect, tmp_path: Path
) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.1)
    with _reserve(client) as reservation:
        assert reservation.undecided
        assert (reservation.output_tokens_granted, reservation.tokens_reserved) == (300, 0)
        assert reservation.expires_at is None
        assert len(_spooled(tmp_path)) == 1  # before the call runs
        began_s = time.monotonic()
        assert reservation.commit(USAGE) is None
        assert time.monotonic() - began_s < 1.0  # it holds nobody
    assert client.stats().waiting == 1
    away.start()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (142, 0, 1)
    stats = client.stats()
    assert (stats.undecided, stats.let_through, stats.settled, stats.recorded) == (1, 1, 1, 1)
    assert (stats.waiting, stats.dropped, stats.refused) == (0, 0, 0)
    assert _spooled(tmp_path) == []


def test_deny_raises_where_allow_lets_through(away: Away, connect: Connect, tmp_path: Path) -> None:
    client = connect(away.target, timeout=0.1)
    with pytest.raises(bursar.Undecided):
        _reserve(client)
    assert client.stats().undecided == 1
    assert _spooled(tmp_path) == []


def test_a_dry_run_is_never_let_through(away: Away, connect: Connect) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.1)
    with pytest.raises(bursar.Undecided):
        _reserve(client, dry_run=True)
    assert client.stats().waiting == 0


def test_what_a_stalled_sidecar_has_granted_after_all_is_committed_under_its_id(
    away: Away, connect: Connect
) -> None:
    away.start()
    client = connect(away.target, on_undecided="allow", timeout=5)
    _reserve(client).commit(USAGE)
    away.stall()
    reservation = _reserve(client, timeout=0.3)
    assert reservation.undecided
    reservation.commit(USAGE)
    away.go_on()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (284, 0, 2)


def test_deny_gives_back_what_a_stalled_sidecar_has_granted_after_all(
    away: Away, connect: Connect
) -> None:
    away.start()
    client = connect(away.target, timeout=5)
    _reserve(client).commit(USAGE)
    away.stall()
    with pytest.raises(bursar.Undecided, match="DEADLINE_EXCEEDED"):
        _reserve(client, timeout=0.3)
    away.go_on()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (142, 0, 1)


def test_a_commit_whose_sidecar_was_killed_is_sent_to_the_next_one(
    away: Away, connect: Connect
) -> None:
    away.start()
    client = connect(away.target)
    kept, known = _reserve(client), _reserve(client)
    away.kill()
    began_s = time.monotonic()
    assert kept.commit(USAGE) is None
    assert time.monotonic() - began_s < 3.0
    assert known.commit(USAGE) is None
    assert client.stats().spooled == 2
    away.start()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (284, 0, 2)
    assert client.stats().recorded == 0  # the reservations had survived


def test_a_release_finds_the_next_sidecar_too(away: Away, connect: Connect) -> None:
    away.start()
    client = connect(away.target)
    reservation = _reserve(client)
    away.kill()
    assert reservation.release(timeout=0.1) is None
    away.start()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (0, 0, 0)


def test_a_call_let_through_that_proves_it_did_not_run_leaves_nothing(
    away: Away, connect: Connect
) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.1)
    with pytest.raises(ConnectionRefusedError), _reserve(client):
        raise ConnectionRefusedError
    away.start()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (0, 0, 0)
    assert client.stats().waiting == 0


CRASH = """
import sys, threading, bursar
client = bursar.Client(sys.argv[1], on_undecided="allow", timeout=0.1)
asked = dict(model="openai/gpt-4.1-mini", labels={"tenant": "acme"}, input_tokens=100)
reservation = client.reserve(output_tokens_max=300, **asked)
if sys.argv[2] == "committed":
    reservation.commit({"input": 100, "output": 42})
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize(("point", "tokens"), [("committed", 142), ("running", 100)])
def test_what_a_killed_caller_has_not_sent_is_sent_by_the_next_one_and_counts_once(
    away: Away, connect: Connect, point: str, tokens: int
) -> None:
    crashed = subprocess.Popen(
        [sys.executable, "-c", CRASH, away.target, point], stdout=subprocess.PIPE, text=True
    )
    assert crashed.stdout is not None
    assert crashed.stdout.readline() == "ready\n"
    crashed.send_signal(signal.SIGKILL)
    crashed.wait()
    crashed.stdout.close()
    away.start()
    client = connect(away.target)
    assert client.flush(SEND_S_MAX)
    assert client.stats().adopted == 1
    assert away.counted() == (tokens, 0, 1)


def test_what_was_sent_and_not_crossed_out_before_a_crash_counts_once(
    away: Away, connect: Connect, tmp_path: Path
) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.1)
    _reserve(client).commit(USAGE)
    (file,) = _spooled(tmp_path)
    held = file.read_bytes()
    away.start()
    assert client.flush(SEND_S_MAX)
    file.write_bytes(held)  # as if its owner had died right after sending
    again = connect(away.target)
    assert again.flush(SEND_S_MAX)
    assert (again.stats().adopted, again.stats().refused) == (1, 0)
    assert away.counted() == (142, 0, 1)


def test_a_torn_tail_costs_only_what_was_torn(
    away: Away, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.1)
    for _ in range(2):
        _reserve(client).commit(USAGE)
    client.close()
    (file,) = _spooled(tmp_path)
    os.truncate(file, file.stat().st_size - 3)
    away.start()
    next_one = connect(away.target)
    assert next_one.flush(SEND_S_MAX)
    # The second's commit was torn; what had been written when it was let through was not.
    assert away.counted() == (242, 0, 2)
    assert "were torn" in caplog.text


def test_a_live_clients_file_and_another_sidecars_are_left_alone(
    away: Away, connect: Connect, tmp_path: Path
) -> None:
    live = connect(away.target, on_undecided="allow", timeout=0.1)
    _reserve(live)
    other = connect("unix:/nowhere/else.sock", on_undecided="allow", timeout=0.1)
    _reserve(other).commit(USAGE)
    other.close()
    away.start()
    client = connect(away.target)
    assert client.flush(SEND_S_MAX)
    assert client.stats().adopted == 0
    assert away.counted() == (0, 0, 0)
    assert len(_spooled(tmp_path)) == 2


def test_usage_older_than_the_sidecar_remembers_is_set_aside_and_logged_once(
    away: Away, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.1)
    _reserve(client, reservation_id="old").commit(USAGE)
    client.close()
    (orphan,) = _spooled(tmp_path)
    orphan.rename(hidden := tmp_path / "hidden")
    away.start(BURSAR_SETTLED_IDS_MAX="1")
    busy = connect(away.target)
    for _ in range(3):
        _reserve(busy).commit(USAGE)
    hidden.rename(orphan)
    late = connect(away.target)
    assert late.flush(SEND_S_MAX)
    assert late.stats().refused == 1
    assert away.counted() == (3 * 142, 0, 3)
    (refused,) = (tmp_path / "spool").glob("*/refused.jsonl")
    (line,) = refused.read_text().splitlines()
    assert json.loads(line)["entry"]["reservation_id"] == "old"
    assert caplog.text.count("kept aside in") == 1


def test_a_wrong_question_is_never_undecided(scripted: ScriptedSidecar, connect: Connect) -> None:
    client = connect(scripted.target, on_undecided="allow", timeout=5)
    scripted.answer("Reserve", Failure(grpc.StatusCode.INVALID_ARGUMENT))
    with pytest.raises(bursar.InvalidRequest):
        _reserve(client)
    denial = quota_pb2.Denial(reason=quota_pb2.REASON_REQUEST_CAP)
    scripted.answer("Reserve", quota_pb2.ReserveResponse(denial=denial))
    with pytest.raises(bursar.Denied):
        _reserve(client)
    assert client.stats().undecided == 0


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_a_bug_lets_nothing_through_unless_asked_to(
    scripted: ScriptedSidecar, connect: Connect, code: grpc.StatusCode
) -> None:
    scripted.answer("Reserve", Failure(code), Failure(code))
    careful = connect(scripted.target, on_undecided="allow", timeout=5)
    with pytest.raises(bursar.Undecided) as raised:
        _reserve(careful)
    assert raised.value.is_bug
    bold = connect(scripted.target, on_undecided="allow", allow_on_bugs=True, timeout=5)
    assert _reserve(bold).undecided


def test_allow_without_a_disk_for_its_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = tmp_path / "file" / "spool"
    with pytest.raises(bursar.InvalidRequest, match=r"BURSAR_SPOOL"):
        bursar.Client("unix:/nowhere", on_undecided="allow", spool=nowhere)


def test_deny_without_a_disk_keeps_in_memory(
    away: Away, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    away.start()
    client = connect(away.target, spool=tmp_path / "file" / "spool")
    reservation = _reserve(client)
    away.kill()
    assert reservation.commit(USAGE, timeout=0.1) is None
    assert "kept in memory only" in caplog.text
    away.start()
    assert client.flush(SEND_S_MAX)
    assert away.counted() == (142, 0, 1)


def test_a_commit_after_close_is_kept_for_the_next_client(away: Away, connect: Connect) -> None:
    away.start()
    client = connect(away.target)
    reservation = _reserve(client)
    client.close()
    assert reservation.commit(USAGE) is None
    assert client.stats().waiting == 1
    with pytest.raises(bursar.InvalidRequest, match="closed"):
        _reserve(client)
