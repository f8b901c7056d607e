"""Other histories than the one the storage was built on: the same table for each."""

from __future__ import annotations

import random
from contextlib import closing
from functools import partial

from recension.archive.reader import Archive
from tests.bench.git import CatFile, blob_id
from tests.bench.histories import Bench, Both
from tests.bench.measure import Report, latencies, megabytes, ratio

_SIZES = "history", "revisions", "texts", "stored", "git pack", "ratio", "whole store", "pack + idx", "ratio"
_SPEEDS = "history", "rev/s wall", "git", "times git", "rev/s of CPU", "git", "times git"
_QUESTIONS = 1000


def run(bench: Bench) -> None:
    """Print size, speed and reading of each history."""
    stored = [Both.store(source, bench.folder / source.name) for source in bench.sources()]
    if not stored:
        return
    sizes = Report(bench.console, "others: sealed and compacted; git packs, depth 50, window 250", *_SIZES)
    speeds = Report(bench.console, "others: ingest, sealed at the end; git fast-import and repack", *_SPEEDS)
    for both in stored:
        sizes.cells(*_size(both))
        speeds.cells(*_speed(both))
    sizes.print()
    speeds.print()
    reads = Report(bench.console, f"others: {_QUESTIONS:,} random texts by revision id, in process, warm")
    for both in stored:
        _read(reads, both)
    reads.print()


def _size(both: Both) -> list[str]:
    pack, index = both.pack
    return [
        both.source.name,
        f"{len(both.history.revisions):,}",
        megabytes(both.history.raw_bytes),
        megabytes(both.text_bytes),
        megabytes(pack),
        ratio(both.text_bytes, pack),
        megabytes(both.stored_bytes),
        megabytes(pack + index),
        ratio(both.stored_bytes, pack + index),
    ]


def _speed(both: Both) -> list[str]:
    cells = [both.source.name]
    for ours, theirs in ((both.ours.wall, both.theirs.wall), (both.ours.cpu, both.theirs.cpu)):
        revisions = len(both.history.revisions)
        cells += [f"{revisions / ours:,.0f}", f"{revisions / theirs:,.0f}", f"{theirs / ours:.1f}"]
    return cells


def _read(report: Report, both: Both) -> None:
    chance = random.Random(6)
    asked = chance.choices(sorted(both.history.revisions), k=_QUESTIONS)
    names = [both.history.revisions[rev] for rev in asked]
    with closing(both.open()) as store, CatFile(both.git) as git:
        archive = Archive(store)
        for rev, name in zip(asked, names, strict=True):
            assert blob_id(archive.text(both.source.name, rev)) == name
        ours, theirs = latencies(
            [
                [partial(archive.text, both.source.name, rev) for rev in asked],
                [partial(git.text, name) for name in names],
            ]
        )
    report.row(both.source.name, str(ours), theirs.wall, ratio(ours.median, theirs.median))
