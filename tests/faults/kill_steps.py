"""Kill a writer at random moments of random histories, and look at its store after each kill.

Run by ``test_kills``: ``kill_steps SEED SECONDS KILLS HABIT SCRATCH``. A seed repeats the histories and the
delays; where in a step a kill falls is up to the machine, so a store that is not whole stays in ``SCRATCH``.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from recension.store.lmdb import LmdbStore
from tests.faults.children import in_a_child, killed
from tests.faults.durations import Duration
from tests.faults.findings import Findings
from tests.faults.histories import History, Step, steps_of, with_retractions
from tests.faults.wholeness import problems_of
from tests.faults.worker import done_of, work

_STEPS = 40
_MOST_STEPS = 6
_RETRACTIONS = 4
_SCALES = (0.002, 0.01, 0.05, 0.5)
"""Seconds; a step takes 10 ms, a compaction half a second."""


def kill_again(folder: Path, case: str, habit: str, found: Findings) -> Iterator[str]:
    """Kill the writer of one history again and again until it has come to its end; yield after each kill."""
    moments = random.Random(case)
    steps = steps_of(case, _STEPS)
    steps.insert(moments.randrange(1, _STEPS), Step("compact"))
    with_retractions(steps, case, _RETRACTIONS)
    history = History(steps)
    data, told = folder / "data", folder / "told"
    folder.mkdir(parents=True)
    while True:
        first = done_of(told)
        last = first + moments.randint(0, _MOST_STEPS)
        doing = partial(work, data, told, history.steps, first, habit)
        seconds = moments.random() * moments.choice(_SCALES)
        was_killed = killed(doing, lambda: done_of(told) >= last, seconds)  # noqa: B023 - called at once
        done = done_of(told)
        problems = problems_of(data, history, done)
        found.add(f"{case}, {done} steps", problems)
        found.counts["kills" if was_killed else "ends"] += 1
        found.counts["rows waited"] += not problems and in_a_child(lambda: rows_wait(data))
        if not was_killed:
            if not problems:
                shutil.rmtree(folder)
            return
        found.counts[f"in {history.kind(done)}"] += 1
        if not problems and done and history.head(done) != history.head(done + 1):
            head = in_a_child(lambda: _position(data))
            found.counts["stored, not yet told"] += head != history.head(done).position
        yield case
        if problems:
            return


def rows_wait(data: Path) -> bool:
    """Say whether rows of an import wait in a store, if it is one."""
    if not (data / "lmdb").exists():
        return False
    store = LmdbStore.open(data, force_mount=True)
    return bool(store.usage().tables["arrivals"].rows)


def _position(data: Path) -> int:
    store = LmdbStore.open(data, force_mount=True)
    return store.log.head().position


def main() -> int:
    seed, seconds, kills, habit, scratch = sys.argv[1:]
    found = Findings()
    number = 0
    going: Iterator[str] = iter(())
    for _ in Duration(seed, float(seconds)).rounds(int(kills)):
        while next(going, None) is None:
            number += 1
            going = kill_again(Path(scratch) / str(number), f"{seed}/{number}", habit, found)
    found.counts["histories"] = number
    found.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
