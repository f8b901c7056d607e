"""Small numbers beside the store, which all processes of a server change and each change of which is exact.

They say what was used of what may be, and are no part of the archive: no backup has them. There are two
places. ``rates`` is never synced: what is in it outlives every process but no loss of power, and who cannot
open it makes it anew. ``quotas`` is durable before a change returns.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar, cast

import lmdb

from recension.model.errors import (
    CountersDamagedError,
    DataLossError,
    StoreError,
    StoreForkedError,
    StoreFullError,
)
from recension.store.directory import remove, sync
from recension.store.environment import DAMAGE, FULL, check_usable, keeps_room
from recension.store.interface import Row
from recension.store.layout import seal, unseal

COUNTERS_DIRECTORY = "counters"
"""Name of the directory in a data directory."""
RATES, QUOTAS = "rates", "quotas"
"""The two places."""
_TABLE = b"counters"
_MAP_BYTES = 1 << 30
"""Costs addresses alone. A licensee takes some hundred bytes a day."""
_RATES_BYTES = 2 << 20
"""All the room of ``rates`` where it is given at once: enough for some 15,000 licensees and open streams."""
_MAX_READERS = 1024
_T = TypeVar("_T")


class Cells:
    """The rows as one transaction sees and changes them. Not to be kept beyond it."""

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        """Return a value. Raises ``DataLossError`` when it is not what was put there."""
        raw = cast("bytes | None", self._txn.get(key))  # memoryviews only if asked for
        return None if raw is None else unseal(_TABLE, key, raw)

    def rows(self, prefix: bytes = b"") -> list[Row]:
        """Return the rows whose keys begin with ``prefix``, by key. Raises ``DataLossError``."""
        found: list[Row] = []
        with self._txn.cursor() as cursor:
            if cursor.set_range(prefix) if prefix else cursor.first():
                for key, raw in cast("Iterable[Row]", cursor):
                    if not key.startswith(prefix):
                        break
                    found.append((key, unseal(_TABLE, key, raw)))
        return found

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value. Keys have 1 to 511 bytes."""
        self._txn.put(key, seal(_TABLE, key, value))

    def delete(self, key: bytes) -> None:
        """Remove a row, if it is there."""
        self._txn.delete(key)


class Counters:
    """One of the two places. Safe for concurrent use by threads and by processes, not across a fork.

    It is opened when it is first needed, and made first if it is not there.
    """

    def __init__(self, data: Path, place: str, *, force_mount: bool = False) -> None:
        """``data``: the data directory; ``place``: ``RATES`` or ``QUOTAS``. Nothing is touched yet."""
        self._path = data.absolute() / COUNTERS_DIRECTORY / place
        self._force = force_mount
        self._lock = Lock()
        self._opened: tuple[lmdb.Environment, int] | None = None

    def exist(self) -> bool:
        """Say whether anything was ever counted."""
        return self._path.exists()

    def close(self) -> None:
        """Let go of it; it is opened again when it is needed."""
        with self._lock:
            if self._opened is not None:
                self._opened[0].close()
            self._opened = None

    def change(self, work: Callable[[Cells], _T]) -> _T:
        """See and change the rows, alone among all processes; nothing is changed if ``work`` raises.

        When it returns, every process sees the change, and that of ``QUOTAS`` is durable. Raises
        ``StoreFullError``, ``CountersDamagedError``, ``StoreError``: then it may have been made or not.
        """
        env = self._env()
        try:
            with env.begin(write=True) as txn:
                return work(Cells(txn))
        except (lmdb.Error, DataLossError) as error:
            raise _named(error, self._path) from None

    @contextmanager
    def changing(self) -> Iterator[Cells]:
        """Do as ``change`` with the block."""
        with self._transaction(write=True) as cells:
            yield cells

    @contextmanager
    def looking(self) -> Iterator[Cells]:
        """See the rows as they are at one moment. Raises as ``change`` does."""
        with self._transaction(write=False) as cells:
            yield cells

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Cells]:
        env = self._env()
        try:
            with env.begin(write=write) as txn:
                yield Cells(txn)
        except (lmdb.Error, DataLossError) as error:
            raise _named(error, self._path) from None

    def _env(self) -> lmdb.Environment:
        opened = self._opened
        if opened is None:
            with self._lock:
                opened = self._opened = self._opened or (_opened(self._path, force=self._force), os.getpid())
        if opened[1] != os.getpid():
            raise StoreForkedError("the counters were opened before a fork", hint="open them in this process")
        return opened[0]


def _opened(path: Path, *, force: bool) -> lmdb.Environment:
    """Open a place; one for rates that is damaged is made anew."""
    check_usable(path, force=force)
    try:
        path.parent.mkdir(exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it just now
            if not path.exists():
                _make(path)
            try:
                return _open(path)
            except CountersDamagedError:
                if path.name != RATES:
                    raise
            remove(path)
            _make(path)
            return _open(path)
    except OSError as error:
        raise _named(error, path) from None


def _open(path: Path) -> lmdb.Environment:
    durable = path.name != RATES
    # Each call changes a rate: in a map that is written itself, that takes no call of the system.
    in_map = not durable and keeps_room(path.resolve())
    if in_map:
        _allot(path / "data.mdb", _RATES_BYTES)
    env = None
    try:
        env = lmdb.open(
            str(path),
            map_size=_RATES_BYTES if in_map else _MAP_BYTES,
            max_dbs=0,
            max_readers=_MAX_READERS,
            create=False,
            sync=durable,
            metasync=durable,
            writemap=in_map,
            lib_version=0,  # as the store: no other format by the environment's wish
        )
        env.reader_check()
        with env.begin() as txn:
            Cells(txn).rows()  # they are few, and better damaged now than in a call
    except (lmdb.Error, DataLossError) as error:
        if env is not None:
            env.close()
        raise _named(error, path) from None
    return env


def _allot(file: Path, size: int) -> None:
    """Give a file its room on the disk: who writes to a page of a map without any is ended by the system."""
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _make(path: Path) -> None:
    """Make an environment aside and move it into place whole: making one is not atomic."""
    new = path.with_name(f"{path.name}.new")
    remove(new)
    new.mkdir()
    try:
        env = lmdb.open(str(new), map_size=_MAP_BYTES, max_dbs=0, lib_version=0)
        with env.begin(write=True) as txn:
            Cells(txn).put(b"!made", path.name.encode())  # without a row nothing would be written
        env.close()
    except lmdb.Error as error:
        raise _named(error, path) from None
    for part in (new / "data.mdb", new):
        sync(part)
    new.rename(path)
    sync(path.parent)


def _named(error: Exception, path: Path) -> StoreError:
    if isinstance(error, (DataLossError, lmdb.InvalidError, lmdb.VersionMismatchError, *DAMAGE)):
        return CountersDamagedError(
            f"{path} is damaged: {error}",
            hint="stop the server and move it away: what was used of quotas begins anew at nothing",
            path=path,
        )
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    if isinstance(error, lmdb.MapFullError) or code in FULL:
        return StoreFullError(f"no room in {path}", hint="make room, then retry", path=path)
    return StoreError(f"{path} cannot be used: {error}", path=path)
