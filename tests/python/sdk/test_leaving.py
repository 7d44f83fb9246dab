"""Leaving a reservation's block settles it, and never refunds a call that may have run."""

from __future__ import annotations

import asyncio
import logging
import warnings

import grpc
import pytest

import bursar
from bursar.testing import Failure, ScriptedSidecar
from bursar.v1 import quota_pb2

USAGE = {"input": 8, "output": 3}


def test_a_settled_block_is_left_as_it_is(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    with client.reserve(model="a/b", input_tokens=8, output_tokens_max=5) as reservation:
        answer = reservation.commit(USAGE)
    assert answer is not None
    assert answer is reservation.settlement
    (commit,) = scripted.asked("Commit")
    assert isinstance(commit, quota_pb2.CommitRequest)
    assert commit.outcome == quota_pb2.OUTCOME_COMPLETED
    assert not scripted.asked("Release")


def test_a_block_left_unsettled_commits_as_unknown_and_warns(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with (
        pytest.warns(bursar.NotSettled, match="left without commit or release"),
        client.reserve(model="a/b", input_tokens=8),
    ):
        pass
    (commit,) = scripted.asked("Commit")
    assert isinstance(commit, quota_pb2.CommitRequest)
    assert commit.outcome == quota_pb2.OUTCOME_UNKNOWN
    assert not commit.lines


def test_an_error_that_proves_the_call_did_not_run_releases(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with pytest.raises(ConnectionRefusedError), client.reserve(model="a/b", input_tokens=8):
        raise ConnectionRefusedError
    (release,) = scripted.asked("Release")
    assert isinstance(release, quota_pb2.ReleaseRequest)
    assert release.reason.startswith("ConnectionRefusedError")
    assert not scripted.asked("Commit")


@pytest.mark.parametrize(
    "error",
    [RuntimeError, TimeoutError, ConnectionResetError, KeyboardInterrupt, asyncio.CancelledError],
)
def test_any_other_error_or_cancellation_commits_as_unknown(
    scripted: ScriptedSidecar, client: bursar.Client, error: type[BaseException]
) -> None:
    with (
        pytest.raises(error),
        warnings.catch_warnings(action="error"),
        client.reserve(model="a/b", input_tokens=8),
    ):
        raise error
    (commit,) = scripted.asked("Commit")
    assert isinstance(commit, quota_pb2.CommitRequest)
    assert commit.outcome == quota_pb2.OUTCOME_UNKNOWN
    assert not scripted.asked("Release")


def test_an_error_after_the_commit_changes_nothing(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    reservation = client.reserve(model="a/b", input_tokens=8)
    reservation.commit(USAGE)
    with pytest.raises(ConnectionRefusedError), reservation:
        raise ConnectionRefusedError
    assert len(scripted.asked("Commit")) == 1
    assert not scripted.asked("Release")


def test_a_dry_run_has_nothing_to_settle(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    with client.reserve(model="a/b", input_tokens=8, dry_run=True):
        pass
    assert not scripted.asked("Commit")


def test_an_answer_that_cannot_be_read_is_logged_and_committed_as_unknown(
    scripted: ScriptedSidecar, client: bursar.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with client.reserve(model="a/b", input_tokens=8) as reservation:
        assert reservation.commit("forty-two") is not None
    (commit,) = scripted.asked("Commit")
    assert isinstance(commit, quota_pb2.CommitRequest)
    assert commit.outcome == quota_pb2.OUTCOME_UNKNOWN
    assert "cannot read a usage" in caplog.text


def test_a_commit_is_repeated_until_the_sidecar_answers(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    # Three attempts of the channel make one of ours, so that these are three of ours.
    scripted.answer("Commit", *[Failure(grpc.StatusCode.UNAVAILABLE, reason="DRAINING")] * 7)
    reservation = client.reserve(model="a/b", input_tokens=8)
    answer = reservation.commit(USAGE)
    assert answer is not None
    assert answer.tokens_committed == 11
    assert len(scripted.asked("Commit")) == 8
    first = scripted.asked("Commit")[0]
    assert all(each == first for each in scripted.asked("Commit"))


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
    ],
)
def test_a_refused_settlement_is_logged_and_never_raised(
    scripted: ScriptedSidecar,
    client: bursar.Client,
    caplog: pytest.LogCaptureFixture,
    code: grpc.StatusCode,
) -> None:
    for method in ("Commit", "Record", "Release"):
        # Where a question is wrong, less and less of it is asked.
        scripted.answer(method, *[Failure(code)] * 4)
    reservation = client.reserve(model="a/b", input_tokens=8)
    assert reservation.commit(USAGE) is None
    assert reservation.release() is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]
    assert reservation.reservation_id in caplog.text


def test_a_lost_reservations_usage_is_recorded_under_its_id_at_its_instant(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with bursar.labels(tenant="acme"):
        reservation = client.reserve(model="a/b", input_tokens=8, ttl=60, service_tier="flex")
    scripted.forget(reservation.reservation_id)
    answer = reservation.commit(USAGE, labels={"answer": "good"}, latency=0.25)
    assert answer is not None
    assert answer.tokens_committed == 11
    (record,) = scripted.asked("Record")
    assert isinstance(record, quota_pb2.RecordRequest)
    assert record.record_id == reservation.reservation_id
    granted_at_unix_ms = reservation.grant.expires_at_unix_ms - 60_000  # by the sidecar's clock
    assert record.occurred_at_unix_ms == granted_at_unix_ms
    assert record.model == "a/b"
    assert record.service_tier == "flex"
    assert dict(record.labels) == {"tenant": "acme", "answer": "good"}
    assert [line.tokens for line in record.lines] == [8, 3]
    assert record.latency_ms == 250


def test_a_lost_reservation_of_unknown_outcome_is_recorded_as_its_input_assumed(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    reservation = client.reserve(model="a/b", input_tokens=8)
    scripted.forget(reservation.reservation_id)
    with pytest.raises(TimeoutError), reservation:
        raise TimeoutError
    (record,) = scripted.asked("Record")
    assert isinstance(record, quota_pb2.RecordRequest)
    (line,) = record.lines
    assert (line.meter, line.tokens) == (quota_pb2.METER_INPUT, 8)
    assert line.basis == quota_pb2.BASIS_ASSUMED


def test_a_forked_child_neither_settles_its_parents_block_nor_uses_its_client(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    with client.reserve(model="a/b", input_tokens=8) as reservation:
        client._process.process_id += 1  # as a forked child sees it
        with pytest.raises(bursar.InvalidRequest, match=r"make a bursar\.(Async)?Client in"):
            client.reserve(model="a/b", input_tokens=8)
    assert not scripted.asked("Commit")
    client._process.process_id -= 1
    assert reservation.settlement is None
