"""IngestService over the ingestor: one stream at a time, each batch durable before it is answered."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from recension.archive.ingest import Ingestor
from recension.model.errors import InvalidArgumentError, InvalidEventError, RecensionError, StoreError
from recension.model.event import Event
from recension.model.mark import Mark
from recension.server.door import caller
from recension.server.gate import Gate, Turn, draining
from recension.sources.items import BadRecordError, checked
from recension.sources.titles import fold_table, namespace_of
from recension.store.interface import Store
from recension.v1 import ingest_service_pb2 as pb
from recension.v1.ingest_service_pb2_grpc import IngestServiceServicer
from recension.wire import convert

FORM = "append"
"""Of the marks of what is appended; their source is the owner of the key that was shown."""
MAX_BATCH_EVENTS = 1_000
MAX_BATCH_BYTES = 4 * 1024 * 1024


class IngestRpc(IngestServiceServicer):
    """Events in."""

    def __init__(self, ingestor: Ingestor, store: Store, gate: Gate) -> None:
        """``ingestor``: where events go; ``store``: whose writer is held; ``gate``: who may stream."""
        self._ingestor = ingestor
        self._store = store
        self._gate = gate

    def Append(
        self, request_iterator: Iterator[pb.AppendRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.AppendResponse]:
        with self._gate.admit() as turn, self._store.exclusive_writer():
            self._ingestor.forget_texts()
            try:
                for request in request_iterator:
                    yield self._append(request, turn)
            except StoreError:
                raise  # a store that failed is not written to once more
            except BaseException:
                # Of a stream that broke off too: nobody else comes back to its pages before the next ingest.
                if not turn.over:
                    self._ingestor.settle(everything=False)
                raise
            self._ingestor.settle(everything=False)

    def _append(self, request: pb.AppendRequest, turn: Turn) -> pb.AppendResponse:
        if turn.over:  # not yet stored, so the client can send the batch again elsewhere
            raise draining()
        _check_size(request)
        table = fold_table(self._ingestor.namespaces(request.project))
        events: list[Event] = []
        indices: list[int] = []
        refused: list[tuple[int, RecensionError]] = []
        for index, message in enumerate(request.events):
            try:
                if message.project != request.project:
                    raise InvalidEventError(
                        f"project: {message.project!r} is not the batch's {request.project!r}",
                        field="project",
                    )
                event = convert.event_from_proto(message, lambda title: namespace_of(title, table))
                checked(event)
            except BadRecordError as fault:
                refused.append((index, InvalidEventError(fault.message)))
            except InvalidArgumentError as error:
                refused.append((index, error))
            else:
                events.append(event)
                indices.append(index)
        result = self._ingestor.append(request.project, events, Mark(FORM, caller().owner))
        refused += [(indices[index], error) for index, error in result.rejected]
        return pb.AppendResponse(
            position=result.position,
            recorded_at=convert.timestamp_to_proto(result.recorded_at),
            accepted=result.accepted,
            known=result.known,
            rejected=[
                pb.RejectedEvent(index=index, reason=error.reason, message=error.message)
                for index, error in sorted(refused, key=lambda item: item[0])
            ],
        )


def _check_size(request: pb.AppendRequest) -> None:
    count, size = len(request.events), request.ByteSize()
    if count > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES:
        raise InvalidArgumentError(
            f"events: a batch of {count} events and {size} bytes",
            hint=f"send at most {MAX_BATCH_EVENTS:,} events and 4 MiB at once",
            field="events",
            count=count,
            size=size,
        )
