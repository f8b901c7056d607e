"""History and current dumps of MediaWiki: every ``<revision>`` becomes an edit.

Elements are matched by local name in any namespace, so the schemas 0.3 to 0.11, the Content File Export and
third-party exports all pass; nothing is validated against a schema, which lags behind the writers. A dump
names a page by its title of today, hence ``title_inferred``.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from recension.model.errors import SourceFormatError
from recension.model.event import Edit, Event, Presence, SlotText
from recension.sources.items import BadRecordError, ByteSource, Item, RunEnd, SiteInfo
from recension.sources.mediawiki_dump import DumpReader
from recension.sources.mediawiki_head import read_comment, read_contributor, read_time
from recension.sources.runs import WHOLE, Runs, Share
from recension.sources.titles import namespace_of
from recension.sources.xml_records import Node, Record, XmlRecords, number

DEFAULT_MODEL = "wikitext"
DEFAULT_FORMAT = "text/x-wiki"
"""What a revision without ``<model>`` and ``<format>`` is: schemas before 0.8 knew nothing else."""

_RECORDS = frozenset({"siteinfo", "revision"})
_HEAD = frozenset({"title", "ns", "id"})
_KNOWN = frozenset({"id", "parentid", "timestamp", "contributor", "minor", "comment", "sha1"}) | {
    "origin",
    "model",
    "format",
    "text",
    "content",
}
_LOGGING = "this is a logging dump, it has no revisions"
_STUB = "this is a stub dump, it has no texts"


def read_history(source: ByteSource, path: Path, project: str, share: Share = WHOLE) -> Iterator[Item]:
    """Yield the ``SiteInfo``, then an ``Event`` or ``Rejected`` for each revision, then ``Skipped``.

    A ``RunEnd`` comes behind each run but the last. Of a ``share`` only its runs; the ``SiteInfo`` is in the
    first run.

    ``path`` is for messages. Raises ``SourceFormatError`` (not a history dump, a stub dump, a DOCTYPE),
    ``SourceTruncatedError``, ``SourceCorruptError``, ``SourceLimitError``; everything that was complete
    before the fault has been yielded by then.
    """
    runs = Runs(source, share)
    records = _records(runs, path)
    reader = _HistoryReader(path, project, records)
    if share.which:
        head = runs.head()
        if head:
            reader.learn(_records(BytesIO(head), path))
    else:
        yield from reader.read_run(runs)
    while runs.next_run():
        records.restart(runs.byte, runs.passed)
        yield from reader.read_run(runs)


def _records(source: ByteSource, path: Path) -> XmlRecords:
    return XmlRecords(source, path, records=_RECORDS, head=_HEAD, alien={"logitem": _LOGGING})


class _HistoryReader(DumpReader):
    def __init__(self, path: Path, project: str, records: XmlRecords) -> None:
        super().__init__(project, records)
        self._path = path

    def read_run(self, runs: Runs) -> Iterator[Item]:
        """Yield what a run holds, and its end unless it is that of the file."""
        yield from self.read()
        if runs.cut:
            if not self._headed:
                self._headed = True
                yield SiteInfo()
            yield RunEnd()

    def _event(self, record: Record) -> Event:
        node, page = record.node, record.page
        for child in node.children:
            if child.name not in _KNOWN:
                self._records.count(child.name)
        title = page.value("title")
        if not title:
            raise BadRecordError("MISSING_TITLE", "its page has no title")
        namespace = page.value("ns")
        edit = Edit(
            rev_id=number(node.value("id"), "revision id"),
            parent_rev_id=number(node.value("parentid"), "parent id", absent=0),
            title=title,
            namespace=namespace_of(title, self._prefixes)
            if namespace is None
            else number(namespace, "namespace"),
            title_inferred=True,
            contributor=read_contributor(node.child("contributor")),
            comment=read_comment(node.child("comment")),
            minor=node.child("minor") is not None,
            slots=self._slots(node),
        )
        time = read_time(node.value("timestamp"))
        return Event(self._project, number(page.value("id"), "page id"), time, "", edit)

    def _slots(self, node: Node) -> tuple[SlotText, ...]:
        extra = [child for child in node.children if child.name == "content"]
        # The revision's own sha1 is a fold over all slots: of one slot only, it is that slot's.
        whole = "" if extra else node.value("sha1") or ""
        main = self._slot("main", node, whole)
        return (main, *[self._slot(child.value("role") or "", child, "") for child in extra])

    def _slot(self, role: str, node: Node, sha1: str) -> SlotText:
        text = node.child("text")
        if text is None:
            raise BadRecordError("MISSING_TEXT", f"its slot {role!r} has no <text>")
        size = number(text.attributes.get("bytes"), "byte count", absent=-1)
        presence = self._presence(text, size)
        return SlotText(
            role=role,
            model=node.value("model") or DEFAULT_MODEL,
            format=node.value("format") or DEFAULT_FORMAT,
            presence=presence,
            text=text.text.encode() if presence is Presence.PRESENT else b"",
            claimed_sha1=text.attributes.get("sha1") or sha1.strip(),
            claimed_bytes=size if size >= 0 else None,
        )

    def _presence(self, text: Node, size: int) -> Presence:
        """Tell hidden, lost and empty apart (all three have no content)."""
        if "deleted" in text.attributes:
            return Presence.HIDDEN
        if text.text:
            return Presence.PRESENT
        if "id" in text.attributes or "location" in text.attributes:
            raise SourceFormatError(
                f"{self._path}: {_STUB}",
                hint="fetch the pages-meta-history or pages-articles file of the same run",
                path=self._path,
            )
        return Presence.LOST if size > 0 else Presence.PRESENT
