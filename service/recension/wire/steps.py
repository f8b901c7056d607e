"""Steps of a followed scope to proto and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.event import Presence
from recension.model.reading import Entry, TimelineItem
from recension.model.step import PageStep, Record
from recension.v1 import change_service_pb2 as pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire import convert

_ID_BYTES = 16
_ANY = 2**62
"""Room for whatever a step brings: how much that is was decided when it was read."""


class StepTold(NamedTuple):
    """What a step says, as a follower reads it."""

    position: int
    recorded_at: int
    previous_root: bytes
    root: bytes
    events: tuple[TimelineItem, ...]
    pages: tuple[PageStep, ...]
    entries: tuple[Entry | None, ...]
    """One for each page; ``None`` where the scope does not hold it any more."""
    continued: bool = False
    bridge: bool = False
    reason: str = ""
    retraction: bytes = b""
    """Id of the retraction, 16 bytes; empty without one."""


def step_to_proto(told: StepTold, nodes: Iterable[bytes], *, text: bool) -> pb.Step:
    """Write a step with the nodes that show it; ``text``: texts were asked for."""
    return pb.Step(
        position=told.position,
        recorded_at=convert.timestamp_to_proto(told.recorded_at),
        previous_root=format_digest(told.previous_root),
        root=format_digest(told.root),
        events=map(convert.timeline_item_to_proto, told.events),
        pages=[
            pb.PageStep(
                page_id=page.page_id,
                before=_record_to_proto(page.before),
                after=_record_to_proto(page.after),
                entry=None if entry is None else _entry_to_proto(entry, text=text),
            )
            for page, entry in zip(told.pages, told.entries, strict=True)
        ],
        nodes=nodes,
        continued=told.continued,
        bridge=told.bridge,
        reason=told.reason,
        retraction=told.retraction.hex(),
    )


def step_from_proto(message: pb.Step, entries: Sequence[Entry | None]) -> StepTold:
    """Read a step; ``entries``: what was read of its pages. Raises ``InvalidArgumentError``."""
    try:
        retraction = bytes.fromhex(message.retraction)
    except ValueError:
        retraction = b"?"
    if len(retraction) not in (0, _ID_BYTES):
        raise InvalidArgumentError("retraction: not 32 hex digits", field="retraction")
    return StepTold(
        message.position,
        convert.timestamp_from_proto(message.recorded_at, "recorded_at"),
        parse_digest(message.previous_root, "previous_root"),
        parse_digest(message.root, "root"),
        tuple(map(convert.timeline_item_from_proto, message.events)),
        tuple(
            PageStep(
                page.page_id,
                _record_from_proto(page.before) if page.HasField("before") else None,
                _record_from_proto(page.after) if page.HasField("after") else None,
            )
            for page in message.pages
        ),
        tuple(entries),
        message.continued,
        message.bridge,
        message.reason,
        retraction,
    )


def _entry_to_proto(entry: Entry, *, text: bool) -> snapshot_pb.Entry:
    message = convert.entry_to_proto(entry, convert.TextBudget(_ANY, _ANY))
    for slot, its in zip(entry.slots, message.slots, strict=True):
        its.text_omitted = text and slot.presence is Presence.PRESENT and slot.text is None
    return message


def _record_to_proto(record: Record | None) -> pb.TreeRecord | None:
    return None if record is None else pb.TreeRecord(rev_id=record.rev_id, leaf=record.leaf)


def _record_from_proto(message: pb.TreeRecord) -> Record:
    return Record(message.rev_id, message.leaf)
