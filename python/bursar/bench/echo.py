"""The echo as a process of its own: it serves until its standard input ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bursar import _core  # noqa: TID251  the echo is the load generator's, not a sidecar's
from bursar.errors import CoreError

_STOP_S_MAX = 10.0


class EchoProcess:
    """A bare echo in a process of its own, on a socket and on a free port."""

    def __init__(self, socket: Path) -> None:
        """Starts it and waits until it serves; raises CoreError where it does not."""
        self.socket = socket
        program = "import sys; from bursar.bench.echo import serve; serve(sys.argv[1])"
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-c", program, str(socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self.close()
            raise CoreError("the echo did not start; what it said is above")
        self.listen = str(json.loads(line)["listen"])

    def close(self) -> None:
        """Ends it."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def serve(socket: str) -> None:
    """Serves, says where on standard output, and ends with standard input."""
    echo = _core.Echo(socket=socket, listen="127.0.0.1:0")
    sys.stdout.write(json.dumps({"listen": echo.listen_address()}) + "\n")
    sys.stdout.flush()
    # Ends too when whoever started it was killed.
    sys.stdin.read()
