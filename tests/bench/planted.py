"""A corpus of a million pages whose events were never ingested: the rows that making a snapshot reads.

To ingest twenty million events takes an hour. Planted are event columns with their commitments, the counts of
the project at each commit, commits without their events, and of the pages that the derived snapshot asks the
timelines and the sealed values. A test compares them with the rows that an ingest makes of the same events.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from secrets import token_bytes
from typing import ParamSpec, TypeVar

import numpy as np

from recension.archive import columns, stages
from recension.archive.clock import system_clock
from recension.archive.columns import KIND_SHIFT, Column, Events
from recension.archive.commitments import Facts, Models, pair_of
from recension.archive.folding import Fold, keep_stages
from recension.archive.history import Choice
from recension.archive.ingest import append_commit
from recension.archive.packing import Numbers
from recension.archive.reader import Archive
from recension.archive.rows import Tally, edit_value
from recension.archive.sealed import TOGETHER, Sealed, pack_sealed
from recension.model.event import Comment, Contributor, Presence
from recension.model.manifest import Selector
from recension.model.record import Kind
from recension.model.seal import (
    SALT_BYTES,
    SlotState,
    comment_value,
    content_value,
    contributor_value,
    title_value,
)
from recension.store import keys
from recension.store.interface import Rewrite, Row, Store
from recension.store.lmdb import LmdbStore
from tests.bench.histories import Bench, new_project
from tests.bench.measure import Report, Spent, spending, verdict
from tests.bench.synthetic import SECOND, START

PER_PAGE = 20
_COMMIT = 65_536
"""Events of one commit; an ingest's have 256, which makes positions and ordinals a little longer."""
_RUN = 2**20
_PAIR = 64
_NUMBER = 1
_MODEL = "wikitext"
_WHAT = "CreateSnapshot of a past T", "CreateSnapshot 0.1 % away from it"
_TARGETS = 3.0, 0.3
_MOST = 2048
P = ParamSpec("P")
T = TypeVar("T")
_KINDS = {b"J": "columns", b"X": "their names", b"f": "facts", b"i": "commitments"}


