"""What each commit changes in a followed scope: its tree, brought from commit to commit.

The work of a commit is that of the pages it touches: one path of nodes each. What was made since the tree was
last in the store is held in memory, within bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from recension.archive.clock import Clock
from recension.archive.columns import logged
from recension.archive.commitments import basis_of
from recension.archive.entries import Entries
from recension.archive.history import Choice, choice_of, find_revision, namespaces_of, page_at, selects
from recension.archive.horizons import recorded_at
from recension.archive.keeping import Keeper
from recension.archive.pages import Pages
from recension.archive.pins import check_held
from recension.archive.projects import Numbers, tally_of
from recension.archive.recent import Recent
from recension.archive.sealed import SealedReader
from recension.archive.shown import with_texts
from recension.archive.snapshots import build_part, derive_part
from recension.archive.trees import Node, TreeReader, node_at
from recension.model.errors import AsOfOutOfRangeError, DataLossError, InvalidArgumentError
from recension.model.event import Visibility
from recension.model.manifest import AsOf, Manifest, ProjectPart, Selector
from recension.model.reading import Entry, TimelineItem
from recension.model.record import Kind, Skeleton, decode_commit, statements_of
from recension.model.retraction import UPSTREAM, Retraction, read_retraction
from recension.model.step import PageStep, Record
from recension.model.tree import EMPTY_NODE, EMPTY_ROOT, Leaf, children_of, find, level_of, update
from recension.store import keys
from recension.store.interface import Row, Store, View

STEP_PAGES = 256
"""Pages of a step; a commit of more takes several."""
STEP_TEXT = 2 * 1024 * 1024
"""Most text of a step, in bytes; what finds no room is left out."""
_EACH_TEXT = STEP_TEXT // 2
"""Of one page."""
_HELD_NODES = 32_768
"""Tree nodes that a scope holds in memory: 25 MB at most. Beyond half of them they go into the store."""
_SLICE = 256
_PARTS = 256
"""Scopes of which it is remembered where their tree was made last."""


class Step(NamedTuple):
    """What a commit changes, or a part of that."""

    position: int
    recorded_at: int
    previous_root: bytes
    root: bytes
    pages: tuple[PageStep, ...]
    nodes: dict[bytes, bytes]
    """By digest: those of the tree before that show how the one root follows from the other."""
    made: frozenset[bytes]
    """Digests of the nodes that follow from it."""
    events: tuple[tuple[int, Skeleton], ...]
    """(ordinal, event) of the commit, those of its pages."""
    continued: bool
    """More of the same commit follows."""
    bridge: bool
    retraction: Retraction | None = None

    @property
    def reason(self) -> str:
        """Why the revisions of its visibility events are withdrawn; empty without such an event."""
        if all(event.kind is not Kind.VISIBILITY for _, event in self.events):
            return ""
        return UPSTREAM if self.retraction is None else self.retraction.reason.value


class Told(NamedTuple):
    """A step, and what its skeletons and records stand for."""

    step: Step
    events: list[TimelineItem]
    entries: list[Entry | None]
    """One for each page; ``None`` where the scope does not hold it any more."""
    namespaces: Mapping[int, frozenset[int]]
    """Of revisions that visibility events are about: the namespaces that their page was in with them."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What is followed: a selector of one project, at one T."""

    selector: Selector
    valid_at: int
    """T, microseconds since the epoch."""

    @property
    def project(self) -> str:
        """The project."""
        return self.selector.projects[0]

    def choice(self, position: int) -> Choice:
        """Return what is taken of a page's history known at a position."""
        return choice_of(self.selector, AsOf(self.valid_at, position))

    def manifest(self, position: int) -> Manifest:
        """Return what stands for a snapshot of it, which nobody made."""
        return Manifest(self.selector, AsOf(self.valid_at, position), ())


