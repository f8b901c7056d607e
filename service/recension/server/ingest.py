"""The ingest of files: parse in a child, append batch by batch, quarantine what cannot be read, and report.

Exit status: 0 all taken, 1 records were rejected, 3 a file could not be read to its end, 130 interrupted;
what was complete before a fault stays stored, and running the command again goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from recension.archive import logbook
from recension.archive.clock import Clock, Salts, random_salts, system_clock
from recension.archive.ingest import Ingestor
from recension.model.errors import RecensionError, SourceError
from recension.model.event import Event
from recension.model.reading import ProjectInfo
from recension.server.quarantine import Quarantine, QuarantineFile
from recension.sources.feed import Feed
from recension.sources.items import Item, Rejected, SiteInfo, Skipped
from recension.store.interface import Store

Form = Literal["dump", "logging", "events"]
_FEEDS: dict[Form, Literal["history", "log", "events"]] = {
    "dump": "history",
    "logging": "log",
    "events": "events",
}
_LINE_SECONDS = 5.0
_INTERRUPTED = 130
_SUSPICIOUS_SHARE = 0.05
"""More SHA-1 mismatches than this and the file deserves a look: damaged exports have shown in this way."""
_SAMPLE = "aawiki-20260101-pages-meta-history.xml.7z"


@dataclass(slots=True)
class Summary:
    """What an ingest did."""

    files: int = 0
    events: int = 0
    accepted: int = 0
    known: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    log_entries_resolved: int = 0
    log_entries_unresolved: int = 0
    faults: list[RecensionError] = field(default_factory=list)
    seconds: float = 0.0
    position: int = 0
    head: str = ""

    def document(self) -> dict[str, object]:
        """Return the summary for machines."""
        return {
            "files": self.files,
            "events": self.events,
            "accepted": self.accepted,
            "known": self.known,
            "rejected": dict(sorted(self.rejected.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "claims": dict(sorted(self.claims.items())),
            "log_entries": {
                "resolved": self.log_entries_resolved,
                "unresolved": self.log_entries_unresolved,
            },
            "faults": [
                {"reason": fault.reason, "message": _plain(fault.message), "hint": fault.hint}
                for fault in self.faults
            ],
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.events / self.seconds) if self.seconds else 0,
            "position": self.position,
            "head": self.head,
        }


def run_ingest(
    store: Store,
    kind: Form,
    project: str,
    paths: Sequence[Path],
    *,
    data: Path,
    allow_rejected: bool = False,
    json_output: bool = False,
    quiet: bool = False,
    clock: Clock = system_clock,
    salts: Salts = random_salts,
) -> int:
    """Ingest files in the order given and report; returns the exit status. Holds the right to write."""
    summary = Summary()
    started = time.monotonic()
    try:
        with store.exclusive_writer():
            ingestor = Ingestor(store, clock=clock, salts=salts)
            quarantine = Quarantine(data, project)
            ingestor.namespaces(project)  # an unknown project is named before any file is opened
            for path in paths:
                _ingest_file(ingestor, quarantine, kind, project, path, summary, quiet=quiet)
            resolved = logbook.resolve(store, ingestor, project)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was stored stays, run it again to go on\n")
        return _INTERRUPTED
    summary.log_entries_resolved = resolved.resolved
    summary.log_entries_unresolved = resolved.unresolved
    summary.seconds = time.monotonic() - started
    head = store.log.head()
    summary.position, summary.head = head.position, head.hash.hex()
    _report(summary, json_output=json_output, quiet=quiet)
    if summary.faults:
        return 3
    return 1 if summary.rejected.total() and not allow_rejected else 0


def _ingest_file(
    ingestor: Ingestor,
    quarantine: Quarantine,
    kind: Form,
    project: str,
    path: Path,
    summary: Summary,
    *,
    quiet: bool,
) -> None:
    try:
        if not path.is_file():
            raise SourceError(f"{path}: no such file", hint="check the path", path=path)  # noqa: TRY301
        with (
            quarantine.writing(path) as kept,
            Feed(_FEEDS[kind], path, project, ingestor.namespaces(project)) as feed,
            _progress(path, feed, summary, quiet=quiet) as tick,
        ):
            try:
                for batch in feed:
                    _take(ingestor, project, batch, kept, summary)
                    tick()
            except SourceError as error:
                summary.faults.append(error)
    except SourceError as error:
        summary.faults.append(error)
    summary.files += 1


def _take(
    ingestor: Ingestor, project: str, batch: Sequence[Item], kept: QuarantineFile, summary: Summary
) -> None:
    events = []
    for item in batch:
        match item:
            case Event():
                events.append(item)
            case SiteInfo():
                ingestor.learn_site(project, item.namespaces, item.case)
            case Rejected():
                _reject(kept, summary, item)
            case Skipped():
                summary.skipped.update(item.counts)
    if not events:
        return
    appended = ingestor.append(project, events)
    summary.events += len(events)
    summary.accepted += appended.accepted
    summary.known += appended.known
    summary.claims.update(appended.claims)
    for index, error in appended.rejected:
        event = events[index]
        where = f"page {event.page_id}, {event.source_id or type(event.what).__name__.lower()}"
        _reject(kept, summary, Rejected(where, error.reason, error.message, b""))


def _reject(kept: QuarantineFile, summary: Summary, rejected: Rejected) -> None:
    kept.add(rejected)
    summary.rejected[rejected.reason] += 1


class _Tick:
    """Reports how far a file is: a bar for a person, else a log line every few seconds."""

    def __init__(self, path: Path, feed: Feed, summary: Summary, bar: Progress | None) -> None:
        self._feed, self._summary, self._bar, self._path = feed, summary, bar, path
        self._task = bar.add_task(_plain(path.name), total=None, rate="") if bar else None
        self._started = self._last = time.monotonic()
        self._before = summary.events

    def __call__(self) -> None:
        now = time.monotonic()
        progress = self._feed.progress
        rate = (self._summary.events - self._before) / max(now - self._started, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=progress.done,
                total=progress.total or None,
                rate=f"{rate:,.0f} events/s",
            )
        elif now - self._last >= _LINE_SECONDS:
            self._last = now
            _logger().info(
                "ingest_progress",
                file=_plain(self._path.name),
                events=self._summary.events,
                events_per_second=round(rate),
                done_bytes=progress.done,
                total_bytes=progress.total,
            )


@contextmanager
def _progress(path: Path, feed: Feed, summary: Summary, *, quiet: bool) -> Iterator[_Tick]:
    if quiet or not sys.stderr.isatty():
        tick = _Tick(path, feed, summary, None)
        if quiet:
            tick._last = float("inf")  # noqa: SLF001 - no lines at all
        yield tick
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a file name is not ours
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Tick(path, feed, summary, bar)


def _report(summary: Summary, *, json_output: bool, quiet: bool) -> None:
    for fault in summary.faults:
        sys.stderr.write(f"error: {_plain(fault.message)}\n")
        if fault.hint:
            sys.stderr.write(f"hint: {fault.hint}\n")
    checked = summary.claims["exact"] + summary.claims["exact_after_crlf"] + summary.claims["mismatch"]
    if checked and summary.claims["mismatch"] > _SUSPICIOUS_SHARE * checked:
        sys.stderr.write(
            f"warning: {summary.claims['mismatch']:,} of {checked:,} texts do not match the SHA-1 that the "
            "source states; the export may be damaged\n"
        )
    if json_output:
        sys.stdout.write(json.dumps(summary.document(), ensure_ascii=False) + "\n")
        return
    if quiet:
        return
    table = Table(box=None, show_header=False)
    table.add_row("events", f"{summary.events:,}")
    table.add_row("stored", f"{summary.accepted:,}")
    table.add_row("known before", f"{summary.known:,}")
    for reason, count in sorted(summary.rejected.items()):
        table.add_row(Text(f"rejected: {reason}"), f"{count:,}")
    for what, count in sorted(summary.skipped.items()):
        table.add_row(Text(_plain(f"passed over: {what}")), f"{count:,}")
    for verdict, count in sorted(summary.claims.items()):
        table.add_row(f"upstream's claims: {verdict}", f"{count:,}")
    if summary.log_entries_resolved or summary.log_entries_unresolved:
        table.add_row("log entries resolved", f"{summary.log_entries_resolved:,}")
        table.add_row("log entries kept unresolved", f"{summary.log_entries_unresolved:,}")
    table.add_row("position", f"{summary.position:,}")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    Console(stderr=True).print(table)


def _plain(text: str) -> str:
    """Spell out what a file name or upstream may use to steer a terminal, and what UTF-8 cannot hold."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _logger() -> Any:
    """Return the process's logger; unless it was set up, one that leaves standard output alone."""
    if structlog.is_configured():
        return structlog.get_logger()
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    )


def ingest_sample(store: Store, data: Path) -> None:
    """Create project ``aawiki`` and ingest the bundled sample; its README states origin and licence."""
    Ingestor(store).create_project(ProjectInfo("aawiki", "https://aa.wikipedia.org", "aa", "CC-BY-SA-4.0"))
    with as_file(files("recension.server") / "sample" / _SAMPLE) as path:
        run_ingest(store, "dump", "aawiki", [path], data=data)
