"""Opening and making an LMDB environment so that what is acknowledged stays.

Each rule here keeps one of LMDB's caveats away from the rest of the program: full syncs and no writable map,
a map of fixed size, refusal of mounts that lie, and a check that writers see our reads.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, ParamSpec, Self, TypeVar, cast

import lmdb

from recension.model.errors import (
    DataLossError,
    NotAStoreError,
    StoreError,
    StoreFullError,
    StoreMountError,
    StoreVersionError,
)
from recension.store.arrivals import Arrivals
from recension.store.directory import (
    AUDIT_DIRECTORY,
    BACKUPS_FILE,
    CLOCK_FILE,
    KEY_FILE,
    PEPPER_FILE,
    RETRACTIONS_FOLDER,
    DataDirectory,
    FileId,
    sync,
)
from recension.store.interface import STORES
from recension.store.layout import (
    ARRIVALS,
    META,
    PIECES,
    RESTS,
    RUNS,
    SCHEMA_KEY,
    TABLES,
    damaged,
    read_schema,
    schema_row,
    unseal,
)
from recension.store.merged import PackedIndex
from recension.store.rests import SHARED, joined, place_of

UNSAFE_MOUNT = "RECENSION_UNSAFE_MOUNT"
"""Environment variable; 1 accepts mounts that are refused otherwise."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOOSE_BYTES = 64 * 1024
"""What may be missing at the end of a file that is whole."""
_MAX_READERS = 4096
"""LMDB's 126 would lock out tools as well once they are used up. The first process to open decides."""

_UNSAFE_FS = re.compile(
    r"overlay|aufs|nfs|nfs4|cifs|smb3?|smbfs|9p|virtiofs|ceph|afs|glusterfs|lustre|fuse(\..*|blk)?"
)
"""Writable maps and POSIX locks do not hold there, or only within one machine."""
_IN_PLACE_FS = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})
"""They write where a file was given room; others may find none when they write there again."""

_CREATE_HINT = "make one with `recension-server project create`"
_OWN_NAMES = {
    *(AUDIT_DIRECTORY, "audit.lock", "audit.new", BACKUPS_FILE, RETRACTIONS_FOLDER),
    *("lmdb.new", "lost+found", "swap.lock", "writer.lock"),
    *(KEY_FILE + suffix for suffix in ("", ".audit", ".checkpoint", ".lock", ".new")),
    *(PEPPER_FILE + suffix for suffix in ("", ".lock")),
    *(CLOCK_FILE + suffix for suffix in ("", ".lock", ".part")),
}
"""What may lie in a data directory before it is one; ``lost+found`` comes with a fresh volume, and the key of
what is to be restored may be there first."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Opened:
    """An environment and its tables. LMDB closes it when nothing refers to it, nor to a transaction of it."""

    env: lmdb.Environment
    tables: dict[bytes, lmdb._Database]
    file: FileId
    packed: PackedIndex
    arrivals: Arrivals
    number: int = field(default_factory=STORES.__next__, init=False)
    """No other of this process has the same."""

    @classmethod
    def of(cls, env: lmdb.Environment, tables: dict[bytes, lmdb._Database], file: FileId = (0, 0)) -> Self:
        """``file`` is that of the environment, if another may take its place."""
        return cls(env, tables, file, PackedIndex(tables[RUNS]), Arrivals(tables[ARRIVALS]))

    def get(self, txn: lmdb.Transaction, table: bytes, key: bytes) -> bytes | None:
        """Return a row as it is stored."""
        return cast("bytes | None", txn.get(key, db=self.tables[table]))  # memoryviews only if asked for

    def whole(self, txn: lmdb.Transaction, table: bytes, key: bytes, head: bytes) -> bytes:
        """Return a value of the log or of the blobs, unchecked, from its row and from where its parts are."""
        kind = head[0] if head else 0
        if not kind:
            return head[1:]
        if kind == SHARED:
            bin_, offset, length = place_of(table, key, head)
            return joined(head, self.get(txn, RESTS, bin_) or b"", offset, length)
        parts = [head[1:]]
        for at in range(kind):
            piece = self.get(txn, PIECES, key + bytes([at]))
            if piece is None:
                raise damaged(table, key)
            parts.append(piece)
        return b"".join(parts)

    def value(self, txn: lmdb.Transaction, table: bytes, key: bytes, head: bytes) -> bytes:
        """Return the same, checked."""
        return unseal(table, key, self.whole(txn, table, key, head))


def check_usable(path: Path, *, force: bool) -> None:
    """Raise ``StoreMountError`` or ``StoreError`` unless a store may lie at ``path``, resolved."""
    _check_engine()
    check_mount(path, _mountinfo(), force=force or os.environ.get(UNSAFE_MOUNT) == "1")


def keeps_room(path: Path) -> bool:
    """Say whether room that a file was given at ``path``, resolved, stays its own, whatever fills the disk.

    On file systems that never write in place it does not.
    """
    found = _mount_of(path, _mountinfo())
    return found is not None and found[0] in _IN_PLACE_FS


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def check_mount(path: Path, mountinfo: str, *, force: bool) -> None:
    """Raise ``StoreMountError`` unless ``path`` (absolute, resolved) lies on a mount fit for a store.

    ``mountinfo`` is the text of ``/proc/self/mountinfo``. ``force`` accepts a doubtful file system, never a
    read-only mount.
    """
    found = _mount_of(path, mountinfo)
    if found is None:
        if not force:
            raise StoreMountError(
                f"no mount found for {path}", hint=f"set {UNSAFE_MOUNT}=1 to go on", path=path
            )
        return
    fs_type, flags = found
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


def _mount_of(path: Path, mountinfo: str) -> tuple[str, set[str]] | None:
    """Return the kind of file system that a path lies on, and the options of its mount."""
    best: tuple[int, str, set[str]] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, _, raw_point, options, *_ = left.split(" ")
        fs_type, _, super_options = right.split(" ", 2)
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), raw_point))
        # Of two mounts on one point the later line hides the earlier.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), fs_type, {*options.split(","), *super_options.split(",")}
    return None if best is None else best[1:]


DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.CursorFullError, lmdb.BadTxnError)
"""What LMDB raises when its pages, rather than a value, are damaged."""


def pages_damaged(error: Exception) -> DataLossError:
    """Return the error for ``DAMAGE``."""
    return DataLossError(
        f"the pages of the store are damaged: {error}", hint="restore the data directory from a backup"
    )


def names_damage(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Say ``DataLossError`` when the pages, rather than a value, are damaged."""

    @functools.wraps(read)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except DAMAGE as error:
            raise pages_damaged(error) from None

    return wrapped


