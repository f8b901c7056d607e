"""Flip one bit of a store after the other, and ask it everything after each.

Run by ``test_flips``: ``flip_bits SEED SECONDS FLIPS HABIT STATE SCRATCH``. Half of the flips hit any bit of
the file; the others hit a row that is in use, and have to be noticed. The habit ``blind`` leaves out the
checks of digests. The state is ``written``; ``compacted``, in which rows lie in another way; or ``waiting``,
what an import leaves that was killed.

A flip in a page that nothing uses, or beside the rows of one, changes nothing. As in ``damage_store``: a flip
in a page's own structure may hide rows, which the check of the product finds, end the process, or let LMDB go
back to the commit before; but no text is ever another.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from unittest.mock import patch

import lmdb
import numpy as np

from recension.store import copying, layout
from recension.store import lmdb as module
from tests.faults.children import in_a_child
from tests.faults.durations import Duration
from tests.faults.findings import Findings
from tests.faults.histories import PILED, History, Step, steps_of
from tests.faults.wholeness import problems_of
from tests.faults.worker import work

_STEPS = 14
_NEVER = {"wrong", "unnamed", "died SIGALRM"}
Place = tuple[int, int]
"""A byte of the file, and a bit of it."""


class _Same(bytes):
    """A digest that is as it should be, whatever it is compared with."""

    __slots__ = ()
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __getitem__(self, _: object) -> _Same:  # type: ignore[override]
        return self


class _Digest:
    def __init__(self, _: bytes) -> None:
        pass

    def digest(self) -> bytes:
        return _Same(32)


def blind() -> None:
    """Let the store take rows as they are."""
    for each in (copying, layout, module):
        patch.object(each, "sha256", _Digest).start()


def compact(data: Path) -> None:
    """Compact a store."""
    with closing(module.LmdbStore.open(data, force_mount=True)) as store:
        store.compact()


def leave_waiting(data: Path, told: Path, steps: list[Step]) -> None:
    """Do the steps of an import and leave it before its rows are in their places."""
    assert steps[0].piled
    with patch.object(module.LmdbStore, "_place_arrivals", lambda _: None):
        work(data, told, steps, 0)


def rows_in(folder: Path, data: bytes) -> list[tuple[str, int, int]]:
    """Return (table, place, length) of the values in use, wherever older copies of them lie."""
    out = []
    with closing(lmdb.open(str(folder), max_dbs=len(layout.TABLES), readonly=True, lock=False)) as env:
        tables = {name: env.open_db(name, create=False) for name in layout.TABLES}
        with env.begin(buffers=True) as txn:
            found = [(name, value) for name, table in tables.items() for _, value in txn.cursor(table)]
            only = next(bytes(value) for _, value in found if data.count(value) == 1)
            start = next(_address(value) for _, value in found if value == only) - data.find(only)
            for name, value in found:
                place = _address(value) - start
                assert data[place : place + len(value)] == value
                # Before a blob's digest stands the number of its pieces; missing ones read as none.
                skipped = name == layout.BLOBS
                if len(value) > skipped:
                    out.append((name.decode(), place + skipped, len(value) - skipped))
    return out


def _address(value: memoryview) -> int:
    return int(np.frombuffer(value, np.uint8).ctypes.data)


def places(data: bytes, rows: list[tuple[str, int, int]], moments: random.Random) -> tuple[str, Place]:
    """Return a bit to flip, and where it is."""
    bit = moments.randrange(8)
    if moments.random() < 0.5:
        return "any", (moments.randrange(len(data)), bit)
    table = moments.choice(sorted({row[0] for row in rows}))
    _, place, length = moments.choice([row for row in rows if row[0] == table])
    return table, (place + moments.randrange(length), bit)


def flipped(file: Path, place: Place) -> Iterator[None]:
    """Flip a bit, and flip it back."""
    byte, bit = place
    for _ in range(2):
        with file.open("r+b") as out:
            out.seek(byte)
            old = out.read(1)[0]
            out.seek(byte)
            out.write(bytes([old ^ 1 << bit]))
        yield


def kind_of(problem: str) -> str:
    """Return what a problem begins with; of what a process died is part of it."""
    return problem if problem.startswith("died") else problem.split(maxsplit=1)[0].rstrip(":")


def main() -> int:
    seed, duration, flips, habit, state, scratch = sys.argv[1:]
    seconds = 60 if habit == "sound" else 2  # without checks some flips make for endless reads
    found = Findings()
    steps = steps_of(PILED + seed if state == "waiting" else seed, _STEPS)
    folder = Path(scratch)
    folder.mkdir()
    history, store = History(steps), folder / "data/lmdb"
    if state == "waiting":
        in_a_child(partial(leave_waiting, folder / "data", folder / "told", steps))
    else:
        in_a_child(partial(work, folder / "data", folder / "told", steps, 0))
    if state == "compacted":
        in_a_child(lambda: compact(folder / "data"))
    data = (store / "data.mdb").read_bytes()
    rows = in_a_child(lambda: rows_in(store, data))
    assert (state == "waiting") == any(row[0] == "arrivals" for row in rows)
    if habit == "blind":
        blind()
    assert [] == problems_of(folder / "data", history, _STEPS)
    for case in Duration(seed, float(duration)).rounds(int(flips)):
        where, place = places(data, rows, random.Random(case))
        flip = flipped(store / "data.mdb", place)
        next(flip)
        problems = problems_of(folder / "data", history, _STEPS, seconds)
        kinds = {kind_of(problem) for problem in problems}
        next(flip)
        (store / "lock.mdb").unlink(missing_ok=True)
        bad = [f"{kind} after a flip of {where} at {place}" for kind in kinds & _NEVER]
        if where != "any" and not kinds:
            bad.append(f"nobody noticed a flip of {where} at {place}")
        found.add(case, bad)
        found.counts[f"{where}: {' and '.join(sorted(kinds)) or 'no difference'}"] += 1
    assert data == (store / "data.mdb").read_bytes()
    found.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
