"""What tests of the whole sidecar share: `bursar serve` as a process, and a stock client of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from bursar.v1 import admin_pb2_grpc, quota_pb2_grpc

BURSAR = str(Path(sys.executable).with_name("bursar"))
STOP_S_MAX = 10.0
"""The longest that a sidecar may take to stop."""


class Served:
    """`bursar serve` in a process of its own, on free ports, with its files in one directory."""

    def __init__(
        self,
        directory: Path,
        policy: str,
        settings: Mapping[str, str],
        command: Sequence[str] = (BURSAR,),
    ) -> None:
        """Starts it and waits until it says that it is ready, or has ended."""
        self.directory = directory
        self.data = Path(settings.get("BURSAR_DATA", directory / "data"))
        self.log = directory / "serve.log"
        policy_file = directory / "policy.yaml"
        policy_file.write_text(policy)
        self._environment = {
            **{key: text for key, text in os.environ.items() if not key.startswith("BURSAR_")},
            "BURSAR_POLICY": str(policy_file),
            "BURSAR_DATA": str(self.data),
            "BURSAR_SOCKET": str(directory / "run" / "bursar.sock"),
            "BURSAR_LISTEN": "127.0.0.1:0",
            "BURSAR_ADMIN_LISTEN": "127.0.0.1:0",
            "BURSAR_HTTP_LISTEN": "127.0.0.1:0",
            **settings,
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "serve", "--json"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.ready: dict[str, Any] = json.loads(line) if line else {}

    @property
    def socket(self) -> str:
        return f"unix:{self.ready['socket']}"

    @property
    def listen(self) -> str:
        return str(self.ready["listen"])

    @property
    def http(self) -> str:
        return f"http://{self.ready['http_listen']}"

    def ended(self) -> tuple[int, str]:
        """Waits until it has ended by itself; gives its exit code and what it said on stderr."""
        return self.process.wait(timeout=STOP_S_MAX), self.log.read_text()

    def stop(self) -> int:
        """Tells it to stop by SIGTERM; gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_S_MAX)

    def kill(self) -> None:
        """Kills it at whatever it is doing."""
        self.process.kill()
        self.process.wait(timeout=STOP_S_MAX)

    def ask(self, *command: str) -> dict[str, Any]:
        """What `bursar COMMAND --json` answers of it."""
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stderr
        return cast("dict[str, Any]", json.loads(done.stdout))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What `bursar COMMAND` says of it, whatever its exit code."""
        environment = {**self._environment, "BURSAR_ADMIN_LISTEN": self.ready["admin_listen"]}
        asked = [BURSAR, *command]
        return subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)

    def close(self) -> None:
        """Kills it if it still runs, and lets go of its output."""
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Stock:
    """A client made of nothing but grpcio and the generated stubs."""

    def __init__(self, target: str) -> None:
        """Connects; over a Unix socket C-core must be told what to call its authority."""
        options = [
            ("grpc.default_authority", "localhost"),
            ("grpc.enable_http_proxy", 0),
            # or a client of a restarted sidecar waits out its predecessor's backoff
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = grpc.insecure_channel(target, options=options)
        self.quota = quota_pb2_grpc.QuotaServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="bursar-") as made:
        yield Path(made)


Serve = Callable[..., Served]


@pytest.fixture
def serve(directory: Path) -> Iterator[Serve]:
    """Starts `bursar serve` on the text of a policy file; the data stay from start to start."""
    with contextlib.ExitStack() as undo:

        def start(policy: str, command: Sequence[str] = (BURSAR,), **settings: str) -> Served:
            served = Served(directory, policy, settings, command)
            undo.callback(served.close)
            return served

        yield start


@pytest.fixture(scope="module")
def serve_for_all() -> Iterator[Callable[[str], Served]]:
    """Starts one `bursar serve` for all tests of a file."""
    with contextlib.ExitStack() as undo:

        def start(policy: str) -> Served:
            directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="bursar-"))
            served = Served(Path(directory), policy, {})
            undo.callback(served.close)
            return served

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[[str], Stock]]:
    """Makes stock clients, closed when the test ends."""
    with contextlib.ExitStack() as undo:

        def make(target: str) -> Stock:
            stock = Stock(target)
            undo.callback(stock.channel.close)
            return stock

        yield make
