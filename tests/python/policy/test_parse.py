"""What the reader of policy files promises: every mistake at once, with its line and what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.errors import Mistake, PolicyBug, PolicyError
from bursar.policy.parse import POLICY_BYTES_MAX, bugs_told, parse, parse_source
from bursar.policy.sources import FILE_BYTES_MAX
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

ZONED = "policy: p\ntime_zone: UTC\nlimits:\n  - {name: a, amount: {tokens: 5}, window: {"
OVERRIDDEN = LIMIT + "    scope: [tenant]\n    overrides:\n      - "

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
    ("policy: p\nx: [\n" + "[" * 3_000, "p.yaml:3: this is nested too deeply", "brackets"),
    ("policy: p\nx: " + "{a: " * 3_000, "p.yaml:2: this is nested too deeply", "brackets"),
    ("policy: p\n" + "? " * 3_000, "p.yaml:2: this is nested too deeply", "brackets"),
    ('policy: "\\U00110000"', "p.yaml:1: this is not YAML: a number is too large", "quotes"),
    ('policy: p\nx: "\\UFFFFFFFF"', "p.yaml:2: this is not YAML: a number is too large", "quotes"),
    (f"%YAML 1.{'9' * 5_000}\n---\npolicy: p", "p.yaml:1: this is not YAML: a number is", "quotes"),
    ('policy: "\\ud83d"', "p.yaml:1: a text must have whole characters", "itself"),
    (
        'policy: p\nlabels: {a: {renamed: {"\\ud83d": b}}}',
        "p.yaml:2: a text must have whole characters",
        "itself",
    ),
    ("policy: p\nmode: \0", "p.yaml:2: this is not YAML: unacceptable character #x0000", "UTF-8"),
    ("policy: p\n---\npolicy: q", "p.yaml:2: this is not YAML: but found another", "`---`"),
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
    (LIMIT + LIMIT.split("limits:\n")[1], "p.yaml:6: two limits are named `a`", "own"),
    (LIMIT.replace("5", "-5"), "p.yaml:5: `limits[a].amount.tokens` must", "write 0"),
    (LIMIT.replace("5", "5K"), "p.yaml:5: `limits[a].amount.tokens` must", "written k"),
    (LIMIT.replace("5", "0.5"), "p.yaml:5: `limits[a].amount.tokens` must", "fraction"),
    (LIMIT.replace("5", "9_007_199_254_740_993"), "p.yaml:5: `limits[a].amount.tokens`", "small"),
    (LIMIT.replace("tokens: 5", "tokens: 1e400"), "p.yaml:5: `limits[a].amount.tokens` mu", "500"),
    (LIMIT.replace("tokens: 5", f"tokens: {'9' * 10_000}"), "p.yaml:5: `limits[a].amount", "500"),
    (
        LIMIT.replace("tokens: 5", "tokenz: 5"),
        "p.yaml:5: `limits[a].amount.tokenz` is no",
        "tokens",
    ),
    (LIMIT.replace("{tokens: 5}", "{}"), "p.yaml:5: `amount` must have at least one", "tokens"),
    (LIMIT.replace("tokens", "cost"), "p.yaml:5: `limits[a].amount.cost` is not served", ""),
    (LIMIT.replace("tokens", "concurrency"), "p.yaml:4: concurrency has no window", "remove"),
    (LIMIT.replace("5", "5, concurrency: 1"), "p.yaml:5: concurrency must stand alone", "own"),
    (LIMIT.replace("fixed: 1m", "sliding: 1m"), "p.yaml:4: `limits[a].window.sliding` is", ""),
    (LIMIT.replace("fixed: 1m", "calendar: day"), "p.yaml:4: `limits[a].window.cal", "Berlin"),
    (ZONED + "calendar: weekly}}", "p.yaml:4: `limits[a].window.calendar` must be hour", ""),
    (ZONED + "calendar: week, week_starts_on: sun}}", "p.yaml:4: `limits[a].window.we", "sunday"),
    (ZONED + "calendar: week, month_starts_on: 2}}", "p.yaml:4: `month_starts_on` do", "month and"),
    (ZONED + "calendar: day, week_starts_on: sunday}}", "p.yaml:4: `week_starts_on` ", "week"),
    (ZONED + "calendar: month, year_starts_in: may}}", "p.yaml:4: `year_starts_in` d", "quarter"),
    (ZONED + "calendar: month, month_starts_on: 29}}", "p.yaml:4: `limits[a].window.m", "every"),
    (
        ZONED + "calendar: year, year_starts_in: 2}}",
        "p.yaml:4: `limits[a].window.yea",
        "january, feb",
    ),
    (
        ZONED + "calendar: week, week_starts_on: 7}}",
        "p.yaml:4: `limits[a].window.wee",
        "monday, tue",
    ),
    (ZONED + "calendar: year, year_starts_in: Febuary}}", "p.yaml:4: `limits[a].windo", "february"),
    (ZONED + "calendar: year, year_starts_in: May}}", "p.yaml:4: `limits[a].window.y", "write may"),
    (
        ZONED + "total: {from: 0001-01-01}}}",
        "p.yaml:4: `limits[a].window.total.from` mu",
        "no bound",
    ),
    (ZONED + "total: {until: '9999-12-31T23:00:00-05:00'}}}", "p.yaml:4: `limits[a]", "no bound"),
    (ZONED + "total: {from: '2026-01-01T00:00+99:00'}}}", "p.yaml:4: `limits[a].win", "24 hours"),
    (
        ZONED + "total: {from: 2026-02-30}}}",
        "p.yaml:4: `limits[a].window.total.from` mu",
        "no such",
    ),
    ("policy: p\ntime_zone:\n\nlimits: []", "p.yaml:2: `time_zone` must have a val", "remove the"),
    (ZONED + "fixed: }}", "p.yaml:4: `limits[a].window.fixed` must have a value", "remove the key"),
    (ZONED + "calendar: month, month_starts_on: 0015}}", "p.yaml:4: `limits[a].window", "every"),
    (ZONED + "fixed: 7d, week_starts_on: sunday}}", "p.yaml:4: `week_starts_on` does not", "week"),
    (OVERRIDDEN + "{for: {tenant: a}}", "p.yaml:8: `limits[a].overrides[0].amount` is missing", ""),
    (OVERRIDDEN + "{amount: unlimited}", "p.yaml:8: `limits[a].overrides[0].for` is mis", "whom"),
    (OVERRIDDEN + "{for: {}, amount: unlimited}", "p.yaml:8: `limits[a].overrides[0].for", "for:"),
    (
        OVERRIDDEN + "{for: {user: a}, amount: unlimited}",
        "p.yaml:8: `user` is not in the",
        "tenant",
    ),
    (
        OVERRIDDEN + "{for: {tenant: a}, amount: none}",
        "p.yaml:8: `limits[a].overrides[0].am",
        "unl",
    ),
    (OVERRIDDEN + "{for: {tenant: a}, amount: {}}", "p.yaml:8: `amount` must have at leas", "unl"),
    (OVERRIDDEN + "{for: {tenant: a}, amount: {requests: 1}}", "p.yaml:8: the limit has no", "tok"),
    (OVERRIDDEN + "{for: {tenant: a}, amount: {tokens: unlimited}}", "p.yaml:8: `limits[a]", "am"),
    (
        OVERRIDDEN.replace("tokens", "tokenz") + "{for: {tenant: a}, amount: {tokens: 1}}",
        "p.yaml:5: `limits[a].amount.tokenz` is not a known key",
        "tokens",
    ),
    (OVERRIDDEN + "{file: absent.csv}", "p.yaml:8: the file `absent.csv` cannot be read", "look"),
    (OVERRIDDEN + "{file: a.csv, for: {tenant: a}}", "p.yaml:8: `for` does not go with `fi", ""),
    (
        LIMIT + "    overrides: [{for: {tenant: a}, amount: unlimited}]",
        "p.yaml:6: a limit with",
        "sc",
    ),
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
    assert any("nested too deeply" in each for each in mistakes("policy: &a [*a]"))
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


def test_a_mapping_of_too_many_entries_is_told_even_where_nobody_counts_them() -> None:
    text = "policy: p\nlabels:\n" + "".join(f"  k{number}:\n" for number in range(1_000))
    (found,) = mistakes(text)
    assert found.startswith("p.yaml:3: `labels` must have at most 64 entries")


def test_a_comment_may_stand_wherever_yaml_lets_it() -> None:
    """A reader that keeps comments for whoever writes the file again fails at this one."""
    text = "policy: p\nlabels:\n  ? tenant # who\n  # pays\n\n  : # what\n\n    {missing: deny}\n"
    assert read(text).labels["tenant"].missing == Fallback("deny")


def test_an_anchor_may_be_written_anew() -> None:
    """YAML has it so; that its reader warns of it is no word for who checks a policy."""
    assert read("policy: &a p\ntime_zone: &a UTC\nrollups: [tenant]").time_zone == "UTC"


def test_a_bug_of_ours_is_a_mistake_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> object:
        raise ZeroDivisionError("by none\nat all")

    monkeypatch.setattr("bursar.policy.parse.clashes", fails)
    with pytest.raises(PolicyBug) as caught, bugs_told(Path("p.yaml")):
        parse_source(b"policy: p", path="p.yaml")
    (told,) = caught.value.mistakes
    assert str(told).startswith(
        "p.yaml: cannot be read: ZeroDivisionError: by none; this is a bug in bursar"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(PolicyError, match="is missing") as plain, bugs_told(Path("p.yaml")):
        raise PolicyError([Mistake("p.yaml", 1, 1, "`policy` is missing")])
    assert not isinstance(plain.value, PolicyBug)


ODD_BITS = [
    "[", "]", "{", "}", ": ", "- ", "? ", "\n", "\n  ", "*", "&a ", "*a", "!!set ", "!x ", "|\n",
    '"', '"\\UFFFFFFFF"', '"\\ud83d"', "%YAML 9.9\n", "---\n", "...\n", "<<: ", "\t", "\r", "\0",
    "\ufeff", "\u2028", "~", "0001-01-01", "9999-12-31T23:59:59-23:59", "+99:00", "1e400",
    "unlimited", "total", "tokens", "component", "[" * 99, "9" * 5_000,
]  # fmt: skip
"""What a person would not write often, and a file may hold."""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    at=st.integers(0, len(EVERYTHING)),
    length=st.integers(0, 12),
    put=st.sampled_from(ODD_BITS) | st.text(max_size=4),
)
def test_whatever_a_policy_becomes_it_is_read_or_its_mistakes_are_told(
    at: int, length: int, put: str
) -> None:
    text = EVERYTHING[:at] + put + EVERYTHING[at + length :]
    try:
        policy_message(read(text))
    except PolicyError as error:
        told = "".join(map(str, error.mistakes))
    else:
        told = "p.yaml:"
    assert "p.yaml:" in told
    assert "Value error" not in told  # what pydantic says of an error that we did not word


CREDITS = """\
policy: p
limits:
  - name: minute
    scope: [tenant, user]
    window: {fixed: 1m}
    amount: {tokens: 5, requests: 6}
    overrides:
      - {for: {tenant: acme}, amount: {tokens: 1M}}
      - file: credits.csv
      - {for: {tenant: [lab, lab-*]}, amount: unlimited}
