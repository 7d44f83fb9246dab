"""The grammar of a policy file as types: each part is checked here on its own, from text.

Every scalar arrives as the text a person wrote. What concerns several parts at once (a name used
twice, an amount that needs a window) is in `relations`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from bursar.policy import forms, scalars

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


_KEY = _LABEL_KEY.pattern
_VALUE_FORM = forms.text(bytes_max=LABEL_VALUE_BYTES_MAX)
_PATTERN_FORM = forms.text(bytes_max=LABEL_VALUE_BYTES_MAX, pattern=r"[^*]*\*?") | {
    "examples": ["openai/gpt-4.1-mini", "anthropic/*"]
}
_KEYS = (*BUILT_IN_LABELS, *REQUEST_LABELS)

LabelValue = Annotated[str, PlainValidator(_label_value), WithJsonSchema(_VALUE_FORM)]
DeclaredKey = Annotated[
    str,
    PlainValidator(_declared_key),
    WithJsonSchema(forms.key(_KEY, known=BUILT_IN_LABELS, but=(*REQUEST_LABELS, LINE_LABEL))),
]
LabelKey = Annotated[
    str,
    PlainValidator(_known_key),
    WithJsonSchema(forms.key(_KEY, known=_KEYS, but=(LINE_LABEL,))),
]
RollupKey = Annotated[
    str,
    PlainValidator(_rollup_key),
    WithJsonSchema(forms.key(_KEY, known=(*_KEYS, LINE_LABEL))),
]
Patterns = Annotated[
    list[str],
    PlainValidator(_patterns),
    WithJsonSchema(forms.one_or_list(_PATTERN_FORM, items_max=LABEL_VALUES_MAX)),
]
Matches = dict[LabelKey, Patterns]
Number = Annotated[
    int,
    PlainValidator(lambda value: _read(scalars.whole_number, value)),
    WithJsonSchema(forms.NUMBER),
]
Zone = Annotated[
    str,
    PlainValidator(lambda value: _read(scalars.time_zone, value)),
    WithJsonSchema(forms.ZONE),
]


def _nothing_is_empty(value: object) -> object:
    return {} if value is None else value


class Part(BaseModel):
    """A mapping of the file: strict, immutable, and a key it does not know is a mistake."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )
    _nothing_allowed: ClassVar[tuple[str, ...]] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _said(cls, value: object, info: ValidationInfo) -> object:
        """Refuses a key with nothing behind it: it would look set and change nothing."""
        if value is None and info.field_name not in cls._nothing_allowed:
            raise mistake("have a value", "write one, or remove the key", quiet=True)
        return value


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


def _fallback_form(*actions: str) -> forms.Form:
    stand_in = {
        "type": "object",
        "properties": {"as": _VALUE_FORM | {"description": "The value it counts as."}},
        "required": ["as"],
        "additionalProperties": False,
    }
    return {"anyOf": [{"enum": list(actions)}, stand_in]}


class LabelRule(Part):
    """What is allowed of one label, and what stands in where it is missing or not allowed."""

    values: list[LabelValue] = Field(default=[], max_length=LABEL_VALUES_MAX)
    """The values allowed; left out: any."""

    renamed: dict[LabelValue, LabelValue] = Field(default={}, max_length=LABEL_VALUES_MAX)
    """Old values and the new ones they count as: `{chat: support-chat}`."""

    missing: Annotated[
        Fallback, PlainValidator(_missing), WithJsonSchema(_fallback_form("deny", "skip"))
    ] | None = None  # fmt: skip
    """A request without this label: deny it, skip the limits scoped by it, or count it `{as: …}`.

    Left out: it counts as (none).
    """

    otherwise: Annotated[
        Fallback, PlainValidator(_otherwise), WithJsonSchema(_fallback_form("deny"))
    ] | None = None  # fmt: skip
    """A value that is not allowed: deny the request, or count it `{as: …}`; left out: as (none)."""


def _ttl(value: object) -> int:
    return _read(lambda text: scalars.duration_ms(text, at_least="1s", at_most="7d"), value)


def _fixed(value: object) -> int:
    return _read(lambda text: scalars.duration_ms(text, at_least="1s", at_most="366d"), value)


UNSETTLED = ("release", "charge_input", "charge_estimate")
"""What may be charged of a reservation that nobody settles."""


def _unsettled(value: object) -> str:
    if value not in UNSETTLED:
        raise mistake("be release, charge_input or charge_estimate")
    return str(value)


class ReservationRules(Part):
    """How long reservations live, and how one ends that nobody settles."""

    ttl: Annotated[int, PlainValidator(_ttl), WithJsonSchema(forms.DURATION)] = 5 * 60_000
    """How long a reservation lives, 1s to 7d; 5m where nothing is said.

    Read as milliseconds.
    """

    unsettled: Annotated[
        str, PlainValidator(_unsettled), WithJsonSchema(forms.word(UNSETTLED))
    ] = "charge_input"  # fmt: skip
    """What an unsettled one is charged: nothing, its input (the default), or all it reserved."""


