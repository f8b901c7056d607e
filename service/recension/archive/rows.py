"""The values of index rows: fixed structs, so a row costs a microsecond to read."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from recension.model.record import Flag, Kind

_EDIT = struct.Struct(">BiQQ")
EDIT_FIELDS = [("flags", "u1"), ("namespace", ">i4"), ("text_bytes", ">u8"), ("parent", ">u8")]
"""The same as numpy names it, which is not loaded here: without it a parser starts in half the time."""
_MARK = struct.Struct(">Bii")
_PAGE = struct.Struct(">Qq")
_VISIBILITY = struct.Struct(">BQQq")
_TALLY = struct.Struct(">QQqqQ")
_LOG = struct.Struct(">BQB")
_KINDS = {int(kind): kind for kind in Kind}
"""Looking a member up costs a tenth of calling the class."""
HIDDEN = Flag.TEXT_HIDDEN | Flag.COMMENT_HIDDEN | Flag.CONTRIBUTOR_HIDDEN


class EditRow(NamedTuple):
    """One edit in its page's timeline."""

    page: int
    time: int
    rev: int
    position: int
    ordinal: int
    flags: int
    namespace: int
    text_bytes: int
    parent: int
    """Parent revision as upstream states it; 0 for none."""
    model: str

    @property
    def hidden(self) -> int:
        """What was hidden of it as it came: flags."""
        return self.flags & HIDDEN


def edit_value(flags: int, namespace: int, text_bytes: int, parent: int, model: str) -> bytes:
    """Return the value of an edit row."""
    return _EDIT.pack(flags, namespace, text_bytes, parent) + model.encode()


def read_edit_value(value: bytes) -> tuple[int, int, int, int, str]:
    """Return (flags, namespace, text bytes, parent, content model)."""
    return (*_EDIT.unpack_from(value), value[_EDIT.size :].decode())


class MarkRow(NamedTuple):
    """A move, delete or restore in its page's timeline."""

    time: int
    position: int
    ordinal: int
    kind: Kind
    namespace: int
    from_namespace: int


def mark_value(kind: Kind, namespace: int, from_namespace: int) -> bytes:
    """Return the value of a mark row."""
    return _MARK.pack(kind, namespace, from_namespace)


def read_mark_row(time: int, position: int, ordinal: int, value: bytes) -> MarkRow:
    """Return a mark row."""
    kind, namespace, from_namespace = _MARK.unpack(value)
    return MarkRow(time, position, ordinal, _KINDS[kind], namespace, from_namespace)


def page_value(page: int, time: int) -> bytes:
    """Return where a revision id lives."""
    return _PAGE.pack(page, time)


def read_page_value(value: bytes) -> tuple[int, int]:
    """Return (page, time)."""
    page, time = _PAGE.unpack(value)
    return page, time


def visibility_value(flags: int, page: int, rev: int, time: int) -> bytes:
    """Return the value of a visibility row."""
    return _VISIBILITY.pack(flags, page, rev, time)


def read_visibility(value: bytes) -> tuple[int, int, int, int]:
    """Return (flags, page, rev, time)."""
    flags, page, rev, time = _VISIBILITY.unpack(value)
    return flags, page, rev, time


@dataclass(slots=True)
class Tally:
    """A project's running counts."""

    revisions: int = 0
    pages: int = 0
    first_event_at: int = 2**62
    last_event_at: int = -(2**62)
    log_entries: int = 0

    def see(self, time: int) -> None:
        """Widen the span of valid time."""
        self.first_event_at = min(self.first_event_at, time)
        self.last_event_at = max(self.last_event_at, time)

    def encode(self) -> bytes:
        """Return the row's value."""
        return _TALLY.pack(
            self.revisions, self.pages, self.first_event_at, self.last_event_at, self.log_entries
        )


def read_tally(value: bytes) -> Tally:
    """Return the counts of a row."""
    return Tally(*_TALLY.unpack(value))


def log_value(action: int, log_id: int, flags: int) -> bytes:
    """Return the value of a kept log entry's row."""
    return _LOG.pack(action, log_id, flags)


def read_log_value(value: bytes) -> tuple[int, int, int]:
    """Return (action, log id, flags)."""
    action, log_id, flags = _LOG.unpack(value)
    return action, log_id, flags
