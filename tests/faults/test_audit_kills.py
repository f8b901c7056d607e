"""Processes that append to the audit log, killed at any moment: all that was told is there, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script

Tell = Callable[[str, Findings], None]


@pytest.mark.parametrize("duration", DURATIONS)
def test_kills_lose_nothing_and_repeat_nothing(duration: Duration, tmp_path: Path, tell: Tell) -> None:
    """Calls that were durable stay, each statement is taken over once and in order, and the tree is right."""
    kills = 200 if duration.seconds else 8
    found = run_script("audit_kills", duration.seed, duration.seconds, kills, "sound", tmp_path / "scratch")
    tell(duration.seed, found)
    assert [] == found.broken
    assert kills <= found.counts["kills"]


@pytest.mark.parametrize("habit", ["early", "forgetful"])
def test_who_is_careless_is_found_out(habit: str, tmp_path: Path, tell: Tell) -> None:
    """The comparison can fail: who tells too early loses, who remembers apart what was taken over repeats."""
    found = run_script("audit_kills", habit, 0, 60, habit, tmp_path / "scratch")
    tell(habit, found)
    assert found.broken
