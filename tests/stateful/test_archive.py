"""The archive against a naive list of everything: the same random history, compared at each step."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from recension.archive import columns
from recension.archive.erase import erase_text
from recension.archive.reader import Archive
from recension.model.digest import digest_of
from recension.model.errors import AsOfOutOfRangeError, PageNotFoundError
from recension.model.event import Delete, Edit, Event, Move, Restore, Visibility
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import World, delete, edit, hide, move, restore

PAGES = st.integers(1, 4)
DAYS = st.integers(1, 6)
WHICH = st.integers(0, 39)
TITLES = st.sampled_from(["A", "B", "C"])
Known = tuple[int, int, Event]
"""(position, ordinal, event)"""


def naive(history: list[Known], page: int, time: int, known_at: int) -> tuple[int, str] | None:
    """Fold a page's events by the rules, the long way: (revision, title), or ``None`` without the page."""
    known = [(at, n, e) for at, n, e in history if at <= known_at and e.page_id == page]
    edits = sorted(
        ((e.time, e.what.rev_id, at, e.what) for at, _, e in known if isinstance(e.what, Edit)),
        key=lambda one: one[:3],
    )
    past = [one for one in edits if one[0] <= time]
    if not past:
        return None
    when, rev_id, _, current = past[-1]
    marks = sorted(
        ((e.time, at, n, e.what) for at, n, e in known if isinstance(e.what, Delete | Restore | Move)),
        key=lambda one: one[:3],
    )
    ends = [one for one in marks if one[0] <= time and not isinstance(one[3], Move)]
    if ends and isinstance(ends[-1][3], Delete) and when < ends[-1][0]:
        return None
    moves = [(one[0], one[3]) for one in marks if isinstance(one[3], Move)]
    before = [one for one in moves if one[0] <= time]
    if not current.title_inferred and (not before or when >= before[-1][0]):
        return rev_id, current.title
    if before:
        return rev_id, before[-1][1].to_title
    if moves:
        return rev_id, moves[0][1].from_title
    return rev_id, edits[-1][3].title


def hidden(history: list[Known], rev_id: int, known_at: int) -> bool:
    """Say whether a revision's text was hidden, as learned by K."""
    changes = [
        e.what.text_hidden
        for at, _, e in history
        if at <= known_at and isinstance(e.what, Visibility) and e.what.rev_id == rev_id
    ]
    return bool(changes) and changes[-1]


