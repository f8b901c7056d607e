"""UsageService: what licensees have used."""

from __future__ import annotations

import grpc

from recension.archive.agreements import Agreements
from recension.model.access import Role, check_owner
from recension.model.errors import LicenseeNotFoundError
from recension.server.door import caller
from recension.server.limits.desk import Limits
from recension.v1 import usage_service_pb2 as pb
from recension.v1.usage_service_pb2_grpc import UsageServiceServicer
from recension.wire.usage import usage_to_proto


class UsageRpc(UsageServiceServicer):
    """A licensee's own usage; anybody's for operators and auditors."""

    def __init__(self, limits: Limits, agreements: Agreements) -> None:
        """``limits``: what counts; ``agreements``: who is a licensee."""
        self._limits = limits
        self._agreements = agreements

    def GetUsage(self, request: pb.GetUsageRequest, context: grpc.ServicerContext) -> pb.GetUsageResponse:
        who = caller()
        wanted = request.licensee or who.owner
        check_owner(wanted)
        if who.role is Role.LICENSEE and wanted != who.owner:
            raise LicenseeNotFoundError(
                f"no licensee {wanted}", hint="leave the name out for your own usage", licensee=wanted
            )
        if who.role is not Role.LICENSEE:
            self._agreements.licensee(wanted)
        return pb.GetUsageResponse(usage=usage_to_proto(self._limits.usage(wanted)))
