"""A provider's stream that goes by: what it says of its usage, and how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

from bursar.arguments import CommitArguments, OutcomeName
from bursar.errors import InvalidRequest
from bursar.providers import StreamUsage, Usage
from bursar.providers.fields import describe

_Event = TypeVar("_Event")

_log = logging.getLogger("bursar")


def events_of(stream: Iterable[_Event]) -> Iterable[_Event]:
    """The events of a stream: also of an answer of ConverseStream, which has it under a key."""
    if isinstance(stream, Mapping):
        inner = stream.get("stream")
        if inner is None:
            raise InvalidRequest(f"cannot follow {describe(stream)}: hand in what streams")
        return cast("Iterable[_Event]", inner)
    return stream


class Followed:
    """What is known of a stream while its events are handed on."""

    def __init__(self, *, granted_model: str, others: Sequence[str], granted_at_s: float) -> None:
        """Follows a call of `granted_model`, granted at an instant of `time.monotonic`."""
        self._said = StreamUsage(granted_model=granted_model, others=others)
        self._granted_at_s = granted_at_s
        self._first_at_s: float | None = None

    @property
    def began(self) -> bool:
        """Whether an event has come."""
        return self._first_at_s is not None

    @property
    def usage(self) -> Usage | None:
        """What was used, as far as the stream has said it."""
        return self._said.usage

    @property
    def usage_at_end(self) -> Usage | None:
        """What was used, by a stream that has ended; logs what to do where it has not said."""
        if self._said.usage is None:
            _log.warning(
                "a stream of %s has ended without a word of its usage and is committed as unknown; "
                'OpenAI\'s chats say it with stream_options={"include_usage": True}',
                self._said.granted_model,
            )
        return self._said.usage

    def note(self, event: object) -> None:
        """Takes an event; it never raises, as the caller's stream must go on."""
        if self._first_at_s is None:
            self._first_at_s = time.monotonic()
        try:
            self._said.note(event)
        except Exception:  # noqa: BLE001  whatever it is, the stream goes on
            _log.exception("an event of a stream cannot be read for its usage")

    def said(self, said: CommitArguments, outcome: OutcomeName | None = None) -> CommitArguments:
        """What the caller says of the commit, and where it says nothing, what was seen."""
        complete = said.copy()
        if outcome is not None:
            complete.setdefault("outcome", outcome)
        if self._first_at_s is not None:
            complete.setdefault("first_token", self._first_at_s - self._granted_at_s)
        complete.setdefault("latency", time.monotonic() - self._granted_at_s)
        return complete
