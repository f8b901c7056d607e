"""The cache of frames: shared by processes, bounded, ended by erasures, and never a reason to fail."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from recension.model.digest import digest_of
from recension.model.errors import StoreError
from recension.store import frames, keys
from recension.store.frames import FrameCache, discard_stale, frame_bytes, state_of
from recension.store.interface import Rewrite, Row
from recension.store.memory import MemoryStore

MIB = 1 << 20
LIMIT = 4 * MIB
_OTHER = """
import sys
from pathlib import Path
from recension.store.frames import FrameCache, state_of
from recension.store.memory import MemoryStore
with MemoryStore().view() as view:
    state = state_of(view)
cache = FrameCache(Path(sys.argv[1]), MemoryStore(), 1 << 22, print)
found = cache.get_many(state, [bytes.fromhex(sys.argv[2])])
cache.put(state, [(b"from the other", b"its frame")])
print(*[frame.decode() for frame in found.values()])
"""
_FILLING = """
import os, sys
from pathlib import Path
from recension.store.frames import FrameCache, state_of
from recension.store.memory import MemoryStore
with MemoryStore().view() as view:
    state = state_of(view)
cache = FrameCache(Path(sys.argv[1]), MemoryStore(), 1 << 22, print, least_seconds=0)
for _ in range(100):
    cache.put(state, [(os.urandom(32), os.urandom(100_000))])
cache.put(state, [(b"last", b"its frame")])
"""
_FULL = """
import os, resource, signal, sys
from pathlib import Path
from recension.store.frames import FrameCache, state_of
from recension.store.memory import MemoryStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
faults = []
cache = FrameCache(Path(sys.argv[1]), MemoryStore(), 1 << 22, faults.append)
with MemoryStore().view() as view:
    state = state_of(view)
rows = [(os.urandom(32), os.urandom(10_000)) for _ in range(50)]
for row in rows:
    cache.put(state, [row])
print(len(faults), len(cache.get_many(state, [digest for digest, _ in rows])), cache.has_room())
"""


class World:
    """A cache over a store of which only the row of the last removal matters."""

    def __init__(self, data: Path, limit: int = LIMIT, least_seconds: float = 0.0) -> None:
        self.data = data
        self.store = MemoryStore()
        self.faults: list[Exception] = []
        self.cache = FrameCache(data, self.store, limit, self.faults.append, least_seconds=least_seconds)

    @property
    def state(self) -> str:
        with self.store.view() as view:
            return state_of(view)

    def erase(self) -> None:
        self.store.rewrite([Rewrite({}, {keys.removed(): os.urandom(8)}, {})])

    def get(self, digest: bytes, state: str = "") -> bytes | None:
        return self.cache.get_many(state or self.state, [digest]).get(digest)

    def put(self, digest: bytes, frame: bytes, state: str = "") -> None:
        self.cache.put(state or self.state, [(digest, frame)])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    assert world.faults == []


def some(count: int, size: int, seed: int = 1) -> list[Row]:
    """Return frames of that size, by the digests of their texts."""
    random = Random(seed)
    return sorted((digest_of(frame), frame) for frame in (random.randbytes(size) for _ in range(count)))


def files(data: Path) -> list[Path]:
    return sorted(data.glob("frames/*/*/data.mdb"))


def opened(data: Path) -> list[str]:
    """Return which of its files this process has open or mapped, also under no name."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    lines += [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [line for line in lines if f"{data}/frames/" in line]


def test_what_was_put_is_found(world: World) -> None:
    """Those of some texts, as they were put first; nothing is made before it is needed."""
    assert not (world.data / "frames").exists()
    rows = some(20, 3_000)
    world.cache.put(world.state, rows[:10])
    world.put(rows[0][0], b"another")
    assert world.cache.get_many(world.state, [digest for digest, _ in rows]) == dict(rows[:10])
    assert 30_000 < frame_bytes(world.data) <= LIMIT


def test_processes_share_it(world: World) -> None:
    """What one puts the other finds, and the other way round."""
    digest = digest_of(b"text")
    world.put(digest, b"a frame")
    command = (sys.executable, "-c", _OTHER, str(world.data), digest.hex())
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "a frame\n"
    assert world.get(b"from the other") == b"its frame"


