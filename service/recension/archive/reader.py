"""The archive's read protocol in process: ``model.reading.Reader`` over a store.

Every answer is made inside one short view; iterators read a slice, close it, and go on by key, so a slow
consumer holds no transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from heapq import merge
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import cast

from recension.archive import history, snapshots, trees
from recension.archive.claims import Verdict
from recension.archive.clock import Clock, system_clock
from recension.archive.columns import changed_pages
from recension.archive.garbage import lacks_nodes
from recension.archive.history import Choice, State
from recension.archive.ingest import append_commit
from recension.archive.projects import (
    definition_of,
    project_names,
    project_number,
    tally_of,
)
from recension.archive.rows import EditRow, MarkRow, Tally, read_visibility
from recension.archive.sealed import CONTENT_FIELD, Sealed, find_sealed
from recension.archive.texts.reading import read_text
from recension.model.errors import (
    AsOfOutOfRangeError,
    DataLossError,
    DeadlineError,
    InvalidArgumentError,
    PageNotFoundError,
    ProjectNotFoundError,
    RecensionError,
    RevisionNotFoundError,
    SnapshotNotFoundError,
    StoreFailedError,
    TextUnavailableError,
)
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    MAX_ID,
    Delete,
    Move,
    Presence,
    Restore,
    Visibility,
)
from recension.model.instant import check_instant, format_instant
from recension.model.manifest import (
    FORMAT,
    AsOf,
    Manifest,
    OnHidden,
    ProjectPart,
    Selector,
    make_manifest,
    read_manifest,
)
from recension.model.proof import path_to
from recension.model.reading import (
    MAX_BATCH,
    START,
    WHOLE,
    Answer,
    Change,
    ChangeKind,
    Entry,
    Place,
    ProjectInfo,
    Proof,
    Revision,
    ServerInfo,
    Shard,
    Slot,
    TimelineItem,
    TimelinePlace,
    behind,
    wanted,
)
from recension.model.record import Flag, Head, Item, Kind, Statement
from recension.model.seal import (
    CONTENT,
    read_comment,
    read_content,
    read_contributor,
    read_title,
)
from recension.store import keys
from recension.store.interface import Log, Row, Store, View

_SLICE = 256
"""Entries read in one view: some 20 ms with texts."""
_SLICE_BYTES = 4 * 1024 * 1024
"""Texts held at once for one stream; a slice ends with the text that reaches it."""
_CANDIDATES = 100_000
"""Changed pages held at once for a diff; when there are more, it reads all visibility changes instead."""
_LONGEST_AGE_SECONDS = 10_000 * 366 * 86_400
"""Of any revision at any time that is allowed; a greater age asks for the same: nothing."""
_RECENT = 64
"""Snapshots looked at for one to derive the next from."""
_NEWEST = keys.END - 1
_EVER = 2**62

# (time, rev_id, position, ordinal) and a mark, or the flags of a visibility change of that revision.
_Happening = tuple[int, int, int, int, MarkRow | int]


def _order(item: _Happening) -> tuple[int, int, int, int]:
    return item[:4]


class _Wanted:
    """What a scan uses of a store, for as long as anybody waits for its answer; asked at each slice."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def log(self) -> Log:
        """The log, unless nobody waits any more."""
        _check_wanted()
        return self._store.log

    def view(self) -> AbstractContextManager[View]:
        """Open a view, unless nobody waits any more."""
        _check_wanted()
        return self._store.view()

    def put_derived(self, rows: Iterator[Row]) -> None:
        """Store derived rows, unless nobody waits any more."""
        _check_wanted()
        self._store.put_derived(rows)


def _check_wanted() -> None:
    if not wanted.get()():
        raise DeadlineError("nobody waits for the answer any more", hint="ask again, and allow more time")


