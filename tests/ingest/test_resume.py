from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from recension.archive.check.run import Check
from recension.model.errors import DataLossError
from recension.server.main import main
from recension.store.interface import Row
from recension.store.lmdb import LmdbStore
from tests.sources.helpers import dump, page, revision
from tests.store.test_arrivals import damage

SCRIPT = Path(__file__).with_name("fixed_run.py")
SAMPLE = Path(__file__).parents[2] / (
    "service/recension/server/sample/aawiki-20260101-pages-meta-history.xml.7z"
)
SORTED = "sorted"
"""Last argument of ``command``: rows that come in no order wait in piles."""


def command(data: Path, seed: str, file: Path = SAMPLE, workers: int = 1, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(data), seed, str(file), str(workers), *more]


def head_of(data: Path, seed: str, file: Path = SAMPLE, workers: int = 1, *more: str) -> str:
    done = subprocess.run(
        command(data, seed, file, workers, *more), check=True, capture_output=True, text=True, timeout=100
    )
    return done.stdout.splitlines()[-1]


def kill_at(data: Path, seed: str, position: int, file: Path = SAMPLE, workers: int = 1, *more: str) -> int:
    """Kill the ingest once ``position`` is durable; return where the log then ends."""
    with subprocess.Popen(command(data, seed, file, workers, *more), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        store = LmdbStore.open(data)
        try:
            while store.log.head().position < position and process.poll() is None:
                time.sleep(0.001)
            process.kill()
            process.wait()
            return store.log.head().position
        finally:
            store.close()


@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_killed_ingest_run_again_ends_at_the_same_head(tmp_path: Path, position: int) -> None:
    """With the clock and the salts fixed, a kill in the middle leaves no trace in the history."""
    expected = head_of(tmp_path / "whole", "seed")
    reached = kill_at(tmp_path / "killed", "seed", position)
    assert position <= reached < int(expected.split()[0])
    assert expected == head_of(tmp_path / "killed", "seed")


def write_pages(path: Path, count: int) -> Path:
    """Write a dump of pages of 20 revisions, with a text that all pages have."""
    path.write_bytes(
        dump(
            "".join(
                page(
                    "".join(
                        revision(number * 100 + at, text=f"<text>{text}</text>")
                        for at, text in enumerate(
                            ["", *(f"{number} {at} {'word ' * 2000}" for at in range(19))]
                        )
                    ),
                    head=f"<title>Page {number}</title><ns>0</ns><id>{number}</id>",
                )
                for number in range(1, count + 1)
            )
        )
    )
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of three runs."""
    return write_pages(tmp_path_factory.mktemp("pages") / "pages.xml", 200)


def test_the_head_does_not_depend_on_the_number_of_workers(tmp_path: Path, pages: Path) -> None:
    """One, two and three processes give one history; so does a run killed with three and ended with two."""
    expected = head_of(tmp_path / "one", "seed", pages)
    for workers in (2, 3):
        assert expected == head_of(tmp_path / str(workers), "seed", pages, workers)
    reached = kill_at(tmp_path / "killed", "seed", 4, pages, 3)
    assert 4 <= reached < int(expected.split()[0])
    assert expected == head_of(tmp_path / "killed", "seed", pages, 2)
    for name in ("one", "3", "killed"):
        store = LmdbStore.open(tmp_path / name)
        try:
            assert not Check(store).run().shown
        finally:
            store.close()


def rows_of(data: Path) -> tuple[list[Row], int]:
    """Return the whole index, and how many parts of piles there are."""
    with closing(LmdbStore.open(data)) as store, store.view() as view:
        return view.scan(b"", b"\xff"), store.usage().tables["arrivals"].rows


def test_rows_that_were_sorted_first_are_the_same(tmp_path: Path, pages: Path) -> None:
    """An import that lets rows wait ends at the same head with the same index, killed before or not."""
    expected = head_of(tmp_path / "plain", "seed", pages)
    index, _ = rows_of(tmp_path / "plain")
    assert expected == head_of(tmp_path / "sorted", "seed", pages, 1, SORTED)
    assert (index, 0) == rows_of(tmp_path / "sorted")
    for name, position, then in (("a", 3, SORTED), ("b", 5, "")):
        data = tmp_path / name
        reached = kill_at(data, "seed", position, pages, 1, SORTED)
        assert position <= reached < int(expected.split()[0])
        before, waiting = rows_of(data)
        assert waiting
        with closing(LmdbStore.open(data)) as store:
            assert not Check(store).run().shown
        assert expected == head_of(data, "seed", pages, 1, *[then][: bool(then)])
        assert (index, 0) == rows_of(data)
        assert len(before) < len(index)


def test_a_damaged_pile_is_named_and_a_rebuild_heals_it(tmp_path: Path) -> None:
    """What a killed import left damaged stops ingests and copies, by name; the hint leads to all of it."""
    pages = write_pages(tmp_path / "pages.xml", 60)
    expected = head_of(tmp_path / "plain", "seed", pages)
    data, new = tmp_path / "killed", tmp_path / "new"
    kill_at(data, "seed", 3, pages, 1, SORTED)
    damage(data, [2])
    again = subprocess.run(command(data, "seed", pages), check=False, capture_output=True, text=True)
    assert 3 == again.returncode
    (fault,) = json.loads(again.stdout.splitlines()[1])["faults"]
    assert "DATA_LOSS" == fault["reason"]
    assert "table arrivals" in fault["message"]
    assert "recension-server rebuild" in fault["hint"]
    with closing(LmdbStore.open(data)) as store, pytest.raises(DataLossError, match="table arrivals"):
        store.compact()
    assert 0 == main(["rebuild", "--data", str(data), "--into", str(new), "--quiet"])
    with closing(LmdbStore.open(new)) as store:
        assert not Check(store).run().shown
    assert expected == head_of(new, "seed", pages)
    assert rows_of(tmp_path / "plain") == rows_of(new)


def test_other_salts_give_another_head(tmp_path: Path) -> None:
    """The comparison above can fail: with random salts two whole runs differ."""
    first, second = (head_of(tmp_path / name, "random") for name in ("a", "b"))
    assert first.split()[0] == second.split()[0]
    assert first != second