def check_followed(selector: Selector) -> None:
    """Refuse what is no scope. Raises ``InvalidArgumentError``."""
    if len(selector.projects) != 1:
        raise InvalidArgumentError(
            f"{len(selector.projects)} projects in one scope",
            hint="follow each project by a stream of its own",
            field="selector.projects",
        )
    if selector.min_age_seconds:
        raise InvalidArgumentError(
            "changes are followed as they become known, not when they have settled",
            hint="leave min_age out",
            field="selector.min_age",
        )


class _Made(NamedTuple):
    """A scope's part of a snapshot that nobody keeps."""

    position: int
    part: ProjectPart
    removed: bytes | None
    """Newest removal before it was made: since then nothing of its tree was."""


class Changes:
    """Reads what commits change. Safe for concurrent use; the trees it makes are for one thread each."""

    def __init__(self, store: Store, clock: Clock, numbers: Numbers) -> None:
        self._store = store
        self._number = numbers.of
        self._keeper = Keeper(store, clock, numbers)
        self._pages = Pages(store, clock, numbers)
        self._entries = Entries(store, numbers)
        self._parts: dict[Followed, _Made] = {}
        """Trees that were made last."""

    def recorded_at(self, position: int) -> int:
        """Return when a commit was recorded, microseconds since the epoch."""
        with self._store.view() as view:
            return recorded_at(view, position)

    def head(self) -> int:
        """Return the newest position."""
        with self._store.view() as view:
            return view.head().position

    def withdrawn(self, project: str, after: int, upto: int) -> bool:
        """Say whether the visibility of anything was changed behind a position, up to another."""
        with self._store.view() as view:
            number = self._number(view, project)
        commits = logged(self._store, number, after, upto)
        return any(event.kind is Kind.VISIBILITY for _, events in commits for _, event in events)

    def tree_at(self, what: Followed, position: int, held: int = 0, *, anew: bool = False) -> ScopeTree:
        """Return the tree of a scope as known at a position.

        As much work as making a snapshot: little where one with its selector was made not long ago.
        ``held``: nodes that it has in memory at most, if not as many as one that is shared.
        ``anew``: of all pages, whatever there is. Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``.
        """
        with self._store.view() as view:
            number = self._number(view, what.project)
            newest = view.head().position
            known, _ = tally_of(view, number, position)
            removed = view.get(keys.removed())
        if not 0 <= position <= newest:
            raise AsOfOutOfRangeError(
                f"nothing is known at position {position}; the newest is {newest}",
                hint="the store is an older one, or the position is another server's",
                knownAt=position,
                newest=newest,
            )
        root = EMPTY_ROOT
        if known:
            part = None if anew else self._derived(what, number, known, removed)
            part = part or build_part(self._store, what.project, number, what.selector, what.choice(known))
            self._remember(what, _Made(known, part, removed))
            root = part.root
        return ScopeTree(self._store, what, number, root, position, held or _HELD_NODES)

    def _derived(
        self, what: Followed, number: int, position: int, removed: bytes | None
    ) -> ProjectPart | None:
        """Return a scope's part at a position by what changed since the last that was made, or a snapshot."""
        held = self._parts.get(what)
        if held is None or held.removed != removed:
            return self._keeper.part(what.project, what.selector, AsOf(what.valid_at, position))
        before, after = what.choice(held.position), what.choice(position)
        return derive_part(self._store, held.part, number, what.selector, before, after)

    def _remember(self, what: Followed, made: _Made) -> None:
        if len(self._parts) >= _PARTS:
            self._parts.clear()
        self._parts[what] = made

    def tree_of(self, what: Followed, snapshot_id: bytes, held: int = 0) -> ScopeTree:
        """Return the tree of a scope's project in a snapshot; ``bridge`` leads from there to the scope.

        ``held``: as of ``tree_at``. Raises ``SnapshotNotFoundError``, ``SnapshotReleasedError``,
        ``InvalidArgumentError``.
        """
        manifest = self._keeper.snapshot(snapshot_id)
        part = next((part for part in manifest.parts if part.project == what.project), None)
        if part is None or _plain(manifest.selector, what.project) != what.selector:
            raise InvalidArgumentError(
                "the selector is not that of the snapshot",
                hint="take the snapshot's own, with one of its projects and without min_age",
                field="selector",
            )
        with self._store.view() as view:
            check_held(view, snapshot_id)
            number = self._number(view, what.project)
        return ScopeTree(self._store, what, number, part.root, manifest.as_of.known_at, held or _HELD_NODES)

    def told(self, what: Followed, step: Step, *, text: bool) -> Told:
        """Return what a step stands for, as it may be told by now."""
        with self._store.view() as view:
            events = list(self._pages.brought(view, what.project, step.position, step.events))
            named = self._named(view, what, events)
            events = [item for item in events if _is_selected(what, item, named)]
            # A bridge's records are of T, too: only its first root is the snapshot's.
            opener = self._entries.opener(view, what.project, what.manifest(step.position))
            leaves = [Leaf(page, *after) for page, _, after in step.pages if after is not None]
            found = [held.entry for held in opener.open(leaves)]
            if text:
                found = _with_texts(view, found)
        each = iter(found)
        entries = [None if page.after is None else next(each) for page in step.pages]
        return Told(step, events, entries, named)

    def _named(self, view: View, what: Followed, events: Iterable[TimelineItem]) -> dict[int, frozenset[int]]:
        number = self._number(view, what.project)
        named = {}
        for item in events:
            if isinstance(item.what, Visibility):
                edit = find_revision(view, number, item.what.rev_id, item.position)
                if edit is not None:
                    named[edit.rev] = namespaces_of(view, number, edit, item.position)
        return named


