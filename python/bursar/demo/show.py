"""How the demo prints: a line for each decision as it happens, then tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta

from rich import box
from rich.table import Table
from rich.text import Text

from bursar.demo.check import Check, Sums
from bursar.demo.traffic import Result
from bursar.errors import Denied
from bursar.plain import literal
from bursar.v1 import quota_pb2

_STYLES = {"granted": "green", "cut": "yellow", "denied": "red", "undecided": "bold red"}


def line(result: Result) -> Text:
    """One decision and what came of it, in one line."""
    call = result.call
    asker = f"{call.number:4} {call.tenant or '(no tenant)':11} {call.feature:12} "
    text = Text(asker, no_wrap=True, overflow="ellipsis")
    text.append(f"{result.decision:9}", _STYLES[result.decision])
    if result.error:
        return text.append(literal(result.error), "bold red")
    if result.denied:
        return text.append(literal(_denial(result.denied)))
    model = result.model.rpartition("/")[2]
    fallback = " (fallback)" if result.model != call.models[0] else ""
    granted = f"{result.output_tokens_granted:3} output tokens of {model}{fallback}; "
    text.append(literal(granted))
    if result.ending == "released":
        return text.append("its provider refused the connection: released", "cyan")
    text.append(f"{result.ending}, {result.tokens_committed:,} tokens counted")
    return text


def _denial(denied: Denied) -> str:
    if not denied.shortfalls:
        return str(denied)
    slowest = denied.shortfalls[0]
    stands = slowest.standing
    others = {each.standing.limit for each in denied.shortfalls} - {stands.limit}
    said = f"{stands.limit}: {stands.remaining:,} of {stands.amount:,} left"
    said += f", {slowest.requested:,} needed"
    said += f" (and {', '.join(sorted(others))})" if others else ""
    wait = denied.retry_after
    return said + ("" if wait is None else f"; fits in {_span(wait)}")


def _span(wait: timedelta) -> str:
    whole = timedelta(seconds=round(wait.total_seconds()))
    return f"{wait.total_seconds():.1f} s" if wait < timedelta(minutes=1) else str(whole)


def standings(found: Iterable[quota_pb2.Standing]) -> Table:
    """Where each limit stands."""
    table = _table("Where the limits stand", ["limit", "unit", "scope"])
    _numbers(table, ["amount", "committed", "reserved", "remaining"])
    for each in found:
        unit = quota_pb2.Unit.Name(each.unit).removeprefix("UNIT_").lower()
        numbers = (each.amount, each.committed, each.reserved, each.remaining)
        scope = " ".join(each.scope.values()) or "everybody"
        table.add_row(each.limit, unit, scope, *(f"{number:,}" for number in numbers))
    return table


def usage(callers: Sums, books: Sums, ledger: Sums) -> Table:
    """Usage by feature, by each of those who counted it."""
    table = _table("Usage by feature", ["feature"])
    _numbers(table, ["calls", "tokens: the callers", "the books", "the ledger"])
    for feature in sorted({key[0] for key in (*callers, *books, *ledger)}):
        tokens = [_of(feature, sums)[0] for sums in (callers, books, ledger)]
        calls = _of(feature, books)[1]
        table.add_row(feature, f"{calls:,}", *(f"{number:,}" for number in tokens))
    return table


def _of(feature: str, sums: Sums) -> tuple[int, int]:
    found = [value for key, value in sums.items() if key[0] == feature]
    return sum(each[0] for each in found), sum(each[1] for each in found)


def verdict(check: Check, decisions: Counter[str]) -> Text:
    """What was compared, and whether it agrees."""
    text = Text()
    told = ", ".join(f"{count} {name}" for name, count in sorted(decisions.items()))
    text.append(f"Decisions: {told}.\n")
    figures = ", ".join(f"{count} of {what}" for what, count in check.compared.items())
    text.append(f"Compared with what the callers were told: {figures}.\n")
    for difference in check.differences:
        text.append(f"DIFFERS: {literal(difference)}\n", "bold red")
    if check.differences:
        return text.append(f"{len(check.differences)} figures differ.", "bold red")
    return text.append("Every figure agrees.", "bold green")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name)
    return table


def _numbers(table: Table, columns: Sequence[str]) -> None:
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
