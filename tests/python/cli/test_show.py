"""What people are shown is what it says: text from outside is no markup and moves no terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.text import Text

from bursar.bench.show import report
from bursar.cli import decision, events, explain, limits, main, reservations, show, status, usage
from bursar.config import settings_from
from bursar.errors import Mistake, SettingsError
from bursar.plain import literal
from bursar.v1 import admin_pb2, quota_pb2

FOREIGN = "[/x][bold red]:x:\n\t\r\x1b[2J\x7f\x9b\u2028\u2029\u202e\u2066"
"""All that a text from outside could do to a terminal, or to who reads it."""

SHOWN = r"[/x][bold red]:x:\n\t\r\x1b[2J\x7f\x9b\u2028\u2029\u202e\u2066"

STANDING = quota_pb2.Standing(limit="a", unit=quota_pb2.UNIT_TOKENS, scope={"t": FOREIGN})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="bursar")


def controls(text: str) -> str:
    """The characters of a text that a terminal may obey, but for the ends of its lines."""
    return "".join(each for each in text if each != "\n" and literal(each) != each)


def test_what_a_terminal_would_obey_is_escaped_and_all_else_stays() -> None:
    assert literal(FOREIGN) == SHOWN
    assert literal("\x00\x07\x85\u202a\u202d\u2069") == r"\x00\x07\x85\u202a\u202d\u2069"
    assert literal("\udce9") == r"\udce9"  # a byte of the command line that is no UTF-8
    for same in ("tenant=Ünïcode 東京 🙂", r"C:\new", "[bold]x[/]", "שלום"):
        assert literal(same) == same


def test_a_table_shows_titles_headers_and_cells_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = show.table(FOREIGN, [f"h {FOREIGN}"])
    rows.add_row(FOREIGN)
    rows.add_row(Text("styled", "red"))
    show.out().print(rows)
    shown = capsys.readouterr().out
    assert shown.count(SHOWN) == 3
    assert "styled" in shown
    assert controls(shown) == ""


def test_a_line_and_an_error_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    show.say(f"a {FOREIGN}")
    show.say(f"b {FOREIGN}", err=True)
    with pytest.raises(SystemExit) as ended:
        show.fail(show.EXIT_WRONG, f"c {FOREIGN}", f"d {FOREIGN}")
    assert ended.value.code == show.EXIT_WRONG
    out, err = capsys.readouterr()
    assert out == f"a {SHOWN}\n"
    assert err == f"b {SHOWN}\nerror: c {SHOWN}\nhint: d {SHOWN}\n"


def test_an_error_of_several_lines_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        show.fail(show.EXIT_WRONG, "two\nlines \x1b", several_lines=True)
    assert capsys.readouterr().err == "error: two\nlines \\x1b\n"


def test_a_mistake_forges_no_line_of_another() -> None:
    mistake = Mistake(f"p{FOREIGN}", 3, 1, FOREIGN, FOREIGN, FOREIGN)
    assert str(mistake) == f"p{SHOWN}:3: {SHOWN} (got {SHOWN})\n  hint: {SHOWN}"


def test_a_setting_forges_no_line_of_another() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"policy": "p", "listen": "x\nerror: forged"}, environment={})
    assert len(str(caught.value).split("\n")) == 1


def test_every_answer_shows_text_from_outside_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    denial = quota_pb2.Denial(hint=FOREIGN, shortfalls=[quota_pb2.Shortfall(standing=STANDING)])
    grant = quota_pb2.Grant(
        reservation_id=FOREIGN, model=FOREIGN, tightest=STANDING,
        advisories=[quota_pb2.Advisory(text=FOREIGN)],
    )  # fmt: skip
    event = admin_pb2.Event(
        reservation_id=FOREIGN, model=FOREIGN, labels={"t": FOREIGN},
        denial=quota_pb2.Denial(hint=FOREIGN),
    )  # fmt: skip
    decision.print_denial(denial)
    decision.print_grant(grant, dry_run=False, replayed=False)
    show.say(events.in_a_line(event))
    show.say(events.change(admin_pb2.CounterChange(limit=FOREIGN, scope={"t": FOREIGN})))
    limits._print([STANDING])
    held = admin_pb2.Reservation(reservation_id=FOREIGN, model="m", labels={"t": FOREIGN})
    reservations._print([held], 1, more=False)
    by_tenant = admin_pb2.UsageRow(group={FOREIGN: FOREIGN})
    usage._print([FOREIGN], [by_tenant], admin_pb2.QueryUsageResponse(), more=False)
    why = admin_pb2.ExplainedLimit(limit="a", why_not=FOREIGN)
    answer = quota_pb2.ReserveResponse(denial=denial)
    explained = admin_pb2.ExplainResponse(
        policy_name=FOREIGN, labels={"t": FOREIGN}, limits=[why], answer=answer
    )
    explain._print(explained, dry_run=True)
    out, err = capsys.readouterr()
    assert controls(out + err) == ""
    # Cells are folded where a terminal is narrow, so what is shown whole is counted on its lines.
    assert out.count("[/x][bold red]:x:") >= 14
    assert err.count(SHOWN) == 4


def test_the_status_shows_text_from_outside_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    file = admin_pb2.PolicyFileStatus(path="p", mistakes=["p:3: what\n  hint: [/x]\x1b"])
    one = admin_pb2.GetStatusResponse(
        policy_name=FOREIGN, version="1", not_ready_reason=FOREIGN, data_directory=FOREIGN,
        policy_file=file,
    )  # fmt: skip
    status._print(one)
    shown = capsys.readouterr().out
    assert controls(shown) == ""
    assert f"\n  {SHOWN}\n" in shown
    assert shown.count("[/x][bold red]:x:") == 3
    (what, hint) = [each.strip() for each in shown.splitlines() if "p:3" in each or "hint" in each]
    assert (what, hint) == ("refused: p:3: what", r"hint: [/x]\x1b")


def test_the_bench_shows_text_from_outside_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "cells": [], "placement": FOREIGN, "repeats": 1, "span_ms": 1, "fdatasync_us": None,
        "clients": dict.fromkeys(
            ("granted", "tokens_granted", "committed", "tokens_committed", "released"), 0
        ),
        "audit": None, "not_audited": FOREIGN,
    }  # fmt: skip
    report(show.out(), facts, show.table("", []))
    audit = {"compared": {"reservations": 1}, "differences": [FOREIGN]}
    report(show.out(), {**facts, "audit": audit}, show.table("", []))
    shown = capsys.readouterr().out
    assert controls(shown) == ""
    assert f"Placement: {SHOWN}." in shown
    assert f"Not audited: {SHOWN}" in shown
    assert f"DIFFERS: {SHOWN}" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["limits", "--scope", FOREIGN],
        ["usage", "--from", FOREIGN],
        ["status", "--admin-listen", FOREIGN],
        ["reserve", "--model", "a/b", "--input-tokens", FOREIGN],
        ["reserve", "--model", "a/b", "--ttl", FOREIGN],
        [FOREIGN],
    ],
)
def test_a_wrong_question_is_quoted_as_it_is(arguments: list[str]) -> None:
    answer = run(*arguments)
    assert answer.exit_code == 2
    assert SHOWN in answer.stderr
    assert controls(answer.stderr) == ""


def test_a_policy_of_an_odd_name_is_checked_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\n[bold].yaml"
    path.write_text("policy: p\n")
    answer = run("check", str(path))
    assert answer.stdout.startswith(f"{literal(str(path))}: policy p is right")
    assert answer.stdout.count("\n") == 1
    path.write_text("policy: p\nlimts: 1\n")
    assert run("check", str(path)).stdout.startswith(f"{literal(str(path))}:2: ")
    assert json.loads(run("check", str(path), "--json").stdout)["mistakes"][0]["path"] == str(path)
