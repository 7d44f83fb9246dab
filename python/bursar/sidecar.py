"""Puts the parts of a sidecar together, given its settings; starts and stops them."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry

from bursar import _core
from bursar.admin.drain import Drain
from bursar.admin.http import HttpServer, application
from bursar.admin.metrics import count_process
from bursar.admin.policy_file import PolicyFile
from bursar.admin.service import AdminServer, AdminService, Place
from bursar.books.books import Books, open_books
from bursar.config import Settings
from bursar.disk import ephemeral_type, open_to_all
from bursar.errors import BadPolicy, BooksError, CoreError, Mistake, PolicyError, StartError
from bursar.open_files import allow_connections
from bursar.policy.parse import ParsedPolicy, bugs_told, parse
from bursar.v1 import admin_pb2
from bursar.wire import policy_message

EXIT_DIED = 70
"""What `serve` exits with when the data plane can answer no more: restart it."""

_ADMIN_GRACE_S = 2.0
_WATCH_MS = 500
_NAMED = re.compile(r"[`\"]([^`\"]+)[`\"]")
_log = logging.getLogger(__name__)


def read_policy(path: Path) -> tuple[ParsedPolicy, bytes]:
    """Reads a policy file and has the rules check it too; raises PolicyError with every mistake.

    Returns what was read and the bytes of its bursar.v1.Policy.
    """
    with bugs_told(path):
        parsed = parse(path)
        message = _message(parsed)
        found = _core.check_policy(policy=message)
    if found:
        raise PolicyError([_mistake_of_rules(parsed, each) for each in found])
    return parsed, message


def _message(parsed: ParsedPolicy) -> bytes:
    """The bytes of a policy's bursar.v1.Policy."""
    return policy_message(parsed.policy).SerializeToString(deterministic=True)


def _mistake_of_rules(parsed: ParsedPolicy, what: str) -> Mistake:
    """A mistake that only the rules found, at the line of the first name it quotes."""
    lines = parsed.source.decode().splitlines()
    for name in _NAMED.findall(what):
        for number, line in enumerate(lines, start=1):
            if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", line):
                return Mistake(parsed.path, number, 1, what)
    return Mistake(parsed.path, 0, 0, what)


