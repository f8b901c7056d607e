"""Fetching onto a disk that is full, and one that cannot be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.model.errors import DiskFullError, ExportError
from recension_client.client import Client
from recension_client.export import fetching
from recension_client.export.fetching import fetch
from recension_client.export.layout import Form
from tests.client.corpus import World, made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("made")) as served:
        yield served


def files_of(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in sorted((target / "data").rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("small_disk", ["tmpfs 1m", "ext4 2m"], indirect=True)
@pytest.mark.parametrize("form", Form)
def test_a_disk_that_gets_full(
    world: World, small_disk: Path, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, nothing has its final name, and with room again the same command ends the work."""
    monkeypatch.setattr(fetching, "needed_bytes", lambda _: 0)  # so that it begins
    filler = small_disk / "filler"
    with Client(world.address) as client:
        manifest = client.snapshot(world.second)
        whole = fetch(client, manifest, tmp_path / "whole", form)
        room = sum(record.size_bytes for record in whole.index.files) // 2
        filler.write_bytes(b"x" * (free(small_disk) - room))
        with pytest.raises(DiskFullError, match="no room"):
            fetch(client, manifest, small_disk / "corpus", form)
        assert not (small_disk / "corpus" / "data").exists()
        filler.unlink()
        fetch(client, manifest, small_disk / "corpus", form)
    assert files_of(tmp_path / "whole") == files_of(small_disk / "corpus")


@pytest.mark.parametrize("small_disk", ["tmpfs 1m"], indirect=True)
def test_too_little_room_is_said_before(
    world: World, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that cannot fit is refused before a byte of it is fetched."""
    (small_disk / "filler").write_bytes(b"x" * (free(small_disk) - 100_000))
    with Client(world.address) as client:
        manifest = client.snapshot(world.second)
        before = client.received_bytes
        with pytest.raises(DiskFullError, match="has room for"):
            fetch(client, manifest, small_disk / "corpus", Form.JSONL)
        assert client.received_bytes - before < 1_000


def free(disk: Path) -> int:
    done = subprocess.run(["df", "--output=avail", "-B1", disk], capture_output=True, check=True, text=True)
    return int(done.stdout.split()[1])


@pytest.mark.parametrize("small_disk", ["tmpfs 4m"], indirect=True)
def test_a_disk_that_is_read_only(world: World, small_disk: Path) -> None:
    """What is there can be used and verified; what would have to be written is an error with a name."""
    with Client(world.address) as client:
        fetch(client, client.snapshot(world.first), small_disk / "corpus", Form.JSONL)
        before = files_of(small_disk / "corpus")
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        with pytest.raises(ExportError, match="Read-only file system"):
            fetch(client, client.snapshot(world.second), small_disk / "corpus", Form.JSONL)
    assert before == files_of(small_disk / "corpus")
