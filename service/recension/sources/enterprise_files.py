"""Files of Wikimedia Enterprise: snapshots, hourly batches and single articles, fetched into a folder.

A download that breaks off goes on where it was, also in a later run; a file has its name only once its size
and its digest are what upstream states. The digest is in the name, so another edition is another file.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recension.model.errors import (
    DiskFullError,
    InvalidArgumentError,
    SourceCorruptError,
    SourceFormatError,
    UpstreamUnreachableError,
)
from recension.model.private import sync_directory
from recension.sources.http import RETRY_AFTER, Http

API = "https://api.enterprise.wikimedia.com"

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CHUNK = re.compile(r"[a-z0-9][a-z0-9_.-]{0,120}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_HOURS = 24
_CHUNK_BYTES = 256 * 1024
_SIZE_DIGITS = 18
"""Of a size: below what a file system holds; Python reads no number of thousands of digits."""
_TRIES = 5
"""In a row that bring nothing."""
_PAUSE_SECONDS = 2.0
_SLUG = re.compile(r"[^\w.-]+")
_SLUG_BYTES = 120

Tell = Callable[[Path, int, int], None]
"""Hears how far a file is: the bytes that are there, and all of them."""


class Files:
    """Fetches what one account may have."""

    def __init__(
        self,
        http: Http,
        folder: Path,
        tell: Tell = lambda _path, _done, _total: None,
        *,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        """``folder``: where files go; it is made if need be."""
        self._http = http
        self._folder = folder
        self._tell = tell
        self._pause_seconds = pause_seconds

    def snapshot(self, project: str, namespace: int = 0, *, chunks: bool = False) -> Iterator[Path]:
        """Fetch the newest snapshot of a namespace, whole or in the chunks that upstream keeps of it.

        Yields each file once it is complete. Raises ``UpstreamRefusedError``, ``UpstreamUnreachableError``,
        ``SourceFormatError``, ``SourceCorruptError``, ``DiskFullError``.
        """
        name = _identifier(project, namespace)
        path = f"/v2/snapshots/{name}"
        about = self._about(path)
        if not chunks:
            yield self._download(f"{path}/download", name, _md5_of(about, path))
            return
        listed = about.get("chunks")
        if not isinstance(listed, list) or not listed:
            raise SourceFormatError(
                f"{self._http.origin}{path}: it has no chunks", hint="fetch it as a whole"
            )
        for chunk in listed:
            if not isinstance(chunk, str) or not _CHUNK.fullmatch(chunk):
                raise SourceFormatError(
                    f"{self._http.origin}{path}: what it says of chunks is unknown", hint=""
                )
            place = f"{path}/chunks/{chunk}"
            yield self._download(f"{place}/download", chunk, _md5_of(self._about(place), place))

    def batch(self, project: str, date: str, hour: int, namespace: int = 0) -> Iterator[Path]:
        """Fetch what changed in one hour (UTC) of the last two days. Yields and raises as ``snapshot``."""
        if not _DATE.fullmatch(date) or not 0 <= hour < _HOURS:
            raise InvalidArgumentError("not an hour of a day", hint="2026-01-31 and 0 to 23", field="date")
        name = _identifier(project, namespace)
        path = f"/v2/batches/{date}/{hour:02}/{name}"
        yield self._download(f"{path}/download", f"{name}-{date}-{hour:02}", _md5_of(self._about(path), path))

    def articles(self, project: str, names: Sequence[str]) -> Iterator[Path]:
        """Fetch articles as they are now, each into a file. Yields and raises as ``snapshot``."""
        _identifier(project, 0)
        asked = {"filters": [{"field": "is_part_of.identifier", "value": project}], "limit": 1}
        for name in names:
            place = f"/v2/articles/{quote(name.replace(' ', '_'), safe='')}"
            accept = {"Accept": "application/json"}
            with self._http.ask("POST", place, document=asked, headers=accept) as answer:
                data = answer.whole()
            slug = _SLUG.sub("_", name).encode()[:_SLUG_BYTES].decode(errors="ignore")
            digest = hashlib.sha256(data).hexdigest()[:16]
            yield self._write(self._folder / f"{project}-{slug}-{digest}.json", data)

    def _about(self, path: str) -> dict[str, Any]:
        about = self._http.document("GET", path)
        if not isinstance(about, dict):
            raise SourceFormatError(
                f"{self._http.origin}{path}: the answer is no object",
                hint="look whether the address is right",
            )
        return about

    def _download(self, path: str, name: str, md5: str) -> Path:
        target = self._folder / f"{name}-{md5}.tar.gz"
        if target.exists():
            return target
        part = target.with_name(target.name + ".part")
        with self._http.ask("HEAD", path, elsewhere=True) as head:
            stated, tag = head.header("Content-Length"), head.header("ETag")
        if not stated.isdecimal() or len(stated) > _SIZE_DIGITS:
            raise SourceFormatError(
                f"{self._http.origin}{path}: it states no size that a file has", hint="try again later"
            )
        size = int(stated)
        failures = 0
        with _explained(part):
            self._folder.mkdir(parents=True, exist_ok=True)
            while (before := _size_of(part)) < size:
                try:
                    self._go_on(path, part, before, size, tag)
                except UpstreamUnreachableError as error:
                    failures = 0 if _size_of(part) > before else failures + 1
                    if failures == _TRIES:
                        raise
                    time.sleep(max(float(error.metadata.get(RETRY_AFTER, "0")), self._pause_seconds))
            self._check(part, size, md5)
            part.replace(target)
            sync_directory(self._folder)
        return target

    def _go_on(self, path: str, part: Path, start: int, size: int, tag: str) -> None:
        """Fetch what is missing of a file, for as long as the connection lasts."""
        asked = ({"Range": f"bytes={start}-"} if start else {}) | ({"If-Match": tag} if tag else {})
        good = frozenset({200, 206})
        with self._http.ask("GET", path, headers=asked, good=good, elsewhere=True) as answer:
            if answer.status == HTTPStatus.OK:
                start = 0
            elif not answer.header("Content-Range").startswith(f"bytes {start}-"):
                raise SourceFormatError(
                    f"{self._http.origin}{path}: another part came than was asked for", hint="try again later"
                )
            with part.open("ab") as file:
                file.truncate(start)
                while piece := answer.read(_CHUNK_BYTES):
                    start += len(piece)
                    if start > size:
                        break
                    file.write(piece)
                    self._tell(part, start, size)
                file.flush()
                os.fsync(file.fileno())
        if start != size:
            raise UpstreamUnreachableError(
                f"{self._http.origin}{path}: {start:,} bytes came of {size:,}", hint="look at the network"
            )

    def _check(self, part: Path, size: int, md5: str) -> None:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if _size_of(part) != size or found != md5:
            part.unlink()
            raise SourceCorruptError(
                f"{part}: what came is not what upstream states: {found} and not {md5}",
                hint="fetch it again; it has been removed",
                path=part,
            )

    def _write(self, target: Path, data: bytes) -> Path:
        part = target.with_name(target.name + ".part")
        with _explained(part):
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync_directory(self._folder)
        return target


def _identifier(project: str, namespace: int) -> str:
    if not _PROJECT.fullmatch(project):
        raise InvalidArgumentError(
            f"project: {project!r} is not a project's name", hint="enwiki", field="project"
        )
    return f"{project}_namespace_{namespace}"


def _md5_of(about: dict[str, Any], path: str) -> str:
    """Return the digest that upstream calls a version."""
    version = about.get("version")
    if not isinstance(version, str) or not _MD5.fullmatch(version):
        raise SourceFormatError(f"{path}: it states no digest", hint="try again later")
    return version


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Name what the disk says."""
    try:
        yield
    except OSError as error:
        raise DiskFullError(
            f"{path}: cannot be written: {error.strerror}",
            hint="make room, or choose another folder, and run it again: it goes on where it was",
            path=path,
        ) from error
