"""Anthropic, Gemini and Bedrock: what they say of a call becomes lines that are disjoint."""

from __future__ import annotations

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageDeltaUsage
from google.genai import errors as gemini_errors
from google.genai.types import GenerateContentResponse

from bursar import Line, Usage
from bursar.providers import chat_to_wire, proves_not_run, read_usage

MESSAGE = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "Hello!"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 21,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 1880,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
        "output_tokens": 393,
        "output_tokens_details": {"thinking_tokens": 120},
        "service_tier": "priority",
    },
}
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "Hello!"}], "role": "model"}}],
    "modelVersion": "gemini-3-pro",
    "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
    "usageMetadata": {
        "promptTokenCount": 2_152,
        "cachedContentTokenCount": 2_000,
        "candidatesTokenCount": 40,
        "thoughtsTokenCount": 600,
        "toolUsePromptTokenCount": 30,
        "totalTokenCount": 2_822,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 1_900},
            {"modality": "AUDIO", "tokenCount": 152},
            {"modality": "IMAGE", "tokenCount": 100},
        ],
        "cacheTokensDetails": [
            {"modality": "TEXT", "tokenCount": 1_880},
            {"modality": "AUDIO", "tokenCount": 120},
        ],
        "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 40}],
    },
}
CONVERSE = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello!"}]}},
    "stopReason": "end_turn",
    "usage": {
        "inputTokens": 12,
        "outputTokens": 9,
        "totalTokens": 521,
        "cacheReadInputTokens": 300,
        "cacheWriteInputTokens": 200,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 150}, {"ttl": "5m", "inputTokens": 50}],
    },
    "metrics": {"latencyMs": 551},
    "ResponseMetadata": {"RequestId": "a-request", "HTTPStatusCode": 200},
}
CONVERSE_LINES = (
    Line("input", 12),
    Line("cache_read", 300),
    Line("cache_write_long", 150),
    Line("cache_write", 50),
    Line("output", 9),
)


@pytest.mark.parametrize(
    "answer", [MESSAGE, Message.model_validate(MESSAGE)], ids=["dict", "object"]
)
def test_a_message_becomes_disjoint_lines_with_all_it_says_of_itself(answer: object) -> None:
    assert read_usage(answer, granted_model="anthropic/claude-sonnet-4-5") == Usage(
        lines=(
            Line("input", 21),
            Line("cache_read", 1880),
            Line("cache_write_long", 100),
            Line("cache_write", 200),
            Line("output", 273),
            Line("reasoning", 120),
        ),
        model_version="claude-sonnet-4-5-20250929",
        service_tier="priority",
        response_id="msg_01XFDUDYJgAACzvnptvVoYEL",
    )


def test_a_messages_usage_alone_is_read_and_what_it_does_not_say_is_nothing() -> None:
    alone = read_usage({"input_tokens": 5, "output_tokens": 3}, granted_model="a/b")
    assert alone == Usage(lines=(Line("input", 5), Line("output", 3)))
    said = {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 9}
    counted = (Line("input", 5), Line("cache_read", 9), Line("output", 3))
    assert read_usage(said, granted_model="a/b").lines == counted
    of_object = MessageDeltaUsage.model_validate(said)
    assert read_usage(of_object, granted_model="a/b").lines == counted


@pytest.mark.parametrize(
    "answer", [GEMINI, GenerateContentResponse.model_validate(GEMINI)], ids=["dict", "object"]
)
def test_a_gemini_response_becomes_disjoint_lines_that_sum_to_its_total(answer: object) -> None:
    usage = read_usage(answer, granted_model="google/gemini-3-pro")
    assert usage.lines == (
        Line("input", 20),
        Line("input", 30, component="tools"),
        Line("cache_read", 2_000),
        Line("audio_input", 32),
        Line("image_input", 100),
        Line("output", 40),
        Line("reasoning", 600),
    )
    assert sum(line.tokens for line in usage.lines) == usage.total_tokens == 2_822
    assert (usage.model, usage.response_id) == ("", "mAitaLmkHPPlz7IPvtfUqQ4")


@pytest.mark.parametrize("answer", [CONVERSE, {"metadata": CONVERSE}], ids=["answer", "stream"])
def test_an_answer_of_converse_becomes_disjoint_lines(answer: object) -> None:
    usage = read_usage(answer, granted_model="bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert usage == Usage(lines=CONVERSE_LINES, response_id="a-request")


def test_without_a_cache_converse_states_its_total() -> None:
    usage = {"inputTokens": 12, "outputTokens": 9, "totalTokens": 21}
    read = read_usage(usage, granted_model="bedrock/amazon.nova-pro-v1:0")
    assert read == Usage(lines=(Line("input", 12), Line("output", 9)), total_tokens=21)


def test_anthropics_messages_and_tools_are_made_countable() -> None:
    chat = chat_to_wire(
        [
            {"role": "user", "content": "Weather in Paris?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Paris"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "sunny"},
                    {"type": "tool_result", "content": [{"type": "text", "text": "21 °C"}]},
                ],
            },
        ],
        [{"name": "weather", "description": "now", "input_schema": {"type": "object"}}],
    )
    assert chat.messages[1].parts[0].text == "Let me look."
    assert chat.messages[1].parts[1].tool_call.arguments_json == '{"city": "Paris"}'
    assert [part.text for part in chat.messages[2].parts] == ["sunny", "21 °C"]
    assert chat.tools[0].parameters_json == '{"type": "object"}'


def test_the_items_of_a_response_are_made_countable() -> None:
    chat = chat_to_wire(
        [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather in Paris?"}]},
            {"type": "function_call", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ]
    )
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool"]
    assert chat.messages[1].parts[0].tool_call.name == "weather"
    assert chat.messages[2].parts[0].text == "sunny"


@pytest.mark.parametrize(
    ("status", "proof"), [(400, True), (401, True), (404, True), (429, True), (500, False)]
)
def test_a_status_of_each_known_client_is_proof_or_not(status: int, proof: bool) -> None:  # noqa: FBT001
    request = httpx2.Request("POST", "http://127.0.0.1/v1/messages")
    response = httpx2.Response(status, request=request)
    error = anthropic.APIStatusError("no", response=response, body=None)
    assert proves_not_run(error) is proof
    body = {"error": {"code": status, "status": "NO", "message": "no"}}
    assert proves_not_run(gemini_errors.APIError(status, body)) is proof


def test_a_refused_connection_of_anthropics_client_is_proof_and_a_timeout_is_none(
    closed_port: int, silent_port: int
) -> None:
    assert proves_not_run(_raised_by_client(closed_port))
    assert not proves_not_run(_raised_by_client(silent_port))


def _raised_by_client(port: int) -> BaseException:
    client = anthropic.Anthropic(
        api_key="none", base_url=f"http://127.0.0.1:{port}", max_retries=0, timeout=0.2
    )
    with client, pytest.raises(anthropic.APIConnectionError) as raised:
        client.messages.create(
            model="claude-example", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        )
    return raised.value
