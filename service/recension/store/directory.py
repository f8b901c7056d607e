"""The data directory: which environment in it counts, who may write, and how one takes another's place.

``lmdb`` is the environment. A new one is made whole as ``lmdb.new``; then ``lmdb`` becomes ``lmdb.old``,
``lmdb.new`` becomes ``lmdb``, and after a moment ``lmdb.old`` goes. Whatever step a process is killed at, the
next one finds from the names alone which environment counts: ``lmdb``; without it ``lmdb.new`` while there is
an ``lmdb.old``, since only a finished copy is ever renamed; else ``lmdb.old``.

Each write transaction shares ``swap.lock``, and whoever replaces the environment has it alone, so nothing is
written to an environment of which a copy is being made. Locks end with the process, however it ends. LMDB's
own lock file is never opened here: closing a handle to it would drop the process's reader locks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recension.model.errors import StoreError, StoreFullError, WriterBusyError

LOOK_SECONDS = 0.1
"""A process that reads looks this often whether the environment was replaced."""
_NOTICED_SECONDS = 2 * LOOK_SECONDS
"""Writing begins this long after a swap: by then every new view is of the new environment."""
_RENAMED_SECONDS = 10.0
_WRITERS_SECONDS = 30.0
_MIB = 1 << 20

FileId = tuple[int, int]
"""Device and inode."""
KEY_FILE = "signing.key"
"""Name of the signing key's file in a data directory, unless another path is chosen."""
PEPPER_FILE = "apikey.pepper"
"""Name of the file with the secret that API keys are kept under, unless another path is chosen."""
CLOCK_FILE = "clock.json"
"""Name of the file in which a server writes down what time it is."""

RETRACTIONS_FOLDER = "retractions"
"""Name of the folder with the reports of retractions, and with what is looked for after them."""
BACKUPS_FILE = "backups.json"
"""Name of the file that lists the backups that were made."""
AUDIT_DIRECTORY = "audit"
"""Name of the audit log's environment in a data directory, and in a backup."""


class DataDirectory:
    """The files of one data directory. Safe for concurrent use by threads and by processes."""

    def __init__(self, path: Path) -> None:
        """``path``: absolute and resolved."""
        self.path = path
        self.lmdb = path / "lmdb"
        self.new = path / "lmdb.new"
        self.old = path / "lmdb.old"
        self._file = str(self.lmdb / "data.mdb")

    def file(self) -> FileId | None:
        """Return which file is the environment's now; ``None`` if there is none. Takes 1 us."""
        try:
            found = os.stat(self._file)  # noqa: PTH116 - half of what a path takes
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @contextmanager
    def exclusive_writer(self) -> Iterator[None]:
        """Hold ``writer.lock``; ``WriterBusyError`` at once if someone has it."""
        with self._locked("writer.lock", 0, "writing into"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep the environment in place during a write; ``WriterBusyError`` at once if it is being replaced.

        Removes what a killed replacement left.
        """
        lock = self._shared()
        try:
            if self._has_remains():
                os.close(lock)
                lock = -1
                with self.alone():
                    self.clear()
                lock = self._shared()
            yield
        finally:
            if lock >= 0:
                os.close(lock)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all writers out; ``WriterBusyError`` if they leave no gap, or someone else does the same."""
        with self._locked("swap.lock", _WRITERS_SECONDS, "compacting"):
            yield

    def recover(self) -> None:
        """Finish a swap between whose renames a process was killed. Waits for one that is under way."""
        until = time.monotonic() + _RENAMED_SECONDS
        while not self.lmdb.is_dir() and self.old.is_dir():
            try:
                with self._locked("swap.lock", 0, "compacting"):
                    self._finish()
            except WriterBusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.005)

    def swap(self) -> None:
        """Put ``lmdb.new``, whole and durable, in the place of ``lmdb``. For the holder of ``alone``."""
        self.lmdb.rename(self.old)
        sync(self.path)  # so that no order of writing to disk leaves ``lmdb.new`` alone
        self._finish()

    def clear(self) -> None:
        """Remove what is no longer, or not yet, the environment. For the holder of ``alone``."""
        self._finish()
        if self.old.exists():
            time.sleep(_NOTICED_SECONDS)
            remove(self.old)
        remove(self.new)

    def _finish(self) -> None:
        if not self.lmdb.exists() and self.old.exists():
            whole = self.new if self.new.exists() else self.old
            whole.rename(self.lmdb)
            sync(self.path)

    def _has_remains(self) -> bool:
        return self.new.exists() or self.old.exists()

    def _shared(self) -> int:
        lock = self._open("swap.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = self._busy(lock, "compacting")
            os.close(lock)
            raise busy from None
        return lock

    @contextmanager
    def _locked(self, name: str, seconds: float, doing: str) -> Iterator[None]:
        lock = self._open(name)
        try:
            until = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise self._busy(lock, doing) from None
                    time.sleep(0.001)
            os.ftruncate(lock, 0)
            with suppress(OSError):  # on a full disk the lock is had without a name in it
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    def _open(self, name: str) -> int:
        try:
            return os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error}", path=self.path) from None

    def _busy(self, lock: int, doing: str) -> WriterBusyError:
        pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        who = f"process {pid} is {doing}" if pid else "another process is writing into"
        return WriterBusyError(
            f"{who} {self.path}",
            hint="wait until it has finished, then retry",
            pid=pid or "unknown",
            path=self.path,
        )


def check_room(path: Path, needed: int) -> None:
    """Raise ``StoreFullError`` unless ``path`` has room for that many bytes and a little more."""
    stats = os.statvfs(path)
    free = stats.f_bavail * stats.f_frsize
    needed += needed // 50 + _MIB
    if free < needed:
        raise StoreFullError(
            f"{path} has {free / _MIB:,.0f} MiB free, and {needed / _MIB:,.0f} MiB are needed",
            hint="make room, then retry",
            path=path,
            freeBytes=free,
            neededBytes=needed,
        )


def free_bytes(path: Path) -> int:
    """Return the room that is left for this user where ``path`` lies."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def remove(path: Path) -> None:
    """Remove a directory that nobody needs, if it is there, for good."""
    if path.exists():
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be removed: {error}", path=path) from None
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
