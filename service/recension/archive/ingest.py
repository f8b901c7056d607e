"""Events in: check, seal, compute the whole commit, append it once (DESIGN sections 3, 4 and 8).

A batch is computed against the head that was read, then appended on top of exactly that head; when another
writer was first, it is computed anew. What is already known changes nothing, so a batch, a file or a killed
run can be sent again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recension.archive import columns
from recension.archive.claims import Verdict, check_claims, is_redirect
from recension.archive.clock import Clock, Salts, random_salts, system_clock
from recension.archive.history import text_times
from recension.archive.projects import (
    Definition,
    check_definition,
    definition_of,
    find_project,
    project_names,
    project_number,
    tally_of,
)
from recension.archive.replay import (
    KINDS,
    Facts,
    Holding,
    count,
    definition_rows,
    event_rows,
    holder_keys,
    recorded_row,
    title_keys,
)
from recension.archive.rows import (
    HIDDEN,
    Tally,
    read_edit_value,
    read_log_value,
    read_mark_row,
    read_page_value,
    read_visibility,
)
from recension.archive.sealed import CONTENT_FIELD, Sealed, find_sealed, sealed_blobs
from recension.archive.texts.reading import knows_text, next_text_id
from recension.archive.texts.sealing import Sealer
from recension.archive.texts.sorting import sort_pages
from recension.archive.texts.writing import NewText, TextWriter
from recension.model.digest import digest_of
from recension.model.errors import (
    InvalidEventError,
    PageNotFoundError,
    ProjectExistsError,
    RecensionError,
    RevisionConflictError,
    RevisionNotFoundError,
    StoreFailedError,
)
from recension.model.event import (
    Delete,
    Edit,
    Event,
    LogEntry,
    Move,
    Presence,
    Restore,
    Visibility,
    check_event,
)
from recension.model.reading import ProjectInfo
from recension.model.record import (
    Commit,
    Flag,
    Head,
    Item,
    Kind,
    Skeleton,
    Statement,
    commit_hash,
    encode_commit,
    source_key,
)
from recension.model.seal import (
    FIELDS,
    SlotState,
    comment_value,
    commit_field,
    content_value,
    contributor_value,
    log_entry_value,
    read_content,
    seal,
    title_value,
)
from recension.store import keys
from recension.store.interface import Outcome, Row, Store, View

_RACES = 100
"""A batch that loses this many races in a row is given up; each race lost is another writer's commit."""

_ORDINALS = b"\xff" * 4
"""Ends the keys of all events of a commit: the ordinal is their last four bytes."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch; everything accepted is durable."""

    position: int
    """Of the commit; of the head when nothing was new."""
    recorded_at: int
    accepted: int
    known: int
    rejected: tuple[tuple[int, RecensionError], ...]
    """(index in the batch, reason)."""
    claims: Mapping[str, int]
    """Counts of SHA-1 verdicts of accepted edits, and ``bytes_mismatch``."""


@dataclass(slots=True)
class _Seen:
    """A revision of the same batch."""

    page: int
    time: int
    slots: list[SlotState] | None
    """``None`` once they were erased."""
    flags: int
    """What is hidden of it now among them."""
    stated: int
    """What its own source hid."""


@dataclass(slots=True)
class _Draft:
    """A commit while it is computed."""

    view: View
    number: int
    position: int
    tally: Tally
    items: list[Item] = field(default_factory=list)
    index: dict[bytes, bytes] = field(default_factory=dict)
    blobs: list[Row] = field(default_factory=list)
    sealed: list[Sealed] = field(default_factory=list)
    texts: dict[bytes, NewText] = field(default_factory=dict)
    held: list[Holding] = field(default_factory=list)
    revisions: dict[int, _Seen] = field(default_factory=dict)
    pages: set[int] = field(default_factory=set)
    titles: set[bytes] = field(default_factory=set)
    claims: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    known: int = 0


