"""Read a dump in another process, batch by batch, its events prepared for the store.

Parsing never happens where the store is open: the child (``intake.child``) has its own memory limit and may
die; the worst that its input can do here is a named error. The pipe is the back-pressure: the child works one
batch ahead and then waits, so that parsing and storing overlap in bounded memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NoReturn, Self

import recension
from recension.archive.intake.frames import (
    BATCH,
    END,
    ERROR,
    HEADER,
    RUN,
    Fed,
    FrameError,
    load_json,
    parse_header,
    unpack_batch,
    unpack_progress,
)
from recension.model.errors import BY_REASON, SourceCorruptError, SourceError, SourceLimitError
from recension.sources.containers import packed_kind
from recension.sources.items import Progress, printable_utf8

Kind = Literal["enterprise", "events", "history", "log"]

_QUICK = frozenset({None, "gz", "zst"})
"""Containers that are decoded so much faster than parsed that each child may do it; ``None``: plain."""
_WORKER_BYTES = 512 * 1024
"""Of the file as stored: with less, a child is not worth its start."""
_HEAD_BYTES = 512
_PIPE_BYTES = 1024 * 1024
_MAX_ERROR_CHARS = 8000
_STDERR_TAIL_BYTES = 2000
_WAIT_SECONDS = 10
_KILLED_FOR_SIZE = frozenset({signal.SIGKILL, signal.SIGXCPU, signal.SIGXFSZ})

# -I keeps the environment and the working directory out of the module path, so the package's own place is
# passed in: it need not be installed (a checkout, an editable install).
_BOOTSTRAP = (
    "import sys; root = sys.argv.pop(1); root in sys.path or sys.path.insert(0, root); "
    "from recension.archive.intake.child import main; main()"
)
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class Feed:
    """The contents of one input file, in batches whose boundaries depend on the file's bytes alone.

    ::

        with Feed("history", path, "enwiki") as feed:
            for batch in feed:
                ...

    Iterate once. Raises the ``SourceError`` of the parser after the last complete batch;
    ``SourceLimitError`` or ``SourceCorruptError`` when a child was killed or made no sense. Leaving the
    ``with`` block early ends the children. Not to be shared between threads.
    """

    def __init__(
        self,
        kind: Kind,
        path: Path,
        project: str,
        namespaces: Mapping[str, int] | None = None,
        *,
        seed: bytes = b"",
        workers: int = 1,
    ) -> None:
        """``namespaces``: number by name, used by ``events`` for titles that come without one.

        ``seed``: of the salts (``SeededSalts``); random ones without. ``workers``: at most so many children
        share the runs of a history.
        """
        self.progress = Progress(0, 0)
        """How far a child has read when it sent the last batch; bytes of the file as stored."""
        self._path = path
        self._arguments = [kind, str(path), project, json.dumps(dict(namespaces or {})), seed.hex()]
        self._workers = workers if kind == "history" else 1
        self._children: list[_Child] = []
        self._running = ExitStack()

    @property
    def pids(self) -> list[int]:
        """Process ids of the children."""
        return [child.process.pid for child in self._children]

    def __enter__(self) -> Self:
        """Start the children."""
        count = _useful_workers(self._path, self._workers)
        shares = [[str(which), str(count)] for which in range(count)]
        self._children = [_Child(self._path, [*self._arguments, *share]) for share in shares]
        with ExitStack() as started:
            for child in self._children:
                started.enter_context(child)
            self._running = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the children, whatever they are doing."""
        self._running.close()

    def __iter__(self) -> Iterator[Fed]:
        """Yield each batch: at most 1,024 items, closed at 16 MiB of text; those of each run in its turn."""
        if not self._children:
            raise RuntimeError("a Feed is used in a with block")
        for child in cycle(self._children):
            for kind, meta, body in child.frames():
                try:
                    if kind == END:
                        self.progress = Progress(self.progress.total, self.progress.total)
                        return
                    if kind == RUN:
                        break
                    if kind == BATCH:
                        progress, fed = unpack_batch(meta, body)
                        self._went_on(progress)
                        yield fed
                    else:
                        self._went_on(unpack_progress(load_json(meta)))
                except FrameError as error:
                    raise child.nonsense(str(error)) from error

    def _went_on(self, progress: Progress) -> None:
        self.progress = max(self.progress, progress, key=lambda one: (one.done, one.total))


