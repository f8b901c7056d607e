"""The files of a dump as its publisher left them: parts in order, checked against what is listed beside them.

New form: a folder with ``SHA256SUMS`` and ``_SUCCESS``, which is written last. Old form: ``sha1sums`` and
``md5sums`` of everything of that day, and ``dumpstatus.json``. The order in which files are named does not
matter within a set; sets are read in the order of their first file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from recension.model.errors import SourceDigestError, SourceError, SourceFormatError, SourceIncompleteError
from recension.sources.dump_names import PACKED, Holds, PartName, is_dump, read_name

_SUMS = re.compile(r"(?:.*-)?(sha256sums|sha1sums|md5sums)(?:\.txt)?", re.IGNORECASE)
_LINE = re.compile(r"([0-9a-fA-F]{32,64})[ \t]+\*?(?:\./)?(\S.*)")
_EXPORT_SUMS, _SUCCESS, _STATUS = "SHA256SUMS", "_SUCCESS", "dumpstatus.json"
_MOST_LISTING_BYTES = 64 * 1024 * 1024
_NAMED = 5
"""So many files are named in a message."""
_WANTED: dict[str, tuple[Holds, ...]] = {
    "dump": (Holds.HISTORY, Holds.EXPORT, Holds.UNSAID, Holds.CURRENT, Holds.ARTICLES),
    "logging": (Holds.LOG,),
}
"""What is read of a folder that has several kinds: the first of these that it has."""
SETS = frozenset(_WANTED)
"""Kinds of input that come in sets."""


class _Digest(NamedTuple):
    algorithm: str
    digest: str


@dataclass(slots=True)
class DumpSet:
    """Files that are read together."""

    name: str
    files: list[Path]
    holds: Holds = Holds.UNSAID
    made_at: int | None = None
    """First instant of the day in its name, microseconds since the epoch."""
    digests: dict[str, _Digest] = field(default_factory=dict)
    """Those that are listed, by the name of the file."""
    missing: list[str] = field(default_factory=list)
    """Files that are listed as parts of the set and are not among those given."""
    gaps: list[str] = field(default_factory=list)
    """What the names of the parts say of others that are not given, where nothing is listed."""
    doubts: list[str] = field(default_factory=list)
    """What says that the set is not finished."""
    from_folder: bool = False
    """Whether it was given as a folder, and so is meant to be whole."""

    @property
    def lacks(self) -> list[str]:
        """What says that the set is not whole."""
        return [*(f"{name} is missing" for name in self.missing), *self.doubts]

    def document(self) -> dict[str, object]:
        """Return what is known of the set for machines."""
        return {
            "name": self.name,
            "files": len(self.files),
            "checked": sum(path.name in self.digests for path in self.files),
            "missing": self.missing,
            "doubts": self.doubts,
        }

    def check(self, *, allow_incomplete: bool) -> None:
        """Compare the files with their listed digests; reads each whole.

        Raises ``SourceDigestError``; ``SourceIncompleteError`` for a folder that is not whole, unless that is
        allowed; ``SourceError`` for a file that cannot be read.
        """
        if self.from_folder and not allow_incomplete:
            self.refuse_doubts("pass --allow-incomplete to read what there is")
        for path in self.files:
            listed = self.digests.get(path.name)
            if listed is not None and _digest(path, listed.algorithm) != listed.digest:
                raise SourceDigestError(
                    f"{path}: its {listed.algorithm} is not the one that is listed beside it",
                    hint="fetch the file again; nothing of its set has been read",
                    path=path,
                    algorithm=listed.algorithm,
                )

    def refuse_doubts(self, hint: str, *, gaps: bool = False) -> None:
        """Raise ``SourceIncompleteError`` if something says that the set is not whole."""
        lacks = [*self.lacks, *(self.gaps if gaps else [])]
        if lacks:
            more = f", and {len(lacks) - _NAMED:,} more" if len(lacks) > _NAMED else ""
            raise SourceIncompleteError(
                f"{self.name}: the set is not whole: {'; '.join(lacks[:_NAMED])}{more}",
                hint=hint,
                path=self.files[0].parent,
            )


def gather(kind: str, paths: Sequence[Path]) -> tuple[list[DumpSet], list[SourceError]]:
    """Sort files into sets, and folders into their files; and tell of folders that cannot be taken.

    Only dumps and logs have sets and folders. Reads listings, but none of the files.
    """
    if kind not in SETS:
        return [DumpSet(path.name, [path]) for path in paths], []
    sets: dict[tuple[Path, str], DumpSet] = {}
    faults: list[SourceError] = []
    for path in paths:
        try:
            whole = os.path.isdir(path)  # noqa: PTH112 - what cannot be a path is none
            for file in _files_of(kind, path) if whole else [path]:
                part = read_name(file.name)
                key = file.parent, part.stem if part.is_part else file.name
                made = sets.setdefault(key, DumpSet(part.stem, [], part.holds, part.made_at))
                made.from_folder |= whole
                if file not in made.files:
                    made.files.append(file)
        except SourceError as error:
            faults.append(error)
    for (folder, _), made in sets.items():
        made.files.sort(key=lambda file: (read_name(file.name).order, file.name))
        try:
            _look_up(folder, made)
        except SourceError as error:
            faults.append(error)
    return list(sets.values()), faults


def _files_of(kind: str, folder: Path) -> list[Path]:
    """Return the files of a folder that are the dump of that kind, each part in one container."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and is_dump(entry.name))
    except OSError as error:
        raise _unreadable(folder, error) from None
    parts = [(name, read_name(name)) for name in names]
    for holds in _WANTED[kind]:
        wanted = [(name, part) for name, part in parts if part.holds is holds]
        plain = [one for one in wanted if "multistream" not in one[1].stem]
        wanted = plain or wanted
        if not wanted:
            continue
        stems = sorted({part.stem for _, part in wanted})
        if len(stems) > 1:
            raise SourceFormatError(
                f"{folder}: holds {len(stems):,} dumps: {', '.join(stems[:_NAMED])}",
                hint="pass the files of one of them",
                path=folder,
            )
        wanted.sort(key=lambda one: PACKED.index(one[1].packed), reverse=True)
        return [folder / name for name in {part.order: name for name, part in wanted}.values()]
    raise SourceFormatError(
        f"{folder}: holds no {'log' if kind == 'logging' else 'dump'}",
        hint="pass the folder in which the .xml files lie, packed or not",
        path=folder,
    )


