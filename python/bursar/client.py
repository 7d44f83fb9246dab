"""The SDK's synchronous client: reserve before a model call, settle after it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Self, TypeVar, Unpack

from bursar.arguments import to_seconds, to_wait_s
from bursar.connection import Process, Wire, find_target
from bursar.exchange import (
    CLOSE_GRACE_S,
    RECORD_TIMEOUT_DEFAULT,
    TIMEOUT_DEFAULT,
    Exchange,
    OnUndecided,
    check_on_undecided,
)
from bursar.outbox import Stats
from bursar.questions import (
    RecordArguments,
    ReserveArguments,
    count_request,
    record_request,
    reserve_request,
)
from bursar.reservation import Reservation
from bursar.setup import open_outbox, signed
from bursar.steps import COUNT_TOKENS, Steps, ask, drive
from bursar.v1 import quota_pb2

_R = TypeVar("_R")


class Client:
    """A connection to a sidecar, for any number of threads; `on_undecided` has no default.

    `target` is `unix:/path/to/bursar.sock` or `host:port`; without one, `BURSAR_SOCKET` or
    `BURSAR_LISTEN` says it. A client is of the process that made it: a forked child makes its own.

    `on_undecided` says what a call without a decision means, as when the sidecar is away:
    `"deny"` raises `Undecided`; `"allow"` lets it run, with a record of it on this machine's disk
    that is sent when the sidecar is back. A wrong question is never undecided, and an answer that
    only a bug explains (INTERNAL) is let through only with `allow_on_bugs=True`.

    `spool` is the directory for settlements that wait; else `BURSAR_SPOOL`, else
    `bursar/spool` in `XDG_STATE_HOME` or `~/.local/state`. Each client has a file of its own there,
    of at most 100,000 settlements and 64 MiB; past that a new one is refused, logged in full and
    counted as dropped. An entry survives the process being killed as soon as `commit` returns, and
    a loss of power once it is synced, right after. What a dead process leaves there is sent by the
    next client of the same target on the machine. Settlements that the sidecar refuses for good are
    kept beside it in `refused.jsonl`.
    """

    def __init__(
        self,
        target: str = "",
        *,
        on_undecided: OnUndecided | None = None,
        timeout: timedelta | float = TIMEOUT_DEFAULT,
        allow_on_bugs: bool = False,
        spool: str | os.PathLike[str] | None = None,
    ) -> None:
        """Connects behind the first call; `timeout` (0.5 s) is for every call but settlements.

        Raises InvalidRequest where nothing says what undecided means or where the sidecar is, and
        where `on_undecided="allow"` has no directory it can write to.
        """
        decided = check_on_undecided(on_undecided)
        found = find_target(target)
        outbox = open_outbox(found, decided, spool)
        self._wire = Wire(found)
        self._process = Process("bursar.Client")
        self._timeout_s = to_seconds(timeout)
        self._exchange = Exchange(outbox, on_undecided=decided, allow_on_bugs=allow_on_bugs)
        self._courier: threading.Thread | None = None
        self._wake()

    def __enter__(self) -> Self:
        """Gives the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Waits at most 1 s for settlements that are on their way, and ends the connection.

        Those that are not sent by then stay on disk for the next client; what is reserved and not
        settled expires. In a forked child it does nothing.
        """
        if self.is_forked() or self._wire.closed:
            return
        self.flush(CLOSE_GRACE_S)
        self._exchange.closing = True
        self._wire.close()
        if self._courier is not None:
            self._courier.join(CLOSE_GRACE_S)
        self._exchange.outbox.close()

    def flush(self, timeout: timedelta | float) -> bool:
        """Waits until all that waits for the sidecar is sent; says whether it was, in `timeout`.

        Calls that were let through and still run are not waited for.
        """
        deadline_s = time.monotonic() + to_seconds(timeout)
        self._process.check()
        self._wire.check()
        while not self._exchange.outbox.is_empty() and deadline_s > time.monotonic():
            self._wake()
            if self._courier is not None:
                self._courier.join(max(0.0, deadline_s - time.monotonic()))
        return self._exchange.outbox.is_empty()

    def is_forked(self) -> bool:
        """Says whether this is a forked child of the process that made the client."""
        return self._process.is_forked()

    def stats(self) -> Stats:
        """What it has counted since it was made: settled, kept for later, refused, lost, and so on.

        `stats().waiting` is what has yet to be sent.
        """
        return self._exchange.outbox.stats()

    @signed(reserve_request, timeout=None, wait=None)
    def reserve(self, **asked: Unpack[ReserveArguments]) -> Reservation:
        """Sets tokens aside for one model call, under every limit that applies, or raises Denied.

        The input is given in one way: `input_tokens`, `input_bytes` (an upper bound), `text` or
        `chat` (with `tools`) to be counted by the sidecar, or `lines` by meter. Output is per
        choice, reasoning included. `labels` go over those of `bursar.labels`. Spans are timedeltas
        or seconds. With `wait`, a denial that time or somebody's settlement may clear within it is
        asked again, at the instant it clears; the last try begins within `wait`.

        Raises InvalidRequest, Conflict or NotAllowed, NotOpen where an id was used before and is
        settled, and Undecided where there is no decision, unless `on_undecided="allow"`.
        """
        timeout_s = self._timeout_of(asked.pop("timeout", None))
        wait_s = to_wait_s(asked.pop("wait", None))
        request = reserve_request(**asked)  # type: ignore[misc]  # less the two taken out
        decision = self._run(self._exchange.reserve(request, timeout_s, wait_s))
        return Reservation(self._exchange, self._process, decision, self._run_unchecked)

    @signed(record_request, timeout=RECORD_TIMEOUT_DEFAULT)
    def record(
        self,
        answer: object,
        *,
        timeout: timedelta | float = RECORD_TIMEOUT_DEFAULT,
        **said: Unpack[RecordArguments],
    ) -> quota_pb2.RecordResponse:
        """Enters usage that had no reservation; `answer` is what `commit` takes.

        `occurred_at` has a zone. It retries within `timeout`; unlike `commit` it raises, as nothing
        else knows of the usage.
        """
        request = record_request(answer, **said)
        return self._run(self._exchange.record(request, to_seconds(timeout)))

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
        request = count_request(model=model, texts=texts, chat=chat, tools=tools)
        return self._run(ask(COUNT_TOKENS, request, self._timeout_of(timeout)))

    def _timeout_of(self, timeout: timedelta | float | None) -> float:
        return self._timeout_s if timeout is None else to_seconds(timeout)

    def _run(self, steps: Steps[_R]) -> _R:
        self._process.check()
        self._wire.check()
        return self._run_unchecked(steps)

    def _run_unchecked(self, steps: Steps[_R]) -> _R:
        """Performs steps that say themselves what a forked child or a closed client means."""
        try:
            return drive(steps, self._wire.perform)
        finally:
            if not self.is_forked():
                self._wake()

    def _wake(self) -> None:
        """Starts the thread that sends what waits, if something does and none runs."""
        if self._wire.closed or not self._exchange.outbox.begin():
            return
        self._courier = threading.Thread(
            target=drive,
            args=(self._exchange.deliver(), self._wire.perform_behind),
            name="bursar-courier",
            daemon=True,
        )
        try:
            self._courier.start()
        except RuntimeError:  # the interpreter ends: the next client finds it on disk
            self._exchange.outbox.stop()
