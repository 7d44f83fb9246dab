"""A question about usage as one SQL statement: sum by label set first, then join the labels."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    case,
    exists,
    func,
    literal,
    select,
    tuple_,
    union_all,
)

from bursar.books.tables import CALL_COLUMNS, label_values, usage_calls, usage_tokens
from bursar.usage.rollup import ASSUMED, BASIS, FACTS, HOUR, METER, OUTPUT_METERS, Query

_FACT_COLUMNS = {HOUR: "hour_unix_ms", METER: "meter", BASIS: "basis"}
_TOKEN_SUMS = ("tokens", "input_tokens", "output_tokens", "assumed_tokens")
_SUMS = (*_TOKEN_SUMS, *CALL_COLUMNS)


def selection(query: Query) -> Select[Any]:
    """The rows a question asks for: its group, the sums of tokens, the sums of calls."""
    facts = [_FACT_COLUMNS[name] for name in query.group_by if name in FACTS]
    parts = _tokens(query, facts)
    if not query.splits_calls:
        parts = union_all(parts, _calls(query, facts))
    sums = parts.subquery("sums")
    source: FromClause = sums
    group: list[ColumnElement[Any]] = []
    for name in query.group_by:
        if name in FACTS:
            group.append(sums.c[_FACT_COLUMNS[name]])
            continue
        label = label_values.alias()
        source = source.outerjoin(label, (label.c.set_id == sums.c.set_id) & (label.c.key == name))
        group.append(func.coalesce(label.c.value, ""))
    wanted = [each.label(f"group_{index}") for index, each in enumerate(group)]
    statement = select(*wanted, *(func.sum(sums.c[name]) for name in _SUMS)).select_from(source)
    if not group:
        return statement
    if query.after:
        values = [literal(value) for value in query.after]
        statement = statement.where(tuple_(*group) > tuple_(*values))
    return statement.group_by(*group).order_by(*group).limit(query.rows_max + 1)


def _tokens(query: Query, facts: list[str]) -> Any:  # noqa: ANN401  a select, or a union with one
    columns = usage_tokens.c
    output = columns.meter.in_(OUTPUT_METERS)
    sums = [
        func.sum(columns.tokens),
        func.sum(case((output, 0), else_=columns.tokens)),
        func.sum(case((output, columns.tokens), else_=0)),
        func.sum(case((columns.basis == ASSUMED, columns.tokens), else_=0)),
        *(literal(0) for _ in CALL_COLUMNS),
    ]
    return _summed(query, usage_tokens, facts, sums)


def _calls(query: Query, facts: list[str]) -> Select[Any]:
    sums = [
        *(literal(0) for _ in _TOKEN_SUMS),
        *(func.sum(usage_calls.c[name]) for name in CALL_COLUMNS),
    ]
    return _summed(query, usage_calls, facts, sums)


def _summed(
    query: Query, table: Table, facts: list[str], sums: list[ColumnElement[Any]]
) -> Select[Any]:
    """One table's sums by label set and facts, of the usage that is asked about."""
    by = [table.c.set_id, *(table.c[name] for name in facts)]
    named = [each.label(name) for each, name in zip(sums, _SUMS, strict=True)]
    statement = select(*by, *named).where(table.c.hour_unix_ms >= query.from_unix_ms)
    if query.until_unix_ms is not None:
        statement = statement.where(table.c.hour_unix_ms < query.until_unix_ms)
    for key, value in query.match.items():
        statement = statement.where(_has_label(table, key, value))
    return statement.group_by(*by)


def _has_label(table: Table, key: str, value: str) -> ColumnElement[bool]:
    """Whether the row's label set has the value; an empty value asks for sets without the label."""
    of_key = exists().where(label_values.c.set_id == table.c.set_id, label_values.c.key == key)
    return of_key.where(label_values.c.value == value) if value else ~of_key
