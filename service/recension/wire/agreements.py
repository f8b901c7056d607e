"""Licensees and agreements <-> proto, both directions together."""

from __future__ import annotations

import json

from recension.model.agreement import Standing, Version, VersionInfo, parse_document
from recension.model.errors import RecensionError, VerificationError
from recension.model.licensee import Licensee, make_licensee
from recension.v1 import admin_service_pb2 as admin_pb
from recension.v1 import agreement_service_pb2 as pb
from recension.wire.convert import timestamp_from_proto, timestamp_to_proto

TRAILER = "recension-agreement"
"""Trailing metadata of an answer: digest of the version of the agreement that it was given under."""

_STANDINGS: dict[Standing, pb.Standing.ValueType] = {
    Standing.IN_FORCE: pb.STANDING_IN_FORCE,
    Standing.TO_COME: pb.STANDING_TO_COME,
    Standing.REPLACED: pb.STANDING_REPLACED,
    Standing.OVER: pb.STANDING_OVER,
}


def agreement_to_proto(info: VersionInfo) -> pb.Agreement:
    """Write a version: its document, and some of it as fields."""
    version = info.version
    agreement = version.agreement
    until, ends = agreement.valid_until, version.ends_at
    return pb.Agreement(
        licensee=agreement.licensee,
        version=version.name,
        ordinal=version.ordinal,
        document=agreement.encoded.decode(),
        valid_from=timestamp_to_proto(agreement.valid_from),
        valid_until=None if until is None else timestamp_to_proto(until),
        ended_at=None if ends is None else timestamp_to_proto(ends),
        standing=_STANDINGS[info.standing],
        added_at=timestamp_to_proto(info.added_at),
        added_position=version.made_at,
    )


def agreement_from_proto(message: pb.Agreement) -> VersionInfo:
    """Read a version from its document. Raises ``VerificationError`` if digest or fields say other things."""
    try:
        info = VersionInfo(
            Version(
                parse_document(json.loads(message.document)),
                message.ordinal,
                message.added_position,
                timestamp_from_proto(message.ended_at, "ended_at") if message.HasField("ended_at") else None,
            ),
            timestamp_from_proto(message.added_at, "added_at"),
            next(mine for mine, theirs in _STANDINGS.items() if theirs == message.standing),
        )
        if agreement_to_proto(info) == message:
            return info
    except (RecensionError, ValueError, RecursionError, StopIteration):
        pass
    raise VerificationError(
        f"agreement {message.version[:80]!r} is not what its digest and its fields say",
        hint="do not rely on it; the server or something on the way changed it",
        agreement=message.version[:80],
    )


def licensee_to_proto(licensee: Licensee) -> admin_pb.Licensee:
    """Write a licensee."""
    return admin_pb.Licensee(
        name=licensee.name,
        display_name=licensee.display_name,
        contact=licensee.contact,
        certificate_names=licensee.certificate_names,
        jwt_subject=licensee.jwt_subject,
        ended=licensee.ended,
        position=licensee.made_at,
    )


def licensee_from_proto(message: admin_pb.Licensee) -> Licensee:
    """Read what a request says of a licensee. Raises ``InvalidArgumentError``."""
    return make_licensee(
        message.name,
        1,
        display_name=message.display_name,
        contact=message.contact,
        certificate_names=message.certificate_names,
        jwt_subject=message.jwt_subject,
    )
