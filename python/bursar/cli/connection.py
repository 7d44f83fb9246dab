"""The way of a command to a running sidecar's control plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import click
import grpc

from bursar.cli import show
from bursar.config import ADMIN_LISTEN, loopback
from bursar.errors import SettingsError
from bursar.v1 import admin_pb2_grpc

DEADLINE_S = 10.0
"""How long a command waits for an answer."""

admin_option = click.option(
    "--admin-listen", "address", default=ADMIN_LISTEN, show_default=True, metavar="ADDRESS",
    envvar="BURSAR_ADMIN_LISTEN", show_envvar=True, help="The sidecar's admin address.",
)  # fmt: skip
"""The option of every command that asks a running sidecar."""

_QUESTION_WRONG = (
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED,
)  # fmt: skip


@contextmanager
def admin(address: str) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    """A connection to the sidecar at `address`; what goes wrong on it ends the command."""
    try:
        target = loopback(address)
    except SettingsError as error:
        show.fail(show.EXIT_WRONG, f"--admin-listen {error}")
    # A policy with its overrides may be longer than what gRPC takes if nothing is said.
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(target, options=options) as channel:
        try:
            yield admin_pb2_grpc.AdminServiceStub(channel)
        except grpc.RpcError as error:
            _fail(target, error)


def check_limit(limit: str, stub: admin_pb2_grpc.AdminServiceStub) -> None:
    """Ends the command where the policy has no such limit: "0 found" would hide a slip."""
    from bursar.policy.scalars import nearest
    from bursar.v1 import admin_pb2

    policy = stub.GetPolicy(admin_pb2.GetPolicyRequest(), timeout=DEADLINE_S).policy
    names = [each.name for each in policy.limits]
    if limit not in names:
        near = nearest(limit, names)
        hint = f"did you mean {near}?" if near else f"it has: {', '.join(names) or 'none'}"
        show.fail(show.EXIT_WRONG, f"the policy has no limit {limit}; {hint}")


def _says_why(call: grpc.Call) -> bool:
    """Whether a status has the details that a sidecar sends with each of its own."""
    return any(key == "grpc-status-details-bin" for key, _ in call.trailing_metadata() or ())


def _fail(target: str, error: grpc.RpcError) -> None:
    call = cast("grpc.Call", error)  # every error of a stub's call is the call too
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.UNIMPLEMENTED and not _says_why(call):
        show.fail(
            show.EXIT_WRONG,
            f"what answers at {target} is not a sidecar's admin: it may be its data plane",
            f"name its admin address, {ADMIN_LISTEN} if nothing else is said: --admin-listen",
        )
    if code in _QUESTION_WRONG:
        show.fail(show.EXIT_WRONG, details)
    if code is grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
        show.fail(
            show.EXIT_UNDECIDED,
            f"no sidecar answers at {target}",
            "start one with `bursar serve`, or name its admin address: --admin-listen; "
            "one that is there may have no connection left: ask again",
        )
    show.fail(
        show.EXIT_UNDECIDED,
        f"the sidecar at {target} answered {code.name}: {details}",
        "ask again; if it stays so, its log says why",
    )
