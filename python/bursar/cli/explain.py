"""`bursar explain`: says which limits a request meets, which one decides, and what is granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import click
from rich.text import Text

from bursar.cli import show
from bursar.cli.asking import Asked, arguments, asked_options
from bursar.cli.connection import DEADLINE_S, admin, admin_option
from bursar.cli.decision import print_denial, print_grant
from bursar.errors import InvalidRequest
from bursar.plain import literal

if TYPE_CHECKING:
    from bursar.v1 import admin_pb2


@click.command("explain")
@click.argument("reservation_id", metavar="[ID]", default="")
@asked_options
@admin_option
@show.json_option
def command(*, reservation_id: str, address: str, as_json: bool, **asked: Unpack[Asked]) -> None:
    """Say what every limit says to a request, and what Reserve would answer now.

    With the ID of a reservation, open or still remembered: which limits it took how much of.
    Nothing is reserved. Exits 1 if the request would be denied.

    \b
    Examples:
      bursar explain --model openai/gpt-4.1-mini -l tenant=acme --input-tokens 812 --output-tokens-max 400
      bursar explain 01a20ff3-7b0d-7c59-a7f4-6f1d3c1f1a55
    """  # noqa: E501  an example is one line
    from bursar.v1 import admin_pb2

    question = admin_pb2.ExplainRequest(reservation_id=reservation_id)
    if not reservation_id:
        question = _hypothetical(asked)
    elif asked["model"]:
        show.fail(show.EXIT_WRONG, "give an ID or a request, not both")
    with admin(address) as stub:
        answer = stub.Explain(question, timeout=DEADLINE_S)
    if as_json:
        show.print_json(show.as_plain(answer))
    else:
        _print(answer, dry_run=not reservation_id)
    if answer.answer.HasField("denial"):
        raise SystemExit(show.EXIT_NO)


def _hypothetical(asked: Asked) -> admin_pb2.ExplainRequest:
    from bursar.questions import reserve_request
    from bursar.v1 import admin_pb2

    said = arguments(asked)
    try:
        request = reserve_request(**said, reservation_id="")
    except InvalidRequest as error:
        show.fail(show.EXIT_WRONG, str(error))
    return admin_pb2.ExplainRequest(request=request)


def _print(answer: admin_pb2.ExplainResponse, *, dry_run: bool) -> None:
    from bursar.v1 import admin_pb2

    labels = f" with {show.labels(answer.labels)}" if answer.labels else ""
    version = answer.answer.policy_version
    show.say(f"policy {answer.policy_name}, version {version}{labels}", err=True)
    took = "asked" if dry_run else "took"
    columns = ["", "limit", "unit", "scope", took, "remaining", "amount", "output that fits"]
    rows = show.table("", columns, numbers=columns[4:])
    unit = admin_pb2.ExplainedLimit.DESCRIPTOR.fields_by_name["unit"]
    for each in answer.limits:
        word = show.word(unit, each.unit)
        if not each.applies:
            rows.add_row("", each.limit, word, Text(literal(each.why_not), "dim"))
            continue
        at = each.standing if each.HasField("standing") else None
        unlimited = at is not None and at.unlimited
        rows.add_row(
            _mark(each),
            each.limit,
            word,
            (show.labels(at.scope) if at else "") or show.NOTHING,
            show.amount(each.requested),
            "unlimited" if unlimited else show.amount(at.remaining) if at else show.NOTHING,
            "unlimited" if unlimited else show.amount(at.amount) if at else show.NOTHING,
            show.amount(each.output_tokens_fit) if each.HasField("output_tokens_fit") else "",
        )
    if answer.limits:
        show.out().print(rows)
    decided = answer.answer
    if decided.HasField("denial"):
        print_denial(decided.denial)
    else:
        print_grant(decided.grant, dry_run=dry_run, replayed=not dry_run)


def _mark(each: admin_pb2.ExplainedLimit) -> Text:
    if each.refuses:
        return Text("refuses, decides" if each.binds else "refuses", "red")
    return Text("decides" if each.binds else "", "yellow")
