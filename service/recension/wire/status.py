"""Errors <-> gRPC status, both directions together.

A ``RecensionError`` goes out as a ``google.rpc.Status`` (AIP-193) in the trailer
``grpc-status-details-bin``: exactly one ``ErrorInfo`` with the error's reason, metadata and hint, and where
it fits one ``BadRequest``, ``ResourceInfo`` or ``RetryInfo``, and a ``QuotaFailure`` where a limit of the
caller's own was reached. The client reads it back into the same class.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from recension.model.errors import (
    BY_REASON,
    DeadlineError,
    Fault,
    InvalidArgumentError,
    OverloadedError,
    RecensionError,
    UnreachableError,
)

DOMAIN = "recension.dev"
TRAILER = "grpc-status-details-bin"
HINT = "hint"
RETRY_DELAY = "retryDelaySeconds"
"""Key of ``RecensionError.metadata``: after how many seconds to try again."""
SUBJECT = "subject"
"""Key of ``RecensionError.metadata``: whose limit was reached, where it is one caller's alone."""

# A client takes 8 KiB of metadata before it may refuse the answer; base64 and percent-encoding come on top.
_MAX_MESSAGE_BYTES = 1_500
_MAX_DETAILS_BYTES = 500
_MAX_VALUE_BYTES = 300
_MAX_HINT_BYTES = 600
_MAX_VALUES = 8

_TOO_LARGE = "message larger than max"
"""What gRPC itself says of a message beyond the limit of the side that receives it."""
_TOO_MANY = "Concurrent RPC limit"
"""What gRPC itself says of a call that comes while as many wait as a server lets wait: soon it is less."""

_RETRIED = (Fault.BUSY, Fault.EXHAUSTED)
_RESOURCE_TYPES = {
    "PROJECT_NOT_FOUND": ("recension.dev/Project", ("project",)),
    "PAGE_NOT_FOUND": ("recension.dev/Page", ("page", "pageId", "title")),
    "REVISION_NOT_FOUND": ("recension.dev/Revision", ("revision", "revId")),
    "SNAPSHOT_NOT_FOUND": ("recension.dev/Snapshot", ("snapshot", "id")),
    "PIN_NOT_FOUND": ("recension.dev/Pin", ("pin",)),
    "PIN_EXISTS": ("recension.dev/Pin", ("pin",)),
    "TEXT_UNAVAILABLE": ("recension.dev/Text", ("role",)),
    "PROJECT_EXISTS": ("recension.dev/Project", ("project",)),
}


class CallStatus(NamedTuple):
    """What ``ServicerContext.abort_with_status`` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def canonical_code(error: RecensionError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return grpc.StatusCode[error.fault.value]


def status_of(error: RecensionError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """Return the code and the rich status of an error."""
    code = canonical_code(error)
    status = status_pb2.Status(code=code.value[0], message=_cut(error.message, _MAX_MESSAGE_BYTES))
    metadata = {
        key: _cut(value, _MAX_VALUE_BYTES) for key, value in list(error.metadata.items())[:_MAX_VALUES]
    }
    if error.hint:
        metadata[HINT] = _cut(error.hint, _MAX_HINT_BYTES)
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.fault is Fault.INVALID and error.metadata.get("field"):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=metadata["field"], description=_cut(error.message, _MAX_VALUE_BYTES)
        )
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    elif error.reason in _RESOURCE_TYPES:
        kind, keys = _RESOURCE_TYPES[error.reason]
        name = next((metadata[key] for key in keys if key in metadata), "")
        _add(status, error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    elif error.fault in _RETRIED:
        if SUBJECT in metadata:
            exceeded = error_details_pb2.QuotaFailure.Violation(
                subject=f"licensee:{metadata[SUBJECT]}", description=_cut(error.message, _MAX_VALUE_BYTES)
            )
            _add(status, error_details_pb2.QuotaFailure(violations=[exceeded]))
        _add(status, error_details_pb2.RetryInfo(retry_delay=_delay(error)))
    return code, status


def call_status(error: RecensionError) -> CallStatus:
    """Return an error in the form that ends a call."""
    code, status = status_of(error)
    trailers: tuple[tuple[str, str | bytes], ...] = ((TRAILER, status.SerializeToString()),)
    return CallStatus(code, _cut(error.message, _MAX_DETAILS_BYTES), trailers)


def error_of(error: grpc.RpcError) -> RecensionError:
    """Return the error that the server meant; a call without our status is named by its code alone."""
    call: Any = error  # gRPC raises objects that are both an RpcError and a Call, which no type says
    if not hasattr(call, "trailing_metadata"):
        return _without_details(grpc.StatusCode.UNKNOWN, str(error))
    code, details = call.code(), call.details() or ""
    status = _sent_status(call)
    info = status and _find(status, error_details_pb2.ErrorInfo)
    if status is None or info is None or info.domain != DOMAIN:
        return _without_details(code, details)
    metadata = dict(info.metadata)
    hint = metadata.pop(HINT, "")
    metadata.pop(RETRY_DELAY, None)  # it may be no number; the detail below is one
    result = BY_REASON.get(info.reason, RecensionError)(status.message or details, hint=hint)
    result.metadata = metadata
    retry = _find(status, error_details_pb2.RetryInfo)
    if retry is not None:
        seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        result.metadata[RETRY_DELAY] = f"{seconds:g}"
    return result


def _without_details(code: grpc.StatusCode, details: str) -> RecensionError:
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(
                f"the server cannot be reached: {details}", hint="is it running, and is the address right?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError("the call did not finish in time", hint="try again, or allow more time")
        case grpc.StatusCode.CANCELLED:
            return DeadlineError(
                f"the call was ended before it was complete: {details}",
                hint="a server ends a call whose client takes nothing for long; go on from the newest cursor",
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in details:
            return InvalidArgumentError(
                f"a message is too large: {details}",
                hint="send less at once (a batch of events has at most 4 MiB), or ask for less",
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_MANY in details:
            return OverloadedError(
                f"the server refused the call: {details}", hint="try again later", **{RETRY_DELAY: 1}
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OverloadedError(f"the server refused the call: {details}", hint="try again later")
        case grpc.StatusCode.UNIMPLEMENTED:
            return RecensionError(
                f"the server does not know this call: {details}",
                hint="it is older than this client, or no recension server",
            )
        case _:
            return RecensionError(f"the call failed with {code.name}: {details}", code=code.name)


def _sent_status(call: Any) -> status_pb2.Status | None:
    for key, value in call.trailing_metadata() or ():
        if key == TRAILER:
            try:
                return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:
                return None
    return None


def _find(status: status_pb2.Status, kind: Any) -> Any:
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            message = kind()
            try:
                detail.Unpack(message)
            except DecodeError:
                return None
            return message
    return None


def _add(status: status_pb2.Status, detail: Any) -> None:
    status.details.add().Pack(detail)


def _delay(error: RecensionError) -> Duration:
    seconds = float(error.metadata.get(RETRY_DELAY, "1"))
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1_000_000_000))


def _cut(text: str, limit: int) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"
