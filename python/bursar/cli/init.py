"""`bursar init`: writes a first policy file, with comments, that passes `bursar check`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bursar.cli import show

FIRST_POLICY = """\
# A policy for bursar: who may spend how many tokens, and over which span.
# After a change: bursar check {path}
policy: {name}

# The zone of calendar windows, and of the hours by which usage is kept.
time_zone: {zone}

# What is known of labels. tenant, team, user, feature, service, environment, session, agent,
# prompt, prompt_version and model_version are built in; any other must be declared here.
labels:
  tenant: {{missing: {{as: unattributed}}}}      # or deny, or skip; nothing said: (none)
  feature: {{missing: {{as: unattributed}}}}
  # priority: {{values: [interactive, batch], missing: {{as: interactive}}}}

# A reservation that nobody settles expires after ttl and is then charged its input.
reservations: {{ttl: 5m, unsettled: charge_input}}

limits:
  # No single request may be larger than this.
  - name: request-cap
    window: request
    amount: {{tokens: 128k}}

  # Each tenant, each minute.
  - name: tenant-minute
    scope: [tenant]
    window: {{fixed: 1m}}
    amount: {{tokens: 200k, requests: 600}}

  # Each feature's budget for a calendar month.
  - name: feature-month
    scope: [feature]
    window: {{calendar: month}}
    amount: {{tokens: 500M}}

  # At most so many calls of one tenant at one time.
  - name: in-flight
    scope: [tenant]
    amount: {{concurrency: 32}}

# What usage is kept by, for each hour.
rollups: [feature, tenant, model, component]
"""


@click.command("init")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="policy.yaml")
@click.option("--name", default="first", show_default=True, help="The policy's name.")
@click.option("--time-zone", default="UTC", show_default=True, help="An IANA time zone.")
@click.option(
    "--schema", is_flag=True,
    help="Write its JSON Schema beside it too, and name that in its first line, for editors.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Write over files that exist.")
@show.json_option
def command(
    file: Path, name: str, time_zone: str, *, schema: bool, force: bool, as_json: bool
) -> None:
    """Write a first policy file to FILE (policy.yaml if not named).

    With --schema, an editor that knows YAML (VS Code with the YAML extension, Neovim, JetBrains)
    completes its keys, says what each is for, and marks mistakes as they are made.

    \b
    Examples:
      bursar init
      bursar init --schema
      bursar init production.yaml --name production --time-zone Europe/Berlin
    """
    from bursar.errors import PolicyError
    from bursar.policy.parse import parse_source

    quoted = "'" + name.replace("'", "''") + "'" if not name.replace("-", "").isalnum() else name
    text = FIRST_POLICY.format(path=file, name=quoted, zone=time_zone)
    beside = file.with_suffix(".schema.json")
    written = {file: text}
    if schema:
        from bursar.cli.schema import schema_text

        written[file] = f"# yaml-language-server: $schema={beside.name}\n{text}"
        written[beside] = schema_text()
    try:
        parse_source(text.encode(), path=str(file))
    except PolicyError as error:
        wrong = error.mistakes[0]
        show.fail(show.EXIT_WRONG, f"{wrong.what} (got {wrong.got})", wrong.hint)
    for path in written:
        if path.exists() and not force:
            show.fail(show.EXIT_NO, f"{path} exists already", "name another file, or give --force")
    for path, content in written.items():
        _write(path, content, force=force)
    if as_json:
        show.print_json({"policy": str(file), "schema": str(beside) if schema else None})
    else:
        names = " and ".join(str(path) for path in written)
        show.say(f"wrote {names}; now: bursar serve --policy {file}")


def _write(path: Path, text: str, *, force: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(path, flags, 0o644), "w", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        show.fail(show.EXIT_NO, f"{path} exists already", "name another file, or give --force")
    except OSError as error:
        show.fail(show.EXIT_WRONG, f"{path} cannot be written: {error.strerror}")
