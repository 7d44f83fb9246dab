"""`bursar serve` on full disks and failing files: what callers, probes and operators see."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import httpx
import pytest
from google.rpc import (  # type: ignore[import-untyped] # no stubs
    error_details_pb2,
    status_pb2,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.system.disks import Disk, mounted

from bursar import _core
from bursar.v1 import admin_pb2, quota_pb2, usage_pb2

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served, Stock

    Connect = Callable[[str], Stock]

POLICY = """
policy: faults
limits:
  - name: everything
    window: {total: {}}
    amount: {tokens: 1000M}
"""
DOOMED = (sys.executable, str(Path(__file__).with_name("doomed_serve.py")))
EXIT_NO, EXIT_UNDECIDED, EXIT_DIED = 1, 3, 70
NOTICED_S_MAX = 60.0
SMALL = {"BURSAR_SEGMENT_BYTES": "64KiB", "BURSAR_LEDGER_BYTES_MAX": "1GiB"}


def reserve(stock: Stock, name: str) -> quota_pb2.ReserveResponse:
    return stock.quota.Reserve(
        quota_pb2.ReserveRequest(
            reservation_id=name,
            model="openai/gpt-4.1-mini",
            labels={"tenant": "acme"},
            output_tokens_max=10,
        ),
        timeout=30,
    )


def commit(stock: Stock, name: str) -> quota_pb2.CommitResponse:
    return stock.quota.Commit(
        quota_pb2.CommitRequest(
            reservation_id=name,
            outcome=quota_pb2.OUTCOME_COMPLETED,
            lines=[quota_pb2.Line(meter=quota_pb2.METER_OUTPUT, tokens=7)],
        ),
        timeout=30,
    )


def refusal(ask: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """The code, reason and words by which a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        ask()
    call: Any = refused.value
    info = error_details_pb2.ErrorInfo()
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
    return call.code(), info.reason, call.details() or ""


def until(found: Callable[[], bool], what: str) -> None:
    """Waits until something is so."""
    end = time.monotonic() + NOTICED_S_MAX
    while not found():
        assert time.monotonic() < end, f"it never came that {what}"
        time.sleep(0.05)


def page(served: Served, name: str) -> tuple[int, str]:
    answer = httpx.get(f"{served.http}/{name}", timeout=30)
    return answer.status_code, answer.text


def health(stock: Stock) -> int:
    stub: Any = health_pb2_grpc.HealthStub(stock.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest()).status)


def tokens_in_ledger(data: Path) -> int:
    scanned = usage_pb2.UsageBatch.FromString(_core.scan_usage(data_directory=str(data)))
    return sum(each.tokens for group in scanned.groups for each in group.tokens)


def call_until_it_ends(stock: Stock, acknowledged: list[str]) -> grpc.StatusCode:
    """Reserves and commits, noting what is acknowledged, until that is refused; gives the code."""
    for number in range(100_000):
        name = f"after-{number}"
        try:
            reserve(stock, name)
            commit(stock, name)
        except grpc.RpcError as error:
            return cast("grpc.Call", error).code()
        acknowledged.append(name)
    raise AssertionError("it went on")


