"""What operators ask of a whole sidecar over gRPC: what holds a budget, why, and what happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # no stubs

from bursar.v1 import admin_pb2, quota_pb2

if TYPE_CHECKING:
    from tests.system.conftest import Served, Stock

POLICY = """
policy: operators
time_zone: UTC
limits:
  - name: tenant-month
    scope: [tenant]
    window: {calendar: month}
    amount: {tokens: 1_000}
  - name: search-only
    match: {feature: search}
    amount: {concurrency: 2}
"""


@pytest.fixture(scope="module")
def served(serve_for_all: Callable[[str], Served]) -> Served:
    return serve_for_all(POLICY)


@pytest.fixture
def stock(served: Served, connect: Callable[[str], Stock]) -> Stock:
    return connect(served.socket)


@pytest.fixture
def admin(served: Served, connect: Callable[[str], Stock]) -> Any:  # noqa: ANN401  a generated stub
    return connect(str(served.ready["admin_listen"])).admin


def reserve(named: str, tokens: int, tenant: str) -> quota_pb2.ReserveRequest:
    return quota_pb2.ReserveRequest(
        reservation_id=named,
        model="openai/gpt-4.1-mini",
        labels={"tenant": tenant, "feature": "chat"},
        input_tokens=tokens,
    )


def commit(named: str, tokens: int) -> quota_pb2.CommitRequest:
    return quota_pb2.CommitRequest(
        reservation_id=named,
        outcome=quota_pb2.OUTCOME_COMPLETED,
        lines=[quota_pb2.Line(meter=quota_pb2.METER_INPUT, tokens=tokens)],
    )


def reason_of(error: grpc.RpcError) -> tuple[str, str]:
    """The name of what went wrong, and the field, as a program reads them."""
    reason = field = ""
    for key, value in cast("grpc.Call", error).trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(cast("bytes", value)).details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(bad):
                field = bad.field_violations[0].field
    return reason, field


def test_what_holds_a_budget_is_listed_and_told(stock: Stock, admin: Any) -> None:  # noqa: ANN401
    stock.quota.Reserve(reserve("h1", 300, "holder"))
    stock.quota.Reserve(reserve("h2", 200, "holder"))
    asked = admin_pb2.ListReservationsRequest(labels={"tenant": "holder"}, limit="tenant-month")
    found = admin.ListReservations(asked).reservations
    assert {each.reservation_id: each.tokens_reserved for each in found} == {"h1": 300, "h2": 200}
    stock.quota.Commit(commit("h1", 250))
    told = admin.GetReservation(admin_pb2.GetReservationRequest(reservation_id="h1"))
    assert told.reservation.state == quota_pb2.STATE_COMMITTED
    assert [each.kind for each in told.entries] == [
        admin_pb2.EVENT_KIND_RESERVED,
        admin_pb2.EVENT_KIND_COMMITTED,
    ]
    assert told.entries[1].changes[0].reserved == -300
    assert [each.reservation_id for each in admin.ListReservations(asked).reservations] == ["h2"]


def test_why_is_explained_for_a_request_and_for_a_reservation(stock: Stock, admin: Any) -> None:  # noqa: ANN401
    question = admin_pb2.ExplainRequest(request=reserve("", 1_200, "why"))
    why = admin.Explain(question)
    assert why.answer.denial.reason == quota_pb2.REASON_LIMIT
    assert why.policy_name == "operators"
    month, search = why.limits
    assert (month.applies, month.refuses, month.binds) == (True, True, True)
    assert month.standing.remaining == 1_000
    assert search.why_not == "match: feature is chat, not search"
    stock.quota.Reserve(reserve("w1", 100, "why"))
    held = admin.Explain(admin_pb2.ExplainRequest(reservation_id="w1"))
    assert held.answer.grant.tokens_reserved == held.limits[0].requested == 100


@pytest.mark.parametrize(
    ("method", "request_", "code", "named"),
    [
        (
            "GetReservation",
            admin_pb2.GetReservationRequest(reservation_id="nobody"),
            grpc.StatusCode.NOT_FOUND,
            ("RESERVATION_NOT_FOUND", ""),
        ),
        (
            "Explain",
            admin_pb2.ExplainRequest(reservation_id="nobody"),
            grpc.StatusCode.NOT_FOUND,
            ("RESERVATION_NOT_FOUND", ""),
        ),
        (
            "Explain",
            admin_pb2.ExplainRequest(request=quota_pb2.ReserveRequest(model="nameless")),
            grpc.StatusCode.INVALID_ARGUMENT,
            ("INVALID_FIELD", "model"),
        ),
        (
            "ListReservations",
            admin_pb2.ListReservationsRequest(page_size=1_001),
            grpc.StatusCode.INVALID_ARGUMENT,
            ("INVALID_FIELD", "page_size"),
        ),
    ],
)
def test_a_wrong_question_says_by_a_name_what_is_wrong(
    admin: Any,  # noqa: ANN401
    method: str,
    request_: object,
    code: grpc.StatusCode,
    named: tuple[str, str],
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(admin, method)(request_)
    assert cast("grpc.Call", caught.value).code() is code
    assert reason_of(caught.value) == named


def test_a_watch_begins_in_the_past_and_goes_on_with_what_happens(stock: Stock, admin: Any) -> None:  # noqa: ANN401
    stock.quota.Reserve(reserve("s1", 900, "seen"))
    wanted = admin_pb2.WatchEventsRequest(after_sequence=0, labels={"tenant": "seen"})
    watch = admin.WatchEvents(wanted)
    events = each_event(watch)
    assert next(events).reservation_id == "s1"
    stock.quota.Reserve(reserve("s2", 900, "seen"))
    denied = next(events)
    assert (denied.kind, denied.reservation_id) == (admin_pb2.EVENT_KIND_DENIED, "s2")
    assert denied.denial.shortfalls[0].standing.limit == "tenant-month"
    stock.quota.Commit(commit("s1", 7))
    committed = next(events)
    assert (committed.kind, committed.tokens) == (admin_pb2.EVENT_KIND_COMMITTED, 7)
    watch.cancel()


def each_event(watch: Iterator[admin_pb2.WatchEventsResponse]) -> Iterator[admin_pb2.Event]:
    for message in watch:
        yield from message.events


def test_a_sidecar_stops_though_it_is_watched_and_too_many_watchers_are_refused(
    serve: Callable[[str], Served], connect: Callable[[str], Stock]
) -> None:
    served = serve(POLICY)
    admin: Any = connect(str(served.ready["admin_listen"])).admin
    past = admin_pb2.WatchEventsRequest(after_sequence=0)
    watching = [admin.WatchEvents(past) for _ in range(16)]
    for watch in watching:
        next(watch)  # it watches by now: the policy's entry has come
    with pytest.raises(grpc.RpcError, match="16 watch already") as caught:
        next(admin.WatchEvents(past))
    assert cast("grpc.Call", caught.value).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    ended: list[object] = []

    def wait(watch: Iterator[object]) -> None:
        try:
            ended.extend(["more"] * len(list(watch)))
        except grpc.RpcError as error:
            ended.append(cast("grpc.Call", error).code())
        else:
            ended.append("ended")

    waiting = [threading.Thread(target=wait, args=(watch,)) for watch in watching]
    for thread in waiting:
        thread.start()
    assert served.stop() == 0
    for thread in waiting:
        thread.join()
    assert ended == ["ended"] * 16
