"""AdminService: licensees, their agreements, the audit log, and what is withdrawn."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import TypeVar

import grpc

from recension.archive.affected import HeldPin, affected
from recension.archive.agreements import Agreements
from recension.archive.retracting import Wanted as Withdrawn
from recension.archive.retracting import places_of
from recension.model.agreement import Version
from recension.model.audit import Record
from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError
from recension.model.retraction import Part, Reason
from recension.server.audit.checkpoints import AuditCheckpoints
from recension.server.audit.log import AuditLog, Wanted
from recension.server.cursors import Cursors
from recension.server.documents import read_json
from recension.server.paging import page_size_of, take_page
from recension.server.rpc.revision import DEFAULT_PAGE
from recension.server.withdrawing import Order, withdraw
from recension.store.interface import Store
from recension.v1 import admin_service_pb2 as pb
from recension.v1 import agreement_service_pb2 as agreement_pb
from recension.v1.admin_service_pb2_grpc import AdminServiceServicer
from recension.wire import convert
from recension.wire.agreements import agreement_to_proto, licensee_from_proto, licensee_to_proto

_LOOKED_AT = 20_000
"""Records of one call: a question that finds little ends with a token, not with a deadline."""
_MOST_NAMED = 1_000
_Code = TypeVar("_Code", Reason, Part)


class AdminRpc(AdminServiceServicer):
    """Who is served what."""

    def __init__(
        self,
        agreements: Agreements,
        audit: AuditLog,
        checkpoints: AuditCheckpoints,
        cursors: Cursors,
        store: Store,
        data: Path,
    ) -> None:
        """``store``: what is withdrawn from; ``data``: its directory."""
        self._agreements = agreements
        self._cursors = cursors
        self._audit = audit
        self._checkpoints = checkpoints
        self._store = store
        self._data = data

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
        after, _ = self._cursors.open_place(request.page_token, bound, "page_token")
        rest = (one for one in self._agreements.licensees() if one.name > after)
        licensees, more = take_page(rest, size, licensee_to_proto)
        token = self._cursors.seal_place(bound, (licensees[-1].name, 0)) if more else ""
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
        _, after = self._cursors.open_place(request.page_token, bound, "page_token")
        rest = (one for one in self._agreements.told(request.licensee) if one.version.ordinal > after)
        agreements, more = take_page(rest, size, agreement_to_proto)
        token = self._cursors.seal_place(bound, ("", agreements[-1].ordinal)) if more else ""
        return pb.ListAgreementsResponse(agreements=agreements, next_page_token=token)

    def EndAgreement(
        self, request: pb.EndAgreementRequest, context: grpc.ServicerContext
    ) -> pb.EndAgreementResponse:
        at = convert.timestamp_from_proto(request.ends_at, "ends_at") if request.HasField("ends_at") else None
        return pb.EndAgreementResponse(agreement=self._told(self._agreements.end(request.licensee, at)[-1]))

    # --- the audit log ---

    def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: grpc.ServicerContext
    ) -> pb.ListAuditRecordsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        wanted = _wanted(request)
        bound = ("ListAuditRecords", *map(str, astuple(wanted)))
        _, start = self._cursors.open_place(request.page_token, bound, "page_token")
        self._audit.catch_up()
        stop = start + _LOOKED_AT
        found = self._audit.records(wanted, after=start - 1, before=stop)
        records, more = take_page(found, size, _record_to_proto)
        if not more and stop < self._audit.env.head().size:
            return pb.ListAuditRecordsResponse(
                records=records, next_page_token=self._cursors.seal_place(bound, ("", stop))
            )
        token = self._cursors.seal_place(bound, ("", records[-1].index + 1)) if more else ""
        return pb.ListAuditRecordsResponse(records=records, next_page_token=token)

    def GetAuditCheckpoint(
        self, request: pb.GetAuditCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.GetAuditCheckpointResponse:
        self._audit.catch_up()
        signed, key = self._checkpoints.sign_with()
        return pb.GetAuditCheckpointResponse(
            checkpoint=signed.note, key=str(key), signed_at=convert.timestamp_to_proto(signed.signed_at)
        )

    # --- what is withdrawn ---

    def Retract(self, request: pb.RetractRequest, context: grpc.ServicerContext) -> pb.RetractResponse:
        done = withdraw(self._store, self._data, _order(request), really=request.confirm)
        plan, concerned = done.plan, done.concerned
        return pb.RetractResponse(
            revisions=len(plan.targets),
            revisions_left=done.left,
            texts=len(plan.erased),
            text_bytes=sum(plan.erased.values()),
            texts_kept=len(plan.holders),
            snapshots=len(concerned.snapshots),
            pins=len(concerned.pins),
            licensees=sorted(concerned.licensees),
            positions=done.positions,
            erased=not done.left or done.erasure is not None,
        )

    def ListAffectedPins(
        self, request: pb.ListAffectedPinsRequest, context: grpc.ServicerContext
    ) -> pb.ListAffectedPinsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        bound = ("ListAffectedPins", request.case_id)
        after = self._cursors.open_place(request.page_token, bound, "page_token")
        concerned = affected(self._store, places_of(self._store, request.case_id))
        rest = (pin for pin in concerned.pins if (pin.statement.owner, pin.statement.made_at) > after)
        pins, more = take_page(rest, size, _affected_to_proto)
        token = self._cursors.seal_place(bound, (pins[-1].owner, pins[-1].created_position)) if more else ""
        return pb.ListAffectedPinsResponse(pins=pins, next_page_token=token)

    def _told(self, version: Version) -> agreement_pb.Agreement:
        told = self._agreements.told(version.agreement.licensee)
        return agreement_to_proto(next(one for one in told if one.version.ordinal == version.ordinal))


def _wanted(request: pb.ListAuditRecordsRequest) -> Wanted:
    since, until = (
        convert.timestamp_from_proto(getattr(request, name), name) if request.HasField(name) else None
        for name in ("since", "until")
    )
    return Wanted(
        request.licensee, request.method, request.outcome, request.agreement, request.snapshot, since, until
    )


def _order(request: pb.RetractRequest) -> Order:
    named = len(request.rev_ids) + len(request.page_ids) + len(request.contributors)
    if named > _MOST_NAMED:
        raise InvalidArgumentError(
            f"{named} revisions, pages and contributors, at most {_MOST_NAMED}",
            hint="ask in several calls of one case",
            field="rev_ids",
            limit=_MOST_NAMED,
        )
    return Order(
        request.project,
        Withdrawn(frozenset(request.rev_ids), frozenset(request.page_ids), frozenset(request.contributors)),
        request.case_id,
        _one_of(Reason, request.reason, "reason"),
        tuple(_one_of(Part, part, "parts") for part in request.parts),
        request.everywhere,
    )


def _one_of(kind: type[_Code], code: str, field: str) -> _Code:
    try:
        return kind(code)
    except ValueError:
        raise InvalidArgumentError(
            f"{field}: {code[:80]!r} is none of {', '.join(one.value for one in kind)}", field=field
        ) from None


def _affected_to_proto(pin: HeldPin) -> pb.AffectedPin:
    statement = pin.statement
    return pb.AffectedPin(
        owner=statement.owner,
        name=statement.name,
        id=statement.id.hex(),
        snapshot=format_digest(statement.snapshot_id),
        readable_until=convert.timestamp_to_proto(statement.readable_until),
        expired=pin.expired,
        revisions=pin.entries,
        created_position=statement.made_at,
    )


def _record_to_proto(record: Record) -> pb.AuditRecord:
    return pb.AuditRecord(index=record.index, document=record.encoded.decode())
