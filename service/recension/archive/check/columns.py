"""The phase ``columns``: the runs of each project's event columns, made again from the log."""

from __future__ import annotations

from collections.abc import Iterator

from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy
from recension.archive.check.work import Work
from recension.archive.columns import Events, logged, part_rows
from recension.archive.projects import project_names
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import Store


def check_columns(work: Work) -> Iterator[bool]:
    """Make the runs of each project again; the cursor is the last run that is done."""
    state = work.state
    project, done = state.cursor or (0, 0)
    with work.store.view() as view:
        names = project_names(PatientView(view))
    for name, number in sorted(names, key=lambda one: one[1]):
        if number < project:
            continue
        after = done if number == project else 0
        while (upto := _next_run(work.store, number, after)) is not None and upto <= state.known_at:
            _check_run(work, name, number, after, upto)
            after = upto
            state.reach([number, after], after / max(state.known_at, 1))
            yield True


def _next_run(store: Store, number: int, after: int) -> int | None:
    with store.view() as view:
        rows = PatientView(view).scan(keys.event_run(number, after + 1), keys.event_run(number + 1), limit=1)
    return keys.read_event_run(rows[0][0])[0] if rows else None


def _check_run(work: Work, name: str, number: int, after: int, upto: int) -> None:
    place = f"event columns of project {name!r}, commits {after + 1} to {upto}"
    try:
        expected = _run_rows(work.store, name, number, after, upto)
        with work.store.view() as view:
            stored = view.get_many(list(expected))
            runs = view.scan(keys.event_run(number, upto), keys.event_run(number, upto + 1))
    except DataLossError as error:
        work.find("columns-damaged", place, error.message, Remedy.REBUILD)
        return
    named = sorted(key for key in expected if key[:1] == b"X")
    if stored != list(expected.values()) or [key for key, _ in runs] != named:
        work.find("columns-wrong", place, "the log says others", Remedy.REBUILD)


def _run_rows(store: Store, name: str, number: int, after: int, upto: int) -> dict[bytes, bytes]:
    """Return the rows of a run of event columns, as they are made."""
    events = Events()
    for position, some in logged(store, name, after):
        if position > upto:
            break
        events.add(position, some)
    return dict(row for rows in part_rows(number, after, upto, events) for row in rows)
