"""`bursar commit`: settles a reservation with what was used, from a shell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Literal, cast, get_args

import click

from bursar.cli import show
from bursar.cli.labels import label_map
from bursar.cli.plane import DEADLINE_S, durability_option, plane, target_option

if TYPE_CHECKING:
    from bursar.providers import Line, Usage
    from bursar.v1 import quota_pb2

_Outcome = Literal["completed", "cancelled", "failed", "unknown"]


@click.command("commit")
@click.argument("reservation_id", metavar="ID")
@click.option(
    "-t",
    "--tokens",
    multiple=True,
    metavar="METER=N",
    help="Tokens of a meter: input, output, cache_read, reasoning, … May be given again. "
    "METER=N:COMPONENT:SOURCE says where they came from.",
)
@click.option(
    "--usage",
    type=click.File("rb"),
    metavar="FILE",
    help="The provider's answer, or its usage, as JSON in a file, or - for stdin.",
)
@click.option(
    "--outcome",
    type=click.Choice(get_args(_Outcome)),
    help="How the call ended.  [default: completed if there is usage, else unknown]",
)
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="A label to add.")
@durability_option
@target_option
@show.json_option
def command(
    *,
    reservation_id: str,
    tokens: Sequence[str],
    usage: BinaryIO | None,
    outcome: _Outcome | None,
    label: Sequence[str],
    durability: str | None,
    target: str,
    as_json: bool,
) -> None:
    """Settle the reservation ID with what the call used.

    Usage is counted whole, also when it is more than was reserved, or comes late. Repeating the
    same commit changes nothing.

    \b
    Examples:
      bursar commit $id -t input=812 -t output=97
      curl … | tee answer.json; bursar commit $id --usage answer.json
      bursar commit $id --outcome unknown        # the policy decides what is charged
    """
    from bursar.arguments import durability_to_wire, outcome_to_wire
    from bursar.steps import Send
    from bursar.v1 import quota_pb2

    if tokens and usage is not None:
        show.fail(show.EXIT_WRONG, "give --tokens or --usage, not both")
    with plane(target) as wire:
        used = _read(usage) if usage is not None else _lines(tokens)
        request = quota_pb2.CommitRequest(
            reservation_id=reservation_id,
            lines=[line.to_wire() for line in used.lines],
            outcome=outcome_to_wire(outcome or ("completed" if used.lines else "unknown")),
            model_version=used.model_version,
            response_id=used.response_id,
            total_tokens=used.total_tokens,
            labels=label_map(label, option="--label"),
            durability=durability_to_wire(durability),  # type: ignore[arg-type]  # click's choice
        )
        answer = cast("quota_pb2.CommitResponse", wire.perform(Send("Commit", request, DEADLINE_S)))
    if as_json:
        show.print_json(show.as_plain(answer))
    else:
        _print(answer)


def _print(answer: quota_pb2.CommitResponse) -> None:
    said = [f"committed {show.amount(answer.tokens_committed)} tokens"]
    if answer.tokens_overrun:
        said.append(f"{show.amount(answer.tokens_overrun)} more than were reserved")
    if answer.late:
        said.append("late: it had expired or been released")
    if answer.replayed:
        said.append("again: it was committed so before")
    show.say("; ".join(said))
    for advisory in answer.advisories:
        show.say(f"note: {advisory.text}", err=True)


def _lines(tokens: Sequence[str]) -> Usage:
    from bursar.providers import Usage

    return Usage(lines=tuple(_line(each) for each in tokens))


def _line(text: str) -> Line:
    from bursar.providers import Line, MeterName

    meter, _, rest = text.partition("=")
    count, _, place = rest.partition(":")
    component, _, source = place.partition(":")
    if not count.replace("_", "").isdecimal():
        hint = "write -t input=812, or -t input=812:retrieval:wiki"
        show.fail(show.EXIT_WRONG, f"--tokens must be METER=N (got {text})", hint)
    return Line(cast("MeterName", meter), int(count), component=component, source=source)


def _read(file: BinaryIO) -> Usage:
    from bursar.providers import read_usage

    try:
        answer = json.load(file)
    except ValueError as error:
        show.fail(show.EXIT_WRONG, f"--usage must be JSON ({file.name}: {error})")
    # No model is known here: what answered is taken for what was granted.
    return read_usage(answer, granted_model="")
