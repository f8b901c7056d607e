"""Clients that stop reading, fall silent, leave or send nonsense keep no thread, no place and no writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from recension.archive.keeping import Keeper
from recension.archive.reader import Archive
from recension.model import errors
from recension.model.digest import parse_digest
from recension.model.manifest import Selector
from recension.server import gate, interceptors
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import ingest_service_pb2 as ingest_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension.wire import convert
from recension_client.client import Client
from tests.server.helpers import PAGES, Clock, Served, Watched, fill, refused, serving, until

_INFO = "/recension.v1.CatalogService/GetServerInfo"
_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def snapshot(store: MemoryStore) -> str:
    return fill(store)


@pytest.fixture
def served(store: MemoryStore, snapshot: str, tmp_path: Path) -> Iterator[Served]:
    with serving(store, tmp_path, threads=4, streams=2, stall_seconds=30, idle_seconds=60) as served:
        yield served


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    monkeypatch.setattr(interceptors, "time", clock)
    return clock


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched, real = Watched(), Archive.read
    monkeypatch.setattr(Archive, "read", lambda *args, **options: watched.of(real(*args, **options)))
    return watched


def _raw(served: Served, method: str, messages: Iterator[bytes], **options: Any) -> Any:
    """Call a method with bytes, whatever they are."""
    call: Any = served.channel.stream_stream(method)
    return call(messages, **options)


def _reasons(lines: list[Any]) -> list[str]:
    return [line["reason"] for line in lines if line["event"] == "request"]


def test_a_client_that_stops_reading_loses_its_place(
    served: Served, snapshot: str, clock: Clock, watched: Watched
) -> None:
    """It is cut when it takes nothing for too long; place and iterator are free, the log says why."""

    def step() -> None:
        clock.pass_by(31)
        served.service.watchdog.look()

    with capture_logs() as lines:
        stream = served.read(snapshot)
        assert next(stream).HasField("batch")
        until(served.idle, step)
        assert watched.closed.wait(60)
        until(lambda: _reasons(lines) == ["STALLED"])
    assert watched.taken < PAGES
    error = refused(lambda: list(stream))
    assert errors.DeadlineError is type(error)
    assert "cursor" in error.hint
    assert served.read(snapshot).__next__().HasField("batch")


def test_our_client_goes_on_after_a_pause(
    served: Served, snapshot: str, clock: Clock, watched: Watched
) -> None:
    """Who works for long between two pages does not notice that the stream was cut."""

    def step() -> None:
        clock.pass_by(31)
        served.service.watchdog.look()

    with capture_logs() as lines, Client(served.target) as client:
        pages = client.read(parse_digest(snapshot, "snapshot"))
        first = next(pages)
        until(served.idle, step)
        until(lambda: _reasons(lines) == ["STALLED"])
        assert list(range(1, PAGES + 1)) == [entry.page_id for entry in (first, *pages)]


def test_a_client_that_reads_slowly_keeps_its_place(
    served: Served, snapshot: str, clock: Clock, watched: Watched
) -> None:
    """One message each 29 seconds is slow, and within the limit."""
    stream = served.read(snapshot)
    batches = [next(stream)]
    (patience,) = served.service.watchdog._calls
    ended = False
    while not ended:
        # No time passes while the server reads: what is slow here is the client.
        until(lambda: patience.since is not None or watched.closed.is_set())
        if watched.closed.is_set():
            break
        clock.pass_by(29)
        served.service.watchdog.look()
        # Read until the server has moved, or has sent everything.
        while not ended and patience.since not in {None, clock.now}:
            batches.append(next(stream))
            ended = batches[-1].HasField("end")
    batches += list(stream)
    assert batches[-1].end.complete
    assert PAGES == batches[-1].end.entries
    assert clock.now > 1_000 + 10 * 29


def test_the_watchdog_looks_by_itself(store: MemoryStore, snapshot: str, tmp_path: Path) -> None:
    """Without a test's help, on the real clock."""
    with serving(store, tmp_path, stall_seconds=0.2) as served:
        for chore in served.service.chores:
            chore.start()
        stream = served.read(snapshot)
        next(stream)
        until(served.idle)
        for chore in served.service.chores:
            chore.stop()
        assert errors.DeadlineError is type(refused(lambda: list(stream)))


