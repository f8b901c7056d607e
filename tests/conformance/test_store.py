from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from recension.model.errors import WriterBusyError
from recension.model.record import EMPTY_LOG, Head
from recension.store import merged
from recension.store.interface import Outcome, Rewrite, Row, Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.store.commits import following

LONGEST_KEY = b"k" * 64


class Compacting(LmdbStore):
    """Is compacted after each write, with all rows in runs that can be."""

    def commit(self, record: bytes, head: Head, index: Iterable[Row], blobs: Iterable[Row]) -> Outcome:
        while True:
            try:
                outcome = super().commit(record, head, index, blobs)
            except WriterBusyError:  # another thread compacts
                continue
            self._compact()
            return outcome

    def put_derived(self, rows: Iterator[Row]) -> None:
        super().put_derived(rows)
        self._compact()

    def rewrite(self, changes: Sequence[Rewrite]) -> list[bool]:
        applied = super().rewrite(changes)
        self._compact()
        return applied

    def _compact(self) -> None:
        with suppress(WriterBusyError):  # someone ingests, or another thread compacts
            self.compact()


@pytest.fixture(params=["memory", "lmdb", "compacted"])
def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    monkeypatch.setattr(merged, "PACKED", frozenset(bytes([one]) for one in range(256)))
    monkeypatch.setattr(merged, "LEAST_ROWS", 1)
    store: Store
    if request.param == "memory":
        store = MemoryStore()
    else:
        kind = LmdbStore if request.param == "lmdb" else Compacting
        store = kind.open(tmp_path / "data", create=True, force_mount=True)
    yield store
    store.close()


def test_starts_empty(any_store: Store) -> None:
    """A new store has an empty log and no rows."""
    assert EMPTY_LOG == any_store.log.head()
    assert [] == any_store.log.read(1, 10)
    with any_store.view() as view:
        assert [] == view.scan(b"", b"\xff")
        assert view.last(b"", b"\xff") is None
        assert view.last_blob_key(b"", b"\xff") is None
        assert view.get(b"a") is view.blob(b"a") is None


def test_commit_moves_everything(any_store: Store) -> None:
    """A commit makes its record, its index rows and its blobs visible together."""
    record, head = following()
    assert Outcome.OK is any_store.commit(
        record, head, [(b"b", b"2"), (b"a", b"")], [(LONGEST_KEY, b"x" * 70_000)]
    )
    assert head == any_store.log.head()
    assert [record] == any_store.log.read(1, 10)
    with any_store.view() as view:
        assert [(b"a", b""), (b"b", b"2")] == view.scan(b"", b"\xff")
        assert [b"2", None, b""] == view.get_many([b"b", b"c", b"a"])
        assert b"x" * 70_000 == view.blob(LONGEST_KEY)
        assert LONGEST_KEY == view.last_blob_key(b"", b"\xff")
        assert view.get(LONGEST_KEY) is None


def test_log_is_read_in_parts(any_store: Store) -> None:
    """The log returns at most what was asked, from the position asked, and nothing behind its end."""
    records, head = [], EMPTY_LOG
    for _ in range(5):
        record, head = following(head)
        records.append(record)
        assert Outcome.OK is any_store.commit(record, head, [], [])
    for start in range(-1, 8):
        for limit in range(7):
            first = max(start, 1) - 1
            assert records[first : first + limit] == any_store.log.read(start, limit)


def test_stale_head_is_taken(any_store: Store) -> None:
    """A record that does not follow the head is refused with nothing stored, also when repeated."""
    record, head = following()
    assert Outcome.OK is any_store.commit(record, head, [], [])
    rival, rival_head = following(note=b"rival")
    far, far_head = following(head)
    far_head = Head(7, 7, far_head.hash)
    cousin, cousin_head = following(rival_head)
    for stale, stale_head in [(record, head), (rival, rival_head), (far, far_head), (cousin, cousin_head)]:
        assert Outcome.TAKEN is any_store.commit(stale, stale_head, [(b"i", b"1")], [(b"b", b"1")])
    assert head == any_store.log.head()
    with any_store.view() as view:
        assert view.get(b"i") is view.blob(b"b") is None


