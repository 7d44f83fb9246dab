"""Tells whether a policy's files have changed, and whether what was read has come to rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bursar.errors import PolicyError
from bursar.policy.parse import ParsedPolicy, bugs_told, parse
from bursar.policy.sources import read_file

Stamp = tuple[int, int, int, int] | None
"""What tells one content of a file from another without reading it; None where there is no file."""


def stamp_of(path: Path) -> Stamp:
    """The stamp of what the path leads to now: a symlink that is switched leads to another file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of a policy gave: the policy or its mistakes, and every file it is of."""

    found: ParsedPolicy | PolicyError
    contents: dict[Path, bytes | None]
    stamps: dict[Path, Stamp]

    @property
    def is_at_rest(self) -> bool:
        """Whether every file still has the bytes that were read: nobody is in the middle of it."""
        return all(_bytes_of(path) == content for path, content in self.contents.items())

    @property
    def is_current(self) -> bool:
        """Whether no file has changed since, as far as can be told without reading."""
        return self.stamps == _stamps(self.stamps)


def read_once(path: Path) -> Reading:
    """Reads the policy file and the files it names, each once; a wrong policy is a reading too."""
    contents: dict[Path, bytes | None] = {}
    stamps: dict[Path, Stamp] = {}

    def read(asked: Path) -> bytes:
        # Before it is read: a change that comes in between makes the stamp an old one.
        stamps[asked] = stamp_of(asked)
        contents[asked] = None
        content = contents[asked] = read_file(asked)
        return content

    try:
        with bugs_told(path):
            return Reading(parse(path, read=read), contents, stamps)
    except PolicyError as error:
        return Reading(error, contents, stamps)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError:
        return None


def _stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    return {path: stamp_of(path) for path in paths}
