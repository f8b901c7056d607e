"""The store in memory, for tests and for trying out: the promises of the one on disk, except durability."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from threading import Lock

from recension.model.errors import WriterBusyError
from recension.model.record import EMPTY_LOG, MAGIC, Head
from recension.store.interface import STORES, Outcome, PackedRows, Rewrite, Row, State, TableUsage, Usage

_MAX_KEY_BYTES = 64
_PARENT = slice(len(MAGIC) + 16, len(MAGIC) + 48)
"""Where a commit record names its parent: behind position and time."""


class _Table:
    """Rows, each version with the state number that it came with: a view leaves out later ones."""

    def __init__(self) -> None:
        self._rows: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._keys: list[bytes] = []
        self._sorted = True

    def add(self, key: bytes, value: bytes, state: int) -> None:
        """Insert a row; an existing key is left alone."""
        if self.get(key, state) is None:
            self.put(key, value, state)

    def put(self, key: bytes, value: bytes | None, state: int) -> None:
        """Put a row over what is there; ``None`` deletes it."""
        if key not in self._rows:
            self._rows[key] = []
            self._keys.append(key)
            self._sorted = False
        self._rows[key].append((state, value))

    def get(self, key: bytes, state: int) -> bytes | None:
        """Return the value as of ``state``."""
        for born, value in reversed(self._rows.get(key, ())):
            if born <= state:
                return value
        return None

    def ascending(self, start: bytes, stop: bytes, state: int) -> Iterator[Row]:
        """Yield the rows of a range as of ``state``."""
        return self._walk(range(*self._bounds(start, stop)), state)

    def descending(self, start: bytes, stop: bytes, state: int) -> Iterator[Row]:
        """Yield the rows of a range as of ``state``, greatest key first."""
        return self._walk(reversed(range(*self._bounds(start, stop))), state)

    def _walk(self, places: Iterable[int], state: int) -> Iterator[Row]:
        for place in places:
            key = self._keys[place]
            value = self.get(key, state)
            if value is not None:
                yield key, value

    def _bounds(self, start: bytes, stop: bytes) -> tuple[int, int]:
        if not self._sorted:
            self._keys.sort()
            self._sorted = True
        return bisect_left(self._keys, start), bisect_left(self._keys, stop)


class MemoryStore:
    """Log, Index and Blobs of one process. Safe for concurrent use; gone with the object."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._writer = Lock()
        self._records: list[bytes] = []
        self._head = EMPTY_LOG
        self._index = _Table()
        self._blobs = _Table()
        self._state = 0
        self._number = next(STORES)

    @property
    def log(self) -> _MemoryLog:
        """The log."""
        return _MemoryLog(self)

    @property
    def state(self) -> State:
        """What a view that is opened now reads of."""
        return self._number, self._state

    @contextmanager
    def view(self) -> Iterator[_MemoryView]:
        """Open a consistent read of the newest committed state."""
        with self._lock:
            view = _MemoryView(self, self._state, self._head)
        yield view

    def commit(self, record: bytes, head: Head, index: Iterable[Row], blobs: Iterable[Row]) -> Outcome:
        """Append ``record`` with its rows; visible when it returns ``OK``, nothing stored otherwise.

        Raises ``ValueError``, with nothing stored, for a key that is too long, for a hash that is not the
        record's, and for an index key that exists with another value. An existing blob is left alone.
        """
        record = bytes(record)
        if sha256(record).digest() != head.hash:
            raise ValueError("the head's hash is not the hash of the record")
        new_index, new_blobs = _copied(index), _copied(blobs)
        with self._lock:
            if (head.position - 1, record[_PARENT]) != (self._head.position, self._head.hash):
                return Outcome.TAKEN
            wanted: dict[bytes, bytes] = {}
            for key, value in new_index:
                known = self._index.get(key, self._state)
                if (wanted.setdefault(key, value) if known is None else known) != value:
                    raise ValueError(f"index key {key.hex()} exists with another value")
            self._state += 1
            for key, value in new_index:
                self._index.add(key, value, self._state)
            for key, value in new_blobs:
                self._blobs.add(key, value, self._state)
            self._records.append(record)
            self._head = head
        return Outcome.OK

    def put_derived(self, rows: Iterator[Row]) -> None:
        """Store index rows that can be computed again; an existing key is left alone."""
        copied = _copied(rows)
        with self._lock:
            self._state += 1
            for key, value in copied:
                self._index.add(key, value, self._state)

    def rewrite(self, changes: Sequence[Rewrite]) -> list[bool]:
        """Apply the changes whose expected rows are still as they were read; say which."""
        applied = []
        with self._lock:
            self._state += 1
            for change in changes:
                fits = all(self._index.get(key, self._state) == row for key, row in change.expected.items())
                applied.append(fits)
                if fits:
                    for table, rows in ((self._index, change.index), (self._blobs, change.blobs)):
                        for key, value in rows.items():
                            table.put(key, value, self._state)
        return applied

    def usage(self) -> Usage:
        """Return the number of rows of each table; bytes are those of the machine's memory, and not known."""
        end = b"\xff" * _MAX_KEY_BYTES
        with self._lock:
            rows = {"log": len(self._records)}
            for name, table in (("index", self._index), ("blobs", self._blobs)):
                rows[name] = sum(1 for _ in table.ascending(b"", end, self._state))
        return Usage({name: TableUsage(count, 0) for name, count in rows.items()}, 0, 0, 0, 0, 0, 0)

    def packed_rows(self) -> dict[bytes, PackedRows]:
        """Return nothing: rows lie by themselves."""
        return {}

    def blob_sizes(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Return (key, bytes) of up to ``limit`` blobs with ``start <= key < stop``, ascending."""
        with self._lock:
            rows = self._blobs.ascending(start, stop, self._state)
            return [(key, len(value)) for key, value in islice(rows, limit)]

    @contextmanager
    def exclusive_writer(self) -> Iterator[None]:
        """Hold the right to ingest in bulk; ``WriterBusyError`` at once if someone has it."""
        if not self._writer.acquire(blocking=False):
            raise WriterBusyError("another writer is ingesting", hint="wait until it has finished")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Do nothing: no row has a better place than another."""
        yield

    def close(self) -> None:
        """Do nothing: there is no directory to release."""


class _MemoryLog:
    """The log of a ``MemoryStore``."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def head(self) -> Head:
        """Return the newest commit's position, time and hash."""
        with self._store._lock:  # noqa: SLF001 -- one object in three parts
            return self._store._head  # noqa: SLF001

    def read(self, start: int, limit: int) -> list[bytes]:
        """Return up to ``limit`` records from position ``start`` on, ascending."""
        first = max(start, 1) - 1
        with self._store._lock:  # noqa: SLF001
            return self._store._records[first : first + max(limit, 0)]  # noqa: SLF001


class _MemoryView:
    """The rows of a ``MemoryStore`` as of one state."""

    def __init__(self, store: MemoryStore, state: int, head: Head) -> None:
        self._lock = store._lock  # noqa: SLF001 -- one object in three parts
        self._index = store._index  # noqa: SLF001
        self._blobs = store._blobs  # noqa: SLF001
        self._state = state
        self._number = store._number  # noqa: SLF001
        self._head = head

    @property
    def state(self) -> State:
        """What it reads of: all views of this process with an equal state read the same rows."""
        return self._number, self._state

    def head(self) -> Head:
        """Return the log's head as of this view."""
        return self._head

    def get(self, key: bytes) -> bytes | None:
        """Return the value of an index key."""
        with self._lock:
            return self._index.get(key, self._state)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of index keys, in the order asked."""
        with self._lock:
            return [self._index.get(key, self._state) for key in keys]

    def scan(self, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        """Return index rows with ``start <= key < stop``, ascending; at most ``limit`` if not 0."""
        out: list[Row] = []
        with self._lock:
            for row in self._index.ascending(start, stop, self._state):
                out.append(row)
                if len(out) == limit:
                    break
        return out

    def last(self, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest index row with ``start <= key < stop``."""
        with self._lock:
            return next(self._index.descending(start, stop, self._state), None)

    def blob(self, key: bytes) -> bytes | None:
        """Return a blob."""
        with self._lock:
            return self._blobs.get(key, self._state)

    def last_blob_key(self, start: bytes, stop: bytes) -> bytes | None:
        """Return the greatest blob key with ``start <= key < stop``."""
        with self._lock:
            row = next(self._blobs.descending(start, stop, self._state), None)
        return row[0] if row else None


def _copied(rows: Iterable[Row]) -> list[Row]:
    out = [(bytes(key), bytes(value)) for key, value in rows]
    if any(not 1 <= len(key) <= _MAX_KEY_BYTES for key, _ in out):
        raise ValueError(f"a key has 1 to {_MAX_KEY_BYTES} bytes")
    return out