@pytest.mark.parametrize("index", [[(b"new", b"1"), (b"old", b"2")], [(b"n", b"1"), (b"n", b"2")]])
def test_index_row_is_never_changed(any_store: Store, index: list[tuple[bytes, bytes]]) -> None:
    """A commit that would change an index row raises and stores nothing of itself."""
    record, head = following()
    any_store.commit(record, head, [(b"old", b"1")], [])
    record, after = following(head)
    with pytest.raises(ValueError, match="another value"):
        any_store.commit(record, after, index, [(b"blob", b"1")])
    assert head == any_store.log.head()
    with any_store.view() as view:
        assert [(b"old", b"1")] == view.scan(b"", b"\xff")
        assert view.blob(b"blob") is None
    assert Outcome.OK is any_store.commit(record, after, [(b"new", b"1"), (b"old", b"1"), (b"new", b"1")], [])


def test_what_exists_is_left_alone(any_store: Store) -> None:
    """Blobs and derived rows that exist keep their first value."""
    record, head = following()
    any_store.commit(record, head, [(b"i", b"1")], [(b"b", b"1")])
    record, head = following(head)
    assert Outcome.OK is any_store.commit(record, head, [], [(b"b", b"2"), (b"c", b"3")])
    any_store.put_derived(iter([(b"i", b"2"), (b"j", b"3"), (b"j", b"4")]))
    with any_store.view() as view:
        assert (b"1", b"3") == (view.blob(b"b"), view.blob(b"c"))
        assert [(b"i", b"1"), (b"j", b"3")] == view.scan(b"", b"\xff")


def test_derived_rows_beyond_one_transaction(any_store: Store) -> None:
    """Derived rows of any amount and order are all there afterwards, and the log has not moved."""
    rows = {number.to_bytes(4, "big"): bytes(1000) for number in range(9000)}
    any_store.put_derived(iter(sorted(rows.items(), reverse=True)))
    with any_store.view() as view:
        assert sorted(rows.items()) == view.scan(b"", b"\xff")
    assert EMPTY_LOG == any_store.log.head()


@pytest.mark.parametrize("key", [b"", LONGEST_KEY + b"k"])
def test_keys_have_1_to_64_bytes(any_store: Store, key: bytes) -> None:
    """A key of another length is refused with nothing stored, and finds nothing."""
    record, head = following()
    for index, blobs in ([(key, b"1")], []), ([], [(key, b"1")]):
        with pytest.raises(ValueError, match="64"):
            any_store.commit(record, head, index, blobs)
    with pytest.raises(ValueError, match="64"):
        any_store.put_derived(iter([(key, b"1")]))
    assert EMPTY_LOG == any_store.log.head()
    with any_store.view() as view:
        assert view.get(key) is view.blob(key) is None
        assert [None] == view.get_many([key])
        assert [] == view.scan(key, key)


def test_head_must_be_of_the_record(any_store: Store) -> None:
    """A head with another hash than the record's is refused."""
    record, head = following()
    with pytest.raises(ValueError, match="hash"):
        any_store.commit(record, Head(1, head.recorded_at, bytes(32)), [], [])


