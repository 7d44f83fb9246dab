"""The grammar of a policy file as types: each part is checked here on its own, from text.

Every scalar arrives as the text a person wrote. What concerns several parts at once (a name used
twice, an amount that needs a window) is in `relations`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bursar.policy import scalars

BUILT_IN_LABELS = (
    "tenant", "team", "user", "feature", "service", "environment", "session", "agent",
    "prompt", "prompt_version", "model_version",
)  # fmt: skip
"""The labels that every request may carry without being declared."""

REQUEST_LABELS = ("model", "provider", "service_tier")
"""The labels that come from the request itself; nobody can set them."""

LINE_LABEL = "component"
"""The label of a line of usage: rollups may keep it, limits cannot count by it."""

ROLLUPS = ("feature", "tenant", "team", "environment", "model", LINE_LABEL)
"""What usage is kept by where the policy does not say."""

LABELS_MAX = 64
LABEL_VALUES_MAX = 4_096
LIMITS_MAX = 256
OVERRIDES_MAX = 10_000
SCOPE_MAX = 4
ROLLUPS_MAX = 8
LABEL_VALUE_BYTES_MAX = 128
POLICY_NAME_BYTES_MAX = 64

_Read = TypeVar("_Read")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_.-]{0,31}")
_LIMIT_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a part must know of the whole file: the labels declared, and the policy's zone."""

    declared: frozenset[str]
    zone: ZoneInfo
    zone_named: bool


def mistake(what: str, hint: str = "", *, quiet: bool = False) -> PydanticCustomError:
    """An error whose `what` completes "PATH must …"; `quiet` leaves out what was got."""
    return PydanticCustomError("bursar", "{what}", {"what": what, "hint": hint, "quiet": quiet})


def _read(reader: Callable[[object], _Read], value: object) -> _Read:
    try:
        return reader(value)
    except scalars.ScalarError as error:
        raise mistake(error.what, error.hint) from None


def _text(value: object, *, bytes_max: int) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= bytes_max:
        raise mistake(f"be text of 1 to {bytes_max} bytes")
    return value


def _label_value(value: object) -> str:
    return _text(value, bytes_max=LABEL_VALUE_BYTES_MAX)


def _pattern(value: object) -> str:
    text = _label_value(value)
    if "*" in text[:-1]:
        raise mistake(
            "have `*` at its end only", "`*` stands for the rest: write the part before it"
        )
    return text


def _patterns(value: object) -> list[str]:
    """One pattern or a list of them."""
    patterns = value if isinstance(value, list) else [value]
    if not 0 < len(patterns) <= LABEL_VALUES_MAX:
        raise mistake(f"be a value or a list of 1 to {LABEL_VALUES_MAX:,} values")
    return [_pattern(each) for each in patterns]


def _declared_key(value: object) -> str:
    if value == LINE_LABEL:
        raise mistake(
            "not be `component`: that is of lines, not of requests",
            "component may be a rollup; limits count by the request's labels", quiet=True,
        )  # fmt: skip
    if value in REQUEST_LABELS:
        raise mistake(
            f"not be `{value}`: that comes from the request itself",
            f"limits may match {value} without its being declared", quiet=True,
        )  # fmt: skip
    if not isinstance(value, str) or not _LABEL_KEY.fullmatch(value):
        raise mistake(
            "be a key of 1 to 32 of a-z, 0-9, _ . - that begins with a letter",
            "write it in small letters, such as cost_centre",
        )
    return value


def _known_key(value: object, info: ValidationInfo) -> str:
    return _known(value, info, extra=())


def _rollup_key(value: object, info: ValidationInfo) -> str:
    return _known(value, info, extra=(LINE_LABEL,))


def _known(value: object, info: ValidationInfo, *, extra: tuple[str, ...]) -> str:
    declared = info.context.declared if isinstance(info.context, Surroundings) else frozenset()
    known = {*BUILT_IN_LABELS, *REQUEST_LABELS, *declared, *extra}
    if not isinstance(value, str):
        raise mistake("be the name of a label")
    if value == LINE_LABEL and value not in known:
        raise mistake(
            "not be `component`: that is of lines, not of requests",
            "component may be a rollup; limits count by the request's labels", quiet=True,
        )  # fmt: skip
    if value not in known:
        near = scalars.nearest(value, known)
        declare = f"declare it: `labels: {{{value}: {{}}}}`"
        raise mistake(
            "be a label that is built in or declared",
            f"did you mean {near}? If not, {declare}" if near else declare,
        )
    return value


def _limit_name(value: object) -> str:
    if not isinstance(value, str) or not _LIMIT_NAME.fullmatch(value):
        raise mistake(
            "be a name of 1 to 64 of a-z, 0-9, _ . - that begins with a letter",
            "write it in small letters, such as tenant-minute",
        )
    return value


