"""A reservation, and the rules by which leaving its block settles it; for threads and for loops."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

from bursar.arguments import (
    CommitArguments,
    DurabilityName,
    OutcomeName,
    ReleaseArguments,
    durability_to_wire,
    label_map,
    outcome_to_wire,
    to_ms,
    to_seconds,
)
from bursar.connection import Process
from bursar.errors import InvalidRequest, NotSettled
from bursar.exchange import Decision, Exchange, Settlement
from bursar.follow import Followed, events_of
from bursar.providers import Usage, proves_not_run, read_usage
from bursar.steps import Steps
from bursar.v1 import quota_pb2, spool_pb2

_REASON_CHARACTERS_MAX = 200

_log = logging.getLogger("bursar")

# What a commit may say besides the usage, by name; None says nothing.
_BESIDES: Mapping[str, Callable[[quota_pb2.CommitRequest, Any], None]] = {
    "model": lambda request, model: setattr(request, "model", model or request.model),
    "labels": lambda request, labels: request.labels.update(label_map(labels)),
    "latency": lambda request, span: setattr(request, "latency_ms", to_ms(span, "latency")),
    "first_token": lambda request, span: setattr(
        request, "first_token_ms", to_ms(span, "first_token")
    ),
    "durability": lambda request, word: setattr(request, "durability", durability_to_wire(word)),
}

_Event = TypeVar("_Event")


@dataclass(frozen=True, slots=True)
class Leaving:
    """How leaving a block settles: release for a reason, or commit, and warn or not."""

    release_reason: str | None = None
    warns: bool = False
    usage: Usage | None = None
    """What a stream that was left early has said of its usage."""

    @property
    def outcome(self) -> OutcomeName:
        """How the call ended, as far as leaving the block tells."""
        return "unknown" if self.usage is None else "cancelled"


class ReservationFacts:
    """What a reservation is, however it is settled; for threads and loops alike."""

    def __init__(self, exchange: Exchange, process: Process, decision: Decision) -> None:
        self._exchange = exchange
        self._process = process
        self._decision = decision
        self._lock = threading.Lock()
        self._settling = False
        self._settlement: Settlement | None = None
        self._granted_at_s = time.monotonic()
        self._followed: Followed | None = None

    def __repr__(self) -> str:
        undecided = " undecided" if self.undecided else ""
        return (
            f"<{type(self).__name__} {self.reservation_id} {self.model}{undecided} "
            f"output_tokens_granted={self.output_tokens_granted}>"
        )

    @property
    def request(self) -> quota_pb2.ReserveRequest:
        """What was asked."""
        return self._decision.request

    @property
    def grant(self) -> quota_pb2.Grant:
        """The whole grant as the sidecar gave it; of an undecided call, what was asked."""
        return self._decision.response.grant

    @property
    def reservation_id(self) -> str:
        """The id it is settled by."""
        return self.request.reservation_id

    @property
    def undecided(self) -> bool:
        """Whether no decision was made and `on_undecided="allow"` let the call through.

        Nothing was set aside then, and `output_tokens_granted` is what was asked. What it uses is
        kept on this machine's disk and counted when the sidecar is back.
        """
        return self._decision.undecided

    @property
    def model(self) -> str:
        """The model to call: the one asked for, or the first fallback that fits."""
        return self.grant.model

    @property
    def input_tokens(self) -> int:
        """The input as it was counted, in tokens; of an undecided call at most, if not given."""
        return self.grant.input_tokens

    @property
    def output_tokens_granted(self) -> int:
        """The output that fits, per choice, in tokens: hand it to the model as its maximum."""
        return self.grant.output_tokens_granted

    @property
    def tokens_reserved(self) -> int:
        """What was set aside in all, in tokens; 0 of an undecided call."""
        return self.grant.tokens_reserved

    @property
    def expires_at(self) -> datetime | None:
        """The instant it expires, in UTC by the sidecar's clock; None of an undecided call."""
        if self.undecided:
            return None
        return datetime.fromtimestamp(self.grant.expires_at_unix_ms / 1000, tz=UTC)

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier call with the same id."""
        return self._decision.response.replayed

    @property
    def dry_run(self) -> bool:
        """Whether nothing was set aside, so that there is nothing to settle."""
        return self.request.dry_run

    @property
    def settlement(self) -> Settlement | None:
        """The sidecar's answer to the commit or release; None: there is none (yet).

        What is settled in the background leaves it None; `client.stats()` counts it.
        """
        return self._settlement

    def _leaving(self, error: BaseException | None) -> Leaving | None:
        """How leaving the block settles; None: it is settled, or not ours to settle."""
        if self._settling or self.dry_run or self._process.is_forked():
            return None
        if self._followed is not None and self._followed.began:  # it ran, and was not heard out
            return Leaving(usage=self._followed.usage)
        if error is not None and proves_not_run(error):
            reason = f"{type(error).__name__}: {error}"[:_REASON_CHARACTERS_MAX]
            return Leaving(release_reason=reason)
        return Leaving(warns=error is None)

    def _follow(self) -> Followed:
        self._followed = Followed(
            granted_model=self.model,
            others=self._other_models,
            granted_at_s=self._granted_at_s,
        )
        return self._followed

    def _warn(self) -> None:
        warnings.warn(
            f"reservation {self.reservation_id} was left without commit or release; it was "
            "committed as unknown, and the policy decides what is charged",
            NotSettled,
            stacklevel=3,
        )

    def _commit(
        self,
        answer: object,
        *,
        outcome: OutcomeName | None = None,
        timeout: timedelta | float | None = None,
        **besides: object,
    ) -> Steps[Settlement | None]:
        """The steps of a commit; they raise nothing but an interruption or a cancellation."""
        request = self._commit_request(answer, outcome)
        for name, value in besides.items():
            try:
                _BESIDES[name](request, value)
            except Exception:  # noqa: BLE001  whatever it is, the usage is what counts
                _log.exception("reservation %s: commits without %s", self.reservation_id, name)
        entry = spool_pb2.SpoolEntry(
            reservation_id=self.reservation_id,
            commit=request,
            record=self._decision.record_instead(request),
        )
        return (yield from self._settle(entry, timeout))

    def _release(
        self,
        *,
        reason: str = "",
        durability: DurabilityName | None = None,
        timeout: timedelta | float | None = None,
    ) -> Steps[Settlement | None]:
        """The steps of a release; they raise as those of a commit."""
        try:
            wire = durability_to_wire(durability)
        except Exception:  # noqa: BLE001  the same
            _log.exception("reservation %s: releases as usual", self.reservation_id)
            wire = quota_pb2.DURABILITY_UNSPECIFIED
        entry = spool_pb2.SpoolEntry(
            reservation_id=self.reservation_id,
            release=quota_pb2.ReleaseRequest(
                reservation_id=self.reservation_id, reason=reason, durability=wire
            ),
        )
        return (yield from self._settle(entry, timeout))

    def _commit_request(
        self, answer: object, outcome: OutcomeName | None
    ) -> quota_pb2.CommitRequest:
        """What was used, and how the call ended; what cannot be read is unknown, and logged."""
        try:
            usage = Usage(()) if answer is None else self._read(answer)
            lines = [line.to_wire() for line in usage.lines]
        except Exception:  # noqa: BLE001  whatever it is, the caller's path goes on
            # The model has run: its usage must not get lost because we cannot read it.
            _log.exception("reservation %s: commits as unknown", self.reservation_id)
            usage, lines, outcome = Usage(()), [], "unknown"
        tier_reserved = self.request.service_tier or "standard"
        return quota_pb2.CommitRequest(
            reservation_id=self.reservation_id,
            lines=lines,
            outcome=self._outcome(outcome, "completed" if lines else "unknown"),
            model=usage.model,
            model_version=usage.model_version,
            service_tier="" if usage.service_tier == tier_reserved else usage.service_tier,
            response_id=usage.response_id,
            total_tokens=usage.total_tokens,
        )

    def _read(self, answer: object) -> Usage:
        return read_usage(answer, granted_model=self.model, others=self._other_models)

    @property
    def _other_models(self) -> tuple[str, ...]:
        """The models that were asked for besides the one granted."""
        asked = (self.request.model, *self.request.fallback_models)
        return tuple(model for model in asked if model != self.model)

    def _outcome(
        self, outcome: OutcomeName | None, otherwise: OutcomeName
    ) -> quota_pb2.Outcome.ValueType:
        try:
            return outcome_to_wire(outcome or otherwise)
        except InvalidRequest:
            _log.exception("reservation %s: commits as %s", self.reservation_id, otherwise)
            return outcome_to_wire(otherwise)

    def _settle(
        self, entry: spool_pb2.SpoolEntry, timeout: timedelta | float | None
    ) -> Steps[Settlement | None]:
        with self._lock:
            self._settling = True
        if self.dry_run:
            _log.error("reservation %s was a dry run: nothing to settle", self.reservation_id)
            return None
        try:
            self._process.check()
            hold_s = self._hold_s(timeout)
            answer = yield from self._exchange.settle(
                entry, hold_s=hold_s, undecided=self.undecided
            )
        except Exception:  # noqa: BLE001  the same
            _log.exception("reservation %s is not settled", self.reservation_id)
            return None
        if answer is not None:
            self._settlement = answer
        return answer

    def _hold_s(self, timeout: timedelta | float | None) -> float | None:
        try:
            return None if timeout is None else to_seconds(timeout)
        except Exception:  # noqa: BLE001  the same
            _log.exception("reservation %s: settles with the usual timeout", self.reservation_id)
            return None


class Reservation(ReservationFacts):
    """Tokens set aside for one model call; leaving its `with` block settles it.

    The block never refunds a call that may have run. Left by an error that proves it did not
    (`bursar.providers.proves_not_run`), it releases; by any other, it commits as unknown; without
    one but unsettled, it commits as unknown and warns `NotSettled`. Left in the middle of a stream
    that `follow` hands on, it commits what that has said of its usage, or else as unknown.
    """

    def __init__(
        self,
        exchange: Exchange,
        process: Process,
        decision: Decision,
        run: Callable[[Steps[Settlement | None]], Settlement | None],
    ) -> None:
        super().__init__(exchange, process, decision)
        self._run = run

    def commit(
        self, answer: object = None, **said: Unpack[CommitArguments]
    ) -> quota_pb2.CommitResponse | None:
        """Settles with what was used: a provider's response or usage, `Line`s, tokens by meter.

        With none, the outcome is unknown or failed, and the policy decides what is charged. It
        never raises. What finds no answer within `timeout` (1 s) goes on in the background, from
        this machine's disk, until the sidecar has counted it; None is returned then, and where the
        sidecar refused it, which is logged. What it says wrongly besides the usage is left out, and
        logged. By name: `outcome`, `model`, `labels`, `latency`, `first_token`, `durability`,
        `timeout`.
        """
        return cast("quota_pb2.CommitResponse | None", self._run(self._commit(answer, **said)))

    def follow(self, stream: Iterable[_Event], **said: Unpack[CommitArguments]) -> Iterator[_Event]:
        """Hands on what a provider streams, and commits what it has said of its usage at the end.

        Of OpenAI's chats ask for that with `stream_options={"include_usage": True}`; a stream that
        says nothing of it commits as unknown. A stream that fails commits as failed. One that is
        not heard to its end is committed when the block is left: as cancelled with what it has said
        so far, or else as unknown. By name: what `commit` takes; `latency` and `first_token`, where
        not given, are measured from the grant on.
        """
        followed = self._follow()
        try:
            for event in events_of(stream):
                followed.note(event)
                yield event
        except Exception:
            if followed.began:  # else leaving the block tells whether it ran
                self.commit(followed.usage, **followed.said(said, outcome="failed"))
            raise
        self.commit(followed.usage_at_end, **followed.said(said))

    def release(self, **said: Unpack[ReleaseArguments]) -> quota_pb2.ReleaseResponse | None:
        """Gives it back because the call did not run; like `commit`, it never raises.

        By name: `reason`, `durability`, `timeout`.
        """
        return cast("quota_pb2.ReleaseResponse | None", self._run(self._release(**said)))

    def __enter__(self) -> Self:
        """Gives the reservation itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settles what is not settled; lets every error through."""
        leaving = self._leaving(error)
        if leaving is None:
            return
        if leaving.release_reason is not None:
            self.release(reason=leaving.release_reason)
            return
        self.commit(leaving.usage, outcome=leaving.outcome)
        if leaving.warns:
            self._warn()


class AsyncReservation(ReservationFacts):
    """`Reservation` for an event loop: the same rules, with `async with` and `await`.

    A settlement survives the cancellation of the task that asked for it.
    """

    def __init__(
        self,
        exchange: Exchange,
        process: Process,
        decision: Decision,
        run: Callable[[Steps[Settlement | None]], Awaitable[Settlement | None]],
    ) -> None:
        super().__init__(exchange, process, decision)
        self._run = run

    async def commit(
        self, answer: object = None, **said: Unpack[CommitArguments]
    ) -> quota_pb2.CommitResponse | None:
        """Settles as `Reservation.commit` does."""
        return cast(
            "quota_pb2.CommitResponse | None", await self._run(self._commit(answer, **said))
        )

    async def follow(
        self, stream: AsyncIterable[_Event], **said: Unpack[CommitArguments]
    ) -> AsyncIterator[_Event]:
        """Hands on what a provider streams, and commits, as `Reservation.follow` does."""
        followed = self._follow()
        try:
            async for event in stream:
                followed.note(event)
                yield event
        except Exception:
            if followed.began:
                await self.commit(followed.usage, **followed.said(said, outcome="failed"))
            raise
        await self.commit(followed.usage_at_end, **followed.said(said))

    async def release(self, **said: Unpack[ReleaseArguments]) -> quota_pb2.ReleaseResponse | None:
        """Gives it back as `Reservation.release` does."""
        return cast("quota_pb2.ReleaseResponse | None", await self._run(self._release(**said)))

    async def __aenter__(self) -> Self:
        """Gives the reservation itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settles what is not settled; lets every error and cancellation through."""
        leaving = self._leaving(error)
        if leaving is None:
            return
        if leaving.release_reason is not None:
            await self.release(reason=leaving.release_reason)
            return
        await self.commit(leaving.usage, outcome=leaving.outcome)
        if leaving.warns:
            self._warn()
