"""How an export lies: its shards, the names of its files, and the index that lists them.

Everything here follows from the manifest and the form alone, so that two fetches of one snapshot make the
same files, and a list that names any other file is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote

from recension.model.credit import LicensePeriod, check_periods, license_at, read_periods, write_periods
from recension.model.errors import ExportFormatError, InvalidArgumentError, RecensionError, VerificationError
from recension.model.event import MAX_NAME_BYTES
from recension.model.manifest import Manifest, ProjectPart, canonical_json, read_manifest
from recension.model.reading import ProjectInfo, Shard

FORMAT = "recension/export/v1"
INDEX = "index.json"
LEAVES = "leaves"
"""Suffix of the file beside each shard: the records of its level 0 nodes, ``docs/format.md`` section 6."""

SHARD_TEXT_BYTES = 128 * 1024 * 1024
"""A project is cut in two until the average shard has at most this much text, UTF-8 ..."""
SHARD_PAGES = 1024 * 1024
"""... and at most so many pages."""
MAX_SHARDS = 65_536
MAX_BASE_URL_BYTES = 2_048
MAX_INDEX_BYTES = 64 * 1024 * 1024

_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}
_SAFE_IN_URL = "/:@!$*,;~()'"


class Form(StrEnum):
    """What the shards are; the value is the suffix of their names."""

    JSONL = "jsonl.zst"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a project's rows say that its snapshot does not prove: the server's word, kept in the lock."""

    base_url: str
    license: str
    """SPDX id of the project's licence; if several followed one another, ``A, B@2023-06-07T00:00:00Z``."""

    def url(self, title: str) -> str:
        """Return the address of an article, as MediaWiki has it."""
        return f"{self.base_url}/wiki/{quote(title.replace(' ', '_'), safe=_SAFE_IN_URL)}"

    def license_at(self, instant: int) -> str:
        """Return the licence of what was saved at an instant. Raises ``InvalidArgumentError``."""
        return license_at(_periods(self.license), instant) if "@" in self.license else self.license


@lru_cache(64)
def _periods(written: str) -> tuple[LicensePeriod, ...]:
    return read_periods(written.split(", "))


def terms_of(project: ProjectInfo) -> Terms:
    """Take the terms from a server's answer. Raises ``VerificationError`` for what no project can have."""
    if len(project.base_url.encode()) > MAX_BASE_URL_BYTES or len(project.license.encode()) > MAX_NAME_BYTES:
        raise VerificationError(f"the address or the licence of project {project.name[:80]!r} is endless")
    if not project.licenses:
        return Terms(project.base_url.rstrip("/"), project.license)
    try:
        return Terms(project.base_url.rstrip("/"), write_periods(check_periods(project.licenses)))
    except InvalidArgumentError as error:
        raise VerificationError(f"project {project.name[:80]!r}: {error.message}") from None


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One of the files that a project's rows lie in."""

    part: ProjectPart
    shard: Shard
    form: Form

    @property
    def folder(self) -> str:
        """Its folder."""
        return folder_of(self.part.project)

    @property
    def name(self) -> str:
        """Its name in the folder."""
        return f"{self._stem}.{self.form}"

    @property
    def leaves(self) -> str:
        """The name of its leaves' file in the folder."""
        return f"{self._stem}.{LEAVES}"

    @property
    def _stem(self) -> str:
        return f"{self.shard.index:05}-of-{self.shard.count:05}"


def folder_of(project: str) -> str:
    """Return a folder's name: the project's where that is harmless on every file system, else a digest's."""
    if _PLAIN_NAME.fullmatch(project) and project not in _DEVICES and not project.startswith("project-"):
        return project
    return f"project-{sha256(project.encode()).hexdigest()[:32]}"


def shard_count(part: ProjectPart) -> int:
    """Return into how many shards a project is cut: a power of two."""
    count = 1
    while count < MAX_SHARDS and (
        part.text_bytes > count * SHARD_TEXT_BYTES or part.count > count * SHARD_PAGES
    ):
        count *= 2
    return count


