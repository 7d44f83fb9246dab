"""Waiting for a denial to clear: as long as that may help, and never beyond what was said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import bursar
from bursar.testing import ScriptedSidecar
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from tests.conftest import HandSidecar
    from tests.python.sdk.conftest import Away, Connect

POLICY = """
policy: tests
time_zone: UTC
reservations: {ttl: 1m, unsettled: release}
limits:
  - name: at-once
    match: {feature: chat}
    amount: {concurrency: 1}
  - name: hourly
    match: {feature: batch}
    window: {calendar: hour}
    amount: {tokens: 100}
"""
WAIT_S = 20.0


def _denial(retry_after_ms: int | None = None, *, settles: bool = False) -> quota_pb2.Denial:
    shortfall = quota_pb2.Shortfall(clears_on_settle=settles, retry_after_ms=retry_after_ms)
    return quota_pb2.Denial(
        reason=quota_pb2.REASON_LIMIT, shortfalls=[shortfall], retry_after_ms=retry_after_ms
    )


def _answer(denial: quota_pb2.Denial) -> quota_pb2.ReserveResponse:
    return quota_pb2.ReserveResponse(denial=denial)


def test_a_denial_is_asked_again_at_the_instant_it_clears_under_its_id(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", _answer(_denial(150)), _answer(_denial(100)))
    began_s = time.monotonic()
    client.reserve(model="a/b", wait=5.0)
    assert 0.25 <= time.monotonic() - began_s < 2.0
    first, *others = scripted.asked("Reserve")
    assert len(others) == 2
    assert all(each == first for each in others)


@pytest.mark.parametrize(
    "denial",
    [_denial(), _denial(60_000), quota_pb2.Denial(reason=quota_pb2.REASON_UNTAGGED)],
    ids=["never", "too late", "untagged"],
)
def test_a_denial_that_waiting_cannot_clear_is_raised_at_once(
    scripted: ScriptedSidecar, client: bursar.Client, denial: quota_pb2.Denial
) -> None:
    scripted.answer("Reserve", _answer(denial))
    began_s = time.monotonic()
    with pytest.raises(bursar.Denied):
        client.reserve(model="a/b", wait=2.0)
    assert time.monotonic() - began_s < 1.0
    assert len(scripted.asked("Reserve")) == 1


def test_without_wait_a_denial_is_raised_at_once(
    scripted: ScriptedSidecar, client: bursar.Client
) -> None:
    scripted.answer("Reserve", _answer(_denial(1, settles=True)))
    with pytest.raises(bursar.Denied):
        client.reserve(model="a/b")
    assert len(scripted.asked("Reserve")) == 1


def test_waiting_ends_when_it_was_said_to(scripted: ScriptedSidecar, client: bursar.Client) -> None:
    scripted.answer("Reserve", *[_answer(_denial(settles=True))] * 1_000)
    began_s = time.monotonic()
    with pytest.raises(bursar.Denied):
        client.reserve(model="a/b", wait=0.5)
    assert 0.4 <= time.monotonic() - began_s < 1.5
    assert (
        3 <= len(scripted.asked("Reserve")) < 30
    )  # it looks again and again, and not all the time


def test_a_wait_below_zero_is_refused(client: bursar.Client) -> None:
    with pytest.raises(bursar.InvalidRequest, match="wait must be at least 0"):
        client.reserve(model="a/b", wait=-1)


def test_a_place_that_somebody_gives_back_is_taken(
    start_sidecar: Callable[[str], HandSidecar], connect: Connect
) -> None:
    client = connect(f"unix:{start_sidecar(POLICY).socket}")
    held = client.reserve(model="a/b", labels={"feature": "chat"})
    with pytest.raises(bursar.Denied):
        client.reserve(model="a/b", labels={"feature": "chat"}, wait=0.1)
    giving_back = threading.Timer(0.2, held.release)
    giving_back.start()
    assert client.reserve(model="a/b", labels={"feature": "chat"}, wait=WAIT_S).model == "a/b"
    giving_back.join()


def test_many_that_wait_for_one_place_all_get_it_in_turn(
    start_sidecar: Callable[[str], HandSidecar], connect: Connect
) -> None:
    client = connect(f"unix:{start_sidecar(POLICY).socket}")

    def call(_: int) -> None:
        with client.reserve(model="a/b", labels={"feature": "chat"}, wait=WAIT_S) as reservation:
            reservation.commit({"input": 1})

    with ThreadPoolExecutor(8) as callers:
        assert len(list(callers.map(call, range(24)))) == 24


def test_tokens_that_somebody_gives_back_are_waited_for_though_time_would_take_longer(
    start_sidecar: Callable[[str], HandSidecar], connect: Connect
) -> None:
    client = connect(f"unix:{start_sidecar(POLICY).socket}")
    held = client.reserve(model="a/b", labels={"feature": "batch"}, input_tokens=100)
    giving_back = threading.Timer(0.2, held.release)
    giving_back.start()
    asked = {"model": "a/b", "labels": {"feature": "batch"}, "input_tokens": 100}
    assert client.reserve(**asked, wait=WAIT_S).tokens_reserved == 100  # type: ignore[arg-type]  # by name
    giving_back.join()


def test_retry_after_is_exact_by_the_clock_on_the_wall(away: Away, connect: Connect) -> None:
    away.start(
        policy="""
policy: tests
time_zone: UTC
limits:
  - name: second
    window: {fixed: 2s}
    amount: {tokens: 100}
"""
    )
    client = connect(away.target)
    client.reserve(model="a/b", input_tokens=100).commit({"input": 100})
    began_s = time.monotonic()
    client.reserve(model="a/b", input_tokens=100, wait=10).commit({"input": 100})
    assert time.monotonic() - began_s < 3.0
    assert client.stats().settled == 2
