"""Texts that a command is given, as bytes that are to be UTF-8 and not too long."""

from __future__ import annotations

from bursar.cli import show


def text_of(content: bytes, *, name: str, bytes_max: int) -> str:
    """The text of what was read from `name`; one too long or not UTF-8 ends the command."""
    if len(content) > bytes_max:
        show.fail(show.EXIT_WRONG, f"a text must have at most {bytes_max:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        show.fail(show.EXIT_WRONG, f"a text must be UTF-8 ({name}: {error.reason})")
