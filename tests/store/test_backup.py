"""Backup and restore: what is copied is whole, and what was killed is never taken for a copy."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from recension.archive.ingest import Ingestor
from recension.model.errors import DataLossError, NotAStoreError, StoreError, WriterBusyError
from recension.model.reading import ProjectInfo
from recension.server.ingest import run_ingest
from recension.store.interface import Rewrite, Store
from recension.store.layout import TABLES
from recension.store.lmdb import LmdbStore
from tests.ingest.fixed_run import NOW
from tests.ingest.test_resume import SAMPLE, command, head_of
from tests.store.test_compact import (
    COMMITS,
    append,
    check_whole,
    compact_until,
    found_in,
    in_a_child,
    opened,
)


def restored(source: Path, path: Path) -> LmdbStore:
    """Restore a backup and open what came of it."""
    LmdbStore.restore(source, path, force_mount=True)
    return opened(path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    with closing(opened(tmp_path / "data", create=True)) as store:
        for _ in range(COMMITS):
            append(store)
        yield store


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(store: LmdbStore, tmp_path: Path) -> None:
    """A backup is one file; restoring leaves it as it is, and gives the same head, rows and log."""
    made = store.backup(tmp_path / "backup")
    assert ["lmdb/data.mdb"] == list(files(tmp_path / "backup"))
    before = files(tmp_path / "backup")
    append(store)  # has no place in it
    with closing(restored(tmp_path / "backup", tmp_path / "again")) as again:
        assert COMMITS == check_whole(again)
        assert made.head == again.log.head()
        assert append(again) == store.log.head()
        assert {"lmdb", "swap.lock", "writer.lock"} == {
            entry.name for entry in (tmp_path / "again").iterdir()
        }
    assert before == files(tmp_path / "backup")


def test_a_backup_is_a_data_directory(store: LmdbStore, tmp_path: Path) -> None:
    """It opens as it is, and a directory that was opened so can be restored from too."""
    (tmp_path / "backup").mkdir()
    store.backup(tmp_path / "backup")
    with closing(opened(tmp_path / "backup")) as backup:
        assert COMMITS == check_whole(backup)
    assert (tmp_path / "backup" / "lmdb" / "lock.mdb").exists()
    with closing(restored(tmp_path / "backup", tmp_path / "again")) as again:
        assert COMMITS == check_whole(again)


def test_where_something_is(store: LmdbStore, tmp_path: Path) -> None:
    """Neither a backup nor a restore touches a directory with other content."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "other", tmp_path / "file", tmp_path / "data"):
        with pytest.raises(StoreError):
            store.backup(path)
    store.backup(tmp_path / "backup")
    with pytest.raises(StoreError, match="not empty"):
        store.backup(tmp_path / "backup")
    for path in (tmp_path / "other", tmp_path / "file", tmp_path / "data"):
        with pytest.raises(StoreError):
            LmdbStore.restore(tmp_path / "backup", path, force_mount=True)
    for source in (tmp_path / "other", tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(NotAStoreError):
            LmdbStore.restore(source, tmp_path / "new", force_mount=True)
    assert not (tmp_path / "new").exists()
    assert ["letter.txt"] == [entry.name for entry in (tmp_path / "other").iterdir()]
    assert COMMITS == check_whole(store)
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "b.partial" / "letter.txt").write_text("x")
    with pytest.raises(StoreError, match="in the way"):
        store.backup(tmp_path / "b")


