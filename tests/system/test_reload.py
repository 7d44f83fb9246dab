"""A policy file that changes while a sidecar serves: taken whole, or refused and said so."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from bursar.policy.watch import read_once
from bursar.v1 import admin_pb2, quota_pb2

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served, Stock

NOTICED_S_MAX = 20.0
EXIT_WRONG = 2

POLICY = """\
policy: reload
limits:
  - name: everything
    scope: [tenant]
    window: {{total: {{}}}}
    amount: {{tokens: {tokens}}}
"""

Connect = Callable[[str], "Stock"]


def reserve(stock: Stock, number: int, tokens: int, tenant: str = "a") -> quota_pb2.ReserveResponse:
    return stock.quota.Reserve(
        quota_pb2.ReserveRequest(
            reservation_id=f"{tenant}-{number}",
            model="example/small",
            labels={"tenant": tenant},
            input_tokens=tokens,
        )
    )


def until(
    stock: Stock, true: Callable[[admin_pb2.GetStatusResponse], bool]
) -> admin_pb2.GetStatusResponse:
    """Asks for the status until something is true of it."""
    end = time.monotonic() + NOTICED_S_MAX
    while True:
        status = stock.admin.GetStatus(admin_pb2.GetStatusRequest())
        if true(status):
            return status
        assert time.monotonic() < end, status


def replaced(path: Path, text: str) -> None:
    """Writes a file beside it and renames that over it, as careful editors do."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


def get(served: Served, path: str) -> str:
    answer = httpx.get(served.http + path)
    return answer.text


@pytest.fixture
def admin(connect: Connect) -> Callable[[Served], Stock]:
    return lambda served: connect(str(served.ready["admin_listen"]))


def test_an_edited_amount_is_taken_under_load_and_keeps_what_was_counted(
    serve: Serve, connect: Connect, admin: Callable[[Served], Stock]
) -> None:
    """Every answer is of one version or the next, and the counter goes on."""
    served = serve(POLICY.format(tokens=1_000_000))
    stock, operator = connect(served.socket), admin(served)
    assert reserve(stock, 0, 400_000).HasField("grant")
    versions: list[int] = []
    enough = threading.Event()

    def load() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            answer = reserve(stock, number, 1, tenant="load")
            assert answer.grant.tightest.amount == 1_000_000 * answer.policy_version
            versions.append(answer.policy_version)

    caller = threading.Thread(target=load)
    caller.start()
    replaced(served.directory / "policy.yaml", POLICY.format(tokens=2_000_000))
    status = until(operator, lambda status: status.policy_file.reloads == 1)
    after = len(versions)
    while len(versions) < after + 10 and caller.is_alive():
        enough.wait(0.01)
    enough.set()
    caller.join()
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    assert not status.policy_file.mistakes
    answer = reserve(stock, 1, 1_600_000)
    assert answer.HasField("grant")
    assert answer.grant.tightest.remaining == 0


def test_a_wrong_file_keeps_the_policy_in_force_and_is_seen_until_it_is_put_right(
    serve: Serve, connect: Connect, admin: Callable[[Served], Stock]
) -> None:
    """It is in the status, the metrics and the log; decisions and readiness stay."""
    served = serve(POLICY.format(tokens=100))
    stock, operator = connect(served.socket), admin(served)
    file = served.directory / "policy.yaml"
    file.write_text(POLICY.format(tokens=-5))
    status = until(operator, lambda status: bool(status.policy_file.mistakes))
    assert "policy.yaml:6" in status.policy_file.mistakes[0]
    assert (status.policy_version, status.ready) == (1, True)
    assert reserve(stock, 1, 100).policy_version == 1
    assert "bursar_policy_file_ok 0.0" in get(served, "/metrics")
    assert 'bursar_policy_reloads_total{outcome="refused"} 1.0' in get(served, "/metrics")
    assert "ready" in get(served, "/readyz")
    assert served.ask("status")["policy_file"]["mistakes"]
    file.unlink()
    until(operator, lambda status: "cannot be read" in "".join(status.policy_file.mistakes))
    file.write_text(POLICY.format(tokens=100))
    status = until(operator, lambda status: not status.policy_file.mistakes)
    assert (status.policy_version, status.policy_file.reloads) == (1, 0)
    assert "bursar_policy_file_ok 1.0" in get(served, "/metrics")
    log = served.log.read_text()
    assert log.count("policy.yaml:6") == 1


