"""Audit logs that are tampered with, row by row, by someone who knows how they lie on the disk."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from recension.model.audit import encode_record
from recension.model.merkle import Frontier, leaf_hash
from recension.store.auditing import (
    CHECKPOINTS,
    DAYS,
    MAP_BYTES,
    META,
    RECORDS,
    TABLES,
    AuditHead,
    Day,
    day_of,
    day_row,
    head_row,
    record_row,
)
from recension.store.layout import SEAL_BYTES, seal

Tables = dict[bytes, dict[bytes, bytes]]


def read(path: Path) -> Tables:
    """Return all rows of all tables."""
    with _opened(path) as env:
        handles = {name: env.open_db(name, create=False) for name in TABLES}
        with env.begin() as txn:
            return {name: dict(txn.cursor(handle)) for name, handle in handles.items()}


def write(path: Path, tables: Tables) -> None:
    """Put these rows in the place of all that there are."""
    with _opened(path) as env:
        handles = {name: env.open_db(name, create=False) for name in TABLES}
        with env.begin(write=True) as txn:
            for name, rows in tables.items():
                txn.drop(handles[name], delete=False)
                for key, raw in rows.items():
                    txn.put(key, raw, db=handles[name])


def _opened(path: Path) -> Any:
    return lmdb.open(
        str(path), map_size=MAP_BYTES, max_dbs=len(TABLES), sync=False, create=False, lib_version=0
    )


class Mutator:
    """Tampers with a log, each time in another way, by a seed."""

    def __init__(self, tables: Tables, head: AuditHead, seed: str) -> None:
        self.tables = tables
        self.head = head
        self.random = random.Random(seed)

    def next(self) -> tuple[str, Tables]:
        """Return what was done, and the rows that it left; never those that there were."""
        ways: list[Callable[[list[bytes]], None]] = [
            self._flip, self._drop, self._swap, self._truncate, self._repeat, self._edit, self._insert,
        ]  # fmt: skip
        while True:
            records = [raw[SEAL_BYTES:] for _, raw in sorted(self.tables[RECORDS].items())]
            way = self.random.choice([*ways, self._roll_back])
            way(records)
            cover = self.random.choice(["nothing", "seals", "index", "head"])
            if way == self._roll_back:
                cover = "head"
            tables = self._laid(records, cover)
            rows = tables[RECORDS]
            if any(rows.get(key) != raw for key, raw in self.tables[RECORDS].items()):
                # Else nothing was done, or what was is undone, or the log has grown, which is no mutation.
                return f"{way.__name__}, {cover}", tables

    def _laid(self, records: list[bytes], cover: str) -> Tables:
        """Return the rows, with as much made anew as whoever did it wants to cover up."""
        tables = {name: dict(rows) for name, rows in self.tables.items()}
        if cover == "nothing":
            tables[RECORDS] = {
                key: raw[:SEAL_BYTES] + new
                for (key, raw), new in zip(sorted(tables[RECORDS].items()), records, strict=False)
            }
            return tables
        if cover in {"index", "head"}:
            records = [_again(index, one) for index, one in enumerate(records)]
        tables[RECORDS] = dict(record_row(index, one) for index, one in enumerate(records))
        if cover == "head":
            tree = Frontier()
            for one in records:
                tree.append(leaf_hash(one))
            head = AuditHead(
                tree.size, tree.peaks, self.head.taken, self.head.taken_hash, self.head.logged_at, Day(0, 0)
            )
            tables[META] |= [head_row(head)]
            tables[DAYS] = dict([day_row(day_of(self.head.logged_at), Day(0, 0))])
            tables[CHECKPOINTS] = {
                key: raw
                for key, raw in tables[CHECKPOINTS].items()
                if self._is_still_one(int.from_bytes(key, "big"), records)
            }
        return tables

    def _is_still_one(self, size: int, records: list[bytes]) -> bool:
        """Whether a checkpoint is one of these records too: who covers up leaves no other."""
        first = [value[SEAL_BYTES:] for _, value in sorted(self.tables[RECORDS].items())]
        return size <= len(records) and first[:size] == records[:size]

    def _flip(self, records: list[bytes]) -> None:
        at = self.random.randrange(len(records))
        one = bytearray(records[at])
        one[self.random.randrange(len(one))] ^= 1 << self.random.randrange(8)
        records[at] = bytes(one)

    def _drop(self, records: list[bytes]) -> None:
        at = self.random.randrange(len(records))
        del records[at : at + self.random.randint(1, 3)]

    def _swap(self, records: list[bytes]) -> None:
        one, other = (self.random.randrange(len(records)) for _ in range(2))
        records[one], records[other] = records[other], records[one]

    def _truncate(self, records: list[bytes]) -> None:
        del records[-self.random.randint(1, len(records)) :]

    def _repeat(self, records: list[bytes]) -> None:
        at = self.random.randrange(len(records))
        records.insert(at, records[at])

    def _edit(self, records: list[bytes]) -> None:
        at = self.random.randrange(len(records))
        fields = json.loads(records[at])
        fields["bytes"] = self.random.randrange(1_000_000)
        records[at] = encode_record(at, fields)

    def _insert(self, records: list[bytes]) -> None:
        at = self.random.randrange(len(records) + 1)
        fields = json.loads(records[self.random.randrange(len(records))])
        records.insert(at, encode_record(at, {**fields, "request": "made up"}))

    def _roll_back(self, records: list[bytes]) -> None:
        sizes = [int.from_bytes(key, "big") for key in self.tables[CHECKPOINTS]]
        del records[self.random.choice([size for size in sizes if size < len(records)]) :]


def _again(index: int, record: bytes) -> bytes:
    """Return a record as that of an index, if it can be read."""
    try:
        return encode_record(index, json.loads(record))
    except ValueError:
        return record


def resealed(table: bytes, key: bytes, raw: bytes, change: Callable[[bytes], bytes] = bytes) -> bytes:
    """Return a row of any place with the digest that it has at this one, and with another value."""
    return seal(table, key, change(raw[SEAL_BYTES:]))
