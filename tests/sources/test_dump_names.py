from __future__ import annotations

import random

import pytest

from recension.model.instant import format_instant
from recension.sources.dump_names import Holds, is_dump, read_name


@pytest.mark.parametrize(
    "name, stem, holds, part, made_at",
    [
        ("enwiki-20260101-pages-meta-history3.xml-p100p250.7z", "enwiki-20260101-pages-meta-history.xml",
         Holds.HISTORY, (3, 100, 250, 0, 0), "2026-01-01"),
        ("aawiki-20260101-pages-meta-history.xml.7z", "aawiki-20260101-pages-meta-history.xml",
         Holds.HISTORY, (0, 0, 0, 0, 0), "2026-01-01"),
        ("frwiki-latest-pages-articles1.xml-p000000010p000030302.bz2", "frwiki-latest-pages-articles.xml",
         Holds.ARTICLES, (1, 10, 30302, 0, 0), ""),
        ("enwiki-2026-09-01-p10p1400054.xml.bz2", "enwiki-2026-09-01.xml",
         Holds.EXPORT, (0, 10, 1400054, 0, 0), "2026-09-01"),
        ("ukwiki-2026-04-01-p193624r1r50000000000.xml.bz2", "ukwiki-2026-04-01.xml",
         Holds.EXPORT, (0, 193624, 193624, 1, 50000000000), "2026-04-01"),
        ("zh_min_nanwiki-20260101-pages-logging2.xml.gz", "zh_min_nanwiki-20260101-pages-logging.xml",
         Holds.LOG, (2, 0, 0, 0, 0), "2026-01-01"),
        ("pages-articles-sample4.xml-p4606p5340.bz2", "pages-articles-sample.xml",
         Holds.ARTICLES, (4, 4606, 5340, 0, 0), ""),
        ("old2.xml", "old2.xml", Holds.UNSAID, (0, 0, 0, 0, 0), ""),
        ("wiki-20269999-x.xml", "wiki-20269999-x.xml", Holds.UNSAID, (0, 0, 0, 0, 0), ""),
        ("dump", "dump", Holds.UNSAID, (0, 0, 0, 0, 0), ""),
    ],
)  # fmt: skip
def test_names(name: str, stem: str, holds: Holds, part: tuple[int, ...], made_at: str) -> None:
    """Names of both forms are taken apart; others say nothing but themselves."""
    found = read_name(name)
    assert (stem, holds) == (found.stem, found.holds)
    assert part == (found.number, found.first_page, found.last_page, found.first_rev, found.last_rev)
    said = "" if found.made_at is None else format_instant(found.made_at)[:10]
    assert (made_at, any(part)) == (said, found.is_part)


def test_parts_sort_by_page_and_revision() -> None:
    """Parts have the order of their pages, and those of one page that of their revisions."""
    names = [
        "w-2026-01-01-p1p9.xml.bz2",
        "w-2026-01-01-p10r1r500.xml.bz2",
        "w-2026-01-01-p10r501r9000.xml.bz2",
        "w-2026-01-01-p11p200.xml.bz2",
        "w-2026-01-01-p201p1000.xml.bz2",
    ]
    mixed = random.Random(1).sample(names, len(names))
    assert names == sorted(mixed, key=lambda name: read_name(name).order)
    assert len({read_name(name).stem for name in names}) == 1


@pytest.mark.parametrize(
    "name, expected",
    [
        ("aawiki-20260101-pages-meta-history.xml.7z", True),
        ("stub-meta-history.xml.gz", False),
        ("aawiki-20260101-pages-articles-multistream-index.txt.bz2", False),
        ("aawiki-20260101-abstract.xml.gz", False),
        ("SHA256SUMS", False),
        (".part.xml", False),
    ],
)
def test_what_lies_beside_dumps(name: str, *, expected: bool) -> None:
    """Stubs, abstracts and indexes are no dumps."""
    assert expected == is_dump(name)