class Histories(RuleBasedStateMachine):
    """Random histories on the store in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.make_store())
        self.history: list[Known] = []
        self.revisions: dict[int, int] = {}
        self.erased: set[int] = set()
        self.snapshots: dict[bytes, list[tuple[int, str, int]]] = {}
        self.small = ExitStack()
        for name, value in (("_WORTHWHILE", 1), ("_SORTED", 9), ("PART", 3), ("LARGE", 12)):
            self.small.enter_context(patch.object(columns, name, value))

    def make_store(self) -> Store:
        return MemoryStore()

    def teardown(self) -> None:
        self.small.close()
        self.world.store.close()
        shutil.rmtree(self.folder)

    def append(self, event: Event) -> None:
        appended = self.world.add(event)
        if appended.accepted:
            self.history.append((appended.position, 0, event))

    @rule(page=PAGES, day=DAYS, title=TITLES, inferred=st.booleans(), rev=st.integers(1, 40))
    def edits(self, page: int, day: int, title: str, rev: int, *, inferred: bool) -> None:
        """A page is edited, at any time, by an id in any order."""
        if rev not in self.revisions:
            self.revisions[rev] = page
            self.append(self.world.event(page, day, edit(rev, f"text {rev}", title, inferred=inferred)))

    @rule(page=PAGES, day=DAYS, kind=st.sampled_from(["move", "delete", "restore"]), a=TITLES, b=TITLES)
    def marks(self, page: int, day: int, kind: str, a: str, b: str) -> None:
        """A page is moved, deleted or restored, at any time."""
        if page in self.revisions.values():
            what: Any = {"move": move(a, b), "delete": delete(a), "restore": restore(a)}[kind]
            self.append(self.world.event(page, day, what))

    @precondition(lambda self: self.revisions)
    @rule(which=WHICH, text=st.booleans())
    def hides(self, which: int, *, text: bool) -> None:
        """A revision's text is hidden or shown."""
        rev = self.one_of_them(which)
        self.append(self.world.event(self.revisions[rev], 1, hide(rev, text=text)))

    @precondition(lambda self: self.revisions)
    @rule(which=WHICH)
    def erases(self, which: int) -> None:
        """A revision's text is destroyed."""
        rev = self.one_of_them(which)
        with self.world.store.exclusive_writer():
            erase_text(self.world.store, digest_of(f"text {rev}".encode()))
        self.erased.add(rev)

    def one_of_them(self, which: int) -> int:
        return sorted(self.revisions)[which % len(self.revisions)]

    def text_of(self, rev: int) -> bytes | None:
        """Return what may be shown of a revision's text now."""
        concealed = rev in self.erased or hidden(self.history, rev, 2**60)
        return None if concealed else f"text {rev}".encode()

    @rule()
    def settles(self) -> None:
        """What came lately is put into event columns, of three events each."""
        self.world.ingestor.settle()

    @rule(page=PAGES, day=DAYS, back=st.integers(0, 8))
    def asks_for_a_page(self, page: int, day: int, back: int) -> None:
        """A page as of any (T, K) is what the list says."""
        known_at = max(1, self.world.archive.server_info().position - back)
        expected = naive(self.history, page, self.world.day(day), known_at)
        try:
            answer = self.world.archive.article("w", page, valid_at=self.world.day(day), known_at=known_at)
        except PageNotFoundError:
            assert expected is None
            return
        assert expected == (answer.revision.rev_id, answer.revision.title)
        slot = answer.revision.slot()
        assert slot is not None
        assert slot.text == self.text_of(answer.revision.rev_id)

    @rule(day=DAYS, back=st.integers(0, 8))
    def asks_for_the_corpus(self, day: int, back: int) -> None:
        """A snapshot as of any (T, K) is what the list says, page by page."""
        known_at = max(1, self.world.archive.server_info().position - back)
        time = self.world.day(day)
        expected = []
        for page in range(1, 5):
            one = naive(self.history, page, time, known_at)
            if one is not None and not hidden(self.history, one[0], known_at):
                expected.append((page, one[1], one[0]))
        try:
            snapshot_id = self.world.snapshot(day, known_at=known_at)
        except AsOfOutOfRangeError:
            assert not expected
            return
        assert expected == self.world.held(snapshot_id)
        self.snapshots[snapshot_id] = expected
        for entry in self.world.archive.entries(snapshot_id):
            alone = self.world.archive.article(
                "w", entry.page_id, valid_at=time, known_at=known_at, text=False
            )
            assert (entry.title_inferred, entry.slots) == (
                alone.revision.title_inferred,
                alone.revision.slots,
            )

    @rule()
    def reads_again(self) -> None:
        """A snapshot of before holds the same pages, with the texts that may be shown now."""
        for snapshot_id, expected in self.snapshots.items():
            read = list(self.world.archive.read(snapshot_id))
            assert expected == [(entry.page_id, entry.title, entry.rev_id) for entry in read]
            assert [entry.slots[0].text for entry in read] == [self.text_of(rev) for _, _, rev in expected]
            assert read == list(Archive(self.world.store).read(snapshot_id))

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every revision that was acknowledged is there."""
        assert self.world.archive.project("w").revisions == len(self.revisions)


class DurableHistories(Histories):
    """The same on LMDB."""

    def make_store(self) -> Store:
        return LmdbStore.open(self.folder / "data", create=True, force_mount=True)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=30)
TestDurableHistories = DurableHistories.TestCase
TestDurableHistories.settings = settings(max_examples=6, stateful_step_count=20)
