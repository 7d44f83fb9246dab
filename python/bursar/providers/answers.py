"""The answer of any provider that we know, read as usage."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.errors import InvalidRequest
from bursar.providers import anthropic, bedrock, gemini, openai
from bursar.providers.fields import describe
from bursar.providers.lines import METER_NAMES, Line, Usage

_UNWRAPPED = (openai.unwrapped, anthropic.unwrapped, bedrock.unwrapped)
_READERS = (openai.usage_of, anthropic.usage_of, gemini.usage_of, bedrock.usage_of)


def read_usage(answer: object, *, granted_model: str) -> Usage:
    """Reads the usage out of an answer to a call of `granted_model` (`provider/model`).

    Takes an OpenAI chat completion (also a stream's last chunk), response (also the event that ends
    its stream) or embeddings; an Anthropic message (also the `message_stop` of its client); a
    Gemini response (also a stream's last chunk); an answer of Bedrock's Converse (also the
    `metadata` that ends its stream); the usage alone of any of them, each as object or dict; a
    `Usage`; `Line`s; or tokens by meter (`{"input": 812, "output": 97}`). Raises InvalidRequest for
    anything else.
    """
    if isinstance(answer, Usage):
        return answer
    if isinstance(answer, Mapping) and answer and METER_NAMES.issuperset(answer):
        return Usage(lines=tuple(Line(meter, tokens) for meter, tokens in answer.items()))
    if isinstance(answer, (list, tuple)) and all(isinstance(each, Line) for each in answer):
        return Usage(lines=tuple(answer))
    said = answer
    for unwrapped in _UNWRAPPED:
        said = unwrapped(said)
    for usage_of in _READERS:
        usage = usage_of(said, granted_model)
        if usage is not None:
            return usage
    raise InvalidRequest(
        f"cannot read a usage from {describe(said)}; give the whole answer of OpenAI, Anthropic, "
        "Gemini or Bedrock, bursar.Line objects, or tokens by meter such as "
        '{"input": 812, "output": 97}'
    )
