"""`bursar serve` in which files go bad while it serves: run by test_faults.py, as `bursar` is.

Each line on stdin is NAME MODE TARGET: every open file whose path ends in NAME and that is open for
reading and writing (`rw`) or for writing only (`w`) becomes TARGET from then on, in the kernel's
own table of this process, so that the next call on it fails for real. How many there were is said
on stdout.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from bursar.cli import main

_MODES = {"rw": os.O_RDWR, "w": os.O_WRONLY}


def _is(number: int, name: str, mode: str) -> bool:
    try:
        path = str(Path(f"/proc/self/fd/{number}").readlink())
        flags = Path(f"/proc/self/fdinfo/{number}").read_text().split("flags:")[1].split()[0]
    except OSError:  # it was closed meanwhile
        return False
    return path.endswith(name) and int(flags, 8) & os.O_ACCMODE == _MODES[mode]


def _spoil() -> None:
    for line in sys.stdin:
        name, mode, target = line.split()
        numbers = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
        found = [number for number in numbers if _is(number, name, mode)]
        bad = os.open(target, os.O_RDWR)
        for number in found:
            os.dup2(bad, number)
        sys.stdout.write(f"{len(found)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    threading.Thread(target=_spoil, daemon=True).start()
    main()
