"""Writes the reference pages of docs/ from the code: commands, settings, metrics, policy file."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from bursar.cli import _COMMANDS, main
from bursar.policy.schema import policy_schema

_MADE = "<!-- Made by `.ci/run docs` from the code: change that, not this. -->\n"


def _run(*words: str) -> str:
    done = CliRunner().invoke(main, list(words), env={"COLUMNS": "100"}, terminal_width=100)
    if done.exit_code:
        sys.exit(f"bursar {' '.join(words)}: {done.output}")
    return done.stdout


def commands() -> str:
    """Every command with its help."""
    parts = ["# Command line\n", _MADE]
    parts.append(
        "Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the answer is no, "
        "2 the question was wrong, 3 no sidecar could be asked.\n"
    )
    for name, what in _COMMANDS.items():
        command = import_module(f"bursar.cli.{name}").command
        with click.Context(command, info_name=f"bursar {name}", max_content_width=100) as context:
            said = command.get_help(context)
        parts.append(f"## bursar {name}\n\n{what}\n\n```text\n{said}\n```\n")
    return "\n".join(parts)


def settings() -> str:
    """Every setting of `bursar serve`."""
    said = "An option wins over the environment variable, and that over the default.\n"
    return f"# Settings\n\n{_MADE}\n{said}\n{_run('settings', '--markdown')}"


def metrics() -> str:
    """Every metric."""
    said = (
        "What `/metrics` of a sidecar has. No caller's text becomes a label. Alert rules with "
        "their tests are in [deploy/prometheus](../../deploy/prometheus/alerts.yaml).\n"
    )
    return f"# Metrics\n\n{_MADE}\n{said}\n{_run('metrics', '--markdown')}"


def policy() -> str:
    """Every key of a policy file, from its JSON Schema."""
    whole = policy_schema()
    parts = [
        "# The policy file\n",
        _MADE,
        "`bursar schema` prints the JSON Schema that this is made from.\n",
    ]
    parts.append(_keys("The file", whole))
    for name, definition in whole.get("$defs", {}).items():
        if "properties" in definition:
            parts.append(_keys(name, definition))
    return "\n".join(parts)


def _keys(title: str, shape: dict[str, Any]) -> str:
    required = set(shape.get("required", ()))
    said = " ".join(str(shape.get("description", "")).split())
    lines = [f"## {title}\n", f"{said}\n", "| key | takes | meaning |", "| --- | --- | --- |"]
    for key, value in shape.get("properties", {}).items():
        meaning = " ".join(str(value.get("description", "")).split()).replace("|", "\\|")
        must = " (required)" if key in required else ""
        lines.append(f"| `{key}`{must} | {_takes(value)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _takes(value: dict[str, Any]) -> str:
    """What a value may be, in words."""
    several = value.get("anyOf") or value.get("oneOf")
    if several:
        kinds = dict.fromkeys(_takes(each) for each in several)
        return " or ".join(each for each in kinds if each)
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    kind, inner = value.get("type", ""), value.get("additionalProperties")
    if kind == "array":
        return f"list of {_takes(value.get('items', {})) or 'values'}"
    if kind == "object":
        return f"mapping to {_takes(inner)}" if isinstance(inner, dict) else "mapping"
    examples = value.get("examples", [])
    example = f", such as `{examples[0]}`" if examples else ""
    return f"{kind if isinstance(kind, str) else ' or '.join(kind)}{example}".replace("|", "\\|")


def write() -> None:
    """Writes the pages into the folder named on the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"command-line": commands, "settings": settings, "metrics": metrics, "policy": policy}
    for name, page in pages.items():
        (folder / f"{name}.md").write_text(page().rstrip() + "\n")


if __name__ == "__main__":
    write()
