"""The books: takes usage in, never twice, and answers questions about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from bursar.books import tables
from bursar.books.questions import selection
from bursar.errors import BooksError
from bursar.usage.rollup import Batch, Calls, Group, Page, Query, Row

FILE_NAME = "books.sqlite"
"""The books' file in the data directory."""

_BUSY_MS = 10_000
_DAMAGED = f"remove {FILE_NAME} and its -wal and -shm to have them made anew from the ledger"
_CHUNK = 500
_CALLS_AT = 4
"""Where a result's calls begin, after its group: tokens, input, output, assumed."""


class Books:
    """Usage by hour, labels, meter and basis, exact up to a sequence of the ledger.

    Every method may be called from any thread; one process takes usage in at a time.
    """

    def __init__(self, engine: Engine) -> None:
        """Uses an engine whose tables exist; `open_books` makes one."""
        self._engine = engine

    def through_sequence(self) -> int:
        """The last sequence of the ledger that the books include; 0: none."""
        with self._engine.connect() as connection:
            return _position(connection)

    def take(self, pages: Iterable[Batch]) -> int:
        """Adds all pages of one batch and moves the position, in one transaction.

        A batch that was taken before changes nothing. Returns the position after it. Raises
        BooksError where the batch does not follow what the books have, or they cannot be written:
        nothing is changed then.
        """
        with _words("the books cannot be written"), self._engine.begin() as connection:
            position = _position(connection)
            through = position
            for page in pages:
                if page.through_sequence <= position:
                    return position
                if page.after_sequence != position:
                    raise BooksError(_gap(page, position))
                _add(connection, page.groups)
                through = page.through_sequence
            connection.execute(update(tables.position).values(through_sequence=through))
            return through

    def query(self, query: Query) -> Page:
        """Answers a question about usage, its rows in the order of their groups.

        Raises BooksError where they cannot be read.
        """
        with _words("the books cannot be read"), self._engine.connect() as connection:
            # One row more than asked for tells whether another page follows.
            found = connection.execute(selection(query)).fetchmany(query.rows_max + 1)
            through = _position(connection)
        rows = tuple(_row(query, each) for each in found[: query.rows_max])
        return Page(rows, len(found) > query.rows_max, through)

    def label_keys(self) -> frozenset[str]:
        """Every label that some usage in the books is kept by; raises BooksError as `query`."""
        with _words("the books cannot be read"), self._engine.connect() as connection:
            keys = connection.scalars(select(tables.label_values.c.key).distinct())
            return frozenset(keys)

    def close(self) -> None:
        """Closes the files."""
        self._engine.dispose()


def open_books(data_directory: Path) -> Books:
    """Opens the books of a data directory, making them if there are none; raises BooksError."""
    path = data_directory / FILE_NAME
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_MS / 1000})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        with _words(f"the books in {path} cannot be opened"):
            _prepare(engine, path)
    except BooksError:
        engine.dispose()
        raise
    return Books(engine)


@contextmanager
def _words(what: str) -> Iterator[None]:
    """Says in one line what the database said, and what to do where that is known."""
    try:
        yield
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error)
        damaged = "not a database" in said or "malformed" in said
        hint = f"; {_DAMAGED}" if damaged else ""
        raise BooksError(f"{what}: {said}{hint}") from error


def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401  a driver's own class
    # The driver's own way of beginning transactions leaves reads outside of them.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _on_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _prepare(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        version = connection.scalar(select(tables.position.c.schema_version))
        if version is None:
            first = {"id": 1, "schema_version": tables.SCHEMA_VERSION, "through_sequence": 0}
            connection.execute(insert(tables.position).values(first))
        elif version != tables.SCHEMA_VERSION:
            message = (
                f"the books must be of version {tables.SCHEMA_VERSION} (got {version} in {path}); "
                "serve them with the bursar that wrote them"
            )
            raise BooksError(message)


def _position(connection: Connection) -> int:
    return int(connection.scalars(select(tables.position.c.through_sequence)).one())


def _gap(page: Batch, position: int) -> str:
    return (
        f"the books include the ledger up to sequence {position}, but the next usage begins after "
        f"{page.after_sequence}: they are not of one data directory, or the books were replaced; "
        "bring back the books that belong to this ledger"
    )


def _add(connection: Connection, groups: Sequence[Group]) -> None:
    ids = _set_ids(connection, [canonical(group) for group in groups])
    tokens = [
        {
            "hour_unix_ms": group.hour_unix_ms,
            "set_id": ids[canonical(group)],
            "meter": meter,
            "basis": basis,
            "tokens": amount,
        }
        for group in groups
        for (meter, basis), amount in group.tokens.items()
        if amount
    ]
    calls = [
        {"hour_unix_ms": group.hour_unix_ms, "set_id": ids[canonical(group)], **asdict(group.calls)}
        for group in groups
        if group.calls != Calls()
    ]
    _add_up(connection, tables.usage_tokens, tokens, ("tokens",))
    _add_up(connection, tables.usage_calls, calls, tables.CALL_COLUMNS)


def canonical(group: Group) -> str:
    """A group's labels as JSON, the same for the same labels; those without a value left out."""
    labels = {key: value for key, value in group.labels.items() if value}
    return json.dumps(labels, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _add_up(
    connection: Connection, table: Table, rows: list[dict[str, Any]], sums: Sequence[str]
) -> None:
    """Adds each row to the one with its key, or makes it."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    statement = statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + statement.excluded[name] for name in sums},
    )
    connection.execute(statement, rows)


def _set_ids(connection: Connection, sets: Iterable[str]) -> dict[str, int]:
    """The numbers of label sets by their JSON; sets that are new get one."""
    ids: dict[str, int] = {}
    remaining = iter(dict.fromkeys(sets))
    while chunk := list(islice(remaining, _CHUNK)):
        columns = tables.label_sets.c
        known = select(columns.canonical, columns.id).where(columns.canonical.in_(chunk))
        ids.update((text, number) for text, number in connection.execute(known))
        for text in chunk:
            if text not in ids:
                ids[text] = _new_set(connection, text)
    return ids


def _new_set(connection: Connection, text: str) -> int:
    columns = tables.label_sets.c
    made = insert(tables.label_sets).values(canonical=text).returning(columns.id)
    number = int(connection.scalars(made).one())
    values = [
        {"key": key, "set_id": number, "value": value} for key, value in json.loads(text).items()
    ]
    if values:
        connection.execute(insert(tables.label_values), values)
    return number


def _row(query: Query, found: Sequence[Any]) -> Row:
    width = len(query.group_by)
    group, sums = tuple(found[:width]), [int(each or 0) for each in found[width:]]
    tokens, of_input, of_output, assumed = sums[:_CALLS_AT]
    calls = Calls(**dict(zip(tables.CALL_COLUMNS, sums[_CALLS_AT:], strict=True)))
    return Row(
        group=group,
        tokens=tokens,
        input_tokens=of_input,
        output_tokens=of_output,
        assumed_tokens=assumed,
        calls=calls,
    )
