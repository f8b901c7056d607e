"""A server that passes on what a real one says, and lies in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import snapshot_service_pb2 as pb
from recension.v1.catalog_service_pb2_grpc import (
    CatalogServiceServicer,
    CatalogServiceStub,
    add_CatalogServiceServicer_to_server,
)
from recension.v1.revision_service_pb2_grpc import (
    RevisionServiceServicer,
    RevisionServiceStub,
    add_RevisionServiceServicer_to_server,
)
from recension.v1.snapshot_service_pb2_grpc import (
    SnapshotServiceServicer,
    SnapshotServiceStub,
    add_SnapshotServiceServicer_to_server,
)

Messages = Iterator[pb.ReadSnapshotResponse]
Lie = Callable[[Messages], Messages]


def honest(messages: Messages) -> Messages:
    """Tell the truth."""
    yield from messages


class _Liar(SnapshotServiceServicer, RevisionServiceServicer, CatalogServiceServicer):
    def __init__(self, truth: grpc.Channel, lie: Lie, terms: dict[str, str], other: str) -> None:
        self._snapshots = SnapshotServiceStub(truth)
        self._revisions = RevisionServiceStub(truth)
        self._catalog = CatalogServiceStub(truth)
        self._lie = lie
        self._terms = terms
        self._other = other

    def ReadSnapshot(self, request: pb.ReadSnapshotRequest, context: Any) -> Messages:  # noqa: N802
        return self._lie(self._snapshots.ReadSnapshot(request))

    def ReadEntries(self, request: pb.ReadEntriesRequest, context: Any) -> Any:  # noqa: N802
        # Of both streams a lie looks at batches alone.
        return self._lie(self._snapshots.ReadEntries(request))  # type: ignore[arg-type]

    def DiffSnapshots(self, request: pb.DiffSnapshotsRequest, context: Any) -> Any:  # noqa: N802
        return self._snapshots.DiffSnapshots(request)

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Any) -> pb.GetSnapshotResponse:  # noqa: N802
        if self._other:
            request.id = self._other
        return self._snapshots.GetSnapshot(request)

    def BatchGetRevisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._revisions.BatchGetRevisions(request)

    def ReadText(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._revisions.ReadText(request)

    def GetProject(self, request: Any, context: Any) -> catalog_pb.GetProjectResponse:  # noqa: N802
        answer = self._catalog.GetProject(request)
        for name, value in self._terms.items():
            setattr(answer.project, name, value)
        return answer


@contextmanager
def lying(
    address: str, lie: Lie = honest, *, terms: dict[str, str] | None = None, other: str = ""
) -> Iterator[str]:
    """Serve the truth of ``address`` but for one lie; yields where."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as truth:
        liar = _Liar(truth, lie, terms or {}, other)  # type: ignore[abstract] # a fetch asks for no other
        add_SnapshotServiceServicer_to_server(liar, server)
        add_RevisionServiceServicer_to_server(liar, server)
        add_CatalogServiceServicer_to_server(liar, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()
