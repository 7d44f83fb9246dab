"""What settings promise: options over environment over defaults, and every wrong one by name."""

from __future__ import annotations

import re

import pytest

from bursar.config import Settings, all_settings, loopback, settings_from
from bursar.errors import SettingsError


def test_an_option_wins_over_the_environment_and_that_over_the_default() -> None:
    environment = {"BURSAR_DATA": "/srv/a", "BURSAR_LISTEN": "127.0.0.1:9", "BURSAR_POLICY": "p"}
    settings = settings_from({"data": "/srv/b", "policy": None}, environment)
    assert (settings.data, settings.listen) == ("/srv/b", "127.0.0.1:9")
    assert settings.admin_listen == "127.0.0.1:7421"


def test_every_setting_is_read_from_text_in_its_unit() -> None:
    options = {
        "policy": "p", "socket": "off", "listen": "localhost:0", "segment_bytes": "1MiB",
        "ledger_bytes_max": "2GiB", "counters_max": "10k", "reservations_open_max": "1_000",
        "settled_ids_max": "2M", "settled_span_ms": "2h", "stop_grace_ms": "500ms",
    }  # fmt: skip
    settings = settings_from(options, {})
    assert settings == Settings(
        policy="p", socket="", listen="127.0.0.1:0", segment_bytes=2**20,
        ledger_bytes_max=2 * 2**30, counters_max=10_000, reservations_open_max=1_000,
        settled_ids_max=2_000_000, settled_span_ms=7_200_000, stop_grace_ms=500,
    )  # fmt: skip


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"segment_bytes": "1K", "listen": "0.0.0.0:1"}, {"BURSAR_STOP_GRACE": "x"})
    lines = str(caught.value).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "--policy", "--listen", "--segment-bytes", "BURSAR_STOP_GRACE",
    ]  # fmt: skip


def test_a_sidecar_that_nobody_could_call_is_refused() -> None:
    with pytest.raises(SettingsError, match="must not both be off"):
        settings_from({"policy": "p", "socket": "off", "listen": "off"}, {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drain_interval_ms": "0s"}, "--drain-interval must be at least 10ms (got 0s)"),
        ({"settled_span_ms": "5s"}, "--settled-span must be at least 1m (got 5s)"),
        ({"ledger_bytes_max": "1MiB"}, "--ledger-bytes-max must be at least two segments"),
        ({"segment_bytes": "20GiB"}, "41943040KiB (got 33554432KiB)"),
    ],
)
def test_what_is_too_little_to_work_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        settings_from({"policy": "p", **options}, {})


def test_a_socket_path_that_linux_cannot_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="at most 107 bytes"):
        settings_from({"policy": "p", "socket": "/" + "x" * 107}, {})


@pytest.mark.parametrize(
    "text",
    ["", "7420", "127.0.0.1", "127.0.0.1:", ":7420", "127.0.0.1:65536", "127.0.0.1:-1",
     "10.0.0.1:7420", "0.0.0.0:7420", "[::]:7420", "example.com:7420", "127.0.0.1:٣"],
)  # fmt: skip
def test_what_is_not_loopback_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        loopback(text)


def test_loopback_is_taken_in_both_families() -> None:
    assert loopback("127.0.0.2:7420") == "127.0.0.2:7420"
    assert loopback("[::1]:7420") == "[::1]:7420"
    assert loopback("localhost:7420") == "127.0.0.1:7420"


def test_every_setting_says_its_variable_and_meaning() -> None:
    for setting in all_settings():
        assert setting.environment.startswith("BURSAR_")
        assert setting.meaning.endswith(".")
