"""Prepared events as bytes, for the pipe between the process that parses and the one that writes.

A frame is a kind (one byte), the sizes of its two parts (``uint32``, little-endian), a JSON array or object
of everything small, and the rest behind one another: what is sealed, then the texts, never escaped. No
pickle, no marshal: the child has parsed hostile input, so whatever it sends, the worst is a named error or a
wrong record. Lengths and types are checked here, and that the head of a block says what was said of it;
digests and seals are the child's word.

Batch boundaries follow from the items alone (``Batch``), never from timing.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, NoReturn

from recension.archive.claims import Verdict
from recension.archive.clock import Salts
from recension.archive.intake.paging import Made, Paging
from recension.archive.prepared import Prepared, PreparedEvents, Text, prepare
from recension.archive.sealed import Sealed, pack_sealed
from recension.archive.texts.block import read_block
from recension.archive.texts.writing import Ready
from recension.model.errors import DataLossError
from recension.model.event import Contributor, Event, Presence
from recension.model.record import Skeleton, decode_item
from recension.sources.items import Item, Progress, Rejected, RunEnd, Sighting, SiteInfo, Skipped
from recension.sources.page_change import Complete

BATCH_ITEMS = 1024
PAGED_ITEMS = 512
"""The same of a dump, where the texts of a page come together anyway."""
BATCH_BYTES = 16 * 1024 * 1024
"""A batch is closed when it has reached either; one item more than 16 MiB makes it longer.

Of 4 MiB, an ingest took a tenth more time, and of 512 items 3 % more CPU: here more of a page's texts come in
one commit, and are a block at once.
"""
MOST_ITEMS = 1024
"""So many items may wait for the end of a block, which is at most 512 KiB away."""

MAX_META_BYTES = 32 * 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Above any batch: 16 MiB, one event of 16 MiB (``items.MAX_EVENT_BYTES``), and blocks of smaller ones."""

BATCH, PROGRESS, RUN, ERROR, END = b"B", b"P", b"R", b"E", b"Z"
KINDS = frozenset({BATCH, PROGRESS, RUN, ERROR, END})
HEADER = struct.Struct("<cII")
_HASH_BYTES = 32
"""Of a digest."""

Remark = SiteInfo | Rejected | Sighting | Skipped
"""What a parser says beside events."""


class FrameError(ValueError):
    """A frame is not what ``Batch`` makes."""


@dataclass(slots=True)
class Fed:
    """The contents of one batch."""

    remarks: list[Remark] = field(default_factory=list)
    """In their order; all of them may be heard before the events are stored, but what sightings mean
    follows from what is known before, and is stored behind them."""
    events: PreparedEvents = field(default_factory=PreparedEvents)
    changes: list[Complete] = field(default_factory=list)
    """Of streams alone, and in no frame: what they mean follows from what is known, as with sightings."""
    records: list[bytes] = field(default_factory=list)
    """Of streams alone, and in no frame: what each event was read from, as nobody gives it again."""


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

    def __init__(self, salts: Salts, paging: Paging | None = None) -> None:
        """An empty batch; its events are prepared with ``salts``.

        With ``paging``, the texts of each page come one after another: blocks are made of them.
        """
        self._salts = salts
        self._paging = paging
        self._clear()

    def _clear(self) -> None:
        self._remarks: list[list[Any]] = []
        self._excerpts: list[bytes] = []
        self._events: list[Prepared] = []
        self._sealed: list[Sealed] = []
        self._texts = 0
        self._size = 0

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._remarks) + len(self._events)

    @property
    def full(self) -> bool:
        """Whether the batch is to be closed."""
        most = BATCH_ITEMS if self._paging is None else PAGED_ITEMS
        enough = len(self) >= most or self._size >= BATCH_BYTES
        waits = self._paging is not None and self._paging.open and len(self) < MOST_ITEMS
        return enough and not waits

    def add(self, item: Item) -> None:
        """Put one item in. An event keeps the rules of the model (``items.checked``)."""
        match item:
            case Event():
                event, sealed = prepare(item, self._salts)
                self._events.append(event)
                self._sealed.append(sealed)
                if self._paging:
                    self._paging.add(event.skeleton.page_id, event.texts, self._texts)
                self._texts += len(event.texts)
                self._size += sum(len(text.text) for text in event.texts)
            case Rejected():
                size = len(item.excerpt)
                self._remarks.append(["rejected", item.position, item.reason, item.message, size])
                self._excerpts.append(item.excerpt)
                self._size += size
            case SiteInfo():
                names = list(item.namespaces.items())
                self._remarks.append(["site", item.dbname, item.sitename, item.base, item.case, names])
            case Sighting():
                who = item.contributor
                self._remarks.append(
                    [
                        "sighting", item.page_id, item.rev_id, item.title, item.namespace, item.time,
                        item.source_id, item.gone, [who.presence, who.name, who.id], item.edited_at,
                        item.license,
                    ]
                )  # fmt: skip
            case Skipped():
                self._remarks.append(["skipped", list(item.counts.items())])
            case RunEnd():
                raise ValueError("a run ends between batches")

    def end_run(self) -> None:
        """Let what follows not depend on what came before, but for how its blocks are made."""
        if self._paging:
            self._paging.end_run()

    def close(self) -> Closed:
        """Return what is in, and begin again."""
        if self._paging:
            self._paging.finish()
        made = self._paging.take() if self._paging else []
        closed = Closed(self._remarks, self._excerpts, self._events, self._sealed, made, self._size)
        self._clear()
        return closed


