"""The commands ``fsck``, ``rebuild`` and ``gc``: a data directory checked and put in order.

A check that was ended leaves its state in ``DIR/fsck.json``; ``--resume`` goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from recension.archive.check.run import Check
from recension.archive.check.state import PHASES, State, read_state
from recension.archive.garbage import Garbage, collect
from recension.archive.rebuild import Rebuilt, rebuild
from recension.model.errors import RecensionError, StoreError
from recension.server.opening import OpenStore, take_data_and_json
from recension.server.telling import write_error, write_json

STATE = "fsck.json"
CLEAN, FOUND, NOT_RUN = 0, 1, 2
_INTERRUPTED = 130
_FSCK_EPILOG = f"""\
exit codes:
  {CLEAN}    nothing found; with --max-seconds, so far
  {FOUND}    something found: each line says what to do
  {NOT_RUN}    wrong usage, or the check could not run
  {_INTERRUPTED}  interrupted; --resume goes on
"""
_REBUILD_EPILOG = """\
exit codes:
  0    done
  1    done, and texts are missing: their blocks are gone
  2    wrong usage
  3    an error with a name: see "error:" and "hint:" on stderr
  130  interrupted; run it again to go on
"""


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    fsck = commands.add_parser("fsck", help="check every text, hash and reference of a data directory")
    fsck.description = "Check every text, hash and reference. Reads beside a running server; repairs nothing."
    fsck.epilog = _FSCK_EPILOG
    fsck.add_argument(
        "--max-seconds", type=_seconds, default=0.0, metavar="S", help="end after that time (no limit)"
    )
    fsck.add_argument(
        "--resume", action="store_true", help="go on where the last one ended, if it did not finish"
    )
    fsck.add_argument("--show", type=_count, default=100, metavar="N", help="findings to print (%(default)s)")
    _finish(fsck, lambda arguments: _fsck(arguments, open_store))

    again = commands.add_parser("rebuild", help="make the index anew from the log and the blobs")
    again.description = "Write log, blobs and a new index into another directory. End all writers first."
    again.epilog = _REBUILD_EPILOG
    again.add_argument("--into", required=True, type=Path, metavar="DIR", help="an empty directory")
    _finish(again, lambda arguments: _rebuild(arguments, open_store))

    gc = commands.add_parser("gc", help="remove what no revision and no snapshot needs")
    gc.description = (
        "Count what no revision and no snapshot needs; remove it only with --delete. Never below a live pin."
    )
    gc.add_argument("--delete", action="store_true", help="remove it")
    gc.add_argument(
        "--unpinned-days",
        type=_days,
        metavar="N",
        help="count the trees of snapshots too that are at least N days old and that no live pin holds",
    )
    _finish(gc, lambda arguments: _gc(arguments, open_store))


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress")
    take_data_and_json(parser, run)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError
    return seconds


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days < float("inf"):
        raise ValueError
    return days


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


# --- fsck -----------------------------------------------------------------------------------------


def _fsck(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    path = arguments.data / STATE
    try:
        with closing(open_store(arguments.data)) as store:
            before = _load(path) if arguments.resume else None
            check = Check(store, before, shown=arguments.show)
            interrupted = _run(check, arguments)
            _keep(path, check.state)
    except RecensionError as error:
        write_error(error)
        return NOT_RUN
    except OSError as error:
        write_error(StoreError(f"{path}: {os.strerror(error.errno or 0)}"))
        return NOT_RUN
    _report(check, as_json=arguments.json)
    if interrupted:
        return _INTERRUPTED
    return FOUND if check.state.findings else CLEAN


def _run(check: Check, arguments: argparse.Namespace) -> bool:
    """Check until it is done, the time is over or somebody interrupts; say whether somebody did."""
    started = time.monotonic()
    before, already = check.state.seconds, check.state.text_bytes

    def is_over() -> bool:
        return bool(arguments.max_seconds) and time.monotonic() - started >= arguments.max_seconds

    try:
        with _bar(quiet=arguments.quiet) as bar:
            task = bar.add_task("", total=1.0, rate="") if bar is not None else None

            def tell() -> None:
                seconds = time.monotonic() - started
                check.state.seconds = before + seconds
                if bar is not None and task is not None:
                    rate = (check.state.text_bytes - already) / 1e6 / max(seconds, 1e-9)
                    name = "done" if check.state.complete else PHASES[check.state.phase]
                    bar.update(task, description=name, completed=check.share, rate=f"{rate:,.0f} MB/s")

            check.run(is_over, tell)
    except KeyboardInterrupt:
        return True
    return False


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Progress | None]:
    """Show how far it is to a person; to nobody else."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield bar


