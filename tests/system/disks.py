"""Small file systems of a test's own, which really fill and really refuse to be written."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20
_CHUNK = b"\0" * (64 << 10)


class Disk:
    """A mounted file system of a few MiB."""

    def __init__(self, path: Path) -> None:
        """Takes where it is mounted."""
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Takes whatever room there is, to the last byte."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (len(_CHUNK), 512, 1):
                try:
                    for _ in itertools.repeat(None):
                        file.write(_CHUNK[:size])
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Gives back what was taken."""
        self._filler.unlink()

    def read_only(self) -> None:
        """Lets nobody write any more."""
        _run("mount", "-o", "remount,ro", str(self.path))


@contextmanager
def mounted(kind: str, directory: Path, size_mib: int) -> Iterator[Disk]:
    """Mounts a new file system, `tmpfs` or `ext4`; fails where that is not allowed."""
    path = directory / f"{kind}-disk"
    path.mkdir()
    if kind == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(path))
    else:
        image = directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(size_mib * MIB)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        _run("mount", "-o", "loop", str(image), str(path))
    try:
        yield Disk(path)
    finally:
        _run("umount", "--lazy", str(path))


def _run(*command: str) -> None:
    # Where these are is not on everyone's PATH.
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        said = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        said = str(error)
    if said:
        pytest.fail(
            f"this test fills a file system of its own, and {command[0]} said: {said}; run it as "
            "root, with util-linux and e2fsprogs, where mounting is allowed"
        )