@contextmanager
def _words_of(parsed: ParsedPolicy) -> Iterator[None]:
    """Says of a policy that the data plane refuses where in its file the mistakes are."""
    try:
        yield
    except BadPolicy as error:
        found = str(error).splitlines()
        raise PolicyError([_mistake_of_rules(parsed, each) for each in found]) from None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running sidecar answers, as bound; empty where it does not."""

    socket: str
    listen: str
    admin: str
    http: str


class Sidecar:
    """One running sidecar: data plane, books, admin and HTTP. Use it as `async with`."""

    def __init__(self, settings: Settings, *, hand_clock_unix_ms: int | None = None) -> None:
        """Takes the settings; a hand clock, for tests, stands still until it is set."""
        self._settings = settings
        self._hand_clock_unix_ms = hand_clock_unix_ms
        self._undo = AsyncExitStack()
        self._registry = CollectorRegistry()
        count_process(self._registry)
        self._stopped = False
        self._dead = False
        self._core: _core.Sidecar
        self._drain: Drain
        self._policy_file: PolicyFile
        self.addresses: Addresses
        self.policy_name = ""

    @property
    def core(self) -> _core.Sidecar:
        """The data plane."""
        return self._core

    async def __aenter__(self) -> Self:
        """Starts every part; what was started is stopped again if a later one fails."""
        try:
            await self._start()
        except BaseException:
            await self._undo.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops every part in order."""
        await self.stop()

    async def _start(self) -> None:
        settings = self._settings
        parsed, message = await asyncio.to_thread(read_policy, Path(settings.policy))
        self.policy_name = parsed.policy.policy
        data_directory = _made_directory(Path(settings.data), mode=0o700)
        _warn_of_disk(data_directory, parsed)
        socket = _made_home(settings.socket_path) if settings.socket_path else ""
        self._core = await asyncio.to_thread(self._start_core, parsed, message)
        self._undo.push_async_callback(self._stop_core)
        books = await asyncio.to_thread(open_books, data_directory)
        self._undo.callback(books.close)
        self._check_books(books)
        self._drain = Drain(source=self._core, books=books, registry=self._registry)
        started_at_unix_ms = time.time_ns() // 1_000_000
        place = Place(str(data_directory), socket, self._core.listen_address(), started_at_unix_ms)
        self._policy_file = PolicyFile(
            Path(settings.policy), activate=self._activate, registry=self._registry
        )
        service = AdminService(
            core=self._core,
            books=books,
            drain=self._drain,
            place=place,
            policy_file=self._policy_file,
        )
        admin = AdminServer(service)
        admin_address = await admin.start(settings.admin_listen)
        self._undo.push_async_callback(admin.stop, _ADMIN_GRACE_S)
        http = HttpServer(
            application(
                metrics=self._metrics,
                not_ready_reason=self._not_ready_reason,
                registry=self._registry,
            )
        )
        http_address = await http.start(settings.http_listen)
        self._undo.push_async_callback(http.stop)
        self._admin = admin
        draining = asyncio.create_task(self._drain_again_and_again())
        self._undo.push_async_callback(_cancelled, draining)
        watching = asyncio.create_task(self._policy_file.watch())
        self._undo.push_async_callback(_cancelled, watching)
        self.addresses = Addresses(place.socket, place.listen, admin_address, http_address)

    def look_at_policy_file(self) -> None:
        """Has the policy file read now, even if it looks as it did."""
        self._policy_file.look_now()

    def _activate(self, parsed: ParsedPolicy) -> int | None:
        """Brings a policy that was read into force; raises PolicyError, and the old one stays."""
        with _words_of(parsed):  # the data plane has the rules check it
            return self._core.activate(
                policy=_message(parsed),
                policy_digest=parsed.digest,
                policy_source=parsed.source,
                reset_changed=self._settings.reset_changed,
            )

    def _start_core(self, parsed: ParsedPolicy, message: bytes) -> _core.Sidecar:
        with _words_of(parsed):
            return self._new_core(parsed, message)

    def _new_core(self, parsed: ParsedPolicy, message: bytes) -> _core.Sidecar:
        settings = self._settings
        return _core.Sidecar(
            data_directory=settings.data,
            socket=settings.socket_path or None,
            listen=settings.listen or None,
            policy=message,
            policy_digest=parsed.digest,
            policy_source=parsed.source,
            segment_bytes=settings.segment_bytes,
            ledger_bytes_max=settings.ledger_bytes_max,
            counters_max=settings.counters_max,
            reservations_open_max=settings.reservations_open_max,
            settled_ids_max=settings.settled_ids_max,
            settled_span_ms=settings.settled_span_ms,
            connections_max=settings.connections_max,
            connections_per_caller_max=settings.connections_per_caller_max,
            reset_changed=settings.reset_changed,
            hand_clock_unix_ms=self._hand_clock_unix_ms,
        )

    async def _stop_core(self) -> None:
        try:
            await asyncio.to_thread(self._core.stop, grace_ms=self._settings.stop_grace_ms)
        except Exception:
            if not self._dead:  # what killed it has been said already
                raise

    def _check_books(self, books: Books) -> None:
        """Refuses books that are ahead of the ledger: they are of another one."""
        ledger = admin_pb2.GetStatusResponse.FromString(self._core.status()).ledger
        position = books.through_sequence()
        if position > ledger.sequence:
            message = (
                f"the books include sequence {position}, but the ledger ends at {ledger.sequence}: "
                "they are not of one data directory; bring back the one that was lost"
            )
            raise BooksError(message)

    def _metrics(self) -> str:
        try:
            return self._core.metrics()
        except CoreError:
            return (
                ""  # it has stopped counting; what the control plane counts is still worth showing
            )

    def _not_ready_reason(self) -> str:
        try:
            status = admin_pb2.GetStatusResponse.FromString(self._core.status())
        except CoreError as error:
            return str(error)
        return "" if status.ready else status.not_ready_reason or "the data plane is not ready"

    async def _drain_again_and_again(self) -> None:
        said = ""
        while True:
            try:
                await asyncio.to_thread(self._drain.once)
                said = ""
            except Exception as error:  # noqa: BLE001  decisions go on whatever the books do
                if str(error) != said:
                    _log.error("usage cannot be taken into the books", exc_info=error)
                said = str(error)
            await asyncio.sleep(self._settings.drain_interval_ms / 1000)

    async def died(self) -> str:
        """Waits until the data plane ends; returns why it died, or empty if it was stopped."""
        while (why := await asyncio.to_thread(self._core.wait, timeout_ms=_WATCH_MS)) is None:
            pass
        self._dead = not self._stopped
        return why

    async def stop(self) -> None:
        """Goes unready, lets calls in flight end, takes the last usage in, and closes all parts."""
        if self._stopped:
            return
        self._stopped = True
        await self._admin.say_serving(serving=False)
        if not self._dead:
            await self._take_the_last()
        await self._undo.aclose()

    async def _take_the_last(self) -> None:
        await asyncio.to_thread(self._core.drain)
        try:
            await asyncio.to_thread(self._drain.once)
        except Exception as error:  # noqa: BLE001  what is left is taken in after the next start
            _log.warning("the last usage stays in the ledger until the next start: %s", error)


