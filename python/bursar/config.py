"""Every setting of the sidecar: its name, default, environment variable and meaning."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from bursar.errors import SettingsError
from bursar.plain import literal

ADMIN_LISTEN = "127.0.0.1:7421"
"""Where the control plane answers if nothing else is said."""

REQUIRED = "required"
"""What is shown for the default of a setting that has none."""

OFF = "off"
"""What turns a listener off."""

SOCKET_PATH_BYTES_MAX = 107
"""The longest path that Linux takes for a Unix socket."""

_SIZE = re.compile(r"([0-9]+(?:_[0-9]+)*)(|KiB|MiB|GiB|TiB)")
_SIZE_FACTORS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SPAN = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_SPAN_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_COUNT = re.compile(r"([0-9]+(?:_[0-9]+)*)(|k|M)")
_COUNT_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}
_PORT_MAX = 65_535
_SEGMENT_BYTES_MIN = 64 * 1024
_SEGMENT_BYTES = 64 * 2**20
_LEDGER_BYTES_MAX = 32 * 2**30


def _scaled(text: str, pattern: re.Pattern[str], factors: Mapping[str, int], hint: str) -> int:
    match = pattern.fullmatch(text.strip())
    if match is None:
        raise SettingsError(f"must be {hint} (got {text})")
    return int(match[1].replace("_", "")) * factors[match[2]]


def _bytes(text: str) -> int:
    return _scaled(text, _SIZE, _SIZE_FACTORS, "a size such as 64MiB or 16GiB")


def whole_number(text: str) -> int:
    """Reads a number such as `812`, `100_000`, `500k` or `1M`; raises SettingsError."""
    return _scaled(text, _COUNT, _COUNT_FACTORS, "a number such as 100_000, 500k or 1M")


def _count(text: str) -> int:
    number = whole_number(text)
    if number == 0:
        raise SettingsError("must be above zero (got 0)")
    return number


def _yes_or_no(text: str) -> bool:
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.strip().lower() not in answers:
        raise SettingsError(f"must be yes or no (got {text})")
    return answers[text.strip().lower()]


def span_ms(text: str) -> int:
    """Reads a duration such as `500ms`, `10s`, `5m`, `24h` or `7d`; raises SettingsError."""
    return _scaled(text, _SPAN, _SPAN_MS, "a duration such as 500ms, 10s, 5m or 24h")


def loopback(text: str) -> str:
    """Checks that `text` is a loopback address with its port; raises SettingsError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > _PORT_MAX:
        raise SettingsError(f"must be an address and a port, such as 127.0.0.1:PORT (got {text})")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        message = f"must be an IP address, not a name; write 127.0.0.1:{port} (got {text})"
        raise SettingsError(message) from None
    if not address.is_loopback:
        message = (
            "must be a loopback address: this version has no TLS, so it listens to this machine "
            f"only; write 127.0.0.1:{port} (got {text})"
        )
        raise SettingsError(message)
    return f"[{host}]:{port}" if address.version == 6 else f"{host}:{port}"  # noqa: PLR2004


def _at_least(least: str) -> Callable[[str], int]:
    """Reads a duration that may not be shorter."""

    def read(text: str) -> int:
        ms = span_ms(text)
        if ms < span_ms(least):
            raise SettingsError(f"must be at least {least} (got {text})")
        return ms

    return read


def _listen(text: str) -> str:
    return "" if text == OFF else loopback(text)


def _socket(text: str) -> str:
    if text == OFF:
        return ""
    if len(os.fsencode(text)) > SOCKET_PATH_BYTES_MAX:
        most = SOCKET_PATH_BYTES_MAX
        raise SettingsError(f"must be a path of at most {most} bytes, as Linux has it (got {text})")
    return text


