"""What an ingest says of where its events came from: kept with them, found again, never said twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recension.archive.check.run import Check
from recension.archive.marks import end_of, freshness, mark_at, newest, sources
from recension.model.errors import InvalidArgumentError
from recension.model.mark import MAX_OFFSETS_BYTES, MAX_SOURCE_BYTES, Mark, Origin, Span, read_mark
from recension.model.reading import Provenance
from recension.model.record import Kind, Statement, decode_commit
from recension.store import keys
from recension.store.memory import MemoryStore
from tests.archive.helpers import NOW, World, edit
from tests.archive.test_check import put, relog

FILE = Mark("dump", "aawiki-20260101-pages-meta-history.xml.7z", Span(0, 2), file=bytes(range(8)))
WHOLE = replace(FILE, span=Span(0, 3), origin=Origin(77, bytes(range(32))), upstream_at=1_000_000)
STREAM = Mark("enterprise-stream", "https://h.example/articles", offsets={"0": 12, "1": "x"}, upstream_at=5)


@pytest.fixture
def world() -> World:
    return World()


def test_a_mark_is_written_in_one_way() -> None:
    """Canonical JSON; what is read back is equal and is written the same."""
    assert WHOLE.encoded == (
        b'{"bytes":77,"file":"0001020304050607","form":"dump","from":0,"sha256":"sha256:'
        + bytes(range(32)).hex().encode()
        + b'","source":"aawiki-20260101-pages-meta-history.xml.7z",'
        + b'"to":3,"upstream_at":"1970-01-01T00:00:01Z"}'
    )
    for mark in (FILE, WHOLE, STREAM, Mark("append", ""), Mark("append", "é")):
        assert mark == read_mark(mark.encoded)
        assert mark.encoded == read_mark(mark.encoded).encoded


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"{}",
        b"[]",
        b'{"form":"dump"}',
        b'{"form":"Dump","source":"a"}',
        b'{"form":"dump","source":1}',
        b'{"form":"dump","source":"a","more":1}',
        b'{"source":"a","form":"dump"}',
        b'{"form":"dump", "source":"a"}',
        b'{"file":"0001020304050607","form":"dump","from":1,"source":"a"}',
        b'{"file":"0001020304050607","form":"dump","from":2,"source":"a","to":1}',
        b'{"file":"0001020304050607","form":"dump","from":false,"source":"a","to":1}',
        b'{"file":"0001020304050607","form":"dump","from":-1,"source":"a","to":1}',
        b'{"file":"0001020304050607","form":"dump","from":0,"source":"a","to":9007199254740992}',
        b'{"form":"dump","from":0,"source":"a","to":1}',
        b'{"file":"","form":"dump","from":0,"source":"a","to":1}',
        b'{"file":"00010203","form":"dump","from":0,"source":"a","to":1}',
        b'{"file":"000102030405060F","form":"dump","from":0,"source":"a","to":1}',
        b'{"file":"0001020304050607","form":"dump","source":"a"}',
        b'{"bytes":1,"form":"dump","sha256":"sha256:0000000000000000000000000000000000000000000000000000000000000000","source":"a"}',
        b'{"bytes":1,"form":"dump","sha256":"sha256:00","source":"a"}',
        b'{"bytes":1,"form":"dump","source":"a"}',
        b'{"form":"dump","offsets":{},"source":"a"}',
        b'{"form":"dump","offsets":{"0":true},"source":"a"}',
        b'{"form":"dump","offsets":{"0":1.0},"source":"a"}',
        b'{"form":"dump","offsets":{"":1},"source":"a"}',
        b'{"form":"dump","offsets":[1],"source":"a"}',
        b'{"form":"dump","source":"a","upstream_at":"yesterday"}',
        b'{"form":"dump","source":"a","upstream_at":"1970-01-01"}',
        b'{"form":"dump","source":"\\ud800"}',
        b'{"form":"dump","licenses":[],"source":"a"}',
        b'{"form":"dump","licenses":{},"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"","rev_ids":["1"]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":[]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":"1"}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":[1]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":["2","1"]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":["0"]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":["9223372036854775808"]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":[],"rev_ids":["1"]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"b","rev_ids":["1"]},{"license":"a","rev_ids":["1"]}],"source":"a"}',
        b'{"form":"dump","licenses":[{"license":"a","rev_ids":["%s"]}],"source":"a"}' % (b"1" * 5000),
        b"[" * 100_000,
    ],
)
def test_what_is_no_mark_is_refused(encoded: bytes) -> None:
    """Other keys, types, orders and bounds: each by name, and nothing else is raised."""
    with pytest.raises(InvalidArgumentError):
        read_mark(encoded)


def test_what_is_too_long_is_refused() -> None:
    """A source of more than 1,024 bytes, offsets of more than 64 KiB."""
    Mark("dump", "x" * MAX_SOURCE_BYTES)
    with pytest.raises(InvalidArgumentError):
        Mark("dump", "x" * (MAX_SOURCE_BYTES + 1))
    with pytest.raises(InvalidArgumentError):
        Mark("s", "x", offsets={"0": "y" * MAX_OFFSETS_BYTES})


def test_a_mark_lies_behind_the_events_of_its_commit(world: World) -> None:
    """One record has both, the ordinals of events stay as they are, and the mark is found by its position."""
    events = [world.event(1, day, edit(day, "ab"[day - 1])) for day in (1, 2)]
    appended = world.ingestor.append("w", events, FILE)
    commit = decode_commit(world.store.log.read(appended.position, 1)[0])
    assert [Kind.EDIT, Kind.EDIT, Kind.MARK] == [item.kind for item in commit.items]
    assert commit.items[-1] == Statement(Kind.MARK, FILE.encoded)
    assert FILE == mark_at(world.store, appended.position) == newest(world.store, "w", FILE.source, FILE.file)
    assert "b" == world.text(1, 3)
    assert not Check(world.store).run().kinds


def test_what_is_known_leaves_no_mark(world: World) -> None:
    """Events that are known again change nothing, under another name neither; a commit without has none."""
    events = [world.event(1, 1, edit(1, "a"))]
    world.ingestor.append("w", events, FILE)
    head = world.store.log.head()
    for mark in (FILE, replace(FILE, source="again"), replace(WHOLE, source="again")):
        assert 1 == world.ingestor.append("w", events, mark).known
        assert head == world.store.log.head()
    world.add(world.event(1, 2, edit(2, "b")))
    assert mark_at(world.store, head.position + 1) is None
    assert mark_at(world.store, head.position + 2) is None


def test_a_file_that_was_read_to_its_end_says_so_once(world: World) -> None:
    """The end is a commit behind the file's events; said again it is no news, until there are more."""
    one = world.ingestor.append("w", [world.event(1, 1, edit(1, "a"))], FILE).position
    assert end_of(world.store, "w", FILE.source, FILE.file, one) is None
    two = world.ingestor.append("w", [], WHOLE).position
    assert (one + 1, one + 1) == (two, world.ingestor.append("w", [], WHOLE).position)
    assert (
        WHOLE
        == end_of(world.store, "w", FILE.source, FILE.file, one)
        == newest(world.store, "w", FILE.source, FILE.file)
    )
    three = world.ingestor.append("w", [world.event(1, 3, edit(3, "c"))], FILE).position
    assert FILE == newest(world.store, "w", FILE.source, FILE.file)
    assert end_of(world.store, "w", FILE.source, FILE.file, three) is None
    other = replace(WHOLE, origin=Origin(78, bytes(32)))
    world.ingestor.append("w", [], other)
    assert (WHOLE, other) == tuple(
        end_of(world.store, "w", FILE.source, FILE.file, at) for at in (one, three)
    )


