"""What a settlement says where the sidecar refuses it: less, so that its usage is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from bursar.v1 import quota_pb2

_Usage = TypeVar("_Usage", quota_pb2.CommitRequest, quota_pb2.RecordRequest)


def commits(commit: quota_pb2.CommitRequest) -> Iterator[tuple[str, quota_pb2.CommitRequest]]:
    """Gives what to commit instead, one after the other, each with what it leaves out."""
    bare = quota_pb2.CommitRequest(
        reservation_id=commit.reservation_id,
        lines=commit.lines,
        outcome=commit.outcome,
        durability=commit.durability,
    )
    yield "labels, model, tier, response id and times", bare
    yield "also components and sources", _summed(bare)
    unknown = quota_pb2.CommitRequest(
        reservation_id=commit.reservation_id,
        outcome=quota_pb2.OUTCOME_UNKNOWN,
        durability=commit.durability,
    )
    yield "what was used, for the policy to decide", unknown


def records(record: quota_pb2.RecordRequest) -> Iterator[tuple[str, quota_pb2.RecordRequest]]:
    """Gives what to record instead, as `commits` does; the model and the instant must stay."""
    less = quota_pb2.RecordRequest()
    less.CopyFrom(record)
    for name in ("model_version", "response_id", "latency_ms", "total_tokens"):
        less.ClearField(name)
    yield "version, response id and times", less
    summed = _summed(less)
    yield "also components and sources", summed
    unlabelled = quota_pb2.RecordRequest()
    unlabelled.CopyFrom(summed)
    unlabelled.ClearField("labels")
    yield "also labels", unlabelled


def _summed(request: _Usage) -> _Usage:
    """The request with its lines by meter and basis alone, of which there are few."""
    sums: Counter[tuple[quota_pb2.Meter.ValueType, quota_pb2.Basis.ValueType]] = Counter()
    for line in request.lines:
        sums[line.meter, line.basis] += line.tokens
    summed = type(request)()
    summed.CopyFrom(request)
    del summed.lines[:]
    for (meter, basis), tokens in sums.items():
        summed.lines.add(meter=meter, basis=basis, tokens=tokens)
    return summed
