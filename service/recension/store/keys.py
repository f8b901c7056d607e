"""Every key of the index and the blobs, in one place: fixed-width, big-endian, so bytes sort as numbers do.

Instants are shifted by 2^63 so that times before 1970 sort first. Titles are never keys (LMDB's limit is
511 bytes); their digest is.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple

PACKED = frozenset(bytes([one]) for one in b"DEGKLMRSTVW")
"""First bytes of the keys whose rows a copy packs in runs: there are many of them, and most never change."""


class Scattered(NamedTuple):
    """Bytes of the rows of a family whose keys come in no order, also when a dump is read page by page."""

    key: int
    value: int
    subject: int
    """Of the key, from its first: whoever looks for a row of the family knows so much of it."""


SCATTERED = {
    b"D": Scattered(17, 8, 17),
    b"K": Scattered(29, 0, 17),
    b"R": Scattered(25, 16, 13),
    b"S": Scattered(21, 8, 21),
    b"T": Scattered(29, 0, 21),
}
"""By the first byte of their keys; a bulk import brings them in order first (``arrivals``)."""

_BIAS = 2**63
END = 2**64 - 1

_EDIT = struct.Struct(">cIQQQQI")
_MARK = struct.Struct(">cIQQQI")
_REVISION = struct.Struct(">cIQQI")
_AT = struct.Struct(">cIQ")
_ENTRY = struct.Struct(">cIQQI")
_RUN = struct.Struct(">cIQI")
_PAGE_BLOCK = struct.Struct(">cIQI")
_TAIL = struct.Struct(">cIQQ")
_STAGE = struct.Struct(">cIQQ")
_WITHDRAWN = struct.Struct(">cIQQ")
_SOURCE_MARK = struct.Struct(">cI16s?Q")


def edit(project: int, page: int, time: int, rev: int, position: int, ordinal: int) -> bytes:
    """Key of an edit in its page's timeline."""
    return _EDIT.pack(b"E", project, page, time + _BIAS, rev, position, ordinal)


def edits_from(project: int, page: int, time: int | None = None) -> bytes:
    """Lower bound of a page's edits, from an instant on if one is given."""
    return struct.pack(">cIQQ", b"E", project, page, 0 if time is None else time + _BIAS)


def edits_to(project: int) -> bytes:
    """Upper bound of a project's edits."""
    return struct.pack(">cI", b"E", project + 1)


def read_edit(key: bytes) -> tuple[int, int, int, int, int]:
    """Return (page, time, rev, position, ordinal)."""
    _, _, page, time, rev, position, ordinal = _EDIT.unpack(key)
    return page, time - _BIAS, rev, position, ordinal


def mark(project: int, page: int, time: int, position: int, ordinal: int) -> bytes:
    """Key of a move, delete or restore in its page's timeline."""
    return _MARK.pack(b"M", project, page, time + _BIAS, position, ordinal)


def marks_from(project: int, page: int, time: int | None = None) -> bytes:
    """Lower bound of a page's marks, from an instant on if one is given."""
    return struct.pack(">cIQQ", b"M", project, page, 0 if time is None else time + _BIAS)


def read_mark(key: bytes) -> tuple[int, int, int, int]:
    """Return (page, time, position, ordinal)."""
    _, _, page, time, position, ordinal = _MARK.unpack(key)
    return page, time - _BIAS, position, ordinal


def revision(project: int, rev: int, position: int = 0, ordinal: int = 0) -> bytes:
    """Key under which a revision id is found; without a position, the lower bound of them."""
    return _REVISION.pack(b"R", project, rev, position, ordinal)


def visibility(project: int, rev: int, position: int = 0, ordinal: int = 0) -> bytes:
    """Key of a visibility change; without a position, the lower bound of them."""
    return _REVISION.pack(b"V", project, rev, position, ordinal)


def page_visibility(project: int, page: int, position: int = 0, ordinal: int = 0) -> bytes:
    """Key of a visibility change in its page's timeline."""
    return _REVISION.pack(b"W", project, page, position, ordinal)


def read_revision(key: bytes) -> tuple[int, int, int]:
    """Return (rev or page, position, ordinal) of a revision or visibility key."""
    _, _, subject, position, ordinal = _REVISION.unpack(key)
    return subject, position, ordinal


def source(project: int, key: bytes) -> bytes:
    """Key of a source id that was seen."""
    return struct.pack(">cI", b"S", project) + key


def title(project: int, text: str, page: int = 0) -> bytes:
    """Key that says a page once had a title."""
    return struct.pack(">cI", b"T", project) + sha256(text.encode()).digest()[:16] + page.to_bytes(8, "big")


