from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from recension.model.errors import DataLossError, NotAStoreError, StoreError, WriterBusyError
from recension.server.operating import add_commands
from recension.store.interface import Rewrite
from recension.store.lmdb import LmdbStore
from recension_client.client import Client
from tests.archive.helpers import World, edit
from tests.client.processes import serving

_COMMAND = """
import argparse, sys
from recension.server.operating import add_commands
from recension.store.lmdb import LmdbStore
parser = argparse.ArgumentParser()
add_commands(parser.add_subparsers(), LmdbStore)
arguments = parser.parse_args()
sys.exit(arguments.run(arguments))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        world = World(store)
        world.add(*(world.event(page, 1, edit(page, f"text of {page}" * 50)) for page in range(1, 200)))
        world.snapshot(2)
        store.put_derived((b"x" + at.to_bytes(8, "big"), bytes(500)) for at in range(4000))
    return tmp_path / "data"


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(), LmdbStore)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    status: int = parsed.run(parsed)
    return status


def test_the_round(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Backup, restore, compact, each with 0 and one JSON document that names the same head."""
    with closing(LmdbStore.open(data)) as store:
        head = store.log.head()
    again, copy = tmp_path / "again", tmp_path / "copy"
    documents = []
    for command in (
        ("backup", copy, "--data", data),
        ("restore", copy, "--data", again),
        ("compact", "--data", again),
    ):
        assert 0 == run(*command, "--json")
        documents.append(json.loads(capsys.readouterr().out))
    assert {(head.position, head.hash.hex())} == {(one["position"], one["head"]) for one in documents}
    assert 1 == len({one["rows"] for one in documents})
    assert 0 == run("stats", "--data", data, "--json")
    stats = json.loads(capsys.readouterr().out)
    assert {"revisions": 199, "pages": 199, "texts": 199} == stats["total"]
    assert head.position == stats["position"]
    assert {"tails", "bytes", "pages"} == set(stats["backlog"])
    assert {"file_bytes", "free_bytes", "disk_free_bytes", "readers", "oldest_reader_commits"} < set(
        stats["usage"]
    )


def test_fsck_of_a_copy(data: Path, tmp_path: Path) -> None:
    """With ``--fsck`` a copy that lacks a text is none; rows alone do not show it."""
    with closing(LmdbStore.open(data)) as store, store.view() as view:
        rows = dict(view.scan(b"x", b"y"))
        text = view.scan(b"D", b"E", limit=1)[0][0]
        store.rewrite([Rewrite({}, dict.fromkeys(rows), {})])
    assert 0 == run("backup", tmp_path / "whole", "--data", data, "--fsck")
    with closing(LmdbStore.open(data)) as store:
        store.rewrite([Rewrite({}, {text: None}, {})])
    assert 0 == run("backup", tmp_path / "lacking", "--data", data)
    with pytest.raises(DataLossError):
        run("backup", tmp_path / "copy", "--data", data, "--fsck")
    with pytest.raises(DataLossError):
        run("restore", tmp_path / "lacking", "--data", tmp_path / "again", "--fsck")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "again" / "lmdb").exists()
    assert 0 == run("restore", tmp_path / "whole", "--data", tmp_path / "again", "--fsck")


def test_for_a_person(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` each says in words what it did, and where nobody watches there is no bar."""
    run("backup", tmp_path / "copy\x1b[31m", "--data", data)
    out, err = capsys.readouterr()
    assert "copy\\u001b[31m: " in out
    assert "log to position" in out
    run("compact", "--data", data)
    assert "given back" in capsys.readouterr().out
    run("stats", "--data", data)
    out, _ = capsys.readouterr()
    assert "edits in timelines" in out
    assert "not sealed yet" in out
    assert "" == err


def test_refusals_are_named(data: Path, tmp_path: Path) -> None:
    """What cannot be done is a named error, for which the command leaves with 3."""
    absent = tmp_path / "absent"
    for command in ("compact", "stats"):
        with pytest.raises(NotAStoreError):
            run(command, "--data", absent)
    with pytest.raises(StoreError):
        run("backup", data, "--data", data)
    with pytest.raises(StoreError):
        run("restore", data, "--data", data)
    with pytest.raises(NotAStoreError):
        run("restore", absent, "--data", tmp_path / "new")
    with (
        closing(LmdbStore.open(data)) as store,
        store.exclusive_writer(),
        pytest.raises(StoreError) as caught,
    ):
        store.compact()
    assert isinstance(caught.value, WriterBusyError)
    assert not absent.exists()


@pytest.mark.parametrize("command", ["compact", "backup", "restore", "stats"])
def test_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without what it needs a command says how it is called, and leaves with 2."""
    with pytest.raises(SystemExit) as left:
        run(command)
    assert 2 == left.value.code
    assert "usage" in capsys.readouterr().err


def on_a_terminal(*arguments: object) -> str:
    """Run a command whose standard error is a terminal; return what it wrote there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _COMMAND, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, check=True, timeout=60, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while more := os.read(ours, 65536):
            seen += more
    except OSError:
        pass  # the terminal is gone with its last user
    os.close(ours)
    return seen.decode()


def test_a_bar_on_a_terminal(data: Path, tmp_path: Path) -> None:
    """A person sees what is being done, how fast, and how long it still takes; ``--quiet`` shows nothing."""
    seen = on_a_terminal("backup", tmp_path / "copy", "--data", data)
    assert "copying" in seen
    assert "reading back" in seen
    assert "MiB/s" in seen
    assert "rows/s" in on_a_terminal("stats", "--data", data)
    assert "" == on_a_terminal("compact", "--data", data, "--quiet")


def test_interrupted(data: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle leaves everything as it was and no part of a copy."""
    with closing(LmdbStore.open(data)) as store:

        def interrupt(what: str, done: int, total: int) -> None:
            signal.raise_signal(signal.SIGINT)

        for work in (
            lambda: store.compact(interrupt),
            lambda: store.backup(tmp_path / "copy", interrupt),
        ):
            with pytest.raises(KeyboardInterrupt):
                work()
    assert {"data"} == {entry.name for entry in tmp_path.iterdir()}
    assert {"lmdb", "swap.lock", "writer.lock"} == {entry.name for entry in data.iterdir()}
    assert 0 == run("compact", "--data", data)


def test_compacting_under_a_server(data: Path) -> None:
    """Clients of two workers have every answer through compactions, and see at once what came after each."""
    over = threading.Event()
    faults: list[str] = []
    asked: list[int] = []

    def ask(address: str) -> None:
        with Client(address) as client:
            while not over.wait(0.1) and len(asked) < 120:  # nobody empties the server's pipe of log lines
                page = len(asked) % 199 + 1
                try:
                    slot = client.article("w", page).revision.slot()
                    assert slot is not None
                    assert f"text of {page}".encode() * 50 == slot.text
                except Exception as error:  # noqa: BLE001 - each is a fault
                    faults.append(repr(error))
                asked.append(page)

    with serving(data, "--workers", "2") as address, closing(LmdbStore.open(data)) as store:
        readers = [threading.Thread(target=ask, args=(address,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        world = World(store)
        for number in range(3):
            compact = [sys.executable, "-c", _COMMAND, "compact", "--data", str(data)]
            subprocess.run(compact, check=True, stdout=subprocess.DEVNULL, timeout=60)
            revision = 1000 + number
            world.add(world.event(500, number, edit(revision, f"new {number}")))
            with Client(address) as client:
                assert revision == client.revision("w", revision).revision.rev_id
        over.set()
        for reader in readers:
            reader.join()
    assert [] == faults
    assert asked
