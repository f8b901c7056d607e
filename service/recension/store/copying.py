"""Copies of an environment: every row by key, checked on the way, into pages that are filled to the end.

LMDB's own compact copy keeps half-empty pages as they are; rows put in order leave none, and long values are
laid out anew. A copy is read back whole before it counts: each row against its digest, and the log from its
first record to its head.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import cast

import lmdb

from recension.model.errors import DataLossError, StoreError, WriterBusyError
from recension.model.record import EMPTY_LOG, MAGIC, Head, commit_hash
from recension.store.arrivals import ROWS_A_CHUNK
from recension.store.directory import AUDIT_DIRECTORY, DataDirectory, check_room, free_bytes, remove, sync
from recension.store.environment import (
    FULL,
    Opened,
    make_env,
    names_damage,
    no_room,
    not_a_store,
    open_env,
    open_newest,
    settle,
    tables_of,
)
from recension.store.interface import Copied, Progress, Row
from recension.store.layout import (
    ARRIVALS,
    BLOBS,
    HEAD_KEY,
    INDEX,
    LOG,
    META,
    PIECES,
    RESTS,
    RUNS,
    SEAL_BYTES,
    damaged,
    log_key,
    read_head,
    seal,
)
from recension.store.merged import Packing, all_together
from recension.store.records import unpack_record
from recension.store.rests import Rests
from recension.store.runs import MOST_ROWS

_BATCH_BYTES = 8 << 20
"""Rows of one transaction of a copy."""
_BATCH_ROWS = 50_000
_LOW_SPACE_BYTES = 1 << 20
_WALKED = LOG, INDEX, BLOBS, META
"""The tables whose rows are copied; the others hold parts of theirs."""
_CUT = frozenset({LOG, BLOBS})
"""The tables whose values may lie in parts."""
_PARENT = slice(len(MAGIC) + 16, len(MAGIC) + 48)
_RESTORE = "restore the data directory from a backup"


def used_bytes(opened: Opened, txn: lmdb.Transaction) -> dict[bytes, int]:
    """Return the bytes of the pages of each table."""
    return {table: _page_bytes(txn.stat(handle)) for table, handle in opened.tables.items()}


def copy(
    opened: Opened, txn: lmdb.Transaction, target: Path, map_bytes: int, schema: int, progress: Progress
) -> Copied:
    """Copy what ``txn`` sees into a new environment, read it back, and make it durable; closed on return.

    Raises ``DataLossError`` for a row that is not as it was stored, and ``StoreFullError``; what is at
    ``target`` is of no use then.
    """
    started = time.monotonic()
    check_room(target.parent, sum(used_bytes(opened, txn).values()))
    try:
        made = make_env(target, map_bytes, schema, sync_each=False)
        try:
            expected = _copy_rows(opened, txn, made, progress)
            with made.env.begin() as copied:
                rows, head = _verify(made, copied, progress)
                if rows != expected:
                    raise DataLossError("the copy does not have the rows that were put there")
            made.env.sync(True)  # noqa: FBT003 - its parameter is positional
        finally:
            made.env.close()
        settle(target)
    except (lmdb.Error, OSError) as error:
        raise _named(error, target) from None
    size = (target / "data.mdb").stat().st_size
    return Copied(head, sum(rows.values()), size, time.monotonic() - started)


def _named(error: lmdb.Error | OSError, target: Path) -> StoreError:
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    short = code == errno.EIO and free_bytes(target.parent) < _LOW_SPACE_BYTES
    if isinstance(error, lmdb.MapFullError) or code in FULL or short:
        return no_room(target, error)
    return StoreError(f"{target} cannot be written: {error}", path=target)


def _copy_rows(opened: Opened, txn: lmdb.Transaction, made: Opened, progress: Progress) -> dict[bytes, int]:
    """Copy all rows, laid out anew; return their number in each table."""
    counts = dict.fromkeys(_WALKED, 0)
    rests, packing = Rests(), Packing()
    for table, batch in _walk(opened, txn, "copy", progress):
        with made.env.begin(write=True) as new:
            if table == INDEX:
                _put_index(new, made, *packing.take(batch))
            else:
                rows = [(key, rests.lay(raw)) for key, raw in batch] if table in _CUT else batch
                _append(new, made, table, rows)
                _put_bins(new, made, rests.full())
        counts[table] += len(batch)
    with made.env.begin(write=True) as new:
        _put_index(new, made, *packing.end())
        _put_bins(new, made, rests.full(all_=True))
    return counts


def _put_index(txn: lmdb.Transaction, made: Opened, rows: list[Row], runs: list[Row]) -> None:
    _append(txn, made, INDEX, [(key, seal(INDEX, key, value)) for key, value in rows])
    _append(txn, made, RUNS, [(key, seal(RUNS, key, body)) for key, body in runs])


def _append(txn: lmdb.Transaction, made: Opened, table: bytes, rows: list[Row]) -> None:
    with txn.cursor(made.tables[table]) as cursor:
        fresh = table != META  # there the schema's version is already
        put = cursor.putmulti(rows, append=fresh, overwrite=not fresh)
    if put != (len(rows), len(rows)):
        raise DataLossError(f"the rows of table {table.decode()} are not in order", hint=_RESTORE)


def _put_bins(txn: lmdb.Transaction, made: Opened, bins: list[Row]) -> None:
    for key, some in bins:  # they are full in no order
        txn.put(key, some, db=made.tables[RESTS])


def _verify(opened: Opened, txn: lmdb.Transaction, progress: Progress) -> tuple[dict[bytes, int], Head]:
    """Read all rows; return their number in each table, and the head that the log leads to."""
    rows = dict.fromkeys(_WALKED, 0)
    position, parent = EMPTY_LOG.position, EMPTY_LOG.hash
    for table, batch in _walk(opened, txn, "check", progress):
        rows[table] += len(batch)
        if table == LOG:
            for key, raw in batch:
                record = unpack_record(raw[SEAL_BYTES:])
                position += 1
                if key != log_key(position) or record[_PARENT] != parent:
                    raise DataLossError(
                        f"commit {position} does not follow the one before it",
                        hint=_RESTORE,
                        position=position,
                    )
                parent = commit_hash(record)
    raw_head = opened.get(txn, META, HEAD_KEY)
    head = EMPTY_LOG if raw_head is None else read_head(raw_head)
    if (head.position, head.hash) != (position, parent):
        raise DataLossError(
            f"the log ends at {position}, not at its head {head.position}", hint=_RESTORE, position=position
        )
    return rows, head


def _walk(
    opened: Opened, txn: lmdb.Transaction, what: str, progress: Progress
) -> Iterator[tuple[bytes, list[Row]]]:
    """Yield all rows by key, some megabytes at a time, each whole and checked; tell of bytes of pages."""
    done = 0
    sizes = used_bytes(opened, txn)
    sizes[BLOBS] += sizes.pop(PIECES) + sizes.pop(RESTS)
    sizes[INDEX] += sizes.pop(RUNS) + sizes.pop(ARRIVALS)
    total = sum(sizes.values())
    for table in _WALKED:
        batches = _index_batches(opened, txn) if table == INDEX else _batches(opened, txn, table)
        entries = _entries(opened, txn, table)
        seen = 0
        for batch in batches:
            yield table, batch
            seen += len(batch)
            progress(what, done + sizes[table] * min(seen, entries) // entries, total)
        done += sizes[table]
        progress(what, done, total)


def _entries(opened: Opened, txn: lmdb.Transaction, table: bytes) -> int:
    """Return about how many rows there are, at least 1."""
    entries = int(txn.stat(opened.tables[table])["entries"])
    if table == INDEX:
        entries += int(txn.stat(opened.tables[RUNS])["entries"]) * MOST_ROWS // 2
        entries += int(txn.stat(opened.tables[ARRIVALS])["entries"]) * ROWS_A_CHUNK
    return max(entries, 1)


def _index_batches(opened: Opened, txn: lmdb.Transaction) -> Iterator[list[Row]]:
    """Yield the rows of the index, those in piles and in runs among them."""
    plain = ((key, raw[SEAL_BYTES:]) for batch in _batches(opened, txn, INDEX) for key, raw in batch)
    rows = all_together(plain, opened.arrivals.walk(txn), opened.packed.walk(txn))
    while batch := _read_index_batch(rows):
        yield batch


@names_damage
def _read_index_batch(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _BATCH_ROWS))


def _batches(opened: Opened, txn: lmdb.Transaction, table: bytes) -> Iterator[list[Row]]:
    with txn.cursor(opened.tables[table]) as cursor:
        rows = cast("Iterator[Row]", cursor.iternext())
        while True:
            batch = _read_batch(opened, txn, table, rows)
            if not batch:
                return
            yield batch


@names_damage
def _read_batch(opened: Opened, txn: lmdb.Transaction, table: bytes, rows: Iterator[Row]) -> list[Row]:
    out: list[Row] = []
    append, digest, length, size = out.append, sha256, SEAL_BYTES, 0  # every row there is passes here
    cut = table in _CUT
    for key, row in rows:
        raw = opened.whole(txn, table, key, row) if cut else row
        if digest(key + table + raw[length:]).digest()[:length] != raw[:length]:
            raise damaged(table, key)
        append((key, raw))
        size += len(key) + len(raw)
        if size >= _BATCH_BYTES:
            break
    return out


def _page_bytes(stat: lmdb._StatDict) -> int:
    return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]


@contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """Yield a directory beside ``path`` that takes its name at the end; whoever is killed leaves none of it.

    Raises ``StoreError`` unless ``path`` is absent or empty, ``WriterBusyError`` if another process does it.
    """
    if path.is_mount():
        raise StoreError(f"{path} is a volume itself", hint="name a directory on it", path=path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path} is not empty", hint="name a directory that does not exist yet", path=path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.mkdir(exist_ok=True, parents=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _named(error, partial) if error.errno in FULL else _unusable(path, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WriterBusyError(
                f"another process is writing {path}", hint="wait until it has finished", path=path
            ) from None
        if {entry.name for entry in partial.iterdir()} - {"lmdb", AUDIT_DIRECTORY}:
            raise StoreError(f"{partial} is in the way", hint="remove or rename it", path=partial)
        try:
            yield partial
            partial.rename(path)
            sync(path.parent)
        except BaseException as error:
            with suppress(OSError, StoreError):
                remove(partial)
            if isinstance(error, OSError):
                raise _unusable(path, error) from None
            raise
    finally:
        os.close(lock)


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be made: {error}", path=path)


@contextmanager
def backup_at(path: Path, map_bytes: int, schema: int) -> Iterator[Opened]:
    """Open a backup and leave it as it is; a data directory that may be in use is opened as such."""
    directory = DataDirectory(path)
    if directory.file() is None:
        raise not_a_store(path, "is neither a backup nor a data directory", "name the directory of a backup")
    if (directory.lmdb / "lock.mdb").exists():
        opened = open_newest(directory, map_bytes, schema)
    else:
        env = open_env(directory.lmdb, map_bytes, alone=True)
        try:
            opened = Opened.of(env, tables_of(path, env, schema))
        except BaseException:
            env.close()
            raise
    try:
        yield opened
    finally:
        opened.env.close()


def copy_checked(
    opened: Opened,
    txn: lmdb.Transaction,
    target: Path,
    map_bytes: int,
    schema: int,
    progress: Progress,
    check: Callable[[Path], None],
) -> Copied:
    """Copy into ``target/lmdb``; ``check`` sees ``target`` as a data directory. No lock file stays there."""
    copied = copy(opened, txn, target / "lmdb", map_bytes, schema, progress)
    check(target)
    with suppress(FileNotFoundError):
        (target / "lmdb" / "lock.mdb").unlink()
    for name in ("swap.lock", "writer.lock"):
        with suppress(FileNotFoundError):
            (target / name).unlink()
    sync(target / "lmdb")
    sync(target)
    return copied
