"""The process that parses and prepares: ``feed`` starts it and reads its standard output.

It has no standard input, little memory, and no other task; whatever hostile input does to a parser, it does
it here. ``main`` takes kind, path, project, the namespaces as JSON, the seed of the salts in hexadecimal, and
the share of a history that it reads: its index, and of how many.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from recension.archive.clock import Salts, salts_of
from recension.archive.intake.frames import END, ERROR, PROGRESS, RUN, Batch, Closed, Frame, json_frame
from recension.archive.intake.paging import Paging
from recension.model.errors import SourceError, SourceLimitError
from recension.sources.ahead import decoded_ahead
from recension.sources.containers import Container, open_container
from recension.sources.enterprise import read_articles
from recension.sources.events_ndjson import read_events
from recension.sources.items import ByteSource, Item, Progress, RunEnd, printable_utf8
from recension.sources.mediawiki_log import read_log
from recension.sources.mediawiki_xml import read_history
from recension.sources.runs import WHOLE, Share

MEMORY_BYTES = 360 * 1024 * 1024
"""Address space on top of what the process has when it starts.

A parser needs a window of 128 MiB and, for a record of 16 MiB, three copies of it at up to four bytes a
character. The interpreter and its libraries hold about 30 MiB of memory, so the process stays below 400.
The limit is on address space because that is what Linux enforces (``RLIMIT_RSS`` does nothing), and it is
relative because the address space of an idle interpreter depends on the machine.

There is no limit on CPU time: a dump of a large wiki takes hours by right. That input cannot burn time
without giving records is seen to by ``items.MAX_BARREN_BYTES`` and the token limit of ``xml_records``.
"""

_COLLECT_EVERY = 100_000
_STDERR_BYTES = 1024 * 1024
_PROGRESS_EVERY_BYTES = 16 * 1024 * 1024
_MAX_PIECES = 512  # below IOV_MAX, 1024 on Linux
_STDOUT = 1
_OUTBOX_BYTES = 16 * 1024 * 1024
"""Of texts that wait to be written: while it is another child's turn, a run is parsed."""


def main() -> None:
    """Parse the input that the command line names; write frames to standard output."""
    kind, path, project, namespaces, seed, index, of = sys.argv[1:]
    # Python ignores SIGPIPE; with it, a child whose parent is gone ends at its next write.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # The parent decides what an interrupt of the whole process group means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_resources()
    # Next to nothing here lies in a circle; looking for those takes a tenth of the time.
    gc.set_threshold(_COLLECT_EVERY, 50, 100)
    try:
        share = Share(int(index), int(of))
        _run(kind, Path(path), project, json.loads(namespaces), salts_of(bytes.fromhex(seed)), share)
    except SourceError as error:
        last = error_frame(error)
    except MemoryError:
        last = error_frame(
            SourceLimitError(
                f"{path}: parsing needs more memory than is allowed", hint="report the file", path=path
            )
        )
    else:
        last = json_frame(END, [])
    write_frame(last)


def limit_resources() -> None:
    """Bound memory, forbid core dumps (they hold texts) and files larger than a traceback."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _STDERR_BYTES)


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(which, (most, most))


def _run(
    kind: str, path: Path, project: str, namespaces: Mapping[str, int], salts: Salts, share: Share
) -> None:
    with (
        open_container(path, tar=kind == "enterprise") as container,
        _Outbox() as outbox,
        decoded_ahead(container) as decoded,
    ):
        source = _Reporting(container, decoded, outbox)
        if kind == "history":
            items = read_history(source, path, project, share)
        else:
            items = PARSERS[kind](source, path, project, namespaces)
        for ready in batches(items, container, Batch(salts, Paging() if kind == "history" else None)):
            outbox.put(ready)


PARSERS: dict[str, Callable[[ByteSource, Path, str, Mapping[str, int]], Iterator[Item]]] = {
    "history": lambda source, path, project, _: read_history(source, path, project, WHOLE),
    "log": lambda source, path, project, _: read_log(source, path, project),
    "events": read_events,
    "enterprise": read_articles,
}


class _Reporting:
    """A container that tells the parent how far it is, also while no item comes of it.

    That write is also what ends a child without a parent.
    """

    def __init__(self, container: Container, decoded: ByteSource, outbox: _Outbox) -> None:
        self._container = container
        self._decoded = decoded
        self._outbox = outbox
        self._silent = 0

    def read(self, size: int, /) -> bytes:
        data = self._decoded.read(size)
        self._silent += len(data)
        if self._silent >= _PROGRESS_EVERY_BYTES:
            self._silent = 0
            progress = self._container.progress
            self._outbox.put(json_frame(PROGRESS, [progress.done, progress.total]))
        return data


class Ready(NamedTuple):
    """A batch whose blocks may still be compressed, and how far the file was read when it was closed."""

    closed: Closed
    progress: Progress

    def frame(self) -> Frame:
        """Return its frame; waits for its blocks."""
        return self.closed.frame(self.progress)


def batches(items: Iterator[Item], container: Container, batch: Batch) -> Iterator[Ready | Frame]:
    """Put items into one batch after another; what came before an error is handed out before it is raised."""
    try:
        for item in items:
            if isinstance(item, RunEnd):
                if batch:
                    yield Ready(batch.close(), container.progress)
                batch.end_run()
                yield json_frame(RUN, [])
                continue
            batch.add(item)
            if batch.full:
                yield Ready(batch.close(), container.progress)
    except (SourceError, MemoryError):
        if batch:
            yield Ready(batch.close(), container.progress)
        raise
    if batch:
        yield Ready(batch.close(), container.progress)


class _Outbox:
    """Writes to standard output in order, beside the parser.

    Leaving the ``with`` block waits until all is written. What goes wrong while writing is raised by the
    next ``put``, or on leaving.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Ready | Frame | None, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name="write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting.append((None, 0))
            self._changed.notify_all()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def put(self, ready: Ready | Frame) -> None:
        """Have something written; waits while there is much to write."""
        size = ready.closed.size if isinstance(ready, Ready) else 0
        with self._changed:
            self._changed.wait_for(
                lambda: self._fault is not None or not self._bytes or self._bytes + size <= _OUTBOX_BYTES
            )
            if self._fault is not None:
                raise self._fault
            self._waiting.append((ready, size))
            self._bytes += size
            self._changed.notify_all()

    def _write_all(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._waiting))
                    ready, size = self._waiting.popleft()
                if ready is None:
                    return
                write_frame(ready.frame() if isinstance(ready, Ready) else ready)
                del ready
                with self._changed:
                    self._bytes -= size
                    self._changed.notify_all()
        except BaseException as fault:  # noqa: BLE001 - it is raised in the other thread
            with self._changed:
                self._fault = fault
                self._changed.notify_all()


def error_frame(error: SourceError) -> Frame:
    """Make the frame of an error; the parent raises the same class again."""
    metadata = {key: printable_utf8(text) for key, text in error.metadata.items()}
    message, hint = printable_utf8(error.message), printable_utf8(error.hint)
    return json_frame(ERROR, {"reason": error.reason, "message": message, "hint": hint, "metadata": metadata})


def write_frame(frame: Frame) -> None:
    """Write all of a frame to standard output; blocks while the parent is busy."""
    pieces = [memoryview(piece) for piece in frame.pieces() if piece]
    while pieces:
        done = os.writev(_STDOUT, pieces[:_MAX_PIECES])
        while pieces and done >= len(pieces[0]):
            done -= len(pieces.pop(0))
        if done:
            pieces[0] = pieces[0][done:]
