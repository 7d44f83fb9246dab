"""Overrides from CSV files: each row becomes what a person would have written in the policy."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bursar.errors import Mistake
from bursar.policy import scalars
from bursar.policy.relations import UNITS
from bursar.policy.sources import FILE_BYTES_MAX, FILES_MAX, Sources
from bursar.policy.tree import Document, Path, Place, Tree
from bursar.policy.types import OVERRIDES_MAX

MISTAKES_MAX = 100
"""The most mistakes that are told of one CSV file."""

_UNLIMITED = "unlimited"


def unfold(document: Document, sources: Sources) -> None:
    """Puts the rows of every file that `overrides` name in its place, in the document's tree.

    What is wrong with a file or its form is noted in the document; the values are checked later,
    with those a person wrote in the policy itself.
    """
    limits = document.tree.get("limits") if isinstance(document.tree, dict) else None
    for index, limit in enumerate(limits if isinstance(limits, list) else []):
        if isinstance(limit, dict) and "overrides" in limit:
            path = ("limits", index, "overrides")
            overrides = _Overrides(document, sources, path, Shape.of(limit))
            limit["overrides"] = overrides.unfold(limit["overrides"])


def bounded(path: str, found: Sequence[Mistake], *, noun: str) -> list[Mistake]:
    """All that was found in the policy file at `path`, and the first of each file it names."""
    told: list[Mistake] = []
    count: Counter[str] = Counter()
    for each in sorted(found):
        count[each.path] += 1
        if each.path == path or count[each.path] <= MISTAKES_MAX:
            told.append(each)
    for file, number in count.items():
        if file != path and number > MISTAKES_MAX:
            what = f"there are {number:,} {noun} in this file; the first {MISTAKES_MAX} are listed"
            told.append(Mistake(file, 0, 0, what))
    return told


@dataclass(slots=True)
class _Overrides:
    """The overrides of one limit, at `path`; `unfolded` is what their list becomes."""

    document: Document
    sources: Sources
    path: Path
    shape: Shape
    unfolded: list[Tree] = field(default_factory=list)

    def unfold(self, written: Tree) -> Tree:
        """The list of overrides with the rows of files in it."""
        if isinstance(written, dict):
            if "file" in written:
                self._take_file(self.path, written)
                return self.unfolded
            hint = "write a list: `- {for: {tenant: acme}, amount: {tokens: 1M}}`"
            what = "`overrides` must be a list, or name a file"
            self.document.add(self.document.place(self.path), what, got="a mapping", hint=hint)
            return []
        if not isinstance(written, list):
            return written
        for index, entry in enumerate(written):
            origin = (*self.path, index)
            if isinstance(entry, dict) and "file" in entry:
                self._take_file(origin, entry)
            else:
                self._take(entry, origin)
        return self.unfolded

    def _take(self, entry: Tree, origin: Path | Place) -> None:
        path = (*self.path, len(self.unfolded))
        if origin != path:
            self.document.moved[path] = origin
        self.unfolded.append(entry)

    def _take_file(self, origin: Path, entry: dict[str, Tree]) -> None:
        """Takes the rows of a file, named by an entry at `origin`."""
        document = self.document
        others = [key for key in entry if key != "file"]
        for key in others:
            place = document.place((*origin, key), at_key=True)
            what = f"`{key}` does not go with `file`"
            document.add(place, what, hint="an entry is a file, or `for` and `amount`")
        if others:
            return
        place = document.place((*origin, "file"))
        name = entry["file"]
        if not isinstance(name, str) or not name or "\0" in name:
            hint = "write the name of a CSV file beside the policy: `{file: credits.csv}`"
            document.add(place, "`file` must be the name of a CSV file", hint=hint)
            return
        file, found = self.sources.get(name)
        if found is None:
            document.add(place, f"a policy must name at most {FILES_MAX} files", hint="join some")
        elif isinstance(found, OSError):
            reason = found.strerror or str(found)
            hint = f"it was looked for at {file.absolute()}: names are relative to the policy file"
            document.add(place, f"the file `{name}` cannot be read: {reason}", hint=hint)
        elif self.shape.scope and self.shape.units:  # without them the limit has its own mistake
            for number, row in _Table(document, str(file), self.shape).rows(found):
                self._take(row, Place(number, 1, str(file)))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a limit's overrides may name: the labels of its scope and the units of its amount."""

    scope: tuple[str, ...]
    units: tuple[str, ...]

    @classmethod
    def of(cls, limit: dict[str, Tree]) -> Shape:
        """Reads it from a limit's tree, however broken; no units where one is misspelt."""
        scope, amount = limit.get("scope"), limit.get("amount")
        labels = (
            [each for each in scope if isinstance(each, str)] if isinstance(scope, list) else []
        )
        units = tuple(amount) if isinstance(amount, dict) and set(amount) <= set(UNITS) else ()
        return cls(tuple(labels), units)


