"""A client that knows only the contract: stock grpcio, over the Unix socket and over TCP."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from tests.system.conftest import Served, Stock

POLICY = """
policy: stock
labels:
  feature:
    values: [search, support]
    missing: deny
limits:
  - name: tenant-total
    scope: [tenant]
    window: total
    amount: {tokens: 1_000, requests: 50}
  - name: cap
    window: request
    amount: {tokens: 900}
"""
MODEL = "openai/gpt-4.1-mini"
_numbers = itertools.count(1)
Asked = TypeVar("Asked", bound="Message")


@pytest.fixture(scope="module")
def served(serve_for_all: Callable[[str], Served]) -> Served:
    return serve_for_all(POLICY)


@pytest.fixture(params=["socket", "tcp"])
def stock(request: pytest.FixtureRequest, served: Served, connect: Callable[[str], Stock]) -> Stock:
    return connect(served.socket if request.param == "socket" else served.listen)


def asked(**fields: Any) -> quota_pb2.ReserveRequest:  # noqa: ANN401  a message's fields
    """A reservation of 300 tokens by a tenant of its own, but for what is said otherwise."""
    number = next(_numbers)
    request: dict[str, Any] = {
        "reservation_id": f"r{number}",
        "model": MODEL,
        "labels": {"tenant": f"t{number}", "feature": "search"},
        "input_tokens": 100,
        "output_tokens_max": 200,
    }
    return quota_pb2.ReserveRequest(**{**request, **fields})


def used(*, output: int) -> list[quota_pb2.Line]:
    return [quota_pb2.Line(meter=quota_pb2.METER_OUTPUT, tokens=output)]


def commit_of(request: quota_pb2.ReserveRequest, *, output: int) -> quota_pb2.CommitRequest:
    return quota_pb2.CommitRequest(
        reservation_id=request.reservation_id,
        outcome=quota_pb2.OUTCOME_COMPLETED,
        lines=used(output=output),
    )


def record(**fields: Any) -> quota_pb2.RecordRequest:  # noqa: ANN401  a message's fields
    number = next(_numbers)
    request: dict[str, Any] = {
        "record_id": f"r{number}",
        "model": MODEL,
        "labels": {"tenant": f"t{number}", "feature": "search"},
        "lines": used(output=70),
        "occurred_at_unix_ms": round(time.time() * 1000) - 1_000,
    }
    return quota_pb2.RecordRequest(**{**request, **fields})


def refusal(call: Callable[[Asked], object], request: Asked) -> tuple[str, str, list[str]]:
    """A refused call's status, its reason by ErrorInfo, and the fields that BadRequest names."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    error = cast("grpc.Call", caught.value)
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert info.domain == "bursar"
    assert all(violation.description for violation in bad.field_violations)
    return error.code().name, info.reason, [each.field for each in bad.field_violations]


def test_a_grant_says_what_was_set_aside_and_where_the_tightest_limit_stands(stock: Stock) -> None:
    request = asked()
    answer = stock.quota.Reserve(request)
    grant = answer.grant
    assert answer.policy_version == 1
    assert not answer.replayed
    assert (grant.reservation_id, grant.model) == (request.reservation_id, MODEL)
    assert grant.state == quota_pb2.STATE_OPEN
    assert (grant.input_tokens, grant.output_tokens_granted, grant.tokens_reserved) == (
        100,
        200,
        300,
    )
    assert grant.counted_by.method == quota_pb2.METHOD_GIVEN
    assert 0 < grant.expires_in_ms <= 300_000
    assert grant.tightest.limit == "cap" or grant.tightest.remaining == 700


def test_a_grant_is_cut_to_the_output_that_fits(stock: Stock) -> None:
    answer = stock.quota.Reserve(asked(output_tokens_max=5_000, output_tokens_min=10))
    assert answer.grant.output_tokens_granted == 800


def test_a_commit_counts_what_happened_once(stock: Stock) -> None:
    request = asked()
    stock.quota.Reserve(request)
    once = stock.quota.Commit(commit_of(request, output=450))
    twice = stock.quota.Commit(commit_of(request, output=450))
    assert (once.tokens_committed, once.tokens_overrun, once.replayed) == (450, 150, False)
    assert twice.replayed
    assert twice.ledger_sequence == once.ledger_sequence
    assert twice.tokens_committed == 450


