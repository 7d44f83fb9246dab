"""The tables of the books, for SQLite now and PostgreSQL later."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
)

SCHEMA_VERSION = 1
"""The version of these tables; books of a later one are refused."""

metadata = MetaData()

# SQLite numbers its rows by a column of the type INTEGER and no other.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")

position = Table(
    "position",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("schema_version", Integer, nullable=False),
    Column("through_sequence", BigInteger, nullable=False),
)
"""One row: the version of the tables, and the last sequence of the ledger they include."""

label_sets = Table(
    "label_sets",
    metadata,
    Column("id", _RowNumber, primary_key=True),
    Column("canonical", Text, nullable=False, unique=True),
)
"""Each set of rollup labels once, as JSON with its keys in order."""

label_values = Table(
    "label_values",
    metadata,
    Column("key", Text, primary_key=True),
    Column("set_id", ForeignKey("label_sets.id"), primary_key=True),
    Column("value", Text, nullable=False),
    Index("label_values_by_value", "key", "value", "set_id"),
    sqlite_with_rowid=False,
)
"""The labels of each set, one a row: any of them groups or filters by a join."""

usage_tokens = Table(
    "usage_tokens",
    metadata,
    Column("hour_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("set_id", ForeignKey("label_sets.id"), primary_key=True),
    Column("meter", SmallInteger, primary_key=True, autoincrement=False),
    Column("basis", SmallInteger, primary_key=True, autoincrement=False),
    Column("tokens", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Tokens by hour, labels, meter and basis."""

usage_calls = Table(
    "usage_calls",
    metadata,
    Column("hour_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("set_id", ForeignKey("label_sets.id"), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("calls_assumed", BigInteger, nullable=False),
    Column("calls_overrun", BigInteger, nullable=False),
    Column("calls_late", BigInteger, nullable=False),
    Column("latency_ms_sum", BigInteger, nullable=False),
    Column("latency_calls", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Calls and their latencies by hour and labels; each call once."""

CALL_COLUMNS = (
    "calls", "calls_assumed", "calls_overrun", "calls_late", "latency_ms_sum", "latency_calls",
)  # fmt: skip
"""What is summed of calls."""
