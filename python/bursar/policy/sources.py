"""The files a policy is read from: the policy file and those it names, each read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FILE_BYTES_MAX = 4 * 1024 * 1024
"""The largest file that a policy may name."""

FILES_MAX = 64
"""The most files that a policy may name."""

Reader = Callable[[Path], bytes]
"""Gives the bytes of a file, or as many as show that it is too large; raises OSError."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that was read: its path as it was opened, and the SHA-256 of its bytes."""

    path: Path
    sha256: bytes


def read_file(path: Path) -> bytes:
    """Reads a file, at most one byte more than is allowed; raises OSError."""
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


@dataclass(slots=True)
class Sources:
    """Reads the files that a policy names, each once however often it is named."""

    directory: Path
    read: Reader = read_file
    _found: dict[Path, bytes | OSError] = field(default_factory=dict)

    def get(self, name: str) -> tuple[Path, bytes | OSError | None]:
        """A file by its name, relative to the policy's, and its bytes; None past FILES_MAX."""
        path = self.directory / name
        if path not in self._found:
            if len(self._found) >= FILES_MAX:
                return path, None
            try:
                self._found[path] = self.read(path)
            except OSError as error:
                self._found[path] = error
        return path, self._found[path]

    def files(self) -> tuple[SourceFile, ...]:
        """The files that were read, in the order in which they were named."""
        return tuple(
            SourceFile(path, hashlib.sha256(found).digest())
            for path, found in self._found.items()
            if isinstance(found, bytes)
        )


def digest_of(files: tuple[SourceFile, ...]) -> bytes:
    """What stands for all: the SHA-256 of the only file, or that of the SHA-256s of several."""
    first, *others = files
    if not others:
        return first.sha256
    return hashlib.sha256(b"".join(each.sha256 for each in files)).digest()
