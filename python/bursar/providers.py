"""What model providers speak, made ours: usage, chats, and errors that prove no call ran."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bursar.errors import InvalidRequest
from bursar.v1 import quota_pb2

MeterName = Literal[
    "input",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "embedding",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
    "cache_write_long",
]
BasisName = Literal["measured", "estimated", "assumed"]

METER_NAMES: frozenset[str] = frozenset(get_args(MeterName))

# What a provider calls its usual tier, against our name for it.
_STANDARD_TIERS = frozenset({"default", "auto", "standard"})

# `gpt-4.1-mini-2025-04-14` and `gpt-4-0613` are dated names of `gpt-4.1-mini` and `gpt-4`.
_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))\Z")

# The clients whose errors we know; any other's status may be of a call that was not the model's.
_KNOWN_CLIENTS = frozenset({"openai", "anthropic"})

# The statuses by which a provider refuses a call before it runs.
_STATUSES_NOT_RUN = frozenset({400, 401, 404, 429})

# OpenAI's details of each side of a usage, which its whole includes, against our meters.
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

# How many causes of an error are followed; a chain that is longer proves nothing.
_CAUSES_MAX = 16


@dataclass(frozen=True, slots=True)
class Line:
    """The tokens of one meter within one usage; the lines of a usage are disjoint."""

    meter: MeterName
    tokens: int
    component: str = ""
    source: str = ""
    basis: BasisName = "measured"

    def to_wire(self) -> quota_pb2.Line:
        """Makes the message; raises InvalidRequest for a meter, basis or number that is none."""
        if self.meter not in METER_NAMES:
            known = ", ".join(sorted(METER_NAMES))
            raise InvalidRequest(f"meter must be one of {known} (got {self.meter!r})")
        if self.basis not in get_args(BasisName):
            raise InvalidRequest(
                f"basis must be measured, estimated or assumed (got {self.basis!r})"
            )
        return quota_pb2.Line(
            meter=quota_pb2.Meter.Value(f"METER_{self.meter.upper()}"),
            tokens=_whole(self.tokens, f"tokens of meter {self.meter}"),
            component=self.component,
            source=self.source,
            basis=quota_pb2.Basis.Value(f"BASIS_{self.basis.upper()}"),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What a provider says a call used; an empty string or None: it does not say."""

    lines: tuple[Line, ...]
    total_tokens: int | None = None
    model: str = ""
    model_version: str = ""
    service_tier: str = ""
    response_id: str = ""


def read_usage(answer: object, *, granted_model: str) -> Usage:
    """Reads the usage out of an answer to a call of `granted_model` (`provider/model`).

    Takes an OpenAI chat completion (also a stream's last chunk), an OpenAI response (also its
    `response.completed` event), the usage of either, each as object or dict; a `Usage`; `Line`s; or
    tokens by meter (`{"input": 812, "output": 97}`). Raises InvalidRequest for anything else.
    """
    if isinstance(answer, Usage):
        return answer
    if isinstance(answer, Mapping) and answer and METER_NAMES.issuperset(answer):
        return Usage(lines=tuple(Line(meter, tokens) for meter, tokens in answer.items()))
    if isinstance(answer, (list, tuple)) and all(isinstance(each, Line) for each in answer):
        return Usage(lines=tuple(answer))
    if str(_get(answer, "type") or "").startswith("response.") and _get(answer, "response"):
        return read_usage(_get(answer, "response"), granted_model=granted_model)
    if _get(answer, "object") in {"chat.completion", "chat.completion.chunk", "response"}:
        return _read_openai_answer(answer, granted_model)
    lines, total_tokens = _read_openai_usage(answer)
    return Usage(lines=lines, total_tokens=total_tokens)


def _read_openai_answer(answer: object, granted_model: str) -> Usage:
    usage = _get(answer, "usage")
    if usage is None:
        raise InvalidRequest(
            f"this {_get(answer, 'object')} has no usage; of a stream, commit the last chunk and "
            'ask for it with stream_options={"include_usage": True}'
        )
    lines, total_tokens = _read_openai_usage(usage)
    model, model_version = _split_model(str(_get(answer, "model") or ""), granted_model)
    tier = str(_get(answer, "service_tier") or "")
    return Usage(
        lines=lines,
        total_tokens=total_tokens,
        model=model,
        model_version=model_version,
        service_tier="standard" if tier in _STANDARD_TIERS else tier,
        response_id=str(_get(answer, "id") or ""),
    )


def _read_openai_usage(usage: object) -> tuple[tuple[Line, ...], int]:
    """Splits totals that include their details into disjoint lines, without the empty ones."""
    if _get(usage, "prompt_tokens") is not None and _get(usage, "completion_tokens") is not None:
        sides = ("prompt_tokens", "completion_tokens")
    elif all(
        _get(usage, name) is not None for name in ("input_tokens", "output_tokens", "total_tokens")
    ):  # Anthropic's usage looks much the same, states no total, and counts cached input apart.
        sides = ("input_tokens", "output_tokens")
    else:
        raise InvalidRequest(
            f"cannot read a usage from {_describe(usage)}; give an OpenAI chat completion or "
            'response, bursar.Line objects, or tokens by meter such as {"input": 812, "output": 97}'
        )
    input_side, output_side = sides
    lines = (
        *_split(usage, input_side, "input", _INPUT_DETAILS),
        *_split(usage, output_side, "output", _OUTPUT_DETAILS),
    )
    total_tokens = _get(usage, "total_tokens")
    if total_tokens is None:
        return lines, sum(line.tokens for line in lines)
    return lines, _whole(total_tokens, "total_tokens")


