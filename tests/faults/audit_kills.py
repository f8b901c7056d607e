"""Kill processes that append to one audit log while they write statements, and look at it after each kill.

Run by ``test_audit_kills``: ``audit_kills SEED SECONDS KILLS HABIT SCRATCH``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from recension.archive.pins import LicenseePins
from recension.archive.rebuild import rebuild
from recension.model.audit import Call
from recension.model.digest import digest_of, format_digest
from recension.model.instant import parse_instant
from recension.model.record import statements_of
from recension.server.audit.log import STATEMENTS, AuditLog
from recension.server.audit.verify import verify
from recension.store.auditing import AuditStore, Change
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import World, edit
from tests.faults.children import _ended, _fork, in_a_child
from tests.faults.durations import Duration
from tests.faults.findings import Findings

PROCESSES = 2
_LATER = parse_instant("2999-01-01")
_SCALES = (0.01, 0.05, 0.2)
"""Seconds; a group takes some milliseconds."""


def make(data: Path) -> str:
    """Make a store with a snapshot, and return its id in hex."""
    world = World()
    world.add(world.event(1, 1, edit(1, "text")))
    snapshot = world.snapshot(2)
    with closing(LmdbStore.open(data, create=True, force_mount=True)) as store:
        rebuild(world.store, store)
    return snapshot.hex()


def work(data: Path, told: Path, name: str, snapshot: str, habit: str) -> None:
    """Make pins and append records for ever; tell of each group's requests once it is durable."""
    with told.open("a") as out, closing(LmdbStore.open(data, force_mount=True)) as store:
        pins = LicenseePins(store, name)
        log = _log(store, data, habit)
        for number in count():
            if number % 3:
                pins.create(f"{os.getpid()}-{number}", bytes.fromhex(snapshot), _LATER)
            calls = [
                Call(
                    time.time_ns() // 1000,
                    f"{os.getpid()}-{number}-{one}",
                    name,
                    "licensee",
                    "",
                    "m",
                    "OK",
                    1,
                )
                for one in range(3)
            ]
            if habit == "early":
                _tell(out, calls)
            log.append([one.entry for one in calls])
            _tell(out, calls)


def _call(request: str, caller: str) -> Call:
    return Call(time.time_ns() // 1000, request, caller, "licensee", "", "m", "OK", 1)


def _tell(out: Any, calls: list[Call]) -> None:
    out.write("".join(f"{one.request}\n" for one in calls))
    out.flush()


def _log(store: LmdbStore, data: Path, habit: str) -> AuditLog:
    log = AuditLog(store, AuditStore(data, force_mount=True))
    if habit == "forgetful":
        change = log._change

        def without_cursor(head: Any, *others: Any) -> Change:
            """Records now, and what was taken over only in the next transaction."""
            made = change(head, *others)
            return replace(made, head=replace(made.head, taken=head.taken, taken_hash=head.taken_hash))

        def forgetful(head: Any, taken: Any, group: Any) -> Change:
            return without_cursor(head, taken, group) if group else change(head, taken, group)

        log._change = forgetful  # type: ignore[method-assign]
    return log


def problems_of(data: Path, told: Path) -> list[str]:
    """Return what is wrong with the log, once it has taken over what is left."""
    problems: list[str] = []
    with closing(LmdbStore.open(data, force_mount=True)) as store:
        log = AuditLog(store, AuditStore(data, force_mount=True))
        log.append()
        problems += [one.what for one in verify(log.env, []).findings]
        records = list(log.records())
        requests = [one.get("request") for one in records if one.get("kind") == "call"]
        if len(set(requests)) < len(requests):
            problems.append("a call is there twice")
        lost = set(told.read_text().splitlines()) - set(requests) if told.exists() else set()
        problems += [f"the call {one} is missing" for one in sorted(lost)[:3]]
        taken = [
            (one.number("position"), one.number("ordinal"), one.get("payload"))
            for one in records
            if one.get("kind") == "statement"
        ]
        expected = [
            (position, ordinal, format_digest(digest_of(one.payload)))
            for position in range(1, store.log.head().position + 1)
            for ordinal, one in statements_of(store.log.read(position, 1)[0], STATEMENTS)
        ]
        if taken != expected:
            problems.append(
                f"{len(taken)} statements were taken over, not the {len(expected)} that there are"
            )
        log.env.close()
    return problems


def main() -> int:
    seed, seconds, kills, habit, scratch = sys.argv[1:]
    draw = random.Random(seed)
    data, told = Path(scratch) / "data", Path(scratch) / "told"
    Path(scratch).mkdir(parents=True)
    snapshot = in_a_child(partial(make, data))
    found = Findings()
    for case in Duration(seed, float(seconds)).rounds(int(kills)):
        workers = [
            _fork(partial(work, data, told, f"w{number}", snapshot, habit), []) for number in range(PROCESSES)
        ]
        time.sleep(0.05 + draw.random() * draw.choice(_SCALES))
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        codes = [_ended(worker) for worker in workers]
        problems = in_a_child(partial(problems_of, data, told))
        if any(code != -signal.SIGKILL for code in codes):
            problems.append(f"a process ended by itself: {codes}")
        found.add(case, problems)
        found.counts["kills"] += len(workers)
        if problems:
            break
    if not found.broken:
        shutil.rmtree(scratch)
    found.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