def _instant(value: object, info: ValidationInfo) -> int:
    zone = info.context.zone if isinstance(info.context, Surroundings) else ZoneInfo("UTC")
    return _read(lambda text: scalars.instant_unix_ms(text, zone), value)


Instant = Annotated[int, PlainValidator(_instant), WithJsonSchema(forms.INSTANT)]


class Total(Part):
    """Everything between two instants, of which either may be left out.

    Read as milliseconds since 1970 UTC.
    """

    since: Instant | None = Field(default=None, alias="from")
    """The first instant that counts, in the policy's zone where no other is said."""

    until: Instant | None = None
    """The first instant that no longer counts."""

    @model_validator(mode="after")
    def _in_order(self) -> Total:
        if self.since is not None and self.until is not None and self.until <= self.since:
            raise mistake("have `until` after `from`", quiet=True)
        return self


CALENDARS = ("hour", "day", "week", "month", "quarter", "year")
"""The spans of a calendar."""

ANCHORS = {
    "week_starts_on": ("week",),
    "month_starts_on": ("month", "quarter", "year"),
    "year_starts_in": ("quarter", "year"),
}
"""The spans of a calendar that have an anchor, by the key that says it."""

WEEK_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""The days a week may start on; ISO 8601 counts them from 1."""

MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
"""The months a year may start in, counted from 1."""

MONTH_STARTS_ON_MAX = 28
"""The last day a month may start on: every month has it."""

_MONTH_DAYS = tuple(str(day) for day in range(1, MONTH_STARTS_ON_MAX + 1))


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
    if value in words:
        return words.index(str(value)) + 1
    begun = [] if not isinstance(value, str) or not value else [
        each for each in words if each.startswith(value.lower())
    ]  # fmt: skip
    near = begun[0] if len(begun) == 1 else scalars.nearest(str(value).lower(), words)
    raise mistake(f"be {noun}", f"write {near}" if near else f"write one of {', '.join(words)}")


def _week_starts_on(value: object) -> int:
    return _one_of(value, WEEK_DAYS, noun="the name of a day")


def _year_starts_in(value: object) -> int:
    return _one_of(value, MONTHS, noun="the name of a month")


def _month_starts_on(value: object) -> int:
    if value in _MONTH_DAYS:
        return _MONTH_DAYS.index(str(value)) + 1
    raise mistake(
        f"be a day from 1 to {MONTH_STARTS_ON_MAX}",
        "write a day that every month has; leave it out for the 1st",
    )


def _request(value: object) -> bool:
    if value is not True:
        raise mistake("be written `window: request`", quiet=True)
    return True


# What an editor should know of a window beyond its keys: one span, with that span's anchors.
_WINDOW_FORM: forms.Form = {
    "oneOf": [{"required": [kind]} for kind in ("fixed", "calendar", "total")],
    "dependentRequired": {"time_zone": ["calendar"]},
    "dependentSchemas": {
        key: {"properties": {"calendar": {"enum": list(spans)}}, "required": ["calendar"]}
        for key, spans in ANCHORS.items()
    },
}


class Window(Part):
    """The span a limit counts over: one of fixed, calendar and total, or the word `request`."""

    model_config = ConfigDict(json_schema_extra=_WINDOW_FORM)
    _nothing_allowed = ("total",)

    time_zone: Zone | None = None
    """The zone of a calendar window, where it is not the policy's."""

    request: SkipJsonSchema[Annotated[bool, PlainValidator(_request)]] = False
    fixed: Annotated[int, PlainValidator(_fixed), WithJsonSchema(forms.DURATION)] | None = None
    """Spans of this length, 1s to 366d, one after the other since 1970.

    Read as milliseconds.
    """

    calendar: Annotated[
        str, PlainValidator(_calendar), WithJsonSchema(forms.word(CALENDARS))
    ] | None = None  # fmt: skip
    """Spans of a calendar, in the limit's time zone."""

    week_starts_on: Annotated[
        int, PlainValidator(_week_starts_on),
        WithJsonSchema(forms.word(WEEK_DAYS)),
    ] | None = None  # fmt: skip
    """The day a calendar week starts on; monday where nothing is said."""

    month_starts_on: Annotated[
        int, PlainValidator(_month_starts_on),
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MONTH_STARTS_ON_MAX}),
    ] | None = None  # fmt: skip
    """The day on which a calendar month, quarter or year starts; the 1st where nothing is said."""

    year_starts_in: Annotated[
        int, PlainValidator(_year_starts_in), WithJsonSchema(forms.word(MONTHS))
    ] | None = None  # fmt: skip
    """The month in which a calendar year, and so its first quarter, starts; january if not said."""

    total: Annotated[
        Total, BeforeValidator(_nothing_is_empty), forms.OrElse({"type": "null"})
    ] | None = None  # fmt: skip
    """Everything that was ever used, or what was used between two instants."""

    @property
    def lasts_a_day(self) -> bool:
        """Whether what it counts is to be remembered for a day or longer."""
        by_calendar = self.calendar is not None and self.calendar != "hour"
        return by_calendar or self.total is not None or (self.fixed or 0) >= scalars.DAY_MS

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
    """How much of each unit; one that is left out is not limited."""

    model_config = ConfigDict(
        json_schema_extra={
            "minProperties": 1,
            "dependentSchemas": {"concurrency": {"maxProperties": 1}},
        }
    )

    tokens: Number | None = None
    """Model tokens, input and output together."""

    requests: Number | None = None
    """Calls."""

    concurrency: Number | None = None
    """Calls that are open at one time; it stands alone, and its limit has no window."""


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
    """Other amounts of a limit for some values of its scope."""

    match: Annotated[Matches, AfterValidator(_some)] = Field(
        alias="for", json_schema_extra={"minProperties": 1}
    )
    """For whom: values of the limit's scope, every one of which must match."""

    amount: Annotated[
        Amounts | None, BeforeValidator(_unlimited), forms.OrElse({"const": "unlimited"})
    ]  # fmt: skip
    """The amounts instead of the limit's, or `unlimited`; a unit that is left out keeps its own.

    Read as None where it is unlimited.
    """


