"""What the name of a dump file says: which set it is part of, which part, and when the set was made.

Old form: ``enwiki-20260101-pages-meta-history3.xml-p100p250.7z``; number and range are left out on small
wikis. New form, that of the Content File Export: ``enwiki-2026-01-01-p100p250.xml.bz2``, and for a page that
is too large for one file ``enwiki-2026-01-01-p193624r1r5000.xml.bz2``. Third parties name files as they like.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from recension.model.errors import InvalidTimeError
from recension.model.instant import parse_instant

PACKED = (".zst", ".gz", ".7z", ".xz", ".lzma", ".bz2", "")
"""Suffixes of containers, those first that are decoded fastest; of two files with one part, one is read."""

_RANGE = re.compile(r"-p([0-9]{1,19})(?:p([0-9]{1,19}))?(?:r([0-9]{1,19})r([0-9]{1,19}))?(?=\.xml$|$)")
_NUMBER = re.compile(r"((?:^|-)(?:pages|stub)-[a-z-]*[a-z])([0-9]{1,6})(?=\.xml$)")
_DATE = re.compile(r"-([0-9]{4})-?([0-9]{2})-?([0-9]{2})(?![0-9])")
_MADE = re.compile(r"-[0-9]{4}-[0-9]{2}-[0-9]{2}\.xml$")
_OTHERS = ("stub-", "abstract", "multistream-index", "pages-meta-hist-incr", "stubs-meta-hist-incr")
"""What lies beside dumps and is none, or is one of some days."""


class Holds(Enum):
    """What a dump has of a wiki, as far as its name says."""

    HISTORY = "pages-meta-history"
    CURRENT = "pages-meta-current"
    """The newest revision of every page."""
    ARTICLES = "pages-articles"
    """The same without talk pages and those of users."""
    LOG = "pages-logging"
    EXPORT = "export"
    """A Content File Export; history and current have the same names."""
    UNSAID = ""


class PartName(NamedTuple):
    """The name of a file, taken apart. Parts of one set have the same ``stem``; they sort by page."""

    stem: str
    """The name without container, number and range."""
    holds: Holds
    number: int
    """From 1; 0 without one."""
    first_page: int
    last_page: int
    first_rev: int
    last_rev: int
    """Pages and revisions by id; 0 where the name does not say."""
    packed: str
    """Suffix of its container; empty for none."""
    made_at: int | None
    """First instant of the day in its name, microseconds since the epoch."""

    @property
    def is_part(self) -> bool:
        """Whether the name says that there may be others."""
        return bool(self.number or self.last_page or self.first_rev or self.last_rev)

    @property
    def order(self) -> tuple[int, int, int, int, int]:
        """Where it stands in its set."""
        return self.first_page, self.last_page, self.first_rev, self.last_rev, self.number


def read_name(name: str) -> PartName:
    """Take the name of a file apart; of one that says nothing, the stem is the whole name."""
    packed = next(suffix for suffix in PACKED if name.endswith(suffix))
    rest = name.removesuffix(packed)
    found = _RANGE.search(rest)
    first, last, first_rev, last_rev = (int(one or 0) for one in found.groups()) if found else (0, 0, 0, 0)
    if found:
        rest = rest[: found.start()] + rest[found.end() :]
    numbered = _NUMBER.search(rest)
    number = int(numbered[2]) if numbered else 0
    stem = _NUMBER.sub(r"\1", rest) if number else rest
    return PartName(
        stem, _holds(stem), number, first, last or first, first_rev, last_rev, packed, _made_at(stem)
    )


def is_dump(name: str) -> bool:
    """Whether a file of a folder is a dump by its name, of whatever kind."""
    return ".xml" in name and not name.startswith(".") and not any(other in name for other in _OTHERS)


def _holds(stem: str) -> Holds:
    for kind in (Holds.HISTORY, Holds.CURRENT, Holds.ARTICLES, Holds.LOG):
        if kind.value in stem:
            return kind
    return Holds.EXPORT if _MADE.search(stem) else Holds.UNSAID


def _made_at(stem: str) -> int | None:
    found = _DATE.search(stem)
    if found is None:
        return None
    try:
        return parse_instant("-".join(found.groups()))
    except InvalidTimeError:
        return None
