"""Whom to credit for a whole snapshot: ``recension credits`` beside a server, both as processes.

``--pages`` says of how many pages; each has three revisions. Once in page order, as a dump has them, and once
in an order that no timeline has, which is the worst there is.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from recension.archive.ingest import Ingestor
from recension.model.digest import format_digest
from recension.model.event import Contributor, Edit, Event
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.store.lmdb import LmdbStore
from tests.bench.histories import Bench
from tests.bench.measure import Report
from tests.bench.memory import Watch
from tests.bench.served import processor_seconds, served
from tests.bench.synthetic import SECOND, START, append, event

FORMS = {
    "JSON Lines": (),
    "Parquet": ("--form", "parquet"),
    "JSON Lines, HTML and Markdown": ("--html", "--markdown"),
}
EACH = 3
"""Revisions of a page."""
_ASKED_PAGES = 10**6
_ASKED_SECONDS = 300
_ASKED_MIB = 512


def run(bench: Bench) -> None:
    """Print the table."""
    report = Report(
        bench.console, f"credits: {bench.pages:,} pages of {EACH} revisions; CPU of server and client"
    )
    for name, ordered in (("page order", True), ("no order", False)):
        data = bench.folder / f"credits-{ordered}"
        with closing(LmdbStore.open(data, create=True)) as store:
            ingestor = Ingestor(store)
            ingestor.create_project(ProjectInfo("w", "https://w.example", "en", "CC-BY-SA-4.0"))
            append(ingestor, history(bench.pages, ordered=ordered))
        _report(report, name, data, bench)
    report.print()


def _report(report: Report, name: str, data: Path, bench: Bench) -> None:
    with served(data) as (pid, client):
        snapshot = format_digest(client.create_snapshot(Selector.of(["w"])).snapshot_id)
        ask = [
            sys.executable,
            "-m",
            "recension_client.cli.main",
            "--server",
            client.target,
            "credits",
            "--quiet",
        ]
        for what, options in FORMS.items():
            spent, own_spent, began = processor_seconds(pid), _children_seconds(), time.perf_counter()
            command = [*ask, snapshot, str(bench.folder / "credited"), *options]
            with subprocess.Popen(command) as process, Watch(pid) as server, Watch(process.pid) as own:
                status = process.wait()
            seconds, spent = time.perf_counter() - began, processor_seconds(pid) - spent
            own_spent = _children_seconds() - own_spent
            scaled = seconds * _ASKED_PAGES / bench.pages
            report.row(
                f"{what}, {name}" + (f", exit status {status}" if status else ""),
                f"{scaled:.0f} s a million pages ({seconds:.1f} s; CPU {spent:.1f} s and {own_spent:.1f})",
                "", "", f"{_ASKED_SECONDS} s", status == 0 and scaled < _ASKED_SECONDS,
            )  # fmt: skip
            most = max(server.most.own, own.most.own)
            report.row(
                "memory: server; client", f"{server.most}; {own.most}", "", "", f"{_ASKED_MIB} MiB",
                most < _ASKED_MIB,
            )  # fmt: skip


def _children_seconds() -> float:
    """Return what processes that were waited for have spent of the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def history(pages: int, *, ordered: bool) -> Iterator[Event]:
    """Yield the edits: of a page after those of the one before, or of all pages in changing order."""
    chance = random.Random(6)
    if ordered:
        places = ((page, nth) for page in range(1, pages + 1) for nth in range(EACH))
    else:
        everyone = list(range(1, pages + 1))
        places = ((page, nth) for nth in range(EACH) for page in chance.sample(everyone, pages))
    for rev, (page, nth) in enumerate(places, 1):
        time_ = START + (nth * pages + page) * SECOND
        made = event(page, rev, time_, b"page %d, revision %d" % (page, nth))
        assert isinstance(made.what, Edit)
        yield Event(made.project, page, time_, "", _of(made.what, chance))


def _of(edit: Edit, chance: random.Random) -> Edit:
    """Return an edit by one of many: few do most, and a tenth have no account."""
    who = Contributor.named(f"192.0.2.{chance.randrange(256)}")
    if chance.random() > 0.1:
        number = int(chance.paretovariate(0.7)) % 200_000
        who = Contributor.named(f"Somebody {number}", number + 1)
    return Edit(edit.rev_id, 0, edit.title, 0, edit.title_inferred, who, edit.comment, edit.minor, edit.slots)
