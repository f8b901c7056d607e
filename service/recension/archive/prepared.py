"""Events with all that follows from them alone: digests, verdicts, commitments, their place in the log.

What the store holds has no say in it, so it is computed wherever there is time for it: for a file in the
process that parses it (``archive.intake``), for a call in the server's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from recension.archive.claims import Verdict, check_claims, is_redirect
from recension.archive.clock import Salts
from recension.archive.sealed import TOGETHER, Note, Sealed, open_sealed, pack_sealed
from recension.archive.texts.writing import Ready
from recension.model.digest import digest_of
from recension.model.event import (
    Delete,
    Edit,
    Event,
    LogEntry,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.record import KINDS, Flag, Skeleton, encode_skeleton, source_key
from recension.model.seal import (
    FIELDS,
    SlotState,
    comment_value,
    commit_fields,
    content_value,
    contributor_value,
    log_entry_value,
    seal,
    title_value,
)


class Text(NamedTuple):
    """The text of a slot that is present."""

    digest: bytes
    text: bytes
    verdict: Verdict
    """On the SHA-1 that its source states."""
    wrong_size: bool
    """Whether its source states another number of bytes."""


@dataclass(slots=True)
class Prepared:
    """One event."""

    skeleton: Skeleton
    item: bytes
    """The skeleton as the log holds it."""
    source_id: str
    titles: tuple[str, ...] = ()
    """Those that it says its page has or had."""
    content: bytes = b""
    """Canonical content of an edit."""
    texts: tuple[Text, ...] = ()
    """In the order of its slots."""


@dataclass(slots=True)
class PreparedEvents:
    """Events on their way into one commit."""

    events: list[Prepared] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)
    """Their sealed values, as the store keeps them when all of them are taken."""
    blocks: list[Ready] = field(default_factory=list)
    """Blocks of their texts, as the store keeps them when it holds nothing of them."""

    def sealed(self, index: int) -> Sealed:
        """Return the sealed values of one event."""
        return open_sealed(self.packed[index // TOGETHER])[index % TOGETHER]

    def followed_by(self, later: Sequence[tuple[Prepared, Sealed]]) -> PreparedEvents:
        """Return these events and others behind them, for one commit."""
        if not later:
            return self
        sealed = [one for raw in self.packed for one in open_sealed(raw)]
        packed = pack_sealed([*sealed, *(one for _, one in later)])
        return PreparedEvents([*self.events, *(event for event, _ in later)], packed, self.blocks)


def prepare_all(events: Sequence[Event], salts: Salts) -> PreparedEvents:
    """Prepare events that keep the rules of the model (``check_event``)."""
    both = [prepare(event, salts) for event in events]
    return PreparedEvents([event for event, _ in both], pack_sealed([sealed for _, sealed in both]))


def prepare(event: Event, salts: Salts) -> tuple[Prepared, Sealed]:
    """Prepare an event that keeps the rules of the model (``check_event``)."""
    match event.what:
        case Edit() as edit:
            return _prepare_edit(event, edit, salts)
        case Visibility() as change:
            flags = _hidden(change)
            return _close(event, salts, [], flags=flags, rev_id=change.rev_id)
        case LogEntry() as entry:
            values = [title_value(entry.namespace, entry.title), log_entry_value(entry)]
            return _close(
                event, salts, values,
                flags=_hidden(entry), rev_id=entry.log_id, parent=entry.action, namespace=entry.namespace,
            )  # fmt: skip
        case Move() as move:
            values = [
                title_value(move.to_namespace, move.to_title),
                title_value(move.from_namespace, move.from_title),
            ]
            return _close(
                event, salts, values, titles=(move.to_title, move.from_title),
                namespace=move.to_namespace, from_namespace=move.from_namespace,
            )  # fmt: skip
        case Delete() | Restore() as mark:
            values = [title_value(mark.namespace, mark.title)]
            return _close(event, salts, values, titles=(mark.title,), namespace=mark.namespace)


def _prepare_edit(event: Event, edit: Edit, salts: Salts) -> tuple[Prepared, Sealed]:
    slots = edit.slots if len(edit.slots) == 1 else sorted(edit.slots, key=_by_role)
    notes = tuple(map(check_claims, slots))
    states, texts = [], []
    for slot, note in zip(slots, notes, strict=True):
        held: tuple[int, bytes] = 0, b""
        if slot.presence is Presence.PRESENT:
            size, digest = held = len(slot.text), digest_of(slot.text)
            wrong_size = note.claimed_bytes not in (-1, size)
            texts.append(Text(digest, slot.text, Verdict(note.verdict), wrong_size))
        states.append(SlotState(slot.role, slot.model, slot.format, slot.presence, *held))
    main = next((slot for slot in slots if slot.role == "main"), None)
    content = content_value(states)
    prepared, sealed = _close(
        event, salts, [title_value(edit.namespace, edit.title)], [content], notes,
        key=f"rev:{edit.rev_id}", flags=_edit_flags(edit, main), rev_id=edit.rev_id,
        parent=edit.parent_rev_id, namespace=edit.namespace, size=sum(len(text.text) for text in texts),
        model=(main or edit.slots[0]).model, titles=(edit.title,),
    )  # fmt: skip
    prepared.content = content
    prepared.texts = tuple(texts)
    return prepared, sealed


def _by_role(slot: SlotText) -> bytes:
    return slot.role.encode()


def _close(
    event: Event,
    salts: Salts,
    before: list[bytes],
    after: Sequence[bytes] = (),
    notes: tuple[Note, ...] = (),
    *,
    key: str = "",
    flags: int = 0,
    rev_id: int = 0,
    parent: int = 0,
    namespace: int = 0,
    from_namespace: int = 0,
    size: int = 0,
    model: str = "",
    titles: tuple[str, ...] = (),
) -> tuple[Prepared, Sealed]:
    """Seal an event; contributor and comment come between the values before and after them."""
    what = event.what
    values = [*before, contributor_value(what.contributor), comment_value(what.comment), *after]
    salt = salts(event.project, key or event.source_id)
    commitments = commit_fields(salt, FIELDS[type(what)], values)
    skeleton = Skeleton(
        KINDS[type(what)], flags, event.page_id, rev_id, parent, event.time, namespace, from_namespace,
        size, model, source_key(event.project, event.source_id), seal(commitments),
    )  # fmt: skip
    prepared = Prepared(skeleton, encode_skeleton(skeleton), event.source_id, titles)
    return prepared, Sealed(salt, tuple(values), notes)


def _hidden(change: Visibility | LogEntry) -> int:
    return (
        Flag.TEXT_HIDDEN * change.text_hidden
        | Flag.COMMENT_HIDDEN * change.comment_hidden
        | Flag.CONTRIBUTOR_HIDDEN * change.contributor_hidden
    )


def _edit_flags(edit: Edit, main: SlotText | None) -> int:
    presences = {slot.presence for slot in edit.slots}
    return (
        Flag.MINOR * edit.minor
        | Flag.TITLE_INFERRED * edit.title_inferred
        | Flag.REDIRECT * (main is not None and is_redirect(main))
        | Flag.TEXT_HIDDEN * (Presence.HIDDEN in presences)
        | Flag.TEXT_LOST * (Presence.LOST in presences)
        | Flag.COMMENT_HIDDEN * (edit.comment.presence is Presence.HIDDEN)
        | Flag.CONTRIBUTOR_HIDDEN * (edit.contributor.presence is Presence.HIDDEN)
    )
