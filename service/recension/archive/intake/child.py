"""The process that parses and prepares: ``feed`` starts it and reads its standard output.

It has no standard input, little memory, and no other task; whatever hostile input does to a parser, it does
it here. ``main`` takes kind, path, project, the namespaces as JSON, and the seed of the salts in hexadecimal.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from recension.archive.clock import Salts, salts_of
from recension.archive.intake.frames import END, ERROR, PROGRESS, Batch, Closed, Frame, json_frame
from recension.archive.intake.paging import Paging
from recension.model.errors import SourceError, SourceLimitError
from recension.sources.containers import Container, open_container
from recension.sources.events_ndjson import read_events
from recension.sources.items import ByteSource, Item, printable_utf8
from recension.sources.mediawiki_log import read_log
from recension.sources.mediawiki_xml import read_history

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


def main() -> None:
    """Parse the input that the command line names; write frames to standard output."""
    kind, path, project, namespaces, seed = sys.argv[1:]
    # Python ignores SIGPIPE; with it, a child whose parent is gone ends at its next write.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # The parent decides what an interrupt of the whole process group means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_resources()
    # Next to nothing here lies in a circle; looking for those takes a tenth of the time.
    gc.set_threshold(_COLLECT_EVERY, 50, 100)
    try:
        _run(kind, Path(path), project, json.loads(namespaces), salts_of(bytes.fromhex(seed)))
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


def _run(kind: str, path: Path, project: str, namespaces: Mapping[str, int], salts: Salts) -> None:
    with open_container(path) as container:
        items = PARSERS[kind](_Reporting(container), path, project, namespaces)
        for frame in batches(items, container, Batch(salts, Paging() if kind == "history" else None)):
            write_frame(frame)


PARSERS: dict[str, Callable[[ByteSource, Path, str, Mapping[str, int]], Iterator[Item]]] = {
    "history": lambda source, path, project, _: read_history(source, path, project),
    "log": lambda source, path, project, _: read_log(source, path, project),
    "events": read_events,
}


class _Reporting:
    """A container that tells the parent how far it is, also while no item comes of it.

    That write is also what ends a child without a parent.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._silent = 0

    def read(self, size: int, /) -> bytes:
        data = self._container.read(size)
        self._silent += len(data)
        if self._silent >= _PROGRESS_EVERY_BYTES:
            self._silent = 0
            progress = self._container.progress
            write_frame(json_frame(PROGRESS, [progress.done, progress.total]))
        return data


def batches(items: Iterator[Item], container: Container, batch: Batch) -> Iterator[Frame]:
    """Put items into frames of ``batch``; what came before an error is handed out before it is raised.

    Blocks of a batch are compressed while the next is parsed.
    """
    waiting: list[Closed] = []

    def rest() -> Iterator[Frame]:
        if batch:
            waiting.append(batch.close())
        for closed in waiting:
            yield closed.frame(container.progress)

    try:
        for item in items:
            batch.add(item)
            if batch.full:
                waiting.append(batch.close())
                if len(waiting) > 1:
                    yield waiting.pop(0).frame(container.progress)
    except (SourceError, MemoryError):
        yield from rest()
        raise
    yield from rest()


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
