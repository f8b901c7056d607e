"""Texts in zstd frames on their way, which whoever takes them believes in nothing."""

from __future__ import annotations

import threading

import zstandard

from recension.model.errors import VerificationError

_LEVEL = 1
"""Some 3 ms a MB."""


class _OfThread(threading.local):
    """To make a context takes longer than to decode a text, so a thread keeps its own."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_OF_THREAD = _OfThread()


def encoded(text: bytes) -> bytes:
    """Return a text in a frame, for an answer that nothing is stored for."""
    return _OF_THREAD.compressor.compress(text)


def decoded(frame: bytes, size: int, where: str) -> bytes:
    """Return the text in a frame, which is UTF-8; ``size``: its bytes, more than which none may hold.

    Raises ``VerificationError`` for anything else.
    """
    try:
        told = zstandard.frame_content_size(frame)  # -1 where the frame says none
        if told != size or told < 0:
            raise VerificationError(f"the frame of {where} does not say that it holds {size:,} bytes")
        # In one call, which makes room for no window, however large a one the frame asks for.
        text = _OF_THREAD.decompressor.decompress(frame, allow_extra_data=False)
        text.decode()  # as of any text that comes plain
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise VerificationError(
            f"the frame of {where} holds no text: {str(error)[:200]}",
            hint="it is damaged where it is stored, or on the way: tell whoever runs the server to run fsck",
        ) from None
    return text
