"""The ingest of files: parse in a child, append batch by batch, quarantine what cannot be read, and report.

Exit status: 0 all taken, 1 records were rejected, 3 a file could not be read to its end or the store failed,
130 interrupted; what was complete before a fault stays stored, and running the command again goes on.
"""

from __future__ import annotations

import gc
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import structlog
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from recension.archive import logbook
from recension.archive.clock import Clock, salts_of, system_clock
from recension.archive.ingest import Ingestor
from recension.archive.intake import feed as feeds
from recension.archive.intake.feed import Feed
from recension.archive.intake.frames import Fed
from recension.archive.reader import Archive
from recension.model.credit import read_periods
from recension.model.errors import DataLossError, SourceError, SourceFormatError, StoreError
from recension.model.reading import ProjectInfo
from recension.server.origins import Hashing, Numbered
from recension.server.quarantine import Quarantine
from recension.server.taking import Summary, take
from recension.server.telling import plain, write_error
from recension.store.interface import Store

Form = Literal["dump", "logging", "events", "enterprise"]
_FEEDS: dict[Form, feeds.Kind] = {
    "dump": "history",
    "logging": "log",
    "events": "events",
    "enterprise": "enterprise",
}
_LINE_SECONDS = 5.0
_MOST_WORKERS = 8
_CACHE_BYTES = 192 * 2**20
_COLLECT_EVERY = 100_000
_INTERRUPTED = 130
_SUSPICIOUS_SHARE = 0.05
"""More SHA-1 mismatches than this and the file deserves a look: damaged exports have shown in this way."""
_SAMPLE = "aawiki-20260101-pages-meta-history.xml.7z"
_SAMPLE_PROJECT = ProjectInfo(
    "aawiki",
    "https://aa.wikipedia.org",
    "aa",
    "CC-BY-SA-4.0",
    licenses=read_periods(["CC-BY-SA-3.0", "CC-BY-SA-4.0@2023-06-07"]),
)
_SAMPLE_REVISIONS = 1307


def usable_workers() -> int:
    """Return how many processes parse a file unless it is said: as many as there are processors, up to 8."""
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


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
    seed: bytes = b"",
    workers: int = 1,
) -> int:
    """Ingest files in the order given and report; returns the exit status. Holds the right to write.

    ``seed`` fixes the salts, for tests. ``workers``: as for ``Feed``.
    """
    try:
        summary = ingest_files(
            store, kind, project, paths, data=data, quiet=quiet, clock=clock, seed=seed, workers=workers
        )
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was stored stays, run it again to go on\n")
        return _INTERRUPTED
    _report(summary, json_output=json_output, quiet=quiet)
    if summary.faults:
        return 3
    return 1 if summary.rejected.total() and not allow_rejected else 0


def ingest_files(
    store: Store,
    kind: Form,
    project: str,
    paths: Sequence[Path],
    *,
    data: Path,
    quiet: bool = False,
    clock: Clock = system_clock,
    seed: bytes = b"",
    workers: int = 1,
) -> Summary:
    """Ingest files in the order given. Holds the right to write.

    A file that cannot be read is a fault and the next one follows; a store that fails is the last fault.
    Raises ``ProjectNotFoundError`` before any file is opened, and ``WriterBusyError``.
    """
    summary = Summary()
    started = time.monotonic()
    with store.exclusive_writer(), _fewer_collections():
        ingestor = Ingestor(store, clock=clock, salts=salts_of(seed), cache_bytes=_CACHE_BYTES)
        quarantine = Quarantine(data, project)
        ingestor.namespaces(project)  # an unknown project is named before any file is opened
        try:
            with store.importing():
                for path in paths:
                    feed = Feed(
                        _FEEDS[kind], path, project, ingestor.namespaces(project), seed=seed, workers=workers
                    )
                    _ingest_file(store, ingestor, quarantine, kind, project, path, feed, summary, quiet=quiet)
            resolved = logbook.resolve(store, ingestor, project)
            summary.log_entries_resolved = resolved.resolved
            summary.log_entries_unresolved = resolved.unresolved
            with _sealing(quiet=quiet) as tell:
                summary.pages_sealed = ingestor.settle(tell)
        except (StoreError, DataLossError) as error:
            summary.faults.append(error)
    summary.seconds = time.monotonic() - started
    head = store.log.head()
    summary.position, summary.head = head.position, head.hash.hex()
    return summary


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for circles of garbage less often: there is next to none, and it takes a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_EVERY, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _ingest_file(
    store: Store,
    ingestor: Ingestor,
    quarantine: Quarantine,
    kind: Form,
    project: str,
    path: Path,
    feed: Feed,
    summary: Summary,
    *,
    quiet: bool,
) -> None:
    try:
        _check_file(path)
        with (
            quarantine.writing(path) as kept,
            Hashing(path) as hashing,
            feed,
            _progress(kind, path, feed, summary, quiet=quiet) as tick,
        ):
            try:
                numbered = Numbered(kind, path)
                for batch in feed:
                    take(store, ingestor, project, batch, kept, summary, numbered.mark(batch.events.events))
                    tick()
                whole = numbered.whole(hashing.origin())
                take(store, ingestor, project, Fed(), kept, summary, whole)
            except SourceError as error:
                summary.faults.append(error)
            tick()
    except SourceError as error:
        summary.faults.append(error)
    except (StoreError, DataLossError) as error:
        error.metadata["file"] = str(path)  # its own path is the store's
        raise
    summary.files += 1