def text(digest: bytes) -> bytes:
    """Key of a text's place, by its digest."""
    return b"D" + digest[:16]


def tally(project: int, position: int) -> bytes:
    """Key of a project's running counts after a commit."""
    return _AT.pack(b"C", project, position)


def read_tally(key: bytes) -> int:
    """Return the position of a tally's key."""
    _, _, position = _AT.unpack(key)
    return int(position)


def project_number(name: str) -> bytes:
    """Key of a project's number."""
    return b"P" + name.encode()


def definition(project: int, position: int) -> bytes:
    """Key of a project's definition from a position on."""
    return _AT.pack(b"Q", project, position)


def log_entry(project: int, time: int, position: int, ordinal: int) -> bytes:
    """Key of a kept upstream log entry."""
    return _ENTRY.pack(b"L", project, time + _BIAS, position, ordinal)


def read_log_entry(key: bytes) -> tuple[int, int, int]:
    """Return (time, position, ordinal)."""
    _, _, time, position, ordinal = _ENTRY.unpack(key)
    return time - _BIAS, position, ordinal


def log_entries(project: int) -> tuple[bytes, bytes]:
    """Bounds of a project's kept log entries."""
    return struct.pack(">cI", b"L", project), struct.pack(">cI", b"L", project + 1)


def removed() -> bytes:
    """Key of a row that is another after each removal: of what nothing needs, or of what was erased."""
    return b"A"


def event_run(project: int, upto: int = 0, part: int = 0) -> bytes:
    """Key of what a part of a project's event columns covers, the newest positions last."""
    return _RUN.pack(b"X", project, upto, part)


def read_event_run(key: bytes) -> tuple[int, int]:
    """Return (newest position, part)."""
    _, _, upto, part = _RUN.unpack(key)
    return upto, part


def event_columns(project: int, upto: int, part: int) -> bytes:
    """Key of a part of a project's event columns."""
    return _RUN.pack(b"J", project, upto, part)


def event_facts(project: int, upto: int, part: int) -> bytes:
    """Key of what leaves take of a part's edits, but their commitments."""
    return _RUN.pack(b"f", project, upto, part)


def event_pairs(project: int, upto: int, part: int, chunk: int) -> bytes:
    """Key of the commitments of some of a part's edits."""
    return _RUN.pack(b"i", project, upto, part) + chunk.to_bytes(4, "big")


def stage(project: int, upto: int = 0, valid_at: int = -_BIAS) -> bytes:
    """Key of what a stage of a project's replay holds, the newest positions last."""
    return _STAGE.pack(b"g", project, upto, valid_at + _BIAS)


def read_stage(key: bytes) -> tuple[int, int]:
    """Return (position, valid time) of a stage's key."""
    _, _, upto, valid_at = _STAGE.unpack(key)
    return upto, valid_at - _BIAS


def stage_chunk(project: int, upto: int, valid_at: int, chunk: int) -> bytes:
    """Key of some pages of a stage."""
    return _STAGE.pack(b"h", project, upto, valid_at + _BIAS) + chunk.to_bytes(4, "big")


_NAMED = {b"J": (b"X", _RUN), b"f": (b"X", _RUN), b"i": (b"X", _RUN), b"h": (b"g", _STAGE)}
OF_PARTS = tuple(_NAMED)
"""First bytes of the keys of what a part of event columns or a stage has beside the row that names it."""


def naming(key: bytes) -> bytes:
    """Key of the row that names the part or the stage which a row of ``OF_PARTS`` is of."""
    letter, form = _NAMED[key[:1]]
    return letter + key[1 : form.size]


def behind_part(key: bytes) -> bytes:
    """Bound above all rows of the same family and part as a row of ``OF_PARTS``."""
    _, form = _NAMED[key[:1]]
    return key[: form.size] + b"\xff" * (form.size + 1)


def node(digest: bytes) -> bytes:
    """Key of a snapshot tree node."""
    return b"N" + digest


def snapshot(snapshot_id: bytes) -> bytes:
    """Key of a snapshot's position."""
    return b"Z" + snapshot_id


def snapshot_at(position: int) -> bytes:
    """Key of a snapshot's manifest, in the order of making."""
    return b"Y" + position.to_bytes(8, "big")


def released(snapshot_id: bytes = b"") -> bytes:
    """Key that says the tree of a snapshot was removed; without an id, the lower bound of them."""
    return b"a" + snapshot_id


def pin(owner: str, made_at: int = 0, position: int = 0) -> bytes:
    """Key of a statement of the pin that a licensee made at a position."""
    return b"O" + _short(owner) + made_at.to_bytes(8, "big") + position.to_bytes(8, "big")