def test_after_a_fork_it_is_empty(world: World) -> None:
    """LMDB forbids to use what was opened before."""
    world.put(b"digest", b"frame")
    child = os.fork()
    if not child:
        os._exit(world.get(b"digest") is not None)
    assert os.waitpid(child, 0)[1] == 0
    assert world.get(b"digest") == b"frame"


@pytest.mark.parametrize("row", [b"the digest", b"the frame"])
def test_damage_is_a_miss(world: World, row: bytes) -> None:
    """A byte of a frame, or of the digest that it was put by."""
    world.put(b"the digest", b"the frame")
    assert world.get(b"the digest") == b"the frame"
    (file,) = files(world.data)
    raw = file.read_bytes()
    assert row in raw
    flipped = row[:-1] + bytes([row[-1] ^ 1])
    with file.open("r+b") as there:  # in place: it is mapped
        there.write(raw.replace(row, flipped))
    assert world.get(b"the digest") is None
    assert world.get(flipped) is None


def test_what_is_no_environment_is_made_anew(world: World) -> None:
    """Whatever lies there is removed."""
    world.put(b"digest", b"frame")
    (file,) = files(world.data)
    world.cache.close()
    file.write_bytes(b"no environment" * 1_000)
    assert world.get(b"digest") is None
    world.put(b"digest", b"frame")
    assert world.get(b"digest") == b"frame"
    assert not file.exists()


def test_its_room_is_bounded(world: World) -> None:
    """What came last is there, what came first has gone, and never is more taken than was said."""
    rows = some(4_000, 3_000)
    for at in range(0, len(rows), 50):
        world.cache.put(world.state, rows[at : at + 50])
        assert frame_bytes(world.data) <= LIMIT
    found = world.cache.get_many(world.state, [digest for digest, _ in rows])
    assert LIMIT // 4 < sum(map(len, found.values()))
    assert rows[-1][0] in found
    assert rows[0][0] not in found
    assert len(files(world.data)) == 2
    assert all("(deleted)" not in line for line in opened(world.data))


def test_a_generation_stays_for_a_while(tmp_path: Path) -> None:
    """Else a corpus that is larger than the cache would push itself out all the time, and never be found."""
    world = World(tmp_path, least_seconds=1_000.0)
    rows = some(4_000, 3_000)
    assert world.cache.has_room()
    for at in range(0, len(rows), 50):
        world.cache.put(world.state, rows[at : at + 50])
    assert not world.cache.has_room()
    assert world.get(rows[0][0]) == rows[0][1]
    assert world.get(rows[-1][0]) is None
    world.erase()
    assert world.get(rows[0][0]) is None
    assert world.cache.has_room()
    assert world.faults == []


def test_a_process_that_only_reads_follows_others(world: World) -> None:
    """It finds what they put into a new generation, and lets go of the one that they removed."""
    world.put(b"digest", b"frame")
    (first,) = files(world.data)
    command = (sys.executable, "-c", _FILLING, str(world.data))
    subprocess.run(command, check=True, capture_output=True)
    assert not first.exists()
    assert any("(deleted)" in line for line in opened(world.data))
    world.cache.tend()
    assert world.get(b"digest") is None
    assert world.get(b"last") == b"its frame"
    assert not any("(deleted)" in line for line in opened(world.data))


def test_an_erasure_ends_it(world: World) -> None:
    """What was put before is neither found nor put any more, and no file has it, also under no name."""
    before = world.state
    world.put(b"the digest", b"the frame")
    world.erase()
    assert world.get(b"the digest") is None
    assert b"the frame" not in b"".join(file.read_bytes() for file in files(world.data))
    world.put(b"the digest", b"the frame", before)
    assert world.get(b"the digest", before) is None
    world.put(b"after", b"the other frame")
    assert world.get(b"after") == b"the other frame"
    assert [world.state] == [file.parents[1].name for file in files(world.data)]
    assert all(world.state in line or "(deleted)" not in line for line in opened(world.data))