class OverrideFile(Part):
    """A file of overrides, one in each row."""

    file: Annotated[str, WithJsonSchema({"type": "string", "minLength": 1})]
    """A CSV file beside the policy: its first line names labels of the scope, then units."""


# The rows of files have been put in their place before a limit is read.
_OVERRIDE_FILE_FORM = OverrideFile.model_json_schema()


class Limit(Part):
    """At most so much in each window, for each value of a scope."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"amount": {"required": ["concurrency"]}}},
            "then": {"not": {"required": ["window"]}},
            "else": {"required": ["window"]},
        }
    )

    name: Annotated[
        str, PlainValidator(_limit_name),
        WithJsonSchema({"type": "string", "pattern": f"^{_LIMIT_NAME.pattern}$"}),
    ]  # fmt: skip
    """Its name in every answer; counters are kept by it."""

    match: Matches = {}
    """Whom it concerns: every label must match; left out: everyone."""

    exclude: Matches = Field(default={}, alias="except")
    """Whom it does not concern: who matches every label of these."""

    scope: list[LabelKey] = Field(default=[], max_length=SCOPE_MAX)
    """The labels it counts by: a counter for each of their values; left out: one for all."""

    window: Annotated[Window, forms.OrElse(forms.word(("request", "total")))] | None = None
    """The span it counts over; `request` holds each request alone against the amount."""

    amount: Amounts
    """How much of each unit; all must hold."""

    overrides: Annotated[
        list[Annotated[Override, forms.OrElse(_OVERRIDE_FILE_FORM)]],
        Field(max_length=OVERRIDES_MAX),
        forms.OrElse(_OVERRIDE_FILE_FORM),
    ] = []  # fmt: skip
    """Other amounts for some values of the scope; for each unit, the first that matches decides."""


Labels = dict[
    DeclaredKey,
    Annotated[LabelRule, BeforeValidator(_nothing_is_empty), forms.OrElse({"type": "null"})],
]


class Policy(Part):
    """Who may spend how many tokens, and over which span."""

    policy: Annotated[
        str, PlainValidator(lambda v: _text(v, bytes_max=POLICY_NAME_BYTES_MAX)),
        WithJsonSchema(forms.text(bytes_max=POLICY_NAME_BYTES_MAX)),
    ]  # fmt: skip
    """The policy's name."""

    time_zone: Zone | None = None
    """The zone of calendar windows, and of the hours by which usage is kept: an IANA name."""

    mode: Annotated[
        str, AfterValidator(_mode), WithJsonSchema(forms.word(("enforce",)))
    ] = "enforce"  # fmt: skip
    """What the limits do; `enforce` is the only mode of this version."""

    labels: Labels = Field(default={}, max_length=LABELS_MAX)
    """What is known of labels; a label that is not built in must be declared to be used."""

    reservations: ReservationRules = ReservationRules()
    """How long reservations live, and how one ends that nobody settles."""

    limits: list[Limit] = Field(default=[], max_length=LIMITS_MAX)
    """The limits; all that concern a request must hold."""

    rollups: list[RollupKey] = Field(default=list(ROLLUPS), max_length=ROLLUPS_MAX)
    """The labels by which usage is kept for each hour."""