class Archive:
    """Reads a store. Safe for concurrent use."""

    def __init__(self, store: Store, *, clock: Clock = system_clock) -> None:
        """Read from ``store``; the clock is asked once for each answer that needs it."""
        self._store = store
        self._clock = clock
        self._numbers: dict[str, int] = {}

    def _number(self, view: View, project: str) -> int:
        """Return a project's number, which never changes. Raises ``ProjectNotFoundError``."""
        number = self._numbers.get(project)
        if number is None:
            number = self._numbers[project] = project_number(view, project)
        return number

    # --- catalog --------------------------------------------------------------------------------

    def server_info(self) -> ServerInfo:
        """Return what the server is."""
        head = self._store.log.head()
        return ServerInfo(_version(), (FORMAT,), head.position, head.recorded_at)

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        with self._store.view() as view:
            return [_project_info(view, number) for _, number in project_names(view)]

    def project(self, name: str) -> ProjectInfo:
        """Return one project."""
        with self._store.view() as view:
            return _project_info(view, self._number(view, name))

    # --- single revisions -----------------------------------------------------------------------

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision, named as at its own time."""
        with self._store.view() as view:
            number = self._number(view, project)
            known = _known_at(view.head(), known_at)
            edit = _edit(view, number, project, rev_id, known)
            return Answer(_revision(view, project, number, edit, known, text=text), AsOf(edit.time, known))

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked."""
        if len(rev_ids) > MAX_BATCH:
            raise InvalidArgumentError(
                f"{len(rev_ids)} revision ids; a batch takes {MAX_BATCH}", hint="split it", field="rev_ids"
            )
        self.project(project)
        out: list[Revision | RecensionError] = []
        for rev_id in rev_ids:
            try:
                out.append(self.revision(project, rev_id, known_at=known_at, text=text).revision)
            except RecensionError as error:
                out.append(error)
        return out

    def article(
        self,
        project: str,
        page: int | str,
        *,
        valid_at: int | None = None,
        known_at: int = 0,
        text: bool = True,
    ) -> Answer:
        """Return a page, by id or title, as it was."""
        with self._store.view() as view:
            number = self._number(view, project)
            as_of = self._as_of(view.head(), valid_at, known_at)
            choice = Choice(as_of.valid_at, as_of.known_at)
            state = (
                _by_id(view, number, page, choice)
                if isinstance(page, int)
                else _by_title(view, number, page, choice)
            )
            if state is None:
                raise _no_page(view, project, number, page, as_of.known_at, as_of.valid_at)
            return Answer(_revision_in(view, project, number, state, text=text), as_of)

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size."""
        revision = self.revision(project, rev_id).revision
        slot = revision.slot(role)
        if slot is None or slot.text is None:
            what = "no such slot" if slot is None else slot.presence.name.lower()
            raise TextUnavailableError(
                f"revision {rev_id} of {project!r} has no text in slot {role!r}: {what}",
                project=project,
                revId=rev_id,
                role=role,
            )
        return slot.text

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page by (valid time, revision id, position), behind ``after``."""
        _check_place(after)
        with self._store.view() as view:
            number = self._number(view, project)
            known = _known_at(view.head(), known_at)
            if not _is_known(view, number, page_id, known):
                raise _no_page(view, project, number, page_id, known)
            start, stop = keys.edits_from(number, page_id), keys.edits_from(number, page_id + 1)
            if after is not None:
                start = keys.edit(number, page_id, *after[:3], 0)
            marks = history.marks_of(view, number, page_id, known)
            others: list[_Happening] = [(mark.time, 0, mark.position, mark.ordinal, mark) for mark in marks]
            changes = view.scan(
                keys.page_visibility(number, page_id), keys.page_visibility(number, page_id, known + 1)
            )
        for key, value in changes:
            _, position, ordinal = keys.read_revision(key)
            flags, _, rev, time = read_visibility(value)
            others.append((time, rev, position, ordinal, flags))
        others = sorted((item for item in others if not after or item[:3] >= after[:3]), key=_order)
        return behind(self._timeline(project, number, (start, stop), known, others), after)

    def _timeline(
        self,
        project: str,
        number: int,
        bounds: tuple[bytes, bytes],
        known: int,
        others: list[_Happening],
    ) -> Iterator[TimelineItem]:
        start, stop = bounds
        at = 0
        while True:
            items: list[TimelineItem] = []
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
                for row in rows:
                    edit = history.edit_row(row)
                    if edit.position > known:
                        continue
                    order = (edit.time, edit.rev, edit.position, edit.ordinal)
                    while at < len(others) and others[at][:4] < order:
                        items.append(_other(view, others[at]))
                        at += 1
                    revision = _revision(view, project, number, edit, known, text=False)
                    items.append(TimelineItem(edit.time, edit.position, revision.recorded_at, revision))
                if len(rows) < _SLICE:
                    items += [_other(view, other) for other in others[at:]]
            yield from items
            if len(rows) < _SLICE:
                return
            start = rows[-1][0] + b"\0"

    # --- snapshots ------------------------------------------------------------------------------

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot; without K, as known at the newest event of its projects.

        The newest event, not the head: keeping a snapshot is itself a commit, and asking twice has to give
        the same id.
        """
        with self._store.view() as view:
            numbers = {name: self._number(view, name) for name in selector.projects}
            head = view.head()
            known = _known_at(head, known_at)
            tallies = {name: tally_of(view, number, known) for name, number in numbers.items()}
            collected = view.get(keys.collected())
        if not known_at:
            known = max(position for position, _ in tallies.values())
        as_of = self._as_of(head, valid_at, known)
        for name, (_, tally) in tallies.items():
            if tally.first_event_at > as_of.valid_at:
                raise _before_first(name, tally, as_of)
        choice = _choice(selector, as_of)
        base = self._nearest(selector, as_of)
        parts = tuple(self._part(numbers[name], selector, choice, base, name) for name in selector.projects)
        manifest = make_manifest(selector, as_of, parts)
        _check_wanted()
        self._keep(manifest)
        with self._store.view() as view:
            undisturbed = view.get(keys.collected()) == collected
        for part in () if undisturbed else parts:  # nodes that nothing kept yet may have been removed
            if lacks_nodes(self._store, part.root):
                snapshots.build_part(self._store, part.project, numbers[part.project], selector, choice)
        return manifest

    def _part(
        self, number: int, selector: Selector, choice: Choice, base: Manifest | None, project: str
    ) -> ProjectPart:
        # It has the methods that a scan uses, and no others: each snapshot shows that they are enough.
        store = cast("Store", _Wanted(self._store))
        if base is not None:
            share = next(part for part in base.parts if part.project == project)
            before = _choice(base.selector, base.as_of)
            with suppress(DataLossError):  # of nodes that only the older snapshot needs
                derived = snapshots.derive_part(store, share, number, selector, before, choice)
                if derived is not None:
                    return derived
        return snapshots.build_part(store, project, number, selector, choice)

    def _nearest(self, selector: Selector, as_of: AsOf) -> Manifest | None:
        """Return one of the newest snapshots with that selector, the nearest in time."""
        start, stop = keys.snapshot_at(0), keys.snapshot_at(keys.END)
        near = []
        with self._store.view() as view:
            for _ in range(_RECENT):
                row = view.last(start, stop)
                if row is None:
                    break
                manifest = read_manifest(row[1])
                if manifest.selector == selector:
                    near.append(manifest)
                stop = row[0]
        by_time = min(near, key=lambda one: abs(one.as_of.valid_at - as_of.valid_at), default=None)
        same_known = [one for one in near if one.as_of.known_at == as_of.known_at]
        return min(same_known, key=lambda one: abs(one.as_of.valid_at - as_of.valid_at), default=by_time)

    def _keep(self, manifest: Manifest) -> None:
        row = keys.snapshot(manifest.snapshot_id)
        for _ in range(100):
            head = self._store.log.head()
            with self._store.view() as view:
                if view.get(row) is not None:
                    return
            position = head.position + 1
            index = {row: position.to_bytes(8, "big"), keys.snapshot_at(position): manifest.encoded}
            items: list[Item] = [Statement(Kind.SNAPSHOT, manifest.encoded)]
            if append_commit(self._store, head, self._clock, "", items, index, []) is not None:
                return
        raise StoreFailedError("the store is too busy to record a snapshot", hint="try again")

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot."""
        with self._store.view() as view:
            return _manifest(view, snapshot_id)

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, those behind ``after``."""
        position = 0
        if after:
            with self._store.view() as view:
                position = _made_at(view, after)
        return self._snapshots(keys.snapshot_at(position + 1))

    def _snapshots(self, start: bytes) -> Iterator[Manifest]:
        stop = keys.snapshot_at(keys.END)
        while True:
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
            yield from (read_manifest(value) for _, value in rows)
            if len(rows) < _SLICE:
                return
            start = rows[-1][0] + b"\0"

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts by (project, page id)."""
        return self.read(snapshot_id, after=after, text=False)

    def read(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, text: bool = True
    ) -> Iterator[Entry]:
        """Yield a shard's entries by (project, page id)."""
        manifest = self.snapshot(snapshot_id)
        if not 0 <= shard.index < shard.count:
            raise InvalidArgumentError(
                f"no shard {shard.index} of {shard.count}", hint="shards run from 0 to count-1", field="shard"
            )
        return self._read(manifest, shard, after, text=text)

    def _read(self, manifest: Manifest, shard: Shard, after: Place, *, text: bool) -> Iterator[Entry]:
        choice = _choice(manifest.selector, manifest.as_of)
        for part in manifest.parts:
            if part.project < after[0]:
                continue
            last, more = after[1] if part.project == after[0] else 0, True
            while more:
                entries: list[Entry] = []
                room, more = _SLICE_BYTES, False
                with self._store.view() as view:
                    number = self._number(view, part.project)
                    for leaf in trees.leaves(view, part.root, last):
                        if not shard.holds(leaf.page_id):
                            continue
                        if len(entries) == _SLICE or room <= 0:
                            more = True
                            break
                        state = trees.state_of(view, number, leaf.page_id, choice, leaf.leaf)
                        entry = _entry(view, part.project, number, state, text=text)
                        room -= sum(len(slot.text or b"") for slot in entry.slots)
                        entries.append(entry)
                yield from entries
                if more:
                    last = entries[-1].page_id

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not."""
        if not _is_id(page_id):
            raise InvalidArgumentError(
                f"{page_id} is not a page id", hint="page ids run from 1 to 2^63-1", field="page_id"
            )
        with self._store.view() as view:
            manifest = _manifest(view, snapshot_id)
            part = next((one for one in manifest.parts if one.project == project), None)
            if part is None:
                raise ProjectNotFoundError(
                    f"the snapshot has no project {project!r}",
                    hint=f"it has: {', '.join(manifest.selector.projects)}",
                    project=project,
                )
            path, prefix, leaf = path_to(part.root, page_id, lambda digest: trees.node_at(view, digest))
            entry = None
            if leaf is not None:
                number = self._number(view, project)
                choice = _choice(manifest.selector, manifest.as_of)
                state = trees.state_of(view, number, page_id, choice, leaf.leaf)
                entry = _entry(view, project, number, state, text=False)
        return Proof(manifest, project, page_id, entry, path, prefix)

    def diff(self, before: bytes, after: bytes, *, start: Place = START) -> Iterator[Change]:
        """Yield what differs between two snapshots of the same projects, by (project, page id)."""
        a, b = self.snapshot(before), self.snapshot(after)
        if a.selector.projects != b.selector.projects:
            raise InvalidArgumentError(
                "the snapshots are of different projects",
                hint="compare snapshots of the same projects",
                field="snapshot_b",
            )
        return self._diff(a, b, start)

    def _diff(self, a: Manifest, b: Manifest, start: Place) -> Iterator[Change]:
        for left, right in zip(a.parts, b.parts, strict=True):
            if left.project < start[0]:
                continue
            last = start[1] if left.project == start[0] else 0
            told = (self._differing(a, b, left, right, last), self._withdrawn(a, b, left, right, last))
            yield from merge(*told, key=lambda change: change.page_id)

    def _differing(
        self, a: Manifest, b: Manifest, left: ProjectPart, right: ProjectPart, last: int
    ) -> Iterator[Change]:
        """Yield the changes of pages whose leaves differ."""
        while True:
            with self._store.view() as view:
                number = self._number(view, left.project)
                found = trees.differences(view, left.root, right.root, last)
                slice_ = list(islice(found, _SLICE))
                changes = [_change(view, left.project, number, item, a, b) for item in slice_]
            yield from (change for change in changes if change is not None)
            if len(slice_) < _SLICE:
                return
            last = slice_[-1].page_id

    def _withdrawn(
        self, a: Manifest, b: Manifest, left: ProjectPart, right: ProjectPart, last: int
    ) -> Iterator[Change]:
        """Yield the pages whose leaves are equal, but whose text was hidden between A's K and B's.

        Only a B that keeps hidden pages holds such a leaf. The trees do not tell; the visibility changes do.
        """
        if b.selector.on_hidden is not OnHidden.KEEP or a.as_of.known_at >= b.as_of.known_at:
            return
        pages = self._with_changed_visibility(left.project, a.as_of.known_at, b.as_of.known_at, last)
        while slice_ := list(islice(pages, _SLICE)):
            with self._store.view() as view:
                number = self._number(view, left.project)
                changes = []
                for page in slice_:
                    leaves = [next(trees.leaves(view, part.root, page - 1), None) for part in (left, right)]
                    before, after = (leaf if leaf and leaf.page_id == page else None for leaf in leaves)
                    if before is not None and before == after:
                        difference = trees.Difference(page, before, after)
                        changes.append(_change(view, left.project, number, difference, a, b))
            yield from (change for change in changes if change is not None)

    def _with_changed_visibility(self, project: str, low: int, high: int, last: int) -> Iterator[int]:
        """Yield the pages with id > ``last`` of which a visibility change became known in (low, high]."""
        with self._store.view() as view:
            number = self._number(view, project)
        # Two questions of one valid time differ by what became known between them.
        questions = (Choice(0, low), Choice(0, high))
        found = changed_pages(self._store, project, number, *questions, _CANDIDATES)
        if found is None:
            yield from self._ever_hidden(number, low, high, last)
            return
        rest = iter([page for page in found if page > last])
        while slice_ := list(islice(rest, _SLICE)):
            with self._store.view() as view:
                changed = [page for page in slice_ if _changes_visibility(view, number, page, low, high)]
            yield from changed

    def _ever_hidden(self, number: int, low: int, high: int, last: int) -> Iterator[int]:
        """Yield the same by reading each visibility change of the project behind ``last``."""
        start, stop = keys.page_visibility(number, last + 1), keys.page_visibility(number + 1, 0)
        while True:
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
            for key, _ in rows:
                page, position, _ = keys.read_revision(key)
                if page > last and low < position <= high:
                    yield page
                    last = page
            if len(rows) < _SLICE:
                return
            start = rows[-1][0] + b"\0"

    # --- times ----------------------------------------------------------------------------------

    def _as_of(self, head: Head, valid_at: int | None, known_at: int) -> AsOf:
        known = _known_at(head, known_at)
        now = max(self._clock(), head.recorded_at)
        if valid_at is None:
            return AsOf(now, known)
        check_instant(valid_at)
        if valid_at > now:
            raise AsOfOutOfRangeError(
                f"{format_instant(valid_at)} is in the future",
                hint="nobody knows the corpus of a future time; leave the time out for now",
                validAt=format_instant(valid_at),
            )
        return AsOf(valid_at, known)


def _is_id(number: int) -> bool:
    return 0 < number <= MAX_ID


def _check_place(place: TimelinePlace | None) -> None:
    if place is None:
        return
    check_instant(place.time)
    if not all(0 <= number <= MAX_ID for number in place[1:]):
        raise InvalidArgumentError(f"not a place in a timeline: {place[1:]}", field="after")


def _is_known(view: View, number: int, page: int, known_at: int) -> bool:
    """Say whether anything of a page was known at K."""
    return _is_id(page) and history.last_edit(view, number, page, _EVER, known_at) is not None


def _changes_visibility(view: View, number: int, page: int, low: int, high: int) -> bool:
    start, stop = (keys.page_visibility(number, page, position + 1) for position in (low, high))
    return bool(view.scan(start, stop, limit=1))


def _known_at(head: Head, known_at: int) -> int:
    if not 0 <= known_at <= head.position:
        raise AsOfOutOfRangeError(
            f"nothing is known at position {known_at}; the newest is {head.position}",
            hint="leave known-at out for the newest",
            knownAt=known_at,
            newest=head.position,
        )
    return known_at or head.position


def _version() -> str:
    try:
        return version("recension")
    except PackageNotFoundError:
        return "unknown"


def _project_info(view: View, number: int) -> ProjectInfo:
    definition = definition_of(view, number)
    position, tally = tally_of(view, number)
    spans = tally.revisions > 0
    return ProjectInfo(
        definition.name,
        definition.base_url,
        definition.language,
        definition.license,
        tally.revisions,
        tally.pages,
        position,
        tally.first_event_at if spans else None,
        tally.last_event_at if spans else None,
        tally.log_entries,
    )


def _edit(view: View, number: int, project: str, rev_id: int, known_at: int) -> EditRow:
    edit = history.find_revision(view, number, rev_id, known_at) if _is_id(rev_id) else None
    if edit is None:
        raise RevisionNotFoundError(f"no revision {rev_id} in {project!r}", project=project, revId=rev_id)
    return edit


def _recorded_at(view: View, position: int) -> int:
    raw = view.get(keys.recorded(position))
    if raw is None:
        raise DataLossError(f"the time of commit {position} is missing", position=position)
    return int.from_bytes(raw, "big", signed=True)


def _naming(view: View, state: State, sealed: Sealed) -> Sealed:
    """Return the values of the event that gave the title; ``sealed`` are those of the state's own edit."""
    edit, source = state
    if (source.position, source.ordinal) == (edit.position, edit.ordinal):
        return sealed
    return find_sealed(view, source.position, source.ordinal)


