"""What an ingest could not take: kept with its reason, never dropped silently.

One NDJSON file per source, below ``DATA/quarantine/<project>/``. Of a file: a run writes a file beside it and
puts it in place at the end, so a reader never sees half of one and ingesting twice changes nothing. A source
file is known by its bytes, so the same file under another name replaces its own records and no others. Of a
stream: records come behind those that are there, and are durable before the commit that says where to go on.

A record that the archive refused is kept without texts, comments and contributors. One that could not be
read is kept as it came, up to 4,096 bytes (``sources.items.MAX_EXCERPT_BYTES``), since its bytes are what has
to be looked at. Of a stream, which nobody gives again, records of both kinds are kept whole beside that. What
is kept as it came may hold a text or a name that upstream hides later, and no erasure in the archive reaches
it. To purge it, remove the file; nothing else refers to it.
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
from typing import IO, NamedTuple, Protocol

from recension.model.errors import InvalidArgumentError, SourceError, StoreError, StoreFullError
from recension.model.private import sync_directory
from recension.server.origins import source_of
from recension.sources.items import Rejected

MAX_KEPT = 100_000
"""Records kept of one run over a file; more are counted in the last line of what is kept.

A short bad record takes fifty times its size here, so a large file of the wrong kind would fill the disk that
the archive needs.
"""

NOT_KEPT = "NOT_KEPT"
"""Reason of the last line of a file that counts what came after ``MAX_KEPT``."""

MAX_WHOLE_BYTES = 2**30
"""Of whole records of one following of a stream, or of one run over a file of its documents; of those beyond,
the beginning is kept."""

QUARANTINE_FOLDER = "quarantine"
"""Name of the folder in a data directory."""

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_SLUG_CHARS = 64
_TAIL_BYTES = 64 * 1024
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
        return self._folder / f"{self.digest(source)}-{slug}.ndjson"

    @staticmethod
    def digest(source: Path) -> str:
        """Return by what a file is known here. Reads all of it; raises ``SourceError``."""
        return _digest(source)

    @staticmethod
    def digest_in(file: Path) -> str:
        """Return by what the source of a file of the quarantine is known."""
        return file.name.partition("-")[0]

    @contextlib.contextmanager
    def writing(self, source: Path, form: str) -> Iterator[FileRecords]:
        """Collect the bad records of one run over ``source``, whose contents are of a ``form``.

        At the end of the block they take the place of what an earlier run left, durably; no records, no
        file. If the block raises, the earlier file stays. Raises ``StoreError`` if it cannot be written, and
        ``SourceError`` if ``source`` cannot be read once more.
        """
        self._runs += 1  # files of a set are read at the same time
        part = self._folder / f"ingest-{self._runs}.part"
        file = FileRecords(part, Source(form, source_of(source), str(source.absolute())))
        try:
            yield file
            # A good file is not read again as long as there was never a bad one.
            target = self.path(source) if file.kept or any(self._folder.glob("*.ndjson")) else None
        except BaseException:
            file.discard()
            raise
        if target is not None:
            file.replace(target)

    def following(self, source: str, form: str) -> StreamRecords:
        """Collect the bad records of a stream behind those that are there; ``source`` as its marks have it.

        For the holder of the right to write.
        """
        slug = _UNSAFE.sub("-", source)[-_MAX_SLUG_CHARS:].strip("-") or "stream"
        name = hashlib.sha256(source.encode()).hexdigest()[:_DIGEST_CHARS]
        return StreamRecords(self._folder / f"{name}-{slug}.ndjson", Source(form, source))

    def retrying(self, file: Path, source: Source) -> FileRecords:
        """Collect what is to take the place of ``file``; for the holder of the right to write."""
        return FileRecords(file.with_name("retry.part"), source)


def kept_files(data: Path, project: str = "") -> list[Path]:
    """Return the files of a project's quarantine, or of all, by their names."""
    folders = [data / QUARANTINE_FOLDER / project] if project else (data / QUARANTINE_FOLDER).glob("*")
    return sorted(file for folder in folders for file in folder.glob("*.ndjson"))


class Source(NamedTuple):
    """What records were read from."""

    form: str
    """As its marks have it; empty in files of before they had one."""
    name: str
    path: str = ""
    """Where a file was; empty of a stream."""


class Kept(NamedTuple):
    """One record in quarantine."""

    source: Source
    position: str
    reason: str
    message: str
    excerpt: bytes
    """How it began, or what it was."""
    record: bytes = b""
    """All of it, where that is kept."""

    def line(self) -> bytes:
        """Return it as it is stored."""
        line = {
            "form": self.source.form,
            "source": self.source.name,
            "path": self.source.path,
            "position": self.position,
            "reason": self.reason,
            "message": self.message,
            "excerpt_base64": base64.b64encode(self.excerpt).decode("ascii"),
        }
        if self.record:
            line["record_base64"] = base64.b64encode(self.record).decode("ascii")
        return json.dumps(line).encode("ascii") + b"\n"


