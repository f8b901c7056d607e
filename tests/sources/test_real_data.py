from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from recension.model.errors import SourceError, SourceFormatError, SourceTruncatedError
from recension.model.event import Event, LogAction, Presence
from recension.sources.items import Item, Rejected, SiteInfo
from recension.sources.mediawiki_log import read_log
from recension.sources.mediawiki_xml import read_history
from tests.sources.helpers import Reader, edits, entries, read_file, reasons, shared

# File of ../shared/data/wikimedia: pages and revisions as its README states them, bytes of text where
# it states them, and the error that ends it.
Expected = tuple[int, int, int | None, type[SourceError] | None]
FILES: dict[str, Expected] = {
    "aawiki-20260101/aawiki-20260101-pages-meta-current.xml.bz2": (507, 507, 615_831, None),
    "aawiki-20260101/aawiki-20260101-pages-meta-history.xml.7z": (507, 1307, 2_798_757, None),
    "gensim/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": (
        206,
        206,
        5_752_489,
        None,
    ),
    "gensim/testcorpus.xml.bz2": (9, 9, 348, None),
    "halfak-streaming/mw_dump_stub.xml": (5, 229, 538_861, None),
    "macbre/fo-dump.xml.bz2": (2, 2, 3_078, None),
    "mwxml/dump.xml": (2, 3, 45, None),
    "mwxml/mwcites-mw_dump_stub.xml": (1, 4, 3_068, None),
    "mwxml/logging-2-items.xml": (0, 0, 0, SourceFormatError),
    "mwxml/logging-fragments.xml": (0, 0, 0, SourceFormatError),
    "operations-dumps/pages-articles-sample1.xml-p1p1500.bz2": (2, 2, 89, None),
    "operations-dumps/pages-articles-sample1.xml-p4001p4321.bz2": (2, 2, 12_114, None),
    "operations-dumps/pages-articles-sample1.xml.bz2": (8, 8, 49_214, None),
    "operations-dumps/pages-articles-sample4.xml-p4606p5340.bz2": (0, 0, 0, SourceTruncatedError),
    "operations-dumps/stub-history-sample.xml.gz": (0, 0, 0, SourceFormatError),
    "pywikibot/article-pear-0.10.xml": (1, 1, 25_986, None),
    "pywikibot/article-pear.xml": (1, 4, 3_671, None),
    "pywikibot/article-pyrus-utf16.xml": (1, 6, 296, None),
    "pywikibot/article-pyrus-utf16.xml.bz2": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml.7z": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml.bz2": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml.gz": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml.lzma": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml.xz": (1, 6, 296, None),
    "pywikibot/article-pyrus.xml_invalid.7z": (0, 0, 0, SourceFormatError),
    "pywikibot/dummy-reflinks.xml": (2, 2, 65, None),
    "pywikibot/dummy-template.xml": (3, 3, 88, None),
    "pywikibot/pair-0.10.xml": (2, 4, 389, None),
    "refinery-content-export/simplewiki-content-export-2025-11.xml": (2, 33, 5_187, None),
    "refinery-content-export/simplewiki-dump1.0-2023-07.xml": (2, 33, 5_187, None),
    "wikidata-toolkit/mock-dump-incomplete-revision.xml": (1, 1, 80, SourceTruncatedError),
    "wikidata-toolkit/mock-dump-with-bugs.xml": (2, 6, 378, None),
    "wikidata-toolkit/sample-daily-dump-20140220.xml": (2, 7, 152_367, None),
    "wikitrust/amen.xml.gz": (1, 49, 104_111, None),
}
OTHERWISE = frozenset({"refinery-content-export/mediawiki-dump-test.xml"})
"""Files with a test of their own."""


def read(name: str, reader: Reader = read_history) -> tuple[list[Item], SourceError | None]:
    return read_file(shared(f"wikimedia/{name}"), reader)


@pytest.mark.parametrize("name", FILES)
def test_counts_are_those_of_the_readme(name: str) -> None:
    """Each dump gives the pages, revisions and texts that its README states, or the named error."""
    items, fault = read(name)
    found = [item for item in items if isinstance(item, Event)]
    size = sum(len(slot.text) for edit in edits(items) for slot in edit.slots)
    pages = len({event.page_id for event in found})
    assert FILES[name] == (pages, len(found), size, type(fault) if fault else None)
    assert [] == reasons(items)


