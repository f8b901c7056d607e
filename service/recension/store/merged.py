"""Index rows as one: those of their own, which are newer, and those in runs.

Only a copy makes runs. A row that is put over one in a run stands before it until the next copy. A row that
is deleted is taken out of its run in the same transaction, and the run is written anew without it. Which
families have runs is looked up once for an environment, since they only get fewer: in a store that was never
copied nothing here costs anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import merge
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, cast

from recension.model.errors import DataLossError
from recension.store.interface import PackedRows, Row
from recension.store.keys import PACKED
from recension.store.layout import INDEX, RUNS, seal
from recension.store.runs import LEAST_ROWS, MOST_ROWS, SUMMARY_BYTES, Run, fill, fits, pack_run, summary

if TYPE_CHECKING:
    import lmdb

_KEPT_RUNS = 1024
"""Opened runs that are kept: up to 16 MB."""


NO_STATE = -1
"""In place of a state's number: of one that is still being written."""


class _KeptRun:
    """A run that was opened lately: it is still the same in the state it was seen in, or if its bytes are."""

    __slots__ = ("raw", "run", "state")

    def __init__(self, state: int, raw: bytes, run: Run) -> None:
        self.state = state
        self.raw = raw
        self.run = run


class PackedIndex:
    """The runs of one environment. Safe for concurrent use, with a transaction for each thread."""

    def __init__(self, table: lmdb._Database) -> None:
        self._table = table
        self._kept: dict[bytes, _KeptRun] = {}
        self._others: dict[bytes, tuple[int, bool]] = {}
        """For a first byte: a state, and whether there were rows in no run then."""
        self._lock = Lock()
        self._families: frozenset[bytes] | None = None

    def families(self, txn: lmdb.Transaction) -> frozenset[bytes]:
        """Return the first bytes of keys of which there may be runs."""
        if self._families is None:
            with txn.cursor(self._table) as cursor:
                self._families = frozenset(
                    letter
                    for letter in PACKED
                    if cursor.set_range(letter) and bytes(cursor.key()[:1]) == letter
                )
        return self._families

    def has_others(self, cursor: lmdb.Cursor, state: int, letter: bytes) -> bool:
        """Say whether rows whose keys begin so are in no run; ``cursor`` is one of the table of the index."""
        known = self._others.get(letter)
        if known is None or known[0] != state:
            found = cursor.set_range(letter) and cursor.key()[:1] == letter
            self._others[letter] = known = state, found
        return known[1]

    def get(self, cursor: lmdb.Cursor, state: int, key: bytes) -> bytes | None:
        """Return the value of a key; ``cursor`` is one of the table of runs, ``state`` its transaction's id.

        The id of a transaction that writes is ``NO_STATE``.
        """
        if not cursor.set_range(key):
            return None
        name = cast("bytes", cursor.key())
        if name[:1] != key[:1]:
            return None
        known = self._kept.get(name)
        if known is not None and known.state == state != NO_STATE:
            return known.run.get(key)
        return self._run(cursor, name, state).get(key)

    def scan(self, cursor: lmdb.Cursor, state: int, start: bytes, stop: bytes, limit: int) -> list[Row]:
        """Return the packed rows with ``start <= key < stop``, ascending; at most ``limit`` if not 0."""
        out: list[Row] = []
        found = start < stop and cursor.set_range(start)
        while found and (not limit or len(out) < limit):
            name = cast("bytes", cursor.key())
            if name[:1] >= stop:
                break
            run = self._at(cursor, name, state, start)
            if run.first >= stop:
                break
            begin = run.find(start) if run.first < start else 0
            end = run.find(stop) if name >= stop else run.count
            out += run.rows(begin, min(end, begin + limit - len(out)) if limit else end)
            if name + b"\0" >= stop:
                break
            found = cursor.next()
        return out

    def last(self, cursor: lmdb.Cursor, state: int, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest packed row with ``start <= key < stop``."""
        found = cursor.set_range(stop)
        name = cast("bytes", cursor.key())
        if found and name[:1] < stop:
            try:
                run = self._at(cursor, name, state, start)
            except DataLossError as error:
                if bytes.fromhex(error.metadata["key"]) < stop:
                    raise
                found = bool(cursor.key())  # of the run before, which reaches to ``stop``
            else:
                if run.first < stop:
                    row = run.row(run.find(stop) - 1)
                    return row if row[0] >= start else None
                found = cursor.prev()
        else:
            found = cursor.prev() if found else cursor.last()
        name = cast("bytes", cursor.key())
        if not found or name < start:
            return None
        run = self._at(cursor, name, state, start)
        return run.row(run.count - 1)

    def take_out(self, txn: lmdb.Transaction, keys: Iterable[bytes]) -> None:
        """Destroy the rows of these keys."""
        packed = self.families(txn)
        gone = sorted(key for key in keys if key[:1] in packed)
        with txn.cursor(self._table) as cursor:
            while gone and cursor.set_range(gone[0]):
                name, raw = cast("Row", cursor.item())
                mine = {key for key in gone if key <= name}
                gone = gone[len(mine) :]
                run = Run(name, raw)
                left = [row for row in run.rows() if row[0] not in mine]
                if len(left) == run.count:
                    continue
                txn.delete(name, db=self._table)
                if left:
                    put_run(txn, self._table, left[-1][0], pack_run(left))

    def walk(self, txn: lmdb.Transaction) -> Iterator[Row]:
        """Yield all packed rows by key."""
        with txn.cursor(self._table) as cursor:
            for name, raw in cast("Iterator[Row]", cursor.iternext()):
                yield from Run(name, raw).rows()

    def usage(self, txn: lmdb.Transaction) -> dict[bytes, PackedRows]:
        """Return what the runs of each family hold, and what they take. ``txn`` gives buffers."""
        rows: Counter[bytes] = Counter()
        size: Counter[bytes] = Counter()
        stored: Counter[bytes] = Counter()
        with txn.cursor(self._table) as cursor:
            for name, raw in cursor.iternext():
                letter = bytes(name[:1])
                said = summary(bytes(raw[:SUMMARY_BYTES]))
                rows[letter] += said.rows
                size[letter] += said.raw_bytes
                stored[letter] += len(name) + len(raw)
        return {letter: PackedRows(rows[letter], size[letter], stored[letter]) for letter in sorted(rows)}

    def _run(self, cursor: lmdb.Cursor, name: bytes, state: int) -> Run:
        """Return the run at the cursor. Raises ``DataLossError`` when it is not as it was stored."""
        raw = cast("bytes", cursor.value())
        known = self._kept.get(name)
        if known is not None and known.raw == raw:
            if state != NO_STATE:
                known.state = state
            return known.run
        run = Run(name, raw)
        with self._lock:
            if len(self._kept) >= _KEPT_RUNS:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = _KeptRun(state, raw, run)
        return run

    def _at(self, cursor: lmdb.Cursor, name: bytes, state: int, start: bytes) -> Run:
        """Return the run at the cursor; whoever passes over a damaged one learns what to pass over."""
        known = self._kept.get(name)
        if known is not None and known.state == state:
            return known.run
        try:
            return self._run(cursor, name, state)
        except DataLossError as error:
            before = cast("bytes", cursor.key()) + b"\0" if cursor.prev() else b""
            span = {"key": max(start, before, name[:1]).hex(), "upto": name.hex()}
            error.metadata.update(table=INDEX.decode(), **span)
            raise


class Packing:
    """Sorts index rows, which come by key, into such as stay and runs."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._passed = b""
        """Key of the last row that stays: those before it that wait for others cannot stay any more."""
        self._guess = MOST_ROWS // 2

    def take(self, rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
        """Return (rows, runs under the keys of their last rows), some of them of rows that came before."""
        stay: list[Row] = []
        made: list[Row] = []
        for row in rows:
            key = row[0]
            last = self._rows[-1][0] if self._rows else b""
            if key[:1] != last[:1] or len(key) != len(last):
                self._end(stay, made)
            if key[:1] in PACKED and fits(row):
                self._rows.append(row)
                if len(self._rows) >= 2 * MOST_ROWS:
                    self._make(made)
            else:
                stay.append(row)
                self._passed = key
        return stay, made

    def end(self) -> tuple[list[Row], list[Row]]:
        """Return what is left."""
        stay: list[Row] = []
        made: list[Row] = []
        self._end(stay, made)
        return stay, made

    def _end(self, stay: list[Row], made: list[Row]) -> None:
        while len(self._rows) >= LEAST_ROWS or (self._rows and self._rows[0][0] < self._passed):
            self._make(made)
        stay += self._rows
        self._rows = []

    def _make(self, made: list[Row]) -> None:
        count, body = fill(self._rows, self._guess)
        made.append((self._rows[count - 1][0], body))
        del self._rows[:count]
        self._guess = count


def together(plain: list[Row], packed: list[Row], limit: int) -> list[Row]:
    """Return the rows of both, ascending; of two with one key, that which is in no run."""
    if not plain:
        return packed
    out = sorted((dict(packed) | dict(plain)).items())
    return out[:limit] if limit else out


def all_together(*sources: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows of all, each source ascending; of some with one key, that of the first source."""
    before = b""
    for row in merge(*sources, key=itemgetter(0)):  # of equal keys the first comes first
        if row[0] != before:
            yield row
        before = row[0]


def put_run(txn: lmdb.Transaction, table: lmdb._Database, name: bytes, body: bytes) -> None:
    """Write a run under the key of its last row."""
    txn.put(name, seal(RUNS, name, body), db=table)
