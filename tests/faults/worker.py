"""Do a history to a store; tell of each step once it is durable, before the next one begins.

Run under strace by ``syscalls``: ``worker DATA TOLD SEED LENGTH FIRST HABIT``; ``FIRST`` is the number of
steps that are done already. ``TOLD`` gets a line for each step, and one for each error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

from recension.model.errors import StoreError, StoreFailedError, StoreFullError
from recension.store import arrivals, environment
from recension.store import lmdb as module
from recension.store.lmdb import LmdbStore
from tests.faults.histories import Step, Writer, steps_of

FULL, FAILED = 28, 29
"""Exit statuses: there was no room twice; an error with unknown outcome, after which nothing was written."""
_HABITS = ("sound", "early", "careless", "unsynced")
"""The others are for negative controls: tell before it is durable, go on after errors, never sync."""


def work(
    data: Path,
    told: Path,
    steps: list[Step],
    first: int,
    habit: str = "sound",
    before: Callable[[int], None] = lambda _: None,
) -> int:
    """Do the steps from ``first`` on; ``before`` is called with the number of each."""
    assert habit in _HABITS
    unsynced = patch.object(environment, "open_env", partial(environment.open_env, sync_each=False))
    if habit == "unsynced":
        unsynced.start()
    lines = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        store = LmdbStore.open(data, create=True, force_mount=True)
    except StoreError as error:
        _tell(lines, error.reason)
        return FAILED
    if steps[0].piled:
        let_rows_wait()
    with closing(store):
        writer = Writer(store)
        for compacting, run in groupby(
            range(first, len(steps)), lambda number: steps[number].kind == "compact"
        ):
            try:
                with _writing(store, piled=steps[0].piled, compacting=compacting):
                    for number in run:
                        before(number)
                        status = _do_and_tell(writer, number, steps[number], lines, habit)
                        if status:
                            return status
            except (StoreFullError, StoreFailedError) as error:  # rows could not be brought to their places
                _tell(lines, error.reason)
                return FULL if isinstance(error, StoreFullError) else FAILED
    return 0


def let_rows_wait() -> None:
    """Let the rows of an import wait in a store of any size, and be sorted when they are few."""
    module._IMPORT_FROM_ROWS, module._PLACED_ROWS, arrivals.FAN = 0, 20, 3


@contextmanager
def _writing(store: LmdbStore, *, piled: bool, compacting: bool) -> Iterator[None]:
    with ExitStack() as held:
        if not compacting:
            held.enter_context(store.exclusive_writer())
            if piled:
                held.enter_context(store.importing())
        yield


def _do_and_tell(writer: Writer, number: int, step: Step, lines: int, habit: str) -> int:
    if habit == "early":
        _tell(lines, f"done {number + 1}")
    status = _do(writer, step, lines, habit)
    if not status and habit != "early":
        _tell(lines, f"done {number + 1}")
    return status


def _do(writer: Writer, step: Step, lines: int, habit: str) -> int:
    for _ in range(2):
        try:
            writer.do(step)
        except StoreFullError as error:
            _tell(lines, error.reason)
        except StoreFailedError as error:
            _tell(lines, error.reason)
            return 0 if habit == "careless" else _refused(writer, step)
        else:
            return 0
        if habit == "careless":
            return 0
    return FULL


def _refused(writer: Writer, step: Step) -> int:
    """After an unknown outcome nothing may be written by this object, whatever else it is asked."""
    try:
        writer.do(step)
    except StoreError:
        return FAILED
    head = writer.store.log.head()  # the step changed nothing: it was stored, or it needed no writing
    try:
        writer.store.put_derived(iter([(b"~", b"")]))
    except StoreFailedError:
        return FAILED
    raise AssertionError(f"written after an unknown outcome, at {head}")


def _tell(lines: int, what: str) -> None:
    os.write(lines, what.encode() + b"\n")


def done_of(told: Path) -> int:
    """Return the number of steps that are known to be done."""
    lines = told.read_text().splitlines() if told.exists() else []
    return max((int(line[5:]) for line in lines if line.startswith("done ")), default=0)


def refusals_of(told: Path) -> list[str]:
    """Return the names of the errors that were told."""
    lines = told.read_text().splitlines() if told.exists() else []
    return [line for line in lines if not line.startswith("done ")]


def main() -> int:
    data, told, seed, length, first, habit = sys.argv[1:]
    return work(Path(data), Path(told), steps_of(seed, int(length)), int(first), habit)


if __name__ == "__main__":
    sys.exit(main())
