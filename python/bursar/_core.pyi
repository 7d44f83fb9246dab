"""The extension: what Python sees of Rust. Structure crosses as encoded messages of `bursar.v1`."""

from os import PathLike
from typing import TypedDict, final

__all__ = ["Sidecar", "check_policy", "count_tokens", "scan_usage", "verify", "version"]

class _Report(TypedDict):
    entries: int
    last_sequence: int
    index_sequence: int | None
    usage_groups: int
    problems: list[str]

def version() -> str:
    """The version of the crate this extension was built from, as `major.minor.patch`."""

def check_policy(*, policy: bytes) -> list[str]:
    """Every mistake the rules find in a `Policy`; none if it has none."""

def count_tokens(*, request: bytes) -> bytes:
    """A `CountTokensResponse` to a `CountTokensRequest`; ValueError if the question is wrong."""

def scan_usage(*, data_directory: str | PathLike[str]) -> bytes:
    """A `UsageBatch` of everything the ledger says, also while a sidecar writes it."""

def verify(*, data_directory: str | PathLike[str]) -> _Report:
    """Recomputes everything from the ledger's first entry and compares it with the index.

    Of a directory that no sidecar serves. `problems` says what differs, and is empty if all agrees.
    """

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

    def standings(self, *, request: bytes) -> bytes:
        """A `ListStandingsResponse` to a `ListStandingsRequest`; ValueError if that is wrong."""

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
