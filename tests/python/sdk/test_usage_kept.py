"""Usage is counted, whatever else a commit says wrongly; with a real sidecar that counts it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import bursar
from bursar.testing import ScriptedSidecar
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from tests.python.sdk.conftest import Away, Connect

USED = {"input": 812, "output": 97}
COUNTED = (909, 0, 1)


def reserved(client: bursar.Client) -> bursar.Reservation:
    return client.reserve(
        model="openai/gpt-4.1", input_tokens=812, output_tokens_max=400, labels={"tenant": "acme"}
    )


@pytest.mark.parametrize(
    "besides",
    [
        {"labels": {"user": 42}},
        {"labels": ["user"]},
        {"labels": {"user": "x" * 300}},
        {"labels": {"user": ""}},
        {"labels": {"tenant": "another"}},
        {"latency": "5"},
        {"latency": 1e11},
        {"first_token": -1},
        {"outcome": "done"},
        {"durability": "x"},
        {"timeout": 0},
        {"timeout": "soon"},
        {"model": "no provider"},
        {"colour": "blue"},
    ],
    ids=str,
)
def test_what_is_wrong_besides_the_usage_is_left_out_and_logged(
    away: Away, connect: Connect, caplog: pytest.LogCaptureFixture, besides: dict[str, Any]
) -> None:
    away.start()
    with connect(away.target) as client, reserved(client) as reservation:
        reservation.commit(USED, **besides)
        assert client.flush(20)
    assert away.counted() == COUNTED
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def test_what_a_provider_says_too_long_is_left_out(away: Away, connect: Connect) -> None:
    away.start()
    chat = {
        "object": "chat.completion",
        "id": "i" * 300,
        "model": "m" * 300,
        "usage": {"prompt_tokens": 812, "completion_tokens": 97, "total_tokens": 909},
    }
    client = connect(away.target)
    for answer in (chat, {**chat, "id": "i" * 70_000}):
        reserved(client).commit(answer)
    assert away.counted() == (2 * 909, 0, 2)


def test_more_lines_than_may_be_are_summed(away: Away, connect: Connect) -> None:
    away.start()
    lines = [bursar.Line("input", 1, component=f"part-{number}") for number in range(900)]
    reserved(connect(away.target)).commit([*lines, bursar.Line("output", 9)])
    assert away.counted() == COUNTED


def test_usage_that_is_recorded_instead_is_kept_as_well(away: Away, connect: Connect) -> None:
    client = connect(away.target, on_undecided="allow", timeout=0.5)
    with reserved(client) as reservation:
        reservation.commit(USED, latency=1e11)
    away.start()
    assert client.flush(20)
    assert away.counted() == COUNTED


def test_a_release_with_too_long_a_reason_releases(away: Away, connect: Connect) -> None:
    away.start()
    reservation = reserved(connect(away.target))
    assert reservation.release(reason="r" * 2_000) is not None
    assert away.counted() == (0, 0, 0)


def test_usage_stays_with_the_limit_that_granted_it_unless_the_caller_says_otherwise(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    chat = {
        "object": "chat.completion",
        "id": "c",
        "model": "gpt-4.1-2025-04-14",
        "usage": {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11},
    }
    client.reserve(model="azure/prod-chat", input_tokens=8).commit(chat)
    client.reserve(model="azure/prod-chat", input_tokens=8).commit(chat, model="azure/gpt-4.1")
    said = [(each.model, each.model_version) for each in scripted.asked("Commit")]  # type: ignore[attr-defined]
    assert said == [("", "gpt-4.1-2025-04-14"), ("azure/gpt-4.1", "gpt-4.1-2025-04-14")]


WRONG_RESERVES: list[tuple[dict[str, Any], str]] = [
    ({"model": 3}, "model must be a text"),
    ({"reservation_id": 7}, "reservation_id must be a text"),
    ({"labels": {"tenant": 1}}, "label tenant must be a text"),
    ({"labels": ["a"]}, "labels must be a dict such as"),
    ({"fallback_models": "openai/x"}, "fallback_models must be a list of texts"),
    ({"fallback_models": [1]}, r"fallback_models\[0\] must be a text"),
    ({"service_tier": 1}, "service_tier must be a text"),
    ({"text": 4}, "text must be a text"),
    ({"text": "\ud800"}, "text must be Unicode text"),
    ({"chat": "hello"}, "chat must be a list"),
    ({"chat": {"role": "user"}}, "chat must be a list"),
    ({"text": "x", "tools": [{}]}, "tools go with chat"),
    ({"ttl": "1m"}, "ttl must be seconds or a timedelta"),
    ({"ttl": float("nan")}, "ttl must be seconds or a timedelta"),
    ({"ttl": 1e30}, "ttl must be seconds or a timedelta"),
    ({"wait": "10s"}, "wait must be seconds or a timedelta"),
    ({"timeout": "1"}, "a timeout must be seconds or a timedelta"),
    ({"input_tokens": 2**70}, "input_tokens must be a whole number"),
    ({"choices": 2**40}, "choices must be a whole number from 0 to 4294967295"),
]


@pytest.mark.parametrize(("said", "error"), WRONG_RESERVES, ids=str)
def test_a_wrong_argument_is_named_with_what_to_write(
    client: bursar.Client, said: dict[str, Any], error: str
) -> None:
    with pytest.raises(bursar.InvalidRequest, match=error):
        client.reserve(**{"model": "a/b", **said})


def test_wrong_arguments_elsewhere_are_named_too(client: bursar.Client) -> None:
    for wrong in (0, "yesterday", datetime(2026, 1, 1)):  # noqa: DTZ001  that is the mistake
        with pytest.raises(bursar.InvalidRequest, match="occurred_at must be a datetime with a"):
            client.record(USED, model="a/b", occurred_at=wrong)  # type: ignore[arg-type]
    with pytest.raises(bursar.InvalidRequest, match="label tenant must be a text"):
        bursar.labels(tenant=3)  # type: ignore[arg-type]
    with pytest.raises(bursar.InvalidRequest, match="meter must be one of"):
        bursar.Line("inputs", 5)  # type: ignore[arg-type]
    with pytest.raises(bursar.InvalidRequest, match="must be a whole number of at least 0"):
        bursar.Line("input", -5)
    with pytest.raises(bursar.InvalidRequest, match="ouput is no meter; known are audio_input"):
        client.record({"input": 7, "ouput": 9}, model="a/b", occurred_at=datetime.now(UTC))
    client.reserve(model="a/b", chat=[{"role": "user", "content": "hi"}], tools=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "target", ["garbage", "http://127.0.0.1:7420", "/run/bursar.sock", "127.0.0.1:99999", 123, ":1"]
)
def test_a_target_that_is_none_is_refused_at_once(target: Any, connect: Connect) -> None:  # noqa: ANN401
    with pytest.raises(bursar.InvalidRequest, match=r"the target must be unix:/run/bursar"):
        connect(target, on_undecided="allow")


def test_a_listener_of_the_sidecar_that_is_off_is_not_dialled(
    away: Away, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.start(BURSAR_SOCKET="off")
    assert away.served is not None
    monkeypatch.setenv("BURSAR_SOCKET", "off")
    monkeypatch.setenv("BURSAR_LISTEN", away.served.listen)
    assert reserved(connect()).commit(USED) is not None


def test_another_port_and_an_absent_socket_are_said(away: Away, connect: Connect) -> None:
    absent = connect(away.target, timeout=0.2)
    with pytest.raises(bursar.Unanswered, match="no socket lies there"):
        reserved(absent)
    away.start()
    assert away.served is not None
    with pytest.raises(bursar.InvalidRequest, match="such as admin's"):
        reserved(connect(str(away.served.ready["admin_listen"])))


START = {
    "type": "message_start",
    "message": {
        "type": "message",
        "id": "m",
        "model": "claude-sonnet-4-5",
        "usage": {"input_tokens": 5_000, "output_tokens": 1},
    },
}
DELTA = {"type": "content_block_delta", "delta": {"text": "Hello"}}


@pytest.mark.parametrize("cut", ["left", "failed"])
def test_a_stream_of_anthropics_that_is_cut_short_keeps_the_input_it_stated(
    scripted: ScriptedSidecar, cut: str
) -> None:
    def events() -> Iterator[dict[str, Any]]:
        yield START
        yield DELTA
        if cut == "failed":
            raise ConnectionResetError
        yield DELTA

    client = bursar.Client(scripted.target, on_undecided="deny")
    with (
        client,
        contextlib.suppress(ConnectionResetError),
        client.reserve(model="anthropic/claude-sonnet-4-5", input_tokens=10) as reservation,
    ):
        for event in reservation.follow(events()):
            if event is DELTA and cut == "left":
                break
    (commit,) = scripted.asked("Commit")
    tokens = {each.meter: each.tokens for each in commit.lines}  # type: ignore[attr-defined]
    assert tokens == {quota_pb2.METER_INPUT: 5_000, quota_pb2.METER_OUTPUT: 1}


def test_a_stream_within_an_answer_is_followed_as_boto3_gives_it(scripted: ScriptedSidecar) -> None:
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    said = [{"contentBlockDelta": {}}, {"metadata": {"usage": usage}}]
    with bursar.Client(scripted.target, on_undecided="deny") as client:
        reservation = client.reserve(model="bedrock/amazon.nova-pro-v1:0", input_tokens=7)
        answer: Any = {"ResponseMetadata": {}, "stream": iter(said)}
        assert list(reservation.follow(answer)) == said
        (commit,) = scripted.asked("Commit")
        assert [each.tokens for each in commit.lines] == [7, 3]  # type: ignore[attr-defined]
        other = client.reserve(model="a/b", input_tokens=7)
        with pytest.raises(bursar.InvalidRequest, match="cannot follow a dict with text"):
            next(iter(other.follow({"text": "x"})))
        other.release()
