"""What follows from a root and the pages that are said to have changed, against trees built whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from recension.model.errors import VerificationError
from recension.model.event import MAX_ID
from recension.model.step import Nodes, PageStep, Record
from recension.model.tree import EMPTY_ROOT, build, find, update

Pages = dict[int, Record]


@dataclass
class Told:
    """A step as an honest server tells it."""

    root: bytes
    pages: list[PageStep]
    nodes: list[bytes]
    after: bytes


@dataclass
class World:
    """Pages, all nodes their trees ever had, and steps from one state to the next."""

    random: Random
    most: int
    """Largest page id."""
    pages: Pages = field(default_factory=dict)
    nodes: dict[bytes, bytes] = field(default_factory=dict)

    def root(self) -> bytes:
        rows = ((page, *self.pages[page]) for page in sorted(self.pages))
        return build(rows, self.nodes.__setitem__)[0]

    def step(self) -> Told:
        root = self.root()
        chosen = {self.random.randint(1, self.most) for _ in range(self.random.choice((1, 1, 3, 20)))}
        chosen |= set(self.random.sample(sorted(self.pages), min(2, len(self.pages))))
        told = []
        for page in sorted(chosen):
            before = self.pages.get(page)
            after = None
            if before is None or self.random.random() < 0.5:
                after = Record(self.random.randint(1, MAX_ID), self.random.randbytes(32))
                self.pages[page] = after
            else:
                del self.pages[page]
            told.append(PageStep(page, before, after))
        needed: dict[bytes, bytes] = {}

        def get(digest: bytes) -> bytes:
            needed[digest] = self.nodes[digest]
            return self.nodes[digest]

        for page, _, _ in told:
            find(root, page, get)
        changes = [(page, None if after is None else (*after,)) for page, _, after in told]
        update(root, changes, get, self.nodes.__setitem__)
        needed.pop(EMPTY_ROOT, None)
        return Told(root, told, list(needed.values()), self.root())


def reached(told: Told) -> bytes:
    """Return the root that a follower computes who has the one before, and what was sent."""
    nodes = Nodes()
    nodes.add(told.nodes)
    return nodes.step(told.root, told.pages)


def worlds() -> list[World]:
    return [World(Random(seed), most) for seed in range(2) for most in (40, 3_000, 10**7, MAX_ID)]


def test_steps_lead_to_the_roots_of_whole_trees() -> None:
    """From any state, with a few nodes; back again too, and no step of nothing leads elsewhere."""
    for world in worlds():
        for _ in range(20):
            told = world.step()
            assert told.after == reached(told)
            nodes = Nodes()
            nodes.add(told.nodes)
            nodes.step(told.root, told.pages)
            back = [PageStep(page, after, before) for page, before, after in told.pages]
            assert told.root == nodes.step(told.after, back)
            assert told.after == nodes.step(told.after, [])


def _foreign(told: Told) -> None:
    other = World(Random(99), 3_000)
    for _ in range(5):
        told.nodes = other.step().nodes


def _invent(told: Told) -> None:
    page = next(page for page in range(1, 50) if page not in {one.page_id for one in told.pages})
    told.pages = sorted([*told.pages, PageStep(page, Record(5, bytes(32)), None)])


def _swap(told: Told) -> None:
    told.pages.reverse()


def _change(told: Told) -> None:
    at = next(at for at, page in enumerate(told.pages) if page.after)
    page = told.pages[at]
    told.pages[at] = page._replace(after=Record(page.after.rev_id, b"x" * 32) if page.after else None)


def _former(told: Told) -> None:
    at = next(at for at, page in enumerate(told.pages) if page.before)
    told.pages[at] = told.pages[at]._replace(before=Record(1, b"y" * 32))


def _drop(told: Told) -> None:
    told.pages.pop()


def _node(told: Told) -> None:
    told.nodes.pop()


def _bend(told: Told) -> None:
    told.nodes[0] = bytes([told.nodes[0][0]]) + told.nodes[0][1:-1] + b"\x00"


def _root(told: Told) -> None:
    told.root = told.after


def _twice(told: Told) -> None:
    told.pages.append(told.pages[-1])


@pytest.mark.parametrize(
    "lie", [_foreign, _invent, _swap, _change, _former, _drop, _node, _bend, _root, _twice]
)
def test_no_lie_leads_to_the_root(lie: Callable[[Told], None]) -> None:
    """What is left out, made up, bent, of another tree or out of turn is refused, or leads elsewhere."""
    told = 0
    for seed in range(8):
        world = World(Random(seed), 600)
        honest = [world.step() for _ in range(12)][-1]
        assert honest.after == reached(honest)
        try:
            lie(honest)
        except StopIteration:
            continue
        told += 1
        try:
            assert honest.after != reached(honest)
        except VerificationError:
            continue
    assert told > 2