def test_an_erasure_removes_the_files_of_others(world: World) -> None:
    """A server that has them open, and is asked nothing, lets go of them when it looks."""
    world.put(b"the digest", b"the frame")
    (file,) = files(world.data)
    discard_stale(world.data, world.store)
    assert file.exists()  # nothing was erased
    world.erase()
    discard_stale(world.data, world.store)
    assert files(world.data) == []
    assert opened(world.data)
    world.cache.tend()
    assert opened(world.data) == []


def test_who_reads_what_was_erased_makes_nothing_anew(world: World) -> None:
    """A view from before an erasure finds no place to put anything after it."""
    before = world.state
    world.put(b"first", b"frame")
    world.erase()
    discard_stale(world.data, world.store)
    world.cache.close()
    world.put(b"the digest", b"the frame", before)
    assert files(world.data) == []


def test_a_start_of_the_machine_ends_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not synced may be half written."""
    world.put(b"digest", b"frame")
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(frames, "_BOOT", tmp_path / "boot")
    assert world.get(b"digest") is None
    world.put(b"digest", b"frame")
    assert len(files(world.data)) == 1
    monkeypatch.setattr(frames, "_BOOT", tmp_path / "none")
    assert world.get(b"digest") is None


def test_nobody_waits_for_who_puts(world: World) -> None:
    """Whoever holds the right to put, and was stopped, keeps nobody from reading."""
    world.put(b"first", b"frame")
    with (world.data / "frames" / "putting").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        world.put(b"second", b"frame")
        assert world.get(b"first") == b"frame"
        assert world.get(b"second") is None
    world.put(b"second", b"frame")
    assert world.get(b"second") == b"frame"


def test_nobody_waits_for_who_removes(world: World) -> None:
    """Nor for an erasure that is under way."""
    world.put(b"first", b"frame")
    world.erase()
    with (world.data / "frames" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        world.put(b"second", b"frame")
        assert world.get(b"first") is None
    world.put(b"second", b"frame")
    assert world.get(b"second") == b"frame"


def test_without_room_there_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a part of what the disk has left, and nothing of a disk that is nearly full."""
    for free, there in ((3 * MIB, False), (6 * MIB, True)):
        monkeypatch.setattr(frames, "free_bytes", lambda _, free=free: free)
        world.cache = FrameCache(world.data, world.store, LIMIT, world.faults.append)
        for row in some(1_000, 3_000):
            world.put(*row)
        assert there == (0 < frame_bytes(world.data))
        assert frame_bytes(world.data) <= free // 2


def test_a_full_disk_is_told_once_and_given_its_room_back(tmp_path: Path) -> None:
    """What was written until then goes too: others need the room more."""
    done = subprocess.run(
        (sys.executable, "-c", _FULL, str(tmp_path)), check=True, capture_output=True, text=True
    )
    assert done.stdout == "1 0 False\n"
    assert files(tmp_path) == []


@pytest.mark.parametrize("fault", ["file", "lock", "putting"])
def test_faults_are_misses_and_are_told_once(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever cannot be used is left alone for a while."""
    world = World(tmp_path)
    place = tmp_path / "frames"
    if fault == "file":
        place.write_text("no directory")
    elif fault == "lock":
        (place / "lock").mkdir(parents=True)
    else:
        world.put(b"digest", b"frame")
        (place / "putting").unlink()
        (place / "putting").mkdir()
        world.put(b"digest", b"frame")
    for _ in range(3):
        world.put(b"digest", b"frame")
        assert world.get(b"digest") is None
    assert len(world.faults) == 1
    assert not world.cache.has_room()
    monkeypatch.setattr(world.cache, "_rest_until", 0.0)
    for path in (place, place / "lock", place / "putting"):
        if path.is_file():
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    world.put(b"digest", b"frame")
    assert world.get(b"digest") == b"frame"


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    """An erasure is not over before."""
    (tmp_path / "frames" / "lock").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be removed"):
        discard_stale(tmp_path, MemoryStore())
    discard_stale(tmp_path / "elsewhere", MemoryStore())
