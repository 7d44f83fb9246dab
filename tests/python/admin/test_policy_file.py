"""What a sidecar makes of a policy file that it fails at: a wrong file, said once and counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from bursar.admin import policy_file
from bursar.admin.policy_file import PolicyFile
from bursar.policy.parse import ParsedPolicy

BUG = "cannot be read: ZeroDivisionError: by none; this is a bug in bursar"


def fails(*_: object) -> None:
    raise ZeroDivisionError("by none")


def takes(_: ParsedPolicy) -> None:
    """Finds that the policy is in force already."""


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def watched(
    tmp_path: Path, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., PolicyFile]:
    """Makes a watched file that is taken to be at rest at once."""
    monkeypatch.setattr(policy_file, "SETTLE_S", 0)
    path = tmp_path / "policy.yaml"
    path.write_text("policy: p")

    def make(activate: policy_file.Activate = takes) -> PolicyFile:
        return PolicyFile(path, activate=activate, registry=registry)

    return make


async def look_often(file: PolicyFile) -> None:
    for _ in range(3):
        await file.look()


def test_a_policy_that_cannot_be_activated_for_a_bug_is_a_wrong_file(
    watched: Callable[..., PolicyFile],
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = watched(fails)
    asyncio.run(look_often(file))
    (mistake,) = file.status.mistakes
    assert BUG in mistake
    assert file.status.refusals == 1
    assert registry.get_sample_value("bursar_policy_file_ok") == 0
    assert registry.get_sample_value("bursar_policy_reloads_total", {"outcome": "refused"}) == 1
    assert [each.message for each in caplog.records].count(mistake) == 1
    assert all(each.exc_info is None for each in caplog.records)


def test_a_file_that_a_bug_keeps_from_being_read_is_a_wrong_file_until_it_changes(
    watched: Callable[..., PolicyFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = watched()
    with monkeypatch.context() as broken:
        broken.setattr("bursar.policy.parse.clashes", fails)
        asyncio.run(look_often(file))
    (mistake,) = file.status.mistakes
    assert mistake.startswith(f"{tmp_path / 'policy.yaml'}: {BUG}")
    assert file.status.refusals == 1
    (tmp_path / "policy.yaml").write_text("policy: other")
    asyncio.run(look_often(file))
    assert (list(file.status.mistakes), file.status.refusals) == ([], 1)


def test_where_the_bug_is_is_logged_for_who_asks_for_it(
    watched: Callable[..., PolicyFile], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, policy_file.__name__)
    asyncio.run(look_often(watched(fails)))
    (traced,) = [each for each in caplog.records if each.exc_info]
    assert traced.levelno == logging.DEBUG


def test_a_look_that_fails_is_said_once_and_is_not_the_last(
    watched: Callable[..., PolicyFile],
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[bool] = []

    async def watch(file: PolicyFile) -> None:
        enough = asyncio.Event()

        async def cannot(*, force: bool) -> None:
            looks.append(force)
            if len(looks) == 3:
                enough.set()
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(file, "look", cannot)
        watching = asyncio.create_task(file.watch())
        await enough.wait()
        watching.cancel()

    monkeypatch.setattr(policy_file, "LOOK_EVERY_S", 0)
    file = watched()
    asyncio.run(watch(file))
    assert "can't start new thread" in file.status.mistakes[0]
    assert registry.get_sample_value("bursar_policy_file_ok") == 0
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None