def test_the_key_may_be_there_first(store: LmdbStore, tmp_path: Path) -> None:
    """A restore goes beside a signing key and its checkpoint; beside anything else it says what it needs."""
    store.backup(tmp_path / "backup")
    again = tmp_path / "again"
    again.mkdir()
    for name in ("signing.key", "signing.key.checkpoint"):
        (again / name).write_text(name)
    (again / "signing.key.pub").write_text("of another program")
    with pytest.raises(NotAStoreError, match="something else") as caught:
        LmdbStore.restore(tmp_path / "backup", again, force_mount=True)
    assert "new or empty" in caught.value.hint
    (again / "signing.key.pub").unlink()
    with closing(restored(tmp_path / "backup", again)) as restored_:
        assert COMMITS == check_whole(restored_)
    for name in ("signing.key", "signing.key.checkpoint"):
        assert name == (again / name).read_text()
    with pytest.raises(NotAStoreError) as caught:
        LmdbStore.restore(tmp_path / "absent", tmp_path / "new", force_mount=True)
    assert "a backup" in caught.value.hint


def test_two_backups_to_one_place(store: LmdbStore, tmp_path: Path) -> None:
    """The second is refused while the first is being made; the first is none the worse."""

    def another(what: str, done: int, total: int) -> None:
        with pytest.raises(WriterBusyError):
            store.backup(tmp_path / "backup")

    store.backup(tmp_path / "backup", another)
    with closing(restored(tmp_path / "backup", tmp_path / "again")) as again:
        assert COMMITS == check_whole(again)


def test_a_copy_that_is_found_wanting(store: LmdbStore, tmp_path: Path) -> None:
    """A check of the caller's sees the whole copy before it gets its name; what it refuses is removed."""
    seen: list[int] = []

    def refuse(copy: Store) -> None:
        assert isinstance(copy, LmdbStore)
        seen.append(check_whole(copy))
        raise DataLossError("not good enough")

    store.backup(tmp_path / "good")
    with pytest.raises(DataLossError):
        store.backup(tmp_path / "backup", check=refuse)
    with pytest.raises(DataLossError):
        LmdbStore.restore(tmp_path / "good", tmp_path / "again", check=refuse, force_mount=True)
    assert [COMMITS, COMMITS] == seen
    assert {"data", "good", "again"} == {entry.name for entry in tmp_path.iterdir()}
    with pytest.raises(NotAStoreError):
        opened(tmp_path / "again")
    restored(tmp_path / "good", tmp_path / "again").close()


