"""A connection serves any number of calls: gRPC refuses new ones while old ones are still held in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.errors import PageNotFoundError, SnapshotNotFoundError
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.server.build import make_service
from recension.server.config import ServeConfig
from recension.store.memory import MemoryStore
from recension_client.client import Client
from tests.server.conftest import edit

CALLS = 150
"""More than the streams that a connection may have at once."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a server of one page."""
    store = MemoryStore()
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo("demo", "https://w.example", "en", "CC0-1.0"))
    ingestor.append("demo", [edit(1, 1, "text")])
    service = make_service(Archive(store), ingestor, store, ServeConfig(data=tmp_path, listen="127.0.0.1:0"))
    port = service.server.add_insecure_port("127.0.0.1:0")
    service.start()
    with Client(f"127.0.0.1:{port}", timeout_seconds=10) as client:
        yield client
    service.drain(0)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing but reference counts frees memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", ["answered", "refused", "streamed", "refused stream", "left stream"])
def test_calls_that_are_over_are_let_go(client: Client, kind: str) -> None:
    """After many calls of each kind the next is answered, though no garbage was collected."""
    snapshot_id = client.create_snapshot(Selector.of(["demo"])).snapshot_id

    def refused() -> None:
        with suppress(PageNotFoundError):
            client.article("demo", 10**9)

    def refused_stream() -> None:
        with suppress(SnapshotNotFoundError):
            list(client.read(b"x" * 32))

    ask: Callable[[], object] = {
        "answered": lambda: client.article("demo", 1),
        "refused": refused,
        "streamed": lambda: list(client.read(snapshot_id)),
        "refused stream": refused_stream,
        "left stream": lambda: next(client.read(snapshot_id)),
    }[kind]
    for _ in range(CALLS):
        ask()
    assert client.article("demo", 1).revision.page_id == 1
