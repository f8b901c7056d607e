"""Rows that wait in piles are found as if each lay in its place, whatever is done to them meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import lmdb
import pytest

from recension.archive.check.patience import PatientView, scan_to_damage
from recension.model.errors import DataLossError, StoreFullError
from recension.model.record import EMPTY_LOG, Head
from recension.store import arrivals
from recension.store import lmdb as store_lmdb
from recension.store.arrivals import Arrivals, Piles
from recension.store.interface import Outcome, Rewrite, Row, View
from recension.store.keys import SCATTERED
from recension.store.layout import ARRIVALS, TABLES
from recension.store.lmdb import LmdbStore
from recension.store.pieces import PAGE_BYTES
from tests.store.commits import following

OTHERS = (b"C", b"E", b"N")


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows wait in a store of any size, few piles are many, and few rows are placed at once."""
    monkeypatch.setattr(store_lmdb, "_IMPORT_FROM_ROWS", 0)
    monkeypatch.setattr(store_lmdb, "_PLACED_ROWS", 150)
    monkeypatch.setattr(arrivals, "FAN", 3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    with closing(LmdbStore.open(tmp_path / "data", create=True, force_mount=True)) as store:
        yield store


def some_rows(chance: random.Random, count: int) -> list[Row]:
    """Return rows of all kinds, some that look like scattered ones and are not."""
    out = []
    for _ in range(count):
        letter = chance.choice([*SCATTERED, *OTHERS])
        shape = SCATTERED.get(letter, SCATTERED[b"R"])
        size = shape.key - (chance.random() < 0.05)
        few = chance.randrange(40).to_bytes(shape.subject - 1, "big")  # several rows of one subject
        key = (letter + few + chance.randbytes(40))[:size]
        out.append((key, sha256(key).digest()[: shape.value]))
    return out


def put(store: LmdbStore, head: Head, rows: list[Row]) -> Head:
    record, new = following(head)
    assert store.commit(record, new, rows, []) is Outcome.OK
    return new


def waiting(store: LmdbStore) -> int:
    return store.usage().tables["arrivals"].rows


def agrees(store: LmdbStore, rows: dict[bytes, bytes]) -> None:
    """Ask a store everything that these rows answer, as the process that imports and as another."""
    _agrees(store, rows)
    noted, store.filter = store.filter, None
    _agrees(store, rows)
    store.filter = noted


def _agrees(store: LmdbStore, rows: dict[bytes, bytes]) -> None:
    keys = sorted(rows)
    chance = random.Random(len(rows))
    bounds = [b"", b"E", b"\xff", *chance.sample(keys, min(4, len(keys)))]
    for key in chance.sample(keys, min(4, len(keys))):
        shape = SCATTERED.get(key[:1])
        size = shape.subject if shape else 5
        bounds += [key[:size], (int.from_bytes(key[:size], "big") + 1).to_bytes(size, "big"), key + b"\0"]
    with store.view() as view:
        assert [rows[key] for key in keys] == view.get_many(keys)
        near = [key[:-1] + bytes([key[-1] ^ 64]) for key in keys]
        assert [rows.get(key) for key in near] == view.get_many(near)
        for start in bounds:
            for stop in bounds:
                inside = [key for key in keys if start <= key < stop]
                assert [(key, rows[key]) for key in inside] == view.scan(start, stop)
                assert [(key, rows[key]) for key in inside[:3]] == view.scan(start, stop, limit=3)
                assert ((inside[-1], rows[inside[-1]]) if inside else None) == view.last(start, stop)


@pytest.mark.parametrize("seed", [1, 2])
def test_one_index_whatever_waits(store: LmdbStore, seed: int) -> None:
    """Rows that are put, replaced, deleted, compacted and placed answer as a dictionary does."""
    chance = random.Random(seed)
    rows: dict[bytes, bytes] = {}
    head, most = EMPTY_LOG, 0
    for turn in range(3):
        with store.importing():
            for _ in range(chance.randrange(20, 32)):
                new = [row for row in some_rows(chance, chance.randrange(40)) if row[0] not in rows]
                new += chance.sample(sorted(rows.items()), min(3, len(rows)))  # they may come again
                head = put(store, head, new)
                rows |= dict(reversed(new))
                most = max(most, waiting(store))
            agrees(store, rows)
            gone = chance.sample(sorted(rows), 40)
            expected: dict[bytes, bytes | None] = {key: rows[key] for key in gone}
            changes = {key: None if chance.random() < 0.5 else rows[key][::-1] for key in gone}
            assert [True] == store.rewrite([Rewrite(expected, changes, {})])
            rows = {key: value for key, value in (rows | changes).items() if value is not None}
            agrees(store, rows)
        assert 0 == waiting(store)
        agrees(store, rows)
        if turn == 1:
            store.compact()
            agrees(store, rows)
    assert most


def test_whoever_is_killed_leaves_all_to_be_found(store: LmdbStore, tmp_path: Path) -> None:
    """Rows that wait when an import ends otherwise are found, backed up, and placed by what comes next."""
    rows = dict(some_rows(random.Random(3), 300))
    with pytest.raises(KeyboardInterrupt), store.importing():
        head = put(store, put(store, EMPTY_LOG, []), list(rows.items()))
        raise KeyboardInterrupt
    assert waiting(store)
    agrees(store, rows)
    more = [row for row in some_rows(random.Random(4), 100) if row[0] not in rows]
    head = put(store, head, [*more, *rows.items()])
    rows |= dict(reversed(more))
    store.backup(tmp_path / "backup")
    with closing(LmdbStore.open(tmp_path / "backup", force_mount=True)) as copy:
        assert not waiting(copy)
        agrees(copy, rows)
    record, after = following(head)
    key = next(key for key in rows if key[:1] == b"D" and len(key) == SCATTERED[b"D"].key)
    with pytest.raises(ValueError, match="another value"):
        store.commit(record, after, [(key, bytes(8))], [])
    with store.importing():
        assert not waiting(store)
        with pytest.raises(ValueError, match="another value"):
            store.commit(record, after, [(key, bytes(8))], [])
    assert head == store.log.head()
    agrees(store, rows)


def test_a_conflict_within_piles_is_refused(store: LmdbStore) -> None:
    """A row that waits, or comes twice at once, cannot come with another value; nothing is stored then."""
    key = b"D" + bytes(16)
    with store.importing():
        record, head = following(EMPTY_LOG)
        with pytest.raises(ValueError, match="another value"):
            store.commit(record, head, [(key, bytes(8)), (key, b"1" * 8)], [])
        # The first commit of an import only finds that the store is large.
        head = put(store, put(store, EMPTY_LOG, []), [(key, bytes(8)), (key, bytes(8))])
        assert waiting(store)
        record, after = following(head)
        with pytest.raises(ValueError, match="another value"):
            store.commit(record, after, [(key, b"1" * 8)], [])
        put(store, head, [(key, bytes(8))])
    with store.view() as view:
        assert [(key, bytes(8))] == view.scan(b"", b"\xff")


def test_a_range_of_many_subjects_is_looked_for_in_piles(store: LmdbStore) -> None:
    """Bounds that are shorter than what the filter knows name more rows than those of one subject."""
    rows = {key: value for key, value in some_rows(random.Random(6), 60) if key[:1] in SCATTERED}
    with store.importing():
        put(store, put(store, EMPTY_LOG, []), list(rows.items()))
        assert waiting(store)
        with store.view() as view:
            for letter in SCATTERED:
                start, stop = letter + bytes(4), letter + bytes([0, 0, 0, 1])
                inside = sorted(row for row in rows.items() if start <= row[0] < stop)
                assert inside
                assert inside == view.scan(start, stop)
                assert inside[-1] == view.last(start, stop)


def test_new_rows_of_a_compacted_store_are_not_looked_for_in_each_pile(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Families that have runs are no reason to look into piles; the control: a row that waits is one."""
    looked: list[bytes] = []
    get = Arrivals.get

    def noting(piles: Arrivals, txn: lmdb.Transaction, there: Piles, key: bytes) -> bytes | None:
        looked.extend([key] if there.get(key[:1]) else [])
        return get(piles, txn, there, key)

    monkeypatch.setattr(Arrivals, "get", noting)
    rows = [(b"D" + bytes([at]) * 16, bytes(8)) for at in range(200)]
    head = put(store, EMPTY_LOG, rows[:100])
    store.compact()
    with store.importing():
        head = put(store, put(store, head, []), rows[100:150])
        head = put(store, head, rows[150:] + rows[:50])
        assert len(looked) < 5
        put(store, head, rows[100:150])
        assert {key for key, _ in rows[100:150]} <= set(looked)


def test_what_has_no_room_to_be_placed_is_no_failure_of_a_commit(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Piles that cannot go to their places let the next commit fail with nothing stored, and then go on."""
    rows = dict(row for row in some_rows(random.Random(7), 2000) if row[0][:1] in SCATTERED)
    some = list(rows.items())
    head, failed = EMPTY_LOG, 0
    place = LmdbStore._place_some

    def no_room(of: LmdbStore, family: bytes, start: bytes) -> bytes:
        raise StoreFullError("no room", hint="make room")

    with store.importing():
        for at in range(0, len(some), 20):
            record, new = following(head)
            monkeypatch.setattr(LmdbStore, "_place_some", no_room)
            try:
                assert store.commit(record, new, some[at : at + 20], []) is Outcome.OK
            except StoreFullError:
                assert store.log.head() == head
                failed += 1
                monkeypatch.setattr(LmdbStore, "_place_some", place)
                assert store.commit(record, new, some[at : at + 20], []) is Outcome.OK
            head = new
        monkeypatch.setattr(LmdbStore, "_place_some", place)
    assert failed
    with store.view() as view:
        assert view.scan(b"", b"\xff") == sorted(some)


def test_a_small_store_lets_no_row_wait(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows wait from a size on, and the control: in a larger one they do."""
    monkeypatch.setattr(store_lmdb, "_IMPORT_FROM_ROWS", 100)
    chance = random.Random(5)
    with store.importing():
        head = put(store, EMPTY_LOG, some_rows(chance, 90))
        assert not waiting(store)
        head = put(store, head, some_rows(chance, 90))
        assert not waiting(store)
        put(store, head, some_rows(chance, 90))
        assert waiting(store)


def damage(data: Path, which: list[int]) -> bytes:
    """Flip a bit in some of the values of piles, by their order, and return the key of the last."""
    name = b""
    with lmdb.open(str(data / "lmdb"), max_dbs=len(TABLES)) as env:
        table = env.open_db(ARRIVALS, create=False)
        with env.begin(write=True) as txn, txn.cursor(table) as cursor:
            for at in range(which[-1] + 1):
                assert cursor.next() if at else cursor.first()
                name, raw = bytes(cursor.key()), bytes(cursor.value())
                if at in which:
                    txn.put(name, raw[:100] + bytes([raw[100] ^ 4]) + raw[101:], db=table)
    return name


def test_a_check_goes_on_behind_damaged_piles(store: LmdbStore, tmp_path: Path) -> None:
    """Of piles with damage in several places, also side by side, the rows of the others are found."""
    rows = sorted((b"D" + sha256(at.to_bytes(2)).digest()[:16], bytes(8)) for at in range(480))
    with pytest.raises(KeyboardInterrupt), store.importing():
        put(store, put(store, put(store, EMPTY_LOG, []), rows[160:]), rows[:160])
        raise KeyboardInterrupt
    store.close()
    each = 79
    damage(tmp_path / "data", [1, 2])
    with closing(LmdbStore.open(tmp_path / "data", force_mount=True)) as again, again.view() as view:
        # So many rows of its pile lie before the damage, and more of all.
        assert scan_to_damage(view, b"D", b"E", 100) == (rows[:100], None)
        behind = rows[: 160 + each] + rows[160 + 3 * each :]
        assert PatientView(view).scan(b"D", b"E") == behind
    damage(tmp_path / "data", [6])
    with closing(LmdbStore.open(tmp_path / "data", force_mount=True)) as again, again.view() as view:
        some, bad = scan_to_damage(view, b"D", b"E", 100)
        assert bad is not None
        assert (some, bad.key) == (rows[:each], rows[2 * each - 1][0])
        assert PatientView(view).scan(b"D", b"E") == behind[:each] + behind[2 * each :]


def test_a_damaged_page_of_piles_is_named(store: LmdbStore, tmp_path: Path) -> None:
    """Whatever is asked of rows on a page that is none, the answer is the error of a damaged store."""
    rows = sorted((b"D" + sha256(at.to_bytes(2)).digest()[:16], bytes(8)) for at in range(480))
    with pytest.raises(KeyboardInterrupt), store.importing():
        put(store, put(store, EMPTY_LOG, []), rows)
        raise KeyboardInterrupt
    store.close()
    file = tmp_path / "data" / "lmdb" / "data.mdb"
    raw = bytearray(file.read_bytes())
    key = rows[3 * 79 - 1][0]  # the last of the third value, on a page between the first and the last
    leaf = (2).to_bytes(2, "little")
    at = raw.find(b"D\0" + (2).to_bytes(8, "big") + key)
    while at >= 0:
        flags = at - at % PAGE_BYTES + 10
        if raw[flags : flags + 2] == leaf:
            raw[flags : flags + 2] = bytes(2)
        at = raw.find(key, at + 1)
    file.write_bytes(raw)
    asked: list[Callable[[View], object]] = [
        lambda view: view.get(key),
        lambda view: view.last(b"D", key),
    ]
    with closing(LmdbStore.open(tmp_path / "data", force_mount=True)) as again:
        with again.view() as view:
            assert view.get(rows[0][0]) == rows[0][1]
        for ask in asked:
            with again.view() as view, pytest.raises(DataLossError, match="pages"):
                ask(view)


def test_any_flipped_bit_in_a_pile_is_noticed(store: LmdbStore, tmp_path: Path) -> None:
    """A damaged part of a pile is no missing row; what is asked of its rows names it."""
    rows = [(b"D" + bytes([at]) * 16, bytes(8)) for at in range(200)]
    with pytest.raises(KeyboardInterrupt), store.importing():
        put(store, put(store, EMPTY_LOG, []), rows)
        raise KeyboardInterrupt
    store.close()
    name = damage(tmp_path / "data", [1])
    damaged = [key for key, _ in rows if (b"D\0" + (2).to_bytes(8, "big") + key) <= name]
    with (
        closing(LmdbStore.open(tmp_path / "data", force_mount=True)) as again,
        again.view() as view,
        pytest.raises(DataLossError),
    ):
        assert view.get(rows[0][0]) is not None
        view.get(damaged[-1])
