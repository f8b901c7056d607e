"""Compaction: nothing is lost, nobody waits to read, whatever happens in the middle."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import lmdb
import pytest

from recension.model.errors import (
    DataLossError,
    StoreError,
    StoreFailedError,
    StoreFullError,
    WriterBusyError,
)
from recension.model.record import EMPTY_LOG, Head, commit_hash, decode_commit
from recension.store import copying
from recension.store.interface import Outcome, Rewrite
from recension.store.layout import TABLES
from recension.store.lmdb import LmdbStore
from tests.store.commits import following

CANARY = b"a text that was erased, and whose bytes must go"
SIZES = (10, 700, 2500, 4100, 5000, 9000, 70_000)
COMMITS = 12
_TREE = {"lmdb", "swap.lock", "writer.lock"}


def opened(path: Path, *, create: bool = False) -> LmdbStore:
    return LmdbStore.open(path, create=create, force_mount=True)


def value(key: bytes, size: int) -> bytes:
    """Bytes that follow from the key and do not compress."""
    return random.Random(key).randbytes(size)


def index_key(key: bytes) -> bytes:
    """Of two thirds of the rows: one of a family that is packed."""
    return (b"E" if key[-1] % 3 else b"~") + key


def append(store: LmdbStore, rows: int = 40) -> Head:
    """Append one commit whose rows follow from its position."""
    head = store.log.head()
    record, after = following(head)
    number = after.position.to_bytes(4, "big")
    keys = [number + bytes([at]) for at in range(rows)]
    index = [(index_key(key), value(index_key(key), 20 + key[-1])) for key in keys]
    blobs = [(key, value(key, SIZES[key[-1] % len(SIZES)])) for key in keys[: len(SIZES)]]
    assert Outcome.OK is store.commit(record, after, index, blobs)
    return after


def check_whole(store: LmdbStore) -> int:
    """Check every row that the log says there is, and the log; return its length."""
    head = store.log.head()
    records = store.log.read(1, head.position + 1)
    assert head.position == len(records)
    parent = EMPTY_LOG.hash
    with store.view() as view:
        rows = view.scan(b"", b"\xff" * 9)
        assert all(val == value(key, len(val)) for key, val in rows)
        for record in records:
            commit = decode_commit(record)
            assert parent == commit.parent
            parent = commit_hash(record)
            number = commit.position.to_bytes(4, "big")
            assert 40 == sum(key[1:5] == number for key, _ in rows)
            for at, size in enumerate(SIZES):
                key = number + bytes([at])
                assert value(key, size) == view.blob(key)
    assert head.hash == parent
    return head.position


def found_in(folder: Path, wanted: bytes) -> set[str]:
    """Names of the files below a folder that hold some bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {path.name for path in files if wanted in path.read_bytes()}


