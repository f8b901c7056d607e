"""The licensees and their agreements: added, ended, never edited, and found for each call.

What the log says of a licensee is in rows that are found by its name, in the order of the log; whether they
are still the same is one look at the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from recension.archive.clock import Clock, system_clock
from recension.archive.projects import find_project
from recension.archive.stating import record
from recension.model.access import check_owner
from recension.model.agreement import (
    Agreement,
    End,
    Standing,
    Version,
    VersionInfo,
    in_force,
    make_end,
    read_statement,
    retained,
    standing_of,
    version_statement,
    versions_of,
)
from recension.model.errors import (
    AgreementEndedError,
    AgreementNotFoundError,
    DataLossError,
    InvalidAgreementError,
    InvalidArgumentError,
    LicenseeEndedError,
    LicenseeExistsError,
    LicenseeNotFoundError,
    ProjectNotFoundError,
)
from recension.model.instant import check_instant, format_instant
from recension.model.licensee import FORMAT as LICENSEE_FORMAT
from recension.model.licensee import Licensee, make_licensee, read_licensee
from recension.model.record import Kind, Statement
from recension.store import keys
from recension.store.interface import Row, State, Store, View

_HELD = 10_000
"""Licensees whose agreements are held in memory; more begin anew."""
_OF_LICENSEE = f'"format":"{LICENSEE_FORMAT}"'.encode()
"""Only statements of licensees have it: in a string of another the quotes would be escaped."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the log says of one licensee, up to its newest statement."""

    position: int
    """Of that statement; 0 if there is none."""
    licensee: Licensee | None
    versions: tuple[Version, ...]
    """In the order of their ordinals."""


_NOTHING = Held(0, None, ())


