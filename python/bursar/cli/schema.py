"""`bursar schema`: the JSON Schema of policy files, by which an editor completes and checks."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema (draft 2020-12) of policy files.

    An editor that has it completes keys, says what each is for, and marks mistakes as they are
    made. Save it beside the policy and name it in the policy's first line, which `bursar init
    --schema` does for a new one:

    \b
      # yaml-language-server: $schema=policy.schema.json

    What needs the whole file to be known, such as a label that is not declared, only `bursar
    check` finds.

    \b
    Examples:
      bursar schema > policy.schema.json
    """
    click.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The schema as a file has it."""
    from bursar.policy.schema import policy_schema

    return json.dumps(policy_schema(), ensure_ascii=False, indent=2) + "\n"