def read_kept(file: Path) -> Iterator[Kept]:
    """Yield the records of a file of the quarantine, each once. Raises ``StoreError`` for another file."""
    seen = set()
    try:
        with file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and (digest := hashlib.sha256(line).digest()) not in seen:
                    seen.add(digest)
                    yield _read_line(line)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{file}: cannot be read as a file of the quarantine: {str(error)[:200]}",
            hint="if it is damaged, remove it and run the ingest again",
            path=file,
        ) from error


def _read_line(line: bytes) -> Kept:
    value = json.loads(line)
    return Kept(
        Source(str(value.get("form", "")), str(value["source"]), str(value.get("path", ""))),
        str(value["position"]),
        str(value["reason"]),
        str(value["message"]),
        base64.b64decode(value["excerpt_base64"]),
        base64.b64decode(value.get("record_base64", "")),
    )


class Records(Protocol):
    """Where the bad records of a run go."""

    folder: Path
    """Where the project's bad records are."""

    def add(self, rejected: Rejected) -> None:
        """Keep a record."""

    def secure(self) -> None:
        """Make durable what was added, where nobody brings it again."""


class FileRecords:
    """The lines of one run over a file, which brings them all again; made on the first record."""

    def __init__(self, part: Path, source: Source) -> None:
        """``part`` is where the lines are until ``replace``; a killed run's is overwritten."""
        self.kept = 0
        self.folder = part.parent
        self._left = 0
        self._whole = 0
        self._part = part
        self._source = source
        self._file: IO[bytes] | None = None

    def add(self, rejected: Rejected) -> None:
        """Keep a record; from ``MAX_KEPT`` on, only count it."""
        kept = _kept(self._source, rejected)
        if self._whole + len(kept.record) > MAX_WHOLE_BYTES:
            kept = kept._replace(record=b"")
        self._whole += len(kept.record)
        self.put(kept)

    def put(self, kept: Kept) -> None:
        """Keep a record as it was kept before."""
        if self.kept >= MAX_KEPT:
            self._left += 1
            return
        self.kept += 1
        self._write(kept)

    def secure(self) -> None:
        """Do nothing: until ``replace`` the file that they are of brings them again."""

    def replace(self, target: Path) -> None:
        """Put the lines in the place of ``target``; without any, remove it."""
        if self._left:
            self._write(_uncounted(self._source, self._left))
        with _explained(target):
            if self._file is not None:
                with self._file:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                self._part.replace(target)
            for earlier in target.parent.glob(f"{target.name[:_DIGEST_CHARS]}-*.ndjson"):
                if self._file is None or earlier != target:  # of the same bytes under another name
                    earlier.unlink()
            if target.parent.is_dir():
                sync_directory(target.parent)

    def discard(self) -> None:
        """Forget the lines."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _write(self, kept: Kept) -> None:
        with _explained(self._part):
            if self._file is None:
                self._file = _private(self._part, os.O_TRUNC)
            self._file.write(kept.line())


class StreamRecords:
    """The lines of a stream, behind those of earlier runs. Nothing is open but in ``secure``."""

    def __init__(self, file: Path, source: Source) -> None:
        """``file`` is made with the first record."""
        self.folder = file.parent
        self._file = file
        self._source = source
        self._waiting: list[bytes] = []
        self._kept = 0
        self._left = 0
        self._whole = 0

    def add(self, rejected: Rejected) -> None:
        """Keep a record with the next ``secure``; from ``MAX_KEPT`` of one following on, only count it."""
        if self._kept >= MAX_KEPT:
            self._left += 1
            return
        self._kept += 1
        kept = _kept(self._source, rejected)
        if self._whole + len(kept.record) > MAX_WHOLE_BYTES:
            kept = kept._replace(record=b"")
        self._whole += len(kept.record)
        self._waiting.append(kept.line())

    def secure(self) -> None:
        """Append what was added, durably. Raises ``StoreError``."""
        if not self._waiting:
            return
        with _explained(self._file):
            is_new = not self._file.exists()
            with _private(self._file, os.O_APPEND) as file:
                file.truncate(_whole_lines(self._file))
                file.writelines(self._waiting)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_directory(self.folder)
        self._waiting.clear()

    def close(self) -> None:
        """Say what was not kept."""
        if self._left:
            self._waiting.append(_uncounted(self._source, self._left).line())
        self.secure()


def _whole_lines(path: Path) -> int:
    """Return how many bytes of a file are lines with an end; whoever wrote more was killed while writing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while size:
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            end = file.read(size - start).rfind(b"\n")
            if end >= 0:
                return start + end + 1
            size = start
    return 0


def _kept(source: Source, rejected: Rejected) -> Kept:
    return Kept(
        source, rejected.position, rejected.reason, rejected.message, rejected.excerpt, rejected.record
    )


def _uncounted(source: Source, left: int) -> Kept:
    return Kept(source, "", NOT_KEPT, f"{left:,} more records were rejected and not kept", b"")


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


def _private(path: Path, how: int) -> IO[bytes]:
    """Open a file that only its owner reads, and no link to somewhere else."""
    path.parent.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | how | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    os.fchmod(file.fileno(), 0o600)
    return file


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
