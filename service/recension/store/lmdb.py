"""The store on disk: one LMDB environment in ``DIR/lmdb``, opened so that what is acknowledged stays.

Each rule here keeps one of LMDB's caveats away from the rest of the program: full syncs and no writable map,
a map of fixed size, refusal of mounts that lie, a check of every value that is read, and no further write
after an error whose outcome is unknown. LMDB's own lock file is opened by LMDB alone: closing another handle
to it would drop the process's reader locks.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import ParamSpec, Self, TypeVar, cast

import lmdb

from recension.model.errors import (
    DataLossError,
    NotAStoreError,
    OverloadedError,
    StoreError,
    StoreFailedError,
    StoreForkedError,
    StoreFullError,
    StoreMountError,
    StoreVersionError,
    WriterBusyError,
)
from recension.model.record import EMPTY_LOG, MAGIC, Head
from recension.store.interface import Outcome, Rewrite, Row
from recension.store.packed import pack, unpack
from recension.store.pieces import MAX_PIECES, cut

SCHEMA_VERSION = 2
"""Of the tables and of the layout of their values. A store with a greater one is refused."""

UNSAFE_MOUNT = "RECENSION_UNSAFE_MOUNT"
"""Environment variable; 1 accepts mounts that are refused otherwise."""

_LOG, _INDEX, _BLOBS, _PIECES, _META = _TABLES = (b"log", b"index", b"blobs", b"pieces", b"meta")
_HEAD_KEY = b"head"
_SCHEMA_KEY = b"schema"
_HEAD = struct.Struct(">Qq32s")
_NUMBER = struct.Struct(">Q")
_PARENT = slice(len(MAGIC) + 16, len(MAGIC) + 48)
"""Where a commit record names its parent: behind position and time."""

_SEAL_BYTES = 8
"""Length of the digest before each value: enough against decay and swapped rows; no defence by itself."""
_MAX_KEY_BYTES = 64
_MAX_READERS = 4096
"""LMDB's 126 would lock out tools as well once they are used up. The first process to open decides."""
_DERIVED_CHUNK_BYTES = 4 << 20
"""Keeps other writers waiting for some tens of milliseconds only."""
_LOW_SPACE_BYTES = 1 << 20
"""LMDB reports a write cut short by a full disk as EIO; with less than this free, it was that."""

_UNSAFE_FS = re.compile(
    r"overlay|aufs|nfs|nfs4|cifs|smb3?|smbfs|9p|virtiofs|ceph|afs|glusterfs|lustre|fuse(\..*|blk)?"
)
"""Writable maps and POSIX locks do not hold there, or only within one machine."""

_CREATE_HINT = "make one with `recension-server project create`"
_OWN_NAMES = {"lmdb.new", "writer.lock", "lost+found"}
"""What may lie in a data directory before it is one; ``lost+found`` comes with a fresh volume."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def check_mount(path: Path, mountinfo: str, *, force: bool) -> None:
    """Raise ``StoreMountError`` unless ``path`` (absolute, resolved) lies on a mount fit for a store.

    ``mountinfo`` is the text of ``/proc/self/mountinfo``. ``force`` accepts a doubtful file system, never a
    read-only mount.
    """
    best: tuple[int, str, set[str]] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, _, raw_point, options, *_ = left.split(" ")
        fs_type, _, super_options = right.split(" ", 2)
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), raw_point))
        # Of two mounts on one point the later line hides the earlier.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), fs_type, {*options.split(","), *super_options.split(",")}
    if best is None:
        if not force:
            raise StoreMountError(
                f"no mount found for {path}", hint=f"set {UNSAFE_MOUNT}=1 to go on", path=path
            )
        return
    _, fs_type, flags = best
    if "ro" in flags:
        raise StoreMountError(
            f"{path} is mounted read-only; readers must write their locks",
            hint="mount it writable, or read a copy",
            path=path,
        )
    if _UNSAFE_FS.fullmatch(fs_type) and not force:
        raise StoreMountError(
            f"{path} lies on {fs_type}, on which LMDB loses or mixes up data",
            hint=f"use a local volume; to try things out, set {UNSAFE_MOUNT}=1",
            path=path,
            fsType=fs_type,
        )


def _seal(table: bytes, key: bytes, value: bytes) -> bytes:
    return sha256(key + table + value).digest()[:_SEAL_BYTES] + value


def _unseal(table: bytes, key: bytes, raw: bytes) -> bytes:
    value = raw[_SEAL_BYTES:]
    if sha256(key + table + value).digest()[:_SEAL_BYTES] != raw[:_SEAL_BYTES]:
        raise _damaged(table, key)
    return value


def _damaged(table: bytes, key: bytes) -> DataLossError:
    name = table.decode()
    return DataLossError(
        f"the row {key.hex()} of table {name} does not match its digest",
        hint="restore the data directory from a backup",
        table=name,
        key=key.hex(),
    )


def _reads(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Say ``DataLossError`` when the pages, rather than a value, are damaged."""

    @functools.wraps(read)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.CursorFullError, lmdb.BadTxnError) as error:
            raise DataLossError(
                f"the pages of the store are damaged: {error}",
                hint="restore the data directory from a backup",
            ) from None

    return wrapped