def _title(view: View, state: State, sealed: Sealed) -> tuple[int, str]:
    """Return (namespace, title); ``sealed`` are the values of the state's own edit."""
    return read_title(_naming(view, state, sealed).value(state.title.field))


def _by_id(view: View, number: int, page: int, choice: Choice) -> State | None:
    return history.page_at(view, number, page, choice) if _is_id(page) else None


def _by_title(view: View, number: int, title: str, choice: Choice) -> State | None:
    for form in dict.fromkeys((title, title.replace("_", " "))):
        start = keys.title(number, form)
        for key, _ in view.scan(start, start[:-8] + b"\xff" * 8):
            state = history.page_at(view, number, int.from_bytes(key[-8:], "big"), choice)
            if state is not None:
                sealed = find_sealed(view, state.edit.position, state.edit.ordinal)
                if _title(view, state, sealed)[1] == form:
                    return state
    return None


def _no_page(
    view: View, project: str, number: int, page: int | str, known_at: int, valid_at: int | None = None
) -> PageNotFoundError:
    name = f"page {page}" if isinstance(page, int) else f"page titled {page[:200]!r}"
    when = "" if valid_at is None else f" as of {format_instant(valid_at)},"
    hint = _whereabouts(view, project, number, page, known_at)
    return PageNotFoundError(
        f"no {name} in {project!r}{when} known at {known_at}", hint=hint, project=project, page=page
    )


