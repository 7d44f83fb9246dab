"""Chats as providers take them, made countable: messages, tool calls and what tools answered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bursar.errors import InvalidRequest
from bursar.providers.fields import describe, get, items, text
from bursar.v1 import quota_pb2


def chat_to_wire(
    messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]] = ()
) -> quota_pb2.Chat:
    """Makes a chat to count; raises InvalidRequest for what is not text, such as an image.

    Takes messages and tools of OpenAI's chats, items of its responses, and Anthropic's messages and
    tools (its `system` as a message of that role).
    """
    for name, given in (("chat", messages), ("tools", tools or ())):
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            raise InvalidRequest(
                f'{name} must be a list, of dicts such as {{"role": "user", "content": "…"}} for '
                f"messages (got {describe(given)})"
            )
    return quota_pb2.Chat(
        messages=[_message_to_wire(message) for message in messages],
        tools=[_tool_to_wire(tool) for tool in tools or ()],
    )


def _message_to_wire(message: Mapping[str, object]) -> quota_pb2.ChatMessage:
    kind = get(message, "type")
    if kind in {"function_call", "function_call_output"}:  # items of a response, not messages
        role = "assistant" if kind == "function_call" else "tool"
        return quota_pb2.ChatMessage(role=role, parts=_part_to_wire(message))
    content = get(message, "content")
    if not isinstance(content, (str, list, tuple)) and content is not None:
        raise InvalidRequest(f"content must be text or a list of parts (got {describe(content)})")
    parts = [made for part in items(message, "content") for made in _part_to_wire(part)]
    parts += [made for call in items(message, "tool_calls") for made in _call_to_wire(call)]
    return quota_pb2.ChatMessage(
        role=text(message, "role"),
        name=text(message, "name"),
        text=content if isinstance(content, str) else "",
        parts=parts,
    )


def _part_to_wire(part: object) -> Iterator[quota_pb2.ChatPart]:
    said, kind = get(part, "text"), get(part, "type")
    if isinstance(said, str):
        yield quota_pb2.ChatPart(text=said)
    elif kind == "tool_use":
        arguments = json.dumps(get(part, "input"), ensure_ascii=False)
        yield _call(text(part, "name"), arguments)
    elif kind == "function_call":
        yield _call(text(part, "name"), text(part, "arguments"))
    elif kind in {"tool_result", "function_call_output"}:
        answered = get(part, "content", "output")
        if isinstance(answered, (list, tuple)):
            for each in answered:
                yield from _part_to_wire(each)
        else:
            yield quota_pb2.ChatPart(text=str(answered or ""))
    else:
        raise InvalidRequest(
            f"only text can be counted (got a part of type {kind!r}); "
            "give input_tokens or lines for the whole input instead"
        )


def _call_to_wire(call: object) -> Iterator[quota_pb2.ChatPart]:
    function = get(call, "function")
    yield _call(text(function, "name"), text(function, "arguments"))


def _call(name: str, arguments_json: str) -> quota_pb2.ChatPart:
    call = quota_pb2.ToolCall(name=name, arguments_json=arguments_json)
    return quota_pb2.ChatPart(tool_call=call)


def _tool_to_wire(tool: Mapping[str, object]) -> quota_pb2.ToolDefinition:
    function = get(tool, "function") or tool
    parameters = get(function, "parameters", "input_schema")
    return quota_pb2.ToolDefinition(
        name=text(function, "name"),
        description=text(function, "description"),
        parameters_json=json.dumps(parameters) if parameters is not None else "",
    )
