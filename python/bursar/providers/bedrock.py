"""Bedrock's usage: Converse, and the event that ends ConverseStream; cached input counts apart."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.errors import InvalidRequest
from bursar.providers.fields import count, get, items, text
from bursar.providers.lines import Line, Usage, some

_LONG = "1h"


def unwrapped(answer: object) -> object:
    """What a stream's last event says; else what was given."""
    return get(answer, "metadata") or answer if get(answer, "usage") is None else answer


def usage_of(answer: object, _models: Sequence[str]) -> Usage | None:
    """Reads an answer of Converse, or its usage alone; None if it is neither of Bedrock's.

    It names no model: what answered is what was asked.
    """
    usage = get(answer, "usage") or answer
    if get(usage, "inputTokens") is None or get(usage, "outputTokens") is None:
        if get(answer, "stopReason") is not None and get(answer, "output") is not None:
            raise InvalidRequest("this answer of Converse has no usage")
        return None
    read, written = (count(usage, f"cache{each}InputTokens") for each in ("Read", "Write"))
    long = sum(
        count(each, "inputTokens")
        for each in items(usage, "cacheDetails")
        if get(each, "ttl") == _LONG
    )
    long = min(written, long)
    lines = some(
        Line("input", count(usage, "inputTokens")),
        Line("cache_read", read),
        Line("cache_write_long", long),
        Line("cache_write", written - long),
        Line("output", count(usage, "outputTokens")),
    )
    # Whether the total includes what was cached differs from model to model.
    stated = None if read or written else get(usage, "totalTokens")
    return Usage(
        lines=lines,
        total_tokens=None if stated is None else count(usage, "totalTokens"),
        response_id=text(get(answer, "ResponseMetadata"), "RequestId"),
    )
