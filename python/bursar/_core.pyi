"""The extension: what Python sees of Rust. Structure crosses as encoded messages of `bursar.v1`."""

from os import PathLike
from typing import TypedDict, final

__all__ = [
    "Echo",
    "Load",
    "Sidecar",
    "Watch",
    "check_policy",
    "check_request",
    "count_tokens",
    "metric_families",
    "scan_totals",
    "scan_usage",
    "verify",
    "version",
]

class _Report(TypedDict):
    entries: int
    last_sequence: int
    index_sequence: int | None
    usage_groups: int
    problems: list[str]

class _Round(TypedDict):
    count: int
    elapsed_ns: int
    p50_ns: int
    p99_ns: int

def version() -> str:
    """The version of the crate this extension was built from, as `major.minor.patch`."""

def metric_families() -> list[tuple[str, str, str, str]]:
    """Every metric of the data plane: its name, type, labels and meaning."""

def check_policy(*, policy: bytes) -> list[str]:
    """Every mistake the rules find in a `Policy`; none if it has none."""

def check_request(*, method: str, request: bytes) -> tuple[str, str] | None:
    """The first field of a call's request that is refused under any policy, and what is wrong.

    None if there is nothing. Raises ValueError for a call that is none of `Reserve`, `Commit`,
    `Release`, `Record` and `CountTokens`, or bytes that are not its request.
    """

def count_tokens(*, request: bytes) -> bytes:
    """A `CountTokensResponse` to a `CountTokensRequest`; ValueError if the question is wrong."""

def scan_usage(*, data_directory: str | PathLike[str]) -> bytes:
    """A `UsageBatch` of everything the ledger says, also while a sidecar writes it."""

def scan_totals(*, data_directory: str | PathLike[str], id_prefix: str) -> dict[str, int]:
    """What the reservations whose id begins so add up to in a ledger, also while it is written.

    Under `granted`, `committed`, `released` and `expired` how many; with `tokens_` before the first
    three how many tokens.
    """

def verify(*, data_directory: str | PathLike[str]) -> _Report:
    """Recomputes everything from the ledger's first entry and compares it with the index.

    Of a directory that no sidecar serves. `problems` says what differs, and is empty if all agrees.
    """

@final
class Echo:
    """A bare server of Reserve, Commit and Release that decides nothing: the floor of measurements.

    It serves on a thread of its own from when it is made until it is dropped.
    """

    def __new__(cls, *, socket: str | None, listen: str | None) -> Echo:
        """Binds and serves; port 0 takes a free one. Raises a `CoreError` when that fails."""

    def listen_address(self) -> str:
        """The TCP address as bound, such as `127.0.0.1:7420`; empty if it listens on none."""

@final
class Load:
    """Connections to one server, and closed loops of calls over them, driven by who calls."""

    def __new__(cls, *, target: str, connections: int, in_flight: int, run: str) -> Load:
        """Connects to `unix:PATH` or an address, with `in_flight` callers on each connection.

        `run` begins the id of every reservation and must be new to the sidecar. Raises ValueError
        for a wrong target or shape, a `CoreError` when nobody answers.
        """

    def round(self, *, commit: bool, power: bool, span_ms: int, count_max: int) -> _Round:
        """Reserves, or reserves and commits, until `span_ms` has passed or `count_max` were done.

        The Commit, or without one the Reserve, is at durability `power` or else `process`. Raises
        `LoadDenied` when one is denied, a `CoreError` when one fails.
        """

    def release(self) -> None:
        """Releases what rounds without a commit left open."""

    def forget(self) -> None:
        """Takes what rounds without a commit left open for nothing: the server keeps nothing."""

    def tally(self) -> dict[str, int]:
        """What the callers were told so far, summed, named as by `scan_totals`."""

@final
class Sidecar:
    """A data plane: it serves from when it is made until it is stopped or dropped."""

    def __new__(
        cls,
        *,
        data_directory: str,
        socket: str | None,
        listen: str | None,
        policy: bytes,
        policy_digest: bytes,
        policy_source: bytes,
        segment_bytes: int,
        ledger_bytes_max: int,
        counters_max: int,
        reservations_open_max: int,
        settled_ids_max: int,
        settled_span_ms: int,
        connections_max: int,
        connections_per_caller_max: int,
        reset_changed: bool = False,
        hand_clock_unix_ms: int | None = None,
    ) -> Sidecar:
        """Opens the ledger, recovers, brings the policy into force, binds, and serves.

        `listen` is loopback only, port 0 any free one. Raises a `CoreError` when that fails.
        """

    def listen_address(self) -> str:
        """The TCP address as bound, such as `127.0.0.1:7420`; empty if it listens on none."""

    def status(self) -> bytes:
        """A `GetStatusResponse` of what the data plane knows."""

    def policy(self) -> bytes:
        """A `GetPolicyResponse`."""

    def activate(
        self,
        *,
        policy: bytes,
        policy_digest: bytes,
        policy_source: bytes,
        reset_changed: bool = False,
    ) -> int | None:
        """Brings a policy into force, durably, and gives its version.

        None: the file is the one that came last, and nothing changed. Raises `BadPolicy`, with a
        line for each mistake, where it has any, or would count something from nothing and
        `reset_changed` does not allow that; the policy in force stays.
        """

    def standings(self, *, request: bytes) -> bytes:
        """A `ListStandingsResponse` to a `ListStandingsRequest`; ValueError if that is wrong."""

    def reservations(self, *, request: bytes) -> bytes:
        """A `ListReservationsResponse` to a `ListReservationsRequest`; ValueError as above."""

    def reservation(self, *, request: bytes) -> bytes:
        """A `GetReservationResponse` to a `GetReservationRequest`.

        Raises `UnknownReservation` where none of that id is open or remembered.
        """

    def explain(self, *, request: bytes) -> bytes:
        """An `ExplainResponse` to an `ExplainRequest`; its input is counted on this thread.

        Raises ValueError for a wrong one, `UnknownReservation` as `reservation` does.
        """

    def watch(self, *, request: bytes) -> Watch | None:
        """Begins to watch what a `WatchEventsRequest` wants; ValueError for a wrong one.

        None: as many watch already as may.
        """

    def usage_page(
        self, *, books_sequence: int, page: bytes, catch_up: bool = False
    ) -> bytes | None:
        """A `UsageBatch`: the next page for books that have everything through a sequence.

        Frees what the books have. `page` is empty for the first page, and then what the page before
        named. With `catch_up` it waits, at most 5 s, until the index has all that was written.
        None: there is nothing new.
        """

    def metrics(self) -> str:
        """What the data plane counts, as Prometheus' text."""

    def set_hand_clock(self, *, unix_ms: int) -> None:
        """Moves the hand clock, not back; what is due has expired when this returns."""

    def wait(self, *, timeout_ms: int) -> str | None:
        """Waits for its end: None while it serves, empty if it was stopped, else why it died."""

    def drain(self) -> None:
        """Takes no new reservations from here on; settlements go on."""

    def stop(self, *, grace_ms: int) -> None:
        """Drains, lets calls in flight end within the grace, writes, syncs, closes.

        Raises `Poisoned` if it had died.
        """

@final
class Watch:
    """What happens in a data plane, a message at a time; it is given up when this is dropped."""

    def next(self, *, timeout_ms: int) -> bytes | None:
        """A `WatchEventsResponse`, waiting at most so long for something to be in it.

        None: the data plane has ended, and everything was said. Raises `LedgerCorrupt` when the
        ledger cannot be read.
        """
