"""Events in: check, seal, compute the whole commit, append it once (DESIGN sections 3, 4 and 8).

A batch is computed against the head that was read, then appended on top of exactly that head; when another
writer was first, it is computed anew. What is already known changes nothing, so a batch, a file or a killed
run can be sent again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from recension.archive import columns
from recension.archive.clock import Clock, Salts, random_salts, system_clock
from recension.archive.folding import keep_stages
from recension.archive.history import text_times
from recension.archive.marks import newest
from recension.archive.prepared import Prepared, PreparedEvents, prepare, prepare_all
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
    Holding,
    count,
    definition_rows,
    event_rows,
    holder_keys,
    mark_rows,
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
from recension.archive.sealed import CONTENT_FIELD, Sealed, find_sealed, pack_sealed, sealed_blobs
from recension.archive.texts.reading import knows_text, next_text_id
from recension.archive.texts.sealing import Sealer
from recension.archive.texts.sorting import sort_pages
from recension.archive.texts.writing import CACHE_BYTES, NewText, TextWriter
from recension.model.credit import LicensePeriod, check_periods
from recension.model.errors import (
    DataLossError,
    InvalidEventError,
    PageNotFoundError,
    ProjectExistsError,
    RecensionError,
    RetractedError,
    RevisionConflictError,
    RevisionNotFoundError,
    StoreFailedError,
)
from recension.model.event import RENDERING_ROLE, Event, Presence, Visibility, check_event
from recension.model.mark import Mark
from recension.model.reading import ProjectInfo
from recension.model.record import (
    Flag,
    Head,
    Item,
    Kind,
    Skeleton,
    Statement,
    commit_hash,
    encode_item,
    encode_record,
    source_key,
)
from recension.model.seal import read_content
from recension.store import keys
from recension.store.interface import Outcome, Row, Store, View

_RACES = 100
"""A batch that loses this many races in a row is given up; each race lost is another writer's commit."""

_SORTED = 1_000
"""Pages that are sorted at the end of a stream, each in some milliseconds; others wait until they grow."""
_ORDINALS = b"\xff" * 4
"""Ends the keys of all events of a commit: the ordinal is their last four bytes."""


Refused = Sequence[tuple[int, RecensionError]]
"""(index in the batch, reason) of the events of a batch that are rejected."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch; everything accepted is durable."""

    position: int
    """Of the commit; of the head when nothing was new."""
    recorded_at: int
    accepted: int
    known: int
    rejected: Refused
    claims: Mapping[str, int]
    """Counts of SHA-1 verdicts of accepted edits, and ``bytes_mismatch``."""


@dataclass(slots=True)
class _Seen:
    """A revision of the same batch."""

    page: int
    time: int
    content: bytes | None
    """``None`` once it was erased."""
    flags: int
    """What is hidden of it now among them."""
    stated: int
    """What its own source hid."""


@dataclass(slots=True)
class _Draft:
    """A commit while it is computed."""

    view: View
    project: str
    number: int
    position: int
    tally: Tally
    retracts: bool
    """Whether anything of the project was withdrawn; if nothing was, no revision is asked about."""
    items: list[bytes] = field(default_factory=list)
    index: dict[bytes, bytes] = field(default_factory=dict)
    blobs: list[Row] = field(default_factory=list)
    sealed: list[int | Sealed] = field(default_factory=list)
    """Of each item: its place among the events, or the values of one that was made here."""
    texts: dict[bytes, NewText] = field(default_factory=dict)
    held: list[Holding] = field(default_factory=list)
    revisions: dict[int, _Seen] = field(default_factory=dict)
    pages: set[int] = field(default_factory=set)
    titles: set[bytes] = field(default_factory=set)
    claims: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    known: int = 0
    mark: bytes = b""
    """What is said of where the events came from."""


