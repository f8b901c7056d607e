"""How rows lie in the tables: each value behind a digest of itself and its key, long ones in parts.

A row of the log and of the blobs begins with a byte: the number of its pieces, or ``rests.SHARED``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256
from operator import itemgetter

from recension.model.errors import DataLossError
from recension.model.record import Head
from recension.store.interface import Rewrite, Row
from recension.store.pieces import MAX_PIECES, cut

LOG, INDEX, RUNS, ARRIVALS, BLOBS, PIECES, RESTS, META = TABLES = (
    b"log",
    b"index",
    b"runs",
    b"arrivals",
    b"blobs",
    b"pieces",
    b"rests",
    b"meta",
)
SEAL_BYTES = 8
"""Length of the digest before each value: enough against decay and swapped rows; no defence by itself."""
MAX_KEY_BYTES = 64
_DERIVED = frozenset({INDEX, RUNS, ARRIVALS})
"""The tables whose rows follow from the log and the blobs."""
_RESTORE = "restore the data directory from a backup"
HEAD_KEY = b"head"
SCHEMA_KEY = b"schema"
_HEAD = struct.Struct(">Qq32s")
_NUMBER = struct.Struct(">Q")

TableRow = tuple[bytes, bytes, bytes | None]
"""A table, a key, and the value to put or ``None``."""


def seal(table: bytes, key: bytes, value: bytes) -> bytes:
    """Return a value as it is stored."""
    return sha256(key + table + value).digest()[:SEAL_BYTES] + value


def unseal(table: bytes, key: bytes, raw: bytes) -> bytes:
    """Return a stored value. Raises ``DataLossError`` when it is not the one that was stored there."""
    value = raw[SEAL_BYTES:]
    if sha256(key + table + value).digest()[:SEAL_BYTES] != raw[:SEAL_BYTES]:
        raise damaged(table, key)
    return value


def damaged(table: bytes, key: bytes, why: str = "does not match its digest") -> DataLossError:
    """Return the error for a row that is not as it was stored."""
    name = table.decode()
    return DataLossError(
        f"the row {key.hex()} of table {name} {why}",
        hint=f"make the index anew with recension-server rebuild, or {_RESTORE}"
        if table in _DERIVED
        else _RESTORE,
        table=name,
        key=key.hex(),
    )


def prepared(table: bytes, rows: Iterable[Row]) -> list[Row]:
    """Return the rows sealed and ascending by key. Raises ``ValueError`` for a key that does not fit."""
    copies = [(bytes(key), bytes(value)) for key, value in rows]
    if not all(1 <= len(key) <= MAX_KEY_BYTES for key, _ in copies):
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes")
    copies.sort(key=itemgetter(0))  # stable: of two rows with one key the first counts
    return [(key, seal(table, key, value)) for key, value in copies]


def cut_all(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the heads of sealed blobs, each behind the number of its pieces, and the pieces."""
    heads, pieces = [], []
    for key, raw in rows:
        head, *rest = cut(raw)
        heads.append((key, bytes([len(rest)]) + head))
        pieces += [(key + bytes([at]), piece) for at, piece in enumerate(rest)]
    return heads, pieces


def replacement(change: Rewrite) -> list[TableRow]:
    """Return all that a change touches."""
    out: list[TableRow] = []
    put = [(key, value) for key, value in change.index.items() if value is not None]
    out += [(INDEX, key, None) for key, value in change.index.items() if value is None]
    out += [(INDEX, key, raw) for key, raw in prepared(INDEX, put)]
    blobs = [(key, value) for key, value in change.blobs.items() if value is not None]
    out += [(BLOBS, key, None) for key, value in change.blobs.items() if value is None]
    out += [(PIECES, key + bytes([at]), None) for key in change.blobs for at in range(MAX_PIECES)]
    for table, rows in zip((BLOBS, PIECES), cut_all(prepared(BLOBS, blobs)), strict=True):
        out += [(table, key, raw) for key, raw in rows]
    return out


def log_row(key: bytes, packed: bytes) -> bytes:
    """Return the row of a commit record; records are not cut before they are copied."""
    return b"\0" + seal(LOG, key, packed)


def log_key(position: int) -> bytes:
    """Return the key of a commit record."""
    return _NUMBER.pack(position)


def head_row(head: Head) -> Row:
    """Return the row of the log's head."""
    return HEAD_KEY, seal(META, HEAD_KEY, _HEAD.pack(head.position, head.recorded_at, head.hash))


def read_head(raw: bytes) -> Head:
    """Return the log's head from its row."""
    return Head(*_HEAD.unpack(unseal(META, HEAD_KEY, raw)))


def schema_row(version: int) -> Row:
    """Return the row of the schema's version."""
    return SCHEMA_KEY, seal(META, SCHEMA_KEY, _NUMBER.pack(version))


def read_schema(raw: bytes) -> int:
    """Return the schema's version from its row."""
    (version,) = _NUMBER.unpack(unseal(META, SCHEMA_KEY, raw))
    return int(version)