def _is_selected(what: Followed, item: TimelineItem, named: Mapping[int, frozenset[int]]) -> bool:
    """Say whether an event is of the scope: those of pages that it held or holds are."""
    chosen = what.selector.namespaces
    if not isinstance(item.what, Visibility) or not chosen:
        return True
    return not named.get(item.what.rev_id, frozenset()).isdisjoint(chosen)


def _with_texts(view: View, entries: list[Entry]) -> list[Entry]:
    """Return entries with their texts, as far as there is room."""
    sizes = [sum(slot.size_bytes for slot in entry.slots) for entry in entries]
    room, chosen = STEP_TEXT, []
    for at, size in enumerate(sizes):
        if size <= min(room, _EACH_TEXT):
            room -= size
            chosen.append(at)
    out = list(entries)
    for at, slots in zip(chosen, with_texts(view, [entries[at].slots for at in chosen]), strict=True):
        out[at] = out[at]._replace(slots=slots)
    return out


def _plain(selector: Selector, project: str) -> Selector:
    """Return the selector of the scope that goes on from a snapshot's."""
    return Selector(
        (project,), selector.namespaces, selector.models, selector.redirects, on_hidden=selector.on_hidden
    )


@dataclass(slots=True)
class ScopeTree:
    """The tree of a scope at a position, which only grows. For one thread."""

    _store: Store
    _what: Followed
    _number: int
    root: bytes
    position: int
    _held: int
    """Nodes in memory at most."""
    _made: dict[bytes, bytes] = field(default_factory=dict)
    """Nodes that may not be in the store, by digest."""

    def bridge(self, target: bytes) -> Iterator[Step]:
        """Yield what leads from the snapshot that the tree is of to the scope at its K, with its root."""
        choice = self._what.choice(self.position)
        before, start = self.root, 0
        while self.root != target:
            with self._store.view() as view:
                differ = TreeReader(view, Recent[Node](_SLICE)).differences(before, target, start)
                found: set[int] = set()
                for sides in differ:
                    found.update(leaf.page_id for leaf in chain(*sides))
                    if len(found) >= STEP_PAGES:
                        break
                pages = sorted(found)
                if not pages:
                    raise DataLossError("a scope has another root than its pages make")
                step, _ = self._step(view, pages, choice, recorded_at(view, self.position))
            start = pages[-1]
            yield step._replace(bridge=True, continued=self.root != target)

    def steps(self, upto: int) -> Iterator[Step]:
        """Yield what the commits up to a position change, and move there."""
        while self.position < upto:
            start, stop = keys.tally(self._number, self.position + 1), keys.tally(self._number, upto + 1)
            with self._store.view() as view:
                rows = view.scan(start, stop, limit=_SLICE)
            for key, _ in rows:
                position = keys.read_tally(key)
                yield from self._commit(position)
                self.position = position
            if len(rows) < _SLICE:
                self.position = upto

    def _commit(self, position: int) -> Iterator[Step]:
        (record,) = self._store.log.read(position, 1)
        commit = decode_commit(record)
        said = [read_retraction(one.payload) for _, one in statements_of(record, {Kind.RETRACTION})]
        events: dict[int, list[tuple[int, Skeleton]]] = {}
        for ordinal, item in enumerate(commit.items):
            if isinstance(item, Skeleton) and item.page_id:
                events.setdefault(item.page_id, []).append((ordinal, item))
        pages = sorted(events)
        choice = self._what.choice(position)
        for at in range(0, len(pages), STEP_PAGES):
            some = pages[at : at + STEP_PAGES]
            with self._store.view() as view:
                step, inside = self._step(view, some, choice, commit.recorded_at)
            told = (
                event
                for page in some
                for event in events[page]
                if page in inside or event[1].kind is Kind.VISIBILITY
            )
            continued = at + STEP_PAGES < len(pages)
            if not continued:
                self.position = position  # also for whoever takes no step behind this one
            yield step._replace(
                position=position,
                events=tuple(sorted(told, key=itemgetter(0))),
                continued=continued,
                retraction=said[0] if said else None,
            )

    def _step(self, view: View, pages: Sequence[int], choice: Choice, when: int) -> tuple[Step, set[int]]:
        """Move the tree to what some pages, ascending, are; return it, and which pages it held or holds."""
        near: dict[bytes, bytes] = {}

        def get(digest: bytes) -> bytes:
            node = near.get(digest)
            if node is None:
                node = near[digest] = self._node(view, digest)
            return node

        values = SealedReader(view)
        inside, changed = set(), []
        for page in pages:
            state = page_at(view, self._number, page, choice)
            after = None
            if state is not None and selects(self._what.selector, state):
                after = Record(state.edit.rev, basis_of(values, state).leaf)
            held = find(self.root, page, get)
            before = None if held is None else Record(held.rev_id, held.leaf)
            if before is not None or after is not None:
                inside.add(page)
            if before != after:
                changed.append(PageStep(page, before, after))
        needed: dict[bytes, bytes] = {}
        made: dict[bytes, bytes] = {}

        def need(digest: bytes) -> bytes:
            needed[digest] = node = get(digest)
            return node

        root = self.root
        if changed:
            for page, _, _ in changed:
                find(root, page, need)
            changes = [(page, None if after is None else (*after,)) for page, _, after in changed]
            root, _ = update(root, changes, need, made.__setitem__)
            needed.pop(EMPTY_ROOT, None)
        step = Step(
            self.position, when, self.root, root, tuple(changed), needed, frozenset(made), (),
            continued=False, bridge=False,
        )  # fmt: skip
        self._made |= made
        self.root = root
        if len(self._made) > self._held:
            self._settle()
        return step, inside

    def _node(self, view: View, digest: bytes) -> bytes:
        if digest == EMPTY_ROOT:
            return EMPTY_NODE
        return self._made.get(digest) or node_at(view, digest)

    def _settle(self) -> None:
        """Forget the nodes of earlier trees; put the others into the store if they are many."""
        self._made = {digest: self._made[digest] for digest in self._own(self.root)}
        if len(self._made) > self._held // 2:
            rows: list[Row] = sorted((keys.node(digest), node) for digest, node in self._made.items())
            self._store.put_derived(iter(rows))
            self._made.clear()

    def _own(self, digest: bytes) -> Iterable[bytes]:
        """Yield the digests of the nodes below one that are held in memory."""
        node = self._made.get(digest)
        if node is not None:
            yield digest
            for child in children_of(node) if level_of(node) else ():
                yield from self._own(child.digest)
