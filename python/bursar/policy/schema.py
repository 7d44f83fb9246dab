"""The JSON Schema of policy files, for editors: made from the grammar's types and their words."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from bursar.policy.types import Policy

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The version of JSON Schema that is written."""


def policy_schema() -> dict[str, Any]:
    """The schema of a policy file, as plain values."""
    made = Policy.model_json_schema(schema_generator=_Generator)
    schema = _summed_up(made)
    head = {"$schema": DIALECT, "title": "A policy for bursar"}
    return head | {key: value for key, value in schema.items() if key != "title"}


class _Generator(GenerateJsonSchema):
    """Writes what a person writes, where pydantic would write what a program holds."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """What may be left out: a key without a value is a mistake all the same."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Without the default, which is a program's: the words of the key say it."""
        return self.generate_inner(schema["schema"])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """A mapping whose keys are held to their form, each of them."""
        made: JsonSchemaValue = {"type": "object"}
        if "keys_schema" in schema:
            made["propertyNames"] = self.generate_inner(schema["keys_schema"])
        if "values_schema" in schema:
            made["additionalProperties"] = self.generate_inner(schema["values_schema"])
        if "max_length" in schema:
            made["maxProperties"] = schema["max_length"]
        return made


def _summed_up(node: Any) -> Any:  # noqa: ANN401  any part of a JSON Schema
    """Cuts every description to its first paragraph: what follows is for programmers."""
    if isinstance(node, list):
        return [_summed_up(each) for each in node]
    if not isinstance(node, dict):
        return node
    summed = {key: _summed_up(value) for key, value in node.items()}
    words = summed.get("description")
    if isinstance(words, str):
        summed["description"] = " ".join(words.split("\n\n")[0].split())
    return summed