@dataclass(slots=True)
class _Table:
    """One CSV file, read for one limit."""

    document: Document
    file: str
    shape: Shape

    def wrong(self, line: int, what: str, *, got: str = "", hint: str = "") -> None:
        self.document.add(Place(line, 1 if line else 0, self.file), what, got=got, hint=hint)

    def rows(self, source: bytes) -> Iterator[tuple[int, Tree]]:
        """Each row that has the right form, with its line."""
        if len(source) > FILE_BYTES_MAX:
            what = f"a file of overrides must have at most {FILE_BYTES_MAX:,} bytes"
            self.wrong(0, what, hint="write fewer rows, or use `*`: acme-*")
            return
        try:
            text = source.decode("utf-8-sig")  # spreadsheets write a mark before the first letter
        except UnicodeDecodeError as error:
            line = source.count(b"\n", 0, error.start) + 1
            got = f"the byte 0x{source[error.start]:02x}"
            self.wrong(line, "a file of overrides must be UTF-8", got=got, hint="save it as UTF-8")
            return
        lines = _lines(text)
        try:
            _, header = next(lines, (0, []))
            columns = self._columns(header)
            if not columns:
                return
            for count, (line, cells) in enumerate(lines):
                if count == OVERRIDES_MAX:
                    what = f"a limit must have at most {OVERRIDES_MAX:,} overrides"
                    self.wrong(line, what, hint="leave rows out, or use `*`: acme-*")
                    return
                if row := self._row(line, columns, cells):
                    yield line, row
        except csv.Error as error:
            self.wrong(
                _line_of(error), f"this is not CSV: {error.args[0]}", hint="check its quotes"
            )

    def _columns(self, header: list[str]) -> list[str]:
        """The names of the columns, or none where the header is wrong."""
        scope, units = self.shape.scope, self.shape.units
        example = ",".join((*scope, *units))
        before = len(self.document.mistakes)
        line = 1
        if not header:
            self.wrong(0, "the file is empty", hint=f"begin it with the line `{example}`")
            return []
        if len(header) == 1 and any(each in header[0] for each in ";\t|"):
            what = "columns must be separated by commas"
            self.wrong(line, what, got=header[0], hint=f"write `{example}`")
            return []
        for index, name in enumerate(header):
            if name not in {*scope, *units}:
                near = scalars.nearest(name, (*scope, *units))
                known = f"the limit has the scope {', '.join(scope)} and {', '.join(units)}"
                hint = f"did you mean {near}?" if near else known
                what = "a column must be a label of the limit's scope or a unit of its amount"
                self.wrong(line, what, got=name or "an empty name", hint=hint)
            elif name in header[:index]:
                self.wrong(line, f"the column `{name}` is there twice", hint="keep one")
        if not set(header) & set(scope):
            what, hint = "no column says for whom a row is", f"write `{example}`"
            self.wrong(line, what, got=",".join(header), hint=hint)
        if not set(header) & set(units):
            what, hint = "no column has an amount", f"write `{example}`"
            self.wrong(line, what, got=",".join(header), hint=hint)
        return header if len(self.document.mistakes) == before else []

    def _row(self, line: int, columns: list[str], cells: list[str]) -> Tree:
        """A row as an override's tree, or None where its form is wrong."""
        if len(cells) != len(columns):
            what = f"a row must have {len(columns)} cells, as the first line has"
            hint = f"write {','.join(columns)}; a cell may be empty"
            return self.wrong(line, what, got=str(len(cells)), hint=hint)
        named = dict(zip(columns, cells, strict=True))
        whom = {key: named[key] for key in columns if key in self.shape.scope}
        amounts = {key: named[key] for key in columns if key not in whom and named[key]}
        for key, value in whom.items():
            if not value:
                what, hint = f"the cell of `{key}` is empty", "write a value, or * for every one"
                return self.wrong(line, what, hint=hint)
        if not amounts:
            hint = "fill in a cell, or remove the row"
            return self.wrong(line, "a row must have an amount", hint=hint)
        free = [unit for unit in self.shape.units if amounts.get(unit) == _UNLIMITED]
        if not free:
            return {"for": whom, "amount": amounts}
        if len(free) == len(self.shape.units):
            return {"for": whom, "amount": _UNLIMITED}
        units = ", ".join(self.shape.units)
        what = "`unlimited` frees the whole limit, so every unit must say it"
        hint = f"write it in the columns {units}, or write a large number"
        return self.wrong(line, what, got=f"{_UNLIMITED} for {', '.join(free)} only", hint=hint)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the line it begins on; raises csv.Error."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise csv.Error(str(error), line) from None
        if cells is None:
            return
        stripped = [each.strip() for each in cells]
        if any(stripped):
            yield line, stripped


def _line_of(error: csv.Error) -> int:
    return int(error.args[1])
