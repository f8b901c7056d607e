"""EventStreams that are followed: cut, repeated, out of order, texts late; the end is that of a clean run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recension.archive import marks
from recension.archive.reader import Archive
from recension.model.errors import PageNotFoundError
from recension.model.event import Presence
from recension.model.reading import Revision
from recension.server.eventstreams import EventStream, Waits
from recension.server.following import Followed
from recension.sources.contents import MediaWikiContent
from recension.sources.eventstreams import Hub
from recension.sources.http import Http, Patience
from recension.store.interface import Store
from tests.eventstreams import START, STREAM, Faults, Service, Wiki, history
from tests.server.test_following import LATER, new_store
from tests.server.test_following import run as follow_until

QUICK = Waits(first_retry_seconds=0.001, longest_retry_seconds=0.01, look_seconds=0.005, mark_seconds=0.0)


@contextmanager
def streams_of(
    origin: str, store: Store, data: Path, *projects: str, waits: Waits = QUICK, since: int = START
) -> Iterator[list[EventStream]]:
    http = Http(origin, patience=Patience(idle_seconds=5.0))
    hub = Hub(http, [STREAM], projects, since=since)
    with ThreadPoolExecutor(4) as fetchers:
        yield [
            EventStream(hub, project, store, MediaWikiContent(http), fetchers, data, waits=waits)
            for project in projects
        ]


def run(
    service: Service,
    store: Store,
    data: Path,
    *projects: str,
    until: Callable[[], bool] | None = None,
    waits: Waits = QUICK,
) -> list[Followed]:
    """Follow until everything is stored, or ``until``."""
    named = projects or ("p",)
    with (
        service.serve() as upstream,
        streams_of(upstream.origin, store, data, *named, waits=waits) as streams,
    ):

        def done() -> bool:
            if until is not None:
                return until()
            return all(reached(store, service, stream) for stream in streams)

        followed = follow_until(store, streams, data, done)
        service.closing.set()
    return followed


def reached(store: Store, service: Service, stream: EventStream) -> bool:
    mark = marks.newest(store, stream.project, stream.source)
    place = service.last_place
    return mark is not None and all(mark.offsets.get(name) == said for name, said in place.items())


def state(store: Store, wiki: Wiki) -> list[Any]:
    """Return what is served of each page: its title at some times, and its revisions."""
    archive = Archive(store, clock=lambda: LATER)
    found: list[Any] = []
    for page in sorted(wiki.pages):
        titles = []
        for at in [START + step * 60_000_000 for step in range(0, 60, 10)] + [LATER]:
            try:
                seen = archive.article(wiki.project, page, valid_at=at).revision
                titles.append((seen.title, seen.rev_id))
            except PageNotFoundError:
                titles.append(("", 0))
        try:
            timeline = [item.what for item in archive.timeline(wiki.project, page)]
        except PageNotFoundError:
            timeline = []
        revisions = sorted(
            (
                one.rev_id, one.parent_rev_id, one.timestamp, one.contributor, one.comment,
                [(slot.role, slot.presence, slot.text, slot.model) for slot in one.slots],
            )
            for one in timeline
            if isinstance(one, Revision)
        )  # fmt: skip
        found.append((titles, revisions))
    return found


def check_against_wiki(store: Store, wiki: Wiki) -> None:
    """Compare what is served with what the wiki itself has."""
    archive = Archive(store, clock=lambda: LATER)
    for page in wiki.pages.values():
        try:
            title = archive.article(wiki.project, page.page_id, valid_at=LATER).revision.title
        except PageNotFoundError:
            title = ""
        assert title == (page.title if page.alive else ""), page.page_id
        seen = {
            item.what.rev_id: item.what
            for item in archive.timeline(wiki.project, page.page_id)
            if isinstance(item.what, Revision)
        }
        for rev in page.revs:
            one = seen[rev.rev_id]
            assert one.timestamp == rev.time
            assert (one.comment.presence is Presence.HIDDEN) is bool(rev.hidden & 2), rev
            assert (one.contributor.presence is Presence.HIDDEN) is bool(rev.hidden & 4), rev
            for slot in one.slots:
                assert (slot.presence is Presence.HIDDEN) is bool(rev.hidden & 1), rev
                if not rev.hidden & 1:
                    assert archive.text(wiki.project, rev.rev_id, slot.role) == rev.texts[slot.role]


def test_clean_run(tmp_path: Path) -> None:
    """Without any fault the archive has what the wiki has."""
    for seed in range(3):
        wiki, store = history(seed, events=100), new_store()
        (followed,) = run(Service(wiki), store, tmp_path / str(seed))
        assert not followed.summary.rejected
        check_against_wiki(store, wiki)


ALL_FAULTS = Faults(cut=0.05, repeat=0.1, late=0.2, refuse=0.1, garbage=0.05, missing=0.1, wrong=0.05)


@pytest.mark.parametrize("runs", [2, pytest.param(100, marks=pytest.mark.torture)])
def test_cuts_repetitions_and_disorder(runs: int, tmp_path: Path) -> None:
    """Each run ends as the clean one does; ten and more faults in each."""
    faults = 0
    for seed in range(runs):
        wiki, clean, store = history(seed), new_store(), new_store()
        run(Service(wiki), clean, tmp_path / f"clean-{seed}")
        service = Service(wiki, faults=ALL_FAULTS, chance=random.Random(seed))
        run(service, store, tmp_path / str(seed))
        check_against_wiki(store, wiki)
        assert state(clean, wiki) == state(store, wiki), seed
        assert service.counts.cuts
        faults += service.counts.faults
    assert faults >= 10 * runs
