"""Which index rows an appended commit makes: a function of its log items and of the values sealed for them.

Ingest makes the rows of what it appends here, a rebuild those of the whole log, and a check compares them
with what is stored. Rows that say how texts lie come from the blocks themselves (``archive.texts``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from recension.archive.ledger import LEAVES, leaf_row
from recension.archive.projects import find_project, read_definition, tally_of
from recension.archive.rows import (
    Tally,
    edit_value,
    log_value,
    mark_value,
    page_value,
    visibility_value,
)
from recension.archive.sealed import Sealed
from recension.model.access import read_key
from recension.model.agreement import licensee_of, read_statement
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.event import Presence
from recension.model.licensee import read_licensee
from recension.model.mark import read_mark
from recension.model.pin import read_pin
from recension.model.record import KINDS, NO_SOURCE, Commit, Item, Kind, Skeleton, Statement
from recension.model.retraction import flags_of, read_acknowledgement, read_retraction
from recension.model.seal import (
    FIELDS,
    FROM_TITLE,
    TITLE,
    read_content,
    read_title,
)
from recension.store import keys
from recension.store.interface import Row, View

LABELS = {kind: FIELDS[what] for what, kind in KINDS.items()}
"""The sealed fields of each kind of event, in the order in which their commitments are sealed."""
NO_DEFINITION = (ValueError, LookupError, TypeError, AttributeError)
"""What reading a definition raises for bytes that are none."""
_PAGE_KINDS = frozenset({Kind.EDIT, Kind.MOVE, Kind.DELETE, Kind.RESTORE})
_SLICE = 4096


def titles_of(kind: Kind, sealed: Sealed) -> list[str]:
    """Return the titles that a stored event says its page has or had, without what was purged.

    Raises ``DataLossError`` for values that are none of its kind.
    """
    labels = LABELS[kind]
    if len(sealed.values) != len(labels):
        raise DataLossError(f"{len(sealed.values)} sealed values, not {len(labels)}")
    titles = [
        read_title(value)[1]
        for label, value in zip(labels, sealed.values, strict=True)
        if label in (TITLE, FROM_TITLE) and value is not None
    ]
    return titles if kind in _PAGE_KINDS else []


def event_rows(number: int, position: int, ordinal: int, event: Skeleton) -> list[Row]:
    """Return the rows that an event of project ``number`` makes by itself, but those of its titles."""
    page, time = event.page_id, event.time
    rows: list[Row]
    match event.kind:
        case Kind.EDIT:
            value = edit_value(
                event.flags, event.namespace, event.text_bytes, event.parent_rev_id, event.model
            )
            rows = [
                (keys.edit(number, page, time, event.rev_id, position, ordinal), value),
                (keys.revision(number, event.rev_id, position, ordinal), page_value(page, time)),
            ]
        case Kind.VISIBILITY:
            value = visibility_value(event.flags, page, event.rev_id, time)
            rows = [
                (keys.visibility(number, event.rev_id, position, ordinal), value),
                (keys.page_visibility(number, page, position, ordinal), value),
            ]
        case Kind.LOG_ENTRY:
            value = log_value(event.parent_rev_id, event.rev_id, event.flags)
            rows = [(keys.log_entry(number, time, position, ordinal), value)]
        case _:
            value = mark_value(event.kind, event.namespace, event.from_namespace)
            rows = [(keys.mark(number, page, time, position, ordinal), value)]
    if event.source != NO_SOURCE:
        rows.append((keys.source(number, event.source), position.to_bytes(8, "big")))
    return rows


def title_keys(number: int, page: int, titles: Iterable[str]) -> list[bytes]:
    """Return the keys that say which titles an event's page has had; their rows are empty."""
    return [keys.title(number, title, page) for title in titles]


def count(tally: Tally, event: Skeleton, *, new_revision: bool, new_page: bool) -> None:
    """Count an event in its project's tally."""
    if event.kind is Kind.LOG_ENTRY:
        tally.log_entries += 1  # it says nothing of the corpus yet, and widens no span of valid time
        return
    tally.see(event.time)
    if event.kind is Kind.EDIT:
        tally.revisions += new_revision
        tally.pages += new_page


def snapshot_rows(position: int, manifest: bytes) -> list[Row]:
    """Return the rows of a kept snapshot."""
    return [
        (keys.snapshot(sha256(manifest).digest()), position.to_bytes(8, "big")),
        (keys.snapshot_at(position), manifest),
    ]