def test_a_stream_goes_on_where_its_newest_mark_says(world: World) -> None:
    """Offsets that moved are a commit without events; the same ones are not, nor is a later time alone."""
    first = world.ingestor.append("w", [], STREAM).position
    further = replace(STREAM, offsets={"0": 13, "1": "x"})
    assert first == world.ingestor.append("w", [], replace(STREAM, upstream_at=6)).position
    assert first + 1 == world.ingestor.append("w", [], further).position
    assert further == newest(world.store, "w", STREAM.source)
    assert newest(world.store, "w", "another") is None
    assert newest(world.store, "none", STREAM.source) is None


def test_a_mark_alone_makes_no_snapshot_older(world: World) -> None:
    """A commit without events says nothing of a project: the newest known-at of its corpus stays."""
    world.add(world.event(1, 1, edit(1, "a")))
    before = world.snapshot(9)
    world.ingestor.append("w", [], STREAM)
    assert before == world.snapshot(9)


def test_sources_are_listed_with_their_newest_mark(world: World) -> None:
    """Each once, by the position of its newest mark; of another project none."""
    for number in range(1, 4):
        at = Mark("enterprise-stream", f"s{number % 2}", offsets={"0": number})
        world.ingestor.append("w", [], at)
    head = world.store.log.head().position
    assert [(head - 1, "s0", 2), (head, "s1", 3)] == [
        (position, mark.source, mark.offsets["0"]) for position, mark in sources(world.store, "w")
    ]
    assert [] == sources(world.store, "none")


