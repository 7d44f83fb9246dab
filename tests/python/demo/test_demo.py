"""The demo does what it says, and would say so if a count were wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bursar.demo.check import Check, compare_usage
from bursar.demo.model import StandInModel
from bursar.demo.passages import passages

ROOT = Path(__file__).parents[3]


def test_the_example_policy_is_the_one_the_demo_runs_on() -> None:
    example = (ROOT / "examples" / "policy.yaml").read_bytes()
    assert example == (ROOT / "python" / "bursar" / "demo" / "policy.yaml").read_bytes()


def test_there_are_more_than_200_distinct_passages_of_real_text() -> None:
    found = passages(240)
    assert len({passage.text for passage in found}) == 240
    assert min(len(passage.text) for passage in found) >= 250


def test_the_stand_in_streams_words_back_and_stops_at_its_maximum() -> None:
    stream = StandInModel("openai/gpt-4.1").stream(
        "one two three four", input_tokens=9, max_completion_tokens=3, response_id="r"
    )
    *words, last = list(stream)
    assert len(words) == 3
    assert all(word["usage"] is None for word in words)
    assert last["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def test_a_figure_that_differs_is_found_and_named() -> None:
    check = Check()
    key = ("search", "acme", "openai/gpt-4.1-mini")
    compare_usage(check, "the ledger", {key: (100, 2)}, {key: (101, 2)})
    assert check.compared["the ledger"] == 2
    (difference,) = check.differences
    assert "tokens of search acme" in difference
    assert "callers say 100, it says 101" in difference


def test_the_demo_kills_its_sidecar_and_every_figure_agrees() -> None:
    command = [sys.executable, "-c", "from bursar.cli import main; main()", "demo", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert summary["differences"] == []
    assert summary["passages"] >= 200
    assert summary["decisions"]["denied"] > 0
    assert summary["decisions"]["cut"] > 0
    assert summary["killed"]["signal"] == "SIGKILL"
