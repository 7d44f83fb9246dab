"""`bursar serve`: runs a sidecar until it is told to stop."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bursar.cli import show
from bursar.config import all_settings, settings_from

if TYPE_CHECKING:
    from bursar.sidecar import Sidecar

_Function = TypeVar("_Function", bound=Callable[..., object])


class _Lines(logging.Formatter):
    """One line for each event: its instant, level, place and words as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Words a record; line ends within it are escaped."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = (
            f"time={moment.removesuffix('+00:00')}Z level={record.levelname.lower()} "
            f"logger={record.name} message={json.dumps(record.getMessage(), ensure_ascii=False)}"
        )
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += f" exception={json.dumps(trace, ensure_ascii=False)}"
        return line


def _settings_options(function: _Function) -> _Function:
    """Adds an option for every setting."""
    for setting in reversed(all_settings()):
        text = f"{setting.meaning}  [env: {setting.environment}; default: {setting.shown}]"
        shape: dict[str, Any] = {"metavar": "VALUE"}
        if setting.is_flag:
            shape = {"is_flag": True, "flag_value": "yes", "default": None}
        option = click.option(setting.option, setting.name, help=text, **shape)
        function = option(function)
    return function


@click.command("serve")
@_settings_options
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
    show_default=True, help="What is logged to stderr.",
)  # fmt: skip
@show.json_option
def command(*, as_json: bool, log_level: str, **options: str | None) -> None:
    """Run a sidecar; it prints one line when it is ready, and stops on SIGTERM or Ctrl-C.

    Exits 0 when it was told to stop, and 70 when it can answer no more and must be restarted.

    \b
    Examples:
      bursar serve --policy policy.yaml
      bursar serve --policy policy.yaml --socket /run/bursar/bursar.sock --listen off
    """
    from bursar.errors import BursarError, PolicyError, SettingsError
    from bursar.sidecar import serve

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=log_level.upper(), handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it says what we say better
    try:
        settings = settings_from(options)
        code = serve(settings, when_ready=lambda sidecar: _say_ready(sidecar, as_json=as_json))
    except SettingsError as error:
        show.fail(show.EXIT_WRONG, str(error).replace("\n", "\nerror: "), several_lines=True)
    except PolicyError as error:
        hint = "nothing was started"
        show.fail(show.EXIT_WRONG, f"the policy has mistakes\n{error}", hint, several_lines=True)
    except (BursarError, OSError) as error:
        show.fail(show.EXIT_UNDECIDED, f"the sidecar cannot start: {error}")
    raise SystemExit(code)


def _say_ready(sidecar: Sidecar, *, as_json: bool) -> None:
    places = sidecar.addresses
    if as_json:
        facts = {
            "ready": True,
            "policy": sidecar.policy_name,
            "socket": places.socket or None,
            "listen": places.listen or None,
            "admin_listen": places.admin,
            "http_listen": places.http,
        }
        click.echo(json.dumps(facts))
        return
    parts = [f"unix:{places.socket}"] if places.socket else []
    parts += [places.listen] if places.listen else []
    show.say(
        f"bursar is ready: policy {sidecar.policy_name} at {' and '.join(parts)}; "
        f"admin {places.admin}; http {places.http}"
    )