class Ingestor:
    """The writing side of an archive. One thread at a time."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock = system_clock,
        salts: Salts = random_salts,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Write into ``store``; the clock and the salts are injected for tests alone.

        ``cache_bytes``: of texts held in memory until they are sealed; those beyond are read again.
        """
        self._store = store
        self._clock = clock
        self.salts = salts
        """Of the events that it seals itself."""
        self.hidden_at: int | None = None
        """When what a source no longer shows was hidden, microseconds since the epoch; ``None``: unknown."""
        self._texts = TextWriter(cache_bytes)
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

    def set_licenses(self, project: str, periods: Sequence[LicensePeriod]) -> bool:
        """Record the licences of a project, for all of its past; False if they are recorded already.

        Raises ``ProjectNotFoundError``, ``InvalidArgumentError``.
        """
        checked = check_periods(periods)
        for _ in range(_RACES):
            head = self._store.log.head()
            with self._store.view() as view:
                number = project_number(view, project)
                current = definition_of(view, number)
            licenses = checked if len(checked) > 1 else ()
            wanted = replace(current, license=checked[-1].license, licenses=licenses)
            if wanted == current:
                return False
            if self._state(head, wanted, number, new=False):
                return True
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

    def append(self, project: str, events: Sequence[Event], mark: Mark | None = None) -> Appended:
        """Store a batch of events of one project, atomically.

        Known events change nothing; events that break a rule are returned with their reason and the others
        are stored, with ``mark`` behind them. Where nothing is new, a mark that stands alone and adds to the
        newest of its source is a commit of its own. Durable when it returns. Raises ``ProjectNotFoundError``,
        ``StoreError``.
        """
        good, places = [], []
        refused: list[tuple[int, RecensionError]] = []
        for index, event in enumerate(events):
            try:
                check_event(event)
                if event.project != project:
                    raise InvalidEventError(f"the event is of project {event.project!r}", field="project")
            except RecensionError as error:
                refused.append((index, error))
            else:
                good.append(event)
                places.append(index)
        appended = self.append_prepared(project, prepare_all(good, self.salts), mark)
        refused += [(places[index], error) for index, error in appended.rejected]
        return replace(appended, rejected=tuple(sorted(refused, key=lambda one: one[0])))

    def append_prepared(
        self,
        project: str,
        batch: PreparedEvents,
        mark: Mark | None = None,
        refuse: Callable[[Refused], None] = lambda _: None,
    ) -> Appended:
        """Store a batch of prepared events of ``project``, as ``append`` does.

        ``refuse`` is told what is rejected before the rest is stored; again, when another writer was first.
        """
        for _ in range(_RACES):
            head = self._store.log.head()
            with self._store.view() as view:
                number = project_number(view, project)
                _, tally = tally_of(view, number)
                retracts = bool(view.scan(keys.withdrawn(number), keys.withdrawn(number + 1), limit=1))
                draft = _Draft(view, project, number, head.position + 1, tally, retracts)
                rejected: list[tuple[int, RecensionError]] = []
                for index, event in enumerate(batch.events):
                    try:
                        self._take(draft, event, index)
                    except RecensionError as error:
                        rejected.append((index, error))
                self._store_texts(draft, batch)
            refuse(rejected)
            if mark is not None and (draft.items or self._is_news(project, mark)):
                draft.mark = mark.encoded
            appended = self._finish(draft, head)
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

        Changes no answer. Unless ``everything``, only of pages that were touched lately. Pages whose texts
        came in no order of time are sorted as well. Takes some 2 ms for each page that has new texts; safe
        to interrupt. Raises ``DataLossError``, once all else is done, where event columns are lost.
        """
        self._texts.forget_ready()
        pages = self._sealer.settle(sealed, everything=everything)
        late = self._sealer.disordered
        some = late if everything else islice(late, _SORTED)
        sort_pages(self._store, self._texts, some, lambda view, page: text_times(view, *page))
        late.clear()
        with self._store.view() as view:
            projects = project_names(view)
        lost: DataLossError | None = None
        for _, number in projects:
            try:
                columns.extend(self._store, number)
                keep_stages(self._store, number)
            except DataLossError as error:
                lost = lost or error
        if lost is not None:
            raise lost
        return pages

    def forget_texts(self) -> None:
        """Forget what is held in memory of the texts: another process may have written since."""
        self._sealer.forget()
        self._texts.reset()

    def _is_news(self, project: str, mark: Mark) -> bool:
        return mark.stands_alone and mark.adds_to(newest(self._store, project, mark.source, mark.file))

    def _finish(self, draft: _Draft, head: Head) -> Head | None:
        if draft.items:
            draft.index[keys.tally(draft.number, draft.position)] = draft.tally.encode()
        if draft.mark:
            draft.items.append(encode_item(Statement(Kind.MARK, draft.mark)))
            draft.index.update(mark_rows(draft.number, draft.mark, draft.position))
        if not draft.items:
            return head
        try:
            return _append(
                self._store, head, self._clock, draft.project, draft.items, draft.index, draft.blobs
            )
        except RecensionError:
            self.forget_texts()
            raise

    def _take(self, draft: _Draft, event: Prepared, sealed: int | Sealed) -> None:
        event = _less_withdrawn(draft, event)
        skeleton = event.skeleton
        if event.source_id:
            position = _seen_source(draft, skeleton.source)
            if position is not None:
                if not _is_known(draft, skeleton, position):
                    raise RevisionConflictError(
                        f"source id {event.source_id!r} is known with another event",
                        hint="a source id names one event for ever; give this one another",
                        sourceId=event.source_id,
                    )
                draft.known += 1
                return
        match skeleton.kind:
            case Kind.EDIT:
                self._take_edit(draft, event, sealed)
            case Kind.VISIBILITY:
                found = _find_revision(draft, skeleton.rev_id)
                if found is None:
                    raise RevisionNotFoundError(
                        f"revision {skeleton.rev_id} is not known",
                        hint="ingest the edit first, then this change again",
                        revId=skeleton.rev_id,
                    )
                if skeleton.page_id != found.page:
                    if not _knows_page(draft, skeleton.page_id):
                        raise _unknown_page(skeleton.page_id)
                    raise _conflict(skeleton.rev_id, "page")
                found.flags = skeleton.flags
                _close(draft, event, sealed)
            case Kind.LOG_ENTRY:
                _close(draft, event, sealed)
            case _:
                if not _knows_page(draft, skeleton.page_id):
                    raise _unknown_page(skeleton.page_id)
                _close(draft, event, sealed)

    def _take_edit(self, draft: _Draft, event: Prepared, sealed: int | Sealed) -> None:
        skeleton = event.skeleton
        rev_id, page_id, time, flags = skeleton.rev_id, skeleton.page_id, skeleton.time, skeleton.flags
        seen = _find_revision(draft, rev_id)
        if seen is not None and not self._supersedes(draft, event, seen):
            return
        page = draft.number, page_id
        for text in event.texts:
            draft.texts.setdefault(text.digest, NewText(page, time, text.text, text.digest))
            draft.held.append((text.digest, page))
        new_page = not _knows_page(draft, page_id)
        draft.pages.add(page_id)
        draft.revisions[rev_id] = _Seen(page_id, time, event.content, flags, flags & HIDDEN)
        _close(draft, event, sealed, new_revision=seen is None, new_page=new_page)
        for text in event.texts:
            draft.claims[text.verdict.name.lower()] += 1
            draft.claims["bytes_mismatch"] += text.wrong_size

    def _supersedes(self, draft: _Draft, event: Prepared, seen: _Seen) -> bool:
        """Decide what a revision that is known already means; True if it has to be stored again."""
        skeleton = event.skeleton
        if seen.page != skeleton.page_id or seen.time != skeleton.time:
            raise _conflict(skeleton.rev_id, "page or time")
        if seen.content is None:  # what was erased does not come back
            draft.known += 1
            return False
        gained = _gains(skeleton.rev_id, seen.content, event.content)
        stated = skeleton.flags & HIDDEN
        if stated & ~seen.flags:
            # A source that no longer shows what another showed has learned of a suppression: it binds, once.
            # Said again it is no news, and does not undo a visibility change that came after it. The other
            # way round nothing comes back: only a visibility change can show it again.
            name = f"hide:{skeleton.rev_id}:{stated}"
            if not stated & ~seen.stated or _seen_source(draft, source_key(draft.project, name)) is not None:
                draft.known += 1
            else:
                state = (seen.flags | stated) & HIDDEN
                change = Visibility(
                    skeleton.rev_id,
                    text_hidden=bool(state & Flag.TEXT_HIDDEN),
                    comment_hidden=bool(state & Flag.COMMENT_HIDDEN),
                    contributor_hidden=bool(state & Flag.CONTRIBUTOR_HIDDEN),
                )
                time = skeleton.time if self.hidden_at is None else self.hidden_at
                happened = Event(draft.project, skeleton.page_id, time, name, change)
                hiding, sealed = prepare(happened, self.salts)
                seen.flags = hiding.skeleton.flags
                _close(draft, hiding, sealed)
            return False
        if gained and not seen.flags & Flag.TEXT_HIDDEN:
            return True
        draft.known += 1
        return False

    def _store_texts(self, draft: _Draft, batch: PreparedEvents) -> None:
        known = {digest for digest in draft.texts if knows_text(draft.view, digest)}
        new = [text for digest, text in draft.texts.items() if digest not in known]
        draft.index.update((key, b"") for key in holder_keys(draft.held, known.__contains__))
        blobs, index = self._texts.store(draft.view, next_text_id(draft.view), new, batch.blocks)
        draft.blobs += blobs + sealed_blobs(draft.position, _packed(draft, batch))
        draft.index.update(index)


def _packed(draft: _Draft, batch: PreparedEvents) -> list[bytes]:
    """Return the sealed values of a commit: as they came, when it has all events of its batch."""
    if draft.sealed == list(range(len(batch.events))):
        return batch.packed
    return pack_sealed([batch.sealed(one) if isinstance(one, int) else one for one in draft.sealed])


def _close(
    draft: _Draft,
    event: Prepared,
    sealed: int | Sealed,
    *,
    new_revision: bool = False,
    new_page: bool = False,
) -> None:
    skeleton = event.skeleton
    ordinal = len(draft.items)  # the same among the sealed values, which are found by it
    draft.items.append(event.item)
    draft.sealed.append(sealed)
    draft.index.update(event_rows(draft.number, draft.position, ordinal, skeleton))
    for row in title_keys(draft.number, skeleton.page_id, event.titles):
        if row not in draft.titles and draft.view.get(row) is None:
            draft.index[row] = b""
        draft.titles.add(row)
    count(draft.tally, skeleton, new_revision=new_revision, new_page=new_page)
    draft.accepted += 1


def _gains(rev_id: int, known: bytes, content: bytes) -> bool:
    """Say whether the content of a known revision has a text that was lost or hidden. Raises for another.

    A rendering changes with templates and software while the revision stays: the first that came is kept.
    """
    if known == content:
        return False
    old = {slot.role: slot for slot in read_content(known)}
    gained = False
    for slot in read_content(content):
        if slot.role == RENDERING_ROLE:
            continue
        before = old.get(slot.role)
        if before is None:
            raise _conflict(rev_id, f"slot {slot.role!r}")
        if slot.presence is not Presence.PRESENT:
            continue
        if before.presence is Presence.PRESENT and before.digest != slot.digest:
            raise _conflict(rev_id, f"text of slot {slot.role!r}")
        gained |= before.presence in (Presence.LOST, Presence.HIDDEN)
    return gained


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
    return _append(store, head, clock, project, list(map(encode_item, items)), index, blobs)


def _append(
    store: Store,
    head: Head,
    clock: Clock,
    project: str,
    items: Sequence[bytes],
    index: Mapping[bytes, bytes],
    blobs: list[Row],
) -> Head | None:
    position = head.position + 1
    recorded_at = max(clock(), head.recorded_at + 1)
    record = encode_record(position, recorded_at, head.hash, project, items)
    new = Head(position, recorded_at, commit_hash(record))
    rows = [*index.items(), recorded_row(position, recorded_at)]
    return new if store.commit(record, new, rows, blobs) is Outcome.OK else None


def _less_withdrawn(draft: _Draft, event: Prepared) -> Prepared:
    """Refuse a text that was withdrawn from its revision; a visibility change leaves hidden what was.

    Raises ``RetractedError``.
    """
    skeleton = event.skeleton
    if not draft.retracts or skeleton.kind not in (Kind.EDIT, Kind.VISIBILITY):
        return event
    number, rev_id = draft.number, skeleton.rev_id
    row = draft.view.last(keys.withdrawn(number, rev_id), keys.withdrawn(number, rev_id + 1))
    flags = 0 if row is None else row[1][0]
    if skeleton.kind is Kind.VISIBILITY:
        if not flags & ~skeleton.flags:
            return event
        changed = replace(skeleton, flags=skeleton.flags | flags)
        return replace(event, skeleton=changed, item=encode_item(changed))
    if flags & Flag.TEXT_HIDDEN and event.texts:
        raise RetractedError(
            f"the text of revision {rev_id} was withdrawn, and is not taken again",
            hint="only the operator can take that back: recension-server retract --reverse",
            revId=rev_id,
        )
    return event


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
    edit = draft.view.get(keys.edit(draft.number, page, time, rev_id, position, ordinal))
    flags = read_edit_value(edit)[0] if edit is not None else 0
    stated = flags & HIDDEN
    change = draft.view.last(keys.visibility(draft.number, rev_id), keys.visibility(draft.number, rev_id + 1))
    if change is not None:
        flags = (flags & ~HIDDEN) | read_visibility(change[1])[0]
    found = _Seen(page, time, content, flags, stated)
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


def _is_known(draft: _Draft, event: Skeleton, position: int) -> bool:
    """Say whether the commit at ``position`` has an event of that kind, page, revision and time."""
    number, page, time, rev_id = draft.number, event.page_id, event.time, event.rev_id
    match event.kind:
        case Kind.EDIT:
            key = keys.edit(number, page, time, rev_id, position, 0)
        case Kind.VISIBILITY:
            key = keys.visibility(number, rev_id, position)
        case Kind.LOG_ENTRY:
            key = keys.log_entry(number, time, position, 0)
        case _:
            key = keys.mark(number, page, time, position, 0)
    prefix = key[: -len(_ORDINALS)]
    values = [value for _, value in draft.view.scan(key, prefix + _ORDINALS)]
    if position == draft.position:
        values += [value for row, value in draft.index.items() if row.startswith(prefix)]
    match event.kind:
        case Kind.EDIT:
            return bool(values)
        case Kind.VISIBILITY:
            return any(read_visibility(value)[1:] == (page, rev_id, time) for value in values)
        case Kind.LOG_ENTRY:
            return any(read_log_value(value)[:2] == (event.parent_rev_id, rev_id) for value in values)
        case _:
            return any(read_mark_row(time, position, 0, value).kind is event.kind for value in values)


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
