"""What a parser yields: events, and what else it has to say about its input.

Everything here is a plain value, so that it can cross a process boundary (``archive.intake.frames``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from recension.model.errors import InvalidEventError
from recension.model.event import (
    MAX_ID,
    NOBODY,
    Contributor,
    Edit,
    Event,
    Happening,
    LogEntry,
    Move,
    Visibility,
    check_event,
)

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest text of one event, all slots together, and largest NDJSON line, in bytes.

MediaWiki refuses pages above 2 MiB (``$wgMaxArticleSize``), Wikibase items above about 4 MiB; more than
16 MiB is abuse, or a file that is not what it says it is.
"""

MAX_BARREN_BYTES = 1024 * 1024 * 1024
"""Most decoded bytes that a parser reads without finding the end of a record.

A ratio of decoded to compressed bytes tells nothing (bz2 reaches a million to one on honest input), and
a dump may be terabytes long; but a gibibyte without one record is a bomb.
"""

MAX_EXCERPT_BYTES = 4096
"""How much of a bad record is kept with it."""

MAX_COMMENT_BYTES = 64 * 1024
"""Largest comment; MediaWiki cuts at 500 characters, git messages are longer."""

MAX_NAME_BYTES = 1024
"""Largest name of a contributor, role, content model or format, source id or stated digest."""

MAX_SLOTS = 64
MAX_LOG_REVISIONS = 50_000
"""Revisions that one log entry hides; MediaWiki's own form takes a few hundred at once."""

_MAX_MESSAGE_CHARS = 300
_MAX_NAMESPACE = 2**31 - 1
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Rejected:
    """One record that could not be read; the input goes on behind it."""

    position: str
    """Where it is, for a person: line and byte."""
    reason: str
    """Stable, ``UPPER_SNAKE``."""
    message: str
    excerpt: bytes
    """The first bytes of the record as it came, at most ``MAX_EXCERPT_BYTES``."""
    record: bytes = b""
    """All of it, where nobody gives it again: of a stream."""

    def __post_init__(self) -> None:
        """Refuse a reason that is not ``UPPER_SNAKE`` and an excerpt that is too long."""
        if not _REASON.fullmatch(self.reason):
            raise ValueError(f"not a reason: {self.reason!r}")
        if len(self.excerpt) > MAX_EXCERPT_BYTES:
            raise ValueError(f"an excerpt has at most {MAX_EXCERPT_BYTES} bytes, not {len(self.excerpt)}")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A source saw a page under a name, or saw that none of that name is left (``archive.sightings``).

    What follows depends on what is known of the page: nothing, a move, a delete, a restore.
    """

    page_id: int
    """0 when the source does not say; only of one that is gone."""
    rev_id: int
    """The page's newest revision then; 0 when the source does not say."""
    title: str
    namespace: int
    time: int
    """When it was seen, microseconds since the epoch."""
    source_id: str
    """Names the sighting within its project."""
    gone: bool
    contributor: Contributor = NOBODY
    """Who did it, where that is said."""
    edited_at: int = 0
    """When that revision was saved, where ``license`` is said."""
    license: str = ""
    """What the source says of its licence, an SPDX id; empty where it says nothing."""


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """The head of a dump. Old and third-party dumps leave fields empty."""

    dbname: str = ""
    sitename: str = ""
    base: str = ""
    """URL of the main page."""
    case: str = ""
    """``first-letter`` or ``case-sensitive``."""
    namespaces: Mapping[int, str] = field(default_factory=dict)
    """Localised name by number; the main namespace's name is empty."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was passed over on purpose, counted by name; the last item of its input, or of a run of it.

    ``<name>`` is an element of XML that no dump of MediaWiki has or that is no history; what is around it was
    read. Other names are kinds of records.
    """

    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """A run of a history ends here (``runs``), and another follows."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Position in the input file as it is stored (compressed), in bytes."""

    done: int
    total: int


Item = Event | SiteInfo | Rejected | Sighting | Skipped | RunEnd


class ByteSource(Protocol):
    """What a parser reads from: an open container, or a file."""

    def read(self, size: int, /) -> bytes:
        """Return at least one byte and at most ``size``, or nothing at the end."""


MAX_NAMES = 100
"""Kinds of what was passed over that are counted by name: upstream gives the names."""
OTHERS = "others"


def count_by_name(counts: Counter[str], more: Mapping[str, int]) -> None:
    """Add counts; under names beyond the first ``MAX_NAMES``, to those of ``OTHERS``."""
    for name, number in more.items():
        counts[name if name in counts or len(counts) < MAX_NAMES else OTHERS] += number


def printable_utf8(text: str) -> str:
    """Spell out what UTF-8 cannot hold: lone surrogates, of a path's bytes or of a bad record."""
    return text.encode("utf-8", "backslashreplace").decode()


class BadRecordError(Exception):
    """A record is not usable. Parsers raise it inside; outside it is a ``Rejected``."""

    def __init__(self, reason: str, message: str) -> None:
        """``reason`` as in ``Rejected``."""
        self.message = printable_utf8(message[:_MAX_MESSAGE_CHARS])
        super().__init__(self.message)
        self.reason = reason


def checked(event: Event) -> Event:
    """Return ``event`` if it keeps the rules of the model and the bounds of its numbers.

    Raises ``BadRecordError`` with reason ``INVALID_EVENT``.
    """
    try:
        check_event(event)
    except InvalidEventError as error:
        raise BadRecordError("INVALID_EVENT", error.message) from None
    what = event.what
    _check_numbers(what)
    _check_sizes("comment", MAX_COMMENT_BYTES, what.comment.text)
    _check_sizes("contributor or sourceId", MAX_NAME_BYTES, what.contributor.name, event.source_id)
    if isinstance(what, Edit):
        _check_slots(what)
    elif isinstance(what, LogEntry) and len(what.rev_ids) > MAX_LOG_REVISIONS:
        raise BadRecordError("INVALID_EVENT", f"revIds: more than {MAX_LOG_REVISIONS:,}")
    return event


def _check_slots(edit: Edit) -> None:
    if len(edit.slots) > MAX_SLOTS:
        raise BadRecordError("INVALID_EVENT", f"slots: more than {MAX_SLOTS}")
    for slot in edit.slots:
        _check_sizes("slots", MAX_NAME_BYTES, slot.role, slot.model, slot.format, slot.claimed_sha1)
    if sum(len(slot.text) for slot in edit.slots) > MAX_EVENT_BYTES:
        raise BadRecordError("TEXT_TOO_LARGE", f"the text is longer than {MAX_EVENT_BYTES:,} bytes")


def _check_sizes(field: str, limit: int, *texts: str) -> None:
    for text in texts:
        # Four bytes a character at most: nearly every text is seen to be small without encoding it.
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise BadRecordError("INVALID_EVENT", f"{field}: longer than {limit:,} bytes")


def _check_numbers(what: Happening) -> None:
    user = what.contributor.id
    if user is not None and not 0 <= user <= MAX_ID:
        raise BadRecordError("INVALID_EVENT", f"contributor: {user} is not a user id")
    for namespace in _namespaces(what):
        if not -_MAX_NAMESPACE <= namespace <= _MAX_NAMESPACE:
            raise BadRecordError("INVALID_EVENT", f"namespace: {namespace} is not a namespace number")


def _namespaces(what: Happening) -> tuple[int, ...]:
    match what:
        case Move():
            return what.from_namespace, what.to_namespace
        case LogEntry():
            return what.namespace, what.to_namespace
        case Visibility():
            return ()
        case _:
            return (what.namespace,)