class Ingestor:
    """The writing side of an archive. One thread at a time."""

    def __init__(self, store: Store, *, clock: Clock = system_clock, salts: Salts = random_salts) -> None:
        """Write into ``store``; the clock and the salts are injected for tests alone."""
        self._store = store
        self._clock = clock
        self._salts = salts
        self._texts = TextWriter()
        self._sealer = Sealer(store, self._texts)

    # --- projects -------------------------------------------------------------------------------

    def create_project(self, definition: ProjectInfo) -> bool:
        """Create a project; False if it exists with the same definition. Raises ``ProjectExistsError``."""
        wanted = check_definition(definition)
        for _ in range(_RACES):
            head = self._store.log.head()
            with self._store.view() as view:
                number = find_project(view, wanted.name)
                if number is not None:
                    current = definition_of(view, number)
                    if replace(current, case=wanted.case, namespaces={}) != wanted:
                        raise ProjectExistsError(
                            f"project {wanted.name!r} exists with another definition",
                            hint="choose another name, or use the existing project",
                            project=wanted.name,
                        )
                    return False
                last = view.scan(b"P", b"Q")
            if self._state(head, wanted, len(last) + 1, new=True):
                return True
        raise _lost_races()

    def learn_site(self, project: str, namespaces: Mapping[int, str], case: str) -> None:
        """Record the namespace names and title case that a dump states; nothing if they are known."""
        for _ in range(_RACES):
            head = self._store.log.head()
            with self._store.view() as view:
                number = project_number(view, project)
                current = definition_of(view, number)
            wanted = replace(
                current, case=case or current.case, namespaces={**current.namespaces, **namespaces}
            )
            if wanted == current or self._state(head, wanted, number, new=False):
                return
        raise _lost_races()

    def namespaces(self, project: str) -> dict[str, int]:
        """Return the known namespace prefixes and their numbers."""
        with self._store.view() as view:
            known = definition_of(view, project_number(view, project)).namespaces
        return {name: number for number, name in known.items() if name}

    def _state(self, head: Head, definition: Definition, number: int, *, new: bool) -> bool:
        name, payload = definition.name, definition.encode()
        rows = dict(definition_rows(number, head.position + 1, name, payload, new=new))
        items: list[Item] = [Statement(Kind.PROJECT, payload)]
        return append_commit(self._store, head, self._clock, name, items, rows, []) is not None

    # --- events ---------------------------------------------------------------------------------

    def append(self, project: str, events: Sequence[Event]) -> Appended:
        """Store a batch of events of one project, atomically.

        Known events change nothing; events that break a rule are returned with their reason and the others
        are stored. Durable when it returns. Raises ``ProjectNotFoundError``, ``StoreError``.
        """
        for _ in range(_RACES):
            head = self._store.log.head()
            with self._store.view() as view:
                number = project_number(view, project)
                _, tally = tally_of(view, number)
                draft = _Draft(view, number, head.position + 1, tally)
                rejected = []
                for index, event in enumerate(events):
                    try:
                        self._take(draft, project, event)
                    except RecensionError as error:
                        rejected.append((index, error))
                self._store_texts(draft)
            appended = self._finish(draft, head, project)
            if appended is not None:
                self._sealer.turn()
                return Appended(
                    appended.position,
                    appended.recorded_at,
                    draft.accepted,
                    draft.known,
                    tuple(rejected),
                    draft.claims,
                )
            self.forget_texts()
        raise _lost_races()

    def settle(self, sealed: Callable[[int], None] = lambda _: None, *, everything: bool = True) -> int:
        """Seal the texts that appends have left as tails; return of how many pages, and tell as it goes.

        Changes no answer. Unless ``everything``, only of pages that were touched lately; else pages whose
        texts came in no order of time are sorted as well. Takes some 2 ms for each page that has new texts;
        safe to interrupt.
        """
        pages = self._sealer.settle(sealed, everything=everything)
        if everything:
            late = self._sealer.disordered
            sort_pages(self._store, self._texts, late, lambda view, page: text_times(view, *page))
            late.clear()
        with self._store.view() as view:
            projects = project_names(view)
        for _, number in projects:
            columns.extend(self._store, number)
        return pages

    def forget_texts(self) -> None:
        """Forget what is held in memory of the texts: another process may have written since."""
        self._sealer.forget()
        self._texts.reset()

    def _finish(self, draft: _Draft, head: Head, project: str) -> Head | None:
        if not draft.items:
            return head
        draft.index[keys.tally(draft.number, draft.position)] = draft.tally.encode()
        try:
            return append_commit(
                self._store, head, self._clock, project, draft.items, draft.index, draft.blobs
            )
        except RecensionError:
            self.forget_texts()
            raise

    def _take(self, draft: _Draft, project: str, event: Event) -> None:
        check_event(event)
        if event.project != project:
            raise InvalidEventError(f"the event is of project {event.project!r}", field="project")
        source = source_key(project, event.source_id)
        if event.source_id:
            position = _seen_source(draft, source)
            if position is not None:
                if not _is_known(draft, event, position):
                    raise RevisionConflictError(
                        f"source id {event.source_id!r} is known with another event",
                        hint="a source id names one event for ever; give this one another",
                        sourceId=event.source_id,
                    )
                draft.known += 1
                return
        match event.what:
            case Edit() as edit:
                self._take_edit(draft, event, edit, source)
            case Visibility() as change:
                found = _find_revision(draft, change.rev_id)
                if found is None:
                    raise RevisionNotFoundError(
                        f"revision {change.rev_id} is not known",
                        hint="ingest the edit first, then this change again",
                        revId=change.rev_id,
                    )
                if event.page_id != found.page:
                    if not _knows_page(draft, event.page_id):
                        raise _unknown_page(event.page_id)
                    raise _conflict(change.rev_id, "page")
                self._take_visibility(draft, event, change, source)
            case LogEntry() as entry:
                self._take_log_entry(draft, event, entry, source)
            case Move() | Delete() | Restore():
                if not _knows_page(draft, event.page_id):
                    raise _unknown_page(event.page_id)
                self._take_mark(draft, event, source)

    def _take_edit(self, draft: _Draft, event: Event, edit: Edit, source: bytes) -> None:
        notes = [check_claims(slot) for slot in sorted(edit.slots, key=lambda slot: slot.role.encode())]
        digests = {
            slot.role: digest_of(slot.text) for slot in edit.slots if slot.presence is Presence.PRESENT
        }
        slots = [
            SlotState(slot.role, slot.model, slot.format, slot.presence, len(slot.text), digests[slot.role])
            if slot.presence is Presence.PRESENT
            else SlotState(slot.role, slot.model, slot.format, slot.presence)
            for slot in edit.slots
        ]
        flags = _edit_flags(edit)
        seen = _find_revision(draft, edit.rev_id)
        if seen is not None and not self._supersedes(draft, event, seen, slots, flags):
            return
        main = next((slot for slot in edit.slots if slot.role == "main"), edit.slots[0])
        values = [
            title_value(edit.namespace, edit.title),
            contributor_value(edit.contributor),
            comment_value(edit.comment),
            content_value(slots),
        ]
        size = sum(slot.size_bytes for slot in slots)
        salt, commitments, sealed = self._seal(event, f"rev:{edit.rev_id}", values)
        skeleton = Skeleton(
            Kind.EDIT, flags, event.page_id, edit.rev_id, edit.parent_rev_id, event.time,
            edit.namespace, 0, size, main.model, source, sealed,
        )  # fmt: skip
        page = draft.number, event.page_id
        for slot in edit.slots:
            if slot.presence is Presence.PRESENT:
                digest = digests[slot.role]
                draft.texts.setdefault(digest, NewText(page, event.time, slot.text, digest))
                draft.held.append((digest, page))
        new_page = not _knows_page(draft, event.page_id)
        draft.pages.add(event.page_id)
        draft.revisions[edit.rev_id] = _Seen(event.page_id, event.time, slots, flags, flags & HIDDEN)
        facts = Facts(commitments, (edit.title,))
        self._close(
            draft, skeleton, facts, Sealed(salt, tuple(values), tuple(notes)),
            new_revision=seen is None, new_page=new_page,
        )  # fmt: skip
        for slot, note in zip(sorted(edit.slots, key=lambda slot: slot.role.encode()), notes, strict=True):
            if slot.presence is Presence.PRESENT:
                draft.claims[Verdict(note.verdict).name.lower()] += 1
                draft.claims["bytes_mismatch"] += note.claimed_bytes not in (-1, len(slot.text))

    def _supersedes(
        self, draft: _Draft, event: Event, seen: _Seen, slots: list[SlotState], flags: int
    ) -> bool:
        """Decide what a revision that is known already means; True if it has to be stored again."""
        edit = event.what
        assert isinstance(edit, Edit)  # noqa: S101 - for the type checker
        if seen.page != event.page_id or seen.time != event.time:
            raise _conflict(edit.rev_id, "page or time")
        if seen.slots is None:  # what was erased does not come back
            draft.known += 1
            return False
        old = {slot.role: slot for slot in seen.slots}
        gained = False
        for slot in slots:
            before = old.get(slot.role)
            if before is None:
                raise _conflict(edit.rev_id, f"slot {slot.role!r}")
            if slot.presence is not Presence.PRESENT:
                continue
            if before.presence is Presence.PRESENT and before.digest != slot.digest:
                raise _conflict(edit.rev_id, f"text of slot {slot.role!r}")
            gained |= before.presence is Presence.LOST
        stated = flags & HIDDEN
        if stated & ~seen.flags:
            # A source that no longer shows what another showed has learned of a suppression: it binds, once.
            # Said again it is no news, and does not undo a visibility change that came after it. The other
            # way round nothing comes back: only a visibility change can show it again.
            name = f"hide:{edit.rev_id}:{stated}"
            source = source_key(event.project, name)
            if not stated & ~seen.stated or _seen_source(draft, source) is not None:
                draft.known += 1
            else:
                state = (seen.flags | stated) & HIDDEN
                change = Visibility(
                    edit.rev_id,
                    text_hidden=bool(state & Flag.TEXT_HIDDEN),
                    comment_hidden=bool(state & Flag.COMMENT_HIDDEN),
                    contributor_hidden=bool(state & Flag.CONTRIBUTOR_HIDDEN),
                )
                self._take_visibility(draft, replace(event, what=change, source_id=name), change, source)
            return False
        if gained and not seen.flags & Flag.TEXT_HIDDEN:
            return True
        draft.known += 1
        return False

    def _take_visibility(self, draft: _Draft, event: Event, change: Visibility, source: bytes) -> None:
        flags = (
            Flag.TEXT_HIDDEN * change.text_hidden
            | Flag.COMMENT_HIDDEN * change.comment_hidden
            | Flag.CONTRIBUTOR_HIDDEN * change.contributor_hidden
        )
        values = [contributor_value(change.contributor), comment_value(change.comment)]
        salt, commitments, sealed = self._seal(event, event.source_id, values)
        skeleton = Skeleton(
            Kind.VISIBILITY, flags, event.page_id, change.rev_id, 0, event.time, 0, 0, 0, "",
            source, sealed,
        )  # fmt: skip
        if change.rev_id in draft.revisions:
            draft.revisions[change.rev_id].flags = flags
        self._close(draft, skeleton, Facts(commitments), Sealed(salt, tuple(values), ()))

    def _take_mark(self, draft: _Draft, event: Event, source: bytes) -> None:
        what = event.what
        if isinstance(what, Move):
            titles = [(what.to_namespace, what.to_title), (what.from_namespace, what.from_title)]
        elif isinstance(what, Delete | Restore):
            titles = [(what.namespace, what.title)]
        else:
            raise InvalidEventError("not a page event", field="kind")
        values = [title_value(*title) for title in titles]
        values += [contributor_value(what.contributor), comment_value(what.comment)]
        salt, commitments, sealed = self._seal(event, event.source_id, values)
        skeleton = Skeleton(
            KINDS[type(what)], 0, event.page_id, 0, 0, event.time, titles[0][0],
            titles[1][0] if len(titles) > 1 else 0, 0, "", source, sealed,
        )  # fmt: skip
        facts = Facts(commitments, [title for _, title in titles])
        self._close(draft, skeleton, facts, Sealed(salt, tuple(values), ()))

    def _take_log_entry(self, draft: _Draft, event: Event, entry: LogEntry, source: bytes) -> None:
        values = [
            title_value(entry.namespace, entry.title),
            log_entry_value(entry),
            contributor_value(entry.contributor),
            comment_value(entry.comment),
        ]
        flags = (
            Flag.TEXT_HIDDEN * entry.text_hidden
            | Flag.COMMENT_HIDDEN * entry.comment_hidden
            | Flag.CONTRIBUTOR_HIDDEN * entry.contributor_hidden
        )
        salt, commitments, sealed = self._seal(event, event.source_id, values)
        skeleton = Skeleton(
            Kind.LOG_ENTRY, flags, 0, entry.log_id, entry.action, event.time, entry.namespace,
            0, 0, "", source, sealed,
        )  # fmt: skip
        self._close(draft, skeleton, Facts(commitments), Sealed(salt, tuple(values), ()))

    def _seal(self, event: Event, key: str, values: list[bytes]) -> tuple[bytes, list[bytes], bytes]:
        salt = self._salts(event.project, key)
        labels = FIELDS[type(event.what)]
        commitments = [commit_field(salt, label, value) for label, value in zip(labels, values, strict=True)]
        return salt, commitments, seal(commitments)

    def _close(
        self,
        draft: _Draft,
        event: Skeleton,
        facts: Facts,
        sealed: Sealed,
        *,
        new_revision: bool = False,
        new_page: bool = False,
    ) -> None:
        ordinal = len(draft.items)  # the same among the sealed values, which are found by it
        draft.items.append(event)
        draft.sealed.append(sealed)
        draft.index.update(event_rows(draft.number, draft.position, ordinal, event, facts))
        for row in title_keys(draft.number, event.page_id, facts):
            if row not in draft.titles and draft.view.get(row) is None:
                draft.index[row] = b""
            draft.titles.add(row)
        count(draft.tally, event, new_revision=new_revision, new_page=new_page)
        draft.accepted += 1

    def _store_texts(self, draft: _Draft) -> None:
        known = {digest for digest in draft.texts if knows_text(draft.view, digest)}
        new = [text for digest, text in draft.texts.items() if digest not in known]
        draft.index.update((key, b"") for key in holder_keys(draft.held, known.__contains__))
        blobs, index = self._texts.store(draft.view, next_text_id(draft.view), new)
        draft.blobs += blobs + sealed_blobs(draft.position, draft.sealed)
        draft.index.update(index)


