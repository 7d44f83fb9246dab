"""The command line: what commands there are; each is loaded from its own file when it is run."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path

import click

# The commands in the order in which a newcomer meets them, with what each is for.
_COMMANDS = {
    "demo": "Run a sidecar with real traffic and print what it decided.",
    "init": "Write a first policy file.",
    "check": "Check a policy file and name every mistake in it.",
    "schema": "Print the JSON Schema of policy files, for editors.",
    "serve": "Run a sidecar.",
    "settings": "List every setting of a sidecar.",
    "metrics": "List every metric of a sidecar.",
    "status": "Show what a running sidecar is and how it stands.",
    "limits": "Show where the limits of a running sidecar stand.",
    "usage": "Show who used how much.",
    "reservations": "Show which reservations are open, or all that happened to one.",
    "explain": "Say which limits a request meets, and what would be granted.",
    "watch": "Print what happens as it happens.",
    "reserve": "Set tokens aside before a call, from a shell.",
    "commit": "Settle a reservation with what was used.",
    "release": "Give a reservation back: the call did not run.",
    "count": "Count the tokens of a text for a model.",
    "bench": "Measure a sidecar beside a bare echo, and audit what it counted.",
}


class _Commands(click.Group):
    """Commands that are imported when they are run, so that `bursar --version` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads the command `cmd_name`, or None where there is none."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"bursar.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command; output that cannot be written is an error in a sentence."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads has had enough, which click knows
                raise
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  what is left goes nowhere
            click.echo(f"error: the output cannot be written: {error.strerror or error}", err=True)
            ctx.exit(3)
        else:
            return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without loading them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or names the one most like it."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            from bursar.plain import literal

            near = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_COMMANDS)}"
            raise click.UsageError(f"no command is called {literal(args[0])}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001  click's own signature
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"bursar {version('bursar')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Print the version.",
)  # fmt: skip
def main() -> None:
    """Budgets for model calls: reserve tokens before the call, settle after it.

    \b
    A first minute:
      bursar init                           writes policy.yaml
      bursar serve --policy policy.yaml     runs a sidecar
      bursar limits                         shows where its limits stand

    Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 the answer is no; 2 the
    question was wrong; 3 no sidecar could be asked.
    """
    # What gRPC logs of its own is for its authors; what goes wrong, we say ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
