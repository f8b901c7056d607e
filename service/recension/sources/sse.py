"""Server-sent events: the frames of ``text/event-stream`` as the HTML standard defines them.

A frame is lines up to an empty one; ``data`` may have several of them, and an ``id`` holds until another one
comes. Comments (lines that begin with a colon) keep a connection alive and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from recension.model.errors import SourceLimitError
from recension.sources.items import MAX_BARREN_BYTES, MAX_EVENT_BYTES, ByteSource

MAX_ID_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_MAX_LINE_BYTES = MAX_EVENT_BYTES + 64
"""With the name of its field."""
_BOM = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """One frame."""

    event: str
    """``message`` unless it says otherwise."""
    id: str
    """The newest that was said, in this frame or before it; empty before the first."""
    data: bytes
    cut: bool = False
    """It has more than ``MAX_EVENT_BYTES``; only its beginning was kept."""


def read_frames(source: ByteSource, name: str) -> Iterator[ServerEvent]:
    """Yield the frames of a stream; one that is cut by the end of the stream is dropped, as it must be.

    Holds one chunk, and of one frame ``MAX_EVENT_BYTES`` at most. Raises ``SourceLimitError`` for a gibibyte
    without the end of a line, and what ``source`` raises. ``name`` is for messages.
    """
    event, last_id = "message", ""
    data: list[bytes] = []
    held, cut = 0, False
    for line, of_cut in _lines(source, name):
        if not line:
            if data:
                yield ServerEvent(event, last_id, b"\n".join(data), cut)
            event, data, held, cut = "message", [], 0, False
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"data":
                room = MAX_EVENT_BYTES - held
                cut = cut or of_cut or len(value) > room
                data.append(value[: max(room, 0)])
                held += len(data[-1]) + 1
            case b"id":
                if b"\0" not in value and len(value) <= MAX_ID_BYTES:
                    last_id = value.decode("utf-8", "replace")
            case b"event":
                event = value[:MAX_ID_BYTES].decode("utf-8", "replace") or "message"
            case _:
                pass  # ``retry``, comments (whose field is empty), and what is not known


def _lines(source: ByteSource, name: str) -> Iterator[tuple[bytes, bool]]:
    """Yield lines without their ends (CR LF, LF or CR), and whether only the beginning was kept."""
    parts: list[bytes] = []
    held = barren = 0
    first, ended_by_cr = True, False
    while chunk := source.read(_CHUNK_BYTES):
        if first:
            while len(chunk) < len(_BOM) and _BOM.startswith(chunk) and (more := source.read(_CHUNK_BYTES)):
                chunk += more
            chunk, first = chunk.removeprefix(_BOM), False
        if ended_by_cr:
            chunk = chunk.removeprefix(b"\n")
        ended_by_cr = chunk.endswith(b"\r")
        *whole, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in whole:
            if held <= _MAX_LINE_BYTES:
                parts.append(piece)
            yield b"".join(parts), held + len(piece) > _MAX_LINE_BYTES
            parts.clear()
            held = barren = 0
        if held <= _MAX_LINE_BYTES:
            parts.append(rest)
            held += len(rest)
        barren += len(rest)
        if barren > MAX_BARREN_BYTES:
            raise SourceLimitError(
                f"{name}: {MAX_BARREN_BYTES:,} bytes without the end of a line",
                hint="this is no stream of events, or a hostile one",
            )
