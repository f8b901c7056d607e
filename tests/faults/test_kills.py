"""A writer killed at any moment: what it told is there, what lies there is sound, and it serves again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script
from tests.faults.histories import PILED

Tell = Callable[[str, Findings], None]


@pytest.mark.parametrize("kind,kills", [("", 14), (PILED, 8)], ids=["plain", "piled"])
@pytest.mark.parametrize("duration", DURATIONS)
def test_kills_at_random_moments(
    duration: Duration, kind: str, kills: int, tmp_path: Path, tell: Tell
) -> None:
    """Appending, sealing, erasing, retracting, compacting: no kill loses, hides or brings back anything."""
    kills = 1000 if duration.seconds else kills
    seed = kind + duration.seed
    found = run_script("kill_steps", seed, duration.seconds, kills, "sound", tmp_path / "scratch")
    tell(seed, found)
    assert [] == found.broken
    assert kills <= found.counts["kills"]
    assert bool(kind) == bool(found.counts["rows waited"])


def test_who_tells_too_early_is_found_out(tmp_path: Path, tell: Tell) -> None:
    """The comparison can fail: a writer that tells of a step before it is durable loses some."""
    found = run_script("kill_steps", "early", 0, 8, "early", tmp_path / "scratch")
    tell("early", found)
    assert found.broken
