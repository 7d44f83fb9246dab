"""The answer of any provider that we know, read as usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bursar.errors import InvalidRequest
from bursar.providers import anthropic, bedrock, gemini, openai
from bursar.providers.fields import describe
from bursar.providers.lines import METER_NAMES, Line, Usage

_UNWRAPPED = (openai.unwrapped, anthropic.unwrapped, bedrock.unwrapped)
_READERS = (openai.usage_of, anthropic.usage_of, gemini.usage_of, bedrock.usage_of)


def read_usage(answer: object, *, granted_model: str, others: Sequence[str] = ()) -> Usage:
    """Reads the usage out of an answer to a call of `granted_model` (`provider/model`).

    It says another model where one of `others` answered: those that were asked for besides.

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
    _check_meters(answer)
    said = answer
    for unwrapped in _UNWRAPPED:
        said = unwrapped(said)
    for usage_of in _READERS:
        usage = usage_of(said, (granted_model, *others))
        if usage is not None:
            return usage
    raise InvalidRequest(
        f"cannot read a usage from {describe(said)}; give the whole answer of OpenAI, Anthropic, "
        "Gemini or Bedrock, bursar.Line objects, or tokens by meter such as "
        '{"input": 812, "output": 97}'
    )


def _check_meters(answer: object) -> None:
    """Raises InvalidRequest where tokens are given by meter and a name is no meter's."""
    if not isinstance(answer, Mapping) or METER_NAMES.isdisjoint(answer):
        return
    wrong = sorted(str(name) for name in answer if name not in METER_NAMES)
    # An answer of a provider has fields of its own; one or two words beside meters are slips.
    if wrong and all(isinstance(tokens, int) for tokens in answer.values()):
        known = ", ".join(sorted(METER_NAMES))
        raise InvalidRequest(f"tokens by meter: {', '.join(wrong)} is no meter; known are {known}")
