"""How cost grows with work: the same kind of history at ten, a hundred, a thousand times the size."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.manifest import Manifest, Selector
from tests.bench.histories import Bench, new_project, text_bytes
from tests.bench.measure import Latency, Report, Resident, Spent, disk_bytes, latency, spending
from tests.bench.synthetic import BATCH, SECOND, START, append, growing

PER_PAGE = 20
_SMALLEST = 10**4
_QUESTIONS = 2000


@dataclass
class Size:
    """What was measured at one size."""

    revisions: int
    ingested: Spent
    generated: Spent
    """What it takes to make the events up, which is no part of the ingest."""
    memory: Resident
    stored: int
    texts: int
    bare: Latency
    text: Latency
    full: Spent
    derived: Spent
    changed: int
    diff: Spent

    @property
    def pages(self) -> int:
        """Pages in the history."""
        return self.revisions // PER_PAGE


def run(bench: Bench) -> None:
    """Print the table; the section ``replay`` has a corpus of a million pages."""
    sizes = []
    revisions = _SMALLEST
    while revisions <= bench.revisions:
        bench.console.print(f"{revisions:,} revisions …")
        sizes.append(_measure(bench.folder / f"growth-{revisions}", revisions))
        revisions *= 10
        # After each: the largest takes the better part of an hour, and may be ended.
        report = Report(
            bench.console,
            f"growth: texts of some 400 bytes, {PER_PAGE} revisions a page, {BATCH} events a commit",
            "what", *(f"{size.revisions:,}" for size in sizes),
        )  # fmt: skip
        for what, cell in _LINES:
            report.cells(what, *(cell(size) for size in sizes))
        report.print()


_LINES: tuple[tuple[str, Callable[[Size], str]], ...] = (
    ("pages", lambda size: f"{size.pages:,}"),
    ("revisions/s, wall", lambda size: f"{size.revisions / (size.ingested.wall - size.generated.wall):,.0f}"),
    ("revisions a second of CPU", lambda s: f"{s.revisions / (s.ingested.cpu - s.generated.cpu):,.0f}"),
    ("bytes on disk a revision, compacted", lambda size: f"{size.stored / size.revisions:,.0f}"),
    ("  of it, the texts", lambda size: f"{size.texts / size.revisions:,.0f}"),
    ("most memory of the writer", lambda size: str(size.memory)),
    ("page as of T, without text", lambda size: str(size.bare)),
    ("page as of T, with text", lambda size: str(size.text)),
    ("CreateSnapshot of a past T", lambda size: _seconds(size.full)),
    ("  µs of CPU a page", lambda size: f"{size.full.cpu / size.pages * 1e6:.1f}"),
    ("CreateSnapshot 0.1 % away from it", lambda size: _seconds(size.derived)),
    ("DiffSnapshots of the two", lambda s: f"{s.diff.wall * 1e3:,.1f} ms, {s.changed:,} changed"),
)


def _seconds(spent: Spent) -> str:
    return f"{spent.wall:,.3f} s (CPU {spent.cpu:,.3f})"


def _measure(folder: Path, revisions: int) -> Size:
    with spending() as generated:
        for _ in growing(revisions, PER_PAGE):
            pass
    with closing(new_project(folder, "w")) as store:
        with spending() as ingested:
            memory = append(Ingestor(store), growing(revisions, PER_PAGE))
        store.compact()
        archive = Archive(store)
        pages = revisions // PER_PAGE
        # A history's last edits: some of its pages differ between the two instants, 0.1 % of them.
        late = START + revisions * SECOND
        early = late - max(1, pages // 1000) * SECOND
        with spending() as full:
            one = _snapshot(archive, early)
        with spending() as derived:
            two = _snapshot(archive, late)
        with spending() as diff:
            changed = sum(1 for _ in archive.diff(one.snapshot_id, two.snapshot_id))
        return Size(
            revisions, ingested, generated, memory,
            disk_bytes(folder / "lmdb"), text_bytes(store),
            _as_of(archive, pages, late, text=False), _as_of(archive, pages, late, text=True),
            full, derived, changed, diff,
        )  # fmt: skip


def _snapshot(archive: Archive, time: int) -> Manifest:
    return archive.create_snapshot(Selector.of(["w"]), valid_at=time)


def _as_of(archive: Archive, pages: int, last: int, *, text: bool) -> Latency:
    chance = random.Random(5)
    first = START + pages * SECOND  # all pages exist from then on
    asked = [(chance.randint(1, pages), chance.randint(first, last)) for _ in range(_QUESTIONS)]
    return latency([partial(archive.article, "w", page, valid_at=at, text=text) for page, at in asked])
