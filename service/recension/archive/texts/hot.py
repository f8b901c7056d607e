"""Texts that are asked for in bulk again and again leave as frames, put together once.

What is asked for once is only noted: a history that is read from end to end is not to push out what is read
every day, nor to be compressed for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from recension.archive.texts.block import decode, lone_frame
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.store.interface import Row, View

_NOTED_BITS = 1 << 24
"""2 MiB. They are cleared when half are set; until then one new text of five, on average, looks known."""


class Cache(Protocol):
    """Where frames are kept: ``store.frames.FrameCache``, which only servers need to load."""

    def state_of(self, view: View) -> str:
        """Return what names the frames that belong to a view."""
        ...

    def get_many(self, state: str, digests: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the frames of those texts that are there."""
        ...

    def has_room(self) -> bool:
        """Say whether there is a point in putting anything."""
        ...

    def put(self, state: str, frames: Sequence[Row]) -> None:
        """Put frames by the digests of their texts."""
        ...


class Doorkeeper:
    """Says whether a text was asked for before, as a rule. Threads at the same time lose a note at most."""

    def __init__(self, bits: int = _NOTED_BITS) -> None:
        """``bits``: a power of two, 8 at least."""
        self._mask = bits - 1
        self._bits = bytearray(bits // 8)
        self._noted = 0

    def knows(self, digest: bytes) -> bool:
        """Say whether a text was asked for before, and note it."""
        at = int.from_bytes(digest[:8], "big") & self._mask
        byte, bit = at >> 3, 1 << (at & 7)
        if self._bits[byte] & bit:
            return True
        self._noted += 1
        if self._noted > self._mask // 2:
            self._bits, self._noted = bytearray(len(self._bits)), 1
        self._bits[byte] |= bit
        return False


class HotTexts:
    """The frames of a store's hot texts. Safe for concurrent use."""

    def __init__(self, cache: Cache) -> None:
        """``cache``: where they are kept."""
        self._cache = cache
        self._doorkeeper = Doorkeeper()

    def find(self, view: View, digests: Collection[bytes]) -> tuple[str, dict[bytes, bytes]]:
        """Return the state of a view, and the frames of those texts that have one."""
        state = self._cache.state_of(view)
        return state, self._cache.get_many(state, digests)

    def offer(self, state: str, texts: Mapping[bytes, bytes], frames: Mapping[bytes, bytes]) -> None:
        """Take texts, and frames as they are stored, by their digests, if they were asked for before.

        They were read in a view of that state. Those that are not what their digests say are left out.
        """
        if not self._cache.has_room():
            return
        known = self._doorkeeper.knows
        rows = [
            (digest, lone_frame(text))
            for digest, text in texts.items()
            if known(digest) and digest_of(text) == digest
        ]
        rows += [
            (digest, frame) for digest, frame in frames.items() if known(digest) and _holds(frame, digest)
        ]
        if rows:
            self._cache.put(state, sorted(rows))


def _holds(frame: bytes, digest: bytes) -> bool:
    try:
        return digest_of(decode(0, frame, b"")) == digest
    except DataLossError:
        return False