def _whereabouts(view: View, project: str, number: int, page: int | str, known_at: int) -> str:
    """Return what helps whoever looks for a page at a time or a position that it has nothing at."""
    if isinstance(page, int):
        pages, what = [page], "its"
    else:
        pages = [
            int.from_bytes(key[-8:], "big")
            for form in dict.fromkeys((page, page.replace("_", " ")))
            for key, _ in view.scan(keys.title(number, form), keys.title(number, form)[:-8] + b"\xff" * 8)
        ]
        what = "the title was once that of page {}, whose"
    pages.sort(key=lambda one: not _is_known(view, number, one, known_at))
    for one in filter(_is_id, pages):
        first = view.scan(keys.edits_from(number, one), keys.edits_from(number, one + 1), limit=1)
        if first and _is_known(view, number, one, known_at):
            since = format_instant(keys.read_edit(first[0][0])[1])
            return (
                f"{what.format(one)} first revision is of {since}; "
                f"recension log {project} id:{one} shows its timeline"
            )
        if first:
            return f"{what.format(one)} history became known later; ask for a later known-at"
    return "check the id, or the title's spelling and namespace prefix"


def _before_first(name: str, tally: Tally, as_of: AsOf) -> AsOfOutOfRangeError:
    first = tally.first_event_at
    if first > tally.last_event_at:  # nothing yet, or log entries alone
        return AsOfOutOfRangeError(
            f"project {name!r} has no events yet at position {as_of.known_at}",
            hint="ingest something first, or ask for a later known-at",
            project=name,
        )
    return AsOfOutOfRangeError(
        f"{format_instant(as_of.valid_at)} is before the first event of {name!r}, {format_instant(first)}",
        hint=f"ask for {format_instant(first)} or later",
        project=name,
        firstEventAt=format_instant(first),
    )


