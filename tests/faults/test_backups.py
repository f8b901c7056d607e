"""Backups beside a writer are whole, hold all that was told before, and have every text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script

Tell = Callable[[str, Findings], None]


@pytest.mark.parametrize("duration", DURATIONS)
def test_backups_beside_a_writer(duration: Duration, tmp_path: Path, tell: Tell) -> None:
    """A backup is the store as it was after one of the steps that were done while it was taken."""
    least = 100 if duration.seconds else 4
    limits = (duration.seed, duration.seconds, least)
    found = run_script("backup_beside", *limits, "sound", tmp_path / "scratch")
    tell(duration.seed, found)
    assert [] == found.broken
    assert least <= found.counts["cases"]


def test_a_torn_copy_is_found_out(tmp_path: Path, tell: Tell) -> None:
    """The comparison can fail: a plain copy of the file, made in two parts, is not whole."""
    found = run_script("backup_beside", "torn", 0, 3, "torn", tmp_path / "scratch")
    tell("torn", found)
    assert found.broken
