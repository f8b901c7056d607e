"""The store on disk: transactions on one LMDB environment, ``DIR/lmdb``, whose place another may take.

What is acknowledged stays: a check of every value that is read, and no further write after an error whose
outcome is unknown. How it is opened stands in ``environment``, how it is replaced in ``directory``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Self, cast

import lmdb

from recension.model.errors import (
    OverloadedError,
    StoreError,
    StoreFailedError,
    StoreForkedError,
    StoreFullError,
    WriterBusyError,
)
from recension.model.record import EMPTY_LOG, MAGIC, Head
from recension.store.arrivals import NO_PILES, Filter, Piles, scattered
from recension.store.auditing import copy_audit
from recension.store.copying import arriving, backup_at, copy, copy_checked, used_bytes
from recension.store.directory import AUDIT_DIRECTORY, LOOK_SECONDS, DataDirectory, free_bytes, remove, sync
from recension.store.environment import (
    DAMAGE,
    FULL,
    Opened,
    check_usable,
    make,
    names_damage,
    open_newest,
    pages_damaged,
    readers,
    vacant,
)
from recension.store.interface import (
    Compacted,
    Copied,
    Outcome,
    PackedRows,
    Progress,
    Rewrite,
    Row,
    State,
    Store,
    TableUsage,
    Usage,
)
from recension.store.keys import SCATTERED
from recension.store.layout import (
    BLOBS,
    HEAD_KEY,
    INDEX,
    LOG,
    MAX_KEY_BYTES,
    META,
    PIECES,
    RESTS,
    RUNS,
    SEAL_BYTES,
    TableRow,
    cut_all,
    damaged,
    head_row,
    log_key,
    log_row,
    prepared,
    read_head,
    replacement,
    unseal,
)
from recension.store.merged import NO_STATE, together
from recension.store.records import pack_record, unpack_record
from recension.store.rests import SHARED, place_of, without

SCHEMA_VERSION = 10
"""Of the tables and of the layout of their values. A store with a greater one is refused."""

MAP_BYTES = 2**40
_PARENT = slice(len(MAGIC) + 16, len(MAGIC) + 48)
"""Where a commit record names its parent: behind position and time."""
_DERIVED_CHUNK_BYTES = 4 << 20
"""Keeps other writers waiting for some tens of milliseconds only."""
_IMPORT_FROM_ROWS = 2**22
"""Of the table of the index: with fewer, each row goes to its place at once, which takes less CPU then."""
_PLACED_ROWS = 2**15
"""In one transaction; others write in between."""
_LOW_SPACE_BYTES = 1 << 20
"""LMDB reports a write cut short by a full disk as EIO; with less than this free, it was that."""


def accept(store: Store) -> None:
    """Find nothing wrong with a copy."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody how far a copy is."""


