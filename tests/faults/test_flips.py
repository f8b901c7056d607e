"""Single bits that decayed: a flip in a row is noticed, and no flip makes an answer another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script

Tell = Callable[[str, Findings], None]
STATES = ["written", "compacted", "waiting"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("duration", DURATIONS)
def test_flips(duration: Duration, state: str, tmp_path: Path, tell: Tell) -> None:
    """Each flip in a row is noticed; no flip anywhere gives another text, or an error without a name."""
    flips = 3_400 if duration.seconds else 24  # of three states: 10,000 in all
    limits = (duration.seed, duration.seconds, flips)
    found = run_script("flip_bits", *limits, "sound", state, tmp_path / "scratch")
    tell(duration.seed, found)
    assert [] == found.broken
    assert flips <= found.counts["cases"]


@pytest.mark.parametrize("state", STATES)
def test_without_digests_flips_are_missed(state: str, tmp_path: Path, tell: Tell) -> None:
    """The comparison can fail: a store that takes rows as they are misses flips, or answers wrongly."""
    found = run_script("flip_bits", "blind", 0, 16, "blind", state, tmp_path / "scratch")
    tell("blind", found)
    assert found.broken
