"""Many followers of one project while it changes: how late they hear of it, what each costs the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from recension.archive.ingest import Ingestor
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Presence, SlotText
from recension.model.reading import ProjectInfo
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from tests.bench.histories import Bench
from tests.bench.measure import Report
from tests.bench.served import processor_seconds, served

_PAGES = 20_000
_RATE = 200
"""Events a second."""
_TOGETHER = 10
"""Events of one commit."""
_SECONDS = 20
_MANY = 200
_STALLED = 20
_P99_SECONDS = 1.0
_MIB_EACH = 5.0
_TEXT = "A line of an article, of which there are many more. " * 60


def run(bench: Bench) -> None:
    """Print the table."""
    data = bench.folder / "fanout"
    report = Report(
        bench.console,
        f"fanout: {_RATE} events/s in commits of {_TOGETHER}, {_SECONDS} s, {_PAGES:,} pages, one server",
    )
    with closing(LmdbStore.open(data, create=True, force_mount=True)) as store:
        writer = _Writer(store)
        for start in range(0, _PAGES, 1000):
            writer.commit(range(start + 1, start + 1001))
        for followers, stalled in ((1, 0), (_MANY, 0), (_MANY, _STALLED)):
            with served(data) as (server, client):
                _measure(report, writer, server, client.target, followers, stalled)
    report.print()


def _measure(report: Report, writer: _Writer, server: int, target: str, followers: int, stalled: int) -> None:
    before = _resident(server)
    command = (sys.executable, "-m", "tests.bench.followers")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked = {"target": target, "followers": followers, "stalled": stalled, "position": writer.position}
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        spent, began = processor_seconds(server), time.monotonic()
        late = writer.keep_writing(_SECONDS)
        time.sleep(2)
        wall, spent = time.monotonic() - began, processor_seconds(server) - spent
        resident = _resident(server)
        process.stdin.write("\n")
        process.stdin.flush()
        seen: dict[str, Any] = json.loads(process.stdout.readline())
        process.terminate()
    said = (
        f"median {seen['median'] * 1000:.0f} ms, p99 {seen['p99'] * 1000:.0f}, slowest"
        f" {seen['slowest'] * 1000:.0f}; server CPU {spent / wall:.2f} of a core"
    )
    what = f"{followers} followers" + (f", {stalled} that read nothing" if stalled else "")
    whole = not seen["failed"] and seen["behind"] == writer.position
    report.row(
        f"{what}: commit to arrival", said, "", "", f"{_P99_SECONDS} s", whole and seen["p99"] < _P99_SECONDS
    )
    if not whole:
        report.row(
            "  of whom some lack commits",
            f"{seen['failed']} ended; {writer.position - seen['behind']} commits",
        )
    if late > 1:
        report.row("  the writer itself was late by", f"{late:.1f} s")
    each = (resident - before) / (followers + stalled)
    report.row(
        f"{what}: memory of the server, each", f"{each:.2f} MiB", "", "", f"{_MIB_EACH} MiB", each < _MIB_EACH
    )


class _Writer:
    """Saves page after page anew."""

    def __init__(self, store: Store) -> None:
        self._ingestor = Ingestor(store)
        self._ingestor.create_project(ProjectInfo("fanout", "https://w.example", "en", "CC0-1.0"))
        self._rev = 0
        self.position = 0

    def commit(self, pages: range | list[int]) -> None:
        events = []
        for page in pages:
            self._rev += 1
            slot = SlotText(
                "main", "wikitext", "text/x-wiki", Presence.PRESENT, f"{self._rev} {_TEXT}".encode()
            )
            what = Edit(
                self._rev, 0, f"Page {page}", 0, title_inferred=False, contributor=NOBODY, comment=NO_COMMENT,
                minor=False, slots=(slot,),
            )  # fmt: skip
            events.append(Event("fanout", page, 1_000_000 + self._rev, f"r{self._rev}", what))
        self.position = self._ingestor.append("fanout", events).position

    def keep_writing(self, seconds: float) -> float:
        """Commit at the rate for so long; return by how many seconds it was too slow in the end."""
        began = time.monotonic()
        for number in range(int(seconds * _RATE / _TOGETHER)):
            time.sleep(max(0.0, began + number * _TOGETHER / _RATE - time.monotonic()))
            self.commit([self._rev * 7919 % _PAGES + 1 + at for at in range(_TOGETHER)])
        return time.monotonic() - began - seconds


def _resident(pid: int) -> float:
    """Return the memory of a process that is no file, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
