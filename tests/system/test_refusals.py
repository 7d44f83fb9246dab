"""`bursar serve` on data that cannot be served: what is wrong, where, what to do, exit code 3."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.system.disks import mounted
from tests.system.test_faults import EXIT_UNDECIDED, POLICY, SMALL, commit, reserve

from bursar import _core

if TYPE_CHECKING:
    from tests.system.conftest import Serve, Served, Stock

    Connect = Callable[[str], Stock]

CALLS = 30
HEADER_BYTES = 128


def refused(served: Served, *words: str) -> str:
    """Checks that it did not start, and said these words on the way."""
    assert not served.ready
    code, log = served.ended()
    assert code == EXIT_UNDECIDED, log
    for word in ("the sidecar cannot start", *words):
        assert word in log, log
    assert "bursar verify" not in log, "there is no such command"
    assert "Traceback" not in log, log
    return log


@pytest.fixture
def data(serve: Serve, connect: Connect) -> Path:
    """The data of a sidecar that served some calls and was stopped."""
    served = serve(POLICY)
    stock = connect(served.socket)
    for number in range(CALLS):
        reserve(stock, f"r{number}")
        commit(stock, f"r{number}")
    assert served.ask("usage")["rows"]
    assert served.stop() == 0
    return served.data


def is_whole(served: Served, stock: Stock) -> None:
    """Checks that a sidecar serves all that was there."""
    for number in range(CALLS):
        assert commit(stock, f"r{number}").replayed
    assert [int(row["tokens"]) for row in served.ask("usage")["rows"]] == [7 * CALLS]
    assert served.stop() == 0
    assert _core.verify(data_directory=str(served.data))["problems"] == []


def segment_of(data: Path) -> Path:
    (segment,) = (data / "ledger").glob("*.log")
    return segment


def entries(segment: Path) -> list[int]:
    """Where each entry of a segment begins."""
    content, at, found = segment.read_bytes(), HEADER_BYTES, []
    while (length := struct.unpack_from("<I", content, at)[0]) > 0:
        found.append(at)
        at += length
    return found


def test_a_disk_that_nobody_may_write_is_named(serve: Serve, directory: Path) -> None:
    with mounted("tmpfs", directory, 4) as disk:
        (disk.path / "data").mkdir()
        disk.read_only()
        for data in (disk.path / "data", disk.path / "made"):
            served = serve(POLICY, BURSAR_DATA=str(data))
            log = refused(served, str(data), "Read-only file system")
            served.log.unlink()
            assert data.name == "made" or "name another data directory" in log


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_is_full_is_named_and_served_once_it_has_room(
    serve: Serve, connect: Connect, directory: Path, kind: str
) -> None:
    with mounted(kind, directory, 8) as disk:
        settings = {"BURSAR_DATA": str(disk.path / "data"), **SMALL}
        disk.fill()
        refused(serve(POLICY, **settings), str(disk.path), "No space left on device")
        # However little there is: no signal ends it, and nothing half made is in the way.
        for free in (4096, 8192, 16384, 32768, 65536):
            with (disk.path / "filler").open("r+b") as file:
                file.truncate(file.seek(0, 2) - free)
            refused_here = serve(POLICY, **settings)
            if refused_here.ready:
                refused_here.kill()
                continue
            code, log = refused_here.ended()
            assert code == EXIT_UNDECIDED, (code, log)
        disk.free()
        served = serve(POLICY, **settings)
        stock = connect(served.socket)
        reserve(stock, "r1")
        commit(stock, "r1")
        assert served.stop() == 0


def test_a_data_directory_that_is_a_file_is_named(serve: Serve, directory: Path) -> None:
    (directory / "data").write_text("mine")
    refused(serve(POLICY), str(directory / "data"), "cannot be made")
    assert (directory / "data").read_text() == "mine"


def test_an_entry_that_was_durable_and_is_broken_is_named_by_file_and_byte(
    serve: Serve, data: Path
) -> None:
    shutil.rmtree(data / "index")  # which would cover what comes before its last entry
    segment = segment_of(data)
    broken = entries(segment)[10]
    content = bytearray(segment.read_bytes())
    content[broken + 40] ^= 1
    segment.write_bytes(content)
    refused(
        serve(POLICY),
        f"{segment} is broken at byte {broken}",
        "entry 11",
        "bring this file back from a copy of the data directory",
    )
    assert segment.read_bytes() == content


def test_a_deleted_index_is_made_anew(serve: Serve, connect: Connect, data: Path) -> None:
    shutil.rmtree(data / "index")
    served = serve(POLICY)
    is_whole(served, connect(served.socket))


def test_an_index_ahead_of_its_ledger_is_refused(serve: Serve, data: Path) -> None:
    shutil.rmtree(data / "ledger")
    log = refused(serve(POLICY), "the index is at entry 61 and the ledger ends at entry 0")
    assert "restore the ledger's files" in log


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_damaged_index_is_named_and_made_anew_once_removed(
    serve: Serve, connect: Connect, data: Path, keep: float
) -> None:
    file = data / "index" / "data.mdb"
    content = file.read_bytes()
    kept = int(len(content) * keep)
    # Cut short, or nothing of LMDB's at all.
    file.write_bytes(content[:kept] or b"\x5a" * len(content))
    refused(serve(POLICY), "the index is damaged", "remove the folder `index`")
    shutil.rmtree(data / "index")
    served = serve(POLICY)
    is_whole(served, connect(served.socket))


def test_books_ahead_of_their_ledger_are_refused(
    serve: Serve, connect: Connect, data: Path
) -> None:
    older = data.with_name("older")
    shutil.copytree(data, older)
    served = serve(POLICY)
    stock = connect(served.socket)
    reserve(stock, "more")
    commit(stock, "more")
    served.ask("usage")
    assert served.stop() == 0
    for part in ("ledger", "index"):
        shutil.rmtree(data / part)
        shutil.copytree(older / part, data / part)
    refused(serve(POLICY), "the books include sequence 63, but the ledger ends at 61")


def test_damaged_books_are_named_and_made_anew_once_removed(
    serve: Serve, connect: Connect, data: Path
) -> None:
    books = data / "books.sqlite"
    books.write_bytes(b"\x5a" * 8192)
    refused(serve(POLICY), str(books), "remove books.sqlite")
    for file in data.glob("books.sqlite*"):
        file.unlink()
    served = serve(POLICY)
    is_whole(served, connect(served.socket))


def test_books_of_a_newer_version_are_refused(serve: Serve, data: Path) -> None:
    with contextlib.closing(sqlite3.connect(data / "books.sqlite")) as books, books:
        books.execute("UPDATE position SET schema_version = schema_version + 1")
    refused(serve(POLICY), "the books must be of version", "with the bursar that wrote them")


def test_a_ledger_of_a_newer_format_is_refused_and_left_as_it_is(serve: Serve, data: Path) -> None:
    shutil.rmtree(data / "index")
    segment = segment_of(data)
    content = bytearray(segment.read_bytes())
    struct.pack_into("<I", content, 8, 2)
    struct.pack_into("<I", content, HEADER_BYTES - 4, crc32c(content[: HEADER_BYTES - 4]))
    segment.write_bytes(content)
    refused(serve(POLICY), f"{segment} has format 2", "with the bursar that wrote it")
    assert segment.read_bytes() == content


def crc32c(content: bytearray) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
