"""Articles of Wikimedia Enterprise (API version 2): snapshots, hourly batches, On-demand, stored streams.

A record is a page as it stood when the record was made: one revision with its texts, the page's name, and of
which event it tells. All fields may be missing: false, 0 and empty ones are left out. Input is NDJSON, a JSON
document (what On-demand answers, an array or a single record), or a tar archive of such files. Fields and
their traps: Wikimedia Enterprise's data dictionary (enterprise.wikimedia.com/docs/data-dictionary).

- A record with a text becomes an edit, with the wikitext in the slot ``main`` and Parsoid's HTML in ``html``.
- What it says of the page itself becomes a ``Sighting``: that a page has a name, or that none of that name is
  left. A move sends an update of the new name and a delete of the old one, with one page id, in any order.
- ``visibility-change`` becomes a visibility change of the revision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recension.model.errors import SourceFormatError
from recension.model.event import (
    NO_COMMENT,
    NOBODY,
    RENDERING_ROLE,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    Presence,
    SlotText,
    Visibility,
)
from recension.model.instant import MIN_INSTANT
from recension.model.mark import MAX_LICENSE_CHARS
from recension.sources.items import (
    MAX_EXCERPT_BYTES,
    BadRecordError,
    ByteSource,
    Item,
    Rejected,
    Sighting,
    Skipped,
    checked,
    count_by_name,
)
from recension.sources.json_fields import Fields, parse_json
from recension.sources.lines import Lines
from recension.sources.tar_members import TarMembers, is_tar
from recension.sources.titles import fold_table, namespace_of, plain_title

MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
"""Largest JSON document that is not NDJSON: ten articles of On-demand, each of a few megabytes."""

OTHER_PROJECT = "OTHER_PROJECT"
"""Reason of a record of another project than the one that is read for."""


_DELETE = "delete"
_VISIBILITY = "visibility-change"
_UPDATES = frozenset({"", "update", "create", "move", "undelete"})
_MOMENT = 600_000_000
"""Microseconds within which a record of an event is taken to be about the page as its revision left it."""
_CHUNK_BYTES = 256 * 1024
_TAR_HEAD_BYTES = 512
_BOM = b"\xef\xbb\xbf"


def read_articles(
    source: ByteSource, path: Path, project: str, namespaces: Mapping[str, int] | None = None
) -> Iterator[Item]:
    """Yield what each record says, and at the end a count of what was passed over.

    ``namespaces`` are the project's, number by name, for records that give none. Records of other projects
    are rejected. Raises ``SourceFormatError`` for a document that is no JSON, ``SourceLimitError``, and what
    ``source`` raises, after everything that was complete before.
    """
    ahead = _Ahead(source)
    if is_tar(ahead.look(_TAR_HEAD_BYTES)):
        ahead = _Ahead(TarMembers(ahead, path))
    reader = Records(project, fold_table(namespaces or {}))
    skipped: Counter[str] = Counter()
    head = ahead.look(_CHUNK_BYTES, until=b"\n").removeprefix(_BOM).lstrip()
    laid_out = head.startswith(b"[") or head.partition(b"\n")[0].strip() == b"{"
    records = _document(ahead, path) if laid_out else _lines(ahead, path)
    for position, raw, record in records:
        try:
            if isinstance(record, BadRecordError):
                raise record
            yield from reader.read(record, skipped)
        except BadRecordError as fault:
            yield Rejected(position, fault.reason, fault.message, raw[:MAX_EXCERPT_BYTES])
    if skipped:
        yield Skipped(dict(sorted(skipped.items())))


_Record = tuple[str, bytes, Any]
"""Where it is, how it begins, and what it is: a value of JSON, or why there is none."""


class _Ahead:
    """A source whose beginning may be looked at."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._ahead = b""

    def look(self, size: int, until: bytes = b"") -> bytes:
        """Return the first ``size`` bytes, or what is there up to one that holds ``until``."""
        while len(self._ahead) < size and not (until and until in self._ahead):
            more = self._source.read(_CHUNK_BYTES)
            if not more:
                break
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int, /) -> bytes:
        if not self._ahead:
            return self._source.read(size)
        out, self._ahead = self._ahead[:size], self._ahead[size:]
        return out


def _lines(source: ByteSource, path: Path) -> Iterator[_Record]:
    for line in Lines(source, path):
        if not line.data.strip():
            continue
        position = f"line {line.number}, byte {line.byte}"
        try:
            yield position, line.data, parse_json(line.whole())
        except BadRecordError as fault:
            yield position, line.data, fault
        except ValueError as error:
            reason = "TRUNCATED_LINE" if line.last else "INVALID_JSON"
            yield position, line.data, BadRecordError(reason, f"the line is no JSON: {error}")


def _document(source: ByteSource, path: Path) -> Iterator[_Record]:
    data = bytearray()
    while piece := source.read(_CHUNK_BYTES):
        data += piece
        if len(data) > MAX_DOCUMENT_BYTES:
            raise SourceFormatError(
                f"{path}: one JSON document of more than {MAX_DOCUMENT_BYTES:,} bytes",
                hint="write a record a line (NDJSON), for instance with: jq -c '.[]'",
                path=path,
            )
    if data.startswith(_BOM):
        del data[: len(_BOM)]
    try:
        value = parse_json(data)
    except ValueError as error:
        raise SourceFormatError(
            f"{path}: neither NDJSON nor a JSON document: {error}",
            hint="fetch the file again; an answer that was cut cannot be read",
            path=path,
        ) from None
    del data
    records = value if isinstance(value, list) else [value]
    for number, record in enumerate(records, 1):
        yield f"record {number}", b"", record


# --- one record ---------------------------------------------------------------------------------


