"""What a client has yet to tell the sidecar: on disk where it can be kept, else in memory."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, fields

from bursar.errors import SpoolError
from bursar.spool import Spool
from bursar.v1 import quota_pb2, spool_pb2

MEMORY_RECORDS_MAX = 10_000
"""The most settlements that are kept in memory where the disk takes none."""

RELEASES_BEHIND_MAX = 1_000
"""The most releases behind undecided calls that wait; what is beyond expires at the sidecar."""

RELEASE_BEHIND_S_MAX = 60.0
"""How long such a release is tried before the reservation is left to expire."""

_log = logging.getLogger("bursar")


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client has counted since it was made; `waiting` is now."""

    undecided: int = 0
    """Calls of `reserve` that got no decision."""
    let_through: int = 0
    """Of these, those that ran all the same by `on_undecided="allow"`."""
    settled: int = 0
    """Settlements that the sidecar has acknowledged, in whatever way."""
    recorded: int = 0
    """Of these, those recorded under the reservation's id, as the sidecar did not know it."""
    spooled: int = 0
    """Settlements kept for later as the sidecar did not answer in time."""
    adopted: int = 0
    """Settlements taken over from processes that are gone."""
    retried: int = 0
    """Attempts in the background that got no answer either."""
    refused: int = 0
    """Settlements that the sidecar refused for good; they are logged, and usage is set aside."""
    dropped: int = 0
    """Settlements that are lost, as nothing could keep them; each is logged in full."""
    waiting: int = 0
    """Settlements that wait now, calls that were let through and still run included."""


