from __future__ import annotations

import random
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from recension.store.lmdb import LmdbStore
from tests.faults.answers import Question, answer, questions, take_snapshots
from tests.faults.durations import DURATIONS, Duration
from tests.ingest.test_resume import SAMPLE, SORTED, command, head_of

KILLS = 6
"""Of one history at most, then it may come to its end."""


def killed(data: Path, moments: random.Random, seconds: float) -> bool:
    """Start the ingest, half of the times with piles, and kill it at some moment; False if it was faster."""
    more = moments.choice(([], [SORTED]))
    with subprocess.Popen(command(data, "seed", SAMPLE, 1, *more), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        time.sleep(moments.random() * seconds)
        process.kill()
        return process.wait() != 0


def everything(data: Path) -> dict[Question, str]:
    """Return every answer of a store, those of new snapshots included, and no failure among them."""
    with closing(LmdbStore.open(data)) as store:
        take_snapshots(store)
        found = {question: answer(store, question) for question in questions(store)}
    assert not [text for text in found.values() if " " in text]
    return found


@pytest.mark.parametrize("duration", DURATIONS)
def test_an_ingest_killed_anywhere_again_and_again(duration: Duration, tmp_path: Path) -> None:
    """Kills at random moments leave the same head, the same roots and the same answers as no kill."""
    started = time.monotonic()
    expected_head = head_of(tmp_path / "whole", "seed")
    seconds = time.monotonic() - started
    expected = everything(tmp_path / "whole")
    kills = 0
    for number, case in enumerate(duration.rounds(2)):
        moments, data = random.Random(case), tmp_path / str(number)
        kills += sum(killed(data, moments, seconds) for _ in range(moments.randint(1, KILLS)))
        assert expected_head == head_of(data, "seed"), case
        assert expected == everything(data), case
        shutil.rmtree(data)
    assert kills


def test_what_kills_are_compared_by(tmp_path: Path) -> None:
    """The comparison can fail: other salts give another head, log and roots of the same pages."""
    heads, found = [], []
    for seed in ("seed", "other"):
        heads.append(head_of(tmp_path / seed, seed))
        found.append(everything(tmp_path / seed))
    assert heads[0] != heads[1]
    asked = [{question for question in one if question[0] != "snapshot"} for one in found]
    assert asked[0] == asked[1]
    assert found[0]["log", 0] != found[1]["log", 0]
    assert not {one for one in found[0] if one[0] == "snapshot"} & set(found[1])
