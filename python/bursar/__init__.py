"""The SDK's public names, each loaded when first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bursar.aio import AsyncClient
    from bursar.client import Client
    from bursar.context import labels
    from bursar.errors import (
        BursarError,
        Conflict,
        Denied,
        InvalidRequest,
        NotAllowed,
        NotOpen,
        NotSettled,
        Unanswered,
        Undecided,
        UnknownReservation,
    )
    from bursar.outbox import Stats
    from bursar.providers import Line, Usage
    from bursar.reservation import AsyncReservation, Reservation

    __version__: str

__all__ = [
    "AsyncClient",
    "AsyncReservation",
    "BursarError",
    "Client",
    "Conflict",
    "Denied",
    "InvalidRequest",
    "Line",
    "NotAllowed",
    "NotOpen",
    "NotSettled",
    "Reservation",
    "Stats",
    "Unanswered",
    "Undecided",
    "UnknownReservation",
    "Usage",
    "__version__",
    "labels",
]

_HOMES = {
    "AsyncClient": "bursar.aio",
    "AsyncReservation": "bursar.reservation",
    "Client": "bursar.client",
    "Reservation": "bursar.reservation",
    "Stats": "bursar.outbox",
    "labels": "bursar.context",
    "Line": "bursar.providers",
    "Usage": "bursar.providers",
}


def __getattr__(name: str) -> object:
    """Loads the public name `name`; raises AttributeError if there is none."""
    if name not in __all__:
        raise AttributeError(f"module 'bursar' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("bursar")
    from importlib import import_module

    value = getattr(import_module(_HOMES.get(name, "bursar.errors")), name)
    globals()[name] = value  # the next look finds it without us
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
