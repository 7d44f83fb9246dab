"""Messages to types and back: the only file that knows both."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from zoneinfo import ZoneInfo

from bursar.policy import scalars, types
from bursar.usage import rollup
from bursar.v1 import admin_pb2, policy_pb2, quota_pb2, usage_pb2

_UNSETTLED = {
    "release": policy_pb2.UNSETTLED_RELEASE,
    "charge_input": policy_pb2.UNSETTLED_CHARGE_INPUT,
    "charge_estimate": policy_pb2.UNSETTLED_CHARGE_ESTIMATE,
}
_CALENDAR = {
    "hour": policy_pb2.CALENDAR_UNIT_HOUR,
    "day": policy_pb2.CALENDAR_UNIT_DAY,
    "week": policy_pb2.CALENDAR_UNIT_WEEK,
    "month": policy_pb2.CALENDAR_UNIT_MONTH,
    "quarter": policy_pb2.CALENDAR_UNIT_QUARTER,
    "year": policy_pb2.CALENDAR_UNIT_YEAR,
}
_UNITS = {
    "tokens": quota_pb2.UNIT_TOKENS,
    "requests": quota_pb2.UNIT_REQUESTS,
    "concurrency": quota_pb2.UNIT_CONCURRENCY,
}


INSTANT_MAX_UNIX_MS = 221_845_392_000_000
"""The last instant that is taken, in the year 9000: past it no calendar is sure."""


class FieldError(ValueError):
    """A field of a request is wrong: `field` names it, the message says what it must be."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.description = message


def policy_message(policy: types.Policy) -> policy_pb2.Policy:
    """The policy as the rules take it."""
    return policy_pb2.Policy(
        name=policy.policy,
        time_zone=policy.time_zone or "",
        labels=[_label_rule(key, rule) for key, rule in policy.labels.items()],
        reservations=policy_pb2.ReservationRules(
            ttl_ms=policy.reservations.ttl, unsettled=_UNSETTLED[policy.reservations.unsettled]
        ),
        limits=[_limit(limit) for limit in policy.limits],
        rollups=policy.rollups,
    )


def _label_rule(key: str, rule: types.LabelRule) -> policy_pb2.LabelRule:
    return policy_pb2.LabelRule(
        key=key,
        values=rule.values,
        renamed=rule.renamed,
        missing=_fallback(rule.missing),
        otherwise=_fallback(rule.otherwise),
    )


def _fallback(fallback: types.Fallback | None) -> policy_pb2.LabelFallback | None:
    if fallback is None:
        return None
    message = policy_pb2.LabelFallback()
    if fallback.action == "as":
        setattr(message, "as", fallback.stand_in)  # `as` is a word of Python's
    else:
        setattr(message, fallback.action, True)
    return message


def _limit(limit: types.Limit) -> policy_pb2.Limit:
    return policy_pb2.Limit(
        name=limit.name,
        match=_matches(limit.match),
        scope=limit.scope,
        window=_window(limit.window),
        amounts=_amounts(limit.amount),
        overrides=[_override(each) for each in limit.overrides],
        **{"except": _matches(limit.exclude)},
    )


def _amounts(amounts: types.Amounts) -> list[policy_pb2.Amount]:
    return [
        policy_pb2.Amount(unit=number, amount=amount)
        for unit, number in _UNITS.items()
        if (amount := getattr(amounts, unit)) is not None
    ]


def _override(override: types.Override) -> policy_pb2.Override:
    match = _matches(override.match)
    if override.amount is None:
        return policy_pb2.Override(match=match, unlimited=True)
    return policy_pb2.Override(match=match, amounts=_amounts(override.amount))


def _matches(matches: Mapping[str, list[str]]) -> list[policy_pb2.LabelMatch]:
    return [policy_pb2.LabelMatch(key=key, values=values) for key, values in matches.items()]


def _window(window: types.Window | None) -> policy_pb2.Window | None:
    if window is None:
        return None
    if window.fixed is not None:
        return policy_pb2.Window(fixed=policy_pb2.FixedWindow(length_ms=window.fixed))
    if window.calendar is not None:
        calendar = policy_pb2.CalendarWindow(
            unit=_CALENDAR[window.calendar],
            time_zone=window.time_zone or "",
            week_starts_on=window.week_starts_on or 0,
            month_starts_on=window.month_starts_on or 0,
            year_starts_in=window.year_starts_in or 0,
        )
        return policy_pb2.Window(calendar=calendar)
    if window.total is not None:
        total = policy_pb2.TotalWindow(
            from_unix_ms=window.total.since, until_unix_ms=window.total.until
        )
        return policy_pb2.Window(total=total)
    return policy_pb2.Window(request=policy_pb2.RequestWindow())


def batch(message: usage_pb2.UsageBatch) -> rollup.Batch:
    """One page of changes to usage."""
    groups = tuple(_group(group) for group in message.groups)
    return rollup.Batch(message.after_sequence, message.through_sequence, groups)


