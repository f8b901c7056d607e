"""AdminService: licensees and their agreements."""

from __future__ import annotations

import grpc

from recension.archive.agreements import Agreements
from recension.model.agreement import Version
from recension.model.cursor import open_place, seal_place
from recension.server.documents import read_json
from recension.server.paging import page_size_of, take_page
from recension.server.rpc.revision import DEFAULT_PAGE
from recension.v1 import admin_service_pb2 as pb
from recension.v1 import agreement_service_pb2 as agreement_pb
from recension.v1.admin_service_pb2_grpc import AdminServiceServicer
from recension.wire import convert
from recension.wire.agreements import agreement_to_proto, licensee_from_proto, licensee_to_proto


class AdminRpc(AdminServiceServicer):
    """Who is served what."""

    def __init__(self, agreements: Agreements) -> None:
        self._agreements = agreements

    # --- licensees ---

    def AddLicensee(
        self, request: pb.AddLicenseeRequest, context: grpc.ServicerContext
    ) -> pb.AddLicenseeResponse:
        new = licensee_from_proto(request.licensee)
        licensee, added = self._agreements.add_licensee(new, replace=request.replace)
        return pb.AddLicenseeResponse(licensee=licensee_to_proto(licensee), added=added)

    def GetLicensee(
        self, request: pb.GetLicenseeRequest, context: grpc.ServicerContext
    ) -> pb.GetLicenseeResponse:
        return pb.GetLicenseeResponse(licensee=licensee_to_proto(self._agreements.licensee(request.name)))

    def ListLicensees(
        self, request: pb.ListLicenseesRequest, context: grpc.ServicerContext
    ) -> pb.ListLicenseesResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        bound = ("ListLicensees",)
        after, _ = open_place(request.page_token, bound, "page_token")
        rest = (one for one in self._agreements.licensees() if one.name > after)
        licensees, more = take_page(rest, size, licensee_to_proto)
        token = seal_place(bound, (licensees[-1].name, 0)) if more else ""
        return pb.ListLicenseesResponse(licensees=licensees, next_page_token=token)

    def EndLicensee(
        self, request: pb.EndLicenseeRequest, context: grpc.ServicerContext
    ) -> pb.EndLicenseeResponse:
        ended = self._agreements.end_licensee(request.name)
        return pb.EndLicenseeResponse(licensee=licensee_to_proto(ended))

    # --- agreements ---

    def AddAgreement(
        self, request: pb.AddAgreementRequest, context: grpc.ServicerContext
    ) -> pb.AddAgreementResponse:
        agreement = read_json(request.document, request.licensee)
        version, added = self._agreements.add(agreement)
        return pb.AddAgreementResponse(agreement=self._told(version), added=added)

    def GetAgreement(
        self, request: pb.GetAgreementRequest, context: grpc.ServicerContext
    ) -> pb.GetAgreementResponse:
        version = self._agreements.version(request.licensee, request.version)
        return pb.GetAgreementResponse(agreement=self._told(version))

    def ListAgreements(
        self, request: pb.ListAgreementsRequest, context: grpc.ServicerContext
    ) -> pb.ListAgreementsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        bound = ("ListAgreements", request.licensee)
        _, after = open_place(request.page_token, bound, "page_token")
        rest = (one for one in self._agreements.told(request.licensee) if one.version.ordinal > after)
        agreements, more = take_page(rest, size, agreement_to_proto)
        token = seal_place(bound, ("", agreements[-1].ordinal)) if more else ""
        return pb.ListAgreementsResponse(agreements=agreements, next_page_token=token)

    def EndAgreement(
        self, request: pb.EndAgreementRequest, context: grpc.ServicerContext
    ) -> pb.EndAgreementResponse:
        at = convert.timestamp_from_proto(request.ends_at, "ends_at") if request.HasField("ends_at") else None
        return pb.EndAgreementResponse(agreement=self._told(self._agreements.end(request.licensee, at)[-1]))

    def _told(self, version: Version) -> agreement_pb.Agreement:
        told = self._agreements.told(version.agreement.licensee)
        return agreement_to_proto(next(one for one in told if one.version.ordinal == version.ordinal))
