"""Reads that survive a server process that is killed or stopped in their middle, and started again."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import IO

import grpc
import pytest

from recension.model.errors import RecensionError
from recension.model.manifest import Selector
from recension.store.lmdb import LmdbStore
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension_client import AsyncClient, Client, PageBatch, Retry, Snapshot
from recension_client.retrying import Attempts
from tests.archive.helpers import World, edit
from tests.client.processes import BIN, free_port

PAGES = 1_000
PATIENT = Retry(patience_seconds=600, first_tries=10_000, longest_pause_seconds=0.25)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with more text than lies between a server and a client that does not read."""
    path = tmp_path_factory.mktemp("restarts") / "data"
    words = Random(1)
    with closing(LmdbStore.open(path, create=True, force_mount=True)) as store:
        world = World(store)
        for start in range(1, PAGES, 50):
            texts = {page: words.randbytes(20_000).hex() for page in range(start, start + 50)}
            world.add(*(world.event(page, 1, edit(page, text, f"P{page}")) for page, text in texts.items()))
    return path


class Server:
    """A server process at one address, whatever becomes of it."""

    def __init__(self, data: Path, log: IO[bytes]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._data = data
        self._log = log

    def start(self) -> None:
        command = (BIN / "recension-server", "serve", "--data", self._data, "--listen", self.address)
        # Streams that nobody reads would be waited for.
        options = ("--health-listen", f"127.0.0.1:{free_port()}", "--drain-seconds", "0.5")
        self._process = subprocess.Popen([*command, *options], stderr=self._log)

    def wait_for(self) -> None:
        """Return when it can be reached."""
        host, _, port = self.address.rpartition(":")
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                return
            time.sleep(0.02)

    def restart(self, how: signal.Signals) -> None:
        """Kill the process, or have it drain; the next one starts while its clients try."""
        assert self.stop(how) == (0 if how is signal.SIGTERM else -how)
        self.start()

    def stop(self, how: signal.Signals) -> int:
        self._process.send_signal(how)
        return self._process.wait(120)

    def end(self) -> None:
        assert 0 == self.stop(signal.SIGTERM)
        self._log.seek(0)
        assert b"Traceback" not in self._log.read()


@contextmanager
def restartable(data: Path) -> Iterator[Server]:
    with tempfile.TemporaryFile() as log:
        server = Server(data, log)
        server.start()
        try:
            yield server
        finally:
            server.end()


def ids_of(batches: list[PageBatch]) -> list[int]:
    return [page.page_id for batch in batches for page in batch]


def naive(address: str, snapshot_id: str) -> Generator[int, None, None]:
    """Read as one would without cursors: begin again when the stream is cut."""
    while True:
        try:
            with grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
                request = pb.ReadSnapshotRequest(snapshot=snapshot_id)
                for message in SnapshotServiceStub(channel).ReadSnapshot(request, wait_for_ready=True):
                    yield from (entry.page_id for entry in message.batch.entries)
                    if message.HasField("end") and message.end.complete:
                        return
        except grpc.RpcError:
            continue


def survive(data: Path, restarts: int) -> None:
    """Read with both clients, and restart their server in the middle again and again."""
    step = PAGES // (restarts + 1)
    ways = [signal.SIGKILL, signal.SIGTERM]
    with (
        restartable(data) as server,
        Client(server.address, retry=PATIENT, timeout_seconds=600) as client,
        asyncio.Runner() as runner,
        ExitStack() as begun,
    ):
        snapshot = client.corpus("w").as_of("2020-02-01")
        expected = list(range(1, PAGES + 1))
        assert len(expected) == snapshot.count
        awaited = AsyncClient(server.address, retry=PATIENT, timeout_seconds=600)
        pages = snapshot.pages(batch=step, prefetch=1)
        others = runner.run(_opened(awaited, snapshot, step))
        tokened = [next(snapshot.pages(batch=step, prefetch=0))]
        control = begun.enter_context(closing(naive(server.address, snapshot.id)))
        controlled: list[int] = []
        read: list[PageBatch] = []
        read_awaited: list[PageBatch] = []
        for number in range(restarts):
            read.append(next(pages))
            read_awaited.append(runner.run(_next(others)))
            controlled.extend(next(control) for _ in range(step))
            server.restart(ways[number % 2])
            with closing(snapshot.pages(batch=step, resume=tokened[-1].token)) as rest:
                tokened.append(next(rest))
        read.extend(pages)
        read_awaited.extend(runner.run(_rest(others)))
        controlled.extend(control)
        tokened.extend(snapshot.pages(batch=step, resume=tokened[-1].token))
        runner.run(awaited.close())
    assert expected == ids_of(read)
    assert expected == ids_of(read_awaited)
    assert expected == ids_of(tokened)
    assert len(controlled) > len(expected)
    assert set(expected) == set(controlled)


async def _opened(client: AsyncClient, snapshot: Snapshot, batch: int) -> AsyncIterator[PageBatch]:
    return (await client.open(snapshot.id)).pages(batch=batch, prefetch=1)


async def _next(batches: AsyncIterator[PageBatch]) -> PageBatch:
    return await anext(batches)


async def _rest(batches: AsyncIterator[PageBatch]) -> list[PageBatch]:
    return [batch async for batch in batches]


def test_who_waited_for_a_server_finds_it_at_the_next_try(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions and streams alike, however long nobody looked whether it is there again."""
    pauses: list[RecensionError] = []
    original = Attempts.pause
    with restartable(data) as server, Client(server.address, retry=PATIENT) as client:
        asked = (client.server_info, lambda: next(client.watch(Selector.of(["w"]))))
        client.server_info()

        def pause(attempts: Attempts, error: RecensionError, *, known: bool) -> float:
            pauses.append(error)
            if len(pauses) == 4:
                server.start()
                server.wait_for()
            return original(attempts, error, known=known)

        monkeypatch.setattr(Attempts, "pause", pause)
        for ask in asked:
            pauses.clear()
            server.stop(signal.SIGKILL)
            ask()
            assert 4 == len(pauses)


def test_reads_survive_restarts(data: Path) -> None:
    """No gap and no repeat, sync and async, within a stream and by token; a reader without them repeats."""
    survive(data, 3)


@pytest.mark.torture
def test_reads_survive_a_hundred_restarts(data: Path) -> None:
    """The same, many more times."""
    survive(data, 100)
