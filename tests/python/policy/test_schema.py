"""What the schema promises an editor: it takes what `check` takes, and marks common mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from bursar.cli.init import FIRST_POLICY
from bursar.policy.parse import parse_source
from bursar.policy.schema import policy_schema

ROOT = Path(__file__).parents[3]
SCHEMA = policy_schema()
TIMESTAMP = "tag:yaml.org,2002:timestamp"

EVERYTHING = """\
policy: 2026
time_zone: Europe/Berlin
mode: enforce
labels:
  feature:
    values: [support-chat, 007, 1.50, true, 2026-01-31]
    renamed: {chat: support-chat, 7: 007}
    missing: {as: unattributed}
    otherwise: deny
  tenant: {missing: deny, otherwise: {as: other}}
  session: {missing: skip}
  cost_centre:
reservations: {ttl: 10m, unsettled: release}
limits:
  - {name: cap, window: request, amount: {tokens: 16k}}
  - name: minute
    match: {model: "anthropic/*", feature: [support-chat, search], provider: "*"}
    except: {environment: production, cost_centre: 007}
    scope: [tenant, session]
    window: {fixed: 1m}
    amount: {tokens: 1.5M, requests: 6_000}
    overrides:
      - {for: {tenant: [acme, lab-*]}, amount: {tokens: 0}}
      - {for: {session: 12}, amount: unlimited}
  - {name: day, window: {calendar: day, time_zone: UTC}, amount: {tokens: 007k}}
  - {name: week, window: {calendar: week, week_starts_on: sunday}, amount: {tokens: 5}}
  - {name: month, window: {calendar: month, month_starts_on: 15}, amount: {tokens: 5}}
  - {name: quarter, window: {calendar: quarter, year_starts_in: february}, amount: {tokens: 5}}
  - name: year
    window: {calendar: year, year_starts_in: december, month_starts_on: 28}
    amount: {tokens: 9_007_199_254_740_992}
  - {name: prepaid, window: {total: {from: 2026-03-29, until: 2027-06-01T12:00:00Z}},
     amount: {tokens: 5}}
  - {name: ever, window: total, amount: {tokens: 5}}
  - {name: also, window: {total: }, amount: {tokens: 5}}
  - {name: in-flight, scope: [user], amount: {concurrency: 4}, overrides: []}
rollups: [feature, cost_centre, component]
""".replace("007k", "7k")


def loaded(text: str) -> Any:  # noqa: ANN401  any JSON value
    """What an editor makes of a file: YAML 1.2's values, and instants as text."""
    yaml = YAML(typ="safe", pure=True)
    yaml.constructor.add_constructor(TIMESTAMP, lambda _, node: node.value)
    document = yaml.load(text)
    return _with_text_keys(document)


def _with_text_keys(node: Any) -> Any:  # noqa: ANN401
    if isinstance(node, dict):
        return {str(key): _with_text_keys(value) for key, value in node.items()}
    return [_with_text_keys(each) for each in node] if isinstance(node, list) else node


def wrong(text: str) -> list[str]:
    return [each.message for each in Draft202012Validator(SCHEMA).iter_errors(loaded(text))]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "text",
    [
        EVERYTHING,
        "policy: small",
        (ROOT / "examples" / "policy.yaml").read_text(),
        FIRST_POLICY.format(path="policy.yaml", name="first", zone="UTC"),
    ],
    ids=["everything", "small", "example", "init"],
)
def test_what_check_takes_the_schema_takes(text: str) -> None:
    parse_source(text.encode(), path="p.yaml")
    assert wrong(text) == []


@pytest.mark.parametrize("form", ["{file: c.csv}", "[{file: c.csv}]"])
def test_a_file_of_overrides_may_be_named(form: str) -> None:
    limit = LIMIT.replace("amount", f"scope: [tenant], overrides: {form}, amount")
    assert wrong(limit) == []


LIMIT = "policy: p\nlimits:\n  - {name: a, window: {fixed: 1m}, amount: {tokens: 5}}\n"
OVERRIDE = LIMIT.replace("amount", "scope: [tenant], overrides: [OVERRIDE], amount")

