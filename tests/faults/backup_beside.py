"""Take backups beside a writer that appends, seals and erases; each holds what was told, and is whole.

Run by ``test_backups``: ``backup_beside SEED SECONDS BACKUPS HABIT SCRATCH``. The habit ``torn`` copies the
file's halves one after the other, as a plain copy may.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from recension.store.lmdb import LmdbStore
from tests.faults.children import in_a_child, killed
from tests.faults.durations import Duration
from tests.faults.findings import Findings
from tests.faults.histories import History, steps_of
from tests.faults.wholeness import problems_of
from tests.faults.worker import done_of, work

_STEPS = 80
_TORN_SECONDS = 20


class Backups:
    """Backups of the store that a writer works on meanwhile."""

    def __init__(self, folder: Path, history: History, habit: str, found: Findings) -> None:
        self.data, self.told = folder / "data", folder / "told"
        self._copy = folder / "copy"
        self._history, self._habit, self._found = history, habit, found

    def take(self, case: str) -> None:
        """Take one and look at it: it has to be what the store was after one of the steps meanwhile."""
        shutil.rmtree(self._copy, ignore_errors=True)
        before = done_of(self.told)
        if self._habit == "torn":
            self._tear(before)
        else:
            in_a_child(self._backup)
        after = min(done_of(self.told) + 1, len(self._history.steps))
        problems: list[str] = []
        for done in range(before, after + 1):
            problems = problems_of(self._copy, self._history, done)
            if not problems:
                break
        self._found.add(f"{case}, steps {before} to {after}", problems)
        self._found.counts["steps meanwhile"] += after - before - 1

    def _backup(self) -> None:
        with closing(LmdbStore.open(self.data, force_mount=True)) as store:
            store.backup(self._copy)

    def _tear(self, before: int) -> None:
        file = self.data / "lmdb/data.mdb"
        half = file.stat().st_size // 2
        (self._copy / "lmdb").mkdir(parents=True)
        with (self._copy / "lmdb/data.mdb").open("wb") as out, file.open("rb") as source:
            out.write(source.read(half))
            until = time.monotonic() + _TORN_SECONDS
            while done_of(self.told) < min(before + 4, len(self._history.steps)) and time.monotonic() < until:
                time.sleep(0.001)
            out.write(source.read())


def main() -> int:
    seed, seconds, least, habit, scratch = sys.argv[1:]
    found = Findings()
    rounds = iter(Duration(seed, float(seconds)).rounds(int(least)))
    case = next(rounds, None)
    while case is not None:
        folder = Path(scratch) / str(found.counts["histories"])
        folder.mkdir(parents=True)
        steps = steps_of(case, _STEPS)
        backups = Backups(folder, History(steps), habit, found)

        def enough(backups: Backups = backups) -> bool:
            nonlocal case
            if case is not None and done_of(backups.told):
                backups.take(case)
                case = next(rounds, None)
            return case is None

        killed(partial(work, backups.data, backups.told, steps, 0), enough, 0)
        found.counts["histories"] += 1
        shutil.rmtree(folder)
    found.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
