"""The commands fsck, rebuild and gc: exit statuses, reports, slices."""

from __future__ import annotations

import argparse
import fcntl
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recension.archive.check import texts
from recension.archive.reader import Archive
from recension.model.errors import NotAStoreError, WriterBusyError
from recension.server import checking
from recension.store import keys
from recension.store.interface import Rewrite
from recension.store.lmdb import LmdbStore
from tests.archive.test_garbage import leave_nodes
from tests.archive.test_rebuild import assert_same, busy_world


def run(*arguments: str | Path) -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser()
    checking.add_commands(parser.add_subparsers(required=True), _open)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return int(parsed.run(parsed))


def _open(path: Path, *, create: bool = False) -> LmdbStore:
    return LmdbStore.open(path, create=create, force_mount=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory to which everything has happened."""
    with closing(_open(tmp_path / "data", create=True)) as store:
        busy_world(store)
    return tmp_path / "data"


def damage(data: Path) -> None:
    """Lose the time of the second commit."""
    with closing(_open(data)) as store:
        store.rewrite([Rewrite({}, {keys.recorded(2): None}, {})])


def report(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what was printed as JSON."""
    return json.loads(capsys.readouterr().out)


def test_a_sound_directory_is_clean(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, and what was checked."""
    assert run("fsck", "--data", data) == 0
    assert capsys.readouterr().out.startswith("clean: ")
    assert run("fsck", "--data", data, "--json") == 0
    said = report(capsys)
    assert (said["complete"], said["findings"], said["shown"]) == (True, 0, [])
    assert said["texts"] > 100
    assert not (data / checking.STATE).exists()


def test_damage_is_told_with_what_to_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1; kind, place and remedy, for a person and for a program; as many as were asked for."""
    damage(data)
    assert run("fsck", "--data", data) == 1
    text = capsys.readouterr().out
    assert "row-missing: commit time row 420000000000000002" in text
    assert "what to do: make the index anew with: recension-server rebuild" in text
    assert run("fsck", "--data", data, "--json") == 1
    said = report(capsys)
    assert said["kinds"] == {"row-missing": 1}
    assert said["shown"][0].keys() == {"kind", "place", "what", "remedy"}
    assert run("fsck", "--data", data, "--show", "0") == 1
    assert "... and 1 more" in capsys.readouterr().out


def test_a_check_in_slices_ends_with_the_same(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each slice keeps its place in a file beside the data; the last removes it."""
    damage(data)
    said: Any = None
    for _ in range(10_000):
        assert run("fsck", "--data", data, "--max-seconds", "0.000001", "--resume", "--json") in (0, 1)
        said = report(capsys)
        if said["complete"]:
            break
        assert (data / checking.STATE).is_file()
    assert said["kinds"] == {"row-missing": 1}
    assert not (data / checking.STATE).exists()


def test_an_interrupted_check_goes_on(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 130, with its place kept."""
    steps = 0

    def interrupted(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(texts, "_check_blob", interrupted)
    assert run("fsck", "--data", data) == 130
    assert "go on with --resume" in capsys.readouterr().out
    monkeypatch.undo()
    assert run("fsck", "--data", data, "--resume") == 0


def test_what_cannot_run_is_status_2(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No data directory, a file that holds no state, arguments that mean nothing."""
    assert run("fsck", "--data", tmp_path / "none") == 2
    assert "error:" in capsys.readouterr().err
    for content in ("?", "{}", "[]", '{"shown": [], "phase": "log"}', '{"shown": [{}]}'):
        (data / checking.STATE).write_text(content)
        assert run("fsck", "--data", data, "--resume") == 2
    assert run("fsck", "--data", data) == 0
    for wrong in (("--max-seconds", "0"), ("--max-seconds", "inf"), ("--show", "-1")):
        with pytest.raises(SystemExit) as ended:
            run("fsck", "--data", data, *wrong)
        assert ended.value.code == 2


def test_a_progress_bar_for_a_person(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rate and remaining time on a terminal, on standard error; ``--quiet`` has none."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run("fsck", "--data", data) == 0
    shown = capsys.readouterr()
    assert "MB/s" in shown.err
    assert shown.out.startswith("clean: ")
    assert run("fsck", "--data", data, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert run("gc", "--data", data) == 0


def test_a_directory_is_rebuilt_into_another(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy is whole although the original lacks a row; another store is refused."""
    with closing(_open(data)) as store:
        damaged_at = keys.recorded(2)
        with store.view() as view:
            lost = view.get(damaged_at)
    damage(data)
    assert run("rebuild", "--data", data, "--into", tmp_path / "new", "--json") == 0
    assert report(capsys)["missing"] == 0
    assert run("fsck", "--data", tmp_path / "new") == 0
    with closing(_open(data)) as store, closing(_open(tmp_path / "new")) as new:
        store.rewrite([Rewrite({}, {damaged_at: lost}, {})])
        assert_same(store, new)
    capsys.readouterr()
    assert run("rebuild", "--data", data, "--into", tmp_path / "new") == 0
    assert "0 commits" in capsys.readouterr().out


def test_missing_texts_are_status_1(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rebuild cannot bring back a block."""
    with closing(_open(data)) as store, store.view() as view:
        last = view.last_blob_key(b"t", b"u")
    assert last is not None
    with closing(_open(data)) as store:
        store.rewrite([Rewrite({}, {}, {last: None})])
    assert run("rebuild", "--data", data, "--into", tmp_path / "new") == 1
    assert "texts are missing" in capsys.readouterr().out


def test_garbage_is_counted_and_removed_only_when_asked(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run first; afterwards there is nothing left."""
    with closing(_open(data)) as store:
        nodes = leave_nodes(store)
    for _ in range(2):
        assert run("gc", "--data", data, "--json") == 0
        assert report(capsys)["nodes"] == nodes
    assert run("gc", "--data", data) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert run("gc", "--data", data, "--delete") == 0
    assert "removed" in capsys.readouterr().out
    assert run("gc", "--data", data) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert run("fsck", "--data", data) == 0


def test_snapshots_that_no_pin_holds_are_released_when_asked(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The days are read, the snapshots counted but for the pinned one, and what is left is whole."""
    with closing(_open(data)) as store:
        snapshots = len(list(Archive(store).snapshots())) - 1
    assert snapshots > 1
    assert run("gc", "--data", data, "--unpinned-days", "100000") == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert run("gc", "--data", data, "--unpinned-days", "0", "--delete") == 0
    assert f"snapshots released   {snapshots}" in capsys.readouterr().out
    assert run("gc", "--data", data, "--unpinned-days", "0", "--json") == 0
    assert report(capsys)["snapshots"] == 0
    assert run("fsck", "--data", data) == 0
    for days in ("-1", "inf", "nan", "x"):
        with pytest.raises(SystemExit):
            run("gc", "--data", data, "--unpinned-days", days)


def test_a_writer_keeps_gc_and_rebuild_out(data: Path, tmp_path: Path) -> None:
    """Both need the right to write alone; a check does not."""
    with (data / "writer.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (("gc", "--delete"), ("rebuild", "--into", tmp_path / "new")):
            with pytest.raises(WriterBusyError):
                run(*command, "--data", data)
        assert run("fsck", "--data", data) == 0
    with pytest.raises(NotAStoreError):
        run("gc", "--data", tmp_path / "none")