MISTAKES = [
    "limits: []",
    "[a]",
    "policy: p\nlimts: []",
    "policy: p\nlimits: 3",
    "policy: p\nmode: observe",
    "policy: p\nlabels: {model: {}}",
    "policy: p\nlabels: {Tenant: {}}",
    "policy: p\nlabels: {a: {missing: no}}",
    "policy: p\nlabels: {a: {otherwise: skip}}",
    "policy: p\nlabels: {a: {missing: {at: b}}}",
    "policy: p\nlabels: {a: {from: b}}",
    "policy: p\nreservations: {ttl: 90}",
    "policy: p\nreservations: {ttl: 90x}",
    "policy: p\nreservations: {unsettled: free}",
    "policy: p\nrollups: feature",
    LIMIT.replace("name: a, ", ""),
    LIMIT.replace("name: a", "name: Big Name"),
    LIMIT.replace("amount", "scope: tenant, amount"),
    LIMIT.replace("amount", "scope: [component], amount"),
    LIMIT.replace("amount", "scope: [tenant, user, team, agent, model], amount"),
    LIMIT.replace("amount", "match: {model: a*b}, amount"),
    LIMIT.replace("amount", "match: {model: []}, amount"),
    LIMIT.replace("amount", "pace: true, amount"),
    LIMIT.replace("5", "-5"),
    LIMIT.replace("5", "5K"),
    LIMIT.replace("5", "0.5"),
    LIMIT.replace("5", "9_007_199_254_740_993"),
    LIMIT.replace("5", "unlimited"),
    LIMIT.replace("{tokens: 5}", "{tokens: }"),
    LIMIT.replace("{tokens: 5}", "{}"),
    LIMIT.replace("tokens", "cost"),
    LIMIT.replace("tokens", "concurrency"),
    LIMIT.replace("5", "5, concurrency: 1").replace("window: {fixed: 1m}, ", ""),
    LIMIT.replace("window: {fixed: 1m}, ", ""),
    LIMIT.replace("fixed: 1m", "sliding: 1m"),
    LIMIT.replace("fixed: 1m", ""),
    LIMIT.replace("fixed: 1m", "fixed: "),
    LIMIT.replace("fixed: 1m", "request: true"),
    LIMIT.replace("fixed: 1m", "fixed: 1m, calendar: day"),
    LIMIT.replace("fixed: 1m", "fixed: 1m, time_zone: UTC"),
    LIMIT.replace("fixed: 1m", "fixed: 7d, week_starts_on: sunday"),
    LIMIT.replace("fixed: 1m", "calendar: weekly"),
    LIMIT.replace("fixed: 1m", "calendar: month, week_starts_on: sunday"),
    LIMIT.replace("fixed: 1m", "calendar: week, month_starts_on: 2"),
    LIMIT.replace("fixed: 1m", "calendar: month, month_starts_on: 31"),
    LIMIT.replace("fixed: 1m", "calendar: year, year_starts_in: 2"),
    LIMIT.replace("fixed: 1m", "total: {from: soon}"),
    LIMIT.replace("{fixed: 1m}", "hourly"),
    OVERRIDE.replace("OVERRIDE", "{for: {tenant: a}}"),
    OVERRIDE.replace("OVERRIDE", "{for: {}, amount: unlimited}"),
    OVERRIDE.replace("OVERRIDE", "{for: {tenant: a}, amount: none}"),
    OVERRIDE.replace("OVERRIDE", "{for: {tenant: a}, amount: {}}"),
    OVERRIDE.replace("OVERRIDE", "{file: a.csv, amount: unlimited}"),
    OVERRIDE.replace("[OVERRIDE]", "{fle: a.csv}"),
]


@pytest.mark.parametrize("text", MISTAKES)
def test_a_common_mistake_is_marked(text: str) -> None:
    assert wrong(text)


def keys(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every key a person may write, with its schema."""
    if isinstance(node, list):
        for each in node:
            yield from keys(each, path)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key == "properties":
            described = {name: each for name, each in value.items() if each.keys() - {"enum"}}
            yield from ((f"{path}.{name}", each) for name, each in described.items())
        yield from keys(value, f"{path}.{key}")


def test_every_key_says_what_it_is_for() -> None:
    defined = {name: part["description"] for name, part in SCHEMA["$defs"].items()}
    found = dict(keys(SCHEMA))
    assert len(found) > 30
    for path, schema in found.items():
        if ".if." in path:
            continue
        text = schema.get("description") or defined[schema["$ref"].rpartition("/")[2]]
        assert text.endswith("."), path
        assert not any(word in text for word in ("None", "pydantic", "milliseconds")), path
