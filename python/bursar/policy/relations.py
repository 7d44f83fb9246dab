"""What the parts of a policy file must be to one another; read from its tree, however broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bursar.policy.tree import Path, Tree
from bursar.policy.types import ANCHORS

UNITS = ("tokens", "requests", "cost", "concurrency")
"""Every unit, served or not."""

WINDOW_KINDS = ("request", "fixed", "calendar", "total", "sliding", "refill", "first_use")
"""Every way to write a window, served or not."""


@dataclass(frozen=True, slots=True)
class Clash:
    """Parts that do not go together: where, what and what to do."""

    path: Path
    what: str
    hint: str
    at_key: bool = False


def clashes(tree: Tree) -> Iterator[Clash]:
    """Finds every clash between parts of the file; parts of a wrong shape are passed over."""
    if not isinstance(tree, dict):
        return
    yield from _labels(tree.get("labels"))
    yield from _twice(("rollups",), tree.get("rollups"), "rollup")
    limits = tree.get("limits")
    if not isinstance(limits, list):
        return
    yield from _names(limits)
    for index, limit in enumerate(limits):
        if isinstance(limit, dict):
            yield from _limit(("limits", index), limit)


def _labels(labels: Tree) -> Iterator[Clash]:
    if not isinstance(labels, dict):
        return
    for key, rule in labels.items():
        if not isinstance(rule, dict):
            continue
        values = rule.get("values")
        yield from _twice(("labels", key, "values"), values, "value")
        renamed = rule.get("renamed")
        if not isinstance(values, list) or not isinstance(renamed, dict) or not values:
            continue
        for old, new in renamed.items():
            path = ("labels", key, "renamed", old)
            if isinstance(new, str) and new not in values:
                yield Clash(path, f"`{old}` becomes `{new}`, which `values` does not allow",
                            f"add {new} to the values, or rename to one of them")  # fmt: skip
            if old in values:
                yield Clash(path, f"`{old}` is renamed and also one of the `values`",
                            "remove it from one of the two", at_key=True)  # fmt: skip


def _twice(path: Path, items: Tree, noun: str) -> Iterator[Clash]:
    if not isinstance(items, list):
        return
    seen: set[str] = set()
    for index, item in enumerate(items):
        if not isinstance(item, str):
            continue
        if item in seen:
            yield Clash((*path, index), f"the {noun} `{item}` is written twice", "keep one")
        seen.add(item)


def _names(limits: list[Tree]) -> Iterator[Clash]:
    seen: set[str] = set()
    for index, limit in enumerate(limits):
        name = limit.get("name") if isinstance(limit, dict) else None
        if not isinstance(name, str):
            continue
        if name in seen:
            yield Clash(("limits", index, "name"), f"two limits are named `{name}`",
                        "give each a name of its own: counters are kept by it")  # fmt: skip
        seen.add(name)


def _limit(path: Path, limit: dict[str, Tree]) -> Iterator[Clash]:
    yield from _twice((*path, "scope"), limit.get("scope"), "label")
    amount = limit.get("amount")
    window = limit.get("window")
    if isinstance(amount, dict):
        yield from _amount(path, limit, amount)
    if isinstance(window, dict):
        yield from _window((*path, "window"), window)
    overrides = limit.get("overrides")
    if isinstance(overrides, list):
        yield from _overrides(path, limit, overrides)


def _window(path: Path, window: dict[str, Tree]) -> Iterator[Clash]:
    kinds = [kind for kind in WINDOW_KINDS if kind in window]
    if len(kinds) > 1:
        both = " and ".join(kinds)
        yield Clash(path, f"a window is one span, not {both}", "write a limit for each")
    if not kinds and set(window) <= {"time_zone", *ANCHORS}:
        yield Clash(path, "a window must say which span it is",
                    "write request, {fixed: 1m}, {calendar: month} or total")  # fmt: skip
    if len(kinds) != 1:
        return
    kind = kinds[0]
    if "time_zone" in window and kind != "calendar":
        yield Clash((*path, "time_zone"), f"a {kind} window has no time zone",
                    "remove it: only calendar windows have one", at_key=True)  # fmt: skip
    span = window["calendar"] if kind == "calendar" else kind
    for key, spans in ANCHORS.items():
        if key in window and isinstance(span, str) and span not in spans:
            which = f"a calendar {span}" if kind == "calendar" else f"a {kind} window"
            hint = f"remove it: it is for calendar {' and '.join(spans)}"
            yield Clash((*path, key), f"`{key}` does not go with {which}", hint, at_key=True)


def _overrides(path: Path, limit: dict[str, Tree], overrides: list[Tree]) -> Iterator[Clash]:
    scope, amount = limit.get("scope", []), limit.get("amount")
    if scope == [] and overrides:
        yield Clash((*path, "overrides"), "a limit without a scope has one counter for all",
                    "add `scope: [tenant]`, or change the amount itself", at_key=True)  # fmt: skip
        return
    for index, entry in enumerate(overrides):
        place = (*path, "overrides", index)
        whom, other = (entry.get(k) if isinstance(entry, dict) else None for k in ("for", "amount"))
        if isinstance(whom, dict) and isinstance(scope, list):
            for key in whom:
                if key not in scope:
                    yield Clash((*place, "for", key), f"`{key}` is not in the limit's scope",
                                f"an override is for values of {', '.join(map(str, scope))}",
                                at_key=True)  # fmt: skip
        if not isinstance(other, dict) or not isinstance(amount, dict):
            continue
        misspelt = not set(amount) <= set(UNITS)  # and has its own mistake: who knows what it has
        if not other:
            yield Clash((*place, "amount"), "`amount` must have at least one unit",
                        "write `unlimited`, or {tokens: 1M}")  # fmt: skip
        for unit in other:
            if unit in UNITS and unit not in amount and not misspelt:
                yield Clash((*place, "amount", unit), f"the limit has no amount of {unit}",
                            f"an override changes what the limit has: {', '.join(amount)}",
                            at_key=True)  # fmt: skip


def _amount(path: Path, limit: dict[str, Tree], amount: dict[str, Tree]) -> Iterator[Clash]:
    units = [unit for unit in UNITS if unit in amount]
    if not amount:
        yield Clash((*path, "amount"), "`amount` must have at least one unit",
                    "write tokens, requests or concurrency: `amount: {tokens: 200k}`")  # fmt: skip
    if "concurrency" in units:
        if len(units) > 1:
            yield Clash((*path, "amount", "concurrency"), "concurrency must stand alone",
                        "write a limit of its own for it", at_key=True)  # fmt: skip
        elif "window" in limit:
            yield Clash((*path, "window"), "concurrency has no window",
                        "remove the window: it counts what is open at one time",
                        at_key=True)  # fmt: skip
    elif units and "window" not in limit:
        yield Clash(path, "`window` is missing",
                    "write request, {fixed: 1m}, {calendar: month} or total")  # fmt: skip
