"""The audit log on disk: an LMDB environment of its own in the data directory, ``DIR/audit``.

Records are rows by index, appended and never changed. Beside them stand the head (size, the peaks of the
Merkle tree, how much of the store's log was taken over), the checkpoints that were signed, and where the
records of each day begin. Several processes append; LMDB's write lock is the order.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import cast

import lmdb

from recension.model.errors import AuditDamagedError, AuditUnusableError, RecensionError, StoreError
from recension.model.merkle import EMPTY, Frontier, leaf_hash
from recension.store.directory import AUDIT_DIRECTORY, free_bytes, sync
from recension.store.environment import DAMAGE, FULL, check_usable, open_env, settle
from recension.store.interface import Row
from recension.store.layout import SEAL_BYTES, seal

MAP_BYTES = 2**38
"""Room for some 10^9 records; costs only addresses."""
SCHEMA_VERSION = 1
RECORDS, CHECKPOINTS, DAYS, META = TABLES = (b"records", b"checkpoints", b"days", b"audit")
_SCHEMA_KEY, _HEAD_KEY = b"schema", b"head"
_NUMBER = struct.Struct(">Q")
_HEAD = struct.Struct(">QQ32sqQq")
_DAY = struct.Struct(">Qq")
_NOTE = struct.Struct(">q")
_HASH_BYTES = 32
_DAY_MICROS = 86_400 * 1_000_000
_LOW_SPACE_BYTES = 1 << 20
_RESTORE = "see what is wrong with: recension-server audit verify; docs/licence.md says what to do then"


@dataclass(frozen=True, slots=True)
class Day:
    """What the row of a day says: where its records begin, and the oldest time that one of them has."""

    first: int
    least: int
    """Microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where the audit log ends."""

    size: int = 0
    """Records."""
    peaks: tuple[bytes, ...] = ()
    """Of their Merkle tree (``model.merkle.Frontier``)."""
    taken: int = 0
    """Position of the store's log up to which its statements were taken over."""
    taken_hash: bytes = bytes(_HASH_BYTES)
    """Hash of the commit there."""
    logged_at: int = 0
    """When the newest group was written, microseconds since the epoch: never less than before, nor than any
    time in its records."""
    day: Day = Day(0, 0)
    """That of the newest group, whose number ``day_of`` gives."""

    @property
    def root(self) -> bytes:
        """The root of the tree of all records."""
        return Frontier(self.size, self.peaks).root() if self.size else EMPTY


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A checkpoint that was signed."""

    size: int
    signed_at: int
    """Microseconds since the epoch."""
    note: str


@dataclass(frozen=True, slots=True)
class Change:
    """What one write brings."""

    head: AuditHead
    records: list[bytes] = field(default_factory=list)
    """Those behind the old head, in order."""
    checkpoint: SignedNote | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    env: lmdb.Environment
    tables: dict[bytes, lmdb._Database]


class AuditStore:
    """The audit log of one data directory. Safe for concurrent use by threads and by processes.

    It is opened when it is first needed, and anew after a failure: what a disk without room has refused can
    be written once there is some.
    """

    def __init__(self, data: Path, *, force_mount: bool = False) -> None:
        """``data``: the data directory. Nothing is touched yet."""
        self.path = data / AUDIT_DIRECTORY
        self._force = force_mount
        self._lock = Lock()
        self._writing = Lock()
        self._opened: _Opened | None = None

    def exists(self) -> bool:
        """Say whether there is a log."""
        return self.path.exists()

    def make(self) -> None:
        """Make an empty log if there is none. Raises ``AuditUnusableError``."""
        if not self.exists():
            with _named(self.path):
                self._make()

    def head(self) -> AuditHead:
        """Return where the log ends. Raises ``AuditUnusableError``, ``AuditDamagedError``."""
        with self._reading() as (opened, txn):
            return _head(opened, txn)

    def update(self, make: Callable[[AuditHead], Change | None]) -> AuditHead:
        """Write what ``make`` says to the head, in one transaction; durable when it returns.

        Makes the log if there is none. ``None`` writes nothing. Raises ``AuditUnusableError`` when it cannot
        be written, ``AuditDamagedError``; after either nothing may be taken to be stored, nor not to be.
        """
        self.make()
        with self._writing, _named(self.path, self._drop):
            opened = self._open()
            txn = opened.env.begin(write=True)
            try:
                head = _head(opened, txn)
                change = make(head)
                if change is None:
                    return head
                _put(opened, txn, head, change)
                txn.commit()
                return change.head
            finally:
                txn.abort()  # does nothing after a commit
                del txn

    def records(self, start: int, limit: int) -> list[tuple[int, bytes | None]]:
        """Return (index, record) of up to ``limit`` rows from an index on; ``None`` for a damaged one."""
        with self._reading() as (opened, txn):
            return [
                (int.from_bytes(key, "big"), _unsealed(RECORDS, key, raw))
                for key, raw in _rows(opened, txn, RECORDS, _NUMBER.pack(start), limit)
            ]

    def checkpoints(self) -> list[SignedNote]:
        """Return all checkpoints that were signed, by size; the text of a damaged one is empty."""
        with self._reading() as (opened, txn):
            found = []
            for key, raw in _rows(opened, txn, CHECKPOINTS):
                value = _unsealed(CHECKPOINTS, key, raw) or _NOTE.pack(0)
                (signed_at,) = _NOTE.unpack_from(value)
                note = value[_NOTE.size :].decode(errors="replace")
                found.append(SignedNote(int.from_bytes(key, "big"), signed_at, note))
            return found

    def newest_checkpoint(self) -> SignedNote | None:
        """Return the checkpoint of the greatest size."""
        with self._reading() as (opened, txn), txn.cursor(opened.tables[CHECKPOINTS]) as cursor:
            if not cursor.last():
                return None
            key, raw = cast("Row", cursor.item())  # memoryviews only if asked for
            value = _whole(CHECKPOINTS, key, raw)
            (signed_at,) = _NOTE.unpack_from(value)
            return SignedNote(int.from_bytes(key, "big"), signed_at, value[_NOTE.size :].decode())

    def checkpoint(self, size: int) -> SignedNote | None:
        """Return the checkpoint of a size."""
        return next((one for one in self.checkpoints() if one.size == size), None)

    def days(self) -> dict[int, Day]:
        """Return where the records of each day begin, by the day's number since the epoch."""
        with self._reading() as (opened, txn):
            return {
                int.from_bytes(key, "big"): Day(*_DAY.unpack(_whole(DAYS, key, raw)))
                for key, raw in _rows(opened, txn, DAYS)
            }

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        self._drop()

    # --- opening ----------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[tuple[_Opened, lmdb.Transaction]]:
        with _named(self.path):
            opened = self._open()
            with opened.env.begin() as txn:
                yield opened, txn

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                if not self.exists():
                    raise AuditUnusableError(
                        f"there is no audit log at {self.path}",
                        hint="it begins with the first call of a caller with a key",
                    )
                check_usable(self.path.resolve(), force=self._force)
                self._opened = _open(self.path)
            return self._opened

    def _drop(self) -> None:
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.env.close()

    def _make(self) -> None:
        """Make it aside and move it into place whole, whoever else does so too."""
        check_usable(self.path.parent.resolve(), force=self._force)
        lock = os.open(self.path.with_name("audit.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.exists():
                return
            made = self.path.with_name("audit.new")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            env = open_env(made, MAP_BYTES)
            try:
                tables = {name: env.open_db(name) for name in TABLES}
                with env.begin(write=True) as txn:
                    txn.put(*_sealed(META, _SCHEMA_KEY, _NUMBER.pack(SCHEMA_VERSION)), db=tables[META])
            finally:
                env.close()
            settle(made)
            made.rename(self.path)
            sync(self.path.parent)
        finally:
            os.close(lock)


def copy_audit(data: Path, target: Path) -> None:
    """Copy the audit log of a data directory, or of a backup, to a directory that does not exist; durable.

    Every record is read back, and the tree of them compared with the head. Without a log nothing is made.
    Raises ``AuditDamagedError``, ``AuditUnusableError``.
    """
    path = data / AUDIT_DIRECTORY
    if not path.exists():
        return
    with _named(path):
        opened = _open(path, alone=not (path / "lock.mdb").exists())
        try:
            with opened.env.begin() as txn:
                target.mkdir()
                opened.env.copy(str(target), compact=True, txn=txn)
        finally:
            opened.env.close()
        settle(target)
        copied = _open(target, alone=True)
        try:
            with copied.env.begin() as txn:
                _check_whole(copied, txn)
        finally:
            copied.env.close()


def _check_whole(opened: _Opened, txn: lmdb.Transaction) -> None:
    head, tree = _head(opened, txn), Frontier()
    for key, raw in _rows(opened, txn, RECORDS):
        tree.append(leaf_hash(_whole(RECORDS, key, raw)))
    if (tree.size, tree.peaks) != (head.size, head.peaks):
        raise AuditDamagedError("the records of the audit log are not those of its head", hint=_RESTORE)


def _open(path: Path, *, alone: bool = False) -> _Opened:
    env = open_env(path, MAP_BYTES, alone=alone)
    try:
        tables = {name: env.open_db(name, create=False) for name in TABLES}
        opened = _Opened(env, tables)
        with env.begin() as txn:
            raw = txn.get(_SCHEMA_KEY, db=tables[META])
            _check_schema(path, _whole(META, _SCHEMA_KEY, raw or b""))
            _head(opened, txn)
        if not alone:
            env.reader_check()
    except lmdb.NotFoundError:
        env.close()
        raise AuditDamagedError(f"{path} is no audit log", hint=_RESTORE) from None
    except BaseException:
        env.close()
        raise
    return opened


def _check_schema(path: Path, value: bytes) -> None:
    schema = int.from_bytes(value, "big")
    if schema != SCHEMA_VERSION:
        raise AuditUnusableError(
            f"{path} has schema {schema}, not {SCHEMA_VERSION}", hint="install the recension of it"
        )


@contextmanager
def _named(path: Path, failed: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Name what LMDB and the disk raise; ``failed`` is called first, so that it is opened anew."""
    error: RecensionError
    try:
        yield
    except DAMAGE as cause:
        error = AuditDamagedError(f"the pages of {path} are damaged: {cause}", hint=_RESTORE)
    except (lmdb.Error, OSError) as cause:
        code = cause.errno if isinstance(cause, OSError) else getattr(cause, "code", None)
        short = code == errno.EIO and path.parent.exists() and free_bytes(path.parent) < _LOW_SPACE_BYTES
        if isinstance(cause, lmdb.MapFullError) or code in FULL or short:
            error = AuditUnusableError(f"no room for the audit log in {path}: {cause}", hint="make room")
        else:
            error = AuditUnusableError(f"the audit log {path} fails: {cause}", hint="look at the disk")
    except (AuditDamagedError, AuditUnusableError):
        failed()
        raise
    except StoreError as cause:
        error = AuditUnusableError(f"the audit log cannot be used: {cause.message}", hint=cause.hint)
    else:
        return
    failed()
    raise error


# --- rows -----------------------------------------------------------------------------------------


def _sealed(table: bytes, key: bytes, value: bytes) -> Row:
    return key, seal(table, key, value)


def _unsealed(table: bytes, key: bytes, raw: bytes) -> bytes | None:
    value = raw[SEAL_BYTES:]
    return value if seal(table, key, value) == raw else None


def _whole(table: bytes, key: bytes, raw: bytes) -> bytes:
    value = _unsealed(table, key, raw)
    if value is None:
        raise AuditDamagedError(
            f"the row {key.hex()} of the audit log's table {table.decode()} does not match its digest",
            hint=_RESTORE,
        )
    return value


def _rows(
    opened: _Opened, txn: lmdb.Transaction, table: bytes, start: bytes = b"", limit: int = 0
) -> Iterator[Row]:
    with txn.cursor(opened.tables[table]) as cursor:
        if not cursor.set_range(start):
            return
        for count, row in enumerate(cursor.iternext(), 1):
            yield cast("Row", row)
            if count == limit:
                return


def _head(opened: _Opened, txn: lmdb.Transaction) -> AuditHead:
    raw = cast("bytes | None", txn.get(_HEAD_KEY, db=opened.tables[META]))
    if raw is None:
        return AuditHead()
    value = _whole(META, _HEAD_KEY, raw)
    size, taken, taken_hash, logged_at, first, least = _HEAD.unpack_from(value)
    rest = value[_HEAD.size :]
    peaks = tuple(rest[at : at + _HASH_BYTES] for at in range(0, len(rest), _HASH_BYTES))
    return AuditHead(size, peaks, taken, taken_hash, logged_at, Day(first, least))


def head_row(head: AuditHead) -> Row:
    """Return the row of the head."""
    day = head.day
    fixed = _HEAD.pack(head.size, head.taken, head.taken_hash, head.logged_at, day.first, day.least)
    return _sealed(META, _HEAD_KEY, fixed + b"".join(head.peaks))


def day_of(instant: int) -> int:
    """Return the number of an instant's day since the epoch, UTC."""
    return instant // _DAY_MICROS


def day_row(number: int, day: Day) -> Row:
    """Return the row of a day."""
    return _sealed(DAYS, _NUMBER.pack(number), _DAY.pack(day.first, day.least))


def record_row(index: int, record: bytes) -> Row:
    """Return the row of a record."""
    return _sealed(RECORDS, _NUMBER.pack(index), record)


def _put(opened: _Opened, txn: lmdb.Transaction, head: AuditHead, change: Change) -> None:
    for index, record in enumerate(change.records, head.size):
        if not txn.put(*record_row(index, record), append=True, db=opened.tables[RECORDS]):
            raise AuditDamagedError(f"there is a record {index} already, behind the head", hint=_RESTORE)
    if change.records:
        txn.put(*day_row(day_of(change.head.logged_at), change.head.day), db=opened.tables[DAYS])
    if change.checkpoint is not None:
        one = change.checkpoint
        value = _NOTE.pack(one.signed_at) + one.note.encode()
        txn.put(*_sealed(CHECKPOINTS, _NUMBER.pack(one.size), value), db=opened.tables[CHECKPOINTS])
    txn.put(*head_row(change.head), db=opened.tables[META])
