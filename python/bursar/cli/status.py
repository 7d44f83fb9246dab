"""`bursar status`: shows what a running sidecar is and how it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.text import Text

from bursar.cli import show
from bursar.cli.connection import DEADLINE_S, admin, admin_option
from bursar.plain import literal

if TYPE_CHECKING:
    from bursar.v1 import admin_pb2


@click.command("status")
@admin_option
@show.json_option
def command(address: str, *, as_json: bool) -> None:
    """Show what a running sidecar is and how it stands; exits 1 if it is not ready.

    \b
    Examples:
      bursar status
      bursar status --json | jq .ledger.durable_sequence
    """
    from bursar.v1 import admin_pb2

    with admin(address) as stub:
        status = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    if as_json:
        show.print_json(show.as_plain(status))
    else:
        _print(status)
    raise SystemExit(0 if status.ready else show.EXIT_NO)


def _print(status: admin_pb2.GetStatusResponse) -> None:
    console = show.out()
    ready = ("ready", "green") if status.ready else ("not ready", "red")
    program = literal(f"bursar {status.version}, process {status.process_id}: ")
    console.print(Text.assemble(program, ready))
    if not status.ready:
        console.print(f"  {status.not_ready_reason}")
    rows = show.table("", ["", ""])
    rows.show_header = False
    for name, value in _facts(status):
        rows.add_row(name, value)
    console.print(rows)


def _facts(status: admin_pb2.GetStatusResponse) -> list[tuple[str, str]]:
    ledger = status.ledger
    answers = [f"unix:{status.socket}"] if status.socket else []
    answers += [status.listen] if status.listen else []
    behind = (
        f"index {show.amount(ledger.index_sequence)}, books {show.amount(ledger.books_sequence)}"
    )
    written = f"{show.amount(ledger.sequence)}, durable {show.amount(ledger.durable_sequence)}"
    policy = f"{status.policy_name}, version {status.policy_version}, sha256 {status.policy_digest}"
    segments = f"{ledger.segments} segment{'' if ledger.segments == 1 else 's'}"
    disk = f"{show.size(ledger.bytes)} of {show.size(ledger.bytes_max)}, {segments}"
    facts = [
        ("policy", policy),
        ("serving since", show.instant(status.started_at_unix_ms)),
        ("counted by", status.counted_by),
        ("answers at", ", ".join(answers)),
        ("data", status.data_directory),
        ("ledger", f"sequence {written}; {behind}"),
        ("on disk", disk),
        ("open reservations", _of(status.reservations_open, status.reservations_open_max)),
        ("counters", _of(status.counters, status.counters_max)),
        ("remembered ids", _of(status.settled_ids, status.settled_ids_max)),
    ]  # fmt: skip
    if status.settled_horizon_unix_ms > 0:
        facts.append(("remembered since", show.instant(status.settled_horizon_unix_ms)))
    if status.window_time_unix_ms:
        facts.append(("window time", show.instant(status.window_time_unix_ms)))
    if ledger.entries_cut:
        facts.append(("cut at start", f"{show.amount(ledger.entries_cut)} entries never durable"))
    file = status.policy_file
    read = f"{file.path}, read {show.instant(file.read_at_unix_ms)}"
    changes = f"{show.amount(file.reloads)} taken, {show.amount(file.refusals)} refused"
    facts.insert(1, ("policy file", f"{read}; changes since the start: {changes}"))
    refused = [line for each in file.mistakes for line in f"refused: {each}".split("\n")]
    facts[2:2] = [("", line) for line in refused]
    if ledger.poisoned:
        facts.append(("poisoned", ledger.poisoned))
    return facts


def _of(now: int, most: int) -> str:
    return f"{show.amount(now)} of {show.amount(most)}"
