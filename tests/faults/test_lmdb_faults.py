import errno
from pathlib import Path
from typing import Any

import lmdb
import pytest

from recension.model.errors import StoreFailedError, StoreFullError
from recension.model.record import EMPTY_LOG
from recension.store.interface import Outcome
from recension.store.lmdb import LmdbStore
from tests.store.commits import following


class _BrokenTransaction:
    """A transaction whose commit raises, before or after the work is done."""

    def __init__(self, txn: Any, error: Exception, *, stored: bool) -> None:
        self._txn, self._error, self._stored = txn, error, stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def commit(self) -> None:
        if self._stored:
            self._txn.commit()
        raise self._error


class _BrokenEnv:
    def __init__(self, env: Any, error: Exception, *, stored: bool) -> None:
        self._env, self._error, self._stored = env, error, stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, *, write: bool = False) -> Any:
        txn = self._env.begin(write=write)
        return _BrokenTransaction(txn, self._error, stored=self._stored) if write else txn


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    "error", [lmdb.Error("Input/output error"), OSError(errno.EIO, "Input/output error")]
)
def test_unknown_outcome_ends_the_writing(tmp_path: Path, error: Exception, stored: bool) -> None:  # noqa: FBT001
    """After an error that may come before or after storing, only a new store object writes again."""
    store: Any = LmdbStore.open(tmp_path / "data", create=True, force_mount=True)
    sound = store._env
    store._env = _BrokenEnv(sound, error, stored=stored)
    record, head = following()
    with pytest.raises(StoreFailedError):
        store.commit(record, head, [(b"i", b"1")], [])
    store._env = sound
    with pytest.raises(StoreFailedError):
        store.commit(record, head, [(b"i", b"1")], [])
    with pytest.raises(StoreFailedError):
        store.put_derived(iter([(b"j", b"1")]))
    assert (head if stored else EMPTY_LOG) == store.log.head()
    store.close()
    store = LmdbStore.open(tmp_path / "data", force_mount=True)
    expected = Outcome.TAKEN if stored else Outcome.OK
    assert expected is store.commit(record, head, [(b"i", b"1")], [])
    assert [record] == store.log.read(1, 9)
    store.close()


@pytest.mark.parametrize("small_disk", ["tmpfs 2m"], indirect=True)
def test_full_disk(small_disk: Path) -> None:
    """A batch that the disk has no room for is refused whole; after making room the same batch is stored."""
    ballast = small_disk / "ballast"
    store = LmdbStore.open(small_disk / "data", create=True, force_mount=True)
    ballast.write_bytes(bytes(1 << 20))
    record, head = following()
    blobs = [(bytes([number]), bytes(100_000)) for number in range(12)]
    for _ in range(2):
        with pytest.raises(StoreFullError):
            store.commit(record, head, [(b"i", b"1")], blobs)
        assert EMPTY_LOG == store.log.head()
    ballast.unlink()
    assert Outcome.OK is store.commit(record, head, [(b"i", b"1")], blobs)
    store.close()
    store = LmdbStore.open(small_disk / "data", force_mount=True)
    assert head == store.log.head()
    with store.view() as view:
        assert bytes(100_000) == view.blob(b"\x0b")
    store.close()