def test_no_dump_is_forgotten() -> None:
    """Every XML dump of the shared data is in the table above or has a test of its own."""
    folder = shared("wikimedia")
    small = {path for path in folder.rglob("*xml*") if path.is_file() and "minidumps" not in path.parts[-2]}
    assert {path.relative_to(folder).as_posix() for path in small} == FILES.keys() | OTHERWISE


def minidumps() -> list[Path]:
    return sorted(shared("wikimedia/dbpedia-minidumps").glob("*.xml.bz2"))


def test_dumps_of_many_scripts() -> None:
    """The minidumps of eleven languages are read without a rejection."""
    files = minidumps()
    assert 11 == len(files)
    for path in files:
        items, fault = read_file(path, read_history)
        assert (None, []) == (fault, reasons(items))
        assert edits(items)


def test_current_is_the_end_of_the_history() -> None:
    """Each page of the current dump of aawiki is the revision with the largest id in its history."""
    last: dict[int, tuple[int, bytes]] = {}
    for item in read("aawiki-20260101/aawiki-20260101-pages-meta-history.xml.7z")[0]:
        if isinstance(item, Event):
            (edit,) = edits([item])
            last[item.page_id] = max(last.get(item.page_id, (0, b"")), (edit.rev_id, edit.slots[0].text))
    current = {
        item.page_id: (edits([item])[0].rev_id, edits([item])[0].slots[0].text)
        for item in read("aawiki-20260101/aawiki-20260101-pages-meta-current.xml.bz2")[0]
        if isinstance(item, Event)
    }
    assert last == current


def test_both_dialects_hold_the_same_texts() -> None:
    """The same 33 revisions in both dialects differ in what was hidden in between: one address."""
    old = edits(read("refinery-content-export/simplewiki-dump1.0-2023-07.xml")[0])
    new = edits(read("refinery-content-export/simplewiki-content-export-2025-11.xml")[0])
    by_id = {edit.rev_id: edit for edit in new}
    changed = []
    for edit in old:
        other = by_id[edit.rev_id]
        assert [slot.text for slot in edit.slots] == [slot.text for slot in other.slots]
        assert [slot.presence for slot in edit.slots] == [slot.presence for slot in other.slots]
        if edit.contributor != other.contributor:
            changed.append((edit.rev_id, edit.contributor.presence, other.contributor.presence))
    assert [(1714215, Presence.PRESENT, Presence.HIDDEN)] == changed
    hidden = Counter(slot.presence for edit in new for slot in edit.slots)
    assert 4 == hidden[Presence.HIDDEN]


def test_unordered_dump_with_gaps() -> None:
    """A hand-made dump gives the revisions that have ids and rejects the three that have none."""
    items, fault = read("refinery-content-export/mediawiki-dump-test.xml")
    assert fault is None
    assert [266092, 360821, 1714215] == [edit.rev_id for edit in edits(items)]
    assert ["MISSING_ID"] * 3 == reasons(items)


def test_real_log_entries() -> None:
    """The first two log entries of English Wikipedia: a delete, and an upload that is counted."""
    items, fault = read("mwxml/logging-2-items.xml", read_log)
    assert fault is None
    assert [("Vivian Blaine", LogAction.DELETE)] == [(entry.title, entry.action) for entry in entries(items)]
    assert isinstance(items[0], SiteInfo)


def test_history_read_as_a_log() -> None:
    """A history dump is refused by the reader of logs."""
    _, fault = read("mwxml/dump.xml", read_log)
    assert SourceFormatError is type(fault)


def test_log_of_the_peps() -> None:
    """The log of the peps holds their moves and deletes."""
    items, fault = read_file(shared("peps/peps-pages-logging.xml.zst"), read_log)
    found = Counter(entry.action for entry in entries(items))
    assert (None, 1653) == (fault, found.total())
    assert {LogAction.MOVE, LogAction.DELETE} == found.keys()
    assert not [item for item in items if isinstance(item, Rejected)]
