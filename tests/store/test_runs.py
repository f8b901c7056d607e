"""Runs of rows: what went in comes out, whichever way it is asked for, and nothing else ever does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import DataLossError
from recension.store.interface import Rewrite, Row
from recension.store.layout import RUNS, SEAL_BYTES, TABLES, seal
from recension.store.lmdb import LmdbStore
from recension.store.merged import Packing
from recension.store.runs import MOST_ROWS, Run, fill, pack_run, summary
from tests.store.commits import following

NAME = b"name"
ENDS = (b"", b"D", b"E", b"E\xff", b"F", b"Z")


def opened(rows: list[Row]) -> Run:
    return Run(NAME, seal(RUNS, NAME, pack_run(rows)))


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    """Ascending rows with keys of one length, alike or not, and values of all lengths."""
    size = draw(st.integers(1, 12))
    one = st.integers(0, 255) if draw(st.booleans()) else st.sampled_from(b"ab")
    made = draw(st.sets(st.lists(one, min_size=size, max_size=size).map(bytes), min_size=1))
    values = st.binary(max_size=255) if draw(st.booleans()) else st.binary(min_size=4, max_size=4)
    return [(key, draw(values)) for key in sorted(made)]


@given(rows=some_rows(), asked=st.binary(max_size=14))
def test_what_goes_in_comes_out(rows: list[Row], asked: bytes) -> None:
    """A run has its rows and no other; each is found, and so is the place of a key that is not there."""
    run = opened(rows)
    keys = [key for key, _ in rows]
    for _ in range(3):  # it answers in another way once it was asked
        for key, value in rows:
            assert value == run.get(key)
        assert sum(key < asked for key in keys) == run.find(asked)
        assert dict(rows).get(asked) == run.get(asked)
    assert rows == run.rows()
    said = summary(seal(RUNS, NAME, pack_run(rows)))
    assert (len(rows), sum(len(key) + len(value) for key, value in rows)) == (said.rows, said.raw_bytes)


def test_any_flipped_bit_is_noticed() -> None:
    """No byte of a run can change unseen, nor can its name."""
    raw = seal(RUNS, NAME, pack_run([(bytes([at]), random.Random(at).randbytes(9)) for at in range(20)]))
    for at in range(len(raw)):
        with pytest.raises(DataLossError):
            Run(NAME, raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
    with pytest.raises(DataLossError):
        Run(b"mane", raw)


@pytest.mark.parametrize("varied", [False, True])
def test_what_is_no_run_is_named_though_its_digest_is_right(varied: bool) -> None:  # noqa: FBT001 - a case
    """A flip that a digest does not show gives other rows or the named error, whatever is asked."""
    chance = random.Random(1)
    rows = [(b"key%03d" % at, chance.randbytes(9 + varied * at % 3) + b"same") for at in range(40)]
    body = pack_run(rows)
    changed = [
        body[:at] + bytes([body[at] ^ 1 << bit]) + body[at + 1 :]
        for at in range(len(body))
        for bit in range(8)
    ]
    asks: list[Callable[[Run], object]] = [
        lambda run: run.get(b"key020"),
        lambda run: run.find(b"key020"),
        lambda run: run.row(run.count - 1),
        lambda run: run.rows(),
    ]
    named = 0
    for raw in [*changed, *(body[:size] for size in range(len(body)))]:
        for ask in asks:
            try:
                ask(Run(NAME, seal(RUNS, NAME, raw)))
            except DataLossError:
                named += 1
    assert named > len(body)


@pytest.mark.parametrize("random_bytes", [0, 3, 12, 60, 255])
def test_runs_fill_pages(random_bytes: int) -> None:
    """But for the last, a run fills a page, half of one, or has as many rows as a run may have."""
    chance = random.Random(random_bytes)
    rows = [
        (at.to_bytes(8, "big"), chance.randbytes(random_bytes) + bytes(255 - random_bytes))
        for at in range(999)
    ]
    packing = Packing()
    stay, runs = packing.take((b"E" + key, value) for key, value in rows)
    rest, last = packing.end()
    runs += last
    out = [row for name, body in runs for row in Run(name, seal(RUNS, name, body)).rows()]
    assert [] == stay
    assert [(b"E" + key, value) for key, value in rows] == out + rest
    for name, body in runs[:-1]:
        size = SEAL_BYTES + len(body)
        assert size <= 4080
        many = summary(seal(RUNS, name, body)).rows
        assert many == MOST_ROWS or 1700 < size <= 2000 or 3700 < size


def test_a_row_alone_may_be_larger_than_half_a_page() -> None:
    """Rows that do not compress fill a page as well as they can."""
    rows = [(bytes([at]), random.Random(at).randbytes(255)) for at in range(40)]
    count, body = fill(rows, 1)
    assert 14 <= count <= 15
    assert rows[:count] == Run(NAME, seal(RUNS, NAME, body)).rows()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    with closing(LmdbStore.open(tmp_path / "data", create=True, force_mount=True)) as store:
        yield store


def numbered(letter: bytes, numbers: range) -> list[Row]:
    return [(letter + at.to_bytes(3, "big"), random.Random(at).randbytes(at % 40)) for at in numbers]


def agrees(store: LmdbStore, rows: dict[bytes, bytes]) -> None:
    """Ask a store everything that these rows answer."""
    keys = sorted(rows)
    chance = random.Random(len(rows))
    bounds = [*ENDS, *chance.sample(keys, 8), *(key + b"\0" for key in chance.sample(keys, 4))]
    with store.view() as view:
        assert [rows[key] for key in keys] == view.get_many(keys)
        assert view.get(b"E\xff\xff\xff") is view.get(b"Z") is None
        for start in bounds:
            for stop in bounds:
                inside = [(key, rows[key]) for key in keys if start <= key < stop]
                assert inside == view.scan(start, stop)
                assert inside[:5] == view.scan(start, stop, limit=5)
                assert (inside[-1] if inside else None) == view.last(start, stop)


def test_rows_in_runs_and_others_are_one_index(store: LmdbStore) -> None:
    """Whatever is put, replaced and deleted before and after compactions, every answer is the same."""
    chance = random.Random(1)
    rows: dict[bytes, bytes] = {}
    families = (b"D", b"E", b"Q", b"R")
    for turn in range(6):
        new = {
            key: value
            for letter in families
            for key, value in numbered(letter, range(turn, 1000, 7))
            if key not in rows
        }
        store.put_derived(iter(new.items()))
        rows |= new
        changes: dict[bytes, bytes | None] = {}
        for key in chance.sample(sorted(rows), 60):
            changes[key] = None if chance.random() < 0.5 else chance.randbytes(5)
        expected: dict[bytes, bytes | None] = {key: rows[key] for key in changes}
        assert [True] == store.rewrite([Rewrite(expected, changes, {})])
        rows = {key: value for key, value in (rows | changes).items() if value is not None}
        agrees(store, rows)
        if turn % 2:
            copied = store.compact().copied
            assert len(rows) + 1 == copied.rows  # and the schema's
            agrees(store, rows)
    assert {b"D", b"E", b"R"} == store.packed_rows().keys()


def test_a_row_in_a_run_counts_as_there(store: LmdbStore) -> None:
    """It is not put again, a commit that would change it is refused, and a rewrite compares it."""
    rows = numbered(b"E", range(100))
    record, head = following()
    store.commit(record, head, rows, [])
    store.compact()
    alone = store.usage().tables["index"].rows
    key, value = rows[50]
    store.put_derived(iter([(key, b"another")]))
    record, after = following(head)
    with pytest.raises(ValueError, match="another value"):
        store.commit(record, after, [(key, b"another")], [])
    assert [False] == store.rewrite([Rewrite({key: b"another"}, {key: None}, {})])
    assert [False] == store.rewrite([Rewrite({key: None}, {key: b"another"}, {})])
    store.commit(record, after, rows, [])
    assert alone == store.usage().tables["index"].rows < 8
    with store.view() as view:
        assert rows == view.scan(b"", b"Z")
        assert value == view.get(key)
    # What is put over it counts from then on, and is all there is after the next copy.
    assert [True] == store.rewrite([Rewrite({key: value}, {key: b"another"}, {})])
    record, later = following(after)
    with pytest.raises(ValueError, match="another value"):
        store.commit(record, later, [(key, value)], [])
    store.commit(record, later, [(key, b"another")], [])
    changed = [(one, b"another" if one == key else was) for one, was in rows]
    for _ in range(2):
        with store.view() as view:
            assert changed == view.scan(b"", b"Z")
            assert changed[:51] == view.scan(b"", b"Z", limit=51)
            assert (key, b"another") == view.last(b"", key + b"\0")
        store.compact()
    assert len(rows) == store.packed_rows()[b"E"].rows + store.usage().tables["index"].rows


def test_who_takes_the_last_row_takes_the_run(store: LmdbStore) -> None:
    """Rows leave their run one by one, its name with the last row, and then it is gone."""
    rows = numbered(b"E", range(20))
    store.put_derived(iter(rows))
    store.compact()
    for at, (key, _) in enumerate(reversed(rows)):
        with store.view() as before:
            store.rewrite([Rewrite({}, {key: None}, {})])
            assert rows[: 20 - at] == before.scan(b"", b"Z")  # what was open goes on
        with store.view() as view:
            assert rows[: 19 - at] == view.scan(b"", b"Z")
            assert (rows[18 - at] if at < 19 else None) == view.last(b"", b"Z")
    assert 0 == store.usage().tables["runs"].rows


@pytest.mark.parametrize("large", [{6}, {0, 6}, {1, 9}, {3, 4}, {150, 297}, set(range(0, 300, 7))])
def test_rows_too_large_for_a_run_stand_among_others(store: LmdbStore, large: set[int]) -> None:
    """A copy puts all rows in order, also where fewer are left beside a large one than make a run."""
    rows = {
        bytes([letter, at // 256, at % 256]): bytes(300 if at in large else 20)
        for letter, count in zip(b"DEKR", (7, 8, 17, 300), strict=True)
        for at in range(count)
    }
    store.put_derived(iter(rows.items()))
    for _ in range(2):
        store.compact()
        agrees(store, rows)


def test_what_writes_sees_what_was_written_before(store: LmdbStore) -> None:
    """A run that only writers looked at is not taken for what it was when one of them has changed it."""
    rows = numbered(b"E", range(20))
    store.put_derived(iter(rows))
    store.compact()
    key, value = rows[3]
    change = Rewrite({key: value}, {key: None}, {})
    assert [[True], [False]] == [store.rewrite([change]) for _ in range(2)]
    assert [True, False] == store.rewrite(
        [Rewrite(dict(rows[5:6]), {rows[5][0]: None}, {}) for _ in range(2)]
    )
    store.put_derived(iter([(key, b"another")]))
    with store.view() as view:
        assert b"another" == view.get(key)


def test_another_process_changes_a_run(store: LmdbStore, tmp_path: Path) -> None:
    """What was opened before is not taken for what is there now."""
    rows = numbered(b"E", range(20))
    store.put_derived(iter(rows))
    store.compact()
    with store.view() as view:
        assert rows[3][1] == view.get(rows[3][0])
    other = get_context("spawn").Process(target=_take, args=(tmp_path / "data", rows[3][0]))
    other.start()
    other.join()
    assert 0 == other.exitcode
    with store.view() as view:
        assert view.get(rows[3][0]) is None
        assert rows[4][1] == view.get(rows[4][0])


def _take(data: Path, key: bytes) -> None:
    with closing(LmdbStore.open(data, force_mount=True)) as store:
        assert [True] == store.rewrite([Rewrite({}, {key: None}, {})])


def test_a_damaged_run_is_not_served(store: LmdbStore, tmp_path: Path) -> None:
    """Each read of it fails by name, and says from where to where rows cannot be read; others are served."""
    rows = [(b"E" + at.to_bytes(3, "big"), random.Random(at).randbytes(40)) for at in range(300)]
    store.put_derived(iter(rows))
    store.compact()
    store.close()
    with lmdb.open(str(tmp_path / "data" / "lmdb"), max_dbs=len(TABLES)) as env:
        table = env.open_db(RUNS, create=False)
        with env.begin(write=True) as txn:
            names = [bytes(name) for name, _ in txn.cursor(table)]
            raw = bytes(txn.get(names[1], db=table) or b"")
            txn.put(names[1], raw[:-1] + bytes([raw[-1] ^ 1]), db=table)
    assert len(names) > 2
    key = rows[[key for key, _ in rows].index(names[0]) + 5][0]
    with closing(LmdbStore.open(tmp_path / "data", force_mount=True)) as damaged, damaged.view() as view:
        with pytest.raises(DataLossError):
            view.get(key)
        for read in (lambda: view.scan(b"", b"Z"), lambda: view.last(b"E", key)):
            with pytest.raises(DataLossError) as caught:
                read()
            said = caught.value.metadata
            assert ("index", names[1].hex()) == (said["table"], said["upto"])
            assert names[0] < bytes.fromhex(said["key"]) <= key
        below = view.scan(b"", names[0] + b"\0")
        above = view.scan(names[1] + b"\0", b"Z")
        assert below == [row for row in rows if row[0] <= names[0]]
        assert above == [row for row in rows if row[0] > names[1]]
        assert rows[-1] == view.last(b"", b"Z")
        assert below[-1] == view.last(b"", names[0] + b"\0")
