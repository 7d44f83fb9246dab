"""What a policy without mistakes still has that nobody can have meant, each with its line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from zoneinfo import ZoneInfo

from bursar.errors import Mistake
from bursar.policy import scalars, types
from bursar.policy.overrides import bounded
from bursar.policy.parse import ParsedPolicy
from bursar.policy.tree import Path
from bursar.policy.types import Limit, Override, Window

UNITS = ("tokens", "requests", "concurrency")
"""What a limit may have an amount of."""

NONE = "(none)"
"""The value that a label has where a request does not say it."""

_FAR_MS = 10 * 366 * 86_400_000
# The offsets of all zones from UTC are whole multiples of this.
_OFFSET_STEP_MS = 15 * 60_000
_PATTERNS_COMPARED_MAX = 1_000
_VALUES_SHOWN_MAX = 6


def warnings_of(parsed: ParsedPolicy, *, now_unix_ms: int) -> list[Mistake]:
    """Finds what can have no effect, or an effect that nobody wants, in the order of lines."""
    found = list(_Warnings(parsed, now_unix_ms).all())
    return sorted(bounded(parsed.path, found, noun="warnings"))


def matches(pattern: str, value: str) -> bool:
    """Whether a pattern matches a value: equal, or `*` after what the value begins with."""
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else pattern == value


def covers(wide: list[str], narrow: list[str]) -> bool:
    """Whether every value that some pattern of `narrow` matches, one of `wide` matches too."""
    prefixes = tuple(each[:-1] for each in wide if each.endswith("*"))
    equal = set(wide)
    return all(each in equal or each.removesuffix("*").startswith(prefixes) for each in narrow)


def _meet(one: list[str], other: list[str]) -> bool:
    """Whether a value can match both."""
    return any(covers([a], [b]) or covers([b], [a]) for a in one for b in other)


def _all_covered(wide: types.Matches, narrow: types.Matches) -> bool:
    """Whether whatever matches `narrow` matches `wide`: every key of the wide one, as wide."""
    return all(key in narrow and covers(values, narrow[key]) for key, values in wide.items())


@dataclass(slots=True)
class _Warnings:
    parsed: ParsedPolicy
    now_unix_ms: int

    @property
    def policy(self) -> types.Policy:
        return self.parsed.policy

    def _warning(self, path: Path, what: str, hint: str, *, at_key: bool = False) -> Mistake:
        document = self.parsed.document
        return document.mistake(document.place(path, at_key=at_key), what, hint=hint)

    def all(self) -> Iterator[Mistake]:
        yield from self._no_limits()
        yield from self._unused_labels()
        for index, limit in enumerate(self.policy.limits):
            path = ("limits", index)
            yield from self._concerns(path, limit)
            yield from self._span(path, limit)
            yield from self._refuses_all(path, limit)
            yield from self._overrides(path, limit)
            yield from self._never_binds(index, limit)

    def _no_limits(self) -> Iterator[Mistake]:
        if self.policy.limits:
            return
        but = (
            " that `labels` does not deny" if any(map(_denies, self.policy.labels.values())) else ""
        )
        what = f"the policy has no limits: it grants everything{but}"
        yield self._warning(("limits",), what, "write a limit, as `bursar init` does", at_key=True)

    def _unused_labels(self) -> Iterator[Mistake]:
        """Labels that are declared and change nothing: no decision, and no report by hour."""
        used = set(self.policy.rollups)
        for limit in self.policy.limits:
            used |= {*limit.match, *limit.exclude, *limit.scope}
        for key, rule in self.policy.labels.items():
            if key not in used and not _denies(rule):
                what = f"the label `{key}` is declared, and nothing uses it"
                hint = "name it in a limit or in `rollups`, or remove it"
                yield self._warning(("labels", key), what, hint, at_key=True)

    def _concerns(self, path: Path, limit: Limit) -> Iterator[Mistake]:
        yield from self._dead(
            (*path, "match"), limit.match, whole=f"the limit `{limit.name}` matches nothing"
        )
        yield from self._dead((*path, "except"), limit.exclude, whole="`except` leaves nothing out")
        if limit.exclude and _all_covered(limit.exclude, limit.match):
            what = f"the limit `{limit.name}` matches nothing: `except` leaves out all of it"
            yield self._warning((*path, "except"), what, "write less in `except`", at_key=True)

    def _dead(self, path: Path, by_key: types.Matches, *, whole: str) -> Iterator[Mistake]:
        """Values that a label can never have."""
        for key, patterns in by_key.items():
            dead = self._never(key, patterns)
            for each, (is_not, hint) in dead.items():
                place = (*path, key)
                if (*place, patterns.index(each)) in self.parsed.document.values:
                    place = (*place, patterns.index(each))
                none_left = len(dead) == len(set(patterns))
                what = f"{whole}: {is_not}" if none_left else f"{is_not}: it has no effect"
                yield self._warning(place, what, hint)

    def _never(self, key: str, patterns: list[str]) -> dict[str, tuple[str, str]]:
        """The patterns that no value of a label can match, each with why and what to do."""
        if key == "model":
            hint = "a request's model is always provider/model, such as openai/gpt-4.1"
            return {
                each: (f"`{each}` is no model's name", hint)
                for each in patterns
                if "/" not in each and not each.endswith("*")
            }
        rule = self.policy.labels.get(key)
        if rule is None or not rule.values:
            return {}
        known = _possible(rule)
        return {
            each: (_is_not(key, each), _instead(key, rule, each))
            for each in patterns
            if not any(matches(each, value) for value in known)
        }

    def _span(self, path: Path, limit: Limit) -> Iterator[Mistake]:
        total = limit.window.total if limit.window else None
        if total is None:
            return
        place = (*path, "window", "total")
        if total.until is not None and total.until <= self.now_unix_ms:
            what = f"the limit `{limit.name}` ended at {self._instant(total.until)}"
            yield self._warning((*place, "until"), what, "remove it, or move `until`")
        if total.since is not None and total.since > self.now_unix_ms + _FAR_MS:
            what = f"the limit `{limit.name}` begins only at {self._instant(total.since)}"
            yield self._warning((*place, "from"), what, "is the year right?")

    def _instant(self, unix_ms: int) -> str:
        zone = ZoneInfo(self.policy.time_zone or "UTC")
        return datetime.fromtimestamp(unix_ms / 1000, zone).isoformat(sep=" ", timespec="minutes")

    def _refuses_all(self, path: Path, limit: Limit) -> Iterator[Mistake]:
        """An amount of 0 forbids what a limit matches; of a limit that matches all, everything."""
        rules = [self.policy.labels.get(key) for key in limit.scope]
        skips = any(rule and rule.missing and rule.missing.action == "skip" for rule in rules)
        if limit.match or limit.exclude or skips:
            return
        for unit in UNITS:
            if getattr(limit.amount, unit) == 0 and _most(limit, unit) == 0:
                what = f"the limit `{limit.name}` refuses every request: it allows 0 {unit}"
                hint = "write an amount, or `match` whom it forbids"
                yield self._warning((*path, "amount", unit), what, hint)

    def _overrides(self, path: Path, limit: Limit) -> Iterator[Mistake]:
        seen = _Seen(limit)
        for index, override in enumerate(limit.overrides):
            place = (*path, "overrides", index)
            yield from self._dead(
                (*place, "for"), override.match, whole="this override never applies"
            )
            for key, patterns in override.match.items():
                if key in limit.match and not _meet(limit.match[key], patterns):
                    what = f"this override never applies: the limit matches other values of `{key}`"
                    hint = f"it matches {', '.join(limit.match[key][:_VALUES_SHOWN_MAX])}"
                    yield self._warning((*place, "for", key), what, hint)
            earlier = seen.decided_by(override)
            if earlier is not None:
                before = self.parsed.document.place((*path, "overrides", earlier))
                where = f"line {before.line}" + (f" of {before.file}" if before.file else "")
                what = f"this override never applies: the one on {where} comes first"
                hint = "the first that matches decides: put the narrower first, or keep one"
                yield self._warning(place, what, hint)
            seen.add(index, override)

    def _never_binds(self, index: int, limit: Limit) -> Iterator[Mistake]:
        """Amounts that another limit always reaches first."""
        for unit in UNITS:
            if getattr(limit.amount, unit) is None:
                continue
            for at, other in enumerate(self.policy.limits):
                if at == index or not self._always_first(other, limit, unit):
                    continue
                if at > index and self._always_first(limit, other, unit):
                    continue  # the two say the same: the later one is told
                line = self.parsed.document.place(("limits", at)).line
                most = f"{int(_most(other, unit)):_}"
                what = (
                    f"the limit `{limit.name}` never refuses by its {unit}: `{other.name}` on "
                    f"line {line} always does so first, at {most}"
                )
                hint = f"write less than {most} here, or more there, or remove it"
                yield self._warning(("limits", index, "amount", unit), what, hint)
                break

    def _always_first(self, first: Limit, limit: Limit, unit: str) -> bool:
        """Whether `first` has always counted as much as `limit`, and allows no more."""
        return (
            getattr(first.amount, unit) is not None
            and _most(first, unit) <= _least(limit, unit)
            and _all_covered(first.match, limit.match)
            and (not first.exclude or first.exclude == limit.exclude)
            and (_is_request(limit.window) or set(first.scope) <= set(limit.scope))
            and self._within(limit.window, first.window)
        )

    def _within(self, inner: Window | None, outer: Window | None) -> bool:
        """Whether each span of `inner` lies in one span of `outer`, so that `outer` counts more."""
        if inner is None or outer is None:
            return inner is outer
        if outer.total is not None:
            since, until = outer.total.since, outer.total.until
            always = until is None and (since is None or since <= self.now_unix_ms)
            return outer.total == inner.total or (always and inner.total is None)
        if inner.request:
            return True
        if inner.fixed is not None:
            step = outer.fixed if outer.calendar is None else _OFFSET_STEP_MS
            return step is not None and step % inner.fixed == 0
        if outer.calendar is None or inner.calendar is None:
            return False
        zones = {each.time_zone or self.policy.time_zone for each in (inner, outer)}
        return len(zones) == 1 and _calendar_within(inner, outer)


def _is_request(window: Window | None) -> bool:
    return window is not None and window.request


def _calendar_within(inner: Window, outer: Window) -> bool:
    """Whether each span of one calendar lies in one span of another of the same zone."""
    if inner.calendar is None or outer.calendar is None:
        return False
    order = [each for each in types.CALENDARS if each != "week"]
    weeks = [each.week_starts_on or 1 for each in (inner, outer)]
    if inner.calendar == "week":
        return outer.calendar == "week" and weeks[0] == weeks[1]
    if outer.calendar == "week":
        return inner.calendar in {"hour", "day"}
    if order.index(inner.calendar) > order.index(outer.calendar):
        return False
    if inner.calendar in {"hour", "day"}:
        return True
    same_day = (inner.month_starts_on or 1) == (outer.month_starts_on or 1)
    months = (inner.year_starts_in or 1) - (outer.year_starts_in or 1)
    every = {"month": 1, "quarter": 3, "year": 12}[inner.calendar]
    return same_day and months % every == 0


def _denies(rule: types.LabelRule) -> bool:
    return any(each and each.action == "deny" for each in (rule.missing, rule.otherwise))


def _is_not(key: str, pattern: str) -> str:
    if pattern.endswith("*"):
        return f"`{pattern}` matches no value of `{key}`"
    return f"`{pattern}` is not a value of `{key}`"


def _possible(rule: types.LabelRule) -> list[str]:
    """Every value that a label with a list of values can count under."""
    stand_ins = [each.stand_in for each in (rule.missing, rule.otherwise) if each]
    return [*rule.values, *filter(None, stand_ins), NONE]


def _instead(key: str, rule: types.LabelRule, value: str) -> str:
    """What to write instead of a value that a label never has."""
    if value in rule.renamed:
        new = rule.renamed[value]
        return f"requests that say {value} count as {new}: write {new}"
    near = None if value.endswith("*") else scalars.nearest(value, rule.values)
    if near:
        return f"did you mean {near}?"
    more = ", …" if len(rule.values) > _VALUES_SHOWN_MAX else ""
    shown = ", ".join(rule.values[:_VALUES_SHOWN_MAX])
    return f"allowed are {shown}{more}; add it to `labels.{key}.values` if it is one"


def _overridden(limit: Limit, unit: str) -> Iterator[float]:
    yield getattr(limit.amount, unit)
    for override in limit.overrides:
        amount = math.inf if override.amount is None else getattr(override.amount, unit)
        if amount is not None:
            yield amount


def _least(limit: Limit, unit: str) -> float:
    return min(_overridden(limit, unit))


def _most(limit: Limit, unit: str) -> float:
    return max(_overridden(limit, unit))


@dataclass(slots=True)
class _Seen:
    """The overrides of a limit so far: which of them decides a unit for some values first."""

    limit: Limit
    exact: dict[tuple[tuple[str, str], ...], dict[str, int]] = field(default_factory=dict)
    wide: list[tuple[int, Override]] = field(default_factory=list)

    def decided_by(self, override: Override) -> int | None:
        """An earlier override, where earlier ones decide all that this one says."""
        earlier = [self._first(override, unit) for unit in self._units(override)]
        decided = [each for each in earlier if each is not None]
        return decided[0] if decided and len(decided) == len(earlier) else None

    def add(self, index: int, override: Override) -> None:
        """Notes an override; past a bound, those with patterns or lists are not compared."""
        values = _exact(override)
        if values is not None:
            first = self.exact.setdefault(values, {})
            for unit in self._units(override):
                first.setdefault(unit, index)
        elif len(self.wide) < _PATTERNS_COMPARED_MAX:
            self.wide.append((index, override))

    def _units(self, override: Override) -> list[str]:
        amount = self.limit.amount if override.amount is None else override.amount
        return [unit for unit in UNITS if getattr(amount, unit) is not None]

    def _first(self, override: Override, unit: str) -> int | None:
        values = _exact(override) or ()
        for length in range(1, len(values) + 1):
            for some in combinations(values, length):
                if unit in self.exact.get(some, {}):
                    return self.exact[some][unit]
        for index, earlier in self.wide:
            if unit in self._units(earlier) and _all_covered(earlier.match, override.match):
                return index
        return None


def _exact(override: Override) -> tuple[tuple[str, str], ...] | None:
    """An override's labels where each has one value and no pattern, by their keys."""
    pairs = [(key, value) for key, values in override.match.items() for value in values]
    if len(pairs) != len(override.match) or any(value.endswith("*") for _, value in pairs):
        return None
    return tuple(sorted(pairs))