def _load(path: Path) -> State | None:
    """Return the state of a check that was ended, if there is one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise StoreError(
            f"{path} is not the state of a check", hint="leave --resume away", path=path
        ) from None
    return read_state(document)


def _keep(path: Path, state: State) -> None:
    """Write the state for ``--resume``, as a whole; remove it once there is nothing to resume."""
    if state.complete:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(state.document()), encoding="utf-8")
    fresh.replace(path)


def _report(check: Check, *, as_json: bool) -> None:
    state = check.state
    rate = round(state.text_bytes / 1e6 / state.seconds, 1) if state.seconds else 0.0
    if as_json:
        document = {
            "complete": state.complete,
            "share": round(check.share, 4),
            "known_at": state.known_at,
            "findings": state.findings,
            "kinds": dict(sorted(state.kinds.items())),
            "shown": [asdict(one) for one in state.shown],
            "commits": state.commits,
            "events": state.events,
            "texts": state.texts,
            "text_bytes": state.text_bytes,
            "entries": state.entries,
            "seconds": round(state.seconds, 3),
            "megabytes_per_second": rate,
        }
        write_json(document)
        return
    out = sys.stdout.write
    for one in state.shown:
        out(f"{one.kind}: {_plain(one.place)}: {_plain(one.what)}\n")
    if state.findings > len(state.shown):
        out(f"... and {state.findings - len(state.shown):,} more\n")
    for remedy in dict.fromkeys(one.remedy for one in state.shown):
        out(f"what to do: {remedy}\n")
    counts = f"{state.commits:,} commits, {state.events:,} events, {state.texts:,} texts ({rate:,} MB/s)"
    if state.complete:
        out(f"{'clean' if not state.findings else f'{state.findings:,} findings'}: {counts}\n")
    else:
        out(f"{check.share:.0%} done, {state.findings:,} findings so far; go on with --resume: {counts}\n")


def _plain(text: str) -> str:
    """Spell out what could steer a terminal."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


# --- rebuild, gc ----------------------------------------------------------------------------------


def _rebuild(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with (
        closing(open_store(arguments.data)) as source,
        source.exclusive_writer(),
        closing(open_store(arguments.into, create=True)) as target,
        target.exclusive_writer(),
        _counting(quiet=arguments.quiet) as count,
    ):
        done = rebuild(source, target, lambda one: count(f"{one.commits:,} commits, {one.blocks:,} blocks"))
    _tell(asdict(done), _rebuilt_text(done, arguments.into), as_json=arguments.json)
    return FOUND if done.missing else CLEAN


def _rebuilt_text(done: Rebuilt, into: Path) -> str:
    text = f"{done.commits:,} commits, {done.snapshots:,} snapshots, {done.blocks:,} blocks written\n"
    if done.missing:
        text += f"{done.missing:,} texts are missing\n"
    return text + f"check it with: recension-server fsck --data {_plain(str(into))}\n"


def _gc(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with (
        closing(open_store(arguments.data)) as store,
        store.exclusive_writer(),
        _counting(quiet=arguments.quiet) as count,
    ):
        found = collect(
            store,
            delete=arguments.delete,
            unpinned_days=arguments.unpinned_days,
            tell=lambda one: count(f"{one.nodes:,} nodes, {one.blocks:,} blocks"),
        )
    document = {**asdict(found), "deleted": arguments.delete}
    _tell(document, _garbage_text(found, deleted=arguments.delete), as_json=arguments.json)
    return CLEAN


def _garbage_text(found: Garbage, *, deleted: bool) -> str:
    text = (
        f"snapshot tree nodes  {found.nodes:,} ({found.node_bytes:,} bytes)\n"
        f"text blocks          {found.blocks:,} ({found.block_bytes:,} bytes)\n"
        f"rows of texts        {found.text_rows:,}\n"
        f"rows of columns      {found.column_rows:,} ({found.column_bytes:,} bytes)\n"
    )
    if found.snapshots:
        text += f"snapshots released   {found.snapshots:,}\n"
    if found.damaged:
        text += f"{found.damaged:,} kept, since something looks for them: run recension-server fsck\n"
    if found.is_none:
        return text + "nothing to remove\n"
    return text + ("removed\n" if deleted else "nothing was removed; do so with --delete\n")


@contextmanager
def _counting(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show counts to a person while something runs."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("") as status:
        yield status.update


def _tell(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    sys.stdout.write(json.dumps(document) + "\n" if as_json else text)
