"""Rows of a bulk import that come in no order, kept sorted until a million of them go to their places.

A row put at a random place of a large table costs LMDB a page: read, copied, written, its old copy freed. So
while a bulk import lasts, the rows of the families ``keys.SCATTERED`` lie in the table ``arrivals``, in
*piles*: what a commit brought of a family, by key. ``FAN`` piles become one of the next level, in the
transaction of a commit. When there are ``FAN`` of the last level, all go to the table of the index in the
order of their keys, so that each page is written once for many rows. Views see the rows of piles from the
commit on that brought them.

::

    key:    family || level u8 || number u64 || key of the last row
    value:  digest || rows by key, each a key and a value, of the lengths that ``SCATTERED`` states
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, cast

from recension.model.errors import DataLossError
from recension.store.interface import Row
from recension.store.keys import SCATTERED, Scattered
from recension.store.layout import ARRIVALS, INDEX, SEAL_BYTES, damaged, seal, unseal
from recension.store.pieces import LEAF_BYTES

if TYPE_CHECKING:
    import lmdb

FAN = 10
LEVELS = 3
"""``FAN`` ** ``LEVELS`` commits, a million events, go to their places together."""
ROWS_A_CHUNK = 60
"""About so many, for estimates."""
_NAME_BYTES = 10
_NUMBER = slice(2, _NAME_BYTES)
_FILTER_BITS = 2**26
"""Of the rows of two million events some 6 % of these are set."""


_LENGTHS = {family[0]: (shape.key, shape.value) for family, shape in SCATTERED.items()}
_SUBJECTS = {family: shape.subject for family, shape in SCATTERED.items()}


class Pile(NamedTuple):
    """Rows of one family, by key."""

    name: bytes
    """What its keys in the table begin with."""

    @property
    def family(self) -> bytes:
        """First byte of the keys of its rows."""
        return self.name[:1]

    @property
    def level(self) -> int:
        """How often its rows were sorted together with others."""
        return self.name[1]

    @property
    def number(self) -> int:
        """Position of the last commit that brought some of its rows."""
        return int.from_bytes(self.name[_NUMBER], "big")


Piles = Mapping[bytes, Sequence[Pile]]
"""By the first byte of the keys of their rows; only families that have some."""

NO_PILES: Piles = {}


class Filter:
    """Says of most rows that are in no pile made since a position that they are not there."""

    def __init__(self, since: int) -> None:
        self.since = since
        self._bits = bytearray(_FILTER_BITS // 8)

    def add(self, rows: Iterable[Row]) -> set[bytes]:
        """Take note of rows, before anybody can see them; return the keys of those that may be there."""
        bits = self._bits
        doubtful: set[bytes] = set()
        for key, _ in rows:
            at = hash(key[: _SUBJECTS[key[:1]]]) % _FILTER_BITS
            bit = 1 << (at & 7)
            if bits[at >> 3] & bit:
                doubtful.add(key)
            else:
                bits[at >> 3] |= bit
        return doubtful

    def may_have(self, subject: bytes) -> bool:
        """Return False only if no row has been added whose key begins so."""
        at = hash(subject) % _FILTER_BITS
        return bool(self._bits[at >> 3] >> (at & 7) & 1)

    def covers(self, piles: Piles) -> bool:
        """Say whether all rows of these piles were added."""
        return all(pile.number > self.since for some in piles.values() for pile in some)


def scattered(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Part rows into those that may lie in piles, ascending and as copies, and the others."""
    apart: list[Row] = []
    others: list[Row] = []
    for row in rows:
        key, value = row
        lengths = _LENGTHS.get(key[0])
        if lengths is not None and len(key) == lengths[0] and len(value) == lengths[1]:
            apart.append((bytes(key), bytes(value)))
        else:
            others.append(row)
    apart.sort()
    return apart, others


