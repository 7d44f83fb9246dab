"""The control plane on gRPC: each method asks one thing and words the answer."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import NoReturn, Protocol
from zoneinfo import ZoneInfo

import grpc
from google.protobuf.message import Message
from google.rpc import (  # type: ignore[import-untyped] # no stubs
    code_pb2,
    error_details_pb2,
    status_pb2,
)
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bursar import wire
from bursar.admin.drain import Drain
from bursar.admin.policy_file import PolicyFile
from bursar.books.books import Books
from bursar.errors import BooksError, CoreError, StartError, UnknownReservation
from bursar.v1 import admin_pb2, admin_pb2_grpc, quota_pb2

MESSAGE_BYTES_MAX = 64 * 1024
"""The largest request that admin takes."""

CALLS_MAX = 64
"""The most calls admin answers at one time; more are refused."""

CONNECTIONS_MAX = 64
"""The most connections of admin that are open at one time; one more is closed at once."""

METADATA_BYTES_MAX = 16 * 1024

_HANDSHAKE_MS_MAX = 5_000
_IDLE_MS_MAX = 300_000
_KEEPALIVE_MS, _KEEPALIVE_ANSWER_MS = 20_000, 5_000

WATCHERS_MAX = 16
"""The most that watch at one time; the data plane holds to it."""

HEARTBEAT_MS = 10_000
"""How long nothing happens before whoever watches is told that the stream is alive."""

_LOOK_MS = 200  # how long a watcher's thread waits at a time: so soon it sees that its caller left
_DOMAIN = "bursar"
_WITHIN = quota_pb2.ReserveRequest.DESCRIPTOR
_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[object, object]


class Watching(Protocol):
    """What happens, a message at a time."""

    def next(self, *, timeout_ms: int) -> bytes | None:
        """A WatchEventsResponse within the time; None once there will be no more."""


class Core(Protocol):
    """What admin asks of the data plane; messages as bytes."""

    def status(self) -> bytes:
        """A GetStatusResponse, as far as the data plane knows it."""

    def policy(self) -> bytes:
        """A GetPolicyResponse."""

    def standings(self, *, request: bytes) -> bytes:
        """A ListStandingsResponse to a ListStandingsRequest; ValueError for a wrong one."""

    def reservations(self, *, request: bytes) -> bytes:
        """A ListReservationsResponse to a ListReservationsRequest; ValueError for a wrong one."""

    def reservation(self, *, request: bytes) -> bytes:
        """A GetReservationResponse; UnknownReservation where it is not known."""

    def explain(self, *, request: bytes) -> bytes:
        """An ExplainResponse; ValueError for a wrong question, UnknownReservation likewise."""

    def watch(self, *, request: bytes) -> Watching | None:
        """Begins to watch; ValueError for a wrong question, None where too many watch."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this sidecar keeps its data and answers."""

    data_directory: str
    socket: str
    listen: str
    started_at_unix_ms: int


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Answers operators; whatever may wait, waits in a thread."""

    def __init__(
        self, *, core: Core, books: Books, drain: Drain, place: Place, policy_file: PolicyFile
    ) -> None:
        """Asks `core` about the data plane and `books` about usage, which `drain` brings there."""
        self._closing = False
        # Threads of their own: those that watch must not take the ones that answer.
        self._watchers = ThreadPoolExecutor(WATCHERS_MAX, thread_name_prefix="bursar-watch")
        self._policy_file = policy_file
        self._core = core
        self._books = books
        self._drain = drain
        self._place = place

    async def GetStatus(  # noqa: N802  the contract's name
        self, request: admin_pb2.GetStatusRequest, context: Context
    ) -> admin_pb2.GetStatusResponse:
        """Says what the sidecar is, how it stands, and what it counts for."""
        del request, context
        known = await asyncio.to_thread(self._core.status)
        return self.complete(admin_pb2.GetStatusResponse.FromString(known))

    def complete(self, status: admin_pb2.GetStatusResponse) -> admin_pb2.GetStatusResponse:
        """Adds to a status what the data plane does not know."""
        status.version = version("bursar")
        status.process_id = os.getpid()
        status.data_directory = self._place.data_directory
        status.socket = self._place.socket
        status.listen = self._place.listen
        status.started_at_unix_ms = self._place.started_at_unix_ms
        status.counted_by = "this sidecar, 1 of 1"
        status.ledger.books_sequence = self._drain.position
        status.policy_file.CopyFrom(self._policy_file.status)
        return status

    async def GetPolicy(  # noqa: N802
        self, request: admin_pb2.GetPolicyRequest, context: Context
    ) -> admin_pb2.GetPolicyResponse:
        """Gives the policy in force."""
        del request, context
        return await self._policy()

    async def ListStandings(  # noqa: N802
        self, request: admin_pb2.ListStandingsRequest, context: Context
    ) -> admin_pb2.ListStandingsResponse:
        """Lists where live counters stand, a page at a time."""
        answer = await _asked(self._core.standings, request, context)
        return admin_pb2.ListStandingsResponse.FromString(answer)

    async def ListReservations(  # noqa: N802
        self, request: admin_pb2.ListReservationsRequest, context: Context
    ) -> admin_pb2.ListReservationsResponse:
        """Lists open reservations, those that expire first first, a page at a time."""
        answer = await _asked(self._core.reservations, request, context)
        return admin_pb2.ListReservationsResponse.FromString(answer)

    async def GetReservation(  # noqa: N802
        self, request: admin_pb2.GetReservationRequest, context: Context
    ) -> admin_pb2.GetReservationResponse:
        """Gives one reservation or record with its ledger entries."""
        answer = await _asked(self._core.reservation, request, context)
        return admin_pb2.GetReservationResponse.FromString(answer)

    async def Explain(  # noqa: N802
        self, request: admin_pb2.ExplainRequest, context: Context
    ) -> admin_pb2.ExplainResponse:
        """Says which limits concern a request or held a reservation, and what is granted."""
        answer = await _asked(self._core.explain, request, context)
        return admin_pb2.ExplainResponse.FromString(answer)

    async def WatchEvents(  # noqa: N802
        self, request: admin_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[admin_pb2.WatchEventsResponse]:
        """Sends what happens until the caller hangs up or the sidecar stops."""
        asked = request.SerializeToString()
        try:
            watch = await asyncio.to_thread(self._core.watch, request=asked)
        except ValueError as error:
            await _refuse(context, _field_of(error, request), str(error))
        if watch is None:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{WATCHERS_MAX} watch already, as many as may: end one of them, and ask again",
            )
        loop = asyncio.get_running_loop()
        look = functools.partial(watch.next, timeout_ms=_LOOK_MS)
        # At once, so that whoever watches knows from where to go on should we go away.
        silent_ms = HEARTBEAT_MS
        while not self._closing:
            said = await loop.run_in_executor(self._watchers, look)
            if said is None:
                return
            message = admin_pb2.WatchEventsResponse.FromString(said)
            silent_ms = 0 if message.events or message.denials_dropped else silent_ms + _LOOK_MS
            if silent_ms == 0 or silent_ms >= HEARTBEAT_MS:
                silent_ms = 0
                yield message

    def close(self) -> None:
        """Ends whatever is watched, so that stopping waits for nobody."""
        self._closing = True
        self._watchers.shutdown(wait=False)

    async def QueryUsage(  # noqa: N802
        self, request: admin_pb2.QueryUsageRequest, context: Context
    ) -> admin_pb2.QueryUsageResponse:
        """Sums usage over a span by some labels, after taking in what the ledger has."""
        try:
            return await self._usage(request)
        except wire.FieldError as error:
            await _refuse(context, error.field, str(error))
        except (BooksError, CoreError) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    async def _usage(self, request: admin_pb2.QueryUsageRequest) -> admin_pb2.QueryUsageResponse:
        policy = (await self._policy()).policy
        zone = ZoneInfo(policy.time_zone or "UTC")
        kept = await asyncio.to_thread(self._books.label_keys)
        query = wire.usage_query(request, labels=kept.union(policy.rollups), zone=zone)
        await asyncio.to_thread(self._drain.once, catch_up=True)
        page = await asyncio.to_thread(self._books.query, query)
        return wire.usage_response(request, page, zone)

    async def _policy(self) -> admin_pb2.GetPolicyResponse:
        return admin_pb2.GetPolicyResponse.FromString(await asyncio.to_thread(self._core.policy))


async def _asked(ask: Callable[..., bytes], request: Message, context: Context) -> bytes:
    """Asks the data plane in a thread; words what it does not answer."""
    try:
        return await asyncio.to_thread(ask, request=request.SerializeToString())
    except ValueError as error:
        await _refuse(context, _field_of(error, request), str(error))
    except UnknownReservation as error:
        await _abort(context, grpc.StatusCode.NOT_FOUND, str(error), "RESERVATION_NOT_FOUND")
    except CoreError as error:  # it stops, or cannot write any more
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


def _field_of(error: ValueError, request: Message) -> str:
    """The field that the data plane's error names first, of the request or of one within it."""
    word = str(error).partition(":")[0].strip("` ")
    names = {*request.DESCRIPTOR.fields_by_name, *_WITHIN.fields_by_name}
    return word if word.partition("[")[0] in names else ""


