"""What the client asks and hands back, and what it does when there is no answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

import bursar
from bursar.arguments import new_id
from bursar.testing import SILENCE, Failure, ScriptedSidecar
from bursar.v1 import quota_pb2


def _asked(scripted: ScriptedSidecar) -> quota_pb2.ReserveRequest:
    request = scripted.asked("Reserve")[-1]
    assert isinstance(request, quota_pb2.ReserveRequest)
    return request


def test_a_client_says_what_both_meanings_of_undecided_are() -> None:
    with pytest.raises(
        bursar.InvalidRequest, match=r'"deny".*does not run.*"allow".*runs'
    ) as raised:
        bursar.Client("unix:/nowhere")
    assert isinstance(raised.value, ValueError)


def test_without_a_target_the_environment_says_where(
    scripted: ScriptedSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURSAR_SOCKET", raising=False)
    monkeypatch.delenv("BURSAR_LISTEN", raising=False)
    with pytest.raises(bursar.InvalidRequest, match="BURSAR_SOCKET"):
        bursar.Client(on_undecided="deny")
    monkeypatch.setenv("BURSAR_LISTEN", scripted.target)
    with bursar.Client(on_undecided="deny", timeout=5) as client:
        assert client.count(model="a/b", texts=["hi"]).tokens == [1]


def test_everything_a_caller_says_is_asked(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    client.reserve(
        model="openai/gpt-4.1-mini",
        text="Hello",
        output_tokens_max=800,
        output_tokens_min=100,
        choices=2,
        fallback_models=["openai/gpt-4.1-nano"],
        service_tier="flex",
        ttl=timedelta(minutes=2),
        labels={"feature": "search"},
        reservation_id="mine",
        durability="power",
        dry_run=True,
    )
    assert _asked(scripted) == quota_pb2.ReserveRequest(
        reservation_id="mine",
        model="openai/gpt-4.1-mini",
        fallback_models=["openai/gpt-4.1-nano"],
        service_tier="flex",
        labels={"feature": "search"},
        input_text="Hello",
        output_tokens_max=800,
        output_tokens_min=100,
        choices=2,
        ttl_ms=120_000,
        dry_run=True,
        durability=quota_pb2.DURABILITY_POWER,
    )


def test_each_form_of_input_is_sent_as_such(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    client.reserve(model="a/b", input_bytes=9)
    assert _asked(scripted).input_bytes == 9
    client.reserve(model="a/b", chat=[{"role": "user", "content": "hi"}])
    assert _asked(scripted).input_chat.messages[0].text == "hi"
    client.reserve(model="a/b", lines=[bursar.Line("cache_read", 5), bursar.Line("input", 2)])
    assert [line.tokens for line in _asked(scripted).input_lines.lines] == [5, 2]
    client.reserve(model="a/b")
    assert _asked(scripted).WhichOneof("input") is None


def test_input_in_two_forms_is_refused(client: bursar.Client) -> None:
    with pytest.raises(bursar.InvalidRequest, match="input_tokens and text"):
        client.reserve(model="a/b", text="hi", input_tokens=1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"output_tokens_max": -1}, "output_tokens_max must be a whole number"),
        ({"input_tokens": 1.5}, "input_tokens must be a whole number"),
        ({"durability": "disk"}, "durability must be process or power"),
        ({"timeout": 0}, "a timeout must be above zero"),
    ],
)
def test_a_wrong_argument_is_named(
    client: bursar.Client, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(bursar.InvalidRequest, match=said):
        client.reserve(model="a/b", **wrong)  # type: ignore[arg-type]  # the mistake under test


def test_a_grant_is_handed_back_whole(client: bursar.Client) -> None:
    reservation = client.reserve(model="a/b", input_tokens=8, output_tokens_max=5)
    assert reservation.model == "a/b"
    assert (reservation.input_tokens, reservation.output_tokens_granted) == (8, 5)
    assert reservation.tokens_reserved == 13
    expires_at = datetime.fromtimestamp(reservation.grant.expires_at_unix_ms / 1000, tz=UTC)
    assert reservation.expires_at == expires_at
    assert not reservation.replayed


def test_a_replayed_grant_that_is_settled_is_not_used(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    settled = quota_pb2.Grant(reservation_id="r", state=quota_pb2.STATE_COMMITTED, model="a/b")
    scripted.answer("Reserve", quota_pb2.ReserveResponse(grant=settled, replayed=True))
    with pytest.raises(bursar.NotOpen, match="is committed"):
        client.reserve(model="a/b", reservation_id="r")
    assert not scripted.asked("Commit")


def test_unavailable_is_tried_three_times(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    away = Failure(grpc.StatusCode.UNAVAILABLE, reason="OVERLOADED")
    scripted.answer("Reserve", away, away)
    client.reserve(model="a/b", input_tokens=1)
    assert len(scripted.asked("Reserve")) == 3
    assert len({_id(each) for each in scripted.asked("Reserve")}) == 1  # the same question


def _id(request: object) -> str:
    assert isinstance(request, quota_pb2.ReserveRequest)
    return request.reservation_id


def test_a_reserve_without_an_answer_is_undecided_and_released_behind(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", SILENCE)
    with pytest.raises(bursar.Undecided, match="DEADLINE_EXCEEDED"):
        client.reserve(model="a/b", reservation_id="lost", timeout=0.3)
    release = scripted.wait_for("Release")
    assert isinstance(release, quota_pb2.ReleaseRequest)
    assert release.reservation_id == "lost"


def test_a_sidecar_that_is_away_is_undecided_within_the_deadline(closed_port: int) -> None:
    with (
        bursar.Client(f"127.0.0.1:{closed_port}", on_undecided="deny") as client,
        pytest.raises(bursar.Undecided, match="no answer from the sidecar"),
    ):
        client.reserve(model="a/b", input_tokens=1, timeout=0.2)


def test_labels_nest_and_the_callers_own_win(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with (
        bursar.labels(tenant="acme", feature="search"),
        bursar.labels(feature="summaries", user="u1"),
    ):
        client.reserve(model="a/b", labels={"user": "u2"})
    assert dict(_asked(scripted).labels) == {"tenant": "acme", "feature": "summaries", "user": "u2"}
    client.reserve(model="a/b")
    assert not _asked(scripted).labels


def test_labels_decorate_functions_also_async_and_recursive_ones(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    @bursar.labels(tenant="acme")
    def nested(depth: int) -> None:
        if depth:
            nested(depth - 1)
        client.reserve(model="a/b")

    @bursar.labels(tenant="globex")
    async def later() -> None:
        await asyncio.sleep(0)
        client.reserve(model="a/b")

    nested(2)
    assert all(dict(_labels(each)) == {"tenant": "acme"} for each in scripted.asked("Reserve"))
    asyncio.run(later())
    assert dict(_asked(scripted).labels) == {"tenant": "globex"}


def _labels(request: object) -> dict[str, str]:
    assert isinstance(request, quota_pb2.ReserveRequest)
    return dict(request.labels)


def test_labels_refuse_a_generator() -> None:
    def generate() -> Iterator[int]:
        yield 1

    with pytest.raises(bursar.InvalidRequest, match="generator"):
        bursar.labels(tenant="acme")(generate)


def test_threads_share_a_client(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    def reserve(tenant: str) -> None:
        with bursar.labels(tenant=tenant), client.reserve(model="a/b") as reservation:
            reservation.commit({"input": 1})

    threads = [threading.Thread(target=reserve, args=(f"t{each}",)) for each in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {_labels(each)["tenant"] for each in scripted.asked("Reserve")} == {
        f"t{each}" for each in range(16)
    }
    assert len(scripted.asked("Commit")) == 16


def test_a_record_says_when_and_raises_what_is_wrong(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    instant = datetime(2026, 11, 1, 12, tzinfo=UTC)
    answer = client.record({"embedding": 40}, model="a/b", occurred_at=instant, record_id="batch-1")
    assert answer.tokens_committed == 40
    (record,) = scripted.asked("Record")
    assert isinstance(record, quota_pb2.RecordRequest)
    assert record.occurred_at_unix_ms == int(instant.timestamp() * 1000)
    with pytest.raises(bursar.InvalidRequest, match="time zone"):
        client.record({"input": 1}, model="a/b", occurred_at=datetime(2026, 11, 1))  # noqa: DTZ001
    scripted.answer("Record", Failure(grpc.StatusCode.ALREADY_EXISTS))
    with pytest.raises(bursar.Conflict):
        client.record({"input": 1}, model="a/b", occurred_at=instant, record_id="batch-1")


def test_new_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    made = [uuid.UUID(new_id()) for _ in range(1000)]
    assert all(each.version == 7 and each.variant == uuid.RFC_4122 for each in made)
    assert len(set(made)) == 1000
    instants = [each.int >> 80 for each in made]
    assert instants == sorted(instants)


def test_importing_bursar_and_its_errors_imports_neither_grpc_nor_protobuf() -> None:
    code = (
        "import sys, bursar, bursar.errors; bursar.Denied; "
        "print([name for name in sys.modules if name.startswith(('grpc', 'google.protobuf'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_forked_child_is_told_to_make_its_own_client(tmp_path: Path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(
        "import multiprocessing, bursar\n"
        "client = bursar.Client('unix:/nowhere', on_undecided='deny')\n"
        "def use(said):\n"
        "    try: client.count(model='a/b', texts=['hi'])\n"
        "    except bursar.InvalidRequest as error: said.put(str(error))\n"
        "context = multiprocessing.get_context('fork')\n"
        "said = context.Queue()\n"
        "child = context.Process(target=use, args=(said,))\n"
        "child.start(); print(said.get(timeout=20)); child.join()\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "make a bursar.Client in the child" in ran.stdout
