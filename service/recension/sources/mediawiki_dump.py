"""What history dumps and logging dumps have in common: a head, then records, each an event or rejected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator

from recension.model.errors import SourceError
from recension.model.event import Event
from recension.sources.items import BadRecordError, Item, SiteInfo, Skipped, checked
from recension.sources.mediawiki_head import read_siteinfo
from recension.sources.titles import namespace_table
from recension.sources.xml_records import Record, XmlRecords

_QUIET = frozenset({"redirect", "restrictions"})
"""Known and of no use: redirects are computed from the text, restrictions are not history."""


class DumpReader(ABC):
    """Reads one dump; each kind of dump says what becomes of a record."""

    def __init__(self, project: str, records: XmlRecords) -> None:
        """``records`` has the elements ``siteinfo`` and those that hold events."""
        self._project = project
        self._records = records
        self._prefixes: dict[str, int] = {}
        self._headed = False
        """Whether there is a head, or a record without one."""
        self._others: Counter[str] = Counter()
        """Records that are no event of ours, by what they are."""

    def learn(self, head: XmlRecords) -> None:
        """Read the head apart from the records, which come without one."""
        self._headed = True
        for record in head:
            if record.node.name == "siteinfo":
                self._prefixes = namespace_table(read_siteinfo(record.node).namespaces)
                return

    def read(self) -> Iterator[Item]:
        """Yield the ``SiteInfo``, an ``Event`` or ``Rejected`` for each record, then ``Skipped``.

        Elements that were passed over are counted as ``<name>``. Raises the ``SourceError`` that ended the
        input early, after all of these.
        """
        try:
            yield from self._items()
        except SourceError:
            yield from self._skipped()
            raise
        yield from self._skipped()

    def _items(self) -> Iterator[Item]:
        for record in self._records:
            if record.node.name != "siteinfo":
                if not self._headed:
                    yield SiteInfo()
                item = self._item(record)
                if item is not None:
                    yield item
            elif self._headed:
                self._records.count("siteinfo")
            else:
                site = read_siteinfo(record.node)
                self._prefixes = namespace_table(site.namespaces)
                yield site
            self._headed = True

    def _item(self, record: Record) -> Item | None:
        try:
            if record.fault is not None:
                raise record.fault
            event = self._event(record)
            return None if event is None else checked(event)
        except BadRecordError as fault:
            return record.reject(fault)

    def _skipped(self) -> Iterator[Item]:
        elements = {f"<{name}>": n for name, n in self._records.counts.items() if name not in _QUIET}
        counts = elements | self._others
        self._records.counts.clear()
        self._others.clear()
        if counts:
            yield Skipped(dict(sorted(counts.items())))

    @abstractmethod
    def _event(self, record: Record) -> Event | None:
        """Return what a record says, ``None`` for what is none of ours; may raise ``BadRecordError``."""
