"""Killing an ingest and running it again ends in the same state as never killing it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from recension.archive.reader import Archive
from recension.model.manifest import Selector
from recension.store.lmdb import LmdbStore

ROOT = Path(__file__).parents[2]
EVENTS = 6_000


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of edits, some with long texts."""
    path = tmp_path_factory.mktemp("events") / "events.ndjson"
    chance = random.Random(7)
    lines = []
    for rev in range(1, EVENTS + 1):
        page = chance.randint(1, 400)
        text = f"revision {rev} " * chance.randint(1, 200)
        slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": text}
        edit = {"revId": str(rev), "title": f"P{page}", "contributor": {"name": "Ann"}, "slots": [slot]}
        when = f"2020-01-01T{rev // 3600:02d}:{rev // 60 % 60:02d}:{rev % 60:02d}Z"
        lines.append(
            json.dumps(
                {"project": "w", "pageId": str(page), "time": when, "sourceId": f"e{rev}", "edit": edit}
            )
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def command(data: Path, events: Path, salts: str) -> list[str]:
    return [sys.executable, "-m", "tests.ingest.killed", str(data), str(events), salts]


def whole(data: Path, events: Path, salts: str = "fixed") -> tuple[str, str]:
    """Run to the end; (head, snapshot id)."""
    done = subprocess.run(
        command(data, events, salts), cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    with closing(LmdbStore.open(data)) as store:
        archive = Archive(store)
        assert archive.project("w").revisions == EVENTS
        snapshot_id = archive.create_snapshot(
            Selector.of(["w"]), valid_at=archive.project("w").last_event_at
        ).snapshot_id
    return json.loads(done.stdout)["head"], snapshot_id.hex()


@pytest.mark.timeout(300)
def test_a_killed_ingest_run_again_ends_in_the_same_state(tmp_path: Path, events: Path) -> None:
    """With clock and salts injected, head and snapshot equal those of a run that was left alone."""
    expected = whole(tmp_path / "calm", events)
    chance = random.Random(11)
    data = tmp_path / "killed"
    for _ in range(6):
        victim = subprocess.Popen(
            command(data, events, "fixed"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.3, 1.4))
        victim.kill()
        victim.wait()
    assert expected == whole(data, events)


@pytest.mark.timeout(120)
def test_random_salts_give_another_head(tmp_path: Path, events: Path) -> None:
    """The negative control: the comparison above can fail."""
    assert whole(tmp_path / "a", events, "random")[0] != whole(tmp_path / "b", events, "random")[0]
