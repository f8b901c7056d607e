"""Shards as lines of JSON in one zstd frame; ``docs/export.md`` has the line to the byte."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Self, TypeVar

import orjson

from recension.model.errors import RecensionError, VerificationError
from recension.model.instant import format_instant, parse_instant
from recension.model.reading import Entry, Slot
from recension_client.export.layout import Terms
from recension_client.export.rows import (
    PlainRow,
    Row,
    SlotRow,
    Unreadable,
    integer,
    read_entry,
    row_of,
    slot_of,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1
"""Level 3 takes nine tenths of the room, and three quarters more time: most of what a fetch takes."""
WRITER = f"zstd {zstd.zstd_version}, level {LEVEL}"
_HEX = ("title_salt", "content_salt", "content_commitment")
_PIECE_BYTES = 128 * 1024
"""What is read or unpacked at a time: more than the processor keeps at hand is slower."""
_MAX_LINE_BYTES = 256 * 1024 * 1024
_WINDOW_LOG = 23
"""Level 1 needs 19. A frame that asks for more is none of ours, and would take its reader's memory."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_Value = TypeVar("_Value")


class Writer:
    """Writes one shard; the bytes depend on the rows and on ``WRITER`` alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = zstd.ZstdCompressor(level=LEVEL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held but memory."""

    def add(self, row: Row | PlainRow) -> None:
        """Take the next row."""
        self.line(encode_line(row))

    def line(self, line: bytes) -> None:
        """Take a line."""
        self._file.write(self._packer.compress(line))

    def close(self) -> None:
        """Finish the frame; the file stays open."""
        self._file.write(self._packer.flush())


def read(file: BinaryIO) -> Iterator[Row | Unreadable]:
    """Yield the rows of a shard. Raises ``VerificationError`` at the first byte that is wrong."""
    return map(decode_line, _lines(file))


def entries(file: BinaryIO, project: str, terms: Terms) -> Iterator[Entry | Unreadable]:
    """Yield the entries of a shard. Raises ``VerificationError`` at the first byte that is wrong."""
    for line in _lines(file):
        yield decode_entry(line, project, terms)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    rest: list[bytes] = []
    size = 0
    for piece in _plain(file):
        start = 0
        while end := piece.find(b"\n", start) + 1:
            line = piece[start:end]
            yield b"".join([*rest, line]) if rest else line
            rest, size, start = [], 0, end
        if start < len(piece):
            rest.append(piece[start:])
            size += len(piece) - start
            if size > _MAX_LINE_BYTES:
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


def encode_line(row: Row | PlainRow) -> bytes:
    """Return a row as its line of JSON: keys in the order of the columns, escapes as RFC 8785 has them."""
    return _line(row, _said(row.text))


def _line(row: Row | PlainRow, text: str | None) -> bytes:
    """Return a row's line; ``text`` is the row's, decoded."""
    document = row._asdict()
    document["text"] = text
    document["timestamp"] = format_instant(row.timestamp)
    if isinstance(row, Row):
        if row.slots is not None:
            document["slots"] = [_slot_document(slot) for slot in row.slots]
        for name in _HEX:
            document[name] = None if document[name] is None else document[name].hex()
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _slot_document(slot: SlotRow) -> dict[str, Any]:
    document = slot._asdict()
    if slot.text is not None:
        document["text"] = slot.text.decode()
    return document


def _said(text: bytes | None) -> str | None:
    return None if text is None else text.decode()


def decode_entry(line: bytes, project: str, terms: Terms) -> Entry | Unreadable:
    """Return the entry that a line was made of: ``read_entry`` of ``decode_line``, in less time.

    Raises what these raise.
    """
    entry = _exact(line, project, terms)
    return entry if entry is not None else read_entry(decode_line(line), project, terms)


def _exact(line: bytes, project: str, terms: Terms) -> Entry | None:
    """Return the entry that a line states if it is written as just that line: nothing is wrong in it then."""
    try:
        document = orjson.loads(line)
        entry = _stated(document, project)
        row = row_of(entry, terms)
        again = _line(row, None if row.text is None else document["text"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecensionError):
        return None
    return entry if again == line else None


def _stated(document: dict[str, Any], project: str) -> Entry:
    """Return the entry that a line's values state, whatever else is wrong with them."""
    _, _, title, text, page_id, rev_id, timestamp, namespace, _, _, slots, *sealed = document.values()
    title_salt, content_salt, content_commitment = sealed
    main = _bytes_of(text)
    return Entry(
        project,
        integer(page_id),
        integer(rev_id),
        (datetime.fromisoformat(timestamp) - _EPOCH) // _MICROSECOND,
        title,
        integer(namespace),
        title_inferred=False,
        slots=tuple([_slot_stated(slot, main) for slot in slots or ()]),
        title_salt=bytes.fromhex(title_salt),
        content_salt=b"" if content_salt is None else bytes.fromhex(content_salt),
        content_commitment=b"" if content_commitment is None else bytes.fromhex(content_commitment),
    )


def _slot_stated(document: dict[str, Any], main_text: bytes | None) -> Slot:
    role, model, form, *states, text = document.values()
    if not type(role) is type(model) is type(form) is str:
        raise TypeError("a name of a slot is no text")
    return slot_of(SlotRow._make((role, model, form, *states, _bytes_of(text))), main_text)


def decode_line(line: bytes) -> Row | Unreadable:
    """Read a line back. Raises ``VerificationError`` for one that would be written in another way."""
    try:
        document = orjson.loads(line)
        again = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    except ValueError as error:  # what the library raises is one
        raise VerificationError(f"not a line of JSON: {str(error)[:200]}") from None
    if type(document) is not dict or again != line:
        raise VerificationError("a line would be written in another way")
    try:
        return _row_of(document)
    except (ValueError, TypeError, AttributeError, RecensionError) as error:
        return Unreadable(document.get("page_id"), str(error))


def _row_of(document: dict[str, Any]) -> Row:
    if tuple(document) != Row._fields:
        raise ValueError("its columns are others, or in another order")
    _texts(document, ("title",), ("text",))
    document["text"] = _bytes_of(document["text"])
    document["timestamp"] = _again(document["timestamp"], parse_instant, format_instant)
    if document["slots"] is not None:
        document["slots"] = tuple(map(_slot_of, document["slots"]))
    for name in _HEX:
        document[name] = None if document[name] is None else _again(document[name], bytes.fromhex, bytes.hex)
    return Row(**document)


def _slot_of(document: dict[str, Any]) -> SlotRow:
    if tuple(document) != SlotRow._fields:
        raise ValueError("a slot has other columns, or in another order")
    _texts(document, ("role", "model", "format"), ("text",))
    return SlotRow(**document | {"text": _bytes_of(document["text"])})


def _texts(document: dict[str, Any], always: tuple[str, ...], maybe: tuple[str, ...]) -> None:
    wrong = [name for name in always if type(document[name]) is not str]
    wrong += [name for name in maybe if type(document[name]) not in (str, type(None))]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} is no text")


def _bytes_of(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _again(text: str, read: Callable[[str], _Value], write: Callable[[_Value], str]) -> _Value:
    """Return what a text says, if it says it in the format's way."""
    value = read(text)
    if write(value) != text:
        raise ValueError(f"{text[:80]!r} would be written in another way")
    return value