class Outbox:
    """The settlements of one client that wait; safe for threads."""

    def __init__(self, spool: Spool | None) -> None:
        """Keeps in `spool`; None keeps in memory only."""
        self._spool = spool
        self._lock = threading.Lock()
        self._memory: dict[str, spool_pb2.SpoolEntry] = {}
        self._ready: dict[str, None] = {}  # ids to send, in turn
        self._behind: dict[str, float] = {}  # releases behind: until when they are tried
        self._counts = dict.fromkeys((each.name for each in fields(Stats)), 0)
        self._working = False
        self._looked_for_orphans = spool is None
        self.is_away = False  # the last attempt in the background got no answer

    def stats(self) -> Stats:
        """What has been counted."""
        with self._lock:
            waiting = len(self._memory) + (self._spool.count() if self._spool is not None else 0)
            return Stats(**{**self._counts, "waiting": waiting})

    def count(self, name: str) -> None:
        """Counts one of what `Stats` names."""
        with self._lock:
            self._counts[name] += 1

    def keep(self, entry: spool_pb2.SpoolEntry) -> bool:
        """Keeps an entry in the place of an earlier one of its id; False: it is lost, and logged.

        An entry of a running call waits there for its settlement, and is not sent.
        """
        named = entry.reservation_id
        with self._lock:
            try:
                self._put(entry)
            except SpoolError as error:
                self._counts["dropped"] += 1
                _log.error("reservation %s: its settlement is lost: %s: %s", named, error, entry)
                return False
            if not entry.running:
                self._ready[named] = None
            return True

    def keep_behind(self, reservation_id: str) -> None:
        """Has a reservation released that nobody will use, for a while and in memory only."""
        request = quota_pb2.ReleaseRequest(
            reservation_id=reservation_id, reason="its caller had no answer in time"
        )
        with self._lock:
            if len(self._behind) >= RELEASES_BEHIND_MAX:
                return
            self._memory[reservation_id] = spool_pb2.SpoolEntry(
                reservation_id=reservation_id, release=request
            )
            self._behind[reservation_id] = time.monotonic() + RELEASE_BEHIND_S_MAX
            self._ready[reservation_id] = None

    def begin(self) -> bool:
        """Says whether somebody must start to deliver; if so, it is the one who asked."""
        with self._lock:
            if not self._looked_for_orphans and (self._spool is None or not self._spool.orphans()):
                self._looked_for_orphans = True
            if self._working or (self._looked_for_orphans and not self._ready):
                return False
            self._working = True
            return True

    def is_empty(self) -> bool:
        """Says whether nothing is to be sent, and nobody has left anything either."""
        with self._lock:
            return not self._ready and self._looked_for_orphans

    def stop(self) -> None:
        """Says that nobody delivers any more."""
        with self._lock:
            self._working = False

    def take(self) -> spool_pb2.SpoolEntry | None:
        """The next entry to send; None: there is none, and whoever delivers is done."""
        with self._lock:
            now_s = time.monotonic()
            while named := next(iter(self._ready), ""):
                entry = self._find(named)
                if entry is not None and now_s <= self._behind.get(named, math.inf):
                    return entry
                self._remove(named)  # a release behind that was tried for long enough
            self._working = False
            return None

    def later(self, entry: spool_pb2.SpoolEntry) -> None:
        """Puts an entry behind the others that wait."""
        with self._lock:
            if entry.reservation_id in self._ready:
                del self._ready[entry.reservation_id]
                self._ready[entry.reservation_id] = None

    def done(self, entry: spool_pb2.SpoolEntry) -> None:
        """Forgets an entry, unless another has taken its place meanwhile."""
        with self._lock:
            if self._find(entry.reservation_id) == entry:
                self._remove(entry.reservation_id)

    def settled(self, reservation_id: str) -> None:
        """Forgets what waits for a reservation: it has been settled in another way."""
        with self._lock:
            self._remove(reservation_id)

    def tidy(self) -> None:
        """Syncs what was written, and once takes over what others have left; waits for the disk."""
        with self._lock:
            handle = self._spool.begin_sync() if self._spool is not None else None
            look, self._looked_for_orphans = not self._looked_for_orphans, True
            if look and self._spool is not None:
                for named in self._spool.adopt():
                    self._ready[named] = None
                    self._counts["adopted"] += 1
        if handle is not None and self._spool is not None:
            self._spool.end_sync(handle)

    def set_aside(self, entry: spool_pb2.SpoolEntry, why: str) -> None:
        """Keeps what was refused where a person can read it, and logs it once."""
        named = entry.reservation_id
        with self._lock:
            self._counts["refused"] += 1
            if self._spool is None or not entry.HasField("commit"):
                _log.error("reservation %s is not settled: %s", named, why)
                return
            try:
                path = self._spool.set_aside(entry, why)
            except SpoolError as error:
                _log.error("reservation %s is not settled: %s (%s): %s", named, why, error, entry)
            else:
                _log.error("reservation %s is not settled: %s; kept aside in %s", named, why, path)

    def close(self) -> None:
        """Lets go of the disk: what waits there is for the next client, and the rest is lost."""
        with self._lock:
            for entry in self._memory.values():
                if entry.reservation_id not in self._behind:
                    self._counts["dropped"] += 1
                    _log.error("a settlement is lost with its client: %s", entry)
            self._memory.clear()
            self._ready.clear()
            if self._spool is not None:
                if self._spool.count():
                    where, waiting = self._spool.directory, self._spool.count()
                    _log.warning("%d settlements wait in %s for the next client", waiting, where)
                self._spool.close()

    def _put(self, entry: spool_pb2.SpoolEntry) -> None:
        """Puts it on disk or, where that takes none, in memory; raises SpoolError at a bound."""
        named = entry.reservation_id
        if self._spool is not None:
            try:
                self._spool.put(entry)
            except SpoolError as error:
                if error.reason == "FULL":
                    raise
                _log.warning("reservation %s is kept in memory only: %s", named, error)
            else:
                self._memory.pop(named, None)
                return
        if named not in self._memory and len(self._memory) >= MEMORY_RECORDS_MAX:
            raise SpoolError(f"{MEMORY_RECORDS_MAX:,} settlements wait in memory already")
        self._memory[named] = entry

    def _find(self, reservation_id: str) -> spool_pb2.SpoolEntry | None:
        found = self._memory.get(reservation_id)
        return found if found or self._spool is None else self._spool.get(reservation_id)

    def _remove(self, reservation_id: str) -> None:
        self._ready.pop(reservation_id, None)
        self._behind.pop(reservation_id, None)
        self._memory.pop(reservation_id, None)
        if self._spool is not None:
            self._spool.remove(reservation_id)