class LmdbStore:
    """Log, Index and Blobs in ``DIR/lmdb``. Safe for concurrent use by threads and by processes.

    Made by ``open``. One object per directory and process; a child made by fork opens its own.
    """

    def __init__(self, directory: Path, env: lmdb.Environment, tables: dict[bytes, lmdb._Database]) -> None:
        self._directory = directory
        self._env = env
        self._tables = tables
        self._pid = os.getpid()
        self._lock = Lock()  # lets threads queue here, where they can be interrupted, and not in LMDB
        self._failed = False
        self._closed = False
        self._log = _LmdbLog(self)

    @classmethod
    def open(
        cls, path: Path, *, create: bool = False, map_bytes: int = 2**40, force_mount: bool = False
    ) -> LmdbStore:
        """Open the data directory ``path``; with ``create``, make it first unless it is one already.

        When it returns, the directory is durable, of a known version, on a mount that keeps LMDB's promises,
        and slots of dead readers are free. ``map_bytes`` limits the size of the store, costs only addresses,
        and should be the same for every process. ``force_mount`` (or ``RECENSION_UNSAFE_MOUNT=1``) accepts a
        doubtful mount. Raises ``NotAStoreError``, ``StoreVersionError``, ``StoreMountError``, or
        ``StoreFullError`` when there is no room to make it.
        """
        _check_engine()
        path = path.resolve()
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            mountinfo = ""
        force = force_mount or os.environ.get(UNSAFE_MOUNT) == "1"
        check_mount(path / "lmdb", mountinfo, force=force)
        if not (path / "lmdb").is_dir():
            _make(path, map_bytes, create=create)
        if not (path / "lmdb" / "data.mdb").is_file():
            raise _not_a_store(path, "holds no readable LMDB file")
        env = _open_env(path / "lmdb", map_bytes)
        try:
            return cls(path, env, _ready(path, env))
        except BaseException:
            env.close()
            raise

    @property
    def log(self) -> _LmdbLog:
        """The log."""
        return self._log

    def view(self) -> _LmdbView:
        """Open a consistent read of the newest committed state, by ``with``. Keep it under 5 s.

        Raises ``StoreForkedError`` in a child process, ``OverloadedError`` when all reader slots are taken.
        """
        return _LmdbView(self)

    def commit(self, record: bytes, head: Head, index: Iterable[Row], blobs: Iterable[Row]) -> Outcome:
        """Append ``record`` with its rows, atomically; durable and visible to all when it returns ``OK``.

        ``TAKEN`` if ``record`` does not follow the current head; nothing is written then. An existing blob is
        left alone. Raises ``ValueError`` for a key that is too long, a hash that is not the record's, or an
        index key that exists with another value, and ``StoreFullError`` when there is no room, with nothing
        stored in each case. Raises ``StoreFailedError`` when the outcome is unknown; this object then refuses
        all further writes.
        """
        record = bytes(record)
        if sha256(record).digest() != head.hash:
            raise ValueError("the head's hash is not the hash of the record")
        index_rows = _prepared(_INDEX, index)
        blob_rows, piece_rows = _cut_all(_prepared(_BLOBS, blobs))
        log_key = _NUMBER.pack(head.position)
        log_row = _seal(_LOG, log_key, pack(record))
        head_row = _seal(_META, _HEAD_KEY, _HEAD.pack(head.position, head.recorded_at, head.hash))

        def write(txn: lmdb.Transaction) -> Outcome:
            current = self.read_head_in(txn)
            if (head.position - 1, record[_PARENT]) != (current.position, current.hash):
                return Outcome.TAKEN
            self._insert(txn, _BLOBS, blob_rows)
            self._insert(txn, _PIECES, piece_rows)
            if not txn.put(log_key, log_row, append=True, overwrite=False, db=self._tables[_LOG]):
                raise _damaged(_LOG, log_key)  # the log would be ahead of its own head
            if self._insert(txn, _INDEX, index_rows) < len(index_rows):
                self._check_same(txn, index_rows)
            txn.put(_HEAD_KEY, head_row, db=self._tables[_META])
            return Outcome.OK

        return self._write(write)

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
        prepared = [(change, _replacement(change)) for change in changes]
        applied: list[bool] = []

        def write(txn: lmdb.Transaction) -> Outcome:
            applied.clear()
            for change, rows in prepared:
                fits = all(self._row_in(txn, key) == row for key, row in change.expected.items())
                applied.append(fits)
                if fits:
                    self._replace(txn, rows)
            return Outcome.OK

        self._write(write)
        return applied

    def _row_in(self, txn: lmdb.Transaction, key: bytes) -> bytes | None:
        raw = _get(txn, self._tables[_INDEX], key)
        return None if raw is None else _unseal(_INDEX, key, raw)

    def _replace(self, txn: lmdb.Transaction, rows: list[tuple[bytes, bytes, bytes | None]]) -> None:
        for table, key, raw in rows:
            if raw is None:
                txn.delete(key, db=self._tables[table])
            else:
                txn.put(key, raw, db=self._tables[table])

    @contextmanager
    def exclusive_writer(self) -> Iterator[None]:
        """Hold the right to ingest in bulk; ``WriterBusyError`` at once if someone has it.

        The right ends with the process, however it ends.
        """
        self.check_process()
        lock = os.open(self._directory / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise WriterBusyError(
                    f"process {pid} is ingesting into {self._directory}",
                    hint="wait until it has finished",
                    pid=pid,
                    path=self._directory,
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(lock)

    def free_dead_readers(self) -> int:
        """Free the slots of readers that were killed, and return their number.

        Pages that a slot still names are not used again, so the file would grow.
        """
        self.check_process()
        return int(self._env.reader_check())

    def close(self) -> None:
        """Release the directory; views that are still open fail from then on. Idempotent."""
        if not self._closed and os.getpid() == self._pid:
            with self._lock:
                self._closed = True
                self._env.close()

    def check_process(self) -> None:
        """Raise ``StoreForkedError`` in another process than the one that opened the store."""
        if os.getpid() != self._pid:
            raise StoreForkedError(
                "the store was opened before a fork", hint="open it in the child, or start children by spawn"
            )

    def begin(self) -> lmdb.Transaction:
        """Begin a read of the newest state. Holds a reader slot until the transaction is dropped."""
        self.check_process()
        try:
            return self._env.begin()
        except lmdb.ReadersFullError:
            self._env.reader_check()  # the slots of processes that were killed
        except lmdb.PanicError:
            raise _failed("an earlier write failed") from None
        try:
            return self._env.begin()
        except lmdb.ReadersFullError:
            raise OverloadedError("all reader slots of the store are taken", hint="retry later") from None

    def table(self, name: bytes) -> lmdb._Database:
        """Return the handle of a table."""
        return self._tables[name]

    @_reads
    def read_head(self) -> Head:
        """Return the head as committed."""
        with self.begin() as txn:
            return self.read_head_in(txn)

    def read_head_in(self, txn: lmdb.Transaction) -> Head:
        """Return the head as ``txn`` sees it."""
        raw = _get(txn, self._tables[_META], _HEAD_KEY)
        return EMPTY_LOG if raw is None else Head(*_HEAD.unpack(_unseal(_META, _HEAD_KEY, raw)))

    def _insert(self, txn: lmdb.Transaction, table: bytes, rows: list[Row]) -> int:
        """Put sealed rows, ascending by key; return how many were new."""
        with txn.cursor(self._tables[table]) as cursor:
            _, added = cursor.putmulti(rows, overwrite=False)
        return int(added)

    def _check_same(self, txn: lmdb.Transaction, rows: list[Row]) -> None:
        for key, row in rows:
            if txn.get(key, db=self._tables[_INDEX]) != row:
                raise ValueError(f"index key {key.hex()} exists with another value")

    def _write_derived(self, chunk: list[Row]) -> None:
        rows = _prepared(_INDEX, chunk)

        def write(txn: lmdb.Transaction) -> Outcome:
            self._insert(txn, _INDEX, rows)
            return Outcome.OK

        self._write(write)

    def _write(self, work: Callable[[lmdb.Transaction], Outcome]) -> Outcome:
        """Do ``work`` in one transaction and commit it if the outcome is ``OK``.

        An error of ``work`` itself leaves the store as it was. Any other is either certain to have stored
        nothing (no room) or ends the writing.
        """
        self.check_process()
        failure: StoreError | None = None  # raised outside ``except``, so that it holds no transaction
        with self._lock:
            if self._failed:
                raise _failed("an earlier write failed")
            try:
                return self._transact(work)
            except (lmdb.Error, OSError) as error:
                failure = self._translated(error)
        raise failure

    def _transact(self, work: Callable[[lmdb.Transaction], Outcome]) -> Outcome:
        txn = self._env.begin(write=True)
        try:
            outcome = work(txn)
            if outcome is Outcome.OK:
                txn.commit()
            return outcome
        finally:
            txn.abort()  # does nothing after a commit
            del txn

    def _translated(self, error: lmdb.Error | OSError) -> StoreError:
        """Return what to raise for a failed write. A full map or disk is not final, all else is."""
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
        full = isinstance(error, lmdb.MapFullError) or code in {errno.ENOSPC, errno.EDQUOT}
        if (full or (code == errno.EIO and self._free_bytes() < _LOW_SPACE_BYTES)) and self._usable():
            return StoreFullError(
                f"no room in {self._directory}: {error}; nothing was stored",
                hint="make room, then retry",
                path=self._directory,
            )
        self._failed = True
        return _failed(str(error))

    def _free_bytes(self) -> int:
        stats = os.statvfs(self._directory)
        return stats.f_bavail * stats.f_frsize

    def _usable(self) -> bool:
        """Return whether the error came before the page that publishes a commit; LMDB panics after that."""
        with suppress(lmdb.Error):
            self._env.begin().abort()
            return True
        return False


class _LmdbLog:
    """The log of an ``LmdbStore``."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store

    def head(self) -> Head:
        """Return the newest commit's position, time and hash; ``EMPTY_LOG`` before the first."""
        return self._store.read_head()

    @_reads
    def read(self, start: int, limit: int) -> list[bytes]:
        """Return up to ``limit`` records from position ``start`` on, ascending and without a gap."""
        store = self._store
        table = store.table(_LOG)
        out = []
        with store.begin() as txn:
            end = store.read_head_in(txn).position
            first = max(start, 1)
            for position in range(first, min(first + limit, end + 1)):
                key = _NUMBER.pack(position)
                raw = _get(txn, table, key)
                if raw is None:
                    raise _damaged(_LOG, key)
                out.append(unpack(_unseal(_LOG, key, raw)))
        return out


class _LmdbView:
    """A read transaction on Index and Blobs, from ``with`` to its end; bound to one thread."""

    __slots__ = ("_blobs", "_cursor", "_index", "_pieces", "_store", "_txn")

    _txn: lmdb.Transaction
    _cursor: lmdb.Cursor

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self._index = store.table(_INDEX)
        self._blobs = store.table(_BLOBS)
        self._pieces = store.table(_PIECES)

    def __enter__(self) -> Self:
        self._txn = self._store.begin()
        self._cursor = self._txn.cursor(self._index)
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()
        self._txn.abort()
        # The reader slot is free once nothing refers to the transaction; a traceback may still hold the view.
        del self._cursor, self._txn

    @_reads
    def head(self) -> Head:
        """Return the log's head as of this view."""
        return self._store.read_head_in(self._txn)

    @_reads
    def get(self, key: bytes) -> bytes | None:
        """Return the value of an index key."""
        raw = _get(self._txn, self._index, key) if 0 < len(key) <= _MAX_KEY_BYTES else None
        return None if raw is None else _unseal(_INDEX, key, raw)

    @_reads
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of index keys, in the order asked."""
        get = self.get
        return [get(key) for key in keys]

    @_reads
    def scan(self, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        """Return index rows with ``start <= key < stop``, ascending; at most ``limit`` if not 0."""
        cursor = self._cursor
        if not cursor.set_range(start):
            return []
        out: list[Row] = []
        append, digest, table, size = out.append, sha256, _INDEX, _SEAL_BYTES  # a million rows pass here
        rows = cast("Iterator[Row]", cursor.iternext())
        for key, raw in islice(rows, limit or None):
            if key >= stop:
                break
            value = raw[size:]
            if digest(key + table + value).digest()[:size] != raw[:size]:
                raise _damaged(table, key)
            append((key, value))
        return out

    @_reads
    def last(self, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest index row with ``start <= key < stop``."""
        return _last(self._cursor, _INDEX, start, stop)

    @_reads
    def blob(self, key: bytes) -> bytes | None:
        """Return a blob."""
        raw = _get(self._txn, self._blobs, key) if 0 < len(key) <= _MAX_KEY_BYTES else None
        if raw is None:
            return None
        if raw[:1] > b"\0":
            pieces = [_get(self._txn, self._pieces, key + bytes([at])) or b"" for at in range(raw[0])]
            raw = b"".join([raw, *pieces])
        return _unseal(_BLOBS, key, raw[1:])

    @_reads
    def last_blob_key(self, start: bytes, stop: bytes) -> bytes | None:
        """Return the greatest blob key with ``start <= key < stop``."""
        with self._txn.cursor(self._blobs) as cursor:
            if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
                return None
            key = bytes(cursor.key())
        return key if key >= start else None


def _get(txn: lmdb.Transaction, table: lmdb._Database, key: bytes) -> bytes | None:
    return cast("bytes | None", txn.get(key, db=table))  # memoryviews only if asked for


def _last(cursor: lmdb.Cursor, table: bytes, start: bytes, stop: bytes) -> Row | None:
    if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
        return None
    key, raw = cast("Row", cursor.item())
    if not start <= key < stop:
        return None
    return key, _unseal(table, key, raw)


def _prepared(table: bytes, rows: Iterable[Row]) -> list[Row]:
    """Return the rows sealed and ascending by key. Raises ``ValueError`` for a key that does not fit."""
    out = []
    for key, value in rows:
        if not 1 <= len(key) <= _MAX_KEY_BYTES:
            raise ValueError(f"a key has 1 to {_MAX_KEY_BYTES} bytes")
        out.append((bytes(key), _seal(table, bytes(key), bytes(value))))
    out.sort(key=lambda row: row[0])  # stable: of two rows with one key the first counts
    return out


def _cut_all(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the heads of sealed blobs, each behind the number of its pieces, and the pieces."""
    heads, pieces = [], []
    for key, raw in rows:
        head, *rest = cut(raw)
        heads.append((key, bytes([len(rest)]) + head))
        pieces += [(key + bytes([at]), piece) for at, piece in enumerate(rest)]
    return heads, pieces


def _replacement(change: Rewrite) -> list[tuple[bytes, bytes, bytes | None]]:
    """Return (table, key, value to put or ``None``) of all that a change touches."""
    out: list[tuple[bytes, bytes, bytes | None]] = []
    put = [(key, value) for key, value in change.index.items() if value is not None]
    out += [(_INDEX, key, None) for key, value in change.index.items() if value is None]
    out += [(_INDEX, key, raw) for key, raw in _prepared(_INDEX, put)]
    blobs = [(key, value) for key, value in change.blobs.items() if value is not None]
    out += [(_BLOBS, key, None) for key, value in change.blobs.items() if value is None]
    out += [(_PIECES, key + bytes([at]), None) for key in change.blobs for at in range(MAX_PIECES)]
    for table, rows in zip((_BLOBS, _PIECES), _cut_all(_prepared(_BLOBS, blobs)), strict=True):
        out += [(table, key, raw) for key, raw in rows]
    return out


def _failed(cause: str) -> StoreFailedError:
    return StoreFailedError(
        f"{cause}; whether the last write was stored is unknown",
        hint="restart the process, which reads the head again",
    )


def _not_a_store(path: Path, why: str) -> NotAStoreError:
    return NotAStoreError(f"{path} {why}", hint=_CREATE_HINT, path=path)


def _check_engine() -> None:
    """Raise unless LMDB is the one of the wheel: others lack its fixes or write another format."""
    from lmdb import _config  # noqa: PLC0415 -- internal, so missed here and not at import

    if "-DHAVE_PATCHED_LMDB=1" not in str(_config.CONFIG.get("extra_compile_args")):
        raise StoreError("this lmdb was built on a system library", hint="install the lmdb wheel from PyPI")


def _open_env(path: Path, map_bytes: int) -> lmdb.Environment:
    try:
        env = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=len(_TABLES),
            max_readers=_MAX_READERS,
            max_spare_txns=16,
            create=True,
            sync=True,
            metasync=True,
            writemap=False,
            lib_version=0,  # else the environment could choose another format
        )
    except lmdb.VersionMismatchError:
        raise StoreVersionError(
            f"{path} was written by another LMDB", hint="install the version of recension that wrote it"
        ) from None
    except lmdb.InvalidError:
        raise _not_a_store(path.parent, "holds no readable LMDB file") from None
    except MemoryError:
        raise StoreError(
            f"no room for a map of {map_bytes} bytes among the addresses", hint="raise `ulimit -v`"
        ) from None
    except lmdb.Error as error:
        if error.code in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFullError(f"no room in {path}", hint="make room, then retry", path=path) from None
        raise StoreError(f"{path} cannot be opened: {error}", path=path) from None
    if env.lib_version()[:2] != (0, 9) or not env.flags()["sync"] or env.flags()["writemap"]:
        env.close()
        raise StoreError("LMDB did not open the store as asked", hint="install the lmdb wheel from PyPI")
    return env


def _ready(path: Path, env: lmdb.Environment) -> dict[bytes, lmdb._Database]:
    """Return the tables once the environment is known to be ours, and our reads to be seen by writers."""
    try:
        meta = env.open_db(_META, create=False)
        with env.begin() as txn:
            raw = _get(txn, meta, _SCHEMA_KEY)
            # On some mounts LMDB reads without the lock table; writers then reuse the pages being read.
            seen = any(
                line.split()[0] == str(os.getpid()) for line in env.readers().splitlines() if line.strip()
            )
        if raw is None:
            raise _not_a_store(path, "is not a recension data directory")
        (version,) = _NUMBER.unpack(_unseal(_META, _SCHEMA_KEY, raw))
        if version != SCHEMA_VERSION:
            newer = version > SCHEMA_VERSION
            raise StoreVersionError(
                f"{path} has schema {version}, {'newer' if newer else 'older'} than {SCHEMA_VERSION}",
                hint="install a newer recension" if newer else "no release wrote it; ingest again",
                path=path,
            )
        tables = {name: env.open_db(name, create=False) for name in _TABLES}
    except lmdb.NotFoundError:
        raise _not_a_store(path, "is not a recension data directory") from None
    except lmdb.Error as error:
        raise DataLossError(
            f"{path} cannot be read: {error}", hint="restore the data directory from a backup", path=path
        ) from None
    if not seen:
        raise StoreMountError(
            f"reads of {path} do not reach its lock table", hint="use a local volume", path=path
        )
    env.reader_check()
    return tables


def _make(path: Path, map_bytes: int, *, create: bool) -> None:
    """Make the environment aside and move it into place whole; durable when it returns."""
    if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - _OWN_NAMES):
        raise _not_a_store(path, "is not a recension data directory")
    if not create:
        raise _not_a_store(path, "holds no data yet" if path.exists() else "does not exist")
    try:
        path.mkdir(parents=True, exist_ok=True)
        _sync(path.parent)
        with (path / "writer.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it just now
            if not (path / "lmdb").is_dir():
                _make_env(path, map_bytes)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFullError(f"no room in {path}", hint="make room, then retry", path=path) from None
        raise StoreError(f"{path} cannot be made: {error}", path=path) from None


def _make_env(path: Path, map_bytes: int) -> None:
    fresh = path / "lmdb.new"
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed here
    fresh.mkdir()
    env = _open_env(fresh, map_bytes)
    try:
        tables = {name: env.open_db(name) for name in _TABLES}
        with env.begin(write=True) as txn:
            schema = _seal(_META, _SCHEMA_KEY, _NUMBER.pack(SCHEMA_VERSION))
            txn.put(_SCHEMA_KEY, schema, db=tables[_META])
    except lmdb.Error as error:
        raise StoreFullError(f"no room in {path}: {error}", hint="make room, then retry", path=path) from None
    finally:
        env.close()
    _sync(fresh / "data.mdb")
    _sync(fresh)
    fresh.rename(path / "lmdb")
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
