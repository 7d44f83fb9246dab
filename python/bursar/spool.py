"""The settlements on a caller's disk that no sidecar has answered yet: files that outlive us.

One file belongs to one client of one process, which holds a lock on it. When the process is gone,
the next client of the same sidecar takes the file over. A frame is a length, a CRC-32 and a
SpoolEntry; a torn or spoilt tail is cut. A write is handed to the system at once, so an entry
survives the process dying at any instruction; `sync`, behind the caller's back, makes it survive a
loss of power.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import struct
import threading
import time
import weakref
import zlib
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError

from bursar.errors import SpoolError
from bursar.v1 import spool_pb2

RECORDS_MAX = 100_000
"""The most settlements that one client keeps on disk."""

BYTES_MAX = 64 * 1024 * 1024
"""The most bytes of settlements that one client keeps on disk; its file is at most twice that."""

REFUSED_BYTES_MAX = 16 * 1024 * 1024
"""The most bytes of refused settlements that are kept aside for a person, for one sidecar."""

VARIABLE = "BURSAR_SPOOL"
"""The environment variable that names the directory for what waits."""

_MAGIC = b"bursar-spool-1\n"
_FRAME = struct.Struct("<II")  # the payload's length and its CRC-32
_PAYLOAD_BYTES_MAX = 1024 * 1024
_SLACK_BYTES = 1024 * 1024  # how much more than what waits a file may hold before it is rewritten
_NAMES_TRIED_MAX = 8
_SUFFIX = ".spool"

_log = logging.getLogger("bursar")
_open_spools: weakref.WeakSet[Spool] = weakref.WeakSet()
_fork_hook = threading.Lock()


class Spool:
    """One client's file of settlements that wait; not for threads at once: the outbox locks it."""

    _hooked = False

    def __init__(
        self,
        base: Path,
        target: str,
        *,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """Touches nothing yet: the file is made with the first entry and goes with the last."""
        self._handle = -1
        self._syncing: set[int] = set()  # duplicates that the disk is busy with
        named = hashlib.sha256(_one_name(target).encode()).hexdigest()[:16]
        self.directory = base / named
        self._records_max, self._bytes_max = records_max, bytes_max
        self._waiting: dict[str, bytes] = {}  # by id, the oldest first
        self._waiting_bytes = 0
        self._file_bytes = 0
        self._synced = True
        self._path = self.directory / "none"

    def __del__(self) -> None:
        """Lets go of the file of a client that was not closed."""
        if self._handle >= 0:
            os.close(self._handle)

    def count(self) -> int:
        """How many settlements wait."""
        return len(self._waiting)

    def check_usable(self) -> None:
        """Makes the directory; raises SpoolError where it cannot be written."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"{self.directory} cannot be made: {error.strerror}") from None
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise SpoolError(f"{self.directory} cannot be written")

    def put(self, entry: spool_pb2.SpoolEntry) -> None:
        """Writes an entry in the place of an earlier one of its id; raises SpoolError.

        Past a bound the new entry is refused and the old ones stay: they are nearest to the horizon
        past which the sidecar can no longer count them, and whoever is refused can be told.
        """
        payload = entry.SerializeToString(deterministic=True)
        before = self._waiting.get(entry.reservation_id, b"")
        if not before and len(self._waiting) >= self._records_max:
            raise SpoolError(f"{self._records_max:,} settlements wait already", reason="FULL")
        if self._waiting_bytes - len(before) + len(payload) > self._bytes_max:
            raise SpoolError(f"{self._waiting_bytes:,} bytes wait already", reason="FULL")
        if len(payload) > _PAYLOAD_BYTES_MAX:
            raise SpoolError(f"it is too large to keep: {len(payload):,} bytes", reason="FULL")
        try:
            self._append(_framed(payload))
        except OSError as error:
            raise SpoolError(f"{self.directory} cannot be written: {error.strerror}") from None
        self._waiting_bytes += len(payload) - len(before)
        self._waiting[entry.reservation_id] = payload

    def remove(self, reservation_id: str) -> None:
        """Forgets an entry, if there is one; the last one takes the file with it."""
        payload = self._waiting.pop(reservation_id, None)
        if payload is None:
            return
        self._waiting_bytes -= len(payload)
        if not self._waiting:
            self._drop_file()
            return
        done = spool_pb2.SpoolEntry(reservation_id=reservation_id).SerializeToString()
        # Without it the settlement is sent once more after a crash, and counts once all the same.
        with contextlib.suppress(OSError):
            self._append(_framed(done))

    def get(self, reservation_id: str) -> spool_pb2.SpoolEntry | None:
        """The entry of an id, or None."""
        payload = self._waiting.get(reservation_id)
        return None if payload is None else spool_pb2.SpoolEntry.FromString(payload)

    def begin_sync(self) -> int | None:
        """A handle for `end_sync`, which need not be locked; None where all has been synced."""
        if self._synced or self._handle < 0:
            return None
        self._synced = True
        handle = os.dup(self._handle)
        self._syncing.add(handle)
        return handle

    def end_sync(self, handle: int) -> None:
        """Makes what was written survive a loss of power; waits for the disk."""
        try:
            os.fdatasync(handle)
        except OSError as error:
            _log.warning("what waits for the sidecar may not survive a loss of power: %s", error)
        finally:
            self._syncing.discard(handle)
            os.close(handle)

    def orphans(self) -> list[Path]:
        """The files of other clients of this sidecar, of which some may be gone."""
        try:
            return sorted(each for each in self.directory.glob(f"*{_SUFFIX}") if each != self._path)
        except OSError:
            return []

    def adopt(self) -> list[str]:
        """Takes over the entries of clients that are gone, and gives their ids."""
        found: list[str] = []
        for path in self.orphans():
            try:
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue  # another client was faster, or it is not ours to read
            try:
                if _locked(handle, path):
                    found += self._take_over(handle, path)
            except (OSError, SpoolError) as error:
                _log.warning("settlements stay in %s for later: %s", path, error)
            finally:
                os.close(handle)
        return found

    def close(self) -> None:
        """Lets go of the file; what waits in it is for the next client."""
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)
        self._waiting.clear()
        self._waiting_bytes, self._file_bytes, self._synced = 0, 0, True

    def forget(self) -> None:
        """Closes a forked child's copies of the handle, which would hold its parent's lock."""
        for handle in self._syncing:
            os.close(handle)
        self._syncing.clear()
        self.close()

    def set_aside(self, entry: spool_pb2.SpoolEntry, why: str) -> Path:
        """Keeps what the sidecar refused, as a line of JSON for a person; raises SpoolError."""
        path = self.directory / "refused.jsonl"
        said = MessageToJson(entry, indent=None, preserving_proto_field_name=True)
        instant = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = f'{{"refused_at": "{instant}", "why": {json.dumps(why)}, "entry": {said}}}\n'
        line = said.encode()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(handle).st_size + len(line) > REFUSED_BYTES_MAX:
                    raise SpoolError(f"{path} is full: {REFUSED_BYTES_MAX:,} bytes")
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise SpoolError(f"{path} cannot be written: {error.strerror}") from None
        return path

    def _take_over(self, handle: int, path: Path) -> list[str]:
        entries, spoilt_bytes = _read(handle)
        if spoilt_bytes:
            _log.warning("%s: its last %d bytes were torn and are cut", path, spoilt_bytes)
        if len(self._waiting) + len(entries) > self._records_max:
            raise SpoolError("there is no room for them in ours", reason="FULL")
        for entry in entries:
            entry.running = False  # whoever ran it is gone
            self.put(entry)
        if self._handle >= 0:
            os.fdatasync(self._handle)
        path.unlink()
        return [entry.reservation_id for entry in entries]

    def _append(self, frame: bytes) -> None:
        if self._handle < 0:
            self._make_file()
        elif self._file_bytes > 2 * self._waiting_bytes + _SLACK_BYTES:
            self._rewrite()
        self._write(frame)

    def _write(self, frame: bytes) -> None:
        self._synced = False
        if os.write(self._handle, frame) != len(frame):
            os.ftruncate(self._handle, self._file_bytes)  # no torn frame stays in the middle
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file_bytes += len(frame)

    def _make_file(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(_NAMES_TRIED_MAX):
            path = self.directory / f"{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            handle = os.open(path, flags, 0o600)
            if _locked(handle, path):
                break
            os.close(handle)  # a client that looked for orphans was between our making and locking
        else:
            raise OSError(errno.EAGAIN, "its files are taken as soon as they are made")
        self._handle, self._path = handle, path
        self._file_bytes = os.write(handle, _MAGIC)
        _close_in_children(self)

    def _rewrite(self) -> None:
        """Leaves what is done behind: a new file with what waits, then the old one goes."""
        old_handle, old_path = self._handle, self._path
        try:
            self._make_file()
            for payload in self._waiting.values():
                self._write(_framed(payload))
            os.fdatasync(self._handle)
        except OSError:
            if self._handle != old_handle:
                self._path.unlink(missing_ok=True)
                os.close(self._handle)
            self._handle, self._path = old_handle, old_path
            self._file_bytes = os.fstat(old_handle).st_size
            raise
        old_path.unlink(missing_ok=True)
        os.close(old_handle)

    def _drop_file(self) -> None:
        if self._handle >= 0:
            self._path.unlink(missing_ok=True)
        self.close()


def find_directory(spool: str | os.PathLike[str] | None) -> Path:
    """The directory for what waits: as given, else as `VARIABLE` says, else in the user's state."""
    if spool is not None:
        return Path(spool).absolute()
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    state = os.environ.get("XDG_STATE_HOME")
    home = Path(state) if state else Path(os.path.expanduser("~")) / ".local" / "state"  # noqa: PTH111  Path.expanduser raises without a home
    return (home / "bursar" / "spool").absolute()


def _one_name(target: str) -> str:
    """The same name for a socket however its path is written."""
    if target.startswith("unix:"):
        return "unix:" + os.path.abspath(target.removeprefix("unix:").removeprefix("//"))  # noqa: PTH100  no file is looked at
    return target


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _locked(handle: int, path: Path) -> bool:
    """Locks a file; says no if another client has it, or it is no longer at its path."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(handle).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _read(handle: int) -> tuple[list[spool_pb2.SpoolEntry], int]:
    """Reads a file; gives what waits in it, and how many bytes at its end cannot be read."""
    with open(handle, "rb", closefd=False) as file:
        held = file.read(2 * BYTES_MAX + 2 * _SLACK_BYTES)
    if _MAGIC.startswith(held):  # its maker died before its first entry
        return [], 0
    if not held.startswith(_MAGIC):
        raise SpoolError("it is of another version of bursar")
    waiting: dict[str, spool_pb2.SpoolEntry] = {}
    at = len(_MAGIC)
    while at + _FRAME.size <= len(held):
        length, crc = _FRAME.unpack_from(held, at)
        payload = held[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) != length or zlib.crc32(payload) != crc:
            break
        try:
            entry = spool_pb2.SpoolEntry.FromString(payload)
        except DecodeError:
            break
        at += _FRAME.size + length
        waiting.pop(entry.reservation_id, None)
        if entry.HasField("commit") or entry.HasField("release"):
            waiting[entry.reservation_id] = entry
    return list(waiting.values()), len(held) - at


def _close_in_children(spool: Spool) -> None:
    """Has forked children let go of the lock, or nobody could take the file over while they run."""
    with _fork_hook:
        _open_spools.add(spool)
        if not Spool._hooked:  # noqa: SLF001  once per process, at its first file
            Spool._hooked = True  # noqa: SLF001
            os.register_at_fork(after_in_child=_forget_all)


def _forget_all() -> None:
    for spool in list(_open_spools):
        spool.forget()
