"""Every status becomes the exception that the contract's table names."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import grpc
import pytest

import bursar
from bursar import errors
from bursar.testing import Failure, ScriptedSidecar
from bursar.v1 import quota_pb2

TABLE = {
    grpc.StatusCode.INVALID_ARGUMENT: bursar.InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: bursar.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: bursar.InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: bursar.Conflict,
    grpc.StatusCode.NOT_FOUND: bursar.UnknownReservation,
    grpc.StatusCode.FAILED_PRECONDITION: bursar.NotOpen,
    grpc.StatusCode.UNAUTHENTICATED: bursar.NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: bursar.NotAllowed,
    grpc.StatusCode.UNAVAILABLE: bursar.Undecided,
    grpc.StatusCode.DEADLINE_EXCEEDED: bursar.Undecided,
    grpc.StatusCode.CANCELLED: bursar.Undecided,
    grpc.StatusCode.INTERNAL: bursar.Undecided,
    grpc.StatusCode.UNKNOWN: bursar.Undecided,
}


@pytest.mark.parametrize(("code", "kind"), TABLE.items(), ids=[code.name for code in TABLE])
def test_a_status_becomes_the_exception_of_the_contracts_table(
    scripted: ScriptedSidecar, client: bursar.Client, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    scripted.answer("Reserve", *[Failure(code, reason="THE_NAME")] * 3)  # UNAVAILABLE: 3 attempts
    with pytest.raises(kind, match="as the script has it") as raised:
        client.reserve(model="a/b", input_tokens=1)
    assert isinstance(raised.value, bursar.BursarError)
    assert raised.value.reason == "THE_NAME"


def test_a_wrong_field_is_named(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    wrong = [("labels", "at most 16 (got 17)")]
    scripted.answer("Reserve", Failure(grpc.StatusCode.INVALID_ARGUMENT, fields=wrong))
    with pytest.raises(bursar.InvalidRequest) as raised:
        client.reserve(model="a/b", input_tokens=1)
    assert raised.value.fields == tuple(wrong)


def test_a_denial_says_what_refused_and_when_it_would_fit(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    denial = quota_pb2.Denial(
        reason=quota_pb2.REASON_LIMIT,
        shortfalls=[
            quota_pb2.Shortfall(standing=quota_pb2.Standing(limit="tenant-day"), requested=500)
        ],
        retry_after_ms=1500,
    )
    scripted.answer("Reserve", quota_pb2.ReserveResponse(denial=denial, policy_version=3))
    with pytest.raises(bursar.Denied, match="tenant-day") as raised:
        client.reserve(model="a/b", input_tokens=1)
    denied = raised.value
    assert (denied.reason, denied.policy_version) == ("limit", 3)
    assert denied.retry_after == timedelta(seconds=1.5)
    assert [each.requested for each in denied.shortfalls] == [500]


def test_a_denial_that_time_never_clears_has_no_retry_after_and_can_be_pickled() -> None:
    denied = bursar.Denied(
        quota_pb2.Denial(hint="too large"), reason="request_cap", policy_version=1
    )
    assert denied.retry_after is None
    for twin in (pickle.loads(pickle.dumps(denied)), copy.copy(denied)):  # noqa: S301  our own bytes
        assert (twin.hint, twin.reason, str(twin)) == ("too large", "request_cap", "too large")


def test_every_status_in_the_table_is_a_status_of_grpc() -> None:
    assert set(errors.STATUS_ERRORS) <= {code.name for code in grpc.StatusCode}
