"""The rules that a scripted sidecar holds to: what is wrong, known, settled and repeated."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message

from bursar import _core  # noqa: TID251  the checks are the sidecar's own, asked without one
from bursar.testing.answers import Failure, granted
from bursar.v1 import quota_pb2


@dataclass(slots=True)
class ScriptedReservation:
    """A reservation, or a record of usage that had none, and what came of it."""

    reserved: quota_pb2.ReserveRequest | None
    """What was asked; None of a record."""
    grant: quota_pb2.Grant | None
    """What was granted; None of a record."""
    commit: quota_pb2.CommitRequest | None = None
    """The commit that settled it."""
    release: quota_pb2.ReleaseRequest | None = None
    """The release, which a late commit may have followed."""
    record: quota_pb2.RecordRequest | None = None
    """The usage entered without a reservation."""

    @property
    def state(self) -> str:
        """What it is: `open`, `committed`, `released` or `recorded`."""
        if self.record is not None:
            return "recorded"
        if self.commit is not None:
            return "committed"
        return "open" if self.release is None else "released"

    @property
    def labels(self) -> dict[str, str]:
        """The labels, those added at the commit among them."""
        said = (self.reserved, self.commit, self.record)
        return {key: text for each in said if each for key, text in each.labels.items()}

    @property
    def tokens_committed(self) -> int:
        """The tokens that were used, by what was committed or recorded."""
        said = self.commit or self.record
        return sum(line.tokens for line in said.lines) if said else 0


@dataclass(slots=True)
class Rules:
    """Every id that was ever used, and what may still be done under it."""

    known: dict[str, ScriptedReservation] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    sequence: int = 0
    """How many changes there were: the sequence of a ledger that would have been."""

    def reserve(
        self, request: quota_pb2.ReserveRequest, answer: quota_pb2.ReserveResponse | None
    ) -> Message | Failure:
        """Grants, or remembers the grant that the script gives."""
        named = request.reservation_id
        with self.lock:
            before = self.known.get(named)
            if answer is None and before is not None and not request.dry_run:
                return self._again(before, request)
            answer = answer or granted(request)
            if answer.HasField("grant") and not request.dry_run and before is None:
                self.known[named] = ScriptedReservation(request, answer.grant)
                self.sequence += 1
            return answer

    @staticmethod
    def _again(
        before: ScriptedReservation, request: quota_pb2.ReserveRequest
    ) -> quota_pb2.ReserveResponse | Failure:
        if before.reserved is None or before.grant is None or differ(before.reserved, request):
            return _conflict(request.reservation_id)
        again = quota_pb2.ReserveResponse(grant=before.grant, policy_version=1, replayed=True)
        again.grant.state = quota_pb2.State.Value(f"STATE_{before.state.upper()}")
        return again

    def commit(self, request: quota_pb2.CommitRequest) -> Message | Failure:
        """Settles by usage, late if it was released before."""
        with self.lock:
            found = self.known.get(request.reservation_id)
            if found is None:
                return _unknown(request.reservation_id)
            if found.grant is None:
                return _not_open(request.reservation_id, found.state)
            if found.commit is not None and differ(found.commit, request):
                return _conflict(request.reservation_id)
            replayed = found.commit is not None
            found.commit = request
            self.sequence += not replayed
            used = found.tokens_committed
            return quota_pb2.CommitResponse(
                tokens_committed=used,
                tokens_overrun=max(0, used - found.grant.tokens_reserved),
                late=found.release is not None,
                replayed=replayed,
                ledger_sequence=self.sequence,
            )

    def release(self, request: quota_pb2.ReleaseRequest) -> Message | Failure:
        """Gives back what is open."""
        with self.lock:
            found = self.known.get(request.reservation_id)
            if found is None:
                return _unknown(request.reservation_id)
            if found.grant is None or found.commit is not None:
                return _not_open(request.reservation_id, found.state)
            if found.release is not None and differ(found.release, request):
                return _conflict(request.reservation_id)
            replayed = found.release is not None
            found.release = request
            self.sequence += not replayed
            return quota_pb2.ReleaseResponse(
                tokens_released=found.grant.tokens_reserved,
                replayed=replayed,
                ledger_sequence=self.sequence,
            )

    def record(self, request: quota_pb2.RecordRequest) -> Message | Failure:
        """Enters usage that had no reservation."""
        with self.lock:
            found = self.known.get(request.record_id)
            replayed = found is not None
            if found is not None and (found.record is None or differ(found.record, request)):
                return _conflict(request.record_id)
            if found is None:
                found = ScriptedReservation(None, None, record=request)
                self.known[request.record_id] = found
                self.sequence += 1
            return quota_pb2.RecordResponse(
                tokens_committed=found.tokens_committed,
                replayed=replayed,
                ledger_sequence=self.sequence,
            )


def refusal(method: str, request: Message) -> Failure | None:
    """The refusal of what every sidecar refuses, whatever its policy; None of anything else."""
    wrong = _core.check_request(method=method, request=request.SerializeToString())
    if wrong is None:
        return None
    text = ": ".join(wrong)
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, text, "INVALID_FIELD", [wrong])


def differ(one: Message, other: Message) -> bool:
    """Whether two requests under one id differ in content: in anything but their durability."""

    def content(request: Message) -> bytes:
        bare = type(request)()
        bare.CopyFrom(request)
        bare.ClearField("durability")
        return bare.SerializeToString(deterministic=True)

    return content(one) != content(other)


def _unknown(named: str) -> Failure:
    why = f"no reservation {named} is known"
    return Failure(grpc.StatusCode.NOT_FOUND, why, "RESERVATION_NOT_FOUND")


def _conflict(named: str) -> Failure:
    why = f"the id {named} was used with other content"
    return Failure(grpc.StatusCode.ALREADY_EXISTS, why, "ID_USED_WITH_OTHER_CONTENT")


def _not_open(named: str, state: str) -> Failure:
    why = f"{named} is {state}"
    return Failure(grpc.StatusCode.FAILED_PRECONDITION, why, "RESERVATION_NOT_OPEN")
