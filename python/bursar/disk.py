"""What a folder is: whether what is kept there outlives the pod, and who else may change it."""

from __future__ import annotations

import re
import stat
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""What this process sees mounted, as proc(5) has it."""

_EPHEMERAL = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})
_ESCAPE = re.compile(r"\\([0-7]{3})")


def ephemeral_type(folder: Path, *, mounts: Path = MOUNTS) -> str:
    """The type of the file system that `folder` is on, if it is one that dies with its pod.

    Empty where it is another, or where the system does not say.
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    where = folder.resolve()
    depth, found = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        # Of mounts at one place the last hides those before it.
        point = Path(_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        if where.is_relative_to(point) and len(point.parts) >= depth:
            depth, found = len(point.parts), after.split()[0]
    return found if found in _EPHEMERAL else ""


def open_to_all(folder: Path) -> bool:
    """Whether everyone on the machine may put another file in the place of one in `folder`."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX
