"""The commands that reserve, settle, list, explain and watch, as a shell meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from tests.system.conftest import BURSAR

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served

POLICY = """
policy: shell
time_zone: UTC
labels:
  feature: {missing: {as: unattributed}}
limits:
  - name: request-cap
    window: request
    amount: {tokens: 5k}
  - name: tenant-month
    scope: [tenant]
    window: {calendar: month}
    amount: {tokens: 2_000}
"""
ASKED = ["--model", "openai/gpt-4.1-mini", "--label"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(served: Served) -> dict[str, str]:
    return {
        **{key: text for key, text in os.environ.items() if not key.startswith("BURSAR_")},
        "BURSAR_SOCKET": str(served.ready["socket"]),
        "BURSAR_ADMIN_LISTEN": str(served.ready["admin_listen"]),
    }


@pytest.fixture(scope="module")
def served(serve_for_all: Callable[[str], Served]) -> Served:
    return serve_for_all(POLICY)


@pytest.fixture
def run(served: Served) -> Run:
    """Runs a command against the sidecar; its exit code must be the one that is expected."""

    def command(*words: str, exits: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BURSAR, *words],
            env=environment(served),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == exits, (done.stdout, done.stderr)
        return done

    return command


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(done.stdout))


def test_a_script_reserves_and_commits_by_the_id_that_is_printed(run: Run) -> None:
    asked = [*ASKED, "tenant=script", "--input-tokens", "800", "--output-tokens-max", "400"]
    named = run("reserve", *asked, "--quiet").stdout.strip()
    assert (
        "committed 897 tokens" in run("commit", named, "-t", "input=800", "-t", "output=97").stdout
    )
    again = run("commit", named, "-t", "input=800", "-t", "output=97")
    assert "committed so before" in again.stdout
    conflict = run("commit", named, "-t", "input=1", exits=2)
    assert "ID_USED_WITH_OTHER_CONTENT" in conflict.stderr
    told = read(run("reservations", named, "--json"))
    assert told["reservation"]["state"] == "committed"
    assert [each["kind"] for each in told["entries"]] == ["reserved", "committed"]
    assert "committed +897, reserved -1_200" in run("reservations", named).stdout


def test_a_denial_exits_1_and_says_what_refused_and_what_would_fit(run: Run) -> None:
    asked = [*ASKED, "tenant=denied", "--input-tokens", "900", "--output-tokens-max", "4k"]
    denied = run("reserve", *asked, exits=1)
    assert "tenant-month" in denied.stdout
    assert "hint: limit tenant-month has 2000 tokens left" in denied.stderr
    assert read(run("reserve", *asked, "--json", exits=1))["outcome"] == "denied"
    assert run("reserve", *asked, "--quiet", exits=1).stdout == ""
    why = run("explain", *asked, "--output-tokens-min", "10")
    assert "decides" in why.stdout
    assert "at most 1_100 tokens a choice" in why.stdout
    explained = read(run("explain", *asked, "--json", exits=1))
    assert [each["limit"] for each in explained["limits"] if each["refuses"]] == ["tenant-month"]


def test_a_text_is_counted_from_a_file_or_stdin_and_a_dry_run_holds_nothing(
    run: Run, tmp_path: Path
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("hello there")
    asked = [*ASKED, "tenant=text", "--dry-run", "--json"]
    of_file = read(run("reserve", *asked, "--file", str(prompt)))
    assert (of_file["input_tokens"], of_file["counted_by"]["tokenizer"]) == (2, "o200k_base")
    assert read(run("reserve", *asked, "--file", "-", stdin="hello there"))["input_tokens"] == 2
    assert read(run("reservations", "-l", "tenant=text", "--json"))["reservations"] == []


def test_what_is_open_is_listed_and_a_release_gives_it_back(run: Run) -> None:
    asked = [*ASKED, "tenant=open", "--input-tokens", "70", "--id", "held-1", "--ttl", "90s"]
    run("reserve", *asked)
    listed = run("reservations", "--limit", "tenant-month", "--label", "tenant=open")
    assert "held-1" in listed.stdout
    assert "1 reservation open" in listed.stderr
    young = read(run("reservations", "-l", "tenant=open", "--older-than", "1h", "--json"))
    assert young["reservations"] == []
    took = run("explain", "held-1")
    assert "granted held-1 before; it is open" in took.stdout
    assert "released 70 tokens" in run("release", "held-1", "--reason", "cached").stdout
    assert "because cached" in run("reservations", "held-1").stdout
    assert "nothing" not in run("reservations", "held-1").stdout
    assert read(run("reservations", "-l", "tenant=open", "--json"))["reservations"] == []


FOREIGN = "[/x]:x:\n\x1b[2J\u202e"
SHOWN = r"[/x]:x:\n\x1b[2J\u202e"


def test_a_callers_text_is_shown_as_it_is_and_ends_no_line(run: Run) -> None:
    asked = [*ASKED, f"tenant={FOREIGN}", "--input-tokens", "70"]
    assert SHOWN in run("reserve", *asked, "--id", f"r{FOREIGN}").stdout
    ways = [
        ["limits"],
        ["limits", "tenant-month", "--scope", f"tenant={FOREIGN}"],
        ["reservations", "-l", f"tenant={FOREIGN}"],
        ["reservations", f"r{FOREIGN}"],
        ["explain", *asked],
        ["explain", f"r{FOREIGN}"],
    ]
    for words in ways:
        shown = run(*words)
        assert SHOWN in shown.stdout, words
        assert "\x1b" not in shown.stdout + shown.stderr
    assert SHOWN in run("release", f"no{FOREIGN}", exits=2).stderr


def test_a_limit_that_the_policy_has_not_is_the_wrong_question(run: Run) -> None:
    nope = run("limits", "nope", exits=2)
    assert nope.stdout == ""
    assert "the policy has no limit nope; it has: request-cap, tenant-month" in nope.stderr
    assert "did you mean tenant-month?" in run("limits", "tenant-mnth", "--json", exits=2).stderr


def test_a_limit_that_nobody_has_met_has_no_counter_yet(run: Run) -> None:
    never = run("limits", "tenant-month", "--scope", "tenant=never")
    assert never.stderr.startswith("limit tenant-month has no counter of tenant=never yet at seq")
    assert run("limits", "request-cap").stderr.startswith("limit request-cap has no counter yet")
    assert read(run("limits", "request-cap", "--json"))["standings"] == []


def test_a_providers_answer_is_committed_from_a_file(run: Run) -> None:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4.1-mini-2025-04-14",
        "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
    }
    named = run("reserve", *ASKED, "tenant=json", "--input-tokens", "9", "-q").stdout.strip()
    committed = read(run("commit", named, "--usage", "-", "--json", stdin=json.dumps(answer)))
    assert (committed["tokens_committed"], committed["tokens_overrun"]) == (10, 1)
    (_, entry) = read(run("reservations", named, "--json"))["entries"]
    assert entry["model"] == "openai/gpt-4.1-mini"
    assert entry["model_version"] == "gpt-4.1-mini-2025-04-14"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reserve"], "--model is required"),
        (["reserve", "--model", "x"], "provider/model"),
        (["reserve", *ASKED, "tenant"], "--label must be KEY=VALUE (got tenant)"),
        (["reserve", "--model", "a/b", "--ttl", "soon"], "--ttl must be a duration such as"),
        (["reserve", "--model", "a/b", "--text", "x", "--input-tokens", "1"], "in one way"),
        (["reserve", "--model", "a/b", "--input-tokens", "-3"], "a number such as 100_000, 500k"),
        (["commit", "r", "-t", "inpt=3"], "meter must be one of audio_input"),
        (["commit", "r", "-t", "input"], "--tokens must be METER=N (got input)"),
        (["commit", "nobody", "-t", "input=1"], "RESERVATION_NOT_FOUND"),
        (["release", "nobody"], "no reservation nobody is known"),
        (["reservations", "nobody"], 'no reservation "nobody" is open or still remembered'),
        (["explain", "id", "--model", "a/b"], "give an ID or a request, not both"),
        (["watch", "--kind", "denial"], "'denial' is not one of"),
        (["watch", "--after", "999999"], "the ledger ends at"),
    ],
)
def test_a_wrong_question_exits_2_and_says_what_to_write(
    run: Run, words: list[str], said: str
) -> None:
    assert said in run(*words, exits=2).stderr


def test_where_no_sidecar_answers_a_command_exits_3_and_says_how_to_name_one(run: Run) -> None:
    nowhere = run("reserve", "--model", "a/b", "--target", "127.0.0.1:1", exits=3)
    assert "--target" in nowhere.stderr
    assert "bursar serve" in run("watch", "--admin-listen", "127.0.0.1:1", exits=3).stderr


def watching(served: Served, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BURSAR, "watch", "--json", *words],
        env={**environment(served), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return cast("dict[str, Any]", json.loads(process.stdout.readline()))


def test_a_watch_prints_each_entry_once_over_a_kill_of_the_sidecar_and_ends_on_interrupt(
    serve: Serve,
) -> None:
    first = serve(POLICY)
    watch = watching(first, "--after", "0")
    assert line(watch)["kind"] == "policy_activated"
    reserve = [BURSAR, "reserve", *ASKED, "tenant=w", "--input-tokens", "5", "-q", "--id"]
    subprocess.run([*reserve, "w1"], env=environment(first), check=True, stdout=subprocess.PIPE)
    assert line(watch)["reservation_id"] == "w1"
    first.kill()
    assert watch.stderr is not None
    assert "watching goes on when it is back" in watch.stderr.readline()
    ports = {
        "BURSAR_LISTEN": first.listen,
        "BURSAR_ADMIN_LISTEN": str(first.ready["admin_listen"]),
    }
    second = serve(POLICY, **ports)
    subprocess.run([*reserve, "w2"], env=environment(second), check=True, stdout=subprocess.PIPE)
    assert line(watch)["reservation_id"] == "w2"
    watch.send_signal(signal.SIGINT)
    assert watch.wait(timeout=20) == 0
    watch.stdout.close() if watch.stdout else None
    assert "Traceback" not in watch.stderr.read()
    watch.stderr.close()


def test_a_watch_whose_reader_has_enough_ends_quietly(serve: Serve) -> None:
    served = serve(POLICY)
    watch = watching(served, "--after", "0")
    assert line(watch)["kind"] == "policy_activated"
    assert watch.stdout is not None
    watch.stdout.close()
    reserve = [BURSAR, "reserve", *ASKED, "tenant=w", "--input-tokens", "5", "-q"]
    subprocess.run(reserve, env=environment(served), check=True, stdout=subprocess.PIPE)
    assert watch.wait(timeout=20) == 0
    assert watch.stderr is not None
    assert watch.stderr.read() == ""
    watch.stderr.close()


def test_an_absent_sidecar_is_said_at_once_and_why(run: Run, tmp_path: Path) -> None:
    nobody = f"unix:{tmp_path}/nobody.sock"
    for command in (["reserve", "--model", "a/b"], ["commit", "r"], ["release", "r"]):
        done = run(*command, "--target", nobody, exits=3)
        assert f"no sidecar answers at {nobody}: No such file or directory" in done.stderr
    refused = run("commit", "r", "--target", "127.0.0.1:1", exits=3)
    assert "no sidecar answers at 127.0.0.1:1: Connection refused" in refused.stderr
    assert "the target must be unix:" in run("commit", "r", "--target", "foo", exits=2).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reservations", "--limit", "nope"], "the policy has no limit nope"),
        (["reservations", "--older-than", "999999999999d"], "--older-than must be at most 36500d"),
        (["usage", "--from", "0001-01-01"], "--from must be an instant or a span"),
        (
            ["explain", "--model", "a/b", "--input-tokens", "9" * 30],
            "input_tokens must be a whole number",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_said_without_a_trace(
    run: Run, words: list[str], said: str
) -> None:
    done = run(*words, exits=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_data_planes_port_is_told_from_admins(served: Served, run: Run) -> None:
    for command in ("limits", "usage", "status", "reservations"):
        done = run(command, "--admin-listen", served.listen, exits=2)
        assert "is not a sidecar's admin: it may be its data plane" in done.stderr


def test_output_that_cannot_be_written_is_an_error_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [BURSAR, "settings", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
