"""Each system call that writes to the store may be the last, or fail: nothing is lost, errors have names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script
from tests.faults.histories import PILED
from tests.faults.syscalls import Traced
from tests.faults.worker import FAILED, refusals_of

Tell = Callable[[str, Findings], None]
FAULTS = ["signal=SIGKILL", "error=EIO", "error=ENOSPC"]
_SLICE = 3


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize(
    "kind,fault",
    [
        *(("", fault) for fault in FAULTS),
        *((PILED, fault) for fault in FAULTS[:2]),
        pytest.param(PILED, FAULTS[2], marks=pytest.mark.torture),
    ],
)
def test_a_fault_at_a_system_call(
    kind: str, fault: str, duration: Duration, tmp_path: Path, tell: Tell
) -> None:
    """A fault at a write or sync leaves what was before or after it, has a name, and work goes on."""
    points = 0 if duration.seconds else _SLICE
    seed = kind + duration.seed
    limits = (seed, duration.seconds, points)
    found = run_script("syscalls", *limits, fault, "sound", tmp_path / "scratch")
    tell(seed, found)
    assert [] == found.broken
    assert found.counts["cases"] >= _SLICE
    assert found.counts["missed"] <= found.counts["cases"] / 10


@pytest.mark.usefixtures("strace")
def test_an_error_while_a_store_is_made(tmp_path: Path) -> None:
    """A disk that fails is not called full: to make room would not help."""
    traced = Traced(tmp_path / "scratch", "any")
    assert FAILED == traced.with_fault(("pwrite64", 2), "error=EIO")
    assert ["STORE_FULL"] != refusals_of(traced.told)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("fault,habit", [("signal=SIGKILL", "early"), ("error=EIO", "careless")])
def test_a_careless_writer_is_found_out(fault: str, habit: str, tmp_path: Path, tell: Tell) -> None:
    """The comparison can fail: who tells too early, or goes on after an error, loses what it told."""
    found = run_script("syscalls", habit, 0, 2, fault, habit, tmp_path / "scratch")
    tell(habit, found)
    assert found.broken
