"""The scripted sidecar itself: a real gRPC server on this machine."""

# ruff: noqa: N802  the methods are named by the contract

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent import futures
from types import MappingProxyType, TracebackType
from typing import NoReturn, Self, cast

import grpc
from google.protobuf.message import Message

from bursar.errors import InvalidRequest
from bursar.testing.answers import (
    SILENCE,
    Answer,
    Failure,
    check_answer,
    check_response,
    estimate,
    texts_of,
)
from bursar.testing.rules import Rules, ScriptedReservation, refusal
from bursar.testing.spool import spool_aside
from bursar.v1 import quota_pb2, quota_pb2_grpc

METHODS = ("Reserve", "Commit", "Release", "Record", "CountTokens")
"""The calls that it answers, by their names in the contract."""

_THREADS = 8
_STOP_S_MAX = 5.0


class ScriptedSidecar(quota_pb2_grpc.QuotaServiceServicer):
    """Answers real clients by script; what is not scripted is granted in full.

    Use it as `with ScriptedSidecar() as sidecar`, and give clients `sidecar.target`. It enforces no
    limit and counts nothing; see `bursar.testing`.

    From when it is made until it is closed, `BURSAR_SPOOL` names a temporary directory: a client
    made meanwhile keeps there what waits and what was refused, unless it names a `spool=` itself.
    What was refused is gone with it, and the variable is what it was before.
    """

    def __init__(self) -> None:
        """Listens on a free port of this machine and answers from now on."""
        self._rules = Rules()
        self._script: dict[str, deque[Answer]] = {name: deque() for name in METHODS}
        self._asked: dict[str, list[Message]] = {name: [] for name in METHODS}
        self._silent_calls: list[threading.Event] = []
        self._changed = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=_THREADS))
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.target: str = f"127.0.0.1:{port}"
        """The address to give to `bursar.Client` or `bursar.AsyncClient`."""
        self._server.start()
        self._undo = contextlib.ExitStack()
        spool_aside.enter()
        self._undo.callback(spool_aside.leave, self.target)

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.close()

    def close(self) -> None:
        """Stops answering; calls in flight fail as if the sidecar had gone away."""
        self._server.stop(grace=None).wait(_STOP_S_MAX)
        self._undo.close()

    def answer(self, method: str, *answers: Answer) -> None:
        """Lays out what the next calls of `method` get, one each, after what is laid out already.

        A request that every sidecar refuses is refused all the same, unless a failure or SILENCE is
        laid out for it. Raises InvalidRequest for a method that is none, and for what is no answer
        to it.
        """
        self._check(method)
        for each in answers:
            check_answer(method, each)
        with self._changed:
            self._script[method].extend(answers)

    def go_on(self) -> None:
        """Answers the calls that a SILENCE keeps waiting, as if nothing had been scripted."""
        with self._changed:
            waiting, self._silent_calls = self._silent_calls, []
        for over in waiting:
            over.set()

    @property
    def reservations(self) -> Mapping[str, ScriptedReservation]:
        """Every reservation and record so far, by its id, in the order they came."""
        with self._rules.lock:
            return MappingProxyType(dict(self._rules.known))

    def forget(self, reservation_id: str) -> None:
        """Knows nothing of a reservation any more, as a sidecar whose machine lost its power."""
        with self._rules.lock:
            self._rules.known.pop(reservation_id, None)

    def asked(self, method: str) -> list[Message]:
        """The requests of `method` so far, in the order they came, repetitions among them."""
        self._check(method)
        with self._changed:
            return list(self._asked[method])

    def wait_for(self, method: str, *, count: int = 1, timeout: float = 10.0) -> Message:
        """Waits until `count` calls of `method` have come, and gives that one's request.

        What a client settles in the background comes when it comes. Raises TimeoutError.
        """
        self._check(method)
        until = time.monotonic() + timeout
        with self._changed:
            while len(self._asked[method]) < count:
                if not self._changed.wait(until - time.monotonic()):
                    came = len(self._asked[method])
                    raise TimeoutError(
                        f"{came} of {count} calls of {method} came within {timeout:g} s"
                    )
            return self._asked[method][count - 1]

    def _check(self, method: str) -> None:
        if method not in self._script:
            raise InvalidRequest(f"method must be one of {', '.join(METHODS)} (got {method!r})")

    def _scripted(
        self, method: str, request: Message, context: grpc.ServicerContext
    ) -> Message | Failure | None:
        """Notes the call, and gives what the script has for it; None: nothing.

        Of a wrong request that is a refusal, unless the script has it fail or kept waiting.
        """
        with self._changed:
            self._asked[method].append(request)
            laid_out = self._script[method].popleft() if self._script[method] else None
            self._changed.notify_all()
        if laid_out is SILENCE:
            laid_out = self._silent(context)
        if isinstance(laid_out, Failure):
            return laid_out
        if refused := refusal(method, request):
            return refused
        if callable(laid_out):
            laid_out = laid_out(cast("quota_pb2.ReserveRequest", request))
            check_response(method, laid_out)
        return laid_out

    def _silent(self, context: grpc.ServicerContext) -> Failure | None:
        """Waits until the caller gives up, which stopping has every caller do, or `go_on`."""
        over = threading.Event()
        with self._changed:
            self._silent_calls.append(over)
        if context.add_callback(over.set):
            over.wait()
        if context.is_active():
            return None
        return Failure(grpc.StatusCode.CANCELLED, "nobody waits for an answer any more")

    def Reserve(
        self, request: quota_pb2.ReserveRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ReserveResponse:
        """Answers by script, else grants."""
        laid_out = self._scripted("Reserve", request, context)
        if isinstance(laid_out, Failure):
            _fail(laid_out, context)
        answer = self._rules.reserve(request, cast("quota_pb2.ReserveResponse | None", laid_out))
        return cast("quota_pb2.ReserveResponse", _sent(answer, context))

    def Commit(
        self, request: quota_pb2.CommitRequest, context: grpc.ServicerContext
    ) -> quota_pb2.CommitResponse:
        """Answers by script, else settles."""
        answer = self._scripted("Commit", request, context) or self._rules.commit(request)
        return cast("quota_pb2.CommitResponse", _sent(answer, context))

    def Release(
        self, request: quota_pb2.ReleaseRequest, context: grpc.ServicerContext
    ) -> quota_pb2.ReleaseResponse:
        """Answers by script, else gives back."""
        answer = self._scripted("Release", request, context) or self._rules.release(request)
        return cast("quota_pb2.ReleaseResponse", _sent(answer, context))

    def Record(
        self, request: quota_pb2.RecordRequest, context: grpc.ServicerContext
    ) -> quota_pb2.RecordResponse:
        """Answers by script, else enters the usage."""
        answer = self._scripted("Record", request, context) or self._rules.record(request)
        return cast("quota_pb2.RecordResponse", _sent(answer, context))

    def CountTokens(
        self, request: quota_pb2.CountTokensRequest, context: grpc.ServicerContext
    ) -> quota_pb2.CountTokensResponse:
        """Answers by script, else estimates a token for every four bytes."""
        chat = sum(map(estimate, texts_of(request.chat))) if request.HasField("chat") else None
        estimated = quota_pb2.CountTokensResponse(
            tokens=[estimate(text) for text in request.texts] if chat is None else [chat],
            counted_by=quota_pb2.CountedBy(method=quota_pb2.METHOD_ESTIMATE),
        )
        answer = self._scripted("CountTokens", request, context) or estimated
        return cast("quota_pb2.CountTokensResponse", _sent(answer, context))

    def Extend(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Is served by no sidecar of this version."""
        _not_served("Extend", request, context)

    def Progress(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        """Is served by no sidecar of this version."""
        _not_served("Progress", request, context)

    def Session(self, request_iterator: object, context: grpc.ServicerContext) -> NoReturn:
        """Is served by no sidecar of this version."""
        _not_served("Session", request_iterator, context)


def _not_served(method: str, _request: object, context: grpc.ServicerContext) -> NoReturn:
    why = f"{method} is not served by this version"
    _fail(Failure(grpc.StatusCode.UNIMPLEMENTED, why, "NOT_SERVED"), context)


def _sent(answer: Message | Failure, context: grpc.ServicerContext) -> Message:
    return _fail(answer, context) if isinstance(answer, Failure) else answer


def _fail(failure: Failure, context: grpc.ServicerContext) -> NoReturn:
    context.set_trailing_metadata(failure.metadata())
    context.abort(failure.code, failure.message)
