"""The connection to a sidecar: its channel, deadlines, tries and errors."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # no stubs

from bursar.errors import BursarError, InvalidRequest, Unanswered, Undecided, from_status
from bursar.steps import Disk, Pause, Step
from bursar.v1 import quota_pb2_grpc

_CLOSED = "this client is closed: make another, or close it when all is done"

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


_OFF = "off"  # what turns one of a sidecar's listeners off
_PORT_MAX = 65_535

# How gRPC writes targets that are no HOST:PORT.
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")


class Process:
    """The process that made a client: a forked child has neither its threads nor its connection."""

    def __init__(self, made: str) -> None:
        """Takes what was made, for the message: `bursar.Client`."""
        self.made = made
        self.process_id = os.getpid()

    def is_forked(self) -> bool:
        """Says whether this is another process than the one that made the client."""
        return os.getpid() != self.process_id

    def check(self) -> None:
        """Raises InvalidRequest in a forked child."""
        if self.is_forked():
            raise InvalidRequest(
                f"this client was made in process {self.process_id} and cannot be used in its "
                f"forked child {os.getpid()}: make a {self.made} in the child"
            )


class Wire:
    """One connection for threads: performs the steps of a protocol on the caller's thread."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.closed = False
        self._stopping = threading.Event()
        self._channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self._stub = quota_pb2_grpc.QuotaServiceStub(self._channel)

    def check(self) -> None:
        """Raises InvalidRequest once it is closed."""
        if self.closed:
            raise InvalidRequest(_CLOSED)

    def perform(self, step: Step) -> object:
        """Does one step; raises a BursarError for a call that failed."""
        if isinstance(step, Disk):
            step.work()
            return None
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        self.check()
        try:
            return getattr(self._stub, step.name)(step.request, timeout=step.timeout_s)
        except grpc.RpcError as error:
            raise error_from(error, self.target) from error
        except ValueError:  # so grpc says that another thread has closed it
            self.check()
            raise

    def perform_behind(self, step: Step) -> object:
        """Does one step of the thread in the background, whose pauses end when we close."""
        if isinstance(step, Pause):
            self._stopping.wait(step.seconds)
            return None
        return self.perform(step)

    def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        self.closed = True
        self._stopping.set()
        self._channel.close()


class AsyncWire:
    """One connection for the event loop that first uses it: performs steps without blocking it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: object = None

    def check(self) -> None:
        """Raises InvalidRequest on any loop but the first that used it, and once it is closed."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        if self._loop is not running:
            raise InvalidRequest(
                "this client belongs to another event loop, the one that first used it: make a "
                "bursar.AsyncClient in each loop, or use bursar.Client from threads"
            )
        if self.closed:
            raise InvalidRequest(_CLOSED)

    async def perform(self, step: Step) -> object:
        """Does one step; raises a BursarError for a call that failed."""
        if isinstance(step, Disk):
            await asyncio.to_thread(step.work)
            return None
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        self.check()
        if self._channel is None:  # grpc.aio takes the loop that runs when it is made
            self._channel = grpc.aio.insecure_channel(self.target, options=_CHANNEL_OPTIONS)
            self._stub = quota_pb2_grpc.QuotaServiceStub(self._channel)
        try:
            return await getattr(self._stub, step.name)(step.request, timeout=step.timeout_s)
        except grpc.RpcError as error:
            raise error_from(error, self.target) from error

    async def close(self) -> None:
        """Ends the connection; calls in flight fail."""
        self.closed = True
        if self._channel is not None:
            await self._channel.close()


def error_from(error: grpc.RpcError, target: str) -> BursarError:
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
    if code is grpc.StatusCode.UNIMPLEMENTED and not reason:
        return InvalidRequest(
            f"what answers at {target} does not serve this call ({message}): it is another port of "
            "the sidecar, such as admin's, or another server"
        )
    if isinstance(made, Undecided) and not reason:
        why = f"{code.name}: {message}{_absent(target)}"
        unanswered = Unanswered(f"no answer from the sidecar at {target} ({why})")
        unanswered.is_bug = made.is_bug
        return unanswered
    return made


def find_target(target: str, *, default: str = "") -> str:
    """Gives the target, or what the environment says, or the default; raises InvalidRequest."""
    if target:
        return _checked(target)
    # As `bursar serve` reads them: either may be off.
    socket, listen = (os.environ.get(name) for name in ("BURSAR_SOCKET", "BURSAR_LISTEN"))
    if socket and socket != _OFF:
        return f"unix:{socket}"
    if listen and listen != _OFF:
        return _checked(listen)
    if default:
        return default
    raise InvalidRequest(
        "say where the sidecar listens: Client('unix:/run/bursar/bursar.sock') or "
        "Client('127.0.0.1:7420'), or set BURSAR_SOCKET or BURSAR_LISTEN"
    )


def _checked(target: object) -> str:
    """Gives a target back; raises InvalidRequest unless it is one that can be dialled."""
    if isinstance(target, str):
        if target.startswith(_SCHEMES):
            return target
        host, _, port = target.rpartition(":")
        if host and "/" not in host and port.isdecimal() and 0 < int(port) <= _PORT_MAX:
            return target
    hint = f"; write unix:{target}" if str(target).startswith("/") else ""
    raise InvalidRequest(
        f"the target must be unix:/run/bursar/bursar.sock or HOST:PORT (got {target!r}){hint}"
    )


def _absent(target: str) -> str:
    """Says where a target's socket is not there at all, which gRPC words as any other failure."""
    path = socket_path(target)
    return "" if path is None or path.exists() else "; no socket lies there"


def socket_path(target: str) -> Path | None:
    """The path of a target that is a Unix socket, written as `unix:PATH` or `unix://PATH`."""
    path = target.removeprefix("unix:")
    return None if path == target else Path(path.removeprefix("//"))
