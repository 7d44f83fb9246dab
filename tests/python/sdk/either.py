"""Either client behind one face, so that one suite of tests holds for both.

`Blocking` runs the asynchronous client on a loop in a thread and waits for each answer.
"""

# ruff: noqa: ANN401  a face takes and gives what is behind it

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import bursar

_R = TypeVar("_R")
WAIT_S_MAX = 60.0


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def wait(self, made: Awaitable[_R]) -> _R:
        """Runs it on the loop, in the caller's context, and gives its result."""

        async def run() -> _R:
            return await made

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(WAIT_S_MAX)

    def close(self) -> None:
        """Ends the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S_MAX)
        self.loop.close()


class BlockingReservation:
    """An asynchronous reservation whose calls wait."""

    def __init__(self, loop: Loop, reservation: bursar.AsyncReservation) -> None:
        self._loop = loop
        self._reservation = reservation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reservation, name)

    def commit(self, *args: Any, **said: Any) -> Any:
        return self._loop.wait(self._reservation.commit(*args, **said))

    def release(self, **said: Any) -> Any:
        return self._loop.wait(self._reservation.release(**said))

    def follow(self, stream: Iterable[Any], **said: Any) -> Iterator[Any]:
        async def streamed() -> AsyncIterator[Any]:
            for event in stream:
                yield event

        followed = self._reservation.follow(streamed(), **said)
        while True:
            try:
                event = self._loop.wait(anext(followed))
            except StopAsyncIteration:
                return
            yield event

    def __enter__(self) -> Self:
        self._loop.wait(self._reservation.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.wait(self._reservation.__aexit__(kind, error, traceback))


class Blocking:
    """An asynchronous client whose calls wait."""

    def __init__(self, client: bursar.AsyncClient, loop: Loop) -> None:
        self._client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def reserve(self, **asked: Any) -> BlockingReservation:
        return BlockingReservation(self._loop, self._loop.wait(self._client.reserve(**asked)))

    def record(self, *args: Any, **said: Any) -> Any:
        return self._loop.wait(self._client.record(*args, **said))

    def count(self, **asked: Any) -> Any:
        return self._loop.wait(self._client.count(**asked))

    def flush(self, timeout: float) -> bool:
        return self._loop.wait(self._client.flush(timeout))

    def close(self) -> None:
        self._loop.wait(self._client.close())

    def __enter__(self) -> Self:
        self._loop.wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
