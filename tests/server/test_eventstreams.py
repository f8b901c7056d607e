"""EventStreams that are followed: cut, repeated, out of order, texts late; the end is that of a clean run."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recension.archive import marks
from recension.archive.ingest import Ingestor
from recension.archive.judging import Judge
from recension.archive.reader import Archive
from recension.model.errors import PageNotFoundError
from recension.model.event import Event, Presence
from recension.model.instant import format_instant
from recension.model.reading import ProjectInfo, Revision
from recension.server.eventstreams import EventStream, Waits
from recension.server.following import Followed
from recension.server.main import main
from recension.server.pending import Pending, read_all
from recension.server.quarantine import read_kept
from recension.server.retrying import retry
from recension.sources.contents import MediaWikiContent
from recension.sources.eventstreams import Hub
from recension.sources.http import Http, Patience
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.helpers import edit
from tests.eventstreams import SECOND, START, STREAM, Faults, Page, Service, Wiki, history
from tests.server.test_following import LATER, head_of, new_store, wait_for
from tests.server.test_following import run as follow_until

QUICK = Waits(
    first_retry_seconds=0.001,
    longest_retry_seconds=0.01,
    look_seconds=0.005,
    mark_seconds=0.0,
    show_seconds=0.01,
)


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
    with service.serve() as upstream:
        followed = run_at(upstream.origin, service, store, data, *projects, until=until, waits=waits)
        service.closing.set()
    return followed


def run_at(
    origin: str,
    service: Service,
    store: Store,
    data: Path,
    *projects: str,
    until: Callable[[], bool] | None = None,
    waits: Waits = QUICK,
) -> list[Followed]:
    with streams_of(origin, store, data, *(projects or ("p",)), waits=waits) as streams:

        def done() -> bool:
            if until is not None:
                return until()
            return all(reached(store, service, stream) for stream in streams)

        return follow_until(store, streams, data, done)


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


def agrees(store: Store, wiki: Wiki) -> bool:
    try:
        check_against_wiki(store, wiki)
    except (AssertionError, LookupError, PageNotFoundError):
        return False
    return True


def test_clean_run(tmp_path: Path) -> None:
    """Without any fault the archive has what the wiki has."""
    for seed in range(2):
        wiki, store = history(seed, events=100), new_store()
        (followed,) = run(Service(wiki), store, tmp_path / str(seed))
        assert not followed.summary.rejected
        check_against_wiki(store, wiki)


ALL_FAULTS = Faults(cut=0.05, repeat=0.1, late=0.2, refuse=0.1, garbage=0.05, missing=0.1, wrong=0.05)


@pytest.mark.parametrize("runs", [2, pytest.param(100, marks=pytest.mark.torture)])
def test_cuts_repetitions_and_disorder(runs: int, tmp_path: Path) -> None:
    """Each run ends as the clean one does; ten and more faults in each."""
    faults = cuts = 0
    for seed in range(runs):
        wiki, clean, store = history(seed), new_store(), new_store()
        run(Service(wiki), clean, tmp_path / f"clean-{seed}")
        service = Service(wiki, faults=ALL_FAULTS, chance=random.Random(seed))
        run(service, store, tmp_path / str(seed))
        check_against_wiki(store, wiki)
        assert state(clean, wiki) == state(store, wiki), seed
        cuts += service.counts.cuts
        faults += service.counts.faults
    assert cuts >= runs
    assert faults >= 10 * runs


def test_without_the_judge_the_order_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same faults without a look at what is newer leave something else: the comparison can fail."""
    monkeypatch.setattr(Judge, "_last", lambda *_: None)
    monkeypatch.setattr(Judge, "_of_page", lambda *_: None)
    wrong = 0
    for seed in range(3):
        wiki, store = history(seed), new_store()
        service = Service(wiki, faults=Faults(late=0.5, repeat=0.5), chance=random.Random(seed))
        run(service, store, tmp_path / str(seed))
        wrong += not agrees(store, wiki)
    assert wrong


def small_wiki(project: str = "p") -> tuple[Wiki, Page]:
    """Return a wiki with a page of two revisions."""
    wiki = Wiki(random.Random(7), project)
    page = wiki.create()
    wiki.edit(page)
    return wiki, page