def _group(message: usage_pb2.UsageGroup) -> rollup.Group:
    tokens: dict[tuple[int, int], int] = {}
    for each in message.tokens:
        key = (int(each.meter), int(each.basis) or rollup.MEASURED)
        tokens[key] = tokens.get(key, 0) + each.tokens
    calls = rollup.Calls(
        calls=message.calls,
        calls_assumed=message.calls_assumed,
        calls_overrun=message.calls_overrun,
        calls_late=message.calls_late,
        latency_ms_sum=message.latency_ms_sum,
        latency_calls=message.latency_calls,
    )
    return rollup.Group(message.hour_unix_ms, dict(message.labels), tokens, calls)


def usage_query(
    request: admin_pb2.QueryUsageRequest, *, labels: frozenset[str], zone: ZoneInfo
) -> rollup.Query:
    """A question about usage, its hours those of `zone`; raises FieldError."""
    group_by = tuple(request.group_by)
    _check_names("group_by", group_by, known={*labels, *rollup.FACTS})
    _check_names("match", tuple(request.match), known=labels)
    if len(group_by) > rollup.GROUP_BY_MAX:
        most = rollup.GROUP_BY_MAX
        raise FieldError("group_by", f"must have at most {most} names (got {len(group_by)})")
    if len(set(group_by)) != len(group_by):
        raise FieldError("group_by", f"must name nothing twice (got {', '.join(group_by)})")
    if request.page_size > rollup.ROWS_MAX:
        most = rollup.ROWS_MAX
        raise FieldError("page_size", f"must be at most {most:,} (got {request.page_size:,})")
    _check_instant("from_unix_ms", request.from_unix_ms)
    _check_instant("until_unix_ms", request.until_unix_ms)
    since = rollup.hour_floor(request.from_unix_ms, zone) if request.from_unix_ms else 0
    until = rollup.hour_ceiling(request.until_unix_ms, zone) if request.until_unix_ms else None
    if until is not None and until <= since:
        raise FieldError("until_unix_ms", "must be after from_unix_ms, or 0 for until now")
    return rollup.Query(
        from_unix_ms=since,
        until_unix_ms=until,
        group_by=group_by,
        match=dict(request.match),
        rows_max=request.page_size or rollup.ROWS_DEFAULT,
        after=_group_of_token(request),
    )


def _check_instant(field: str, unix_ms: int) -> None:
    if not 0 <= unix_ms <= INSTANT_MAX_UNIX_MS:
        raise FieldError(field, f"must be from 0 to {INSTANT_MAX_UNIX_MS:,} (got {unix_ms:,})")


def _check_names(field: str, names: tuple[str, ...], *, known: set[str] | frozenset[str]) -> None:
    for name in names:
        if name not in known:
            near = scalars.nearest(name, known)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(sorted(known))}"
            raise FieldError(field, f"must name what usage is kept by; {hint} (got {name})")


def usage_response(
    request: admin_pb2.QueryUsageRequest, page: rollup.Page, zone: ZoneInfo
) -> admin_pb2.QueryUsageResponse:
    """The answer to a question about usage."""
    group_by = tuple(request.group_by)
    token = _token_of_group(request, page.rows[-1].group) if page.more else ""
    return admin_pb2.QueryUsageResponse(
        rows=[_usage_row(group_by, row, zone) for row in page.rows],
        next_page_token=token,
        through_sequence=page.through_sequence,
        time_zone=zone.key,
    )


def _usage_row(group_by: tuple[str, ...], row: rollup.Row, zone: ZoneInfo) -> admin_pb2.UsageRow:
    return admin_pb2.UsageRow(
        group=rollup.words_of(group_by, row.group, zone),
        tokens=row.tokens,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        assumed_tokens=row.assumed_tokens,
        **asdict(row.calls),
    )


def _question_digest(request: admin_pb2.QueryUsageRequest) -> str:
    """What a page token is good for: the same question, whatever its page."""
    question = [
        request.from_unix_ms,
        request.until_unix_ms,
        list(request.group_by),
        sorted(request.match.items()),
    ]
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]


def _token_of_group(request: admin_pb2.QueryUsageRequest, group: tuple[str | int, ...]) -> str:
    text = json.dumps([_question_digest(request), *group], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode()


def _group_of_token(request: admin_pb2.QueryUsageRequest) -> tuple[str | int, ...]:
    if not request.page_token:
        return ()
    wrong = FieldError(
        "page_token", "must be the next_page_token of an answer to the same question, or empty"
    )
    try:
        text = base64.b64decode(request.page_token, altchars=b"-_", validate=True)
        digest, *group = json.loads(text)
    except (binascii.Error, ValueError, TypeError):
        raise wrong from None
    if digest != _question_digest(request) or len(group) != len(request.group_by):
        raise wrong
    for name, value in zip(request.group_by, group, strict=True):
        if not isinstance(value, int if name in rollup.FACTS else str):
            raise wrong
    return tuple(group)
