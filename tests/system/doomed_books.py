"""A sidecar whose books kill their process in the middle of taking usage: run by test_books.py.

usage: doomed_books.py DIRECTORY PLACE TRANSACTION
PLACE is before-commit, after-commit or nowhere.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import grpc
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, event

from bursar import _core
from bursar.admin.drain import Drain
from bursar.books.books import Books, open_books
from bursar.policy.parse import parse_source
from bursar.v1 import quota_pb2, quota_pb2_grpc
from bursar.wire import policy_message

POLICY = b"""
policy: books
limits:
  - name: all
    window: total
    amount: {tokens: 1M}
rollups: [feature, tenant, model, component]
"""
ROUNDS = 4
CALLS_PER_ROUND = 25
MODELS = ("openai/gpt-4.1-mini", "anthropic/claude-sonnet-4")


def die() -> NoReturn:
    """Ends the process as the kernel would: nothing runs after this."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class DoomedBooks(Books):
    """Books that die with the n-th batch: before its transaction commits, or right after."""

    def __init__(self, data: Path, place: str, transaction: int) -> None:
        """Opens the books of a data directory."""
        super().__init__(open_books(data)._engine)
        self._place = place
        self._left = transaction
        event.listen(self._engine, "commit", self._about_to_commit)

    def _about_to_commit(self, _connection: Connection) -> None:
        self._left -= 1
        if self._left == 0 and self._place == "before-commit":
            die()

    def take(self, pages: object) -> int:
        """Takes usage in; the data plane never hears of it where it dies here."""
        position = super().take(pages)  # type: ignore[arg-type]  # handed on as it came
        if self._left == 0 and self._place == "after-commit":
            die()
        return position


def spend(stub: quota_pb2_grpc.QuotaServiceStub, label: str) -> None:
    """Reserves and settles: by committing, by releasing, or not at all."""
    for call in range(CALLS_PER_ROUND):
        name = f"{label}-{call}"
        labels = {"feature": f"feature-{call % 3}", "tenant": f"tenant-{call % 4}"}
        stub.Reserve(
            quota_pb2.ReserveRequest(
                reservation_id=name,
                model=MODELS[call % 2],
                labels=labels,
                input_tokens=call,
                output_tokens_max=50,
            )
        )
        if call % 5 == 0:
            stub.Release(quota_pb2.ReleaseRequest(reservation_id=name))
        elif call % 5 < 4:
            stub.Commit(
                quota_pb2.CommitRequest(
                    reservation_id=name,
                    outcome=quota_pb2.OUTCOME_COMPLETED,
                    lines=[
                        quota_pb2.Line(meter=quota_pb2.METER_INPUT, tokens=call, component="tools"),
                        quota_pb2.Line(meter=quota_pb2.METER_OUTPUT, tokens=call * 3),
                    ],
                    latency_ms=call,
                )
            )


def main() -> None:
    """Serves, spends and drains, a few rounds of each, unless it dies."""
    directory, place, transaction = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    parsed = parse_source(POLICY, path="policy.yaml")
    core = _core.Sidecar(
        data_directory=str(directory),
        socket=None,
        listen="127.0.0.1:0",
        policy=policy_message(parsed.policy).SerializeToString(deterministic=True),
        policy_digest=parsed.digest,
        policy_source=parsed.source,
        segment_bytes=1 << 20,
        ledger_bytes_max=64 << 20,
        counters_max=10_000,
        reservations_open_max=10_000,
        settled_ids_max=10_000,
        settled_span_ms=86_400_000,
        connections_max=1_024,
        connections_per_caller_max=512,
    )
    books = DoomedBooks(directory, place, transaction)
    drain = Drain(source=core, books=books, registry=CollectorRegistry())
    with grpc.insecure_channel(core.listen_address()) as channel:
        stub = quota_pb2_grpc.QuotaServiceStub(channel)
        for number in range(ROUNDS):
            spend(stub, f"{os.getpid()}-{number}")
            drain.once(catch_up=True)
    books.close()
    core.stop(grace_ms=5_000)


if __name__ == "__main__":
    main()
