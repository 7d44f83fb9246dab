"""`bursar reserve`: sets tokens aside for one call, from a shell."""

from __future__ import annotations

from typing import Unpack

import click

from bursar.cli import show
from bursar.cli.asking import Asked, arguments, asked_options, span_s
from bursar.cli.decision import print_denial, print_grant
from bursar.cli.plane import (
    check_heard,
    durability_option,
    find_target,
    target_option,
    words_of,
)


@click.command("reserve")
@asked_options
@click.option("--id", "named", metavar="ID", help="The reservation's id.  [default: a UUIDv7]")
@click.option("--ttl", metavar="SPAN", help="How long it stays open.  [default: the policy's]")
@click.option("--wait", metavar="SPAN", help="Try a denial again for so long, such as 10s.")
@click.option("--dry-run", is_flag=True, help="Decide and change nothing.")
@durability_option
@target_option
@click.option("-q", "--quiet", is_flag=True, help="Print the id only.")
@show.json_option
def command(
    *,
    named: str | None,
    ttl: str | None,
    wait: str | None,
    dry_run: bool,
    durability: str | None,
    target: str,
    quiet: bool,
    as_json: bool,
    **asked: Unpack[Asked],
) -> None:
    """Set tokens aside before a call; exits 1 if it is denied.

    Settle it with `bursar commit` or `bursar release`, or it expires.

    \b
    Examples:
      bursar reserve --model openai/gpt-4.1-mini -l tenant=acme --input-tokens 812 --output-tokens-max 400
      id=$(bursar reserve --model openai/gpt-4.1-mini --file prompt.txt --output-tokens-max 400 -q)
      bursar reserve --model openai/gpt-4.1-mini --input-tokens 9000 --dry-run --json
    """  # noqa: E501  an example is one line
    from bursar.client import Client
    from bursar.errors import Denied

    said = arguments(asked)
    ttl_s, wait_s = span_s(ttl, "--ttl"), span_s(wait, "--wait")
    address = find_target(target)
    check_heard(address)
    try:
        with (
            words_of(address),
            Client(address, on_undecided="deny", timeout=5.0) as client,
        ):
            reservation = client.reserve(
                **said,
                reservation_id=named,
                ttl=ttl_s,
                wait=wait_s,
                dry_run=dry_run,
                durability=durability,  # type: ignore[arg-type]  # click has checked it
            )
    except Denied as denied:
        if as_json:
            show.print_json({"outcome": "denied", **show.as_plain(denied.denial)})
        elif not quiet:
            print_denial(denied.denial)
        raise SystemExit(show.EXIT_NO) from None
    if quiet:
        click.echo(reservation.reservation_id)
    elif as_json:
        facts = {"outcome": "granted", "replayed": reservation.replayed, "dry_run": dry_run}
        show.print_json({**facts, **show.as_plain(reservation.grant)})
    else:
        print_grant(reservation.grant, dry_run=dry_run, replayed=reservation.replayed)
