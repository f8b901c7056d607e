"""AgreementService: the caller's own agreements."""

from __future__ import annotations

import grpc

from recension.archive.agreements import Agreements
from recension.model.access import Role
from recension.model.agreement import Standing, VersionInfo
from recension.model.errors import AgreementNotFoundError, LicenseeNotFoundError
from recension.server.cursors import Cursors
from recension.server.door import caller
from recension.server.metering import meter
from recension.server.paging import page_size_of, take_page
from recension.server.rpc.revision import DEFAULT_PAGE
from recension.v1 import agreement_service_pb2 as pb
from recension.v1.agreement_service_pb2_grpc import AgreementServiceServicer
from recension.wire.agreements import agreement_to_proto


class AgreementRpc(AgreementServiceServicer):
    """What the caller agreed with the operator."""

    def __init__(self, agreements: Agreements, cursors: Cursors) -> None:
        self._agreements = agreements
        self._cursors = cursors

    def GetOwnAgreement(
        self, request: pb.GetOwnAgreementRequest, context: grpc.ServicerContext
    ) -> pb.GetOwnAgreementResponse:
        if caller().role is not Role.LICENSEE:
            return pb.GetOwnAgreementResponse(unrestricted=True)
        wanted, own = request.version, self._own()
        for info in own:
            if info.standing is Standing.IN_FORCE:
                meter().note(agreement=info.version.name)
        for info in reversed(own):
            named = wanted in {info.version.name, str(info.version.ordinal)}
            if named or (not wanted and info.standing is Standing.IN_FORCE):
                return pb.GetOwnAgreementResponse(agreement=agreement_to_proto(info))
        raise AgreementNotFoundError(
            f"you have no agreement {wanted[:80]}" if wanted else "no agreement of yours is in force",
            hint="see recension agreement --all, and ask the operator of the server",
        )

    def ListOwnAgreements(
        self, request: pb.ListOwnAgreementsRequest, context: grpc.ServicerContext
    ) -> pb.ListOwnAgreementsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        bound = ("ListOwnAgreements",)
        _, after = self._cursors.open_place(request.page_token, bound, "page_token")
        rest = (info for info in self._own() if info.version.ordinal > after)
        agreements, more = take_page(rest, size, agreement_to_proto)
        token = self._cursors.seal_place(bound, ("", agreements[-1].ordinal)) if more else ""
        return pb.ListOwnAgreementsResponse(agreements=agreements, next_page_token=token)

    def _own(self) -> tuple[VersionInfo, ...]:
        try:
            return self._agreements.told(caller().owner) if caller().owner else ()
        except LicenseeNotFoundError:  # it has a key, and no more was said of it yet
            return ()
