"""Records of the quarantine taken again, by the same parsers and rules.

Of a file all of it is read again: what is known changes nothing, and what is rejected now takes the place of
what was. Of a stream, which nobody gives again, the records themselves are, where they were kept whole. After
a kill at any moment the quarantine is as it was before, and the next retry finds what was taken known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from recension.archive.clock import Clock, salts_of, system_clock
from recension.archive.ingest import Ingestor
from recension.archive.intake.frames import Fed
from recension.archive.judging import lacks_text
from recension.archive.ordering import Order
from recension.archive.prepared import prepare_all
from recension.archive.projects import definition_of, project_number
from recension.model.errors import InvalidArgumentError, SourceError
from recension.model.event import Event
from recension.model.mark import Mark
from recension.server import eventstreams
from recension.server.completing import Whole
from recension.server.ingest import Form, ingest_files
from recension.server.quarantine import Kept, Quarantine, Source, read_kept
from recension.server.taking import Summary, take
from recension.sources import enterprise_stream
from recension.sources.contents import MediaWikiContent
from recension.sources.enterprise import Records
from recension.sources.http import Http
from recension.sources.items import BadRecordError, Item, Rejected, RunEnd, Skipped
from recension.sources.json_fields import parse_json
from recension.sources.page_change import (
    Complete,
    Passed,
    read_document,
)
from recension.sources.titles import fold_table
from recension.store.interface import Store

Reread = Callable[[str, Mapping[str, int], bytes], Iterator[Item]]
"""Reads one record of a stream by (project, namespaces as ``fold_table`` makes them, bytes).

May raise ``BadRecordError`` or ``ValueError``.
"""
ALONE = Whole(allow_incomplete=True)
"""The file is read by itself, whatever set it is of."""
_QUARANTINE = " (quarantine)"
"""Behind the source in marks of what was taken again: they say nothing of how far the stream was read."""


def _enterprise(project: str, namespaces: Mapping[str, int], record: bytes) -> Iterator[Item]:
    skipped: Counter[str] = Counter()
    yield from Records(project, namespaces).read(parse_json(record), skipped)
    if skipped:
        yield Skipped(skipped)


def _change(store: Store, project: str, record: bytes) -> Complete | None:
    """Read a document of EventStreams, with its text; ``None`` when it says nothing of the project.

    Raises ``BadRecordError``, ``ValueError``, and what a ``ContentSource`` raises.
    """
    change = read_document(parse_json(record), [project])
    if isinstance(change, Passed):
        return None
    with store.view() as view:
        number = project_number(view, project)
        if not lacks_text(view, number, change):
            return Complete(change, None)
        origin = definition_of(view, number).base_url
    return eventstreams.completed(change, MediaWikiContent(Http(origin)), record)


REREADS: dict[str, Reread] = {enterprise_stream.FORM: _enterprise}
"""By the form of the stream."""


def retry(
    store: Store,
    project: str,
    file: Path,
    *,
    data: Path,
    source: Path | None = None,
    quiet: bool = True,
    clock: Clock = system_clock,
    seed: bytes = b"",
) -> Summary:
    """Take the records of one file of the quarantine again. Holds the right to write.

    ``source``: where the file is that they came from, if it was moved. Raises ``InvalidArgumentError`` for
    records of which nobody knows how they are read, ``SourceError`` for a file that is gone or another one,
    and as ``ingest_files`` does.
    """
    first = next(read_kept(file), None)
    if first is None:
        return Summary()
    form = first.source.form
    if form in REREADS or form == eventstreams.FORM:
        return _retry_stream(store, project, file, first.source, data, clock, seed)
    for known in get_args(Form):
        if form == known:
            path = source or Path(first.source.path)
            _check_same(data, project, file, path)
            return ingest_files(
                store, known, project, [path], data=data, quiet=quiet, clock=clock, seed=seed, whole=ALONE
            )
    raise InvalidArgumentError(
        f"{file.name}: its records cannot be taken again from here",
        hint="ingest the file that they came from, or export them",
        field="form",
        form=form,
    )


def _check_same(data: Path, project: str, file: Path, path: Path) -> None:
    if not path.is_file():
        raise SourceError(
            f"{path}: the file that the records came from is not there",
            hint="say with --file where it is now",
            path=path,
        )
    if Quarantine(data, project).digest(path) != Quarantine.digest_in(file):
        raise SourceError(
            f"{path}: another file than the one that the records came from",
            hint="say with --file where that one is; ingest this one as any other",
            path=path,
        )


def _retry_stream(
    store: Store, project: str, file: Path, source: Source, data: Path, clock: Clock, seed: bytes
) -> Summary:
    summary = Summary()
    mark = Mark(source.form, f"{source.name}{_QUARANTINE}")
    with store.exclusive_writer():
        ingestor = Ingestor(store, clock=clock, salts=salts_of(seed))
        namespaces = fold_table(ingestor.namespaces(project))
        rest = Quarantine(data, project).retrying(file, source)
        try:
            for kept in read_kept(file):
                for left in _take_one(store, ingestor, project, namespaces, kept, summary, mark):
                    rest.put(left)
        except BaseException:
            rest.discard()
            raise
        rest.replace(file)
        ingestor.settle(everything=False)
    summary.quarantine = str(rest.folder) if rest.kept else ""
    head = store.log.head()
    summary.position, summary.head = head.position, head.hash.hex()
    return summary


def _take_one(
    store: Store,
    ingestor: Ingestor,
    project: str,
    namespaces: Mapping[str, int],
    kept: Kept,
    summary: Summary,
    mark: Mark,
) -> list[Kept]:
    """Take a record; return what stays in quarantine of it."""
    if not kept.record:
        summary.rejected[kept.reason] += 1
        return [kept]
    items: list[Item] = []
    changes: list[Complete] = []
    try:
        if kept.source.form == eventstreams.FORM:
            change = _change(store, project, kept.record)
            changes = [] if change is None else [change]
        else:
            items = list(REREADS[kept.source.form](project, namespaces, kept.record))
    except BadRecordError as fault:
        return [_still(kept, summary, fault.reason, fault.message)]
    except ValueError as fault:
        return [_still(kept, summary, "INVALID_JSON", f"the line is no JSON: {str(fault)[:200]}")]
    with store.view() as view:
        order = Order(view, project, items)
        items = [item for item in items if not order.is_overtaken(item)]
    events = [item for item in items if isinstance(item, Event)]
    remarks = [item for item in items if not isinstance(item, (Event, RunEnd))]
    again = _Again(kept)
    fed = Fed(remarks, prepare_all(events, ingestor.salts), changes)
    take(store, ingestor, project, fed, again, summary, mark)
    return again.left[:1]


def _still(kept: Kept, summary: Summary, reason: str, message: str) -> Kept:
    summary.rejected[reason] += 1
    return kept._replace(reason=reason, message=message)


class _Again:
    """Where the parts of one record go that are rejected once more."""

    def __init__(self, kept: Kept) -> None:
        self.folder = Path()
        self.left: list[Kept] = []
        self._kept = kept

    def add(self, rejected: Rejected) -> None:
        self.left.append(self._kept._replace(reason=rejected.reason, message=rejected.message))

    def secure(self) -> None:
        """Do nothing: the record is in quarantine yet."""
