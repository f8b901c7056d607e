import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from recension.model.errors import (
    DataLossError,
    NotAStoreError,
    StoreForkedError,
    StoreFullError,
    StoreMountError,
    StoreVersionError,
    WriterBusyError,
)
from recension.model.record import EMPTY_LOG
from recension.store import lmdb as module
from recension.store.environment import check_mount
from recension.store.interface import Outcome
from recension.store.layout import TABLES
from recension.store.lmdb import SCHEMA_VERSION, LmdbStore
from tests.store.commits import following

MOUNTS = """\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw
2 1 0:9 / /over rw - overlay overlay rw,lowerdir=/a
3 2 8:2 / /over/volume rw master:1 - xfs /dev/sdb rw
4 1 0:8 / /a\\040b rw - nfs4 host:/x rw
5 1 8:3 / /fixed ro - ext4 /dev/sdc rw
6 1 8:4 / /super rw - ext4 /dev/sdd ro
7 1 0:7 / /fuse rw - fuse.sshfs host:/x rw
8 1 8:5 / /twice rw - ext4 /dev/sde rw
9 1 0:6 / /twice rw - 9p share rw
"""


def opened(path: Path, **options: int) -> LmdbStore:
    return LmdbStore.open(path, force_mount=True, **options)  # type: ignore[arg-type]  # of several types


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = opened(tmp_path / "data", create=True)
    yield store
    store.close()


def test_reopen(store: LmdbStore, tmp_path: Path) -> None:
    """What was committed is there after closing and opening again, with or without ``create``."""
    record, head = following()
    store.commit(record, head, [(b"a", b"1")], [])
    store.close()
    store.close()
    for create in False, True:
        again = opened(tmp_path / "data", create=create)
        assert head == again.log.head()
        assert [record] == again.log.read(1, 1)
        again.close()
    assert {"lmdb", "swap.lock", "writer.lock"} == {entry.name for entry in (tmp_path / "data").iterdir()}


