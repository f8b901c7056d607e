"""A server of a test's own, and a clock that stands until the test moves it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.agreements import Agreements
from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model import errors
from recension.model.agreement import Version, parse_document
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Presence, SlotText
from recension.model.licensee import make_licensee
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo
from recension.server.build import Service, make_service
from recension.server.config import ServeConfig
from recension.store.interface import Store
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recension.v1.ingest_service_pb2_grpc import IngestServiceStub
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension.wire.status import error_of

PAGES = 60
PAGE_BYTES = 400_000
"""Together far more than gRPC buffers for a client that does not read."""
PATIENCE_SECONDS = 60
"""How long a test waits for what has to come."""


def fill(store: Store) -> str:
    """Fill a store with pages of large texts; the id of a snapshot of them."""
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo("demo", "https://demo.example", "en", "CC0-1.0"))
    for page in range(1, PAGES + 1):
        slot = SlotText(
            "main", "wikitext", "text/x-wiki", Presence.PRESENT, b"%d " % page + b"x" * PAGE_BYTES
        )
        edit = Edit(page, 0, f"Page {page}", 0, False, NOBODY, NO_COMMENT, False, (slot,))  # noqa: FBT003
        ingestor.append("demo", [Event("demo", page, 1_000_000, f"r{page}", edit)])
    manifest = Archive(store).create_snapshot(Selector.of(["demo"]), valid_at=2_000_000)
    return f"sha256:{manifest.snapshot_id.hex()}"


def until(condition: Callable[[], Any], step: Callable[[], object] = lambda: None) -> None:
    """Return once ``condition`` holds; ``step`` is done before each look."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        step()
        if condition():
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def agree(store: Store, licensee: str, *grants: dict[str, Any], **said: Any) -> Version:
    """Add a version of a licensee's agreement; without grants, of all there is, at once."""
    agreements = Agreements(store)
    agreements.add_licensee(make_licensee(licensee, 1))
    everything = {"projects": [info.name for info in Archive(store).projects()], "freshness": "realtime"}
    document = {"grants": list(grants) or [everything], "valid_from": "2020-01-01", **said}
    return agreements.add(parse_document(document, licensee))[0]


class Clock:
    """Stands still until it is moved; takes the place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Served:
    """A running server, whose watchdog looks when the test says so, and one client."""

    def __init__(self, service: Service, archive: Archive, target: str, health: str) -> None:
        self.service = service
        self.archive = archive
        self.target = target
        self.health = health
        self.channel = grpc.insecure_channel(target)
        self.catalog = CatalogServiceStub(self.channel)
        self.snapshot = SnapshotServiceStub(self.channel)
        self.ingest = IngestServiceStub(self.channel)

    def read(self, snapshot: str, **options: Any) -> Any:
        """Open the stream of a snapshot."""
        return self.snapshot.ReadSnapshot(snapshot_pb.ReadSnapshotRequest(snapshot=snapshot), **options)

    def idle(self) -> bool:
        """Whether no bulk stream runs."""
        return self.service.gate.running == 0


@contextmanager
def serving(store: Store, directory: Path, **options: Any) -> Iterator[Served]:
    """Serve a store on a socket of its own. It has to stop at once at the end."""
    archive = Archive(store)
    service = make_service(archive, Ingestor(store), store, ServeConfig(data=directory, **options))
    service.server.add_insecure_port(f"unix://{directory}/s")
    service.health_server.add_insecure_port(f"unix://{directory}/h")
    service.health_server.start()
    service.server.start()
    served = Served(service, archive, f"unix://{directory}/s", f"unix://{directory}/h")
    yield served
    served.channel.close()
    until(served.idle)
    assert service.server.stop(None).wait(PATIENCE_SECONDS)
    service.health_server.stop(None).wait()


def refused(call: Callable[[], Any]) -> errors.RecensionError:
    """Return the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_of(caught.value)


class Watched:
    """Counts what a server takes from one of its reader's iterators."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def of(self, items: Iterator[Any]) -> Iterator[Any]:
        try:
            for item in items:
                self.taken += 1
                yield item
                assert self.go.wait(PATIENCE_SECONDS)
        finally:
            self.closed.set()
