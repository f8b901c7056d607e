"""What differs: two corpora beside ``git diff`` of the same commits, and two revisions of a page."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from recension.archive.reader import Archive
from recension.model.reading import Change, Reader, Revision
from recension.store.lmdb import LmdbStore
from recension.textdiff.hunks import diff_texts
from recension_client.client import Client
from tests.bench.histories import Bench, Both
from tests.bench.measure import Report, latencies, ratio, timed
from tests.bench.peps import ALL, FAR, NEAR
from tests.bench.served import served

PAIRS = 300
"""Neighbouring revisions that are compared."""
_TIMES = 15


def run(bench: Bench) -> None:
    """Print what comparing costs, in process and over gRPC."""
    both = bench.peps
    if both is None:
        return
    report = Report(bench.console, "diffs: peps, warm; medians; git starts a process for each")
    with closing(both.open()) as store, served(both.data) as (_, client):
        archive = Archive(store)
        for what, pair in (("far", FAR), ("a month apart", NEAR)):
            _corpora(report, both, store, client, what, pair)
        _revisions(report, archive, client)
    report.print()


def _corpora(
    report: Report, both: Both, store: LmdbStore, client: Client, what: str, pair: tuple[int, int]
) -> None:
    archive = Archive(store)
    a, b = (archive.create_snapshot(ALL, valid_at=at).snapshot_id for at in pair)
    commits = [both.history.commit_at(at) for at in pair]
    changed = len(list(archive.diff(a, b)))
    assert changed == len(list(client.diff(a, b)))
    theirs, plain = (
        timed(partial(both.git.run, "diff", "--name-status", *options, *commits), _TIMES).wall * 1e3
        for options in ((), ("--no-renames",))
    )
    report.row(
        f"{what}: {changed:,} pages (git: diff --name-status)", "",
        f"{theirs:.2f} ms; {plain:.2f} with --no-renames",
    )  # fmt: skip
    asked: list[tuple[str, Callable[[], Reader], float]] = [
        ("in process, nothing remembered", lambda: Archive(store), 1),
        ("in process, asked again", lambda: archive, 1),
        ("over gRPC, asked again", lambda: client, 3),
    ]
    for how, reader, most in asked:
        ours = timed(partial(_ask, reader, a, b), _TIMES)
        report.row(
            f"  {how}", f"{ours.wall * 1e3:.2f} ms (CPU here {ours.cpu * 1e3:.2f})", "",
            ratio(ours.wall * 1e3, theirs), f"at most {most} times", ours.wall * 1e3 <= most * theirs,
        )  # fmt: skip
    size = sum(change.text_bytes_before + change.text_bytes_after for change in client.diff(a, b))
    texts = timed(lambda: _all(client.diff(a, b, text=True)), 5)
    report.row(
        "  over gRPC with all texts", f"{texts.wall * 1e3:.1f} ms, {size / texts.wall / 1e6:,.0f} MB/s"
    )


def _ask(reader: Callable[[], Reader], a: bytes, b: bytes) -> None:
    _all(reader().diff(a, b))


def _all(changes: Iterator[Change]) -> None:
    for _ in changes:
        pass


def _revisions(report: Report, archive: Archive, client: Client) -> None:
    pairs = list(_neighbours(archive))
    texts = [tuple(archive.text("peps", rev) for rev in pair) for pair in pairs]
    size = sum(len(after) for _, after in texts)
    bare, whole, wired = latencies(
        [
            [partial(diff_texts, before, after) for before, after in texts],
            [partial(archive.diff_revisions, "peps", *pair) for pair in pairs],
            [partial(client.diff_revisions, "peps", *pair) for pair in pairs],
        ]
    )
    spent = timed(lambda: [diff_texts(before, after) for before, after in texts])
    report.row(
        f"DiffRevisions of {len(pairs):,} neighbours: lines and words alone",
        f"{bare}, {size / spent.cpu / 1e6:,.0f} MB/s of one side",
    )
    report.row("  with reading both, in process", str(whole))
    report.row("  over gRPC", wired.wall)


def _neighbours(archive: Archive) -> Iterator[tuple[int, int]]:
    """Yield random pairs of revisions that follow each other."""
    chance = random.Random(4)
    pages = [e.page_id for e in archive.entries(archive.create_snapshot(ALL, valid_at=FAR[1]).snapshot_id)]
    found = 0
    while found < PAIRS:
        page = chance.choice(pages)
        edits = [item.what for item in archive.timeline("peps", page) if isinstance(item.what, Revision)]
        if len(edits) > 1:
            at = chance.randrange(1, len(edits))
            yield edits[at - 1].rev_id, edits[at].rev_id
            found += 1
