"""A scripted sidecar answers real clients as it was told, and by the contract's rules of ids."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from tests.conftest import HandSidecar
from tests.system.conftest import Stock

import bursar
from bursar.testing import SILENCE, ScriptedSidecar, denial, failure, grant
from bursar.v1 import quota_pb2

NOW = datetime(2026, 11, 25, tzinfo=UTC)
POLICY = """
policy: tests
time_zone: UTC
labels: {}
reservations: {ttl: 5m, unsettled: charge_input}
limits: []
"""

LINE = quota_pb2.Line(meter=quota_pb2.METER_INPUT, tokens=1)
WRONG = {
    "model": quota_pb2.ReserveRequest(reservation_id="r", model="gpt"),
    "no model": quota_pb2.ReserveRequest(reservation_id="r"),
    "fallback": quota_pb2.ReserveRequest(reservation_id="r", model="a/b", fallback_models=["gpt"]),
    "id": quota_pb2.ReserveRequest(reservation_id="r" * 65, model="a/b"),
    "no id": quota_pb2.ReserveRequest(model="a/b"),
    "output": quota_pb2.ReserveRequest(
        reservation_id="r", model="a/b", output_tokens_min=3, output_tokens_max=2
    ),
    "label": quota_pb2.ReserveRequest(reservation_id="r", model="a/b", labels={"Bad": ""}),
    "request's own": quota_pb2.ReserveRequest(
        reservation_id="r", model="a/b", labels={"model": "x"}
    ),
    "ttl": quota_pb2.ReserveRequest(reservation_id="r", model="a/b", ttl_ms=1),
    "commit without usage": quota_pb2.CommitRequest(
        reservation_id="r", outcome=quota_pb2.OUTCOME_COMPLETED
    ),
    "commit of many lines": quota_pb2.CommitRequest(
        reservation_id="r", outcome=quota_pb2.OUTCOME_COMPLETED, lines=[LINE] * 33
    ),
    "release of a long id": quota_pb2.ReleaseRequest(reservation_id="r" * 65),
    "record at no instant": quota_pb2.RecordRequest(record_id="r", model="a/b", lines=[LINE]),
    "count": quota_pb2.CountTokensRequest(model="gpt", texts=["hi"]),
}
"""What a sidecar refuses whatever its policy, by what is wrong."""


def test_what_is_not_scripted_is_granted_in_full(client: bursar.Client) -> None:
    reservation = client.reserve(model="a/b", text="x" * 10, output_tokens_max=7, choices=2)
    assert reservation.output_tokens_granted == 7
    assert reservation.input_tokens == 3
    assert reservation.tokens_reserved == 17
    assert client.count(model="a/b", texts=["x" * 10, ""]).tokens == [3, 0]


def test_answers_come_in_the_order_they_are_laid_out_and_then_as_usual(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer(
        "Reserve",
        grant(output_tokens=3, model="a/small"),
        denial(limit="tenant-month", reason="request_cap", retry_after=30, hint="ask for less"),
    )
    cut = client.reserve(model="a/b", input_tokens=5, output_tokens_max=9)
    assert (cut.model, cut.output_tokens_granted, cut.tokens_reserved) == ("a/small", 3, 8)
    with pytest.raises(bursar.Denied, match="ask for less") as raised:
        client.reserve(model="a/b", input_tokens=5)
    assert raised.value.reason == "request_cap"
    assert raised.value.retry_after == timedelta(seconds=30)
    assert raised.value.shortfalls[0].standing.limit == "tenant-month"
    assert client.reserve(model="a/b", output_tokens_max=9).output_tokens_granted == 9


def test_a_denied_id_is_decided_anew_and_a_granted_one_is_replayed_or_a_conflict(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", denial())
    with pytest.raises(bursar.Denied, match="scripted-limit"):
        client.reserve(model="a/b", reservation_id="r")
    first = client.reserve(model="a/b", reservation_id="r")
    again = client.reserve(model="a/b", reservation_id="r", durability="power")
    assert (first.replayed, again.replayed) == (False, True)
    with pytest.raises(bursar.Conflict):
        client.reserve(model="a/b", reservation_id="r", input_tokens=1)
    again.commit({"input": 1})
    with pytest.raises(bursar.NotOpen):
        client.reserve(model="a/b", reservation_id="r")


def test_what_was_done_to_a_reservation_is_there_to_be_asserted(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with bursar.labels(tenant="acme"):
        spent = client.reserve(model="a/b", input_tokens=5, reservation_id="spent")
        given_back = client.reserve(model="a/b", reservation_id="given back")
        client.reserve(model="a/b", reservation_id="left open")
        client.record({"embedding": 9}, model="a/e", occurred_at=NOW, record_id="batch")
    answer = spent.commit({"input": 5, "output": 4}, labels={"prompt": "greeting"})
    assert answer is not None
    assert (answer.tokens_committed, answer.tokens_overrun, answer.late) == (9, 4, False)
    released = given_back.release(reason="cached")
    assert released is not None
    assert not released.replayed
    found = scripted.reservations
    assert {named: each.state for named, each in found.items()} == {
        "spent": "committed",
        "given back": "released",
        "left open": "open",
        "batch": "recorded",
    }
    assert found["spent"].tokens_committed == found["batch"].tokens_committed == 9
    assert found["spent"].labels == {"tenant": "acme", "prompt": "greeting"}
    assert found["given back"].release is not None
    assert found["given back"].release.reason == "cached"


def test_a_settlement_counts_once_late_or_again_and_never_with_other_content(
    scripted: ScriptedSidecar, client: bursar.Client, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = client.reserve(model="a/b", input_tokens=5)
    assert reservation.release() is not None
    late = reservation.commit({"input": 5})
    assert late is not None
    assert late.late
    again = reservation.commit({"input": 5})
    assert again is not None
    assert again.replayed
    with caplog.at_level(logging.ERROR, "bursar"):
        assert reservation.commit({"input": 6}) is None  # it never raises
        assert reservation.release() is None
    assert [word for word in ("other content", "is committed") if word not in caplog.text] == []
    client.record({"input": 1}, model="a/b", occurred_at=NOW, record_id="batch")
    assert client.record({"input": 1}, model="a/b", occurred_at=NOW, record_id="batch").replayed
    with pytest.raises(bursar.Conflict):
        client.record({"input": 2}, model="a/b", occurred_at=NOW, record_id="batch")
    assert scripted.reservations["batch"].tokens_committed == 1


def test_a_dry_run_leaves_nothing(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    assert client.reserve(model="a/b", output_tokens_max=4, dry_run=True).output_tokens_granted == 4
    assert not scripted.reservations


def test_a_failure_is_what_the_client_makes_of_it(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer(
        "Reserve", failure("INVALID_ARGUMENT", fields=[("model", "say provider/model")])
    )
    with pytest.raises(bursar.InvalidRequest, match="as the script has it") as raised:
        client.reserve(model="b")
    assert raised.value.fields == (("model", "say provider/model"),)
    scripted.answer("Reserve", *[failure("UNAVAILABLE", "away", reason="DRAINING")] * 3)
    with pytest.raises(bursar.Undecided, match="away") as undecided:
        client.reserve(model="a/b")
    assert undecided.value.reason == "DRAINING"


def test_silence_lasts_until_the_deadline_and_what_is_sent_behind_is_waited_for(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", SILENCE)
    with pytest.raises(bursar.Undecided):
        client.reserve(model="a/b", reservation_id="lost", timeout=0.2)
    release = scripted.wait_for("Release")
    assert isinstance(release, quota_pb2.ReleaseRequest)
    assert release.reservation_id == "lost"
    with pytest.raises(TimeoutError, match="1 of 9 calls of Release"):
        scripted.wait_for("Release", count=9, timeout=0.01)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_every_sidecar_refuses_is_refused_in_the_same_words(
    scripted: ScriptedSidecar, start_sidecar: Callable[[str], HandSidecar], wrong: str
) -> None:
    real = _refusal(start_sidecar(POLICY).listen, WRONG[wrong])
    assert real[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert _refusal(scripted.target, WRONG[wrong]) == real
    assert not scripted.reservations


def _refusal(target: str, request: Message) -> tuple[grpc.StatusCode, str, bytes]:
    """The status that a request is refused with, its text, and its details as they are sent."""
    stock = Stock(target)
    method = type(request).__name__.removesuffix("Request")
    with stock.channel, pytest.raises(grpc.RpcError) as raised:
        getattr(stock.quota, method)(request, timeout=10)
    refused: Any = raised.value  # also a call, which its type does not say
    details = dict(refused.trailing_metadata())["grpc-status-details-bin"]
    return refused.code(), refused.details(), details


def test_a_scripted_grant_saves_no_wrong_request_and_a_scripted_failure_comes_first(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", grant(), SILENCE, failure("PERMISSION_DENIED", "as scripted"))
    with pytest.raises(bursar.InvalidRequest, match="provider/model") as raised:
        client.reserve(model="gpt")
    assert [field for field, _ in raised.value.fields] == ["model"]
    with pytest.raises(bursar.Undecided):
        client.reserve(model="gpt", timeout=0.2)
    with pytest.raises(bursar.NotAllowed, match="as scripted"):
        client.reserve(model="gpt")


def test_an_answer_that_is_none_to_its_method_is_named_and_nothing_of_it_is_laid_out(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with pytest.raises(
        bursar.InvalidRequest, match=r"a CommitResponse, a failure\(\).*got a ReserveResponse"
    ):
        scripted.answer("Commit", quota_pb2.CommitResponse(late=True), denial(limit="x"))
    mistakes: list[Any] = [None, "denied", {}, quota_pb2.CommitResponse(), denial, grant]
    mistakes += [quota_pb2.ReserveResponse, lambda: None]
    for mistake in mistakes:
        with pytest.raises(bursar.InvalidRequest, match=r"a grant\(\) or denial\(\).*got "):
            scripted.answer("Reserve", mistake)
    for method in ("Commit", "Release", "Record", "CountTokens"):
        with pytest.raises(bursar.InvalidRequest, match=f"a {method}Response"):
            scripted.answer(method, grant())
    answer = client.reserve(model="a/b").commit({"input": 1})
    assert answer is not None
    assert (answer.late, answer.tokens_committed) == (False, 1)


def test_a_function_that_makes_no_answer_fails_the_call_as_a_bug(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", lambda _: quota_pb2.CommitResponse())
    with pytest.raises(bursar.Undecided, match="got a CommitResponse") as raised:
        client.reserve(model="a/b")
    assert raised.value.is_bug


def test_what_a_scripted_sidecar_refuses_is_kept_aside_until_it_closes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = os.environ["BURSAR_SPOOL"]
    with (
        ScriptedSidecar() as sidecar,
        bursar.Client(sidecar.target, on_undecided="deny", timeout=5) as client,
    ):
        aside = Path(os.environ["BURSAR_SPOOL"])
        _have_one_refused(sidecar, client)
        assert len(list(aside.glob("*/refused.jsonl"))) == 1
        named = tmp_path / "named"
        with bursar.Client(sidecar.target, on_undecided="deny", timeout=5, spool=named) as by_name:
            _have_one_refused(sidecar, by_name)
        assert len(list(named.glob("*/refused.jsonl"))) == 1
    assert str(named) in caplog.text
    assert not aside.exists()
    assert os.environ["BURSAR_SPOOL"] == ours
    assert not Path(ours).exists()
    sidecar.close()  # once more does nothing
    assert os.environ["BURSAR_SPOOL"] == ours


def test_scripted_sidecars_at_once_keep_their_clients_spools_in_whatever_order_they_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BURSAR_SPOOL")
    first = ScriptedSidecar()
    with (
        ScriptedSidecar() as second,
        bursar.Client(second.target, on_undecided="deny", timeout=5) as client,
    ):
        aside = Path(os.environ["BURSAR_SPOOL"])
        first.close()
        with (
            ScriptedSidecar() as third,
            bursar.Client(third.target, on_undecided="deny", timeout=5) as other,
        ):
            _have_one_refused(second, client)
            _have_one_refused(third, other)
            assert len(list(aside.glob("*/refused.jsonl"))) == 2
        assert len(list(aside.glob("*/refused.jsonl"))) == 1
    assert not aside.exists()
    assert "BURSAR_SPOOL" not in os.environ


def _have_one_refused(sidecar: ScriptedSidecar, client: bursar.Client) -> None:
    """A settlement that nothing can be left out of to have it taken."""
    sidecar.answer("Commit", failure("ALREADY_EXISTS"))
    client.reserve(model="a/b", input_tokens=1).commit({"input": 1})


def test_a_mistake_in_a_script_is_named(scripted: ScriptedSidecar) -> None:
    with pytest.raises(bursar.InvalidRequest, match="one of Reserve, Commit"):
        scripted.answer("reserve", denial())
    with pytest.raises(bursar.InvalidRequest, match="reason must be one of limit, request_cap"):
        denial(reason="LIMIT")
    with pytest.raises(bursar.InvalidRequest, match="status must be one of CANCELLED"):
        failure("OK")


def test_a_sidecar_that_is_closed_is_away() -> None:
    with ScriptedSidecar() as sidecar:
        target = sidecar.target
    with (
        bursar.Client(target, on_undecided="deny", timeout=0.3) as client,
        pytest.raises(bursar.Undecided),
    ):
        client.reserve(model="a/b")
