"""`bursar check`: reads a policy file and names every mistake in it."""

from __future__ import annotations

from pathlib import Path

import click

from bursar.cli import show


@click.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@show.json_option
def command(file: Path, *, as_json: bool) -> None:
    """Check the policy FILE; exits 1 if it has mistakes, each named with its line.

    Exits 2 if FILE cannot be read.

    \b
    Examples:
      bursar check policy.yaml
      bursar check policy.yaml --json | jq '.mistakes[].line'
    """
    from bursar.errors import PolicyError
    from bursar.sidecar import read_policy

    try:
        parsed, _ = read_policy(file)
    except PolicyError as error:
        if as_json:
            found = [
                {"path": each.path, "line": each.line, "column": each.column, "what": each.what,
                 "got": each.got, "hint": each.hint}
                for each in error.mistakes
            ]  # fmt: skip
            show.print_json({"ok": False, "mistakes": found})
        else:
            for each in error.mistakes:
                click.echo(str(each))
            count = len(error.mistakes)
            click.echo(f"{count} mistake{'s' if count > 1 else ''}", err=True)
        raise SystemExit(show.EXIT_NO) from None
    policy = parsed.policy
    if as_json:
        facts = {"name": policy.policy, "limits": len(policy.limits), "digest": parsed.digest.hex()}
        show.print_json({"ok": True, "mistakes": [], **facts})
        return
    count = len(policy.limits)
    limits = f"{count} limit{'' if count == 1 else 's'}"
    click.echo(f"{file}: policy {policy.policy} is right: {limits}, sha256 {parsed.digest.hex()}")
