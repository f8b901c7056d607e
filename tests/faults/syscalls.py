"""Kill a writer at chosen system calls on its store, or let them fail; look at the store, and go on with it.

Run by ``test_syscalls``: ``syscalls SEED SECONDS POINTS FAULT HABIT SCRATCH``. ``FAULT`` is one of strace's
injections; ``POINTS`` bounds the number of system calls that are tried in each history, 0 tries all.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tests.faults.children import in_a_child
from tests.faults.durations import Duration
from tests.faults.findings import ROOT, Findings, environment
from tests.faults.histories import History, steps_of
from tests.faults.wholeness import problems_of
from tests.faults.worker import FAILED, FULL, done_of, refusals_of, work

LENGTH = 12
_WRITES = ("pwrite64", "writev", "fdatasync")
_RECORDED = "openat,lseek,write,pwrite64,pwritev,pwritev2,writev,fdatasync,fsync,msync,ftruncate,fallocate"
_KINDS = {"append", "settle", "erase", "snapshot"}
_KILLED = -9
_SECONDS = 60

Point = tuple[str, int]
"""A system call, and which of its kind."""


def seeds(seed: str) -> Iterator[str]:
    """Yield the seeds of short histories in which everything happens."""
    for number in count():
        case = f"{seed}/{number}"
        if _KINDS <= {step.kind for step in steps_of(case, LENGTH)}:
            yield case


class Traced:
    """A writer under strace, in a folder of its own."""

    def __init__(self, folder: Path, seed: str, habit: str = "sound") -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.data, self.told = folder / "data", folder / "told"
        self.file = self.data / "lmdb/data.mdb"
        self.record = folder / "record"
        self._worker = [sys.executable, "-m", "tests.faults.worker", str(self.data), str(self.told)]
        self._worker += [seed, str(LENGTH)]
        self._habit = habit

    def run(self, *options: str) -> int:
        """Do what is left of the history under strace, and return the exit status."""
        command = ["strace", "--follow-forks", "--quiet=all"]
        command += [f"--trace-path={path}" for path in (self.file, self.data / "lmdb.new/data.mdb")]
        command += [*options, *self._worker, str(done_of(self.told)), self._habit]
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=_SECONDS, cwd=ROOT, env=environment()
        )
        return done.returncode

    def recorded(self) -> str:
        """Do it without a fault; return all that was written to the store, and when which step was told."""
        status = self.run(
            f"--trace={_RECORDED}", f"--trace-path={self.told}", f"--output={self.record}",
            "--seccomp-bpf", "--strings-in-hex=all", "--string-limit=100000000",
        )  # fmt: skip
        assert status == 0, status
        return self.record.read_text()

    def with_fault(self, point: Point, fault: str) -> int:
        """Let one system call be the last, or fail."""
        name, number = point
        options = [f"--trace={name}", f"--inject={name}:{fault}:when={number}", f"--output={self.record}"]
        if not fault.startswith("signal"):
            options.append("--seccomp-bpf")  # twice as fast; strace 6.1 puts no signals in with it
        return self.run(*options)


def points_of(folder: Path, seed: str) -> list[Point]:
    """Return all system calls that a history writes by."""
    lines = Traced(folder, seed).recorded().splitlines()
    counts = Counter(name for line in lines for name in _WRITES if f" {name}(" in line)
    return [(name, number) for name, total in counts.items() for number in range(1, total + 1)]


def try_point(
    folder: Path, case: str, history: History, point: Point, fault: str, habit: str, found: Findings
) -> None:
    """Put one fault in, look at the store, and let the writer finish."""
    traced = Traced(folder, case, habit)
    status = traced.with_fault(point, fault)
    problems = [] if status in {0, FULL, FAILED, _KILLED} else [f"unnamed: exit status {status}"]
    done = done_of(traced.told)
    problems += problems_of(traced.data, history, done)
    reasons = refusals_of(traced.told)
    found.counts["missed"] += status != _KILLED and not reasons  # it came to its end with fewer calls
    if not problems:
        in_a_child(lambda: work(traced.data, traced.told, history.steps, done_of(traced.told)))
        problems += problems_of(traced.data, history, len(history.steps))
    found.add(f"{case}, {point[0]} {point[1]}", problems)
    found.counts.update([*reasons, f"in {history.kind(done)}", f"at {point[0]}"])


def main() -> int:
    seed, seconds, most, fault, habit, scratch = sys.argv[1:]
    found = Findings()
    for case, _ in zip(seeds(seed), Duration(seed, float(seconds)).rounds(1), strict=False):
        points = points_of(Path(scratch), case)
        if habit != "sound":  # nothing can be lost while the store is made
            points = [
                point for point in points if 2 * point[1] > Counter(name for name, _ in points)[point[0]]
            ]
        if int(most):
            points = random.Random(f"{case}/{fault}").sample(points, int(most))
        history = History(steps_of(case, LENGTH))
        for point in points:
            try_point(Path(scratch), case, history, point, fault, habit, found)
        found.counts["histories"] += 1
    found.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
