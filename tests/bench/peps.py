"""A real history of 26 years: sizes, ingest, single reads and whole corpora, each beside git."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from recension.archive.reader import Archive
from recension.archive.texts.reading import read_text
from recension.model.errors import PageNotFoundError
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import Entry
from recension.store.lmdb import LmdbStore
from tests.bench.git import CatFile, batch_texts, blob_id
from tests.bench.histories import PEPS_DUMP, Bench, Both, ingest
from tests.bench.measure import Report, disk_bytes, latencies, megabytes, ratio, timed

QUESTIONS = 3000
FAR = parse_instant("2002-05-25T00:19:11Z"), parse_instant("2026-08-22T18:00:15Z")
NEAR = parse_instant("2026-07-22T18:00:15Z"), FAR[1]
AS_OF = parse_instant("2021-03-31T17:36:09Z")
"""Times at which the data's own truth tells what the corpus held."""
ALL = Selector.of(["peps"])


def texts(bench: Bench) -> None:
    """Print what the texts take, and what everything takes."""
    both = bench.peps
    if both is None:
        return
    pack, index = both.pack
    report = Report(bench.console, f"texts: peps, {both.history.raw_bytes / 1e6:.1f} MB of distinct texts")
    part = both.text_bytes / pack
    report.row(
        "texts after sealing (git: pack of the same blobs, depth 50, window 250)",
        megabytes(both.text_bytes), megabytes(pack), f"{part:.3f}", "at most 0.75", part <= 0.75,
    )  # fmt: skip
    whole = both.stored_bytes / (pack + index)
    report.row(
        "whole store on disk, compacted (git: that pack and its index)",
        megabytes(both.stored_bytes), megabytes(pack + index), f"{whole:.3f}",
        "at most 1.0; stretch 10.6 MB", whole <= 1,
    )  # fmt: skip
    history = both.git.packed_bytes()
    report.row(
        "  the same beside git's whole repository: commits and trees too",
        megabytes(both.stored_bytes), megabytes(history), ratio(both.stored_bytes, history),
    )  # fmt: skip
    report.row("  before it was compacted", megabytes(both.uncompacted_bytes))
    for name, size in both.sizes.items():
        report.row(f"  of it, pages of table {name}", megabytes(size))
    report.row("bytes on disk a revision", f"{both.stored_bytes / len(both.history.revisions):,.0f}")
    report.print()


def ingesting(bench: Bench) -> None:
    """Print how fast events and dumps go in."""
    both = bench.peps
    if both is None:
        return
    report = Report(bench.console, "ingest: peps, durable, sealed at the end")
    ours, theirs, revisions = both.ours, both.theirs, both.summary.revisions
    report.row(
        "events in time order, wall (git: fast-import, then repack)",
        f"{ours.wall:.1f} s", f"{both.imported.wall:.1f} + {both.repacked.wall:.1f} s",
        ratio(ours.wall, theirs.wall), "under 0.33", ours.wall < theirs.wall / 3,
    )  # fmt: skip
    report.row(
        "  CPU, parser included",
        f"{ours.cpu:.1f} s", f"{both.imported.cpu:.1f} + {both.repacked.cpu:.1f} s",
        ratio(ours.cpu, theirs.cpu),
    )  # fmt: skip
    sealing = ours.cpu - ours.thread - ours.children
    report.row(
        "    of it, the writer's thread; threads that seal; the parser's process",
        f"{ours.thread:.1f}; {sealing:.1f}; {ours.children:.1f} s",
    )
    rate = revisions / ours.wall
    report.row(
        "  revisions/s, wall", f"{rate:,.0f}", f"{revisions / theirs.wall:,.0f}", "", "4,000", rate >= 4000
    )
    report.row(
        "  revisions a second of CPU", f"{revisions / ours.cpu:,.0f}", f"{revisions / theirs.cpu:,.0f}"
    )
    if bench.has(PEPS_DUMP):
        data = bench.folder / "peps-dump"
        summary, dump = ingest(PEPS_DUMP, data)
        ordered = summary.revisions / dump.wall
        report.row(
            f"dump in page order, {summary.revisions:,} revisions: revisions/s, wall",
            f"{ordered:,.0f}, {ordered / rate:.2f} of time order", "", "", "1.3 of time order",
            ordered >= 1.3 * rate,
        )  # fmt: skip
        of_cpu = summary.revisions / dump.cpu
        report.row(
            "  revisions a second of CPU",
            f"{of_cpu:,.0f}, {of_cpu / (revisions / ours.cpu):.2f} of time order",
        )
        report.row("  on disk, not compacted", megabytes(disk_bytes(data / "lmdb")))
    report.print()


