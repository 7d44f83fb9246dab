"""`bursar serve` as a process: how it starts, stops, dies and comes back."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2
from tests.system.conftest import BURSAR

from bursar import _core
from bursar.v1 import quota_pb2, usage_pb2

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served, Stock

    Connect = Callable[[str], Stock]

POLICY = """
policy: serve
time_zone: UTC
limits:
  - name: tenant-month
    scope: [tenant]
    window: {calendar: month}
    amount: {tokens: 100k}
  - name: in-flight
    amount: {concurrency: 1k}
"""
MODEL = "openai/gpt-4.1-mini"
FEATURES = ("search", "support", "summaries")


def reserve(name: str, *, feature: str, tokens: int) -> quota_pb2.ReserveRequest:
    return quota_pb2.ReserveRequest(
        reservation_id=name,
        model=MODEL,
        labels={"tenant": "acme", "feature": feature},
        output_tokens_max=tokens,
    )


def commit(name: str, *, tokens: int) -> quota_pb2.CommitRequest:
    return quota_pb2.CommitRequest(
        reservation_id=name,
        outcome=quota_pb2.OUTCOME_COMPLETED,
        lines=[quota_pb2.Line(meter=quota_pb2.METER_OUTPUT, tokens=tokens)],
    )


def spend(stock: Stock, name: str, *, feature: str = "search", tokens: int = 10) -> None:
    assert stock.quota.Reserve(reserve(name, feature=feature, tokens=tokens)).HasField("grant")
    stock.quota.Commit(commit(name, tokens=tokens))


class Load:
    """Callers that reserve and commit until nobody answers them any more."""

    def __init__(self, stock: Stock, *, callers: int) -> None:
        """Starts them."""
        self._stock = stock
        self.busy = threading.Event()
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.begun: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._call, args=(number,)) for number in range(callers)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, caller: int) -> None:
        for call in itertools.count():
            name, feature, tokens = f"{caller}-{call}", FEATURES[call % 3], 1 + call % 7
            try:
                self._stock.quota.Reserve(reserve(name, feature=feature, tokens=tokens), timeout=9)
                self.begun[feature] += tokens
                self._stock.quota.Commit(commit(name, tokens=tokens), timeout=9)
            except grpc.RpcError:
                return
            self.acknowledged[name] = (feature, tokens)
            if len(self.acknowledged) >= 300:
                self.busy.set()

    def join(self) -> None:
        """Waits until every caller has given up."""
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()

    def tokens(self) -> Counter[str]:
        """Tokens that were acknowledged, by feature."""
        tokens: Counter[str] = Counter()
        for feature, amount in self.acknowledged.values():
            tokens[feature] += amount
        return tokens


class Watcher:
    """Whoever watches the data plane's health until it is gone."""

    def __init__(self, stock: Stock) -> None:
        """Starts to watch, and waits until it has been told for the first time."""
        self._statuses: list[str] = []
        self._told = threading.Event()
        self._answers = stock.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        assert self._told.wait(timeout=10)

    def _watch(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for answer in self._answers:
                name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
                self._statuses.append(name)
                self._told.set()

    def seen(self) -> list[str]:
        """Waits until it is gone; gives all that was told."""
        self._thread.join(timeout=10)
        assert not self._thread.is_alive()
        return self._statuses


def in_ledger(data: Path) -> Counter[str]:
    """Tokens in the ledger, by feature."""
    scanned = usage_pb2.UsageBatch.FromString(_core.scan_usage(data_directory=str(data)))
    tokens: Counter[str] = Counter()
    for group in scanned.groups:
        tokens[group.labels["feature"]] += sum(each.tokens for each in group.tokens)
    return tokens


def rows(answer: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Tokens and calls by feature, of what `bursar usage --json` answers."""
    return {
        row["group"]["feature"]: (int(row["tokens"]), int(row["calls"])) for row in answer["rows"]
    }


def said(url: str) -> tuple[int, str]:
    """What an HTTP page answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as page:  # noqa: S310  our own address
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_sigterm_under_load_drains_and_ends_within_ten_seconds(
    serve: Serve, connect: Connect
) -> None:
    served = serve(POLICY)
    watcher = Watcher(connect(served.listen))
    load = Load(connect(served.socket), callers=8)
    assert load.busy.wait(timeout=60)
    told = time.monotonic()
    code = served.stop()
    took_s = time.monotonic() - told
    load.join()
    first, *then = watcher.seen()
    assert (first, set(then)) == ("SERVING", {"NOT_SERVING"})
    assert code == 0, served.log.read_text()
    assert took_s < 10
    # Nothing acknowledged is missing; what was begun and not acknowledged may be there.
    found, acknowledged = in_ledger(served.data), load.tokens()
    for feature in FEATURES:
        assert acknowledged[feature] <= found[feature] <= load.begun[feature]
    assert _core.verify(data_directory=str(served.data))["problems"] == []
    # And after a restart each of them is still the same commit.
    stock = connect(serve(POLICY).socket)
    for name, (_, tokens) in load.acknowledged.items():
        again = stock.quota.Commit(commit(name, tokens=tokens))
        assert (again.tokens_committed, again.replayed) == (tokens, True)


def test_a_kill_under_load_loses_nothing_that_was_acknowledged(
    serve: Serve, connect: Connect
) -> None:
    served = serve(POLICY)
    load = Load(connect(served.socket), callers=8)
    assert load.busy.wait(timeout=60)
    served.kill()
    load.join()
    again = serve(POLICY)
    stock = connect(again.socket)
    for name, (_, tokens) in load.acknowledged.items():
        answer = stock.quota.Commit(commit(name, tokens=tokens))
        assert (answer.tokens_committed, answer.replayed) == (tokens, True)
    usage = rows(again.ask("usage", "--by", "feature"))
    assert {feature: tokens for feature, (tokens, _) in usage.items()} == in_ledger(again.data)


def test_usage_limits_and_status_are_the_sum_of_the_traffic(serve: Serve, connect: Connect) -> None:
    served = serve(POLICY)
    stock = connect(served.listen)
    for call in range(60):
        spend(stock, f"r{call}", feature=FEATURES[call % 3], tokens=call)
    stock.quota.Reserve(reserve("open", feature="search", tokens=500))
    expected = {feature: (sum(range(at, 60, 3)), 20) for at, feature in enumerate(FEATURES)}
    usage = served.ask("usage", "--by", "feature")
    assert rows(usage) == expected
    status = served.ask("status")
    assert int(usage["through_sequence"]) == int(status["ledger"]["sequence"]) == 1 + 2 * 60 + 1
    assert int(status["reservations_open"]) == 1
    assert int(status["settled_ids"]) == 60
    limits = {each["limit"]: each for each in served.ask("limits")["standings"]}
    month = limits["tenant-month"]
    assert int(month["committed"]) == sum(range(60))
    assert int(month["reserved"]) == 500
    assert int(month["remaining"]) == 100_000 - sum(range(60)) - 500
    assert int(limits["in-flight"]["reserved"]) == 1


def test_probes_and_metrics_answer_over_http(serve: Serve, connect: Connect) -> None:
    served = serve(POLICY)
    spend(connect(served.socket), "r1")
    assert said(f"{served.http}/healthz")[0] == 200
    assert said(f"{served.http}/readyz")[0] == 200
    status, metrics = said(f"{served.http}/metrics")
    assert status == 200
    assert "bursar_" in metrics


def standing(served: Served) -> tuple[int, int]:
    """What is committed and what remains of the tenant's month."""
    (month,) = served.ask("limits", "tenant-month")["standings"]
    return int(month["committed"]), int(month["remaining"])


def test_a_restart_with_edited_amounts_keeps_what_was_counted(
    serve: Serve, connect: Connect
) -> None:
    first = serve(POLICY)
    spend(connect(first.socket), "r1", tokens=40_000)
    assert standing(first) == (40_000, 60_000)
    assert first.stop() == 0
    raised = serve(POLICY.replace("100k", "200k"))
    assert standing(raised) == (40_000, 160_000)
    assert raised.ask("status")["policy_version"] in {2, "2"}
    assert raised.stop() == 0
    lowered = serve(POLICY.replace("100k", "30k"))
    assert standing(lowered) == (40_000, 0)
    denial = connect(lowered.socket).quota.Reserve(reserve("r2", feature="search", tokens=1))
    assert denial.denial.reason == quota_pb2.REASON_LIMIT


def test_a_disk_that_dies_with_the_pod_is_warned_of_where_a_limit_counts_for_days(
    serve: Serve,
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bursar-") as volatile:
        memory = {"BURSAR_DATA": volatile, "BURSAR_SEGMENT_BYTES": "1MiB"}
        served = serve(POLICY, **memory)
        assert served.stop() == 0
        said_of_disk = f"the data directory {volatile} is on tmpfs"
        assert said_of_disk in served.log.read_text()
        assert "tenant-month counts over a day" in served.log.read_text()
        hourly = serve(POLICY.replace("month}", "hour}"), **memory, BURSAR_RESET_CHANGED="yes")
        assert hourly.stop() == 0
        assert served.log.read_text().count(said_of_disk) == 1  # both write to one log


def test_a_restart_with_the_same_file_activates_nothing(serve: Serve) -> None:
    first = serve(POLICY)
    before = first.ask("status")
    assert first.stop() == 0
    after = serve(POLICY).ask("status")
    assert after["policy_version"] == before["policy_version"]
    assert after["ledger"]["sequence"] == before["ledger"]["sequence"]


def test_a_policy_with_several_mistakes_starts_nothing_and_names_them_all(serve: Serve) -> None:
    served = serve(
        "policy: wrong\n"
        "limits:\n"
        "  - name: a\n"
        "    scope: [tennant]\n"
        "    window: {fixed: 1m}\n"
        "    amount: {tokens: 1.5}\n"
        "  - name: a\n"
        "    window: {sliding: 1m}\n"
        "    amount: {cost: 3}\n"
        "colour: blue\n"
    )
    code, log = served.ended()
    assert (code, served.ready) == (2, {})
    for line in (4, 6, 7, 8, 9, 10):
        assert f"policy.yaml:{line}" in log, log
    for word in ("tennant", "tenant", "sliding", "cost", "colour"):
        assert word in log
    assert not served.data.exists()


def test_a_second_sidecar_on_the_same_directory_is_refused(serve: Serve, connect: Connect) -> None:
    first = serve(POLICY)
    second = serve(POLICY, BURSAR_SOCKET=str(first.directory / "run" / "other.sock"))
    code, log = second.ended()
    assert code == 3
    assert "in use" in log
    assert str(first.process.pid) in log
    # The first one has noticed nothing.
    spend(connect(first.socket), "r1")
    assert first.stop() == 0


def test_an_address_off_loopback_is_refused(serve: Serve) -> None:
    code, log = serve(POLICY, BURSAR_LISTEN="0.0.0.0:7420").ended()
    assert code == 2
    assert "loopback" in log


def test_a_second_sidecar_on_the_same_socket_is_refused(serve: Serve, connect: Connect) -> None:
    first = serve(POLICY)
    second = serve(POLICY, BURSAR_DATA=str(first.directory / "other"))
    code, log = second.ended()
    assert code == 3
    assert f"another sidecar, process {first.process.pid}, has that socket" in log
    spend(connect(first.socket), "r1")
    assert first.stop() == 0
    assert not list((first.directory / "run").iterdir())


def test_a_socket_where_everyone_may_write_is_warned_of(serve: Serve, directory: Path) -> None:
    open_to_all = directory / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    warned = serve(POLICY, BURSAR_SOCKET=str(open_to_all / "bursar.sock"))
    assert warned.stop() == 0
    said = f"everyone may write into the socket's directory {open_to_all}"
    assert said in warned.log.read_text()
    open_to_all.chmod(0o1777)  # as /tmp: nobody replaces another's file
    assert serve(POLICY, BURSAR_SOCKET=str(open_to_all / "bursar.sock")).stop() == 0
    assert warned.log.read_text().count(said) == 1


def limited(soft: int, hard: int) -> tuple[str, ...]:
    """`bursar` in a shell that may have so many files open."""
    limits = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" "$@"'
    return ("bash", "-c", limits, BURSAR)


def open_files_of(served: Served) -> int:
    limits = Path(f"/proc/{served.process.pid}/limits").read_text().splitlines()
    line = next(each for each in limits if each.startswith("Max open files"))
    return int(line.split()[3])


def test_as_many_files_may_be_open_as_connections_take(serve: Serve, connect: Connect) -> None:
    served = serve(POLICY, limited(64, 4_096))
    assert open_files_of(served) == 1_024 + 256
    spend(connect(served.socket), "r1")
    assert served.stop() == 0


def test_too_few_open_files_are_refused_with_what_to_do(serve: Serve) -> None:
    code, log = serve(POLICY, limited(64, 512)).ended()
    assert code == 3
    assert "1_024 connections and all else take 1_280 open files" in log
    assert "this process may have 512" in log
    assert "set --connections-max to 256 or less" in log
    served = serve(POLICY, limited(64, 512), BURSAR_CONNECTIONS_MAX="256")
    assert served.ready
    assert served.stop() == 0