def _made_directory(path: Path, *, mode: int) -> Path:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the directory {path} cannot be made: {error.strerror}") from None
    return path.absolute()


def _made_home(socket: str) -> str:
    """Makes the directory a socket is to be in; returns the socket's absolute path."""
    path = Path(socket)
    home = _made_directory(path.parent, mode=0o750)
    if open_to_all(home):
        _log.warning(
            "everyone may write into the socket's directory %s, and so put a socket of their own "
            "in its place: chmod o-w it, or name a socket in a directory that is not there yet",
            home,
        )
    return str(home / path.name)


def _warn_of_disk(data_directory: Path, parsed: ParsedPolicy) -> None:
    """Says in the log if what must be remembered for days is kept where the pod's end loses it."""
    kind = ephemeral_type(data_directory)
    limits = parsed.policy.limits
    long = [limit.name for limit in limits if limit.window and limit.window.lasts_a_day]
    if kind and long:
        _log.warning(
            "the data directory %s is on %s, which is lost with the pod or the machine, and the "
            "limit %s counts over a day or longer: give the sidecar a volume that stays",
            data_directory, kind, long[0],
        )  # fmt: skip


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancels a task and waits until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def serve(settings: Settings, *, when_ready: Callable[[Sidecar], None]) -> int:
    """Serves until SIGTERM or SIGINT; returns 0 then, or EXIT_DIED when the data plane died.

    Raises BursarError, with every mistake at once, where it cannot start.
    """
    return asyncio.run(_serve(settings, when_ready))


async def _serve(settings: Settings, when_ready: Callable[[Sidecar], None]) -> int:
    allow_connections(settings.connections_max)
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    async with Sidecar(settings) as sidecar:
        loop.add_signal_handler(signal.SIGHUP, sidecar.look_at_policy_file)
        if settings.reset_changed:
            _log.warning(
                "limits that a changed policy counts anew begin without what was used before: "
                "--reset-changed"
            )
        when_ready(sidecar)
        stop = asyncio.create_task(told_to_stop.wait())
        death = asyncio.create_task(sidecar.died())
        await asyncio.wait((stop, death), return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            stop.cancel()
            _log.critical("the data plane died: %s", death.result() or "it was stopped from within")
            return EXIT_DIED
        _log.info("stopping: nothing new is reserved, calls in flight may end")
        await sidecar.stop()
        await death
    _log.info("stopped")
    return 0