def _check_file(path: Path) -> None:
    """Refuse what is no file: to go on after a kill, an ingest has to be able to read it again."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if str(path) == "-":
            raise SourceFormatError(
                "-: standard input is not read", hint="save it to a file and pass that", path=path
            ) from None
        raise SourceError(
            f"{path}: cannot be read: {os.strerror(error.errno or 0)}", hint="check the path", path=path
        ) from None
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise SourceFormatError(
            f"{path}: {what} is not read", hint="pass a file; save what comes from a pipe first", path=path
        )


class _Tick:
    """Reports how far a file is: a bar for a person, else a log line every few seconds."""

    def __init__(self, kind: Form, path: Path, feed: Feed, summary: Summary, bar: Progress | None) -> None:
        self._feed, self._summary, self._bar, self._path = feed, summary, bar, path
        self._of_log = kind == "logging"
        self._task = bar.add_task(plain(path.name), total=path.stat().st_size, rate="") if bar else None
        self._started = self._last = time.monotonic()
        self._before = self._count()

    def _count(self) -> int:
        return self._summary.events if self._of_log else self._summary.revisions

    def __call__(self) -> None:
        now = time.monotonic()
        progress = self._feed.progress
        rate = round((self._count() - self._before) / max(now - self._started, 1e-9))
        if self._bar is not None and self._task is not None:
            unit = "entries/s" if self._of_log else "revisions/s"
            self._bar.update(self._task, completed=progress.done, rate=f"{rate:,} {unit}")
        elif now - self._last >= _LINE_SECONDS:
            self._last = now
            _logger().info(
                "ingest_progress",
                file=plain(self._path.name),
                events=self._summary.events,
                revisions=self._summary.revisions,
                per_second=rate,
                done_bytes=progress.done,
                total_bytes=progress.total,
            )


@contextmanager
def _progress(kind: Form, path: Path, feed: Feed, summary: Summary, *, quiet: bool) -> Iterator[_Tick]:
    if quiet or not sys.stderr.isatty():
        tick = _Tick(kind, path, feed, summary, None)
        if quiet:
            tick._last = float("inf")  # noqa: SLF001 - no lines at all
        yield tick
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a file name is not ours
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Tick(kind, path, feed, summary, bar)


@contextmanager
def _sealing(*, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how far the sealing of texts is; without a terminal nothing, it takes a fraction of the ingest."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("sealing texts") as status:
        yield lambda pages: status.update(f"sealing texts: {pages:,} pages")


def _report(summary: Summary, *, json_output: bool, quiet: bool) -> None:
    for fault in summary.faults:
        write_error(fault)
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
    if summary.rejected:
        table.add_row("rejected records are in", Text(plain(summary.quarantine)))
    for what, count in sorted(summary.skipped.items()):
        table.add_row(Text(plain(f"passed over: {what}")), f"{count:,}")
    for verdict, count in sorted(summary.claims.items()):
        table.add_row(f"upstream's claims: {verdict}", f"{count:,}")
    if summary.log_entries_resolved or summary.log_entries_unresolved:
        table.add_row("log entries resolved", f"{summary.log_entries_resolved:,}")
        table.add_row("log entries kept unresolved", f"{summary.log_entries_unresolved:,}")
    table.add_row("position", f"{summary.position:,}")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    Console(stderr=True).print(table)


def _logger() -> Any:
    """Return the process's logger; unless it was set up, one that leaves standard output alone."""
    if structlog.is_configured():
        return structlog.get_logger()
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    )


def ingest_sample(store: Store, data: Path) -> None:
    """Create project ``aawiki`` and ingest the bundled sample; its README states origin and licence.

    Logs one line. Raises the ``StoreError`` that ended it, ``SourceError`` when the sample is damaged.
    """
    Ingestor(store).create_project(_SAMPLE_PROJECT)
    with as_file(files("recension.server") / "sample" / _SAMPLE) as path:
        summary = ingest_files(store, "dump", _SAMPLE_PROJECT.name, [path], data=data, quiet=True)
    for fault in summary.faults:
        if not isinstance(fault, SourceError):
            raise fault
    if summary.faults or summary.accepted + summary.known != _SAMPLE_REVISIONS:
        cause = plain(summary.faults[0].message) if summary.faults else "revisions are missing"
        raise SourceError(f"the bundled sample cannot be used: {cause}", hint="install recension again")
    _logger().info(
        "sample_ingested",
        project=_SAMPLE_PROJECT.name,
        revisions=summary.accepted,
        seconds=round(summary.seconds, 3),
    )


def lacks_sample(store: Store) -> bool:
    """True while a store that is to hold the sample holds nothing, or a part: the ingest of it was ended."""
    projects = Archive(store).projects()
    return not projects or (
        [_definition(info) for info in projects] == [_SAMPLE_PROJECT]
        and projects[0].revisions < _SAMPLE_REVISIONS
    )


def _definition(info: ProjectInfo) -> ProjectInfo:
    return ProjectInfo(info.name, info.base_url, info.language, info.license, licenses=info.licenses)
