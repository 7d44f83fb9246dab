"""How a provider's answer is read: a field of a dict or an attribute of an object, and numbers."""

from __future__ import annotations

from collections.abc import Mapping

from bursar.arguments import whole


def get(thing: object, *names: str) -> object:
    """Reads the first of some fields or attributes that is there; None where none is."""
    for name in names:
        found = thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
        if found is not None:
            return found
    return None


def text(thing: object, *names: str) -> str:
    """Reads a field as text; empty where there is none."""
    return str(get(thing, *names) or "")


def items(thing: object, *names: str) -> tuple[object, ...]:
    """Reads a field that is a list; empty where there is none."""
    found = get(thing, *names)
    return tuple(found) if isinstance(found, (list, tuple)) else ()


def count(thing: object, *names: str) -> int:
    """Reads a field as a number of tokens; 0 where there is none; raises InvalidRequest."""
    found = get(thing, *names)
    return 0 if found is None else whole(found, names[0])


def describe(thing: object) -> str:
    """What something is, for an error: a dict by its keys, anything else by its type."""
    if isinstance(thing, Mapping):
        return f"a dict with {', '.join(sorted(map(str, thing))[:8]) or 'nothing in it'}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
