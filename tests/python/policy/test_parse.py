"""What the reader of policy files promises: every mistake at once, with its line and what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bursar.errors import PolicyError
from bursar.policy.parse import POLICY_BYTES_MAX, parse, parse_source
from bursar.policy.types import Fallback, Policy
from bursar.v1 import policy_pb2, quota_pb2
from bursar.wire import policy_message

EVERYTHING = """\
policy: production
time_zone: Europe/Berlin
mode: enforce
labels:
  feature:
    values: [support-chat, 007]
    renamed: {chat: support-chat}
    missing: {as: unattributed}
    otherwise: deny
  tenant: {missing: deny}
  session: {missing: skip}
  priority:
reservations: {ttl: 10m, unsettled: release}
limits:
  - name: cap
    window: request
    amount: {tokens: 16k}
  - name: minute
    match: {model: "anthropic/*", feature: [support-chat, search]}
    except: {environment: production, priority: 007}
    scope: [tenant, priority]
    window: {fixed: 1m}
    amount: {tokens: 1.5M, requests: 6_000}
  - name: month
    window: {calendar: month, time_zone: America/New_York}
    amount: {tokens: 0}
  - name: prepaid
    window: {total: {from: 2026-03-29, until: 2026-06-01T12:00:00Z}}
    amount: {tokens: 10}
  - name: ever
    window: total
    amount: {tokens: 10}
  - name: in-flight
    scope: [user]
    amount: {concurrency: 4}
