"""Logging dumps of MediaWiki: what was done to pages and revisions, as it was logged.

A log names a page by its title of that moment and never by its id, so an entry is kept as a ``LogEntry``
with ``page_id`` 0. Parameters come in two forms: PHP's ``serialize`` (since MediaWiki 1.19), and lines of
text before; both occur in one dump.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recension.model.event import MAX_ID, MAX_TITLE_BYTES, Event, LogAction, LogEntry
from recension.sources.items import BadRecordError, ByteSource, Item, count_by_name
from recension.sources.mediawiki_dump import DumpReader
from recension.sources.mediawiki_head import read_comment, read_contributor, read_time
from recension.sources.php_values import PhpFormatError, PhpValue, unserialize
from recension.sources.titles import namespace_of
from recension.sources.xml_records import Node, Record, XmlRecords, number

_RECORDS = frozenset({"siteinfo", "logitem"})
_HISTORY = "this is a history dump, it has no log entries"

_ACTIONS = {
    "move/move": LogAction.MOVE,
    "move/move_redir": LogAction.MOVE,
    "delete/delete": LogAction.DELETE,
    # A redirect that was overwritten by a move, without (2) or with the right to delete.
    "delete/delete_redir": LogAction.DELETE,
    "delete/delete_redir2": LogAction.DELETE,
    "delete/restore": LogAction.RESTORE,
    "delete/revision": LogAction.VISIBILITY,
    "delete/event": LogAction.CONCEALMENT,
    # Kept as they came: the revisions that they moved or brought have their pages in dumps.
    "merge/merge": LogAction.OTHER,
    "import/interwiki": LogAction.OTHER,
    "import/upload": LogAction.OTHER,
}

# MediaWiki, RevisionRecord: DELETED_TEXT, DELETED_COMMENT, DELETED_USER.
_TEXT_HIDDEN = 1
_COMMENT_HIDDEN = 2
_CONTRIBUTOR_HIDDEN = 4
_ALL_BITS = 15

_TARGETS = (b"4::target", b"4::dest", b"4:title:dest", 0)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WITH_PARAMS = frozenset({LogAction.MOVE, LogAction.VISIBILITY, LogAction.CONCEALMENT})
_LEGACY_BITS = "nfield="
_REVISIONS = frozenset({"revision", "oldid"})
"""What revisions are called among the types of things that are hidden, today and once; others are files,
log entries and revisions of deleted pages."""
_LOG_ENTRIES = frozenset({"logging", "logid"})
_MAX_KIND_CHARS = 80
_MAX_KINDS = 1000


@dataclass(frozen=True, slots=True)
class _Params:
    """What the parameters of an entry say, whichever form they had."""

    target: str = ""
    rev_ids: tuple[int, ...] = ()
    bits: int = 0
    of_revisions: bool = True
    """False when the entry hides something else: files, or revisions of a deleted page."""


def read_log(source: ByteSource, path: Path, project: str) -> Iterator[Item]:
    """Yield the ``SiteInfo``, then an ``Event`` or ``Rejected`` for each entry of ours, then ``Skipped``.

    Entries of other kinds are counted in the ``Skipped`` by ``type/action``, for instance
    ``upload/upload``; those that hide something else than revisions as ``delete/revision:other``.
    Raises as ``mediawiki_xml.read_history`` does.
    """
    records = XmlRecords(source, path, records=_RECORDS, alien={"page": _HISTORY})
    yield from _LogReader(project, records).read()


class _LogReader(DumpReader):
    def _event(self, record: Record) -> Event | None:
        node = record.node
        kind = f"{node.value('type') or ''}/{node.value('action') or ''}"
        action = _ACTIONS.get(kind)
        if action is None:
            self._count(kind)
            return None
        title = self._title(node)
        params = _read_params(kind, action, node.value("params") or "")
        if not params.of_revisions:
            self._count(f"{kind}:other")
            return None
        log_id = number(node.value("id"), "log id")
        entry = LogEntry(
            log_id=log_id,
            action=action,
            title=title,
            namespace=namespace_of(title, self._prefixes),
            to_title=params.target,
            to_namespace=namespace_of(params.target, self._prefixes),
            rev_ids=params.rev_ids,
            text_hidden=bool(params.bits & _TEXT_HIDDEN),
            comment_hidden=bool(params.bits & _COMMENT_HIDDEN),
            contributor_hidden=bool(params.bits & _CONTRIBUTOR_HIDDEN),
            contributor=read_contributor(node.child("contributor")),
            comment=read_comment(node.child("comment")),
        )
        time = read_time(node.value("timestamp"))
        return Event(self._project, 0, time, f"log:{log_id}", entry)

    def _title(self, node: Node) -> str:
        title = node.value("logtitle")
        if title:
            return checked_title(title.strip(" "), "title")
        text = node.child("text")
        if text is not None and "deleted" in text.attributes:
            raise BadRecordError("HIDDEN_ACTION", "upstream hides what this log entry did")
        raise BadRecordError("MISSING_TITLE", "it has no title")

    def _count(self, kind: str) -> None:
        if kind not in self._others and len(self._others) >= _MAX_KINDS:
            kind = "…"
        count_by_name(self._others, {kind[:_MAX_KIND_CHARS]: 1})


def checked_title(title: str, what: str) -> str:
    """Return ``title`` if the model takes it; the model itself does not look into log entries."""
    if not title:
        raise BadRecordError("MISSING_TITLE", f"its {what} is empty")
    if len(title.encode()) > MAX_TITLE_BYTES or _CONTROL.search(title):
        raise BadRecordError("INVALID_EVENT", f"its {what} is not a title: {title!r}")
    return title


def _read_params(kind: str, action: LogAction, text: str) -> _Params:
    if action not in _WITH_PARAMS and kind != "merge/merge":
        return _Params()
    if text.startswith("a:"):
        try:
            value = unserialize(text.encode())
        except PhpFormatError as error:
            raise _bad(f"not a PHP value: {error}") from None
        if not isinstance(value, dict):
            raise _bad("not an array")
        return _serialised(action, value)
    return _legacy(action, text.split("\n"))


def _serialised(action: LogAction, value: Mapping[int | bytes, PhpValue]) -> _Params:
    if action is LogAction.CONCEALMENT:
        return _Params(rev_ids=_listed(value.get(b"4::ids")), bits=_bits(_text(value.get(b"6::nfield"))))
    if action is not LogAction.VISIBILITY:
        # Between 1.19 and its own serialised form a legacy entry could be wrapped: target under key 0.
        found = next((value[key] for key in _TARGETS if key in value), None)
        return _Params(target=_target(_text(found)))
    if _text(value.get(b"4::type")) not in _REVISIONS:
        return _Params(of_revisions=False)
    return _Params(rev_ids=_listed(value.get(b"5::ids")), bits=_bits(_text(value.get(b"7::nfield"))))


def _listed(ids: PhpValue) -> tuple[int, ...]:
    return _ids([_text(one) for one in ids.values()] if isinstance(ids, dict) else _text(ids).split(","))


def _legacy(action: LogAction, lines: list[str]) -> _Params:
    if action in (LogAction.MOVE, LogAction.OTHER):
        return _Params(target=_target(lines[0]))
    bits = next((line for line in lines[1:] if line.startswith(_LEGACY_BITS)), "")
    if action is LogAction.CONCEALMENT:
        ids = lines[lines[0] in _LOG_ENTRIES] if len(lines) > 1 else ""
        return _Params(rev_ids=_ids(ids.split(",")), bits=_bits(bits.removeprefix(_LEGACY_BITS)))
    if lines[0] not in _REVISIONS or (lines[0] == "oldid" and not bits):  # then nothing says what was hidden
        return _Params(of_revisions=False)
    ids = lines[1] if len(lines) > 1 else ""
    return _Params(rev_ids=_ids(ids.split(",")), bits=_bits(bits.removeprefix(_LEGACY_BITS)))


def _text(value: PhpValue) -> str:
    """Numbers come as strings or as ints, as the PHP of the day had them."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise _bad("a string is cut inside a character") from None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _target(title: str) -> str:
    return checked_title(title.strip(" "), "target")


def _ids(texts: Iterable[str]) -> tuple[int, ...]:
    ids = tuple(number(text, "id of what is hidden") for text in texts)
    if not ids or not all(1 <= rev_id <= MAX_ID for rev_id in ids):
        raise _bad("it names nothing that is hidden, or an impossible id")
    return ids


def _bits(text: str) -> int:
    bits = number(text, "visibility")
    if not 0 <= bits <= _ALL_BITS:
        raise _bad(f"{bits} is not a set of visibility bits")
    return bits


def _bad(message: str) -> BadRecordError:
    return BadRecordError("INVALID_PARAMS", f"its parameters cannot be read: {message}")
