"""What was read from where: the marks that ingests leave in the log (``model.mark``).

Index rows say at which positions a source has marks; a mark itself is read from its commit.
"""

from __future__ import annotations

from recension.archive.projects import find_project
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.mark import Mark, read_mark
from recension.model.record import Kind, statements_of
from recension.store import keys
from recension.store.interface import Store, View

_KINDS = frozenset({Kind.MARK})


def newest(store: Store, project: str, source: str) -> Mark | None:
    """Return the newest mark of a source: where a stream goes on. ``None`` before its first.

    Two looks at the index and one at the log. Raises ``DataLossError``.
    """
    with store.view() as view:
        number = find_project(view, project)
        if number is None:
            return None
        position = _newest_position(view, number, keys.source_name(source))
    return mark_at(store, position) if position else None


def mark_at(store: Store, position: int) -> Mark | None:
    """Return the mark of the commit at a position; ``None`` where it has none. Raises ``DataLossError``."""
    for record in store.log.read(position, 1):
        for _, statement in statements_of(record, _KINDS):
            try:
                return read_mark(statement.payload)
            except InvalidArgumentError as error:
                raise DataLossError(
                    f"the mark in commit {position} cannot be read: {error.message}",
                    hint="run recension-server fsck",
                ) from None
    return None


def end_of(store: Store, project: str, source: str, position: int) -> Mark | None:
    """Return the mark that ends the reading of a file which was going on at ``position``.

    ``None`` while it was not read to its end. Raises ``DataLossError``.
    """
    with store.view() as view:
        number = find_project(view, project)
        if number is None:
            return None
        name = keys.source_name(source)
        start = keys.source_mark(number, name, position, of_end=True)
        found = view.scan(start, keys.source_mark(number, name, keys.END, of_end=True), limit=1)
    return mark_at(store, keys.read_source_mark(found[0][0])[2]) if found else None


def sources(store: Store, project: str) -> list[tuple[int, Mark]]:
    """Return (position, newest mark) of each source of a project, in the order of the positions.

    Three looks at the index and one at the log for each. Raises ``DataLossError``.
    """
    positions = []
    with store.view() as view:
        number = find_project(view, project)
        if number is None:
            return []
        start, stop = keys.source_marks(number)
        while found := view.scan(start, stop, limit=1):
            name = keys.read_source_mark(found[0][0])[0]
            positions.append(_newest_position(view, number, name))
            start = _behind(number, name)
    marks = ((position, mark_at(store, position)) for position in sorted(positions))
    return [(position, mark) for position, mark in marks if mark is not None]


def _newest_position(view: View, number: int, name: bytes) -> int:
    """Return the position of a source's newest mark, 0 for none."""
    newest_ = 0
    for of_end in (False, True):
        start = keys.source_mark(number, name, of_end=of_end)
        row = view.last(start, keys.source_mark(number, name, keys.END, of_end=of_end))
        if row is not None:
            newest_ = max(newest_, keys.read_source_mark(row[0])[2])
    return newest_


def _behind(number: int, name: bytes) -> bytes:
    """Return a bound above all marks of a source."""
    return keys.source_mark(number, name, keys.END, of_end=True) + b"\0"