def _slots(view: View, sealed: Sealed, edit: EditRow, flags: int, *, text: bool) -> tuple[Slot, ...]:
    """Slots of an edit; ``flags`` say what is hidden of it now. One that was purged is hidden for ever."""
    out = []
    notes = iter(sealed.notes)
    content = sealed.values[CONTENT_FIELD]
    if content is None:
        return (Slot("main", edit.model, "", Presence.HIDDEN),)
    for slot in read_content(content):
        note = next(notes, None)
        if slot.presence is not Presence.PRESENT or flags & Flag.TEXT_HIDDEN:
            presence = Presence.HIDDEN if flags & Flag.TEXT_HIDDEN else slot.presence
            out.append(Slot(slot.role, slot.model, slot.format, presence))
            continue
        out.append(
            Slot(
                slot.role,
                slot.model,
                slot.format,
                slot.presence,
                slot.size_bytes,
                slot.digest,
                read_text(view, slot.digest) if text else None,
                Verdict(note.verdict).name.lower() if note else "",
            )
        )
    return tuple(out)


def _revision(view: View, project: str, number: int, edit: EditRow, known_at: int, *, text: bool) -> Revision:
    """Return a revision named as at its own time."""
    marks = history.marks_of(view, number, edit.page, known_at)
    newest = history.last_edit(view, number, edit.page, 2**62, known_at) or edit
    title = history.title_at(marks, edit, newest, edit.time)
    return _revision_in(view, project, number, State(edit, title), text=text)


