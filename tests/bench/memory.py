"""Memory of real process trees: the ingest commands, and a server that is asked for everything it has."""

from __future__ import annotations

import subprocess
import time
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Self

from recension.model.manifest import Selector
from recension_client.client import Client
from tests.bench.histories import PEPS, PEPS_DUMP, Bench, Source
from tests.bench.measure import NOTHING, Report, Resident, family, larger, latency, resident
from tests.bench.peps import AS_OF, FAR
from tests.bench.served import SERVER, served

_EVERY_SECONDS = 0.02
_CALLS = 1000


class Watch:
    """Sees the most that any single process of a tree holds. Used by ``with``."""

    def __init__(self, pid: int) -> None:
        """Of the tree below ``pid``."""
        self._pid = pid
        self._done = Flag()
        self._thread = Thread(target=self._look, daemon=True)
        self.most = NOTHING

    def _look(self) -> None:
        while not self._done.wait(_EVERY_SECONDS):
            for pid in family(self._pid):
                self.most = larger(self.most, resident(pid))

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._done.set()
        self._thread.join()


def run(bench: Bench) -> None:
    """Print the table."""
    report = Report(
        bench.console, "memory: the largest process of each tree, anonymous and with mapped pages"
    )
    for source in (PEPS, PEPS_DUMP):
        if not bench.has(source):
            continue
        data = bench.folder / f"memory-{source.kind}"
        most, seconds, status = ingest(source, data)
        report.row(
            f"ingest {source.path.name}" + (f", exit status {status}" if status else ""),
            f"{most}; {seconds:.1f} s", "", "", "512 MiB", most.own < 512,
        )  # fmt: skip
        if source is PEPS:
            _serve(report, data)
    report.print()


def ingest(source: Source, data: Path) -> tuple[Resident, float, int]:
    """Return what the largest process held, the seconds, and the exit status."""
    make = ("project", "create", source.name, "--base-url", "https://w.example", "--language", "en")
    subprocess.run(
        [*SERVER, *make, "--license", "CC0-1.0", "--data", str(data)], check=True, stdout=subprocess.DEVNULL
    )
    began = time.perf_counter()
    with (
        subprocess.Popen(
            [*SERVER, "ingest", source.kind, source.name, str(source.path), "--data", str(data)],
            stderr=subprocess.DEVNULL,
        ) as process,
        Watch(process.pid) as watch,
    ):
        status = process.wait()
    return watch.most, time.perf_counter() - began, status


def _serve(report: Report, data: Path) -> None:
    with served(data) as (pid, client):
        with Watch(pid) as watch:
            _report_calls(report, client)
        report.row(
            "server, after these calls", str(watch.most), "", "", "256 MiB + mapped pages",
            watch.most.own < 256,
        )  # fmt: skip


def _report_calls(report: Report, client: Client) -> None:
    """Ask for single pages, a whole corpus with its texts, and a diff."""
    selector = Selector.of(["peps"])
    early, late = (client.create_snapshot(selector, valid_at=at).snapshot_id for at in FAR)
    pages = [
        entry.page_id
        for entry in client.entries(client.create_snapshot(selector, valid_at=AS_OF).snapshot_id)
    ]
    calls = [partial(client.article, "peps", pages[at % len(pages)], valid_at=AS_OF) for at in range(_CALLS)]
    got = latency(calls)
    report.row("GetArticle over loopback, with text", str(got), "", "", "median 2,000", got.median < 2000)
    began = time.perf_counter()
    size = sum(slot.size_bytes for entry in client.read(late) for slot in entry.slots)
    report.row(
        "ReadSnapshot over loopback, with texts", f"{size / (time.perf_counter() - began) / 1e6:,.0f} MB/s"
    )
    began = time.perf_counter()
    changed = sum(1 for _ in client.diff(early, late))
    report.row(
        f"DiffSnapshots over loopback, {changed:,} pages", f"{(time.perf_counter() - began) * 1e3:.1f} ms"
    )
