"""The SDK's synchronous client: reserve before a model call, settle after it."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import logging
import os
import random
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, ParamSpec, Self, TypeVar, cast, get_args

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # no stubs

from bursar.errors import (
    BursarError,
    Denied,
    InvalidRequest,
    NotOpen,
    NotSettled,
    Undecided,
    UnknownReservation,
    from_status,
)
from bursar.providers import (
    Line,
    MeterName,
    Usage,
    chat_to_wire,
    proves_not_run,
    read_usage,
)
from bursar.v1 import quota_pb2, quota_pb2_grpc

OutcomeName = Literal["completed", "cancelled", "failed", "unknown"]
DurabilityName = Literal["process", "power"]
OnUndecided = Literal["deny", "allow"]
Lines = Sequence[Line] | Mapping[MeterName, int]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

_log = logging.getLogger("bursar")

TIMEOUT_DEFAULT = timedelta(seconds=0.5)
SETTLE_TIMEOUT_DEFAULT = timedelta(seconds=5)

# One attempt of a settlement: long enough for a slow disk's sync, short enough to try again.
_SETTLE_ATTEMPT_S = 2.0
_SETTLE_BACKOFF_S = (0.05, 1.0)  # the first, doubled each time, and the longest
_RELEASE_BEHIND_S = 5.0  # how long the release behind an undecided Reserve is tried
_RELEASES_BEHIND_MAX = 1000  # how many of those are in flight; what is beyond expires

# No timeout here: it would bound every call, settlements too, whatever timeout they are given.
_SERVICE_CONFIG = """{"methodConfig": [{"name": [{"service": "bursar.v1.QuotaService"}],
  "waitForReady": true,
  "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s",
    "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""

_CHANNEL_OPTIONS = (
    ("grpc.default_authority", "localhost"),  # a socket's path is no authority that servers accept
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_http_proxy", 0),  # a sidecar is on this machine, whatever http_proxy says
    ("grpc.use_local_subchannel_pool", 1),  # clients do not share a connection or its backoff
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_ON_UNDECIDED = (
    'on_undecided="deny": a call without a decision does not run (Undecided is raised); '
    'on_undecided="allow": it runs all the same, and its usage is sent when the sidecar is back. '
    "Each is wrong for someone, so there is no default"
)

_labels: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar(
    "bursar_labels",
    default={},  # noqa: B039  it is never changed, only replaced
)


class Labels(contextlib.ContextDecorator):
    """Adds labels to every reservation made in a block or a function; made by `bursar.labels`."""

    def __init__(self, added: Mapping[str, str]) -> None:
        self._added = dict(added)
        self._tokens: list[contextvars.Token[Mapping[str, str]]] = []

    def __enter__(self) -> Self:
        """Puts the labels over those of the blocks around it."""
        self._tokens.append(_labels.set({**_labels.get(), **self._added}))
        return self

    def __exit__(self, *_: object) -> None:
        """Takes them off again."""
        _labels.reset(self._tokens.pop())

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:  # type: ignore[override]
        """Decorates a function, also an `async` one; a generator needs the block instead."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            name = function.__qualname__
            raise InvalidRequest(
                f"labels cannot decorate the generator {name}: its callers would see them between "
                "two values; write `with bursar.labels(...)` around what reserves"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: _P.args, **kwargs: _P.kwargs) -> object:
                with Labels(self._added):
                    return await function(*args, **kwargs)

            return cast("Callable[_P, _R]", run_async)

        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with Labels(self._added):
                return function(*args, **kwargs)

        return run


def labels(**added: str) -> Labels:
    """Labels every reservation and record made in the `with` block, or in the function decorated.

    Blocks nest and the inner one wins; a new thread starts without them.
    """
    return Labels(added)


def new_id() -> str:
    """Makes a UUIDv7: unique without asking anyone, and in the order of time."""
    instant_ms = time.time_ns() // 1_000_000
    bits = (instant_ms & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    bits = bits & ~(0xF << 76) | 0x7 << 76  # the version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # the variant
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class _Wire:
    """One connection: calls with a deadline, errors as exceptions, and no use after a fork."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._process_id = os.getpid()
        self._channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self.stub = quota_pb2_grpc.QuotaServiceStub(self._channel)

    def is_forked(self) -> bool:
        """Says whether this is another process than the one that connected."""
        return os.getpid() != self._process_id

    def check_not_forked(self) -> None:
        """Raises InvalidRequest in a forked child, where the connection's threads are missing."""
        if self.is_forked():
            raise InvalidRequest(
                f"this client was made in process {self._process_id} and cannot be used in its "
                f"forked child {os.getpid()}: make a bursar.Client in the child"
            )

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        """Calls once (UNAVAILABLE is tried again within the deadline); raises a BursarError."""
        self.check_not_forked()
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _error_from(error, self.target) from error

    def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        if not self.is_forked():
            self._channel.close()


class _Unanswered(Undecided):
    """Undecided without a word from the sidecar: what was asked may have been done."""


def _error_from(error: grpc.RpcError, target: str) -> BursarError:
    """Words a failed call, by the details that the sidecar sent with it."""
    failed = cast("grpc.Call", error)
    code, message = failed.code(), failed.details() or ""
    reason, fields = "", []
    for key, value in failed.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(cast("bytes", value)).details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info) and info.domain == "bursar":
                reason = info.reason
            elif detail.Unpack(bad):
                fields = [(each.field, each.description) for each in bad.field_violations]
    made = from_status(code.name, message, reason=reason, fields=fields)
    if type(made) is Undecided and not reason:
        return _Unanswered(f"no answer from the sidecar at {target} ({code.name}: {message})")
    return made


class Reservation:
    """Tokens set aside for one model call; leaving its `with` block settles it.

    The block never refunds a call that may have run. Left by an error that proves it did not
    (`bursar.providers.proves_not_run`), it releases; by any other, it commits as unknown; without
    one but unsettled, it commits as unknown and warns `NotSettled`.
    """

    def __init__(
        self, client: Client, request: quota_pb2.ReserveRequest, response: quota_pb2.ReserveResponse
    ) -> None:
        self._client = client
        self._request = request
        self._response = response
        self._lock = threading.Lock()
        self._settling = False
        self._settlement: quota_pb2.CommitResponse | quota_pb2.ReleaseResponse | None = None

    def __repr__(self) -> str:
        return (
            f"<Reservation {self.reservation_id} {self.model} "
            f"output_tokens_granted={self.output_tokens_granted}>"
        )

    @property
    def request(self) -> quota_pb2.ReserveRequest:
        """What was asked."""
        return self._request

    @property
    def grant(self) -> quota_pb2.Grant:
        """The whole grant as the sidecar gave it."""
        return self._response.grant

    @property
    def reservation_id(self) -> str:
        """The id it is settled by."""
        return self._request.reservation_id

    @property
    def model(self) -> str:
        """The model to call: the one asked for, or the first fallback that fits."""
        return self.grant.model

    @property
    def input_tokens(self) -> int:
        """The input as it was counted, in tokens."""
        return self.grant.input_tokens

    @property
    def output_tokens_granted(self) -> int:
        """The output that fits, per choice, in tokens: hand it to the model as its maximum."""
        return self.grant.output_tokens_granted

    @property
    def tokens_reserved(self) -> int:
        """What was set aside in all, in tokens."""
        return self.grant.tokens_reserved

    @property
    def expires_at(self) -> datetime:
        """The instant it expires, in UTC by the sidecar's clock."""
        return datetime.fromtimestamp(self.grant.expires_at_unix_ms / 1000, tz=UTC)

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier call with the same id."""
        return self._response.replayed

    @property
    def dry_run(self) -> bool:
        """Whether nothing was set aside, so that there is nothing to settle."""
        return self._request.dry_run

    @property
    def settlement(self) -> quota_pb2.CommitResponse | quota_pb2.ReleaseResponse | None:
        """The sidecar's answer to the commit or release; None: there is none (yet)."""
        return self._settlement

    def commit(
        self,
        answer: object = None,
        *,
        outcome: OutcomeName | None = None,
        labels: Mapping[str, str] | None = None,
        latency: timedelta | float | None = None,
        first_token: timedelta | float | None = None,
        durability: DurabilityName | None = None,
        timeout: timedelta | float = SETTLE_TIMEOUT_DEFAULT,
    ) -> quota_pb2.CommitResponse | None:
        """Settles with what was used: a provider's response or usage, `Line`s, tokens by meter.

        With none, the outcome is unknown or failed, and the policy decides what is charged. It
        retries within `timeout` and never raises: what went wrong is logged, and None returned.
        """
        try:
            request = self._commit_request(answer, outcome)
            request.labels.update(labels or {})
            request.latency_ms = _ms(latency, "latency")
            request.first_token_ms = _ms(first_token, "first_token")
            request.durability = _durability(durability)
        except Exception:  # noqa: BLE001  whatever it is, the caller's path goes on
            # The model has run: its usage must not get lost because we cannot read it.
            _log.exception("reservation %s: commits as unknown", self.reservation_id)
            request = self._commit_request(None, "unknown")
        return self._settle(lambda: self._client.settle_commit(self, request, _seconds(timeout)))

    def release(
        self,
        *,
        reason: str = "",
        durability: DurabilityName | None = None,
        timeout: timedelta | float = SETTLE_TIMEOUT_DEFAULT,
    ) -> quota_pb2.ReleaseResponse | None:
        """Gives it back because the call did not run; like `commit`, it never raises."""

        def send() -> quota_pb2.ReleaseResponse:
            request = quota_pb2.ReleaseRequest(
                reservation_id=self.reservation_id,
                reason=reason,
                durability=_durability(durability),
            )
            return self._client.settle_release(request, _seconds(timeout))

        return self._settle(send)

    def __enter__(self) -> Self:
        """Gives the reservation itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settles what is not settled; lets every error through."""
        if self._settling or self.dry_run or self._client.is_forked():
            return
        if error is not None and proves_not_run(error):
            self.release(reason=f"{type(error).__name__}: {error}"[:200])
            return
        self.commit(outcome="unknown")
        if error is None:
            warnings.warn(
                f"reservation {self.reservation_id} was left without commit or release; it was "
                "committed as unknown, and the policy decides what is charged",
                NotSettled,
                stacklevel=2,
            )

    def _commit_request(
        self, answer: object, outcome: OutcomeName | None
    ) -> quota_pb2.CommitRequest:
        usage = Usage(()) if answer is None else read_usage(answer, granted_model=self.model)
        tier_reserved = self._request.service_tier or "standard"
        return quota_pb2.CommitRequest(
            reservation_id=self.reservation_id,
            lines=[line.to_wire() for line in usage.lines],
            outcome=_outcome(outcome or ("completed" if usage.lines else "unknown")),
            model=usage.model,
            model_version=usage.model_version,
            service_tier="" if usage.service_tier == tier_reserved else usage.service_tier,
            response_id=usage.response_id,
            total_tokens=usage.total_tokens,
        )

    def _settle(self, send: Callable[[], _R]) -> _R | None:
        with self._lock:
            self._settling = True
        if self.dry_run:
            _log.error("reservation %s was a dry run: nothing to settle", self.reservation_id)
            return None
        try:
            answer = send()
        except Exception:  # noqa: BLE001  the same
            _log.exception("reservation %s is not settled", self.reservation_id)
            return None
        if isinstance(answer, (quota_pb2.CommitResponse, quota_pb2.ReleaseResponse)):
            self._settlement = answer
        return answer


class Client:
    """A connection to a sidecar, for any number of threads; `on_undecided` has no default.

    `target` is `unix:/path/to/bursar.sock` or `host:port`; without one, `BURSAR_SOCKET` or
    `BURSAR_LISTEN` says it. A client is of the process that made it: a forked child makes its own.
    """

    def __init__(
        self,
        target: str = "",
        *,
        on_undecided: OnUndecided | None = None,
        timeout: timedelta | float = TIMEOUT_DEFAULT,
    ) -> None:
        """Connects behind the first call; `timeout` (0.5 s) is for every call but settlements."""
        if on_undecided not in get_args(OnUndecided):
            got = "" if on_undecided is None else f" (got {on_undecided!r})"
            raise InvalidRequest(f"say what an undecided answer means{got}: {_ON_UNDECIDED}")
        if on_undecided == "allow":
            raise InvalidRequest(
                'on_undecided="allow" is not served by this version: its usage could get lost; '
                'write on_undecided="deny" and catch bursar.Undecided where a call may run anyway'
            )
        self._timeout_s = _seconds(timeout)
        self._wire = _Wire(_target(target))
        self._releases_behind: set[object] = set()

    def __enter__(self) -> Self:
        """Gives the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends the connection; what is reserved and not settled expires."""
        self._wire.close()

    def is_forked(self) -> bool:
        """Says whether this is a forked child of the process that made the client."""
        return self._wire.is_forked()

    def reserve(
        self,
        *,
        model: str,
        input_tokens: int | None = None,
        input_bytes: int | None = None,
        text: str | None = None,
        chat: Sequence[Mapping[str, object]] | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        lines: Lines | None = None,
        output_tokens_max: int = 0,
        output_tokens_min: int | None = None,
        choices: int = 1,
        fallback_models: Iterable[str] = (),
        service_tier: str = "",
        ttl: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        reservation_id: str | None = None,
        durability: DurabilityName | None = None,
        dry_run: bool = False,
        timeout: timedelta | float | None = None,
    ) -> Reservation:
        """Sets tokens aside for one model call, under every limit that applies, or raises Denied.

        The input is given in one way: `input_tokens`, `input_bytes` (an upper bound), `text` or
        `chat` (with `tools`) to be counted by the sidecar, or `lines` by meter. Output is per
        choice, reasoning included. `labels` go over those of `bursar.labels`. Spans are timedeltas
        or seconds. Raises InvalidRequest, Conflict or NotAllowed, NotOpen where an id was used
        before and is settled, and Undecided where there is no decision: the call must not run then.
        """
        request = quota_pb2.ReserveRequest(
            reservation_id=new_id() if reservation_id is None else reservation_id,
            model=model,
            fallback_models=fallback_models,
            service_tier=service_tier,
            labels={**_labels.get(), **(labels or {})},
            output_tokens_max=_whole(output_tokens_max, "output_tokens_max"),
            choices=_whole(choices, "choices"),
            ttl_ms=_ms(ttl, "ttl"),
            dry_run=dry_run,
            durability=_durability(durability),
        )
        if output_tokens_min is not None:
            request.output_tokens_min = _whole(output_tokens_min, "output_tokens_min")
        given: dict[str, object] = {
            "input_tokens": input_tokens,
            "input_bytes": input_bytes,
            "text": text,
            "chat": None if chat is None else chat_to_wire(chat, tools),
            "lines": lines,
        }
        _set_input(request, {name: value for name, value in given.items() if value is not None})
        return self._reserve(request, self._timeout_s if timeout is None else _seconds(timeout))

    def _reserve(self, request: quota_pb2.ReserveRequest, timeout_s: float) -> Reservation:
        try:
            response = self._wire.call(self._wire.stub.Reserve, request, timeout_s)
        except _Unanswered:
            # It may have been granted without our hearing of it; nobody will use that grant.
            if not request.dry_run:
                self._release_behind(request.reservation_id)
            raise
        if response.HasField("denial"):
            reason = quota_pb2.Reason.Name(response.denial.reason)
            raise Denied(
                response.denial,
                reason=reason.removeprefix("REASON_").lower(),
                policy_version=response.policy_version,
            )
        state = response.grant.state
        if state != quota_pb2.STATE_OPEN and not request.dry_run:
            word = quota_pb2.State.Name(state).removeprefix("STATE_").lower()
            raise NotOpen(
                f"reservation {request.reservation_id} was granted before and is {word}: "
                "its call has had its chance; reserve anew under another id",
                reason=word,
            )
        return Reservation(self, request, response)

    def _release_behind(self, reservation_id: str) -> None:
        """Sends a release without waiting; if it is lost too, the reservation expires."""
        if len(self._releases_behind) >= _RELEASES_BEHIND_MAX:
            return
        request = quota_pb2.ReleaseRequest(
            reservation_id=reservation_id, reason="its caller had no answer in time"
        )
        call = self._wire.stub.Release.future(request, timeout=_RELEASE_BEHIND_S)
        self._releases_behind.add(call)  # a call that nobody holds is cancelled
        call.add_done_callback(self._releases_behind.discard)

    def record(
        self,
        answer: object,
        *,
        model: str,
        occurred_at: datetime,
        record_id: str | None = None,
        outcome: OutcomeName = "completed",
        service_tier: str = "",
        labels: Mapping[str, str] | None = None,
        latency: timedelta | float | None = None,
        durability: DurabilityName | None = None,
        timeout: timedelta | float = SETTLE_TIMEOUT_DEFAULT,
    ) -> quota_pb2.RecordResponse:
        """Enters usage that had no reservation; `answer` is what `commit` takes.

        `occurred_at` has a zone. It retries within `timeout`; unlike `commit` it raises, as nothing
        else knows of the usage.
        """
        if occurred_at.tzinfo is None:
            raise InvalidRequest(f"occurred_at must have a time zone (got {occurred_at!r})")
        usage = read_usage(answer, granted_model=model)
        request = quota_pb2.RecordRequest(
            record_id=new_id() if record_id is None else record_id,
            model=usage.model or model,
            model_version=usage.model_version,
            service_tier=service_tier
            or ("" if usage.service_tier == "standard" else usage.service_tier),
            labels={**_labels.get(), **(labels or {})},
            lines=[line.to_wire() for line in usage.lines],
            occurred_at_unix_ms=int(occurred_at.timestamp() * 1000),
            response_id=usage.response_id,
            outcome=_outcome(outcome),
            total_tokens=usage.total_tokens,
            latency_ms=_ms(latency, "latency"),
            durability=_durability(durability),
        )
        return self._retry(self._wire.stub.Record, request, _seconds(timeout))

    def count(
        self,
        *,
        model: str,
        texts: Sequence[str] = (),
        chat: Sequence[Mapping[str, object]] | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        timeout: timedelta | float | None = None,
    ) -> quota_pb2.CountTokensResponse:
        """Counts the tokens of each text, or of one chat, for a model; says by which method."""
        request = quota_pb2.CountTokensRequest(
            model=model,
            texts=[texts] if isinstance(texts, str) else texts,
            chat=None if chat is None else chat_to_wire(chat, tools),
        )
        timeout_s = self._timeout_s if timeout is None else _seconds(timeout)
        return self._wire.call(self._wire.stub.CountTokens, request, timeout_s)

    def settle_commit(
        self, reservation: Reservation, request: quota_pb2.CommitRequest, timeout_s: float
    ) -> quota_pb2.CommitResponse:
        """Commits, or where the sidecar has lost the reservation, records under its id."""
        deadline_s = time.monotonic() + timeout_s
        try:
            return self._retry(self._wire.stub.Commit, request, timeout_s)
        except UnknownReservation:
            record = _record_instead(reservation, request)
            left_s = max(deadline_s - time.monotonic(), _SETTLE_ATTEMPT_S)
            recorded = self._retry(self._wire.stub.Record, record, left_s)
        return quota_pb2.CommitResponse(
            tokens_committed=recorded.tokens_committed,
            replayed=recorded.replayed,
            advisories=recorded.advisories,
            ledger_sequence=recorded.ledger_sequence,
        )

    def settle_release(
        self, request: quota_pb2.ReleaseRequest, timeout_s: float
    ) -> quota_pb2.ReleaseResponse:
        """Releases within `timeout_s`; raises a BursarError."""
        return self._retry(self._wire.stub.Release, request, timeout_s)

    def _retry(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        """Repeats a settlement, whose id makes it count once, until an answer or the deadline."""
        deadline_s = time.monotonic() + timeout_s
        backoff_s, backoff_longest_s = _SETTLE_BACKOFF_S
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                return self._wire.call(method, request, max(0.001, min(left_s, _SETTLE_ATTEMPT_S)))
            except Undecided:
                pause_s = backoff_s * random.uniform(0.5, 1.0)  # noqa: S311  no secret
                if deadline_s - time.monotonic() <= pause_s:
                    raise
                time.sleep(pause_s)
                backoff_s = min(backoff_s * 2, backoff_longest_s)


def _record_instead(
    reservation: Reservation, commit: quota_pb2.CommitRequest
) -> quota_pb2.RecordRequest:
    """Says as usage of its own what a lost reservation's commit said.

    The instant is the grant's by the sidecar's own clock, so that it is never in its future.
    """
    asked, grant = reservation.request, reservation.grant
    instant_unix_ms = grant.expires_at_unix_ms - (asked.ttl_ms or grant.expires_in_ms)
    record = quota_pb2.RecordRequest(
        record_id=commit.reservation_id,
        model=commit.model or grant.model,
        model_version=commit.model_version,
        service_tier=commit.service_tier or asked.service_tier,
        labels={**asked.labels, **commit.labels},
        lines=commit.lines,
        occurred_at_unix_ms=instant_unix_ms,
        response_id=commit.response_id,
        outcome=commit.outcome,
        latency_ms=commit.latency_ms,
        durability=commit.durability,
    )
    if commit.HasField("total_tokens"):
        record.total_tokens = commit.total_tokens
    if not record.lines:  # as the policy would by default: the input, which nobody saw measured
        record.lines.append(Line("input", grant.input_tokens, basis="assumed").to_wire())
    return record


def _set_input(request: quota_pb2.ReserveRequest, given: Mapping[str, object]) -> None:
    """Sets the one form of input that is given; none: zero tokens."""
    if len(given) > 1:
        raise InvalidRequest(f"give the input in one way (got {' and '.join(sorted(given))})")
    for name, value in given.items():
        if name in {"input_tokens", "input_bytes"}:
            setattr(request, name, _whole(value, name))
        elif name == "text":
            request.input_text = cast("str", value)
        elif name == "chat":
            request.input_chat.CopyFrom(cast("quota_pb2.Chat", value))
        else:
            usage = read_usage(value, granted_model=request.model)
            request.input_lines.lines.extend(line.to_wire() for line in usage.lines)


def _target(target: str) -> str:
    if target:
        return target
    if socket := os.environ.get("BURSAR_SOCKET"):
        return f"unix:{socket}"
    if listen := os.environ.get("BURSAR_LISTEN"):
        return listen
    raise InvalidRequest(
        "say where the sidecar listens: Client('unix:/run/bursar/bursar.sock') or "
        "Client('127.0.0.1:7420'), or set BURSAR_SOCKET or BURSAR_LISTEN"
    )


def _seconds(span: timedelta | float) -> float:
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not seconds > 0:
        raise InvalidRequest(f"a timeout must be above zero (got {span!r})")
    return seconds


def _ms(span: timedelta | float | None, name: str) -> int:
    """Gives whole milliseconds; None is 0, which says nothing."""
    if span is None:
        return 0
    ms = round((span.total_seconds() if isinstance(span, timedelta) else span) * 1000)
    return _whole(ms, name)


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{name} must be a whole number of at least 0 (got {value!r})")
    return value


def _durability(durability: DurabilityName | None) -> quota_pb2.Durability.ValueType:
    if durability is None:
        return quota_pb2.DURABILITY_UNSPECIFIED
    if durability not in get_args(DurabilityName):
        raise InvalidRequest(f"durability must be process or power (got {durability!r})")
    return quota_pb2.Durability.Value(f"DURABILITY_{durability.upper()}")


def _outcome(outcome: OutcomeName) -> quota_pb2.Outcome.ValueType:
    if outcome not in get_args(OutcomeName):
        known = ", ".join(get_args(OutcomeName))
        raise InvalidRequest(f"outcome must be one of {known} (got {outcome!r})")
    return quota_pb2.Outcome.Value(f"OUTCOME_{outcome.upper()}")
