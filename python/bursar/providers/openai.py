"""OpenAI's usage: chats, responses and embeddings, whose totals include their details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bursar.errors import InvalidRequest
from bursar.providers.fields import count, get, text
from bursar.providers.lines import Line, MeterName, Usage
from bursar.providers.names import split_model, tier

_ANSWERS = frozenset({"chat.completion", "chat.completion.chunk", "response", "text_completion"})

# The details of each side of a usage, which its whole includes, against our meters.
_INPUT_DETAILS: Mapping[str, MeterName] = {
    "cached_tokens": "cache_read",
    "cache_write_tokens": "cache_write",
    "audio_tokens": "audio_input",
    "image_tokens": "image_input",
}
_OUTPUT_DETAILS: Mapping[str, MeterName] = {
    "reasoning_tokens": "reasoning",
    "audio_tokens": "audio_output",
    "image_tokens": "image_output",
}


def unwrapped(answer: object) -> object:
    """The response within an event that ends a stream of the Responses API; else what was given."""
    if text(answer, "type").startswith("response."):
        return get(answer, "response") or answer
    return answer


def usage_of(answer: object, models: Sequence[str]) -> Usage | None:
    """Reads an answer or a usage alone; None if it is neither of OpenAI's."""
    said = get(answer, "usage")
    whole_answer = get(answer, "object") in _ANSWERS
    embeddings = get(answer, "object") == "list" and said is not None
    if not whole_answer and not embeddings:
        read = _read(answer)
        return read and Usage(lines=read[0], total_tokens=read[1])
    read = _read(said)
    if read is None:
        raise InvalidRequest(
            f"this {get(answer, 'object')} has no usage; of a stream, commit the last chunk and "
            'ask for it with stream_options={"include_usage": True}'
        )
    model, model_version = split_model(text(answer, "model"), models)
    return Usage(
        lines=read[0],
        total_tokens=read[1],
        model=model,
        model_version=model_version,
        service_tier=tier(text(answer, "service_tier")),
        response_id=text(answer, "id"),
    )


def _read(usage: object) -> tuple[tuple[Line, ...], int] | None:
    """Splits totals that include their details into disjoint lines, without the empty ones."""
    if get(usage, "prompt_tokens") is not None:
        sides = ("prompt_tokens", "completion_tokens")
    elif all(
        get(usage, name) is not None for name in ("input_tokens", "output_tokens", "total_tokens")
    ):  # Anthropic's usage looks much the same, states no total, and counts cached input apart.
        sides = ("input_tokens", "output_tokens")
    else:
        return None
    input_side, output_side = sides
    if get(usage, output_side) is None:  # embeddings put nothing out
        lines: tuple[Line, ...] = (Line("embedding", count(usage, input_side)),)
    else:
        lines = (
            *_split(usage, input_side, "input", _INPUT_DETAILS),
            *_split(usage, output_side, "output", _OUTPUT_DETAILS),
        )
    if get(usage, "total_tokens") is None:
        return lines, sum(line.tokens for line in lines)
    return lines, count(usage, "total_tokens")


def _split(
    usage: object, side: str, rest: MeterName, meters: Mapping[str, MeterName]
) -> tuple[Line, ...]:
    """Takes each detail out of one side's whole; what overlaps is counted once, under the first."""
    tokens_left = count(usage, side)
    details = get(usage, f"{side}_details")
    lines: list[Line] = []
    for name, meter in meters.items():
        tokens = min(tokens_left, count(details, name))
        tokens_left -= tokens
        if meter == "cache_write":  # of these, some are written for longer and cost more
            long = get(details, "cache_write_tokens_details")
            tokens_long = min(tokens, count(long, "ttl_12h_tokens"))
            lines.append(Line("cache_write_long", tokens_long))
            tokens -= tokens_long
        lines.append(Line(meter, tokens))
    lines = [line for line in lines if line.tokens]
    return (Line(rest, tokens_left), *lines) if tokens_left or not lines else tuple(lines)
