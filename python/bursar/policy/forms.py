"""How the scalars of a policy file look to an editor: the JSON Schema of what a person writes.

An editor has read the YAML already, so that `500` reaches it as a number and `16k` as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from bursar.policy import scalars

Form = dict[str, Any]
"""A part of a JSON Schema."""

NUMBER: Form = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": scalars.AMOUNT_MAX},
        {"type": "string", "pattern": f"^{scalars.NUMBER.pattern}$"},
    ],
    "examples": [500, "16_000", "200k", "1.5M"],
}
DURATION: Form = {
    "type": "string",
    "pattern": f"^{scalars.DURATION.pattern}$",
    "examples": ["30s", "5m", "1h", "7d"],
}
INSTANT: Form = {
    "type": "string",
    "pattern": f"^{scalars.DATE.pattern}",
    "examples": ["2026-01-31", "2026-01-31T09:00", "2026-01-31T09:00:00Z"],
}
ZONE: Form = {
    "type": "string",
    "minLength": 1,
    "examples": ["UTC", "Europe/Berlin", "America/New_York"],
}


class OrElse:
    """Says that a part may also be written in other forms."""

    def __init__(self, *others: Form) -> None:
        self._others = others

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The part's own schema, or one of the others."""
        return {"anyOf": [handler(core_schema), *self._others]}


def text(*, bytes_max: int, pattern: str = "") -> Form:
    """Text that a person may write without quotes, though it look like a number."""
    form: Form = {"type": ["string", "number", "boolean"], "minLength": 1, "maxLength": bytes_max}
    return form | ({"pattern": f"^{pattern}$"} if pattern else {})


def word(words: Iterable[str]) -> Form:
    """One of some words."""
    return {"enum": list(words)}


def key(pattern: str, *, known: Iterable[str], but: Iterable[str] = ()) -> Form:
    """A label's key: one of those known, which an editor then offers, or another of its form."""
    other: Form = {"type": "string", "pattern": f"^{pattern}$"}
    refused = list(but)
    return {"anyOf": [{"enum": list(known)}, other | ({"not": {"enum": refused}} if but else {})]}


def one_or_list(form: Form, *, items_max: int) -> Form:
    """One of something, or a list of them."""
    return {"anyOf": [form, {"type": "array", "items": form, "minItems": 1, "maxItems": items_max}]}
