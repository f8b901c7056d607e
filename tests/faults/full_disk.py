"""Fill a disk beside a writer at random moments, look at its store, make room, and let it go on.

Run by ``test_full_disk``: ``full_disk SEED SECONDS ROUNDS HABIT SCRATCH DISK``; ``DISK`` is a small one.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.children import DiedError, in_a_child
from tests.faults.durations import Duration
from tests.faults.findings import Findings
from tests.faults.histories import History, Step, steps_of
from tests.faults.wholeness import problems_of
from tests.faults.worker import FULL, done_of, refusals_of, work

_STEPS = 30
_MOST_STEPS = 8
_MOST_ROOM = 80_000


def leave_room(disk: Path, room: int) -> None:
    """Fill a disk so that so many bytes stay free."""
    stats = os.statvfs(disk)
    with (disk / "ballast").open("wb") as file:
        for size in (stats.f_bfree * stats.f_frsize - room, room // 4096 * 4096):
            try:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            except OSError:  # the file system needs some room for itself
                continue
            return


def _filled(
    disk: Path, told: Path, steps: list[Step], habit: str, before: Callable[[int], None]
) -> list[str]:
    """Do steps in a child; return what is wrong with how it ended."""
    try:
        status = in_a_child(partial(work, disk / "data", told, steps, done_of(told), habit, before))
    except DiedError as error:
        return [f"{error}, in the writer"]
    return [] if status in {0, FULL} else [f"named: the writer ended with {status}"]


def fill_again(folder: Path, disk: Path, case: str, habit: str, found: Findings) -> None:
    """Do one history on a disk that is full every now and then."""
    moments = random.Random(case)
    history = History(steps_of(case, _STEPS))
    told = folder / "told"
    while done_of(told) < _STEPS:
        full_at, room = done_of(told) + moments.randint(0, _MOST_STEPS), moments.randrange(_MOST_ROOM)

        def fill(number: int, full_at: int = full_at, room: int = room) -> None:
            if number == full_at:
                leave_room(disk, room)

        problems = _filled(disk, told, history.steps, habit, fill)
        done = done_of(told)
        (disk / "ballast").unlink(missing_ok=True)
        problems += problems_of(disk / "data", history, done)
        found.add(f"{case}, {done} steps", problems)
        found.counts[f"in {history.kind(done)}"] += 1
        if problems:
            break
    found.counts.update(refusals_of(told))


def main() -> int:
    seed, seconds, rounds, habit, scratch, disk = sys.argv[1:]
    found = Findings()
    for case in Duration(seed, float(seconds)).rounds(int(rounds)):
        shutil.rmtree(scratch, ignore_errors=True)
        Path(scratch).mkdir()
        fill_again(Path(scratch), Path(disk), case, habit, found)
        shutil.rmtree(Path(disk) / "data")
    found.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
