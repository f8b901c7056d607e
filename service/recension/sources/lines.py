"""Lines of NDJSON, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recension.model.errors import SourceFormatError, SourceLimitError
from recension.sources.items import MAX_BARREN_BYTES, MAX_EVENT_BYTES, BadRecordError, ByteSource

_CHUNK_BYTES = 256 * 1024
"""Small enough to be still in the processor's cache when it is parsed."""
_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")


class Line:
    """One line, without its end."""

    __slots__ = ("_cut", "byte", "data", "last", "number")

    def __init__(self, number: int, byte: int, data: bytes, *, cut: bool, last: bool) -> None:
        self.number = number
        self.byte = byte
        self.data = data
        self._cut = cut
        self.last = last

    def whole(self) -> bytes:
        """Return the line; raises ``BadRecordError`` when only its beginning was kept."""
        if self._cut:
            raise BadRecordError("LINE_TOO_LONG", f"the line has more than {MAX_EVENT_BYTES:,} bytes")
        return self.data


class Lines:
    """Splits a stream at line feeds, holding one chunk and at most ``MAX_EVENT_BYTES`` of one line."""

    def __init__(self, source: ByteSource, path: Path | str) -> None:
        """``path`` is for messages: of a file, or what else is read."""
        self._source = source
        self._path = path
        self._parts: list[bytes] = []
        self._held = 0
        self._number = 0
        self._start = 0
        self._length = 0
        self._barren = 0

    def __iter__(self) -> Iterator[Line]:
        first = True
        while chunk := self._source.read(_CHUNK_BYTES):
            self._barren += len(chunk)
            if first:
                chunk, first = self._strip_bom(chunk), False
            *whole, rest = chunk.split(b"\n")
            for piece in whole:
                self._hold(piece)
                line = self._finish(last=False)
                if line.data:
                    self._barren = 0
                    yield line
            self._hold(rest)
            if self._barren > MAX_BARREN_BYTES:
                raise SourceLimitError(
                    f"{self._path}: line {self._number + 1:,}: {MAX_BARREN_BYTES:,} bytes without an event",
                    hint="the file is damaged or hostile",
                    path=self._path,
                    line=self._number + 1,
                )
        if self._length:
            yield self._finish(last=True)

    def _strip_bom(self, chunk: bytes) -> bytes:
        """Look at the first bytes: a UTF-8 byte order mark goes, another format is refused as a whole."""
        while 0 < len(chunk) < len(_BOM) and (more := self._source.read(_CHUNK_BYTES)):
            chunk += more
        if chunk.startswith(_BOM):
            self._start = len(_BOM)
        chunk = chunk.removeprefix(_BOM)
        if chunk.startswith(_WIDE) or chunk.lstrip().startswith(b"<"):
            what = "UTF-16" if chunk.startswith(_WIDE) else "XML"
            raise SourceFormatError(
                f"{self._path}: the file is {what}, not NDJSON in UTF-8",
                hint="ingest XML with the commands dump and logging, not events",
                path=self._path,
            )
        return chunk

    def _hold(self, piece: bytes) -> None:
        self._length += len(piece)
        room = MAX_EVENT_BYTES + 1 - self._held
        if piece and room > 0:
            self._parts.append(piece[:room])
            self._held += min(len(piece), room)

    def _finish(self, *, last: bool) -> Line:
        self._number += 1
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        line = Line(self._number, self._start, data, cut=self._length > MAX_EVENT_BYTES, last=last)
        self._start += self._length + 1
        self._parts.clear()
        self._held = self._length = 0
        return line
