"""``recension proof``: made by a real server, checked without one by the command and the single file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension_client import verify
from tests.client.corpus import HIDDEN, World, ask, made
from tests.client.processes import free_port


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("made")) as served:
        yield served


@pytest.fixture
def repository(world: World, tmp_path: Path) -> Path:
    """A folder with a lock of 2021."""
    ask(world, tmp_path, "pin", "made", "--at", "2021-01-01", "--on-hidden", "keep")
    return tmp_path


def away(world: World, folder: Path, *arguments: str, status: int = 0) -> str:
    """Run a command that can reach no server."""
    return ask(world, folder, *arguments, "--server", f"127.0.0.1:{free_port()}", status=status)


def by_single_file(folder: Path, file: str, wanted: str) -> tuple[int, str]:
    """Check a proof by a copy of the verifier, run by a Python that sees nothing of ours."""
    program = shutil.copy(verify.__file__, folder / "verify.py")
    command = [sys.executable, "-I", "-S", program, "proof", folder / file, wanted]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert "" == done.stderr
    return done.returncode, done.stdout


def locked_id(world: World, folder: Path) -> str:
    return str(json.loads(ask(world, folder, "lock", "--json"))["snapshot"]["id"])


@pytest.mark.parametrize(
    "page, said",
    [
        ("Page 12", ["page 12 of 'made' is in the snapshot", "revision: 120 of 2020-01-01T00:00:00Z"]),
        ("id:12", ["title: 'Page 12'"]),
        ("id:6", ["title: '\\u2028line\\u202e'"]),
        ("id:150", ["slot 'main': sha256:", "slot 'notes': sha256:"]),
        ("id:13", ["page 13 of 'made' is not in the snapshot", "as of: 2021-01-01T00:00:00Z known at "]),
    ],
)
def test_of_the_locked_snapshot(world: World, repository: Path, page: str, said: list[str]) -> None:
    """By title or id, in or not in it; both verifiers say the same, and need no server."""
    ask(world, repository, "proof", page, "-o", "page.proof")
    told = away(world, repository, "proof", "verify", "page.proof")
    assert all(part in told for part in said)
    assert (0, told) == by_single_file(repository, "page.proof", locked_id(world, repository))
    assert ask(world, repository, "proof", page).encode() == (repository / "page.proof").read_bytes()


def test_of_a_snapshot_by_its_id(world: World, tmp_path: Path) -> None:
    """Without a lock; a text that was hidden by then is withheld, its page is still there."""
    wanted = f"sha256:{world.second.hex()}"
    by_id = ("--snapshot", wanted)
    ask(world, tmp_path, "proof", f"id:{HIDDEN}", *by_id, "-o", "p")
    assert "content: withheld" in away(world, tmp_path, "proof", "verify", "p", *by_id)
    ask(world, tmp_path, "proof", "Twelve", *by_id, "--project", "made", "-o", "p")
    row = json.loads(away(world, tmp_path, "proof", "verify", "p", *by_id, "--json"))
    assert row == {
        "ok": True,
        "snapshot": wanted,
        "project": "made",
        "page_id": 12,
        "in_snapshot": True,
        "rev_id": 120,
        "timestamp": "2020-01-01T00:00:00Z",
        "namespace": 0,
        "title": "Twelve",
    }
    assert "there is no recension.lock" in away(world, tmp_path, "proof", "verify", "p", status=3)


def test_what_is_not_proved(world: World, repository: Path) -> None:
    """Exit code 1, and why: a proof of another snapshot, a changed one, what is none; by both verifiers."""
    wanted, other = locked_id(world, repository), f"sha256:{world.second.hex()}"
    ask(world, repository, "proof", "id:12", "-o", "good")
    good = (repository / "good").read_bytes()
    ask(world, repository, "proof", "id:12", "--snapshot", other, "-o", "other")
    bad = {
        "other": "stands for",
        "changed": "another root",
        "cut": "NOT PROVED",
        "long": "more than",
        "binary": "NOT PROVED",
    }
    (repository / "changed").write_bytes(good.replace(b'"rev_id":"120"', b'"rev_id":"121"'))
    (repository / "cut").write_bytes(good[:-1])
    (repository / "binary").write_bytes(b"\xff\x00")
    with (repository / "long").open("wb") as file:
        file.truncate(verify.MAX_PROOF_BYTES + 1)
    for name, reason in bad.items():
        told = away(world, repository, "proof", "verify", name, status=1)
        assert told.startswith("NOT PROVED: ")
        assert reason in told
        status, said = by_single_file(repository, name, wanted)
        assert (1, reason in said) == (status, True)
    assert json.loads(away(world, repository, "proof", "verify", "cut", "--json", status=1))["ok"] is False
    assert "cannot be read" in away(world, repository, "proof", "verify", "missing", status=3)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("No such page",), "No such page"),
        (("id:12", "--project", "other"), "the snapshot is of made"),
        (("two", "words", "here"), "quote a title"),
        (("id:0",), "not a page id"),
    ],
)
def test_what_cannot_be_asked(world: World, repository: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in ask(world, repository, "proof", *arguments, status=3)
