"""The steps of followed scopes against snapshots that are made whole, over random histories."""

from __future__ import annotations

from random import Random

import pytest

from recension.archive import changes as module
from recension.archive.changes import Changes, Followed, ScopeTree, check_followed
from recension.archive.clock import system_clock
from recension.archive.projects import Numbers, project_number
from recension.archive.retracting import Retractor, Wanted
from recension.archive.snapshots import build_part
from recension.model.errors import AsOfOutOfRangeError, InvalidArgumentError
from recension.model.event import Event, Visibility
from recension.model.instant import MAX_INSTANT
from recension.model.manifest import OnHidden, Redirects, Selector
from recension.model.record import Kind
from recension.model.retraction import Reason
from recension.model.step import Nodes
from recension.model.tree import EMPTY_ROOT
from tests.archive.helpers import World, delete, edit, hide, move, restore

SELECTORS = [
    Selector.of(["w"]),
    Selector.of(["w"], namespaces=[0], on_hidden=OnHidden.FALL_BACK),
    Selector.of(["w"], redirects=Redirects.EXCLUDE, on_hidden=OnHidden.KEEP),
]
PAGES = 60


class Life:
    """A random history: all kinds of events, old ones that become known late among them."""

    def __init__(self, seed: int) -> None:
        self.world = World()
        self.random = Random(seed)
        self.revs: list[tuple[int, int]] = []

    def _event(self) -> Event:
        page, day = self.random.randint(1, PAGES) * 7, self.random.uniform(1, 900)
        match self.random.randint(0, 9):
            case 0:
                return self.world.event(page, day, move("A", f"M{page}"))
            case 1:
                return self.world.event(page, day, delete())
            case 2:
                return self.world.event(page, day, restore())
            case 3 if self.revs:
                page, rev = self.random.choice(self.revs)
                return self.world.event(page, day, hide(rev, text=self.random.random() < 0.7))
        rev = len(self.revs) + 1
        self.revs.append((page, rev))
        text = "#REDIRECT [[B]]" if self.random.random() < 0.1 else f"text {rev}"
        what = edit(rev, text, f"P{page}", inferred=self.random.random() < 0.2)
        return self.world.event(page, day, what)

    def go_on(self, commits: int) -> None:
        for _ in range(commits):
            many = self.random.choice((1, 1, 2, 30))
            self.world.ingestor.append("w", [self._event() for _ in range(many)])


def whole(world: World, selector: Selector, position: int) -> bytes:
    """Return the root of a tree that is made of all pages as they were known at a position."""
    what = Followed(selector, MAX_INSTANT)
    with world.store.view() as view:
        number = project_number(view, "w")
    return build_part(world.store, "w", number, selector, what.choice(position)).root


def changes_of(world: World) -> Changes:
    return Changes(world.store, system_clock, Numbers())


