"""Documents of Wikimedia's EventStreams: one JSON object each, of what happened to one page.

Read are ``mediawiki.page_change.v1`` (schema ``/mediawiki/page/change``, which has all of it) and its
elders: ``/mediawiki/revision/create`` (the streams revision-create and page-create),
``/mediawiki/page/delete``, ``/mediawiki/page/undelete``, ``/mediawiki/page/move``, and
``/mediawiki/revision/visibility-change``, the only one that tells when an old revision is hidden. Any
version: fields that are not known here are passed over.

A document has no text (that of ``page_content_change`` has one in ``content_body``): a ``Change`` says which
texts its revision has, and ``edit_of`` makes the event once they were fetched.

- A move's ``created_redirect_page`` is passed over: that page has a document of its own.
- A delete that was suppressed names nobody, and all of its revision is hidden: so are the page's others.
- Of listed pages upstream does not say who did something; that hides nobody (phabricator T354456).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    MAX_ID,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.sources.items import MAX_EVENT_BYTES, MAX_SLOTS, BadRecordError, checked
from recension.sources.json_fields import Fields
from recension.sources.titles import plain_title

CANARY = "canary"
"""``meta.domain`` of documents that upstream sends to itself, to see that a stream is alive."""

OTHER_PROJECTS = "other projects"
"""What is passed over because nobody asked for it."""

_SCHEMA = re.compile(r"/?(mediawiki/[a-z_/-]+?)/v?[0-9][0-9A-Za-z.]*")
_STREAM = re.compile(r"(?:(?:eqiad|codfw)\.)?(mediawiki\.[a-z_-]+)(?:\.v[0-9]+)?")
_BY_STREAM = {
    "mediawiki.page_change": "mediawiki/page/change",
    "mediawiki.page_content_change": "mediawiki/page/change",
    "mediawiki.page-create": "mediawiki/revision/create",
    "mediawiki.revision-create": "mediawiki/revision/create",
    "mediawiki.page-delete": "mediawiki/page/delete",
    "mediawiki.page-undelete": "mediawiki/page/undelete",
    "mediawiki.page-move": "mediawiki/page/move",
    "mediawiki.revision-visibility-change": "mediawiki/revision/visibility-change",
}
_MAX_KIND_CHARS = 80
_PARTS = ("content", "editor", "comment")
_MOMENT = 1
"""Microsecond: what is deleted within a second of its last edit is deleted after it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a document says of one text."""

    role: str
    model: str
    format: str
    sha1: str
    """Base 36; empty where it is not said."""
    size: int | None
    """In bytes; ``None`` where it is not said."""
    text: bytes | None = None
    """``None`` where it has to be fetched."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision as a document shows it."""

    rev_id: int
    parent_rev_id: int
    time: int
    contributor: Contributor
    comment: Comment
    minor: bool
    slots: tuple[Slot, ...]
    """Sorted by role; at least ``main``, of which nothing may be known."""
    text_hidden: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What one document says. It has a revision, something else that happened, or both."""

    project: str
    page_id: int
    title: str
    """Of the page since then, with spaces."""
    namespace: int
    time: int
    """When it happened, microseconds since the epoch."""
    seen_at: int
    """When upstream told of it, microseconds since the epoch; ``time`` where that is not said."""
    source_id: str
    """Names the document within its project."""
    revision: Revision | None = None
    """The page's newest one then; ``None`` where the document has too little of it."""
    happened: Move | Delete | Restore | Visibility | None = None
    """Beside the edit; ``None`` when there is nothing beside it."""
    suppresses: bool = False
    """All revisions of the page are hidden with it."""

    @property
    def rev_id(self) -> int:
        """Of the revision that the change is about; 0 when there is none."""
        if isinstance(self.happened, Visibility):
            return self.happened.rev_id
        return 0 if self.revision is None else self.revision.rev_id


class Shown(NamedTuple):
    """What upstream shows of a revision when it is asked."""

    texts: Mapping[str, bytes | None]
    """By slot role; ``None`` for a text that upstream has and does not show."""
    contributor_hidden: bool = False
    comment_hidden: bool = False


class Complete(NamedTuple):
    """A change with all that was to be fetched for it."""

    change: Change
    edit: Event | None
    """Of its revision; ``None`` where that is known, or not wanted."""
    hides: Visibility | None = None
    """What upstream hid of the revision since its document: it is not served until that is told too."""
    record: bytes = b""
    """The document as it came."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A document that says nothing of a page's history, or of a project that nobody asked for."""

    what: str
    """For a count."""


