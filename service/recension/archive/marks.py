"""What was read from where: the marks that ingests leave in the log (``model.mark``).

Index rows say at which positions a source has marks; a mark itself is read from its commit.
"""

from __future__ import annotations

from dataclasses import dataclass

from recension.archive.horizons import recorded_at
from recension.archive.projects import find_project, project_names
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.mark import Mark, read_mark
from recension.model.reading import Provenance
from recension.model.record import Kind, statements_of
from recension.store import keys
from recension.store.interface import Store, View

_KINDS = frozenset({Kind.MARK})
_SECOND = 1_000_000


def newest(store: Store, project: str, source: str, file: bytes = b"") -> Mark | None:
    """Return the newest mark of a source: where a stream goes on. ``None`` before its first.

    ``file``: of a file, as its marks have it (``Mark.file``).
    Two looks at the index and one at the log. Raises ``DataLossError``.
    """
    with store.view() as view:
        number = find_project(view, project)
        if number is None:
            return None
        position = _newest_position(view, number, keys.source_key(source, file))
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


def end_of(store: Store, project: str, source: str, file: bytes, position: int) -> Mark | None:
    """Return the mark that ends the reading of a file which was going on at ``position``.

    ``file``: as its marks have it. ``None`` while it was not read to its end. Raises ``DataLossError``.
    """
    with store.view() as view:
        number = find_project(view, project)
        if number is None:
            return None
        name = keys.source_key(source, file)
        start = keys.source_mark(number, name, position, of_end=True)
        found = view.scan(start, keys.source_mark(number, name, keys.END, of_end=True), limit=1)
    return mark_at(store, keys.read_source_mark(found[0][0])[2]) if found else None


def provenance_of(store: Store, project: str, rev_id: int, position: int, recorded_at: int) -> Provenance:
    """Return what a revision of the commit at a position was read from. Raises ``DataLossError``."""
    mark = mark_at(store, position)
    if mark is None:
        return Provenance(position, recorded_at)
    end = end_of(store, project, mark.source, mark.file, position) if mark.span is not None else None
    origin = end.origin if end is not None else None
    return Provenance(
        position,
        recorded_at,
        mark.form,
        origin.digest if origin is not None else b"",
        origin.size_bytes if origin is not None else 0,
        mark.source,
        mark.span or (0, 0),
        {name: str(offset) for name, offset in mark.offsets.items()},
        next((said for said, rev_ids in mark.licenses.items() if rev_id in rev_ids), ""),
    )


def sources(store: Store, project: str) -> list[tuple[int, Mark]]:
    """Return (position, newest mark) of each source of a project, in the order of the positions.

    Files of one name are one source: the newest of them is told of. Three looks at the index and one at the
    log for each file and stream. Raises ``DataLossError``.
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
    last = {mark.source: (position, mark) for position, mark in marks if mark is not None}
    return sorted(last.values(), key=lambda one: one[0])


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far what is served of a source is behind what the source has told."""

    project: str
    form: str
    source: str
    position: int
    """Of its newest mark."""
    is_stream: bool
    upstream_at: int | None
    """Time of the newest thing that it told, microseconds since the epoch."""
    served_at: int | None
    """When that was recorded."""

    @property
    def lag_seconds(self) -> float | None:
        """From when it was told to when it was served."""
        if self.upstream_at is None or self.served_at is None:
            return None
        return (self.served_at - self.upstream_at) / _SECOND


def freshness(store: Store, *, streams_alone: bool = False) -> list[Freshness]:
    """Return the state of all sources by project and position. Some milliseconds for each stream.

    Raises ``DataLossError``.
    """
    with store.view() as view:
        projects = project_names(view)
    found = []
    for project, number in projects:
        for position, mark in sources(store, project):
            if streams_alone and not mark.offsets:
                continue
            served_at = None
            if mark.upstream_at is not None:
                told = _first_told(store, number, position, mark) if mark.offsets else position
                with store.view() as view:
                    served_at = recorded_at(view, told)
            stream = bool(mark.offsets)
            found.append(
                Freshness(project, mark.form, mark.source, position, stream, mark.upstream_at, served_at)
            )
    return found


def _first_told(store: Store, number: int, newest_: int, mark: Mark) -> int:
    """Return the position of the first mark of a stream with the upstream time of its newest.

    Later ones may say that it went on without anything new. Times of a stream's marks never fall.
    """
    name = keys.source_key(mark.source, mark.file)
    earlier, found = 0, newest_
    while found - earlier > 1:
        middle = (earlier + found) // 2
        with store.view() as view:
            start = keys.source_mark(number, name, earlier + 1)
            row = view.last(start, keys.source_mark(number, name, middle + 1))
        before = mark_at(store, keys.read_source_mark(row[0])[2]) if row is not None else None
        if row is not None and before is not None and before.upstream_at == mark.upstream_at:
            found = keys.read_source_mark(row[0])[2]
        else:
            earlier = middle
    return found


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
