"""What the commands promise without a sidecar: quick to load, clear, honest exit codes."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from bursar.cli import main
from bursar.cli.show import as_plain
from bursar.config import all_settings
from bursar.policy.parse import parse
from bursar.v1 import admin_pb2, admin_pb2_grpc, policy_pb2, quota_pb2

NOBODY = "127.0.0.1:1"
"""An address where nothing listens: port 1 needs a right that no test has a server use."""

MISTAKEN = "policy: p\nlimts: []\nlimits:\n  - name: a\n    amount: {tokens: -1}\n"


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text, prog_name="bursar")


def test_version_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from bursar.cli import main\n"
        "try:\n"
        "    main(['--version'])\n"
        "finally:\n"
        "    heavy = ('grpc', 'pydantic', 'sqlalchemy', 'google.protobuf', 'rich', 'starlette')\n"
        "    print(*(each for each in heavy if each in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    version, loaded = done.stdout.splitlines()
    assert version.startswith("bursar ")
    assert loaded == ""


def test_help_names_every_command_without_loading_one() -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    for name in (
        "demo",
        "init",
        "check",
        "schema",
        "serve",
        "settings",
        "limits",
        "usage",
        "count",
    ):
        assert f"\n  {name} " in shown.stdout


def test_a_command_that_does_not_exist_is_answered_with_the_nearest() -> None:
    answer = run("usge")
    assert answer.exit_code == 2
    assert "did you mean usage?" in answer.stderr


def test_the_first_policy_is_right_and_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    assert run("init", str(path), "--name", "ours, all", "--time-zone", "Asia/Tokyo").exit_code == 0
    policy = parse(path).policy
    assert (policy.policy, policy.time_zone) == ("ours, all", "Asia/Tokyo")
    again = run("init", str(path))
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert parse(path).policy == policy
    assert run("init", str(path), "--force", "--json").exit_code == 0
    assert parse(path).policy.policy == "first"


def test_a_first_policy_in_no_zone_is_the_wrong_question(tmp_path: Path) -> None:
    answer = run("init", str(tmp_path / "policy.yaml"), "--time-zone", "Asia/Tokio")
    assert answer.exit_code == 2
    assert "did you mean Asia/Tokyo?" in answer.stderr
    assert not (tmp_path / "policy.yaml").exists()


def test_a_first_policy_names_its_schema_only_if_asked(tmp_path: Path) -> None:
    path, schema = tmp_path / "limits.yaml", tmp_path / "limits.schema.json"
    assert run("init", str(path)).exit_code == 0
    assert path.read_text().startswith("# A policy for bursar")
    assert not schema.exists()
    answer = run("init", str(path), "--schema", "--force")
    assert answer.exit_code == 0
    assert answer.stdout == f"wrote {path} and {schema}; now: bursar serve --policy {path}\n"
    first = path.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=limits.schema.json"
    assert json.loads(schema.read_text()) == json.loads(run("schema").stdout)
    assert parse(path).policy.policy == "first"


def test_a_schema_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path, schema = tmp_path / "policy.yaml", tmp_path / "policy.schema.json"
    schema.write_text("mine")
    answer = run("init", str(path), "--schema")
    assert answer.exit_code == 1
    assert f"{schema} exists already" in answer.stderr
    assert not path.exists()
    assert schema.read_text() == "mine"


def test_check_prints_every_mistake_and_answers_no(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(MISTAKEN)
    answer = run("check", str(path))
    assert answer.exit_code == 1
    assert f"{path}:2: `limts` is not a known key\n  hint: did you mean `limits`?" in answer.stdout
    assert answer.stderr == "3 mistakes\n"


def test_check_prints_mistakes_as_json(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(MISTAKEN)
    answer = run("check", str(path), "--json")
    found = json.loads(answer.stdout)
    assert answer.exit_code == 1
    assert not found["ok"]
    assert [each["line"] for each in found["mistakes"]] == [2, 4, 5]
    assert found["mistakes"][2]["got"] == "-1"


def test_check_of_a_right_policy_answers_yes(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    run("init", str(path))
    answer = run("check", str(path))
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert "policy first is right: 4 limits" in answer.stdout


ODD = (
    "policy: p\nlabels:\n  colour: {values: [red]}\n"
    "limits: [{name: all, window: total, amount: {tokens: 1M}}]\n"
)


def test_check_warns_on_stderr_and_still_answers_yes(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(ODD)
    answer = run("check", str(path))
    assert answer.exit_code == 0
    assert answer.stderr == (
        f"warning: {path}:3: the label `colour` is declared, and nothing uses it\n"
        "  hint: name it in a limit or in `rollups`, or remove it\n1 warning\n"
    )
    assert answer.stdout.startswith(f"{path}: policy p is right: 1 limit, sha256 ")
    plain = json.loads(run("check", str(path), "--json").stdout)
    assert (plain["ok"], plain["mistakes"], plain["files"]) == (True, [], [str(path)])
    assert [each["line"] for each in plain["warnings"]] == [3]


def test_a_strict_check_takes_warnings_for_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(ODD)
    answer = run("check", str(path), "--strict")
    assert (answer.exit_code, answer.stderr) == (1, "1 mistake\n")
    assert answer.stdout.startswith(f"{path}:3: the label `colour` is declared, and nothing uses")
    plain = json.loads(run("check", str(path), "--strict", "--json").stdout)
    assert (plain["ok"], len(plain["mistakes"]), plain["warnings"]) == (False, 1, [])


@pytest.mark.parametrize("bug", ["bursar.policy.parse.clashes", "bursar.policy.warn.bounded"])
def test_check_that_meets_a_bug_says_so_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    path = tmp_path / "policy.yaml"
    run("init", str(path))

    def fails(*_: object, **__: object) -> object:
        raise ZeroDivisionError("by none")

    monkeypatch.setattr(bug, fails)
    answer = run("check", str(path))
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert answer.stderr.startswith(
        f"error: {path}: cannot be read: ZeroDivisionError: by none; this is a bug in bursar\n"
    )


def test_check_reads_the_files_that_a_policy_names(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "policy: p\nlimits:\n  - name: minute\n    scope: [tenant]\n    window: {fixed: 1m}\n"
        "    amount: {tokens: 5}\n    overrides: {file: credits.csv}\n"
    )
    credits_file = tmp_path / "credits.csv"
    missing = run("check", str(path))
    assert missing.stdout == (
        f"{path}:7: the file `credits.csv` cannot be read: No such file or directory\n"
        f"  hint: it was looked for at {credits_file}: names are relative to the policy file\n"
    )
    credits_file.write_text("tenant,tokens\nacme,1K\n")
    wrong = run("check", str(path))
    assert wrong.stdout.startswith(f"{credits_file}:2: `tokens` must be a whole number from 0")
    credits_file.write_text("tenant,tokens\nacme,1k\n")
    assert "is right: 1 limit and 1 file it names, sha256" in run("check", str(path)).stdout


def test_settings_lists_every_setting_for_people_programs_and_documents() -> None:
    wanted = [(each.option, each.environment) for each in all_settings()]
    listed = json.loads(run("settings", "--json").stdout)["settings"]
    assert [(each["option"], each["environment"]) for each in listed] == wanted
    assert (listed[0]["required"], listed[0]["default"]) == (True, None)
    shown = run("settings").stdout
    lines = run("settings", "--markdown").stdout.splitlines()
    assert lines[0] == "| option | environment | default | meaning |"
    assert len(lines) == len(wanted) + 2
    for (option, environment), line in zip(wanted, lines[2:], strict=True):
        assert f"\n  {option} " in shown
        assert line.startswith(f"| `{option}` | `{environment}` | ")
    assert run("settings", "--markdown", "--json").exit_code == 2


@pytest.mark.parametrize("command", ["status", "limits", "usage"])
def test_a_sidecar_that_is_not_there_is_no_decision(command: str) -> None:
    answer = run(command, "--admin-listen", NOBODY)
    assert answer.exit_code == 3
    assert answer.stdout == ""
    assert f"no sidecar answers at {NOBODY}" in answer.stderr
    assert "bursar serve" in answer.stderr
    assert "name its admin address: --admin-listen" in answer.stderr


def test_who_is_closed_on_is_told_that_the_connections_may_be_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_close_each, args=(listener,), daemon=True).start()
        answer = run("status", "--admin-listen", f"127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
    assert answer.exit_code == 3
    assert "may have no connection left" in answer.stderr
    assert "--admin-listen" in answer.stderr


def _close_each(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


class _LongPolicy(admin_pb2_grpc.AdminServiceServicer):
    def ListStandings(self, request: object, context: object) -> admin_pb2.ListStandingsResponse:  # noqa: N802
        del request, context
        return admin_pb2.ListStandingsResponse(sequence=1)

    def GetPolicy(self, request: object, context: object) -> admin_pb2.GetPolicyResponse:  # noqa: N802
        del request, context
        policy = policy_pb2.Policy(name="long", limits=[policy_pb2.Limit(name="day")])
        return admin_pb2.GetPolicyResponse(policy=policy, source="#" * 5 * 1024 * 1024)


def test_an_answer_longer_than_grpcs_own_bound_is_taken() -> None:
    servicer = _LongPolicy()  # type: ignore[abstract]  # the calls it lacks are not asked
    server = grpc.server(ThreadPoolExecutor(1))
    admin_pb2_grpc.add_AdminServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    answer = run("limits", "day", "--admin-listen", f"127.0.0.1:{port}")
    server.stop(grace=None).wait()
    assert (answer.exit_code, answer.stdout) == (0, "")
    assert answer.stderr == "limit day has no counter yet at sequence 1\n"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["status", "--admin-listen", "10.0.0.1:7421"], "must be a loopback address"),
        (["limits", "--scope", "acme"], "--scope must be KEY=VALUE (got acme)"),
        (["limits", "--scope", "a=1", "--scope", "a=2"], "--scope names a twice"),
        (["usage", "--from", "yesterday"], "--from must be an instant or a span"),
        (["usage", "--total", "--by", "hour"], "exclude one another"),
        (["serve"], "--policy must name a policy file"),
        (["serve", "--policy", "p", "--listen", "0.0.0.0:7420"], "no TLS"),
    ],
)
def test_a_wrong_question_exits_2_and_says_what_was_wrong(arguments: list[str], what: str) -> None:
    answer = run(*arguments)
    assert answer.exit_code == 2
    assert what in answer.stderr


def test_serve_refuses_a_policy_with_mistakes_and_makes_nothing(tmp_path: Path) -> None:
    path, data = tmp_path / "policy.yaml", tmp_path / "data"
    path.write_text(MISTAKEN)
    answer = run("serve", "--policy", str(path), "--data", str(data))
    assert answer.exit_code == 2
    assert f"{path}:5: `limits[a].amount.tokens` must" in answer.stderr
    assert not data.exists()


def test_count_counts_what_it_is_given() -> None:
    answer = run("count", "--model", "openai/gpt-4.1-mini", "--text", "hello world", "--json")
    assert json.loads(answer.stdout) == {
        "model": "openai/gpt-4.1-mini",
        "tokens": 2,
        "method": "exact",
        "tokenizer": "o200k_base",
        "bytes": 11,
    }
    from_stdin = run("count", "--model", "openai/gpt-4.1-mini", text="hello world")
    assert from_stdin.stdout == "2\n"


def test_plain_values_have_words_for_enums_and_none_for_what_is_absent() -> None:
    standing = quota_pb2.Standing(limit="a", unit=quota_pb2.UNIT_TOKENS, scope={"tenant": "acme"})
    plain = as_plain(admin_pb2.ListStandingsResponse(standings=[standing], sequence=2**60))
    assert plain["sequence"] == 2**60
    (shown,) = plain["standings"]
    assert (shown["unit"], shown["scope"]) == ("tokens", {"tenant": "acme"})
    assert shown["window_end_unix_ms"] is None
