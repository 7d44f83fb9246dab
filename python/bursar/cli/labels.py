"""Labels on the command line, as KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.cli import show


def label_map(pairs: Sequence[str], *, option: str) -> dict[str, str]:
    """Reads KEY=VALUE pairs; one that is not, or a key given twice, ends the command."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            show.fail(show.EXIT_WRONG, f"{option} must be KEY=VALUE (got {pair})")
        if key in labels:
            show.fail(show.EXIT_WRONG, f"{option} names {key} twice")
        labels[key] = value
    return labels
