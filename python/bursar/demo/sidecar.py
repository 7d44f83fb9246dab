"""The demo's sidecar, or a bench's: a process of its own, started and asked like any other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from bursar.v1 import admin_pb2, admin_pb2_grpc

_START_S_MAX = 30.0
_STOP_S_MAX = 15.0
_ASK_S_MAX = 10.0
_PAGE = 1_000
_USAGE_PAGE = 10_000


class DemoSidecar:
    """A `bursar serve` on a policy, with its data and socket in one directory."""

    def __init__(
        self, directory: Path, policy: Path, *, data: Path | None = None, listen: str = "off"
    ) -> None:
        """Takes the directory of its socket and log, and of its data unless `data` is another."""
        self.data_directory = data or directory / "data"
        self.socket = directory / "bursar.sock"
        self.listen = listen
        self._log = directory / "log"
        self._policy = policy
        self._process: subprocess.Popen[str] | None = None
        self._admin = ""

    def start(self) -> float:
        """Starts it and waits until it is ready; returns the seconds that took."""
        began_s = time.monotonic()
        command = [sys.executable, "-c", "from bursar.cli import main; main()", "serve", "--json"]
        settings = {
            "policy": self._policy,
            "data": self.data_directory,
            "socket": self.socket,
            "listen": self.listen,
            "admin-listen": "127.0.0.1:0",
            "http-listen": "127.0.0.1:0",
            "drain-interval": "200ms",
        }
        for name, value in settings.items():
            command += [f"--{name}", str(value)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the sidecar did not start; its log:\n{self._log.read_text()}")
        ready = json.loads(line)
        self._admin, self.listen = ready["admin_listen"], ready["listen"] or self.listen
        return time.monotonic() - began_s

    @property
    def process_id(self) -> int:
        """The process's id; 0 where there is none."""
        return self._process.pid if self._process else 0

    def kill(self) -> None:
        """Kills it by SIGKILL, which no process can prepare for."""
        if self._process:
            self._process.kill()
            self._ended()

    def stop(self) -> int:
        """Asks it to stop, as an operator would; returns its exit code, -9 where it would not."""
        if not self._process:
            return 0
        self._process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            code = process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if process.stdout:
            process.stdout.close()
        return code

    @contextmanager
    def admin(self) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
        """The admin service, as the command line asks it."""
        options = [("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(self._admin, options=options) as channel:
            yield admin_pb2_grpc.AdminServiceStub(channel)

    def policy(self) -> admin_pb2.GetPolicyResponse:
        """The policy in force."""
        with self.admin() as stub:
            return stub.GetPolicy(admin_pb2.GetPolicyRequest(), timeout=_ASK_S_MAX)

    def standings(self) -> list[admin_pb2.ListStandingsResponse]:
        """Where every live counter stands, by page."""
        request = admin_pb2.ListStandingsRequest(page_size=_PAGE)
        pages: list[admin_pb2.ListStandingsResponse] = []
        with self.admin() as stub:
            while True:
                pages.append(stub.ListStandings(request, timeout=_ASK_S_MAX))
                request.page_token = pages[-1].next_page_token
                if not request.page_token:
                    return pages

    def usage(self, *labels: str) -> list[admin_pb2.UsageRow]:
        """Usage by `labels` once the books include all that the ledger has now."""
        request = admin_pb2.QueryUsageRequest(group_by=labels, page_size=_USAGE_PAGE)
        deadline_s = time.monotonic() + _ASK_S_MAX
        with self.admin() as stub:
            status = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=_ASK_S_MAX)
            while True:
                answer = stub.QueryUsage(request, timeout=_ASK_S_MAX)
                if answer.through_sequence >= status.ledger.sequence:
                    return list(answer.rows)
                if time.monotonic() > deadline_s:
                    raise RuntimeError(
                        f"the books are at sequence {answer.through_sequence} and the ledger at "
                        f"{status.ledger.sequence}: they do not catch up"
                    )
                time.sleep(0.05)