class Agreements:
    """All licensees of a store and their agreements. Safe for concurrent use, by several processes too."""

    def __init__(self, store: Store, *, clock: Clock = system_clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = Lock()
        self._held: dict[str, tuple[State, Held]] = {}
        """And in which state of the store it was found so."""
        self._seen: tuple[State, dict[str, str]] | None = None

    # --- what each call asks ----------------------------------------------------------------------

    def current(self, licensee: str, now: int) -> Version | None:
        """Return the version that rules at an instant; ``None`` if none does, or the licensee was ended.

        Sees what was added or ended before it is called, by another process too. Takes a look at one row,
        and that only where anything was written since the last time.
        """
        held = self.held(licensee)
        return None if held.licensee is None or held.licensee.ended else in_force(held.versions, now)

    def retained(self, licensee: str, now: int) -> Version | None:
        """Return the version after whose end what was pinned under it can still be read at an instant."""
        held = self.held(licensee)
        return None if held.licensee is None or held.licensee.ended else retained(held.versions, now)

    def held(self, licensee: str) -> Held:
        """Return all that the log says of a licensee; without a position if it says nothing."""
        state, known = self._held.get(licensee, (None, _NOTHING))
        if state is not None and state == self._store.state:
            return known
        with self._store.view() as view:
            state = view.state
            row = view.last(*_range(licensee))
            position = 0 if row is None else _position(row)
            found = known if known.position == position else _held(view, licensee)
        with self._lock:
            if len(self._held) >= _HELD:
                self._held.clear()
            self._held[licensee] = state, found
        return found

    def by_certificate(self, name: str) -> str | None:
        """Return the licensee that has a subject alternative name, ``DNS:client.example.org``."""
        return self._names().get(name)

    def by_subject(self, subject: str) -> str | None:
        """Return the licensee that has the ``sub`` of a token."""
        return self._names().get(_SUBJECT + subject) if subject else None

    def _names(self) -> dict[str, str]:
        """Return by what licensees are told from others; made anew when the store has changed."""
        with self._store.view() as view:
            state = view.state
            seen = self._seen
            if seen is None or seen[0] != state:
                live = (one for one in _licensees(view) if not one.ended)
                seen = self._seen = state, {mark: one.name for one in live for mark in _marks(one)}
        return seen[1]

    # --- licensees --------------------------------------------------------------------------------

    def add_licensee(self, new: Licensee, *, replace: bool = False) -> tuple[Licensee, bool]:
        """Add a licensee, and say whether anything was recorded; its position is not looked at.

        Raises ``LicenseeExistsError`` for one that there is and says other things, unless it is to replace
        them, or when another has one of its certificates or its token.
        """

        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            before = _held(view, new.name).licensee
            if before is not None and _same(before, new):
                return None
            if before is not None and not replace:
                raise LicenseeExistsError(
                    f"there is a licensee {new.name} already, and it says other things of itself",
                    hint="see recension-server licensee show; add --replace to say all of it anew",
                    licensee=new.name,
                )
            marks = set(_marks(new))
            for other in _licensees(view):
                shared = marks.intersection(_marks(other))
                if other.name != new.name and not other.ended and shared:
                    raise LicenseeExistsError(
                        f"{other.name} has {min(shared).removeprefix(_SUBJECT)!r} already",
                        hint="each certificate and each token is of one licensee",
                        licensee=other.name,
                    )
            return Statement(Kind.LICENSEE, _at(new, position).encoded)

        made = record(self._store, self._clock, decide)
        return self.licensee(new.name), made is not None

    def end_licensee(self, name: str) -> Licensee:
        """Serve a licensee nothing any more; once more changes nothing. Raises ``LicenseeNotFoundError``."""

        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            licensee = _need(view, name).licensee
            if licensee is None or licensee.ended:
                return None
            return Statement(Kind.LICENSEE, _at(licensee, position, ended=True).encoded)

        record(self._store, self._clock, decide)
        return self.licensee(name)

    def licensee(self, name: str) -> Licensee:
        """Return a licensee as it is now. Raises ``LicenseeNotFoundError``."""
        with self._store.view() as view:
            found = _need(view, name).licensee
        assert found is not None  # noqa: S101 - ``_need`` has seen it
        return found

    def licensees(self) -> list[Licensee]:
        """Return all licensees, ended ones too, by name."""
        with self._store.view() as view:
            return _licensees(view)

    # --- agreements -------------------------------------------------------------------------------

    def add(self, agreement: Agreement) -> tuple[Version, bool]:
        """Add a version, and say whether it is new: the newest one with the same document is returned.

        Raises ``LicenseeNotFoundError``, ``LicenseeEndedError``, ``ProjectNotFoundError``,
        ``InvalidAgreementError`` for one that is over already.
        """
        name = agreement.licensee

        def decide(view: View, position: int, now: int) -> Statement | None:
            held = _need(view, name)
            if held.licensee is None or held.licensee.ended:
                raise LicenseeEndedError(
                    f"{name} was ended, and makes no agreements",
                    hint="add the licensee again, with: recension-server licensee add --replace",
                    licensee=name,
                )
            _check_projects(view, agreement)
            if agreement.valid_until is not None and agreement.valid_until <= now:
                raise InvalidAgreementError(
                    f"valid_until: {format_instant(agreement.valid_until)} is over already",
                    field="valid_until",
                )
            newest = held.versions[-1] if held.versions else None
            if newest is not None and newest.ends_at is None and newest.digest == agreement.digest:
                return None
            ordinal = 1 if newest is None else newest.ordinal + 1
            return Statement(Kind.AGREEMENT, version_statement(agreement, ordinal, position))

        made = record(self._store, self._clock, decide)
        if made is None:
            return self.version(name, agreement.name), False
        # Others may have added the same document since: the one of this very commit is meant.
        return next(one for one in self.versions(name) if one.made_at == made.position), True

    def versions(self, licensee: str) -> tuple[Version, ...]:
        """Return all versions of a licensee, the oldest first. Raises ``LicenseeNotFoundError``."""
        with self._store.view() as view:
            return _need(view, licensee).versions

    def told(self, licensee: str) -> tuple[VersionInfo, ...]:
        """Return all versions of a licensee with what they are now. Raises ``LicenseeNotFoundError``."""
        with self._store.view() as view:
            held = _need(view, licensee)
            now = max(self._clock(), view.head().recorded_at)
            ended = held.licensee is not None and held.licensee.ended
            return tuple(
                VersionInfo(
                    one,
                    _added_at(view, one),
                    Standing.OVER if ended else standing_of(one, held.versions, now),
                )
                for one in held.versions
            )

    def version(self, licensee: str, which: str = "") -> Version:
        """Return a version by its ordinal or digest, as they are written; without one the newest.

        Raises ``LicenseeNotFoundError``, ``AgreementNotFoundError``.
        """
        versions = self.versions(licensee)
        found = [one for one in versions if which in ("", one.name, str(one.ordinal))]
        if not found:
            has = f"it has {len(versions)}" if versions else "it has none"
            raise AgreementNotFoundError(
                f"no agreement {which[:80]} of {licensee}: {has}",
                hint=f"see recension-server agreement list {licensee}",
                licensee=licensee,
            )
        return found[-1]

    def end(self, licensee: str, ends_at: int | None = None) -> tuple[Version, ...]:
        """End all versions of a licensee at an instant, at once if none is given; return all versions.

        One that is added later is not meant. Raises ``LicenseeNotFoundError``, ``AgreementNotFoundError``,
        ``AgreementEndedError`` if none reaches beyond it, and ``InvalidArgumentError`` for a past instant.
        """
        if ends_at is not None:
            check_instant(ends_at)

        def decide(view: View, position: int, now: int) -> Statement:
            at = now if ends_at is None else ends_at
            if at < now:
                raise InvalidArgumentError(
                    f"ends_at: {format_instant(at)} is in the past",
                    hint="nothing ends before it was said to; leave the time out to end it at once",
                    field="ends_at",
                )
            versions = _need(view, licensee).versions
            if not versions:
                raise AgreementNotFoundError(f"{licensee} has no agreement", licensee=licensee)
            if all(version.is_over(at) for version in versions):
                raise AgreementEndedError(
                    f"no agreement of {licensee} reaches beyond {format_instant(at)}",
                    hint=f"see recension-server agreement list {licensee}",
                    licensee=licensee,
                )
            return Statement(Kind.AGREEMENT, make_end(licensee, at, versions[-1].ordinal, position).encoded)

        record(self._store, self._clock, decide)
        return self.versions(licensee)


def ended_licensees(view: View) -> frozenset[str]:
    """Return the names of the licensees that were ended."""
    return frozenset(one.name for one in _licensees(view) if one.ended)


# --- rows -----------------------------------------------------------------------------------------

_SUBJECT = "sub "
"""Before the subject of a token among marks; no name in a certificate begins so."""


@lru_cache(1024)
def _range(name: str) -> tuple[bytes, bytes]:
    return keys.licensee(name), keys.licensee(name, keys.END)


def _position(row: Row) -> int:
    return int.from_bytes(row[0][-8:], "big")


def _need(view: View, name: str) -> Held:
    """Return what is known of a licensee. Raises ``LicenseeNotFoundError``."""
    check_owner(name)
    held = _held(view, name)
    if held.licensee is None:
        raise LicenseeNotFoundError(
            f"no licensee {name}",
            hint=f"add it with: recension-server licensee add {name}",
            licensee=name,
        )
    return held


def _held(view: View, name: str) -> Held:
    licensee: Licensee | None = None
    statements: list[Version | End] = []
    rows = view.scan(*_range(name))
    for _, value in rows:
        one = _read(value)
        if isinstance(one, Licensee):
            licensee = one
        else:
            statements.append(one)
    return Held(_position(rows[-1]) if rows else 0, licensee, versions_of(statements))


def _added_at(view: View, version: Version) -> int:
    added = view.get(keys.recorded(version.made_at))
    if added is None:
        raise DataLossError(f"the time of commit {version.made_at} is missing")
    return int.from_bytes(added, "big", signed=True)


def _licensees(view: View) -> list[Licensee]:
    statements = (_read(value) for _, value in view.scan(b"l", b"m") if _OF_LICENSEE in value)
    found = {one.name: one for one in statements if isinstance(one, Licensee)}
    return [found[name] for name in sorted(found)]


@lru_cache(1024)
def _read(payload: bytes) -> Licensee | Version | End:
    read: Callable[[bytes], Licensee | Version | End]
    read = read_licensee if _OF_LICENSEE in payload else read_statement
    try:
        return read(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"what is said of a licensee is damaged: {error.message}") from None


def _marks(licensee: Licensee) -> Iterator[str]:
    yield from licensee.certificate_names
    if licensee.jwt_subject:
        yield _SUBJECT + licensee.jwt_subject


def _at(licensee: Licensee, position: int, *, ended: bool = False) -> Licensee:
    return make_licensee(
        licensee.name,
        position,
        display_name=licensee.display_name,
        contact=licensee.contact,
        certificate_names=licensee.certificate_names,
        jwt_subject=licensee.jwt_subject,
        ended=ended,
    )


def _same(one: Licensee, other: Licensee) -> bool:
    return _at(one, 1, ended=one.ended) == _at(other, 1, ended=other.ended)


def _check_projects(view: View, agreement: Agreement) -> None:
    for name in sorted(set().union(*(grant.projects for grant in agreement.grants))):
        if find_project(view, name) is None:
            raise ProjectNotFoundError(
                f"grants: no project {name!r}",
                hint="see recension-server project list; a project is made before it is granted",
                project=name,
                field="grants",
            )
