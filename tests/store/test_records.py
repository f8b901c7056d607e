"""Compressed commit records: exactly the bytes that went in, whatever they are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import DataLossError
from recension.model.record import Commit, Item, Kind, Skeleton, Statement, encode_commit
from recension.store.packed import pack
from recension.store.records import pack_record, unpack_record


def event(number: int, model: str = "wikitext", kind: Kind = Kind.EDIT) -> Skeleton:
    chance = random.Random(number)
    rev, time = 1000 + number, 10**15 + number * 10**6
    digests = chance.randbytes(16), chance.randbytes(32)
    return Skeleton(
        kind, number % 4, 7 + number // 3, rev, rev - 1, time, number % 2, 0, rev, model, *digests
    )


def record(*items: Item) -> bytes:
    return encode_commit(Commit(3, 10**15, bytes(32), "wiki", items))


NOTE = Statement(Kind.PROJECT, b"{}" * 200)


@pytest.mark.parametrize(
    "raw",
    [
        record(),
        record(NOTE),
        record(event(1)),
        record(*map(event, range(100))),
        record(*(event(at, "x" * (at % 30), Kind.MOVE if at % 5 else Kind.EDIT) for at in range(50))),
        record(event(1), NOTE, *map(event, range(9))),
        b"",
        b"no record",
        bytes(500),
        record(*map(event, range(9)))[:-1],
        record(*map(event, range(9))) + b"\0",
        record(*map(event, range(9))) + bytes(4),
    ],
)
def test_what_goes_in_comes_out(raw: bytes) -> None:
    """Records of events, of statements, of both, and bytes that are no records come back as they were."""
    assert raw == unpack_record(pack_record(raw))


@given(st.binary(max_size=300), st.integers(0, 200))
def test_records_that_were_changed(some: bytes, at: int) -> None:
    """Whatever is written into a record, it comes back."""
    raw = record(*map(event, range(6)))
    raw = raw[:at] + some + raw[at + len(some) :]
    assert raw == unpack_record(pack_record(raw))


def test_columns_are_smaller() -> None:
    """Little but the digests of many events is left."""
    raw = record(*map(event, range(500)))
    assert 48 * 500 < len(pack_record(raw)) < 48 * 500 * 1.15 < len(pack(raw))


def test_damaged_bytes_are_named() -> None:
    """Bytes that nobody packed are an error by name, or others than were packed, which their digest tells."""
    packed = pack_record(record(*map(event, range(50))))
    assert packed[:1] == b"\2"
    for at in range(len(packed)):
        with pytest.raises(DataLossError):
            unpack_record(packed[:at])
    with pytest.raises(DataLossError):
        unpack_record(b"\2\xff\xff\xff\xff" + packed[5:])