# --- single texts -------------------------------------------------------------------------------


def _pages(archive: Archive) -> list[tuple[int, int]]:
    """Return random pages with random times at which they existed."""
    chance = random.Random(1)
    pages = sorted({entry.page_id for time in (AS_OF, FAR[1]) for entry in _entries(archive, time)})
    out: list[tuple[int, int]] = []
    while len(out) < QUESTIONS:
        page, at = chance.choice(pages), chance.randint(*FAR)
        try:
            archive.article("peps", page, valid_at=at, text=False)
        except PageNotFoundError:
            continue
        out.append((page, at))
    return out


def _entries(archive: Archive, time: int) -> list[Entry]:
    return list(archive.entries(archive.create_snapshot(ALL, valid_at=time).snapshot_id))


def reading(bench: Bench) -> None:
    """Print how long single questions take, in process and warm."""
    both = bench.peps
    if both is None:
        return
    report = Report(bench.console, f"reading: peps, {QUESTIONS:,} random questions, in process, warm")
    with closing(both.open()) as store:
        _revisions(report, both, store)
        _as_of(report, both, store)
    report.print()


def _revisions(report: Report, both: Both, store: LmdbStore) -> None:
    archive, chance = Archive(store), random.Random(2)
    asked = chance.choices(sorted(both.history.revisions), k=QUESTIONS)
    names = [both.history.revisions[rev] for rev in asked]
    digests = []
    for rev, name in zip(asked, names, strict=True):
        slot = archive.revision("peps", rev).revision.slots[0]
        assert blob_id(slot.text or b"") == name
        digests.append(slot.digest)

    def by_digest(digest: bytes) -> bytes:
        with store.view() as view:
            return read_text(view, digest)

    with CatFile(both.git) as git:
        engine, whole, theirs = latencies(
            [
                [partial(by_digest, digest) for digest in digests],
                [partial(archive.text, "peps", rev) for rev in asked],
                [partial(git.text, name) for name in names],
            ]
        )
    report.row(
        "text by digest, checked against it (git: cat-file --batch, unchecked)",
        str(engine), theirs.wall, ratio(engine.median, theirs.median), "median 150, p99 1,000; below git",
        engine.median < min(150, theirs.median) and engine.p99 < 1000,
    )  # fmt: skip
    report.row(
        "text by revision id, with all that is known of it",
        str(whole),
        "",
        ratio(whole.median, theirs.median),
    )


def _as_of(report: Report, both: Both, store: LmdbStore) -> None:
    archive = Archive(store)
    asked = _pages(archive)
    names = []
    with CatFile(both.git) as git:
        for page, at in asked:
            revision = archive.article("peps", page, valid_at=at).revision
            names.append(f"{both.history.commit_at(at)}:{both.source.path_of(revision.title)}")
            assert revision.slots[0].text == git.text(names[-1])
    with CatFile(both.git) as git:  # another: this one has not seen the answers yet
        bare, with_text, theirs = latencies(
            [
                [partial(archive.article, "peps", page, valid_at=at, text=False) for page, at in asked],
                [partial(archive.article, "peps", page, valid_at=at) for page, at in asked],
                [partial(git.text, name) for name in names],
            ]
        )
    report.row(
        "page as of T, with text (git: cat-file --batch of COMMIT:PATH, the commit found for it)",
        str(with_text), theirs.wall, ratio(with_text.median, theirs.median), "median 190, p99 1,000",
        with_text.median < 190 and with_text.p99 < 1000,
    )  # fmt: skip
    report.row("page as of T, without text", str(bare), "", ratio(bare.median, theirs.median))


# --- whole corpora ------------------------------------------------------------------------------


def corpus(bench: Bench) -> None:
    """Print how long questions about the whole corpus take."""
    both = bench.peps
    if both is None:
        return
    report = Report(bench.console, "corpus: peps, in process, warm; medians; git starts a process for each")
    with closing(both.open()) as store:
        archive = Archive(store)
        fresh = random.Random(3).sample(range(*FAR), 9)
        spent = [timed(partial(archive.create_snapshot, ALL, valid_at=at)) for at in fresh]
        report.row(
            "CreateSnapshot at a T that was never asked for",
            f"{statistics.median(one.wall for one in spent) * 1e3:.1f} ms "
            f"(CPU {statistics.median(one.cpu for one in spent) * 1e3:.1f})",
        )
        _lists(report, both, store)
        for what, pair, target in (("far", FAR, 1.2), ("a month apart", NEAR, 0.0)):
            _diffs(report, both, store, what, pair, target)
        nothing = timed(partial(both.git.run, "--version"), 15).wall * 1e3
        report.row("for comparison: a git that does nothing", "", f"{nothing:.1f} ms")
    report.print()