rollups: [feature, component]
"""


def read(text: str) -> Policy:
    return parse_source(text.encode(), path="p.yaml").policy


def mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_source(text.encode(), path="p.yaml")
    return [str(each) for each in caught.value.mistakes]


def test_everything_that_is_served_is_read_as_written() -> None:
    policy = read(EVERYTHING)
    assert policy.labels["feature"].values == ["support-chat", "007"]
    assert policy.labels["feature"].missing == Fallback("as", "unattributed")
    assert policy.labels["priority"].values == []
    limits = {limit.name: limit for limit in policy.limits}
    assert limits["minute"].exclude == {"environment": ["production"], "priority": ["007"]}
    assert limits["minute"].amount.tokens == 1_500_000
    assert limits["minute"].amount.requests == 6_000
    assert policy.reservations.ttl == 600_000


def test_a_policy_becomes_the_message_that_the_rules_take() -> None:
    message = policy_message(read(EVERYTHING))
    limits = {limit.name: limit for limit in message.limits}
    assert getattr(message.labels[0].missing, "as") == "unattributed"
    assert message.labels[0].otherwise == policy_pb2.LabelFallback(deny=True)
    assert message.labels[2].missing == policy_pb2.LabelFallback(skip=True)
    assert not message.labels[3].HasField("missing")
    assert limits["cap"].window.WhichOneof("kind") == "request"
    assert limits["minute"].window.fixed.length_ms == 60_000
    assert limits["month"].window.calendar.time_zone == "America/New_York"
    assert limits["month"].window.calendar.unit == policy_pb2.CALENDAR_UNIT_MONTH
    assert not limits["ever"].window.total.HasField("from_unix_ms")
    assert limits["ever"].window.WhichOneof("kind") == "total"
    assert not limits["in-flight"].HasField("window")
    assert limits["in-flight"].amounts[0].unit == quota_pb2.UNIT_CONCURRENCY
    assert list(message.rollups) == ["feature", "component"]
    # Berlin's summer time begins on that day: its first instant is still of winter time.
    assert limits["prepaid"].window.total.from_unix_ms == 1_774_738_800_000
    assert limits["prepaid"].window.total.until_unix_ms == 1_780_315_200_000


def test_a_policy_of_a_name_alone_has_the_defaults() -> None:
    message = policy_message(read("policy: small"))
    assert message.reservations.ttl_ms == 300_000
    assert message.reservations.unsettled == policy_pb2.UNSETTLED_CHARGE_INPUT
    rollups = ["feature", "tenant", "team", "environment", "model", "component"]
    assert list(message.rollups) == rollups


def test_the_digest_is_the_files_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(EVERYTHING)
    parsed = parse(path)
    assert parsed.digest == hashlib.sha256(EVERYTHING.encode()).digest()
    assert parsed.source == EVERYTHING.encode()


LIMIT = "policy: p\nlimits:\n  - name: a\n    window: {fixed: 1m}\n    amount: {tokens: 5}\n"

# What is written · where and what is wrong · a part of the hint.
WRONG = [
    ("limits: []", "p.yaml:1: `policy` is missing", "policy: production"),
    ("", "p.yaml:1: `policy` is missing", "policy: production"),
    ("[a]", "p.yaml:1: a policy file must be a mapping (got a list)", "key: value"),
    ("policy: p\nlimts: []", "p.yaml:2: `limts` is not a known key", "did you mean `limits`?"),
    ("policy: p\nlimits: 3", "p.yaml:2: `limits` must be a list (got 3)", "[3]"),
    ("policy: p\nmode: observe", "p.yaml:2: `mode` must be `enforce`: observing", "leave it out"),
    ("policy: p\npolicy: q", "p.yaml:2: `policy` is written twice", "line 1"),
    ("policy: p\nx: *a", "p.yaml:2: this is not YAML: found undefined alias", "quotes"),
    ("policy: p\n  x: 1", "p.yaml:2: this is not YAML", "indentation"),
    ("policy: !!python/name:os.system p", "p.yaml:1: a value must be plain", "remove the tag"),
    ("policy: p\nlabels: {model: {}}", "p.yaml:2: `labels.model` must not be `model`", "match"),
    ("policy: p\nlabels: {a: {missing: no}}", "p.yaml:2: `labels.a.missing` must be", "(none)"),
    ("policy: p\nlabels: {a: {otherwise: skip}}", "p.yaml:2: `labels.a.otherwise`", "missing"),
    ("policy: p\nlabels: {a: {from: b}}", "p.yaml:2: `labels.a.from` is not served", ""),
    ("policy: p\ntime_zone: Europe/Berln", "p.yaml:2: `time_zone` must be", "Europe/Berlin?"),
    ("policy: p\nreservations: {ttl: 90}", "p.yaml:2: `reservations.ttl` must", "90s"),
    ("policy: p\nreservations: {ttl: 8d}", "p.yaml:2: `reservations.ttl` must", "7d or less"),
    ("policy: p\nrollups: [feture]", "p.yaml:2: `rollups[0]` must be a label", "feature?"),
    (LIMIT + "    scope: [tennant]", "p.yaml:6: `limits[a].scope[0]` must be a", "tenant?"),
    (LIMIT + "    scope: [component]", "p.yaml:6: `limits[a].scope[0]` must not be", "rollup"),
    (LIMIT + "    scope: tenant", "p.yaml:6: `limits[a].scope` must be a list", "[tenant]"),
    (LIMIT + "    match: {colour: red}", "p.yaml:6: `limits[a].match.colour`", "declare it"),
    (LIMIT + "    match: {model: a*b}", "p.yaml:6: `limits[a].match.model` must have `*`", ""),
    (LIMIT + "    pace: true", "p.yaml:6: `limits[a].pace` is not served", "leave it out"),
    (LIMIT + "    overrides: []", "p.yaml:6: `limits[a].overrides` is not served", ""),
    (LIMIT + LIMIT.split("limits:\n")[1], "p.yaml:6: two limits are named `a`", "own"),
    (LIMIT.replace("5", "-5"), "p.yaml:5: `limits[a].amount.tokens` must", "write 0"),
    (LIMIT.replace("5", "5K"), "p.yaml:5: `limits[a].amount.tokens` must", "written k"),
    (LIMIT.replace("5", "0.5"), "p.yaml:5: `limits[a].amount.tokens` must", "fraction"),
    (LIMIT.replace("5", "9_007_199_254_740_993"), "p.yaml:5: `limits[a].amount.tokens`", "small"),
    (LIMIT.replace("{tokens: 5}", "{}"), "p.yaml:5: `amount` must have at least one", "tokens"),
    (LIMIT.replace("tokens", "cost"), "p.yaml:5: `limits[a].amount.cost` is not served", ""),
    (LIMIT.replace("tokens", "concurrency"), "p.yaml:4: concurrency has no window", "remove"),
    (LIMIT.replace("5", "5, concurrency: 1"), "p.yaml:5: concurrency must stand alone", "own"),
    (LIMIT.replace("fixed: 1m", "sliding: 1m"), "p.yaml:4: `limits[a].window.sliding` is", ""),
    (LIMIT.replace("fixed: 1m", "calendar: day"), "p.yaml:4: `limits[a].window.cal", "Berlin"),
    (LIMIT.replace("fixed: 1m", "calendar: week"), "p.yaml:4: `limits[a].window.cal", "month"),
    (LIMIT.replace("fixed: 1m", ""), "p.yaml:4: a window must say which span", "fixed"),
    (LIMIT.replace("{fixed: 1m}", "hourly"), "p.yaml:4: `limits[a].window` must be", "fixed"),
    (LIMIT.replace("    window: {fixed: 1m}\n", ""), "p.yaml:3: `window` is missing", "fixed"),
    (LIMIT.replace("a\n", "Big Name\n"), "p.yaml:3: `limits[Big Name].name` must", "small"),
]


@pytest.mark.parametrize(("text", "what", "hint"), WRONG)
def test_a_mistake_has_its_line_and_what_to_write(text: str, what: str, hint: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(what)
    assert hint in found.partition("\n  hint: ")[2]


def test_every_mistake_is_found_at_once_in_the_order_of_lines() -> None:
    text = """\
policy: p
tme_zone: UTC
prices: {file: x}
limits:
  - name: a
    scope: [tenent]
    window: {first_use: 5h}
    amount: {tokens: many}
  - name: a
    amount: {concurrency: x}
"""
    lines = [int(each.split(":")[1]) for each in mistakes(text)]
    assert lines == [2, 3, 6, 7, 8, 9, 10]


def test_an_alias_that_contains_itself_is_a_mistake_not_a_hang() -> None:
    assert any("nested at most" in each for each in mistakes("policy: &a [*a]"))
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert any("at most 200,000 values" in each for each in mistakes(bomb))


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read: No such file"):
        parse(tmp_path / "absent.yaml")
    with pytest.raises(PolicyError, match=r"p\.yaml:2: a policy file must be UTF-8 .got the byte"):
        parse_source(b"policy: p\nx: \xff", path="p.yaml")
    with pytest.raises(PolicyError, match="at most 1,048,576 bytes"):
        parse_source(b" " * (POLICY_BYTES_MAX + 1), path="p.yaml")
