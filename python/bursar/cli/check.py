"""`bursar check`: reads a policy file, names every mistake in it, and warns of what is odd."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli import show

if TYPE_CHECKING:
    from bursar.errors import Mistake
    from bursar.policy.parse import ParsedPolicy


@click.command("check")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--strict", is_flag=True, help="Take warnings for mistakes.")
@show.json_option
def command(file: Path, *, strict: bool, as_json: bool) -> None:
    """Check the policy FILE; exits 1 if it has mistakes, each named with its line.

    It also warns of what is allowed and hardly meant: a limit that matches nothing, has ended, or
    that another always forestalls; an override that never applies; a label that nothing uses; a
    policy without limits.
    Warnings go to stderr and change no exit code, unless --strict makes them mistakes.

    Exits 2 if FILE cannot be read, also where that is a bug of bursar's.

    \b
    Examples:
      bursar check policy.yaml
      bursar check policy.yaml --strict
      bursar check policy.yaml --json | jq '.mistakes[].line'
    """
    from bursar.errors import PolicyBug, PolicyError
    from bursar.policy.parse import bugs_told
    from bursar.policy.warn import warnings_of
    from bursar.sidecar import read_policy

    try:
        with bugs_told(file):
            parsed, _ = read_policy(file)
            warnings = warnings_of(parsed, now_unix_ms=time.time_ns() // 1_000_000)
    except PolicyBug as error:
        show.fail(show.EXIT_WRONG, str(error), several_lines=True)
    except PolicyError as error:
        _say_wrong(error.mistakes, as_json=as_json)
        raise SystemExit(show.EXIT_NO) from None
    if strict and warnings:
        _say_wrong(warnings, as_json=as_json)
        raise SystemExit(show.EXIT_NO)
    _say_right(file, parsed, warnings, as_json=as_json)


def _say_wrong(mistakes: Sequence[Mistake], *, as_json: bool) -> None:
    if as_json:
        found = [_plain(each) for each in mistakes]
        show.print_json({"ok": False, "mistakes": found, "warnings": []})
        return
    for each in mistakes:
        click.echo(str(each))  # a mistake has lines, and escapes what it quotes
    show.say(_counted(len(mistakes), "mistake"), err=True)


def _say_right(
    file: Path, parsed: ParsedPolicy, warnings: Sequence[Mistake], *, as_json: bool
) -> None:
    policy = parsed.policy
    if as_json:
        found = [_plain(each) for each in warnings]
        facts = {"name": policy.policy, "limits": len(policy.limits), "digest": parsed.digest.hex()}
        files = [str(each) for each in parsed.files]
        show.print_json({"ok": True, "mistakes": [], "warnings": found, **facts, "files": files})
        return
    for each in warnings:
        click.echo(f"warning: {each}", err=True)
    limits = _counted(len(policy.limits), "limit")
    others = len(parsed.files) - 1
    named = f" and {_counted(others, 'file')} it names" if others else ""
    show.say(
        f"{file}: policy {policy.policy} is right: {limits}{named}, sha256 {parsed.digest.hex()}"
    )
    if warnings:
        show.say(_counted(len(warnings), "warning"), err=True)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _plain(each: Mistake) -> dict[str, str | int]:
    """A mistake as JSON has it."""
    return {
        "path": each.path, "line": each.line, "column": each.column,
        "what": each.what, "got": each.got, "hint": each.hint,
    }  # fmt: skip
