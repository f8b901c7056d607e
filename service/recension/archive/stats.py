"""What an archive holds and what that takes, part by part.

Read in slices, each with a view of its own, so that nothing is kept from being used again meanwhile; beside
an ingest the numbers are therefore of slightly different moments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby

from recension.archive.marks import Freshness, freshness
from recension.archive.projects import project_names, tally_of
from recension.archive.sealed import raw_bytes
from recension.archive.texts.rows import read_page_block, read_tail
from recension.model.instant import format_instant
from recension.store import keys
from recension.store.interface import PackedRows, Progress, Row, Store, Usage

_FAMILIES = {
    b"E": "edits in timelines",
    b"M": "moves, deletes, restores",
    b"W": "visibility in timelines",
    b"R": "revisions by id",
    b"V": "visibility by revision",
    b"T": "pages by title",
    b"S": "source ids",
    b"L": "log entries",
    b"D": "texts by digest",
    b"K": "other pages with a text",
    b"G": "text blocks of pages",
    b"H": "tails of pages",
    b"U": "users of prefixes",
    b"N": "snapshot tree nodes",
    b"Y": "snapshots by position",
    b"Z": "snapshots by id",
    b"a": "released snapshots",
    b"I": "leaves of the checkpoint log",
    b"d": "acknowledgements",
    b"e": "receipts",
    b"k": "signing keys",
    b"r": "retractions",
    b"v": "withdrawn revisions",
    b"O": "pins",
    b"l": "licensees and agreements",
    b"u": "API keys",
    b"m": "marks of sources",
    b"F": "pins by name",
    b"J": "event columns",
    b"f": "facts of edits in columns",
    b"i": "commitments in columns",
    b"X": "spans of event columns",
    b"g": "stages of the replay",
    b"h": "pages of stages",
    b"A": "last removal",
    b"C": "counts of projects",
    b"P": "projects by name",
    b"Q": "definitions of projects",
    b"B": "times of commits",
}
_SLICE = 8192
_SEAL_BYTES = 8
_NOT_PACKED = PackedRows(0, 0, 0)
_LAST = b"\xff" * 64
_SAMPLES = 64
"""Of log records and sealed values, to estimate what they are when unpacked."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one kind of row or blob takes."""

    name: str
    letter: str
    """First byte of its keys; empty for the log."""
    rows: int
    raw_bytes: int
    """Before compression; keys included for rows of the index."""
    stored_bytes: int
    """With digests, without what pages leave free; of the log, its pages, but for what lies in bins."""
    estimated: bool = False
    """True if ``raw_bytes`` follows from a sample."""


@dataclass(frozen=True, slots=True)
class ProjectStats:
    """What a project holds."""

    name: str
    revisions: int
    pages: int
    texts: int
    """Different ones that are stored for its pages; one that two pages share counts where it came first."""
    text_bytes: int
    """Of them, before compression."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What an archive holds, and what it takes."""

    position: int
    projects: tuple[ProjectStats, ...]
    texts: int
    parts: tuple[Part, ...]
    tails: int
    """Texts that wait to be sealed."""
    tail_bytes: int
    tail_pages: int
    usage: Usage
    sources: tuple[Freshness, ...]

    def document(self) -> dict[str, object]:
        """Return it for machines."""
        return {
            "position": self.position,
            "projects": [asdict(project) for project in self.projects],
            "total": {
                "revisions": sum(project.revisions for project in self.projects),
                "pages": sum(project.pages for project in self.projects),
                "texts": self.texts,
            },
            "parts": [
                {**asdict(part), "ratio": round(part.raw_bytes / part.stored_bytes, 3)}
                if part.stored_bytes
                else {**asdict(part), "ratio": None}
                for part in self.parts
            ],
            "backlog": {"tails": self.tails, "bytes": self.tail_bytes, "pages": self.tail_pages},
            "usage": asdict(self.usage),
            "sources": [
                {
                    "project": one.project,
                    "form": one.form,
                    "source": one.source,
                    "position": one.position,
                    "upstream_at": _instant(one.upstream_at),
                    "served_at": _instant(one.served_at),
                    "lag_seconds": one.lag_seconds,
                }
                for one in self.sources
            ],
        }


