"""`bursar settings`: every setting of a sidecar, as the code has it."""

from __future__ import annotations

import click

from bursar.cli import show
from bursar.config import Setting, all_settings


@click.command("settings")
@click.option("--markdown", is_flag=True, help="Print a Markdown table, for documents.")
@show.json_option
def command(*, markdown: bool, as_json: bool) -> None:
    """List every setting of `bursar serve`: its option, environment variable, default and meaning.

    An option wins over the environment variable, and that over the default.

    \b
    Examples:
      bursar settings
      bursar settings --json | jq -r '.settings[].environment'
    """
    if markdown and as_json:
        show.fail(show.EXIT_WRONG, "--markdown and --json exclude one another", "give one")
    settings = all_settings()
    if as_json:
        show.print_json({"settings": [_plain(each) for each in settings]})
    elif markdown:
        rows = [
            (f"`{each.option}`", f"`{each.environment}`", each.shown, each.meaning)
            for each in settings
        ]
        show.markdown(("option", "environment", "default", "meaning"), rows)
    else:
        table = show.table("", ("option", "environment", "default", "meaning"))
        for each in settings:
            table.add_row(each.option, each.environment, each.shown, each.meaning)
        show.out().print(table)


def _plain(setting: Setting) -> dict[str, str | bool | None]:
    """A setting as JSON has it; one that is required has no default."""
    return {
        "option": setting.option,
        "environment": setting.environment,
        "default": None if setting.required else setting.shown,
        "required": setting.required,
        "meaning": setting.meaning,
    }
