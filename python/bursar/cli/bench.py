"""`bursar bench`: measures a sidecar beside a bare echo, and audits every token of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bursar.cli import show
from bursar.cli.connection import admin_option
from bursar.config import loopback
from bursar.errors import BursarError, LoadDenied, SettingsError

if TYPE_CHECKING:
    from bursar.bench.measure import Plan

_IN_FLIGHT_MAX = 4_096
_STATUS_S_MAX = 2.0


_Function = TypeVar("_Function", bound=Callable[..., object])


def _several(
    option: str, name: str, choices: Sequence[str], text: str
) -> Callable[[_Function], _Function]:
    return click.option(
        option, name, multiple=True, type=click.Choice(choices), default=choices,
        help=f"{text} May be given again.  [default: all]",
    )  # fmt: skip


@click.command("bench")
@click.option("--quick", is_flag=True, help="A look in some 15 seconds, with a wide spread.")
@click.option(
    "--cores", type=click.Choice(["one", "two"]), default="one", show_default=True,
    help="Client and servers share a core, or have one each.",
)  # fmt: skip
@_several("--transport", "transports", ("socket", "tcp"), "Over what.")
@_several("--calls", "calls", ("reserve", "reserve+commit"), "What each caller does.")
@_several("--durability", "durabilities", ("process", "power"), "What an answer survives.")
@click.option(
    "--in-flight", multiple=True, default=(1, 128), show_default=True, metavar="N",
    type=click.IntRange(1, _IN_FLIGHT_MAX), help="Calls in flight, in all. May be given again.",
)  # fmt: skip
@click.option(
    "--connections", default=1, show_default=True, metavar="N", type=click.IntRange(1, 64),
    help="Connections that share the calls in flight, where there are as many.",
)  # fmt: skip
@click.option(
    "--repeats", metavar="N", type=click.IntRange(1, 99),
    help="Rounds of each row.  [default: 9; quick: 3]",
)  # fmt: skip
@click.option(
    "--data", metavar="DIRECTORY", type=click.Path(exists=True, file_okay=False, writable=True),
    help="Where the data lie meanwhile: the disk that is measured.  [default: temporary files]",
)  # fmt: skip
@click.option(
    "--target", metavar="ADDRESS", help="A running sidecar to drive: unix:PATH or HOST:PORT.",
)  # fmt: skip
@admin_option
@show.json_option
def command(
    *, quick: bool, cores: str, data: str | None, target: str | None, address: str, as_json: bool,
    **shape: Any,  # noqa: ANN401  click's values, by option
) -> None:  # fmt: skip
    """Measure a sidecar beside a bare echo, and audit what it counted.

    Starts a sidecar on a policy of its own and an echo of the same messages, drives both by turns,
    and prints what each call cost as a ratio to the echo. Then it compares what its clients were
    told with the ledger, the standings and the books: exits 1 and says which where they differ.

    With --target it drives a sidecar that runs: its policy must grant the calls, what they use
    stays in its books, and the audit is of this run's own entries, where its ledger is on this
    machine.

    \b
    Examples:
      bursar bench --quick
      bursar bench --cores two --transport socket --json
      bursar bench --in-flight 128 --connections 8 --durability power --data /var/lib
      bursar bench --quick --target unix:/run/bursar/bursar.sock
    """
    from bursar.bench import run
    from bursar.bench.place import placement

    plan = _plan(quick=quick, **shape)
    try:
        place = placement(cores)
        if target is None:
            facts = run.own(plan, place, Path(data or tempfile.gettempdir()), _say)
        else:
            plan, at = _aimed(plan, target)
            facts = run.target(plan, place, at, _ledger(at, address), _say)
    except SettingsError as error:
        show.fail(show.EXIT_WRONG, str(error))
    except LoadDenied as error:
        hint = "a bench needs a policy that grants each of its calls, of 2_000 tokens and 4 labels"
        show.fail(show.EXIT_NO, str(error), hint)
    except (BursarError, RuntimeError, OSError) as error:
        show.fail(show.EXIT_UNDECIDED, str(error), several_lines=True)
    _print(facts, as_json=as_json)
    raise SystemExit(0 if facts["ok"] else show.EXIT_NO)


def _plan(
    *,
    quick: bool,
    transports: Sequence[str],
    calls: Sequence[str],
    durabilities: Sequence[str],
    in_flight: Sequence[int],
    connections: int,
    repeats: int | None,
) -> Plan:
    from bursar.bench.measure import Plan

    for number in in_flight:
        if number > connections and number % connections:
            show.fail(
                show.EXIT_WRONG,
                f"--in-flight {number} cannot be shared by {connections} connections evenly",
                f"write {connections * (number // connections + 1)}",
            )
    pace = {"repeats": repeats or 3, "span_ms": 60} if quick else {"repeats": repeats or 9}
    # Said twice, measured once.
    return Plan(
        transports=tuple(dict.fromkeys(transports)),
        calls=tuple(dict.fromkeys(calls)),
        durabilities=tuple(dict.fromkeys(durabilities)),
        in_flight=tuple(dict.fromkeys(in_flight)),
        connections=connections,
        **pace,
    )


def _aimed(plan: Plan, target: str) -> tuple[Plan, str]:
    """The plan over the target's transport alone, and the target as it is dialled."""
    from dataclasses import replace

    if target.startswith("unix:"):
        return replace(plan, transports=("socket",)), f"unix:{Path(target[5:]).absolute()}"
    try:
        return replace(plan, transports=("tcp",)), loopback(target)
    except SettingsError as error:
        show.fail(show.EXIT_WRONG, f"--target {error}", "a Unix socket is written unix:PATH")


def _ledger(target: str, admin_address: str) -> Path | str:
    """The target's data directory where it is here to be read, else why there is no audit."""
    import grpc

    from bursar.v1 import admin_pb2, admin_pb2_grpc

    try:
        where = loopback(admin_address)
    except SettingsError as error:
        show.fail(show.EXIT_WRONG, f"--admin-listen {error}")
    with grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            status = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=_STATUS_S_MAX)
        except grpc.RpcError:
            return f"nobody says at {where} where the target's ledger is; name it: --admin-listen"
    if target not in {f"unix:{Path(status.socket).absolute()}", status.listen}:
        return f"the sidecar at {where} is not the target; name the target's: --admin-listen"
    data = Path(status.data_directory)
    if not os.access(data, os.R_OK | os.X_OK):
        return f"its ledger cannot be read here: {data}"
    return data


def _say(line: str) -> None:
    show.say(line, err=True)


def _print(facts: dict[str, Any], *, as_json: bool) -> None:
    from bursar.bench.show import report

    if as_json:
        show.print_json(facts)
        return
    report(show.out(), facts, show.table("", []))
