"""Texts as frames, beside the store, so that what is asked for in bulk again and again is put together once.

A cache, and no part of the archive: no backup has it, nothing is checked against it, and whatever is wrong
with it is a miss. It lies in ``DATA/frames/STATE/NUMBER``. ``STATE`` follows from the store's row of the last
removal, which every erasure changes, and from the machine's start: a frame is looked up and put for views of
that state alone. So what an erasure destroyed is not found again, wherever that stands, and nothing that a
loss of power left half written is ever opened. ``NUMBER`` is a generation, of half of what may be taken; of
three the oldest goes.

Directories are made and removed by the holder of ``DATA/frames/lock`` alone, who looks at the store first:
nobody makes one anew of a state that an erasure has ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from zlib import crc32

import lmdb

from recension.model.errors import RecensionError, StoreError
from recension.store import keys
from recension.store.directory import free_bytes, remove
from recension.store.environment import check_usable
from recension.store.interface import Row, Store, View

FRAMES_DIRECTORY = "frames"
"""Name of the directory in a data directory."""
_LOCK, _PUTTING = "lock", "putting"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STATE_CHARACTERS = 16
_SHARE_OF_FREE = 4
"""A generation is at most this part of what the disk has left."""
_LEAST_BYTES = 1 << 20
"""Of a generation; with less room there is none."""
_LEAST_SECONDS = 600.0
"""The newest generation stays so long, full or not: a corpus larger than both would only pass through."""
_AGAIN_SECONDS = 60.0
"""After a fault nothing is tried for so long."""
_MAX_READERS = 1024
_SEAL_BYTES = 4


def state_of(view: View) -> str:
    """Return what names the frames that belong to a view."""
    removed = view.get(keys.removed())
    return sha256(_boot() + (removed or b"")).hexdigest()[:_STATE_CHARACTERS]


def _boot() -> bytes:
    """Return what is another after each start of the machine, and empty bytes where nobody knows it."""
    try:
        return _BOOT.read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class _Generation:
    """One environment. LMDB closes it when nothing refers to it, nor to a transaction of it."""

    number: int
    env: lmdb.Environment


@dataclass(frozen=True, slots=True)
class _Opened:
    """The generations of a state, the newest first."""

    state: str
    generations: tuple[_Generation, ...]

    @property
    def numbers(self) -> list[int]:
        return [one.number for one in self.generations]


class FrameCache:
    """The frames of a data directory. Safe for concurrent use by threads and processes; empty after a fork.

    It is opened when it is first needed, and made first if it is not there. No call but ``tend`` waits for
    another process.
    """

    def __init__(
        self,
        data: Path,
        store: Store,
        limit_bytes: int,
        failed: Callable[[Exception], None],
        *,
        least_seconds: float = _LEAST_SECONDS,
    ) -> None:
        """``data``: the data directory; ``limit_bytes``: all that is taken there; ``failed``: told of faults.

        ``least_seconds``: how long a generation stays that is full. Nothing is touched yet.
        """
        self._folder = data.absolute() / FRAMES_DIRECTORY
        self._store = store
        self._limit = limit_bytes
        self._failed = failed
        self._least_seconds = least_seconds
        self._pid = os.getpid()
        self._lock = Lock()
        self._opened: _Opened | None = None
        self._rest_until = 0.0
        self._full_until = 0.0

    def has_room(self) -> bool:
        """Say whether there is a point in putting anything, as far as is known."""
        return time.monotonic() >= max(self._full_until, self._rest_until)

    def state_of(self, view: View) -> str:
        """Return what names the frames that belong to a view."""
        return state_of(view)

    def get_many(self, state: str, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the frames of those texts that are there."""
        opened = self._of(state)
        if opened is None:
            return {}
        try:
            return _found(opened, digests)
        except lmdb.Error as error:
            self._fail(error)
            return {}

    def put(self, state: str, frames: Sequence[Row]) -> None:
        """Put frames by the digests of their texts; not those of digests that are there.

        Left out where another process or thread puts some just now, or where there is no room.
        """
        opened = self._of(state)
        if opened is None:
            return
        rows = [(digest, _seal(digest, frame) + frame) for digest, frame in frames]
        try:
            with self._putting() as alone:
                if alone and not _put(opened, rows):
                    roomier = self._with_room(opened)
                    if roomier is not None:
                        _put(roomier, rows)
        except (lmdb.Error, OSError, RecensionError) as error:
            self._fail(error)

    def tend(self) -> None:
        """Let go of what an erasure or another process has removed: until then its room is not given back."""
        opened = self._opened
        if opened is None:
            return
        if _newest(self._store) != opened.state:
            self.close()
            discard_stale(self._folder.parent, self._store)
        elif opened.numbers != _numbers(self._folder / opened.state)[:2]:
            self._open(opened.state)

    def close(self) -> None:
        """Let go of it; it is opened again when it is needed."""
        self._opened = None

    def _of(self, state: str) -> _Opened | None:
        """Return what is open of a state; ``None`` where that has ended, or after a fault."""
        opened = self._opened
        if os.getpid() != self._pid:
            return None
        if opened is not None and opened.state == state:
            return opened
        return None if time.monotonic() < self._rest_until else self._open(state)

    def _open(self, state: str) -> _Opened | None:
        """Open what there is of a state, made if need be, unless it has ended."""
        with self._lock:
            try:
                self._folder.mkdir(exist_ok=True)
                check_usable(self._folder.resolve(), force=False)
                with _alone(self._folder, wait=False) as alone:
                    if alone and _newest(self._store) == state:
                        _remove_all_but(self._folder, state)
                        self._full_until = 0.0
                        self._opened = self._open_all(state)
                        return self._opened
            except (lmdb.Error, OSError, RecensionError) as error:
                self._fail(error)
            return None

    def _open_all(self, state: str) -> _Opened | None:
        if not _numbers(self._folder / state) and not self._make(state):
            return None
        try:
            return self._open_made(state)
        except lmdb.Error:
            remove(self._folder / state)  # whatever was found there is none of ours
        return self._open_made(state) if self._make(state) else None

    def _open_made(self, state: str) -> _Opened:
        before = self._opened
        known = (
            {} if before is None or before.state != state else {one.number: one for one in before.generations}
        )
        folder = self._folder / state
        # A map of size 0 is as large as it was when it was made.
        some = [
            known.get(number) or _Generation(number, _environment(folder / str(number), 0))
            for number in _numbers(folder)[:2]
        ]
        return _Opened(state, tuple(some))

    def _make(self, state: str) -> bool:
        """Make an empty generation; says whether there is room. For who is alone."""
        size = min(self._limit // 2, free_bytes(self._folder) // _SHARE_OF_FREE)
        size -= size % os.sysconf("SC_PAGE_SIZE")
        if size < _LEAST_BYTES:
            self._rest_until = time.monotonic() + _AGAIN_SECONDS
            return False
        folder = self._folder / state
        new = folder / "new"
        remove(new)
        new.mkdir(parents=True)
        env = _environment(new, size)
        with env.begin(write=True) as txn:
            txn.put(b"!", b"")  # without a row nothing would be written, nor how large the map is
        env.close()
        # The time, so that no name comes again, whatever was removed.
        new.rename(folder / str(max(time.time_ns(), *(number + 1 for number in _numbers(folder)), 0)))
        return True

    def _with_room(self, opened: _Opened) -> _Opened | None:
        """Return the state with a generation that is not full: one that another made, or a new one."""
        folder = self._folder / opened.state
        with self._lock, _alone(self._folder, wait=False) as alone:
            numbers = _numbers(folder)
            if not alone or not numbers:
                return None  # an erasure ended it
            if numbers[:2] == opened.numbers:
                seconds = (time.time_ns() - numbers[0]) / 1e9
                if len(numbers) > 1 and 0 <= seconds < self._least_seconds:
                    self._full_until = time.monotonic() + self._least_seconds - seconds
                    return None
                if not self._make(opened.state):
                    return None
                for number in numbers[1:]:
                    remove(folder / str(number))
            self._opened = self._open_made(opened.state)
            return self._opened

    @contextmanager
    def _putting(self) -> Iterator[bool]:
        """Say whether nobody else puts anything: LMDB would wait for them, even for one that is stopped."""
        with _locked(self._folder / _PUTTING, fcntl.LOCK_EX | fcntl.LOCK_NB) as had:
            yield had

    def _fail(self, error: Exception) -> None:
        """Rest a while; what LMDB cannot use is removed, also where the disk is full."""
        self._rest_until = time.monotonic() + _AGAIN_SECONDS
        opened, self._opened = self._opened, None
        if opened is not None and isinstance(error, lmdb.Error):
            with suppress(OSError, RecensionError), _alone(self._folder, wait=False) as alone:
                if alone:
                    remove(self._folder / opened.state)
        self._failed(error)


def discard_stale(data: Path, store: Store) -> None:
    """Remove all frames but those of the store's newest state: those from before an erasure.

    When it returns, no file has them; a server that has one open lets go of it within seconds. Raises
    ``StoreError``.
    """
    folder = data.absolute() / FRAMES_DIRECTORY
    try:
        if folder.is_dir():
            with _alone(folder, wait=True):
                _remove_all_but(folder, _newest(store))
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be removed: {error.strerror}", hint="remove it", path=folder
        ) from None