def pin_rows(payload: bytes, position: int) -> list[Row]:
    """Return the rows of a pin's statement. Raises ``DataLossError`` for one that cannot be read."""
    try:
        pin = read_pin(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"the pin in commit {position} cannot be read: {error.message}") from None
    rows = [(keys.pin(pin.owner, pin.made_at, position), payload)]
    return [*rows, (keys.pin_name(pin.owner, pin.name, position), b"")] if pin.made_at == position else rows


def api_key_rows(payload: bytes, position: int) -> list[Row]:
    """Return the row of a statement of a key. Raises ``DataLossError`` for one that cannot be read."""
    try:
        return [(keys.api_key(read_key(payload).id, position), payload)]
    except InvalidArgumentError as error:
        raise DataLossError(f"the key in commit {position} cannot be read: {error.message}") from None


def licensee_rows(kind: Kind, payload: bytes, position: int) -> list[Row]:
    """Return the row of a statement about a licensee or its agreements.

    Raises ``DataLossError`` for one that cannot be read.
    """
    try:
        of_licensee = kind is Kind.LICENSEE
        name = read_licensee(payload).name if of_licensee else licensee_of(read_statement(payload))
    except InvalidArgumentError as error:
        raise DataLossError(
            f"the licensee or agreement in commit {position} cannot be read: {error.message}"
        ) from None
    return [(keys.licensee(name, position), payload)]


def retraction_rows(view: View, number: int, position: int, items: Sequence[Item]) -> list[Row]:
    """Return the rows that say what is withdrawn of each revision from a commit on; none unless it retracts.

    What retractions before it withdrew stays so; of one that takes a retraction back they say what is still
    hidden. By the rows that ``view`` has of the commits before. Raises ``DataLossError``.
    """
    found = [item for item in items if isinstance(item, Statement) and item.kind is Kind.RETRACTION]
    if not found:
        return []
    try:
        said = read_retraction(found[0].payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"the retraction in commit {position} cannot be read: {error.message}") from None
    rows = []
    for item in items:
        if isinstance(item, Skeleton) and item.kind is Kind.VISIBILITY:
            key = keys.withdrawn(number, item.rev_id, position)
            row = view.last(keys.withdrawn(number, item.rev_id), key)
            before = 0 if row is None else row[1][0]
            flags = before & item.flags if said.reverses else before | flags_of(said.parts)
            rows.append((key, bytes([flags])))
    return rows


def mark_rows(number: int, payload: bytes, position: int) -> list[Row]:
    """Return the row by which a mark is found. Raises ``DataLossError`` for one that cannot be read."""
    try:
        said = read_mark(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"the mark in commit {position} cannot be read: {error.message}") from None
    source = keys.source_key(said.source, said.file)
    return [(keys.source_mark(number, source, position, of_end=said.origin is not None), b"")]


def acknowledgement_rows(payload: bytes, position: int) -> list[Row]:
    """Return the row of a licensee's answer. Raises ``DataLossError`` for one that cannot be read."""
    try:
        said = read_acknowledgement(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"the answer in commit {position} cannot be read: {error.message}") from None
    return [(keys.acknowledgement(said.owner, said.pin_made_at, position), payload)]


def definition_rows(number: int, position: int, name: str, payload: bytes, *, new: bool) -> list[Row]:
    """Return the rows of a project's definition; ``new`` for its first."""
    rows = [(keys.definition(number, position), payload)]
    return [*rows, (keys.project_number(name), number.to_bytes(4, "big"))] if new else rows


def recorded_row(position: int, recorded_at: int) -> Row:
    """Return the row of a commit's time."""
    return keys.recorded(position), recorded_at.to_bytes(8, "big", signed=True)


def commit_rows(view: View, commit: Commit, titles: Sequence[Sequence[str]]) -> dict[bytes, bytes]:
    """Return all rows of a commit, by the rows that ``view`` has of the commits before it.

    ``titles`` are those of its events in their order (``titles_of``). Rows of this commit and of later ones
    may be there or not. Raises ``DataLossError`` when the project of its events is not known.
    """
    position = commit.position
    rows = dict([recorded_row(position, commit.recorded_at)])
    events: list[tuple[int, Skeleton]] = []
    marks: list[bytes] = []
    leaves = 0
    for ordinal, item in enumerate(commit.items):
        if isinstance(item, Skeleton):
            events.append((ordinal, item))
        elif item.kind is Kind.MARK:
            marks.append(item.payload)
        else:
            rows.update(statement_rows(view, position, item, leaves))
            leaves += item.kind in LEAVES
    if not events and not marks:
        return rows
    number = find_project(view, commit.project)
    if number is None:
        raise DataLossError(f"project {commit.project!r} of commit {position} has no number")
    for payload in marks:
        rows.update(mark_rows(number, payload, position))
    if not events:
        return rows
    _, tally = tally_of(view, number, position - 1)
    pages: set[int] = set()
    revisions: set[int] = set()
    for (ordinal, event), its in zip(events, titles, strict=True):
        rows.update(event_rows(number, position, ordinal, event))
        rows.update((key, b"") for key in title_keys(number, event.page_id, its))
        new_revision = new_page = False
        if event.kind is Kind.EDIT:
            rev, page = event.rev_id, event.page_id
            new_revision = rev not in revisions and not _revision_before(view, number, rev, position)
            new_page = page not in pages and not _page_before(view, number, page, position)
            revisions.add(rev)
            pages.add(page)
        count(tally, event, new_revision=new_revision, new_page=new_page)
    rows[keys.tally(number, position)] = tally.encode()
    rows.update(retraction_rows(view, number, position, commit.items))
    return rows


