from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recension.store.lmdb import LmdbStore

SCRIPT = Path(__file__).with_name("fixed_run.py")
SAMPLE = Path(__file__).parents[2] / (
    "service/recension/server/sample/aawiki-20260101-pages-meta-history.xml.7z"
)


def command(data: Path, seed: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(data), seed, str(SAMPLE)]


def head_of(data: Path, seed: str) -> str:
    done = subprocess.run(command(data, seed), check=True, capture_output=True, text=True, timeout=100)
    return done.stdout.splitlines()[-1]


def kill_at(data: Path, seed: str, position: int) -> int:
    """Kill the ingest once ``position`` is durable; return where the log then ends."""
    with subprocess.Popen(command(data, seed), stdout=subprocess.PIPE) as process:
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


@pytest.mark.parametrize("position", [1, 2, 3, 5])
def test_a_killed_ingest_run_again_ends_at_the_same_head(tmp_path: Path, position: int) -> None:
    """With the clock and the salts fixed, a kill in the middle leaves no trace in the history."""
    expected = head_of(tmp_path / "whole", "seed")
    reached = kill_at(tmp_path / "killed", "seed", position)
    assert position <= reached < int(expected.split()[0])
    assert expected == head_of(tmp_path / "killed", "seed")


def test_other_salts_give_another_head(tmp_path: Path) -> None:
    """The comparison above can fail: with random salts two whole runs differ."""
    first, second = (head_of(tmp_path / name, "random") for name in ("a", "b"))
    assert first.split()[0] == second.split()[0]
    assert first != second