# --- what lies beside the files -----------------------------------------------------------------


def _look_up(folder: Path, made: DumpSet) -> None:
    """Note what listings say of a set. Raises ``SourceError`` for one that cannot be read."""
    parts = {file.name: read_name(file.name) for file in made.files}
    packed = {part.packed for part in parts.values()}
    try:
        beside = {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except OSError:
        return  # the files cannot be read either, and that is told of each
    listed = _sums(folder, beside)
    if _STATUS in beside:
        for name, digest in _status(folder / _STATUS, parts.keys(), made.doubts):
            listed.setdefault(name, digest)
    made.digests = {name: listed[name] for name in parts.keys() & listed.keys()}
    others = {name: read_name(name) for name in sorted(listed.keys() - parts.keys())}
    others = {name: other for name, other in others.items() if other.is_part and other.stem == made.name}
    if made.digests:
        made.missing = [name for name, other in others.items() if other.packed in packed]
    elif others:
        # What was listed has been unpacked or packed anew: the parts are told by their ranges.
        given = {part.order for part in parts.values()}
        made.missing = [name for name, other in others.items() if other.order not in given]
    else:
        made.gaps = list(_gaps(sorted(parts.values(), key=lambda part: part.order)))
    if made.holds is Holds.EXPORT or _EXPORT_SUMS in beside:
        made.doubts += [f"there is no {name}" for name in (_EXPORT_SUMS, _SUCCESS) if name not in beside]


def _sums(folder: Path, beside: Iterable[str]) -> dict[str, _Digest]:
    """Return the listed digests by name, of several the strongest."""
    found = [(match[1].lower(), name) for name in beside if (match := _SUMS.fullmatch(name))]
    out: dict[str, _Digest] = {}
    for algorithm in ("sha256", "sha1", "md5"):
        for name in sorted(name for kind, name in found if kind == f"{algorithm}sums"):
            for line in _read(folder / name).decode("utf-8", "replace").splitlines():
                match = _LINE.fullmatch(line.strip())
                if match:
                    out.setdefault(match[2], _Digest(algorithm, match[1].lower()))
    return out


def _status(path: Path, names: Iterable[str], doubts: list[str]) -> Iterator[tuple[str, _Digest]]:
    """Yield the digests of the job that made the files; what it has not done yet goes to ``doubts``."""
    try:
        jobs = json.loads(_read(path))["jobs"]
        for job, about in sorted(jobs.items()):
            files: Mapping[str, Any] = about.get("files") or {}
            if not files.keys() & set(names):
                continue
            if about.get("status") != "done":
                doubts.append(f"{_STATUS} says that {str(job)[:80]} is {str(about.get('status'))[:80]}")
            for name, facts in files.items():
                for algorithm in ("sha1", "md5"):
                    if isinstance(facts.get(algorithm), str):
                        yield name, _Digest(algorithm, facts[algorithm].lower())
                        break
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        raise SourceFormatError(
            f"{path}: is not the status of a dump", hint="fetch it again, or remove it", path=path
        ) from None


def _gaps(parts: Sequence[PartName]) -> Iterator[str]:
    """Say what numbers and ranges of pages leave out; those of the new form leave out what was deleted."""
    numbers = {part.number for part in parts} - {0}
    for number in sorted(set(range(1, max(numbers, default=0))) - numbers):
        yield f"part {number} is missing"
    if not numbers:
        return
    for before, after in pairwise(parts):
        if before.last_page and after.first_page > before.last_page + 1:
            yield f"pages {before.last_page + 1} to {after.first_page - 1} are in no part"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_LISTING_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(data) > _MOST_LISTING_BYTES:
        raise SourceFormatError(f"{path}: too long for a listing", hint="fetch it again", path=path)
    return data


def _digest(path: Path, algorithm: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(
                file, lambda: hashlib.new(algorithm, usedforsecurity=False)
            ).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{path}: cannot be read: {os.strerror(error.errno or 0)}", hint="check the path", path=path
    )
