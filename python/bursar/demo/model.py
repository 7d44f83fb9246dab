"""A stand-in for a model: it speaks like one, thinks nothing, and costs nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

_WORD_S = 0.000_2

Chunk = dict[str, object]


class StandInModel:
    """No model: it streams back the words it was given, a token each, up to the maximum.

    Its chunks have the shape of an OpenAI chat stream, so that what the demo does with them is what
    a caller of a real model does.
    """

    def __init__(self, name: str) -> None:
        """Takes the name it answers under, as `provider/model`."""
        self._name = name.rpartition("/")[2]

    def stream(
        self, text: str, *, input_tokens: int, max_completion_tokens: int, response_id: str
    ) -> Iterator[Chunk]:
        """Streams one word a chunk; the last chunk has no word but the usage."""
        words = text.split()[:max_completion_tokens]
        for word in words:
            time.sleep(_WORD_S)
            yield self._chunk(response_id, [{"index": 0, "delta": {"content": f"{word} "}}], None)
        usage = {
            "prompt_tokens": input_tokens,
            "completion_tokens": len(words),
            "total_tokens": input_tokens + len(words),
        }
        yield self._chunk(response_id, [], usage)

    def _chunk(
        self, response_id: str, choices: list[object], usage: dict[str, int] | None
    ) -> Chunk:
        return {
            "object": "chat.completion.chunk",
            "id": response_id,
            "model": self._name,
            "choices": choices,
            "usage": usage,
        }