class Records:
    """Turns records of a project into items."""

    def __init__(self, project: str, namespaces: Mapping[str, int]) -> None:
        """``namespaces``: as ``fold_table`` makes them, for records that give none."""
        self._project = project
        self._namespaces = namespaces

    def read(self, value: object, skipped: Counter[str]) -> Iterator[Item]:
        """Yield what one record says. Raises ``BadRecordError``."""
        record = Fields(value, "record")
        if "name" not in record and record.text("type") == "articles":
            skipped["keys of messages"] += 1  # a topic that was written with its keys, line by line
            return
        project = record.part("is_part_of").text("identifier")
        if project and project != self._project:
            raise BadRecordError(OTHER_PROJECT, f"the record is of {project[:80]!r}")
        event = record.part("event")
        kind = event.text("type")
        title = plain_title(record.text("name"))
        if not title:
            raise BadRecordError("INVALID_FIELD", "name: there is none")
        if kind == _DELETE:
            yield self._sighting(record, event, title, gone=True)
        elif kind == _VISIBILITY:
            yield self._visibility(record, event)
        elif kind in _UPDATES:
            edit = self._edit(record, event, title)
            seen = self._sighting(record, event, title, gone=False)
            yield edit
            yield seen
        else:
            count_by_name(skipped, {f"event of type {kind[:40]}": 1})

    def _sighting(self, record: Fields, event: Fields, title: str, *, gone: bool) -> Sighting:
        page_id = record.number("identifier")
        if not gone and not page_id:
            raise BadRecordError("INVALID_FIELD", "identifier: there is none")
        seen_at = _seen_at(event)
        if seen_at is None:
            if gone:
                raise BadRecordError("INVALID_FIELD", "event.date_created: there is none")
            seen_at = MIN_INSTANT
        if not gone:
            seen_at = max(seen_at, record.time("date_modified"))  # with that revision it was not seen before
        seen = Sighting(
            page_id,
            record.part("version").number("identifier"),
            title,
            self._namespace(record, title),
            seen_at,
            f"enterprise:{event.text('identifier') or f'{page_id}:{seen_at}'}",
            gone,
            _editor(record.part("version")) if gone else NOBODY,
            edited_at=0 if gone else record.time("date_modified"),
            license="" if gone else _license(record),
        )
        # What follows from it is stored as it is, so it keeps the rules of an event with the same in it.
        what = Delete(seen.title, seen.namespace, seen.contributor, NO_COMMENT)
        checked(Event(self._project, page_id or 1, seen.time, f"{seen.source_id}:restore", what))
        return seen

    def _visibility(self, record: Fields, event: Fields) -> Event:
        seen = record.part("visibility")
        seen_at = _seen_at(event)
        if seen_at is None:
            raise BadRecordError("INVALID_FIELD", "event.date_created: there is none")
        change = Visibility(
            record.part("version").number("identifier"),
            text_hidden=not seen.flag("text"),
            comment_hidden=not seen.flag("comment"),
            contributor_hidden=not (seen.flag("editor") or seen.flag("user")),  # as some copies have it
        )
        source_id = f"enterprise:{event.text('identifier') or f'{change.rev_id}:{seen_at}'}:visibility"
        return checked(Event(self._project, record.number("identifier"), seen_at, source_id, change))

    def _edit(self, record: Fields, event: Fields, title: str) -> Event:
        version, body = record.part("version"), record.part("article_body")
        if "identifier" not in version:
            raise BadRecordError(
                "NO_VERSION", "version.identifier: the record is of no revision that is named"
            )
        if "wikitext" not in body:
            raise BadRecordError("NO_WIKITEXT", "article_body.wikitext: there is none; ask for that field")
        time = record.time("date_modified")
        seen_at = _seen_at(event)
        size = version.part("size")
        claimed = size.number("value") if size.text("unit_text") in ("", "B") and "value" in size else None
        wikitext = body.text("wikitext").encode()
        slots = [SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, wikitext, "", claimed)]
        if "html" in body:
            html = body.text("html").encode()
            slots.append(SlotText(RENDERING_ROLE, "html", "text/html", Presence.PRESENT, html))
        edit = Edit(
            version.number("identifier"),
            record.part("previous_version").number("identifier"),
            title,
            self._namespace(record, title),
            # The name is of the moment of the event, which may be years behind the revision.
            title_inferred=seen_at is None or not 0 <= seen_at - time <= _MOMENT,
            contributor=_editor(version),
            comment=Comment.of(version.text("comment")),
            minor=version.flag("is_minor_edit"),
            slots=tuple(slots),
        )
        return checked(Event(self._project, record.number("identifier"), time, "", edit))

    def _namespace(self, record: Fields, title: str) -> int:
        if "namespace" in record:
            return record.part("namespace").number("identifier")  # 0 is left out
        return namespace_of(title, self._namespaces)


def _seen_at(event: Fields) -> int | None:
    for name in ("date_created", "date_published"):
        if name in event:
            return event.time(name)
    return None


def _license(record: Fields) -> str:
    """Return what a record says of its licence; one that cannot be read is no reason to reject its text."""
    try:
        said = {one.text("identifier") for one in record.objects("license")}
    except BadRecordError:
        return ""
    return " AND ".join(sorted(said - {""}))[:MAX_LICENSE_CHARS]


def _editor(version: Fields) -> Contributor:
    """Return who made a version; of listed pages Enterprise does not say."""
    editor = version.part("editor")
    name = editor.text("name")
    if not name and "identifier" not in editor:
        return NOBODY
    anonymous = editor.flag("is_anonymous") or not editor.number("identifier")
    return Contributor.named(name, None if anonymous else editor.number("identifier"))