def test_a_revision_says_what_it_was_read_from(world: World) -> None:
    """A file, with its digest once it was read to its end; a stream with its place; an owner; or nothing."""
    at = world.ingestor.append("w", [world.event(1, 1, edit(1, "a"))], FILE).position
    expected = Provenance(at, NOW + at - 1, "dump", b"", 0, FILE.source, (0, 2))
    assert expected == world.archive.provenance("w", 1)
    world.ingestor.append("w", [], WHOLE)
    whole = replace(expected, digest=bytes(range(32)), size_bytes=77)
    assert whole == world.archive.provenance("w", 1)
    at = world.ingestor.append("w", [world.event(1, 2, edit(2, "b"))], STREAM).position
    told = world.archive.provenance("w", 2)
    assert (at, "enterprise-stream", {"0": "12", "1": "x"}) == (told.position, told.form, told.offsets)
    assert (STREAM.source, b"") == (told.source, told.digest)
    world.ingestor.append("w", [world.event(1, 3, edit(3, "c"))], Mark("append", "ann"))
    told = world.archive.provenance("w", 3)
    assert ("append", "ann", b"", {}) == (told.form, told.source, told.digest, told.offsets)
    at = world.add(world.event(1, 4, edit(4, "d"))).position
    assert Provenance(at, NOW + at - 1) == world.archive.provenance("w", 4)
    assert whole == world.archive.provenance("w", 1)


def test_how_far_a_stream_is_behind_is_told_of_when_it_was_served(world: World) -> None:
    """Marks that go on without anything new do not make it older; of a file it is told at its end."""
    for number in range(1, 40):
        newest_at = NOW - 5_000_000 if number < 7 else NOW - 2_500_000
        world.ingestor.append("w", [], replace(STREAM, offsets={"0": number}, upstream_at=newest_at))
    (one,) = freshness(world.store)
    served_at = NOW + 1 + 6  # the seventh, and one commit before the first
    assert (served_at, (served_at - NOW + 2_500_000) / 1_000_000) == (one.served_at, one.lag_seconds)
    assert (40, STREAM.source, True) == (one.position - 0, one.source, one.is_stream)
    world.ingestor.append("w", [world.event(1, 1, edit(1, "a"))], FILE)
    assert freshness(world.store)[1].lag_seconds is None
    world.ingestor.append("w", [], WHOLE)
    file = freshness(world.store)[1]
    assert (False, 1_000_000, True) == (file.is_stream, file.upstream_at, bool(file.lag_seconds))
    assert [one] == freshness(world.store, streams_alone=True)


def test_a_check_finds_rows_that_no_mark_makes() -> None:
    """A row of another source, of another project, and marks that cannot be read."""
    store = MemoryStore()
    world = World(store)
    world.ingestor.append("w", [world.event(1, 1, edit(1, "a"))], FILE)
    position = world.store.log.head().position
    assert not Check(store).run().kinds
    for project, source, of_end in ((1, "other", False), (1, FILE.source, True), (2, FILE.source, False)):
        key = keys.source_mark(project, keys.source_key(source, FILE.file), position, of_end=of_end)
        put(store, {key: b""})
        assert {"row-orphan": 1} == Check(store).run().kinds
        assert ["row-orphan"] == [one.kind for one in Check(store).run().shown]
        put(store, {key: None})
    relog(store, position, lambda one: replace(one, items=(*one.items[:-1], Statement(Kind.MARK, b"{}"))))
    assert {"log-statement", "row-missing"} <= Check(store).run().kinds.keys()
