"""Clocks, medians, memory, and the tables that the benchmarks print."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_ROUND = 200
"""Questions that one side answers before the other does: both see the same load of the machine."""


@dataclass(slots=True)
class Spent:
    """What a piece of work took."""

    wall: float = 0.0
    cpu: float = 0.0
    """Seconds of all threads and of the children that ended meanwhile."""
    thread: float = 0.0
    """Seconds of CPU of the calling thread alone."""
    children: float = 0.0
    """Seconds of CPU of the children alone."""


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure the block; the result is complete behind it."""
    spent = Spent()
    wall, thread = time.perf_counter(), time.thread_time()
    own, children = _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    yield spent
    spent.wall, spent.thread = time.perf_counter() - wall, time.thread_time() - thread
    spent.children = _cpu(resource.RUSAGE_CHILDREN) - children
    spent.cpu = spent.children + _cpu(resource.RUSAGE_SELF) - own


def timed(work: Callable[[], object], times: int = 1) -> Spent:
    """Return the medians of several runs."""
    runs = []
    for _ in range(times):
        with spending() as spent:
            work()
        runs.append(spent)
    return Spent(statistics.median(run.wall for run in runs), statistics.median(run.cpu for run in runs))


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds of single calls."""

    median: float
    p99: float
    cpu_median: float
    cpu_p99: float

    def __str__(self) -> str:
        """Wall, and the CPU time of the calling thread."""
        return f"{self.median:,.0f} µs, p99 {self.p99:,.0f} (CPU {self.cpu_median:,.0f}, {self.cpu_p99:,.0f})"

    @property
    def wall(self) -> str:
        """Wall alone: the work is done by another process."""
        return f"{self.median:,.0f} µs, p99 {self.p99:,.0f}"


def latencies(sides: Sequence[Sequence[Callable[[], object]]]) -> list[Latency]:
    """Make all calls of all sides, in turns; return what those of each side took."""
    walls: list[list[float]] = [[] for _ in sides]
    cpus: list[list[float]] = [[] for _ in sides]
    for start in range(0, max(map(len, sides)), _ROUND):
        for calls, wall, cpu in zip(sides, walls, cpus, strict=True):
            for call in calls[start : start + _ROUND]:
                began_cpu, began = time.thread_time(), time.perf_counter()
                call()
                wall.append((time.perf_counter() - began) * 1e6)
                cpu.append((time.thread_time() - began_cpu) * 1e6)
    return [Latency(*_middle(wall), *_middle(cpu)) for wall, cpu in zip(walls, cpus, strict=True)]


def latency(calls: Sequence[Callable[[], object]]) -> Latency:
    """Make the calls, and return what they took."""
    return latencies([calls])[0]


def _middle(values: list[float]) -> tuple[float, float]:
    values.sort()
    return statistics.median(values), values[min(len(values) - 1, int(len(values) * 0.99))]


# --- memory and disk ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory in MiB."""

    own: float
    """Anonymous: what no file stands behind."""
    total: float
    """With mapped pages, which the system takes back when it needs them."""

    def __str__(self) -> str:
        return f"{self.own:,.0f} MiB, {self.total:,.0f} with mapped pages"


NOTHING = Resident(0, 0)


def resident(pid: int | str = "self") -> Resident:
    """Return what a process holds now; nothing once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return NOTHING
    fields = dict(line.split(":", 1) for line in lines)
    return Resident(*(int(fields.get(name, "0 kB").split()[0]) / 1024 for name in ("RssAnon", "VmRSS")))


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    out = [pid]
    for one in out:
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            out += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it has ended
            continue
    return out


def larger(one: Resident, other: Resident) -> Resident:
    """Return the greater of each figure."""
    return Resident(max(one.own, other.own), max(one.total, other.total))


def disk_bytes(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


# --- tables -------------------------------------------------------------------------------------


def megabytes(size: float) -> str:
    """Return a size for people."""
    return f"{size / 1e6:,.2f} MB"


def ratio(ours: float, theirs: float) -> str:
    """Return ours as a part of theirs."""
    return f"{ours / theirs:.2f}" if theirs else ""


def verdict(met: bool) -> str:  # noqa: FBT001 - the one thing it says
    """Return a word for the last column."""
    return "[green]met[/]" if met else "[red]missed[/]"


class Report:
    """One table: what, measured, git, ratio, target. Printed at the end of its section."""

    def __init__(self, console: Console, title: str, *columns: str) -> None:
        """Without ``columns``, the usual ones."""
        self._console = console
        usual = ("what", "measured", "git, same run", "ours / git", "target", "")
        self._table = Table(*(columns or usual), title=title, title_justify="left")

    def row(
        self,
        what: str,
        measured: str,
        git: str = "",
        compared: str = "",
        target: str = "",
        met: bool | None = None,  # noqa: FBT001
    ) -> None:
        """Add one row of the usual columns."""
        self._table.add_row(what, measured, git, compared, target, "" if met is None else verdict(met))

    def cells(self, *cells: str) -> None:
        """Add one row of columns of its own."""
        self._table.add_row(*cells)

    def print(self) -> None:
        """Print the table and how loaded the machine is."""
        self._console.print(self._table)
        self._console.print(f"load average now: {os.getloadavg()[0]:.1f}\n")
