"""Commit records, compressed: fields of events as columns, and what does not compress by itself.

A record's bytes are its identity, so ``unpack_record`` returns exactly those that went in; a record that the
columns do not give back byte for byte is compressed as any value is. Of events of 98 bytes and their content
model, 48 are digests: one stream for everything would take 13 % more::

    2 || events u32 || size of the head u16 || source keys and seals of all events, 48 bytes each || deflate(
        head || length of each content model u8 || kind and flags || page, revision, parent, time
        || namespaces and size || content models )

Numbers are differences from event to event, little-endian; of every column all first bytes come first.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from recension.model.errors import DataLossError
from recension.model.record import MAGIC
from recension.store.packed import pack, unpack

_COLUMNS = b"\2"
_LEAST_EVENTS = 4
_HEADER = struct.Struct(">IH")
_LENGTH = struct.Struct(">I")
_PROJECT_AT = len(MAGIC) + 48
_FIXED = 98
"""Bytes of an event before its content model: two of kind and flags, four numbers of eight, and more."""
_NUMBERS = slice(2, 34)
_REST = slice(34, 50)
_DIGESTS = slice(50, 98)
_DIGEST_BYTES = 48
_LEVEL = 9


def pack_record(record: bytes) -> bytes:
    """Return a commit record compressed."""
    packed = _pack_columns(record)
    return packed if packed is not None and _unpack_columns(packed) == record else pack(record)


def unpack_record(packed: bytes) -> bytes:
    """Return a commit record. Raises ``DataLossError`` for bytes that ``pack_record`` does not return."""
    if packed[:1] != _COLUMNS:
        return unpack(packed)
    try:
        return _unpack_columns(packed)
    except (struct.error, ValueError, IndexError, zlib.error):
        raise DataLossError(
            "a packed commit record is damaged", hint="restore the data directory from a backup"
        ) from None


def _pack_columns(record: bytes) -> bytes | None:
    """Return the columns of a record all of whose items may be events; else ``None``."""
    if len(record) <= _PROJECT_AT:
        return None
    at = _PROJECT_AT + 1 + record[_PROJECT_AT] + _LENGTH.size
    head = record[:at]
    fixed, models = [], []
    while at + _LENGTH.size < len(record):
        (size,) = _LENGTH.unpack_from(record, at)
        at += _LENGTH.size
        if not _FIXED <= size < _FIXED + 256:
            return None
        fixed.append(record[at : at + _FIXED])
        models.append(record[at + _FIXED : at + size])
        at += size
    if len(fixed) < _LEAST_EVENTS or at != len(record):
        return None
    events = np.frombuffer(b"".join(fixed), np.uint8).reshape(-1, _FIXED)
    numbers = np.ascontiguousarray(events[:, _NUMBERS]).view(">u8").astype("<u8")
    steps = np.diff(numbers, axis=0, prepend=np.uint64(0)).astype("<u8")
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = (
        head,
        bytes(map(len, models)),
        events[:, :2].T.tobytes(),
        steps.view(np.uint8).T.tobytes(),
        events[:, _REST].T.tobytes(),
        *models,
    )
    packed = deflate.compress(b"".join(parts)) + deflate.flush()
    return b"".join((_COLUMNS, _HEADER.pack(len(fixed), len(head)), events[:, _DIGESTS].tobytes(), packed))


def _unpack_columns(packed: bytes) -> bytes:
    count, head = _HEADER.unpack_from(packed, 1)
    start = 1 + _HEADER.size
    end = start + _DIGEST_BYTES * count
    text = zlib.decompress(packed[end:], -zlib.MAX_WBITS)
    columns = np.frombuffer(text, np.uint8, _REST.stop * count, head + count).reshape(_REST.stop, count)
    events = np.empty((count, _FIXED), np.uint8)
    events[:, :2] = columns[:2].T
    steps = np.ascontiguousarray(columns[_NUMBERS].T).view("<u8")
    events[:, _NUMBERS] = np.cumsum(steps, axis=0, dtype="<u8").astype(">u8").view(np.uint8)
    events[:, _REST] = columns[_REST].T
    events[:, _DIGESTS] = np.frombuffer(packed, np.uint8, _DIGEST_BYTES * count, start).reshape(count, -1)
    fixed = events.tobytes()
    out = [text[:head]]
    at = head + count * (1 + _REST.stop)
    for number, size in enumerate(text[head : head + count]):
        event = fixed[number * _FIXED : (number + 1) * _FIXED]
        out += [_LENGTH.pack(_FIXED + size), event, text[at : at + size]]
        at += size
    if at != len(text):
        raise ValueError("lengths do not fit")
    return b"".join(out)
