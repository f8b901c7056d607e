"""A corpus and its snapshots over a real server: pages in batches, single texts, differences, pins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import recension_client
from recension.model import errors
from recension.model.manifest import OnHidden
from recension.model.reading import ChangeKind, Shard
from recension_client import Client, Corpus, Page, PageBatch, Retry, Snapshot
from recension_client.corpus import instant_of
from recension_client.pages import Window, decoded
from tests.archive.helpers import World, delete, edit, hide, move
from tests.client.lying import honest, lying
from tests.client.test_lies import dropping
from tests.server.helpers import Served, serving, until

PAGES = 700
LARGE = 600
HIDDEN = 7
FIRST, SECOND = "2020-01-02T12:00:00Z", "2020-01-10"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = World()
    for start in range(1, PAGES, 100):
        pages = range(start, start + 100)
        world.add(*(world.event(page, 1, edit(page, f"text {page}", f"P{page}")) for page in pages))
    world.add(world.event(LARGE, 1.2, edit(10_600, "ä" * 1_500_000, f"P{LARGE}")))
    world.add(world.event(3, 2, edit(10_003, "newer", "P3")), world.event(4, 2, move("P4", "Q4")))
    world.add(world.event(5, 2, delete("P5")), world.event(900, 2, edit(10_900, "added", "New")))
    world.add(world.event(HIDDEN, 1, hide(HIDDEN)))
    with serving(world.store, tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.target) as client:
        yield client


@pytest.fixture
def corpus(client: Client) -> Corpus:
    return client.corpus("w")


@pytest.fixture
def snapshot(corpus: Corpus) -> Snapshot:
    return corpus.as_of(FIRST, on_hidden=OnHidden.KEEP)


def ids(batches: Iterator[PageBatch]) -> list[int]:
    return [page.page_id for batch in batches for page in batch]


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "recension-pages"]


def test_what_a_snapshot_says(corpus: Corpus, snapshot: Snapshot, client: Client) -> None:
    """Id, root and counts are the manifest's, and the id finds it again."""
    (part,) = snapshot.manifest.parts
    assert (PAGES, part.text_bytes) == (snapshot.count, snapshot.text_bytes)
    assert {"w": snapshot.root} == snapshot.roots
    assert snapshot == client.open(snapshot.id) == corpus.snapshot(snapshot.digest)
    assert 1 == len({snapshot, client.open(snapshot.id)})
    assert snapshot != corpus.as_of(SECOND)
    assert snapshot in list(corpus.snapshots())
    assert [] == list(client.corpus("other").snapshots())
    assert snapshot.id in repr(snapshot)
    assert "w" == corpus.info().name
    assert OnHidden.KEEP is snapshot.selector.on_hidden


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 64, PAGES, 1_000])
def test_pages_come_in_batches(snapshot: Snapshot, client: Client, batch: int, prefetch: int) -> None:
    """Each page once and in order, with its text; every batch but the last is full."""
    batches = list(snapshot.pages(batch=batch, prefetch=prefetch))
    pages = [page for found in batches for page in found]
    assert [Page(entry) for entry in client.read(snapshot.digest)] == pages
    assert all(len(found) == batch for found in batches[:-1])
    assert 0 < len(batches[-1]) <= batch
    large = next(page for page in pages if page.page_id == LARGE)
    assert "ä" * 1_500_000 == large.text


def test_what_a_page_says(snapshot: Snapshot) -> None:
    """A page offers its entry's fields, its text as a string, and None for one that is not there."""
    pages = {page.page_id: page for batch in snapshot.pages() for page in batch}
    page, hidden = pages[1], pages[HIDDEN]
    assert ("w", 1, 1, "P1", 0) == (page.project, page.page_id, page.rev_id, page.title, page.namespace)
    assert datetime(2020, 1, 2, tzinfo=UTC) == page.saved_at
    assert page.timestamp == instant_of(page.saved_at)
    assert ("text 1", "PRESENT") == (page.text, page.presence.name)
    assert page.digest.startswith("sha256:")
    assert (None, "", "HIDDEN") == (hidden.text, hidden.digest, hidden.presence.name)
    (bare,) = next(snapshot.pages(text=False, batch=1))
    assert (page.digest, None) == (bare.digest, bare.text)


def test_a_token_goes_on_behind_its_batch(snapshot: Snapshot) -> None:
    """What follows a token is what followed its batch, however it is batched."""
    batches = list(snapshot.pages(batch=64))
    every = ids(iter(batches))
    for number in (0, 4, len(batches) - 1):
        token = batches[number].token
        assert len(token) < 200
        assert token.isascii()
        assert token.isprintable()
        rest = ids(snapshot.pages(resume=token, batch=50))
        assert every[64 * (number + 1) :] == rest