def _mode(value: object) -> str:
    if value == "observe":
        raise mistake(
            "be `enforce`: observing is not served by this version of bursar",
            "leave it out, and give the limits generous amounts to begin with",
        )
    if value != "enforce":
        raise mistake("be `enforce`", "leave it out: it is the only mode of this version")
    return "enforce"


LabelValue = Annotated[str, PlainValidator(_label_value)]
DeclaredKey = Annotated[str, PlainValidator(_declared_key)]
LabelKey = Annotated[str, PlainValidator(_known_key)]
RollupKey = Annotated[str, PlainValidator(_rollup_key)]
Matches = dict[LabelKey, Annotated[list[str], PlainValidator(_patterns)]]
Number = Annotated[int, PlainValidator(lambda value: _read(scalars.whole_number, value))]
Zone = Annotated[str, PlainValidator(lambda value: _read(scalars.time_zone, value))]


def _nothing_is_empty(value: object) -> object:
    return {} if value is None else value


class Part(BaseModel):
    """A mapping of the file: strict, immutable, and a key it does not know is a mistake."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Fallback:
    """What happens when a label's value cannot be used; `stand_in` is set exactly for `as`."""

    action: Literal["deny", "skip", "as"]
    stand_in: str = ""


def _missing(value: object) -> Fallback:
    return _fallback(value, actions=("deny", "skip"))


def _otherwise(value: object) -> Fallback:
    return _fallback(value, actions=("deny",))


def _fallback(value: object, *, actions: tuple[Literal["deny", "skip"], ...]) -> Fallback:
    for action in actions:
        if value == action:
            return Fallback(action)
    if isinstance(value, dict) and list(value) == ["as"]:
        return Fallback("as", _label_value(value["as"]))
    choices = ", ".join(f"`{each}`" for each in actions)
    raise mistake(
        f"be {choices} or `{{as: VALUE}}`",
        "to count it under (none), leave it out; skip is for a missing label only"
        if value == "skip"
        else "to count it under (none), leave it out",
    )


class LabelRule(Part):
    """What is allowed of one label, and what stands in where it is missing or not allowed."""

    values: list[LabelValue] = Field(default=[], max_length=LABEL_VALUES_MAX)
    renamed: dict[LabelValue, LabelValue] = Field(default={}, max_length=LABEL_VALUES_MAX)
    missing: Annotated[Fallback, PlainValidator(_missing)] | None = None
    otherwise: Annotated[Fallback, PlainValidator(_otherwise)] | None = None


def _ttl(value: object) -> int:
    return _read(lambda text: scalars.duration_ms(text, at_least="1s", at_most="7d"), value)


def _fixed(value: object) -> int:
    return _read(lambda text: scalars.duration_ms(text, at_least="1s", at_most="366d"), value)


def _unsettled(value: object) -> str:
    if value not in {"release", "charge_input", "charge_estimate"}:
        raise mistake("be release, charge_input or charge_estimate")
    return str(value)


class ReservationRules(Part):
    """How long reservations live, in milliseconds, and how an unsettled one ends."""

    ttl: Annotated[int, PlainValidator(_ttl)] = 5 * 60_000
    unsettled: Annotated[str, PlainValidator(_unsettled)] = "charge_input"


def _instant(value: object, info: ValidationInfo) -> int:
    zone = info.context.zone if isinstance(info.context, Surroundings) else ZoneInfo("UTC")
    return _read(lambda text: scalars.instant_unix_ms(text, zone), value)


Instant = Annotated[int, PlainValidator(_instant)]


class Total(Part):
    """Everything between two instants, in milliseconds since 1970 UTC; either may be absent."""

    since: Instant | None = Field(default=None, alias="from")
    until: Instant | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Total:
        if self.since is not None and self.until is not None and self.until <= self.since:
            raise mistake("have `until` after `from`", quiet=True)
        return self


CALENDARS = ("hour", "day", "week", "month", "quarter", "year")
"""The spans of a calendar."""

