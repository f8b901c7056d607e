"""Long reads beside an ingest: the file does not grow for them, nor for long for readers that were killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from recension.archive.reader import Archive
from recension.model.errors import OverloadedError
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import NOW, World, edit
from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import ROOT, Findings

Tell = Callable[[str, Findings], None]
_PAGES = 30
_READERS = 3
_HOLD = """
import sys
from pathlib import Path
from recension.store.lmdb import LmdbStore
with LmdbStore.open(Path(sys.argv[1]), force_mount=True).view():
    print("reading", flush=True)
    sys.stdin.read()
"""


class _Growing:
    """A store that gets one small commit after the other."""

    def __init__(self, store: LmdbStore) -> None:
        self.store = store
        self.world = World(store)
        self._revision = 0
        self.commits(_PAGES)
        self.snapshot = self.world.snapshot(_PAGES)

    def commits(self, count: int) -> None:
        for _ in range(count):
            self._revision += 1
            page = self._revision % _PAGES + 1
            text = f"revision {self._revision} of page {page}\n" * 5
            self.world.add(self.world.event(page, self._revision % _PAGES, edit(self._revision, text)))

    def growth(self, count: int, beside: Callable[[], object]) -> int:
        """Return by how many bytes the file grows with so many commits, with something done beside each."""
        before = self.store.usage().file_bytes
        for _ in range(count):
            self.commits(1)
            beside()
        return self.store.usage().file_bytes - before


def _growing(data: Path) -> _Growing:
    return _Growing(LmdbStore.open(data, create=True, force_mount=True))


def _endless(growing: _Growing) -> Iterator[object]:
    """Read a snapshot again and again, one entry a time."""
    while True:
        yield from Archive(growing.store, clock=lambda: NOW).read(growing.snapshot)


@pytest.mark.parametrize("duration", DURATIONS)
def test_a_long_read_lets_pages_be_used_again(duration: Duration, tmp_path: Path, tell: Tell) -> None:
    """A stream that is read all the time costs nothing; a transaction held as long makes the file grow."""
    commits = 2000 if duration.seconds else 150
    grown = {}
    for name in ("nobody", "a stream", "a transaction"):
        growing = _growing(tmp_path / name)
        with closing(growing.store):
            stream = _endless(growing)
            held = growing.store.begin() if name == "a transaction" else None
            beside = (lambda stream=stream: next(stream)) if name == "a stream" else lambda: None
            grown[name] = growing.growth(commits, beside)
            assert bool(held) == (growing.store.usage().oldest_reader_commits >= commits)
            stream.close()  # type: ignore[attr-defined]
            del held
    found = Findings()
    found.counts.update({f"KiB beside {name}": size // 1024 for name, size in grown.items()})
    found.counts["commits"] = commits
    tell("none", found)
    assert grown["a stream"] <= 1.5 * grown["nobody"] + 64 * 1024
    assert grown["a transaction"] > 3 * grown["nobody"]


def _killed_readers(data: Path) -> None:
    """Let processes read, each in a view of its own, and kill them."""
    command = [sys.executable, "-c", _HOLD, str(data)]
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(_READERS)
    ]
    for reader in readers:  # all of them first: opening frees the slots of those that are dead by then
        assert reader.stdout
        assert reader.stdout.readline() == b"reading\n"
    for reader in readers:
        with reader:
            reader.kill()


def test_slots_of_killed_readers(tmp_path: Path, tell: Tell) -> None:
    """The file grows for killed readers until their slots are freed, by a call or by the next to open it."""
    growing = _growing(tmp_path / "data")
    store, found = growing.store, Findings()
    with closing(store):
        for freed_by in ("a call", "opening"):
            _killed_readers(tmp_path / "data")
            pinned = growing.growth(100, lambda: None)
            assert store.usage().readers >= _READERS
            assert store.usage().oldest_reader_commits >= 100
            if freed_by == "a call":
                assert store.free_dead_readers() == _READERS
            else:
                _opened_elsewhere(tmp_path / "data")
            assert store.usage().oldest_reader_commits == 0
            free = growing.growth(100, lambda: None)
            found.counts.update(killed=_READERS)
            found.counts[f"KiB pinned until {freed_by}"] = pinned // 1024
            found.counts[f"KiB after {freed_by}"] = free // 1024
            assert free < pinned / 3
    tell("none", found)


def test_no_slot_is_left(tmp_path: Path) -> None:
    """Those of killed readers go to whoever needs one; that all are held is named, and passes."""
    store = _growing(tmp_path / "data").store
    with closing(store):
        _killed_readers(tmp_path / "data")
        assert store.usage().readers >= _READERS
        with ExitStack() as held:
            views = [held.enter_context(store.view()) for _ in range(store.usage().max_readers)]
            with pytest.raises(OverloadedError) as caught:
                held.enter_context(store.view())
            assert caught.value.hint
            assert views[0].head() == views[-1].head()
        with store.view() as view:
            assert view.head() == store.log.head()


def _opened_elsewhere(data: Path) -> None:
    """Open the store in another process, which frees slots, and close it."""
    code = "import sys; from pathlib import Path; from recension.store.lmdb import LmdbStore\n"
    code += "LmdbStore.open(Path(sys.argv[1]), force_mount=True).close()"
    subprocess.run([sys.executable, "-c", code, str(data)], check=True, cwd=ROOT)
