"""CatalogService over the read protocol."""

from __future__ import annotations

import grpc

from recension.model.reading import MAX_BATCH, MAX_PAGE, Reader
from recension.server.cursors import Cursors
from recension.server.paging import page_size_of, take_page
from recension.server.scope import assured
from recension.v1 import catalog_service_pb2 as pb
from recension.v1.catalog_service_pb2_grpc import CatalogServiceServicer
from recension.wire import convert

_PROJECTS = ("ListProjects",)


class CatalogRpc(CatalogServiceServicer):
    """What a server holds and is."""

    def __init__(self, reader: Reader, cursors: Cursors) -> None:
        """``reader``: where the answers come from; ``cursors``: what goes on from one page to the next."""
        self._reader = reader
        self._cursors = cursors

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        info = self._reader.server_info()
        return pb.GetServerInfoResponse(
            version=info.version,
            formats=info.formats,
            position=info.position,
            recorded_at=convert.timestamp_to_proto(info.recorded_at),
            max_batch_size=MAX_BATCH,
            max_page_size=MAX_PAGE,
            max_unary_text_bytes=convert.MAX_UNARY_TEXT,
            signing_keys=map(convert.signing_key_to_proto, info.signing_keys),
        )

    def ListProjects(
        self, request: pb.ListProjectsRequest, context: grpc.ServicerContext
    ) -> pb.ListProjectsResponse:
        size = page_size_of(request.page_size)
        after, _ = self._cursors.open_place(request.page_token, _PROJECTS, "page_token")
        rest = (assured(info) for info in self._reader.projects() if info.name > after)
        projects, more = take_page(rest, size, convert.project_to_proto)
        token = self._cursors.seal_place(_PROJECTS, (projects[-1].name, 0)) if more else ""
        return pb.ListProjectsResponse(projects=projects, next_page_token=token)

    def GetProject(
        self, request: pb.GetProjectRequest, context: grpc.ServicerContext
    ) -> pb.GetProjectResponse:
        info = assured(self._reader.project(request.project))
        return pb.GetProjectResponse(project=convert.project_to_proto(info))
