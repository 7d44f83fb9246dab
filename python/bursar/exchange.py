"""What a client says to a sidecar and how it takes the answers; the same for threads and loops."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Literal, TypeVar, cast, get_args

from google.protobuf.message import Message

from bursar import less as less_than
from bursar.errors import (
    BursarError,
    Denied,
    InvalidRequest,
    NotOpen,
    Unanswered,
    Undecided,
    UnknownReservation,
)
from bursar.outbox import Outbox
from bursar.providers import Line
from bursar.steps import COMMIT, RECORD, RELEASE, RESERVE, Disk, Method, Pause, Steps, ask
from bursar.v1 import quota_pb2, spool_pb2

OnUndecided = Literal["deny", "allow"]
Settlement = quota_pb2.CommitResponse | quota_pb2.ReleaseResponse

TIMEOUT_DEFAULT = timedelta(seconds=0.5)
"""How long a call other than a settlement may take."""

RECORD_TIMEOUT_DEFAULT = timedelta(seconds=5)
"""How long `record` tries where nothing else is said."""

CLOSE_GRACE_S = 1.0
"""How long closing waits for settlements that are on their way; the rest stays on disk."""

HOLD_S_MAX = 1.0
"""How long a settlement holds its caller where nothing else is said; then it goes on behind."""

ATTEMPT_S_MAX = 2.0
"""One attempt of a settlement: long enough for a slow disk's sync, short enough to try again."""

_BACKOFF_S = (0.05, 1.0)  # between attempts: the first, doubled each time, and the longest
_POLL_S = (0.02, 0.25)  # between looks whether a settlement has made room: the same
_JITTER_S_MAX = 0.02  # what is added to an exact `retry_after`, as many may wait for one instant

_ON_UNDECIDED = (
    'on_undecided="deny": a call without a decision does not run (Undecided is raised); '
    'on_undecided="allow": it runs all the same, and its usage is sent when the sidecar is back. '
    "Each is wrong for someone, so there is no default"
)

_A = TypeVar("_A")
_R = TypeVar("_R")
_Asked = TypeVar("_Asked", bound=Message)
_Answer = TypeVar("_Answer", bound=Message)

_log = logging.getLogger("bursar")


def check_on_undecided(said: object) -> OnUndecided:
    """Gives the caller's choice; raises InvalidRequest, which says what both mean."""
    if said not in get_args(OnUndecided):
        got = "" if said is None else f" (got {said!r})"
        raise InvalidRequest(f"say what an undecided answer means{got}: {_ON_UNDECIDED}")
    return cast("OnUndecided", said)


class Decision:
    """A grant, or a call that was let through undecided."""

    __slots__ = ("asked_at_unix_ms", "request", "response", "undecided")

    def __init__(
        self,
        request: quota_pb2.ReserveRequest,
        response: quota_pb2.ReserveResponse,
        *,
        asked_at_unix_ms: int,
        undecided: bool = False,
    ) -> None:
        """Takes what was asked, the answer (or a stand-in for it), and when it was first asked."""
        self.request = request
        self.response = response
        self.asked_at_unix_ms = asked_at_unix_ms
        self.undecided = undecided

    def record_instead(self, commit: quota_pb2.CommitRequest) -> quota_pb2.RecordRequest:
        """Says as usage of its own what a commit said whose reservation the sidecar has not.

        The instant is the grant's by the sidecar's own clock, so that it is never in its future.
        """
        asked, grant = self.request, self.response.grant
        granted_at_unix_ms = grant.expires_at_unix_ms - (asked.ttl_ms or grant.expires_in_ms)
        record = quota_pb2.RecordRequest(
            record_id=commit.reservation_id,
            model=commit.model or grant.model,
            model_version=commit.model_version,
            service_tier=commit.service_tier or asked.service_tier,
            labels={**asked.labels, **commit.labels},
            lines=commit.lines,
            charges=commit.charges,
            occurred_at_unix_ms=self.asked_at_unix_ms if self.undecided else granted_at_unix_ms,
            response_id=commit.response_id,
            outcome=commit.outcome,
            latency_ms=commit.latency_ms,
            durability=commit.durability,
        )
        if commit.HasField("total_tokens"):
            record.total_tokens = commit.total_tokens
        if not record.lines:  # as the policy would by default: the input, which nobody saw measured
            record.lines.append(Line("input", grant.input_tokens, basis="assumed").to_wire())
        return record


