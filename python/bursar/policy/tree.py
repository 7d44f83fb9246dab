"""A YAML file as plain mappings, lists and text, with the place of everything in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import Event
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from bursar.errors import Mistake

NODES_MAX = 200_000
"""The most values a file may have once its aliases are followed."""

DEPTH_MAX = 16
"""The most levels a file may nest."""

_TOO_DEEP = f"this is nested too deeply: a file may nest at most {DEPTH_MAX} levels"
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
    """The file nests too deep, or its aliases unfold to too much: where, and what to say of it."""

    def __init__(self, place: Place, what: str, hint: str) -> None:
        super().__init__(what)
        self.place = place
        self.what = what
        self.hint = hint


class _Composer(Composer):
    """Composes what nests no deeper than a tree may: Python's own stack would end soon after."""

    def __init__(self, loader: YAML | None = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # YAML lets an anchor be written anew
        self._levels = 0

    def get_single_node(self) -> Node | None:
        """The document, with a place for what the scanner converts unchecked."""
        try:
            node: Node | None = super().get_single_node()
        except (ValueError, OverflowError):
            mark = self.loader.reader.get_mark()
            raise MarkedYAMLError(problem="a number is too large", problem_mark=mark) from None
        return node

    def compose_node(self, parent: Node | None, index: Node | int | None) -> Node:
        """The node of what comes next, and of all in it."""
        if self._levels > DEPTH_MAX:
            place = _place(self.parser.peek_event())
            raise _TooLargeError(place, _TOO_DEEP, "check its brackets and its indentation")
        self._levels += 1
        node: Node = super().compose_node(parent, index)
        self._levels -= 1
        return node


def read(path: str, text: str) -> Document:
    """Reads one YAML document; what is wrong with its form is in the document's mistakes."""
    document = Document(path)
    yaml = YAML(typ="safe", pure=True)  # "rt" keeps comments, and fails at where some stand
    yaml.Composer = _Composer
    try:
        root = yaml.compose(text)
        if root is None:
            document.tree = {}
            document.values[()] = Place(1, 1)
        else:
            document.tree = _value(document, root, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(0, 0)
        document.add(place, f"this is not YAML: {error.problem}", hint=_syntax_hint(error))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        first = str(error).splitlines()[0]
        document.add(Place(line, 1), f"this is not YAML: {first}", hint="write it as plain UTF-8")
    except _TooLargeError as error:
        document.add(error.place, error.what, hint=error.hint)
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


def _place(node: Node | Event) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _value(document: Document, node: Node, path: Path) -> Tree:
    place = _place(node)
    document.values[path] = place
    document.nodes += 1
    if len(path) > DEPTH_MAX:
        raise _TooLargeError(place, _TOO_DEEP, "an alias (*name) may not contain itself")
    if document.nodes > NODES_MAX:
        what = f"a file must have at most {NODES_MAX:,} values, each alias counted as what it means"
        raise _TooLargeError(place, what, "use fewer aliases (*name)")
    if str(node.tag) not in _PLAIN:
        document.add(
            place, "a value must be plain", got=f"the tag {node.tag}", hint="remove the tag"
        )
    if isinstance(node, ScalarNode):
        return None if node.tag == _NULL and node.style is None else _text(document, node)
    if isinstance(node, SequenceNode):
        return [_value(document, each, (*path, index)) for index, each in enumerate(node.value)]
    if isinstance(node, MappingNode):
        return _mapping(document, node, path)
    return None


def _text(document: Document, node: ScalarNode) -> str:
    """A scalar as written; half a character, which only an escape can write, is a mistake."""
    text = str(node.value)
    whole = text.encode(errors="replace").decode()
    if whole != text:
        hint = "write the character itself, or one escape for all of it: \\U0001F600"
        document.add(_place(node), "a text must have whole characters", hint=hint)
    return whole


def _mapping(document: Document, node: MappingNode, path: Path) -> dict[str, Tree]:
    mapping: dict[str, Tree] = {}
    for key_node, value_node in node.value:
        place = _place(key_node)
        if not isinstance(key_node, ScalarNode):
            document.add(place, "a key must be a single word", hint="write `key: value`")
            continue
        key = _text(document, key_node)
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
        if mapping[key] is None:  # where nothing is written, the reader has the next thing's place
            document.values[(*path, key)] = place
    return mapping