def _revision_in(view: View, project: str, number: int, state: State, *, text: bool) -> Revision:
    edit = state.edit
    sealed = find_sealed(view, edit.position, edit.ordinal)
    # What is hidden binds every later answer about any T, so the newest position decides.
    flags = history.hidden_flags(view, number, edit, _NEWEST)
    namespace, title = _title(view, state, sealed)
    contributor, comment = sealed.values[1:3]
    hide_contributor = flags & Flag.CONTRIBUTOR_HIDDEN
    return Revision(
        project,
        edit.page,
        edit.rev,
        edit.parent,
        edit.time,
        title,
        namespace,
        state.title.inferred,
        HIDDEN_CONTRIBUTOR if hide_contributor or contributor is None else read_contributor(contributor),
        HIDDEN_COMMENT if flags & Flag.COMMENT_HIDDEN or comment is None else read_comment(comment),
        bool(edit.flags & Flag.MINOR),
        bool(edit.flags & Flag.REDIRECT),
        _slots(view, sealed, edit, flags, text=text),
        edit.position,
        _recorded_at(view, edit.position),
    )


def _other(view: View, item: _Happening) -> TimelineItem:
    time, rev, position, ordinal, what = item
    sealed = find_sealed(view, position, ordinal)
    contributor, comment = read_contributor(sealed.value(-2)), read_comment(sealed.value(-1))
    happening: Move | Delete | Restore | Visibility
    if isinstance(what, MarkRow):
        namespace, title = read_title(sealed.value(0))
        if what.kind is Kind.MOVE:
            from_namespace, from_title = read_title(sealed.value(1))
            happening = Move(from_title, from_namespace, title, namespace, contributor, comment)
        else:
            shape = Delete if what.kind is Kind.DELETE else Restore
            happening = shape(title, namespace, contributor, comment)
    else:
        happening = Visibility(
            rev,
            bool(what & Flag.TEXT_HIDDEN),
            bool(what & Flag.COMMENT_HIDDEN),
            bool(what & Flag.CONTRIBUTOR_HIDDEN),
            contributor,
            comment,
        )
    return TimelineItem(time, position, _recorded_at(view, position), happening)


