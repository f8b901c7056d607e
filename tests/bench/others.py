"""Other histories than the one the storage was built on: the same table for each."""

from __future__ import annotations

import random
from contextlib import closing
from functools import partial

from recension.archive.reader import Archive
from tests.bench.git import CatFile
from tests.bench.histories import Bench, Both, sizes_row
from tests.bench.measure import Report, latencies, ratio

_COLUMNS = (
    *("history", "revisions", "texts", "stored", "git pack", "ratio", "whole store", "pack + idx", "ratio"),
    *("rev/s", "git rev/s", "times"),
)
_QUESTIONS = 1000


def run(bench: Bench) -> None:
    """Print size, speed and reading of each history."""
    stored = [Both.store(source, bench.folder / source.name) for source in bench.sources()]
    if not stored:
        return
    report = Report(
        bench.console,
        "others: sizes after sealing and compaction; git packs at depth 50, window 250; speeds wall, "
        "git fast-import and repack",
        *_COLUMNS,
    )
    for both in stored:
        report.cells(*sizes_row(both))
    report.print()
    reads = Report(bench.console, f"others: {_QUESTIONS:,} random texts by revision id, in process, warm")
    for both in stored:
        _read(reads, both)
    reads.print()


def _read(report: Report, both: Both) -> None:
    chance = random.Random(6)
    asked = chance.choices(sorted(both.history.revisions), k=_QUESTIONS)
    names = [both.history.revisions[rev] for rev in asked]
    with closing(both.open()) as store, CatFile(both.git) as git:
        archive = Archive(store)
        for rev, name in zip(asked, names, strict=True):
            assert archive.text(both.source.name, rev) == git.text(name)
        ours, theirs = latencies(
            [
                [partial(archive.text, both.source.name, rev) for rev in asked],
                [partial(git.text, name) for name in names],
            ]
        )
    report.row(both.source.name, str(ours), theirs.wall, ratio(ours.median, theirs.median))
