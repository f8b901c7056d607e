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
                for member in archive:
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
        if not file_of.ends_well():  # tarfile takes half a header for an end
            raise SourceTruncatedError(
                f"{self._path}: the tar archive has no end", hint=_HINT, path=self._path
            )


class _Exact:
    """A file of which a read returns as much as was asked for, unless it ends; tarfile expects that."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._tail = b""

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (piece := self._source.read(size)):
            parts.append(piece)
            size -= len(piece)
        data = b"".join(parts)
        self._tail = (self._tail + data[-_BLOCK_BYTES:])[-_BLOCK_BYTES:]
        return data

    def ends_well(self) -> bool:
        """Read to the end, and say whether it is an archive's: a block of zeros."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._tail == bytes(_BLOCK_BYTES)
