"""Counts the instructions of single operations by valgrind and holds them against a baseline.

usage: instructions.py PROGRAM BASELINE [--accept]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

COUNTS = (1_000, 3_000)
"""What one operation costs is the difference of these two runs: setting up is in both."""

GROWTH_MAX = 0.05
"""How much above its baseline an operation may be, under the compiler of the baseline."""

GROWTH_MAX_OTHER_COMPILER = 0.10


def compiler() -> str:
    """The compiler, as it names itself."""
    said = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def instructions(program: str, operation: str) -> int:
    """What one operation costs."""
    totals = []
    for count in COUNTS:
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
             program, operation, str(count)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = re.search(r"Collected : (\d+)", run.stderr)
        if run.returncode or found is None:
            sys.exit(f"error: {operation} could not be counted: {run.stderr[-2_000:]}")
        totals.append(int(found[1]))
    return (totals[1] - totals[0]) // (COUNTS[1] - COUNTS[0])


def main() -> int:
    """Prints each operation's count beside its baseline; 1 if one is too far above."""
    program, baseline, *more = sys.argv[1:]
    with Path(baseline).open("rb") as file:
        known = tomllib.load(file)
    now = {name: instructions(program, name) for name in known["instructions"]}
    if more == ["--accept"]:
        lines = [f"{name} = {count:_}" for name, count in now.items()]
        head = "# Instructions of one operation each; made by .ci/run instructions --accept"
        said = f'{head}\ncompiler = "{compiler()}"\n\n[instructions]\n'
        Path(baseline).write_text(said + "\n".join(lines) + "\n")
        print(f"accepted: {baseline}")
        return 0
    same = known["compiler"] == compiler()
    growth_max = GROWTH_MAX if same else GROWTH_MAX_OTHER_COMPILER
    if not same:
        print(f"the baseline is of {known['compiler']}, this is {compiler()}: a wider bound holds")
    failed = False
    for name, before in known["instructions"].items():
        change = now[name] / before - 1
        much = change > growth_max
        failed |= much
        verdict = f"  more than {growth_max:.0%} above" if much else ""
        print(f"{name:<28} {before:>9_} {now[name]:>9_} {change:>+7.1%}{verdict}")
    if failed:
        print("hint: make it cheaper, or accept what it costs: .ci/run instructions --accept")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
