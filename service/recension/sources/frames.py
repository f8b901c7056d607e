"""Items as bytes, for the pipe between the parsing child and the process that writes.

A frame is a kind (one byte), the sizes of its two parts (``uint32``, little-endian), a JSON array or object
of everything small, and the texts behind one another. No pickle, no marshal: the child has parsed hostile
input and is not trusted, so every length, type and rule is checked again here. Reading 334 MB of text
in 18,662 events costs 0.5 s of processor time, the pipe included, because texts are never escaped.

Batch boundaries follow from the items alone (``Batch``), never from timing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    Happening,
    LogAction,
    LogEntry,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import MAX_INSTANT, MIN_INSTANT
from recension.sources.items import BadRecordError, Item, Progress, Rejected, SiteInfo, Skipped, checked

BATCH_ITEMS = 256
BATCH_BYTES = 4 * 1024 * 1024
"""A batch is closed when it has reached either; one item more than 4 MiB makes it longer."""

MAX_META_BYTES = 32 * 1024 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024
"""Above any batch: 4 MiB, and one event of 16 MiB (``items.MAX_EVENT_BYTES``)."""

BATCH, PROGRESS, ERROR, END = b"B", b"P", b"E", b"Z"
KINDS = frozenset({BATCH, PROGRESS, ERROR, END})
HEADER = struct.Struct("<cII")


class FrameError(ValueError):
    """A frame is not what ``pack`` makes."""


# --- writing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame in pieces, ready for ``writev``."""

    kind: bytes
    meta: bytes
    body: tuple[bytes, ...] = ()

    def pieces(self) -> list[bytes]:
        """The bytes of the frame, in order."""
        return [HEADER.pack(self.kind, len(self.meta), sum(map(len, self.body))), self.meta, *self.body]


def json_frame(kind: bytes, value: object) -> Frame:
    """Make a frame without a body."""
    return Frame(kind, _dump(value))


class Batch:
    """Items on their way into one frame."""

    def __init__(self) -> None:
        """An empty batch."""
        self._metas: list[bytes] = []
        self._body: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._metas)

    @property
    def full(self) -> bool:
        """Whether the batch is to be closed."""
        return len(self._metas) >= BATCH_ITEMS or self._size >= BATCH_BYTES

    def add(self, item: Item) -> None:
        """Put one item in."""
        meta, texts = _pack(item)
        packed = _dump(meta)
        self._metas.append(packed)
        self._body += texts
        self._size += len(packed) + sum(map(len, texts))

    def close(self, progress: Progress) -> Frame:
        """Return the frame of what is in, and begin again."""
        head = b"[%d,%d," % (progress.done, progress.total)
        frame = Frame(BATCH, head + b",".join(self._metas) + b"]", tuple(self._body))
        self.__init__()  # type: ignore[misc]
        return frame


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _pack(item: Item) -> tuple[list[Any], list[bytes]]:
    match item:
        case Event():
            return _pack_event(item)
        case SiteInfo():
            names = list(item.namespaces.items())
            return ["site", item.dbname, item.sitename, item.base, item.case, names], []
        case Rejected():
            size = len(item.excerpt)
            return ["rejected", item.position, item.reason, item.message, size], [item.excerpt]
        case Skipped():
            return ["skipped", list(item.counts.items())], []


def _pack_event(event: Event) -> tuple[list[Any], list[bytes]]:
    what = event.what
    who = [_pack_contributor(what.contributor), _pack_comment(what.comment)]
    name, rest = _pack_happening(what)
    texts = [slot.text for slot in what.slots if slot.text] if isinstance(what, Edit) else []
    return [name, event.page_id, event.time, event.source_id, *who, *rest], texts


