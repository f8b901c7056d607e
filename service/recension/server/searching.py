"""Searching files for values of 16 bytes, many at once: whatever lies around them, and in hex digits too.

Numpy looks at every offset of a file by two bytes at a time, so a file is read once for all values, at some
hundred megabytes a second.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recension.model.errors import StoreError

VALUE_BYTES = 16
_PIECE_BYTES = 16 << 20
_READERS = "lock.mdb"
"""LMDB's table of readers holds no values; whoever opens and closes the file loses its readers' locks."""


@dataclass(slots=True)
class Searched:
    """What a search has looked at."""

    files: int = 0
    bytes: int = 0


class Searcher:
    """Looks for values."""

    def __init__(self, values: Collection[bytes], *, piece_bytes: int = _PIECE_BYTES) -> None:
        """``values``: of ``VALUE_BYTES`` each; ``piece_bytes``: of a file, held at once."""
        self._piece_bytes = piece_bytes
        self._needles = [(VALUE_BYTES, frozenset(values))]
        self._needles.append((2 * VALUE_BYTES, frozenset(value.hex().encode() for value in values)))
        self._tables = [[_table(some, at) for at in range(0, size, 2)] for size, some in self._needles]

    def search(self, root: Path, skip: Collection[Path], searched: Searched) -> Path | None:
        """Search all files below a folder but ``skip``; return one that holds a value, ``None`` if none does.

        Links are not followed: what they name is not this folder's. Raises ``StoreError``.
        """
        for path in _files(root):
            if path in skip:
                continue
            try:
                if self._is_in(path, searched):
                    return path
            except FileNotFoundError:
                continue  # it went while the others were searched
            except OSError as error:
                raise StoreError(f"{path} cannot be searched: {error.strerror}", path=path) from None
            searched.files += 1
        return None

    def _is_in(self, path: Path, searched: Searched) -> bool:
        longest = 2 * VALUE_BYTES
        rest = b""
        with path.open("rb") as file:
            while piece := file.read(self._piece_bytes):
                searched.bytes += len(piece)
                piece = rest + piece
                for (size, some), tables in zip(self._needles, self._tables, strict=True):
                    if some and _holds(piece, size, some, tables):
                        return True
                rest = piece[1 - longest :]
        return False


def _table(values: Collection[bytes], at: int) -> npt.NDArray[np.bool_]:
    """Return which two bytes some value has at an offset."""
    table = np.zeros(65536, np.bool_)
    for value in values:
        table[int.from_bytes(value[at : at + 2], "little")] = True
    return table


def _holds(piece: bytes, size: int, values: frozenset[bytes], tables: list[npt.NDArray[np.bool_]]) -> bool:
    last = len(piece) - size
    if last < 0:
        return False
    for odd in range(2):
        pairs = np.frombuffer(piece, "<u2", (len(piece) - odd) // 2, odd)
        places = np.flatnonzero(tables[0][pairs])
        places = places[places * 2 + odd <= last]
        for at, table in enumerate(tables[1:], 1):
            places = places[table[pairs[places + at]]]
        for place in (places * 2 + odd).tolist():
            if piece[place : place + size] in values:
                return True
    return False


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder) / name
            if name == _READERS:
                continue
            try:
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path
            except FileNotFoundError:
                continue
