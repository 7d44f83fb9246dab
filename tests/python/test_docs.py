"""The documentation: links lead somewhere, commands exist, and every error is on its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bursar import errors
from bursar.cli import _COMMANDS
from bursar.v1 import quota_pb2

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()

# Reasons that no sidecar of this version gives.
NOT_YET = {"paced", "unpriced", "frozen", "escalated", "not_open"}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        found = (page.parent / target) if target else page
        assert found.exists(), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{target}#{anchor}"


def test_every_concept_has_one_picture() -> None:
    concepts = (ROOT / "docs" / "concepts.md").read_text().split("\n## ")[1:]
    shown = [re.findall(r"!\[.+\]\(pictures/(.+)\)", concept) for concept in concepts]
    assert all(len(each) == 1 for each in shown), shown
    drawn = {each.name for each in (ROOT / "docs" / "pictures").iterdir()}
    assert {name for each in shown for name in each} == drawn


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for name in re.findall(r"(?:^\$ |\()bursar ([a-z]+)", block, re.MULTILINE):
            assert name in _COMMANDS


def test_every_reason_and_exception_is_on_the_page_of_troubles() -> None:
    fault = (ROOT / "rust" / "server" / "src" / "fault.rs").read_text()
    (names,) = re.findall(r"NAMES: \[&str; \d+\] = \[(.*?)\]", fault, re.DOTALL)
    reasons = re.findall(r'"(\w+)"', names)
    assert len(reasons) > 10
    denials = {name.removeprefix("REASON_").lower() for name in quota_pb2.Reason.keys()[1:]}
    missing = [each for each in (*reasons, *(denials - NOT_YET)) if f"`{each}`" not in TROUBLES]
    assert missing == []
    python = (ROOT / "docs" / "python.md").read_text()
    kinds = {kind.__name__ for kind in errors.STATUS_ERRORS.values()} | {"Denied"}
    assert [kind for kind in kinds if f"`{kind}`" not in python] == []
