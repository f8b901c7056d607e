"""Power losses: what was told is there whatever the disk had not yet taken."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script
from tests.faults.histories import PILED

Tell = Callable[[str, Findings], None]
_SLICE = 40


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    """Give a folder in memory, if there is one: states are looked at one after the other, and never kept."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="recension-", dir=shared if shared.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("kind", ["", PILED], ids=["plain", "piled"])
@pytest.mark.parametrize("duration", DURATIONS)
def test_power_losses(duration: Duration, kind: str, tmp_path: Path, memory_disk: Path, tell: Tell) -> None:
    """No choice of unsynced sectors loses what was told, or leaves anything that is not whole."""
    least = 1000 if duration.seconds else _SLICE
    seed = kind + duration.seed
    limits = (seed, duration.seconds, least)
    found = run_script("power_loss", *limits, "sound", tmp_path / "scratch", memory_disk)
    tell(seed, found)
    assert [] == found.broken
    assert least <= found.counts["cases"]


@pytest.mark.usefixtures("strace")
def test_without_syncs_power_losses_are_found(tmp_path: Path, memory_disk: Path, tell: Tell) -> None:
    """The comparison can fail: the same writer without syncs loses what it told."""
    found = run_script("power_loss", "unsynced", 0, _SLICE, "unsynced", tmp_path / "scratch", memory_disk)
    tell("unsynced", found)
    assert found.broken
    assert _SLICE / 4 < found.counts["broken"]
