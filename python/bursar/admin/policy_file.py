"""The policy file while a sidecar serves: once changed, it is read, checked and switched in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from bursar.admin.metrics import PolicyFileMetrics
from bursar.errors import CoreError, PolicyBug, PolicyError
from bursar.policy.parse import ParsedPolicy, bugs_told
from bursar.policy.watch import Reading, read_once
from bursar.v1 import admin_pb2

LOOK_EVERY_S = 1.0
"""How often it is asked whether a file has changed: a look at each works on every kind of disk."""

SETTLE_S = 0.1
"""How long what was read must stay as it is before it is taken."""

_MISTAKES_MAX = 100  # in a status; the log has all of them
_log = logging.getLogger(__name__)

Activate = Callable[[ParsedPolicy], int | None]
"""Checks a policy and brings it into force; gives its version, or None where it is already.

Raises PolicyError with every mistake, or CoreError where nothing can be taken now; then nothing
is changed."""


class PolicyFile:
    """Watches a policy file and the files it names, and remembers what was last made of them."""

    def __init__(self, path: Path, *, activate: Activate, registry: CollectorRegistry) -> None:
        """Hands what it reads from `path` to `activate` and counts in `registry`."""
        self._path = path
        self._activate = activate
        self._reading: Reading | None = None
        self._asked = asyncio.Event()
        self._status = admin_pb2.PolicyFileStatus(path=str(path), read_at_unix_ms=_now_unix_ms())
        self._metrics = PolicyFileMetrics(registry)

    @property
    def status(self) -> admin_pb2.PolicyFileStatus:
        """What was last made of the file."""
        return self._status

    def look_now(self) -> None:
        """Has the file read even if it looks as it did; called on the event loop, as by SIGHUP."""
        self._asked.set()

    async def watch(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self.look(force=asked)
            except Exception as error:  # noqa: BLE001  one look that fails must not be the last
                # Whatever went wrong here, the policy in force stays and decisions go on.
                self._reading = None
                self._not_taken(error)
            try:
                await asyncio.wait_for(self._asked.wait(), LOOK_EVERY_S)
            except TimeoutError:
                continue

    async def look(self, *, force: bool = False) -> None:
        """Takes what the files say now, if they have changed and are at rest."""
        if not force and self._reading is not None and self._reading.is_current:
            return
        reading = await asyncio.to_thread(read_once, self._path)
        await asyncio.sleep(SETTLE_S)
        if not await asyncio.to_thread(lambda: reading.is_at_rest):
            self._asked.set()  # somebody is writing: what is half there is not a policy
            await asyncio.sleep(SETTLE_S)
            return
        before, first = self._reading, self._reading is None
        self._reading = reading
        try:
            version = await asyncio.to_thread(self._take, reading)
        except PolicyError as error:
            self._refused(error)
        except CoreError as error:
            # No word on the file: it is taken once the data plane can, say when the disk has room.
            self._reading = before
            self._not_taken(error)
        else:
            self._taken(version, first=first)

    def _take(self, reading: Reading) -> int | None:
        if isinstance(reading.found, PolicyError):
            raise reading.found
        with bugs_told(self._path):
            return self._activate(reading.found)

    def _refused(self, error: PolicyError) -> None:
        mistakes = [str(each) for each in error.mistakes]
        _log.error("the policy file is refused, and the policy in force stays:")
        for mistake in mistakes:
            _log.error("%s", mistake)
        if isinstance(error, PolicyBug):
            _log.debug("where bursar failed at it", exc_info=error.__cause__)
        self._metrics.outcomes.labels("refused").inc()
        self._metrics.ok.set(0)
        self._put(mistakes, refusals=self._status.refusals + 1, reloads=self._status.reloads)

    def _not_taken(self, error: Exception) -> None:
        why = f"{self._path}: not taken yet, and tried again: {error}"
        if list(self._status.mistakes) != [why]:
            _log.error("%s", why)
        self._metrics.ok.set(0)
        self._put([why], refusals=self._status.refusals, reloads=self._status.reloads)

    def _taken(self, version: int | None, *, first: bool) -> None:
        if version is not None:
            _log.info("the policy file has changed: version %d is in force", version)
            self._metrics.outcomes.labels("activated").inc()
        elif not first and self._status.mistakes:
            _log.info("the policy file is as it was when its policy came into force")
        self._metrics.ok.set(1)
        reloads = self._status.reloads + (version is not None)
        self._put([], refusals=self._status.refusals, reloads=reloads)

    def _put(self, mistakes: list[str], *, refusals: int, reloads: int) -> None:
        self._status = admin_pb2.PolicyFileStatus(
            path=str(self._path),
            read_at_unix_ms=_now_unix_ms(),
            mistakes=mistakes[:_MISTAKES_MAX],
            reloads=reloads,
            refusals=refusals,
        )


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
