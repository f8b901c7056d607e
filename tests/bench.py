"""The benchmarks: ``python -m tests.bench [--pages N]``. Prints tables; medians, and the machine they ran on.

Figures are wall times of a real store with real syncs. Nothing here is a test: no figure fails anything.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import cycle
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.errors import PageNotFoundError
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Presence, SlotText
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension.sources.feed import Feed
from recension.store.lmdb import LmdbStore
from recension_client.client import Client

SHARED = Path(__file__).parents[1] / "../shared/data/peps"
BATCH = 256
DAY = 86_400_000_000
QUESTIONS = 3000


def micros(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Return (median, 99th percentile) of a call in microseconds."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append((time.perf_counter() - start) * 1e6)
    spent.sort()
    return statistics.median(spent), spent[int(len(spent) * 0.99) - 1]


def resident_mib() -> float:
    """Return this process' peak resident memory, mapped pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def opened(folder: Path, project: str) -> tuple[LmdbStore, Ingestor]:
    """Return an empty project in a new store."""
    store = LmdbStore.open(folder, create=True)
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo(project, "https://w.example", "en", "CC0-1.0"))
    return store, ingestor


def stored_mb(folder: Path) -> float:
    """Return the bytes that a store takes on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


def peps(table: Table, console: Console, folder: Path) -> None:
    """Ingest the peps events, then ask about single pages in process and over loopback."""
    path = SHARED / "peps-events.ndjson.zst"
    if not path.exists():
        console.print(f"skipped the peps benchmarks: {path} is not here")
        return
    store, ingestor = opened(folder, "peps")
    with closing(store):
        profile = cProfile.Profile()
        started = time.perf_counter()
        revisions = 0
        with Feed("events", path, "peps") as feed:
            for batch in feed:
                ingestor.append("peps", [item for item in batch if isinstance(item, Event)])
        seconds = time.perf_counter() - started
        archive = Archive(store)
        revisions = archive.project("peps").revisions
        table.add_row("ingest peps events, durable", f"{revisions / seconds:,.0f} revisions/s", "1,500")
        table.add_row("  wall", f"{seconds:.1f} s", "")
        table.add_row("  on disk, not compacted", f"{stored_mb(folder):.1f} MB", "")
        asking(table, archive, store)
    with closing(LmdbStore.open(folder.with_name("profiled"), create=True)) as again:
        ingestor = Ingestor(again)
        ingestor.create_project(ProjectInfo("peps", "https://w.example", "en", "CC0-1.0"))
        with Feed("events", path, "peps") as feed:
            profile.enable()
            for batch in feed:
                ingestor.append("peps", [item for item in batch if isinstance(item, Event)])
            profile.disable()
    console.print("where the writer's time goes (profiled in a second run; the profiler doubles it):")
    pstats.Stats(profile).sort_stats("tottime").print_stats(14)


def questions(archive: Archive) -> list[tuple[int, int]]:
    """Return random pages with random times at which they existed."""
    chance = random.Random(1)
    manifest = archive.create_snapshot(Selector.of(["peps"]))
    pages = [entry.page_id for entry in archive.entries(manifest.snapshot_id)]
    first, last = parse_instant("2015-01-01"), parse_instant("2026-01-01")
    out: list[tuple[int, int]] = []
    while len(out) < QUESTIONS:
        page, at = chance.choice(pages), chance.randint(first, last)
        try:
            archive.article("peps", page, valid_at=at, text=False)
        except PageNotFoundError:
            continue
        out.append((page, at))
    return out


def asking(table: Table, archive: Archive, store: LmdbStore) -> None:
    """Ask for random pages at random times."""
    asked = questions(archive)

    def ask(reader: Archive | Client, *, text: bool = True) -> Callable[[], object]:
        upcoming = cycle(asked)

        def one() -> object:
            page, at = next(upcoming)
            return reader.article("peps", page, valid_at=at, text=text)

        return one

    for text, target in ((False, "50 µs"), (True, "500 µs")):
        median, worst = micros(ask(archive, text=text), QUESTIONS)
        what = "with text" if text else "without text"
        table.add_row(f"as-of by page, in process, {what}", f"{median:.0f} µs (p99 {worst:.0f})", target)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    config = ServeConfig(data=Path(), listen="127.0.0.1:0")
    server = make_server(archive, Ingestor(store), store, config)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        median, worst = micros(ask(client), 1000)
    server.stop(0)
    table.add_row("GetArticle over loopback", f"{median / 1000:.2f} ms (p99 {worst / 1000:.2f})", "2 ms")


def whole_commands(table: Table, folder: Path) -> None:
    """Ingest real files by the command, one process tree each; its largest process is what counts."""
    server = [sys.executable, "-m", "recension.server.main"]
    for kind, path in (
        ("events", SHARED / "peps-events.ndjson.zst"),
        ("dump", SHARED / "peps-pages-meta-history.xml.zst"),
    ):
        if not path.exists():
            continue
        data = folder / path.name
        make = ["project", "create", "peps", "--base-url", "https://w.example", "--language", "en"]
        subprocess.run([*server, *make, "--license", "CC0-1.0", "--data", str(data)], check=True)
        began = time.perf_counter()
        child = subprocess.Popen(
            [*server, "ingest", kind, "peps", str(path), "--data", str(data)], stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        note = "" if status == 0 else f", exit status {os.waitstatus_to_exitcode(status)}"
        figure = f"{usage.ru_maxrss / 1024:,.0f} MiB, {seconds:.1f} s{note}"
        table.add_row(f"ingest {path.name}: largest process, mapped pages included", figure, "512 MiB")


def synthetic(first: int, count: int, rev: int, time_: int, step: int = 1) -> Iterable[list[Event]]:
    """Yield batches of one small edit a page."""
    batch = []
    for page in range(first, first + count * step, step):
        slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"page %d at %d" % (page, time_))
        edit = Edit(rev + page, 0, f"Page {page}", 0, False, NOBODY, NO_COMMENT, False, (slot,))  # noqa: FBT003
        batch.append(Event("w", page, time_, "", edit))
        if len(batch) == BATCH * 8:
            yield batch
            batch = []
    yield batch


def corpus(table: Table, folder: Path, pages: int) -> None:
    """Snapshot a large synthetic project twice, 100 pages apart, and compare."""
    store, ingestor = opened(folder, "w")
    with closing(store):
        start = parse_instant("2020-01-01")
        began = time.perf_counter()
        for batch in synthetic(1, pages, 0, start):
            ingestor.append("w", batch)
        rate = pages / (time.perf_counter() - began)
        for batch in synthetic(1, 100, pages, start + DAY, step=max(1, pages // 100)):
            ingestor.append("w", batch)
        archive = Archive(store)
        began = time.perf_counter()
        one = archive.create_snapshot(Selector.of(["w"]), valid_at=start)
        seconds = time.perf_counter() - began
        two = archive.create_snapshot(Selector.of(["w"]), valid_at=start + 2 * DAY)
        began = time.perf_counter()
        changed = sum(1 for _ in archive.diff(one.snapshot_id, two.snapshot_id))
        diff = time.perf_counter() - began
        table.add_row(f"ingest {pages:,} synthetic pages", f"{rate:,.0f} revisions/s", "")
        table.add_row(f"CreateSnapshot of {one.parts[0].count:,} pages", f"{seconds:.2f} s", "10 s")
        table.add_row("  peak resident memory, mapped pages included", f"{resident_mib():,.0f} MiB", "2 GiB")
        table.add_row(f"DiffSnapshots, {changed} changed", f"{diff:.3f} s", "0.5 s")


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--pages", type=int, default=1_000_000, help="pages of the synthetic project")
    arguments = parser.parse_args()
    console = Console()
    load = os.getloadavg()[0]
    console.print(
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"load average before: {load:.1f}"
    )
    table = Table("what", "measured", "target")
    with tempfile.TemporaryDirectory() as folder:
        peps(table, console, Path(folder) / "peps")
        whole_commands(table, Path(folder))
        corpus(table, Path(folder) / "corpus", arguments.pages)
    console.print(table)


if __name__ == "__main__":
    main()