class LmdbStore:
    """Log, Index and Blobs in ``DIR/lmdb``. Safe for concurrent use by threads and by processes.

    Made by ``open``. One object per directory and process; a child made by fork opens its own.
    """

    def __init__(self, directory: DataDirectory, opened: Opened, map_bytes: int) -> None:
        self._directory = directory
        self._opened = opened
        self._map_bytes = map_bytes
        self._pid = os.getpid()
        self._lock = Lock()  # lets threads queue here, where they can be interrupted, and not in LMDB
        self._following = Lock()
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._failed = False
        self._closed = False
        self._importing = False
        self._full_at: int | None = None
        """Position of the commit after which the rows of all piles have to go to their places."""
        self.filter: Filter | None = None
        """Of the rows that commits put into piles; without one they put none there."""
        self._log = _LmdbLog(self)
        self.newest_head: tuple[bytes, Head] = b"", EMPTY_LOG
        """Row and meaning of the head that was read last."""
        self._head: tuple[State | None, Head] = None, EMPTY_LOG
        """The same, by the state in which it was the head."""

    @classmethod
    def open(
        cls, path: Path, *, create: bool = False, map_bytes: int = MAP_BYTES, force_mount: bool = False
    ) -> LmdbStore:
        """Open the data directory ``path``; with ``create``, make it first unless it is one already.

        When it returns, the directory is durable, of a known version, on a mount that keeps LMDB's promises,
        and slots of dead readers are free. ``map_bytes`` limits the size of the store, costs only addresses,
        and should be the same for every process. ``force_mount`` (or ``RECENSION_UNSAFE_MOUNT=1``) accepts a
        doubtful mount. Raises ``NotAStoreError``, ``StoreVersionError``, ``StoreMountError``, or
        ``StoreFullError`` when there is no room to make it.
        """
        path = path.resolve()
        check_usable(path / "lmdb", force=force_mount)
        directory = DataDirectory(path)
        directory.recover()
        if not directory.lmdb.is_dir():
            make(directory, map_bytes, SCHEMA_VERSION, create=create)
        return cls(directory, open_newest(directory, map_bytes, SCHEMA_VERSION), map_bytes)

    @classmethod
    def restore(
        cls,
        source: Path,
        path: Path,
        *,
        progress: Progress = silent,
        check: Callable[[Store], None] = accept,
        map_bytes: int = MAP_BYTES,
        force_mount: bool = False,
    ) -> Copied:
        """Make ``path`` a data directory with what the backup ``source`` holds; durable when it returns.

        Checks every row and the log, then calls ``check`` with the copy, and only then gives it its name.
        Whoever is killed leaves a directory that can be restored into again. Raises ``StoreError`` when there
        is a store already, ``NotAStoreError``, ``DataLossError`` or ``StoreFullError``.
        """
        path = path.resolve()
        check_usable(path / "lmdb", force=force_mount)
        directory = DataDirectory(path)
        if directory.lmdb.exists() or directory.old.exists():
            raise StoreError(
                f"{path} holds a store", hint="move it away, or restore into another directory", path=path
            )
        with backup_at(source.resolve(), map_bytes, SCHEMA_VERSION) as opened, vacant(directory):
            if directory.lmdb.exists():
                raise StoreError(f"{path} holds a store", hint="another process has just made it", path=path)
            remove(directory.new)
            directory.new.mkdir()
            try:
                if not (path / AUDIT_DIRECTORY).exists():  # else it is newer than any backup
                    copy_audit(source.resolve(), directory.new / AUDIT_DIRECTORY)
                with opened.env.begin() as txn:
                    copied = copy_checked(
                        opened, txn, directory.new, map_bytes, SCHEMA_VERSION, progress, cls._checker(check)
                    )
                if (directory.new / AUDIT_DIRECTORY).exists():
                    (directory.new / AUDIT_DIRECTORY).rename(path / AUDIT_DIRECTORY)
                (directory.new / "lmdb").rename(directory.lmdb)
                sync(path)
            finally:
                remove(directory.new)
        return copied

    @classmethod
    def _checker(cls, check: Callable[[Store], None]) -> Callable[[Path], None]:
        def checked(path: Path) -> None:
            with closing(cls.open(path, force_mount=True)) as store:
                check(store)

        return checked

    @property
    def log(self) -> _LmdbLog:
        """The log."""
        return self._log

    @property
    def state(self) -> State:
        """What a view that is opened now reads of, or will in a moment: it is never behind one that is open.

        LMDB writes the number of a transaction before views can see what it did. Raises ``StoreForkedError``
        in a child process.
        """
        if os.getpid() != self._pid or time.monotonic() >= self._look_at:  # each call asks several times
            self.newest()
            self.check_process()
        opened = self._opened
        return opened.number, opened.env.info()["last_txnid"]

    def view(self) -> _LmdbView:
        """Open a consistent read of the newest committed state, by ``with``. Keep it under 5 s.

        Raises ``StoreForkedError`` in a child process, ``OverloadedError`` when all reader slots are taken.
        """
        return _LmdbView(self)

    def commit(self, record: bytes, head: Head, index: Iterable[Row], blobs: Iterable[Row]) -> Outcome:
        """Append ``record`` with its rows, atomically; durable and visible to all when it returns ``OK``.

        ``TAKEN`` if ``record`` does not follow the current head; nothing is written then. An existing blob is
        left alone. Raises ``ValueError`` for a key that is too long, a hash that is not the record's, or an
        index key that exists with another value, ``StoreFullError`` when there is no room, and
        ``WriterBusyError`` while the store is being compacted, with nothing stored in each case. Raises
        ``StoreFailedError`` when the outcome is unknown; this object then refuses all further writes.
        """
        record = bytes(record)
        if sha256(record).digest() != head.hash:
            raise ValueError("the head's hash is not the hash of the record")
        self._place_full()
        noted = self.filter
        waiting, others = ([], index) if noted is None else scattered(index)
        index_rows = prepared(INDEX, others)
        blob_rows, piece_rows = cut_all(prepared(BLOBS, blobs))
        key = log_key(head.position)
        row = log_row(key, pack_record(record))
        turn = False

        def write(txn: lmdb.Transaction, opened: Opened) -> Outcome:
            current = _head(txn, opened)
            if (head.position - 1, record[_PARENT]) != (current.position, current.hash):
                return Outcome.TAKEN
            tables = opened.tables
            _insert_blobs(txn, opened, blob_rows, piece_rows)
            if not txn.put(key, row, append=True, overwrite=False, db=tables[LOG]):
                raise damaged(LOG, key)  # the log would be ahead of its own head
            new_rows = _new_rows(txn, opened, index_rows, same=True)
            if _insert(txn, tables[INDEX], new_rows) < len(new_rows):
                _check_same(txn, tables[INDEX], new_rows)
            nonlocal turn
            if noted is not None:
                new = _not_there(txn, opened, waiting, noted)
                turn = opened.arrivals.add(txn, head.position, new)
            elif self._importing:
                turn = txn.stat(tables[INDEX])["entries"] >= _IMPORT_FROM_ROWS
            txn.put(*head_row(head), db=tables[META])
            return Outcome.OK

        outcome = self._write(write)
        if turn:
            self._full_at = head.position
        return outcome

    def put_derived(self, rows: Iterator[Row]) -> None:
        """Store index rows that can be computed again; durable when it returns. Safe to retry.

        An existing key is left alone. Written in several atomic transactions. Raises as ``commit`` does.
        """
        chunk: list[Row] = []
        size = 0
        for key, value in rows:
            chunk.append((key, value))
            size += len(key) + len(value)
            if size >= _DERIVED_CHUNK_BYTES:
                self._write_derived(chunk)
                chunk, size = [], 0
        if chunk:
            self._write_derived(chunk)

    def rewrite(self, changes: Sequence[Rewrite]) -> list[bool]:
        """Apply the changes whose expected rows are still as they were read; say which. One transaction.

        Durable when it returns. Raises as ``commit`` does, with nothing stored.
        """
        planned = [(change, replacement(change)) for change in changes]
        applied: list[bool] = []

        def write(txn: lmdb.Transaction, opened: Opened) -> Outcome:
            applied.clear()
            piles = opened.arrivals.written(txn)
            for change, rows in planned:
                expected = change.expected.items()
                fits = all(_index_row(txn, opened, piles, key) == row for key, row in expected)
                applied.append(fits)
                if fits:
                    gone = [key for key, row in change.index.items() if row is None]
                    opened.packed.take_out(txn, gone)
                    opened.arrivals.take_out(txn, piles, gone)
                    _replace(txn, opened, rows)
            return Outcome.OK

        self._write(write)
        return applied

    def exclusive_writer(self) -> AbstractContextManager[None]:
        """Hold the right to ingest in bulk; ``WriterBusyError`` at once if someone has it.

        The right ends with the process, however it ends.
        """
        self.check_process()
        return self._directory.exclusive_writer()

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Let rows that come in no order wait for others, sorted, before they go to their places.

        For the holder of ``exclusive_writer``. In a small store they do not wait. Raises as ``commit`` does.
        """
        self._place_arrivals()
        self._importing = True
        try:
            yield
            self.filter = None
            self._place_arrivals()
        finally:
            self._importing = False
            self._full_at = self.filter = None

    def _place_full(self) -> None:
        """Bring the rows of all piles to their places if it is time; from then on, rows wait.

        Before a commit and not behind it: what fails here must not look like a failure of what is stored.
        """
        if self._full_at is not None:
            self._place_arrivals()
            self.filter, self._full_at = Filter(self._full_at), None

    def _place_arrivals(self) -> None:
        """Bring the rows of all piles to their places, by key, some in each transaction."""
        opened = self.newest()
        with self.begin(opened) as txn:
            families = sorted(opened.arrivals.piles(txn))
        for family in families:
            start = family
            while start:
                start = self._place_some(family, start)

    def _place_some(self, family: bytes, start: bytes) -> bytes:
        """Do so with some rows of a family, from a key on; return the next key, or nothing at the end."""
        after = b""

        def write(txn: lmdb.Transaction, opened: Opened) -> Outcome:
            nonlocal after
            after = opened.arrivals.place(txn, opened.tables[INDEX], family, start, _PLACED_ROWS)
            return Outcome.OK

        self._write(write)
        return after

    def compact(self, progress: Progress = silent) -> Compacted:
        """Put a copy without free or half-empty pages in the place of the environment; durable on return.

        Reading goes on, in every process: open views keep what they see, later ones are of the copy. Writers
        are refused meanwhile, by ``WriterBusyError``, and nothing of what was acknowledged is lost, whatever
        step it is killed at. Bytes that were freed before are in no file of the store afterwards. Raises
        ``WriterBusyError`` while someone ingests, ``DataLossError`` when a row is damaged, and
        ``StoreFullError`` unless there is room for the copy; all is then as before.
        """
        directory = self._directory
        with self.exclusive_writer(), directory.alone():
            directory.clear()
            self.follow()
            with self._lock:
                if self._failed:
                    raise _failed("an earlier write failed")
            opened = self._opened
            before = (directory.lmdb / "data.mdb").stat().st_size
            try:
                with opened.env.begin() as txn:
                    seen = txn.id()
                    copied = copy(opened, txn, directory.new, self._map_bytes, SCHEMA_VERSION, progress)
                self._swap(opened, seen)
            finally:
                del opened
                with suppress(StoreError, OSError):
                    remove(directory.new)
            self.follow()
            directory.clear()
        return Compacted(before, copied)

    def _swap(self, opened: Opened, seen: int) -> None:
        """Swap, unless something was written after the state ``seen``: someone has removed the lock file."""
        txn = opened.env.begin(write=True)  # while it lasts, nothing is
        try:
            if txn.id() != seen + 1:
                raise WriterBusyError(
                    f"{self._directory.path} was written to while it was compacted; it stays as it was",
                    hint="leave the lock files alone, then retry",
                    path=self._directory.path,
                )
            self._directory.swap()
        except OSError as error:
            raise StoreError(
                f"{self._directory.path}: the copy cannot take its place: {error}", path=self._directory.path
            ) from None
        finally:
            txn.abort()
            del txn

    def backup(
        self, path: Path, progress: Progress = silent, check: Callable[[Store], None] = accept
    ) -> Copied:
        """Write what is committed now to the directory ``path``, itself a data directory; durable on return.

        The audit log comes along. Every row and the log are read back, then ``check`` is called with the
        copy; only then does it get its name. Others read and write meanwhile; what they free is used
        again when the copy is finished. Raises ``StoreError`` unless ``path`` is absent or empty,
        ``DataLossError``, ``AuditDamagedError`` or ``StoreFullError``.
        """
        with arriving(path.resolve()) as partial:
            remove(partial / "lmdb")
            remove(partial / AUDIT_DIRECTORY)
            # First, so that no statement was taken over from a commit that the copy does not have.
            copy_audit(self._directory.path, partial / AUDIT_DIRECTORY)
            opened = self.newest()
            with self.begin(opened) as txn:
                return copy_checked(
                    opened, txn, partial, self._map_bytes, SCHEMA_VERSION, progress, self._checker(check)
                )

    def usage(self) -> Usage:
        """Return what the store takes, and who reads it, without reading rows."""
        opened = self.newest()
        with self.begin(opened) as txn:
            tables = {
                name.decode(): TableUsage(int(txn.stat(handle)["entries"]), size)
                for (name, handle), size in zip(
                    opened.tables.items(), used_bytes(opened, txn).values(), strict=True
                )
            }
            own = int(txn.id())
        info, page = opened.env.info(), int(opened.env.stat()["psize"])
        slots = readers(opened.env)
        held = [own - slot.txnid for slot in slots if slot.txnid is not None]
        file = (int(info["last_pgno"]) + 1) * page
        return Usage(
            tables=tables,
            file_bytes=file,
            free_bytes=max(file - sum(table.page_bytes for table in tables.values()) - 2 * page, 0),
            disk_free_bytes=free_bytes(self._directory.path),
            readers=len(slots),
            max_readers=int(info["max_readers"]),
            oldest_reader_commits=max(held, default=0),
        )

    @names_damage
    def packed_rows(self) -> dict[bytes, PackedRows]:
        """Return what lies in runs, by the first byte of the keys."""
        self.check_process()
        opened = self.newest()
        with opened.env.begin(buffers=True) as txn:
            return opened.packed.usage(txn)

    @names_damage
    def blob_sizes(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Return (key, stored bytes) of up to ``limit`` blobs with ``start <= key < stop``, ascending."""
        self.check_process()
        opened = self.newest()
        pieces, out = opened.tables[PIECES], []
        # Of a value that is not copied only the length is read, never its pages.
        with opened.env.begin(buffers=True) as txn, txn.cursor(opened.tables[BLOBS]) as cursor:
            if limit and cursor.set_range(start):
                for key, raw in islice(cursor.iternext(), limit):
                    name = bytes(key)
                    if name >= stop:
                        break
                    if raw[0] == SHARED:
                        rest = place_of(BLOBS, name, bytes(raw[:16]))[2]
                    else:
                        parts = [txn.get(name + bytes([at]), b"", db=pieces) for at in range(raw[0])]
                        rest = sum(map(len, parts))
                    out.append((name, len(raw) + rest))
        return out

    def free_dead_readers(self) -> int:
        """Free the slots of readers that were killed, and return their number.

        Pages that a slot still names are not used again, so the file would grow. Lets go of an environment
        that was replaced, too, which a process without calls would keep.
        """
        self.check_process()
        return int(self.newest().env.reader_check())

    def close(self) -> None:
        """Release the directory; views that are still open fail from then on. Idempotent."""
        if not self._closed and os.getpid() == self._pid:
            with self._lock, self._following:
                self._closed = True
                self._opened.env.close()

    def check_process(self) -> None:
        """Raise ``StoreForkedError`` in another process than the one that opened the store."""
        if os.getpid() != self._pid:
            raise StoreForkedError(
                "the store was opened before a fork", hint="open it in the child, or start children by spawn"
            )

    def newest(self) -> Opened:
        """Return the environment to read from."""
        if time.monotonic() >= self._look_at:
            self.check_process()
            self.follow()
        return self._opened

    def follow(self) -> None:
        """Go over to the environment that is in place now. Views that are open keep theirs until they end."""
        now = time.monotonic()
        if self._directory.file() not in {self._opened.file, None}:
            with self._following:  # all wait: a new view is of the new environment
                if self._directory.file() not in {self._opened.file, None} and not self._closed:
                    self._opened = open_newest(self._directory, self._map_bytes, SCHEMA_VERSION)
        self._look_at = now + LOOK_SECONDS

    def begin(self, opened: Opened | None = None) -> lmdb.Transaction:
        """Begin a read of the newest state. Holds a reader slot until the transaction is dropped."""
        self.check_process()
        env = (opened or self.newest()).env
        try:
            return env.begin()
        except lmdb.ReadersFullError:
            env.reader_check()  # the slots of processes that were killed
        except lmdb.PanicError:
            raise _failed("an earlier write failed") from None
        try:
            return env.begin()
        except lmdb.ReadersFullError:
            raise OverloadedError("all reader slots of the store are taken", hint="retry later") from None

    @names_damage
    def read_head(self) -> Head:
        """Return the head as committed."""
        state, head = self._head
        if state is not None and state == self.state:
            return head
        opened = self.newest()
        with self.begin(opened) as txn:
            head = _head(txn, opened)
            self._head = (opened.number, txn.id()), head
        return head

    def _write_derived(self, chunk: list[Row]) -> None:
        rows = prepared(INDEX, chunk)

        def write(txn: lmdb.Transaction, opened: Opened) -> Outcome:
            _insert(txn, opened.tables[INDEX], _new_rows(txn, opened, rows))
            return Outcome.OK

        self._write(write)

    def _write(self, work: Callable[[lmdb.Transaction, Opened], Outcome]) -> Outcome:
        """Do ``work`` in one transaction and commit it if the outcome is ``OK``.

        An error of ``work`` itself leaves the store as it was. Any other is either certain to have stored
        nothing (no room, the environment is being replaced) or ends the writing.
        """
        self.check_process()
        failure: StoreError | None = None  # raised outside ``except``, so that it holds no transaction
        with self._lock:
            if self._failed:
                raise _failed("an earlier write failed")
            with self._directory.writing():
                try:
                    return self._transact(work)
                except (lmdb.Error, OSError) as error:
                    failure = self._translated(error)
        raise failure

    def _transact(self, work: Callable[[lmdb.Transaction, Opened], Outcome]) -> Outcome:
        opened, txn = self._begin_write()
        try:
            outcome = work(txn, opened)
            if outcome is Outcome.OK:
                txn.commit()
            return outcome
        finally:
            txn.abort()  # does nothing after a commit
            del txn

    def _begin_write(self) -> tuple[Opened, lmdb.Transaction]:
        """Begin a write in the environment that is in place; it stays there until the write has ended."""
        while True:
            opened = self._opened
            txn = opened.env.begin(write=True)
            file = self._directory.file()
            if file == opened.file:
                return opened, txn
            txn.abort()
            del txn
            if file is None:
                raise StoreError(f"{self._directory.lmdb} is gone", path=self._directory.path)
            self.follow()

    @property
    def _env(self) -> lmdb.Environment:
        return self._opened.env

    @_env.setter
    def _env(self, env: lmdb.Environment) -> None:
        """Put another in its place, as tests of faults do."""
        self._opened = replace(self._opened, env=env)

    def _translated(self, error: lmdb.Error | OSError) -> StoreError:
        """Return what to raise for a failed write. A full map or disk is not final, all else is."""
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
        full = isinstance(error, lmdb.MapFullError) or code in FULL
        if (
            full or (code == errno.EIO and free_bytes(self._directory.path) < _LOW_SPACE_BYTES)
        ) and self._usable():
            return StoreFullError(
                f"no room in {self._directory.path}: {error}; nothing was stored",
                hint="make room, then retry",
                path=self._directory.path,
            )
        self._failed = True
        return _failed(str(error))

    def _usable(self) -> bool:
        """Return whether the error came before the page that publishes a commit; LMDB panics after that."""
        with suppress(lmdb.Error):
            self._opened.env.begin().abort()
            return True
        return False


