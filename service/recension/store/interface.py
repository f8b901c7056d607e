"""The store's three parts (DESIGN section 4): Log, Index, Blobs, and the one call that moves them together.

Everything above works on this page alone. Values that enter or leave are ``bytes`` copies; each record is
kept with its own digest, key included, and checked on every read, so a read either returns what was
written or raises ``DataLossError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Protocol

from recension.model.record import Head

Row = tuple[bytes, bytes]
"""A key (1 to 64 bytes; ordered bytewise) and a value."""


class Outcome(Enum):
    """What became of a commit."""

    OK = "ok"
    """Durable and visible."""
    TAKEN = "taken"
    """Another writer appended first; nothing was stored. Compute the record anew on the new head."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A change of how things lie, never of what was said: the log and its head stay as they are."""

    expected: dict[bytes, bytes | None]
    """Index rows as they were read; ``None`` for a row that was not there."""
    index: dict[bytes, bytes | None]
    """Index rows to put over what is there; ``None`` deletes."""
    blobs: dict[bytes, bytes | None]
    """The same of blobs."""


Progress = Callable[[str, int, int], None]
"""Told of work that takes long: what is done, and how many bytes (or rows) of how many."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied, and read back."""

    head: Head
    rows: int
    """Of log, index and blobs, however they lie."""
    size_bytes: int
    """Of the copy's file."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did."""

    before_bytes: int
    """Of the file."""
    copied: Copied


@dataclass(frozen=True, slots=True)
class TableUsage:
    """What a table takes."""

    rows: int
    page_bytes: int
    """Of its pages, with the room that is left in them."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store takes, and who reads it."""

    tables: Mapping[str, TableUsage]
    file_bytes: int
    free_bytes: int
    """In the file, for rows to come."""
    disk_free_bytes: int
    readers: int
    """Reader slots in use, of all processes."""
    max_readers: int
    oldest_reader_commits: int
    """Transactions since the state of the oldest open view; what was freed since is not used again."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """What runs of index rows hold, and what they take."""

    rows: int
    raw_bytes: int
    """Of keys and values, before they were packed."""
    stored_bytes: int


class Log(Protocol):
    """The truth: append-only commit records by position. Safe for concurrent use."""

    def head(self) -> Head:
        """Return the newest commit's position, time and hash; ``EMPTY_LOG`` before the first."""
        ...

    def read(self, start: int, limit: int) -> list[bytes]:
        """Return up to ``limit`` records from position ``start`` on, ascending."""
        ...


State = tuple[int, int]
"""The number of an opened store, and of its newest write."""
STORES = count()
"""Numbers of stores: none that this process opens has that of another."""


class View(Protocol):
    """A short-lived, consistent read of Index and Blobs. Bound to one thread; never kept across a yield."""

    @property
    def state(self) -> State:
        """What it reads of: all views of this process with an equal state read the same rows."""
        ...

    def head(self) -> Head:
        """Return the log's head as of this view."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """Return the value of an index key."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of index keys, in the order asked."""
        ...

    def scan(self, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        """Return index rows with ``start <= key < stop``, ascending; at most ``limit`` if not 0."""
        ...

    def last(self, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest index row with ``start <= key < stop``."""
        ...

    def blob(self, key: bytes) -> bytes | None:
        """Return a blob."""
        ...

    def last_blob_key(self, start: bytes, stop: bytes) -> bytes | None:
        """Return the greatest blob key with ``start <= key < stop``."""
        ...


class Store(Protocol):
    """Log, Index and Blobs of one data directory."""

    @property
    def log(self) -> Log:
        """The log."""
        ...

    @property
    def state(self) -> State:
        """What a view that is opened now reads of, or will in a moment: it is never behind one that is open.

        Takes a fourth of the time of a look at one row. Raises ``StoreForkedError`` in a child process.
        """
        ...

    def view(self) -> AbstractContextManager[View]:
        """Open a consistent read of the newest committed state; closes itself. Keep it under 5 s."""
        ...

    def commit(self, record: bytes, head: Head, index: Iterable[Row], blobs: Iterable[Row]) -> Outcome:
        """Append ``record`` on top of ``head`` with its index rows and blobs, atomically.

        ``head`` is the head as it will be afterwards: its ``position - 1`` must be the current position and
        ``record`` must name the current hash as parent, else ``TAKEN``. Durable and visible to every process
        when it returns ``OK``. Safe to retry. Raises ``StoreFullError`` or ``WriterBusyError`` with
        nothing stored, or ``StoreFailedError`` when the outcome is unknown and the process must read the head
        again.
        """
        ...

    def put_derived(self, rows: Iterator[Row]) -> None:
        """Store index rows that can be computed again (snapshot trees), outside the log.

        Insert-only: an existing key is left alone. Not atomic as a whole; durable when it returns. Safe to
        retry and to run beside other writers.
        """
        ...

    def rewrite(self, changes: Sequence[Rewrite]) -> list[bool]:
        """Apply the changes whose expected rows are still as they were read, in one transaction.

        Says of each whether it was applied; each is applied as a whole or not at all, and sees those before
        it. Durable and visible when it returns. Raises as ``commit`` does, with nothing stored.
        """
        ...

    def exclusive_writer(self) -> AbstractContextManager[None]:
        """Hold the right to ingest in bulk; ``WriterBusyError`` within a second if another process has it."""
        ...

    def importing(self) -> AbstractContextManager[None]:
        """Let rows that come in no order wait for others, sorted, before they go to their places.

        For the holder of ``exclusive_writer``, of one thread. Changes no answer and no promise of ``commit``;
        until the end some reads take longer. Raises as ``commit`` does when it begins or ends; whoever ends
        otherwise leaves rows waiting, which the next import, or a compaction, brings to their places.
        """
        ...

    def usage(self) -> Usage:
        """Return what the store takes, and who reads it, without reading rows."""
        ...

    def packed_rows(self) -> Mapping[bytes, PackedRows]:
        """Return what lies in runs, by the first byte of the keys."""
        ...

    def blob_sizes(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Return (key, stored bytes) of up to ``limit`` blobs with ``start <= key < stop``, ascending."""
        ...

    def close(self) -> None:
        """Release the directory. Idempotent."""
        ...
