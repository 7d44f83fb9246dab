"""Anthropic's usage: messages, which count cached input beside the rest and state no total."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.errors import InvalidRequest
from bursar.providers.fields import count, get, text
from bursar.providers.lines import Line, Usage, some
from bursar.providers.names import split_model, tier


def unwrapped(answer: object) -> object:
    """The message within the event by which the client ends a stream; else what was given."""
    if get(answer, "type") == "message_stop":
        return get(answer, "message") or answer
    return answer


def usage_of(answer: object, models: Sequence[str]) -> Usage | None:
    """Reads a message or a usage alone; None if it is neither of Anthropic's."""
    if get(answer, "type") != "message":
        return Usage(lines=_lines(answer)) if _is_usage(answer) else None
    usage = get(answer, "usage")
    if not _is_usage(usage):
        raise InvalidRequest(
            "this message has no usage; of a stream, commit what get_final_message() gives, or "
            "have its events followed by reservation.follow(stream)"
        )
    model, model_version = split_model(text(answer, "model"), models)
    return Usage(
        lines=_lines(usage),
        model=model,
        model_version=model_version,
        service_tier=tier(text(usage, "service_tier")),
        response_id=text(answer, "id"),
    )


def _is_usage(usage: object) -> bool:
    stated = get(usage, "input_tokens"), get(usage, "output_tokens")
    return None not in stated and get(usage, "total_tokens") is None


def _lines(usage: object) -> tuple[Line, ...]:
    written = count(usage, "cache_creation_input_tokens")
    by_span = get(usage, "cache_creation")
    written_long = count(by_span, "ephemeral_1h_input_tokens")
    # The breakdown may be there without the sum.
    written = max(written, written_long + count(by_span, "ephemeral_5m_input_tokens"))
    output = count(usage, "output_tokens")
    thought = min(output, count(get(usage, "output_tokens_details"), "thinking_tokens"))
    return some(
        Line("input", count(usage, "input_tokens")),
        Line("cache_read", count(usage, "cache_read_input_tokens")),
        Line("cache_write_long", written_long),
        Line("cache_write", written - written_long),
        Line("output", output - thought),
        Line("reasoning", thought),
    )