def read_document(value: object, projects: Iterable[str] | None = None) -> Change | Passed:
    """Read one document; of ``projects`` alone, where they are given. Raises ``BadRecordError``."""
    document = Fields(value, "document")
    meta = document.part("meta")
    if meta.text("domain") == CANARY:
        return Passed("canary")
    schema = _schema_of(document, meta)
    reader = _READERS.get(schema)
    if reader is None:
        return Passed(f"document of {schema[:_MAX_KIND_CHARS]}")
    project = document.text("wiki_id") or document.text("database")
    if not project:
        raise BadRecordError("INVALID_FIELD", "wiki_id: there is none")
    if projects is not None and project not in projects:
        return Passed(OTHER_PROJECTS)
    change = reader(_Head(document, meta, project))
    _check(change)
    return change


def edit_of(change: Change, texts: Mapping[str, bytes | None]) -> Event:
    """Return the event of a change's revision, with the texts that its document does not have.

    ``texts``: by slot role; ``None`` for one that upstream holds and does not show. Raises
    ``BadRecordError`` (``INVALID_EVENT``, ``TEXT_TOO_LARGE``); ``KeyError`` for a text that is missing.
    """
    revision = change.revision
    assert revision is not None  # noqa: S101 - the caller asked
    slots = []
    for slot in revision.slots:
        text = None if revision.text_hidden else slot.text if slot.text is not None else texts[slot.role]
        presence = Presence.HIDDEN if text is None else Presence.PRESENT
        # Of a hidden text the stated digest is not kept: it would confirm who guesses the text.
        sha1 = "" if text is None else slot.sha1
        size = None if text is None else slot.size
        slots.append(SlotText(slot.role, slot.model, slot.format, presence, text or b"", sha1, size))
    edit = Edit(
        revision.rev_id,
        revision.parent_rev_id,
        change.title,
        change.namespace,
        title_inferred=revision.time < change.time,
        contributor=revision.contributor,
        comment=revision.comment,
        minor=revision.minor,
        slots=tuple(slots),
    )
    return checked(Event(change.project, change.page_id, revision.time, "", edit))


def hidden_since(change: Change, shown: Shown) -> Visibility | None:
    """Return what is hidden of a change's revision by now, ``None`` where that is no more than it says."""
    revision = change.revision
    if revision is None:
        return None
    of_comment = revision.comment.presence is Presence.HIDDEN
    of_contributor = revision.contributor.presence is Presence.HIDDEN
    if shown.comment_hidden <= of_comment and shown.contributor_hidden <= of_contributor:
        return None  # a text that is hidden is so by its own presence
    return Visibility(
        revision.rev_id,
        text_hidden=revision.text_hidden or None in shown.texts.values(),
        comment_hidden=of_comment or shown.comment_hidden,
        contributor_hidden=of_contributor or shown.contributor_hidden,
    )


def absent_texts(change: Change) -> list[str]:
    """Return the slots whose texts have to be fetched: those that are shown and that the document lacks."""
    revision = change.revision
    if revision is None or revision.text_hidden:
        return []
    return [slot.role for slot in revision.slots if slot.text is None]


def happened_event(change: Change) -> Event:
    """Return the event of what a change says beside its revision. Raises ``BadRecordError``."""
    assert change.happened is not None  # noqa: S101 - the caller asked
    return checked(Event(change.project, change.page_id, change.time, change.source_id, change.happened))


def _schema_of(document: Fields, meta: Fields) -> str:
    """Return the name of a document's schema without its version; of what has none, that of its stream."""
    for stated in (document.text("$schema"), meta.text("schema_uri")):
        if found := _SCHEMA.fullmatch(stated):
            return found[1]
    for stated in (meta.text("stream"), meta.text("topic")):
        if found := _STREAM.fullmatch(stated):
            return _BY_STREAM.get(found[1], found[1])
    if other := document.text("$schema") or meta.text("stream"):
        return other
    raise BadRecordError("UNKNOWN_SCHEMA", "it names neither its schema nor its stream")


