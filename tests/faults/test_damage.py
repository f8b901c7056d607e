from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recension.store.lmdb import LmdbStore
from tests.faults.answers import take_snapshots
from tests.faults.durations import DURATIONS, Duration
from tests.ingest.test_resume import head_of

LEAST = 40


@pytest.mark.parametrize("duration", DURATIONS)
def test_a_damaged_store(duration: Duration, tmp_path: Path) -> None:
    """A damaged store gives the same log, snapshots and revisions, or a named error; or its process ends."""
    data = tmp_path / "data"
    head_of(data, "seed")  # the same bytes in every run
    with closing(LmdbStore.open(data)) as store:
        take_snapshots(store)
    limits = (duration.seed, str(duration.seconds), str(LEAST))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.damage_store", *limits, str(data), str(tmp_path / "scratch")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    result = json.loads(done.stdout)
    print(done.stdout)
    assert [] == result["broken"]
    counts = result["counts"]
    assert LEAST <= counts["cases"]
    # The damage is real: most of it is noticed.
    assert counts["cases"] / 4 < sum(count for outcome, count in counts.items() if "named" in outcome)