class _LmdbLog:
    """The log of an ``LmdbStore``."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store

    def head(self) -> Head:
        """Return the newest commit's position, time and hash; ``EMPTY_LOG`` before the first."""
        return self._store.read_head()

    @names_damage
    def read(self, start: int, limit: int) -> list[bytes]:
        """Return up to ``limit`` records from position ``start`` on, ascending and without a gap."""
        out = []
        opened = self._store.newest()
        with self._store.begin(opened) as txn:
            first, end = max(start, 1), _head(txn, opened).position
            for position in range(first, min(first + limit, end + 1)):
                key = log_key(position)
                raw = opened.get(txn, LOG, key)
                if raw is None:
                    raise damaged(LOG, key)
                out.append(unpack_record(opened.value(txn, LOG, key, raw)))
        return out


class _LmdbView:
    """A read transaction on Index and Blobs, from ``with`` to its end; bound to one thread."""

    __slots__ = (
        "_cursor",
        "_families",
        "_filter",
        "_index",
        "_opened",
        "_piles",
        "_runs",
        "_state",
        "_store",
        "_txn",
    )

    _opened: Opened
    _txn: lmdb.Transaction
    _cursor: lmdb.Cursor
    _families: frozenset[bytes]
    _runs: lmdb.Cursor
    """Of the table of runs, if there are any."""
    _state: int
    _piles: Piles
    _filter: Filter | None
    """Of all rows in the piles, if this process has put them there."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store

    @names_damage
    def __enter__(self) -> Self:
        self._opened = opened = self._store.newest()
        self._index = opened.tables[INDEX]
        self._txn = self._store.begin(opened)
        self._cursor = self._txn.cursor(self._index)
        self._families = opened.packed.families(self._txn)
        if self._families:
            self._runs = self._txn.cursor(opened.tables[RUNS])
            self._state = self._txn.id()
        self._piles = opened.arrivals.piles(self._txn)
        if self._piles:
            known = self._store.filter  # behind the state: a filter has all rows put there since it was made
            self._filter = known if known is not None and known.covers(self._piles) else None
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()
        if self._families:
            self._runs.close()
            del self._runs
        self._txn.abort()
        # The reader slot is free once nothing refers to the transaction; a traceback may still hold the view.
        del self._cursor, self._txn, self._opened

    @property
    def state(self) -> State:
        """What it reads of: all views of this process with an equal state read the same rows."""
        return self._opened.number, self._txn.id()

    @names_damage
    def head(self) -> Head:
        """Return the log's head as of this view."""
        raw = self._opened.get(self._txn, META, HEAD_KEY)
        if raw is None:
            return EMPTY_LOG
        known = self._store.newest_head
        if known[0] != raw:  # each answer asks for it, and it seldom changes
            known = self._store.newest_head = raw, read_head(raw)
        return known[1]

    def get(self, key: bytes) -> bytes | None:
        """Return the value of an index key."""
        if not 0 < len(key) <= MAX_KEY_BYTES:
            return None
        packed = key[:1] in self._families
        try:
            raw = None
            if not packed or self._opened.packed.has_others(self._cursor, self._state, key[:1]):
                raw = cast("bytes | None", self._txn.get(key, db=self._index))
            if raw is None:
                value = self._opened.packed.get(self._runs, self._state, key) if packed else None
                return value if value is not None or not self._piles else self._arrived(key)
        except DAMAGE as error:
            raise pages_damaged(error) from None
        return unseal(INDEX, key, raw)

    def _arrived(self, key: bytes) -> bytes | None:
        """Return the value of a key whose row is still in a pile."""
        family = key[:1]
        if family not in self._piles:
            return None
        if self._filter is not None and not self._filter.may_have(key[: SCATTERED[family].subject]):
            return None
        return self._opened.arrivals.get(self._txn, self._piles, key)

    def _may_have_arrived(self, start: bytes, stop: bytes) -> bool:
        """Say whether some row of a range may be in a pile."""
        if start >= stop:
            return False
        family = start[:1]
        if family != stop[:1]:
            return any(start[:1] <= one < stop for one in self._piles)
        if family not in self._piles:
            return False
        if self._filter is None:
            return True
        size = SCATTERED[family].subject
        subject, end = start[:size], stop[:size]
        next_ = int.from_bytes(end, "big") - int.from_bytes(subject, "big") == 1
        # A bound that is shorter than a subject is one of many.
        one = len(subject) == size and (subject == end or (next_ and not stop[size:].strip(b"\0")))
        return not one or self._filter.may_have(subject)

    @names_damage
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of index keys, in the order asked."""
        get = self.get
        return [get(key) for key in keys]

    @names_damage
    def scan(self, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        """Return index rows with ``start <= key < stop``, ascending; at most ``limit`` if not 0."""
        rows = self._settled(start, stop, limit)
        if not self._piles or not self._may_have_arrived(start, stop):
            return rows
        waiting = self._opened.arrivals.scan(self._txn, self._piles, start, stop, limit)
        return together(rows, waiting, limit) if waiting else rows

    def _settled(self, start: bytes, stop: bytes, limit: int) -> list[Row]:
        """Return the same of the rows that are in their places."""
        if not self._families:
            return self._plain(start, stop, limit)
        letter = start[:1]
        if letter not in self._families and letter == stop[:1]:
            return self._plain(start, stop, limit)
        packed = self._opened.packed.scan(self._runs, self._state, start, stop, limit)
        if self._only_packed(start, stop):
            return packed
        plain = self._plain(start, stop, limit)
        return together(plain, packed, limit) if packed else plain

    def _only_packed(self, start: bytes, stop: bytes) -> bool:
        """Say whether all rows of a range are in runs."""
        letter = start[:1]
        return (
            letter in self._families
            and (letter == stop[:1] or (len(stop) == 1 and stop[0] == letter[0] + 1))
            and not self._opened.packed.has_others(self._cursor, self._state, letter)
        )

    def _plain(self, start: bytes, stop: bytes, limit: int) -> list[Row]:
        cursor = self._cursor
        if not cursor.set_range(start):
            return []
        out: list[Row] = []
        append, digest, table, size = out.append, sha256, INDEX, SEAL_BYTES  # a million rows pass here
        rows = cast("Iterator[Row]", cursor.iternext())
        for key, raw in islice(rows, limit or None):
            if key >= stop:
                break
            value = raw[size:]
            if digest(key + table + value).digest()[:size] != raw[:size]:
                raise damaged(table, key)
            append((key, value))
        return out

    def last(self, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest index row with ``start <= key < stop``."""
        row = self._last_settled(start, stop)
        if not self._piles or not self._may_have_arrived(start, stop):
            return row
        waiting = self._last_arrived(start, stop)
        return waiting if waiting is not None and (row is None or waiting[0] > row[0]) else row

    @names_damage
    def _last_arrived(self, start: bytes, stop: bytes) -> Row | None:
        """Return the same of the rows that are still in piles."""
        return self._opened.arrivals.last(self._txn, self._piles, start, stop)

    def _last_settled(self, start: bytes, stop: bytes) -> Row | None:
        """Return the same of the rows that are in their places."""
        cursor = self._cursor
        key, raw = b"", b""
        packed = None
        try:
            if not self._only_packed(start, stop) and (
                cursor.prev() if cursor.set_range(stop) else cursor.last()
            ):
                key, raw = cast("Row", cursor.item())
            if self._families and (start[:1] in self._families or start[:1] != stop[:1]):
                packed = self._opened.packed.last(self._runs, self._state, start, stop)
        except DAMAGE as error:
            raise pages_damaged(error) from None
        if packed is not None and packed[0] > key:
            return packed
        return (key, unseal(INDEX, key, raw)) if start <= key < stop and key else None

    @names_damage
    def blob(self, key: bytes) -> bytes | None:
        """Return a blob."""
        raw = self._opened.get(self._txn, BLOBS, key) if 0 < len(key) <= MAX_KEY_BYTES else None
        if raw is None:
            return None
        return self._opened.value(self._txn, BLOBS, key, raw)

    @names_damage
    def last_blob_key(self, start: bytes, stop: bytes) -> bytes | None:
        """Return the greatest blob key with ``start <= key < stop``."""
        with self._txn.cursor(self._opened.tables[BLOBS]) as cursor:
            if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
                return None
            key = bytes(cursor.key())
        return key if key >= start else None