def frame_bytes(data: Path) -> int:
    """Return what the frames of a data directory take on the disk."""
    files = (data / FRAMES_DIRECTORY).rglob("data.mdb")
    return sum(_disk_bytes(path) for path in files)


def _disk_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0  # it went meanwhile


def _newest(store: Store) -> str:
    with store.view() as view:
        return state_of(view)


def _remove_all_but(folder: Path, state: str) -> None:
    for path in folder.iterdir():
        if path.is_dir() and path.name != state:
            remove(path)


@contextmanager
def _alone(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Be the one who makes and removes directories; without ``wait`` says at once whether that is so."""
    with _locked(folder / _LOCK, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB) as had:
        yield had


@contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _numbers(folder: Path) -> list[int]:
    """Return the generations of a state, the newest first."""
    try:
        return sorted((int(name) for name in os.listdir(folder) if name.isdecimal()), reverse=True)  # noqa: PTH208
    except OSError:
        return []


def _environment(path: Path, map_bytes: int) -> lmdb.Environment:
    # Not a map that is written to: on a full disk that would end the process.
    return lmdb.open(
        str(path),
        map_size=map_bytes,
        max_dbs=0,
        max_readers=_MAX_READERS,
        sync=False,
        metasync=False,
        lib_version=0,  # as the store: no other format by the environment's wish
    )


def _put(opened: _Opened, rows: list[Row]) -> bool:
    """Put rows into the newest generation; says whether there was room."""
    try:
        with opened.generations[0].env.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(rows, overwrite=False)
    except lmdb.MapFullError:
        return False
    return True


def _found(opened: _Opened, digests: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the frames that are there, and are what was put there."""
    found: dict[bytes, bytes] = {}
    missing = list(digests)
    for one in opened.generations:
        if not missing:
            break
        left = []
        with one.env.begin(buffers=True) as txn:
            for digest in missing:
                raw = txn.get(digest)
                frame = b"" if raw is None else bytes(raw[_SEAL_BYTES:])
                if raw is not None and raw[:_SEAL_BYTES] == _seal(digest, frame):
                    found[digest] = frame
                else:
                    left.append(digest)
        missing = left
    return found


def _seal(digest: bytes, frame: bytes) -> bytes:
    """Return what tells damage, in a third of the time of SHA-256: takers hash the text anyway."""
    return crc32(frame, crc32(digest)).to_bytes(_SEAL_BYTES, "big")
