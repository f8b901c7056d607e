"""What rows at random places cost in an index that is large already: put at once, and sorted in piles first.

The store's own code, without parsing, texts or sealing: a commit has for each of its revisions the rows that
a dump read page by page makes, one in order and two in none, and is asked before what an ingest asks. The
index is filled before, in two passes by key, so that its pages are as full as those of a table that grew.
"""

from __future__ import annotations

import random
import shutil
from contextlib import ExitStack, closing
from pathlib import Path

import lmdb
import numpy as np

from recension.model.record import Head
from recension.store import keys
from recension.store import lmdb as store_lmdb
from recension.store.interface import Row
from recension.store.layout import INDEX, SEAL_BYTES, TABLES
from recension.store.lmdb import LmdbStore
from tests.bench.histories import Bench
from tests.bench.measure import Report, Spent, spending
from tests.store.commits import following

_PER_COMMIT = 1024
_COMMITS = 1000
"""So many that all piles go to their places once."""
_SMALLEST = 10**5
_SLICE = 200_000
_BLOB_BYTES = 300
"""Of a text and of sealed values, for each revision."""
_PROJECT = 1


def run(bench: Bench) -> None:
    """Print what a revision costs at each size."""
    report = Report(
        bench.console,
        f"scattered: {_COMMITS:,} commits of {_PER_COMMIT:,} revisions of a dump, rows of the index alone",
        "in the index before", "rows go", "µs of CPU a revision", "of it, lookups", "wall", "longest commit",
    )  # fmt: skip
    size = _SMALLEST
    while size <= bench.revisions:
        folder = bench.folder / f"scattered-{size}"
        _fill(folder, size)
        for piles in (False, True):
            copy = folder.with_name(f"{folder.name}-{piles}")
            shutil.copytree(folder, copy)
            with closing(LmdbStore.open(copy)) as store:
                asked, put, longest = _measure(store, piles=piles)
            shutil.rmtree(copy)
            each = 1e6 / (_COMMITS * _PER_COMMIT)
            report.cells(
                f"{size:,}", "to piles first" if piles else "to their places",
                f"{(asked.thread + put.thread) * each:.1f}", f"{asked.thread * each:.1f}",
                f"{(asked.wall + put.wall) * each:.1f}", f"{longest:.2f} s",
            )  # fmt: skip
        shutil.rmtree(folder)
        size *= 10
    report.print()


def _measure(store: LmdbStore, *, piles: bool) -> tuple[Spent, Spent, float]:
    """Return what questions and commits took in all, and the longest of the commits."""
    chance = random.Random(7)
    blob = chance.randbytes(_BLOB_BYTES * _PER_COMMIT)
    asked, put, longest = Spent(), Spent(), 0.0
    kept, store_lmdb._IMPORT_FROM_ROWS = store_lmdb._IMPORT_FROM_ROWS, 0 if piles else 2**62
    head = store.log.head()
    try:
        importing = ExitStack()
        importing.enter_context(store.importing())
        for commit in range(_COMMITS):
            rows = [row for at in range(_PER_COMMIT) for row in _rows(chance, head.position, at)]
            with spending() as spent, store.view() as view:
                for key, _ in rows:
                    if key[:1] == b"D":
                        view.get(key)
                    elif key[:1] == b"R":
                        rev = keys.read_revision(key)[0]
                        view.last(keys.revision(_PROJECT, rev), keys.revision(_PROJECT, rev + 1))
            _add(asked, spent)
            with spending() as spent:
                head = _commit(store, head, rows, blob)
                if commit == _COMMITS - 1:
                    importing.close()
            _add(put, spent)
            longest = max(longest, spent.wall)
    finally:
        store_lmdb._IMPORT_FROM_ROWS = kept
    return asked, put, longest


def _add(total: Spent, spent: Spent) -> None:
    total.wall += spent.wall
    total.thread += spent.thread


def _rows(chance: random.Random, position: int, at: int) -> list[Row]:
    rev = chance.getrandbits(63)
    page = position * _PER_COMMIT + at
    return [
        (keys.edit(_PROJECT, page, 0, rev, position, at), chance.randbytes(30)),
        (keys.revision(_PROJECT, rev, position, at), chance.randbytes(16)),
        (keys.text(chance.randbytes(16)), chance.randbytes(8)),
    ]


def _commit(store: LmdbStore, head: Head, rows: list[Row], blob: bytes) -> Head:
    record, new = following(head)
    store.commit(record, new, rows, [(keys.block(new.position), blob)])
    return new


def _fill(folder: Path, revisions: int) -> None:
    """Put the rows of revisions and texts into the index, behind the store's back."""
    LmdbStore.open(folder, create=True).close()
    chance = np.random.default_rng(1)
    with lmdb.open(str(folder / "lmdb"), max_dbs=len(TABLES), map_size=2**40, sync=False) as env:
        index = env.open_db(INDEX, create=False)
        for letter in (b"D", b"R"):
            shape = keys.SCATTERED[letter]
            head = letter + (_PROJECT.to_bytes(4, "big") if letter == b"R" else b"")
            rest, value = bytes(shape.key - len(head) - 8), chance.bytes(SEAL_BYTES + shape.value)
            numbers = np.sort(chance.integers(0, 2**63, revisions, np.uint64)).astype(">u8").tobytes()
            for first in (0, 1):
                for start in range(first, revisions, 2 * _SLICE):
                    places = range(start, min(start + 2 * _SLICE, revisions), 2)
                    rows = [(head + numbers[at * 8 : at * 8 + 8] + rest, value) for at in places]
                    with env.begin(write=True) as txn, txn.cursor(index) as cursor:
                        cursor.putmulti(rows)
        env.sync(True)  # noqa: FBT003 - its parameter is positional
