"""What happened upstream: the events of DESIGN section 1 as values.

Instants are integers: microseconds since 1970-01-01T00:00:00Z, negative before it (``model.instant``).
Hidden, lost and empty are three different things everywhere (DESIGN 2, rule 5): see ``Presence``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from recension.model.errors import InvalidEventError
from recension.model.instant import MAX_INSTANT, MIN_INSTANT

MAX_ID = 2**63 - 1
"""Largest page, revision and parent id: ids are 64-bit and non-negative on the wire."""

MAX_TITLE_BYTES = 10_000
"""MediaWiki allows 255 bytes plus the namespace prefix; other sources write more. A bound, not a rule."""

MAX_NAME_BYTES = 255
"""Longest project, slot role, content model and format: the log writes such lengths in one byte."""

MAX_SLOTS = 2**16 - 1
"""Their number is written in two bytes."""
RENDERING_ROLE = "html"
"""Slot of what upstream made of a revision for readers."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Presence(IntEnum):
    """State of a value that upstream can withhold. The numbers are part of the format."""

    ABSENT = 0
    """There is none: an edit without a comment."""
    PRESENT = 1
    """It is here; it may be empty."""
    HIDDEN = 2
    """Upstream holds it and does not show it."""
    LOST = 3
    """Upstream itself has no content for it any more."""


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who did it. ``id`` is absent for unregistered contributors, whose name is usually an address."""

    presence: Presence = Presence.ABSENT
    name: str = ""
    id: int | None = None

    @staticmethod
    def named(name: str, id: int | None = None) -> Contributor:  # noqa: A002 - the field's own name
        """A contributor who is shown."""
        return Contributor(Presence.PRESENT, name, id)


NOBODY = Contributor()
HIDDEN_CONTRIBUTOR = Contributor(Presence.HIDDEN)


@dataclass(frozen=True, slots=True)
class Comment:
    """An edit summary or log comment."""

    presence: Presence = Presence.ABSENT
    text: str = ""

    @staticmethod
    def of(text: str | None) -> Comment:
        """A comment that is shown; ``None`` and empty mean that there is none."""
        return Comment(Presence.PRESENT, text) if text else NO_COMMENT


NO_COMMENT = Comment()
HIDDEN_COMMENT = Comment(Presence.HIDDEN)


@dataclass(frozen=True, slots=True)
class SlotText:
    """One slot of an edit as it arrives: its UTF-8 bytes if present, and what upstream claims of them."""

    role: str
    model: str
    format: str
    presence: Presence
    text: bytes = b""
    claimed_sha1: str = ""
    """Upstream's base-36 SHA-1 of the slot, as written; empty when it makes no claim."""
    claimed_bytes: int | None = None
    """Upstream's byte count, as written; ``None`` when it makes no claim."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A revision came to be."""

    rev_id: int
    parent_rev_id: int
    """0 when there is none or none is known."""
    title: str
    namespace: int
    title_inferred: bool
    """True when the source names the page by a later title, as a dump does (DESIGN 2, rule 2)."""
    contributor: Contributor
    comment: Comment
    minor: bool
    slots: tuple[SlotText, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """The page got another title. The namespaces follow from the titles' prefixes."""

    from_title: str
    from_namespace: int
    to_title: str
    to_namespace: int
    contributor: Contributor
    comment: Comment


@dataclass(frozen=True, slots=True)
class Delete:
    """The page was deleted."""

    title: str
    namespace: int
    contributor: Contributor
    comment: Comment


@dataclass(frozen=True, slots=True)
class Restore:
    """The page came back."""

    title: str
    namespace: int
    contributor: Contributor
    comment: Comment


@dataclass(frozen=True, slots=True)
class Visibility:
    """What is hidden of one revision from now on; all three flags are stated each time."""

    rev_id: int
    text_hidden: bool
    comment_hidden: bool
    contributor_hidden: bool
    contributor: Contributor = NOBODY
    comment: Comment = NO_COMMENT


class LogAction(IntEnum):
    """What an upstream log entry did. The numbers are part of the format."""

    DELETE = 1
    RESTORE = 2
    MOVE = 3
    VISIBILITY = 4
    OTHER = 5
    """Kept as it came; nothing follows from it: a merge of histories, an import."""
    CONCEALMENT = 6
    """A visibility change of other log entries."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A line of an upstream log that names a page by the title of that moment, not by its id.

    It is kept as it came; ``archive.logbook`` turns it into an event once the page is known.
    """

    log_id: int
    action: LogAction
    title: str
    namespace: int
    to_title: str
    """Target of a move, else empty."""
    to_namespace: int
    rev_ids: tuple[int, ...]
    """Revisions of a visibility change, log entries of a concealment, else empty."""
    text_hidden: bool
    comment_hidden: bool
    contributor_hidden: bool
    contributor: Contributor
    comment: Comment


Happening = Edit | Move | Delete | Restore | Visibility | LogEntry


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened upstream, to one page (``page_id`` 0 for a ``LogEntry``)."""

    project: str
    page_id: int
    time: int
    """Valid time, microseconds since the epoch."""
    source_id: str
    """Makes the event idempotent within its project; empty where the revision id does."""
    what: Happening


def check_event(event: Event) -> None:
    """Refuse an event that breaks a rule of the model. Raises ``InvalidEventError`` naming the field.

    What passes can be sealed, stored and written as text: nothing is left to fail later.
    """
    what = event.what
    _check_name("project", event.project)
    if not MIN_INSTANT <= event.time <= MAX_INSTANT:
        raise invalid("time", f"{event.time} lies outside the years 1 to 9999")
    utf8_bytes("sourceId", event.source_id)
    check_contributor(what.contributor)
    check_comment(what.comment)
    if isinstance(what, LogEntry):
        if event.page_id:
            raise invalid("pageId", "a log entry names its page by title; its page id is 0")
    else:
        check_id("pageId", event.page_id)
    match what:
        case Edit():
            _check_edit(what)
        case Move():
            _check_title("fromTitle", what.from_title, what.from_namespace)
            _check_title("toTitle", what.to_title, what.to_namespace)
        case Delete() | Restore():
            _check_title("title", what.title, what.namespace)
        case Visibility():
            check_id("revId", what.rev_id)
        case LogEntry():
            _check_log_entry(what)


def check_contributor(who: Contributor) -> None:
    """Refuse a name or id of somebody who is not shown. Raises ``InvalidEventError``."""
    if who.presence is not Presence.PRESENT and (who.name or who.id is not None):
        raise invalid("contributor", "only a contributor who is present has a name or an id")
    if who.id is not None and not -MAX_ID - 1 <= who.id <= MAX_ID:
        raise invalid("contributor", f"{who.id} does not fit into 64 bits")
    utf8_bytes("contributor", who.name)


def check_comment(comment: Comment) -> None:
    """Refuse the text of a comment that is not shown. Raises ``InvalidEventError``."""
    if comment.text and comment.presence is not Presence.PRESENT:
        raise invalid("comment", "only a comment that is present has a text")
    utf8_bytes("comment", comment.text)


def check_id(field: str, value: int) -> None:
    """Refuse what is no page, revision or log id. Raises ``InvalidEventError``."""
    if not 1 <= value <= MAX_ID:
        raise invalid(field, f"{value} is not an id; ids run from 1 to 2^63-1")


def utf8_bytes(field: str, text: str) -> int:
    """Return the length in UTF-8. Raises ``InvalidEventError`` for a lone surrogate, which UTF-8 has not."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise invalid(field, "half of a surrogate pair is no character") from None


def invalid(field: str, message: str) -> InvalidEventError:
    """Return the error that names ``field``."""
    return InvalidEventError(f"{field}: {message}", field=field)


def _check_edit(edit: Edit) -> None:
    check_id("revId", edit.rev_id)
    if not 0 <= edit.parent_rev_id <= MAX_ID:
        raise invalid("parentRevId", f"{edit.parent_rev_id} is not a revision id")
    _check_title("title", edit.title, edit.namespace)
    if not 0 < len(edit.slots) <= MAX_SLOTS:
        raise invalid("slots", f"an edit has 1 to {MAX_SLOTS:,} slots, not {len(edit.slots):,}")
    for slot in edit.slots:
        _check_slot(slot)
    if len(edit.slots) > 1 and len({slot.role for slot in edit.slots}) != len(edit.slots):
        raise invalid("slots", f"a slot role occurs twice: {sorted(slot.role for slot in edit.slots)}")


def _check_slot(slot: SlotText) -> None:
    if not slot.role:
        raise invalid("slots", "each slot has a role")
    _check_slot_names(slot.role, slot.model, slot.format)
    if slot.claimed_sha1:
        _check_slot_name(slot.claimed_sha1)
    if slot.presence is Presence.ABSENT:
        raise invalid("slots", "a slot that there is not is left out")
    if slot.text and slot.presence is not Presence.PRESENT:
        raise invalid("slots", "only a slot that is present has a text")
    if slot.claimed_bytes is not None and not 0 <= slot.claimed_bytes <= MAX_ID:
        raise invalid("slots", f"{slot.claimed_bytes} is not a byte count")


@lru_cache(maxsize=1024)
def _check_slot_names(*names: str) -> None:
    for name in names:  # the same ones with nearly every revision
        _check_slot_name(name)


def _check_slot_name(name: str) -> None:
    if utf8_bytes("slots", name) > MAX_NAME_BYTES:
        raise invalid("slots", f"longer than {MAX_NAME_BYTES} bytes: {name[:80]!r}")


def _check_log_entry(entry: LogEntry) -> None:
    check_id("logId", entry.log_id)
    _check_title("title", entry.title, entry.namespace)
    if entry.to_title:
        _check_title("toTitle", entry.to_title, entry.to_namespace)
    _check_namespace(entry.to_namespace)
    for rev_id in entry.rev_ids:
        check_id("revIds", rev_id)


def _check_name(field: str, name: str) -> None:
    if not 0 < utf8_bytes(field, name) <= MAX_NAME_BYTES:
        raise invalid(field, f"it has 1 to {MAX_NAME_BYTES} bytes, not {name[:80]!r}")


def _check_title(field: str, title: str, namespace: int) -> None:
    if not 0 < utf8_bytes(field, title) <= MAX_TITLE_BYTES:
        raise invalid(field, f"a title has 1 to {MAX_TITLE_BYTES:,} bytes")
    if _CONTROL.search(title):
        raise invalid(field, f"a title has no control characters: {title!r}")
    _check_namespace(namespace)


def _check_namespace(namespace: int) -> None:
    if not -(2**31) <= namespace < 2**31:
        raise invalid("namespace", f"{namespace} does not fit into 32 bits")
