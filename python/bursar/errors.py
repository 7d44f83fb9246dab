"""Every exception that bursar raises: the SDK's, and below them the sidecar's."""

# ruff: noqa: N818  the contract's names say what happened; `DeniedError` would say it is a fault

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from bursar.plain import literal

if TYPE_CHECKING:
    from bursar.v1 import quota_pb2


class BursarError(Exception):
    """The base of all: `reason` is the sidecar's name for what happened, or empty."""

    reason: str = ""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


# --- The SDK's: what a caller of `bursar.Client` meets -------------------------------------------


class Denied(BursarError):
    """The request does not fit: no error but an answer, with what refused and when it would fit."""

    def __init__(self, denial: quota_pb2.Denial, *, reason: str, policy_version: int) -> None:
        """Takes the sidecar's denial, its reason as a word, and the policy version that decided."""
        named = ", ".join(dict.fromkeys(each.standing.limit for each in denial.shortfalls))
        message = denial.hint or f"denied by {named or reason}"
        super().__init__(message, reason=reason)
        self.denial = denial
        self.policy_version = policy_version

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles and copies by its parts, as its arguments are no plain message."""
        return (_denied, (self.denial, self.reason, self.policy_version))

    @property
    def shortfalls(self) -> Sequence[quota_pb2.Shortfall]:
        """Every limit that refused, the slowest to clear first; empty where none did."""
        return tuple(self.denial.shortfalls)

    @property
    def retry_after(self) -> timedelta | None:
        """The least time after which the same request fits; None: time alone never clears it."""
        if not self.denial.HasField("retry_after_ms"):
            return None
        return timedelta(milliseconds=self.denial.retry_after_ms)

    @property
    def hint(self) -> str:
        """For a person: what was too much and what could be done."""
        return self.denial.hint


def _denied(denial: quota_pb2.Denial, reason: str, policy_version: int) -> Denied:
    return Denied(denial, reason=reason, policy_version=policy_version)


class InvalidRequest(BursarError, ValueError):
    """The question is wrong; `fields` has each wrong field and what it must be, where known."""

    def __init__(
        self, message: str, *, reason: str = "", fields: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message, reason=reason)
        self.fields = tuple(fields)


class Conflict(BursarError):
    """The id was used before with other content."""


class UnknownReservation(BursarError):
    """The sidecar knows no reservation of that id."""


class NotOpen(BursarError):
    """The reservation is past that: it was settled or has expired."""


class NotAllowed(BursarError):
    """The caller may not ask this."""


class Undecided(BursarError):
    """No decision could be made: the sidecar is away, overloaded, too slow, or has a bug.

    `is_bug`: it answered by a status that only a mistake of ours explains, such as INTERNAL.
    """

    is_bug: bool = False


class Unanswered(Undecided):
    """Undecided without a word from the sidecar: what was asked may have been done."""


class SpoolError(BursarError):
    """A settlement cannot be kept on the caller's disk; the message says why."""


class NotSettled(UserWarning):
    """A reservation's block was left without `commit` or `release`; it was committed as unknown."""


# The one table from a gRPC status to an exception. A status that is not here is Undecided: no
# answer that we understand is no decision.
STATUS_ERRORS: dict[str, type[BursarError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "RESOURCE_EXHAUSTED": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": InvalidRequest,
    "ALREADY_EXISTS": Conflict,
    "NOT_FOUND": UnknownReservation,
    "FAILED_PRECONDITION": NotOpen,
    "UNAUTHENTICATED": NotAllowed,
    "PERMISSION_DENIED": NotAllowed,
    "UNAVAILABLE": Undecided,
    "DEADLINE_EXCEEDED": Undecided,
    "CANCELLED": Undecided,
    "INTERNAL": Undecided,
}


# Of the undecided ones, those that say nothing of a bug.
_NO_BUGS = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})


def from_status(
    status: str, message: str, *, reason: str = "", fields: Sequence[tuple[str, str]] = ()
) -> BursarError:
    """Makes the exception for a gRPC status by its name, such as `NOT_FOUND`."""
    kind = STATUS_ERRORS.get(status, Undecided)
    if kind is InvalidRequest:
        return InvalidRequest(message, reason=reason, fields=fields)
    made = kind(message or f"the sidecar answered {status} and said no more", reason=reason)
    if isinstance(made, Undecided):
        made.is_bug = status not in _NO_BUGS
    return made


# --- The sidecar's policy, settings and books: what the control plane and the commands meet -------


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in a file: where it is, what was wrong, what was got and what to write instead.

    `line` and `column` count from 1; line 0 is the file as a whole.
    """

    path: str
    line: int
    column: int
    what: str
    got: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """The mistake as `path:line: what (got …)`, and its hint on a line of its own.

        What it quotes of the file begins no line: many mistakes are told one below the other.
        """
        place = f"{self.path}:{self.line}" if self.line else self.path
        got = f" (got {self.got})" if self.got else ""
        hint = f"\n  hint: {literal(self.hint)}" if self.hint else ""
        return literal(f"{place}: {self.what}{got}") + hint


class PolicyError(BursarError):
    """A policy file has mistakes; `mistakes` has all of them, in the order of their lines."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes))
        super().__init__("\n".join(str(each) for each in self.mistakes))


class PolicyBug(PolicyError):
    """A policy file that bursar itself fails at: its one mistake says so, its cause is the bug."""


class SettingsError(BursarError):
    """A setting has a value that cannot be used; the message names it and what to write instead."""


class BooksError(BursarError):
    """The books cannot be used: they are of another ledger, or of a newer version of bursar."""


class StartError(BursarError):
    """The sidecar cannot start: an address is taken, or a directory cannot be written."""


# --- The extension's: what `bursar._core` raises --------------------------------------------------


class CoreError(BursarError):
    """The data plane cannot do what it was asked."""


class BadPolicy(CoreError, ValueError):
    """The rules refuse a policy; the message has every mistake."""


class DataDirectoryLocked(CoreError):
    """Another sidecar serves this data directory."""


class LedgerCorrupt(CoreError):
    """What the ledger says was durable cannot be read; the message says where."""


class LoadDenied(CoreError):
    """A call that was to be measured was denied; the message has the denial's hint."""


class Poisoned(CoreError):
    """A write or a sync failed: nothing more is answered until a restart."""
