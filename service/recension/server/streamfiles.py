"""Files of what EventStreams said: documents as NDJSON, or the answer itself as ``curl`` saves it.

Such a file is read as any other file is, from its beginning to its end and as often as one likes; the texts
that its documents lack are fetched from the wiki, as a follower does it. Nothing waits here: what is about a
revision that the wiki does not show any more, or that is not known, is rejected with its document, and a
retry takes it once it can be taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

from recension.archive.intake.frames import BATCH_BYTES, Fed
from recension.archive.judging import lacks_text
from recension.archive.projects import definition_of, project_number
from recension.model.errors import UpstreamUnreachableError
from recension.server.eventstreams import FETCHERS, completed
from recension.sources.containers import open_container
from recension.sources.contents import ContentSource, MediaWikiContent
from recension.sources.http import RETRY_AFTER, Http
from recension.sources.items import MAX_EXCERPT_BYTES, BadRecordError, Progress, Rejected, Skipped
from recension.sources.json_fields import parse_json
from recension.sources.lines import Line, Lines
from recension.sources.page_change import Change, Complete, Passed, read_document
from recension.store.interface import Store

BATCH_DOCUMENTS = 64
"""Documents of a commit; their texts are in memory together."""
_DATA = b"data:"
_FRAMING = (b"event:", b"id:", b"retry:", b":")
"""How lines of an answer begin that hold no document."""
_PAUSES = (1.0, 5.0, 30.0)
"""Seconds before upstream is asked again for a text."""


class _Document(NamedTuple):
    where: str
    record: bytes
    change: Change
    lacks: bool
    """Whether its text is to be fetched."""


class StreamFile:
    """The documents of one file, in batches; use it in a ``with`` block, and iterate once."""

    def __init__(self, store: Store, project: str, path: Path, content: ContentSource | None) -> None:
        """``content``: has the texts; the wiki of the project, without. Raises ``ProjectNotFoundError``."""
        self._store = store
        self._project = project
        self._path = path
        with store.view() as view:
            self._number = project_number(view, project)
            origin = definition_of(view, self._number).base_url
        self._content = content or MediaWikiContent(Http(origin, connections=FETCHERS))
        self._fetchers = ThreadPoolExecutor(FETCHERS, "texts")
        self.progress = Progress(0, 0)
        """How far the file was read, in bytes as stored."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what is still to be fetched."""
        self._fetchers.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Fed]:
        """Yield batches whose boundaries depend on the file alone.

        Raises ``SourceError`` for a file that cannot be read, and for a wiki that cannot be asked.
        """
        with open_container(self._path) as container:
            lines: list[tuple[Line, bytes]] = []
            size = 0
            for line in Lines(container, self._path):
                record = line.data.removeprefix(_DATA).strip()
                if not record or line.data.startswith(_FRAMING):
                    continue
                lines.append((line, record))
                size += len(record)
                if len(lines) >= BATCH_DOCUMENTS or size >= BATCH_BYTES:
                    yield self._fed(lines)
                    self.progress = container.progress
                    lines, size = [], 0
            if lines:
                yield self._fed(lines)
            self.progress = container.progress

    def _fed(self, lines: Sequence[tuple[Line, bytes]]) -> Fed:
        fed = Fed()
        documents = []
        with self._store.view() as view:
            for line, record in lines:
                where = f"line {line.number}, byte {line.byte}"
                try:
                    line.whole()
                    change = read_document(_value_of(record), [self._project])
                except BadRecordError as fault:
                    fed.remarks.append(_rejected(where, fault, record))
                    continue
                if isinstance(change, Passed):
                    fed.remarks.append(Skipped({change.what: 1}))
                else:
                    lacks = lacks_text(view, self._number, change)
                    documents.append(_Document(where, record, change, lacks))
        for complete, rejected in self._fetchers.map(self._complete, documents):
            fed.changes += [] if complete is None else [complete]
            fed.remarks += [] if rejected is None else [rejected]
        return fed

    def _complete(self, document: _Document) -> tuple[Complete | None, Rejected | None]:
        """Return a change with its text; without one, what else it tells, and that it was rejected."""
        change, record = document.change, document.record
        told = Complete(change, None, record=record)
        if not document.lacks:
            return told, None
        for pause in (*_PAUSES, None):
            try:
                return completed(change, self._content, record), None
            except BadRecordError as fault:
                rejected = _rejected(document.where, fault, record)
                return None if change.happened is None else told, rejected
            except UpstreamUnreachableError as fault:
                if pause is None:
                    raise
                time.sleep(max(pause, float(fault.metadata.get(RETRY_AFTER, "0"))))
        raise AssertionError


def _value_of(record: bytes) -> object:
    try:
        return parse_json(record)
    except ValueError as error:
        raise BadRecordError("INVALID_JSON", f"the line is no JSON: {error}") from None


def _rejected(where: str, fault: BadRecordError, record: bytes) -> Rejected:
    return Rejected(where, fault.reason, fault.message, record[:MAX_EXCERPT_BYTES], record)
