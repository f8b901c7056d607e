"""Events as a parser yields them go the whole way: framed, stored, checked, and read again from the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from zlib import crc32

from recension.archive.check.run import Check
from recension.archive.ingest import Ingestor
from recension.archive.intake.frames import HEADER, Batch, Fed, parse_header, unpack_batch
from recension.archive.prepared import prepare
from recension.archive.sealed import Sealed, find_sealed
from recension.archive.sightings import judge
from recension.archive.texts.reading import read_text
from recension.model.event import (
    NO_COMMENT,
    NOBODY,
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
from recension.model.instant import parse_instant
from recension.model.reading import ProjectInfo
from recension.model.record import Flag, Kind, Skeleton, decode_commit, source_key
from recension.model.seal import read_comment, read_content, read_contributor, read_log_entry, read_title
from recension.sources.items import Item, Progress, Sighting, SiteInfo
from recension.store.interface import View
from recension.store.memory import MemoryStore

PROJECT = "p"
NAMESPACES = {"Talk": 1, "Benutzer Diskussion": 3}
_NOW = parse_instant("2027-01-01")
_SALT = bytes(16)
_HIDING = [sum(flags) for flags in product((0, 8), (0, 16), (0, 32)) if any(flags)]

checked_every = 1
"""Of so many inputs one has its texts sealed and its store checked, which takes longer than all the rest."""

Found = tuple[bytes, Event]
"""An event that was read back, and the key of its source id: the store has no more of that."""


def stored(items: Iterable[Item]) -> int:
    """Store what a parser yields and compare it with what the store gives; returns the number of events.

    An assertion that fails is a finding: something was accepted that does not come back.
    """
    store = MemoryStore()
    ingestor = Ingestor(store, clock=lambda: _NOW, salts=_salt)
    ingestor.create_project(ProjectInfo(PROJECT, "https://p.example", "en", "CC0-1.0"))
    fed = _through_a_frame(list(items))
    sightings = []
    for remark in fed.remarks:
        if isinstance(remark, SiteInfo):
            ingestor.learn_site(PROJECT, remark.namespaces, remark.case)
        elif isinstance(remark, Sighting):
            sightings.append(remark)
    given = [item for item in items if isinstance(item, Event)]
    grounds = _grounds(given)
    accepted = ingestor.append(PROJECT, grounds).accepted
    following = judge(store, PROJECT, sightings)[0] if sightings else []
    prepared = fed.events.followed_by([prepare(event, ingestor.salts) for event in following])
    if not prepared.events:
        return 0
    appended = ingestor.append_prepared(PROJECT, prepared)
    assert len(prepared.events) == appended.known + len(appended.rejected) + (appended.accepted), (
        "each event is stored, known or rejected"
    )
    accepted += appended.accepted
    if crc32(repr(given).encode()) % checked_every == 0:
        ingestor.settle()
        state = Check(store).run()
        assert state.complete
        assert not state.shown, state.shown
    with store.view() as view:
        found = Counter(_events(view, store.log.read(1, 100)))
    assert accepted == found.total()
    strangers = found - Counter(map(_expected, [*grounds, *given, *following]))
    assert all(_is_hiding(*one) for one in strangers), list(strangers)
    return appended.accepted


def _salt(_project: str, _key: str) -> bytes:
    return _SALT


def _through_a_frame(items: list[Item]) -> Fed:
    """Return the items as they come out of the pipe from the process that parses."""
    batch = Batch(_salt)
    for item in items:
        batch.add(item)
    frame = batch.close().frame(Progress(0, 0))
    raw = b"".join(frame.pieces())
    _, meta, body = parse_header(raw[: HEADER.size])
    end = HEADER.size + meta
    assert len(raw) == end + body
    _, fed = unpack_batch(raw[HEADER.size : end], memoryview(raw)[end:])
    assert [item for item in items if not isinstance(item, Event)] == fed.remarks
    return fed


def _grounds(events: Sequence[Event]) -> list[Event]:
    """Return edits of the pages that only moves, deletes and the like are of, which would be refused else."""
    pages = {event.page_id for event in events if isinstance(event.what, Edit)}
    grounds = []
    for event in events:
        if event.page_id and event.page_id not in pages and not isinstance(event.what, Edit):
            pages.add(event.page_id)
            rev_id = event.what.rev_id if isinstance(event.what, Visibility) else event.page_id
            slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"ground")
            what = Edit(
                rev_id, 0, "Ground", 0, title_inferred=False, contributor=NOBODY, comment=NO_COMMENT,
                minor=False, slots=(slot,),
            )  # fmt: skip
            grounds.append(Event(event.project, event.page_id, 0, "", what))
    return grounds


# --- reading --------------------------------------------------------------------------------------


def _events(view: View, records: Iterable[bytes]) -> Iterator[Found]:
    for record in records:
        commit = decode_commit(record)
        for ordinal, item in enumerate(commit.items):
            if isinstance(item, Skeleton):
                sealed = find_sealed(view, commit.position, ordinal)
                what = _happening(view, item, sealed)
                yield item.source, Event(commit.project, item.page_id, item.time, "", what)


def _happening(view: View, event: Skeleton, sealed: Sealed) -> Happening:
    values = list(map(sealed.value, range(len(sealed.values))))
    text_hidden, comment_hidden, contributor_hidden = (
        bool(event.flags & flag) for flag in (Flag.TEXT_HIDDEN, Flag.COMMENT_HIDDEN, Flag.CONTRIBUTOR_HIDDEN)
    )
    if event.kind is Kind.EDIT:
        namespace, title = read_title(values[0])
        slots = []
        for slot in read_content(values[3]):
            text = read_text(view, slot.digest) if slot.presence is Presence.PRESENT else b""
            assert slot.size_bytes == len(text)
            slots.append(SlotText(slot.role, slot.model, slot.format, slot.presence, text))
        return Edit(
            event.rev_id, event.parent_rev_id, title, namespace, bool(event.flags & Flag.TITLE_INFERRED),
            read_contributor(values[1]), read_comment(values[2]), bool(event.flags & Flag.MINOR),
            tuple(slots),
        )  # fmt: skip
    who, comment = read_contributor(values[-2]), read_comment(values[-1])
    match event.kind:
        case Kind.MOVE:
            (to_namespace, to_title), (from_namespace, from_title) = map(read_title, values[:2])
            return Move(from_title, from_namespace, to_title, to_namespace, who, comment)
        case Kind.VISIBILITY:
            return Visibility(event.rev_id, text_hidden, comment_hidden, contributor_hidden, who, comment)
        case Kind.LOG_ENTRY:
            namespace, title = read_title(values[0])
            target = read_log_entry(values[1])
            return LogEntry(
                event.rev_id, LogAction(event.parent_rev_id), title, namespace, target[1], *target[::2],
                text_hidden, comment_hidden, contributor_hidden, who, comment,
            )  # fmt: skip
        case _:
            namespace, title = read_title(values[0])
            return (Delete if event.kind is Kind.DELETE else Restore)(title, namespace, who, comment)


def _expected(event: Event) -> Found:
    """Return an event as it is to be found: claims are judged when it comes, and slots have an order."""
    what = event.what
    if isinstance(what, Edit):
        slots = sorted(what.slots, key=lambda slot: slot.role.encode())
        bare = (replace(slot, claimed_sha1="", claimed_bytes=None) for slot in slots)
        what = replace(what, slots=tuple(bare))
    return source_key(event.project, event.source_id), replace(event, source_id="", what=what)


def _is_hiding(source: bytes, event: Event) -> bool:
    """Say whether an event was made because a source no longer shows what another showed."""
    return isinstance(event.what, Visibility) and source in {
        source_key(event.project, f"hide:{event.what.rev_id}:{flags}") for flags in _HIDING
    }