def append_commit(
    store: Store,
    head: Head,
    clock: Clock,
    project: str,
    items: list[Item],
    index: Mapping[bytes, bytes],
    blobs: list[Row],
) -> Head | None:
    """Append one commit on top of ``head``; the new head, or ``None`` when another writer was first.

    Commit time is ``max(now, previous + 1 µs)`` (DESIGN 2, rule 6).
    """
    position = head.position + 1
    recorded_at = max(clock(), head.recorded_at + 1)
    record = encode_commit(Commit(position, recorded_at, head.hash, project, tuple(items)))
    new = Head(position, recorded_at, commit_hash(record))
    rows = [*index.items(), recorded_row(position, recorded_at)]
    return new if store.commit(record, new, rows, blobs) is Outcome.OK else None


def _edit_flags(edit: Edit) -> int:
    presences = {slot.presence for slot in edit.slots}
    main = next((slot for slot in edit.slots if slot.role == "main"), None)
    return (
        Flag.MINOR * edit.minor
        | Flag.TITLE_INFERRED * edit.title_inferred
        | Flag.REDIRECT * (main is not None and is_redirect(main))
        | Flag.TEXT_HIDDEN * (Presence.HIDDEN in presences)
        | Flag.TEXT_LOST * (Presence.LOST in presences)
        | Flag.COMMENT_HIDDEN * (edit.comment.presence is Presence.HIDDEN)
        | Flag.CONTRIBUTOR_HIDDEN * (edit.contributor.presence is Presence.HIDDEN)
    )


