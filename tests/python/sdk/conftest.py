"""What the SDK's tests share: a server that answers by script, and ports where nobody answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from tests.python.sdk.either import Blocking, Loop
from tests.system.conftest import Served

import bursar
from bursar.testing import ScriptedSidecar

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


@pytest.fixture
def scripted() -> Iterator[ScriptedSidecar]:
    """A real gRPC server that answers by script: for what no healthy sidecar would answer."""
    with ScriptedSidecar() as made:
        yield made


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
def client(scripted: ScriptedSidecar, connect: Connect) -> bursar.Client:
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
