"""What admin promises on its own wire, over a data plane of canned answers.

The data plane here answers with what it is given, so that odd answers can be had at will; that
the two fit together is tested in system/, with the real one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import pytest
from google.rpc import (  # type: ignore[import-untyped] # no stubs
    error_details_pb2,
    status_pb2,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from bursar.admin import http
from bursar.admin.drain import BATCHES_MAX, Drain
from bursar.admin.http import HttpServer, application
from bursar.admin.policy_file import PolicyFile
from bursar.admin.service import CONNECTIONS_MAX, AdminServer, AdminService, Place
from bursar.books.books import Books, open_books
from bursar.errors import BooksError, StartError
from bursar.v1 import admin_pb2, admin_pb2_grpc, policy_pb2, quota_pb2, usage_pb2

HOUR_MS = 3_600_000
Asked = Callable[[grpc.aio.Channel], Awaitable[None]]


class CannedCore:
    """A data plane that answers what it was given, and hands batches out until they are taken."""

    def __init__(self) -> None:
        self.batches: list[list[usage_pb2.UsageBatch]] = []
        self.error: Exception | None = None

    def status(self) -> bytes:
        return admin_pb2.GetStatusResponse(ready=True, policy_name="p").SerializeToString()

    def policy(self) -> bytes:
        policy = policy_pb2.Policy(name="p", time_zone="Asia/Kolkata", rollups=["feature"])
        return admin_pb2.GetPolicyResponse(policy=policy, version=1).SerializeToString()

    def standings(self, *, request: bytes) -> bytes:
        self._fail()
        asked = admin_pb2.ListStandingsRequest.FromString(request)
        standing = quota_pb2.Standing(limit=asked.limit, remaining=3)
        return admin_pb2.ListStandingsResponse(standings=[standing]).SerializeToString()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def reservations(self, *, request: bytes) -> bytes:
        self._fail()
        return request

    def reservation(self, *, request: bytes) -> bytes:
        self._fail()
        return request

    def explain(self, *, request: bytes) -> bytes:
        self._fail()
        return request

    def watch(self, *, request: bytes) -> None:
        """Has as many watch already as may."""
        del request
        self._fail()

    def usage_page(
        self, *, books_sequence: int, page: bytes, catch_up: bool = False
    ) -> bytes | None:
        del catch_up  # there is no follower to wait for
        self.batches = [each for each in self.batches if each[0].through_sequence > books_sequence]
        if not self.batches:
            return None
        return self.batches[0][int(page or b"0")].SerializeToString()


def batch(after: int, through: int, *features: str) -> list[usage_pb2.UsageBatch]:
    """A batch with a page for each feature: ten tokens and one call."""
    pages = []
    for index, feature in enumerate(features):
        tokens = usage_pb2.MeterTokens(
            meter=quota_pb2.METER_OUTPUT, basis=quota_pb2.BASIS_MEASURED, tokens=10
        )
        group = usage_pb2.UsageGroup(
            hour_unix_ms=HOUR_MS // 2, labels={"feature": feature}, tokens=[tokens], calls=1
        )
        following = str(index + 1).encode() if index + 1 < len(features) else b""
        pages.append(
            usage_pb2.UsageBatch(
                after_sequence=after, through_sequence=through, groups=[group], next_page=following
            )
        )
    return pages


def admin_stub(channel: grpc.aio.Channel) -> admin_pb2_grpc.AdminServiceAsyncStub:
    """The stub, as its types have it for asyncio; at run time there is one class for both."""
    stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
    return cast("admin_pb2_grpc.AdminServiceAsyncStub", stub)


def service_of(core: CannedCore, books: Books, drain: Drain, place: Place) -> AdminService:
    """The service over a policy file that nobody has changed."""
    file = PolicyFile(Path("policy.yaml"), activate=lambda _: None, registry=CollectorRegistry())
    return AdminService(core=core, books=books, drain=drain, place=place, policy_file=file)


def ask(tmp_path: Path, core: CannedCore, asked: Asked) -> None:
    """Serves admin over `core` and asks it."""

    async def serve() -> None:
        books = open_books(tmp_path)
        drain = Drain(source=core, books=books, registry=CollectorRegistry())
        place = Place("/data", "/run/bursar.sock", "", 1_000)
        server = AdminServer(service_of(core, books, drain, place))
        address = await server.start("127.0.0.1:0")
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                await asked(channel)
        finally:
            await server.stop(0)
            books.close()

    asyncio.run(serve())


def test_status_has_what_only_the_control_plane_knows(tmp_path: Path) -> None:
    core = CannedCore()
    core.batches = [batch(0, 9, "chat")]

    async def asked(channel: grpc.aio.Channel) -> None:
        stub = admin_stub(channel)
        await stub.QueryUsage(admin_pb2.QueryUsageRequest())
        status = await stub.GetStatus(admin_pb2.GetStatusRequest())
        assert status.ready
        assert status.version
        assert status.process_id
        assert status.data_directory == "/data"
        assert status.socket == "/run/bursar.sock"
        assert status.ledger.books_sequence == 9

    ask(tmp_path, core, asked)


def test_usage_is_taken_in_before_it_is_told_and_told_by_the_policys_hour(tmp_path: Path) -> None:
    core = CannedCore()
    core.batches = [batch(0, 4, "chat", "search"), batch(4, 9, "chat")]

    async def asked(channel: grpc.aio.Channel) -> None:
        stub = admin_stub(channel)
        request = admin_pb2.QueryUsageRequest(group_by=["feature", "hour"], page_size=1)
        answer = await stub.QueryUsage(request)
        assert (answer.through_sequence, answer.time_zone) == (9, "Asia/Kolkata")
        (row,) = answer.rows
        assert row.group == {"feature": "chat", "hour": "1970-01-01T06:00:00+05:30"}
        assert (row.tokens, row.output_tokens, row.calls) == (20, 20, 2)
        request.page_token = answer.next_page_token
        answer = await stub.QueryUsage(request)
        assert [row.group["feature"] for row in answer.rows] == ["search"]
        assert answer.next_page_token == ""

    ask(tmp_path, core, asked)


WRONG = [
    ("group_by", admin_pb2.QueryUsageRequest(group_by=["featre"]), "did you mean feature?"),
    ("group_by", admin_pb2.QueryUsageRequest(group_by=["hour", "hour"]), "nothing twice"),
    ("match", admin_pb2.QueryUsageRequest(match={"hour": "x"}), "known are feature"),
    ("page_size", admin_pb2.QueryUsageRequest(page_size=10_001), "at most 10,000"),
    ("page_token", admin_pb2.QueryUsageRequest(page_token="x"), "next_page_token"),  # noqa: S106
    ("from_unix_ms", admin_pb2.QueryUsageRequest(from_unix_ms=-1), "from 0 to"),
    ("until_unix_ms", admin_pb2.QueryUsageRequest(until_unix_ms=2**62), "from 0 to"),
    ("until_unix_ms", admin_pb2.QueryUsageRequest(from_unix_ms=9**9, until_unix_ms=1), "after"),
]


@pytest.mark.parametrize(("field", "request_", "hint"), WRONG)
def test_a_wrong_question_names_its_field(
    tmp_path: Path, field: str, request_: admin_pb2.QueryUsageRequest, hint: str
) -> None:
    async def asked(channel: grpc.aio.Channel) -> None:
        stub = admin_stub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.QueryUsage(request_)
        error = caught.value
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.details() or "").startswith(f"{field} must")
        assert hint in (error.details() or "")
        packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        details = status_pb2.Status.FromString(packed).details
        assert details[0].Unpack(info)
        assert details[1].Unpack(bad)
        assert (info.domain, bad.field_violations[0].field) == ("bursar", field)

    ask(tmp_path, CannedCore(), asked)


def test_a_page_token_is_of_its_question_only(tmp_path: Path) -> None:
    core = CannedCore()
    core.batches = [batch(0, 4, "chat", "search")]

    async def asked(channel: grpc.aio.Channel) -> None:
        stub = admin_stub(channel)
        request = admin_pb2.QueryUsageRequest(group_by=["feature"], page_size=1)
        request.page_token = (await stub.QueryUsage(request)).next_page_token
        request.from_unix_ms = 1
        with pytest.raises(grpc.aio.AioRpcError, match="page_token must be"):
            await stub.QueryUsage(request)

    ask(tmp_path, core, asked)


def test_what_the_data_plane_refuses_is_a_wrong_question_with_its_field(tmp_path: Path) -> None:
    core = CannedCore()
    core.error = ValueError("page_token must be what the answer before gave (got x)")

    async def asked(channel: grpc.aio.Channel) -> None:
        stub = admin_stub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="page_token must be") as caught:
            await stub.ListStandings(admin_pb2.ListStandingsRequest())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    ask(tmp_path, core, asked)


def test_books_of_another_ledger_leave_usage_undecided_and_all_else_as_it_is(
    tmp_path: Path,
) -> None:
    core = CannedCore()
    core.batches = [batch(5, 9, "chat")]

    async def asked(channel: grpc.aio.Channel) -> None:
        stub = admin_stub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="not of one data directory") as caught:
            await stub.QueryUsage(admin_pb2.QueryUsageRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        answer = await stub.ListStandings(admin_pb2.ListStandingsRequest(limit="a"))
        assert answer.standings[0].remaining == 3

    ask(tmp_path, core, asked)


def test_health_and_reflection_answer(tmp_path: Path) -> None:
    async def asked(channel: grpc.aio.Channel) -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        checked = await stub.Check(health_pb2.HealthCheckRequest(service="bursar.v1.AdminService"))
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        reflected = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        services = [
            each.name
            async for answer in reflected
            for each in answer.list_services_response.service
        ]
        assert "bursar.v1.AdminService" in services

    ask(tmp_path, CannedCore(), asked)


def test_one_drain_takes_a_bounded_number_of_batches(tmp_path: Path) -> None:
    core = CannedCore()
    core.batches = [batch(number, number + 1, "chat") for number in range(BATCHES_MAX + 2)]
    books = open_books(tmp_path)
    drain = Drain(source=core, books=books, registry=CollectorRegistry())
    assert drain.once() == BATCHES_MAX
    assert drain.once() == BATCHES_MAX + 2
    assert drain.once() == BATCHES_MAX + 2
    books.close()


def test_a_drain_that_fails_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    core, registry = CannedCore(), CollectorRegistry()
    core.batches = [batch(3, 4, "chat")]
    books = open_books(tmp_path)
    drain = Drain(source=core, books=books, registry=registry)
    with pytest.raises(BooksError):
        drain.once()
    assert registry.get_sample_value("bursar_books_failures_total") == 1
    assert drain.position == books.through_sequence() == 0
    books.close()


def test_an_address_that_is_taken_is_a_clear_error(tmp_path: Path) -> None:
    async def start_twice() -> None:
        books = open_books(tmp_path)
        core = CannedCore()
        drain = Drain(source=core, books=books, registry=CollectorRegistry())
        place = Place("", "", "", 0)
        service = service_of(core, books, drain, place)
        first, second = AdminServer(service), AdminServer(service)
        address = await first.start("127.0.0.1:0")
        with pytest.raises(StartError, match=f"admin cannot listen on {address}"):
            await second.start(address)
        await first.stop(0)
        books.close()

    asyncio.run(start_twice())


def test_http_answers_probes_and_metrics_of_both_planes() -> None:
    async def get() -> None:
        reason = ["the ledger is full"]
        registry = CollectorRegistry()
        app = application(
            metrics=lambda: "bursar_decisions_total 7\n",
            not_ready_reason=lambda: reason[0],
            registry=registry,
        )
        server = HttpServer(app)
        address = await server.start("127.0.0.1:0")
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
            unready = await client.get("/readyz")
            assert (unready.status_code, unready.text) == (503, "not ready: the ledger is full\n")
            reason[0] = ""
            assert (await client.get("/readyz")).status_code == 200
            metrics = await client.get("/metrics")
            assert metrics.text.startswith("bursar_decisions_total 7\n")
            assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert (await client.get("/")).status_code == 404
        await server.stop()

    asyncio.run(get())


async def connected(address: str, undo: ExitStack) -> socket.socket:
    """A connection that asks nothing."""
    host, _, port = address.rpartition(":")
    made = undo.enter_context(socket.socket())
    made.settimeout(0)
    await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
    return made


async def closed(connection: socket.socket) -> bool:
    """Whether the other side has closed; waits until it has, or has said something."""
    said = asyncio.get_running_loop().sock_recv(connection, 1)
    try:
        return await asyncio.wait_for(said, timeout=30) == b""
    except ConnectionError:
        return True


def page_of_nothing() -> HttpServer:
    registry = CollectorRegistry()
    nothing = application(metrics=str, not_ready_reason=str, registry=registry)
    return HttpServer(nothing)


def test_http_closes_who_finds_no_place_and_who_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTION_S_MAX", 1.0)

    async def crowd(undo: ExitStack) -> None:
        server = page_of_nothing()
        address = await server.start("127.0.0.1:0")
        silent = [await connected(address, undo) for _ in range(http.CONNECTIONS_MAX)]
        for one in silent[:8]:
            one.send(b"GET /healthz HTTP/1.1\r\nx-slow: ")  # and never the rest
        assert await closed(await connected(address, undo))
        for one in silent:
            assert await closed(one)
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
        await server.stop()

    with ExitStack() as undo:
        asyncio.run(crowd(undo))


def test_admin_closes_who_finds_no_place(tmp_path: Path) -> None:
    async def crowd(undo: ExitStack) -> None:
        books, core = open_books(tmp_path), CannedCore()
        drain = Drain(source=core, books=books, registry=CollectorRegistry())
        server = AdminServer(service_of(core, books, drain, Place("", "", "", 0)))
        address = await server.start("127.0.0.1:0")
        for _ in range(CONNECTIONS_MAX):
            # Greeted, so it has its place.
            assert not await closed(await connected(address, undo))
        assert await closed(await connected(address, undo))
        undo.close()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            asked = admin_pb2.GetStatusRequest()
            assert (await stub.GetStatus(asked, wait_for_ready=True, timeout=30)).ready
        await server.stop(0)
        books.close()

    with ExitStack() as undo:
        asyncio.run(crowd(undo))