Change = Callable[[lmdb.Transaction, lmdb._Database], object]
CHANGES: dict[str, tuple[bytes, Change]] = {
    "run": (b"runs", lambda txn, db: txn.put(b"E\0\0\0\1\0", b"x" * 30, db=db)),
    "index": (b"index", lambda txn, db: txn.put(b"\0\0\0\1\0", b"x" * 30, db=db)),
    "blob": (b"blobs", lambda txn, db: txn.put(b"\0\0\0\1\0", b"\0" + b"x" * 30, db=db)),
    "gap": (b"log", lambda txn, db: txn.delete((5).to_bytes(8, "big"), db=db)),
    "end": (b"log", lambda txn, db: txn.delete(COMMITS.to_bytes(8, "big"), db=db)),
    "head": (b"meta", lambda txn, db: txn.delete(b"head", db=db)),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_a_damaged_backup_is_not_restored(store: LmdbStore, tmp_path: Path, what: str) -> None:
    """A row that changed, or a log with a gap or a lost end, is found before there is a data directory."""
    store.backup(tmp_path / "backup")
    table, change = CHANGES[what]
    with lmdb.open(str(tmp_path / "backup" / "lmdb"), max_dbs=len(TABLES), lock=False) as env:
        handle = env.open_db(table, create=False)
        with env.begin(write=True) as txn:
            change(txn, handle)
    with pytest.raises(DataLossError):
        LmdbStore.restore(tmp_path / "backup", tmp_path / "again", force_mount=True)
    assert not (tmp_path / "again" / "lmdb").exists()
    with pytest.raises(NotAStoreError):
        opened(tmp_path / "again")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, about fork
@pytest.mark.parametrize("restoring", [False, True])
def test_killed_at_every_step(store: LmdbStore, tmp_path: Path, restoring: bool) -> None:  # noqa: FBT001
    """Whatever step it is killed at, there is a whole copy or none, and doing it again makes one."""
    store.backup(tmp_path / "good")
    store.close()
    step = whole = 0
    while True:
        step += 1
        target = tmp_path / "steps" / str(step)
        target.parent.mkdir(exist_ok=True)

        def work(data: LmdbStore, step_by: Callable[..., None], target: Path = target) -> None:
            if restoring:
                LmdbStore.restore(tmp_path / "good", target, progress=step_by, force_mount=True)
            else:
                data.backup(target, step_by)

        status = in_a_child(compact_until(tmp_path / "data", step, work))
        if status == 0:
            break
        assert -signal.SIGKILL == status
        if (target / "lmdb").exists():
            whole += 1
        else:
            with pytest.raises(NotAStoreError):
                opened(target)
            in_a_child(compact_until(tmp_path / "data", 0, work))
        with closing(opened(target)) as copy:
            assert COMMITS == check_whole(copy), step
        shutil.rmtree(target.parent)
    assert step > 15
    assert whole


def test_erased_bytes_are_in_no_backup(store: LmdbStore, tmp_path: Path) -> None:
    """A backup has the rows that there are, not what LMDB still keeps in free pages."""
    canary = b"erased before the backup was made"
    store.put_derived(iter([(b"canary", canary)]))
    with lmdb.open(str(tmp_path / "plain"), max_dbs=1) as env, env.begin(write=True) as txn:
        txn.put(b"a", canary)
    assert {"data.mdb"} == found_in(tmp_path / "data", canary) == found_in(tmp_path / "plain", canary)
    store.rewrite([Rewrite({}, {b"canary": None}, {})])
    assert {"data.mdb"} == found_in(tmp_path / "data", canary)
    store.backup(tmp_path / "backup")
    assert set() == found_in(tmp_path / "backup", canary)


# --- with an ingest -----------------------------------------------------------------------------


def ingest(data: Path) -> str:
    """Ingest the sample with a fixed clock and salts, or go on with it; return the head."""
    with closing(LmdbStore.open(data)) as store:
        Ingestor(store, clock=lambda: NOW).create_project(
            ProjectInfo("aawiki", "https://aa.wikipedia.org", "aa", "CC-BY-SA-4.0")
        )
        run_ingest(
            store,
            "dump",
            "aawiki",
            [SAMPLE],
            data=data,
            allow_rejected=True,
            quiet=True,
            clock=lambda: NOW,
            seed=b"seed",
        )
        return f"{store.log.head().position} {store.log.head().hash.hex()}"


def test_backups_of_a_running_ingest_go_on_as_it_did(tmp_path: Path) -> None:
    """Each backup, restored, has the log's beginning; with the same clock and salts it goes on to its end."""
    data = tmp_path / "data"
    taken: list[Path] = []
    with subprocess.Popen(command(data, "seed"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "ready\n" == process.stdout.readline()
        with closing(LmdbStore.open(data)) as reader:
            while process.poll() is None:
                target = tmp_path / "backups" / str(len(taken))
                made = reader.backup(target)
                taken.append(target)
                assert made.head.position <= reader.log.head().position
        expected = process.stdout.read().splitlines()[-1]
    assert head_of(tmp_path / "whole", "seed") == expected
    with closing(LmdbStore.open(data)) as store:
        records = store.log.read(1, store.log.head().position)
    lengths = set()
    for number, source in enumerate(taken):
        LmdbStore.restore(source, tmp_path / "again" / str(number))
        with closing(LmdbStore.open(tmp_path / "again" / str(number))) as again:
            length = again.log.head().position
            assert records[:length] == again.log.read(1, length + 1)
        if length not in lengths:
            lengths.add(length)
            assert expected == ingest(tmp_path / "again" / str(number))
            with closing(LmdbStore.open(tmp_path / "again" / str(number))) as again:
                assert records == again.log.read(1, len(records) + 1)
    assert min(lengths) < len(records)