@dataclass(slots=True)
class Planted:
    """Exact edits in the order of the log and of time, revision by revision from 1 on."""

    pages: Numbers
    times: Numbers
    text_bytes: Numbers
    pairs: np.ndarray
    """The two commitments of each, 64 bytes."""
    commit: int = _COMMIT

    @classmethod
    def random(cls, pages: int, per_page: int, seed: int = 4) -> Planted:
        """Return edits of pages that are begun one after another and edited in any order, each second one."""
        chance = np.random.default_rng(seed)
        count = pages * per_page
        of_page = np.concatenate([np.arange(1, pages + 1), chance.integers(1, pages + 1, count - pages)])
        times = START + np.arange(1, count + 1) * SECOND
        sizes = chance.integers(300, 500, count)
        return cls(of_page, times, sizes, chance.integers(0, 256, (count, _PAIR), np.uint8))

    def positions(self) -> Numbers:
        """Return the commit of each edit; the first commit is the project's definition."""
        return 2 + np.arange(len(self.pages)) // self.commit

    def timelines(self, wanted: Numbers) -> Iterator[Row]:
        """Yield the rows of the edits of some pages."""
        positions = self.positions()
        for at in np.flatnonzero(np.isin(self.pages, wanted)).tolist():
            page, time = int(self.pages[at]), int(self.times[at])
            key = keys.edit(_NUMBER, page, time, at + 1, int(positions[at]), at % self.commit)
            yield key, edit_value(0, 0, int(self.text_bytes[at]), 0, _MODEL)

    def seal(self, first: int, last: int) -> dict[bytes, bytes]:
        """Seal edits ``first`` <= i < ``last`` and their neighbours; return the blobs of their values."""
        positions = self.positions()
        blobs: dict[bytes, bytes] = {}
        at = first - first % self.commit % TOGETHER
        while at < last:
            stop = min(at + TOGETHER, (at // self.commit + 1) * self.commit, len(self.pages))
            sealed = [Sealed(token_bytes(SALT_BYTES), self._values(one), ()) for one in range(at, stop)]
            for one, its in zip(range(at, stop), sealed, strict=True):
                self.pairs[one] = np.frombuffer(pair_of(its), np.uint8)
            (blob,) = pack_sealed(sealed)
            blobs[keys.sealed_blob(int(positions[at]), at % self.commit // TOGETHER)] = blob
            at = stop
        return blobs

    def _values(self, at: int) -> tuple[bytes, ...]:
        slot = SlotState(
            "main", _MODEL, "text/x-wiki", Presence.PRESENT, int(self.text_bytes[at]), token_bytes(32)
        )
        who = Contributor.named(f"Somebody {at % 97}", at % 97 + 1)
        title, comment = title_value(0, f"Page {self.pages[at]}"), comment_value(Comment.of(f"change {at}"))
        return title, contributor_value(who), comment, content_value([slot])

    def column_rows(self, run: int = _RUN) -> Iterator[Row]:
        """Yield the rows of the columns, those that name them last."""
        positions, after = self.positions(), 0
        spans: list[Row] = []
        for start in range(0, len(self.pages), run):
            stop = min(start + run, len(self.pages))
            revs = np.arange(start + 1, stop + 1)
            kinds = np.full(stop - start, Kind.EDIT << KIND_SHIFT)
            numbers = (
                self.times[start:stop], self.pages[start:stop], revs, kinds, positions[start:stop],
                (revs - 1) % self.commit,
            )  # fmt: skip
            events = Events(tuple(array("q", column.tobytes()) for column in numbers))
            upto = int(positions[stop - 1])
            for span, rows in columns.part_rows(_NUMBER, after, upto, events, self._facts_of):
                spans.append(span)
                yield from rows
            after = upto
        yield from spans

    def _facts_of(self, some: list[Numbers]) -> tuple[Facts, Models]:
        at = some[Column.REVS] - 1
        models = Models()
        number = np.full(len(at), models.number(_MODEL.encode()))
        return Facts(np.zeros(len(at), np.int64), self.text_bytes[at], number, self.pairs[at]), models

    def commit_to(self, store: Store) -> None:
        """Append the commits, with the counts of the project and without their events."""
        tally = Tally(first_event_at=int(self.times[0]))
        begun = np.zeros(int(self.pages.max()) + 1, bool)
        for start in range(0, len(self.pages), self.commit):
            some = self.pages[start : start + self.commit]
            tally.revisions += len(some)
            begun[some] = True
            tally.pages = int(begun.sum())
            tally.last_event_at = int(self.times[start + len(some) - 1])
            head = store.log.head()
            index = {keys.tally(_NUMBER, head.position + 1): tally.encode()}
            assert append_commit(store, head, system_clock, "w", [], index, []) is not None


def plant(store: Store, planted: Planted) -> Counter[bytes]:
    """Write all but the timelines into a store with an empty project; return the bytes of each kind."""
    planted.commit_to(store)
    sizes: Counter[bytes] = Counter()

    def counted() -> Iterator[Row]:
        for key, value in planted.column_rows():
            sizes[key[:1]] += len(key) + len(value)
            yield key, value

    store.put_derived(counted())
    return sizes


def run(bench: Bench) -> None:
    """Make a snapshot of a past time of the history, and one 0.1 % of the pages away from it."""
    planted = Planted.random(bench.replayed, PER_PAGE)
    events = len(planted.pages)
    late = events * 3 // 4
    near = late + max(1, bench.replayed // 1000)
    blobs = planted.seal(late, near)
    report = Report(
        bench.console,
        f"replay: {bench.replayed:,} pages, {events:,} events; leaves computed from commitments in columns",
        "what", "measured", "target", "",
    )  # fmt: skip
    with closing(new_project(bench.folder / "replay", "w")) as store:
        with spending() as written:
            sizes = plant(store, planted)
        report.cells("writing the columns", _seconds(written), "", "")
        for kind, name in _KINDS.items():
            report.cells(f"  {name}", f"{sizes[kind] / events:.2f} bytes an event", "", "")
        store.put_derived(planted.timelines(planted.pages[late:near]))
        store.rewrite([Rewrite({}, {}, dict(blobs))])
        times = [int(planted.times[at - 1]) for at in (late, near)]
        del planted
    for what, time, target in zip(_WHAT, times, _TARGETS, strict=True):
        spent, most = _alone(snapshot, bench.folder / "replay", time)
        report.cells(what, _seconds(spent), f"under {target:g} s", verdict(spent.wall < target))
        report.cells("  of it, the calling thread", f"CPU {spent.thread:.2f}", "", "")
        report.cells(
            "  most memory, with mapped pages", f"{most:,.0f} MiB", "under 2 GiB", verdict(most < _MOST)
        )
    _staged(report, bench, start=events * 3 // 4)
    report.print()


def _staged(report: Report, bench: Bench, start: int) -> None:
    """Ask for the state of all pages near the end of the history, then make stages and ask again.

    Where so many events make no stage due, they are made as if fewer did.
    """
    folder = bench.folder / "replay"
    time = START + (start + bench.replayed * PER_PAGE) // 2 * SECOND
    every = min(stages.EVERY, max(1, start))
    without, most, expected = _alone(states, folder, time)
    made, held, count = _alone(make_stages, folder, every)
    after, less, found = _alone(states, folder, time)
    assert found == expected
    report.cells(f"{count} stages, one every {every:,} events", _seconds(made), "", "")
    report.cells("  bytes of their pages, a page of each", f"{held:.1f}", "", "")
    for what, spent, memory in ("from the first event", without, most), ("from a stage", after, less):
        report.cells(f"states of all pages, {what}", f"{_seconds(spent)}, {memory:,.0f} MiB", "", "")


def _alone(work: Callable[P, T], *of: P.args, **named: P.kwargs) -> T:
    """Return what is computed in a process of its own, so that its memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *of, **named).result()


def states(folder: Path, time: int) -> tuple[Spent, float, str]:
    """Replay the states of all pages; return what it took, the most MiB held, and a digest of them."""
    digest = sha256()
    with closing(LmdbStore.open(folder)) as store, spending() as spent:
        fold = Fold(store, _NUMBER, Choice(time, store.log.head().position))
        for span in fold.spans():
            newest = fold.current(span)
            for column in (newest.pages, newest.times, newest.revs, newest.refs):
                digest.update(column.tobytes())
    return spent, _most_mib(), digest.hexdigest()


def make_stages(folder: Path, every: int) -> tuple[Spent, float, int]:
    """Make the stages that are due; return what it took, their bytes a page, and how many there are."""
    stages.EVERY = every
    with closing(LmdbStore.open(folder)) as store:
        with spending() as spent:
            keep_stages(store, _NUMBER)
        known = stages.find_stages(store, _NUMBER)
        size = 0
        for stage in known:
            for chunk in range(len(stage.chunks)):
                with store.view() as view:
                    row = view.get(keys.stage_chunk(_NUMBER, stage.upto, stage.valid_at, chunk))
                size += len(row or b"")
    return spent, size / max(1, sum(stage.pages for stage in known)), len(known)


def snapshot(folder: Path, time: int) -> tuple[Spent, float]:
    """Make a snapshot in this process; return what it took, and the most MiB that the process held."""
    with closing(LmdbStore.open(folder)) as store, spending() as spent:
        Archive(store).create_snapshot(Selector.of(["w"]), valid_at=time)
    return spent, _most_mib()


def _most_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)  # getrusage would tell of the parent, too
    return int(fields["VmHWM"].split()[0]) / 1024


def _seconds(spent: Spent) -> str:
    return f"{spent.wall:,.2f} s (CPU {spent.cpu:,.2f})"