def _pack_happening(what: Happening) -> tuple[str, list[Any]]:
    match what:
        case Edit():
            head = [
                what.rev_id,
                what.parent_rev_id,
                what.title,
                what.namespace,
                what.title_inferred,
                what.minor,
            ]
            return "edit", [*head, [_pack_slot(slot) for slot in what.slots]]
        case Move():
            return "move", [what.from_title, what.from_namespace, what.to_title, what.to_namespace]
        case Delete():
            return "delete", [what.title, what.namespace]
        case Restore():
            return "restore", [what.title, what.namespace]
        case Visibility():
            return "visibility", [what.rev_id, what.text_hidden, what.comment_hidden, what.contributor_hidden]
        case LogEntry():
            titles = [what.title, what.namespace, what.to_title, what.to_namespace]
            hidden = [what.text_hidden, what.comment_hidden, what.contributor_hidden]
            return "log", [what.log_id, what.action, *titles, what.rev_ids, *hidden]


def _pack_slot(slot: SlotText) -> list[Any]:
    size = len(slot.text)
    return [slot.role, slot.model, slot.format, slot.presence, size, slot.claimed_sha1, slot.claimed_bytes]


def _pack_contributor(who: Contributor) -> list[Any] | int:
    return [who.name, who.id] if who.presence is Presence.PRESENT else who.presence


def _pack_comment(comment: Comment) -> str | int:
    return comment.text if comment.presence is Presence.PRESENT else comment.presence


# --- reading ------------------------------------------------------------------------------------


def parse_header(header: bytes) -> tuple[bytes, int, int]:
    """Return kind, size of the JSON and size of the body, in bytes. Raises ``FrameError``."""
    kind, meta, body = HEADER.unpack(header)
    if kind not in KINDS or meta > MAX_META_BYTES or body > (MAX_BODY_BYTES if kind == BATCH else 0):
        raise FrameError(f"bad frame header: {header.hex()}")
    return kind, meta, body


def load_json(meta: bytes) -> Any:
    """Read the JSON part of a frame. Raises ``FrameError``."""
    try:
        return json.loads(meta)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the frame is not JSON: {error}") from None


def unpack_progress(value: object) -> Progress:
    """Read ``[done, total, …]``. Raises ``FrameError``."""
    if not isinstance(value, list) or len(value) < 2:  # noqa: PLR2004 - done and total
        raise FrameError("a frame begins with its progress")
    done, total = _int(value[0]), _int(value[1])
    if not 0 <= done <= total:
        raise FrameError(f"progress of {done} of {total}")
    return Progress(done, total)


def unpack_batch(meta: bytes, body: memoryview, project: str) -> tuple[Progress, list[Item]]:
    """Read a batch frame; the events are the ``project``'s and keep the rules of the model.

    Raises ``FrameError``.
    """
    value = load_json(meta)
    progress = unpack_progress(value)
    cursor = _Body(body)
    try:
        items = [_unpack(packed, cursor, project) for packed in value[2:]]
    except FrameError:
        raise
    except BadRecordError as error:
        raise FrameError(error.message) from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FrameError(f"an item is not what was packed: {error}") from None
    cursor.close()
    return progress, items


