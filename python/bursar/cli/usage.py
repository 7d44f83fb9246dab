"""`bursar usage`: shows who used how much."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from bursar.cli import show
from bursar.cli.connection import DEADLINE_S, admin, admin_option
from bursar.cli.labels import label_map
from bursar.config import span_ms
from bursar.errors import SettingsError

if TYPE_CHECKING:
    from bursar.v1 import admin_pb2

_PAGE = 10_000
_SPLITS_CALLS = {"meter", "basis", "component"}


@click.command("usage")
@click.option(
    "--by", "-b", "group_by", multiple=True, metavar="NAME",
    help="A rollup label, hour, meter or basis; may be given again.  [default: feature]",
)  # fmt: skip
@click.option("--match", "-m", multiple=True, metavar="KEY=VALUE", help="Only usage of this label.")
@click.option("--from", "since", metavar="WHEN", help="From this instant, or so long ago: 24h, 7d.")
@click.option("--until", metavar="WHEN", help="Before this instant, or so long ago.")
@click.option("--total", is_flag=True, help="One row for everything, instead of --by.")
@click.option(
    "--rows", default=1_000, show_default=True, metavar="N", type=click.IntRange(1, 1_000_000),
    help="The most rows to show.",
)  # fmt: skip
@admin_option
@show.json_option
def command(  # noqa: PLR0917  click passes all of them by name
    group_by: Sequence[str], match: Sequence[str], since: str | None, until: str | None,
    rows: int, address: str, *, total: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show who used how much, summed over a span by some labels.

    Usage is kept by the hour: a span is widened to whole hours.

    \b
    Examples:
      bursar usage --by feature --by model --from 7d
      bursar usage --by hour --match tenant=acme --from 2026-11-01T00:00:00+01:00
      bursar usage --total --json
    """
    from bursar.v1 import admin_pb2

    if total and group_by:
        show.fail(show.EXIT_WRONG, "--total and --by exclude one another", "leave one out")
    names = [] if total else list(group_by) or ["feature"]
    request = admin_pb2.QueryUsageRequest(
        from_unix_ms=_instant(since, "--from"),
        until_unix_ms=_instant(until, "--until"),
        group_by=names,
        match=label_map(match, option="--match"),
        page_size=min(rows, _PAGE),
    )
    found: list[admin_pb2.UsageRow] = []
    with admin(address) as stub:
        while True:
            answer = stub.QueryUsage(request, timeout=DEADLINE_S)
            found += answer.rows
            request.page_token = answer.next_page_token
            if not answer.next_page_token or len(found) >= rows:
                break
    more = bool(answer.next_page_token) or len(found) > rows
    found = found[:rows]
    if as_json:
        plain: dict[str, Any] = {"rows": [show.as_plain(each) for each in found]}
        facts = {"through_sequence": answer.through_sequence, "time_zone": answer.time_zone}
        show.print_json({**plain, **facts, "more": more})
    else:
        _print(names, found, answer, more=more)


def _instant(text: str | None, option: str) -> int:
    """An instant in ms since 1970: RFC 3339, a date in this machine's zone, or so long ago."""
    if text is None:
        return 0
    try:
        span = timedelta(milliseconds=span_ms(text))
    except (SettingsError, OverflowError):
        span = None
    try:
        moment = datetime.fromisoformat(text) if span is None else datetime.now(UTC) - span
        # A year that the machine's zone cannot be told for is an error only here.
        return max(1, round(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        show.fail(
            show.EXIT_WRONG,
            f"{option} must be an instant or a span (got {text})",
            "write 2026-11-23, 2026-11-23T09:00:00Z, 24h or 7d",
        )


def _print(
    names: Sequence[str],
    found: Sequence[admin_pb2.UsageRow],
    answer: admin_pb2.QueryUsageResponse,
    *,
    more: bool,
) -> None:
    # Where the rows split calls, calls have no place in them.
    calls = not _SPLITS_CALLS.intersection(names)
    numbers = ["tokens", "input", "output", "assumed"]
    numbers += ["calls", "assumed calls", "overrun", "late", "latency"] if calls else []
    rows = show.table("", [*names, *numbers], numbers=numbers)
    for each in found:
        cells = [_named(each.group[name]) for name in names]
        sums = [each.tokens, each.input_tokens, each.output_tokens, each.assumed_tokens]
        if calls:
            sums += [each.calls, each.calls_assumed, each.calls_overrun, each.calls_late]
        cells += [show.amount(number) for number in sums]
        if calls:
            mean = each.latency_ms_sum // each.latency_calls if each.latency_calls else None
            cells.append(show.NOTHING if mean is None else f"{mean} ms")
        rows.add_row(*cells)
    if found:
        show.out().print(rows)
    more_rows = "; there are more, ask with --rows" if more else ""
    through = f"usage up to sequence {show.amount(answer.through_sequence)}"
    zone = f"; hours of {answer.time_zone}" if "hour" in names else ""
    nothing = "" if found else "nothing yet: "
    show.say(f"{nothing}{through}{zone}{more_rows}", err=True)


def _named(value: str) -> str:
    return value or "(none)"
