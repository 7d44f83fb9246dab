"""A YAML file as plain mappings, lists and text, with the place of everything in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from bursar.errors import Mistake

NODES_MAX = 200_000
"""The most values a file may have once its aliases are followed."""

DEPTH_MAX = 16
"""The most levels a file may nest."""

_TAGS = {f"tag:yaml.org,2002:{each}" for each in ("str", "int", "float", "bool", "timestamp")}
_NULL = "tag:yaml.org,2002:null"
_PLAIN = {*_TAGS, _NULL, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}

Path = tuple[str | int, ...]
Tree = Any
"""What a file says: dict of text to Tree, list of Tree, text as written, or None for nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column, both from 1, of the file itself or of one that it names."""

    line: int
    column: int
    file: str = ""


@dataclass(slots=True)
class Document:
    """A file's tree, where each key and value of it is, and the mistakes of its form.

    `moved` says of a part that is not where the file has it, where it was written: at another path
    of the file, or at a place of a file that this one names.
    """

    path: str
    tree: Tree = None
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    moved: dict[Path, Path | Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    nodes: int = 0

    def add(self, place: Place, what: str, *, got: str = "", hint: str = "") -> None:
        """Notes a mistake at a place."""
        self.mistakes.append(self.mistake(place, what, got=got, hint=hint))

    def mistake(self, place: Place, what: str, *, got: str = "", hint: str = "") -> Mistake:
        """A mistake at a place, not noted."""
        file = place.file or self.path
        return Mistake(file, place.line, place.column, what, got, hint)

    def place(self, path: Path, *, at_key: bool = False) -> Place:
        """The place of the value (or key) at `path`, or of the nearest part that has one."""
        for length in range(len(path), 0, -1):
            origin = self.moved.get(path[:length])
            if isinstance(origin, Place):
                return origin
            if origin is not None:
                path = (*origin, *path[length:])
                break
        if at_key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place(0, 0))


class _TooLargeError(Exception):
    """The file nests too deep or its aliases unfold to too much; the mistake is noted."""


def read(path: str, text: str) -> Document:
    """Reads one YAML document; what is wrong with its form is in the document's mistakes."""
    document = Document(path)
    try:
        root = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(0, 0)
        document.add(place, f"this is not YAML: {error.problem}", hint=_syntax_hint(error))
        return document
    except YAMLError as error:
        first = str(error).splitlines()[0]
        document.add(Place(0, 0), f"this is not YAML: {first}", hint="write it as plain UTF-8")
        return document
    if root is None:
        document.tree = {}
        document.values[()] = Place(1, 1)
        return document
    try:
        document.tree = _value(document, root, ())
    except _TooLargeError:
        document.tree = None
    return document


def _syntax_hint(error: MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "\\t" in problem:
        return "indent with spaces"
    if "undefined alias" in problem or "cannot start any token" in problem:
        return 'put a text that begins with *, &, !, % or @ in quotes: "*"'
    if "mapping values" in problem:
        return "put a text that contains `: ` in quotes, and check the indentation"
    if "another document" in problem:
        return "a policy is one document: remove the line `---`"
    return "check brackets, quotes and indentation on this line and the one before"


def _place(node: Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _value(document: Document, node: Node, path: Path) -> Tree:
    place = _place(node)
    document.values[path] = place
    document.nodes += 1
    if document.nodes > NODES_MAX or len(path) > DEPTH_MAX:
        what = f"a file must have at most {NODES_MAX:,} values, nested at most {DEPTH_MAX} deep"
        document.add(place, what, hint="an alias (*name) may not contain itself")
        raise _TooLargeError
    if str(node.tag) not in _PLAIN:
        document.add(
            place, "a value must be plain", got=f"the tag {node.tag}", hint="remove the tag"
        )
    if isinstance(node, ScalarNode):
        return None if node.tag == _NULL and node.style is None else str(node.value)
    if isinstance(node, SequenceNode):
        return [_value(document, each, (*path, index)) for index, each in enumerate(node.value)]
    if isinstance(node, MappingNode):
        return _mapping(document, node, path)
    return None


def _mapping(document: Document, node: MappingNode, path: Path) -> dict[str, Tree]:
    mapping: dict[str, Tree] = {}
    for key_node, value_node in node.value:
        place = _place(key_node)
        if not isinstance(key_node, ScalarNode):
            document.add(place, "a key must be a single word", hint="write `key: value`")
            continue
        key = str(key_node.value)
        if key == "<<":
            document.add(place, "`<<` (merging) is not read", hint="write the keys out")
            continue
        if key in mapping:
            before = document.keys[(*path, key)].line
            document.add(
                place,
                f"`{key}` is written twice in one mapping",
                hint=f"the first is on line {before}; keep one",
            )
            continue
        document.keys[(*path, key)] = place
        mapping[key] = _value(document, value_node, (*path, key))
    return mapping