def read_stats(store: Store, progress: Progress) -> Stats:
    """Return the statistics of a store. Reads the index once: some seconds for each million revisions."""
    usage, packed = store.usage(), store.packed_rows()
    in_runs = sum(runs.rows for runs in packed.values())
    seen = _read_index(store, usage.tables["index"].rows + in_runs, progress)
    parts = [*_blob_parts(store, seen), _log_part(store, usage)]
    parts += [
        Part(
            _FAMILIES.get(letter, "others"),
            letter.decode("ascii", "backslashreplace"),
            count,
            seen.sizes[letter],
            _index_bytes(count, seen.sizes[letter], packed.get(letter, _NOT_PACKED)),
        )
        for letter, count in sorted(seen.rows.items())
    ]
    projects = []
    with store.view() as view:
        for name, number in project_names(view):
            _, tally = tally_of(view, number)
            projects.append(
                ProjectStats(name, tally.revisions, tally.pages, seen.texts[number], seen.text_bytes[number])
            )
    return Stats(
        position=store.log.head().position,
        projects=tuple(projects),
        texts=seen.rows[b"D"],
        parts=tuple(parts),
        tails=seen.rows[b"H"],
        tail_bytes=seen.tail_bytes,
        tail_pages=seen.tail_pages,
        usage=usage,
        sources=tuple(freshness(store)),
    )


def _instant(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)


@dataclass(slots=True)
class _Seen:
    rows: Counter[bytes] = field(default_factory=Counter)
    sizes: Counter[bytes] = field(default_factory=Counter)
    texts: Counter[int] = field(default_factory=Counter)
    text_bytes: Counter[int] = field(default_factory=Counter)
    tail_bytes: int = 0
    tail_pages: int = 0
    last_page: tuple[int, int] | None = None

    def take(self, letter: bytes, rows: list[Row]) -> None:
        """Count rows of one kind, which come by key."""
        self.rows[letter] += len(rows)
        self.sizes[letter] += sum(len(key) + len(value) for key, value in rows)
        if letter == b"G":
            for key, value in rows:
                block = read_page_block(value)
                self._text(key, block.texts, block.raw_bytes)
        elif letter == b"H":
            for key, value in rows:
                size = read_tail(key, value).size
                self._text(key, 1, size)
                self.tail_bytes += size
                page = keys.read_tail(key)[:2]
                self.tail_pages += page != self.last_page
                self.last_page = page

    def _text(self, key: bytes, texts: int, size: int) -> None:
        project = int.from_bytes(key[1:5], "big")
        self.texts[project] += texts
        self.text_bytes[project] += size


def _index_bytes(rows: int, raw_bytes: int, packed: PackedRows) -> int:
    """Return what rows take, some of them in runs."""
    alone = max(rows - packed.rows, 0)  # a little may have changed between the two counts
    return packed.stored_bytes + max(raw_bytes - packed.raw_bytes, 0) + _SEAL_BYTES * alone


def _read_index(store: Store, total: int, progress: Progress) -> _Seen:
    seen = _Seen()
    start, done = b"", 0
    while True:
        with store.view() as view:
            rows = view.scan(start, _LAST, limit=_SLICE)
        for letter, some in groupby(rows, key=lambda row: row[0][:1]):
            seen.take(letter, list(some))
        done += len(rows)
        progress("read", min(done, total), total)
        if len(rows) < _SLICE:
            return seen
        start = rows[-1][0] + b"\0"


def _blob_parts(store: Store, seen: _Seen) -> Iterator[Part]:
    texts = _blob_sizes(store, b"t", b"u")
    yield Part("texts", "t", texts[0], seen.text_bytes.total(), texts[1])
    count, stored, sample = _blob_sizes(store, b"s", b"t")
    raw = packed = 0
    with store.view() as view:
        for key, size in sample:
            blob = view.blob(key)
            if blob is not None:  # else it went meanwhile
                raw += raw_bytes(blob)
                packed += size
    yield Part("sealed values", "s", count, stored * raw // max(packed, 1), stored, estimated=True)


def _blob_sizes(store: Store, start: bytes, stop: bytes) -> tuple[int, int, list[tuple[bytes, int]]]:
    """Return (number, stored bytes, some of them from everywhere)."""
    count = size = 0
    sample: list[tuple[bytes, int]] = []
    step = 1
    while True:
        rows = store.blob_sizes(start, stop, _SLICE)
        sample += [row for at, row in enumerate(rows, count) if not at % step]
        while len(sample) > _SAMPLES:
            sample = sample[::2]
            step *= 2
        count += len(rows)
        size += sum(stored for _, stored in rows)
        if len(rows) < _SLICE:
            return count, size, sample
        start = rows[-1][0] + b"\0"


def _log_part(store: Store, usage: Usage) -> Part:
    count = store.log.head().position
    raw = read = 0
    for position in range(1, count + 1, max(count // _SAMPLES, 1)):
        (record,) = store.log.read(position, 1)
        raw += len(record)
        read += 1
    stored = usage.tables["log"].page_bytes
    return Part("log", "", count, raw * count // max(read, 1), stored, estimated=read < count)
