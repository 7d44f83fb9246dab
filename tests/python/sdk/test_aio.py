"""What only an event loop knows: cancellation, loops that end, other loops, and forks."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest

import bursar
from bursar.testing import SILENCE, Failure, ScriptedSidecar
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from tests.python.sdk.conftest import Away

ASKED = {"model": "openai/gpt-4.1-mini", "labels": {"tenant": "acme"}, "input_tokens": 100}
USAGE = {"input": 100, "output": 42}


def _client(target: str, **options: object) -> bursar.AsyncClient:
    return bursar.AsyncClient(target, **{"on_undecided": "deny", "timeout": 5, **options})  # type: ignore[arg-type]  # by name


def test_a_reservation_is_awaited_or_entered(scripted: ScriptedSidecar) -> None:
    async def main() -> None:
        async with _client(scripted.target) as client:
            async with client.reserve(model="a/b", output_tokens_max=5) as reservation:
                assert reservation.output_tokens_granted == 5
                await reservation.commit(USAGE)
            awaited = await client.reserve(model="a/b")
            assert await awaited.release() is not None

    asyncio.run(main())
    assert len(scripted.asked("Commit")) == 1
    assert len(scripted.asked("Release")) == 1


def test_a_cancelled_block_commits_as_unknown_and_stays_cancelled(
    scripted: ScriptedSidecar,
) -> None:
    async def main() -> None:
        async with _client(scripted.target) as client:
            entered = asyncio.Event()

            async def call() -> None:
                async with client.reserve(model="a/b", input_tokens=8):
                    entered.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(call())
            await entered.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()

    asyncio.run(main())
    (commit,) = scripted.asked("Commit")
    assert isinstance(commit, quota_pb2.CommitRequest)
    assert commit.outcome == quota_pb2.OUTCOME_UNKNOWN


def test_a_settlement_survives_the_cancellation_of_its_caller(scripted: ScriptedSidecar) -> None:
    scripted.answer("Commit", SILENCE)

    async def main() -> None:
        client = _client(scripted.target)
        reservation = await client.reserve(model="a/b", input_tokens=8)
        task = asyncio.create_task(reservation.commit(USAGE))
        await asyncio.to_thread(scripted.wait_for, "Commit")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        scripted.go_on()  # now the sidecar answers
        await client.close()
        assert client.stats().settled == 1

    asyncio.run(main())


def test_a_cancelled_reserve_is_released_behind(scripted: ScriptedSidecar) -> None:
    scripted.answer("Reserve", SILENCE)

    async def main() -> None:
        async with _client(scripted.target) as client:
            asking = asyncio.ensure_future(_await(client))
            await asyncio.to_thread(scripted.wait_for, "Reserve")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert await client.flush(10)

    asyncio.run(main())
    (release,) = scripted.asked("Release")
    assert isinstance(release, quota_pb2.ReleaseRequest)
    assert release.reservation_id == "mine"


async def _await(client: bursar.AsyncClient) -> bursar.AsyncReservation:
    return await client.reserve(model="a/b", reservation_id="mine")


def test_a_settlement_survives_the_end_of_its_loop(away: Away, tmp_path: Path) -> None:
    away.start()

    async def main() -> None:
        client = _client(away.target)
        reservation = await client.reserve(**ASKED)  # type: ignore[arg-type]  # by name
        away.stall()
        settling = asyncio.create_task(reservation.commit(USAGE))
        await asyncio.sleep(0)  # it has begun, and the loop ends before it does
        assert not settling.done()

    asyncio.run(main())
    assert len(list((tmp_path / "spool").glob("*/*.spool"))) == 1
    away.go_on()
    gc.collect()  # the first client goes, and its lock with it, as it would with its process

    async def next_one() -> None:
        async with _client(away.target) as client:
            assert await client.flush(20)
            assert client.stats().adopted == 1

    asyncio.run(next_one())
    assert away.counted() == (142, 0, 1)


def test_another_loop_is_told_to_make_its_own_client(scripted: ScriptedSidecar) -> None:
    client = _client(scripted.target)

    async def use() -> bursar.AsyncReservation:
        return await client.reserve(model="a/b")

    reservation = asyncio.run(use())
    with pytest.raises(bursar.InvalidRequest, match="another event loop"):
        asyncio.run(use())

    async def settle() -> None:
        assert await reservation.commit(USAGE) is None  # kept aside and logged, not lost

    asyncio.run(settle())


def test_labels_are_those_of_the_task_that_reserves(scripted: ScriptedSidecar) -> None:
    async def main() -> None:
        async with _client(scripted.target) as client:

            @bursar.labels(feature="search")
            async def call(tenant: str) -> None:
                with bursar.labels(tenant=tenant):
                    await asyncio.sleep(0)
                    async with client.reserve(model="a/b") as reservation:
                        await reservation.commit(USAGE)

            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(call(f"t{number}"))

    asyncio.run(main())
    said = [
        dict(each.labels)
        for each in scripted.asked("Reserve")
        if isinstance(each, quota_pb2.ReserveRequest)
    ]
    assert sorted(each["tenant"] for each in said) == [f"t{number}" for number in range(8)]
    assert all(each["feature"] == "search" for each in said)


def test_many_calls_are_in_flight_at_once(away: Away) -> None:
    away.start()

    async def main() -> None:
        async with _client(away.target, timeout=20) as client:

            async def call() -> None:
                async with client.reserve(**ASKED, output_tokens_max=100) as reservation:  # type: ignore[arg-type]  # by name
                    await reservation.commit(USAGE, timeout=20)

            await asyncio.gather(*(call() for _ in range(200)))
            assert client.stats().settled == 200

    asyncio.run(main())
    assert away.counted() == (200 * 142, 0, 200)


def test_an_error_is_that_of_the_contracts_table(scripted: ScriptedSidecar) -> None:
    scripted.answer(
        "Reserve", Failure(grpc.StatusCode.INVALID_ARGUMENT, fields=[("model", "required")])
    )

    async def main() -> None:
        async with _client(scripted.target) as client:
            with pytest.raises(bursar.InvalidRequest) as raised:
                await client.reserve(model="")
            assert raised.value.fields == (("model", "required"),)

    asyncio.run(main())


FORK = """
import asyncio, os, sys, bursar
target, kind = sys.argv[1:]
asked = dict(model="openai/gpt-4.1-mini", labels={"tenant": "acme"}, input_tokens=100)
options = dict(on_undecided="allow", timeout=0.2)

