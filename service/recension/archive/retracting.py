"""Retracting: what would be withdrawn, the commit that hides it from every reader, the erasure behind it.

Revisions are withdrawn, not texts: one that holds the same text and was not withdrawn keeps it, and the plan
names it. A text that no visible revision holds any more is erased wherever it is named.

A plan is made anew from the store each time, and says what is left to do. So whoever is killed anywhere does
the same again: first the commits that hide, then the texts, then the sealed values that name them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from secrets import token_bytes
from typing import NamedTuple

from recension.archive.clock import Clock, Salts, random_salts, system_clock
from recension.archive.erase import Purge, erase_texts, pages_holding, purge_fields
from recension.archive.history import edit_row, hidden_flags
from recension.archive.ingest import append_commit
from recension.archive.prepared import Prepared, prepare
from recension.archive.projects import definition_of, project_number
from recension.archive.replay import LABELS, commit_rows
from recension.archive.rows import HIDDEN, EditRow, read_edit_value, read_page_value, read_visibility
from recension.archive.sealed import (
    CONTENT_FIELD,
    Sealed,
    each_sealed,
    find_sealed,
    pack_sealed,
    sealed_blobs,
)
from recension.model.errors import (
    CaseNotFoundError,
    ContributorNotFoundError,
    DataLossError,
    InvalidArgumentError,
    PageNotFoundError,
    RevisionNotFoundError,
    StoreFailedError,
)
from recension.model.event import MAX_ID, Event, Presence, Visibility
from recension.model.record import Commit, Flag, Kind, Skeleton, Statement, decode_commit
from recension.model.retraction import (
    ID_BYTES,
    Part,
    Reason,
    Retraction,
    check_case,
    flags_of,
    make_retraction,
    read_retraction,
)
from recension.model.seal import read_content, read_contributor
from recension.store import keys
from recension.store.interface import Row, Store, View

MAX_TOGETHER = 20_000
"""Revisions that one commit hides: some 3 MB of log record. More take several, each whole in itself."""
_SLICE = 2000
_RACES = 100
_NEWEST = keys.END - 1
_FIELDS = {Part.CONTRIBUTOR: 1, Part.COMMENT: 2, Part.TEXT: CONTENT_FIELD}
"""Of an edit's sealed fields, those that a part is."""
_EDIT_LABELS = LABELS[Kind.EDIT]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked to be withdrawn of a project. At least one of them."""

    revisions: frozenset[int] = frozenset()
    pages: frozenset[int] = frozenset()
    contributors: frozenset[str] = frozenset()
    """Exact names: all revisions of each."""


class Place(NamedTuple):
    """A revision."""

    number: int
    """Of its project."""
    page: int
    rev: int


@dataclass(slots=True)
class Target:
    """A revision that is to be withdrawn."""

    place: Place
    events: list[tuple[int, int]] = field(default_factory=list)
    """(position, ordinal) of each edit that brought it."""
    text_bytes: int = 0
    masked: bool = False
    """Whether a retraction hides all that is to be hidden already."""
    purged: bool = True
    """Whether all that is to be destroyed is gone already."""
    texts: set[bytes] = field(default_factory=set)
    """Digests of its texts that are still known; the empty text is no secret."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.masked and self.purged


