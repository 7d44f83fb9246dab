"""Takes usage from the data plane into the books, a batch at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry

from bursar import wire
from bursar.admin.metrics import DrainMetrics
from bursar.books.books import Books
from bursar.usage.rollup import Batch
from bursar.v1 import usage_pb2

BATCHES_MAX = 4
"""The most batches of one drain, so that it ends under any load."""


class Source(Protocol):
    """What usage is taken from."""

    def usage_page(
        self, *, books_sequence: int, page: bytes, catch_up: bool = False
    ) -> bytes | None:
        """A page of the oldest batch after `books_sequence`, or None where nothing is new.

        With `catch_up`, what was written so far is in it or in a batch after it.
        """


class Drain:
    """The way of usage into the books; any thread may call it, one at a time drains."""

    def __init__(self, *, source: Source, books: Books, registry: CollectorRegistry) -> None:
        """Takes from `source` into `books` and counts in `registry`."""
        self._source = source
        self._books = books
        self._lock = threading.Lock()
        self._position = books.through_sequence()
        self._metrics = DrainMetrics(registry)
        self._metrics.sequence.set(self._position)

    @property
    def position(self) -> int:
        """The last sequence of the ledger that the books include."""
        return self._position

    def once(self, *, catch_up: bool = False) -> int:
        """Takes what is there, at most BATCHES_MAX batches; returns the position after it.

        With `catch_up`, what the ledger has is taken, not only what its follower has come to.

        Raises BooksError where the books do not belong to this ledger, and what the source raises.
        """
        with self._lock, self._metrics.seconds.time(), self._metrics.failures.count_exceptions():
            for _ in range(BATCHES_MAX):
                first = self._source.usage_page(
                    books_sequence=self._position, page=b"", catch_up=catch_up
                )
                if first is None:
                    break
                self._position = self._books.take(self._pages(first))
                self._metrics.batches.inc()
                self._metrics.sequence.set(self._position)
            return self._position

    def _pages(self, first: bytes) -> Iterator[Batch]:
        page: bytes | None = first
        while page is not None:
            message = usage_pb2.UsageBatch.FromString(page)
            yield wire.batch(message)
            if not message.next_page:
                return
            page = self._source.usage_page(books_sequence=self._position, page=message.next_page)