def _useful_workers(path: Path, most: int) -> int:
    """Return how many children are worth their start, and that each decodes the file by itself."""
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return 1
        with path.open("rb") as file:
            kind = packed_kind(file.read(_HEAD_BYTES))
        size = path.stat().st_size
    except OSError:
        return 1  # the child says what is wrong
    if kind not in _QUICK:
        return 1
    return max(1, min(most, size // _WORKER_BYTES))


class _Child:
    """A process that parses."""

    def __init__(self, path: Path, arguments: Sequence[str]) -> None:
        self._path = path
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> Self:
        package = Path(recension.__file__).parent.parent
        command = [sys.executable, "-I", "-c", _BOOTSTRAP, str(package), *self._arguments]
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=_environment(),
        )
        with contextlib.suppress(OSError):  # more than the system allows; it works with less
            fcntl.fcntl(self._output(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self.process
        process.kill()
        self._output().close()
        process.wait()
        if self._stderr is not None:
            self._stderr.close()

    def frames(self) -> Iterator[tuple[bytes, bytes, memoryview]]:
        """Yield kind, JSON and body of each frame; an error that the child sends is raised.

        A body stays as it is until the next frame is asked for.
        """
        while True:
            header = self._read(HEADER.size)
            try:
                kind, meta_size, body_size = parse_header(bytes(header))
                meta, body = bytes(self._read(meta_size)), self._read(body_size)
                if kind == ERROR:
                    self._raise(load_json(meta))
            except FrameError as error:
                raise self.nonsense(str(error)) from error
            yield kind, meta, body

    def _read(self, size: int) -> memoryview:
        """Read exactly ``size`` bytes, in the place of those before; the child's death raises its cause."""
        if size > len(self._buffer):  # most are about as long, and new memory costs as much as what is read
            self._buffer = bytearray(size)
        view, done, file = memoryview(self._buffer)[:size], 0, self._output().fileno()
        while done < size:
            count = os.readv(file, [view[done:]])
            if not count:
                self._explain_death()
            done += count
        return view

    def _raise(self, value: object) -> NoReturn:
        if not isinstance(value, dict):
            raise FrameError("an error is an object")
        message, hint, metadata = value.get("message"), value.get("hint"), value.get("metadata")
        error = BY_REASON.get(str(value.get("reason")), SourceCorruptError)
        if not isinstance(metadata, dict) or not issubclass(error, SourceError):
            raise FrameError("not an error of a source")
        metadata = {key: _short(text) for key, text in metadata.items() if key not in ("message", "hint")}
        raise error(_short(message), hint=_short(hint), **metadata)

    def _explain_death(self) -> NoReturn:
        try:
            code = self.process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self.nonsense("it closed its output and did not end") from None
        if code >= 0:
            raise self.nonsense(f"it ended with status {code}: {self._last_words()}")
        name = signal.Signals(-code).name
        error = SourceLimitError if -code in _KILLED_FOR_SIZE else SourceCorruptError
        raise error(
            f"{self._path}: the parser was ended by {name}",
            hint="look for the out-of-memory killer in the system's log; what came before has been read",
            path=self._path,
            signal=name,
        )

    def nonsense(self, what: str) -> SourceCorruptError:
        """Return the error of a child that broke the rules."""
        return SourceCorruptError(
            f"{self._path}: the parser failed: {what}", hint="report this with the file", path=self._path
        )

    def _last_words(self) -> str:
        """Return the last line of what the child wrote to standard error, without control characters."""
        if self._stderr is None:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines() or [""]
        return "".join(char for char in lines[-1] if char.isprintable())

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("a Feed is used in a with block")
        return self._process

    def _output(self) -> IO[bytes]:
        output = self.process.stdout
        if output is None:
            raise RuntimeError("the child has no output")
        return output


def _short(text: object) -> str:
    """What the child says, at a bearable length."""
    return printable_utf8(str(text)[:_MAX_ERROR_CHARS])


def _environment() -> dict[str, str]:
    """Give the child what the loader needs and nothing else: it has no business with our secrets."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith("COVERAGE_")  # so that tests see what it runs
    }
