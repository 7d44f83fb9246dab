"""What tests of every part share: a real sidecar on a hand clock."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bursar
from bursar import _core
from bursar.policy.parse import parse_source
from bursar.v1 import admin_pb2, quota_pb2
from bursar.wire import policy_message

NOON_UNIX_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
MIB = 1 << 20


class HandSidecar:
    """A real data plane in this process whose clock stands still until a test moves it."""

    def __init__(self, directory: Path, policy: str) -> None:
        """Starts it on a policy file's text, with its data and socket in `directory`."""
        self.data_directory = directory / "data"
        self.data_directory.mkdir(exist_ok=True)
        self.socket = directory / "bursar.sock"
        self.now_unix_ms = NOON_UNIX_MS
        self._policy = policy
        self._clients = contextlib.ExitStack()
        self.core = self._start()

    def _start(self) -> _core.Sidecar:
        parsed = parse_source(self._policy.encode(), path="policy.yaml")
        return _core.Sidecar(
            data_directory=str(self.data_directory),
            socket=str(self.socket),
            listen="127.0.0.1:0",
            policy=policy_message(parsed.policy).SerializeToString(deterministic=True),
            policy_digest=parsed.digest,
            policy_source=parsed.source,
            segment_bytes=MIB,
            ledger_bytes_max=64 * MIB,
            counters_max=10_000,
            reservations_open_max=10_000,
            settled_ids_max=10_000,
            settled_span_ms=86_400_000,
            connections_max=1_024,
            connections_per_caller_max=512,
            hand_clock_unix_ms=self.now_unix_ms,
        )

    @property
    def listen(self) -> str:
        """Where it listens on TCP."""
        return self.core.listen_address()

    def client(self, target: str = "") -> bursar.Client:
        """A client of it, over the socket if nothing else is said; closed when the test ends."""
        made = bursar.Client(target or f"unix:{self.socket}", on_undecided="deny", timeout=10)
        return self._clients.enter_context(made)

    def tick(self, *, seconds: float) -> None:
        """Moves the clock; what expires by it has expired when this returns."""
        self.now_unix_ms += round(seconds * 1000)
        self.core.set_hand_clock(unix_ms=self.now_unix_ms)

    def standings(self, limit: str = "") -> list[quota_pb2.Standing]:
        """Where the live counters of a limit (none: of all) stand."""
        request = admin_pb2.ListStandingsRequest(limit=limit).SerializeToString()
        answer = self.core.standings(request=request)
        return list(admin_pb2.ListStandingsResponse.FromString(answer).standings)

    def restart(self) -> None:
        """Stops it in order and starts it again on the same data."""
        self.core.stop(grace_ms=5_000)
        self.core = self._start()

    def close(self) -> None:
        """Closes its clients and stops it."""
        self._clients.close()
        self.core.stop(grace_ms=5_000)


@pytest.fixture(autouse=True)
def _spool_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what a client has yet to send out of the home of whoever runs the tests."""
    monkeypatch.setenv("BURSAR_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def start_sidecar() -> Iterator[Callable[[str], HandSidecar]]:
    """Starts sidecars on the text of a policy file; they stop when the test ends."""
    with contextlib.ExitStack() as undo:

        def start(policy: str) -> HandSidecar:
            # A socket's path must be short, which a test's own directory is not.
            directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="bursar-"))
            sidecar = HandSidecar(Path(directory), policy)
            undo.callback(sidecar.close)
            return sidecar

        yield start