def test_a_release_gives_everything_back(stock: Stock) -> None:
    request = asked(input_tokens=0, output_tokens_max=900)
    stock.quota.Reserve(request)
    release = quota_pb2.ReleaseRequest(reservation_id=request.reservation_id)
    assert stock.quota.Release(release).tokens_released == 900
    assert stock.quota.Release(release).replayed
    again = asked(labels=request.labels, input_tokens=0, output_tokens_max=900)
    assert stock.quota.Reserve(again).HasField("grant")


def test_a_record_is_counted_in_the_window_it_happened_in(stock: Stock) -> None:
    entered = record()
    once, twice = stock.quota.Record(entered), stock.quota.Record(entered)
    assert (once.tokens_committed, once.replayed, twice.replayed) == (70, False, True)
    denial = stock.quota.Reserve(
        asked(labels=entered.labels, input_tokens=0, output_tokens_max=900)
    )
    assert denial.HasField("grant")
    assert denial.grant.tightest.remaining in {0, 30}


def test_a_denial_names_every_limit_that_refused_and_changes_nothing(stock: Stock) -> None:
    request = asked(output_tokens_max=2_000)
    denial = stock.quota.Reserve(request).denial
    assert {each.standing.limit for each in denial.shortfalls} == {"tenant-total", "cap"}
    assert not denial.HasField("retry_after_ms")
    # The id of a denial is free, and nothing of the tenant's was taken.
    request.output_tokens_max = 800
    assert stock.quota.Reserve(request).grant.tokens_reserved == 900


def test_a_missing_label_is_denied_where_the_policy_says_so(stock: Stock) -> None:
    denial = stock.quota.Reserve(asked(labels={"tenant": "t"})).denial
    assert denial.reason == quota_pb2.REASON_UNTAGGED
    assert "feature" in denial.hint


def test_a_dry_run_is_forgotten(stock: Stock) -> None:
    request = asked(dry_run=True)
    assert stock.quota.Reserve(request).HasField("grant")
    unknown = refusal(stock.quota.Commit, commit_of(request, output=1))
    assert unknown == ("NOT_FOUND", "RESERVATION_NOT_FOUND", [])


def test_text_is_counted_as_the_model_counts_it(stock: Stock) -> None:
    counted = stock.quota.CountTokens(
        quota_pb2.CountTokensRequest(model=MODEL, texts=["hello world", ""])
    )
    assert list(counted.tokens) == [2, 0]
    assert counted.counted_by.method == quota_pb2.METHOD_EXACT
    granted = stock.quota.Reserve(asked(input_text="hello world"))
    assert granted.grant.input_tokens == 2
    assert granted.grant.counted_by.tokenizer == "o200k_base"


@pytest.mark.parametrize(
    ("call", "request_made"),
    [
        ("Extend", quota_pb2.ExtendRequest(reservation_id="r", expires_at_unix_ms=1)),
        ("Progress", quota_pb2.ProgressRequest(reservation_id="r", dispatched=True)),
    ],
)
def test_a_call_that_is_not_served_yet_says_so(
    stock: Stock, call: str, request_made: Message
) -> None:
    answer = refusal(getattr(stock.quota, call), request_made)
    assert answer == ("UNIMPLEMENTED", "NOT_SERVED", [])


def test_a_session_is_not_served_yet_and_says_so(stock: Stock) -> None:
    def session(request: quota_pb2.SessionRequest) -> list[object]:
        return list(stock.quota.Session(iter([request])))

    first = quota_pb2.SessionRequest(call=1, reserve=asked())
    assert refusal(session, first) == ("UNIMPLEMENTED", "NOT_SERVED", [])


