"""What the warnings promise: each oddity with its line, and no alarm where nothing is odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.cli.init import FIRST_POLICY
from bursar.policy.parse import parse, parse_source
from bursar.policy.warn import warnings_of

NOW_UNIX_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
ROOT = Path(__file__).parents[3]

HEAD = """\
policy: p
time_zone: Europe/Berlin
labels:
  feature: {values: [support-chat, search, summaries], renamed: {chat: support-chat}}
limits:
"""


def warnings(text: str) -> list[str]:
    parsed = parse_source(text.encode(), path="p.yaml")
    return [str(each) for each in warnings_of(parsed, now_unix_ms=NOW_UNIX_MS)]


def limit(name: str, window: str, amount: str, more: str = "") -> str:
    return f"  - {{name: {name}, window: {window}, amount: {amount}{more and ', ' + more}}}\n"


def concerning(more: str) -> str:
    return limit("a", "{fixed: 1m}", "{tokens: 9, requests: 9}", more)


# The limits, from line 6 on · the one warning, whole.
ODD = [
    (
        concerning("match: {feature: serach}"),
        (
            "p.yaml:6: the limit `a` matches nothing: `serach` is not a value of `feature`\n"
            "  hint: did you mean search?"
        ),
    ),
    (
        concerning("match: {feature: chat}"),
        (
            "p.yaml:6: the limit `a` matches nothing: `chat` is not a value of `feature`\n"
            "  hint: requests that say chat count as support-chat: write support-chat"
        ),
    ),
    (
        concerning('match: {feature: [search, "embed*"]}'),
        (
            "p.yaml:6: `embed*` matches no value of `feature`: it has no effect\n  "
            "hint: allowed are support-chat, search, summaries; add it to "
            "`labels.feature.values` if it is one"
        ),
    ),
    (
        concerning("except: {feature: zz}"),
        (
            "p.yaml:6: `except` leaves nothing out: `zz` is not a value of `feature`\n  "
            "hint: allowed are support-chat, search, summaries; add it to "
            "`labels.feature.values` if it is one"
        ),
    ),
    (
        concerning("match: {model: gpt-4.1}"),
        (
            "p.yaml:6: the limit `a` matches nothing: `gpt-4.1` is no model's name\n"
            "  hint: a request's model is always provider/model, such as openai/gpt-4.1"
        ),
    ),
    (
        concerning("match: {model: [gpt-4.1, anthropic/claude-4, gemini*]}"),
        (
            "p.yaml:6: `gpt-4.1` is no model's name: it has no effect\n"
            "  hint: a request's model is always provider/model, such as openai/gpt-4.1"
        ),
    ),
    (
        concerning("except: {model: gpt-4.1}"),
        (
            "p.yaml:6: `except` leaves nothing out: `gpt-4.1` is no model's name\n"
            "  hint: a request's model is always provider/model, such as openai/gpt-4.1"
        ),
    ),
    (
        concerning("scope: [model], overrides: [{for: {model: gpt-4.1}, amount: unlimited}]"),
        (
            "p.yaml:6: this override never applies: `gpt-4.1` is no model's name\n"
            "  hint: a request's model is always provider/model, such as openai/gpt-4.1"
        ),
    ),
    (
        concerning('match: {tenant: acme, model: "openai/gpt*"}, except: {model: "openai/*"}'),
        (
            "p.yaml:6: the limit `a` matches nothing: `except` leaves out all of it\n"
            "  hint: write less in `except`"
        ),
    ),
    (
        limit("a", "{total: {from: 2026-01-01, until: 2026-11-01}}", "{tokens: 9}"),
        (
            "p.yaml:6: the limit `a` ended at 2026-11-01 00:00+01:00\n"
            "  hint: remove it, or move `until`"
        ),
    ),
    (
        limit("a", "{total: {from: 2206-01-01}}", "{tokens: 9}"),
        "p.yaml:6: the limit `a` begins only at 2206-01-01 00:00+01:00\n  hint: is the year right?",
    ),
    (
        limit("a", "{calendar: day}", "{tokens: 9, requests: 0}"),
        (
            "p.yaml:6: the limit `a` refuses every request: it allows 0 requests\n"
            "  hint: write an amount, or `match` whom it forbids"
        ),
    ),
    (
        concerning(
            "scope: [tenant], overrides: [{for: {tenant: a*}, amount: unlimited},"
            " {for: {tenant: acme}, amount: {tokens: 1}}]"
        ),
        (
            "p.yaml:6: this override never applies: the one on line 6 comes first\n"
            "  hint: the first that matches decides: put the narrower first, or keep one"
        ),
    ),
    (
        concerning("scope: [feature], overrides: [{for: {feature: chatt}, amount: unlimited}]"),
        (
            "p.yaml:6: this override never applies: `chatt` is not a value of `feature`\n  hint: "
            "allowed are support-chat, search, summaries; add it to `labels.feature.values` "
            "if it is one"
        ),
    ),
    (
        concerning(
            "scope: [tenant], match: {tenant: [acme, lab]},"
            " overrides: [{for: {tenant: zeta}, amount: unlimited}]"
        ),
        (
            "p.yaml:6: this override never applies: the limit matches other values of `tenant`\n"
            "  hint: it matches acme, lab"
        ),
    ),
    (
        limit("cap", "request", "{tokens: 16k}")
        + limit("day", "{calendar: day}", "{tokens: 10k}", "scope: [tenant]"),
        (
            "p.yaml:6: the limit `cap` never refuses by its tokens: `day` on line 7 always does so "
            "first, at 10_000\n  hint: write less than 10_000 here, or more there, or remove it"
        ),
    ),
]


@pytest.mark.parametrize(("limits", "said"), ODD)
def test_what_is_odd_is_said_with_its_line_and_what_to_do(limits: str, said: str) -> None:
    assert warnings(HEAD.replace("feature: {", "feature: {missing: deny, ") + limits) == [said]


MINUTE = limit("a", "{fixed: 1m}", "{tokens: 5k}", "scope: [tenant, user]")

# Limits of which `a` never binds.
FORESTALLED = [
    MINUTE + limit("b", "{fixed: 1m}", "{tokens: 5k}", "scope: [tenant]"),
    MINUTE + limit("b", "{fixed: 1h}", "{tokens: 4k}"),
    MINUTE + limit("b", "{calendar: week}", "{tokens: 4k}"),
    MINUTE + limit("b", "total", "{tokens: 4k}"),
    limit("a", "{calendar: day}", "{tokens: 5}", "match: {model: x/y}")
    + limit("b", "{calendar: month, month_starts_on: 15}", "{tokens: 5}", 'match: {model: "x/*"}'),
    limit("a", "{calendar: quarter, year_starts_in: may}", "{tokens: 5}")
    + limit("b", "{calendar: year, year_starts_in: february}", "{tokens: 5}"),
    ("  - {name: a, amount: {concurrency: 9}, scope: [user]}\n"
    "  - {name: b, amount: {concurrency: 8}}\n"),
    limit("a", "{fixed: 1m}", "{tokens: 9}", "scope: [user]")
    + limit("b", "{fixed: 1m}", "{tokens: 4}",
            "scope: [user], overrides: [{for: {user: x}, amount: {tokens: 8}}]"),
]  # fmt: skip

# Limits of which each can be what refuses.
ALL_BIND = [
    MINUTE + limit("b", "{fixed: 1m}", "{tokens: 5001}", "scope: [tenant]"),
    MINUTE + limit("b", "{fixed: 1m}", "{tokens: 1}", "scope: [team]"),
    MINUTE + limit("b", "{fixed: 1m}", "{requests: 1}"),
    MINUTE + limit("b", "{fixed: 90s}", "{tokens: 1}"),
    MINUTE + limit("b", "request", "{tokens: 1}"),
    MINUTE + limit("b", "{fixed: 1h}", "{tokens: 1}", "match: {model: x/y}"),
    MINUTE + limit("b", "{fixed: 1h}", "{tokens: 1}", "except: {model: x/y}"),
    MINUTE + limit("b", "{total: {until: 2027-01-01}}", "{tokens: 1}"),
    MINUTE
    + limit("b", "{fixed: 1m}", "{tokens: 5k}",
            "scope: [tenant], overrides: [{for: {tenant: x}, amount: unlimited}]"),
    limit("a", "{calendar: week}", "{tokens: 5}") + limit("b", "{calendar: month}", "{tokens: 4}"),
    limit("a", "{calendar: day}", "{tokens: 5}")
    + limit("b", "{calendar: month, time_zone: Asia/Tokyo}", "{tokens: 4}"),
    limit("a", "{calendar: quarter}", "{tokens: 5}")
    + limit("b", "{calendar: year, year_starts_in: february}", "{tokens: 5}"),
    limit("a", "{calendar: day}", "{tokens: 0}", "match: {model: x/y}"),
    limit("a", "total", "{tokens: 0}",
          "scope: [tenant], overrides: [{for: {tenant: x}, amount: {tokens: 5}}]"),
    limit("a", "total", "{tokens: 9, requests: 9}",
          "scope: [tenant], overrides: [{for: {tenant: x}, amount: {tokens: 5}},"
          " {for: {tenant: x}, amount: {requests: 5}}]"),
    limit("a", "total", "{tokens: 9}", "match: {feature: (none)}"),
]  # fmt: skip


@pytest.mark.parametrize("limits", FORESTALLED)
def test_a_limit_that_another_always_forestalls_is_told(limits: str) -> None:
    (said,) = warnings(HEAD + limits)
    assert said.startswith("p.yaml:6: the limit `a` never refuses by its ")


@pytest.mark.parametrize("limits", ALL_BIND)
def test_limits_that_can_all_refuse_raise_no_alarm(limits: str) -> None:
    assert warnings(HEAD + limits) == []


def test_of_two_limits_that_say_the_same_the_later_is_told() -> None:
    (said,) = warnings(HEAD + MINUTE + MINUTE.replace("name: a", "name: b"))
    assert said.startswith("p.yaml:7: the limit `b` never refuses by its tokens: `a` on line 6")


def test_a_label_that_nothing_uses_is_told_unless_it_denies() -> None:
    text = "policy: p\nlabels:\n  priority: {values: [batch]}\n  colour: {missing: deny}\nlimits:\n"
    assert warnings(text + limit("a", "total", "{tokens: 5}")) == [
        (
            "p.yaml:3: the label `priority` is declared, and nothing uses it\n"
            "  hint: name it in a limit or in `rollups`, or remove it"
        )
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: p\n", "p.yaml:1: the policy has no limits: it grants everything"),
        ("policy: p\nlimits: []\n", "p.yaml:2: the policy has no limits: it grants everything"),
        (
            "policy: p\nlabels: {tenant: {missing: deny}}\n",
            "p.yaml:1: the policy has no limits: it grants everything that `labels` does not deny",
        ),
    ],
)
def test_a_policy_without_limits_is_told(text: str, said: str) -> None:
    assert warnings(text) == [f"{said}\n  hint: write a limit, as `bursar init` does"]


def test_a_warning_of_a_row_has_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "credits.csv").write_text("tenant,tokens\nacme,1\nlab,2\nacme,3\n")
    path = tmp_path / "policy.yaml"
    path.write_text(
        HEAD
        + concerning("scope: [tenant], overrides: {file: credits.csv}")
    )  # fmt: skip
    (said,) = warnings_of(parse(path), now_unix_ms=NOW_UNIX_MS)
    file = tmp_path / "credits.csv"
    assert str(said).startswith(
        f"{file}:4: this override never applies: the one on line 2 of {file} comes first"
    )


def test_many_overrides_are_compared_in_time(tmp_path: Path) -> None:
    rows = "".join(f"tenant-{number},{number}\n" for number in range(10_000))
    (tmp_path / "credits.csv").write_text("tenant,tokens\n" + rows)
    path = tmp_path / "policy.yaml"
    path.write_text(HEAD + concerning("scope: [tenant], overrides: {file: credits.csv}"))
    assert warnings_of(parse(path), now_unix_ms=NOW_UNIX_MS) == []


def test_the_policies_that_users_see_first_raise_no_alarm() -> None:
    assert warnings((ROOT / "examples" / "policy.yaml").read_text()) == []
    assert warnings(FIRST_POLICY.format(path="policy.yaml", name="first", zone="UTC")) == []