def pin_name(owner: str, name: str, made_at: int = 0) -> bytes:
    """Key that says a licensee made a pin of that name at a position."""
    return b"F" + _short(owner) + _short(name) + made_at.to_bytes(8, "big")


def leaf(position: int, nth: int = 0) -> bytes:
    """Key of a leaf of the checkpoint log: the ``nth`` of a commit."""
    return b"I" + position.to_bytes(8, "big") + nth.to_bytes(4, "big")


def signing_key(position: int) -> bytes:
    """Key of the statement of a signing key."""
    return b"k" + position.to_bytes(8, "big")


def api_key(key_id: bytes, position: int = 0) -> bytes:
    """Key of a statement of a key that callers show; without a position, the lower bound of them."""
    return b"u" + key_id + position.to_bytes(8, "big")


def licensee(name: str, position: int = 0) -> bytes:
    """Key of a statement about a licensee or its agreements; without a position, the lower bound of them."""
    return b"l" + _short(name) + position.to_bytes(8, "big")


def retraction(position: int) -> bytes:
    """Key of the statement of a retraction."""
    return b"r" + position.to_bytes(8, "big")


def withdrawn(project: int, rev: int = 0, position: int = 0) -> bytes:
    """Key of what a retraction withdrew of a revision; without a position, the lower bound of them."""
    return _WITHDRAWN.pack(b"v", project, rev, position)


def read_withdrawn(key: bytes) -> tuple[int, int]:
    """Return (rev, position) of the key of what was withdrawn."""
    _, _, rev, position = _WITHDRAWN.unpack(key)
    return rev, position


def receipt(position: int) -> bytes:
    """Key of the statement of a receipt."""
    return b"e" + position.to_bytes(8, "big")


def acknowledgement(owner: str, made_at: int = 0, position: int = 0) -> bytes:
    """Key of a licensee's answer about the pin that was made at a position."""
    return b"d" + _short(owner) + made_at.to_bytes(8, "big") + position.to_bytes(8, "big")


def source_mark(project: int, source: bytes, position: int = 0, *, of_end: bool = False) -> bytes:
    """Key that says a commit marks how far a source was read; without a position, the lower bound of them.

    ``source`` is ``source_key`` of it; ``of_end``: of a file that was read to its end.
    """
    return _SOURCE_MARK.pack(b"m", project, source, of_end, position)


def source_key(source: str, file: bytes = b"") -> bytes:
    """Return the 16 bytes by which a source is found among the marks; ``file``: 8 bytes, of a file."""
    return sha256(file.rjust(8, b"\0") + source.encode()).digest()[:16]


def source_marks(project: int) -> tuple[bytes, bytes]:
    """Bounds of a project's marks of all sources."""
    return struct.pack(">cI", b"m", project), struct.pack(">cI", b"m", project + 1)


def read_source_mark(key: bytes) -> tuple[bytes, bool, int]:
    """Return (``source_key`` of the source, whether of its end, position)."""
    _, _, source, of_end, position = _SOURCE_MARK.unpack(key)
    return source, of_end, position


def _short(text: str) -> bytes:
    return sha256(text.encode()).digest()[:16]


def recorded(position: int) -> bytes:
    """Key of a commit's time."""
    return b"B" + position.to_bytes(8, "big")


def sealed_blob(position: int, ordinal: int) -> bytes:
    """Blob key of an event's sealed values."""
    return struct.pack(">cQI", b"s", position, ordinal)


def text_holder(digest: bytes, project: int, page: int) -> bytes:
    """Key that says another page than the first, or another revision, has a text."""
    return b"K" + digest[:16] + struct.pack(">IQ", project, page)


def text_holders(digest: bytes) -> tuple[bytes, bytes]:
    """Bounds of the pages that have a text beside the one whose block it lies in."""
    return b"K" + digest[:16], b"K" + digest[:16] + b"\xff" * 13


def block(number: int) -> bytes:
    """Blob key of a text block."""
    return b"t" + number.to_bytes(8, "big")


def page_block(project: int, page: int, index: int) -> bytes:
    """Key of a page's sealed block by its index."""
    return _PAGE_BLOCK.pack(b"G", project, page, index)


def tail(project: int, page: int, number: int = 0) -> bytes:
    """Key of a page's text that is not sealed yet; without a number, the lower bound of them."""
    return _TAIL.pack(b"H", project, page, number)


def read_tail(key: bytes) -> tuple[int, int, int]:
    """Return (project, page, block id) of a tail's key."""
    _, project, page, number = _TAIL.unpack(key)
    return project, page, number


def block_user(block_: int, user: int = 0) -> bytes:
    """Key that says a block of another page has its prefix in a block; user 0 says that there is one."""
    return struct.pack(">cQQ", b"U", block_, user)
