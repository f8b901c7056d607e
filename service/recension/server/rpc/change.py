"""ChangeService: who follows what from where is decided here; ``fanout`` does the rest."""

from __future__ import annotations

from typing import Any

import grpc

from recension.model.digest import parse_digest
from recension.server.fanout import Fanout, Outlet, Start
from recension.server.licensed import Licensed
from recension.server.rpc.revision import wants_text
from recension.server.scope import assured
from recension.v1 import change_service_pb2 as pb
from recension.v1.change_service_pb2_grpc import ChangeServiceServicer
from recension.v1.revision_service_pb2 import REVISION_VIEW_UNSPECIFIED
from recension.wire import convert


class ChangeRpc(ChangeServiceServicer):
    """Every change of a followed scope."""

    def __init__(self, licensed: Licensed, fanout: Fanout) -> None:
        self._licensed = licensed
        self._fanout = fanout

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext, outlet: Outlet) -> Any:  # type: ignore[override]
        following = self._licensed.following(convert.selector_from_proto(request.selector))
        root = parse_digest(request.root, "root") if request.root else b""
        text = request.view != REVISION_VIEW_UNSPECIFIED and wants_text(request.view)
        snapshot = parse_digest(request.snapshot, "snapshot") if request.snapshot else b""
        if snapshot:
            assured(self._licensed.snapshot(snapshot))
        position = 0 if snapshot else convert.known_at_from_proto(request.position, "position")
        self._fanout.follow(following, Start(position, root, snapshot), outlet, text=text)

    # It is told where to send, and holds no thread meanwhile (``interceptors``).
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]