def _split(
    usage: object, side: str, rest: MeterName, meters: Mapping[str, MeterName]
) -> tuple[Line, ...]:
    """Takes each detail out of one side's whole; what overlaps is counted once, under the first."""
    tokens_left = _whole(_get(usage, side), side)
    details = _get(usage, f"{side}_details")
    lines: list[Line] = []
    for name, meter in meters.items():
        detail = _get(details, name)
        tokens = min(tokens_left, _whole(detail, name)) if detail is not None else 0
        tokens_left -= tokens
        if meter == "cache_write":  # of these, some are written for longer and cost more
            long = _get(_get(details, "cache_write_tokens_details"), "ttl_12h_tokens")
            tokens_long = min(tokens, _whole(long, "ttl_12h_tokens")) if long is not None else 0
            lines.append(Line("cache_write_long", tokens_long))
            tokens -= tokens_long
        lines.append(Line(meter, tokens))
    lines = [line for line in lines if line.tokens]
    return (Line(rest, tokens_left), *lines) if tokens_left or not lines else tuple(lines)


def _split_model(answered: str, granted_model: str) -> tuple[str, str]:
    """Gives the model to report (empty: the granted one) and its dated name (empty: not dated)."""
    undated = _DATE.sub("", answered)
    provider, _, granted = granted_model.rpartition("/")
    version = answered if undated != answered else ""
    if not answered or granted in {answered, undated}:
        return "", version
    return f"{provider}/{undated}" if provider else undated, version


def chat_to_wire(
    messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] = ()
) -> quota_pb2.Chat:
    """Makes a chat to count of OpenAI's messages and tools; InvalidRequest if it is not text."""
    return quota_pb2.Chat(
        messages=[_message_to_wire(message) for message in messages],
        tools=[_tool_to_wire(tool) for tool in tools],
    )


def _message_to_wire(message: Mapping[str, object]) -> quota_pb2.ChatMessage:
    content = _get(message, "content")
    parts: list[quota_pb2.ChatPart] = []
    text = content if isinstance(content, str) else ""
    if isinstance(content, (list, tuple)):
        parts.extend(_part_to_wire(part) for part in content)
    elif content is not None and not text and content != "":
        raise InvalidRequest(f"content must be text or a list of parts (got {_describe(content)})")
    calls = _get(message, "tool_calls")
    for call in calls if isinstance(calls, (list, tuple)) else ():
        function = _get(call, "function")
        parts.append(
            quota_pb2.ChatPart(
                tool_call=quota_pb2.ToolCall(
                    name=str(_get(function, "name") or ""),
                    arguments_json=str(_get(function, "arguments") or ""),
                )
            )
        )
    return quota_pb2.ChatMessage(
        role=str(_get(message, "role") or ""),
        name=str(_get(message, "name") or ""),
        text=text,
        parts=parts,
    )


def _part_to_wire(part: object) -> quota_pb2.ChatPart:
    text = _get(part, "text")
    if isinstance(text, str):
        return quota_pb2.ChatPart(text=text)
    raise InvalidRequest(
        f"only text can be counted (got a part of type {_get(part, 'type')!r}); "
        "give input_tokens or lines for the whole input instead"
    )


def _tool_to_wire(tool: Mapping[str, object]) -> quota_pb2.ToolDefinition:
    import json  # noqa: PLC0415  its only use

    function = _get(tool, "function") or tool
    parameters = _get(function, "parameters")
    return quota_pb2.ToolDefinition(
        name=str(_get(function, "name") or ""),
        description=str(_get(function, "description") or ""),
        parameters_json=json.dumps(parameters) if parameters is not None else "",
    )


def proves_not_run(error: BaseException) -> bool:
    """Says whether an error proves that the model call did not run.

    True for a refused connection (Python's own error, or a known client's that it caused) and for a
    known client's status 400, 401, 404 or 429. Of a client that retried by itself only the last
    attempt is seen.
    """
    if isinstance(error, ConnectionRefusedError):
        return True
    if not _is_of_known_client(error):
        return False
    status = getattr(error, "status_code", None)
    if status is not None:
        return status in _STATUSES_NOT_RUN
    # Only `raise … from`: what happened while another error was handled says nothing of that one.
    cause = error.__cause__
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return False
        if _never_connected(cause):
            return True
        cause = cause.__cause__
    return False


def _never_connected(cause: BaseException) -> bool:
    """Says whether a cause is a refused connection, or the HTTP library's word for none made.

    The libraries that the known clients stand on hide the refusal behind a `ConnectError`, which
    they raise before anything is sent.
    """
    kind = type(cause)
    if kind.__name__ == "ConnectError" and kind.__module__.startswith(("httpx", "httpcore")):
        return True
    return isinstance(cause, ConnectionRefusedError)


def _is_of_known_client(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in _KNOWN_CLIENTS for kind in type(error).__mro__)


def _get(thing: object, name: str) -> object:
    """Reads a field of a dict or an attribute of an object; None where there is none."""
    if isinstance(thing, Mapping):
        return thing.get(name)
    return getattr(thing, name, None)


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{name} must be a whole number of at least 0 (got {value!r})")
    return value


def _describe(thing: object) -> str:
    if isinstance(thing, Mapping):
        return f"a dict with {', '.join(sorted(map(str, thing))[:8]) or 'nothing in it'}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