def fill_until_refused(stock: Stock, disk: Disk) -> tuple[list[str], str]:
    """Fills the disk and reserves until that is refused; gives what is open, and the words."""
    disk.fill()
    names: list[str] = []
    while True:
        name = f"open-{len(names)}"
        try:
            reserve(stock, name)
        except grpc.RpcError:
            code, reason, words = refusal(lambda: reserve(stock, "refused"))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_FULL")
            return names, words
        names.append(name)
        assert len(names) < 100_000, "the disk was never full"


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_fills_refuses_reservations_takes_settlements_and_recovers_by_itself(
    serve: Serve, connect: Connect, directory: Path, kind: str
) -> None:
    with mounted(kind, directory, 16) as disk:
        served = serve(POLICY, BURSAR_DATA=str(disk.path / "data"), **SMALL)
        stock = connect(served.socket)
        reserve(stock, "first")
        assert page(served, "readyz")[0] == 200
        names, words = fill_until_refused(stock, disk)
        assert "No space left on device" in words

        # Whoever asks is told why.
        code, said = page(served, "readyz")
        assert (code, "No space left on device" in said) == (503, True), said
        assert page(served, "healthz")[0] == 200
        assert health(stock) == health_pb2.HealthCheckResponse.NOT_SERVING
        status = served.run("status")
        assert status.returncode == EXIT_NO
        assert "No space left on device" in " ".join(status.stdout.split())
        metrics = page(served, "metrics")[1]
        assert 'bursar_not_ready{reason="ledger_full"} 1' in metrics
        assert 'bursar_faults_total{reason="LEDGER_FULL"}' in metrics

        # What was reserved is settled all the same, in a process that stays up.
        for name in ["first", *names[:50]]:
            assert commit(stock, name).tokens_committed == 7
        assert served.process.poll() is None
        disk.free()
        until(lambda: page(served, "readyz")[0] == 200, "it was ready again")
        assert 'bursar_not_ready{reason="ledger_full"} 0' in page(served, "metrics")[1]
        until(
            lambda: health(stock) == health_pb2.HealthCheckResponse.SERVING, "its health was good"
        )
        reserve(stock, "again")
        commit(stock, "again")
        usage = served.ask("usage")
        assert [int(row["tokens"]) for row in usage["rows"]] == [7 * 52]
        assert served.stop() == 0, served.log.read_text()
        assert tokens_in_ledger(served.data) == 7 * 52
        assert _core.verify(data_directory=str(served.data))["problems"] == []


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_sidecar_killed_on_a_full_disk_comes_back_on_it_and_goes_on_settling(
    serve: Serve, connect: Connect, directory: Path, kind: str
) -> None:
    with mounted(kind, directory, 16) as disk:
        settings = {"BURSAR_DATA": str(disk.path / "data"), **SMALL}
        served = serve(POLICY, **settings)
        stock = connect(served.socket)
        names, _ = fill_until_refused(stock, disk)
        for name in names[:20]:
            commit(stock, name)
        served.kill()
        disk.fill()
        again = serve(POLICY, **settings)
        assert again.ready, again.log.read_text()
        stock = connect(again.socket)
        until(lambda: health(stock) != health_pb2.HealthCheckResponse.SERVING, "its health was bad")
        for name in names[:20]:
            assert commit(stock, name).replayed
        for name in names[20:40]:
            assert not commit(stock, name).replayed
        code, said = page(again, "readyz")
        assert (code, "No space left on device" in said) == (503, True), said
        disk.free()
        until(lambda: page(again, "readyz")[0] == 200, "it was ready again")
        for name in names:
            assert reserve(stock, name).replayed
        assert again.stop() == 0
        assert tokens_in_ledger(again.data) == 7 * 40


