"""The files of a tar archive as one stream, in the order in which they lie there."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from recension.model.errors import SourceCorruptError, SourceTruncatedError
from recension.sources.items import ByteSource

_TAR_MAGIC_AT = 257
_BLOCK_BYTES = 512
_CHUNK_BYTES = 256 * 1024
_HINT = "fetch the file again and compare its checksum with the one that its publisher states"


def is_tar(head: bytes) -> bool:
    """Say whether decoded bytes begin a tar archive (POSIX.1-1988 and later, GNU)."""
    return head[_TAR_MAGIC_AT:].startswith(b"ustar")


class TarMembers:
    """Reads the contents of all plain files; each ends with a line feed, if need be with one of ours.

    Names are not used for anything. Raises what ``source`` raises, ``SourceCorruptError`` and
    ``SourceTruncatedError``; what was complete has been returned by then.
    """

    def __init__(self, source: ByteSource, path: Path) -> None:
        """``path`` is for messages."""
        self._path = path
        self._pieces = self._read(source)
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Return 1 to ``size`` bytes, or nothing at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        out, self._rest = self._rest[:size], self._rest[size:]
        return bytes(out)

    def _read(self, source: ByteSource) -> Iterator[bytes]:
        file_of = _Exact(source)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", file_of), mode="r|") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # or it remembers all of them
                    file = archive.extractfile(member) if member.isreg() else None
                    last = b"\n"
                    while file is not None and (piece := file.read(_CHUNK_BYTES)):
                        last = piece[-1:]
                        yield piece
                    if last != b"\n":
                        yield b"\n"
        except (tarfile.TarError, ValueError, OverflowError) as error:
            cut = isinstance(error, tarfile.ReadError) and "end of data" in str(error)
            kind = SourceTruncatedError if cut else SourceCorruptError
            raise kind(f"{self._path}: the tar archive: {error}", hint=_HINT, path=self._path) from error
        # tarfile takes half a header, and a damaged one, for an end.
        size, content_end = file_of.run_out()
        if size < archive.offset + _BLOCK_BYTES:
            raise SourceTruncatedError(
                f"{self._path}: the tar archive has no end", hint=_HINT, path=self._path
            )
        if content_end > archive.offset:
            raise SourceCorruptError(
                f"{self._path}: the tar archive: at byte {archive.offset:,} is neither a header nor its end",
                hint=f"{_HINT}; archives behind one another are read one by one",
                path=self._path,
            )


class _Exact:
    """A file of which a read returns as much as was asked for, unless it ends; tarfile expects that."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._size = 0
        self._content_end = 0
        """Behind the last byte that is not zero."""

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (piece := self._source.read(size)):
            parts.append(piece)
            size -= len(piece)
        data = b"".join(parts)
        if content := data.rstrip(b"\0"):
            self._content_end = self._size + len(content)
        self._size += len(data)
        return data

    def run_out(self) -> tuple[int, int]:
        """Read to the end; return the number of bytes, and of those up to the last that is not zero."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._size, self._content_end