@pytest.mark.parametrize("selector", SELECTORS)
def test_each_commit_leads_to_the_root_of_a_snapshot(
    selector: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a root and the steps alone, across commits of several parts, and nodes that leave the memory."""
    monkeypatch.setattr(module, "STEP_PAGES", 8)
    monkeypatch.setattr(module, "_HELD_NODES", 6)
    for seed in range(3):
        life = Life(seed)
        life.go_on(25)
        tree = changes_of(life.world).tree_at(Followed(selector, MAX_INSTANT), 0)
        root, parts, pages = EMPTY_ROOT, 0, 0
        assert root == tree.root
        head = life.world.store.log.head().position
        for step in tree.steps(head):
            assert root == step.previous_root
            nodes = Nodes()
            nodes.add(step.nodes.values())
            root = nodes.step(root, step.pages)
            assert root == step.root
            parts, pages = parts + step.continued, pages + len(step.pages)
            if not step.continued:
                assert whole(life.world, selector, step.position) == root
        assert parts
        assert pages > PAGES
        assert head == tree.position


def test_a_tree_is_found_anywhere() -> None:
    """From nothing, from a snapshot of another time, from one made before, forwards and backwards."""
    selector = SELECTORS[0]
    life = Life(7)
    life.go_on(30)
    what = Followed(selector, MAX_INSTANT)
    head = life.world.store.log.head().position
    life.world.archive.create_snapshot(selector, valid_at=life.world.day(950), known_at=head // 2)
    changes = changes_of(life.world)
    for position in (head // 3, head, 3, head // 2, 1, 0):
        assert whole(life.world, selector, position) == changes.tree_at(what, position).root
    with pytest.raises(AsOfOutOfRangeError):
        changes.tree_at(what, life.world.store.log.head().position + 1)


def test_a_snapshot_is_bridged(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its root to that of the scope at its K, in as many parts as it takes."""
    monkeypatch.setattr(module, "STEP_PAGES", 4)
    selector = SELECTORS[0]
    life = Life(11)
    life.go_on(30)
    settled = Selector.of(["w"], min_age_seconds=86_400 * 30)
    manifest = life.world.archive.create_snapshot(settled, valid_at=life.world.day(450))
    what = Followed(selector, MAX_INSTANT)
    changes = changes_of(life.world)
    tree = changes.tree_of(what, manifest.snapshot_id)
    assert manifest.parts[0].root == tree.root
    target = whole(life.world, selector, manifest.as_of.known_at)
    steps = list(tree.bridge(target))
    assert target == tree.root == steps[-1].root
    assert len(steps) > 2
    assert [True] * (len(steps) - 1) + [False] == [step.continued for step in steps]
    root = manifest.parts[0].root
    for step in steps:
        assert step.bridge
        nodes = Nodes()
        nodes.add(step.nodes.values())
        root = nodes.step(root, step.pages)
        assert all(
            changes.told(what, step, text=True).entries[at]
            for at, page in enumerate(step.pages)
            if page.after
        )
    assert target == root
    assert not list(tree.bridge(target))
    with pytest.raises(InvalidArgumentError):
        changes.tree_of(Followed(SELECTORS[1], MAX_INSTANT), manifest.snapshot_id)


def test_what_is_withdrawn_is_told_and_what_it_said_is_not() -> None:
    """Of a retraction its reason and id; an edit that is read later comes as it may be shown by now."""
    world = World()
    world.add(world.event(1, 1, edit(1, "first")), world.event(2, 1, edit(2, "other", "B")))
    world.add(world.event(1, 2, edit(3, "a secret")))
    retractor = Retractor(world.store)
    plan = retractor.plan("w", Wanted(revisions=frozenset({3})))
    retractor.mask(plan, "case-1", Reason.PRIVACY)
    with world.store.exclusive_writer():
        retractor.erase(plan)
    changes, what = changes_of(world), Followed(Selector.of(["w"], namespaces=[0]), MAX_INSTANT)
    steps = list(changes.tree_at(what, 0).steps(world.store.log.head().position))
    told = [changes.told(what, step, text=True) for step in steps]
    (last,) = [one for one in told if one.step.reason]
    assert "privacy" == last.step.reason
    assert last.step.retraction is not None
    (item,) = last.events
    assert isinstance(item.what, Visibility)
    assert 3 == item.what.rev_id
    assert [(1, None)] == [(page.page_id, page.after) for page in last.step.pages]
    assert "a secret" not in repr(told)
    assert "first" in repr(told)


def test_events_of_other_pages_are_not_of_the_scope() -> None:
    """Of pages that the scope neither held nor holds nothing is told, but for what is withdrawn of them."""
    world = World()
    world.add(world.event(1, 1, edit(1, "#REDIRECT [[B]]")), world.event(2, 1, edit(2, "text", "B")))
    world.add(world.event(1, 2, hide(1)))
    world.add(world.event(1, 3, edit(3, "text now")))
    what = Followed(Selector.of(["w"], redirects=Redirects.EXCLUDE), MAX_INSTANT)
    tree = changes_of(world).tree_at(what, 0)
    told = [[(event.kind, event.page_id) for _, event in step.events] for step in _last(tree, world)]
    assert [[(Kind.EDIT, 2)], [(Kind.VISIBILITY, 1)], [(Kind.EDIT, 1)]] == told


def _last(tree: ScopeTree, world: World) -> list[module.Step]:
    return [step for step in tree.steps(world.store.log.head().position) if step.events]


def test_scopes_are_of_one_project_and_without_age() -> None:
    """Anything else is refused."""
    for selector in (Selector.of(["a", "b"]), Selector.of(["a"], min_age_seconds=1)):
        with pytest.raises(InvalidArgumentError):
            check_followed(selector)