class _Body:
    """The texts of a frame, taken in order."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, size: object) -> bytes:
        end = self._at + _int(size)
        if not self._at <= end <= len(self._view):
            raise FrameError("a text reaches beyond its frame")
        text = bytes(self._view[self._at : end])
        self._at = end
        return text

    def close(self) -> None:
        if self._at != len(self._view):
            raise FrameError("bytes are left over in a frame")


def _unpack(packed: object, body: _Body, project: str) -> Item:
    if not isinstance(packed, list):
        _wrong("item", packed)
    name, *rest = packed
    reader = _READERS.get(name)
    if reader is not None:
        return reader(*rest, body)
    page_id, time, source_id, contributor, comment, *inner = rest
    who = _contributor(contributor), _comment(comment)
    instant = _int(time)
    if not MIN_INSTANT <= instant <= MAX_INSTANT:
        _wrong("time", time)
    what = _HAPPENINGS[name](who, body, *inner)
    return checked(Event(project, _int(page_id), instant, _str(source_id), what))


def _site(dbname: object, sitename: object, base: object, case: object, names: Any, _: _Body) -> SiteInfo:
    table = {_int(number): _str(name) for number, name in names}
    return SiteInfo(_str(dbname), _str(sitename), _str(base), _str(case), table)


def _rejected(position: object, reason: object, message: object, size: object, body: _Body) -> Rejected:
    return Rejected(_str(position), _str(reason), _str(message), body.take(size))


def _skipped(counts: Any, _: _Body) -> Skipped:
    return Skipped({_str(name): _int(count) for name, count in counts})


_READERS: dict[str, Callable[..., Item]] = {"site": _site, "rejected": _rejected, "skipped": _skipped}

_Who = tuple[Contributor, Comment]


def _edit(who: _Who, body: _Body, *fields: Any) -> Edit:
    rev_id, parent, title, namespace, inferred, minor, slots = fields
    return Edit(
        _int(rev_id),
        _int(parent),
        _str(title),
        _int(namespace),
        _bool(inferred),
        *who,
        _bool(minor),
        tuple(_slot(body, *slot) for slot in slots),
    )


def _slot(body: _Body, *fields: Any) -> SlotText:
    role, model, form, presence, size, sha1, claimed = fields
    state = Presence(_int(presence))
    text = body.take(size)
    if (text and state is not Presence.PRESENT) or state is Presence.ABSENT:
        _wrong("slot", presence)
    if not text.isascii():
        text.decode()  # what is stored is UTF-8; this raises ValueError
    claim = None if claimed is None else _int(claimed)
    return SlotText(_str(role), _str(model), _str(form), state, text, _str(sha1), claim)


def _move(who: _Who, _: _Body, *fields: Any) -> Move:
    source, source_namespace, target, target_namespace = fields
    return Move(_str(source), _int(source_namespace), _str(target), _int(target_namespace), *who)


def _delete(who: _Who, _: _Body, title: object, namespace: object) -> Delete:
    return Delete(_str(title), _int(namespace), *who)


def _restore(who: _Who, _: _Body, title: object, namespace: object) -> Restore:
    return Restore(_str(title), _int(namespace), *who)


def _visibility(who: _Who, _: _Body, rev_id: object, *hidden: object) -> Visibility:
    text, comment, contributor = map(_bool, hidden)
    return Visibility(_int(rev_id), text, comment, contributor, *who)


def _log(who: _Who, _: _Body, *fields: Any) -> LogEntry:
    log_id, action, title, namespace, to_title, to_namespace, rev_ids, *hidden = fields
    text, comment, contributor = map(_bool, hidden)
    return LogEntry(
        _int(log_id),
        LogAction(_int(action)),
        _str(title),
        _int(namespace),
        _str(to_title),
        _int(to_namespace),
        tuple(map(_int, rev_ids)),
        text,
        comment,
        contributor,
        *who,
    )


_HAPPENINGS: dict[str, Callable[..., Any]] = {
    "edit": _edit,
    "move": _move,
    "delete": _delete,
    "restore": _restore,
    "visibility": _visibility,
    "log": _log,
}


def _contributor(value: object) -> Contributor:
    if isinstance(value, list):
        name, user = value
        return Contributor.named(_str(name), None if user is None else _int(user))
    return HIDDEN_CONTRIBUTOR if Presence(_int(value)) is Presence.HIDDEN else NOBODY


def _comment(value: object) -> Comment:
    if isinstance(value, str):
        return Comment(Presence.PRESENT, _str(value))
    return HIDDEN_COMMENT if Presence(_int(value)) is Presence.HIDDEN else NO_COMMENT


def _int(value: object) -> int:
    if type(value) is not int:
        _wrong("number", value)
    return value


def _str(value: object) -> str:
    if type(value) is not str:
        _wrong("string", value)
    if not value.isascii():
        value.encode()  # JSON can spell half of a surrogate pair; this raises ValueError
    return value


def _bool(value: object) -> bool:
    if type(value) is not bool:
        _wrong("flag", value)
    return value


def _wrong(what: str, value: object) -> NoReturn:
    raise FrameError(f"a {what} was expected, not {str(value)[:40]!r}")
