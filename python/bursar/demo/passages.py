"""Real text that every machine with Python has: the topics of its own documentation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

SOURCE = f"pydoc_data.topics of Python {sys.version_info.major}.{sys.version_info.minor}"

# Lengths in characters, taken in turn: questions are short, documents to summarise are long.
_LENGTHS = (250, 700, 2_000, 450, 1_200, 3_400)


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of whole paragraphs of one topic."""

    topic: str
    text: str


def passages(count: int) -> list[Passage]:
    """The first `count` distinct passages; raises ValueError where there are not so many."""
    found = list(islice(_distinct(), count))
    if len(found) < count:
        raise ValueError(f"{SOURCE} has {len(found)} passages, and {count} are asked for")
    return found


def _distinct() -> Iterator[Passage]:
    from pydoc_data.topics import topics  # noqa: PLC0415  half a megabyte, only the demo's

    lengths = cycle(_LENGTHS)
    seen: set[str] = set()
    for topic, whole in sorted(topics.items()):
        length = next(lengths)
        run = ""
        for paragraph in whole.split("\n\n"):
            run = f"{run}\n\n{paragraph.strip()}".strip()
            if len(run) < length:
                continue
            if run not in seen:
                seen.add(run)
                yield Passage(topic, run)
            run, length = "", next(lengths)
