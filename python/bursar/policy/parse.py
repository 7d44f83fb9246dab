"""Reads a policy file and finds every mistake in it at once, each with its line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bursar.errors import BursarError, Mistake, PolicyBug, PolicyError
from bursar.policy import scalars, tree, types
from bursar.policy.overrides import bounded, unfold
from bursar.policy.relations import Clash, clashes
from bursar.policy.sources import Reader, SourceFile, Sources, digest_of, read_file

POLICY_BYTES_MAX = 1024 * 1024
"""The largest policy file that is read."""

_GOT_CHARACTERS_MAX = 60
_BUG_CHARACTERS_MAX = 200

# What the grammar has and this version does not serve, by the part it is written in.
_NOT_SERVED = {
    "policy": (
        "currency", "shared_by", "prices", "features", "models", "allocation", "exceptions",
        "fees", "identities",
    ),
    "label": ("from", "map"),
    "limit": (
        "ceilings", "thresholds", "on_exceed", "pace", "meters", "burst", "mode",
    ),
    "window": ("sliding", "refill", "first_use"),
    "amount": ("cost",),
}  # fmt: skip
_SERVED: dict[str, type[types.Part]] = {
    "policy": types.Policy, "label": types.LabelRule, "reservations": types.ReservationRules,
    "limit": types.Limit, "override": types.Override, "window": types.Window,
    "total": types.Total, "amount": types.Amounts,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """A policy without mistakes: what it says, and the files it was read from.

    `digest` stands for all of them: the policy file's SHA-256 where it names no other, else the
    SHA-256 of the files' SHA-256s, one after the other in the order of `sources`. `source` has the
    bytes of the policy file alone, which is also the first of `sources`.
    """

    policy: types.Policy
    digest: bytes
    source: bytes
    path: str
    sources: tuple[SourceFile, ...]
    document: tree.Document = field(repr=False, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that was read, the policy file first: what to watch for changes."""
        return tuple(each.path for each in self.sources)


def parse(path: Path, *, read: Reader = read_file) -> ParsedPolicy:
    """Reads the policy file at `path` and the files it names; raises PolicyError.

    The error has every mistake in them. Each file is asked of `read` once, so that whoever compares
    files before they are taken can hand in the very bytes that were compared.
    """
    shown = str(path)
    try:
        source = read(path)
    except OSError as error:
        what = f"the policy file cannot be read: {error.strerror or error}"
        hint = "name a policy file, or write a first one with `bursar init`"
        raise PolicyError([Mistake(shown, 0, 0, what, hint=hint)]) from None
    return parse_source(source, path=shown, read=read)


def parse_source(source: bytes, *, path: str, read: Reader = read_file) -> ParsedPolicy:
    """Reads a policy file's bytes; `path` is what mistakes name. Raises PolicyError.

    The files that it names are asked of `read`, their paths relative to that of the policy.
    """
    document = tree.read(path, _text(source, path))
    if document.tree is None and document.mistakes:
        raise PolicyError(document.mistakes)
    named = Sources(Path(path).parent, read)
    unfold(document, named)
    mistakes = list(document.mistakes)
    mistakes += [_mistake_of_clash(document, clash) for clash in clashes(document.tree)]
    policy: types.Policy | None = None
    try:
        policy = types.Policy.model_validate(document.tree, context=_surroundings(document.tree))
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes += [_mistake_of_error(document, each) for each in details]
    if mistakes or policy is None:
        raise PolicyError(bounded(path, mistakes, noun="mistakes"))
    own = SourceFile(Path(path), hashlib.sha256(source).digest())
    sources = (own, *named.files())
    return ParsedPolicy(policy, digest_of(sources), source, path, sources, document)


@contextmanager
def bugs_told(path: Path) -> Iterator[None]:
    """Makes a PolicyBug of whatever is raised within that no policy file should cause.

    Files come from people, and the one that finds a bug of ours must end nobody who reads it.
    """
    try:
        yield
    except BursarError:
        raise
    except Exception as error:
        said = "".join(str(error).splitlines()[:1])[:_BUG_CHARACTERS_MAX]
        kind = type(error).__name__
        what = f"cannot be read: {kind}{said and ': '}{said}; this is a bug in bursar"
        hint = "please report it with the file; a file that is written in another way may be read"
        raise PolicyBug([Mistake(str(path), 0, 0, what, hint=hint)]) from error


def _text(source: bytes, path: str) -> str:
    if len(source) > POLICY_BYTES_MAX:
        what = f"a policy file must have at most {POLICY_BYTES_MAX:,} bytes"
        raise PolicyError([Mistake(path, 0, 0, what, hint="split it: one policy for each sidecar")])
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        got = f"the byte 0x{source[error.start]:02x}"
        what = "a policy file must be UTF-8"
        raise PolicyError([Mistake(path, line, 1, what, got, "save it as UTF-8")]) from None