def open_newest(directory: DataDirectory, map_bytes: int, schema: int) -> Opened:
    """Open the environment that counts now. Raises ``NotAStoreError``, ``StoreVersionError`` and more."""
    while True:
        file = directory.file()
        if file is None:
            raise not_a_store(directory.path, "holds no readable LMDB file")
        try:
            env = open_env(directory.lmdb, map_bytes)
        except StoreError:
            if file == directory.file():
                raise
            continue
        try:
            # LMDB opens its two files one after the other: both are of one environment if it did not change.
            if file == directory.file():
                return Opened.of(env, _ready(directory.path, env, schema), file)
        except BaseException:
            env.close()
            raise
        env.close()


def _check_engine() -> None:
    """Raise unless LMDB is the one of the wheel: others lack its fixes or write another format."""
    from lmdb import _config  # noqa: PLC0415 -- internal, so missed here and not at import

    if "-DHAVE_PATCHED_LMDB=1" not in str(_config.CONFIG.get("extra_compile_args")):
        raise StoreError("this lmdb was built on a system library", hint="install the lmdb wheel from PyPI")


def not_a_store(path: Path, why: str, hint: str = _CREATE_HINT) -> NotAStoreError:
    """Return the error for a directory that is none of ours."""
    return NotAStoreError(f"{path} {why}", hint=hint, path=path)


def open_env(path: Path, map_bytes: int, *, sync_each: bool = True, alone: bool = False) -> lmdb.Environment:
    """Open the environment in a directory that exists.

    Without ``sync_each`` nothing is durable until it is synced. ``alone`` reads one that nobody else uses and
    leaves no trace of it.
    """
    try:
        env = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=len(TABLES),
            max_readers=_MAX_READERS,
            max_spare_txns=16,
            create=False,  # the directory is there, or was there and is just being replaced
            sync=sync_each,
            metasync=sync_each,
            readonly=alone,
            lock=not alone,
            writemap=False,
            lib_version=0,  # else the environment could choose another format
        )
    except lmdb.VersionMismatchError:
        raise StoreVersionError(
            f"{path} was written by another LMDB", hint="install the version of recension that wrote it"
        ) from None
    except lmdb.InvalidError:
        raise not_a_store(path.parent, "holds no readable LMDB file") from None
    except MemoryError:
        raise StoreError(
            f"no room for a map of {map_bytes} bytes among the addresses", hint="raise `ulimit -v`"
        ) from None
    except lmdb.Error as error:
        if error.code in FULL:
            raise StoreFullError(f"no room in {path}", hint="make room, then retry", path=path) from None
        raise StoreError(f"{path} cannot be opened: {error}", path=path) from None
    if env.lib_version()[:2] != (0, 9) or env.flags()["sync"] != sync_each or env.flags()["writemap"]:
        env.close()
        raise StoreError("LMDB did not open the store as asked", hint="install the lmdb wheel from PyPI")
    try:
        _check_length(path, env)
    except DataLossError:
        env.close()
        raise
    return env


