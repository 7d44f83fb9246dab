"""The demo's books, kept by the callers themselves, against the sidecar's and the ledger's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bursar import _core  # noqa: TID251  the ledger is read beside the sidecar, not through it
from bursar.demo.traffic import Result
from bursar.v1 import admin_pb2, policy_pb2, quota_pb2, usage_pb2

ROLLUPS = ("feature", "tenant", "model")

Key = tuple[str, ...]
Sums = Mapping[Key, tuple[int, int]]  # by rollup labels: tokens, calls


@dataclass(slots=True)
class Check:
    """What was compared: how many figures by whom, and each that differs."""

    compared: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def same(self, what: str, name: str, callers: object, others: object) -> None:
        """Compares one figure of the callers' with another's."""
        self.compared[what] += 1
        if callers != others:
            self.differences.append(f"{what}: {name}: callers say {callers}, it says {others}")

    def true(self, what: str, *, holds: bool) -> None:
        """Notes something that must hold of the whole run."""
        self.compared["the run itself"] += 1
        if not holds:
            self.differences.append(f"the run itself: it is not so that {what}")


def by_callers(results: Iterable[Result]) -> Sums:
    """What the callers were told of their own usage."""
    sums: dict[Key, tuple[int, int]] = {}
    for result in results:
        if result.counted:
            key = (result.call.feature, result.call.tenant, result.model)
            tokens, calls = sums.get(key, (0, 0))
            sums[key] = (tokens + result.tokens_committed, calls + 1)
    return sums


def by_books(rows: Iterable[admin_pb2.UsageRow]) -> Sums:
    """What the sidecar's books have, as QueryUsage tells it."""
    return {
        tuple(row.group[name] for name in ROLLUPS): (row.tokens, row.calls)
        for row in rows
        if row.tokens or row.calls
    }


def by_ledger(data_directory: Path) -> Sums:
    """What the ledger adds up to, read from its first entry by nobody's help."""
    batch = usage_pb2.UsageBatch.FromString(_core.scan_usage(data_directory=str(data_directory)))
    sums: dict[Key, tuple[int, int]] = {}
    for group in batch.groups:
        key = tuple(group.labels[name] for name in ROLLUPS)
        tokens, calls = sums.get(key, (0, 0))
        added = sum(each.tokens for each in group.tokens)
        sums[key] = (tokens + added, calls + group.calls)
    return {key: sum_ for key, sum_ in sums.items() if any(sum_)}


def compare_usage(check: Check, what: str, callers: Sums, others: Sums) -> None:
    """Compares tokens and calls of every feature, tenant and model."""
    for key in sorted({*callers, *others}):
        mine, theirs = callers.get(key, (0, 0)), others.get(key, (0, 0))
        check.same(what, f"tokens of {' '.join(key)}", mine[0], theirs[0])
        check.same(what, f"calls of {' '.join(key)}", mine[1], theirs[1])


def compare_standings(
    check: Check,
    policy: policy_pb2.Policy,
    standings: Sequence[quota_pb2.Standing],
    results: Sequence[Result],
) -> None:
    """Compares every counter with what the callers' own usage makes of it under the policy."""
    what = "standings of limits"
    limits = {limit.name: limit for limit in policy.limits}
    seen: set[tuple[str, int, Key]] = set()
    for standing in standings:
        limit = limits[standing.limit]
        scope = tuple(standing.scope[key] for key in limit.scope)
        seen.add((limit.name, standing.unit, scope))
        name = f"{limit.name} {' '.join(scope)} {quota_pb2.Unit.Name(standing.unit)}"
        expected = _expected(limit, standing.unit, scope, results)
        check.same(what, f"{name} committed", expected, standing.committed)
        check.same(what, f"{name} reserved", 0, standing.reserved)
        within = standing.committed + standing.reserved <= standing.amount
        check.same(what, f"{name} is within its amount", True, within)  # noqa: FBT003
    for limit in policy.limits:
        for amount in limit.amounts:
            if limit.window.HasField("request") or amount.unit == quota_pb2.UNIT_CONCURRENCY:
                continue
            for scope in {_scope(limit, each) for each in results if _counts(limit, each)}:
                is_seen = (limit.name, amount.unit, scope) in seen
                check.same(what, f"{limit.name} {' '.join(scope)} is listed", True, is_seen)  # noqa: FBT003


def _expected(limit: policy_pb2.Limit, unit: int, scope: Key, results: Iterable[Result]) -> int:
    counted = [each for each in results if _counts(limit, each) and _scope(limit, each) == scope]
    if unit == quota_pb2.UNIT_TOKENS:
        return sum(each.tokens_committed for each in counted)
    return len(counted) if unit == quota_pb2.UNIT_REQUESTS else 0


def _counts(limit: policy_pb2.Limit, result: Result) -> bool:
    labels = _labels(result)
    return result.counted and all(labels.get(each.key) in each.values for each in limit.match)


def _scope(limit: policy_pb2.Limit, result: Result) -> Key:
    labels = _labels(result)
    return tuple(labels[key] for key in limit.scope)


def _labels(result: Result) -> dict[str, str]:
    return {
        "tenant": result.call.tenant,
        "feature": result.call.feature,
        "model": result.model,
    }
