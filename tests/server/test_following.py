"""Streams that are followed: cut, repeated, out of order, refused, killed; the end is that of a clean run."""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from recension.archive import marks
from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.errors import (
    FollowerBusyError,
    PageNotFoundError,
    ProjectNotFoundError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from recension.model.event import Presence
from recension.model.reading import ProjectInfo, Revision
from recension.server.following import Followed, Pace, follow
from recension.server.main import main
from recension.server.quarantine import read_kept
from recension.server.retrying import retry
from recension.sources.enterprise_login import Credentials, Login
from recension.sources.enterprise_stream import EnterpriseStream
from recension.sources.http import Http, Patience
from recension.sources.items import Skipped
from recension.sources.piece import Offsets, Piece, Stream
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.enterprise import PASSWORD, SECOND, START, USER, Enterprise, Faults, Record, history, record
from tests.upstream import Asked

QUICK = Pace(commit_seconds=0.005, first_pause_seconds=0.0)
LATER = 4_000_000_000_000_000


def new_store(*projects: str) -> MemoryStore:
    store = MemoryStore()
    for project in projects or ("p",):
        Ingestor(store).create_project(ProjectInfo(project, "https://t.example", "en", "CC-BY-SA-4.0"))
    return store


def stream_of(origin: str, project: str = "p", days: int = 0) -> EnterpriseStream:
    """Return the stream of a project, read so many days after what it tells."""
    patience = Patience(idle_seconds=5.0)
    login = Login(Http(origin), Credentials(USER, PASSWORD))
    http = Http(origin, bearer=login, patience=patience)
    return EnterpriseStream(http, project, since=0, clock=lambda: START + days * 86_400 * SECOND)


def run(
    store: Store, streams: Sequence[Stream], data: Path, done: Callable[[], bool], pace: Pace = QUICK
) -> list[Followed]:
    """Follow until ``done``, which is asked now and then."""
    stop = threading.Event()
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(follow(store, streams, stop, data=data, log=structlog.get_logger(), pace=pace))
        except BaseException as error:  # noqa: BLE001 - raised below
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 120
    while thread.is_alive() and not done():
        assert time.monotonic() < until, "it does not get there"
        time.sleep(0.005)
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    if isinstance(result[0], BaseException):
        raise result[0]
    followed: list[Followed] = result[0]
    return followed


def follow_until(
    store: Store, stream: Stream, data: Path, service: Enterprise, pace: Pace = QUICK
) -> Followed:
    """Follow one stream to the end of what there is, and have the server end what it waits for."""
    (followed,) = run(store, [stream], data, lambda: reached(store, service, stream), pace)
    service.closing.set()
    return followed


def reached(store: Store, service: Enterprise, stream: Stream) -> bool:
    """Say whether the newest mark is at the end of all partitions."""
    mark = marks.newest(store, stream.project, stream.source)
    if mark is None:
        return False
    for number, records in enumerate(service.partitions):
        mine = [
            one["event"]["offset"] for one in records if one["is_part_of"]["identifier"] == stream.project
        ]
        if mine and str(mark.offsets.get(str(number), "")).partition("@")[0] != str(max(mine)):
            return False
    return True


def state(store: Store, pages: int, project: str = "p") -> list[Any]:
    """Return what is served of each page: its title now, and its revisions."""
    archive = Archive(store, clock=lambda: LATER)
    found: list[Any] = []
    for page in range(1, pages + 1):
        try:
            title = archive.article(project, page, valid_at=LATER).revision.title
        except PageNotFoundError:
            title = ""
        try:
            timeline = [item.what for item in archive.timeline(project, page)]
        except PageNotFoundError:
            timeline = []
        revisions = sorted(
            (
                one.rev_id,
                one.timestamp,
                one.contributor,
                one.comment,
                [(s.role, s.presence, s.digest) for s in one.slots],
            )
            for one in timeline
            if isinstance(one, Revision)
        )
        found.append((title, revisions))
    return found


def clean_state(records: list[Record], pages: int, data: Path) -> list[Any]:
    """Return what a run without faults leaves."""
    service = Enterprise()
    service.publish(records)
    store = new_store()
    with service.serve() as upstream:
        follow_until(store, stream_of(upstream.origin), data, service)
    return state(store, pages)


PAGES = 6
WRONG = Faults(cut=0.05, repeat=0.05, late=0.05, refuse=0.1, slow=0.05, garbage=0.02)


@pytest.mark.parametrize("cuts", [20, pytest.param(1_000, marks=pytest.mark.torture)])
def test_cuts_repetitions_and_disorder(cuts: int, tmp_path: Path) -> None:
    """Each run ends as the clean one does, whatever was wrong in it."""
    seen = seed = 0
    while seen < cuts:
        chance = random.Random(seed)
        records = history(chance, pages=PAGES, events=60)
        clean = clean_state(records, PAGES, tmp_path / f"clean-{seed}")
        service = Enterprise(faults=WRONG, chance=chance, finite=True)
        service.publish(records)
        store = new_store()
        with service.serve() as upstream:
            stream = stream_of(upstream.origin, days=seed % 3)
            followed = follow_until(store, stream, tmp_path / str(seed), service)
        assert clean == state(store, PAGES), seed
        assert {"INVALID_JSON", "INVALID_FIELD"} >= set(followed.summary.rejected), seed
        seen += service.counts.cuts
        seed += 1
    assert seen >= cuts


class Apart:
    """A stream that keeps for itself how far it was read, apart from what is stored: the negative control."""

    def __init__(self, stream: EnterpriseStream) -> None:
        self._stream = stream
        self.project, self.form, self.source = stream.project, stream.form, stream.source
        self._read: dict[str, int | str] = {}
        self.idle = False
        """Whether a connection has brought nothing that was not read before."""

    def connect(self, offsets: Offsets) -> Iterator[Piece]:
        before = dict(self._read)
        for piece in self._stream.connect(before):
            self._read.update(piece.offsets)
            yield piece
        self.idle = self._read == before

    def stop(self) -> None:
        self._stream.stop()


@pytest.mark.parametrize("apart", [False, True])
def test_followers_that_are_ended_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, apart: bool
) -> None:
    """Where to go on is in the commit of what was read; kept apart from it, records are lost."""
    monkeypatch.setattr("recension.sources.enterprise_stream.OVERLAP", 0)  # it would make up for some of them
    records = [record(second, "update", f"Page {second}", second, second * 10) for second in range(1, 401)]
    service = Enterprise(finite=True)
    service.publish(records)
    store = new_store()
    ends = 0
    with service.serve() as upstream:
        exact = stream_of(upstream.origin)
        stream = Apart(exact) if apart else exact
        pace = Pace(commit_seconds=0.005, first_pause_seconds=0.0, batch_items=32)

        def over() -> bool:
            return stream.idle if isinstance(stream, Apart) else reached(store, service, stream)

        while not over():
            before = store.log.head().position
            run(store, [stream], tmp_path, lambda: store.log.head().position > before or over(), pace)  # noqa: B023
            ends += 1
    found = {title for title, _ in state(store, 400)}
    lost = {f"Page {second}" for second in range(1, 401)} - found
    assert bool(lost) == apart
    assert ends > 2