def _find_revision(draft: _Draft, rev_id: int) -> _Seen | None:
    seen = draft.revisions.get(rev_id)
    if seen is not None:
        return seen
    row = draft.view.last(keys.revision(draft.number, rev_id), keys.revision(draft.number, rev_id + 1))
    if row is None:
        return None
    page, time = read_page_value(row[1])
    _, position, ordinal = keys.read_revision(row[0])
    content = find_sealed(draft.view, position, ordinal).values[CONTENT_FIELD]
    slots = read_content(content) if content is not None else None
    edit = draft.view.get(keys.edit(draft.number, page, time, rev_id, position, ordinal))
    flags = read_edit_value(edit)[0] if edit is not None else 0
    stated = flags & HIDDEN
    change = draft.view.last(keys.visibility(draft.number, rev_id), keys.visibility(draft.number, rev_id + 1))
    if change is not None:
        flags = (flags & ~HIDDEN) | read_visibility(change[1])[0]
    found = _Seen(page, time, slots, flags, stated)
    draft.revisions[rev_id] = found
    return found


def _knows_page(draft: _Draft, page: int) -> bool:
    if page in draft.pages:
        return True
    start, stop = keys.edits_from(draft.number, page), keys.edits_from(draft.number, page + 1)
    if draft.view.last(start, stop) is None:
        return False
    draft.pages.add(page)
    return True


