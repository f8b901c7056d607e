"""One follower of a stream at a time: of two each would read all, and write over what the other waits for."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from recension.model.errors import FollowerBusyError, StoreError
from recension.sources.piece import Stream

_FOLDER = "following"
_MODE = 0o600
_DIGEST_CHARS = 32


@contextmanager
def alone(data: Path, streams: Sequence[Stream]) -> Iterator[None]:
    """Hold streams against other followers of the same data directory, until the end or the process's.

    Raises ``FollowerBusyError`` where one of them is followed, and ``StoreError``.
    """
    with ExitStack() as held:
        for stream in streams:
            held.callback(os.close, _hold(data / _FOLDER, stream))
        yield


def _hold(folder: Path, stream: Stream) -> int:
    """Lock the file of a stream, which has the number of its process; return its descriptor."""
    name = hashlib.sha256(f"{stream.project}\n{stream.source}".encode()).hexdigest()[:_DIGEST_CHARS]
    path = folder / f"{name}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be opened: {os.strerror(error.errno or 0)}",
            hint="give the directory to this user",
            path=path,
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise FollowerBusyError(
            f"{stream.source} is followed already, for {stream.project}, by process {process or '?'}",
            hint="end that one first; one command follows as many projects as it is told",
            project=stream.project,
            source=stream.source,
        ) from None
    with suppress(OSError):  # on a full disk the lock is had without a number in it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor
