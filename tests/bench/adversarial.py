"""Histories that nobody writes, unless to find out what happens. Each in a process of its own."""

from __future__ import annotations

import base64
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.event import Event
from tests.bench.git import Git, main_text, write_blobs
from tests.bench.histories import Bench, new_project, text_bytes
from tests.bench.measure import (
    Latency,
    Report,
    Resident,
    Spent,
    disk_bytes,
    latency,
    megabytes,
    ratio,
    spending,
)
from tests.bench.synthetic import START, append, event, sentence

_QUESTIONS = 1000


def one_page(revisions: int) -> Iterator[Event]:
    """Yield the edits of a single page; each rewrites one of its 24 lines."""
    chance = random.Random(7)
    lines = [sentence(chance) for _ in range(24)]
    for rev in range(1, revisions + 1):
        lines[chance.randrange(24)] = sentence(chance)
        yield event(1, rev, START + rev, b"\n".join(lines))


def many_pages(revisions: int) -> Iterator[Event]:
    """Yield pages with one revision each."""
    chance = random.Random(8)
    for page in range(1, revisions + 1):
        yield event(page, page, START, b"\n".join(sentence(chance) for _ in range(4)))


def huge(revisions: int) -> Iterator[Event]:
    """Yield texts of 2 MB, of which each revision of a page rewrites a hundred lines."""
    chance = random.Random(9)
    common = [sentence(chance) for _ in range(50_000)]
    pages = [chance.choices(common, k=60_000) for _ in range(4)]
    for rev in range(1, revisions + 1):
        lines = pages[rev % 4]
        for _ in range(100):
            lines[chance.randrange(len(lines))] = sentence(chance)
        yield event(rev % 4 + 1, rev, START + rev, b"\n".join(lines)[: 2 * 10**6])


def tiny(revisions: int) -> Iterator[Event]:
    """Yield texts of 0 to 8 bytes on a thousand pages."""
    chance = random.Random(10)
    for rev in range(1, revisions + 1):
        text = base64.b64encode(chance.randbytes(6))[: rev % 9]
        yield event(rev % 1000 + 1, rev, START + rev, text)


def identical(revisions: int) -> Iterator[Event]:
    """Yield one text of 4 KB over and over, on a thousand pages."""
    chance = random.Random(11)
    text = b"\n".join(sentence(chance) for _ in range(80))
    for rev in range(1, revisions + 1):
        yield event(rev % 1000 + 1, rev, START + rev, text)


def noise(revisions: int) -> Iterator[Event]:
    """Yield texts of 4 KB that have nothing in common, on five hundred pages; base64, so 3/4 at best."""
    chance = random.Random(12)
    for rev in range(1, revisions + 1):
        yield event(rev % 500 + 1, rev, START + rev, base64.b64encode(chance.randbytes(3072)))


@dataclass(frozen=True, slots=True)
class Case:
    """A history and its size."""

    name: str
    revisions: int

    def events(self) -> Iterator[Event]:
        """Yield its events."""
        return _MAKERS[self.name](self.revisions)


_MAKERS = {
    "one page": one_page,
    "one revision a page": many_pages,
    "texts of 2 MB": huge,
    "texts of 0 to 8 bytes": tiny,
    "every revision identical": identical,
    "every revision random": noise,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of a case."""

    ingested: Spent
    generated: Spent
    memory: Resident
    raw: int
    texts: int
    stored: int
    pack: int
    read: Latency


_SIZES = "case", "revisions", "raw texts", "stored", "git pack", "ratio", "bytes on disk a revision"
_SPEEDS = "case", "rev/s wall", "rev/s of CPU", "random text by revision id", "memory of the writer"


def run(bench: Bench) -> None:
    """Print what each case takes, and how fast it goes in and is read."""
    title = (
        f"adversarial: sealed and compacted; git's pack of the same blobs, depth 50, window {bench.window}"
    )
    sizes = Report(bench.console, title, *_SIZES)
    speeds = Report(bench.console, "adversarial: ingest, sealed at the end, and reading", *_SPEEDS)
    revisions = (100_000, bench.pages, 48, 20_000, 20_000, 10_000)
    for number, (name, count) in enumerate(zip(_MAKERS, revisions, strict=True)):
        case, folder = Case(name, count), bench.folder / f"case-{number}"
        bench.console.print(f"{name}, {count:,} …")
        # A new process for each: the memory that the one before let go of is not counted.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            got = pool.submit(_measure, case, folder, bench.window).result()
        sizes.cells(
            name, f"{count:,}", megabytes(got.raw), megabytes(got.texts), megabytes(got.pack),
            ratio(got.texts, got.pack), f"{got.stored / count:,.0f}",
        )  # fmt: skip
        wall = count / max(got.ingested.wall - got.generated.wall, 1e-3)
        cpu = count / max(got.ingested.cpu - got.generated.cpu, 1e-3)
        speeds.cells(name, f"{wall:,.0f}", f"{cpu:,.0f}", str(got.read), str(got.memory))
    sizes.print()
    speeds.print()


def _measure(case: Case, folder: Path, window: int) -> Measured:
    with spending() as generated:
        raw = sum(len(main_text(one) or b"") for one in case.events())
    with closing(new_project(folder, "w")) as store:
        with spending() as ingested:
            memory = append(Ingestor(store), case.events())
        store.compact()
        archive, chance = Archive(store), random.Random(13)
        asked = [chance.randint(1, case.revisions) for _ in range(_QUESTIONS)]
        read = latency([partial(archive.text, "w", rev) for rev in asked])
        texts = text_bytes(store)
    stream = folder / "stream"
    history = write_blobs(case.events(), stream)
    git = Git(folder / "git")
    git.fast_import(stream, history)
    pack, _ = git.pack_blobs(history, window=window, threads=0)
    return Measured(ingested, generated, memory, raw, texts, disk_bytes(folder / "lmdb"), pack, read)
