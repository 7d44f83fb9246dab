"""Where things run: which cores, and what one sync of the disk costs there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bursar.errors import SettingsError

_BLOCK_BYTES = 4_096
_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Placement:
    """The core of the client and the core of the servers."""

    client: int
    server: int

    @property
    def words(self) -> str:
        """The placement for a person."""
        if self.client == self.server:
            return f"one core: client and server share core {self.client}"
        return f"two cores: client on core {self.client}, server on core {self.server}"


def placement(cores: str) -> Placement:
    """The placement called `one` or `two`; raises SettingsError where there are too few cores."""
    usable = sorted(os.sched_getaffinity(0))
    if cores == "one":
        return Placement(usable[0], usable[0])
    if len(usable) == 1:
        raise SettingsError(
            f"two cores are needed for --cores two, and this process may use one, core {usable[0]}"
        )
    return Placement(usable[0], usable[1])


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keeps this thread, and the processes it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Disk:
    """A file on the disk of a directory, of which 4 KiB are written and synced at a time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sync"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # As in the ledger, the file's blocks are there already.
        os.pwrite(self._file, bytes(_BLOCKS * _BLOCK_BYTES), 0)
        os.fsync(self._file)
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def sync_ns(self) -> int:
        """Writes 4 KiB and syncs them; gives the nanoseconds that took."""
        self._next = (self._next + 1) % _BLOCKS
        began_ns = time.perf_counter_ns()
        os.pwrite(self._file, b"\x5a" * _BLOCK_BYTES, self._next * _BLOCK_BYTES)
        os.fdatasync(self._file)
        return time.perf_counter_ns() - began_ns
