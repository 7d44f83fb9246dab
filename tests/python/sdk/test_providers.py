"""What providers say of a call becomes disjoint lines, and only proofs refund a call."""

from __future__ import annotations

import httpx2
import openai
import pytest
from openai.types import CompletionUsage, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseCompletedEvent

from bursar import InvalidRequest, Line, Usage
from bursar.providers import chat_to_wire, proves_not_run, read_usage
from bursar.v1 import quota_pb2

GRANTED = "openai/gpt-4.1-mini"

CHAT_USAGE = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 192,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
CHAT = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4.1-mini-2025-04-14",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": CHAT_USAGE,
    "service_tier": "default",
}
CHAT_LINES = (
    Line("input", 86),
    Line("cache_read", 1920),
    Line("output", 108),
    Line("reasoning", 192),
)
RESPONSE = {
    "id": "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b",
    "object": "response",
    "created_at": 1741476542,
    "status": "completed",
    "model": "gpt-4.1-mini-2025-04-14",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "service_tier": "flex",
    "usage": {
        "input_tokens": 328,
        "input_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 0},
        "output_tokens": 1024,
        "output_tokens_details": {"reasoning_tokens": 832},
        "total_tokens": 1352,
    },
}
RESPONSE_LINES = (
    Line("input", 28),
    Line("cache_read", 300),
    Line("output", 192),
    Line("reasoning", 832),
)


@pytest.mark.parametrize(
    "answer", [CHAT, ChatCompletion.model_validate(CHAT)], ids=["dict", "object"]
)
def test_a_chat_completion_becomes_disjoint_lines_with_all_it_says_of_itself(
    answer: object,
) -> None:
    assert read_usage(answer, granted_model=GRANTED) == Usage(
        lines=CHAT_LINES,
        total_tokens=2306,
        model="",
        model_version="gpt-4.1-mini-2025-04-14",
        service_tier="standard",
        response_id="chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    )


@pytest.mark.parametrize(
    "answer", [RESPONSE, Response.model_validate(RESPONSE)], ids=["dict", "object"]
)
def test_a_response_becomes_disjoint_lines_with_all_it_says_of_itself(answer: object) -> None:
    usage = read_usage(answer, granted_model=GRANTED)
    assert usage.lines == RESPONSE_LINES
    assert sum(line.tokens for line in usage.lines) == usage.total_tokens == 1352
    assert usage.service_tier == "flex"
    assert usage.response_id == RESPONSE["id"]


def test_a_completed_event_of_a_stream_is_read_as_its_response() -> None:
    event = ResponseCompletedEvent.model_validate(
        {"type": "response.completed", "sequence_number": 9, "response": RESPONSE}
    )
    assert read_usage(event, granted_model=GRANTED).lines == RESPONSE_LINES


def test_the_last_chunk_of_a_chat_stream_is_read_as_its_completion() -> None:
    chunk = ChatCompletionChunk.model_validate(
        {**CHAT, "object": "chat.completion.chunk", "choices": []}
    )
    assert read_usage(chunk, granted_model=GRANTED).lines == CHAT_LINES


def test_a_usage_alone_is_read() -> None:
    usage = read_usage(CompletionUsage.model_validate(CHAT_USAGE), granted_model=GRANTED)
    assert usage == Usage(lines=CHAT_LINES, total_tokens=2306)


def test_audio_is_taken_out_of_both_sides() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 80,
        "total_tokens": 180,
        "prompt_tokens_details": {"audio_tokens": 60, "cached_tokens": 10},
        "completion_tokens_details": {"audio_tokens": 50, "reasoning_tokens": 0},
    }
    assert read_usage(usage, granted_model=GRANTED).lines == (
        Line("input", 30),
        Line("cache_read", 10),
        Line("audio_input", 60),
        Line("output", 30),
        Line("audio_output", 50),
    )