def test_what_the_archive_refused_is_kept_whole(tmp_path: Path) -> None:
    """Each event that was refused with the record that it came in, however the batch was put in order."""
    service, store = Enterprise(finite=True), new_store()
    records = [record(second, "update", f"Page {second}", second, second * 10) for second in range(1, 6)]
    wrong = [record(9 - number, "update", f"Wrong {number}", 10 + number, 10 * number) for number in (1, 2)]
    service.publish([*records, *wrong])
    with service.serve() as upstream:
        followed = follow_until(store, stream_of(upstream.origin), tmp_path, service)
    assert {"REVISION_CONFLICT": 2} == dict(followed.summary.rejected)
    (file,) = tmp_path.glob("quarantine/p/*.ndjson")
    kept = {one.position: json.loads(one.record)["name"] for one in read_kept(file)}
    assert {"page 11, edit 10": "Wrong 1", "page 12, edit 20": "Wrong 2"} == kept
    left = retry(store, "p", file, data=tmp_path)
    assert (0, {"REVISION_CONFLICT": 2}) == (left.accepted, dict(left.rejected))


def test_a_stream_has_one_follower(tmp_path: Path) -> None:
    """Another one is refused, by name, before it asks anything; other projects are not, nor the next one."""
    service, store = Enterprise(), new_store("p", "q")
    service.publish([record(1, "update", "A", 1, 10)])
    with service.serve() as upstream:
        streams = [stream_of(upstream.origin), stream_of(upstream.origin, "q")]

        def refused() -> bool:
            if not reached(store, service, streams[0]):
                return False
            asked = len(upstream.asked)
            with pytest.raises(FollowerBusyError, match=f"by process {os.getpid()}"):
                run(store, [streams[1], stream_of(upstream.origin)], tmp_path, lambda: False)
            assert asked == len(upstream.asked)
            run(store, [streams[1]], tmp_path, lambda: True)
            return True

        run(store, [streams[0]], tmp_path, refused)
        run(store, [stream_of(upstream.origin)], tmp_path, lambda: True)
        service.closing.set()


