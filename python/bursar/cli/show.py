"""How commands show what they found: tables for people, JSON for programs, errors for both."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import click
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bursar.plain import literal

EXIT_NO = 1
EXIT_WRONG = 2
EXIT_UNDECIDED = 3

_WIDTH_PIPED = 160
_TABLE_WIDTH_MAX = 200
_UNITS_MS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))
_KIB = 1024

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
"""The option that every command has."""

NOTHING = "-"
"""What a table shows where there is nothing to show."""


class _PlainConsole(Console):
    """A console on which every string is shown as it is, in a table too.

    Markup would let a label's value end a command or hide itself, so what has a style is a Text.
    """

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  rich's own options
        """Makes of a string what is printed of it."""
        return super().render_str(literal(text), **{**options, "markup": False, "emoji": False})

    def print(self, *shown: Any, **options: Any) -> None:  # noqa: ANN401  rich's own options
        """Prints; a table that is wider than the terminal keeps its columns, and is wrapped."""
        tables = [each for each in shown if isinstance(each, Table)]
        if tables:
            free = self.options.update(max_width=_TABLE_WIDTH_MAX)
            wanted = max(self.measure(each, options=free).maximum for each in tables)
            self.width = max(self.width, wanted)
        super().print(*shown, **options)


def out(*, stderr: bool = False, width_piped: int = _WIDTH_PIPED) -> Console:
    """The console for data: as wide as the terminal, or wide enough for a file."""
    there = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if there else width_piped
    return _PlainConsole(stderr=stderr, highlight=False, soft_wrap=False, width=width)


def say(line: str, *, err: bool = False) -> None:
    """Prints one line for a person, whatever the texts in it hold."""
    click.echo(literal(line), err=err)


def fail(code: int, message: str, hint: str = "", *, several_lines: bool = False) -> NoReturn:
    """Says on stderr what was wrong and what to do, and ends the command with an exit code.

    Only with `several_lines` do line ends of the message end lines: then they are ours.
    """
    lines = message.split("\n") if several_lines else [message]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), "\n".join(map(literal, lines))))
    if hint:
        console.print(Text.assemble(("hint: ", "bold cyan"), literal(hint)))
    sys.exit(code)


def print_json(value: object) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def table(title: str, columns: Sequence[str], *, numbers: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are set to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in columns:
        right = name in numbers
        made.add_column(name, justify="right" if right else "left", no_wrap=right)
    return made


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table, for documents."""
    click.echo(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        click.echo(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")


def as_plain(message: Message) -> dict[str, Any]:
    """A message as plain values: enums as their words, what is absent as None."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:  # noqa: ANN401  a descriptor, and any JSON value
    value = getattr(message, field.name)
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_scalar(field, each) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _scalar(field, value)


def _scalar(field: Any, value: Any) -> Any:  # noqa: ANN401
    if field.message_type is not None:
        return as_plain(value)
    if field.enum_type is not None:
        return word(field, value)
    return value.decode() if isinstance(value, bytes) else value


def word(field: Any, number: int) -> str:  # noqa: ANN401
    """An enum's value as a word: UNIT_TOKENS is `tokens`."""
    names = field.enum_type.values_by_number
    if number not in names:
        return str(number)
    first: str = names[0].name
    name: str = names[number].name
    return name.removeprefix(first.removesuffix("UNSPECIFIED")).lower()


def labels(values: Mapping[str, str]) -> str:
    """Labels for a person: `tenant=acme feature=chat`."""
    return " ".join(f"{key}={value}" for key, value in sorted(values.items()))


def amount(number: int) -> str:
    """A number for a person: `1_234_567`, as a policy file takes it."""
    return f"{number:_}"


def size(count: int) -> str:
    """A number of bytes for a person: `64.0 MiB`."""
    scaled = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < _KIB:
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= _KIB
    return f"{scaled:.1f} TiB"


def duration(span_ms: int) -> str:
    """A duration for a person, in its two largest units: `1h 5m`."""
    parts = []
    for unit_ms, name in _UNITS_MS:
        if span_ms >= unit_ms:
            parts.append(f"{span_ms // unit_ms}{name}")
            span_ms %= unit_ms
    return " ".join(parts[:2]) or f"{max(span_ms, 0)}ms"


def instant(unix_ms: int, zone: str = "") -> str:
    """An instant for a person, in a zone or this machine's: `2026-11-23 21:00:00 +01:00`."""
    there = ZoneInfo(zone) if zone else None
    moment = datetime.fromtimestamp(unix_ms / 1000, tz=there).astimezone(there)
    return moment.isoformat(sep=" ", timespec="seconds")
