"""`bursar watch`: prints what happens as it happens, over restarts of the sidecar too."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import cast

import click
import grpc

from bursar.cli import show
from bursar.cli.connection import admin, admin_option
from bursar.cli.events import KINDS, in_a_line, kind_number
from bursar.cli.labels import label_map
from bursar.v1 import admin_pb2

_PAUSE_S = 1.0


@click.command("watch")
@click.option(
    "-k",
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    help="Only events of this kind. May be given again.",
)
@click.option(
    "-l",
    "--label",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only events with this label, or model, provider or service_tier.",
)
@click.option(
    "--after", type=click.IntRange(min=0), metavar="SEQUENCE",
    help="Begin after this entry of the ledger, 0 for all of it.  [default: now]",
)  # fmt: skip
@admin_option
@show.json_option
def command(
    *,
    kinds: Sequence[str],
    label: Sequence[str],
    after: int | None,
    address: str,
    as_json: bool,
) -> None:
    """Print what happens as it happens, until Ctrl-C: entries of the ledger, and denials.

    Each entry is printed once, also when the sidecar restarts meanwhile; denials leave no entry,
    so those that come while nobody watches are not seen. With --json, one JSON object a line.

    \b
    Examples:
      bursar watch --kind denied
      bursar watch --label tenant=acme --json | jq -r .model
      bursar watch --after 0 --kind committed --json > usage.jsonl
    """
    asked = admin_pb2.WatchEventsRequest(
        labels=label_map(label, option="--label"),
        kinds=[kind_number(each) for each in kinds],
    )
    if after is not None:
        asked.after_sequence = after
    try:
        for event in _again_and_again(address, asked):
            if as_json:
                click.echo(json.dumps(show.as_plain(event)))
            else:
                show.say(in_a_line(event))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _again_and_again(
    address: str, asked: admin_pb2.WatchEventsRequest
) -> Iterator[admin_pb2.Event]:
    """Every event, going on after a sidecar that went away has come back."""
    seen = False
    while True:
        with admin(address) as stub:
            try:
                for message in stub.WatchEvents(asked, wait_for_ready=seen):
                    seen = True
                    yield from message.events
                    if message.denials_dropped:
                        dropped = show.amount(message.denials_dropped)
                        show.say(f"{dropped} denials came too fast to be shown", err=True)
                    asked.after_sequence = message.through_sequence
            except grpc.RpcError as error:
                # One that was never reached is an address to be put right, not to be waited for.
                if not seen or cast("grpc.Call", error).code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            show.say("the sidecar has gone; watching goes on when it is back", err=True)
        time.sleep(_PAUSE_S)