class _Head:
    """What all documents have."""

    def __init__(self, document: Fields, meta: Fields, project: str) -> None:
        self.document = document
        self.project = project
        self.seen_at = meta.time("dt")
        self.id = meta.text("id")

    def time(self) -> int:
        """When it happened; of documents that do not say, when upstream told of it."""
        return self.document.time("dt") if "dt" in self.document else self.seen_at

    def source_id(self, what: str, page_id: int, time: int) -> str:
        """Name the document by its id; old ones without by what they say."""
        return f"eventstreams:{self.id or f'{what}:{page_id}:{time}'}"

    def comment(self) -> Comment:
        return Comment.of(self.document.text("comment"))


# --- page_change ------------------------------------------------------------------------------------


def _page_change(head: _Head) -> Change:
    document = head.document
    page, stated = document.part("page"), document.part("revision")
    kind = document.text("page_change_kind")
    page_id = page.number("page_id")
    title, namespace = _title(page), _namespace(page)
    time, who = head.time(), _user(document.part("performer"))
    # Beside what happened a revision may be told in part; what makes one may not. A restore shows what was
    # suppressed only if it says so.
    whole = "rev_dt" in stated and (kind != "undelete" or _says_what_is_seen(stated))
    revision = _revision(stated) if whole or kind in ("create", "edit") else None
    happened: Move | Delete | Restore | Visibility | None = None
    suppresses = False
    match kind:
        case "create" | "edit":
            pass
        case "move":
            prior = document.part("prior_state").part("page")
            before = _title(prior) if "page_title" in prior else title
            number = _namespace(prior) if "namespace_id" in prior else namespace
            happened = Move(before, number, title, namespace, who, head.comment())
        case "delete":
            suppresses = "performer" not in document and all(_hidden(stated, what) for what in _PARTS)
            if suppresses:
                happened = Delete(title, namespace, HIDDEN_CONTRIBUTOR, HIDDEN_COMMENT)
            else:
                happened = Delete(title, namespace, who, head.comment())
            time = time if revision is None else max(time, revision.time + _MOMENT)
        case "undelete":
            happened = Restore(title, namespace, who, head.comment())
        case "visibility_change":
            happened = _seen(stated.number("rev_id"), stated, who, head.comment())
        case _:
            raise BadRecordError("UNKNOWN_KIND", f"page_change_kind: {kind[:_MAX_KIND_CHARS]!r}")
    return Change(
        head.project, page_id, title, namespace,
        time if happened is not None or revision is None else revision.time,
        head.seen_at, head.source_id(kind, page_id, time), revision, happened, suppresses,
    )  # fmt: skip


def _revision(stated: Fields) -> Revision:
    hidden = {what: _hidden(stated, what) for what in _PARTS}
    editor = HIDDEN_CONTRIBUTOR if hidden["editor"] else _user(stated.part("editor"))
    comment = HIDDEN_COMMENT if hidden["comment"] else Comment.of(stated.text("comment"))
    return Revision(
        stated.number("rev_id"),
        stated.number("rev_parent_id"),
        stated.time("rev_dt"),
        editor,
        comment,
        stated.flag("is_minor_edit"),
        _slots(stated),
        hidden["content"],
    )


def _hidden(stated: Fields, what: str) -> bool:
    """Say whether a part of a revision is hidden; it is not where nothing is said."""
    name = f"is_{what}_visible"
    return name in stated and not stated.flag(name)


def _says_what_is_seen(stated: Fields) -> bool:
    return all(f"is_{what}_visible" in stated for what in _PARTS)


def _seen(rev_id: int, stated: Fields, who: Contributor, comment: Comment) -> Visibility:
    if not _says_what_is_seen(stated):
        raise BadRecordError("INVALID_FIELD", "revision: it does not say what is visible")
    return Visibility(
        rev_id,
        text_hidden=_hidden(stated, "content"),
        comment_hidden=_hidden(stated, "comment"),
        contributor_hidden=_hidden(stated, "editor"),
        contributor=who,
        comment=comment,
    )


def _slots(stated: Fields) -> tuple[Slot, ...]:
    slots = []
    for role, said in stated.part("content_slots").parts():
        body = said.text("content_body").encode() if "content_body" in said else None
        slots.append(
            Slot(
                role,
                said.text("content_model"),
                said.text("content_format"),
                said.text("content_sha1"),
                said.number("content_size") if "content_size" in said else None,
                body,
            )
        )
    return tuple(sorted(slots, key=lambda slot: slot.role)) or (
        Slot("main", "", "", stated.text("rev_sha1"), None),
    )


def _user(said: Fields) -> Contributor:
    name = said.text("user_text")
    if not name:
        return NOBODY
    return Contributor.named(name, said.number("user_id") or None)


