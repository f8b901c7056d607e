"""What a retraction concerns: the snapshots that hold withdrawn revisions, the pins on them, whose they are.

Snapshots share most of their nodes, so each node is looked at once for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from recension.archive.clock import Clock, system_clock
from recension.archive.history import choice_of, page_at, selects
from recension.archive.pins import newest_pins
from recension.archive.projects import project_names
from recension.archive.retracting import Place
from recension.archive.trees import node_at
from recension.model.manifest import Manifest, read_manifest
from recension.model.pin import PinStatement
from recension.model.tree import children_of, leaves_of, level_of
from recension.store import keys
from recension.store.interface import Store, View

_SLICE = 500
"""Snapshots looked at in one view."""


@dataclass(frozen=True, slots=True)
class HeldPin:
    """A pin on a snapshot that holds something withdrawn."""

    statement: PinStatement
    expired: bool
    entries: int
    """Withdrawn revisions that its snapshot holds."""


@dataclass(frozen=True, slots=True)
class Affected:
    """What some revisions are part of."""

    snapshots: dict[bytes, frozenset[Place]]
    """Withdrawn revisions by the id of a snapshot, also of a released one: whoever read it may have it."""
    pins: tuple[HeldPin, ...]
    """By owner and age; deleted ones are left out."""

    @property
    def licensees(self) -> dict[str, list[HeldPin]]:
        """Pins by their owner."""
        out: dict[str, list[HeldPin]] = {}
        for pin in self.pins:
            out.setdefault(pin.statement.owner, []).append(pin)
        return out

    def articles(self) -> Iterator[tuple[Place, int, int, list[str]]]:
        """Yield each withdrawn revision with how many snapshots and pins hold it, and whose the pins are."""
        snapshots: dict[Place, int] = {}
        pins: dict[Place, int] = {}
        owners: dict[Place, set[str]] = {}
        by_snapshot: dict[bytes, list[HeldPin]] = {}
        for pin in self.pins:
            by_snapshot.setdefault(pin.statement.snapshot_id, []).append(pin)
        for snapshot_id, places in self.snapshots.items():
            here = by_snapshot.get(snapshot_id, [])
            whose = {pin.statement.owner for pin in here}
            for place in places:
                snapshots[place] = snapshots.get(place, 0) + 1
                pins[place] = pins.get(place, 0) + len(here)
                owners.setdefault(place, set()).update(whose)
        for place in sorted(snapshots):
            yield place, snapshots[place], pins[place], sorted(owners[place])


def affected(store: Store, places: Collection[Place], clock: Clock = system_clock) -> Affected:
    """Return the snapshots and pins that hold some revisions.

    Reads each tree node on the way to their pages once, some 20 us; a released snapshot has no tree, so each
    revision is looked up in its page's history, some 100 us. Raises ``DataLossError``.
    """
    searches: dict[str, _Search] = {}
    snapshots: dict[bytes, frozenset[Place]] = {}
    start = 0
    while True:
        with store.view() as view:
            if not searches:
                for name, number in project_names(view):
                    searches[name] = _Search([one for one in places if one.number == number])
            rows = view.scan(keys.snapshot_at(start), keys.snapshot_at(keys.END), limit=_SLICE)
            for _, payload in rows:
                manifest = read_manifest(payload)
                released = view.get(keys.released(manifest.snapshot_id)) is not None
                found: set[Place] = set()
                for part in manifest.parts:
                    search = searches[part.project]
                    found |= search.in_history(view, manifest) if released else search.below(view, part.root)
                if found:
                    snapshots[manifest.snapshot_id] = frozenset(found)
        if len(rows) < _SLICE:
            break
        start = int.from_bytes(rows[-1][0][1:], "big") + 1
    with store.view() as view:
        now = max(clock(), view.head().recorded_at)
        pins = tuple(
            HeldPin(pin, pin.readable_until <= now, len(snapshots[pin.snapshot_id]))
            for pin in newest_pins(view)
            if not pin.deleted and pin.snapshot_id in snapshots
        )
    pins = tuple(sorted(pins, key=lambda one: (one.statement.owner, one.statement.made_at)))
    return Affected(snapshots, pins)


def holds(view: View, manifest: Manifest, place: Place) -> bool:
    """Say whether a revision is its page's entry in a snapshot, by the page's history alone."""
    choice = choice_of(manifest.selector, manifest.as_of)
    state = page_at(view, place.number, place.page, choice)
    return state is not None and state.edit.rev == place.rev and selects(manifest.selector, state)


class _Search:
    """Looks for revisions of a project in snapshot trees."""

    def __init__(self, places: Collection[Place]) -> None:
        self._places = {(place.page, place.rev): place for place in places}
        self._pages = sorted({place.page for place in places})
        self._found: dict[bytes, frozenset[Place]] = {}

    def below(self, view: View, digest: bytes) -> frozenset[Place]:
        """Return which of them are below a node."""
        if not self._pages:
            return frozenset()
        known = self._found.get(digest)
        if known is None:
            known = self._found[digest] = frozenset(self._look(view, digest))
        return known

    def in_history(self, view: View, manifest: Manifest) -> set[Place]:
        """Return which of them a snapshot without a tree held."""
        return {place for place in self._places.values() if holds(view, manifest, place)}

    def _look(self, view: View, digest: bytes) -> Iterator[Place]:
        node = node_at(view, digest)
        level = level_of(node)
        if not level:
            for leaf in leaves_of(node):
                place = self._places.get((leaf.page_id, leaf.rev_id))
                if place is not None:
                    yield place
            return
        for child in children_of(node):
            at = bisect_left(self._pages, child.prefix << (4 * level))
            if at < len(self._pages) and self._pages[at] < (child.prefix + 1) << (4 * level):
                yield from self.below(view, child.digest)
