"""Snapshots as they are made, kept and listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from typing import cast

from recension.archive import snapshots
from recension.archive.clock import Clock, known_position, resolve
from recension.archive.garbage import hold_again, lacks_nodes
from recension.archive.history import Choice, choice_of
from recension.archive.projects import Numbers, tally_of
from recension.archive.rows import Tally
from recension.archive.stating import record
from recension.model.errors import (
    AsOfOutOfRangeError,
    DataLossError,
    DeadlineError,
    InvalidArgumentError,
    SnapshotNotFoundError,
)
from recension.model.instant import format_instant
from recension.model.manifest import AsOf, Manifest, ProjectPart, Selector, make_manifest, read_manifest
from recension.model.reading import wanted
from recension.model.record import Kind, Statement
from recension.store import keys
from recension.store.interface import Log, Row, Store, View

_SLICE = 256
"""Manifests read in one view."""
_RECENT = 64
"""Snapshots looked at for one to derive the next from."""


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


class Keeper:
    """Makes snapshots and keeps them. Safe for concurrent use."""

    def __init__(self, store: Store, clock: Clock, numbers: Numbers) -> None:
        self._store = store
        self._clock = clock
        self._number = numbers.of

    def create(self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0) -> Manifest:
        """Compute and keep a snapshot; without K, as known at the newest event of its projects.

        The newest event, not the head: keeping a snapshot is itself a commit, and asking twice has to give
        the same id.
        """
        with self._store.view() as view:
            numbers = {name: self._number(view, name) for name in selector.projects}
            head = view.head()
            known = known_position(head, known_at)
            tallies = {name: tally_of(view, number, known) for name, number in numbers.items()}
            removed = view.get(keys.removed())
        if not known_at:
            known = max(position for position, _ in tallies.values())
        as_of = resolve(self._clock, head, valid_at, known)
        for name, (_, tally) in tallies.items():
            if tally.first_event_at > as_of.valid_at:
                raise _before_first(name, tally, as_of)
        choice = choice_of(selector, as_of)
        base = self._nearest(selector, as_of)
        parts = tuple(self._part(numbers[name], selector, choice, base, name) for name in selector.projects)
        manifest = make_manifest(selector, as_of, parts)
        _check_wanted()
        self._keep(manifest)
        hold_again(self._store, manifest.snapshot_id)
        with self._store.view() as view:
            undisturbed = view.get(keys.removed()) == removed
        for part in () if undisturbed else parts:  # nodes that nothing kept yet may have been removed
            if lacks_nodes(self._store, part.root):
                snapshots.build_part(self._store, part.project, numbers[part.project], selector, choice)
        return manifest

    def part(self, project: str, selector: Selector, as_of: AsOf) -> ProjectPart:
        """Compute one project's share of a snapshot that is not kept; nothing holds its tree."""
        with self._store.view() as view:
            number = self._number(view, project)
        base = self._nearest(selector, as_of)
        return self._part(number, selector, choice_of(selector, as_of), base, project)

    def _part(
        self, number: int, selector: Selector, choice: Choice, base: Manifest | None, project: str
    ) -> ProjectPart:
        # It has the methods that a scan uses, and no others: each snapshot shows that they are enough.
        store = cast("Store", _Wanted(self._store))
        if base is not None:
            share = next(part for part in base.parts if part.project == project)
            before = choice_of(base.selector, base.as_of)
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
                # Of a released one some nodes may be there and others not.
                if manifest.selector == selector and view.get(keys.released(manifest.snapshot_id)) is None:
                    near.append(manifest)
                stop = row[0]
        by_time = min(near, key=lambda one: abs(one.as_of.valid_at - as_of.valid_at), default=None)
        same_known = [one for one in near if one.as_of.known_at == as_of.known_at]
        return min(same_known, key=lambda one: abs(one.as_of.valid_at - as_of.valid_at), default=by_time)

    def _keep(self, manifest: Manifest) -> None:
        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            known = view.get(keys.snapshot(manifest.snapshot_id)) is not None
            return None if known else Statement(Kind.SNAPSHOT, manifest.encoded)

        record(self._store, self._clock, decide)

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


_read = lru_cache(maxsize=64)(read_manifest)
"""Every answer about a snapshot reads its manifest, which takes 70 us."""


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
        return _read(encoded)
    except InvalidArgumentError as error:
        raise DataLossError(f"the manifest of a snapshot is damaged: {error}") from None
