"""The connection to a sidecar: its channel, deadlines, tries and errors."""

from __future__ import annotations

import os
import random
import time
from datetime import timedelta
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # no stubs

from bursar.errors import BursarError, InvalidRequest, Undecided, from_status
from bursar.v1 import quota_pb2_grpc

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

SETTLE_TIMEOUT_DEFAULT = timedelta(seconds=5)

# One attempt of a settlement: long enough for a slow disk's sync, short enough to try again.
SETTLE_ATTEMPT_S = 2.0
_SETTLE_BACKOFF_S = (0.05, 1.0)  # the first, doubled each time, and the longest

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


class Wire:
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

    def retry(
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
                return self.call(method, request, max(0.001, min(left_s, SETTLE_ATTEMPT_S)))
            except Undecided:
                pause_s = backoff_s * random.uniform(0.5, 1.0)  # noqa: S311  no secret
                if deadline_s - time.monotonic() <= pause_s:
                    raise
                time.sleep(pause_s)
                backoff_s = min(backoff_s * 2, backoff_longest_s)

    def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        if not self.is_forked():
            self._channel.close()


class Unanswered(Undecided):
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
        return Unanswered(f"no answer from the sidecar at {target} ({code.name}: {message})")
    return made


def find_target(target: str) -> str:
    """Gives the target, or the one that the environment says; raises InvalidRequest for none."""
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
