"""Where clients keep what waits while scripted sidecars are open: not beside a developer's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

from bursar.spool import VARIABLE, Spool


class SpoolAside:
    """A temporary directory that the environment names while any scripted sidecar is open.

    There is one for all of them: a client is made of the environment, which does not say whose
    client it will be, and sidecars close in any order.
    """

    def __init__(self) -> None:
        """Touches nothing yet."""
        self._lock = threading.Lock()
        self._sidecars = 0
        self._base = Path()
        self._undo = contextlib.ExitStack()

    def enter(self) -> None:
        """Counts one more sidecar; the first has the directory made and named."""
        with self._lock:
            if not self._sidecars:
                made = tempfile.TemporaryDirectory(
                    prefix="bursar-testing-", ignore_cleanup_errors=True
                )
                self._base = Path(self._undo.enter_context(made))
                self._undo.callback(_put_back, os.environ.get(VARIABLE), made.name)
                os.environ[VARIABLE] = made.name
            self._sidecars += 1

    def leave(self, target: str) -> None:
        """Removes what the sidecar at `target` was to be sent; the last one takes it all along."""
        with self._lock:
            # its port may be the next one's, whose clients would take over what waits there
            shutil.rmtree(Spool(self._base, target).directory, ignore_errors=True)
            self._sidecars -= 1
            if not self._sidecars:
                self._undo.close()


def _put_back(before: str | None, ours: str) -> None:
    """Names what was named before, unless somebody has named another since."""
    if os.environ.get(VARIABLE) != ours:
        return
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before


spool_aside = SpoolAside()
"""This process's."""