def _lists(report: Report, both: Both, store: LmdbStore) -> None:
    archive = Archive(store)
    manifest = archive.create_snapshot(ALL, valid_at=AS_OF)
    commit = both.history.commit_at(AS_OF)
    command = "ls-tree", "-r", "--full-tree", commit
    names = [line.split()[2] for line in both.git.run(*command).splitlines()]
    asked = b"\n".join(names) + b"\n"
    texts = [entry.slots[0].text or b"" for entry in archive.read(manifest.snapshot_id)]
    assert sorted(texts) == sorted(batch_texts(both.git.run("cat-file", "--batch", stdin=asked)))
    size, pages = sum(map(len, texts)), len(texts)

    since = "rev-list", "-1", f"--before={AS_OF // 1_000_000}", "main"
    found = timed(partial(both.git.run, *since), 9).wall * 1e3
    theirs = timed(partial(both.git.run, *command), 9).wall * 1e3
    report.row(
        f"list {pages:,} pages of a snapshot (git: ls-tree -r; rev-list --before takes {found:.1f} ms more)",
        "", f"{theirs:.1f} ms",
    )  # fmt: skip
    for how, reader in _memories(store):
        bare = timed(partial(_all, reader, lambda archive: archive.entries(manifest.snapshot_id)), 15)
        ours = bare.wall * 1e3
        report.row(
            f"  {how}", f"{ours:.2f} ms (CPU {bare.cpu * 1e3:.2f})", "", ratio(ours, theirs),
            "under 5 ms; stretch 1.3", ours < 5,
        )  # fmt: skip

    batch = timed(partial(both.git.run, "cat-file", "--batch", stdin=asked), 5).wall
    copied = timed(lambda: [bytes(bytearray(text)) for text in texts], 15).wall / 2
    git_rate = size / batch / 1e6
    report.row(
        f"the same with all texts, {size / 1e6:.1f} MB (git: cat-file --batch)", "",
        f"{git_rate:,.0f} MB/s, {pages / batch:,.0f} pages/s",
    )  # fmt: skip
    for how, reader in _memories(store):
        read = timed(partial(_all, reader, lambda archive: archive.read(manifest.snapshot_id)), 9)
        rate = size / read.wall / 1e6
        report.row(
            f"  {how}", f"{rate:,.0f} MB/s (of CPU {size / read.cpu / 1e6:,.0f})", "",
            f"{rate / git_rate:.2f} times the rate", "over 130 MB/s; stretch 520", rate > 130,
        )  # fmt: skip
        report.row(
            "    pages/s of one core", f"{pages / read.wall:,.0f} (of CPU {pages / read.cpu:,.0f})",
            "", "", "8,000", pages / read.wall >= 8000,
        )  # fmt: skip
    report.row("  a plain copy of the same bytes in memory", f"{size / copied / 1e6:,.0f} MB/s")


def _memories(store: LmdbStore) -> Iterator[tuple[str, Callable[[], Archive]]]:
    """Yield what a reader remembers, and what returns one that does."""
    archive = Archive(store)
    yield "asked for the first time: nothing is remembered", lambda: Archive(store)
    yield "asked again: entries are remembered", lambda: archive


def _all(reader: Callable[[], Archive], ask: Callable[[Archive], Iterator[object]]) -> None:
    for _ in ask(reader()):
        pass


def _diffs(
    report: Report, both: Both, store: LmdbStore, what: str, pair: tuple[int, int], target: float
) -> None:
    archive = Archive(store)
    a, b = (archive.create_snapshot(ALL, valid_at=at).snapshot_id for at in pair)
    commits = [both.history.commit_at(at) for at in pair]
    changed = len(list(archive.diff(a, b)))
    theirs, unmoved = (
        timed(partial(both.git.run, "diff-tree", "-r", "--raw", *moves, *commits), 9).wall * 1e3
        for moves in (("-M",), ())
    )
    report.row(
        f"diff of two corpora, {what}: {changed:,} pages (git: diff-tree -r --raw -M)", "",
        f"{theirs:.2f} ms; {unmoved:.2f} without -M",
    )  # fmt: skip
    for how, reader in _memories(store):
        ours = timed(partial(_all, reader, lambda archive: archive.diff(a, b)), 15)
        report.row(
            f"  {how}", f"{ours.wall * 1e3:.2f} ms (CPU {ours.cpu * 1e3:.2f})", "",
            ratio(ours.wall * 1e3, theirs), f"under {target} ms" if target else "",
            ours.wall * 1e3 < target if target else None,
        )  # fmt: skip