"""


def with_credits(tmp_path: Path, csv: str | bytes, policy: str = CREDITS) -> Path:
    (tmp_path / "credits.csv").write_bytes(csv.encode() if isinstance(csv, str) else csv)
    path = tmp_path / "policy.yaml"
    path.write_text(policy)
    return path


def csv_mistakes(tmp_path: Path, csv: str | bytes, policy: str = CREDITS) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(with_credits(tmp_path, csv, policy))
    return [str(each).replace(f"{tmp_path}/", "") for each in caught.value.mistakes]


def test_overrides_of_a_file_take_the_place_where_it_is_named(tmp_path: Path) -> None:
    csv = "\ufefftenant , tokens,requests\r\n\r\nzeta*,2k,\r\n,,\r\nmu,unlimited,unlimited\r\n"
    (limit,) = policy_message(parse(with_credits(tmp_path, csv)).policy).limits
    tokens, requests = quota_pb2.UNIT_TOKENS, quota_pb2.UNIT_REQUESTS
    assert [(each.amount, each.unit) for each in limit.amounts] == [(5, tokens), (6, requests)]
    shown = [
        ([(key.key, list(key.values)) for key in each.match],
         [(amount.unit, amount.amount) for amount in each.amounts], each.unlimited)
        for each in limit.overrides
    ]  # fmt: skip
    assert shown == [
        ([("tenant", ["acme"])], [(tokens, 1_000_000)], False),
        ([("tenant", ["zeta*"])], [(tokens, 2_000)], False),
        ([("tenant", ["mu"])], [], True),
        ([("tenant", ["lab", "lab-*"])], [], True),
    ]


def test_a_file_alone_is_named_without_a_list(tmp_path: Path) -> None:
    policy = CREDITS.split("      - {for", maxsplit=1)[0].replace(
        "overrides:", "overrides: {file: credits.csv}"
    )
    parsed = parse(with_credits(tmp_path, "tenant,user,tokens\na,b,7\n", policy))
    (override,) = parsed.policy.limits[0].overrides
    assert override.match == {"tenant": ["a"], "user": ["b"]}
    assert override.amount is not None
    assert (override.amount.tokens, override.amount.requests) == (7, None)


def test_the_digest_stands_for_every_file_and_each_is_read_once(tmp_path: Path) -> None:
    path = with_credits(tmp_path, "tenant,tokens\na,7\n", CREDITS + CREDITS.split("limits:\n")[1]
                        .replace("minute", "other"))  # fmt: skip
    asked: list[Path] = []

    def read(file: Path) -> bytes:
        asked.append(file)
        return file.read_bytes()

    first = parse(path, read=read)
    assert asked == [path, tmp_path / "credits.csv"]
    assert first.files == tuple(asked)
    parts = [hashlib.sha256(each.read_bytes()).digest() for each in asked]
    assert [each.sha256 for each in first.sources] == parts
    assert first.digest == hashlib.sha256(b"".join(parts)).digest()
    assert first.source == path.read_bytes()
    assert parse(path).digest == first.digest
    (tmp_path / "credits.csv").write_text("tenant,tokens\na,8\n")
    assert parse(path).digest != first.digest


HEAD = "tenant,tokens,requests\n"

# What the file has · where and what is wrong · a part of the hint.
WRONG_ROWS = [
    ("", "credits.csv: the file is empty", "tenant,user,tokens,requests"),
    ("tenant;tokens\na;1", "credits.csv:1: columns must be separated by commas (got tenant;", ""),
    ("tenant,tokns\na,1", "credits.csv:1: a column must be a label of the limit's", "tokens?"),
    ("tenant,cost,tokens\na,1,1", "credits.csv:1: a column must be a label", "tenant, user and"),
    ("tenant,tokens,tokens\na,1,1", "credits.csv:1: the column `tokens` is there twice", "one"),
    ("tenant,user\na,1", "credits.csv:1: no column has an amount (got tenant,user)", "tokens"),
    ("tokens\n1", "credits.csv:1: no column says for whom a row is", "tenant"),
    (HEAD + "a,1", "credits.csv:2: a row must have 3 cells, as the first line has", "empty"),
    (HEAD + ",1,1", "credits.csv:2: the cell of `tenant` is empty", "* for every one"),
    (HEAD + "a,,", "credits.csv:2: a row must have an amount", "remove the row"),
    (HEAD + "\na,5K,", "credits.csv:3: `tokens` must be a whole number", "written k"),
    (HEAD + "a,-1,", "credits.csv:2: `tokens` must be a whole number", "write 0"),
    (HEAD + "a*b,1,", "credits.csv:2: `tenant` must have `*` at its end only (got a*b)", ""),
    (HEAD + "a,unlimited,", "credits.csv:2: `unlimited` frees the whole limit", "requests"),
    (HEAD + 'a,"1', "credits.csv:2: this is not CSV: unexpected end of data", "quotes"),
    (b"tenant,tokens\n\xff,1", "credits.csv:2: a file of overrides must be UTF-8", "UTF-8"),
    (b" " * (FILE_BYTES_MAX + 1), "credits.csv: a file of overrides must have at most 4,19", "few"),
    (HEAD + "a,1,1\n" * 10_001, "credits.csv:10002: a limit must have at most 10", "acme-*"),
]  # fmt: skip


@pytest.mark.parametrize(("csv", "what", "hint"), WRONG_ROWS)
def test_a_mistake_in_a_row_has_its_file_and_line(
    tmp_path: Path, csv: str | bytes, what: str, hint: str
) -> None:
    found = csv_mistakes(tmp_path, csv)[0]
    assert found.startswith(what)
    assert hint in found.partition("\n  hint: ")[2]


def test_what_is_written_after_a_file_keeps_its_line(tmp_path: Path) -> None:
    policy = CREDITS.replace("amount: unlimited", "amount: {tokens: x}")
    found = csv_mistakes(tmp_path, HEAD + "a,1,1\nb,2,2\n", policy)
    assert found[0].startswith("policy.yaml:10: `limits[minute].overrides[3].amount.tokens` must")


def test_a_misspelt_unit_of_the_limit_makes_no_column_of_a_file_wrong(tmp_path: Path) -> None:
    (found,) = csv_mistakes(tmp_path, HEAD + "a,1,1\n", CREDITS.replace("{tokens: 5", "{tokenz: 5"))
    assert found.startswith("policy.yaml:6: `limits[minute].amount.tokenz` is not a known key")


def test_of_many_mistakes_in_one_file_the_first_are_told(tmp_path: Path) -> None:
    found = csv_mistakes(tmp_path, HEAD + "a,x,\n" * 9_000)
    assert len(found) == 101
    assert found[0] == (
        "credits.csv: there are 9,000 mistakes in this file; the first 100 are listed"
    )


def test_a_limit_has_at_most_ten_thousand_overrides_in_all(tmp_path: Path) -> None:
    (found,) = csv_mistakes(tmp_path, HEAD + "a,1,\n" * 10_000)
    assert found.startswith("policy.yaml:8: `limits[minute].overrides` must have at most 10,000")


def test_calendar_anchors_become_the_numbers_that_the_rules_take() -> None:
    windows = [
        "{calendar: week, week_starts_on: sunday}",
        "{calendar: month, month_starts_on: 15}",
        "{calendar: quarter, year_starts_in: february, month_starts_on: 28}",
        "{calendar: year, year_starts_in: december}",
    ]
    limits = "".join(
        f"  - {{name: l{index}, window: {each}, amount: {{tokens: 1}}}}\n"
        for index, each in enumerate(windows)
    )
    message = policy_message(read(f"policy: p\ntime_zone: UTC\nlimits:\n{limits}"))
    shown = [
        (each.unit, each.week_starts_on, each.month_starts_on, each.year_starts_in)
        for each in (limit.window.calendar for limit in message.limits)
    ]
    assert shown == [
        (policy_pb2.CALENDAR_UNIT_WEEK, 7, 0, 0),
        (policy_pb2.CALENDAR_UNIT_MONTH, 0, 15, 0),
        (policy_pb2.CALENDAR_UNIT_QUARTER, 0, 28, 2),
        (policy_pb2.CALENDAR_UNIT_YEAR, 0, 0, 12),
    ]
