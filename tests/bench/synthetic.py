"""Histories that are made up: what they look like is known, and they can be of any size."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice

from recension.archive.ingest import Ingestor
from recension.model.event import Comment, Contributor, Edit, Event, Presence, SlotText
from recension.model.instant import parse_instant
from recension.server.collecting import fewer_collections
from tests.bench.measure import NOTHING, Resident, larger, resident

BATCH = 256
"""Events of one commit, as a parser sends them."""
START = parse_instant("2010-01-01")
SECOND = 1_000_000
_WORDS = (
    "the of and a in to is was he for it with as his on be at by had are but from or have an they which one"
)


def event(page: int, rev: int, time: int, text: bytes) -> Event:
    """Return an edit of project ``w``."""
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, text)
    who, why = Contributor.named(f"Somebody {rev % 97}", rev % 97 + 1), Comment.of(f"change {rev % 1009}")
    edit = Edit(rev, 0, f"Page {page}", 0, False, who, why, False, (slot,))  # noqa: FBT003
    return Event("w", page, time, "", edit)


def sentence(chance: random.Random, words: int = 8) -> bytes:
    """Return a line of common words and a number."""
    return f"{' '.join(chance.choices(_WORDS.split(), k=words))} {chance.randrange(10**6)}".encode()


def growing(revisions: int, per_page: int = 20) -> Iterator[Event]:
    """Yield a history in time order: pages of eight short lines, of which each revision rewrites one."""
    chance = random.Random(4)
    common = [sentence(chance) for _ in range(5000)]
    pages: list[list[bytes]] = [[] for _ in range(max(1, revisions // per_page))]
    # Each page is begun once before any is edited again, so that every size holds as many pages as it says.
    for rev in range(1, revisions + 1):
        page = rev - 1 if rev <= len(pages) else chance.randrange(len(pages))
        lines = pages[page]
        if not lines:
            lines += chance.choices(common, k=8)
        lines[rev % 8] = common[chance.randrange(5000)] + b" %d" % rev
        yield event(page + 1, rev, START + rev * SECOND, b"\n".join(lines))


def append(ingestor: Ingestor, events: Iterable[Event]) -> Resident:
    """Append events batch by batch and seal them; return the most memory that was seen."""
    most = NOTHING
    upcoming = iter(events)
    with fewer_collections():  # as every process that appends
        while batch := list(islice(upcoming, BATCH)):
            appended = ingestor.append("w", batch)
            assert not appended.rejected
            most = larger(most, resident())
        ingestor.settle()
    return larger(most, resident())