def test_other_process_sees_commits(store: LmdbStore, tmp_path: Path) -> None:
    """A process that had the store open before a commit sees it after."""
    code = (
        "import sys; from pathlib import Path; from recension.store.lmdb import LmdbStore\n"
        "store = LmdbStore.open(Path(sys.argv[1]), force_mount=True)\n"
        "for _ in sys.stdin: print(store.log.head().position, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    head = EMPTY_LOG
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin
        assert reader.stdout
        for position in range(4):
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert f"{position}\n" == reader.stdout.readline()
            record, head = following(head)
            store.commit(record, head, [], [])
        reader.stdin.close()
    assert 0 == reader.returncode


def test_second_writer_is_refused(store: LmdbStore, tmp_path: Path) -> None:
    """A second process that wants to ingest learns within a second who does; a killed one leaves no trace."""
    code = (
        "import sys; from pathlib import Path; from recension.store.lmdb import LmdbStore\n"
        "store = LmdbStore.open(Path(sys.argv[1]), force_mount=True)\n"
        "with store.exclusive_writer(): print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert "held\n" == writer.stdout.readline()
        begun = time.monotonic()
        with pytest.raises(WriterBusyError, match=str(writer.pid)), store.exclusive_writer():
            pass
        assert time.monotonic() - begun < 1
        writer.kill()
    with store.exclusive_writer():
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, about fork
def test_fork_is_refused(store: LmdbStore) -> None:
    """A child made by fork can neither read nor write through its parent's store."""
    child = os.fork()
    if not child:
        refused = 0
        for call in (
            store.log.head,
            lambda: store.view().__enter__(),
            lambda: store.commit(*following(), [], []),
            lambda: store.exclusive_writer().__enter__(),
        ):
            try:
                call()
            except StoreForkedError:
                refused += 1
        os._exit(refused)
    assert 4 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert EMPTY_LOG == store.log.head()


@pytest.mark.parametrize("step", [1, -1])
def test_other_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A store that a newer version wrote is refused, and one from before the first release."""
    monkeypatch.setattr(module, "SCHEMA_VERSION", SCHEMA_VERSION + step)
    opened(tmp_path / "data", create=True).close()
    monkeypatch.undo()
    with pytest.raises(StoreVersionError):
        opened(tmp_path / "data")


def test_not_a_store(tmp_path: Path) -> None:
    """A directory that is absent, or holds something else, or another program's LMDB, is refused."""
    with pytest.raises(NotAStoreError) as absent:
        opened(tmp_path / "absent")
    assert "recension-server project create" in absent.value.hint
    assert not (tmp_path / "absent").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("x")
    for create in False, True:
        with pytest.raises(NotAStoreError):
            opened(other, create=create)
    assert ["letter.txt"] == [entry.name for entry in other.iterdir()]
    foreign = tmp_path / "foreign"
    (foreign / "lmdb").mkdir(parents=True)
    lmdb.open(str(foreign / "lmdb")).close()
    with pytest.raises(NotAStoreError):
        opened(foreign, create=True)
    (foreign / "lmdb" / "data.mdb").write_bytes(bytes(8192))
    with pytest.raises(NotAStoreError):
        opened(foreign)
    (foreign / "lmdb" / "data.mdb").unlink()
    with pytest.raises(NotAStoreError):
        opened(foreign)


def test_remains_of_a_killed_creation(tmp_path: Path) -> None:
    """A directory whose creation was interrupted can be created again."""
    (tmp_path / "data" / "lmdb.new").mkdir(parents=True)
    (tmp_path / "data" / "lmdb.new" / "data.mdb").write_bytes(b"torn")
    with pytest.raises(NotAStoreError):
        opened(tmp_path / "data")
    opened(tmp_path / "data", create=True).close()


@pytest.mark.parametrize("path", ["/x", "/over/volume/x", "/overdone"])
def test_good_mounts(path: str) -> None:
    """A local file system is accepted, also below a doubtful one."""
    check_mount(Path(path), MOUNTS, force=False)


@pytest.mark.parametrize("path", ["/over/x", "/a b/x", "/fuse", "/twice/x"])
def test_doubtful_mounts(path: str) -> None:
    """Overlays and file systems over a network are refused unless forced."""
    with pytest.raises(StoreMountError, match="LMDB"):
        check_mount(Path(path), MOUNTS, force=False)
    check_mount(Path(path), MOUNTS, force=True)


@pytest.mark.parametrize("path", ["/fixed/x", "/super/x"])
def test_read_only_mounts(path: str) -> None:
    """A read-only mount is refused even when forced."""
    with pytest.raises(StoreMountError, match="read-only"):
        check_mount(Path(path), MOUNTS, force=True)


def test_unknown_mounts() -> None:
    """Without a list of mounts the store opens only when forced."""
    with pytest.raises(StoreMountError):
        check_mount(Path("/x"), "", force=False)
    check_mount(Path("/x"), "", force=True)


def raw_value(file: Path, table: bytes, key: bytes) -> bytes:
    """Return a value as LMDB serves it, digest and all."""
    with lmdb.open(str(file.parent), max_dbs=len(TABLES)) as env:
        handle = env.open_db(table, create=False)
        with env.begin() as txn:
            return bytes(txn.get(key, db=handle) or b"")


@pytest.mark.parametrize("place", ["record", "index", "blob"])
def test_flipped_bit_is_not_served(store: LmdbStore, tmp_path: Path, place: str) -> None:
    """A bit flipped in a stored value is an error on read, though LMDB itself would serve it."""
    value = bytes(range(64))
    record, head = following(note=value)
    store.commit(record, head, [(b"i", value)], [(b"b", value)])
    store.close()
    table, key = {
        "record": (b"log", struct.pack(">Q", 1)),
        "index": (b"index", b"i"),
        "blob": (b"blobs", b"b"),
    }[place]
    file = tmp_path / "data" / "lmdb" / "data.mdb"
    stored = raw_value(file, table, key)
    flipped = stored[:-1] + bytes([stored[-1] ^ 1])
    content = file.read_bytes()
    assert 1 == content.count(stored)
    file.write_bytes(content.replace(stored, flipped))
    assert flipped == raw_value(file, table, key)

    damaged = opened(tmp_path / "data")
    with damaged.view() as view:
        reads: dict[str, list[Callable[[], object]]] = {
            "record": [lambda: damaged.log.read(1, 1)],
            "index": [
                lambda: view.get(b"i"),
                lambda: view.get_many([b"i"]),
                lambda: view.scan(b"", b"\xff"),
                lambda: view.last(b"", b"\xff"),
            ],
            "blob": [lambda: view.blob(b"b")],
        }
        for read in reads[place]:
            with pytest.raises(DataLossError) as caught:
                read()
            metadata = caught.value.metadata
            assert (table.decode(), key.hex()) == (metadata["table"], metadata["key"])
    damaged.close()


def test_swapped_rows_are_not_served(store: LmdbStore, tmp_path: Path) -> None:
    """A value under another key, or in another table, is an error on read."""
    record, head = following()
    store.commit(record, head, [(b"i", b"1")], [])
    store.close()
    env = lmdb.open(str(tmp_path / "data" / "lmdb"), max_dbs=len(TABLES))
    index, blobs = env.open_db(b"index", create=False), env.open_db(b"blobs", create=False)
    with env.begin(write=True) as txn:
        raw = txn.get(b"i", db=index)
        assert raw
        txn.put(b"j", raw, db=index)
        txn.put(b"i", raw, db=blobs)
    env.close()
    damaged = opened(tmp_path / "data")
    with damaged.view() as view:
        assert b"1" == view.get(b"i")
        for read in view.get, view.blob:
            with pytest.raises(DataLossError):
                read(b"j" if read == view.get else b"i")
    damaged.close()


def test_reads_that_raise_free_their_slots(store: LmdbStore) -> None:
    """Reader slots do not pile up when reads fail half-way, even while the errors are kept."""
    kept = []
    for _ in range(1000):
        try:
            with store.view() as view:
                view.scan(b"", b"\xff")
                int("no number")
        except ValueError as error:
            kept.append(error)
    assert len(store._env.readers().splitlines()) <= 3


def test_full_map(tmp_path: Path) -> None:
    """A batch that does not fit is refused whole; a smaller one fits after, and a larger map takes it."""
    store = opened(tmp_path / "data", create=True, map_bytes=1 << 20)
    record, head = following()
    large = [(bytes([number]), bytes(100_000)) for number in range(20)]
    with pytest.raises(StoreFullError):
        store.commit(record, head, [(b"i", b"1")], large)
    with pytest.raises(StoreFullError):
        store.put_derived(iter(large))
    assert EMPTY_LOG == store.log.head()
    with store.view() as view:
        assert [] == view.scan(b"", b"\xff")
        assert view.last_blob_key(b"", b"\xff") is None
    assert Outcome.OK is store.commit(record, head, [(b"i", b"1")], large[:1])
    store.close()
    store = opened(tmp_path / "data", map_bytes=1 << 30)
    record, head = following(head)
    assert Outcome.OK is store.commit(record, head, [], large)
    store.close()


def test_file_cut_short_is_refused(store: LmdbStore, tmp_path: Path) -> None:
    """A file that lost its end is an error by name when it is opened, not the end of the process."""
    record, head = following()
    store.commit(record, head, [], [(bytes([at]), os.urandom(50_000)) for at in range(20)])
    store.close()
    os.truncate(tmp_path / "data" / "lmdb" / "data.mdb", 3 * 4096)
    with pytest.raises(DataLossError, match="fewer than were written"):
        opened(tmp_path / "data")
