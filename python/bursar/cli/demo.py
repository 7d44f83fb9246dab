"""`bursar demo`: a sidecar, real traffic, and the report: a newcomer's first minute."""

from __future__ import annotations

import click

from bursar.cli import show

_WIDTH_PIPED = 120


@click.command("demo")
@show.json_option
def command(*, as_json: bool) -> None:
    """Run a sidecar with real traffic, kill it midway, and check every count.

    It takes half a minute at most and leaves nothing behind. Exits 0 only if what the callers were
    told, the limits, the books and the ledger all agree. With --json the decisions go to stderr.
    """
    from bursar.demo.run import run

    try:
        summary = run(show.out(stderr=as_json, width_piped=_WIDTH_PIPED))
    except (RuntimeError, OSError) as error:
        show.fail(show.EXIT_UNDECIDED, str(error), several_lines=True)
    if as_json:
        show.print_json(summary)
    if not summary["ok"]:
        raise SystemExit(show.EXIT_NO)
