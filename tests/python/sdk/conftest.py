"""What the SDK's tests share: a server that answers by script, and ports where nobody answers."""

# ruff: noqa: N802  the methods are named by the contract

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import (  # type: ignore[import-untyped]  # no stubs
    code_pb2,
    error_details_pb2,
    status_pb2,
)
from tests.python.sdk.either import Blocking, Loop
from tests.system.conftest import Served

import bursar
from bursar.v1 import quota_pb2, quota_pb2_grpc

AWAY_POLICY = """
policy: tests
time_zone: UTC
labels:
  tenant: {missing: deny}
reservations: {ttl: 5m, unsettled: charge_input}
limits:
  - name: tenant-total
    scope: [tenant]
    window: total
    amount: {tokens: 1_000_000, requests: 1_000_000}
"""


@dataclass(frozen=True)
class Failure:
    """A status to answer with, and the details that a sidecar sends beside it."""

    code: grpc.StatusCode
    message: str = "as the test wants it"
    reason: str = ""
    fields: Sequence[tuple[str, str]] = ()

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        details = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="bursar"))
        if self.fields:
            violation = error_details_pb2.BadRequest.FieldViolation
            details.append(
                error_details_pb2.BadRequest(
                    field_violations=[violation(field=f, description=d) for f, d in self.fields]
                )
            )
        if not details:
            return ()
        packed = [any_pb2.Any() for _ in details]
        for each, detail in zip(packed, details, strict=True):
            each.Pack(detail)
        status = status_pb2.Status(
            code=code_pb2.Code.Value(self.code.name), message=self.message, details=packed
        )
        return (("grpc-status-details-bin", status.SerializeToString()),)


@dataclass
class Scripted:
    """Answers each method's calls with what the test laid out for it, in turn, then by default."""

    target: str = ""
    answers: dict[str, list[Message | Failure]] = field(default_factory=dict)
    asked: dict[str, list[Message]] = field(default_factory=dict)
    seen: queue.Queue[str] = field(default_factory=queue.Queue)
    silent: set[str] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def failure(
        code: grpc.StatusCode, *, reason: str = "", fields: Sequence[tuple[str, str]] = ()
    ) -> Failure:
        """Makes an answer that is a status."""
        return Failure(code, reason=reason, fields=fields)

    def wait_for(self, method: str) -> Message:
        """Waits until a call of `method` has come in, and gives its request."""
        while method not in self.asked:
            self.seen.get(timeout=10)
        return self.asked[method][0]

    def _answer(
        self, method: str, request: Message, context: grpc.ServicerContext, default: Message
    ) -> Message:
        self.asked.setdefault(method, []).append(request)
        self.seen.put(method)
        if method in self.silent:
            self.over.wait(timeout=30)
        laid_out = self.answers.get(method)
        answer = laid_out.pop(0) if laid_out else default
        if isinstance(answer, Failure):
            self._fail(answer, context)
        return answer

    @staticmethod
    def _fail(failure: Failure, context: grpc.ServicerContext) -> NoReturn:
        context.set_trailing_metadata(failure.metadata())
        context.abort(failure.code, failure.message)

    def Reserve(self, request: Message, context: grpc.ServicerContext) -> Message:
        assert isinstance(request, quota_pb2.ReserveRequest)
        grant = quota_pb2.Grant(
            reservation_id=request.reservation_id,
            state=quota_pb2.STATE_OPEN,
            model=request.model,
            input_tokens=request.input_tokens,
            output_tokens_granted=request.output_tokens_max,
            tokens_reserved=request.input_tokens + request.output_tokens_max,
            expires_in_ms=60_000,
            expires_at_unix_ms=1_800_000_060_000,
        )
        return self._answer("Reserve", request, context, quota_pb2.ReserveResponse(grant=grant))

    def Commit(self, request: Message, context: grpc.ServicerContext) -> Message:
        return self._answer("Commit", request, context, quota_pb2.CommitResponse(ledger_sequence=7))

    def Release(self, request: Message, context: grpc.ServicerContext) -> Message:
        return self._answer("Release", request, context, quota_pb2.ReleaseResponse())

    def Record(self, request: Message, context: grpc.ServicerContext) -> Message:
        default = quota_pb2.RecordResponse(tokens_committed=11, ledger_sequence=8)
        return self._answer("Record", request, context, default)

    def __getattr__(self, name: str) -> object:
        """Stands in for the methods of the contract that no test calls."""
        if name in {"Extend", "Progress", "Session"}:
            return None
        raise AttributeError(name)

    def CountTokens(self, request: Message, context: grpc.ServicerContext) -> Message:
        return self._answer(
            "CountTokens", request, context, quota_pb2.CountTokensResponse(tokens=[3])
        )


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A real gRPC server that answers by script: for what no healthy sidecar would answer."""
    service = Scripted()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(service, server)  # type: ignore[arg-type]  # it has what the tests call
    service.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service
    service.over.set()
    server.stop(grace=None).wait()


Connect = Callable[..., bursar.Client]


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of either kind behind one face; they are closed when the test ends."""
    with contextlib.ExitStack() as undo:
        loop = Loop() if request.param == "async" else None
        if loop is not None:
            undo.callback(loop.close)

        def make(target: str = "", **options: Any) -> bursar.Client:  # noqa: ANN401  as the client has them
            options = {"on_undecided": "deny", "timeout": 10, **options}
            if loop is None:
                return undo.enter_context(bursar.Client(target, **options))
            made = Blocking(bursar.AsyncClient(target, **options), loop)
            return cast("bursar.Client", undo.enter_context(made))

        yield make


@pytest.fixture
def client(scripted: Scripted, connect: Connect) -> bursar.Client:
    """A client of the scripted server."""
    return connect(scripted.target, timeout=5)


@pytest.fixture
def closed_port() -> int:
    """A port of this machine that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@dataclass
class Away:
    """A real sidecar that a test starts, stalls, kills and starts again, all on one socket."""

    directory: Path
    undo: contextlib.ExitStack
    served: Served | None = None

    @property
    def target(self) -> str:
        return f"unix:{self.directory / 'run' / 'bursar.sock'}"

    def start(self, policy: str = AWAY_POLICY, **settings: str) -> None:
        self.served = Served(self.directory, policy, settings)
        assert self.served.ready, self.served.log.read_text()
        self.undo.callback(self.served.close)

    def kill(self) -> None:
        assert self.served is not None
        self.served.kill()

    def stall(self) -> None:
        """Stops it from doing anything, though it takes connections."""
        assert self.served is not None
        self.served.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.served.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        assert self.served is not None
        self.served.process.send_signal(signal.SIGCONT)

    def counted(self) -> tuple[int, int, int]:
        """The tokens committed and reserved, and the calls, of tenant acme."""
        assert self.served is not None
        rows = self.served.ask("limits")["standings"]
        by_unit = {row["unit"].lower().removeprefix("unit_"): row for row in rows}
        tokens, requests = by_unit.get("tokens", {}), by_unit.get("requests", {})
        return (
            int(tokens.get("committed", 0)),
            int(tokens.get("reserved", 0)),
            int(requests.get("committed", 0)),
        )


@pytest.fixture
def away(directory: Path) -> Iterator[Away]:
    """A sidecar that is not there until the test starts it."""
    with contextlib.ExitStack() as undo:
        yield Away(directory, undo)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="bursar-") as made:
        yield Path(made)