def test_embeddings_put_nothing_out() -> None:
    answer = {
        "object": "list",
        "data": [],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    usage = read_usage(
        CreateEmbeddingResponse.model_validate(answer),
        granted_model="openai/text-embedding-3-small",
    )
    assert usage == Usage(lines=(Line("embedding", 8),), total_tokens=8)


def test_cache_writes_are_split_by_how_long_they_last() -> None:
    usage = {
        **RESPONSE["usage"],  # type: ignore[dict-item]  # the payload is a dict of dicts
        "input_tokens_details": {
            "cached_tokens": 100,
            "cache_write_tokens": 200,
            "cache_write_tokens_details": {"ttl_12h_tokens": 150, "ttl_30m_tokens": 50},
        },
    }
    assert read_usage(usage, granted_model=GRANTED).lines[:4] == (
        Line("input", 28),
        Line("cache_read", 100),
        Line("cache_write_long", 150),
        Line("cache_write", 50),
    )


def test_details_that_overlap_never_count_more_than_the_whole() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 0,
        "total_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 90, "audio_tokens": 60},
    }
    lines = read_usage(usage, granted_model=GRANTED).lines
    assert sum(line.tokens for line in lines) == 100


@pytest.mark.parametrize(
    ("granted", "answered", "model", "version"),
    [
        ("openai/gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "", "gpt-4.1-mini-2025-04-14"),
        ("openai/gpt-4.1-mini", "gpt-4.1-mini", "", ""),
        ("openai/gpt-4", "gpt-4-0613", "", "gpt-4-0613"),
        # Names that were not asked for: an alias, a deployment, a route. They say which version.
        ("openai/gpt-4.1", "gpt-4.1-mini-2025-04-14", "", "gpt-4.1-mini-2025-04-14"),
        ("azure/prod-chat", "gpt-4.1-2025-04-14", "", "gpt-4.1-2025-04-14"),
        ("anthropic/claude-sonnet-4-0", "claude-sonnet-4-20250514", "", "claude-sonnet-4-20250514"),
        ("openrouter/auto", "anthropic/claude-3.5", "", "anthropic/claude-3.5"),
        # A provider of other providers names them too.
        ("openrouter/anthropic/claude-3.5", "anthropic/claude-3.5", "", ""),
        ("vllm/meta-llama/Llama-3-8B", "meta-llama/Llama-3-8B", "", ""),
        ("openai/gpt-4.1", "openai/gpt-4.1", "", ""),
        # Another that was asked for.
        ("openai/gpt-4.1", "o3-2025-04-16", "openai/o3", "o3-2025-04-16"),
        ("openai/gpt-4.1", "o3", "openai/o3", ""),
        ("openai/gpt-4.1-2025-04-14", "gpt-4.1-2025-04-14", "", "gpt-4.1-2025-04-14"),
        ("openai/gpt-4.1", "gpt-4.1-mini", "", "gpt-4.1-mini"),
        ("openai/o3", "", "", ""),
        (
            "anthropic/claude-sonnet-4-5",
            "claude-sonnet-4-5-20250929",
            "",
            "claude-sonnet-4-5-20250929",
        ),
        ("anthropic/claude-haiku-latest", "claude-haiku-20251001", "", "claude-haiku-20251001"),
        (
            "vertex/claude-sonnet-4-5",
            "claude-sonnet-4-5@20250929",
            "",
            "claude-sonnet-4-5@20250929",
        ),
    ],
)
def test_a_model_is_said_only_if_another_that_was_asked_for_answered(
    granted: str, answered: str, model: str, version: str
) -> None:
    usage = read_usage({**CHAT, "model": answered}, granted_model=granted, others=["openai/o3"])
    assert (usage.model, usage.model_version) == (model, version)


def test_plain_lines_and_tokens_by_meter_are_taken_as_they_are() -> None:
    lines = [Line("input", 8, component="retrieval", source="wiki"), Line("output", 3)]
    assert read_usage(lines, granted_model=GRANTED).lines == tuple(lines)
    by_meter = read_usage({"input": 8, "output": 3}, granted_model=GRANTED)
    assert by_meter.lines == (Line("input", 8), Line("output", 3))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("some text", "cannot read a usage from builtins.str"),
        ({"answer": 42}, "a dict with answer"),
        ({**CHAT, "usage": None}, "include_usage"),
        ({"input_tokens": 3, "cache_read_input_tokens": 9}, "cannot read a usage"),
        ({"type": "message", "id": "msg_1", "usage": None}, "this message has no usage"),
        ({"candidates": [], "modelVersion": "gemini-3-pro"}, "this response has no usage"),
        ({"output": {}, "stopReason": "end_turn"}, "this answer of Converse has no usage"),
        ({**CHAT_USAGE, "prompt_tokens": -3}, "prompt_tokens must be a whole number"),
        ({**CHAT_USAGE, "total_tokens": "many"}, "total_tokens must be a whole number"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_give_instead(
    answer: object, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_usage(answer, granted_model=GRANTED)


def test_a_line_refuses_a_meter_that_is_none() -> None:
    with pytest.raises(InvalidRequest, match="meter must be one of audio_input"):
        Line("ouput", 3).to_wire()  # type: ignore[arg-type]  # the mistake under test


def test_a_chat_with_tools_and_calls_is_made_countable() -> None:
    chat = chat_to_wire(
        [
            {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "weather", "arguments": '{"city":"Paris"}'}}],
            },
        ],
        [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    )
    assert chat.messages[0].parts[0].text == "Weather in Paris?"
    assert chat.messages[1].parts[0].tool_call == quota_pb2.ToolCall(
        name="weather", arguments_json='{"city":"Paris"}'
    )
    assert chat.tools[0].parameters_json == '{"type": "object"}'


def test_an_image_in_a_chat_is_refused_as_it_cannot_be_counted() -> None:
    with pytest.raises(InvalidRequest, match="image_url"):
        chat_to_wire([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def _status_error(status: int) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")
    response = httpx2.Response(status, request=request)
    kind = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        404: openai.NotFoundError,
        429: openai.RateLimitError,
    }.get(status, openai.APIStatusError)
    return kind("no", response=response, body=None)


@pytest.mark.parametrize(
    ("status", "proof"),
    [(400, True), (401, True), (404, True), (429, True), (408, False), (500, False), (503, False)],
)
def test_only_a_status_that_refuses_before_running_is_proof(status: int, proof: bool) -> None:  # noqa: FBT001
    assert proves_not_run(_status_error(status)) is proof


def _raised_by_client(port: int) -> BaseException:
    client = openai.OpenAI(
        api_key="none", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, timeout=0.2
    )
    try:
        with client:
            client.chat.completions.create(
                model="gpt-4.1-mini", messages=[{"role": "user", "content": "hi"}]
            )
    except openai.OpenAIError as error:
        return error
    raise AssertionError("nothing should answer there")


def test_a_refused_connection_of_the_real_client_is_proof(closed_port: int) -> None:
    error = _raised_by_client(closed_port)
    assert isinstance(error, openai.APIConnectionError)
    assert proves_not_run(error)


def test_a_timeout_of_the_real_client_is_no_proof(silent_port: int) -> None:
    error = _raised_by_client(silent_port)
    assert isinstance(error, openai.APITimeoutError)
    assert not proves_not_run(error)


def test_errors_of_others_are_no_proof() -> None:
    class Http404(Exception):  # noqa: N818  not ours to name
        status_code = 404

    assert not proves_not_run(Http404())
    assert not proves_not_run(KeyboardInterrupt())
    refused_meanwhile = RuntimeError("the model timed out")
    refused_meanwhile.__context__ = ConnectionRefusedError()
    assert not proves_not_run(refused_meanwhile)
    assert proves_not_run(ConnectionRefusedError())