def known(store: Store, project: str = "p", page: int = 1) -> list[int]:
    """Return the revisions of a page that are served."""
    try:
        items = list(Archive(store, clock=lambda: LATER).timeline(project, page))
    except PageNotFoundError:
        return []
    return sorted({item.what.rev_id for item in items if isinstance(item.what, Revision)})


@pytest.mark.parametrize("status", [404, 500])
def test_a_text_that_is_not_there_holds_up_nothing_else(status: int, tmp_path: Path) -> None:
    """Later edits of the page are served; what waits is shown, and comes again after a restart."""
    wiki, page = small_wiki()
    first, second = (rev.rev_id for rev in page.revs)
    service, store = Service(wiki), new_store()
    service.text_status[first] = status

    def shown() -> bool:
        return known(store) == [second] and any(one.tries > 1 for one in waiting(tmp_path))

    with service.serve() as upstream:
        run_at(upstream.origin, service, store, tmp_path, until=shown)
        (one,) = waiting(tmp_path)
        assert (one.rev_id, one.page_id, one.waits_for) == (first, 1, "text")
        assert ("no such text" if status == 404 else "500") in one.why
        since = one.since
        run_at(upstream.origin, service, store, tmp_path, until=lambda: bool(service.places[1:]))
        (one,) = waiting(tmp_path)
        assert one.since == since  # it waits since then, not since the restart
        service.text_status.clear()
        run_at(upstream.origin, service, store, tmp_path)
        service.closing.set()
    assert known(store) == [first, second]
    assert waiting(tmp_path) == []


def waiting(data: Path, project: str = "p") -> list[Pending]:
    """Return what is shown as pending."""
    return dict(read_all(data)).get(project, [])


