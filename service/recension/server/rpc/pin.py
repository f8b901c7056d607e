"""PinService over the pins of one licensee."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from recension.archive.duties import LicenseeDuties
from recension.model.digest import parse_digest
from recension.model.pin import Pins
from recension.model.reading import Reader
from recension.server.cursors import Cursors
from recension.server.paging import page_size_of, take_page
from recension.server.rpc.revision import DEFAULT_PAGE
from recension.v1 import pin_service_pb2 as pb
from recension.v1.pin_service_pb2_grpc import PinServiceServicer
from recension.wire import convert
from recension.wire.pins import pin_to_proto, withdrawn_to_proto


class PinRpc(PinServiceServicer):
    """Holds on exact corpora."""

    def __init__(
        self, pins: Callable[[], Pins], duties: Callable[[], LicenseeDuties], reader: Reader, cursors: Cursors
    ) -> None:
        """``pins``, ``duties``: those of whoever makes the call, the only ones; ``reader``: what to pin."""
        self._pins = pins
        self._duties = duties
        self._reader = reader
        self._cursors = cursors

    def CreatePin(self, request: pb.CreatePinRequest, context: grpc.ServicerContext) -> pb.CreatePinResponse:
        snapshot_id = parse_digest(request.snapshot, "snapshot")
        until = convert.timestamp_from_proto(request.readable_until, "readable_until")
        self._reader.snapshot(snapshot_id)  # one that the caller may not read does not exist
        pin, created = self._pins().create(request.name, snapshot_id, until, dict(request.labels))
        return pb.CreatePinResponse(pin=pin_to_proto(pin), created=created)

    def GetPin(self, request: pb.GetPinRequest, context: grpc.ServicerContext) -> pb.GetPinResponse:
        return pb.GetPinResponse(pin=pin_to_proto(self._pins().get(request.name)))

    def ListPins(self, request: pb.ListPinsRequest, context: grpc.ServicerContext) -> pb.ListPinsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        snapshot_id = parse_digest(request.snapshot, "snapshot") if request.snapshot else b""
        bound = ("ListPins", request.snapshot)
        # The place is the position of the pin that was sent last: others are only ever added behind it.
        _, after = self._cursors.open_place(request.page_token, bound, "page_token")
        rest = self._pins().all(snapshot_id=snapshot_id, after=after)
        pins, more = take_page(rest, size, pin_to_proto)
        token = self._cursors.seal_place(bound, ("", pins[-1].created_position)) if more else ""
        return pb.ListPinsResponse(pins=pins, next_page_token=token)

    def ExtendPin(self, request: pb.ExtendPinRequest, context: grpc.ServicerContext) -> pb.ExtendPinResponse:
        until = convert.timestamp_from_proto(request.readable_until, "readable_until")
        pins = self._pins()
        self._reader.snapshot(pins.get(request.name).snapshot_id)  # by what was agreed since it was pinned
        return pb.ExtendPinResponse(pin=pin_to_proto(pins.extend(request.name, until)))

    def DeletePin(self, request: pb.DeletePinRequest, context: grpc.ServicerContext) -> pb.DeletePinResponse:
        self._pins().delete(request.name, allow_missing=request.allow_missing)
        return pb.DeletePinResponse()

    def ListRetractions(
        self, request: pb.ListRetractionsRequest, context: grpc.ServicerContext
    ) -> pb.ListRetractionsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        duties = self._duties()
        # Another pin may have the name by the time that the token comes back.
        bound = ("ListRetractions", duties.pin_id(request.pin).hex())
        after = self._cursors.open_place(request.page_token, bound, "page_token")
        entries, more = take_page(duties.retractions(request.pin, after=after), size, withdrawn_to_proto)
        token = self._cursors.seal_place(bound, (entries[-1].project, entries[-1].rev_id)) if more else ""
        return pb.ListRetractionsResponse(entries=entries, next_page_token=token)

    def AcknowledgeRetraction(
        self, request: pb.AcknowledgeRetractionRequest, context: grpc.ServicerContext
    ) -> pb.AcknowledgeRetractionResponse:
        said = self._duties().acknowledge(request.pin, request.through)
        return pb.AcknowledgeRetractionResponse(statement=said.encoded.decode())
