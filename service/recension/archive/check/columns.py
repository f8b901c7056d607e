"""The phase ``columns``: the runs of each project's event columns, made again from the log, and stages."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy
from recension.archive.check.work import Work
from recension.archive.columns import (
    Events,
    facts_in,
    holds_facts,
    logged,
    part_rows,
    read_part,
    says_same,
)
from recension.archive.folding import StageRows
from recension.archive.packing import Columns
from recension.archive.projects import project_names
from recension.archive.stages import Stage, read_stages, stage_row
from recension.model.errors import DataLossError
from recension.model.instant import format_instant
from recension.store import keys
from recension.store.interface import Row, Store


def check_columns(work: Work) -> Iterator[bool]:
    """Make the runs and stages of each project again; the cursor is the last run and stage that is done."""
    state = work.state
    project, done, stage = state.cursor or (0, 0, 0)
    with work.store.view() as view:
        names = project_names(PatientView(view))
    for name, number in sorted(names, key=lambda one: one[1]):
        if number < project:
            continue
        after = done if number == project else 0
        while (runs := _next_run(work.store, number, after)) and _upto(runs) <= state.known_at:
            _check_run(work, name, number, after, runs)
            after = _upto(runs)
            state.reach([number, after, 0], after / max(state.known_at, 1))
            yield True
        for at in _check_stages(work, name, number, stage if number == project else 0):
            state.reach([number, after, at], state.share)
            yield True


def _upto(runs: list[Row]) -> int:
    return keys.read_event_run(runs[0][0])[0]


def _next_run(store: Store, number: int, after: int) -> list[Row]:
    """Return the rows that name the parts of the next run."""
    with store.view() as view:
        patient = PatientView(view)
        rows = patient.scan(keys.event_run(number, after + 1), keys.event_run(number + 1), limit=1)
        if not rows:
            return []
        upto = _upto(rows)
        return patient.scan(keys.event_run(number, upto), keys.event_run(number, upto + 1))


def _check_run(work: Work, name: str, number: int, after: int, runs: list[Row]) -> None:
    upto = _upto(runs)
    place = f"event columns of project {name!r}, commits {after + 1} to {upto}"
    events = Events()
    try:
        for position, some in logged(work.store, number, after, upto):
            events.add(position, some)
        facts = facts_in(work.store, number) if holds_facts(runs[0][1]) else None
        named = []
        same = True
        for span, rows in part_rows(number, after, upto, events, facts):
            named.append(span)
            count = read_part(span).events
            same = same and all(_is_stored(work.store, row, count) for row in rows)
    except (DataLossError, struct.error, ValueError) as error:
        work.find("columns-damaged", place, str(error), Remedy.REBUILD)
        return
    if not same or named != runs:
        work.find("columns-wrong", place, "the log says others", Remedy.REBUILD)


def _check_stages(work: Work, name: str, number: int, done: int) -> Iterator[int]:
    """Make the stages of a project again, each from those before it as a writer does; yield how many.

    What they are made of are the event columns, which were compared with the log.
    """
    with work.store.view() as view:
        rows = PatientView(view).scan(keys.stage(number), keys.stage(number + 1))
    known = read_stages(rows)
    readable = {stage[:2] for stage in known}
    for key, _ in rows if not done else ():
        if keys.read_stage(key) not in readable:
            place = _stage(name, *keys.read_stage(key))
            work.find("stages-damaged", place, "its row does not add up", Remedy.REBUILD)
    for at, stage in enumerate(known):
        if at >= done and stage.upto <= work.state.known_at:
            place = _stage(name, stage.upto, stage.valid_at)
            try:
                if not _is_made(work.store, number, stage, known[:at]):
                    work.find("stages-wrong", place, "the event columns say others", Remedy.REBUILD)
            except (DataLossError, struct.error, ValueError) as error:
                work.find("stages-damaged", place, str(error), Remedy.REBUILD)
            yield at + 1


def _stage(name: str, upto: int, valid_at: int) -> str:
    return f"stage of project {name!r}, commits up to {upto}, valid until {format_instant(valid_at)}"


def _is_made(store: Store, number: int, stage: Stage, before: list[Stage]) -> bool:
    """Say whether a stage is the one that is made from the event columns and those before it."""
    rows = StageRows(store, number, stage.upto, stage.valid_at, before)
    for at, (key, value) in enumerate(rows):
        with store.view() as view:
            stored = view.get(key)
        if at >= len(stage.chunks) or stored is None:
            return False
        count = stage.chunks[at][1]
        if stored != value and not Columns(stored, count).says_same(Columns(value, count)):
            return False
    return rows.name() == stage_row(number, stage)


def _is_stored(store: Store, row: Row, events: int) -> bool:
    with store.view() as view:
        return says_same(row, view.get(row[0]), events)
