"""What both clients do when they are made."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import TypeVar

from bursar.errors import InvalidRequest, SpoolError
from bursar.exchange import OnUndecided
from bursar.outbox import Outbox
from bursar.spool import Spool, find_directory

_F = TypeVar("_F", bound=Callable[..., object])


def open_outbox(
    target: str, on_undecided: OnUndecided, spool: str | os.PathLike[str] | None
) -> Outbox:
    """Makes the outbox of a client; raises InvalidRequest where `allow` could keep no record."""
    directory = find_directory(spool)
    made = Spool(directory, target)
    if on_undecided == "allow":
        try:
            made.check_usable()
        except SpoolError as error:
            raise InvalidRequest(
                f"a call that is let through leaves a record on disk, but {error}; name a "
                "directory that can be written, in spool= or BURSAR_SPOOL"
            ) from None
    return Outbox(made)


def signed(request: Callable[..., object], **more: object) -> Callable[[_F], _F]:
    """Has `help()` and editors show the arguments that a method hands on to `request`."""

    def decorate(method: _F) -> _F:
        kind = inspect.Parameter.KEYWORD_ONLY
        own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        handed_on = inspect.signature(request).parameters.values()
        added = [inspect.Parameter(name, kind, default=value) for name, value in more.items()]
        method.__signature__ = inspect.Signature([*own, *handed_on, *added])  # type: ignore[attr-defined]
        return method

    return decorate
