"""The operator's commands: compact, backup, restore, stats. Each is the store's own word and its report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from recension.archive.check.run import Check
from recension.archive.check.state import Remedy
from recension.archive.marks import Freshness
from recension.archive.stats import Stats, read_stats
from recension.model.errors import DataLossError, StoreError
from recension.model.instant import format_instant
from recension.server.pending import Pending, read_all
from recension.server.retracting import finish_erasures, sign_receipts, signer_of
from recension.server.sought import Backups
from recension.server.telling import plain
from recension.store.directory import KEY_FILE
from recension.store.frames import frame_bytes
from recension.store.interface import Compacted, Copied, Store
from recension.store.interface import Progress as Told

_MIB = 1 << 20
_WHAT = {"copy": "copying", "check": "reading back", "read": "reading", "fsck": "checking"}
_FINDINGS = 100_000
"""Of a check, looked at for damage."""
_FILES_SHOWN = 20
"""Of those that were read last; ``--json`` has all."""


class StoreOnDisk(Store, Protocol):
    """What a store must do to be operated."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a data directory."""
        ...

    @classmethod
    def restore(
        cls, source: Path, path: Path, *, progress: Told = ..., check: Callable[[Store], None] = ...
    ) -> Copied:
        """Make a data directory from a backup."""
        ...

    def compact(self, progress: Told = ...) -> Compacted:
        """Give back what is free."""
        ...

    def backup(self, path: Path, progress: Told = ..., check: Callable[[Store], None] = ...) -> Copied:
        """Write a backup."""
        ...


def add_commands(commands: Any, backend: type[StoreOnDisk]) -> None:
    """Add the commands to the parsers that ``add_subparsers`` returned; ``backend`` is the store on disk."""
    compact = commands.add_parser("compact", help="give the room of what was erased back to the disk")
    compact.add_argument(
        "--signing-key", type=Path, metavar="FILE", help=f"signs receipts of erasures (DIR/{KEY_FILE})"
    )
    _add(compact, lambda arguments: _compact(arguments, backend))
    backup = commands.add_parser("backup", help="copy a data directory, also while it is served")
    backup.add_argument("dest", metavar="DEST", type=Path, help="a directory that does not exist yet")
    _may_check(backup)
    _add(backup, lambda arguments: _backup(arguments, backend))
    restore = commands.add_parser("restore", help="make a data directory from a backup")
    restore.add_argument("source", metavar="SRC", type=Path, help="a backup")
    _may_check(restore)
    _add(restore, lambda arguments: _restore(arguments, backend))
    stats = commands.add_parser("stats", help="say what a data directory holds and what it takes")
    _add(stats, lambda arguments: _stats(arguments, backend))


def _may_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fsck", action="store_true", help="check every text and reference of the copy too")


def _add(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="data directory")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def _check(arguments: argparse.Namespace, told: Told) -> Callable[[Store], None]:
    """Return what is to be checked of a copy, whose rows and log were read back already."""

    def check_all(store: Store) -> None:
        check = Check(store, shown=_FINDINGS)
        size = store.usage().file_bytes
        check.run(tell=lambda: told("fsck", int(check.share * size), size))
        for finding in check.state.shown:
            if finding.remedy != Remedy.GC:  # garbage is no damage
                raise DataLossError(
                    f"{finding.kind} at {finding.place}: {finding.what}",
                    hint=finding.remedy,
                    findings=check.state.findings,
                )

    return check_all if arguments.fsck else lambda _: None


def _compact(arguments: argparse.Namespace, backend: type[StoreOnDisk]) -> int:
    with closing(backend.open(arguments.data)) as store:
        waiting = finish_erasures(store, arguments.data)
        with _progress(arguments) as told:
            done = store.compact(told)
        signer = signer_of(store, arguments.data, arguments.signing_key)
        signed = sign_receipts(store, arguments.data, waiting, signer)
    saved = done.before_bytes - done.copied.size_bytes
    _report(
        arguments,
        {
            "before_bytes": done.before_bytes,
            **_document(done.copied),
            "receipts": [receipt.case for receipt in signed],
        },
        f"{_mib(done.before_bytes)} before, {_mib(done.copied.size_bytes)} after, {_mib(saved)} given back",
    )
    if not arguments.json:
        for receipt in signed:
            sys.stdout.write(f"receipt signed: case {receipt.case}, {receipt.revisions:,} revisions\n")
    if len(signed) < len(waiting):
        sys.stderr.write(
            "no receipt of the erasures is signed: there is no signing key. Make one with: recension-server"
            " key create; then compact again\n"
        )
    return 0


