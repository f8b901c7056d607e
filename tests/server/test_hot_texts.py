"""Frames beside the store of a server that runs: filled by real reads, and gone with what is erased."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
import zstandard

from recension.model.errors import InvalidArgumentError
from recension.model.event import Presence
from recension.model.reading import Entry
from recension.server.config import ServeConfig
from recension.server.main import main
from recension.server.searching import Searched, Searcher
from recension.store.lmdb import LmdbStore
from recension_client.client import Client
from tests.archive.helpers import World, edit
from tests.client.processes import serving
from tests.server.helpers import until

PAGES = 30
CANARY = "canary-" + "".join(Random(1).choices("abcdefghijklmnop \n", k=4000))
DIGEST = sha256(CANARY.encode()).digest()
MAGIC = zstandard.FRAME_HEADER


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Some pages of two revisions, and a snapshot of the first ones; that of page 7 is the canary."""
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        world = World(store)
        for rev in (1, 2):
            texts = {page: f"page {page}, {rev} " * 200 for page in range(1, PAGES + 1)}
            texts |= {7: CANARY} if rev == 1 else {}
            events = [
                world.event(page, rev, edit(100 * page + rev, text, f"P{page}"))
                for page, text in texts.items()
            ]
            world.add(*events)
        world.ingestor.settle()
        (tmp_path / "snapshot").write_text(world.snapshot(1.5).hex())
    return tmp_path / "data"


def frames_in(folder: Path) -> Iterator[bytes]:
    """Yield the contents of all zstd frames anywhere in the files below a folder."""
    for path in folder.rglob("*"):
        raw = path.read_bytes() if path.is_file() else b""
        for at in (at for at in range(len(raw)) if raw.startswith(MAGIC, at)):
            with suppress(zstandard.ZstdError):
                yield zstandard.ZstdDecompressor().decompressobj().decompress(raw[at:])


def holds_canary(folder: Path) -> bool:
    """Say whether a folder has the canary, compressed or not, or its digest."""
    found = Searcher({DIGEST[:16]}).search(folder, (), Searched()) is not None
    return found or any(CANARY.encode() in content for content in frames_in(folder))


def mapped(data: Path) -> list[str]:
    """Return the files below ``frames`` that some process has mapped though they were removed."""
    lines = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            lines += [line for line in maps.read_text().splitlines() if f"{data}/frames/" in line]
    return [line for line in lines if line.endswith("(deleted)")]


def read(address: str, data: Path, times: int = 3) -> list[Entry]:
    """Read the snapshot as often as that; return its entries of the last time."""
    entries: list[Entry] = []
    with Client(address) as client:
        for _ in range(times):
            entries = list(client.read(bytes.fromhex((data.parent / "snapshot").read_text())))
    return entries


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that succeeds; return what it writes."""
    status = main([str(argument) for argument in arguments])
    written = capsys.readouterr()
    assert status == 0, written.err
    return written.out


def test_an_erasure_leaves_nothing_in_the_frames(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that runs meanwhile neither has nor shows nor makes anew what was erased."""
    frames = data / "frames"
    run(capsys, "key", "create", "example.org/log", "--data", data)
    with serving(data) as address:
        assert {entry.page_id: entry for entry in read(address, data)}[7].slots[0].text == CANARY.encode()
        assert holds_canary(frames)
        stats = json.loads(run(capsys, "stats", "--data", data, "--json"))
        assert stats["frame_cache_bytes"] > len(CANARY) / 2
        shutil.copytree(frames, data.parent / "before")
        run(
            capsys, "retract", "w", "--revision", 701, "--reason", "privacy", "--case", "c", "--yes",
            "--data", data,
        )  # fmt: skip
        assert not holds_canary(frames)
        until(lambda: not mapped(data))
        shown = {entry.page_id: entry for entry in read(address, data)}
        assert (Presence.HIDDEN, PAGES) == (shown[7].slots[0].presence, len(shown))
        assert any(b"page 8, 1 " in content for content in frames_in(frames))
        assert not holds_canary(frames)
    # What a process left that was killed before it could remove it goes with the compaction; the search of
    # the receipt sees it wherever else it lies.
    for place in (frames, data / "elsewhere"):
        shutil.copytree(data.parent / "before", place, dirs_exist_ok=True)
    assert holds_canary(frames)
    assert main(["compact", "--data", str(data)]) == 3
    assert f"{data / 'elsewhere'}" in capsys.readouterr().err
    assert not holds_canary(frames)
    shutil.rmtree(data / "elsewhere")
    assert json.loads(run(capsys, "compact", "--data", data, "--json"))["receipts"] == ["c"]
    assert Searcher({DIGEST[:16]}).search(data, (), Searched()) is None


def test_without_a_cache_there_is_none(data: Path) -> None:
    """``--frame-cache 0``: the same texts, and no files."""
    with serving(data, "--frame-cache", "0") as address:
        assert {entry.page_id: entry for entry in read(address, data)}[7].slots[0].text == CANARY.encode()
    assert not (data / "frames").exists()


def test_a_cache_of_no_size() -> None:
    """Less than nothing is refused."""
    with pytest.raises(InvalidArgumentError, match="frame_cache_bytes"):
        ServeConfig(data=Path("d"), frame_cache_bytes=-1)