@pytest.mark.parametrize("method", [_INFO, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_a_client_that_never_sends_its_request_loses_its_thread(
    served: Served, clock: Clock, method: str
) -> None:
    """Headers without a message take a thread of the pool, and give it back."""
    never = threading.Event()

    def silence() -> Iterator[bytes]:
        never.wait()
        yield from ()

    calls = [_raw(served, method, silence()) for _ in range(4)]
    until(lambda: len(served.service.watchdog._calls) == 4)
    request = catalog_pb.GetServerInfoRequest()
    with pytest.raises(grpc.RpcError) as caught:
        served.catalog.GetServerInfo(request, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    clock.pass_by(29)
    served.service.watchdog.look()
    assert all(call.is_active() for call in calls)
    clock.pass_by(2)
    served.service.watchdog.look()
    assert served.catalog.GetServerInfo(request, timeout=60).version
    assert {errors.DeadlineError} == {type(refused(partial(list, call))) for call in calls}
    never.set()


def test_watching_health_takes_no_thread(served: Served) -> None:
    """Each connection may watch, whatever the number of threads; a drain tells them and waits for none."""
    stub = health_pb2_grpc.HealthStub(served.channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(8)]
    assert {health_pb2.HealthCheckResponse.SERVING} == {next(watch).status for watch in watches}
    assert served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), timeout=60).version
    drain = threading.Thread(target=served.service.drain, args=(600,), daemon=True)
    drain.start()
    assert {health_pb2.HealthCheckResponse.NOT_SERVING} == {next(watch).status for watch in watches}
    drain.join(60)
    assert not drain.is_alive()


class _Pusher:
    """An Append stream whose batches a test sends one by one."""

    def __init__(self, served: Served) -> None:
        self._batches: SimpleQueue[ingest_pb.AppendRequest | None] = SimpleQueue()
        self.answers = served.ingest.Append(iter(self._batches.get, None))

    def send(self) -> Any:
        self._batches.put(ingest_pb.AppendRequest(project="demo"))
        return next(self.answers)

    def end(self) -> None:
        self._batches.put(None)


def test_a_silent_append_gives_the_writer_back(served: Served, clock: Clock, store: MemoryStore) -> None:
    """It is ended with a reason and how to go on; the next one may write."""
    silent = _Pusher(served)
    assert silent.send().position
    with pytest.raises(errors.WriterBusyError), store.exclusive_writer():
        pass
    until(served.idle, lambda: clock.pass_by(61))
    error = refused(lambda: next(silent.answers))
    assert errors.DeadlineError is type(error)
    assert "60 s" in error.message
    assert "new stream" in error.hint
    with store.exclusive_writer():
        pass
    after = _Pusher(served)
    assert after.send().position
    after.end()
    assert [] == list(after.answers)
    silent.end()


def test_an_append_may_take_its_time(served: Served, clock: Clock) -> None:
    """A batch each 59 seconds is within the limit, and a reader's patience is not asked of a writer."""
    slow = _Pusher(served)
    assert slow.send().position
    (patience,) = served.service.watchdog._calls
    for _ in range(5):
        until(lambda: patience.since is None)
        clock.pass_by(59)
        served.service.watchdog.look()
        assert slow.send().position
    slow.end()
    assert [] == list(slow.answers)


def test_a_draining_server_wakes_silent_streams(served: Served) -> None:
    """Append and reflection wait for their client no longer than it takes to say so."""
    silent = _Pusher(served)
    silent.send()
    never: SimpleQueue[bytes | None] = SimpleQueue()
    reflection = _raw(served, _REFLECTION, iter(never.get, None))
    served.service.drain(60)
    assert errors.DrainingError is type(refused(lambda: next(silent.answers)))
    assert errors.DrainingError is type(refused(lambda: next(reflection)))
    silent.end()
    never.put(None)


def test_a_draining_server_says_so_as_long_as_a_stream_runs(
    served: Served, snapshot: str, watched: Watched
) -> None:
    """The stream ends with its cursor; who comes meanwhile, on a new connection too, is told by name."""
    watched.go.clear()
    stream = served.read(snapshot)
    until(lambda: watched.taken)
    drain = threading.Thread(target=served.service.drain, args=(600,), daemon=True)
    drain.start()
    until(lambda: served.service.gate.draining)
    with grpc.insecure_channel(served.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = snapshot_pb.ReadSnapshotRequest(snapshot=snapshot)
        for stub in (served.snapshot, SnapshotServiceStub(channel)):
            answers = stub.ReadSnapshot(request)
            assert errors.DrainingError is type(refused(partial(list, answers)))
        assert CatalogServiceStub(channel).GetServerInfo(catalog_pb.GetServerInfoRequest()).version
    watched.go.set()
    *_, last = stream
    assert not last.end.complete
    assert last.end.cursor
    drain.join(60)
    assert not drain.is_alive()


@pytest.mark.parametrize("leaves", ["deadline", "cancel"])
def test_a_client_that_leaves_frees_its_place(
    served: Served, snapshot: str, watched: Watched, leaves: str
) -> None:
    """A deadline or a cancel ends the work too: the iterator is closed before its end."""
    stream = served.read(snapshot, timeout=3 if leaves == "deadline" else None)
    until(lambda: watched.taken)
    if leaves == "cancel":
        next(stream)
        assert not served.idle()
        stream.cancel()
    assert watched.closed.wait(60)
    until(served.idle)
    assert watched.taken < PAGES
    assert stream.code().name == ("CANCELLED" if leaves == "cancel" else "DEADLINE_EXCEEDED")


def test_work_for_a_client_that_left_stops_at_the_next_batch(
    served: Served, snapshot: str, watched: Watched
) -> None:
    """What was being computed when it left is not sent, and nothing more is computed."""
    watched.go.clear()
    stream = served.read(snapshot)
    until(lambda: watched.taken)
    stream.cancel()
    (call,) = served.service.watchdog._calls
    until(lambda: call not in served.service.watchdog._calls)
    watched.go.set()
    assert watched.closed.wait(60)
    until(served.idle)
    assert watched.taken < 5


def test_health_answers_while_everything_is_busy(
    served: Served, snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All places and all threads taken: the listener of its own still says SERVING."""
    go = threading.Event()
    busy: list[int] = []

    def projects(_: object) -> list[Any]:
        busy.append(1)
        assert go.wait(60)
        return []

    monkeypatch.setattr(Archive, "projects", projects)
    streams = [served.read(snapshot) for _ in range(2)]
    for stream in streams:
        next(stream)
    calls = [served.catalog.ListProjects.future(catalog_pb.ListProjectsRequest()) for _ in range(2)]
    until(lambda: len(busy) == 2)
    with pytest.raises(grpc.RpcError) as caught:
        served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with grpc.insecure_channel(served.health) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert health_pb2.HealthCheckResponse.SERVING == stub.Check(health_pb2.HealthCheckRequest()).status
    go.set()
    for call in calls:
        call.result()
    for stream in streams:
        assert list(stream)[-1].end.complete


def _batch_of(size: int) -> ingest_pb.AppendRequest:
    batch = ingest_pb.AppendRequest(project="demo")
    batch.events.add().edit.comment = "x" * size
    return batch


def test_too_large_a_message_is_refused_by_name(served: Served) -> None:
    """A little above the limit the server says what to do; far above, gRPC's own words are translated."""
    for size in (4 * 1024 * 1024, 6 * 1024 * 1024):
        answers = served.ingest.Append(iter([_batch_of(size)]))
        error = refused(partial(list, answers))
        assert errors.InvalidArgumentError is type(error)
        assert "4 MiB" in error.hint
    call = _raw(served, _INFO, iter([b"x" * 6 * 1024 * 1024]))
    error = refused(lambda: list(call))
    assert errors.InvalidArgumentError is type(error)
    until(lambda: not served.service.watchdog._calls)


def test_a_bomb_is_not_unpacked(served: Served) -> None:
    """Compressed, it is small; it is refused by its size."""
    bomb = iter([bytes(64 * 1024 * 1024)])
    call = _raw(served, "/recension.v1.IngestService/Append", bomb, compression=grpc.Compression.Gzip)
    assert errors.InvalidArgumentError is type(refused(lambda: list(call)))


def test_metadata_is_refused_by_size_alone(served: Served) -> None:
    """Between a soft and a hard limit gRPC would decide by chance."""
    request = catalog_pb.GetServerInfoRequest()
    for _ in range(20):
        served.catalog.GetServerInfo(request, metadata=(("x-key", "x" * 7_000),))
        with pytest.raises(grpc.RpcError):
            served.catalog.GetServerInfo(request, metadata=(("x-key", "x" * 9_000),))


@pytest.mark.parametrize(
    "method", [_INFO, "/recension.v1.IngestService/Append", "/recension.v1.SnapshotService/ReadSnapshot"]
)
@pytest.mark.parametrize("sent", [[b"\xff\xff\xff"], []], ids=["nonsense", "nothing"])
def test_a_malformed_request_is_refused_by_name(served: Served, method: str, sent: list[bytes]) -> None:
    """Bytes that are no message, or none at all, get a reason; only Append may be empty."""
    call = _raw(served, method, iter(sent))
    if not sent and "Append" in method:
        assert [] == list(call)
    else:
        assert errors.InvalidArgumentError is type(refused(lambda: list(call)))


def test_a_snapshot_that_nobody_waits_for_is_given_up(
    store: MemoryStore, snapshot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work ends soon after its client has left; until then, others find a thread, and a name."""
    over, real = threading.Event(), Keeper._part

    def endless(keeper: Keeper, *args: Any) -> Any:
        while not over.wait(0.01):
            real(keeper, *args)
        raise AssertionError

    monkeypatch.setattr(Keeper, "_part", endless)
    kept = len(list(Archive(store).snapshots()))
    wish = Selector.of(["demo"], [0])
    request = snapshot_pb.CreateSnapshotRequest(selector=convert.selector_to_proto(wish))
    with serving(store, tmp_path, threads=4) as served:
        makers = served.service.makers
        try:
            leaving = served.snapshot.CreateSnapshot.future(request)
            until(lambda: makers.running == 1)
            another = partial(served.snapshot.CreateSnapshot, request, timeout=60)
            assert errors.OverloadedError is type(refused(another))
            assert served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), timeout=60).version
            leaving.cancel()
            until(lambda: makers.running == 0)
            with Client(served.target, timeout_seconds=1) as client, pytest.raises(errors.DeadlineError):
                client.create_snapshot(wish)
            until(lambda: makers.running == 0)
        finally:
            over.set()
    assert kept == len(list(Archive(store).snapshots()))
