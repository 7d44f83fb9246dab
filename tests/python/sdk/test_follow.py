"""A stream that is followed is handed on whole, and what it says of its usage is committed."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anthropic
import openai
import pytest

import bursar
from bursar.testing import ScriptedSidecar
from bursar.v1 import quota_pb2

CHAT_CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "gpt-4.1-mini-2025-04-14",
}
CHAT = [
    {**CHAT_CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
    {**CHAT_CHUNK, "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "stop"}]},
    {
        **CHAT_CHUNK,
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    },
]
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-4.1-mini-2025-04-14",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": RESPONSE},
    {
        "type": "response.output_text.delta", "sequence_number": 1, "delta": "Hello",
        "item_id": "m", "output_index": 0, "content_index": 0, "logprobs": [],
    },
    {
        "type": "response.completed", "sequence_number": 2,
        "response": {
            **RESPONSE,
            "usage": {
                "input_tokens": 9, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 11,
            },
        },
    },
]  # fmt: skip
MESSAGES: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "content": [],
            "model": "claude-example-20251001", "stop_reason": None, "stop_sequence": None,
            "usage": {
                "input_tokens": 5, "cache_read_input_tokens": 4,
                "cache_creation_input_tokens": 0, "output_tokens": 1, "service_tier": "standard",
            },
        },
    },
    {
        "type": "content_block_start", "index": 0,
        "content_block": {"type": "text", "text": ""},
    },
    {
        "type": "content_block_delta", "index": 0,
        "delta": {"type": "text_delta", "text": "Hello"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta", "usage": {"output_tokens": 2},
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    },
    {"type": "message_stop"},
]  # fmt: skip
GEMINI = [
    {"candidates": [], "usageMetadata": {"promptTokenCount": 9}},
    {"candidates": [], "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2}},
]
CONVERSE = [
    {"contentBlockDelta": {"delta": {"text": "Hello"}}},
    {"metadata": {"usage": {"inputTokens": 9, "outputTokens": 2, "totalTokens": 11}}},
]
SPOKEN = {
    "/v1/chat/completions": [*map(json.dumps, CHAT), "[DONE]"],
    "/v1/responses": list(map(json.dumps, RESPONSES)),
    "/v1/messages": list(map(json.dumps, MESSAGES)),
}


class Provider(BaseHTTPRequestHandler):
    """Streams what each provider's server would, as server-sent events."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for spoken in SPOKEN[self.path]:
            kind = "" if spoken == "[DONE]" else json.loads(spoken).get("type", "")
            name = f"event: {kind}\n" if kind else ""
            self.wfile.write(f"{name}data: {spoken}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a server that streams; the clients that ask it are the real ones."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


def committed(scripted: ScriptedSidecar) -> quota_pb2.CommitRequest:
    (commit,) = scripted.asked("Commit")
    assert isinstance(commit, quota_pb2.CommitRequest)
    return commit


def tokens(commit: quota_pb2.CommitRequest) -> dict[str, int]:
    return {quota_pb2.Meter.Name(line.meter).lower(): line.tokens for line in commit.lines}


@pytest.mark.parametrize(
    ("stream", "counted"),
    [
        (CHAT, {"meter_input": 9, "meter_output": 2}),
        (RESPONSES, {"meter_input": 9, "meter_output": 2}),
        (MESSAGES, {"meter_input": 5, "meter_cache_read": 4, "meter_output": 2}),
        (GEMINI, {"meter_input": 9, "meter_output": 2}),
        (CONVERSE, {"meter_input": 9, "meter_output": 2}),
    ],
    ids=["chat", "responses", "messages", "gemini", "converse"],
)
def test_a_stream_that_is_heard_out_commits_its_usage(
    scripted: ScriptedSidecar, client: bursar.Client, stream: list[object], counted: dict[str, int]
) -> None:
    with client.reserve(model="a/b", input_tokens=9, output_tokens_max=5) as reservation:
        assert list(reservation.follow(stream, labels={"prompt": "greeting"})) == stream
    commit = committed(scripted)
    assert commit.outcome == quota_pb2.OUTCOME_COMPLETED
    assert tokens(commit) == counted
    assert commit.labels == {"prompt": "greeting"}
    assert commit.latency_ms >= commit.first_token_ms


def test_a_stream_that_is_left_early_is_committed_with_what_it_said_so_far(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with client.reserve(model="a/b", input_tokens=9) as reservation:
        for event in reservation.follow(MESSAGES):
            if event["type"] == "message_delta":
                break
    commit = committed(scripted)
    assert commit.outcome == quota_pb2.OUTCOME_CANCELLED
    assert tokens(commit) == {"meter_input": 5, "meter_cache_read": 4, "meter_output": 2}


def test_a_stream_that_is_left_before_it_said_anything_is_of_unknown_cost(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with client.reserve(model="a/b", input_tokens=9) as reservation:
        next(iter(reservation.follow(CHAT)))
    commit = committed(scripted)
    assert commit.outcome == quota_pb2.OUTCOME_UNKNOWN
    assert not commit.lines


def test_a_stream_that_fails_is_committed_as_failed_and_never_released(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    def broken() -> Iterator[object]:
        yield from MESSAGES[:5]
        raise ConnectionRefusedError  # of a block without a stream this proves that nothing ran

    with (
        pytest.raises(ConnectionRefusedError),
        client.reserve(model="a/b", input_tokens=9) as reservation,
    ):
        list(reservation.follow(broken()))
    commit = committed(scripted)
    assert commit.outcome == quota_pb2.OUTCOME_FAILED
    assert tokens(commit) == {"meter_input": 5, "meter_cache_read": 4, "meter_output": 2}
    assert not scripted.asked("Release")


def _fails_on(events: Iterable[object]) -> None:
    for _ in events:
        raise ConnectionRefusedError


def test_an_error_of_the_caller_in_the_middle_of_a_stream_releases_nothing(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with (
        pytest.raises(ConnectionRefusedError),
        client.reserve(model="a/b", input_tokens=9) as reservation,
    ):
        _fails_on(reservation.follow(CHAT))
    assert committed(scripted).outcome == quota_pb2.OUTCOME_UNKNOWN
    assert not scripted.asked("Release")


def test_a_stream_that_never_began_is_settled_as_if_it_were_not_there(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    def refused() -> object:
        raise ConnectionRefusedError

    with (
        pytest.raises(ConnectionRefusedError),
        client.reserve(model="a/b", input_tokens=9) as reservation,
    ):
        list(reservation.follow(refused() for _ in range(1)))
    assert not scripted.asked("Commit")
    assert len(scripted.asked("Release")) == 1


def test_a_stream_without_a_word_of_its_usage_is_unknown_and_says_what_to_ask_for(
    scripted: ScriptedSidecar, client: bursar.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, "bursar"),
        client.reserve(model="a/b", input_tokens=9) as reservation,
    ):
        list(reservation.follow(CHAT[:2]))
    assert committed(scripted).outcome == quota_pb2.OUTCOME_UNKNOWN
    assert "include_usage" in caplog.text


def test_the_streams_of_the_real_clients_are_followed(
    scripted: ScriptedSidecar, provider: str
) -> None:
    said: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with (
        bursar.Client(scripted.target, on_undecided="deny") as client,
        openai.OpenAI(api_key="none", base_url=f"{provider}/v1") as chats,
        anthropic.Anthropic(api_key="none", base_url=provider) as messages,
    ):
        streams: Sequence[Any] = (
            chats.chat.completions.create(**said, stream_options={"include_usage": True}),
            chats.responses.create(model="m", input="hi", stream=True),
            messages.messages.create(**said, max_tokens=9),
        )
        for stream in streams:
            with client.reserve(model="a/b", input_tokens=9) as reservation:
                assert len(list(reservation.follow(stream))) > 2
    _all_three(scripted)


def test_the_streams_of_the_real_asynchronous_clients_are_followed(
    scripted: ScriptedSidecar, provider: str
) -> None:
    said: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}

    async def ask() -> None:
        async with (
            bursar.AsyncClient(scripted.target, on_undecided="deny") as client,
            openai.AsyncOpenAI(api_key="none", base_url=f"{provider}/v1") as chats,
            anthropic.AsyncAnthropic(api_key="none", base_url=provider) as messages,
        ):
            streams: Sequence[Any] = (
                await chats.chat.completions.create(**said, stream_options={"include_usage": True}),
                await chats.responses.create(model="m", input="hi", stream=True),
                await messages.messages.create(**said, max_tokens=9),
            )
            for stream in streams:
                async with client.reserve(model="a/b", input_tokens=9) as reservation:
                    assert len([each async for each in reservation.follow(stream)]) > 2

    asyncio.run(ask())
    _all_three(scripted)


def _all_three(scripted: ScriptedSidecar) -> None:
    commits = scripted.asked("Commit")
    assert [each.response_id for each in commits if isinstance(each, quota_pb2.CommitRequest)] == [
        "chatcmpl-1", "resp_1", "msg_1",
    ]  # fmt: skip
    for each in commits:
        assert isinstance(each, quota_pb2.CommitRequest)
        assert each.outcome == quota_pb2.OUTCOME_COMPLETED
        assert sum(line.tokens for line in each.lines) == 11
