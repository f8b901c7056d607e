"""What an ingest could not take: kept with its reason, never dropped silently.

One NDJSON file per source file, below ``DATA/quarantine/<project>/``. A run writes a file beside it and puts
it in place at the end, so a reader never sees half of one and ingesting twice changes nothing. A source file
is known by its bytes, so the same file under another name replaces its own records and no others.

A record that the archive refused is kept without texts, comments and contributors. One that could not be
read is kept as it came, up to 4,096 bytes (``sources.items.MAX_EXCERPT_BYTES``), since its bytes are what has
to be looked at: they may hold a text or a name that upstream hides later, and no erasure in the archive
reaches them. To purge them, remove the file; nothing else refers to it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from recension.model.errors import InvalidArgumentError, SourceError, StoreError, StoreFullError
from recension.sources.items import Rejected

MAX_KEPT = 100_000
"""Records kept of one source file; more are counted in the file's last line.

A short bad record takes fifty times its size here, so a large file of the wrong kind would fill the disk that
the archive needs.
"""

NOT_KEPT = "NOT_KEPT"
"""Reason of the last line of a file that counts what came after ``MAX_KEPT``."""

QUARANTINE_FOLDER = "quarantine"
"""Name of the folder in a data directory."""

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_SLUG_CHARS = 64
_DIGEST_CHARS = 32
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Quarantine:
    """The bad records of one project, below ``data``. One process at a time, the one that ingests."""

    def __init__(self, data: Path, project: str) -> None:
        """Raises ``InvalidArgumentError`` for a name that could lead out of the directory."""
        if not _PROJECT.fullmatch(project):
            raise InvalidArgumentError(
                f"project: {project!r} is not a project's name",
                hint="a name has 1 to 63 of a-z, 0-9, '_', '.' and '-' and starts with a letter or digit",
                field="project",
            )
        self._folder = data / QUARANTINE_FOLDER / project
        self._runs = 0

    def path(self, source: Path) -> Path:
        """Return where the bad records of ``source`` are. Reads all of it; raises ``SourceError``."""
        slug = _UNSAFE.sub("-", source.name)[:_MAX_SLUG_CHARS].strip("-") or "input"
        return self._folder / f"{_digest(source)}-{slug}.ndjson"

    @contextlib.contextmanager
    def writing(self, source: Path) -> Iterator[QuarantineFile]:
        """Collect the bad records of one run over ``source``.

        At the end of the block they take the place of what an earlier run left, durably; no records, no
        file. If the block raises, the earlier file stays. Raises ``StoreError`` if it cannot be written, and
        ``SourceError`` if ``source`` cannot be read once more.
        """
        self._runs += 1  # files of a set are read at the same time
        file = QuarantineFile(self._folder / f"ingest-{self._runs}.part", _shown(source))
        try:
            yield file
            # A good file is not read again as long as there was never a bad one.
            target = self.path(source) if file.kept or any(self._folder.glob("*.ndjson")) else None
        except BaseException:
            file.discard()
            raise
        if target is not None:
            file.replace(target)

    @contextlib.contextmanager
    def following(self, source: str) -> Iterator[QuarantineFile]:
        """Collect the bad records of a stream, behind those of earlier runs, durable at each ``flush``.

        Raises ``StoreError`` if they cannot be written.
        """
        slug = _UNSAFE.sub("-", source)[-_MAX_SLUG_CHARS:].strip("-") or "stream"
        name = f"{hashlib.sha256(source.encode()).hexdigest()[:_DIGEST_CHARS]}-{slug}.ndjson"
        file = QuarantineFile(self._folder / name, source, behind=True)
        try:
            yield file
        finally:
            file.close()


class QuarantineFile:
    """The lines of one run; made on the first record."""

    def __init__(self, part: Path, source: str, *, behind: bool = False) -> None:
        """``part`` is where the lines are until ``replace``; a killed run's is overwritten.

        ``behind``: they stay there, behind those of earlier runs.
        """
        self.kept = 0
        self._behind = behind
        self._left = 0
        self._part = part
        self._source = source
        self._file: IO[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where the project's bad records are."""
        return self._part.parent

    def add(self, rejected: Rejected) -> None:
        """Keep a record; from ``MAX_KEPT`` on, only count it."""
        if self.kept >= MAX_KEPT:
            self._left += 1
            return
        self.kept += 1
        self._write(rejected.position, rejected.reason, rejected.message, rejected.excerpt)

    def replace(self, target: Path) -> None:
        """Put the lines in the place of ``target``; without any, remove it."""
        if self._left:
            self._write("", NOT_KEPT, f"{self._left:,} more records were rejected and not kept", b"")
        with _explained(target):
            if self._file is not None:
                with self._file:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._part.replace(target)
            for earlier in target.parent.glob(f"{target.name[:_DIGEST_CHARS]}-*.ndjson"):
                if self._file is None or earlier != target:  # of the same bytes under another name
                    earlier.unlink()
            if self._file is not None:
                _sync_folder(target.parent)

    def flush(self) -> None:
        """Make what was added durable."""
        if self._file is not None:
            with _explained(self._part):
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Keep the lines where they are."""
        self.flush()
        if self._file is not None:
            self._file.close()

    def discard(self) -> None:
        """Forget the lines."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _write(self, position: str, reason: str, message: str, excerpt: bytes) -> None:
        line = {
            "source": self._source,
            "position": position,
            "reason": reason,
            "message": message,
            "excerpt_base64": base64.b64encode(excerpt).decode("ascii"),
        }
        with _explained(self._part):
            if self._file is None:
                self._file = _private(self._part, behind=self._behind)
            self._file.write(json.dumps(line).encode("ascii") + b"\n")


def _digest(source: Path) -> str:
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_CHARS]
    except OSError as error:
        raise SourceError(
            f"{source}: cannot be read: {error.strerror}",
            hint="leave the file where it is until the ingest has ended",
            path=source,
        ) from error


def _private(path: Path, *, behind: bool = False) -> IO[bytes]:
    """Open a file that only its owner reads, and no link to somewhere else: an empty one, or its end."""
    path.parent.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if behind else os.O_TRUNC)
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    os.fchmod(file.fileno(), 0o600)
    return file


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in _FULL else StoreError
        raise kind(
            f"{path}: the quarantine cannot be written: {error.strerror}",
            hint="make room or give the directory to this user, then run the ingest again",
            path=path,
        ) from error


def _shown(source: Path) -> str:
    """Name of a file as text; a name need not be UTF-8."""
    return os.fsencode(source.name).decode("utf-8", "replace")