class Arrivals:
    """The piles of one environment. Safe for concurrent use, with a transaction for each thread."""

    def __init__(self, table: lmdb._Database) -> None:
        self._table = table
        self._known: tuple[int, Piles] = -1, NO_PILES

    def piles(self, txn: lmdb.Transaction) -> Piles:
        """Return the piles that a transaction that reads can see."""
        state = txn.id()
        known = self._known
        if known[0] != state:
            self._known = known = state, self.written(txn)
        return known[1]

    def written(self, txn: lmdb.Transaction) -> Piles:
        """Return the piles that a transaction can see which may have changed some itself."""
        found: list[Pile] = []
        with txn.cursor(self._table) as cursor:
            there = cursor.first()
            while there:
                found.append(Pile(bytes(cursor.key()[:_NAME_BYTES])))
                there = cursor.set_range(_behind(found[-1].name))
        return {family: list(some) for family, some in groupby(found, key=lambda pile: pile.family)}

    # --- reading ----------------------------------------------------------------------------------

    def get(self, txn: lmdb.Transaction, piles: Piles, key: bytes) -> bytes | None:
        """Return the value of a key."""
        with txn.cursor(self._table) as cursor:
            for pile in piles.get(key[:1], ()):
                if not cursor.set_range(pile.name + key) or not _inside(cursor, pile):
                    continue
                chunk = _Chunk.at(cursor, pile, key)
                place = chunk.find(key)
                if chunk.key(place) == key:
                    return chunk.row(place)[1]
        return None

    def scan(self, txn: lmdb.Transaction, piles: Piles, start: bytes, stop: bytes, limit: int) -> list[Row]:
        """Return the rows with ``start <= key < stop``, ascending; at most ``limit`` if not 0."""
        out: list[Row] = []
        with txn.cursor(self._table) as cursor:
            for pile in _between(piles, start, stop):
                out += _rows(cursor, pile, start, stop, limit)
        out.sort()
        return out[:limit] if limit else out

    def last(self, txn: lmdb.Transaction, piles: Piles, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest row with ``start <= key < stop``."""
        best: Row | None = None
        with txn.cursor(self._table) as cursor:
            for pile in _between(piles, start, stop):
                row = _last(cursor, pile, start, stop)
                if row is not None and (best is None or row[0] > best[0]):
                    best = row
        return best

    def walk(self, txn: lmdb.Transaction) -> Iterator[Row]:
        """Yield all rows by key."""
        for some in self.written(txn).values():
            yield from merge(*(self._all(txn, pile) for pile in some))

    def _all(self, txn: lmdb.Transaction, pile: Pile) -> Iterator[Row]:
        with txn.cursor(self._table) as cursor:
            there = cursor.set_range(pile.name)
            while there and _inside(cursor, pile):
                yield from _Chunk.at(cursor, pile, pile.family).rows()
                there = cursor.next()

    # --- writing ----------------------------------------------------------------------------------

    def add(self, txn: lmdb.Transaction, number: int, rows: Sequence[Row]) -> bool:
        """Put the rows of commit ``number``, ascending and new; say whether it is time to place all."""
        for family, some in groupby(rows, key=lambda row: row[0][:1]):
            self._put(txn, family + b"\0" + number.to_bytes(8, "big"), [key + value for key, value in some])
        for piles in self.written(txn).values():
            for level in range(LEVELS - 1):
                full = [pile for pile in piles if pile.level == level]
                if len(full) >= FAN:
                    self._raise(txn, full)
        return any(
            sum(pile.level == LEVELS - 1 for pile in piles) >= FAN for piles in self.written(txn).values()
        )

    def _raise(self, txn: lmdb.Transaction, piles: Sequence[Pile]) -> None:
        """Make one pile of several of a level."""
        rows: list[bytes] = []
        with txn.cursor(self._table) as cursor:
            for pile in piles:
                there = cursor.set_range(pile.name)
                while there and _inside(cursor, pile):
                    rows += _Chunk.at(cursor, pile, pile.family).lines()
                    there = cursor.next()
        rows.sort()
        newest = max(piles, key=lambda pile: pile.number)
        name = newest.family + bytes([newest.level + 1]) + newest.name[_NUMBER]
        self._drop(txn, piles)
        self._put(txn, name, rows)

    def _put(self, txn: lmdb.Transaction, name: bytes, lines: Sequence[bytes]) -> None:
        shape = SCATTERED[name[:1]]
        count = (LEAF_BYTES - SEAL_BYTES) // (shape.key + shape.value)
        with txn.cursor(self._table) as cursor:
            for at in range(0, len(lines), count):
                some = lines[at : at + count]
                key = name + some[-1][: shape.key]
                cursor.put(key, seal(ARRIVALS, key, b"".join(some)))

    def _drop(self, txn: lmdb.Transaction, piles: Iterable[Pile]) -> None:
        with txn.cursor(self._table) as cursor:
            for pile in piles:
                there = cursor.set_range(pile.name)
                while there and _inside(cursor, pile):
                    there = cursor.delete()

    def place(
        self, txn: lmdb.Transaction, index: lmdb._Database, family: bytes, start: bytes, most: int
    ) -> bytes:
        """Put up to some ``most`` rows of a family, from ``start`` on, into the table of the index.

        Returns where to go on; when all are there, removes the piles and returns nothing. A row that is there
        already is newer, and stays.
        """
        piles = self.written(txn).get(family, ())
        share = max(most // max(len(piles), 1), 1)
        taken: list[Row] = []
        upto = stop = bytes([family[0] + 1])
        with txn.cursor(self._table) as cursor:
            for pile in piles:
                rows = _rows(cursor, pile, start, stop, share)
                taken += rows
                if len(rows) == share:  # it has more, perhaps, and they come next
                    upto = min(upto, rows[-1][0] + b"\0")
        taken.sort()
        ready = [(key, seal(INDEX, key, value)) for key, value in taken if key < upto]
        with txn.cursor(index) as cursor:
            cursor.putmulti(ready, overwrite=False)
        if upto < stop:
            return upto
        self._drop(txn, piles)
        return b""

    def take_out(self, txn: lmdb.Transaction, piles: Piles, keys: Iterable[bytes]) -> None:
        """Destroy the rows of these keys."""
        if not piles:
            return
        with txn.cursor(self._table) as cursor:
            for key in keys:
                for pile in piles.get(key[:1], ()):
                    if not cursor.set_range(pile.name + key) or not _inside(cursor, pile):
                        continue
                    chunk = _Chunk.at(cursor, pile, key)
                    place = chunk.find(key)
                    if chunk.key(place) != key:
                        continue
                    left = chunk.lines()
                    del left[place]
                    cursor.delete()
                    self._put(txn, pile.name, left)


class _Chunk:
    """Some rows of a pile, in one value."""

    __slots__ = ("_body", "_key", "_stride", "count")

    def __init__(self, body: bytes, shape: Scattered) -> None:
        self._body = body
        self._key = shape.key
        self._stride = shape.key + shape.value
        self.count = len(body) // self._stride

    @classmethod
    def at(cls, cursor: lmdb.Cursor, pile: Pile, start: bytes) -> _Chunk:
        """Return the one at the cursor; whoever passes over a damaged one learns what to pass over."""
        name, raw = cast("Row", cursor.item())
        try:
            body, shape = unseal(ARRIVALS, name, raw), SCATTERED.get(pile.family)
            if shape is None or not body or len(body) % (shape.key + shape.value):
                raise damaged(ARRIVALS, name, "holds no rows")
            return cls(body, shape)
        except DataLossError as error:
            before = b""
            if cursor.prev() and _inside(cursor, pile):
                before = cast("bytes", cursor.key())[_NAME_BYTES:] + b"\0"
            span = {"key": max(start, before, pile.family).hex(), "upto": name[_NAME_BYTES:].hex()}
            error.metadata.update(table=INDEX.decode(), **span)
            raise

    def key(self, place: int) -> bytes:
        """Return the key at a place."""
        return self._body[place * self._stride : place * self._stride + self._key]

    def row(self, place: int) -> Row:
        """Return the row at a place."""
        start = place * self._stride
        return self._body[start : start + self._key], self._body[start + self._key : start + self._stride]

    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]:
        """Return the rows from one place to another."""
        return [self.row(at) for at in range(start, self.count if stop is None else stop)]

    def lines(self) -> list[bytes]:
        """Return all rows, each a key and a value behind one another."""
        body, stride = self._body, self._stride
        return [body[at : at + stride] for at in range(0, len(body), stride)]

    def find(self, key: bytes) -> int:
        """Return the place of the first row whose key is not below ``key``."""
        return bisect_left(range(self.count), key, key=self.key)


def _inside(cursor: lmdb.Cursor, pile: Pile) -> bool:
    """Say whether the cursor is at rows of a pile."""
    return cast("bytes", cursor.key()).startswith(pile.name)


def _behind(name: bytes) -> bytes:
    """Return the least name of a pile behind that one."""
    return name[:1] + (int.from_bytes(name[1:], "big") + 1).to_bytes(_NAME_BYTES - 1, "big")


def _between(piles: Piles, start: bytes, stop: bytes) -> Iterator[Pile]:
    """Yield the piles that may have rows with ``start <= key < stop``."""
    for family, some in piles.items():
        if start[:1] <= family < stop:
            yield from some


def _rows(cursor: lmdb.Cursor, pile: Pile, start: bytes, stop: bytes, limit: int) -> list[Row]:
    out: list[Row] = []
    there = cursor.set_range(pile.name + start if start > pile.family else pile.name)
    while there and _inside(cursor, pile) and (not limit or len(out) < limit):
        chunk = _Chunk.at(cursor, pile, start)
        begin, end = chunk.find(start), chunk.find(stop)
        out += chunk.rows(begin, end)
        if end < chunk.count or cast("bytes", cursor.key())[_NAME_BYTES:] + b"\0" >= stop:
            break  # before what comes next is read: it may be damaged
        there = cursor.next()
    return out[:limit] if limit else out


def _last(cursor: lmdb.Cursor, pile: Pile, start: bytes, stop: bytes) -> Row | None:
    end = pile.name + stop if stop[:1] == pile.family else _behind(pile.name)
    there = cursor.set_range(end)
    if there and _inside(cursor, pile):
        try:
            chunk = _Chunk.at(cursor, pile, start)
        except DataLossError as error:
            if bytes.fromhex(error.metadata["key"]) < stop:
                raise
            there = bool(cursor.key())  # of the rows before, which reach to ``stop``
        else:
            place = chunk.find(stop)
            if place:
                row = chunk.row(place - 1)
                return row if row[0] >= start else None
            there = cursor.prev()
    else:
        there = cursor.prev() if there else cursor.last()
    if not there:
        return None
    name = cast("bytes", cursor.key())
    if not name.startswith(pile.name) or name[_NAME_BYTES:] < start:
        return None
    chunk = _Chunk.at(cursor, pile, start)
    return chunk.row(chunk.count - 1)
