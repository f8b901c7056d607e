"""The ingest of files: parse in a child, append batch by batch, quarantine what cannot be read, and report.

Exit status: 0 all taken, 1 records were rejected, 3 a file could not be read to its end or the store failed,
130 interrupted; what was complete before a fault stays stored, and running the command again goes on.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from recension.model.errors import (
    DataLossError,
    SourceError,
    SourceFormatError,
    SourceIncompleteError,
    StoreError,
    TooManyRejectedError,
)
from recension.model.mark import Mark
from recension.model.record import Kind
from recension.server import logs
from recension.server.collecting import fewer_collections
from recension.server.completing import AS_IT_IS, Completion, Whole
from recension.server.dumpsets import SETS, DumpSet, gather
from recension.server.origins import Hashing, Numbered
from recension.server.quarantine import Quarantine, Records
from recension.server.taking import NO_BUDGET, Budget, Summary, take
from recension.server.telling import plain, write_error
from recension.store.interface import Store

if TYPE_CHECKING:
    from recension.server.streamfiles import StreamFile
    from recension.sources.contents import ContentSource

Form = Literal["dump", "logging", "events", "enterprise", "eventstreams"]
_FEEDS: dict[str, feeds.Kind] = {
    "dump": "history",
    "logging": "log",
    "events": "events",
    "enterprise": "enterprise",
}
_LINE_SECONDS = 5.0
_MOST_WORKERS = 8
_CACHE_BYTES = 192 * 2**20
_INTERRUPTED = 130
_ENDED = object()


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
    whole: Whole = AS_IT_IS,
    budget: Budget = NO_BUDGET,
    content: ContentSource | None = None,
) -> int:
    """Ingest files and report; returns the exit status. Holds the right to write.

    ``seed`` fixes the salts, for tests. ``workers``: as for ``Feed``. ``whole``, ``budget`` and ``content``:
    as for ``ingest_files``.
    """
    try:
        summary = ingest_files(
            store,
            kind,
            project,
            paths,
            data=data,
            quiet=quiet,
            clock=clock,
            seed=seed,
            workers=workers,
            whole=whole,
            budget=budget,
            content=content,
        )
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was stored stays, run it again to go on\n")
        return _INTERRUPTED
    report(summary, json_output=json_output, quiet=quiet)
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
    whole: Whole = AS_IT_IS,
    budget: Budget = NO_BUDGET,
    content: ContentSource | None = None,
) -> Summary:
    """Ingest files, those of a dump by their sets (``dumpsets``). Holds the right to write.

    A file that cannot be read is a fault and the next one follows; a store that fails is the last fault, and
    so is a spent ``budget`` of rejected records, before which all is stored.
    ``whole`` says what is asked of the sets, ``content`` who has the texts of ``eventstreams`` (the project's
    wiki). Raises ``ProjectNotFoundError`` before any file is opened, ``InvalidArgumentError`` for what
    ``whole`` cannot ask of these files, and ``WriterBusyError``.
    """
    summary = Summary()
    started = time.monotonic()
    with store.exclusive_writer(), fewer_collections():
        ingestor = Ingestor(store, clock=clock, salts=salts_of(seed), cache_bytes=_CACHE_BYTES)
        ingestor.namespaces(project)  # an unknown project is named before any file is opened
        sets, faults = gather(kind, paths)
        summary.faults += faults
        summary.sets += sets if kind in SETS else []
        completion = whole.completion(sets, clock())
        run = _Run(
            store,
            ingestor,
            Quarantine(data, project),
            kind,
            project,
            summary,
            seed,
            workers,
            completion,
            budget,
            content,
        )
        try:
            if completion is not None:
                completion.begin()
                if completion.made_at is None:
                    with _working("looking for the newest revision", quiet=quiet):
                        completion.date(run.newest_at(sets, clock()))
                ingestor.hidden_at = completion.made_at
            with store.importing(), _bar(quiet=quiet) as bar:
                for one in sets:
                    run.read(one, bar, quiet=quiet, allow_incomplete=whole.allow_incomplete)
            resolved = logbook.resolve(store, ingestor, project)
            summary.log_entries_resolved = resolved.resolved
            summary.log_entries_unresolved = resolved.unresolved
            if completion is not None:
                _complete(store, ingestor, project, completion, summary)
            with _working("sealing texts", quiet=quiet) as tell:
                summary.pages_sealed = ingestor.settle(tell)
        except (SourceError, StoreError, DataLossError) as error:
            summary.faults.append(error)
    summary.seconds = time.monotonic() - started
    head = store.log.head()
    summary.position, summary.head = head.position, head.hash.hex()
    return summary


def _complete(
    store: Store, ingestor: Ingestor, project: str, completion: Completion, summary: Summary
) -> None:
    try:
        completion.end(store, ingestor, project, faults=len(summary.faults))
    except SourceIncompleteError as error:
        summary.faults.append(error)
    else:
        summary.complete = completion.document()


@dataclass(slots=True)
class _Run:
    """One ingest of files, into one project."""

    store: Store
    ingestor: Ingestor
    quarantine: Quarantine
    kind: Form
    project: str
    summary: Summary
    seed: bytes
    workers: int
    completion: Completion | None
    budget: Budget
    content: ContentSource | None

    def newest_at(self, sets: Sequence[DumpSet], now: int) -> int | None:
        """Return the time of the newest revision of all files, which are read once more for it.

        One of the future (``now``) tells nothing: no dump is of then. What hides something is stored as it
        comes, so its time has to be known before. Raises ``SourceError`` for a file that cannot be read to
        its end.
        """
        newest: int | None = None
        for path in chain.from_iterable(one.files for one in sets):
            with self._feed(path, self.workers) as feed:
                for batch in feed:
                    edits = (one.skeleton for one in batch.events.events if one.skeleton.kind is Kind.EDIT)
                    times = [edit.time for edit in edits if edit.time <= now]
                    newest = max(times if newest is None else [newest, *times], default=None)
        return newest

    def _feed(self, path: Path, workers: int) -> Feed | StreamFile:
        _check_file(path)
        if self.kind == "eventstreams":
            # Imported late: it brings an HTTP client that other files do not need.
            from recension.server.streamfiles import StreamFile  # noqa: PLC0415

            return StreamFile(self.store, self.project, path, self.content)
        namespaces = self.ingestor.namespaces(self.project)
        return Feed(_FEEDS[self.kind], path, self.project, namespaces, seed=self.seed, workers=workers)

    def read(self, files: DumpSet, bar: Progress | None, *, quiet: bool, allow_incomplete: bool) -> None:
        """Read the files of a set: as many at a time as there are workers, a batch of each in turn.

        More at a time than processors would only get in each other's way: four that decode bz2 on two take
        twice the CPU.
        """
        if self.is_spent():
            return
        try:
            files.check(allow_incomplete=allow_incomplete)
        except SourceError as error:
            self.summary.faults.append(error)
            return
        lanes = min(len(files.files), self.workers)
        waiting = [self._batches(path, self.workers // lanes, bar, quiet) for path in files.files]
        with ExitStack() as open_files:
            for batches in waiting:
                open_files.enter_context(closing(batches))
            in_turns(waiting, lanes)

    def _batches(
        self,
        path: Path,
        workers: int,
        bar: Progress | None,
        quiet: bool,  # noqa: FBT001
    ) -> Generator[None]:
        """Store a file; stops behind each batch, and ends where the budget is spent."""
        if self.is_spent():
            return
        try:
            feed = self._feed(path, workers)
            with self.quarantine.writing(path, self.kind) as kept, Hashing(path) as hashing, feed:
                tick = _Tick(self.kind, path, feed, self.summary, bar, quiet=quiet)
                try:
                    numbered, claims = Numbered(self.kind, path, hashing.file), Counter[str]()
                    for batch in feed:
                        before = self.summary.claims.copy()
                        self._take(batch, kept, numbered.mark(batch))
                        claims.update(self.summary.claims - before)
                        tick()
                        self.budget.check(self.summary)
                        yield
                        if self.is_spent():
                            return
                    self._take(Fed(), kept, numbered.whole(hashing.origin()))
                    self.summary.judge_claims(path.name, claims)
                    self.budget.check(self.summary, at_end=True)
                except (SourceError, TooManyRejectedError) as error:
                    self.summary.faults.append(error)
                tick()
        except SourceError as error:
            self.summary.faults.append(error)
        except (StoreError, DataLossError) as error:
            error.metadata["file"] = str(path)  # its own path is the store's
            raise
        self.summary.files += 1

    def is_spent(self) -> bool:
        """Say whether more was rejected than is allowed."""
        return any(isinstance(fault, TooManyRejectedError) for fault in self.summary.faults)

    def _take(self, batch: Fed, kept: Records, mark: Mark) -> None:
        if self.completion is not None:
            self.completion.see(batch)
        take(self.store, self.ingestor, self.project, batch, kept, self.summary, mark)


def in_turns(files: Sequence[Iterator[None]], lanes: int) -> None:
    """Advance files a step at a time, the first ``lanes`` of them in turn; where one ends the next begins.

    Which batch follows which depends on the files alone, never on how long one takes.
    """
    waiting = deque(files)
    turns: deque[Iterator[None]] = deque()
    while turns or waiting:
        while waiting and len(turns) < lanes:
            turns.append(waiting.popleft())
        batches = turns.popleft()
        if next(batches, _ENDED) is not _ENDED:
            turns.append(batches)


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

    def __init__(
        self,
        kind: Form,
        path: Path,
        feed: Feed | StreamFile,
        summary: Summary,
        bar: Progress | None,
        *,
        quiet: bool,
    ) -> None:
        self._feed, self._summary, self._bar, self._path = feed, summary, bar, path
        self._of_log = kind == "logging"
        self._task = bar.add_task(plain(path.name), total=path.stat().st_size, rate="") if bar else None
        self._started = time.monotonic()
        self._last = float("inf") if quiet else self._started  # no lines at all
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
            logs.logger().info(
                "ingest_progress",
                file=plain(self._path.name),
                events=self._summary.events,
                revisions=self._summary.revisions,
                per_second=rate,
                done_bytes=progress.done,
                total_bytes=progress.total,
            )


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Progress | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a file name is not ours
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar


@contextmanager
def _working(what: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show what goes on, and of how many pages; without a terminal nothing, it takes less than the ingest."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status(what) as status:
        yield lambda pages: status.update(f"{what}: {pages:,} pages")


def report(summary: Summary, *, json_output: bool, quiet: bool) -> None:
    """Tell what an ingest did: as JSON on standard output, or a table on standard error."""
    for fault in summary.faults:
        write_error(fault)
    for name in summary.suspicious:
        sys.stderr.write(
            f"warning: {plain(name)}: many texts do not match the SHA-1 that the file states: "
            f"{summary.suspicious[name]:.0%}; the export may be damaged\n"
        )
    for one in summary.sets:
        for lack in one.lacks:
            sys.stderr.write(f"warning: {plain(f'{one.name}: {lack}')}\n")
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
    for what, count in sorted(summary.licenses.items()):
        table.add_row(Text(plain(f"licence stated: {what}")), f"{count:,}")
    if summary.log_entries_resolved or summary.log_entries_unresolved:
        table.add_row("log entries resolved", f"{summary.log_entries_resolved:,}")
        table.add_row("log entries kept unresolved", f"{summary.log_entries_unresolved:,}")
    for what, value in summary.complete.items():
        table.add_row(f"complete dump: {what.replace('_', ' ')}", Text(str(value)))
    table.add_row("position", f"{summary.position:,}")
    table.add_row("seconds", f"{summary.seconds:.1f}")
    Console(stderr=True).print(table)
