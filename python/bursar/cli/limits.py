"""`bursar limits`: shows where the limits of a running sidecar stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from bursar.cli import show
from bursar.cli.connection import DEADLINE_S, admin, admin_option, check_limit
from bursar.cli.labels import label_map

if TYPE_CHECKING:
    from bursar.v1 import quota_pb2

_PAGE = 1_000
_BAR = 10
_HIGH, _FULL = 0.8, 1.0


@click.command("limits")
@click.argument("limit", default="")
@click.option("--scope", "-s", multiple=True, metavar="KEY=VALUE", help="Only these scope values.")
@click.option(
    "--rows", default=100, show_default=True, metavar="N", type=click.IntRange(1, 100_000),
    help="The most rows to show.",
)  # fmt: skip
@admin_option
@show.json_option
def command(limit: str, scope: Sequence[str], rows: int, address: str, *, as_json: bool) -> None:
    """Show where live counters stand, of LIMIT or of every limit.

    A limit that has not been met yet in its window has no counter, so it is not listed.

    \b
    Examples:
      bursar limits
      bursar limits tenant-minute --scope tenant=acme
      bursar limits --json | jq '.standings[] | select(.remaining == 0)'
    """
    from bursar.v1 import admin_pb2

    wanted = label_map(scope, option="--scope")
    standings: list[quota_pb2.Standing] = []
    token, sequence = "", 0
    with admin(address) as stub:
        while len(standings) < rows:
            request = admin_pb2.ListStandingsRequest(
                limit=limit,
                scope=wanted,
                page_size=min(_PAGE, rows - len(standings)),
                page_token=token,
            )
            answer = stub.ListStandings(request, timeout=DEADLINE_S)
            standings += answer.standings
            token, sequence = answer.next_page_token, answer.sequence
            if not token:
                break
        if limit and not standings:
            check_limit(limit, stub)
    if as_json:
        plain: dict[str, Any] = {"standings": [show.as_plain(each) for each in standings]}
        show.print_json({**plain, "sequence": sequence, "more": bool(token)})
    else:
        _print(standings)
        count = _counted(len(standings), limit, wanted)
        more_rows = "; there are more, ask with --rows" if token else ""
        show.say(f"{count} at sequence {show.amount(sequence)}{more_rows}", err=True)


def _counted(count: int, limit: str, scope: Mapping[str, str]) -> str:
    if limit and not count:
        of_scope = f" of {show.labels(scope)}" if scope else ""
        return f"limit {limit} has no counter{of_scope} yet"
    return f"{count} counter{'' if count == 1 else 's'}"


def _print(standings: Sequence[quota_pb2.Standing]) -> None:
    from bursar.v1 import quota_pb2

    unit = quota_pb2.Standing.DESCRIPTOR.fields_by_name["unit"]
    columns = ["limit", "scope", "unit", "used", "", "committed", "reserved", "remaining",
               "amount", "window ends"]  # fmt: skip
    numbers = ["used", "committed", "reserved", "remaining", "amount"]
    rows = show.table("", columns, numbers=numbers)
    for each in standings:
        share = (each.committed + each.reserved) / each.amount if each.amount else _FULL
        remaining, amount = show.amount(each.remaining), show.amount(each.amount)
        if each.unlimited:
            share, remaining, amount = 0.0, "unlimited", "unlimited"
        colour = "red" if share >= _FULL else "yellow" if share >= _HIGH else "green"
        ends = each.HasField("window_end_unix_ms")
        rows.add_row(
            each.limit,
            show.labels(each.scope) or show.NOTHING,
            show.word(unit, each.unit),
            f"{share:.0%}",
            Text(f"{'█' * min(_BAR, round(share * _BAR)):░<{_BAR}}", colour),
            show.amount(each.committed),
            show.amount(each.reserved),
            remaining,
            amount,
            show.instant(each.window_end_unix_ms) if ends else show.NOTHING,
        )
    if standings:
        show.out().print(rows)