@pytest.mark.parametrize("size", [0, 1, 2000, 2001, 4072, 4073, 5000, 8160, 12_000, 300_000])
def test_blobs_of_any_size(any_store: Store, size: int) -> None:
    """A blob comes back whole however the store lays it out, and so does what replaces it."""
    record, head = following()
    value = bytes(range(256)) * (size // 256 + 1)
    any_store.commit(record, head, [], [(b"a", value[:size])])
    with any_store.view() as view:
        assert value[:size] == view.blob(b"a")
    assert [True] == any_store.rewrite([Rewrite({}, {}, {b"a": value[: size // 2]})])
    with any_store.view() as view:
        assert value[: size // 2] == view.blob(b"a")


def test_rewrite_replaces_and_deletes(any_store: Store) -> None:
    """A rewrite moves index rows and blobs together and leaves the log alone; views do not see it happen."""
    record, head = following()
    any_store.commit(record, head, [(b"a", b"1"), (b"b", b"2")], [(b"a", b"x"), (b"b", b"y")])
    change = Rewrite({b"a": b"1", b"c": None}, {b"a": b"3", b"b": None, b"d": b"4"}, {b"a": b"z", b"b": None})
    with any_store.view() as before, ThreadPoolExecutor(1) as other:
        assert [True] == other.submit(any_store.rewrite, [change]).result()
        assert (b"1", b"x", b"2") == (before.get(b"a"), before.blob(b"a"), before.get(b"b"))
    with any_store.view() as view:
        assert [(b"a", b"3"), (b"d", b"4")] == view.scan(b"", b"\xff")
        assert (b"z", None) == (view.blob(b"a"), view.blob(b"b"))
        assert view.head() == head


def test_rewrite_of_what_changed_is_left_out(any_store: Store) -> None:
    """Each change is applied whole or not at all, and sees the changes before it."""
    record, head = following()
    any_store.commit(record, head, [(b"a", b"1")], [])
    first = Rewrite({b"a": b"1"}, {b"a": b"2"}, {})
    assert [True, False, True] == any_store.rewrite(
        [first, first, Rewrite({b"a": b"2", b"b": None}, {b"b": b"9"}, {b"b": b"9"})]
    )
    with any_store.view() as view:
        assert [(b"a", b"2"), (b"b", b"9")] == view.scan(b"", b"\xff")


def test_view_does_not_move(any_store: Store) -> None:
    """An open view shows nothing that was committed after it was opened."""
    record, head = following()
    any_store.commit(record, head, [(b"a", b"1")], [(b"a", b"1")])
    with any_store.view() as view, ThreadPoolExecutor(1) as other:
        record, head = following(head)
        other.submit(any_store.commit, record, head, [(b"b", b"2")], [(b"b", b"2")]).result()
        other.submit(any_store.put_derived, iter([(b"c", b"3")])).result()
        assert [(b"a", b"1")] == view.scan(b"", b"\xff")
        assert (b"a", b"1") == view.last(b"", b"\xff")
        assert b"a" == view.last_blob_key(b"", b"\xff")
        assert view.get(b"b") is view.blob(b"b") is view.get(b"c") is None
        assert view.head().position == head.position - 1
    with any_store.view() as view:
        assert (b"c", b"3") == view.last(b"", b"\xff")
        assert view.head() == head


def test_the_state_of_a_view_is_another_after_each_write(any_store: Store) -> None:
    """What was read in one state is the same in each view that has it; another store never has it."""
    record, head = following()

    def state(store: Store = any_store) -> tuple[int, int]:
        with store.view() as view:
            assert view.state == store.state
            return view.state

    seen = [state()]
    any_store.commit(record, head, [(b"a", b"1")], [(b"b", b"old")])
    seen.append(state())
    any_store.put_derived(iter([(b"c", b"2")]))
    seen.append(state())
    assert any_store.rewrite([Rewrite({b"a": b"1"}, {}, {b"b": b"new"})]) == [True]
    seen.append(state())
    assert len(set(seen)) == len(seen)
    assert state() == seen[-1]
    other = MemoryStore()
    other.commit(record, head, [], [])
    assert state(other) not in seen


def test_ranges(any_store: Store) -> None:
    """A range holds its start and not its stop; scan and last agree with a list on every one."""
    keys = [b"a", b"a\0", b"b", b"b\xff", b"c", LONGEST_KEY]
    any_store.put_derived(iter([(key, key) for key in keys]))
    bounds = [b"", b"Z", *keys, b"b\xff\xff", LONGEST_KEY + b"\0", b"\xff" * 65]
    with any_store.view() as view:
        for start in bounds:
            for stop in bounds:
                expected = [(key, key) for key in keys if start <= key < stop]
                for limit in range(4):
                    assert (expected[:limit] if limit else expected) == view.scan(start, stop, limit=limit)
                assert (expected[-1] if expected else None) == view.last(start, stop)


def test_what_enters_and_leaves_is_a_copy(any_store: Store) -> None:
    """Changing a buffer after the call changes nothing in the store; what it returns is ``bytes``."""
    record, head = following()
    key, value, raw = bytearray(b"key"), bytearray(b"value"), bytearray(record)
    row = (key, value)
    any_store.commit(raw, head, [row], [row])  # type: ignore[arg-type, list-item]  # wrong on purpose
    key[:], value[:], raw[:] = b"xxx", b"xxxxx", bytes(len(raw))
    with any_store.view() as view:
        [(got_key, got)] = view.scan(b"", b"\xff")
        blob = view.blob(b"key")
    [got_record] = any_store.log.read(1, 1)
    assert (b"key", b"value", b"value", record) == (got_key, got, blob, got_record)
    assert {bytes} == {type(got_key), type(got), type(blob), type(got_record)}


def test_threads_race_for_the_head(any_store: Store) -> None:
    """Of the threads that commit on one head, exactly one has its way."""

    def race(number: int) -> list[Outcome]:
        outcomes = []
        for _ in range(10):
            record, head = following(any_store.log.head(), b"%d" % number)
            outcomes.append(any_store.commit(record, head, [(head.hash, b"")], []))
        return outcomes

    with ThreadPoolExecutor(4) as threads:
        won = [outcome for part in threads.map(race, range(4)) for outcome in part].count(Outcome.OK)
    assert won == any_store.log.head().position
    with any_store.view() as view:
        assert won == len(view.scan(b"", b"\xff" * 33))


def test_one_bulk_writer(any_store: Store) -> None:
    """The right to ingest in bulk is held once, and can be had again after."""
    with any_store.exclusive_writer(), pytest.raises(WriterBusyError), any_store.exclusive_writer():
        pass
    with any_store.exclusive_writer():
        pass


def test_sizes_of_blobs(any_store: Store) -> None:
    """Blobs are listed by key with at least their own bytes, at most so many at once, and none of others."""
    record, head = following()
    sizes = {b"a": 0, b"b": 10, b"bb": 2500, b"c": 70_000}
    any_store.commit(record, head, [(b"b", b"1")], [(key, bytes(size)) for key, size in sizes.items()])
    listed = any_store.blob_sizes(b"", b"\xff", 10)
    assert list(sizes) == [key for key, _ in listed]
    assert all(sizes[key] <= size <= sizes[key] + 17 for key, size in listed)
    assert listed[1:3] == any_store.blob_sizes(b"b", b"c", 10) == any_store.blob_sizes(b"b", b"d", 2)
    assert [] == any_store.blob_sizes(b"d", b"e", 1)


def test_usage(any_store: Store) -> None:
    """Rows are counted by table, and a reader that lags is seen."""
    record, head = following()
    any_store.commit(record, head, [(b"i", b"1"), (b"j", b"2")], [(b"b", b"1")])
    usage = any_store.usage()
    log, index, blobs = (usage.tables[name].rows for name in ("log", "index", "blobs"))
    in_runs = sum(runs.rows for runs in any_store.packed_rows().values())
    assert (1, 2, 1) == (log, index + in_runs, blobs)
    assert 0 == usage.oldest_reader_commits
    with any_store.view():
        any_store.commit(*following(head), [], [])
        lagging = any_store.usage()
    assert lagging.oldest_reader_commits == int(type(any_store) is LmdbStore)
    assert lagging.file_bytes >= lagging.free_bytes
    assert 0 == any_store.usage().oldest_reader_commits