def _head(txn: lmdb.Transaction, opened: Opened) -> Head:
    raw = opened.get(txn, META, HEAD_KEY)
    return EMPTY_LOG if raw is None else read_head(raw)


def _insert(txn: lmdb.Transaction, table: lmdb._Database, rows: list[Row]) -> int:
    """Put sealed rows, ascending by key; return how many were new."""
    with txn.cursor(table) as cursor:
        _, added = cursor.putmulti(rows, overwrite=False)
    return int(added)


def _insert_blobs(txn: lmdb.Transaction, opened: Opened, heads: list[Row], pieces: list[Row]) -> None:
    """Put the blobs that are not there yet, with their pieces."""
    if _insert(txn, opened.tables[BLOBS], heads) < len(heads):
        others = {key for key, head in heads if opened.get(txn, BLOBS, key) != head}
        pieces = [row for row in pieces if row[0][:-1] not in others]
    _insert(txn, opened.tables[PIECES], pieces)


def _check_same(txn: lmdb.Transaction, table: lmdb._Database, rows: list[Row]) -> None:
    for key, row in rows:
        if txn.get(key, db=table) != row:
            raise _another_value(key)


def _new_rows(txn: lmdb.Transaction, opened: Opened, rows: list[Row], *, same: bool = False) -> list[Row]:
    """Return the sealed rows that are in no run and no pile.

    With ``same``, raise ``ValueError`` if one is there with another value.
    """
    families, piles = opened.packed.families(txn), opened.arrivals.written(txn)
    if not families and not piles:
        return rows
    out = []
    for row in rows:
        key = row[0]
        value = None
        if key[:1] in families or key[:1] in piles:
            value = _apart(txn, opened, piles, key)
        if value is None or opened.get(txn, INDEX, key) is not None:
            out.append(row)  # what is in no run counts, and is compared there
        elif same and value != row[1][SEAL_BYTES:]:
            raise _another_value(key)
    return out


