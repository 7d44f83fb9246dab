"""HTTP for probes and metrics: /metrics, /healthz and /readyz."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from bursar.errors import StartError

CONNECTIONS_MAX = 64
"""The most connections that are open at one time; one more is closed at once."""

CONNECTION_S_MAX = 15.0
"""How long a connection is open, and as long again for the answer it waits for then."""

_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def application(
    *, metrics: Callable[[], str], not_ready_reason: Callable[[], str], registry: CollectorRegistry
) -> Starlette:
    """The pages: `metrics` is the data plane's, `registry` the control plane's.

    `not_ready_reason` is empty when ready. Both callables may wait, so they run in a thread.
    """

    async def show_metrics(_: Request) -> PlainTextResponse:
        counted_there = await asyncio.to_thread(metrics)
        page = counted_there + generate_latest(registry).decode()
        return PlainTextResponse(page, headers={"content-type": _TEXT_FORMAT})

    async def show_health(_: Request) -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    async def show_readiness(_: Request) -> PlainTextResponse:
        reason = await asyncio.to_thread(not_ready_reason)
        if reason:
            return PlainTextResponse(f"not ready: {reason}\n", status_code=503)
        return PlainTextResponse("ready\n")

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", show_health),
            Route("/readyz", show_readiness),
        ]
    )


class _Connection(H11Protocol):
    """A connection with a place and an end: uvicorn waits for ever for one that asks nothing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes its place, if there is one."""
        super().connection_made(transport)
        self._end = self.loop.call_later(CONNECTION_S_MAX, self._wind_up)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives its place back."""
        self._end.cancel()
        super().connection_lost(exc)

    def _wind_up(self) -> None:
        self._end = self.loop.call_later(CONNECTION_S_MAX, self.transport.abort)
        if not self.transport.is_closing():
            self.shutdown()


class _Uvicorn(uvicorn.Server):
    """Uvicorn without signal handlers: the sidecar has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


class HttpServer:
    """Serves the pages on one address until it is stopped."""

    def __init__(self, app: Starlette) -> None:
        """Makes the server; `start` binds it."""
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                http=_Connection,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self, listen: str) -> str:
        """Binds `listen` and serves; returns the address as bound; raises StartError."""
        host, _, port = listen.rpartition(":")
        bare = host.strip("[]")
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((bare, int(port)))
            # From here on whoever connects waits for an answer instead of being refused.
            bound.listen(CONNECTIONS_MAX)
        except OSError as error:
            bound.close()
            raise StartError(f"HTTP cannot listen on {listen}: {error.strerror}") from None
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        return f"{host}:{bound.getsockname()[1]}"

    async def stop(self) -> None:
        """Stops answering and waits until the last page is out."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
