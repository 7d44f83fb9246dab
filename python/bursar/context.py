"""The labels of a block or a function, over every reservation made inside it."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, Self, TypeVar, cast

from bursar.errors import InvalidRequest

_P = ParamSpec("_P")
_R = TypeVar("_R")

current_labels: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar(
    "bursar_labels",
    default={},  # noqa: B039  it is never changed, only replaced
)


class Labels(contextlib.ContextDecorator):
    """Adds labels to every reservation made in a block or a function; made by `bursar.labels`."""

    def __init__(self, added: Mapping[str, str]) -> None:
        self._added = dict(added)
        self._tokens: list[contextvars.Token[Mapping[str, str]]] = []

    def __enter__(self) -> Self:
        """Puts the labels over those of the blocks around it."""
        self._tokens.append(current_labels.set({**current_labels.get(), **self._added}))
        return self

    def __exit__(self, *_: object) -> None:
        """Takes them off again."""
        current_labels.reset(self._tokens.pop())

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:  # type: ignore[override]
        """Decorates a function, also an `async` one; a generator needs the block instead."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            name = function.__qualname__
            raise InvalidRequest(
                f"labels cannot decorate the generator {name}: its callers would see them between "
                "two values; write `with bursar.labels(...)` around what reserves"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*args: _P.args, **kwargs: _P.kwargs) -> object:
                with Labels(self._added):
                    return await function(*args, **kwargs)

            return cast("Callable[_P, _R]", run_async)

        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with Labels(self._added):
                return function(*args, **kwargs)

        return run


def labels(**added: str) -> Labels:
    """Labels every reservation and record made in the `with` block, or in the function decorated.

    Blocks nest and the inner one wins; a new thread starts without them.
    """
    for key, value in added.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"label {key} must be a text (got {value!r})")
    return Labels(added)
