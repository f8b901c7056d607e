"""What happened upstream: the events of DESIGN section 1 as values.

Instants are integers: microseconds since 1970-01-01T00:00:00Z, negative before it (``model.instant``).
Hidden, lost and empty are three different things everywhere (DESIGN 2, rule 5): see ``Presence``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from recension.model.errors import InvalidEventError

MAX_ID = 2**63 - 1
"""Largest page, revision and parent id: ids are 64-bit and non-negative on the wire."""

MAX_TITLE_BYTES = 10_000
"""MediaWiki allows 255 bytes plus the namespace prefix; other sources write more. A bound, not a rule."""


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
    """Revisions of a visibility change, else empty."""
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
    """Refuse an event that breaks a rule of the model. Raises ``InvalidEventError`` naming the field."""
    if isinstance(event.what, LogEntry):
        _check_id("logId", event.what.log_id)
    else:
        _check_id("pageId", event.page_id)
    match event.what:
        case Edit() as edit:
            _check_id("revId", edit.rev_id)
            if not 0 <= edit.parent_rev_id <= MAX_ID:
                raise _bad("parentRevId", f"{edit.parent_rev_id} is not a revision id")
            _check_title("title", edit.title)
            roles = [slot.role for slot in edit.slots]
            if len(set(roles)) != len(roles):
                raise _bad("slots", f"a slot role occurs twice: {sorted(roles)}")
            if not roles or not all(roles):
                raise _bad("slots", "an edit has at least one slot and each slot has a role")
        case Move() as move:
            _check_title("fromTitle", move.from_title)
            _check_title("toTitle", move.to_title)
        case Delete() | Restore():
            _check_title("title", event.what.title)
        case Visibility() as visibility:
            _check_id("revId", visibility.rev_id)
        case LogEntry():
            pass


def _check_id(field: str, value: int) -> None:
    if not 1 <= value <= MAX_ID:
        raise _bad(field, f"{value} is not an id; ids run from 1 to 2^63-1")


def _check_title(field: str, title: str) -> None:
    if not title:
        raise _bad(field, "a title is not empty")
    if len(title.encode()) > MAX_TITLE_BYTES:
        raise _bad(field, f"a title has at most {MAX_TITLE_BYTES:,} bytes")
    if any(char < " " or char == "\x7f" for char in title):
        raise _bad(field, f"a title has no control characters: {title!r}")


def _bad(field: str, message: str) -> InvalidEventError:
    return InvalidEventError(f"{field}: {message}", field=field)
