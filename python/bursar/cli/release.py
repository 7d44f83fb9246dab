"""`bursar release`: gives a reservation back because the call did not run, from a shell."""

from __future__ import annotations

from typing import cast

import click

from bursar.cli import show
from bursar.cli.plane import DEADLINE_S, durability_option, plane, target_option


@click.command("release")
@click.argument("reservation_id", metavar="ID")
@click.option("--reason", default="", metavar="TEXT", help="Why the call did not run.")
@durability_option
@target_option
@show.json_option
def command(
    reservation_id: str, reason: str, durability: str | None, target: str, *, as_json: bool
) -> None:
    """Give the reservation ID back; only where the call is known not to have run.

    A call that may have run is committed, if need be with `--outcome unknown`.

    \b
    Examples:
      bursar release $id --reason "the answer was cached"
    """
    from bursar.arguments import durability_to_wire
    from bursar.steps import Send
    from bursar.v1 import quota_pb2

    request = quota_pb2.ReleaseRequest(
        reservation_id=reservation_id,
        reason=reason,
        durability=durability_to_wire(durability),  # type: ignore[arg-type]  # click's choice
    )
    with plane(target) as wire:
        answer = cast(
            "quota_pb2.ReleaseResponse", wire.perform(Send("Release", request, DEADLINE_S))
        )
    if as_json:
        show.print_json(show.as_plain(answer))
        return
    again = "; again: it was released so before" if answer.replayed else ""
    show.say(f"released {show.amount(answer.tokens_released)} tokens{again}")