def _backup(arguments: argparse.Namespace, backend: type[StoreOnDisk]) -> int:
    with closing(backend.open(arguments.data)) as store, _progress(arguments) as told:
        made_at = format_instant(time.time_ns() // 1000)
        copied = store.backup(arguments.dest, told, _check(arguments, told))
        try:
            Backups(arguments.data).add(arguments.dest.absolute(), made_at, copied.head.position)
        except StoreError as error:  # the backup is whole; receipts of erasures will not know of it
            sys.stderr.write(f"warning: the backup is not noted: {error.message}\n")
    _report(arguments, _document(copied), _said(copied, arguments.dest))
    return 0


def _restore(arguments: argparse.Namespace, backend: type[StoreOnDisk]) -> int:
    with _progress(arguments) as told:
        copied = backend.restore(
            arguments.source, arguments.data, progress=told, check=_check(arguments, told)
        )
    _report(arguments, _document(copied), _said(copied, arguments.data))
    return 0


def _stats(arguments: argparse.Namespace, backend: type[StoreOnDisk]) -> int:
    with closing(backend.open(arguments.data)) as store, _progress(arguments, unit="rows") as told:
        stats = read_stats(store, told)
    pending = dict(read_all(arguments.data))
    frames = frame_bytes(arguments.data)
    if arguments.json:
        waiting = {
            project: {"changes": len(some), "oldest": format_instant(min(one.since for one in some))}
            for project, some in pending.items()
        }
        document = {**stats.document(), "pending": waiting, "frame_cache_bytes": frames}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        _print(stats, pending, frames)
    return 0


def _document(copied: Copied) -> dict[str, object]:
    return {
        "position": copied.head.position,
        "head": copied.head.hash.hex(),
        "rows": copied.rows,
        "size_bytes": copied.size_bytes,
        "seconds": round(copied.seconds, 3),
    }


def _said(copied: Copied, path: Path) -> str:
    head = copied.head
    where = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in str(path))
    return f"{where}: {_mib(copied.size_bytes)}, log to position {head.position}, head {head.hash.hex()}"


def _report(arguments: argparse.Namespace, document: dict[str, object], said: str) -> None:
    sys.stdout.write((json.dumps(document) if arguments.json else said) + "\n")


def _mib(size: int) -> str:
    return f"{size / _MIB:,.1f} MiB"


@contextmanager
def _progress(arguments: argparse.Namespace, unit: str = "") -> Iterator[Told]:
    """Show a bar with rate and time left to a person; nobody else is told."""
    console = Console(stderr=True)
    if arguments.quiet or not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %")]
    size = TextColumn("{task.fields[rate]}") if unit else DownloadColumn()
    rate = TextColumn("") if unit else TextColumn("{task.fields[rate]}")
    with Progress(*columns, size, rate, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield _Bar(bar, unit)


class _Bar:
    """One line for each thing that is done."""

    def __init__(self, bar: Progress, unit: str) -> None:
        self._bar, self._unit = bar, unit
        self._what = ""
        self._began = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far it is."""
        if what != self._what:
            self._what, self._began = what, time.monotonic()
            self._task = self._bar.add_task(_WHAT.get(what, what), total=total, rate="")
        speed = done / max(time.monotonic() - self._began, 1e-9)
        rate = f"{speed:,.0f} {self._unit}/s" if self._unit else f"{_mib(int(speed))}/s"
        self._bar.update(self._task, completed=done, total=total, rate=rate)


def _sources(sources: Sequence[Freshness]) -> Table:
    """Return what is known of the sources: of all streams, and of the newest files."""
    table = Table("project", "source", "position", "newest upstream", "served", "lag")
    files = [one for one in sources if not one.is_stream]
    for one in [one for one in sources if one.is_stream] + files[-_FILES_SHOWN:]:
        table.add_row(
            Text(one.project),
            Text(plain(one.source)),
            f"{one.position:,}",
            "" if one.upstream_at is None else format_instant(one.upstream_at),
            "" if one.served_at is None else format_instant(one.served_at),
            "" if one.lag_seconds is None else f"{one.lag_seconds:,.1f} s",
        )
    return table


def _print(stats: Stats, pending: Mapping[str, Sequence[Pending]], frames: int) -> None:
    console = Console()
    projects = Table("project", "revisions", "pages", "texts", "MiB of text", title=None)
    for name in ("revisions", "pages", "texts", "MiB of text"):
        next(column for column in projects.columns if column.header == name).justify = "right"
    for project in stats.projects:
        projects.add_row(
            Text(project.name),
            f"{project.revisions:,}",
            f"{project.pages:,}",
            f"{project.texts:,}",
            f"{project.text_bytes / _MIB:,.1f}",
        )
    console.print(projects)
    parts = Table("part", "", "rows", "raw MiB", "stored MiB", "ratio")
    for column in parts.columns[2:]:
        column.justify = "right"
    for part in stats.parts:
        about = "~" if part.estimated else ""
        ratio = f"{part.raw_bytes / part.stored_bytes:.2f}" if part.stored_bytes else ""
        parts.add_row(
            part.name,
            Text(part.letter),
            f"{part.rows:,}",
            f"{about}{part.raw_bytes / _MIB:,.2f}",
            f"{part.stored_bytes / _MIB:,.2f}",
            ratio,
        )
    console.print(parts)
    if stats.sources:
        console.print(_sources(stats.sources))
    usage = stats.usage
    rest = Table(box=None, show_header=False)
    rest.add_row("position", f"{stats.position:,}")
    rest.add_row("file", _mib(usage.file_bytes))
    for name, table in usage.tables.items():
        rest.add_row(f"  pages of {name}", _mib(table.page_bytes))
    rest.add_row("  free", _mib(usage.free_bytes))
    rest.add_row("frames of hot texts", _mib(frames))
    rest.add_row("free on the disk", _mib(usage.disk_free_bytes))
    rest.add_row("readers", f"{usage.readers:,} of {usage.max_readers:,}")
    rest.add_row("oldest reader", f"{usage.oldest_reader_commits:,} transactions behind")
    rest.add_row(
        "not sealed yet", f"{stats.tails:,} texts of {stats.tail_pages:,} pages, {_mib(stats.tail_bytes)}"
    )
    for name, some in pending.items():
        oldest = format_instant(min(one.since for one in some))
        rest.add_row(f"pending of {name}", f"{len(some):,} changes, the oldest since {oldest}")
    console.print(rest)