def test_another_writer_is_waited_for(tmp_path: Path) -> None:
    """While another holds the right to write, nothing is lost and little is read ahead."""
    service, store = Enterprise(), new_store()
    service.publish([record(second, "update", f"P{second}", second, second) for second in range(1, 1000)])
    pace = Pace(commit_seconds=0.005, batch_items=100)
    with service.serve() as upstream:
        stream = Counting(stream_of(upstream.origin))
        with store.exclusive_writer():
            run(store, [stream], tmp_path, lambda: stream.given >= 50, pace)
            assert 51 >= stream.given, (
                "of each record there are two items, and one record may wait for its turn"
            )
            assert not [page for page, _ in state(store, 3) if page]
        follow_until(store, stream, tmp_path, service)
    assert 999 == len({title for title, _ in state(store, 999)})


class Counting:
    """A stream that counts what it gives."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.project, self.form, self.source = stream.project, stream.form, stream.source
        self.given = 0

    def connect(self, offsets: Offsets) -> Iterator[Piece]:
        for piece in self._stream.connect(offsets):
            self.given += len(piece.items) > 0
            yield piece

    def stop(self) -> None:
        self._stream.stop()


def test_several_projects(tmp_path: Path) -> None:
    """Each is asked for by itself, and has its own place."""
    service, store = Enterprise(), new_store("p", "q")
    both = [
        record(second, "update", f"P{second}", second, second, project=one)
        for second in (1, 2)
        for one in "pq"
    ]
    service.publish(both)
    with service.serve() as upstream:
        streams = [stream_of(upstream.origin, project) for project in "pq"]
        done = lambda: all(reached(store, service, one) for one in streams)  # noqa: E731
        followed = run(store, streams, tmp_path, done)
        service.closing.set()
    assert [("p", 4), ("q", 4)] == [(one.project, one.summary.accepted * 2) for one in followed]
    assert state(store, 2, "p")[0][0] == state(store, 2, "q")[0][0] == "P1"


def test_what_upstream_refuses_ends_it(tmp_path: Path) -> None:
    """A refusal is raised once what came before is stored."""
    service, store = Enterprise(finite=True), new_store()
    service.publish([record(1, "update", "A", 1, 11)])

    def answer(asked: Asked) -> None:
        if service.asked:
            asked.reply(403)
        else:
            service.handlers.clear()
            service.answer(asked)
            service.handlers["/v2/articles"] = answer

    service.handlers["/v2/articles"] = answer
    with service.serve() as upstream, pytest.raises(UpstreamRefusedError, match="403"):
        run(store, [stream_of(upstream.origin)], tmp_path, lambda: False, Pace(first_pause_seconds=0.0))
    assert "A" == state(store, 1)[0][0]


def test_an_unknown_project(tmp_path: Path) -> None:
    """It is named before anything is asked."""
    service = Enterprise()
    with service.serve() as upstream:
        with pytest.raises(ProjectNotFoundError):
            run(new_store(), [stream_of(upstream.origin, "other")], tmp_path, lambda: False)
        assert [] == upstream.asked


def test_what_is_about_nothing_known(tmp_path: Path) -> None:
    """It waits for what it is about, not for ever, and then is in the quarantine."""
    early = [
        record(1, "visibility-change", "A", 1, 11) | {"visibility": {}},
        record(2, "visibility-change", "B", 2, 22) | {"visibility": {}},
        record(3, "update", "A", 1, 11),
    ]
    service, store = Enterprise(), new_store()
    service.publish(early)
    with service.serve() as upstream:
        stream = stream_of(upstream.origin)
        followed = follow_until(
            store,
            stream,
            tmp_path,
            service,
            Pace(commit_seconds=0.2, hold_seconds=0.5, first_pause_seconds=0.0),
        )
    assert {"REVISION_NOT_FOUND": 1} == dict(followed.summary.rejected)
    assert Presence.HIDDEN is Archive(store).revision("p", 11).revision.comment.presence
    (kept,) = (tmp_path / "quarantine" / "p").iterdir()
    assert ["REVISION_NOT_FOUND"] == [json.loads(line)["reason"] for line in kept.read_bytes().splitlines()]


def test_older_changes_of_visibility_come_too_late(tmp_path: Path) -> None:
    """What is hidden stays so when what was before it arrives behind it."""
    shown = {"visibility": {"text": True, "editor": True, "comment": True}}
    hidden = record(9, "visibility-change", "A", 1, 11) | {"visibility": {}}
    service, store = Enterprise(), new_store()
    service.publish([record(1, "update", "A", 1, 11), hidden])
    with service.serve() as upstream:
        stream = stream_of(upstream.origin)
        follow_until(store, stream, tmp_path, service)
        service.closing.clear()
        service.publish([record(5, "visibility-change", "A", 1, 11) | shown], offset=5000)
        followed = follow_until(store, stream, tmp_path, service)
    assert 1 == followed.summary.skipped["overtaken by what is known"]
    assert Archive(store).revision("p", 11).revision.slots[0].text is None


class Endless:
    """A stream whose connections end behind a record that is known."""

    project, form, source = "p", "test-stream", "test"

    def __init__(self) -> None:
        self.connections = 0

    def connect(self, offsets: Offsets) -> Iterator[Piece]:
        self.connections += 1
        yield Piece([Skipped({f"kind {self.connections}": 1})], {"at": self.connections}, 0, 100)
        raise UpstreamUnreachableError(f"broken off, {self.connections}")

    def stop(self) -> None:
        pass


def test_weeks_of_reconnecting(tmp_path: Path) -> None:
    """Memory does not grow with the connections, nor with the names that upstream gives."""
    store, stream = new_store(), Endless()
    sizes: list[int] = []

    def done() -> bool:
        if not sizes and stream.connections > 300:
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        return stream.connections > 1_500

    tracemalloc.start()
    try:
        (followed,) = run(store, [stream], tmp_path, done, Pace(commit_seconds=0.05, first_pause_seconds=0.0))
        gc.collect()
        held = sum(map(len, store.log.read(1, 10_000)))
        grown = tracemalloc.get_traced_memory()[0] - sizes[0]
    finally:
        tracemalloc.stop()
    assert grown < 8 * held + 500_000
    assert len(followed.summary.skipped) <= 101
    assert followed.breaks >= 1_500


def test_lines_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 16 MiB is taken, a longer one is rejected, and one without an end ends its connection."""
    monkeypatch.setattr("recension.sources.lines.MAX_BARREN_BYTES", 64 * 2**20)
    service, store = Enterprise(finite=True), new_store()
    long = record(2, "update", "Long", 2, 22, text="x" * (16 * 2**20 - 2000))
    del long["article_body"]["html"]
    service.publish([record(1, "update", "Over", 1, 11, text="y" * 16 * 2**20), long])

    def answer(asked: Asked) -> None:
        if len(service.asked):
            service.handlers.clear()
        service.asked.append(asked.document)
        with asked.chunked() as write:
            while True:
                write(b"z" * 2**20)

    service.handlers["/v2/articles"] = answer
    with service.serve() as upstream:
        stream = stream_of(upstream.origin)
        done = lambda: bool(state(store, 2)[1][0])  # noqa: E731
        (followed,) = run(store, [stream], tmp_path, done)
        service.closing.set()
    assert {"LINE_TOO_LONG": 1} == dict(followed.summary.rejected)
    assert followed.breaks >= 1
    assert "without an event" in followed.fault


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def account(tmp_path: Path) -> Path:
    path = tmp_path / "account.json"
    path.write_text(json.dumps({"username": USER, "password": PASSWORD}))
    path.chmod(0o600)
    return path


