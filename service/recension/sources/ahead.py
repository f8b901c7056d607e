"""Decodes a container beside who parses it: bz2 and LZMA take as long to decode as their content to parse.

Their decoders hold no lock of the interpreter, so with two processors a file takes the longer of both.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from recension.sources.containers import Container
from recension.sources.items import ByteSource

_SLOW = frozenset({"bz2", "xz", "lzma", "7z"})
_PIECE_BYTES = 256 * 1024
"""What parsers ask for at once."""
_MOST_PIECES = 16


@contextmanager
def decoded_ahead(container: Container) -> Iterator[ByteSource]:
    """Return what a parser reads a container by: itself, where it is decoded much faster than parsed."""
    if container.kind not in _SLOW:
        yield container
        return
    ahead = _Ahead(container)
    thread = threading.Thread(target=ahead.decode, name="decode", daemon=True)
    thread.start()
    try:
        yield ahead
    finally:
        ahead.stop()
        thread.join()


class _Ahead:
    """Some pieces of a source, decoded by one thread and read by another."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._pieces: deque[bytes] = deque()
        self._rest = b""
        self._changed = threading.Condition()
        self._ended = False
        self._fault: BaseException | None = None

    def decode(self) -> None:
        """Decode until the end, a fault, or ``stop``."""
        fault: BaseException | None = None
        try:
            while (piece := self._source.read(_PIECE_BYTES)) and self._wants(piece):
                pass
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that reads
            fault = error
        with self._changed:
            self._ended, self._fault = True, fault
            self._changed.notify_all()

    def _wants(self, piece: bytes) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._pieces) < _MOST_PIECES or self._ended)
            self._pieces.append(piece)
            self._changed.notify_all()
            return not self._ended

    def stop(self) -> None:
        """Decode no more than what is being decoded."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self, size: int, /) -> bytes:
        """Return 1 to ``size`` bytes, or nothing at the end; a fault is raised behind what came before it."""
        if not self._rest:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended)
                if not self._pieces:
                    if self._fault is not None:
                        raise self._fault
                    return b""
                self._rest = self._pieces.popleft()
                self._changed.notify_all()
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece
