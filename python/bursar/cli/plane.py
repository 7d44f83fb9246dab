"""The way of a command to a sidecar's data plane, and the words for what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from bursar.cli import show
from bursar.errors import BursarError, Denied, Undecided

if TYPE_CHECKING:
    from bursar.connection import Wire

DEADLINE_S = 10.0
"""How long a command waits for an answer."""

target_option = click.option(
    "--target", default="", metavar="ADDRESS", show_default=False,
    help="Where the sidecar's data plane answers: unix:PATH or HOST:PORT.  [default: what "
    "BURSAR_SOCKET or BURSAR_LISTEN says, else 127.0.0.1:7420]",
)  # fmt: skip
"""The option of every command that reserves or settles."""

durability_option = click.option(
    "--durability", type=click.Choice(["process", "power"]),
    help="What the answer survives: the process's death, or a loss of power.",
)  # fmt: skip
"""The option of every command that changes something."""

_TARGET_DEFAULT = "127.0.0.1:7420"
_HINT = "start one with `bursar serve`, or name its address with --target"


def find_target(said: str) -> str:
    """The data plane's address: as said, or by the environment, or where `serve` listens."""
    from bursar import connection

    try:
        return connection.find_target(said, default=_TARGET_DEFAULT)
    except BursarError as error:
        _refused(error)


def check_heard(target: str) -> None:
    """Ends the command at once where nobody listens: gRPC would wait for somebody to begin."""
    import socket

    from bursar.connection import socket_path

    path = socket_path(target)
    host, _, port = target.rpartition(":")
    try:
        if path is not None:
            with socket.socket(socket.AF_UNIX) as tried:
                tried.connect(str(path))
        elif ":" not in host or host.startswith("["):  # else gRPC's own way to write a target
            socket.create_connection((host.strip("[]"), int(port)), timeout=DEADLINE_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        show.fail(show.EXIT_UNDECIDED, f"no sidecar answers at {target}: {why}", _HINT)


@contextmanager
def plane(said: str) -> Iterator[Wire]:
    """A connection to the data plane; what goes wrong on it ends the command."""
    from bursar.connection import Wire

    target = find_target(said)
    check_heard(target)
    with words_of(target):
        wire = Wire(target)
        try:
            yield wire
        finally:
            wire.close()


@contextmanager
def words_of(target: str) -> Iterator[None]:
    """Ends the command with what the sidecar at `target` says no to, or does not say."""
    try:
        yield
    except Denied:
        raise
    except Undecided as error:
        said = f"no decision from {target}: {error}" if error.reason else str(error)
        show.fail(show.EXIT_UNDECIDED, said, _HINT)
    except BursarError as error:
        _refused(error)


def _refused(error: BursarError) -> NoReturn:
    named = f" ({error.reason})" if error.reason else ""
    show.fail(show.EXIT_WRONG, f"{error}{named}")