def arguments_of(origin: str, data: Path, account: Path) -> list[str]:
    return [
        *("follow", "enterprise", "p", "--since", "2020-01-01", "--json", "--url", origin),
        *("--auth-url", origin, "--credentials", str(account), "--data", str(data)),
    ]


def start(origin: str, data: Path, account: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recension.server.main", *arguments_of(origin, data, account)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def head_of(data: Path) -> int:
    with closing(LmdbStore.open(data)) as store:
        return store.log.head().position


def wait_for(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"it does not get there: {process.communicate()[1].decode()}")
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.torture)])
def test_killed_followers(kills: int, tmp_path: Path, account: Path) -> None:
    """Killed at any moment and started again, the end is the same; nothing secret is anywhere."""
    records = history(random.Random(7), pages=PAGES, events=60)
    clean = clean_state(records, PAGES, tmp_path / "clean")
    data, chance, told = tmp_path / "data", random.Random(1), b""
    with closing(LmdbStore.open(data, create=True)) as made:
        Ingestor(made).create_project(ProjectInfo("p", "https://t.example", "en", "CC-BY-SA-4.0"))
    service = Enterprise(faults=Faults(cut=0.005, garbage=0.05), chance=chance)
    cuts = [len(records) * number // (kills + 1) for number in range(kills + 2)]
    with service.serve() as upstream:
        stream = stream_of(upstream.origin)
        for number in range(kills):
            service.publish(records[cuts[number] : cuts[number + 1]], offset=1000 + 500 * number)
            before = head_of(data)
            process = start(upstream.origin, data, account)
            wait_for(process, lambda: head_of(data) > before)  # noqa: B023
            time.sleep(chance.random() * 0.5)
            process.kill()
            told += b"".join(process.communicate(timeout=60))
        service.publish(records[cuts[kills] :], offset=1000 + 500 * kills)
        process = start(upstream.origin, data, account)
        store = LmdbStore.open(data)
        wait_for(process, lambda: reached(store, service, stream))
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert (0, clean) == (process.returncode, state(store, PAGES)), err
        store.close()
        told += out + err
        service.closing.set()
    (document,) = json.loads(out)
    assert "p" == document["project"]
    assert document["lag_seconds"] > 0
    files = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    for secret in (
        PASSWORD,
        "canary-signature",
        "canary-of-a-token",
        "canary-of-a-refresh-token",
        *service.tokens,
    ):
        assert secret.encode() not in told
        assert secret.encode() not in files
    assert b"following" in told


@pytest.mark.parametrize("why", ["account", "status", "url"])
def test_the_command_ends_with_a_named_error(
    tmp_path: Path, account: Path, capfd: pytest.CaptureFixture[str], why: str
) -> None:
    """What will not go away is told, and the exit status is 3."""
    data = tmp_path / "data"
    with closing(LmdbStore.open(data, create=True)) as store:
        Ingestor(store).create_project(ProjectInfo("p", "https://t.example", "en", "CC-BY-SA-4.0"))
    service = Enterprise()
    service.handlers["/v2/articles"] = lambda asked: asked.reply(403, b"canary-of-an-answer")
    if why == "account":
        account.chmod(0o644)
    with service.serve() as upstream:
        origin = "http://example.org" if why == "url" else upstream.origin
        assert 3 == main(arguments_of(origin, data, account))
    out, err = capfd.readouterr()
    assert "error: " in err
    assert "canary" not in out + err