def _made_at(view: View, snapshot_id: bytes) -> int:
    raw = view.get(keys.snapshot(snapshot_id))
    if raw is None:
        raise SnapshotNotFoundError(
            f"no snapshot sha256:{snapshot_id.hex()}",
            hint="list the snapshots with: recension snapshots",
            snapshot=f"sha256:{snapshot_id.hex()}",
        )
    return int.from_bytes(raw, "big")


def _manifest(view: View, snapshot_id: bytes) -> Manifest:
    encoded = view.get(keys.snapshot_at(_made_at(view, snapshot_id)))
    if encoded is None:
        raise DataLossError(f"the manifest of snapshot sha256:{snapshot_id.hex()} is missing")
    try:
        return read_manifest(encoded)
    except InvalidArgumentError as error:
        raise DataLossError(f"the manifest of a snapshot is damaged: {error}") from None


def _choice(selector: Selector, as_of: AsOf) -> Choice:
    age = min(selector.min_age_seconds, _LONGEST_AGE_SECONDS)
    return Choice(as_of.valid_at, as_of.known_at, age, selector.on_hidden)


def _entry(view: View, project: str, number: int, state: State, *, text: bool) -> Entry:
    edit = state.edit
    sealed = find_sealed(view, edit.position, edit.ordinal)
    flags = history.hidden_flags(view, number, edit, _NEWEST)
    hidden = bool(flags & Flag.TEXT_HIDDEN) or sealed.values[CONTENT_FIELD] is None
    naming = _naming(view, state, sealed)
    namespace, title = read_title(naming.value(state.title.field))
    title_salt = naming.field_salt(state.title.field, state.title.label)
    return Entry(
        project,
        edit.page,
        edit.rev,
        edit.time,
        title,
        namespace,
        state.title.inferred,
        _slots(view, sealed, edit, flags, text=text),
        title_salt,
        b"" if hidden else sealed.field_salt(CONTENT_FIELD, CONTENT),
        edit.content if hidden else b"",
        hidden,
    )


