"""CheckpointService over the checkpoint log of a store."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from recension.archive.ledger import Ledger
from recension.archive.pins import LicenseePins
from recension.model.digest import parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.reading import Reader
from recension.server.scope import assured
from recension.server.signing import Signer
from recension.v1 import checkpoint_service_pb2 as pb
from recension.v1.checkpoint_service_pb2_grpc import CheckpointServiceServicer


class CheckpointRpc(CheckpointServiceServicer):
    """What the server has signed."""

    def __init__(
        self, reader: Reader, pins: Callable[[], LicenseePins], ledger: Ledger, signer: Signer
    ) -> None:
        """``pins``: those of whoever makes the call; others do not exist for them."""
        self._reader = reader
        self._pins = pins
        self._ledger = ledger
        self._signer = signer

    def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.GetCheckpointResponse:
        return pb.GetCheckpointResponse(checkpoint=self._signer.checkpoint())

    def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: grpc.ServicerContext
    ) -> pb.GetInclusionProofResponse:
        match request.WhichOneof("leaf"):
            case "snapshot":
                manifest = assured(self._reader.snapshot(parse_digest(request.snapshot, "snapshot")))
                leaf, position = manifest.encoded, self._ledger.position_of(manifest.snapshot_id)
            case "pin":
                statement, position = self._pins().newest(request.pin)
                leaf = statement.encoded
            case _:
                raise InvalidArgumentError("leaf: neither a snapshot nor a pin", field="leaf")
        proof = self._ledger.inclusion(position, _size(request.size, "size"))
        return pb.GetInclusionProofResponse(
            leaf=leaf.decode(), leaf_index=proof.index, size=proof.size, path=proof.path
        )

    def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: grpc.ServicerContext
    ) -> pb.GetConsistencyProofResponse:
        first, asked = _size(request.first_size, "first_size"), _size(request.second_size, "second_size")
        second, path = self._ledger.consistency(first, asked)
        return pb.GetConsistencyProofResponse(first_size=first, second_size=second, path=path)


def _size(size: int, field: str) -> int:
    if size < 0:
        raise InvalidArgumentError(f"{field}: {size} is no size", field=field)
    return size