@dataclass(slots=True)
class Plan:
    """What a retraction will do, as the store is now."""

    project: str
    parts: tuple[Part, ...]
    targets: dict[tuple[int, int], Target] = field(default_factory=dict)
    """By (project number, revision id)."""
    erased: dict[bytes, int] = field(default_factory=dict)
    """Texts that no visible revision will hold, and their bytes."""
    holders: dict[bytes, list[Place]] = field(default_factory=dict)
    """Texts that stay, and the revisions that keep them."""
    hidden_holders: list[tuple[Place, tuple[int, int]]] = field(default_factory=list)
    """Revisions that are hidden already and lose their content with an erased text; (position, ordinal)."""

    @property
    def left(self) -> list[Target]:
        """What is not done yet, by project and revision."""
        return [target for _, target in sorted(self.targets.items()) if not target.is_done]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure has destroyed."""

    texts: int = 0
    fields: int = 0
    """Sealed values."""


class Values(NamedTuple):
    """What an erasure destroys or leaves, by which it is looked for once the file was written anew.

    All of 16 bytes: digests are cut.
    """

    texts: set[bytes]
    """Digests of texts that are destroyed."""
    salts: set[bytes]
    """Salts that are destroyed."""
    kept: set[bytes]
    """Digests of texts that stay."""


Keep = Callable[[int, Values], None]
"""Told the position of a retraction and the values that are about to be destroyed for it. What it does with
them has to be durable when it returns."""


def _keep_nothing(position: int, values: Values) -> None:
    """Nobody will look."""


def _new_id() -> bytes:
    return token_bytes(ID_BYTES)


class Retractor:
    """Withdraws what a store holds. One thread."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock = system_clock,
        salts: Salts = random_salts,
        keep: Keep = _keep_nothing,
        new_id: Callable[[], bytes] = _new_id,
    ) -> None:
        """``keep`` is told what is about to be destroyed; salts and ids are injected for tests alone."""
        self._new_id = new_id
        self._store = store
        self._clock = clock
        self._salts = salts
        self._keep = keep

    # --- planning -------------------------------------------------------------------------------

    def plan(
        self,
        project: str,
        wanted: Wanted,
        parts: Iterable[Part] = (Part.TEXT, Part.COMMENT),
        *,
        everywhere: bool = False,
        around: bool = True,
        tell: Callable[[int], None] = lambda _: None,
    ) -> Plan:
        """Return what withdrawing would do; reads alone.

        ``everywhere`` takes in all revisions, of all projects, that hold one of the texts. Without ``around``
        it is left to ``look_around`` to say which texts stay: what hides needs not know. ``tell`` is told
        how many edits were read: to find a contributor reads all of a project. Raises
        ``ProjectNotFoundError``, ``RevisionNotFoundError``, ``PageNotFoundError``,
        ``ContributorNotFoundError``, ``InvalidArgumentError``.
        """
        plan = Plan(project, tuple(sorted(set(parts))))
        if not plan.parts:
            raise InvalidArgumentError("parts: nothing of the revisions is named", field="parts")
        with self._store.view() as view:
            number = project_number(view, project)
        for rev in sorted(wanted.revisions):
            self._add_revision(plan, number, rev)
        for page in sorted(wanted.pages):
            self._add_page(plan, number, page)
        if wanted.contributors:
            self._add_contributors(plan, number, wanted.contributors, tell)
        if around or everywhere:
            self.look_around(plan)
        if everywhere:
            while plan.holders:
                for place in sorted({place for places in plan.holders.values() for place in places}):
                    self._add_revision(plan, place.number, place.rev)
                self.look_around(plan)
        return plan

    def plan_of(self, position: int) -> tuple[Retraction, Plan]:
        """Return what is left to do of the retraction that was recorded at a position."""
        commit = self._commit(position)
        statement = retraction_in(commit)
        plan = Plan(statement.project, statement.parts)
        with self._store.view() as view:
            number = project_number(view, statement.project)
        for item in commit.items:
            if isinstance(item, Skeleton):
                self._add_revision(plan, number, item.rev_id)
        self.look_around(plan)
        return statement, plan

    def _commit(self, position: int) -> Commit:
        records = self._store.log.read(position, 1)
        if not records:
            raise DataLossError(f"commit {position} is missing", position=position)
        return decode_commit(records[0])

    def _add_revision(self, plan: Plan, number: int, rev: int) -> None:
        if not 0 < rev <= MAX_ID:
            raise InvalidArgumentError(f"{rev} is no revision id", field="revision")
        with self._store.view() as view:
            rows = view.scan(keys.revision(number, rev), keys.revision(number, rev + 1))
            if not rows:
                raise RevisionNotFoundError(f"no revision {rev} in {plan.project!r}", revId=rev)
            for key, value in rows:
                page, time = read_page_value(value)
                _, position, ordinal = keys.read_revision(key)
                row = keys.edit(number, page, time, rev, position, ordinal)
                edit = view.get(row)
                if edit is None:
                    raise DataLossError(f"revision {rev} is not in its page's timeline", revId=rev)
                self._add(view, plan, number, edit_row((row, edit)), find_sealed(view, position, ordinal))

    def _add_page(self, plan: Plan, number: int, page: int) -> None:
        found = 0

        def see(view: View, edit: EditRow, sealed: Sealed) -> None:
            nonlocal found
            found += 1
            self._add(view, plan, number, edit, sealed)

        if 0 < page <= MAX_ID:
            self._each_edit(*_page(number, page), see)
        if not found:
            raise PageNotFoundError(f"no page {page} in {plan.project!r}", pageId=page)

    def _add_contributors(
        self, plan: Plan, number: int, names: frozenset[str], tell: Callable[[int], None]
    ) -> None:
        found: set[str] = set()
        revisions: set[int] = set()

        def see(_view: View, edit: EditRow, sealed: Sealed) -> None:
            value = sealed.values[_FIELDS[Part.CONTRIBUTOR]]
            contributor = None if value is None else read_contributor(value)
            if contributor and contributor.presence is Presence.PRESENT and contributor.name in names:
                found.add(contributor.name)
                revisions.add(edit.rev)

        self._each_edit(keys.edits_from(number, 0), keys.edits_to(number), see, tell)
        for name in sorted(names - found):
            raise ContributorNotFoundError(
                f"no revision in {plan.project!r} names the contributor {name[:200]!r}",
                hint="names are compared exactly; one that was withdrawn is not known any more",
            )
        for rev in sorted(revisions):
            self._add_revision(plan, number, rev)

    def _each_edit(
        self,
        start: bytes,
        stop: bytes,
        see: Callable[[View, EditRow, Sealed], None],
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Show each edit of a range with its sealed values, some thousand in one view."""
        while True:
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
                edits = sorted(map(edit_row, rows), key=attrgetter("position", "ordinal"))
                events = [(edit.position, edit.ordinal) for edit in edits]
                for edit, sealed in zip(edits, each_sealed(view, events), strict=True):
                    see(view, edit, sealed)
            tell(len(rows))
            if len(rows) < _SLICE:
                return
            start = rows[-1][0] + b"\0"

    def _add(self, view: View, plan: Plan, number: int, edit: EditRow, sealed: Sealed) -> None:
        target = plan.targets.get((number, edit.rev))
        if target is None:
            flags = withdrawn_flags(view, number, edit.rev)
            wanted = flags_of(plan.parts)
            target = Target(Place(number, edit.page, edit.rev), masked=flags & wanted == wanted)
            plan.targets[number, edit.rev] = target
        event = edit.position, edit.ordinal
        if event in target.events:
            return
        target.events.append(event)
        target.text_bytes = max(target.text_bytes, edit.text_bytes)
        if any(sealed.values[_FIELDS[part]] is not None for part in plan.parts):
            target.purged = False
        content = sealed.values[CONTENT_FIELD]
        if content is not None and Part.TEXT in plan.parts:
            target.texts |= _sizes(content).keys()

    def look_around(self, plan: Plan) -> None:
        """Find out which texts stay, and with whom: reads all revisions of the pages that hold one."""
        plan.erased, plan.holders, plan.hidden_holders = {}, {}, []
        texts = {text for target in plan.targets.values() for text in target.texts}
        pages: set[tuple[int, int]] = set()
        for text in texts:
            with self._store.view() as view:
                pages.update(pages_holding(view, text))
        hidden: list[tuple[Place, tuple[int, int], set[bytes]]] = []
        sizes: dict[bytes, int] = {}

        def see(view: View, edit: EditRow, sealed: Sealed) -> None:
            content = sealed.values[CONTENT_FIELD]
            held = {} if content is None else _sizes(content)
            both = texts & held.keys()
            if not both:
                return
            sizes.update(held)
            if (number, edit.rev) in plan.targets:
                return
            place = Place(number, edit.page, edit.rev)
            if hidden_flags(view, number, edit.rev, edit.hidden, _NEWEST) & Flag.TEXT_HIDDEN:
                hidden.append((place, (edit.position, edit.ordinal), both))
                return
            for text in both:
                plan.holders.setdefault(text, []).append(place)

        for number, page in sorted(pages):
            self._each_edit(*_page(number, page), see)
        plan.erased = {text: sizes.get(text, 0) for text in texts if text not in plan.holders}
        plan.hidden_holders = [(place, event) for place, event, both in hidden if both & plan.erased.keys()]

    def positions(self, plan: Plan) -> list[int]:
        """Return the positions of the retractions that hide what is left of a plan."""
        with self._store.view() as view:
            found = {withdrawn_at(view, one.place.number, one.place.rev) for one in plan.left}
        return sorted(found - {0})

    # --- hiding ---------------------------------------------------------------------------------

    def mask(self, plan: Plan, case: str, reason: Reason, *, escrow: bytes = b"") -> list[int]:
        """Hide what a plan names from every reader; return the positions of the commits that do.

        Durable, and in every answer that begins a view, when it returns. What is hidden already is left
        alone; without anything else there is no commit. Needs no right to write in bulk: an ingest may run.
        """
        check_case(case)
        positions = []
        masked = [target for target in plan.left if not target.masked]
        for number, some in groupby(masked, key=lambda target: target.place.number):
            targets = list(some)
            for at in range(0, len(targets), MAX_TOGETHER):
                part = targets[at : at + MAX_TOGETHER]
                with self._store.view() as view:
                    project = definition_of(view, number).name
                statement = make_retraction(
                    self._new_id(), case, reason, project, plan.parts, len(part), escrow=escrow
                )
                flags = flags_of(plan.parts)
                positions.append(self.change(statement, [(one.place, flags) for one in part]))
                for one in part:
                    one.masked = True
        return positions

    def change(self, statement: Retraction, changes: Sequence[tuple[Place, int]]) -> int:
        """Record a retraction, or that one is taken back, and what is hidden of each revision from now on.

        To the flags of a retraction those of what is hidden already are added. Returns the position.
        """
        for _ in range(_RACES):
            head = self._store.log.head()
            position = head.position + 1
            with self._store.view() as view:
                now = max(self._clock(), head.recorded_at + 1)
                made = []
                for place, flags in changes:
                    known = 0 if statement.reverses else _flags(view, place)
                    made.append(self._visibility(statement, place, now, known | flags))
                said = Statement(Kind.RETRACTION, statement.encoded)
                events = [event.skeleton for event, _ in made]
                commit = Commit(position, now, head.hash, statement.project, (*events, said))
                rows = commit_rows(view, commit, [()] * len(events))
            del rows[keys.recorded(position)]
            blobs: list[Row] = sealed_blobs(position, pack_sealed([sealed for _, sealed in made]))
            project, all_ = statement.project, list(commit.items)
            if append_commit(self._store, head, self._clock, project, all_, rows, blobs):
                return position
        raise StoreFailedError("the store is too busy to record a retraction", hint="try again")

    def _visibility(
        self, statement: Retraction, place: Place, now: int, flags: int
    ) -> tuple[Prepared, Sealed]:
        what = Visibility(
            place.rev,
            text_hidden=bool(flags & Flag.TEXT_HIDDEN),
            comment_hidden=bool(flags & Flag.COMMENT_HIDDEN),
            contributor_hidden=bool(flags & Flag.CONTRIBUTOR_HIDDEN),
        )
        source = f"retraction:{statement.id.hex()}:{place.rev}"
        return prepare(Event(statement.project, place.page, now, source, what), self._salts)

    # --- taking back ----------------------------------------------------------------------------

    def reversible(self, case: str, escrow: bytes) -> list[tuple[int, Retraction]]:
        """Return the retractions of a case whose bundle has that digest and that were not taken back.

        Raises ``CaseNotFoundError``.
        """
        with self._store.view() as view:
            found = [(position, one) for position, one in _standing(view, case) if one.escrow == escrow]
        if not found:
            raise CaseNotFoundError(
                f"no retraction of case {case[:200]!r} that this bundle is of, and that was not taken back",
                hint="list them with: recension-server retractions list",
            )
        return found

    def take_back(self, position: int) -> int:
        """Show again what the retraction at a position hid, as far as nothing else hides it.

        Returns the position of the commit. What was erased has to be put back before.
        """
        commit = self._commit(position)
        said = retraction_in(commit)
        changes = []
        with self._store.view() as view:
            number = project_number(view, said.project)
            for item in commit.items:
                if isinstance(item, Skeleton):
                    place = Place(number, item.page_id, item.rev_id)
                    changes.append((place, flags_before(view, place, position)))
        reversal = make_retraction(
            self._new_id(), said.case, said.reason, said.project, said.parts, len(changes), reverses=said.id
        )
        return self.change(reversal, changes)

    # --- erasing --------------------------------------------------------------------------------

    def erase(self, plan: Plan) -> Erasure:
        """Destroy what a plan names; its pages keep the bytes until the store is compacted.

        For the holder of ``store.exclusive_writer()``. Every target has to be masked.
        """
        left = plan.left
        purges: list[Purge] = []
        hidden: list[Purge] = []
        values: dict[int, Values] = {}
        fields = tuple(_FIELDS[part] for part in plan.parts)
        for target in left:
            with self._store.view() as view:
                position = withdrawn_at(view, target.place.number, target.place.rev)
                if not position:
                    raise StoreFailedError("a revision is erased before it is hidden")
                some = values.setdefault(position, Values(set(), set(), set()))
                for event in target.events:
                    purges.append((*event, fields))
                    some.salts.update(_salts_of(find_sealed(view, *event), fields))
            some.texts.update(text[:16] for text in target.texts & plan.erased.keys())
            some.kept.update(text[:16] for text in target.texts & plan.holders.keys())
        for _, event in plan.hidden_holders:
            with self._store.view() as view:
                hidden.append((*event, (CONTENT_FIELD,)))
                next(iter(values.values())).salts.update(
                    _salts_of(find_sealed(view, *event), (CONTENT_FIELD,))
                )
        for position, some in values.items():
            self._keep(position, some)
        # What names a text goes after it, or a kill between would leave a text that nobody knows of. Only of
        # revisions that were withdrawn may a text be missing (``archive.check``), so the others come first.
        fields_gone = purge_fields(self._store, hidden)
        texts = erase_texts(self._store, plan.erased.keys())
        return Erasure(texts, fields_gone + purge_fields(self._store, purges))


def flags_before(view: View, place: Place, position: int) -> int:
    """Return what is hidden of a revision but for the commit at a position, which is a retraction.

    A change that came later has what the retraction hides among its flags, so what it means by itself is
    not known: then all of it stays hidden.
    """
    start = keys.visibility(place.number, place.rev)
    later = view.last(
        keys.visibility(place.number, place.rev, position + 1), keys.visibility(place.number, place.rev + 1)
    )
    if later is not None:
        return read_visibility(later[1])[0]
    before = view.last(start, keys.visibility(place.number, place.rev, position))
    return _own_flags(view, place) if before is None else read_visibility(before[1])[0]


def retraction_in(commit: Commit) -> Retraction:
    """Return the retraction that a commit records. Raises ``InvalidArgumentError`` if it records none."""
    for item in commit.items:
        if isinstance(item, Statement) and item.kind is Kind.RETRACTION:
            return read_retraction(item.payload)
    raise InvalidArgumentError(f"commit {commit.position} records no retraction", field="position")


def retractions(view: View, after: int = 0) -> Iterator[tuple[int, Retraction]]:
    """Yield all retractions, and what took them back, with their positions, in the order of the log."""
    for key, payload in view.scan(keys.retraction(after + 1), keys.retraction(keys.END)):
        try:
            yield int.from_bytes(key[1:], "big"), read_retraction(payload)
        except InvalidArgumentError as error:
            raise DataLossError(f"a retraction is damaged: {error.message}") from None


def places_of(store: Store, case: str) -> list[Place]:
    """Return the revisions that a case has withdrawn, but for what was taken back.

    Raises ``CaseNotFoundError``.
    """
    with store.view() as view:
        found = _standing(view, case)
        numbers = {one.project: project_number(view, one.project) for _, one in found}
    if not found:
        raise CaseNotFoundError(
            f"no retraction of case {case[:200]!r} that was not taken back",
            hint="list them with: recension-server retractions list",
        )
    return [
        Place(numbers[one.project], item.page_id, item.rev_id)
        for position, one in found
        for item in decode_commit(store.log.read(position, 1)[0]).items
        if isinstance(item, Skeleton)
    ]


def _standing(view: View, case: str) -> list[tuple[int, Retraction]]:
    """Return the retractions of a case that were not taken back, with their positions."""
    all_ = list(retractions(view))
    reversed_ = {one.reverses for _, one in all_}
    return [
        (position, one)
        for position, one in all_
        if one.case == case and not one.reverses and one.id not in reversed_
    ]


def withdrawn_flags(view: View, number: int, rev: int) -> int:
    """Return what a retraction hides of a revision; 0 without one, or once it was taken back."""
    row = view.last(keys.withdrawn(number, rev), keys.withdrawn(number, rev + 1))
    return 0 if row is None else row[1][0]


def withdrawn_at(view: View, number: int, rev: int) -> int:
    """Return the position of the newest retraction of a revision; 0 without one."""
    row = view.last(keys.withdrawn(number, rev), keys.withdrawn(number, rev + 1))
    return 0 if row is None or not row[1][0] else keys.read_withdrawn(row[0])[1]


def _flags(view: View, place: Place) -> int:
    """Return what is hidden of a revision now."""
    return hidden_flags(view, place.number, place.rev, _own_flags(view, place), _NEWEST)


def _own_flags(view: View, place: Place) -> int:
    """Return what was hidden of a revision as it came."""
    row = view.last(keys.revision(place.number, place.rev), keys.revision(place.number, place.rev + 1))
    if row is None:
        return 0
    page, time = read_page_value(row[1])
    _, position, ordinal = keys.read_revision(row[0])
    edit = view.get(keys.edit(place.number, page, time, place.rev, position, ordinal))
    return 0 if edit is None else read_edit_value(edit)[0] & HIDDEN


def _page(number: int, page: int) -> tuple[bytes, bytes]:
    return keys.edits_from(number, page), keys.edits_from(number, page + 1)


def _sizes(content: bytes) -> dict[bytes, int]:
    """Return the texts that a content names, but the empty one, and their bytes."""
    return {
        slot.digest: slot.size_bytes
        for slot in read_content(content)
        if slot.presence is Presence.PRESENT and slot.size_bytes
    }


def _salts_of(sealed: Sealed, fields: Collection[int]) -> set[bytes]:
    """Return the salts that will be destroyed with some fields: those of the fields, and the event's."""
    sealings = sealed.sealings(range(len(_EDIT_LABELS)), _EDIT_LABELS)
    own = {salt for at, (salt, _) in enumerate(sealings) if at in fields and salt}
    return own | ({sealed.salt} if sealed.salt else set())
