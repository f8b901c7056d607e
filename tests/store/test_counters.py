"""Counters: exact among processes, whole after kills, named when they cannot be used."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recension.model.errors import CountersDamagedError, StoreError, StoreForkedError, StoreFullError
from recension.store import counters
from recension.store.counters import COUNTERS_DIRECTORY, QUOTAS, RATES, Counters

_ADD = """
import sys
from pathlib import Path
from recension.store.counters import Counters
counters = Counters(Path(sys.argv[1]), sys.argv[2], force_mount=True)
for number in range(int(sys.argv[3])):
    with counters.changing() as cells:
        cells.put(b"n", (int.from_bytes(cells.get(b"n") or b"", "big") + 1).to_bytes(8, "big"))
    if number % 16 == 15:
        print("done", number + 1, flush=True)
"""


def opened(data: Path, place: str = QUOTAS) -> Counters:
    return Counters(data, place, force_mount=True)


def seen(found: Counters) -> bytes | None:
    with closing(found), found.looking() as cells:
        return cells.get(b"key")


def adding(data: Path, place: str, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _ADD, str(data), place, str(times)], stdout=subprocess.PIPE, text=True
    )


def number(data: Path, place: str) -> int:
    with closing(opened(data, place)) as found, found.looking() as cells:
        return int.from_bytes(cells.get(b"n") or b"", "big")


@pytest.fixture(params=[RATES, QUOTAS])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_change_of_every_process_counts(tmp_path: Path, place: str) -> None:
    """Two processes that add 1 make the sum, and both may begin with making the place."""
    children = [adding(tmp_path, place, 50) for _ in range(2)]
    assert [0] * 2 == [child.wait() for child in children]
    assert 100 == number(tmp_path, place)
    for child in children:
        assert child.stdout
        child.stdout.close()


def test_what_a_killed_process_changed_stays(tmp_path: Path, place: str) -> None:
    """At least what it said it had done, and nobody waits for a lock of the dead."""
    with adding(tmp_path, place, 1_000_000) as child:
        assert child.stdout
        said = [child.stdout.readline() for _ in range(3)]
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert int(said[-1].split()[1]) <= number(tmp_path, place)
    with closing(opened(tmp_path, place)) as found, found.changing() as cells:
        cells.put(b"n", b"\1")
    assert 1 == number(tmp_path, place)


def test_a_change_that_raises_changes_nothing(tmp_path: Path) -> None:
    """Nor does reading see half of one."""
    with closing(opened(tmp_path)) as found:
        with pytest.raises(ZeroDivisionError), found.changing() as cells:
            cells.put(b"a", b"1")
            raise ZeroDivisionError
        with found.changing() as cells:
            assert cells.get(b"a") is None
            for key in (b"p1", b"p2", b"q"):
                cells.put(key, key)
            cells.delete(b"p2")
            cells.delete(b"none")
        with found.looking() as cells:
            assert [(b"p1", b"p1")] == cells.rows(b"p")
            assert [] == cells.rows(b"z")


def _flip(file: Path, what: bytes) -> None:
    raw = file.read_bytes()
    assert what in raw
    file.write_bytes(raw.replace(what, what[:-1] + bytes([what[-1] ^ 1])))


@pytest.mark.parametrize("fault", ["row", "file"])
def test_damage_is_named_or_made_anew(tmp_path: Path, place: str, fault: str) -> None:
    """Rates begin anew; what was used of a quota is not forgotten in silence."""
    with closing(opened(tmp_path, place)) as found, found.changing() as cells:
        cells.put(b"key", b"the value that is flipped")
    file = tmp_path / COUNTERS_DIRECTORY / place / "data.mdb"
    if fault == "row":
        _flip(file, b"the value that is flipped")
    else:
        file.write_bytes(b"no environment" * 1_000)
    if place == QUOTAS:
        with pytest.raises(CountersDamagedError, match="is damaged"):
            seen(opened(tmp_path, place))
        shutil.rmtree(file.parent)
    with closing(opened(tmp_path, place)) as found, found.looking() as cells:
        assert cells.get(b"key") is None


def test_a_full_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room is not there, and what was there is."""
    monkeypatch.setattr(counters, "_MAP_BYTES", 1 << 16)
    with closing(opened(tmp_path)) as found:
        with pytest.raises(StoreFullError), found.changing() as cells:
            for key in range(1_000):
                cells.put(key.to_bytes(2, "big"), b"x" * 400)
        with found.changing() as cells:
            assert cells.get(b"\0\0") is None
            cells.put(b"small", b"fits")


def test_rates_have_their_room_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map is written to only where its room stays its own; where there is none, that is named at once."""
    for kept in (False, True):
        monkeypatch.setattr(counters, "keeps_room", lambda _, kept=kept: kept)
        with closing(opened(tmp_path, RATES)) as found:
            with found.changing() as cells:
                cells.put(b"n", bytes([kept]))
            assert kept is found._env().flags()["writemap"]
        blocks = (tmp_path / COUNTERS_DIRECTORY / RATES / "data.mdb").stat().st_blocks
        assert kept is (blocks * 512 >= counters._RATES_BYTES)
    assert 1 == number(tmp_path, RATES)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFullError):
        seen(opened(tmp_path, RATES))
    with closing(opened(tmp_path, QUOTAS)) as found, found.changing() as cells:
        cells.put(b"n", b"\1")


def test_a_full_place_of_rates_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of quotas is; what was there before is not harmed."""
    monkeypatch.setattr(counters, "_RATES_BYTES", 1 << 16)
    monkeypatch.setattr(counters, "_MAP_BYTES", 1 << 16)
    with closing(opened(tmp_path, RATES)) as found:
        with pytest.raises(StoreFullError), found.changing() as cells:
            for key in range(1_000):
                cells.put(key.to_bytes(2, "big"), b"x" * 400)
        with found.changing() as cells:
            assert cells.get(b"\0\0") is None
            cells.put(b"small", b"fits")


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in its place, and a data directory that is none."""
    (tmp_path / COUNTERS_DIRECTORY).write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be used"):
        seen(opened(tmp_path))
    with pytest.raises(StoreError, match="cannot be used"):
        seen(opened(tmp_path / "none"))


def test_a_fork_is_refused(tmp_path: Path) -> None:
    """LMDB forbids it, and would not say so."""
    with closing(opened(tmp_path)) as found:
        assert not found.exist()
        with found.looking():
            assert found.exist()
        child = os.fork()
        if not child:
            try:
                with found.changing():
                    os._exit(1)
            except StoreForkedError:
                os._exit(0)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_rates_are_never_synced(tmp_path: Path) -> None:
    """Quotas always are."""
    with closing(opened(tmp_path, RATES)) as found:
        assert not found._env().flags()["sync"]
    with closing(opened(tmp_path, QUOTAS)) as found:
        assert found._env().flags()["sync"]
        assert found._env().flags()["metasync"]
