"""How the bench prints: a table of ratios and absolute numbers, and the audit's verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bursar.plain import literal

_LONG_US = 1_000

_COLUMNS = (
    "in flight", "echo p50/p99 µs", "bursar p50/p99 µs", "p50 ratio", "p99 ratio", "echo /s",
    "bursar /s", "rate ratio",
)  # fmt: skip


def report(console: Console, facts: Mapping[str, Any], table: Table) -> None:
    """Prints everything on `console`; `table` is an empty one."""
    for name in ("over", "calls", "durability"):
        table.add_column(name, no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for cell in facts["cells"]:
        table.add_row(cell["transport"], cell["calls"], cell["durability"], *_numbers(cell))
    console.print(table)
    _legend(console, facts)
    _verdict(console, facts)


def _numbers(cell: Mapping[str, Any]) -> list[str]:
    echo, bursar = cell["echo"], cell["bursar"]
    connections = f" over {cell['connections']}" if cell["connections"] > 1 else ""
    return [
        f"{cell['in_flight']}{connections}",
        _half_and_tail(echo),
        _half_and_tail(bursar),
        _ratio(cell["p50_ratio"]),
        f"{cell['p99_ratio']['median']:.2f}",
        f"{echo['per_second']:,}",
        f"{bursar['per_second']:,}",
        _ratio(cell["rate_ratio"]),
    ]


def _half_and_tail(side: Mapping[str, float]) -> str:
    return "/".join(_digits(side[name]) for name in ("p50_us", "p99_us"))


def _digits(us: float) -> str:
    return f"{us:.1f}" if us < _LONG_US else f"{us:,.0f}"


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['greatest']:.2f})"


def _legend(console: Console, facts: Mapping[str, Any]) -> None:
    lines = [
        f"Placement: {facts['placement']}.",
        f"By turns, {facts['repeats']} rounds of {facts['span_ms']} ms of each server and row.",
        "A ratio is the median over the rounds, with the least and the greatest.",
        "4 labels; the bench's own policy has 3 limits, all of which apply.",
    ]
    if facts["fdatasync_us"] is not None:
        lines.append(
            f"At power, p50 and p99 are compared with the echo's plus one fdatasync of 4 KiB on "
            f"the same disk, here {facts['fdatasync_us']:,.1f} µs."
        )
    if any(cell["calls"] != "reserve" for cell in facts["cells"]):
        lines.append("reserve+commit is one of each; the Reserve is at process durability.")
    for line in lines:
        console.print(line)


def _verdict(console: Console, facts: Mapping[str, Any]) -> None:
    clients = facts["clients"]
    console.print()
    console.print(
        f"Clients were granted {clients['granted']:,} reservations of "
        f"{clients['tokens_granted']:,} tokens, committed {clients['committed']:,} with "
        f"{clients['tokens_committed']:,} tokens and released {clients['released']:,}."
    )
    if facts["audit"] is None:
        why = literal(facts["not_audited"])
        console.print(Text.assemble(("Not audited:", "bold yellow"), f" {why}"))
        return
    compared = ", ".join(f"{count} of {what}" for what, count in facts["audit"]["compared"].items())
    console.print(f"Figures compared with what the clients were told: {compared}.")
    for difference in facts["audit"]["differences"]:
        console.print(f"DIFFERS: {difference}", style="bold red")
    count = len(facts["audit"]["differences"])
    if count:
        console.print(f"{count} figures differ.", style="bold red")
    else:
        console.print("Every figure agrees.", style="bold green")
