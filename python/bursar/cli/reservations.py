"""`bursar reservations`: shows what holds a budget, or all that happened to one reservation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bursar.cli import show
from bursar.cli.asking import span_s
from bursar.cli.connection import DEADLINE_S, admin, admin_option, check_limit
from bursar.cli.events import change, in_a_line
from bursar.cli.labels import label_map

if TYPE_CHECKING:
    from bursar.v1 import admin_pb2

_PAGE = 1_000


@click.command("reservations")
@click.argument("reservation_id", metavar="[ID]", default="")
@click.option("--limit", default="", metavar="NAME", help="Only those that hold some of it.")
@click.option("--older-than", metavar="SPAN", help="Only those granted so long ago: 5m.")
@click.option(
    "-l",
    "--label",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those with this label, or model, provider or service_tier.",
)
@click.option(
    "--rows", default=100, show_default=True, metavar="N", type=click.IntRange(1, 1_000_000),
    help="The most rows to show.",
)  # fmt: skip
@admin_option
@show.json_option
def command(
    *,
    reservation_id: str,
    limit: str,
    older_than: str | None,
    label: Sequence[str],
    rows: int,
    address: str,
    as_json: bool,
) -> None:
    """Show open reservations, those that expire first first; of ID, all that happened to it.

    An ID is known while it is open and as long as the sidecar remembers it afterwards.

    \b
    Examples:
      bursar reservations --limit tenant-month --label tenant=acme     # what holds the budget?
      bursar reservations --older-than 5m                              # what leaks?
      bursar reservations 01a20ff3-7b0d-7c59-a7f4-6f1d3c1f1a55
    """
    if reservation_id:
        _show_one(reservation_id, address, as_json=as_json)
        return
    from bursar.v1 import admin_pb2

    older_than_s = span_s(older_than, "--older-than") or 0.0
    asked = admin_pb2.ListReservationsRequest(
        labels=label_map(label, option="--label"),
        limit=limit,
        older_than_ms=round(older_than_s * 1000),
    )
    found: list[admin_pb2.Reservation] = []
    with admin(address) as stub:
        while True:
            asked.page_size = min(_PAGE, rows - len(found))
            answer = stub.ListReservations(asked, timeout=DEADLINE_S)
            found += answer.reservations
            asked.page_token = answer.next_page_token
            if not answer.next_page_token or len(found) >= rows:
                break
        if limit and not found:
            check_limit(limit, stub)
    more = bool(answer.next_page_token)
    if as_json:
        plain: dict[str, Any] = {"reservations": [show.as_plain(each) for each in found]}
        show.print_json({**plain, "sequence": answer.sequence, "more": more})
    else:
        _print(found, answer.sequence, more=more)


def _print(found: Sequence[admin_pb2.Reservation], sequence: int, *, more: bool) -> None:
    columns = ["id", "open for", "expires in", "tokens", "model", "labels", "holds"]
    rows = show.table("", columns, numbers=["open for", "expires in", "tokens"])
    rows.columns[0].no_wrap = True  # an id is there to be copied
    now_unix_ms = time.time_ns() // 1_000_000
    for each in found:
        rows.add_row(
            each.reservation_id,
            show.duration(now_unix_ms - each.reserved_at_unix_ms),
            show.duration(each.expires_at_unix_ms - now_unix_ms),
            show.amount(each.tokens_reserved),
            each.model,
            show.labels(each.labels) or show.NOTHING,
            ", ".join(dict.fromkeys(hold.limit for hold in each.holds)) or show.NOTHING,
        )
    if found:
        show.out().print(rows)
    more_rows = "; there are more, ask with --rows" if more else ""
    count = f"{len(found)} reservation{'' if len(found) == 1 else 's'}"
    show.say(f"{count} open at sequence {show.amount(sequence)}{more_rows}", err=True)


def _show_one(reservation_id: str, address: str, *, as_json: bool) -> None:
    from bursar.v1 import admin_pb2

    with admin(address) as stub:
        asked = admin_pb2.GetReservationRequest(reservation_id=reservation_id)
        answer = stub.GetReservation(asked, timeout=DEADLINE_S)
    if as_json:
        show.print_json(show.as_plain(answer))
        return
    one = answer.reservation
    state = show.word(admin_pb2.Reservation.DESCRIPTOR.fields_by_name["state"], one.state)
    reserved, committed = show.amount(one.tokens_reserved), show.amount(one.tokens_committed)
    show.say(f"{one.reservation_id}: {state}")
    show.say(f"  {one.model}  {show.labels(one.labels)}".rstrip())
    show.say(f"  reserved {reserved} tokens, used {committed}; policy {one.policy_version}")
    for entry in answer.entries:
        show.say(f"{show.amount(entry.sequence):>9}  {in_a_line(entry)}")
        for each in entry.changes:
            show.say(f"           {change(each)}")