def test_a_policy_that_has_no_place_on_a_full_disk_waits_and_is_taken_when_there_is(
    serve: Serve, connect: Connect, directory: Path
) -> None:
    with mounted("tmpfs", directory, 16) as disk:
        served = serve(POLICY, BURSAR_DATA=str(disk.path / "data"), **SMALL)
        stock = connect(served.socket)
        names, _ = fill_until_refused(stock, disk)
        for name in names[:400]:
            commit(stock, name)
        # Of the segment at hand less is left than this would take and settlements are kept.
        comment = f"# {'long' * 6_000}\n"
        (directory / "policy.yaml").write_text(POLICY.replace("1000M", "2000M") + comment)

        def mistakes() -> list[str]:
            status = operator.admin.GetStatus(admin_pb2.GetStatusRequest())
            return list(status.policy_file.mistakes)

        operator = connect(served.ready["admin_listen"])
        until(lambda: bool(mistakes()), "the file was looked at")
        (mistake,) = mistakes()
        assert "not taken yet" in mistake
        assert "No space left on device" in mistake
        # Neither did that poison the ledger.
        commit(stock, names[400])
        disk.free()
        until(lambda: not mistakes(), "the file was taken")
        assert served.ask("status")["policy_version"] in {2, "2"}
        assert served.stop() == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (".log rw /proc/self/mem", "a write to the ledger failed: Input/output error"),
        (".log rw /dev/full", "a write to the ledger failed: No space left on device"),
        (".log rw /dev/null", "a sync of the ledger failed: Invalid argument"),
        ("/index/data.mdb w /dev/full", "MDB_PANIC"),
        ("/index/data.mdb rw /proc/self/mem", "the index: Input/output error"),
    ],
    ids=["ledger-EIO", "ledger-ENOSPC", "sync-fails", "index-meta-page", "index-EIO"],
)
def test_a_file_that_fails_ends_the_sidecar_with_70_and_nothing_acknowledged_is_lost(
    serve: Serve, connect: Connect, spoil: str, words: str
) -> None:
    served = serve(POLICY, command=DOOMED)
    stock = connect(served.socket)
    acknowledged = [f"r{number}" for number in range(20)]
    for name in acknowledged:
        reserve(stock, name)
        commit(stock, name)
    # The index has all of this, so that what comes next is what meets the bad file.
    served.ask("usage")
    assert served.process.stdin is not None
    assert served.process.stdout is not None
    served.process.stdin.write(f"{spoil}\n")
    served.process.stdin.flush()
    assert int(served.process.stdout.readline()) >= 1
    assert call_until_it_ends(stock, acknowledged) is grpc.StatusCode.UNAVAILABLE
    code, log = served.ended()
    assert code == EXIT_DIED, log
    assert words in log, log

    again = serve(POLICY)
    stock = connect(again.socket)
    for name in acknowledged:
        assert commit(stock, name).replayed, name
    assert again.stop() == 0
    # One may have been committed that was never acknowledged; none is there twice.
    assert tokens_in_ledger(again.data) in {7 * len(acknowledged), 7 * (len(acknowledged) + 1)}
    assert _core.verify(data_directory=str(again.data))["problems"] == []


def test_a_write_that_is_cut_short_ends_the_sidecar_with_70_and_counts_nothing_twice(
    serve: Serve, connect: Connect
) -> None:
    served = serve(POLICY)
    stock = connect(served.socket)
    reserve(stock, "r1")
    commit(stock, "r1")
    (segment,) = (served.data / "ledger").glob("*.log")
    used = len(segment.read_bytes().rstrip(b"\0"))
    # The kernel takes twenty bytes more of any file and no further ones.
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (used + 20, used + 20))
    status, reason, _ = refusal(lambda: reserve(stock, "r2"))
    assert (status, reason) == (grpc.StatusCode.UNAVAILABLE, "POISONED")
    code, log = served.ended()
    assert code == EXIT_DIED, log
    assert "bytes were taken" in log
    again = serve(POLICY)
    stock = connect(again.socket)
    assert commit(stock, "r1").replayed
    assert not reserve(stock, "r2").replayed
    assert again.stop() == 0
    assert tokens_in_ledger(again.data) == 7


def test_books_that_cannot_be_written_leave_decisions_going_and_catch_up(
    serve: Serve, connect: Connect, directory: Path
) -> None:
    with mounted("tmpfs", directory, 4) as disk:
        data = directory / "data"
        data.mkdir()
        # The books alone lie on the disk that fills.
        (data / "books.sqlite").symlink_to(disk.path / "books.sqlite")
        served = serve(POLICY)
        stock = connect(served.socket)
        reserve(stock, "r0")
        commit(stock, "r0")
        assert [int(row["tokens"]) for row in served.ask("usage")["rows"]] == [7]
        disk.fill()
        for number in range(1, 40):
            reserve(stock, f"r{number}")
            commit(stock, f"r{number}")
        told = served.run("usage")
        assert told.returncode == EXIT_UNDECIDED, told.stdout
        assert "the books cannot be" in told.stderr
        assert page(served, "readyz")[0] == 200
        assert "bursar_books_failures_total 0.0" not in page(served, "metrics")[1]
        disk.free()
        until(lambda: served.run("usage").returncode == 0, "usage was answered again")
        assert [int(row["tokens"]) for row in served.ask("usage")["rows"]] == [7 * 40]
        assert served.stop() == 0
