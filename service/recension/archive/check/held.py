"""What was read lately, so that neighbours do not read it again: commits, sealed values, digests of texts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from recension.archive.projects import project_names
from recension.archive.rebuild import Prefixes
from recension.archive.sealed import TOGETHER, Sealed, open_sealed
from recension.archive.texts.block import Block, read_block
from recension.model.digest import digest_of
from recension.model.errors import DataLossError
from recension.model.record import Commit, Skeleton, decode_commit
from recension.store import keys
from recension.store.interface import Store, View

_COMMITS, _BLOBS, _BLOCKS = 128, 256, 4096
_K = TypeVar("_K")
_V = TypeVar("_V")


class Held:
    """Reads through what it holds. What cannot be read is ``None``: the phase that walks it tells it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prefixes = Prefixes()
        self._commits: OrderedDict[int, Commit | None] = OrderedDict()
        self._sources: OrderedDict[int, frozenset[bytes]] = OrderedDict()
        self._sealed: OrderedDict[bytes, list[Sealed] | None] = OrderedDict()
        self._blocks: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._names: dict[int, str] = {}

    def forget(self) -> None:
        """Forget what an erasure may have changed."""
        self._prefixes.clear()
        self._blocks.clear()
        self._sealed.clear()

    def commit(self, position: int) -> Commit | None:
        """Return a commit."""

        def read() -> Commit | None:
            try:
                records = self._store.log.read(position, 1) if position else []
                return decode_commit(records[0]) if records else None
            except DataLossError:
                return None

        return _last(self._commits, _COMMITS, position, read)

    def sources(self, position: int, commit: Commit) -> frozenset[bytes]:
        """Return the source keys of the events of the commit at a position."""

        def read() -> frozenset[bytes]:
            return frozenset(item.source for item in commit.items if isinstance(item, Skeleton))

        return _last(self._sources, _COMMITS, position, read)

    def sealed(self, view: View, position: int, ordinal: int) -> Sealed | None:
        """Return the sealed values of an event."""
        key = keys.sealed_blob(position, ordinal // TOGETHER)

        def read() -> list[Sealed] | None:
            try:
                raw = view.blob(key)
                return None if raw is None else open_sealed(raw)
            except DataLossError:
                return None

        some = _last(self._sealed, _BLOBS, key, read)
        return None if some is None or ordinal % TOGETHER >= len(some) else some[ordinal % TOGETHER]

    def block(self, view: View, number: int) -> tuple[Block, list[bytes]] | None:
        """Return a block and the digests of its texts. Raises ``DataLossError`` if one cannot be decoded."""
        raw = view.blob(keys.block(number)) if number <= keys.END else None
        if raw is None:
            return None
        block = read_block(raw)

        def read() -> list[bytes]:
            return [digest_of(text) for text in self._prefixes.texts(view, number, block)]

        return block, _last(self._blocks, _BLOCKS, digest_of(raw), read)

    def project_name(self, view: View, number: int) -> str:
        """Return a project's name; empty if there is none of that number."""
        if number not in self._names:
            self._names = {known: name for name, known in project_names(view)}
        return self._names.get(number, "")


def _last(held: OrderedDict[_K, _V], limit: int, key: _K, make: Callable[[], _V]) -> _V:
    """Return a value; those that were asked for last are held."""
    value = held[key] = held.pop(key) if key in held else make()
    if len(held) > limit:
        held.popitem(last=False)
    return value