def test_shards_are_the_whole_together(snapshot: Snapshot) -> None:
    """Each page is in one shard, and a token belongs to its shard."""
    shards = [ids(snapshot.pages(shard=(index, 3))) for index in range(3)]
    assert all(shards)
    assert ids(snapshot.pages()) == sorted(page for shard in shards for page in shard)
    first = next(snapshot.pages(shard=Shard(1, 3), batch=10))
    assert shards[1][10:] == ids(snapshot.pages(shard=(1, 3), resume=first.token))


def test_a_token_of_something_else_is_refused(snapshot: Snapshot, corpus: Corpus) -> None:
    """Of another snapshot, of another shard, damaged, or none at all: before anything is asked."""
    token = next(snapshot.pages(batch=10)).token
    other = corpus.as_of(SECOND)
    asked: list[tuple[Snapshot, str, tuple[int, int]]] = [
        (other, token, (0, 1)),
        (snapshot, token, (0, 2)),
        (snapshot, token[:-2], (0, 1)),
        (snapshot, "?", (0, 1)),
        (snapshot, "é", (0, 1)),
    ]
    for of, resume, shard in asked:
        with pytest.raises(errors.InvalidCursorError, match="resume"):
            of.pages(resume=resume, shard=shard)


@pytest.mark.parametrize(
    "asked",
    [
        {"batch": 0},
        {"batch": 10**6},
        {"prefetch": -1},
        {"prefetch": 10**6},
        {"shard": (1, 1)},
        {"shard": (-1, 2)},
        {"shard": (0, 0)},
    ],
)
def test_a_limit_out_of_range_is_refused(snapshot: Snapshot, asked: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=next(iter(asked))):
        snapshot.pages(**asked)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_leaving_early_frees_everything(snapshot: Snapshot, served: Served, prefetch: int) -> None:
    """A break, an exception, a close and an iterator never begun leave no stream and no thread."""

    def left() -> bool:
        return not readers() and served.idle()

    for batch in snapshot.pages(batch=1, prefetch=prefetch):
        assert batch
        break
    assert not readers()
    with pytest.raises(ZeroDivisionError):
        for batch in snapshot.pages(batch=1, prefetch=prefetch):
            print(len(batch) // 0)
    assert not readers()
    with closing(snapshot.pages(batch=1, prefetch=prefetch)) as pages:
        next(pages)
    assert not readers()
    unread = snapshot.pages(prefetch=prefetch)
    until(left)
    del unread
    until(left)


def test_closing_the_client_ends_its_streams(served: Served, snapshot: Snapshot) -> None:
    """Who reads on is told that the client is closed, also one that reads ahead."""
    for prefetch in (0, 1):
        client = Client(served.target)
        pages = client.open(snapshot.id).pages(batch=1, prefetch=prefetch)
        next(pages)
        client.close()
        with pytest.raises(errors.UnreachableError, match="closed"):
            list(pages)
        assert not readers()


def test_reading_ahead_is_bounded() -> None:
    """A window takes so many items and so many bytes, but always one."""
    window = Window[str](2, 100)
    assert window.has_room(1_000)
    window.put("a", 60)
    assert window.has_room(40)
    assert not window.has_room(41)
    window.put("b", 1)
    assert not window.has_room(0)
    assert "a" == window.take()
    assert window.has_room(99)
    assert "b" == window.take()
    window.ended = True
    assert window.take() is None
    window.fault = errors.UnreachableError("gone")
    with pytest.raises(errors.UnreachableError):
        window.take()


def test_an_error_comes_where_the_batches_are_taken(client: Client, snapshot: Snapshot) -> None:
    """Also one that the reading thread met."""
    nowhere = Snapshot(client, snapshot.manifest)
    nowhere.manifest = client.create_snapshot(snapshot.selector, valid_at=instant_of(SECOND))
    object.__setattr__(nowhere.manifest, "encoded", b"another")
    with pytest.raises(errors.SnapshotNotFoundError):
        list(nowhere.pages())


def test_a_withheld_page_is_named(served: Served, snapshot: Snapshot) -> None:
    """A server that leaves a page out of the whole is found out; an honest one in its place is not."""
    with (
        lying(served.target, dropping) as address,
        Client(address) as client,
        pytest.raises(errors.VerificationError, match="pages came, the snapshot has"),
    ):
        list(client.open(snapshot.id).pages())
    with lying(served.target, honest) as address, Client(address) as client:
        assert PAGES == len(ids(client.open(snapshot.id).pages()))


def test_single_pages_are_proved(snapshot: Snapshot) -> None:
    """An entry and a text by page id; what is absent, hidden or of no such slot has its own name."""
    assert "P3" == snapshot.entry(3).title
    assert "text 3" == snapshot.text(3)
    assert 3_000_000 == len(snapshot.text(LARGE, project="w").encode())
    with pytest.raises(errors.PageNotFoundError):
        snapshot.entry(10**9)
    with pytest.raises(errors.TextUnavailableError):
        snapshot.text(HIDDEN)
    with pytest.raises(errors.InvalidArgumentError):
        snapshot.entry(3, project="other")
    with pytest.raises(errors.TextUnavailableError, match="no slot"):
        snapshot.text(3, role="notes")


def test_pages_at_positions(snapshot: Snapshot) -> None:
    """In any order, more than fit a call, each as the whole has it."""
    every = [page for batch in snapshot.pages() for page in batch]
    positions = [PAGES - 1, 0, 599, 0, *range(PAGES)] + [1] * 10_000
    assert [every[position] for position in positions] == list(snapshot.read(positions))
    assert [] == list(snapshot.read([]))
    (bare,) = snapshot.read([2], text=False)
    assert (every[2].digest, None) == (bare.digest, bare.text)
    with pytest.raises(errors.InvalidArgumentError):
        list(snapshot.read([PAGES]))


def test_what_differs(snapshot: Snapshot, corpus: Corpus) -> None:
    """Changes have both pages, with their texts if asked."""
    later = corpus.as_of(date(2020, 1, 10), on_hidden=OnHidden.KEEP)
    changes = {change.page_id: change for change in snapshot.diff(later, text=True)}
    kinds = {page_id: change.kind for page_id, change in changes.items()}
    assert kinds == {
        3: ChangeKind.EDITED,
        4: ChangeKind.MOVED,
        5: ChangeKind.REMOVED,
        900: ChangeKind.ADDED,
    }
    edited = changes[3]
    assert edited.before
    assert edited.after
    assert ("text 3", "newer") == (edited.before.text, edited.after.text)
    assert changes[5].after is None
    assert all(change.before is None or change.before.text is None for change in snapshot.diff(later))


def test_pins(snapshot: Snapshot, corpus: Corpus) -> None:
    """A snapshot is held by a name, by which it is found."""
    made = snapshot.pin("run-1", until=datetime(2099, 1, 1, tzinfo=UTC), labels={"model": "m"})
    assert (made, snapshot.digest) == (corpus.pin("run-1"), made.snapshot_id)
    with pytest.raises(errors.PinNotFoundError):
        corpus.pin("run-2")


def test_pins_are_listed_extended_and_ended(snapshot: Snapshot, client: Client) -> None:
    """Over pages of a list too; a pin is never shortened, and one that is not there is as good as ended."""
    made = [snapshot.pin(f"many-{number}", until="2098-01-01") for number in range(3)]
    assert made == [pin for pin in client.pins() if pin.name.startswith("many-")]
    later = instant_of("2099-01-01")
    assert later == client.extend_pin("many-1", later).readable_until == client.pin("many-1").readable_until
    with pytest.raises(errors.InvalidArgumentError, match="is before"):
        client.extend_pin("many-1", later - 1)
    for _ in range(2):
        client.delete_pin("many-1")
    assert ["many-0", "many-2"] == [pin.name for pin in client.pins() if pin.name.startswith("many-")]
    with pytest.raises(errors.PinNotFoundError, match="many-1") as caught:
        client.extend_pin("many-1", later)
    assert "recension pins" in caught.value.hint


def test_times() -> None:
    """A time is given as text, as a date, as a datetime with its zone, or in microseconds."""
    expected = 1_577_836_800_000_000
    east = timezone(timedelta(hours=1))
    for when in ("2020-01-01", date(2020, 1, 1), datetime(2020, 1, 1, 1, tzinfo=east), expected):
        assert expected == instant_of(when)
    with pytest.raises(errors.InvalidTimeError, match="no time zone"):
        instant_of(datetime(2020, 1, 1))  # noqa: DTZ001 - that is what is refused
    with pytest.raises(errors.InvalidTimeError):
        instant_of("soon")


def test_public_names() -> None:
    """Every name that the package promises is there, and no other."""
    assert all(getattr(recension_client, name).__name__ == name for name in recension_client.__all__)
    assert not hasattr(recension_client, "Clients")


def test_a_served_directory_needs_no_client(tmp_path: Path) -> None:
    """Making a corpus asks nothing, so a server that is not there is told only at the first question."""
    corpus = Client(f"unix://{tmp_path}/none").corpus("w")
    with pytest.raises(errors.UnreachableError):
        corpus.info()


def test_a_text_that_is_no_utf8_is_named() -> None:
    """It is the server's fault, whatever its digest is."""
    with pytest.raises(errors.VerificationError, match="page 7 is not UTF-8"):
        decoded(b"\xff", 7)


def test_a_pause_ends_when_the_client_is_closed() -> None:
    """Who waits for the next try does not wait for ever."""
    long = Retry(first_pause_seconds=3600, longest_pause_seconds=3600, patience_seconds=10**6)
    client = Client("127.0.0.1:1", retry=long, timeout_seconds=10**6)
    told: list[errors.RecensionError] = []

    def ask() -> None:
        with pytest.raises(errors.UnreachableError, match="closed") as caught:
            client.projects()
        told.append(caught.value)

    thread = threading.Thread(target=ask)
    thread.start()
    client.close()
    thread.join(60)
    assert 1 == len(told)