class Exchange:
    """One client's talk with its sidecar: every method is a protocol of steps."""

    def __init__(self, outbox: Outbox, *, on_undecided: OnUndecided, allow_on_bugs: bool) -> None:
        """Takes where unanswered settlements wait, and what an undecided answer means."""
        self.outbox = outbox
        self.closing = False
        self._on_undecided = on_undecided
        self._allow_on_bugs = allow_on_bugs

    def reserve(
        self, request: quota_pb2.ReserveRequest, timeout_s: float, wait_s: float
    ) -> Steps[Decision]:
        """Asks until it is granted, or denied for good within `wait_s`; raises a BursarError."""
        asked_at_unix_ms = _now_unix_ms()
        deadline_s = time.monotonic() + wait_s
        poll_s = _POLL_S[0]
        while True:
            try:
                response = yield from ask(RESERVE, request, timeout_s)
            except Undecided as error:
                return self._undecided(request, error, asked_at_unix_ms)
            except BursarError:
                raise
            except BaseException:  # interrupted or cancelled: nobody will use what it may grant
                self._release_behind(request)
                raise
            if not response.HasField("denial"):
                _check_open(request, response)
                return Decision(request, response, asked_at_unix_ms=asked_at_unix_ms)
            left_s = deadline_s - time.monotonic()
            pause_s = _pause_before_retry_s(response.denial, left_s, poll_s)
            if pause_s is None:
                raise _denied(response)
            yield Pause(pause_s)
            poll_s = min(poll_s * 2, _POLL_S[1])

    def _undecided(
        self, request: quota_pb2.ReserveRequest, error: Undecided, asked_at_unix_ms: int
    ) -> Decision:
        """Lets the call through with a record of it, or raises the error."""
        self.outbox.count("undecided")
        allowed = self._on_undecided == "allow" and (self._allow_on_bugs or not error.is_bug)
        if not allowed or request.dry_run:
            if isinstance(error, Unanswered):
                self._release_behind(request)
            raise error
        named = request.reservation_id
        _log.warning("reservation %s is undecided and let through: %s", named, error)
        self.outbox.count("let_through")
        decision = Decision(
            request,
            quota_pb2.ReserveResponse(grant=_stand_in(request)),
            asked_at_unix_ms=asked_at_unix_ms,
            undecided=True,
        )
        # Until it is settled, this is what is sent should our process die.
        unknown = quota_pb2.CommitRequest(
            reservation_id=named, outcome=quota_pb2.OUTCOME_UNKNOWN, durability=request.durability
        )
        self.outbox.keep(
            spool_pb2.SpoolEntry(
                reservation_id=named,
                commit=unknown,
                record=decision.record_instead(unknown),
                running=True,
            )
        )
        return decision

    def _release_behind(self, request: quota_pb2.ReserveRequest) -> None:
        """Has what may have been granted without our hearing of it released, without waiting."""
        if not request.dry_run:
            self.outbox.keep_behind(request.reservation_id)

    def settle(
        self, entry: spool_pb2.SpoolEntry, *, hold_s: float | None, undecided: bool
    ) -> Steps[Settlement | None]:
        """Settles; what finds no answer in time is kept and sent behind, and then None is given.

        A call that was let through, and any while the sidecar is known to be away, holds nobody.
        """
        named = entry.reservation_id
        if self.closing or (hold_s is None and (undecided or self.outbox.is_away)):
            self._keep(entry, "the client is closed" if self.closing else "the sidecar is away")
            return None
        try:
            answer = yield from self._attempts(
                entry, _attempt, HOLD_S_MAX if hold_s is None else hold_s
            )
        except Undecided as error:
            self._keep(entry, str(error))
        except BursarError as error:
            if _is_early(error):
                self._keep(entry, str(error))
                return None
            if not (isinstance(error, UnknownReservation) and undecided):
                self.outbox.set_aside(entry, str(error))
            self.outbox.settled(named)
        except BaseException:  # interrupted, or the event loop ends: the settlement must not
            self._keep(entry, "its caller was interrupted")
            raise
        else:
            self.outbox.settled(named)
            self._count_settled(answer)
            return answer[0]
        return None

    def _keep(self, entry: spool_pb2.SpoolEntry, why: str) -> None:
        if self.outbox.keep(entry):
            self.outbox.count("spooled")
            _log.warning(
                "reservation %s is not settled yet and is sent behind: %s",
                entry.reservation_id,
                why,
            )

    def _count_settled(self, answer: tuple[Settlement, bool]) -> None:
        self.outbox.count("settled")
        if answer[1]:
            self.outbox.count("recorded")

    def record(
        self, request: quota_pb2.RecordRequest, timeout_s: float
    ) -> Steps[quota_pb2.RecordResponse]:
        """Enters usage, repeated within `timeout_s`; raises a BursarError."""

        def attempt(
            asked: quota_pb2.RecordRequest, attempt_s: float
        ) -> Steps[quota_pb2.RecordResponse]:
            return (yield from ask(RECORD, asked, attempt_s))

        return (yield from self._attempts(request, attempt, timeout_s))

    def _attempts(
        self, asked: _A, attempt: Callable[[_A, float], Steps[_R]], timeout_s: float
    ) -> Steps[_R]:
        """Repeats what may be repeated until there is an answer, or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        backoff_s = _BACKOFF_S[0]
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                return (yield from attempt(asked, max(0.001, min(left_s, ATTEMPT_S_MAX))))
            except Undecided:
                pause_s = _jittered(backoff_s)
                if deadline_s - time.monotonic() <= pause_s:
                    raise
                yield Pause(pause_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_S[1])

    def deliver(self) -> Steps[None]:
        """Sends what waits, the oldest first, until nothing does or the client closes."""
        backoff_s = _BACKOFF_S[0]
        try:
            while not self.closing:
                yield Disk(self.outbox.tidy)
                entry = self.outbox.take()
                if entry is None:
                    return
                if (yield from self._deliver_one(entry)):
                    self.outbox.is_away, backoff_s = False, _BACKOFF_S[0]
                    continue
                self.outbox.is_away = True
                self.outbox.later(entry)
                yield Pause(_jittered(backoff_s))
                backoff_s = min(backoff_s * 2, _BACKOFF_S[1])
        finally:
            self.outbox.stop()

    def _deliver_one(self, entry: spool_pb2.SpoolEntry) -> Steps[bool]:
        """Says whether the sidecar has answered; a refusal is an answer too."""
        try:
            answer = yield from _attempt(entry, ATTEMPT_S_MAX)
        except Undecided as error:
            _log.debug("reservation %s waits: %s", entry.reservation_id, error)
            self.outbox.count("retried")
            return False
        except UnknownReservation:  # a release of what never was
            self.outbox.done(entry)
        except BursarError as error:
            if _is_early(error):
                self.outbox.count("retried")
                return False
            if entry.HasField("commit"):
                self.outbox.set_aside(entry, str(error))
            self.outbox.done(entry)
        else:
            self.outbox.done(entry)
            self._count_settled(answer)
        return True


def _attempt(entry: spool_pb2.SpoolEntry, timeout_s: float) -> Steps[tuple[Settlement, bool]]:
    """Commits or releases; what cannot be committed as it is not known is recorded under its id.

    Gives the answer and whether it was recorded.
    """
    if entry.HasField("release"):
        bare = quota_pb2.ReleaseRequest(reservation_id=entry.reservation_id)
        less = iter([("its reason", bare)])
        return (yield from _accepted(RELEASE, entry.release, less, timeout_s)), False
    try:
        commits = less_than.commits(entry.commit)
        return (yield from _accepted(COMMIT, entry.commit, commits, timeout_s)), False
    except (UnknownReservation, NotOpen):  # not open: it was recorded under this id before
        if not entry.HasField("record"):
            raise
    records = less_than.records(entry.record)
    recorded = yield from _accepted(RECORD, entry.record, records, timeout_s)
    answer = quota_pb2.CommitResponse(
        tokens_committed=recorded.tokens_committed,
        cost_committed_nanos=recorded.cost_committed_nanos,
        replayed=recorded.replayed,
        advisories=recorded.advisories,
        ledger_sequence=recorded.ledger_sequence,
    )
    return answer, True


def _accepted(
    method: Method[_Asked, _Answer],
    request: _Asked,
    instead: Iterator[tuple[str, _Asked]],
    timeout_s: float,
) -> Steps[_Answer]:
    """Settles, saying less where the sidecar refuses what was said: usage must not get lost."""
    try:
        return (yield from ask(method, request, timeout_s))
    except InvalidRequest as error:
        if _is_early(error):
            raise
        refusal = error
    for left_out, less in instead:
        try:
            answer = yield from ask(method, less, timeout_s)
        except InvalidRequest:
            continue
        _log.error("a %s leaves out %s, as it was refused: %s", method.name, left_out, refusal)
        return answer
    raise refusal


def _is_early(error: BursarError) -> bool:
    """Says whether the caller's clock runs ahead of the sidecar's; by and by it will not."""
    return isinstance(error, InvalidRequest) and any(
        field == "occurred_at_unix_ms" for field, _ in error.fields
    )


def _check_open(request: quota_pb2.ReserveRequest, response: quota_pb2.ReserveResponse) -> None:
    state = response.grant.state
    if state != quota_pb2.STATE_OPEN and not request.dry_run:
        word = quota_pb2.State.Name(state).removeprefix("STATE_").lower()
        raise NotOpen(
            f"reservation {request.reservation_id} was granted before and is {word}: "
            "its call has had its chance; reserve anew under another id",
            reason=word,
        )


def _denied(response: quota_pb2.ReserveResponse) -> Denied:
    reason = quota_pb2.Reason.Name(response.denial.reason).removeprefix("REASON_").lower()
    return Denied(response.denial, reason=reason, policy_version=response.policy_version)


def _pause_before_retry_s(denial: quota_pb2.Denial, left_s: float, poll_s: float) -> float | None:
    """How long to wait before asking again; None: waiting cannot help within what is left.

    Time clears a denial at an instant that is known; a settlement may clear it at any, so that
    is looked for again and again.
    """
    pauses_s: list[float] = []
    if denial.HasField("retry_after_ms"):
        exact_s = denial.retry_after_ms / 1000
        if exact_s <= left_s:
            jitter_s = random.uniform(0.0, _JITTER_S_MAX)  # noqa: S311  no secret
            pauses_s.append(min(exact_s + jitter_s, left_s))
    a_settlement_helps = any(each.clears_on_settle for each in denial.shortfalls)
    if a_settlement_helps and all(_may_clear(each, left_s) for each in denial.shortfalls):
        pauses_s.append(min(_jittered(poll_s), left_s))
    if not pauses_s or left_s <= 0:
        return None
    return min(pauses_s)


def _may_clear(shortfall: quota_pb2.Shortfall, left_s: float) -> bool:
    if shortfall.clears_on_settle:
        return True
    return shortfall.HasField("retry_after_ms") and shortfall.retry_after_ms / 1000 <= left_s


def _stand_in(request: quota_pb2.ReserveRequest) -> quota_pb2.Grant:
    """What a call that is let through works with: all it asked for, and nothing set aside."""
    input_tokens, method = request.input_tokens, quota_pb2.METHOD_GIVEN
    form = request.WhichOneof("input")
    if form in {"input_bytes", "input_text", "input_chat"}:
        method = quota_pb2.METHOD_BOUND
        if form == "input_bytes":
            input_tokens = request.input_bytes
        elif form == "input_text":
            input_tokens = len(request.input_text.encode())
        else:
            input_tokens = request.input_chat.ByteSize()
    elif form == "input_lines":
        input_tokens = sum(line.tokens for line in request.input_lines.lines)
    return quota_pb2.Grant(
        reservation_id=request.reservation_id,
        state=quota_pb2.STATE_OPEN,
        model=request.model,
        input_tokens=input_tokens,
        counted_by=quota_pb2.CountedBy(method=method),
        output_tokens_granted=request.output_tokens_max,
    )


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311  no secret


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