def test_a_change_that_counts_anew_is_refused_unless_it_may(
    serve: Serve, admin: Callable[[Served], Stock]
) -> None:
    """Live and at the start: the limit is named with what changed and what to do."""
    served = serve(POLICY.format(tokens=100))
    by_feature = POLICY.format(tokens=100).replace("tenant", "feature")
    file = served.directory / "policy.yaml"
    file.write_text(by_feature)
    status = until(admin(served), lambda status: bool(status.policy_file.mistakes))
    (mistake,) = status.policy_file.mistakes
    assert "its scope changed" in mistake
    assert "--reset-changed" in mistake
    assert served.stop() == 0

    refused = serve(by_feature)
    code, said = refused.ended()
    assert code == EXIT_WRONG
    assert "its scope changed" in said

    served = serve(by_feature, BURSAR_RESET_CHANGED="yes")
    assert until(admin(served), lambda status: status.ready).policy_version == 2
    file.write_text(by_feature.replace("total: {}", "fixed: 1h"))
    assert until(admin(served), lambda status: status.policy_version == 3).ready


def test_a_config_map_and_a_file_that_the_policy_names_are_followed(
    serve: Serve, directory: Path, admin: Callable[[Served], Stock]
) -> None:
    """Kubernetes switches one symlink for all files of a ConfigMap."""
    text = POLICY.format(tokens=100) + "    overrides: {file: more.csv}\n"
    for version, tokens in (("one", 200), ("two", 300)):
        (directory / version).mkdir()
        (directory / version / "policy.yaml").write_text(text)
        (directory / version / "more.csv").write_text(f"tenant,tokens\nacme,{tokens}\n")
    (directory / "..data").symlink_to("one")
    mounted = directory / "mounted"
    mounted.mkdir()
    for name in ("policy.yaml", "more.csv"):
        (mounted / name).symlink_to(f"../..data/{name}")
    served = serve(text, BURSAR_POLICY=str(mounted / "policy.yaml"))
    operator = admin(served)

    def amount() -> int:
        policy = operator.admin.GetPolicy(admin_pb2.GetPolicyRequest()).policy
        return policy.limits[0].overrides[0].amounts[0].amount

    assert amount() == 200
    (directory / "..next").symlink_to("two")
    (directory / "..next").rename(directory / "..data")
    until(operator, lambda status: status.policy_version == 2)
    assert amount() == 300
    (directory / "two" / "more.csv").write_text("tenant,tokens\nacme,400\n")
    until(operator, lambda status: status.policy_version == 3)
    assert amount() == 400


def test_a_hangup_has_the_file_read_even_if_it_looks_as_it_did(
    serve: Serve, admin: Callable[[Served], Stock]
) -> None:
    """A change that left size and time as they were is found when SIGHUP asks for it."""
    served = serve(POLICY.format(tokens=100))
    operator = admin(served)
    file = served.directory / "policy.yaml"
    before = file.stat()
    with file.open("r+") as opened:
        opened.write(POLICY.format(tokens=900))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    served.process.send_signal(signal.SIGHUP)
    assert until(operator, lambda status: status.policy_file.reloads == 1).policy_version == 2


def test_a_file_that_is_being_written_is_not_at_rest(tmp_path: Path) -> None:
    """What was read is taken only if every file still has it."""
    file, named = tmp_path / "policy.yaml", tmp_path / "more.csv"
    file.write_text(POLICY.format(tokens=100) + "    overrides: {file: more.csv}\n")
    named.write_text("tenant,tokens\nacme,2")
    reading = read_once(file)
    at_rest = [reading.is_at_rest]
    with named.open("a") as opened:
        opened.write("00\n")
    at_rest.append(reading.is_at_rest)
    assert at_rest == [True, False]
    assert not reading.is_current