def shard_files(manifest: Manifest, form: Form) -> list[ShardFile]:
    """Return all shards of a snapshot."""
    return [
        ShardFile(part, Shard(index, count), form)
        for part in manifest.parts
        for count in (shard_count(part),)
        for index in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Job:
    """What determines every byte of an export."""

    manifest: Manifest
    form: Form
    writer: str
    """The library that wrote the files and its version: another one compresses the same rows otherwise."""
    terms: Mapping[str, Terms]
    """By project."""

    @property
    def encoded(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(_job_document(self))


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One shard as it was written."""

    path: str
    """``folder/name``."""
    rows: int
    text_bytes: int
    """Text of its rows, UTF-8."""
    withheld: int
    """Rows whose content is withheld, or that hold a slot without its text."""
    size_bytes: int
    sha256: str
    """Hex digest of the file."""
    leaves_sha256: str
    """Hex digest of its leaves' file."""


@dataclass(frozen=True, slots=True)
class Index:
    """The list of an export's files: what was asked for, and what each file holds."""

    job: Job
    files: tuple[FileRecord, ...]
    """In the order of ``shard_files``."""

    @property
    def encoded(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(_job_document(self.job) | {"files": [asdict(each) for each in self.files]})


def _job_document(job: Job) -> dict[str, object]:
    return {
        "format": FORMAT,
        "form": job.form.value,
        "manifest": job.manifest.encoded.decode(),
        "terms": {name: asdict(terms) for name, terms in job.terms.items()},
        "writer": job.writer,
    }


def read_index(encoded: bytes) -> Index:
    """Read an index back. Raises ``ExportFormatError`` for anything that ``Index`` would not write."""
    try:
        document = json.loads(encoded)
        _check_format(document["format"])
        job = Job(
            read_manifest(document["manifest"].encode()),
            Form(document["form"]),
            document["writer"],
            {name: Terms(**terms) for name, terms in document["terms"].items()},
        )
        index = Index(job, tuple(FileRecord(**each) for each in document["files"]))
        check_files(index)
        good = index.encoded == encoded
    except ExportFormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, RecensionError) as error:
        raise ExportFormatError(f"{INDEX} is damaged: {str(error)[:200]}") from None
    if not good:
        raise ExportFormatError(f"{INDEX} is damaged: it would be written in another way")
    return index


def _check_format(name: object) -> None:
    if name != FORMAT:
        raise ExportFormatError(f"unknown export format {str(name)[:80]!r}", hint="use a newer recension")


def check_files(index: Index) -> None:
    """Refuse a list that is not of exactly the files that the snapshot has, with numbers that can be."""
    job = index.job
    _need({part.project for part in job.manifest.parts} == job.terms.keys(), "terms of other projects")
    expected = [f"{each.folder}/{each.name}" for each in shard_files(job.manifest, job.form)]
    _need([each.path for each in index.files] == expected, "files that are not the snapshot's")
    for each in index.files:
        numbers = (each.rows, each.text_bytes, each.withheld, each.size_bytes)
        _need(all(type(number) is int and number >= 0 for number in numbers), "numbers below 0")
        for digest in (each.sha256, each.leaves_sha256):
            _need(re.fullmatch("[0-9a-f]{64}", digest), "no digest")


def _need(good: object, message: str) -> None:
    if not good:
        raise ExportFormatError(f"the list of files is damaged: {message}")


def overlapping(wanted: ShardFile, held: list[ShardFile]) -> Iterator[int]:
    """Yield the places of the older shards that may hold pages of a newer one; counts are powers of two."""
    for place, old in enumerate(held):
        least = min(old.shard.count, wanted.shard.count)
        same = old.part.project == wanted.part.project
        if same and old.shard.index % least == wanted.shard.index % least:
            yield place