async def _refuse(context: Context, field: str, message: str) -> NoReturn:
    """Answers INVALID_ARGUMENT with the field's name, for people and for programs."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
    bad = error_details_pb2.BadRequest(field_violations=[violation])
    await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, message, "INVALID_FIELD", bad)


async def _abort(
    context: Context, code: grpc.StatusCode, message: str, reason: str, *more: Message
) -> NoReturn:
    """Ends a call with a status that says why by a name, and what else there is to say."""
    details = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message)
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=_DOMAIN), *more):
        details.details.add().Pack(detail)
    await context.abort(code, message, (("grpc-status-details-bin", details.SerializeToString()),))


class AdminServer:
    """The gRPC server of the control plane, with health and reflection."""

    def __init__(self, service: AdminService) -> None:
        """Makes the server; `start` binds it."""
        self._service = service
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=CALLS_MAX,
            options=[
                ("grpc.so_reuseport", 0),  # or a second sidecar would share the port in silence
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_metadata_size", METADATA_BYTES_MAX),
                ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS_MAX),
                ("grpc.max_connection_idle_ms", _IDLE_MS_MAX),
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MS),
            ],
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, listen: str) -> str:
        """Binds `listen` and serves; returns the address as bound; raises StartError."""
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            _log.debug("admin could not bind", exc_info=error)
            raise StartError(f"admin cannot listen on {listen}: is it taken?") from None
        await self._server.start()
        await self.say_serving(serving=True)
        return f"{listen.rpartition(':')[0]}:{port}"

    async def say_serving(self, *, serving: bool) -> None:
        """Sets what grpc.health.v1 answers for the server and its service."""
        status = health_pb2.HealthCheckResponse
        value = status.SERVING if serving else status.NOT_SERVING
        for name in ("", _SERVICE):
            await self._health.set(name, value)

    async def stop(self, grace_s: float) -> None:
        """Stops; calls in flight have `grace_s` to end, and watching ends at once."""
        self._service.close()
        await self._server.stop(grace_s)
