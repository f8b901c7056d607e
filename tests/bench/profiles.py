"""Where the time goes. A profiler doubles it, so only the proportions mean something."""

from __future__ import annotations

import cProfile
import io
import pstats
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.event import Event
from recension.model.manifest import Selector
from recension.store.lmdb import LmdbStore
from tests.bench.histories import PEPS, ROOT, Bench, new_project
from tests.bench.synthetic import append, growing

_LINES = 16
_SMALL_REVISIONS = 20_000


def run(bench: Bench) -> None:
    """Print a profile of the writer, of reading, and of a snapshot."""
    if bench.has(PEPS):
        folder = bench.folder / "profile-peps"
        with closing(new_project(folder, "peps")) as store:
            _profiled(bench, "the writer on peps, parser apart, sealing in threads", lambda: _ingest(store))
            archive = Archive(store)
            last = archive.create_snapshot(Selector.of(["peps"]))
            pages = [entry.page_id for entry in archive.entries(last.snapshot_id)]
            asked = random.Random(14).choices(pages, k=3000)
            _profiled(bench, "3,000 pages with text", lambda: [archive.article("peps", p) for p in asked])
            _profiled(
                bench, "a whole corpus without texts, 5 times",
                lambda: [list(archive.entries(last.snapshot_id)) for _ in range(5)],
            )  # fmt: skip
            _profiled(
                bench, "a whole corpus with texts, 3 times",
                lambda: [list(archive.read(last.snapshot_id)) for _ in range(3)],
            )  # fmt: skip
    with closing(new_project(bench.folder / "profile-small", "w")) as store:
        ingestor = Ingestor(store)
        _profiled(
            bench, f"the writer on {_SMALL_REVISIONS:,} small revisions",
            lambda: append(ingestor, growing(_SMALL_REVISIONS, 2)),
        )  # fmt: skip
        archive = Archive(store)
        _profiled(
            bench, f"CreateSnapshot of {_SMALL_REVISIONS // 2:,} pages",
            lambda: archive.create_snapshot(Selector.of(["w"])),
        )  # fmt: skip


def _ingest(store: LmdbStore) -> None:
    ingestor = Ingestor(store)
    events: list[Event] = []
    for event in PEPS.events():
        events.append(event)
        if len(events) == 256:
            ingestor.append("peps", events)
            events = []
    ingestor.append("peps", events)
    ingestor.settle()


def _profiled(bench: Bench, what: str, work: Callable[[], object]) -> None:
    profile = cProfile.Profile()
    profile.enable()
    work()
    profile.disable()
    out = io.StringIO()
    pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(_LINES)
    lines = [line for line in out.getvalue().splitlines() if line.strip() and "Ordered" not in line]
    bench.console.print(f"[bold]profile: {what}[/]")
    for line in lines:
        bench.console.print(_short(line), markup=False, soft_wrap=True)
    bench.console.print()


def _short(line: str) -> str:
    return line.replace(str(ROOT / "service") + "/", "").replace(str(Path.home()), "~")
