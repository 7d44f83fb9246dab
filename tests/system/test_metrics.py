"""The metrics of a whole sidecar: what is there is documented, and promtool takes the page."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.system.conftest import BURSAR

from bursar.v1 import quota_pb2

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served, Stock

POLICY = """
policy: metrics
time_zone: UTC
labels:
  feature: {missing: {as: unattributed}}
limits:
  - name: tenant-month
    scope: [tenant]
    window: {calendar: month}
    amount: {tokens: 1_000, requests: 10}
rollups: [feature, tenant, model]
"""


def page_of(served: Served) -> str:
    with urllib.request.urlopen(f"{served.http}/metrics", timeout=10) as answer:  # noqa: S310
        page: str = answer.read().decode()
    return page


def test_every_metric_is_documented_and_every_documented_one_is_there(serve: Serve) -> None:
    listed = subprocess.run([BURSAR, "metrics", "--json"], capture_output=True, check=True)
    documented = {each["name"]: each["type"] for each in json.loads(listed.stdout)["metrics"]}
    shown = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page_of(serve(POLICY)), re.MULTILINE))
    assert shown == documented


def test_promtool_finds_nothing_wrong_with_the_page(
    serve: Serve, connect: Callable[[str], Stock]
) -> None:
    served = serve(POLICY)
    stock = connect(served.socket)
    stock.quota.Reserve(quota_pb2.ReserveRequest(reservation_id="r", model="a/b", input_tokens=5))
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page_of(served),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_what_callers_do_is_counted_by_what_an_operator_asks(
    serve: Serve, connect: Callable[[str], Stock]
) -> None:
    served = serve(POLICY)
    stock = connect(served.socket)
    for named, tokens, labels in (
        ("granted", 600, {"tenant": "acme"}),
        ("denied", 600, {"tenant": "acme", "feature": "chat"}),
        ("tagged", 1, {"tenant": "acme", "feature": "chat"}),
    ):
        stock.quota.Reserve(
            quota_pb2.ReserveRequest(
                reservation_id=named, model="a/b", input_tokens=tokens, labels=labels
            )
        )
    page = page_of(served).splitlines()
    for line in (
        'bursar_decisions_total{outcome="granted",reason=""} 2',
        'bursar_limit_refusals_total{limit="tenant-month"} 1',
        "bursar_limits_matched_sum 4",
        'bursar_unattributed_total{label="feature"} 1',
        'bursar_unattributed_total{label="tenant"} 0',
        'bursar_tokens_total{kind="reserved"} 601',
        "bursar_policy_file_ok 1.0",
    ):
        assert line in page
    assert not any("acme" in line for line in page)  # no caller's text is a label
