"""The phase ``rows``: every index row that events and commits make has its event or commit in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256

from recension.archive.check.forms import is_formed, is_key, name_of, page_of
from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy
from recension.archive.check.work import FEW, ROWS, Work
from recension.archive.ledger import LEAVES
from recension.archive.projects import read_definition
from recension.archive.replay import (
    NO_DEFINITION,
    acknowledgement_rows,
    api_key_rows,
    licensee_rows,
    mark_rows,
    pin_rows,
)
from recension.model.errors import DataLossError
from recension.model.record import Commit, Kind, Skeleton, Statement
from recension.model.seal import read_title
from recension.store import keys
from recension.store.interface import Row, View

_MARKS = frozenset({Kind.MOVE, Kind.DELETE, Kind.RESTORE})
_EVENTS = {
    b"E": frozenset({Kind.EDIT}), b"R": frozenset({Kind.EDIT}), b"M": _MARKS,
    b"V": frozenset({Kind.VISIBILITY}), b"W": frozenset({Kind.VISIBILITY}), b"L": frozenset({Kind.LOG_ENTRY}),
}  # fmt: skip
"""The rows that name an event, and the kinds of event that make them."""
_ELSEWHERE = frozenset(b"DGHJKNUXfghi")
"""Kinds of row that other phases walk."""


def check_rows(work: Work) -> Iterator[bool]:
    """Walk the rows that events make, and look for those of no kind; the cursor is the next key."""
    start = bytes.fromhex(work.state.cursor[0]) if work.state.cursor else b"\0"
    for letter in range(start[0], 0xFF):
        if letter in _ELSEWHERE:
            continue
        begin, end = max(start, bytes([letter])), bytes([letter + 1])
        size = FEW if letter == ord("T") else ROWS
        for next_ in work.walk(begin, end, partial(_check_some, work), size):
            work.state.reach([next_.hex()], min(max(letter - 0x41, 0) / 26, 1.0))
            yield True


def _check_some(work: Work, view: View, rows: list[Row]) -> None:
    patient = PatientView(view)
    for row in rows:
        key = row[0]
        if not is_key(key) or (key[:1] == b"P" and not is_formed(row)):
            work.find_alien(key)
        elif not _is_made(work, patient, row):
            work.find("row-orphan", name_of(key), "nothing in the log makes it", Remedy.REBUILD)


def _is_made(work: Work, view: View, row: Row) -> bool:
    """Say whether the log makes a row; what came after the check began is taken for granted."""
    key = row[0]
    letter = key[:1]
    if letter == b"A":
        return True  # a removal is in no log
    if letter == b"a":
        return view.get(keys.snapshot(key[1:])) is not None
    if letter == b"T":
        return _has_title(work, view, key)
    if letter == b"P":
        return _has_definition(view, row)
    if letter in _EVENTS:
        position, ordinal, said = _read_event(key)
    else:
        position, ordinal, said = _position(row), 0, {}
    if position > work.state.known_at:
        return position <= view.head().position
    commit = work.held.commit(position)
    if commit is None:
        return position > 0  # told by the phase ``log``
    if letter not in b"BFIOYZdeklru" and commit.project != work.held.project_name(view, page_of(key)[0]):
        return False
    if letter not in _EVENTS:
        return _makes(work, position, commit, key)
    item = commit.items[ordinal] if ordinal < len(commit.items) else None
    return (
        isinstance(item, Skeleton)
        and item.kind in _EVENTS[letter]
        and all(getattr(item, name) == one for name, one in said.items())
    )


def _position(row: Row) -> int:
    """Return the position of the commit that a row names."""
    key, value = row
    if key[:1] in b"SZ":
        return int.from_bytes(value, "big")
    return int.from_bytes(key[1:9] if key[:1] == b"I" else key[-8:], "big")


def _read_event(key: bytes) -> tuple[int, int, dict[str, int]]:
    """Return (position, ordinal) of the event that a row is of, and what its key says of it."""
    match key[:1]:
        case b"E":
            page, time, rev, position, ordinal = keys.read_edit(key)
            return position, ordinal, {"page_id": page, "time": time, "rev_id": rev}
        case b"M":
            page, time, position, ordinal = keys.read_mark(key)
            return position, ordinal, {"page_id": page, "time": time}
        case b"L":
            time, position, ordinal = keys.read_log_entry(key)
            return position, ordinal, {"time": time}
        case letter:
            subject, position, ordinal = keys.read_revision(key)
            return position, ordinal, {"page_id" if letter == b"W" else "rev_id": subject}


def _makes(work: Work, position: int, commit: Commit, key: bytes) -> bool:
    """Say whether a commit makes a row that names it as a whole."""
    match key[:1]:
        case b"S":
            return key[5:] in work.held.sources(position, commit)
        case b"C":
            return any(isinstance(item, Skeleton) for item in commit.items)
        case b"Q":
            return bool(_statements(commit, Kind.PROJECT))
        case b"Z":
            return key[1:] in {sha256(one).digest() for one in _statements(commit, Kind.SNAPSHOT)}
        case b"Y":
            return bool(_statements(commit, Kind.SNAPSHOT))
        case b"I":
            leaves = sum(isinstance(item, Statement) and item.kind in LEAVES for item in commit.items)
            return int.from_bytes(key[9:], "big") < leaves
        case b"k":
            return bool(_statements(commit, Kind.KEY))
        case b"F" | b"O":
            return _is_of_statement(position, commit, key, Kind.PIN, pin_rows)
        case b"r":
            return bool(_statements(commit, Kind.RETRACTION))
        case b"e":
            return bool(_statements(commit, Kind.RECEIPT))
        case b"d":
            return _is_of_statement(position, commit, key, Kind.ACKNOWLEDGEMENT, acknowledgement_rows)
        case b"v":
            rev = keys.read_withdrawn(key)[0]
            events = [item for item in commit.items if isinstance(item, Skeleton)]
            return bool(_statements(commit, Kind.RETRACTION)) and rev in {event.rev_id for event in events}
        case b"m":
            rows_of = partial(mark_rows, page_of(key)[0])
            return _is_of_statement(position, commit, key, Kind.MARK, rows_of)
        case b"u":
            return _is_of_statement(position, commit, key, Kind.API_KEY, api_key_rows)
        case b"l":
            return any(
                _is_of_statement(position, commit, key, kind, partial(licensee_rows, kind))
                for kind in (Kind.LICENSEE, Kind.AGREEMENT)
            )
        case _:
            return True


def _is_of_statement(
    position: int, commit: Commit, key: bytes, kind: Kind, rows_of: Callable[[bytes, int], list[Row]]
) -> bool:
    try:
        rows = [row for one in _statements(commit, kind) for row in rows_of(one, position)]
    except DataLossError:
        return True  # told by the phase ``log``
    return key in dict(rows)


def _statements(commit: Commit, kind: Kind) -> list[bytes]:
    return [item.payload for item in commit.items if isinstance(item, Statement) and item.kind is kind]


def _has_definition(view: View, row: Row) -> bool:
    key, value = row
    number = int.from_bytes(value, "big")
    first = view.scan(keys.definition(number, 0), keys.definition(number, keys.END), limit=1)
    try:
        return bool(first) and read_definition(first[0][1]).name.encode() == key[1:]
    except NO_DEFINITION:
        return True  # told by the phase ``log``


def _has_title(work: Work, view: View, key: bytes) -> bool:
    """Say whether an event of a page named it so: mostly its last edit did."""
    page = int.from_bytes(key[1:5], "big"), int.from_bytes(key[-8:], "big")
    return any(_titles(work, view, event, page, key) for event in _events_of(view, page))


def _events_of(view: View, page: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield (position, ordinal) of a page's marks, its last edit, and all its edits."""
    number, page_id = page
    for key, _ in view.scan(keys.marks_from(number, page_id), keys.marks_from(number, page_id + 1)):
        yield keys.read_mark(key)[2:]
    start, stop = keys.edits_from(number, page_id), keys.edits_from(number, page_id + 1)
    last = view.last(start, stop)
    if last is not None:
        yield keys.read_edit(last[0])[3:]
    while rows := view.scan(start, stop, limit=ROWS):
        yield from (keys.read_edit(key)[3:] for key, _ in rows)
        start = rows[-1][0] + b"\0"


def _titles(work: Work, view: View, event: tuple[int, int], page: tuple[int, int], key: bytes) -> bool:
    position, ordinal = event
    commit = work.held.commit(position)
    sealed = work.held.sealed(view, position, ordinal)
    if commit is None or sealed is None or ordinal >= len(commit.items):
        return True  # told by the phase ``log``
    item = commit.items[ordinal]
    if not isinstance(item, Skeleton) or len(sealed.values) < 2:  # noqa: PLR2004 - a title and another
        return False
    values = sealed.values[: 2 if item.kind is Kind.MOVE else 1]
    try:
        titles = [read_title(value)[1] for value in values if value is not None]
        return key in {keys.title(page[0], title, page[1]) for title in titles}
    except DataLossError:
        return True  # told by the phase ``log``