def child(use):
    try:
        use()
    except bursar.InvalidRequest as error:
        print("child:", error, flush=True)
    os._exit(0)

def sync():
    client = bursar.Client(target, **options)
    with client.reserve(**asked) as reservation:
        if os.fork() == 0:
            child(lambda: client.reserve(**asked))
        os.wait()
        reservation.commit({"input": 100, "output": 42})
    print("parent:", client.stats().waiting, reservation.undecided, flush=True)
    return client

async def main():
    client = bursar.AsyncClient(target, **options)
    async with client.reserve(**asked) as reservation:
        if os.fork() == 0:
            child(lambda: client.reserve(**asked).__await__().send(None))
        os.wait()
        await reservation.commit({"input": 100, "output": 42})
    print("parent:", client.stats().waiting, reservation.undecided, flush=True)
    return client

kept = sync() if kind == "sync" else asyncio.run(main())
if os.fork() == 0:  # a child that outlives its parent, and holds nothing of it
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_forked_child_is_told_so_and_neither_holds_nor_disturbs_its_parents_spool(
    away: Away, kind: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORK, away.target, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forked:
        assert forked.stdout is not None
        child, parent = forked.stdout.readline(), forked.stdout.readline()
        assert "in the child" in child
        assert parent == "parent: 1 True\n"
        forked.wait(timeout=20)
        away.start()
        with bursar.Client(away.target, on_undecided="deny") as client:
            assert client.flush(20)
            assert client.stats().adopted == 1
        assert away.counted() == (142, 0, 1)
