"""Small values, compressed: the one place that knows which zstd module Python has."""

from __future__ import annotations

import sys

from recension.model.errors import DataLossError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["pack", "unpack", "zstd"]

_LEVEL = 9
_PLAIN, _FRAME = b"\0", b"\1"


def pack(raw: bytes) -> bytes:
    """Return ``raw`` as one zstd frame, or as it is where that is shorter."""
    frame = zstd.compress(raw, level=_LEVEL)
    return _FRAME + frame if len(frame) < len(raw) else _PLAIN + raw


def unpack(packed: bytes) -> bytes:
    """Return what was packed. Raises ``DataLossError`` for bytes that were not."""
    if packed[:1] == _PLAIN:
        return packed[1:]
    try:
        if packed[:1] == _FRAME:
            return zstd.decompress(packed[1:])
    except zstd.ZstdError:
        pass
    raise DataLossError("a packed value is damaged", hint="restore the data directory from a backup")
