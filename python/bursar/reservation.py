"""A reservation, and the rules by which leaving its block settles it."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from bursar.arguments import (
    DurabilityName,
    OutcomeName,
    durability_to_wire,
    outcome_to_wire,
    to_ms,
    to_seconds,
)
from bursar.connection import SETTLE_TIMEOUT_DEFAULT
from bursar.errors import NotSettled
from bursar.providers import Usage, proves_not_run, read_usage
from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from bursar.client import Client

_R = TypeVar("_R")

_log = logging.getLogger("bursar")


class Reservation:
    """Tokens set aside for one model call; leaving its `with` block settles it.

    The block never refunds a call that may have run. Left by an error that proves it did not
    (`bursar.providers.proves_not_run`), it releases; by any other, it commits as unknown; without
    one but unsettled, it commits as unknown and warns `NotSettled`.
    """

    def __init__(
        self, client: Client, request: quota_pb2.ReserveRequest, response: quota_pb2.ReserveResponse
    ) -> None:
        self._client = client
        self._request = request
        self._response = response
        self._lock = threading.Lock()
        self._settling = False
        self._settlement: quota_pb2.CommitResponse | quota_pb2.ReleaseResponse | None = None

    def __repr__(self) -> str:
        return (
            f"<Reservation {self.reservation_id} {self.model} "
            f"output_tokens_granted={self.output_tokens_granted}>"
        )

    @property
    def request(self) -> quota_pb2.ReserveRequest:
        """What was asked."""
        return self._request

    @property
    def grant(self) -> quota_pb2.Grant:
        """The whole grant as the sidecar gave it."""
        return self._response.grant

    @property
    def reservation_id(self) -> str:
        """The id it is settled by."""
        return self._request.reservation_id

    @property
    def model(self) -> str:
        """The model to call: the one asked for, or the first fallback that fits."""
        return self.grant.model

    @property
    def input_tokens(self) -> int:
        """The input as it was counted, in tokens."""
        return self.grant.input_tokens

    @property
    def output_tokens_granted(self) -> int:
        """The output that fits, per choice, in tokens: hand it to the model as its maximum."""
        return self.grant.output_tokens_granted

    @property
    def tokens_reserved(self) -> int:
        """What was set aside in all, in tokens."""
        return self.grant.tokens_reserved

    @property
    def expires_at(self) -> datetime:
        """The instant it expires, in UTC by the sidecar's clock."""
        return datetime.fromtimestamp(self.grant.expires_at_unix_ms / 1000, tz=UTC)

    @property
    def replayed(self) -> bool:
        """Whether this is the answer to an earlier call with the same id."""
        return self._response.replayed

    @property
    def dry_run(self) -> bool:
        """Whether nothing was set aside, so that there is nothing to settle."""
        return self._request.dry_run

    @property
    def settlement(self) -> quota_pb2.CommitResponse | quota_pb2.ReleaseResponse | None:
        """The sidecar's answer to the commit or release; None: there is none (yet)."""
        return self._settlement

    def commit(
        self,
        answer: object = None,
        *,
        outcome: OutcomeName | None = None,
        labels: Mapping[str, str] | None = None,
        latency: timedelta | float | None = None,
        first_token: timedelta | float | None = None,
        durability: DurabilityName | None = None,
        timeout: timedelta | float = SETTLE_TIMEOUT_DEFAULT,
    ) -> quota_pb2.CommitResponse | None:
        """Settles with what was used: a provider's response or usage, `Line`s, tokens by meter.

        With none, the outcome is unknown or failed, and the policy decides what is charged. It
        retries within `timeout` and never raises: what went wrong is logged, and None returned.
        """
        try:
            request = self._commit_request(answer, outcome)
            request.labels.update(labels or {})
            request.latency_ms = to_ms(latency, "latency")
            request.first_token_ms = to_ms(first_token, "first_token")
            request.durability = durability_to_wire(durability)
        except Exception:  # noqa: BLE001  whatever it is, the caller's path goes on
            # The model has run: its usage must not get lost because we cannot read it.
            _log.exception("reservation %s: commits as unknown", self.reservation_id)
            request = self._commit_request(None, "unknown")
        return self._settle(lambda: self._client.settle_commit(self, request, to_seconds(timeout)))

    def release(
        self,
        *,
        reason: str = "",
        durability: DurabilityName | None = None,
        timeout: timedelta | float = SETTLE_TIMEOUT_DEFAULT,
    ) -> quota_pb2.ReleaseResponse | None:
        """Gives it back because the call did not run; like `commit`, it never raises."""

        def send() -> quota_pb2.ReleaseResponse:
            request = quota_pb2.ReleaseRequest(
                reservation_id=self.reservation_id,
                reason=reason,
                durability=durability_to_wire(durability),
            )
            return self._client.settle_release(request, to_seconds(timeout))

        return self._settle(send)

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
        if self._settling or self.dry_run or self._client.is_forked():
            return
        if error is not None and proves_not_run(error):
            self.release(reason=f"{type(error).__name__}: {error}"[:200])
            return
        self.commit(outcome="unknown")
        if error is None:
            warnings.warn(
                f"reservation {self.reservation_id} was left without commit or release; it was "
                "committed as unknown, and the policy decides what is charged",
                NotSettled,
                stacklevel=2,
            )

    def _commit_request(
        self, answer: object, outcome: OutcomeName | None
    ) -> quota_pb2.CommitRequest:
        usage = Usage(()) if answer is None else read_usage(answer, granted_model=self.model)
        tier_reserved = self._request.service_tier or "standard"
        return quota_pb2.CommitRequest(
            reservation_id=self.reservation_id,
            lines=[line.to_wire() for line in usage.lines],
            outcome=outcome_to_wire(outcome or ("completed" if usage.lines else "unknown")),
            model=usage.model,
            model_version=usage.model_version,
            service_tier="" if usage.service_tier == tier_reserved else usage.service_tier,
            response_id=usage.response_id,
            total_tokens=usage.total_tokens,
        )

    def _settle(self, send: Callable[[], _R]) -> _R | None:
        with self._lock:
            self._settling = True
        if self.dry_run:
            _log.error("reservation %s was a dry run: nothing to settle", self.reservation_id)
            return None
        try:
            answer = send()
        except Exception:  # noqa: BLE001  the same
            _log.exception("reservation %s is not settled", self.reservation_id)
            return None
        if isinstance(answer, (quota_pb2.CommitResponse, quota_pb2.ReleaseResponse)):
            self._settlement = answer
        return answer
