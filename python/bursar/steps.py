"""What the SDK does as steps to perform, so that one protocol serves threads and event loops.

A protocol is a generator: it yields what is to be done and is sent what came of it. It knows no
connection; `drive` performs its steps on a thread, `drive_async` on an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from google.protobuf.message import Message

from bursar.v1 import quota_pb2

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Method(Generic[_Request, _Response]):
    """A call of the data plane by its name in the contract."""

    name: str


RESERVE: Method[quota_pb2.ReserveRequest, quota_pb2.ReserveResponse] = Method("Reserve")
COMMIT: Method[quota_pb2.CommitRequest, quota_pb2.CommitResponse] = Method("Commit")
RELEASE: Method[quota_pb2.ReleaseRequest, quota_pb2.ReleaseResponse] = Method("Release")
RECORD: Method[quota_pb2.RecordRequest, quota_pb2.RecordResponse] = Method("Record")
COUNT_TOKENS: Method[quota_pb2.CountTokensRequest, quota_pb2.CountTokensResponse] = Method(
    "CountTokens"
)


@dataclass(frozen=True, slots=True)
class Send:
    """Call the sidecar once; its answer comes back, or a BursarError is thrown in."""

    name: str
    request: Message
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Disk:
    """Do something that waits for the disk."""

    work: Callable[[], None]


Step = Send | Pause | Disk
Steps = Generator[Step, object, _R]


def ask(
    method: Method[_Request, _Response], request: _Request, timeout_s: float
) -> Steps[_Response]:
    """Calls once and gives the answer, typed."""
    return cast("_Response", (yield Send(method.name, request, timeout_s)))


def drive(steps: Steps[_R], perform: Callable[[Step], object]) -> _R:
    """Performs the steps one after another; what one raises is thrown into the protocol."""
    try:
        step = next(steps)
        while True:
            try:
                came = perform(step)
            except BaseException as error:  # noqa: BLE001  the protocol decides, an interrupt too
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration as end:
        return cast("_R", end.value)


async def drive_async(steps: Steps[_R], perform: Callable[[Step], Awaitable[object]]) -> _R:
    """Performs the steps as `drive` does, on an event loop."""
    try:
        step = next(steps)
        while True:
            try:
                came = await perform(step)
            except BaseException as error:  # noqa: BLE001  the same, and a cancellation
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration as end:
        return cast("_R", end.value)
