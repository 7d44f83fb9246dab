"""What a stream says of its usage as it goes by, of whichever provider it is."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.errors import InvalidRequest
from bursar.providers.answers import read_usage
from bursar.providers.fields import get
from bursar.providers.lines import Usage

# The fields of Anthropic's usage; what ends a stream states them anew, as sums so far.
_ANTHROPIC = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "output_tokens",
    "output_tokens_details",
    "service_tier",
)

# What an event of another provider has if it may say something of usage.
_SAYS_USAGE = ("usage", "usage_metadata", "usageMetadata", "metadata", "response")


class StreamUsage:
    """The usage of one stream, as far as its events have said it."""

    def __init__(self, *, granted_model: str, others: Sequence[str] = ()) -> None:
        """Reads what a call of `granted_model` streams; `others` are as `read_usage` has them."""
        self.granted_model = granted_model
        self._others = others
        self._message: dict[str, object] = {}
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """What was used, by the last event that said so; None: none has."""
        return self._usage

    def note(self, event: object) -> None:
        """Takes one event: a chunk, an event, or a dict of either; what it cannot read it skips."""
        kind = get(event, "type")
        if kind == "message_start":
            message = get(event, "message")
            self._message = {name: get(message, name) for name in ("type", "id", "model")}
            self._message["usage"] = {name: get(get(message, "usage"), name) for name in _ANTHROPIC}
            # The input is said here; of what is put out, as much as has been by now.
            self._read(self._message)
        elif kind == "message_delta" and self._message:
            self._read(self._merged(get(event, "usage")))
        elif get(event, *_SAYS_USAGE) is not None:  # most events say nothing of it
            self._read(event)

    def _merged(self, usage: object) -> dict[str, object]:
        """Anthropic's message with this event's sums, and those of the first event else."""
        before = self._message["usage"]
        merged = {name: get(usage, name) or get(before, name) for name in _ANTHROPIC}
        return {**self._message, "usage": merged}

    def _read(self, answer: object) -> None:
        try:
            self._usage = read_usage(answer, granted_model=self.granted_model, others=self._others)
        except InvalidRequest:  # a field of that name that is about something else
            return
