"""The SDK's synchronous client: reserve before a model call, settle after it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, Self, cast, get_args

from bursar.arguments import (
    DurabilityName,
    OutcomeName,
    durability_to_wire,
    outcome_to_wire,
    to_ms,
    to_seconds,
    whole,
)
from bursar.connection import (
    SETTLE_ATTEMPT_S,
    SETTLE_TIMEOUT_DEFAULT,
    Unanswered,
    Wire,
    find_target,
)
from bursar.context import current_labels
from bursar.errors import Denied, InvalidRequest, NotOpen, UnknownReservation
from bursar.providers import Line, MeterName, chat_to_wire, read_usage
from bursar.reservation import Reservation
from bursar.v1 import quota_pb2

OnUndecided = Literal["deny", "allow"]
Lines = Sequence[Line] | Mapping[MeterName, int]

TIMEOUT_DEFAULT = timedelta(seconds=0.5)

_RELEASE_BEHIND_S = 5.0  # how long the release behind an undecided Reserve is tried
_RELEASES_BEHIND_MAX = 1000  # how many of those are in flight; what is beyond expires

_ON_UNDECIDED = (
    'on_undecided="deny": a call without a decision does not run (Undecided is raised); '
    'on_undecided="allow": it runs all the same, and its usage is sent when the sidecar is back. '
    "Each is wrong for someone, so there is no default"
)


def new_id() -> str:
    """Makes a UUIDv7: unique without asking anyone, and in the order of time."""
    instant_ms = time.time_ns() // 1_000_000
    bits = (instant_ms & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    bits = bits & ~(0xF << 76) | 0x7 << 76  # the version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # the variant
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


class Client:
    """A connection to a sidecar, for any number of threads; `on_undecided` has no default.

    `target` is `unix:/path/to/bursar.sock` or `host:port`; without one, `BURSAR_SOCKET` or
    `BURSAR_LISTEN` says it. A client is of the process that made it: a forked child makes its own.
    """

    def __init__(
        self,
        target: str = "",
        *,
        on_undecided: OnUndecided | None = None,
        timeout: timedelta | float = TIMEOUT_DEFAULT,
    ) -> None:
        """Connects behind the first call; `timeout` (0.5 s) is for every call but settlements."""
        if on_undecided not in get_args(OnUndecided):
            got = "" if on_undecided is None else f" (got {on_undecided!r})"
            raise InvalidRequest(f"say what an undecided answer means{got}: {_ON_UNDECIDED}")
        if on_undecided == "allow":
            raise InvalidRequest(
                'on_undecided="allow" is not served by this version: its usage could get lost; '
                'write on_undecided="deny" and catch bursar.Undecided where a call may run anyway'
            )
        self._timeout_s = to_seconds(timeout)
        self._wire = Wire(find_target(target))
        self._releases_behind: set[object] = set()

    def __enter__(self) -> Self:
        """Gives the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends the connection; what is reserved and not settled expires."""
        self._wire.close()

    def is_forked(self) -> bool:
        """Says whether this is a forked child of the process that made the client."""
        return self._wire.is_forked()

    def reserve(
        self,
        *,
        model: str,
        input_tokens: int | None = None,
        input_bytes: int | None = None,
        text: str | None = None,
        chat: Sequence[Mapping[str, object]] | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        lines: Lines | None = None,
        output_tokens_max: int = 0,
        output_tokens_min: int | None = None,
        choices: int = 1,
        fallback_models: Iterable[str] = (),
        service_tier: str = "",
        ttl: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        reservation_id: str | None = None,
        durability: DurabilityName | None = None,
        dry_run: bool = False,
        timeout: timedelta | float | None = None,
    ) -> Reservation:
        """Sets tokens aside for one model call, under every limit that applies, or raises Denied.

        The input is given in one way: `input_tokens`, `input_bytes` (an upper bound), `text` or
        `chat` (with `tools`) to be counted by the sidecar, or `lines` by meter. Output is per
        choice, reasoning included. `labels` go over those of `bursar.labels`. Spans are timedeltas
        or seconds. Raises InvalidRequest, Conflict or NotAllowed, NotOpen where an id was used
        before and is settled, and Undecided where there is no decision: the call must not run then.
        """
        request = quota_pb2.ReserveRequest(
            reservation_id=new_id() if reservation_id is None else reservation_id,
            model=model,
            fallback_models=fallback_models,
            service_tier=service_tier,
            labels={**current_labels.get(), **(labels or {})},
            output_tokens_max=whole(output_tokens_max, "output_tokens_max"),
            choices=whole(choices, "choices"),
            ttl_ms=to_ms(ttl, "ttl"),
            dry_run=dry_run,
            durability=durability_to_wire(durability),
        )
        if output_tokens_min is not None:
            request.output_tokens_min = whole(output_tokens_min, "output_tokens_min")
        given: dict[str, object] = {
            "input_tokens": input_tokens,
            "input_bytes": input_bytes,
            "text": text,
            "chat": None if chat is None else chat_to_wire(chat, tools),
            "lines": lines,
        }
        _set_input(request, {name: value for name, value in given.items() if value is not None})
        return self._reserve(request, self._timeout_s if timeout is None else to_seconds(timeout))

    def _reserve(self, request: quota_pb2.ReserveRequest, timeout_s: float) -> Reservation:
        try:
            response = self._wire.call(self._wire.stub.Reserve, request, timeout_s)
        except Unanswered:
            # It may have been granted without our hearing of it; nobody will use that grant.
            if not request.dry_run:
                self._release_behind(request.reservation_id)
            raise
        if response.HasField("denial"):
            reason = quota_pb2.Reason.Name(response.denial.reason)
            raise Denied(
                response.denial,
                reason=reason.removeprefix("REASON_").lower(),
                policy_version=response.policy_version,
            )
        state = response.grant.state
        if state != quota_pb2.STATE_OPEN and not request.dry_run:
            word = quota_pb2.State.Name(state).removeprefix("STATE_").lower()
            raise NotOpen(
                f"reservation {request.reservation_id} was granted before and is {word}: "
                "its call has had its chance; reserve anew under another id",
                reason=word,
            )
        return Reservation(self, request, response)

    def _release_behind(self, reservation_id: str) -> None:
        """Sends a release without waiting; if it is lost too, the reservation expires."""
        if len(self._releases_behind) >= _RELEASES_BEHIND_MAX:
            return
        request = quota_pb2.ReleaseRequest(
            reservation_id=reservation_id, reason="its caller had no answer in time"
        )
        call = self._wire.stub.Release.future(request, timeout=_RELEASE_BEHIND_S)
        self._releases_behind.add(call)  # a call that nobody holds is cancelled
        call.add_done_callback(self._releases_behind.discard)

    def record(
        self,
        answer: object,
        *,
        model: str,
        occurred_at: datetime,
        record_id: str | None = None,
        outcome: OutcomeName = "completed",
        service_tier: str = "",
        labels: Mapping[str, str] | None = None,
        latency: timedelta | float | None = None,
        durability: DurabilityName | None = None,
        timeout: timedelta | float = SETTLE_TIMEOUT_DEFAULT,
    ) -> quota_pb2.RecordResponse:
        """Enters usage that had no reservation; `answer` is what `commit` takes.

        `occurred_at` has a zone. It retries within `timeout`; unlike `commit` it raises, as nothing
        else knows of the usage.
        """
        if occurred_at.tzinfo is None:
            raise InvalidRequest(f"occurred_at must have a time zone (got {occurred_at!r})")
        usage = read_usage(answer, granted_model=model)
        request = quota_pb2.RecordRequest(
            record_id=new_id() if record_id is None else record_id,
            model=usage.model or model,
            model_version=usage.model_version,
            service_tier=service_tier
            or ("" if usage.service_tier == "standard" else usage.service_tier),
            labels={**current_labels.get(), **(labels or {})},
            lines=[line.to_wire() for line in usage.lines],
            occurred_at_unix_ms=int(occurred_at.timestamp() * 1000),
            response_id=usage.response_id,
            outcome=outcome_to_wire(outcome),
            total_tokens=usage.total_tokens,
            latency_ms=to_ms(latency, "latency"),
            durability=durability_to_wire(durability),
        )
        return self._wire.retry(self._wire.stub.Record, request, to_seconds(timeout))

    def count(
        self,
        *,
        model: str,
        texts: Sequence[str] = (),
        chat: Sequence[Mapping[str, object]] | None = None,
        tools: Sequence[Mapping[str, object]] = (),
        timeout: timedelta | float | None = None,
    ) -> quota_pb2.CountTokensResponse:
        """Counts the tokens of each text, or of one chat, for a model; says by which method."""
        request = quota_pb2.CountTokensRequest(
            model=model,
            texts=[texts] if isinstance(texts, str) else texts,
            chat=None if chat is None else chat_to_wire(chat, tools),
        )
        timeout_s = self._timeout_s if timeout is None else to_seconds(timeout)
        return self._wire.call(self._wire.stub.CountTokens, request, timeout_s)

    def settle_commit(
        self, reservation: Reservation, request: quota_pb2.CommitRequest, timeout_s: float
    ) -> quota_pb2.CommitResponse:
        """Commits, or where the sidecar has lost the reservation, records under its id."""
        deadline_s = time.monotonic() + timeout_s
        try:
            return self._wire.retry(self._wire.stub.Commit, request, timeout_s)
        except UnknownReservation:
            record = _record_instead(reservation, request)
            left_s = max(deadline_s - time.monotonic(), SETTLE_ATTEMPT_S)
            recorded = self._wire.retry(self._wire.stub.Record, record, left_s)
        return quota_pb2.CommitResponse(
            tokens_committed=recorded.tokens_committed,
            replayed=recorded.replayed,
            advisories=recorded.advisories,
            ledger_sequence=recorded.ledger_sequence,
        )

    def settle_release(
        self, request: quota_pb2.ReleaseRequest, timeout_s: float
    ) -> quota_pb2.ReleaseResponse:
        """Releases within `timeout_s`; raises a BursarError."""
        return self._wire.retry(self._wire.stub.Release, request, timeout_s)


def _record_instead(
    reservation: Reservation, commit: quota_pb2.CommitRequest
) -> quota_pb2.RecordRequest:
    """Says as usage of its own what a lost reservation's commit said.

    The instant is the grant's by the sidecar's own clock, so that it is never in its future.
    """
    asked, grant = reservation.request, reservation.grant
    instant_unix_ms = grant.expires_at_unix_ms - (asked.ttl_ms or grant.expires_in_ms)
    record = quota_pb2.RecordRequest(
        record_id=commit.reservation_id,
        model=commit.model or grant.model,
        model_version=commit.model_version,
        service_tier=commit.service_tier or asked.service_tier,
        labels={**asked.labels, **commit.labels},
        lines=commit.lines,
        occurred_at_unix_ms=instant_unix_ms,
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


def _set_input(request: quota_pb2.ReserveRequest, given: Mapping[str, object]) -> None:
    """Sets the one form of input that is given; none: zero tokens."""
    if len(given) > 1:
        raise InvalidRequest(f"give the input in one way (got {' and '.join(sorted(given))})")
    for name, value in given.items():
        if name in {"input_tokens", "input_bytes"}:
            setattr(request, name, whole(value, name))
        elif name == "text":
            request.input_text = cast("str", value)
        elif name == "chat":
            request.input_chat.CopyFrom(cast("quota_pb2.Chat", value))
        else:
            usage = read_usage(value, granted_model=request.model)
            request.input_lines.lines.extend(line.to_wire() for line in usage.lines)