WEEK_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""The days a week may start on; ISO 8601 counts them from 1."""

MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
"""The months a year may start in, counted from 1."""

MONTH_STARTS_ON_MAX = 28
"""The last day a month may start on: every month has it."""


def _calendar(value: object, info: ValidationInfo) -> str:
    if value not in CALENDARS:
        raise mistake("be hour, day, week, month, quarter or year")
    zone_named = isinstance(info.context, Surroundings) and info.context.zone_named
    # A zone that was named but wrong has its own mistake; info.data then lacks the key.
    if not zone_named and info.data.get("time_zone", "wrong") is None:
        raise mistake(
            "have a time zone, as it is of a calendar",
            "write `time_zone: Europe/Berlin` at the top of the file or within the window",
        )
    return str(value)


def _one_of(value: object, words: tuple[str, ...], *, noun: str) -> int:
    """Which of `words` it is, counted from 1."""
    if isinstance(value, str) and value.lower() in words:
        return words.index(value.lower()) + 1
    begun = [] if not isinstance(value, str) or not value else [
        each for each in words if each.startswith(value.lower())
    ]  # fmt: skip
    near = begun[0] if len(begun) == 1 else scalars.nearest(str(value).lower(), words)
    raise mistake(f"be {noun}", f"write {near or f'its name, such as {words[-1]}'}")


def _week_starts_on(value: object) -> int:
    return _one_of(value, WEEK_DAYS, noun="the name of a day")


def _year_starts_in(value: object) -> int:
    return _one_of(value, MONTHS, noun="the name of a month")


def _month_starts_on(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        day = int(value[:3])
        if 1 <= day <= MONTH_STARTS_ON_MAX:
            return day
    raise mistake(
        f"be a day from 1 to {MONTH_STARTS_ON_MAX}",
        "write a day that every month has; leave it out for the 1st",
    )


def _request(value: object) -> bool:
    if value is not True:
        raise mistake("be written `window: request`", quiet=True)
    return True


class Window(Part):
    """The span a limit counts over: exactly one of its kinds is set."""

    time_zone: Zone | None = None
    request: Annotated[bool, PlainValidator(_request)] = False
    fixed: Annotated[int, PlainValidator(_fixed)] | None = None
    calendar: Annotated[str, PlainValidator(_calendar)] | None = None
    week_starts_on: Annotated[int, PlainValidator(_week_starts_on)] | None = None
    month_starts_on: Annotated[int, PlainValidator(_month_starts_on)] | None = None
    year_starts_in: Annotated[int, PlainValidator(_year_starts_in)] | None = None
    total: Annotated[Total, BeforeValidator(_nothing_is_empty)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        """Takes `request` and `total` as words of their own."""
        if value == "request":
            return {"request": True}
        if value == "total":
            return {"total": {}}
        if not isinstance(value, dict):
            raise mistake(
                "be request, total, or a mapping",
                "write request, {fixed: 1m}, {calendar: month} or {total: {from: 2026-01-01}}",
            )
        return value


class Amounts(Part):
    """How much of each unit; None is not limited."""

    tokens: Number | None = None
    requests: Number | None = None
    concurrency: Number | None = None

    @field_validator("tokens", "requests", "concurrency", mode="before")
    @classmethod
    def _said(cls, value: object) -> object:
        if value is None:
            raise mistake("be a whole number", "write a number such as 500, 16_000, 200k or 1.5M")
        return value


def _unlimited(value: object) -> object:
    """Takes the word `unlimited` as no amounts at all."""
    if value == "unlimited":
        return None
    if not isinstance(value, dict):
        raise mistake("be `unlimited` or a mapping of units", "write `unlimited`, or {tokens: 1M}")
    return value


def _some(value: dict[str, list[str]]) -> dict[str, list[str]]:
    if not value:
        raise mistake("name at least one label of the scope", "write `for: {tenant: acme}`")
    return value


class Override(Part):
    """Other amounts of a limit for some values of its scope; None is unlimited."""

    match: Annotated[Matches, AfterValidator(_some)] = Field(alias="for")
    amount: Annotated[Amounts | None, BeforeValidator(_unlimited)]


class Limit(Part):
    """At most so much per window, for each value of a scope."""

    name: Annotated[str, PlainValidator(_limit_name)]
    match: Matches = {}
    exclude: Matches = Field(default={}, alias="except")
    scope: list[LabelKey] = Field(default=[], max_length=SCOPE_MAX)
    window: Window | None = None
    amount: Amounts
    overrides: list[Override] = Field(default=[], max_length=OVERRIDES_MAX)


Labels = dict[DeclaredKey, Annotated[LabelRule, BeforeValidator(_nothing_is_empty)]]


class Policy(Part):
    """A whole policy file."""

    policy: Annotated[str, PlainValidator(lambda v: _text(v, bytes_max=POLICY_NAME_BYTES_MAX))]
    time_zone: Zone | None = None
    mode: Annotated[str, AfterValidator(_mode)] = "enforce"
    labels: Labels = Field(default={}, max_length=LABELS_MAX)
    reservations: ReservationRules = ReservationRules()
    limits: list[Limit] = Field(default=[], max_length=LIMITS_MAX)
    rollups: list[RollupKey] = Field(default=list(ROLLUPS), max_length=ROLLUPS_MAX)