def _title(page: Fields) -> str:
    title = plain_title(page.text("page_title"))
    if not title:
        raise BadRecordError("INVALID_FIELD", "page_title: there is none")
    return title


def _namespace(page: Fields) -> int:
    return page.number("namespace_id" if "namespace_id" in page else "page_namespace")


# --- its elders -------------------------------------------------------------------------------------


def _revision_create(head: _Head) -> Change:
    document = head.document
    page_id, title, namespace = document.number("page_id"), _title(document), _namespace(document)
    slots = [
        Slot(
            role,
            said.text("rev_slot_content_model"),
            document.text("rev_content_format") if role == "main" else "",
            said.text("rev_slot_sha1"),
            said.number("rev_slot_size") if "rev_slot_size" in said else None,
        )
        for role, said in document.part("rev_slots").parts()
    ] or [
        Slot(
            "main",
            document.text("rev_content_model"),
            document.text("rev_content_format"),
            document.text("rev_sha1"),
            document.number("rev_len") if "rev_len" in document else None,
        )
    ]
    revision = Revision(
        document.number("rev_id"),
        document.number("rev_parent_id"),
        document.time("rev_timestamp"),
        _user(document.part("performer")),
        head.comment(),
        document.flag("rev_minor_edit"),
        tuple(sorted(slots, key=lambda slot: slot.role)),
        text_hidden=False,
    )
    source_id = head.source_id("edit", page_id, revision.time)
    return Change(
        head.project, page_id, title, namespace, revision.time, head.seen_at, source_id, revision
    )  # fmt: skip


def _page_mark(head: _Head, happened: Move | Delete | Restore | Visibility, what: str) -> Change:
    document = head.document
    page_id, time = document.number("page_id"), head.time()
    return Change(
        head.project, page_id, _title(document), _namespace(document), time, head.seen_at,
        head.source_id(what, page_id, time), happened=happened,
    )  # fmt: skip


def _page_delete(head: _Head) -> Change:
    document = head.document
    what = Delete(_title(document), _namespace(document), _user(document.part("performer")), head.comment())
    return _page_mark(head, what, "delete")


def _page_undelete(head: _Head) -> Change:
    document = head.document
    what = Restore(_title(document), _namespace(document), _user(document.part("performer")), head.comment())
    return _page_mark(head, what, "undelete")


def _page_move(head: _Head) -> Change:
    document = head.document
    prior = document.part("prior_state")
    title, namespace = _title(document), _namespace(document)
    before = _title(prior) if "page_title" in prior else title
    number = _namespace(prior) if "page_namespace" in prior else namespace
    what = Move(before, number, title, namespace, _user(document.part("performer")), head.comment())
    return _page_mark(head, what, "move")


def _visibility_change(head: _Head) -> Change:
    document = head.document
    if "visibility" not in document:
        raise BadRecordError("INVALID_FIELD", "visibility: there is none")
    seen = document.part("visibility")
    rev_id = document.number("rev_id")
    what = Visibility(
        rev_id,
        text_hidden=not seen.flag("text"),
        comment_hidden=not seen.flag("comment"),
        contributor_hidden=not seen.flag("user"),
        contributor=_user(document.part("performer")),
        comment=NO_COMMENT,  # what stands there is the revision's own, which may be what is hidden
    )
    return _page_mark(head, what, f"visibility:{rev_id}")


_READERS = {
    "mediawiki/page/change": _page_change,
    "mediawiki/revision/create": _revision_create,
    "mediawiki/page/delete": _page_delete,
    "mediawiki/page/undelete": _page_undelete,
    "mediawiki/page/move": _page_move,
    "mediawiki/revision/visibility-change": _visibility_change,
}


def _check(change: Change) -> None:
    """Refuse what would not keep the rules of the model once its texts are there."""
    if change.happened is not None:
        happened_event(change)
    revision = change.revision
    if revision is None:
        return
    if not 0 < revision.rev_id <= MAX_ID:
        raise BadRecordError("INVALID_FIELD", "rev_id: there is none")
    if len(revision.slots) > MAX_SLOTS:
        raise BadRecordError("INVALID_EVENT", f"slots: more than {MAX_SLOTS}")
    if any((slot.size or 0) > MAX_EVENT_BYTES for slot in revision.slots):
        raise BadRecordError("TEXT_TOO_LARGE", f"the text is longer than {MAX_EVENT_BYTES:,} bytes")
    edit_of(change, {slot.role: b"" for slot in revision.slots})