def mapped(folder: Path) -> list[str]:
    """Files below a folder that this process has mapped, removed ones too."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split(maxsplit=5)[5] for line in lines if str(folder) in line})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with closing(opened(tmp_path / "data", create=True)) as store:
        for _ in range(COMMITS):
            append(store)
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Iterator[LmdbStore]:
    store = opened(data)
    yield store
    store.close()


def test_everything_is_there_and_smaller(store: LmdbStore, data: Path) -> None:
    """All rows come through; what stays is less than the file was, with hardly a free page."""
    store.put_derived((bytes([9, at % 256, at // 256]), bytes(300)) for at in range(5000))
    with store.view() as view:
        derived = [(key, None) for key, _ in view.scan(b"\x09", b"\x0a")]
    store.rewrite([Rewrite({}, dict(derived), {})])
    compacted = store.compact()
    assert COMMITS == check_whole(store)
    assert store.log.head() == compacted.copied.head
    size = (data / "lmdb" / "data.mdb").stat().st_size
    assert size == compacted.copied.size_bytes < compacted.before_bytes / 2
    usage = store.usage()
    assert usage.free_bytes < 20 * 4096
    walked = ("log", "index", "blobs", "meta")
    packed = store.packed_rows()
    in_runs = sum(runs.rows for runs in packed.values())
    assert sum(usage.tables[name].rows for name in walked) + in_runs == compacted.copied.rows
    assert {b"E"} == packed.keys()
    assert COMMITS * 26 == in_runs
    assert {entry.name for entry in data.iterdir()} == _TREE
    append(store)
    store.close()
    with closing(opened(data)) as again:
        assert COMMITS + 1 == check_whole(again)


@pytest.mark.parametrize("size", [900, 5000])
def test_erased_bytes_are_in_no_file(store: LmdbStore, data: Path, size: int) -> None:
    """LMDB keeps the bytes of a deleted blob in its free pages; after compaction no file has them."""
    record, head = following(store.log.head())
    blob = CANARY + value(CANARY, size)
    store.commit(record, head, [], [(b"blob", blob)])
    assert [True] == store.rewrite([Rewrite({}, {}, {b"blob": None})])
    assert {"data.mdb"} == found_in(data, CANARY)  # or the search would prove nothing
    store.compact()
    assert set() == found_in(data, CANARY)
    with store.view() as view:
        assert view.blob(b"blob") is None


def test_long_values_leave_no_room_free(store: LmdbStore) -> None:
    """After compaction the pages of blobs hold little but their bytes."""
    record, head = following(store.log.head())
    sizes = random.Random(3).choices(range(1, 30_000), k=400)
    blobs = [(at.to_bytes(4, "big"), value(bytes([at % 256]), size)) for at, size in enumerate(sizes)]
    store.commit(record, head, [], blobs)
    store.compact()
    usage = store.usage().tables
    stored = sum(size for _, size in store.blob_sizes(b"", b"\xff" * 9, 1000))
    assert 0 == usage["pieces"].rows < usage["rests"].rows
    assert stored < usage["blobs"].page_bytes + usage["rests"].page_bytes < 1.03 * stored
    with store.view() as view:
        assert blobs == [(key, view.blob(key)) for key, _ in blobs]


def test_values_that_shared_a_bin_go_one_by_one(store: LmdbStore, data: Path) -> None:
    """What is put over a blob, or deleted, leaves no byte of it in the state that is; the others stay."""
    store.compact()
    keys = [
        at.to_bytes(4, "big") + bytes([kind]) for at in range(1, COMMITS + 1) for kind in range(len(SIZES))
    ]
    random.Random(4).shuffle(keys)
    for at, key in enumerate(keys):
        new = None if at % 2 else b"another"
        assert [True] == store.rewrite([Rewrite({}, {}, {key: new})])
        with store.view() as view:
            assert new == view.blob(key)
            assert all(value(one, SIZES[one[-1]]) == view.blob(one) for one in keys[at + 1 :])
    assert 0 == store.usage().tables["rests"].rows
    store.compact()
    for key in keys:
        assert set() == found_in(data, value(key, SIZES[key[-1]])[-64:])


def test_a_value_of_zeros_may_share_a_bin(store: LmdbStore) -> None:
    """Zeros at the end of a bin are not kept, and read all the same, whatever else goes."""
    record, head = following(store.log.head())
    blobs = [(b"x" + bytes([at]), bytes(2000)) for at in range(3)]
    store.commit(record, head, [], blobs)
    store.compact()
    store.rewrite([Rewrite({}, {}, {b"x\0": None})])
    store.compact()
    with store.view() as view:
        assert [None, bytes(2000), bytes(2000)] == [view.blob(key) for key, _ in blobs]


def test_open_views_keep_what_they_see(store: LmdbStore, data: Path) -> None:
    """A view that was open before goes on, later ones see the copy, and then the old files are let go."""
    with store.view() as old:
        before = old.scan(b"", b"\xff" * 9)
        store.compact()
        head = append(store)
        assert before == old.scan(b"", b"\xff" * 9)
        assert head.position - 1 == old.head().position
        assert any("deleted" in name for name in mapped(data))
        with store.view() as new:
            assert head == new.head()
    assert [str(data / "lmdb" / name) for name in ("data.mdb", "lock.mdb")] == mapped(data)


def test_again_and_again(store: LmdbStore) -> None:
    """Compactions in a row change nothing, and writing goes on between them."""
    for _ in range(3):
        first = store.compact().copied
        assert first.rows == store.compact().copied.rows
        append(store)
    assert COMMITS + 3 == check_whole(store)


def test_nobody_writes_meanwhile(store: LmdbStore) -> None:
    """While the copy is made every write is refused by name, with a hint to come again, and reads go on."""
    refused = 0

    def write(what: str, done: int, total: int) -> None:
        nonlocal refused
        record, head = following(store.log.head())
        for attempt in (
            lambda: store.commit(record, head, [], []),
            lambda: store.put_derived(iter([(b"a", b"1")])),
            lambda: store.rewrite([Rewrite({}, {b"a": b"1"}, {})]),
        ):
            with pytest.raises(WriterBusyError, match=f"process {os.getpid()} is compacting") as caught:
                attempt()
            assert "retry" in caught.value.hint
            refused += 1
        with pytest.raises(WriterBusyError), store.exclusive_writer():
            pass
        with pytest.raises(WriterBusyError):
            store.compact()

    head = store.log.head()
    store.compact(write)
    assert refused
    assert head == store.log.head()
    append(store)


def test_not_while_someone_ingests(store: LmdbStore, data: Path) -> None:
    """A bulk ingest keeps its right; nothing of a compaction is begun."""
    file = (data / "lmdb" / "data.mdb").stat().st_ino
    with store.exclusive_writer(), pytest.raises(WriterBusyError):
        store.compact()
    assert file == (data / "lmdb" / "data.mdb").stat().st_ino
    store.compact()


@pytest.mark.parametrize(
    "table, compacted",
    [(table, again) for table in ("log", "index", "blobs") for again in (False, True)]
    + [("pieces", False), ("rests", True), ("runs", True)],
)
def test_a_damaged_row_is_not_copied(store: LmdbStore, data: Path, table: str, *, compacted: bool) -> None:
    """A row that does not match its digest ends the compaction, and everything stays as it was."""
    if compacted:
        store.compact()
    store.close()
    with lmdb.open(str(data / "lmdb"), max_dbs=len(TABLES)) as env:
        handle = env.open_db(table.encode(), create=False)
        with env.begin(write=True) as txn:
            with txn.cursor(handle) as cursor:
                assert cursor.last()
                key, raw = cursor.item()
            txn.put(key, raw[:-1] + bytes([raw[-1] ^ 1]), db=handle)
        with env.begin() as txn, pytest.raises(lmdb.ReadonlyError):
            txn.put(b"k", b"v", db=handle)
    with closing(opened(data)) as damaged:
        file = (data / "lmdb" / "data.mdb").stat().st_ino
        with pytest.raises(DataLossError):
            damaged.compact()
        assert file == (data / "lmdb" / "data.mdb").stat().st_ino
        assert {entry.name for entry in data.iterdir()} == _TREE


def test_no_room_is_noticed_first(store: LmdbStore, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the copy nothing is begun."""
    real = os.statvfs(data)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, *[100] * 3, *real[5:])))
    with pytest.raises(StoreFullError, match="needed"):
        store.compact()
    monkeypatch.undo()
    assert {entry.name for entry in data.iterdir()} == _TREE
    assert COMMITS == check_whole(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk; mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_in_the_middle(
    small_disk: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy for which the room is suddenly gone is removed and named; nothing else changes."""
    LmdbStore.restore(data, small_disk / "data", force_mount=True)
    with closing(opened(small_disk / "data")) as store:
        with pytest.raises(StoreError, match="volume"):
            store.backup(small_disk.parent / "disk")
        (small_disk / "ballast").write_bytes(bytes(6 << 20))
        monkeypatch.setattr(copying, "check_room", lambda *_: None)
        with pytest.raises(StoreFullError):
            store.compact()
        with pytest.raises(StoreFullError):
            store.backup(small_disk / "backup")
        assert {"ballast", "data"} == {entry.name for entry in small_disk.iterdir()}
        assert {entry.name for entry in (small_disk / "data").iterdir()} == _TREE
        (small_disk / "ballast").unlink()
        store.compact()
        assert COMMITS == check_whole(store)


def test_a_store_that_failed_is_not_compacted(store: LmdbStore) -> None:
    """With a write of unknown outcome behind it, a store object moves nothing."""
    store._failed = True
    with pytest.raises(StoreFailedError):
        store.compact()


# --- other processes ----------------------------------------------------------------------------

_READER = """
import os, sys, threading
from pathlib import Path
from recension.store.lmdb import LmdbStore
from tests.store.test_compact import check_whole
store = LmdbStore.open(Path(sys.argv[1]), force_mount=True)
over = threading.Event()
faults = []
def read():
    while not over.is_set():
        try: check_whole(store)
        except BaseException as error: faults.append(repr(error)); raise
thread = threading.Thread(target=read)
thread.start()
for _ in sys.stdin: print(store.log.head().position, store._opened.file[1], flush=True)
over.set()
thread.join()
print("faults", len(faults), flush=True)
"""


def test_a_process_that_reads_all_the_time(store: LmdbStore, data: Path) -> None:
    """Another process has every answer right, and what is committed after a swap is visible to it at once."""
    command = [sys.executable, "-c", _READER, str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin
        assert reader.stdout

        def ask() -> tuple[int, int]:
            assert reader.stdin
            assert reader.stdout
            reader.stdin.write("\n")
            reader.stdin.flush()
            position, file = reader.stdout.readline().split()
            return int(position), int(file)

        files = {ask()[1]}
        for _ in range(5):
            store.compact()
            head = append(store)
            assert (head.position, (data / "lmdb" / "data.mdb").stat().st_ino) == ask()
            files.add(ask()[1])
            maps = Path(f"/proc/{reader.pid}/maps").read_text()
            assert maps.count("data.mdb") <= 2  # at most one view of the old one is left
        reader.stdin.close()
        assert "faults 0\n" == reader.stdout.read()
    assert len(files) > 1
    assert 0 == reader.returncode


_WRITER = """
import sys
from pathlib import Path
from recension.model.errors import WriterBusyError
from recension.store.lmdb import LmdbStore
from tests.store.test_compact import append
store = LmdbStore.open(Path(sys.argv[1]), force_mount=True)
print("ready", flush=True)
while True:
    try: print(append(store).position, flush=True)
    except WriterBusyError: print("busy", flush=True)
"""


def test_a_writer_races_with_compaction(store: LmdbStore, data: Path) -> None:
    """What another process was told is stored is there after any number of swaps, in one chain."""
    told: list[str] = []
    command = [sys.executable, "-c", _WRITER, str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        lines = writer.stdout
        assert "ready\n" == lines.readline()
        listener = threading.Thread(target=lambda: told.extend(line.strip() for line in lines))
        listener.start()

        def wait(more: Callable[[], bool]) -> None:
            until = time.monotonic() + 60
            while not more():
                assert time.monotonic() < until
                time.sleep(0.001)

        for _ in range(4):
            before = len(told)
            wait(lambda: any(line != "busy" for line in told[before:]))  # noqa: B023 - called at once
            copied = store.compact(lambda *_: wait(lambda: told[-1:] == ["busy"]))
            assert store.log.head().position >= copied.copied.head.position
        writer.kill()
        listener.join()
    acknowledged = [int(line) for line in told if line.isdigit()]
    assert "busy" in told
    assert acknowledged == list(range(COMMITS + 1, acknowledged[-1] + 1))
    assert check_whole(store) >= acknowledged[-1]


def test_without_our_lock_file_nothing_is_lost(store: LmdbStore, data: Path) -> None:
    """Should someone remove ``swap.lock`` and another process write meanwhile, the swap is called off."""
    command = [sys.executable, "-c", _WRITER, str(data)]

    def interfere(what: str, done: int, total: int) -> None:
        if what == "copy" and done == total and COMMITS == store.log.head().position:
            (data / "swap.lock").unlink()
            (data / "lmdb.new").rename(data / "aside")  # it would look like the remains of a copy
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout
                assert ["ready\n", f"{COMMITS + 1}\n"] == [writer.stdout.readline() for _ in range(2)]
                writer.kill()
            (data / "aside").rename(data / "lmdb.new")

    with pytest.raises(WriterBusyError, match="stays as it was"):
        store.compact(interfere)
    assert check_whole(store) > COMMITS
    store.compact()
    assert check_whole(store) > COMMITS


def test_opening_meanwhile(store: LmdbStore, data: Path) -> None:
    """A process that starts while the copy is made need not wait for it."""
    code = (
        "import sys; from pathlib import Path; from recension.store.lmdb import LmdbStore\n"
        "print(LmdbStore.open(Path(sys.argv[1]), force_mount=True).log.head().position)\n"
    )
    started: list[str] = []

    def start(what: str, done: int, total: int) -> None:
        if not started:
            command = [sys.executable, "-c", code, str(data)]
            done_ = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, check=True)
            started.append(done_.stdout)

    store.compact(start)
    assert [f"{COMMITS}\n"] == started


# --- killed -------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], object]) -> int:
    """Do the work in a child made by fork and return its exit status; negative for a signal."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_self() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def compact_until(
    data: Path, step: int, what: Callable[[LmdbStore, Callable[..., None]], object] = LmdbStore.compact
) -> Callable[[], None]:
    """Return a compaction, or other work, that is killed at a step: a system call or a word of progress."""
    left = step

    def pass_by(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            kill_self()

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "fcntl.flock", "shutil.rmtree"}:
            pass_by()

    def work() -> None:
        with closing(opened(data)) as store:
            real = os.fsync

            def fsync(handle: int) -> None:
                pass_by()
                real(handle)
                pass_by()

            os.fsync = fsync  # type: ignore[assignment]
            sys.addaudithook(audit)
            what(store, pass_by)

    return work


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, about fork
def test_killed_at_every_step(data: Path, tmp_path: Path) -> None:
    """Whatever step it is killed at, the store opens whole, takes a commit, and no remains are left."""
    states: set[frozenset[str]] = set()
    step = 0
    while True:
        step += 1
        copy = tmp_path / str(step)
        shutil.copytree(data, copy, ignore=shutil.ignore_patterns("lock.mdb"))
        if in_a_child(compact_until(copy, step)) == 0:
            break
        states.add(frozenset(entry.name for entry in copy.iterdir() if entry.name.startswith("lmdb")))
        with closing(opened(copy)) as store:
            assert COMMITS == check_whole(store), step
            append(store)
            assert {entry.name for entry in copy.iterdir()} == _TREE, step
            assert COMMITS + 1 == check_whole(store), step
        with closing(opened(copy)) as store:
            assert COMMITS + 1 == check_whole(store), step
        shutil.rmtree(copy)
    assert step > 20
    # Each state that there is between the steps was met, that between the two renames too.
    names = (("lmdb",), ("lmdb", "lmdb.new"), ("lmdb.new", "lmdb.old"), ("lmdb", "lmdb.old"))
    assert set(map(frozenset, names)) <= states


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_between_the_renames_before_those_who_have_it_open(data: Path) -> None:
    """A process that had the store open reads on without a gap, and its next write finishes the swap."""
    with closing(opened(data)) as store:
        for name in ("lmdb.new", "lmdb.old"):
            shutil.copytree(data / "lmdb", data / name, ignore=shutil.ignore_patterns("lock.mdb"))
            shutil.rmtree(data / "lmdb.old", ignore_errors=True)
        (data / "lmdb").rename(data / "lmdb.old")
        time.sleep(0.15)  # long enough for it to look
        assert COMMITS == check_whole(store)
        file = (data / "lmdb.new" / "data.mdb").stat().st_ino
        append(store)
        assert {entry.name for entry in data.iterdir()} == _TREE
        assert file == (data / "lmdb" / "data.mdb").stat().st_ino
        assert COMMITS + 1 == check_whole(store)


def test_only_the_old_one_is_left(data: Path) -> None:
    """Without a copy the old environment gets its name back."""
    (data / "lmdb").rename(data / "lmdb.old")
    with closing(opened(data)) as store:
        assert COMMITS == check_whole(store)
    assert {entry.name for entry in data.iterdir()} == _TREE


_COMPACTER = """
import sys
from pathlib import Path
from recension.store.lmdb import LmdbStore
from tests.store.test_compact import append
store = LmdbStore.open(Path(sys.argv[1]), force_mount=True)
print("ready", flush=True)
while True:
    print(append(store).position, flush=True)
    store.compact()
"""


@pytest.mark.parametrize("kills", [10, pytest.param(1000, marks=pytest.mark.torture)])
def test_killed_at_random(data: Path, kills: int) -> None:
    """Kills at random moments, one after the other in one store, lose nothing that was acknowledged."""
    moments = random.Random(5)
    acknowledged = COMMITS
    for _ in range(kills):
        command = [sys.executable, "-c", _COMPACTER, str(data)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as compacter:
            assert compacter.stdout
            assert "ready\n" == compacter.stdout.readline()
            time.sleep(moments.random() * 0.5)
            compacter.kill()
            told = [line for line in compacter.stdout.read().split("\n")[:-1] if line]
        acknowledged = int(told[-1]) if told else acknowledged
        with closing(opened(data)) as store:
            assert check_whole(store) >= acknowledged


def test_what_kills_are_compared_by(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a whole store can fail: one that lost a row, or its last commit, is noticed."""
    with closing(opened(data)) as store:
        key = index_key(b"\0\0\0\x03\x05")
        store.rewrite([Rewrite({}, {key: None}, {})])
        with pytest.raises(AssertionError):
            check_whole(store)
        store.rewrite([Rewrite({}, {key: value(key, 25)}, {})])
        assert COMMITS == check_whole(store)
        store.rewrite([Rewrite({}, {}, {b"\0\0\0\x03\x05": b"other"})])
        with pytest.raises(AssertionError):
            check_whole(store)