def _check_length(path: Path, env: lmdb.Environment) -> None:
    """Raise for a file that was cut short: a read behind its end would kill the process.

    Pages that a transaction took and gave back may be missing at the end, so a little may.
    """
    there = (path / "data.mdb").stat().st_size
    wanted = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if wanted - there > max(_LOOSE_BYTES, wanted // 100):
        raise DataLossError(
            f"{path / 'data.mdb'} has {there:,} bytes, {wanted - there:,} fewer than were written",
            hint="restore the data directory from a backup",
            path=path,
        )


def _ready(path: Path, env: lmdb.Environment, schema: int) -> dict[bytes, lmdb._Database]:
    """Return the tables once the environment is known to be ours, and our reads to be seen by writers."""
    tables = tables_of(path, env, schema)
    with env.begin():
        # On some mounts LMDB reads without the lock table; writers then reuse the pages being read.
        if not any(reader.pid == os.getpid() for reader in readers(env)):
            raise StoreMountError(
                f"reads of {path} do not reach its lock table", hint="use a local volume", path=path
            )
    env.reader_check()
    return tables


def tables_of(path: Path, env: lmdb.Environment, schema: int) -> dict[bytes, lmdb._Database]:
    """Return the tables of an environment of ours that has this schema."""
    try:
        meta = env.open_db(META, create=False)
        with env.begin() as txn:
            raw = txn.get(SCHEMA_KEY, db=meta)
        if raw is None:
            raise not_a_store(path, "is not a recension data directory")
        version = read_schema(raw)
        if version != schema:
            newer = version > schema
            raise StoreVersionError(
                f"{path} has schema {version}, {'newer' if newer else 'older'} than {schema}",
                hint="install a newer recension" if newer else "no release wrote it; ingest again",
                path=path,
            )
        return {name: env.open_db(name, create=False) for name in TABLES}
    except lmdb.NotFoundError:
        raise not_a_store(path, "is not a recension data directory") from None
    except lmdb.Error as error:
        raise DataLossError(
            f"{path} cannot be read: {error}", hint="restore the data directory from a backup", path=path
        ) from None


class Reader(NamedTuple):
    """A reader slot that is in use."""

    pid: int
    txnid: int | None
    """Of the state that it reads; ``None`` while it reads nothing."""


def readers(env: lmdb.Environment) -> list[Reader]:
    """Return the reader slots in use, of all processes."""
    rows = [line.split() for line in env.readers().splitlines()]
    return [
        Reader(int(row[0]), None if row[-1] == "-" else int(row[-1]))
        for row in rows
        if row and row[0].isdigit()
    ]


def make(directory: DataDirectory, map_bytes: int, schema: int, *, create: bool) -> None:
    """Make the environment aside and move it into place whole; durable when it returns."""
    path = directory.path
    if not create:
        check_vacant(path)
        raise not_a_store(path, "holds no data yet" if path.exists() else "does not exist")
    with vacant(directory):
        if not directory.lmdb.is_dir():
            make_env(directory.new, map_bytes, schema).env.close()
            settle(directory.new)
            directory.new.rename(directory.lmdb)
            sync(path)


def check_vacant(path: Path) -> None:
    """Raise ``NotAStoreError`` if something lies at ``path`` that is not ours."""
    if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - _OWN_NAMES):
        raise not_a_store(
            path, "holds something else than a data directory", "name a directory that is new or empty"
        )


@contextmanager
def vacant(directory: DataDirectory) -> Iterator[None]:
    """Hold a directory without an environment, made if need be, while one is being put there."""
    path = directory.path
    check_vacant(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        sync(path.parent)
        with (path / "writer.lock").open("ab") as lock, (path / "swap.lock").open("ab"):
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it just now
            yield
    except OSError as error:
        if error.errno in FULL:
            raise no_room(path, error) from None
        raise StoreError(f"{path} cannot be made: {error}", path=path) from None


def make_env(path: Path, map_bytes: int, schema: int, *, sync_each: bool = True) -> Opened:
    """Make an environment without rows in a new directory, in place of what a killed process left there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    env = open_env(path, map_bytes, sync_each=sync_each)
    try:
        tables = {name: env.open_db(name) for name in TABLES}
        with env.begin(write=True) as txn:
            txn.put(*schema_row(schema), db=tables[META])
    except BaseException as error:
        env.close()
        if isinstance(error, lmdb.Error):
            raise _not_made(path, error) from None
        raise
    return Opened.of(env, tables)


def _not_made(path: Path, error: lmdb.Error) -> StoreError:
    if isinstance(error, lmdb.MapFullError) or error.code in FULL:
        return no_room(path, error)
    return StoreError(f"{path} cannot be made: {error}", hint="look at the disk", path=path)


def settle(path: Path) -> None:
    """Make a closed environment durable, its name too."""
    for part in (path / "data.mdb", path, path.parent):
        sync(part)


def no_room(path: Path, cause: Exception | str) -> StoreFullError:
    """Return the error for a full map or disk."""
    return StoreFullError(f"no room in {path}: {cause}", hint="make room, then retry", path=path)