def statement_rows(view: View, position: int, statement: Statement, leaves: int = 0) -> list[Row]:
    """Return the rows of a statement but a mark, by those that ``view`` has of the commits before it.

    ``leaves`` is the number of statements of the same commit before it that are leaves of the checkpoint log.
    """
    payload = statement.payload
    match statement.kind:
        case Kind.SNAPSHOT:
            rows = snapshot_rows(position, payload)
        case Kind.PIN:
            rows = pin_rows(payload, position)
        case Kind.KEY:
            rows = [(keys.signing_key(position), payload)]
        case Kind.RETRACTION:
            rows = [(keys.retraction(position), payload)]
        case Kind.RECEIPT:
            rows = [(keys.receipt(position), payload)]
        case Kind.ACKNOWLEDGEMENT:
            rows = acknowledgement_rows(payload, position)
        case Kind.API_KEY:
            return api_key_rows(payload, position)
        case Kind.LICENSEE | Kind.AGREEMENT:
            return licensee_rows(statement.kind, payload, position)
        case _:
            return _project_rows(view, position, payload)
    return [*rows, leaf_row(view, position, leaves, payload)]


def _project_rows(view: View, position: int, payload: bytes) -> list[Row]:
    try:
        name = read_definition(payload).name
    except NO_DEFINITION:
        raise DataLossError(f"the definition in commit {position} cannot be read") from None
    number = find_project(view, name)
    if number is not None and _defined_before(view, number, position):
        return definition_rows(number, position, name, payload, new=False)
    number = 1
    while _defined_before(view, number, position):
        number += 1
    return definition_rows(number, position, name, payload, new=True)


def _defined_before(view: View, number: int, position: int) -> bool:
    return bool(view.scan(keys.definition(number, 0), keys.definition(number, position), limit=1))


def _revision_before(view: View, number: int, rev: int, position: int) -> bool:
    return bool(view.scan(keys.revision(number, rev), keys.revision(number, rev, position), limit=1))


def _page_before(view: View, number: int, page: int, position: int) -> bool:
    """Say whether a page has an edit of an earlier commit: mostly its first or its last in time is one."""
    start, stop = keys.edits_from(number, page), keys.edits_from(number, page + 1)
    last = view.last(start, stop)
    if last is not None and keys.read_edit(last[0])[3] < position:
        return True
    limit = 1
    while rows := view.scan(start, stop, limit=limit):
        if any(keys.read_edit(key)[3] < position for key, _ in rows):
            return True
        if len(rows) < limit:
            return False
        start, limit = rows[-1][0] + b"\0", _SLICE
    return False


# --- texts that more than one page holds ----------------------------------------------------------

Holding = tuple[bytes, tuple[int, int]]
"""(digest, (project number, page))."""


def held_texts(number: int, page: int, content: bytes | None) -> list[Holding]:
    """Return which texts an edit's content names, in the order of their roles; none if it was purged."""
    if content is None:
        return []
    return [
        (slot.digest, (number, page)) for slot in read_content(content) if slot.presence is Presence.PRESENT
    ]


def holder_keys(held: Iterable[Holding], knows: Callable[[bytes], bool]) -> list[bytes]:
    """Return the keys that say which pages have a text beside the page that it lies with.

    ``held`` are the texts of a commit's edits in their order; ``knows`` says what was stored before it.
    """
    first: dict[bytes, tuple[int, int]] = {}
    out = []
    for digest, page in held:
        if digest not in first:
            first[digest] = page
            if knows(digest):
                out.append(keys.text_holder(digest, *page))
        elif first[digest] != page:
            out.append(keys.text_holder(digest, *page))
    return out
