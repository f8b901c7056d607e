"""Power losses, simulated: record what a writer writes and syncs, then look at what a disk may hold of it.

Run by ``test_power_loss``: ``power_loss SEED SECONDS STATES HABIT SCRATCH DISK``; states are put on ``DISK``.

A disk holds all that was synced, and of what was not any sectors of 512 bytes, written in any order. A write
to a handle opened with ``O_DSYNC`` is held once it has returned, and nothing else with it. This is a model of
one file; its name, and the names of its folders, are made durable before the first step is told.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.children import in_a_child
from tests.faults.durations import Duration
from tests.faults.findings import Findings
from tests.faults.histories import History, steps_of
from tests.faults.syscalls import LENGTH, Traced, seeds
from tests.faults.wholeness import problems_of
from tests.faults.worker import work

_SECTOR = 512
_STATES_OF_EACH = 40
"""Of one recording."""
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DONE = b"done "

Write = tuple[int, bytes]
"""Where, and what."""


@dataclass(frozen=True, slots=True)
class Event:
    """A write, a sync, or that a step was told."""

    writes: tuple[Write, ...] = ()
    durable: bool = False
    """A write that is durable when it returns; or, without one, a sync of all before it."""
    done: int = 0


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(slots=True)
class _Reading:
    """Where the handles of a recording stand."""

    file: bytes
    told: bytes
    synced: dict[int, bool] = field(default_factory=dict)
    """Handles of the file, and whether they were opened with ``O_DSYNC``."""
    tellers: set[int] = field(default_factory=set)
    places: dict[int, int] = field(default_factory=dict)

    def event(self, line: str) -> Event | None:
        """Return what a line of strace says."""
        call = _CALL.match(line)
        assert call or "exited with 0" in line, line
        if call is None:
            return None
        name, rest, result = call[1], call[2], int(call[3])
        strings = [_unhex(text) for text in _STRING.findall(rest)]
        if name == "openat":
            self._opened(strings[0], rest, result)
            return None
        handle = int(rest.split(",")[0])
        if handle in self.tellers:
            return Event(done=int(strings[0].removeprefix(_DONE)))
        if handle not in self.synced:
            return None
        match name:
            case "lseek":
                self.places[handle] = result
                return None
            case "fdatasync" | "fsync":
                return Event(durable=True)
            case "pwrite64":
                return self._write(handle, int(rest.rsplit(",", 1)[1]), strings, result)
            case "writev":
                self.places[handle] += result
                return self._write(handle, self.places[handle] - result, strings, result)
            case _:
                raise AssertionError(f"unexpected: {line[:200]}")

    def _opened(self, path: bytes, flags: str, handle: int) -> None:
        self.synced.pop(handle, None)
        self.tellers.discard(handle)
        if path == self.file:
            self.synced[handle] = "O_DSYNC" in flags
        elif path == self.told:
            self.tellers.add(handle)

    def _write(self, handle: int, place: int, parts: list[bytes], size: int) -> Event:
        data = b"".join(parts)
        assert size == len(data)
        return Event(((place, data),), self.synced[handle])


def read_events(traced: Traced, record: str) -> list[Event]:
    """Return the events of a recording."""
    reading = _Reading(str(traced.file).encode(), str(traced.told).encode())
    return [event for event in map(reading.event, record.splitlines()) if event]


@dataclass(slots=True)
class Disk:
    """What a disk holds for sure, and what it may hold besides."""

    held: bytearray
    pending: list[Write] = field(default_factory=list)
    done: int = 0

    def happens(self, event: Event) -> None:
        """Take note of an event that has ended."""
        self.done = event.done or self.done
        if event.durable and event.writes:
            put(self.held, event.writes)
        elif event.durable:
            put(self.held, self.pending)
            self.pending.clear()
        self.pending += () if event.durable else event.writes


def put(data: bytearray, writes: list[Write] | tuple[Write, ...]) -> None:
    """Write into a file's bytes."""
    for place, part in writes:
        data.extend(bytes(max(place + len(part) - len(data), 0)))
        data[place : place + len(part)] = part


def survivors(writes: list[Write], moments: random.Random) -> list[Write]:
    """Return some sectors of some writes, in some order."""
    share = moments.choice((0.0, 0.05, 0.5, 0.95, 1.0))
    sectors = []
    for place, part in writes:
        edges = [place, *range(place // _SECTOR * _SECTOR + _SECTOR, place + len(part), _SECTOR)]
        for start, stop in zip(edges, [*edges[1:], place + len(part)], strict=True):
            if moments.random() < share:
                sectors.append((start, part[start - place : stop - place]))
    if moments.random() < 0.5:
        moments.shuffle(sectors)
    return sectors


def states(base: bytes, events: list[Event], moments: random.Random) -> Iterator[tuple[bytes, int]]:
    """Yield states that a loss of power could leave, each with the number of steps that were told by then."""
    ends = sorted(moments.randrange(len(events)) for _ in range(_STATES_OF_EACH))
    disk, at = Disk(bytearray(base)), 0
    for end in ends:
        for event in events[at:end]:
            disk.happens(event)
        at = end
        state = bytearray(disk.held)
        put(state, survivors([*disk.pending, *events[end].writes], moments))
        yield bytes(state), disk.done


def recording(folder: Path, case: str, habit: str) -> tuple[bytes, list[Event]]:
    """Record a history from its second step on; return the file before it, and what happened to it."""
    traced = Traced(folder, case, habit)
    in_a_child(lambda: work(traced.data, traced.told, steps_of(case, 1), 0))
    base = traced.file.read_bytes()
    events = [Event(done=1), *read_events(traced, traced.recorded())]
    replayed = bytearray(base)
    put(replayed, [write for event in events for write in event.writes])
    assert replayed == traced.file.read_bytes(), "the recording is not what was written"
    return base, events


def main() -> int:
    seed, seconds, least, habit, scratch, disk = sys.argv[1:]
    found = Findings()
    data = Path(disk) / "data"
    (data / "lmdb").mkdir(parents=True)
    rounds = Duration(seed, float(seconds)).rounds(-(-int(least) // _STATES_OF_EACH))
    for case, _ in zip(seeds(seed), rounds, strict=False):
        base, events = recording(Path(scratch), case, habit)
        found.counts.update(recordings=1, events=len(events))
        history = History(steps_of(case, LENGTH))
        for number, (state, done) in enumerate(states(base, events, random.Random(case))):
            (data / "lmdb/data.mdb").write_bytes(state)
            (data / "lmdb/lock.mdb").unlink(missing_ok=True)
            problems = problems_of(data, history, done)
            found.add(f"{case}, state {number}, {done} steps", problems)
            found.counts[f"in {history.kind(done)}"] += 1
    found.print()
    shutil.rmtree(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