@dataclass(slots=True)
class Closed:
    """The contents of a batch, whose blocks may still be compressed."""

    remarks: list[list[Any]]
    excerpts: list[bytes]
    events: list[Prepared]
    sealed: list[Sealed]
    made: list[Made]
    size: int
    """Bytes of texts and excerpts."""

    def frame(self, progress: Progress) -> Frame:
        """Return its frame; waits for its blocks."""
        packed = pack_sealed(self.sealed)
        events = [_pack(event) for event in self.events]
        blocks = [made.raw.result() for made in self.made]
        heads = [
            [made.page, made.index, made.depth, len(made.needs), len(made.offers), made.texts, len(raw)]
            for made, raw in zip(self.made, blocks, strict=True)
        ]
        sizes, metas = list(map(len, packed)), [meta for meta, _ in events]
        body = [*self.excerpts, *packed, *(small for _, small in events)]
        body += [text.text for event in self.events for text in event.texts]
        meta = [progress.done, progress.total, self.remarks, metas, sizes, heads]
        for made, raw in zip(self.made, blocks, strict=True):
            body += [made.needs, made.offers, raw]
        return Frame(BATCH, _dump(meta), tuple(body))


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _pack(event: Prepared) -> tuple[list[Any], bytes]:
    """Return what JSON can hold of an event, and the rest but its texts."""
    meta = [
        len(event.item),
        len(event.content),
        event.source_id,
        event.titles,
        [[len(text.text), text.verdict, text.wrong_size] for text in event.texts],
    ]
    digests = [text.digest for text in event.texts]
    return meta, b"".join([event.item, event.content, *digests])


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


def unpack_batch(meta: bytes, body: memoryview) -> tuple[Progress, Fed]:
    """Read a batch frame. Raises ``FrameError``."""
    value = load_json(meta)
    progress = unpack_progress(value)
    cursor = _Body(body)
    try:
        remarks, events, packed, blocks = value[2:]
        fed = Fed([_remark(cursor, *remark) for remark in remarks])
        blobs = [cursor.take(size) for size in packed]
        smalls = [cursor.take(_small_bytes(*event)) for event in events]
        prepared = [_event(cursor, raw, *event) for raw, event in zip(smalls, events, strict=True)]
        texts = [text for event in prepared for text in event.texts]
        fed.events = PreparedEvents(prepared, blobs, [_block(cursor, texts, *block) for block in blocks])
    except FrameError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise FrameError(f"an item is not what was packed: {error}") from None
    cursor.close()
    return progress, fed


class _Body:
    """The bytes of a frame, taken in order."""

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


def _small_bytes(item: object, content: object, *rest: Any) -> int:
    return _size(item) + _size(content) + _HASH_BYTES * len(rest[-1])


def _event(body: _Body, raw: bytes, *meta: Any) -> Prepared:
    item, content, source_id, titles, texts = meta
    skeleton = decode_item(raw[:item])
    if not isinstance(skeleton, Skeleton):
        _wrong("event", skeleton)
    start = item + content
    digests = [raw[at : at + _HASH_BYTES] for at in range(start, len(raw), _HASH_BYTES)]
    return Prepared(
        skeleton,
        raw[:item],
        _str(source_id),
        tuple(map(_str, titles)),
        raw[item:start],
        tuple(
            Text(digest, body.take(size), Verdict(verdict), _bool(wrong_size))
            for digest, (size, verdict, wrong_size) in zip(digests, texts, strict=True)
        ),
    )


def _block(body: _Body, all_texts: list[Text], *meta: Any) -> Ready:
    page, index, depth, needs, offers, places, size = meta
    texts = [all_texts[_size(at)] for at in places]
    ready = Ready(
        _int(page),
        _int(index),
        _size(depth),
        body.take(needs),
        body.take(offers),
        [text.digest for text in texts],
        body.take(size),
    )
    try:
        block = read_block(ready.raw)
    except DataLossError as error:
        raise FrameError(error.message) from None
    said = 0, ready.page, ready.index, 0, ready.depth, tuple(len(text.text) for text in texts)
    if said != (block.project, block.page, block.index, block.prefix, block.depth, block.lengths):
        raise FrameError("a block is another than was said")
    if not texts or bool(ready.needs) is not bool(ready.depth):
        _wrong("block", meta)
    return ready


def _remark(body: _Body, name: object, *fields: Any) -> Remark:
    match name:
        case "site":
            dbname, sitename, base, case, names = fields
            table = {_int(number): _str(name) for number, name in names}
            return SiteInfo(_str(dbname), _str(sitename), _str(base), _str(case), table)
        case "rejected":
            position, reason, message, size = fields
            return Rejected(_str(position), _str(reason), _str(message), body.take(size))
        case "sighting":
            page_id, rev_id, title, namespace, time, source_id, gone, who, edited_at, license_ = fields
            return Sighting(
                _size(page_id), _size(rev_id), _str(title), _int(namespace), _int(time), _str(source_id),
                _bool(gone), _contributor(*who), _int(edited_at), _str(license_),
            )  # fmt: skip
        case "skipped":
            (counts,) = fields
            return Skipped({_str(name): _int(count) for name, count in counts})
        case _:
            raise FrameError(f"a remark was expected, not {str(name)[:40]!r}")


def _contributor(presence: object, name: object, user: object) -> Contributor:
    return Contributor(Presence(_int(presence)), _str(name), None if user is None else _int(user))


def _size(value: object) -> int:
    size = _int(value)
    if size < 0:
        _wrong("size", value)
    return size


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
