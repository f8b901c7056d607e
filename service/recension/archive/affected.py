"""What a retraction concerns: the snapshots that hold withdrawn revisions, the pins on them, whose they are.

Snapshots share most of their nodes, so each node is looked at once for all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from recension.archive.clock import Clock, system_clock
from recension.archive.pins import newest_pins
from recension.archive.projects import project_names
from recension.archive.retracting import Place
from recension.archive.trees import node_at
from recension.model.manifest import read_manifest
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
    """Withdrawn revisions by the id of a snapshot that can be read."""
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

    Reads each tree node on the way to their pages once, some 20 us. Released snapshots have no tree and are
    left out. Raises ``DataLossError``.
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
                if view.get(keys.released(manifest.snapshot_id)) is not None:
                    continue
                found: set[Place] = set()
                for part in manifest.parts:
                    found |= searches[part.project].below(view, part.root)
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
