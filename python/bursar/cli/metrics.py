"""`bursar metrics`: every metric of a sidecar, as the code has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bursar.cli import show

if TYPE_CHECKING:
    from bursar.admin.metrics import Family


@click.command("metrics")
@click.option("--markdown", is_flag=True, help="Print a Markdown table, for documents.")
@show.json_option
def command(*, markdown: bool, as_json: bool) -> None:
    """List every metric that a sidecar has on /metrics: its name, type, labels and meaning.

    No caller's text becomes a label: `limit` has the names of the policy's limits, `label` the
    keys that usage is kept by, and all others have the values that the program knows.

    \b
    Examples:
      bursar metrics
      curl -s http://127.0.0.1:7422/metrics      # their values
    """
    if markdown and as_json:
        show.fail(show.EXIT_WRONG, "--markdown and --json exclude one another", "give one")
    found = _families()
    columns = ("name", "type", "labels", "meaning")
    rows = [(each.name, each.kind, each.labels, each.meaning) for each in found]
    if as_json:
        show.print_json({"metrics": [dict(zip(columns, row, strict=True)) for row in rows]})
    elif markdown:
        show.markdown(columns, [(f"`{name}`", *rest) for name, *rest in rows])
    else:
        table = show.table("", columns)
        for row in rows:
            table.add_row(*row)
        show.out().print(table)


def _families() -> list[Family]:
    """Those of the data plane and then those of the control plane."""
    from bursar import _core
    from bursar.admin.metrics import Family, families

    return [Family(*each) for each in _core.metric_families()] + families()
