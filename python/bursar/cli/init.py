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
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@show.json_option
def command(file: Path, name: str, time_zone: str, *, force: bool, as_json: bool) -> None:
    """Write a first policy file to FILE (policy.yaml if not named).

    \b
    Examples:
      bursar init
      bursar init production.yaml --name production --time-zone Europe/Berlin
    """
    from bursar.errors import PolicyError
    from bursar.policy.parse import parse_source

    quoted = "'" + name.replace("'", "''") + "'" if not name.replace("-", "").isalnum() else name
    text = FIRST_POLICY.format(path=file, name=quoted, zone=time_zone)
    try:
        parse_source(text.encode(), path=str(file))
    except PolicyError as error:
        wrong = error.mistakes[0]
        show.fail(show.EXIT_WRONG, f"{wrong.what} (got {wrong.got})", wrong.hint)
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(file, flags, 0o644), "w") as opened:
            opened.write(text)
    except FileExistsError:
        show.fail(show.EXIT_NO, f"{file} exists already", "name another file, or give --force")
    except OSError as error:
        show.fail(show.EXIT_WRONG, f"{file} cannot be written: {error.strerror}")
    if as_json:
        show.print_json({"policy": str(file)})
    else:
        click.echo(f"wrote {file}; now: bursar serve --policy {file}")
