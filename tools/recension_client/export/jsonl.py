"""Shards as lines of JSON in one zstd frame; ``docs/export.md`` has the line to the byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO, Self

from recension.model.errors import VerificationError
from recension_client.export.rows import Row, decode_line, encode_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 3
WRITER = f"zstd {zstd.zstd_version}"
_PIECE_BYTES = 1024 * 1024
_MAX_LINE_BYTES = 256 * 1024 * 1024
_WINDOW_LOG = 23
"""Level 3 needs 21. A frame that asks for more is none of ours, and would take its reader's memory."""


class Writer:
    """Writes one shard; the bytes depend on the rows and on ``WRITER`` alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = zstd.ZstdCompressor(level=LEVEL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held but memory."""

    def add(self, row: Row) -> None:
        """Take the next row."""
        self._file.write(self._packer.compress(encode_line(row)))

    def close(self) -> None:
        """Finish the frame; the file stays open."""
        self._file.write(self._packer.flush())


def read(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a shard. Raises ``VerificationError`` at the first byte that is wrong."""
    rest: list[bytes] = []
    for piece in _plain(file):
        *lines, last = piece.split(b"\n")
        for line in lines:
            yield decode_line(b"".join([*rest, line, b"\n"]))
            rest = []
        if last:
            rest.append(last)
            if sum(map(len, rest)) > _MAX_LINE_BYTES:
                raise VerificationError("a line without an end")
    if rest:
        raise VerificationError("the last line has no end")


def _plain(file: BinaryIO) -> Iterator[bytes]:
    unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    try:
        while not unpacker.eof:
            piece = file.read(_PIECE_BYTES) if unpacker.needs_input else b""
            if unpacker.needs_input and not piece:
                raise VerificationError("the file ends early")
            yield unpacker.decompress(piece, _PIECE_BYTES)
    except zstd.ZstdError as error:
        raise VerificationError(f"not zstd: {error}") from None
    if unpacker.unused_data or file.read(1):
        raise VerificationError("something follows the end of the file's frame")
