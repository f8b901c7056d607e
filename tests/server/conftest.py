"""The real server on a unix socket, over an archive in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Presence, SlotText
from recension.model.reading import ProjectInfo
from recension.server.build import Service, make_service
from recension.server.config import ServeConfig
from recension.store.memory import MemoryStore
from recension.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recension.v1.ingest_service_pb2_grpc import IngestServiceStub
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub

PAGES = 600
LARGE = "ß" * 1_500_000


def edit(page: int, rev: int, text: str, *, time: int = 1_000_000) -> Event:
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, text.encode())
    return Event(
        "demo",
        page,
        time,
        f"r{rev}",
        Edit(rev, 0, f"Page {page}", 0, False, NOBODY, NO_COMMENT, False, (slot,)),  # noqa: FBT003
    )


@dataclass
class World:
    """A running server and the stubs to ask it."""

    service: Service
    archive: Archive
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self.catalog = CatalogServiceStub(self.channel)
        self.revision = RevisionServiceStub(self.channel)
        self.snapshot = SnapshotServiceStub(self.channel)
        self.ingest = IngestServiceStub(self.channel)


@pytest.fixture(scope="module")
def grpc_addr(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"unix://{tmp_path_factory.mktemp('s')}/g.sock"


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def archive(store: MemoryStore) -> Archive:
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo("demo", "https://demo.example", "en", "CC0-1.0"))
    # What tests append goes into a project of its own: the others count the pages of "demo".
    ingestor.create_project(ProjectInfo("inbox", "https://demo.example", "en", "CC0-1.0"))
    events = [edit(page, page, f"text {page} " + "x" * 2_000) for page in range(1, PAGES + 1)]
    ingestor.append("demo", events)
    ingestor.append("demo", [edit(PAGES + 1, 9_001, LARGE), edit(1, 9_002, "newer", time=2_000_000)])
    return Archive(store)


@pytest.fixture(scope="module")
def service(archive: Archive, store: MemoryStore, grpc_addr: str) -> Service:
    config = ServeConfig(data=Path("unused"), threads=8, streams=2)
    return make_service(archive, Ingestor(store), store, config)


@pytest.fixture(scope="module")
def _grpc_server(service: Service, grpc_addr: str) -> Iterator[Any]:
    yield service.server
    service.server.stop(None).wait()


@pytest.fixture(scope="module")
def grpc_servicer() -> object:
    """Everything is registered by the server's own factory."""
    return object()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Any:
    return lambda servicer, server: None


@pytest.fixture(scope="module")
def world(grpc_channel: grpc.Channel, service: Service, archive: Archive) -> World:
    return World(service, archive, grpc_channel)
