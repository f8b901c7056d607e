"""A full disk: each write is refused whole and by name, and after making room everything goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from recension.model.errors import StoreFullError
from recension.store.lmdb import LmdbStore
from tests.faults.durations import DURATIONS, Duration
from tests.faults.findings import Findings, run_script
from tests.faults.full_disk import leave_room
from tests.faults.histories import PILED

Tell = Callable[[str, Findings], None]
DISKS = ["tmpfs 8m", "ext4 16m"]


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize(
    "small_disk,kind", [*((disk, "") for disk in DISKS), (DISKS[0], PILED)], indirect=["small_disk"]
)
def test_a_disk_full_at_any_step(
    small_disk: Path, kind: str, duration: Duration, tmp_path: Path, tell: Tell
) -> None:
    """No room while appending, sealing or erasing: nothing is lost, nothing half done, and room helps."""
    seed = kind + duration.seed
    limits = (seed, duration.seconds, 2)
    found = run_script("full_disk", *limits, "sound", tmp_path / "scratch", small_disk)
    tell(seed, found)
    assert [] == found.broken
    assert found.counts["STORE_FULL"]


@pytest.mark.parametrize("small_disk", DISKS[:1], indirect=True)
def test_the_right_to_write_on_a_full_disk(small_disk: Path) -> None:
    """Without any room at all the right to write is refused by name, or had."""
    with closing(LmdbStore.open(small_disk / "data", create=True)) as store:
        leave_room(small_disk, 0)
        with suppress(StoreFullError), store.exclusive_writer():
            pass


@pytest.mark.parametrize("small_disk", DISKS[:1], indirect=True)
def test_who_goes_on_without_room_is_found_out(small_disk: Path, tmp_path: Path, tell: Tell) -> None:
    """The comparison can fail: a writer that takes a refusal for success loses what it told."""
    found = run_script("full_disk", "careless", 0, 1, "careless", tmp_path / "scratch", small_disk)
    tell("careless", found)
    assert found.broken