WRONG: list[tuple[str, Message]] = [
    ("reservation_id", asked(reservation_id="")),
    ("reservation_id", asked(reservation_id="r" * 65)),
    ("model", asked(model="gpt-4.1")),
    ("fallback_models", asked(fallback_models=[MODEL] * 9)),
    ("fallback_models[0]", asked(fallback_models=["mini"])),
    ("service_tier", asked(service_tier="x" * 257)),
    ("labels", asked(labels={"Tenant": "t"})),
    ("labels", asked(labels={"tenant": ""})),
    ("labels", asked(labels={"model": MODEL})),
    ("labels", asked(labels={f"k{number}": "v" for number in range(17)})),
    ("input_tokens", asked(input_tokens=2**40 + 1)),
    ("input_lines.lines", asked(input_lines=quota_pb2.InputLines())),
    ("input_lines.lines[0].meter", asked(input_lines=quota_pb2.InputLines(lines=used(output=1)))),
    ("output_tokens_max", asked(output_tokens_max=2**40 + 1)),
    ("output_tokens_min", asked(output_tokens_min=201)),
    ("choices", asked(choices=129)),
    ("charges", asked(charges=[quota_pb2.Charge(name="web_search", quantity=1)])),
    ("ttl_ms", asked(ttl_ms=999)),
    ("ttl_ms", asked(ttl_ms=604_800_001)),
    ("outcome", quota_pb2.CommitRequest(reservation_id="r", lines=used(output=1))),
    ("lines", quota_pb2.CommitRequest(reservation_id="r", outcome=quota_pb2.OUTCOME_COMPLETED)),
    (
        "lines[0].meter",
        quota_pb2.CommitRequest(
            reservation_id="r",
            outcome=quota_pb2.OUTCOME_COMPLETED,
            lines=[quota_pb2.Line(tokens=1)],
        ),
    ),
    ("reservation_id", quota_pb2.ReleaseRequest()),
    ("reason", quota_pb2.ReleaseRequest(reservation_id="r", reason="x" * 257)),
    ("record_id", record(record_id="")),
    ("lines", record(lines=[])),
    ("occurred_at_unix_ms", record(occurred_at_unix_ms=0)),
    ("occurred_at_unix_ms", record(occurred_at_unix_ms=32_503_680_000_000)),
    ("model", quota_pb2.CountTokensRequest(texts=["a"])),
    ("texts", quota_pb2.CountTokensRequest(model=MODEL, texts=["a"] * 65)),
]


@pytest.mark.parametrize(
    ("field", "wrong"), WRONG, ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_wrong_question_names_its_field(stock: Stock, field: str, wrong: Message) -> None:
    call = getattr(stock.quota, wrong.DESCRIPTOR.name.removesuffix("Request"))
    assert refusal(call, wrong) == ("INVALID_ARGUMENT", "INVALID_FIELD", [field])


def test_an_id_with_other_content_is_a_conflict(stock: Stock) -> None:
    request = asked()
    stock.quota.Reserve(request)
    conflict: tuple[str, str, list[str]] = ("ALREADY_EXISTS", "ID_USED_WITH_OTHER_CONTENT", [])
    other = quota_pb2.ReserveRequest()
    other.CopyFrom(request)
    other.output_tokens_max = 201
    assert refusal(stock.quota.Reserve, other) == conflict
    stock.quota.Commit(commit_of(request, output=5))
    assert refusal(stock.quota.Commit, commit_of(request, output=6)) == conflict
    assert refusal(stock.quota.Record, record(record_id=request.reservation_id)) == conflict


def test_a_settled_reservation_cannot_be_released(stock: Stock) -> None:
    request = asked()
    stock.quota.Reserve(request)
    stock.quota.Commit(commit_of(request, output=5))
    release = quota_pb2.ReleaseRequest(reservation_id=request.reservation_id)
    answer = refusal(stock.quota.Release, release)
    assert answer == ("FAILED_PRECONDITION", "RESERVATION_NOT_OPEN", [])


@pytest.mark.parametrize("call", ["Commit", "Release"])
def test_an_unknown_reservation_is_not_found(stock: Stock, call: str) -> None:
    made: dict[str, Message] = {
        "Commit": commit_of(asked(), output=1),
        "Release": quota_pb2.ReleaseRequest(reservation_id="nobody"),
    }
    answer = refusal(getattr(stock.quota, call), made[call])
    assert answer == ("NOT_FOUND", "RESERVATION_NOT_FOUND", [])


def test_health_and_reflection_answer(stock: Stock) -> None:
    check = stock.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    for service in ("", "bursar.v1.QuotaService"):
        answer = check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflect = stock.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (listed,) = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {each.name for each in listed.list_services_response.service}
    assert {"bursar.v1.QuotaService", "grpc.health.v1.Health"} <= names
