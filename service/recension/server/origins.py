"""What marks say of files: which of its events a commit has, and what the file is by its bytes."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from recension.archive.intake.frames import Fed
from recension.model.errors import SourceCorruptError, SourceError
from recension.model.mark import FILE_BYTES, Mark, Origin, Span

_PIECE_BYTES = 1024 * 1024
"""The interpreter's lock is given up for each, so that a batch is stored meanwhile."""
_END_BYTES = 1024 * 1024
"""Of the beginning and of the end of a file, by which it is known before it was read."""


class Hashing:
    """Hashes a file in a thread of its own, from its beginning to its end.

    ::

        with Hashing(path) as hashing:
            ...  # parse it
            origin = hashing.origin()
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = sha256()
        self._over = Event()
        self._fault: OSError | None = None
        self._before: tuple[int, int, int] | None = None
        self._file = b""
        self._thread = Thread(target=self._run, name="hash", daemon=True)

    def __enter__(self) -> Self:
        """Begin. Raises ``SourceError`` if the file cannot be read."""
        self._before = self._state()
        try:
            self._file = told_from_others(self._path)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, whether all was hashed or not."""
        self._over.set()
        self._thread.join()

    @property
    def file(self) -> bytes:
        """What its marks know the file by (``Mark.file``), as it was when this began."""
        return self._file

    def origin(self) -> Origin:
        """Return what the file is; waits until it is known.

        Raises ``SourceError`` if it cannot be read, ``SourceCorruptError`` if it is another than when this
        began: then nobody knows which bytes were parsed.
        """
        self._thread.join()
        if self._fault is not None:
            raise _unreadable(self._path, self._fault)
        after = self._state()
        if after != self._before:
            raise SourceCorruptError(
                f"{self._path}: the file was changed while it was read",
                hint="wait until it is whole, then run the ingest again: what is known changes nothing",
                path=self._path,
            )
        return Origin(after[0], self._digest.digest())

    def _state(self) -> tuple[int, int, int]:
        try:
            known = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return known.st_size, known.st_mtime_ns, known.st_ino

    def _run(self) -> None:
        try:
            with self._path.open("rb", buffering=0) as file:
                while not self._over.is_set() and (piece := file.read(_PIECE_BYTES)):
                    self._digest.update(piece)
        except OSError as error:
            self._fault = error


def told_from_others(path: Path) -> bytes:
    """Return by what the marks of a file know it from others of its name, without reading all of it.

    Raises ``OSError``.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        known = sha256(size.to_bytes(8, "big"))
        for start in (0, max(size - _END_BYTES, 0)):
            file.seek(start)
            known.update(file.read(_END_BYTES))
    return known.digest()[:FILE_BYTES]


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{path}: cannot be read: {os.strerror(error.errno or 0)}",
        hint="leave the file where it is until the ingest has ended",
        path=path,
    )


class Numbered:
    """Numbers the events of a file, for its marks: those of its parser, in its order, taken or not."""

    def __init__(self, form: str, path: Path, file: bytes) -> None:
        """``form``: of the file's contents (``Mark.form``); ``file``: as its marks have it."""
        self._form = form
        self._file = file
        self._source = source_of(path)
        self._events = 0
        self._newest: int | None = None

    def mark(self, batch: Fed) -> Mark:
        """Return the mark of the events, or documents, that come next."""
        times = [event.skeleton.time for event in batch.events.events]
        times += [complete.change.time for complete in batch.changes]
        start, self._events = self._events, self._events + len(times)
        self._newest = max(times if self._newest is None else [self._newest, *times], default=None)
        return Mark(self._form, self._source, Span(start, self._events), file=self._file)

    def whole(self, origin: Origin) -> Mark:
        """Return the mark of the file, all events of which were numbered."""
        span = Span(0, self._events)
        return Mark(self._form, self._source, span, origin, self._file, upstream_at=self._newest)


def source_of(path: Path) -> str:
    """Return the name by which marks and the quarantine know a file; a name need not be UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "replace")
