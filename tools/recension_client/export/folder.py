"""Folders that are written to safely, whatever lies in them and whatever a server says.

Only the outermost folder is reached by its path, as the user gave it. Everything below goes by descriptor, by
names of our own making, and never through a link, so nothing is read or written elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from recension.model.errors import DiskFullError, ExportError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PIECE_BYTES = 1024 * 1024
_RENAME_EXCHANGE = 2
"""Flag of renameat2(2), which the standard library does not have."""


class Folder:
    """One open folder. Its methods take plain names."""

    def __init__(self, descriptor: int, shown: str) -> None:
        """``descriptor`` is closed with the folder; ``shown`` is its path, for messages."""
        self._descriptor = descriptor
        self.shown = shown

    @classmethod
    def at(cls, path: Path, *, create: bool = False) -> Folder:
        """Open the outermost folder. Raises ``ExportError``."""
        with naming(str(path)):
            if create:
                path.mkdir(parents=True, exist_ok=True)
            return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def path(self, name: str) -> str:
        """Return a name's path, for messages."""
        return f"{self.shown}/{name}"

    def folder(self, name: str, *, create: bool = False) -> Folder:
        """Open a folder in this one."""
        with naming(self.path(name)):
            if create:
                with suppress(FileExistsError):
                    os.mkdir(_plain(name), dir_fd=self._descriptor)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            return Folder(os.open(_plain(name), flags, dir_fd=self._descriptor), self.path(name))

    def has(self, name: str) -> bool:
        """Say whether there is anything of that name."""
        with naming(self.path(name)):
            try:
                os.stat(_plain(name), dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True

    def names(self) -> list[str]:
        """Return what is in it."""
        with naming(self.shown):
            return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - a descriptor is no path

    def create(self, name: str) -> BinaryIO:
        """Make a file that is written anew."""
        self.remove(name)
        with naming(self.path(name)):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.fdopen(os.open(_plain(name), flags, 0o644, dir_fd=self._descriptor), "w+b")

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; anything but a plain file is refused."""
        with naming(self.path(name)):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(_plain(name), flags, dir_fd=self._descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise ExportError(f"{self.path(name)} is no plain file", hint="move it away")
            return os.fdopen(descriptor, "rb")

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return a small file's bytes."""
        with self.open(name) as file, naming(self.path(name)):
            held = file.read(most_bytes + 1)
        if len(held) > most_bytes:
            raise ExportError(f"{self.path(name)} has more than {most_bytes:,} bytes")
        return held

    def write(self, name: str, content: bytes) -> None:
        """Put a small file in place: after a crash it is there as before or as it is now."""
        with naming(self.path(name)), self.create(f"{name}.part") as file:
            file.write(content)
            keep(file)
        self.rename(f"{name}.part", name)

    def rename(self, old: str, new: str) -> None:
        """Give a file its name, durably."""
        with naming(self.path(new)):
            descriptor = self._descriptor
            os.replace(_plain(old), _plain(new), src_dir_fd=descriptor, dst_dir_fd=descriptor)
        self.sync()

    def move(self, name: str, to: Folder, new: str) -> None:
        """Give something in this folder a name in another one, durably."""
        with naming(to.path(new)):
            os.rename(_plain(name), _plain(new), src_dir_fd=self._descriptor, dst_dir_fd=to._descriptor)
        to.sync()
        self.sync()

    def exchange(self, name: str, other: Folder, new: str) -> bool:
        """Swap a name here with one in another folder in one step; False where the system cannot."""
        call = getattr(ctypes.CDLL(None), "renameat2", None)
        names = os.fsencode(_plain(name)), os.fsencode(_plain(new))
        if call is None or call(self._descriptor, names[0], other._descriptor, names[1], _RENAME_EXCHANGE):
            return False
        self.sync()
        other.sync()
        return True

    def remove(self, name: str) -> None:
        """Remove a file, a link or a folder with all in it, if it is there; links are not followed."""
        with naming(self.path(name)), suppress(FileNotFoundError):
            found = os.stat(_plain(name), dir_fd=self._descriptor, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(_plain(name), dir_fd=self._descriptor)
            else:
                os.unlink(_plain(name), dir_fd=self._descriptor)

    def sync(self) -> None:
        """Make names durable."""
        with naming(self.shown):
            os.fsync(self._descriptor)

    def free_bytes(self) -> int:
        """Return the room for what is written here."""
        room = os.fstatvfs(self._descriptor)
        return room.f_bavail * room.f_frsize

    @contextmanager
    def held(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """Hold this folder against other processes, by a lock on a file in it.

        Another one that holds it is waited for, or an ``ExportError``.
        """
        with naming(self.path(name)):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(_plain(name), flags, 0o644, dir_fd=self._descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            raise ExportError(
                f"{self.shown} is being written by another process", hint="wait until it has ended"
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)


def _plain(name: str) -> str:
    """Check a name once more where it is used: a path is none."""
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise ExportError(f"not a file name: {name[:80]!r}")
    return name


def keep(file: BinaryIO) -> None:
    """Make a file's bytes durable."""
    file.flush()
    os.fsync(file.fileno())


def digest_of(file: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256 of a whole file in hex, and its size in bytes."""
    file.seek(0)
    hashed, size = sha256(), 0
    while piece := file.read(_PIECE_BYTES):
        hashed.update(piece)
        size += len(piece)
    return hashed.hexdigest(), size


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn what the file system says into errors with names; broken pipes and the like pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no room on the disk for {path}",
                hint="make room and run the same command again: it goes on where it stopped",
                path=path,
            ) from None
        said = "is a link or no folder" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
        raise ExportError(f"{path}: {said or error}", path=path) from None