def _setting(
    default: object = MISSING,
    *,
    environment: str,
    read: Callable[[str], object],
    meaning: str,
    shown: str,
) -> Any:  # noqa: ANN401  a dataclass field takes the type of what it describes
    facts = {"environment": environment, "read": read, "meaning": meaning, "shown": shown}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one sidecar, checked; make them with `settings_from`."""

    policy: str = _setting(
        MISSING, environment="BURSAR_POLICY", read=str, shown=REQUIRED,
        meaning="The policy file.",
    )  # fmt: skip
    data: str = _setting(
        "./bursar-data", environment="BURSAR_DATA", read=str, shown="./bursar-data",
        meaning="The data directory: the ledger, its index and the books.",
    )  # fmt: skip
    socket: str | None = _setting(
        None, environment="BURSAR_SOCKET", read=_socket,
        shown="bursar.sock in the runtime directory",
        meaning="The data plane's Unix socket, or `off`.",
    )  # fmt: skip
    listen: str = _setting(
        "127.0.0.1:7420", environment="BURSAR_LISTEN", read=_listen, shown="127.0.0.1:7420",
        meaning="The data plane's TCP address on loopback, or `off`; port 0 takes a free one.",
    )  # fmt: skip
    admin_listen: str = _setting(
        ADMIN_LISTEN, environment="BURSAR_ADMIN_LISTEN", read=loopback, shown=ADMIN_LISTEN,
        meaning="The control plane's gRPC address on loopback; port 0 takes a free one.",
    )  # fmt: skip
    http_listen: str = _setting(
        "127.0.0.1:7422", environment="BURSAR_HTTP_LISTEN", read=loopback, shown="127.0.0.1:7422",
        meaning="The address of /metrics, /healthz and /readyz on loopback.",
    )  # fmt: skip
    segment_bytes: int = _setting(
        _SEGMENT_BYTES, environment="BURSAR_SEGMENT_BYTES", read=_bytes, shown="64MiB",
        meaning="The size of one segment of the ledger.",
    )  # fmt: skip
    ledger_bytes_max: int = _setting(
        _LEDGER_BYTES_MAX, environment="BURSAR_LEDGER_BYTES_MAX", read=_bytes, shown="32GiB",
        meaning="The most disk the ledger takes; past it, nothing new is reserved.",
    )  # fmt: skip
    counters_max: int = _setting(
        1_000_000, environment="BURSAR_COUNTERS_MAX", read=_count, shown="1M",
        meaning="The most counters that may be live.",
    )  # fmt: skip
    reservations_open_max: int = _setting(
        1_000_000, environment="BURSAR_RESERVATIONS_OPEN_MAX", read=_count, shown="1M",
        meaning="The most reservations that may be open.",
    )  # fmt: skip
    settled_ids_max: int = _setting(
        2_000_000, environment="BURSAR_SETTLED_IDS_MAX", read=_count, shown="2M",
        meaning="The most settled ids that are remembered.",
    )  # fmt: skip
    settled_span_ms: int = _setting(
        86_400_000, environment="BURSAR_SETTLED_SPAN", read=_at_least("1m"), shown="24h",
        meaning="How long a settled id is remembered.",
    )  # fmt: skip
    connections_max: int = _setting(
        1_024, environment="BURSAR_CONNECTIONS_MAX", read=_count, shown="1_024",
        meaning="The most connections open at once; one more is closed at once.",
    )  # fmt: skip
    connections_per_caller_max: int = _setting(
        512, environment="BURSAR_CONNECTIONS_PER_CALLER_MAX", read=_count, shown="512",
        meaning="The most connections of one user of the socket, and of all who come over TCP.",
    )  # fmt: skip
    reset_changed: bool = _setting(
        default=False, environment="BURSAR_RESET_CHANGED", read=_yes_or_no, shown="no",
        meaning="Let limits that a changed policy counts anew begin so, instead of refusing it.",
    )  # fmt: skip
    stop_grace_ms: int = _setting(
        10_000, environment="BURSAR_STOP_GRACE", read=span_ms, shown="10s",
        meaning="How long calls in flight may take to end when the sidecar stops.",
    )  # fmt: skip
    drain_interval_ms: int = _setting(
        1_000, environment="BURSAR_DRAIN_INTERVAL", read=_at_least("10ms"), shown="1s",
        meaning="How often usage is taken into the books.",
    )  # fmt: skip

    @property
    def socket_path(self) -> str:
        """The Unix socket's path, the default one where none is set; empty: there is none."""
        return default_socket(Path(self.data)) if self.socket is None else self.socket


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting besides its value; `option` is how `serve` spells it."""

    name: str
    option: str
    environment: str
    shown: str
    meaning: str
    read: Callable[[str], object]

    @property
    def required(self) -> bool:
        """Whether a sidecar cannot start without it."""
        return self.shown == REQUIRED

    @property
    def is_flag(self) -> bool:
        """Whether the option alone, without a value, says yes."""
        return self.read is _yes_or_no


def all_settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the class."""
    return tuple(
        Setting(
            each.name,
            "--" + each.name.removesuffix("_ms").replace("_", "-"),
            each.metadata["environment"],
            each.metadata["shown"],
            each.metadata["meaning"],
            each.metadata["read"],
        )
        for each in fields(Settings)
    )


def settings_from(
    options: Mapping[str, str | None], environment: Mapping[str, str] | None = None
) -> Settings:
    """Reads settings from options by name, then the environment, then defaults.

    Raises SettingsError with every wrong setting, a line for each.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for setting in all_settings():
        text, source = options.get(setting.name), setting.option
        if text is None:
            text, source = environment.get(setting.environment) or None, setting.environment
        if text is None:
            if setting.name == "policy":
                wrong.append("--policy must name a policy file; write one with `bursar init`")
            continue
        try:
            values[setting.name] = setting.read(text)
        except SettingsError as error:
            wrong.append(f"{source} {error}")
    if values.get("segment_bytes", _SEGMENT_BYTES_MIN) < _SEGMENT_BYTES_MIN:
        wrong.append(f"--segment-bytes must be at least 64KiB (got {values['segment_bytes']})")
    least = 2 * values.get("segment_bytes", _SEGMENT_BYTES)
    if (ledger := values.get("ledger_bytes_max", _LEDGER_BYTES_MAX)) < least:
        wrong.append(
            "--ledger-bytes-max must be at least two segments of --segment-bytes, "
            f"{least // 2**10}KiB (got {ledger // 2**10}KiB)"
        )
    if values.get("listen") == "" and values.get("socket") == "":
        wrong.append("--socket and --listen must not both be off: nobody could call")
    if wrong:
        raise SettingsError("\n".join(literal(each) for each in wrong))
    return Settings(**values)


def default_socket(data_directory: Path) -> str:
    """The socket's path where none is set: in the runtime directory, else beside the data."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return str(Path(runtime) / "bursar" / "bursar.sock")
    if os.access("/run/bursar", os.W_OK) or os.access("/run", os.W_OK):
        return "/run/bursar/bursar.sock"
    return str(data_directory / "bursar.sock")