@pytest.mark.parametrize("content", [b"", b"[{}]", b'["x"]', b"{}", b"[" * 100_000, b"\xff"])
def test_what_waits_may_be_lost(content: bytes, tmp_path: Path) -> None:
    """A file that is damaged says nothing, and ends nothing."""
    (tmp_path / "pending").mkdir()
    (tmp_path / "pending" / "p.json").write_bytes(content)
    assert waiting(tmp_path) == []


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Times that are none are wrong usage; a directory that is not there is named."""
    for option in ("--idle-seconds", "--give-up-hours"):
        for value in ("nan", "-1", "0", "x", "inf"):
            with pytest.raises(SystemExit) as caught:
                main(["follow", "eventstreams", "p", f"{option}={value}", "--data", str(tmp_path)])
            assert caught.value.code == 2
    assert main(["pending", "--data", str(tmp_path / "none")]) == 3
    assert "no such directory" in capsys.readouterr().err


def test_a_text_that_never_comes_is_given_up(tmp_path: Path) -> None:
    """After its time the revision is rejected, by name, and the mark passes it; a retry takes it."""
    wiki, page = small_wiki()
    lost = page.revs[0].rev_id
    service, store = Service(wiki), MemoryStore()
    service.text_status[lost] = 404
    with service.serve() as upstream:
        Ingestor(store).create_project(ProjectInfo("p", upstream.origin, "en", "CC-BY-SA-4.0"))
        waits = replace(QUICK, text_seconds=0.2)
        (followed,) = run_at(upstream.origin, service, store, tmp_path, waits=waits)
        assert dict(followed.summary.rejected) == {"TEXT_UNAVAILABLE": 1}
        assert known(store) == [page.revs[1].rev_id]
        (path,) = tmp_path.glob("quarantine/p/*.ndjson")
        excerpt = json.loads(base64.b64decode(json.loads(path.read_bytes())["excerpt_base64"]))
        assert (excerpt["rev_id"], excerpt["page_id"]) == (lost, 1)

        left = retry(store, "p", path, data=tmp_path)
        assert dict(left.rejected) == {"TEXT_UNAVAILABLE": 1}
        service.text_status.clear()
        taken = retry(store, "p", path, data=tmp_path)
        assert (taken.accepted, dict(taken.rejected)) == (1, {})
        service.closing.set()
    assert not path.exists()
    check_against_wiki(store, wiki)


def test_nothing_is_given_up_while_no_text_can_be_fetched(tmp_path: Path) -> None:
    """A content source that is down for long loses nothing."""
    wiki, page = small_wiki()
    service, store = Service(wiki), new_store()
    for rev in page.revs:
        service.text_status[rev.rev_id] = 500

    def long_enough() -> bool:
        return len(waiting(tmp_path)) == 2 and time.time_ns() // 1000 - waiting(tmp_path)[0].since > 400_000

    with service.serve() as upstream:
        waits = replace(QUICK, text_seconds=0.1)
        run_at(upstream.origin, service, store, tmp_path, until=long_enough, waits=waits)
        service.text_status.clear()
        (followed,) = run_at(upstream.origin, service, store, tmp_path, waits=waits)
        service.closing.set()
    assert not followed.summary.rejected
    check_against_wiki(store, wiki)


def test_a_page_that_was_deleted_before_its_text_was_fetched(tmp_path: Path) -> None:
    """Its revisions are given up sooner, and its delete is passed over: it was never here."""
    wiki, page = small_wiki()
    wiki.delete(page)
    service, store = Service(wiki), new_store()
    for rev in page.revs:
        service.text_status[rev.rev_id] = 404
    waits = replace(QUICK, deleted_seconds=0.2, order_seconds=0.5)
    (followed,) = run(service, store, tmp_path, waits=waits)
    assert dict(followed.summary.rejected) == {"TEXT_UNAVAILABLE": 2}
    assert followed.summary.skipped["delete of a page that is not known"] == 1
    assert known(store) == []


def test_a_name_that_is_hidden_while_the_text_is_late(tmp_path: Path) -> None:
    """What hides it is not given up before what it hides: the name is never served."""
    wiki, page = small_wiki()
    rev = page.revs[0]
    rev.hidden = 4
    wiki._tell_elder(page, rev)
    service, store = Service(wiki), new_store()
    service.text_status[rev.rev_id] = 500
    waits = replace(QUICK, order_seconds=0.1)

    def done() -> bool:
        """Have the text come once what hides the name has waited for long; end when all is served."""
        if any(time.time_ns() // 1000 - one.since > 1_000_000 for one in waiting(tmp_path)):
            service.text_status.clear()
        return known(store) == [one.rev_id for one in page.revs] and waiting(tmp_path) == []

    (followed,) = run(service, store, tmp_path, until=done, waits=waits)
    assert not followed.summary.rejected
    check_against_wiki(store, wiki)


def test_a_name_that_is_hidden_of_a_text_that_never_comes(tmp_path: Path) -> None:
    """Both are rejected; a retry of the one takes the other along, and the name is never served."""
    wiki, page = small_wiki()
    rev = page.revs[0]
    rev.hidden = 4
    wiki._tell_elder(page, rev)
    service, store = Service(wiki), MemoryStore()
    service.text_status[rev.rev_id] = 404
    with service.serve() as upstream:
        Ingestor(store).create_project(ProjectInfo("p", upstream.origin, "en", "CC-BY-SA-4.0"))
        waits = replace(QUICK, text_seconds=0.2, order_seconds=0.1)
        (followed,) = run_at(upstream.origin, service, store, tmp_path, waits=waits)
        assert dict(followed.summary.rejected) == {"TEXT_UNAVAILABLE": 1, "REVISION_NOT_FOUND": 1}
        (path,) = tmp_path.glob("quarantine/p/*.ndjson")
        service.text_status.clear()
        assert not retry(store, "p", path, data=tmp_path).rejected
        service.closing.set()
    assert not path.exists()
    check_against_wiki(store, wiki)


def test_what_the_archive_refused_is_taken_again(tmp_path: Path) -> None:
    """A move of a page that nobody knows: its document is kept whole, and taken once the page is there."""
    wiki, page = small_wiki()
    document = {
        "$schema": "/mediawiki/page/move/1.0.0",
        "meta": wiki._meta("mediawiki.page-move"),
        "database": "p",
        "dt": format_instant(START + 60 * SECOND),
        "page_id": 99,
        "page_title": "New",
        "page_namespace": 0,
        "prior_state": {"page_title": "Old", "page_namespace": 0},
        "performer": {"user_text": "Ann"},
    }
    wiki.documents.append(document)
    service, store = Service(wiki), new_store()
    (followed,) = run(service, store, tmp_path, waits=replace(QUICK, order_seconds=0.05))
    assert dict(followed.summary.rejected) == {"PAGE_NOT_FOUND": 1}
    (path,) = tmp_path.glob("quarantine/p/*.ndjson")
    (kept,) = read_kept(path)
    assert json.loads(kept.record) == document
    assert b"Ann" not in kept.excerpt

    left = retry(store, "p", path, data=tmp_path)
    assert (left.accepted, dict(left.rejected)) == (0, {"PAGE_NOT_FOUND": 1})
    Ingestor(store).append("p", [Event("p", 99, START, "", edit(7, "text", "Old"))])
    taken = retry(store, "p", path, data=tmp_path)
    assert (taken.accepted, dict(taken.rejected)) == (1, {})
    assert not path.exists()
    assert Archive(store, clock=lambda: LATER).article("p", 99).revision.title == "New"
    check_against_wiki(store, wiki)
    assert page.alive


def test_a_text_that_is_hidden_meanwhile_and_shown_again(tmp_path: Path) -> None:
    """It is hidden, neither lost nor empty; when upstream shows it, the text is fetched."""
    wiki, page = small_wiki()
    rev = page.revs[-1]
    service, store = Service(wiki), new_store()
    service.text_status[rev.rev_id] = 403
    with service.serve() as upstream:
        run_at(upstream.origin, service, store, tmp_path)
        seen = Archive(store).revision("p", rev.rev_id).revision
        assert {slot.presence for slot in seen.slots} == {Presence.HIDDEN}
        service.text_status.clear()
        before = len(wiki.documents)
        rev.hidden = 2
        wiki._tell("visibility_change", page)
        service.publish(wiki.documents[before:])
        run_at(upstream.origin, service, store, tmp_path)
        service.closing.set()
    check_against_wiki(store, wiki)


@pytest.mark.parametrize("status, hidden", [(200, 4), (200, 2), (200, 6), (403, 4), (403, 6)])
def test_what_is_hidden_between_a_document_and_its_text_is_never_served(
    status: int, hidden: int, tmp_path: Path
) -> None:
    """The document shows it, the wiki no longer does: it comes hidden, and is shown once that is told."""
    wiki, page = small_wiki()
    service, store = Service(wiki), new_store()
    for rev in page.revs:
        service.hidden[rev.rev_id] = hidden
        service.text_status[rev.rev_id] = status
    with service.serve() as upstream:
        run_at(upstream.origin, service, store, tmp_path)
        for rev in page.revs:
            rev.hidden = hidden | (status == 403)
        check_against_wiki(store, wiki)
        assert known(store) == [rev.rev_id for rev in page.revs]
        service.text_status.clear()
        service.hidden.clear()
        before, newest = len(wiki.documents), page.revs[-1]
        wiki._now += SECOND
        newest.hidden = 0
        wiki._tell("visibility_change", page)
        service.publish(wiki.documents[before:])
        run_at(upstream.origin, service, store, tmp_path)
        service.closing.set()
    check_against_wiki(store, wiki)


def test_the_name_is_that_of_the_document(tmp_path: Path) -> None:
    """A user who has another name by now had the old one then; and nothing is hidden that upstream shows."""
    wiki, page = small_wiki()
    store = new_store()
    run(Service(wiki), store, tmp_path)
    for rev in page.revs:
        seen = Archive(store).revision("p", rev.rev_id).revision
        assert (rev.user, rev.comment) == (seen.contributor.name, seen.comment.text)


def test_another_text_than_the_digest_says(tmp_path: Path) -> None:
    """It is asked for again; if it stays another one it is stored, with that verdict."""
    wiki, page = small_wiki()
    service, store = Service(wiki), new_store()
    wiki.texts[page.revs[0].rev_id] = dict.fromkeys(page.revs[0].texts, b"something else")
    (followed,) = run(service, store, tmp_path)
    assert followed.summary.claims["mismatch"] == len(page.revs[0].texts)
    assert followed.summary.claims["exact"] == len(page.revs[1].texts)
    asked = [path for path in service.texts_asked if path == page.revs[0].rev_id]
    assert len(asked) == 1 + QUICK.doubts


def test_a_slow_content_source(tmp_path: Path) -> None:
    """Texts are fetched side by side: the stream does not wait for each."""
    wiki = history(3, events=30)
    service, store = Service(wiki), new_store()
    service.text_seconds = 0.05
    run(service, store, tmp_path)
    assert service.most_at_once > 1
    check_against_wiki(store, wiki)


def test_too_much_pending_stops_the_reading(tmp_path: Path) -> None:
    """No more is read while so much waits, and it goes on behind."""
    wiki = Wiki(random.Random(1))
    page = wiki.create()
    for _ in range(20):
        wiki.edit(page)
    service, store = Service(wiki), new_store()
    for rev in page.revs:
        service.text_status[rev.rev_id] = 500
    waits = replace(QUICK, most=5)
    with service.serve() as upstream:
        run_at(
            upstream.origin, service, store, tmp_path, until=lambda: len(waiting(tmp_path)) >= 5, waits=waits
        )
        assert len(waiting(tmp_path)) == 5
        service.text_status.clear()
        run_at(upstream.origin, service, store, tmp_path, waits=waits)
        service.closing.set()
    check_against_wiki(store, wiki)


def test_two_projects(tmp_path: Path) -> None:
    """Projects share one connection, with all its faults, and each goes on from its own place."""
    wikis = [history(1, project="p"), history(2, project="q")]
    service = Service(*wikis, faults=ALL_FAULTS, chance=random.Random(5))
    store = new_store("p", "q")
    with service.serve() as upstream:
        run_at(upstream.origin, service, store, tmp_path, "p", until=lambda: bool(known(store, "p")))
        run_at(upstream.origin, service, store, tmp_path, "p", "q")
        service.closing.set()
    for wiki in wikis:
        check_against_wiki(store, wiki)


def start(origin: str, data: Path) -> subprocess.Popen[bytes]:
    arguments = ["follow", "eventstreams", "p", "--stream", STREAM, "--since", "2025-01-01", "--url", origin]
    arguments += ["--content", origin, "--contact", "somebody@p.test", "--json", "--data", str(data)]
    command = [sys.executable, "-m", "recension.server.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.torture)])
def test_killed_followers(kills: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed at any moment and started again, the end is the same; told to stop, it ends well."""
    wiki, chance, data = history(11, events=80), random.Random(1), tmp_path / "data"
    lost = wiki.pages[1].revs[0].rev_id
    with closing(LmdbStore.open(data, create=True)) as made:
        Ingestor(made).create_project(ProjectInfo("p", "https://p.test", "en", "CC-BY-SA-4.0"))
    service = Service(wiki, faults=Faults(cut=0.02, late=0.1, repeat=0.1), chance=chance)
    service.text_seconds = 0.01
    service.text_status[lost] = 404
    with service.serve() as upstream:
        for _ in range(kills):
            before, process = head_of(data), start(upstream.origin, data)
            wait_for(process, lambda: head_of(data) > before or waiting(data) != [])  # noqa: B023
            time.sleep(chance.random() * 0.5)
            process.kill()
            process.communicate(timeout=60)
        process = start(upstream.origin, data)
        wait_for(process, lambda: lost in [one.rev_id for one in waiting(data)])
        told = {}
        for name in ("pending", "stats"):
            assert main([name, "--data", str(data)]) == 0
            assert str(lost) in capsys.readouterr().out or name == "stats"
            assert main([name, "--data", str(data), "--json"]) == 0
            told[name] = json.loads(capsys.readouterr().out)
        assert lost in [one["rev_id"] for one in told["pending"]["p"]]
        assert told["stats"]["pending"]["p"]["changes"]
        service.text_status.clear()
        with closing(LmdbStore.open(data)) as store:
            wait_for(process, lambda: waiting(data) == [] and agrees(store, wiki))
            process.terminate()
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    (document,) = json.loads(out)
    assert document["project"] == "p"
    assert b"following" in err