def _not_there(txn: lmdb.Transaction, opened: Opened, rows: list[Row], noted: Filter) -> list[Row]:
    """Return those of ascending rows that are not there yet, and take note of them.

    Raises ``ValueError`` if one is there with another value.
    """
    families, piles = opened.packed.families(txn), opened.arrivals.written(txn)
    if not noted.covers(piles):
        raise ValueError("rows wait in piles of which this object knows nothing")
    with txn.cursor(opened.tables[INDEX]) as cursor:
        there = {cast("bytes", key) for key, _ in cursor.getmulti([key for key, _ in rows])}
    # Of two rows with one key the second is doubtful, and so are all when a commit is tried again.
    doubtful = noted.add(rows)
    if not (there or doubtful or families):
        return rows
    out: list[Row] = []
    for row in rows:
        key, value = row
        known = None
        if key in there:
            known = _index_row(txn, opened, piles, key)
        elif key in doubtful or key[:1] in families:
            known = _apart(txn, opened, piles if key in doubtful else NO_PILES, key)
        if known is None and out and out[-1][0] == key:
            known = out[-1][1]
        if known is None:
            out.append(row)
        elif known != value:
            raise _another_value(key)
    return out


def _another_value(key: bytes) -> ValueError:
    return ValueError(f"index key {key.hex()} exists with another value")


