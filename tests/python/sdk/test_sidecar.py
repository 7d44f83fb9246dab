"""The client and a real sidecar: what is granted, settled and counted is what the rules say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import bursar
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from tests.conftest import HandSidecar
    from tests.python.sdk.conftest import Connect

POLICY = """
policy: tests
time_zone: UTC
labels:
  tenant: {missing: deny}
reservations: {ttl: 1m, unsettled: charge_input}
limits:
  - name: tenant-hour
    scope: [tenant]
    window: {calendar: hour}
    amount: {tokens: 1_000}
  - name: large
    match: {model: openai/gpt-4.1}
    window: {calendar: day}
    amount: {tokens: 300}
"""
MODEL = "openai/gpt-4.1-mini"


@pytest.fixture
def sidecar(start_sidecar: Callable[[str], HandSidecar]) -> HandSidecar:
    return start_sidecar(POLICY)


@pytest.fixture
def acme(sidecar: HandSidecar, connect: Connect) -> bursar.Client:
    return connect(f"unix:{sidecar.socket}")


def _reserve(client: bursar.Client, output: int = 300, **more: object) -> bursar.Reservation:
    asked: dict[str, object] = {"model": MODEL, "labels": {"tenant": "acme"}, "input_tokens": 100}
    return client.reserve(**{**asked, "output_tokens_max": output, **more})  # type: ignore[arg-type]  # by name


def _stands(sidecar: HandSidecar, limit: str = "tenant-hour") -> tuple[int, int, int]:
    (standing,) = sidecar.standings(limit)
    return standing.committed, standing.reserved, standing.remaining


def test_usage_takes_the_place_of_what_was_reserved(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    with _reserve(acme) as reservation:
        assert (reservation.output_tokens_granted, reservation.tokens_reserved) == (300, 400)
        assert _stands(sidecar) == (0, 400, 600)
        answer = reservation.commit({"input": 100, "output": 42})
    assert answer is not None
    assert answer.tokens_committed == 142
    assert _stands(sidecar) == (142, 0, 858)


def test_a_client_over_tcp_meets_the_same_sidecar(
    sidecar: HandSidecar, acme: bursar.Client, connect: Connect
) -> None:
    _reserve(acme)
    with pytest.raises(ConnectionRefusedError), _reserve(connect(sidecar.listen)):
        raise ConnectionRefusedError
    assert _stands(sidecar) == (0, 400, 600)


def test_a_grant_is_cut_to_the_output_that_fits(acme: bursar.Client) -> None:
    _reserve(acme, 500)
    reservation = _reserve(acme, 500, output_tokens_min=50)
    assert reservation.output_tokens_granted == 300


def test_a_denial_names_the_limit_and_the_time_after_which_it_fits(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    _reserve(acme, 800).commit({"input": 100, "output": 800})
    with pytest.raises(bursar.Denied) as raised:
        _reserve(acme)
    denied = raised.value
    assert denied.reason == "limit"
    (shortfall,) = denied.shortfalls
    assert shortfall.standing.limit == "tenant-hour"
    assert dict(shortfall.standing.scope) == {"tenant": "acme"}
    assert (shortfall.standing.remaining, shortfall.requested) == (100, 400)
    assert denied.retry_after == timedelta(hours=1)
    sidecar.tick(seconds=3600)
    assert _reserve(acme).output_tokens_granted == 300


def test_a_missing_label_is_denied_as_untagged(acme: bursar.Client) -> None:
    with pytest.raises(bursar.Denied) as raised:
        _reserve(acme, labels={})
    assert raised.value.reason == "untagged"


def test_the_first_fallback_that_fits_is_granted(acme: bursar.Client) -> None:
    reservation = _reserve(acme, model="openai/gpt-4.1", fallback_models=[MODEL])
    assert reservation.model == MODEL


def test_a_release_gives_everything_back(sidecar: HandSidecar, acme: bursar.Client) -> None:
    answer = _reserve(acme).release(reason="changed my mind")
    assert answer is not None
    assert answer.tokens_released == 400
    assert _stands(sidecar) == (0, 0, 1000)


def test_a_call_of_unknown_outcome_is_charged_as_the_policy_says(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    with pytest.raises(TimeoutError), _reserve(acme):
        raise TimeoutError
    assert _stands(sidecar) == (100, 0, 900)


def test_a_commit_after_expiry_is_late_and_counts_in_full(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    reservation = _reserve(acme)
    assert reservation.expires_at == datetime(2026, 11, 23, 12, 1, tzinfo=UTC)
    sidecar.tick(seconds=61)
    assert _stands(sidecar) == (100, 0, 900)
    answer = reservation.commit({"input": 100, "output": 50})
    assert answer is not None
    assert (answer.late, answer.tokens_committed) == (True, 150)
    assert _stands(sidecar) == (150, 0, 850)


def test_an_overrun_is_counted_and_said(sidecar: HandSidecar, acme: bursar.Client) -> None:
    answer = _reserve(acme).commit({"input": 100, "output": 1_100})
    assert answer is not None
    assert answer.tokens_overrun == 800
    assert _stands(sidecar) == (1_200, 0, 0)


def test_the_same_question_has_the_same_answer_and_another_is_a_conflict(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    first = _reserve(acme, reservation_id="r1")
    again = _reserve(acme, reservation_id="r1")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.output_tokens_granted == first.output_tokens_granted
    with pytest.raises(bursar.Conflict):
        _reserve(acme, 299, reservation_id="r1")
    assert _stands(sidecar) == (0, 400, 600)


def test_a_reservation_that_is_settled_is_not_granted_again(acme: bursar.Client) -> None:
    _reserve(acme, reservation_id="r1").commit({"input": 1})
    with pytest.raises(bursar.NotOpen, match="committed"):
        _reserve(acme, reservation_id="r1")


def test_a_commit_counts_once_however_often_it_is_sent(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    reservation = _reserve(acme)
    first, again = (reservation.commit({"input": 100, "output": 9}) for _ in range(2))
    assert first is not None
    assert again is not None
    assert (first.replayed, again.replayed) == (False, True)
    assert _stands(sidecar) == (109, 0, 891)


def test_a_wrong_question_names_its_field_and_changes_nothing(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    with pytest.raises(bursar.InvalidRequest, match="output_tokens_min") as raised:
        _reserve(acme, 10, output_tokens_min=11)
    assert [field for field, _ in raised.value.fields] == ["output_tokens_min"]
    assert raised.value.reason
    assert sidecar.standings() == []


def test_a_dry_run_holds_nothing(sidecar: HandSidecar, acme: bursar.Client) -> None:
    with _reserve(acme, dry_run=True) as reservation:
        assert reservation.output_tokens_granted == 300
    assert [each.reserved for each in sidecar.standings()] in ([], [0])


def test_text_is_counted_exactly_where_the_tokenizer_is_known(acme: bursar.Client) -> None:
    counted = acme.count(model=MODEL, texts=["hello world", ""])
    assert list(counted.tokens) == [2, 0]
    assert counted.counted_by.method == quota_pb2.METHOD_EXACT
    assert _reserve(acme, input_tokens=None, text="hello world").input_tokens == 2
    bound = acme.count(model="example/other", texts=["hello world"])
    assert (list(bound.tokens), bound.counted_by.method) == ([11], quota_pb2.METHOD_BOUND)


def test_a_record_is_counted_in_the_window_of_its_instant(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    instant = datetime.fromtimestamp(sidecar.now_unix_ms / 1000, tz=UTC)
    said = {"model": MODEL, "labels": {"tenant": "acme"}, "record_id": "batch-1"}
    for replayed in (False, True):
        answer = acme.record({"input": 7}, occurred_at=instant, **said)  # type: ignore[arg-type]  # by name
        assert (answer.tokens_committed, answer.replayed) == (7, replayed)
    assert _stands(sidecar) == (7, 0, 993)


def test_a_reservation_outlives_a_restart_and_so_does_its_client(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    reservation = _reserve(acme)
    sidecar.restart()
    assert _stands(sidecar) == (0, 400, 600)
    answer = reservation.commit({"input": 100, "output": 1})
    assert answer is not None
    assert (answer.tokens_committed, answer.late) == (101, False)
    assert _stands(sidecar) == (101, 0, 899)


def test_threads_that_race_for_one_limit_never_pass_it(
    sidecar: HandSidecar, acme: bursar.Client
) -> None:
    granted: list[bursar.Reservation] = []
    denied: list[bursar.Denied] = []

    def ask() -> None:
        try:
            granted.append(_reserve(acme, 0))
        except bursar.Denied as error:
            denied.append(error)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), len(denied)) == (10, 14)
    assert _stands(sidecar) == (0, 1_000, 0)
