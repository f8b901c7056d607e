"""How far what is served is behind its sources: in stats, and in a line that a server logs."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from recension.model.mark import Mark, Origin, Span
from recension.server import operating
from recension.server.build import tell_freshness
from recension.server.main import main
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, World, edit

STREAM = Mark(
    "enterprise-stream", "https://up.example/x\x1b[31m", offsets={"0": 1}, upstream_at=NOW - 2_500_000
)


def fill(world: World, files: int = 1) -> None:
    world.ingestor.append("w", [world.event(1, 1, edit(1, "a"))], STREAM)
    for number in range(files):
        mark = Mark("dump", f"{number}.xml", Span(0, 1), file=bytes(8))
        world.ingestor.append("w", [world.event(1, 2 + number, edit(2 + number, "b"))], mark)
        whole = replace(mark, origin=Origin(7, bytes(32)), upstream_at=NOW - 86_400_000_000)
        world.ingestor.append("w", [], whole)


def test_stats_say_how_far_behind_each_source_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them as JSON; as a table all streams and the newest files, without what steers a terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(operating, "_FILES_SHOWN", 2)
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        fill(World(store), files=3)
    assert 0 == main(["stats", "--data", str(tmp_path / "data"), "--json", "--quiet"])
    stream, *files = json.loads(capsys.readouterr().out)["sources"]
    assert ("w", STREAM.form, STREAM.source, 2) == tuple(
        stream[key] for key in ("project", "form", "source", "position")
    )
    assert 2.5 <= stream["lag_seconds"] < 2.6
    assert "2026-12-31T23:59:57.5Z" == stream["upstream_at"]
    assert ["0.xml", "1.xml", "2.xml"] == [file["source"] for file in files]
    assert 0 == main(["stats", "--data", str(tmp_path / "data"), "--quiet"])
    table = capsys.readouterr().out
    assert "https://up.example/x\\u001b[31m" in table
    assert ["0.xml" in table, "1.xml" in table, "2.xml" in table] == [False, True, True]
    assert "86,400.0 s" in table


def test_a_server_logs_it_of_streams_alone() -> None:
    """One line a stream; nothing where there is none."""
    store = MemoryStore()
    world = World(store)
    with capture_logs() as said:
        tell_freshness(store)
    assert [] == said
    fill(world)
    with capture_logs() as said:
        tell_freshness(store)
    (line,) = said
    assert ("freshness", "w", STREAM.source) == (line["event"], line["project"], line["source"])
    assert 2.5 <= line["lag_seconds"] < 2.6
