"""The text engine against a plain dictionary: whatever order texts come in, each is read back or is gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recension.archive.erase import erase_text
from recension.archive.ingest import Ingestor
from recension.archive.intake import frames, paging
from recension.archive.intake.frames import Batch, unpack_batch
from recension.archive.intake.paging import Paging
from recension.archive.reader import Archive
from recension.archive.texts import block, sealing, writing
from recension.archive.texts.block import read_block
from recension.model.digest import digest_of
from recension.model.event import Event, Presence
from recension.sources.items import Progress
from recension.store import keys
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, World, edit, fixed_salts

SMALL = {"BLOCK_BYTES": 400, "BLOCK_TEXTS": 6}
LAYOUT = {"BLOCK_BYTES": 400, "FRAME_BYTES": 100, "GROUP": 2, "LONE_GROUP": 8}
LINES = [f"line {number} of a text, long enough to be told apart\n".encode() for number in range(12)]

pages = st.integers(1, 3)
days = st.integers(0, 40)
texts = st.one_of(
    st.lists(st.sampled_from(LINES), max_size=8).map(b"".join),
    st.binary(max_size=9),
    st.sampled_from([b"", b"same", b"the same longer text"]),
)


class Later:
    """A compression that happens when it is waited for, so that a run can be repeated."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._out: Any = None

    def done(self) -> bool:
        """Say whether it happened."""
        return self._out is not None

    def cancel(self) -> None:
        """Do nothing."""

    def result(self) -> Any:
        """Let it happen."""
        self._out = self._out or self._work()
        return self._out


class Pool:
    """In place of the threads."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *given: object) -> Later:
        """Begin with nothing yet."""
        return Later(partial(work, *given))


class Texts(RuleBasedStateMachine):
    """Appends, seals, erases and restarts, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.patches: list[Any] = [
            patch.object(writing, "SEAL_TEXTS", 4),
            *(
                patch.object(module, name, value)
                for name, value in SMALL.items()
                for module in (writing, sealing, paging)
            ),
            *(patch.object(block, name, value) for name, value in LAYOUT.items()),
            *(patch.object(module, "WORTHWHILE_BYTES", 60) for module in (sealing, paging)),
            patch.object(paging, "ThreadPoolExecutor", Pool),
            patch.object(frames, "PAGED_ITEMS", 3),
        ]
        for each in self.patches:
            each.start()

    def teardown(self) -> None:
        """Undo the small sizes."""
        for each in self.patches:
            each.stop()

    @initialize()
    def start(self) -> None:
        """Begin with an empty project."""
        self.world = World(MemoryStore())
        self.revision = 0
        self.batch = Batch(fixed_salts, Paging())
        self.held: dict[int, bytes] = {}
        self.coming: dict[int, bytes] = {}
        self.erased: set[int] = set()

    @rule(batch=st.lists(st.tuples(pages, days, texts), min_size=1, max_size=10))
    def append(self, batch: list[tuple[int, int, bytes]]) -> None:
        """Append a commit of edits; their times are in no order."""
        events: list[Event] = []
        for page, day, text in batch:
            self.revision += 1
            self.held[self.revision] = text
            events.append(self.world.event(page, day, edit(self.revision, text.decode("latin-1"))))
            self.held[self.revision] = text.decode("latin-1").encode()
        self.world.add(*events)

    @rule(page=pages, revisions=st.lists(texts, min_size=1, max_size=12))
    def dump(self, page: int, revisions: list[bytes]) -> None:
        """Go on with a dump: a page, or more of one, in blocks made beside the writer."""
        for text in revisions:
            self.revision += 1
            self.coming[self.revision] = text.decode("latin-1").encode()
            what = edit(self.revision, text.decode("latin-1"))
            self.batch.add(self.world.event(page, self.revision, what))
            if self.batch.full:
                self.take()

    @rule()
    def take(self) -> None:
        """Append what came through the pipe."""
        frame = self.batch.close().frame(Progress(0, 0))
        _, fed = unpack_batch(frame.meta, memoryview(b"".join(frame.body)))
        assert not self.world.ingestor.append_prepared("w", fed.events).rejected
        self.held.update(self.coming)
        self.coming.clear()

    @rule()
    def settle(self) -> None:
        """Seal everything."""
        self.world.ingestor.settle()

    @rule()
    def restart(self) -> None:
        """Go on with a writer that holds nothing in memory."""
        self.world.ingestor = Ingestor(self.world.store, clock=lambda: NOW)

    @rule(choice=st.integers(0, 2**16))
    def erase(self, choice: int) -> None:
        """Erase the text of some revision, and so of all that have the same."""
        if not self.held:
            return
        self.world.ingestor.settle()
        self.restart()
        text = self.held[sorted(self.held)[choice % len(self.held)]]
        with self.world.store.exclusive_writer():
            erased = erase_text(self.world.store, digest_of(text))
        gone = {rev for rev, held in self.held.items() if held == text}
        assert {rev for _, rev in erased.revisions} == gone
        for rev in gone:
            del self.held[rev]
        self.erased |= gone

    @invariant()
    def everything_is_read_back(self) -> None:
        """Each text is what was given, and an erased one is hidden."""
        if not hasattr(self, "world"):
            return
        archive = Archive(self.world.store, clock=lambda: NOW)
        for rev, text in self.held.items():
            slot = archive.revision("w", rev).revision.slot()
            assert slot is not None
            assert slot.text == text
        for rev in self.erased:
            slot = archive.revision("w", rev).revision.slot()
            assert slot is not None
            assert (slot.presence, slot.text) == (Presence.HIDDEN, None)

    @invariant()
    def no_block_is_lost_or_left(self) -> None:
        """Rows and blocks name each other, one to one."""
        if not hasattr(self, "world"):
            return
        with self.world.store.view() as view:
            named = {int.from_bytes(key[-8:], "big") for key, _ in view.scan(keys.tail(0, 0), b"I")}
            named |= {int.from_bytes(row[:8], "big") for _, row in view.scan(b"G", b"H")}
            for number in named:
                raw = view.blob(keys.block(number))
                assert raw is not None
                prefix = read_block(raw).prefix
                assert not prefix or prefix in named
            for number in range(1, max(named, default=0) + 1):
                assert number in named or view.blob(keys.block(number)) is None


TestTexts = Texts.TestCase
TestTexts.settings = settings(max_examples=80, stateful_step_count=25)