def _surroundings(root: tree.Tree) -> types.Surroundings:
    mapping: Mapping[str, tree.Tree] = root if isinstance(root, dict) else {}
    labels = mapping.get("labels")
    declared = frozenset(labels) if isinstance(labels, dict) else frozenset[str]()
    try:
        zone = ZoneInfo(scalars.time_zone(mapping.get("time_zone")))
    except scalars.ScalarError:
        zone = ZoneInfo("UTC")
    return types.Surroundings(declared, zone, zone_named="time_zone" in mapping)


def _mistake_of_clash(document: tree.Document, clash: Clash) -> Mistake:
    place = document.place(clash.path, at_key=clash.at_key)
    return document.mistake(place, clash.what, hint=clash.hint)


def _mistake_of_error(document: tree.Document, error: ErrorDetails) -> Mistake:
    path = error["loc"]
    at_key = error["type"] == "extra_forbidden"
    if path and path[-1] == "[key]":
        path, at_key = path[:-1], True
    what, got, hint = _words(document, path, error)
    return document.mistake(document.place(path, at_key=at_key), what, got=got, hint=hint)


def _words(  # noqa: PLR0911  one answer for each kind of error
    document: tree.Document, path: tree.Path, error: ErrorDetails
) -> tuple[str, str, str]:
    """What was wrong, what was got, and what to write instead."""
    name = _name(document, path)
    context = error.get("ctx", {})
    got = _got(error["input"])
    match error["type"]:
        case "bursar":
            got = "" if context["quiet"] else got
            return f"{name} must {context['what']}", got, context["hint"]
        case "missing":
            return f"{name} is missing", "", _missing_hint(str(path[-1]))
        case "extra_forbidden":
            what, hint = _unknown(path, name)
            return what, "", hint
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{name} must be a mapping", got, "write `key: value` lines below it"
        case "list_type":
            hint = f"write [{got}]" if isinstance(error["input"], str) else "write [a, b]"
            return f"{name} must be a list", got, hint
        case "string_type":
            return f"{name} must be text", got, ""
        case "too_long":
            most, actual = context["max_length"], context["actual_length"]
            got = f"{actual:,}" if actual else ""  # nobody counts those of a mapping
            return f"{name} must have at most {most:,} entries", got, "leave some out"
        case _:
            return f"{name}: {error['msg']}", got, ""


def _missing_hint(key: str) -> str:
    return {
        "policy": "begin the file with the policy's name: `policy: production`",
        "name": "write `name: tenant-minute`: counters are kept by it",
        "amount": "write `amount: {tokens: 200k}`",
        "for": "write for whom it is: `for: {tenant: acme}`",
    }.get(key, "")


def _unknown(path: tree.Path, name: str) -> tuple[str, str]:
    """What is wrong with a key that is not of this part, and what to write instead."""
    key, part = str(path[-1]), _part(path[:-1])
    if key in _NOT_SERVED.get(part, ()):
        return f"{name} is not served by this version of bursar", "leave it out"
    known = [field.alias or each for each, field in _SERVED[part].model_fields.items()]
    near = scalars.nearest(key, [*known, *_NOT_SERVED.get(part, ())])
    hint = f"did you mean `{near}`?" if near else f"known here: {', '.join(known)}"
    return f"{name} is not a known key", hint


def _part(path: tree.Path) -> str:
    """The kind of part at `path`, as _SERVED names it."""
    match path:
        case ():
            return "policy"
        case ("labels", _):
            return "label"
        case ("limits", _):
            return "limit"
        case ("limits", _, "overrides", _):
            return "override"
        case _:
            return str(path[-1])


def _name(document: tree.Document, path: tree.Path) -> str:
    """The path for a person, a limit by its name: `limits[tenant-minute].amount.tokens`."""
    if not path:
        return "a policy file"
    if document.place(path).file:
        return f"`{path[-1]}`"  # a column of that file
    return "`" + "".join(_steps(document.tree, path)).removeprefix(".") + "`"


def _steps(root: tree.Tree, path: tree.Path) -> Iterator[str]:
    node = root
    for step in path:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            node = None
        if isinstance(step, int):
            name = node.get("name") if isinstance(node, dict) else None
            yield f"[{name if isinstance(name, str) else step}]"
        else:
            yield f".{step}"


def _got(value: object) -> str:
    """What was got, for a person: a scalar as written, other things by their kind."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    if not text:
        return "an empty text"
    shown = text.encode("unicode_escape").decode() if not text.isprintable() else text
    if len(shown) > _GOT_CHARACTERS_MAX:
        return f"{shown[:_GOT_CHARACTERS_MAX]}…"
    return shown
