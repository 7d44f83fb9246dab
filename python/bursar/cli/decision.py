"""How commands show a decision: a grant with what it holds, or a denial with what refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bursar.cli import show
from bursar.plain import literal

if TYPE_CHECKING:
    from bursar.v1 import quota_pb2


def print_grant(grant: quota_pb2.Grant, *, dry_run: bool, replayed: bool) -> None:
    """Prints a grant, its id first."""
    from bursar.v1 import quota_pb2

    state = quota_pb2.Grant.DESCRIPTOR.fields_by_name["state"]
    what = "would be granted" if dry_run else "granted"
    named = "" if dry_run else f" {grant.reservation_id}"
    again = f" before; it is {show.word(state, grant.state)}" if replayed else ""
    facts = [
        ("model", grant.model),
        ("input", f"{show.amount(grant.input_tokens)} tokens, {_counted(grant)}"),
        ("output", f"at most {show.amount(grant.output_tokens_granted)} tokens a choice"),
        ("reserved", f"{show.amount(grant.tokens_reserved)} tokens"),
    ]  # fmt: skip
    if not dry_run:
        expires = show.instant(grant.expires_at_unix_ms)
        facts.append(("expires", f"in {show.duration(grant.expires_in_ms)}, {expires}"))
    if grant.HasField("tightest"):
        facts.append(("tightest", standing(grant.tightest)))
    facts += [("note", advisory.text) for advisory in grant.advisories]
    show.out().print(Text.assemble((what, "green"), literal(f"{named}{again}")))
    _print_facts(facts)


def _counted(grant: quota_pb2.Grant) -> str:
    from bursar.v1 import quota_pb2

    counted = grant.counted_by
    method = quota_pb2.CountedBy.DESCRIPTOR.fields_by_name["method"]
    by = f" by {counted.tokenizer}" if counted.tokenizer else ""
    return f"{show.word(method, counted.method)}{by}"


def standing(one: quota_pb2.Standing) -> str:
    """Where a limit stands, in a line."""
    scope = show.labels(one.scope)
    where = f"{one.limit} {scope}" if scope else one.limit
    if one.unlimited:
        return f"{where}: unlimited"
    from bursar.v1 import quota_pb2

    unit = show.word(quota_pb2.Standing.DESCRIPTOR.fields_by_name["unit"], one.unit)
    return f"{where}: {show.amount(one.remaining)} of {show.amount(one.amount)} {unit} remain"


def print_denial(denial: quota_pb2.Denial) -> None:
    """Prints a denial: every limit that refused, the slowest to clear first."""
    from bursar.v1 import quota_pb2

    reason = quota_pb2.Denial.DESCRIPTOR.fields_by_name["reason"]
    unit = quota_pb2.Standing.DESCRIPTOR.fields_by_name["unit"]
    why = show.word(reason, denial.reason)
    show.out().print(Text.assemble(("denied", "red"), f": {why}"))
    columns = ["limit", "scope", "unit", "asked", "remaining", "amount", "fits again"]
    rows = show.table("", columns, numbers=["asked", "remaining", "amount"])
    for each in denial.shortfalls:
        at = each.standing
        rows.add_row(
            at.limit,
            show.labels(at.scope) or show.NOTHING,
            show.word(unit, at.unit),
            show.amount(each.requested),
            show.amount(at.remaining),
            show.amount(at.amount),
            _fits_again(each),
        )
    if denial.shortfalls:
        show.out().print(rows)
    if denial.hint:
        show.say(f"hint: {denial.hint}", err=True)


def _fits_again(shortfall: quota_pb2.Shortfall) -> str:
    parts = []
    if shortfall.HasField("retry_after_ms"):
        parts.append(f"in {show.duration(shortfall.retry_after_ms)}")
    if shortfall.clears_on_settle:
        parts.append("when another call settles")
    return " or ".join(parts) or "never by itself"


def _print_facts(facts: list[tuple[str, str]]) -> None:
    rows = show.table("", ["", ""])
    rows.show_header = False
    for name, value in facts:
        rows.add_row(name, value)
    show.out().print(rows)
