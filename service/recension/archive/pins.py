"""The pins of one licensee, and what all pins hold together.

A pin is its statements in the log; their index rows are found by licensee and position, and by licensee and
name. Of several pins that had one name after each other the newest counts: others were deleted or expired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from secrets import token_bytes

from recension.archive.agreements import ended_licensees
from recension.archive.clock import Clock, system_clock
from recension.archive.stating import record
from recension.model.digest import format_digest
from recension.model.errors import (
    DataLossError,
    InvalidArgumentError,
    PinExistsError,
    PinExpiredError,
    PinNotFoundError,
    SnapshotNotFoundError,
    SnapshotReleasedError,
)
from recension.model.instant import check_instant, format_instant
from recension.model.pin import (
    ID_BYTES,
    NOBODY,
    Pin,
    PinStatement,
    check_labels,
    check_name,
    make_pin,
    read_pin,
)
from recension.model.record import Kind, Statement
from recension.store import keys
from recension.store.interface import Store, View

_SLICE = 500


def random_id() -> bytes:
    """Return the id of a new pin."""
    return token_bytes(ID_BYTES)


class LicenseePins:
    """Makes, finds and ends the pins of one licensee. Safe for concurrent use."""

    def __init__(
        self,
        store: Store,
        owner: str = NOBODY,
        *,
        clock: Clock = system_clock,
        new_id: Callable[[], bytes] = random_id,
        agreement: Callable[[str], bytes] = lambda _: b"",
    ) -> None:
        """``owner``: whose pins; those of others do not exist here. Ids are injected for tests alone.

        ``agreement``: returns the digest of the version that an owner is under now, empty for none.
        """
        self._store = store
        self._owner = owner
        self._clock = clock
        self._new_id = new_id
        self._agreement = agreement

    def create(
        self, name: str, snapshot_id: bytes, readable_until: int, labels: Mapping[str, str] | None = None
    ) -> tuple[Pin, bool]:
        """Make a pin, and say whether it is new; one with the same content is returned as it is."""
        check_name(name)
        check_labels(labels or {})
        check_instant(readable_until)
        id_ = self._new_id()
        agreement = self._agreement(self._owner)

        def decide(view: View, position: int, now: int) -> Statement | None:
            found = self._newest(view, name)
            if found is not None and not found.deleted:
                same = _is_same(view, found, snapshot_id, readable_until, labels or {})
                if same and found.readable_until <= now:
                    raise _expired(found)
                if same:
                    return None
                if found.readable_until > now:
                    raise PinExistsError(
                        f"pin {name!r} exists with other content",
                        hint="choose another name, extend that pin, or delete it first",
                        pin=name,
                    )
            if readable_until <= now:
                raise InvalidArgumentError(
                    f"readable_until: {format_instant(readable_until)} is not in the future",
                    field="readable_until",
                )
            check_readable(view, snapshot_id)
            pin = make_pin(
                self._owner,
                name,
                id_,
                snapshot_id,
                labels or {},
                readable_until,
                made_at=position,
                agreement=agreement,
            )
            return Statement(Kind.PIN, pin.encoded)

        made = record(self._store, self._clock, decide)
        return self._present(name), made is not None

    def get(self, name: str) -> Pin:
        """Return a live pin. Raises ``PinNotFoundError``, ``PinExpiredError``."""
        check_name(name)
        pin = self._present(name)
        if pin.expired:
            raise _expired(pin.statement)
        return pin

    def all(self, *, snapshot_id: bytes = b"", after: int = 0) -> Iterator[Pin]:
        """Yield pins in the order of their making, expired ones too, made at a position behind ``after``."""
        while True:
            with self._store.view() as view:
                stop = keys.pin(self._owner, keys.END)
                rows = view.scan(keys.pin(self._owner, after + 1), stop, limit=_SLICE)
                some = [_answer(view, pin, self._now(view)) for pin in _newest_of_each(view, rows)]
            yield from (
                pin for pin in some if not pin.statement.deleted and snapshot_id in (b"", pin.snapshot_id)
            )
            if not some:
                return
            after = some[-1].statement.made_at

    def held(self, snapshot_id: bytes, before: int) -> bool:
        """Say whether a live pin that was made before an instant holds a snapshot; any, for empty bytes."""
        return any(not pin.expired and pin.created_at < before for pin in self.all(snapshot_id=snapshot_id))

    def extend(self, name: str, readable_until: int) -> Pin:
        """Make a pin live longer. Raises ``PinNotFoundError``, ``PinExpiredError``."""
        check_name(name)
        check_instant(readable_until)
        agreement = self._agreement(self._owner)

        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            found = self._found(view, name)
            if found.readable_until <= now:
                raise _expired(found)
            if readable_until == found.readable_until:
                return None
            if readable_until < found.readable_until:
                raise InvalidArgumentError(
                    f"readable_until: {format_instant(readable_until)} is before "
                    f"{format_instant(found.readable_until)}",
                    hint="a pin is never shortened; delete it if it is not needed",
                    field="readable_until",
                )
            return Statement(
                Kind.PIN, _changed(found, readable_until=readable_until, agreement=agreement).encoded
            )

        record(self._store, self._clock, decide)
        return self._present(name)

    def delete(self, name: str, *, allow_missing: bool = False) -> None:
        """End a pin, live or expired. Raises ``PinNotFoundError`` unless ``allow_missing``."""
        check_name(name)

        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            found = self._newest(view, name)
            if found is None or found.deleted:
                if allow_missing:
                    return None
                raise _not_found(name)
            return Statement(Kind.PIN, _changed(found, deleted=True).encoded)

        record(self._store, self._clock, decide)

    def _present(self, name: str) -> Pin:
        with self._store.view() as view:
            return _answer(view, self._found(view, name), self._now(view))

    def newest(self, name: str) -> tuple[PinStatement, int]:
        """Return a pin that was not deleted, expired or not, and the position of its newest statement.

        Raises ``PinNotFoundError``.
        """
        check_name(name)
        with self._store.view() as view:
            found = self._found(view, name)
            row = view.last(*_statements_of(found.owner, found.made_at))
        return found, int.from_bytes(row[0][-8:], "big") if row else 0

    def _found(self, view: View, name: str) -> PinStatement:
        found = self._newest(view, name)
        if found is None or found.deleted:
            raise _not_found(name)
        return found

    def _newest(self, view: View, name: str) -> PinStatement | None:
        start, stop = keys.pin_name(self._owner, name), keys.pin_name(self._owner, name, keys.END)
        row = view.last(start, stop)
        if row is None:
            return None
        statement = view.last(*_statements_of(self._owner, int.from_bytes(row[0][-8:], "big")))
        if statement is None:
            raise DataLossError(f"the statements of pin {name!r} are missing", pin=name)
        return _read(statement[1])

    def _now(self, view: View) -> int:
        return max(self._clock(), view.head().recorded_at)


def newest_pins(view: View) -> list[PinStatement]:
    """Return the newest statement of every pin of every licensee, also of deleted ones."""
    pins: dict[tuple[str, int], PinStatement] = {}
    for _, value in view.scan(b"O", b"P"):
        pin = _read(value)
        pins[pin.owner, pin.made_at] = pin
    return list(pins.values())


def held_snapshots(view: View, now: int) -> set[bytes]:
    """Return the ids of the snapshots that a live pin of any licensee holds.

    Nobody can read the pins of a licensee that was ended, so they hold nothing.
    """
    ended = ended_licensees(view)
    return {
        pin.snapshot_id
        for pin in newest_pins(view)
        if not pin.deleted and pin.readable_until > now and pin.owner not in ended
    }


def check_readable(view: View, snapshot_id: bytes) -> None:
    """Refuse a snapshot that is not known or was released."""
    snapshot = format_digest(snapshot_id)
    if view.get(keys.snapshot(snapshot_id)) is None:
        raise SnapshotNotFoundError(
            f"no snapshot {snapshot}",
            hint="list the snapshots with: recension snapshots",
            snapshot=snapshot,
        )
    check_held(view, snapshot_id)


def check_held(view: View, *snapshot_ids: bytes) -> None:
    """Refuse snapshots whose trees were removed. Raises ``SnapshotReleasedError``."""
    for snapshot_id in snapshot_ids:
        if view.get(keys.released(snapshot_id)) is not None:
            snapshot = format_digest(snapshot_id)
            raise SnapshotReleasedError(
                f"snapshot {snapshot} was released: no pin held it",
                hint="make it again, with the selector and as-of of its manifest, and pin it",
                snapshot=snapshot,
            )


def _statements_of(owner: str, made_at: int) -> tuple[bytes, bytes]:
    return keys.pin(owner, made_at), keys.pin(owner, made_at, keys.END)


def _newest_of_each(view: View, rows: list[tuple[bytes, bytes]]) -> Iterator[PinStatement]:
    """Yield the newest statement of each pin that a row is of; the last pin may have more rows."""
    pins = {pin.made_at: pin for pin in (_read(value) for _, value in rows)}
    for at, pin in enumerate(pins.values(), 1):
        newest = view.last(*_statements_of(pin.owner, pin.made_at)) if at == len(pins) else None
        yield pin if newest is None else _read(newest[1])


def _read(payload: bytes) -> PinStatement:
    try:
        return read_pin(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"a pin is damaged: {error.message}") from None


def _answer(view: View, pin: PinStatement, now: int) -> Pin:
    created = view.get(keys.recorded(pin.made_at))
    if created is None:
        raise DataLossError(f"the time of commit {pin.made_at} is missing")
    return Pin(pin, int.from_bytes(created, "big", signed=True), pin.readable_until <= now)


def _is_same(
    view: View, pin: PinStatement, snapshot_id: bytes, readable_until: int, labels: Mapping[str, str]
) -> bool:
    """Say whether a pin has that content, or had it before it was extended."""
    if (pin.snapshot_id, pin.labels) != (snapshot_id, tuple(sorted(labels.items()))):
        return False
    rows = view.scan(*_statements_of(pin.owner, pin.made_at))
    return readable_until in {_read(value).readable_until for _, value in rows}


def _changed(
    pin: PinStatement,
    *,
    readable_until: int | None = None,
    deleted: bool = False,
    agreement: bytes | None = None,
) -> PinStatement:
    return make_pin(
        pin.owner,
        pin.name,
        pin.id,
        pin.snapshot_id,
        dict(pin.labels),
        pin.readable_until if readable_until is None else readable_until,
        pin.made_at,
        deleted=deleted,
        agreement=pin.agreement if agreement is None else agreement,
    )


def _not_found(name: str) -> PinNotFoundError:
    return PinNotFoundError(f"no pin {name!r}", hint="list the pins with: recension pins", pin=name)


def _expired(pin: PinStatement) -> PinExpiredError:
    return PinExpiredError(
        f"pin {pin.name!r} has expired: it held its snapshot until {format_instant(pin.readable_until)}",
        hint="if the snapshot can still be read, pin it again; else make it again from its manifest",
        pin=pin.name,
        snapshot=format_digest(pin.snapshot_id),
        readableUntil=format_instant(pin.readable_until),
    )