def _change(
    view: View, project: str, number: int, item: trees.Difference, a: Manifest, b: Manifest
) -> Change | None:
    """Return how a page differs, or ``None`` when only the event that gave its title does.

    A page that was moved away and back has its old title from another event, so another leaf.
    """
    before = after = None
    flags = seen = 0
    content = old_content = b""
    if item.before is not None:
        state = trees.state_of(view, number, item.page_id, _choice(a.selector, a.as_of), item.before.leaf)
        before = _entry(view, project, number, state, text=False)
        old_content = state.edit.content
        seen = history.hidden_flags(view, number, state.edit, a.as_of.known_at)
        flags = history.hidden_flags(view, number, state.edit, b.as_of.known_at)
    if item.after is not None:
        new = trees.state_of(view, number, item.page_id, _choice(b.selector, b.as_of), item.after.leaf)
        after = _entry(view, project, number, new, text=False)
        content = new.edit.content
    if before is None:
        kind = ChangeKind.ADDED
    elif flags & Flag.TEXT_HIDDEN and (
        after is None or after.rev_id != before.rev_id or not seen & Flag.TEXT_HIDDEN
    ):
        kind = ChangeKind.RETRACTED
    elif after is None:
        kind = ChangeKind.REMOVED
    else:
        moved = (before.namespace, before.title) != (after.namespace, after.title)
        if content == old_content and not moved and before.rev_id == after.rev_id:
            return None
        if before.rev_id == after.rev_id:
            kind = ChangeKind.MOVED if moved else ChangeKind.EDITED
        else:
            kind = ChangeKind.EDITED_AND_MOVED if moved else ChangeKind.EDITED
    return Change(kind, project, item.page_id, before, after)
