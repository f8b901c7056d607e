"""What licensees owe to what was withdrawn: what a pin lost since it was made, their answers, who owes one.

Retractions and what upstream hides are told alike: both are visibility changes in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from secrets import token_bytes

from recension.archive.affected import affected, holds
from recension.archive.clock import Clock, system_clock
from recension.archive.history import find_revision
from recension.archive.pins import LicenseePins
from recension.archive.projects import project_names, project_number
from recension.archive.retracting import Place
from recension.archive.rows import read_visibility
from recension.archive.stating import record
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.manifest import Manifest, read_manifest
from recension.model.pin import PinStatement
from recension.model.reading import Place as ReadingPlace
from recension.model.record import Kind, Statement
from recension.model.retraction import (
    ID_BYTES,
    UPSTREAM,
    Acknowledgement,
    Withdrawn,
    make_acknowledgement,
    parts_of,
    read_acknowledgement,
    read_retraction,
)
from recension.store import keys
from recension.store.interface import Row, Store, View

_SLICE = 2000
"""Visibility changes looked at in one view: some 5 ms, and 50 us for each that came after the pin."""
_START: ReadingPlace = ("", 0)


class LicenseeDuties:
    """What one licensee owes. Safe for concurrent use."""

    def __init__(self, store: Store, owner: str, key_id: bytes = b"", *, clock: Clock = system_clock) -> None:
        """``key_id``: of the API key that the licensee shows; answers name it."""
        self._store = store
        self._owner = owner
        self._key_id = key_id
        self._clock = clock

    def retractions(self, pin: str, *, after: ReadingPlace = _START) -> Iterator[Withdrawn]:
        """Yield what was withdrawn from a pin since it was made, by (project, revision id), behind a place.

        An expired pin can be asked about too. Raises ``PinNotFoundError``.
        """
        statement = self._pin(pin)
        with self._store.view() as view:
            manifest = _manifest(view, statement.snapshot_id)
            through = acknowledged_through(view, statement)
        return self._walk(statement, manifest, through, after)

    def pin_id(self, pin: str) -> bytes:
        """Return the id of a pin, expired or not: names are given again. Raises ``PinNotFoundError``."""
        return self._pin(pin).id

    def acknowledge(self, pin: str, through: int) -> Acknowledgement:
        """Answer for all that was withdrawn from a pin up to a log position; durable when it returns.

        What was answered for already is so again. Raises ``PinNotFoundError``, ``InvalidArgumentError``.
        """
        statement = self._pin(pin)
        head = self._store.log.head().position
        if not 0 < through <= head:
            raise InvalidArgumentError(
                f"through: position {through} is not in the log, which ends at {head}",
                hint="take that of the answer of ListRetractions",
                field="through",
            )
        entries = sum(one.position <= through for one in self.retractions(pin))
        id_ = token_bytes(ID_BYTES)

        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            if acknowledged_through(view, statement) >= through:
                return None
            said = make_acknowledgement(
                id_, self._owner, self._key_id, statement.id, statement.made_at,
                statement.snapshot_id, through, entries,
            )  # fmt: skip
            return Statement(Kind.ACKNOWLEDGEMENT, said.encoded)

        record(self._store, self._clock, decide)
        with self._store.view() as view:
            newest = _newest_answer(view, statement)
        if newest is None:
            raise DataLossError("an answer is missing that was just recorded")
        return newest

    def _pin(self, name: str) -> PinStatement:
        return LicenseePins(self._store, self._owner, clock=self._clock).newest(name)[0]

    def _walk(
        self, pin: PinStatement, manifest: Manifest, through: int, after: ReadingPlace
    ) -> Iterator[Withdrawn]:
        for part in manifest.parts:
            if part.project < after[0]:
                continue
            rev = after[1] if part.project == after[0] else 0
            while True:
                with self._store.view() as view:
                    number = project_number(view, part.project)
                    start, stop = keys.visibility(number, rev + 1), keys.visibility(number + 1, 0)
                    revs, changed = _revisions(view.scan(start, stop, limit=_SLICE), pin.made_at)
                    found = [_lost(view, Place(number, 0, one), pin.made_at) for one in changed]
                    some = [
                        Withdrawn(
                            part.project, lost.place.page, lost.place.rev, parts_of(lost.flags), lost.reason,
                            lost.position, _recorded(view, lost.position), lost.position <= through,
                        )
                        for lost in found
                        if lost is not None and holds(view, manifest, lost.place)
                    ]  # fmt: skip
                yield from some
                if not revs:
                    break
                rev = revs[-1]


@dataclass(frozen=True, slots=True)
class Owing:
    """A pin whose licensee has not answered for all that was withdrawn from it."""

    pin: PinStatement
    expired: bool
    entries: int
    """Not answered for."""
    since: int
    """Log position of the oldest of them."""
    through: int
    """Log position up to which was answered; 0 for not at all."""


def owing(store: Store, clock: Clock = system_clock) -> list[Owing]:
    """Return the pins of all licensees for which an answer is owed, by owner and age.

    Reads all visibility changes, and the trees of all snapshots towards what they hide.
    """
    lost: dict[Place, list[_Change]] = {}
    with store.view() as view:
        numbers = [number for _, number in project_names(view)]
    for number in numbers:
        rev = 0
        while True:
            with store.view() as view:
                start, stop = keys.visibility(number, rev + 1), keys.visibility(number + 1, 0)
                revs, _ = _revisions(view.scan(start, stop, limit=_SLICE), 0)
                for one in revs:
                    place, changes = _changes(view, Place(number, 0, one))
                    lost[place] = changes
            if not revs:
                break
            rev = revs[-1]
    concerned = affected(store, lost.keys(), clock)
    out = []
    for pin in concerned.pins:
        with store.view() as view:
            through = acknowledged_through(view, pin.statement)
        since = [
            position
            for place in concerned.snapshots[pin.statement.snapshot_id]
            if (position := _since(lost[place], pin.statement.made_at)[1]) > through
        ]
        if since:
            out.append(Owing(pin.statement, pin.expired, len(since), min(since), through))
    return out


def acknowledged_through(view: View, pin: PinStatement) -> int:
    """Return the log position up to which a licensee has answered for a pin; 0 for not at all."""
    newest = _newest_answer(view, pin)
    return 0 if newest is None else newest.through


def _newest_answer(view: View, pin: PinStatement) -> Acknowledgement | None:
    row = view.last(
        keys.acknowledgement(pin.owner, pin.made_at), keys.acknowledgement(pin.owner, pin.made_at, keys.END)
    )
    try:
        return None if row is None else read_acknowledgement(row[1])
    except InvalidArgumentError as error:
        raise DataLossError(f"an answer is damaged: {error.message}") from None


# --- what a revision lost -------------------------------------------------------------------------

_Change = tuple[int, int, bool]
"""(position, what is hidden from there on, whether a retraction says so)."""


@dataclass(frozen=True, slots=True)
class _Lost:
    place: Place
    flags: int
    position: int
    reason: str


def _revisions(rows: list[Row], behind: int) -> tuple[list[int], list[int]]:
    """Return the revisions of visibility rows, and which of them may have changed behind a position.

    The last one may have more rows than these, so it is always among them.
    """
    found = [keys.read_revision(key)[:2] for key, _ in rows]
    revs = list(dict.fromkeys(rev for rev, _ in found))
    changed = {rev for rev, position in found if position > behind} | set(revs[-1:])
    return revs, sorted(changed)


def _changes(view: View, place: Place) -> tuple[Place, list[_Change]]:
    """Return what was hidden of a revision at which positions, from how it came on; its page is filled in."""
    number, rev = place.number, place.rev
    edit = find_revision(view, number, rev, keys.END - 1)
    changes: list[_Change] = [(0, 0 if edit is None else edit.hidden, False)]
    page = place.page
    for key, value in view.scan(keys.visibility(number, rev), keys.visibility(number, rev + 1)):
        flags, page, _, _ = read_visibility(value)
        _, position, _ = keys.read_revision(key)
        row = view.get(keys.withdrawn(number, rev, position))
        changes.append((position, flags, row is not None and row[0] > 0))
    return Place(number, page, rev), changes


def _since(changes: list[_Change], made_at: int) -> tuple[int, int, bool]:
    """Return what is hidden now and was not at a position, since when, and whether by a retraction.

    A retraction of what upstream had hidden already is news: it says that the text is to be destroyed.
    """
    before = after = position = 0
    retracted = False
    for at, flags, by_retraction in changes:
        if at <= made_at:
            before = after = flags
            continue
        if flags & ~after & ~before or (by_retraction and not retracted):
            position, retracted = at, by_retraction
        after = flags
    gone = after & ~before
    if retracted and not gone:
        gone = after
    return (gone, position, retracted) if gone else (0, 0, False)


def _lost(view: View, place: Place, made_at: int) -> _Lost | None:
    place, changes = _changes(view, place)
    gone, position, retracted = _since(changes, made_at)
    if not gone:
        return None
    reason = UPSTREAM
    if retracted:
        payload = view.get(keys.retraction(position))
        if payload is None:
            raise DataLossError(f"the retraction at position {position} is missing", position=position)
        reason = read_retraction(payload).reason.value
    return _Lost(place, gone, position, reason)


def _recorded(view: View, position: int) -> int:
    raw = view.get(keys.recorded(position))
    if raw is None:
        raise DataLossError(f"the time of commit {position} is missing", position=position)
    return int.from_bytes(raw, "big", signed=True)


def _manifest(view: View, snapshot_id: bytes) -> Manifest:
    row = view.get(keys.snapshot(snapshot_id))
    payload = None if row is None else view.get(keys.snapshot_at(int.from_bytes(row, "big")))
    if payload is None:
        raise DataLossError("the manifest of a pinned snapshot is missing")
    return read_manifest(payload)