def _index_row(txn: lmdb.Transaction, opened: Opened, piles: Piles, key: bytes) -> bytes | None:
    raw = opened.get(txn, INDEX, key)
    return unseal(INDEX, key, raw) if raw is not None else _apart(txn, opened, piles, key)


def _apart(txn: lmdb.Transaction, opened: Opened, piles: Piles, key: bytes) -> bytes | None:
    """Return the value of a key whose row is in a pile or in a run."""
    if key[:1] in piles:
        value = opened.arrivals.get(txn, piles, key)
        if value is not None:
            return value
    if key[:1] not in opened.packed.families(txn):
        return None
    with txn.cursor(opened.tables[RUNS]) as cursor:
        return opened.packed.get(cursor, NO_STATE, key)


def _replace(txn: lmdb.Transaction, opened: Opened, rows: list[TableRow]) -> None:
    for table, key, raw in rows:
        if table == BLOBS:
            _drop_rest(txn, opened, key)
        if raw is None:
            txn.delete(key, db=opened.tables[table])
        else:
            txn.put(key, raw, db=opened.tables[table])


def _drop_rest(txn: lmdb.Transaction, opened: Opened, key: bytes) -> None:
    """Destroy what a bin holds of a blob."""
    head = opened.get(txn, BLOBS, key)
    if not head or head[0] != SHARED:
        return
    bin_, offset, length = place_of(BLOBS, key, head)
    left = without(opened.get(txn, RESTS, bin_) or b"", offset, length)
    if left:
        txn.put(bin_, left, db=opened.tables[RESTS])
    else:
        txn.delete(bin_, db=opened.tables[RESTS])


def _failed(cause: str) -> StoreFailedError:
    return StoreFailedError(
        f"{cause}; whether the last write was stored is unknown",
        hint="restart the process, which reads the head again",
    )
