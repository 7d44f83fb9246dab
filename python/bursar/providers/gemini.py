"""Gemini's usage: a prompt that includes what was cached, and thoughts beside the answer."""

from __future__ import annotations

from collections.abc import Sequence

from bursar.errors import InvalidRequest
from bursar.providers.fields import count, get, items, text
from bursar.providers.lines import Line, Usage, some
from bursar.providers.names import split_model

_USAGE = ("usage_metadata", "usageMetadata")
_PROMPT = ("prompt_token_count", "promptTokenCount")
_ANSWER = ("candidates_token_count", "candidatesTokenCount")
_TOTAL = ("total_token_count", "totalTokenCount")
_VERSION = ("model_version", "modelVersion")


def usage_of(answer: object, models: Sequence[str]) -> Usage | None:
    """Reads a response or a usage alone, as object or JSON; None if it is neither of Gemini's."""
    usage = get(answer, *_USAGE)
    if usage is None:
        if get(answer, *_PROMPT) is not None:
            return _read(answer)
        if get(answer, "candidates") is not None and get(answer, *_VERSION) is not None:
            raise InvalidRequest("this response has no usage; of a stream, commit the last chunk")
        return None
    read = _read(usage)
    model, model_version = split_model(text(answer, *_VERSION), models)
    return Usage(
        lines=read.lines,
        total_tokens=read.total_tokens,
        model=model,
        model_version=model_version,
        response_id=text(answer, "response_id", "responseId"),
    )


def _read(usage: object) -> Usage:
    cached = count(usage, "cached_content_token_count", "cachedContentTokenCount")
    fresh = max(0, count(usage, *_PROMPT) - cached)
    fresh, heard, seen = _by_modality(usage, "prompt", fresh, less="cache")
    answered, spoken, drawn = _by_modality(usage, "candidates", count(usage, *_ANSWER))
    lines = some(
        Line("input", fresh),
        # What tools put into the prompt is counted beside it.
        Line(
            "input",
            count(usage, "tool_use_prompt_token_count", "toolUsePromptTokenCount"),
            component="tools",
        ),
        Line("cache_read", cached),
        Line("audio_input", heard),
        Line("image_input", seen),
        Line("output", answered),
        Line("audio_output", spoken),
        Line("image_output", drawn),
        Line("reasoning", count(usage, "thoughts_token_count", "thoughtsTokenCount")),
    )
    stated = get(usage, *_TOTAL)
    return Usage(lines=lines, total_tokens=None if stated is None else count(usage, *_TOTAL))


def _by_modality(usage: object, side: str, tokens: int, *, less: str = "") -> tuple[int, int, int]:
    """Splits one side into text, audio, and images with video, within its whole."""
    audio = _of(usage, side, "AUDIO") - (_of(usage, less, "AUDIO") if less else 0)
    images = sum(
        _of(usage, side, kind) - (_of(usage, less, kind) if less else 0)
        for kind in ("IMAGE", "VIDEO")
    )
    audio = min(tokens, max(0, audio))
    images = min(tokens - audio, max(0, images))
    return tokens - audio - images, audio, images


def _of(usage: object, side: str, modality: str) -> int:
    found = items(usage, f"{side}_tokens_details", f"{side}TokensDetails")
    return sum(
        count(each, "token_count", "tokenCount")
        for each in found
        if text(each, "modality").rpartition(".")[2] == modality  # an enum, or its name
    )
