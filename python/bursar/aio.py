"""The SDK's asynchronous client: the synchronous one with `await`, on grpc.aio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from bursar.arguments import to_seconds, to_wait_s
from bursar.connection import AsyncWire, Process, find_target
from bursar.exchange import (
    CLOSE_GRACE_S,
    RECORD_TIMEOUT_DEFAULT,
    TIMEOUT_DEFAULT,
    Exchange,
    OnUndecided,
    check_on_undecided,
)
from bursar.outbox import Stats
from bursar.questions import (
    RecordArguments,
    ReserveArguments,
    count_request,
    record_request,
    reserve_request,
)
from bursar.reservation import AsyncReservation
from bursar.setup import open_outbox, signed
from bursar.steps import COUNT_TOKENS, Steps, ask, drive_async
from bursar.v1 import quota_pb2

_R = TypeVar("_R")


class Reserving:
    """What `AsyncClient.reserve` gives: `await` it, or enter it with `async with`."""

    def __init__(
        self,
        client: AsyncClient,
        request: quota_pb2.ReserveRequest,
        timeout_s: float,
        wait_s: float,
    ) -> None:
        self._client = client
        self._asked = (request, timeout_s, wait_s)
        self._reservation: AsyncReservation | None = None

    def __await__(self) -> Generator[Any, Any, AsyncReservation]:
        """Reserves; raises what `Client.reserve` raises."""
        return self._client._reserve(*self._asked).__await__()  # noqa: SLF001  its other half

    async def __aenter__(self) -> AsyncReservation:
        """Reserves, and gives the reservation."""
        self._reservation = await self
        return await self._reservation.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settles as leaving the reservation's block does."""
        if self._reservation is not None:
            await self._reservation.__aexit__(kind, error, traceback)


class AsyncClient:
    """`Client` for an event loop: the same arguments, answers, exceptions and promises.

    It belongs to the loop that first uses it and to the process that made it; another loop, and a
    forked child, makes its own. What waits for the sidecar is sent by a task in the background.
    Settlements survive the cancellation of the task that asked for them, and the end of the loop:
    what is not sent by then is on disk.
    """

    def __init__(
        self,
        target: str = "",
        *,
        on_undecided: OnUndecided | None = None,
        timeout: timedelta | float = TIMEOUT_DEFAULT,
        allow_on_bugs: bool = False,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        """Connects behind the first call; takes and raises what `Client` does."""
        decided = check_on_undecided(on_undecided)
        found = find_target(target)
        outbox = open_outbox(found, decided, spool)
        self._wire = AsyncWire(found)
        self._process = Process("bursar.AsyncClient")
        self._timeout_s = to_seconds(timeout)
        self._exchange = Exchange(outbox, on_undecided=decided, allow_on_bugs=allow_on_bugs)
        self._courier: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        """Gives the client itself."""
        self._check()
        self._wake()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes it."""
        await self.close()

    async def close(self) -> None:
        """Waits at most 1 s for settlements that are on their way, and ends the connection.

        Those that are not sent by then stay on disk for the next client; what is reserved and not
        settled expires. In a forked child it does nothing.
        """
        if self.is_forked() or self._wire.closed:
            return
        await self.flush(CLOSE_GRACE_S)
        self._exchange.closing = True
        await self._wire.close()
        for task in self._behind():
            task.cancel()
        if behind := self._behind():
            await asyncio.wait(behind, timeout=CLOSE_GRACE_S)
        self._exchange.outbox.close()

    async def flush(self, timeout: timedelta | float) -> bool:  # noqa: ASYNC109  it says no
        """Waits until all that waits for the sidecar is sent, as `Client.flush` does."""
        deadline_s = time.monotonic() + to_seconds(timeout)
        self._check()
        while True:
            self._wake()
            behind = self._behind()
            if not behind or deadline_s <= time.monotonic():
                return not behind and self._exchange.outbox.is_empty()
            await asyncio.wait(behind, timeout=deadline_s - time.monotonic())

    def _behind(self) -> list[asyncio.Task[Any]]:
        running = [*self._settling, *([self._courier] if self._courier else [])]
        return [task for task in running if not task.done()]

    def is_forked(self) -> bool:
        """Says whether this is a forked child of the process that made the client."""
        return self._process.is_forked()

    def stats(self) -> Stats:
        """What it has counted since it was made, as `Client.stats`."""
        return self._exchange.outbox.stats()

    @signed(reserve_request, timeout=None, wait=None)
    def reserve(self, **asked: Unpack[ReserveArguments]) -> Reserving:
        """Sets tokens aside as `Client.reserve` does: `await` it, or enter it by `async with`.

        `async with client.reserve(…) as reservation:` and `reservation = await client.reserve(…)`
        both work. A wrong argument raises InvalidRequest at once, all else when awaited.
        """
        timeout_s = self._timeout_of(asked.pop("timeout", None))
        wait_s = to_wait_s(asked.pop("wait", None))
        request = reserve_request(**asked)  # type: ignore[misc]  # less the two taken out
        return Reserving(self, request, timeout_s, wait_s)

    async def _reserve(
        self, request: quota_pb2.ReserveRequest, timeout_s: float, wait_s: float
    ) -> AsyncReservation:
        decision = await self._run(self._exchange.reserve(request, timeout_s, wait_s))
        return AsyncReservation(self._exchange, self._process, decision, self._run_to_its_end)

    @signed(record_request, timeout=RECORD_TIMEOUT_DEFAULT)
    async def record(
        self,
        answer: object,
        *,
        timeout: timedelta | float = RECORD_TIMEOUT_DEFAULT,  # noqa: ASYNC109  it bounds many tries
        **said: Unpack[RecordArguments],
    ) -> quota_pb2.RecordResponse:
        """Enters usage that had no reservation, as `Client.record` does."""
        request = record_request(answer, **said)
        return await self._run(self._exchange.record(request, to_seconds(timeout)))

    async def count(
        self,
        *,
        model: str,
        texts: Sequence[str] = (),
        chat: Sequence[Mapping[str, object]] | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        timeout: timedelta | float | None = None,  # noqa: ASYNC109  the sidecar is told of it
    ) -> quota_pb2.CountTokensResponse:
        """Counts the tokens of each text, or of one chat, for a model; says by which method."""
        request = count_request(model=model, texts=texts, chat=chat, tools=tools)
        return await self._run(ask(COUNT_TOKENS, request, self._timeout_of(timeout)))

    def _timeout_of(self, timeout: timedelta | float | None) -> float:
        return self._timeout_s if timeout is None else to_seconds(timeout)

    def _check(self) -> None:
        """Raises InvalidRequest in a forked child, on another loop, and once it is closed."""
        self._process.check()
        self._wire.check()

    async def _run(self, steps: Steps[_R]) -> _R:
        self._check()
        try:
            return await drive_async(steps, self._wire.perform)
        finally:
            self._wake()

    async def _run_to_its_end(self, steps: Steps[_R]) -> _R:
        """Performs a settlement as a task of its own, which outlives its caller's cancellation."""
        task = asyncio.get_running_loop().create_task(self._settle(steps))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return await asyncio.shield(task)

    async def _settle(self, steps: Steps[_R]) -> _R:
        result = await drive_async(steps, self._wire.perform)
        self._wake()
        return result

    def _wake(self) -> None:
        """Starts the task that sends what waits, if something does and none runs."""
        if self._wire.closed or self.is_forked() or not self._exchange.outbox.begin():
            return
        self._courier = asyncio.get_running_loop().create_task(
            drive_async(self._exchange.deliver(), self._wire.perform), name="bursar-courier"
        )