def _seen_source(draft: _Draft, source: bytes) -> int | None:
    """Return the position of the commit in which a source id came."""
    row = keys.source(draft.number, source)
    position = draft.index.get(row) or draft.view.get(row)
    return None if position is None else int.from_bytes(position)


def _is_known(draft: _Draft, event: Event, position: int) -> bool:
    """Say whether the commit at ``position`` has an event of that kind, page, revision and time."""
    number, page, time, what = draft.number, event.page_id, event.time, event.what
    match what:
        case Edit():
            key = keys.edit(number, page, time, what.rev_id, position, 0)
        case Visibility():
            key = keys.visibility(number, what.rev_id, position)
        case LogEntry():
            key = keys.log_entry(number, time, position, 0)
        case _:
            key = keys.mark(number, page, time, position, 0)
    prefix = key[: -len(_ORDINALS)]
    values = [value for _, value in draft.view.scan(key, prefix + _ORDINALS)]
    if position == draft.position:
        values += [value for row, value in draft.index.items() if row.startswith(prefix)]
    match what:
        case Edit():
            return bool(values)
        case Visibility():
            return any(read_visibility(value)[1:] == (page, what.rev_id, time) for value in values)
        case LogEntry():
            return any(read_log_value(value)[:2] == (what.action, what.log_id) for value in values)
        case _:
            return any(read_mark_row(time, position, 0, value).kind is KINDS[type(what)] for value in values)


def _unknown_page(page: int) -> PageNotFoundError:
    return PageNotFoundError(
        f"page {page} is not known",
        hint="ingest an edit of the page first, then this event again",
        pageId=page,
    )


def _conflict(rev_id: int, what: str) -> RevisionConflictError:
    return RevisionConflictError(
        f"revision {rev_id} is known with another {what}",
        hint="revisions are immutable; one of the two sources is wrong",
        revId=rev_id,
    )


def _lost_races() -> StoreFailedError:
    return StoreFailedError(
        f"lost {_RACES} races against other writers", hint="stop one of the writers and try again"
    )
