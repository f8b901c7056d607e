from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from recension.model.errors import (
    BY_REASON,
    DeadlineError,
    InvalidArgumentError,
    OverloadedError,
    ProjectNotFoundError,
    RateLimitedError,
    RecensionError,
    UnreachableError,
)
from recension.wire.status import DOMAIN, TRAILER, call_status, error_of
from recension_client.retrying import passing


class _Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "", trailers: Any = ()) -> None:
        self._parts = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_every_error_comes_back_as_itself(reason: str) -> None:
    """Class, message, hint and metadata of each reason survive the way."""
    error = BY_REASON[reason]("what happened ü", hint="do that", revId=7)
    back = error_of(_Failed(*call_status(error)))
    back.metadata.pop("retryDelaySeconds", None)
    assert (type(error), error.message, error.hint, error.metadata) == (
        type(back),
        back.message,
        back.hint,
        back.metadata,
    )


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_there_is_exactly_one_error_info(reason: str) -> None:
    """AIP-193: one ErrorInfo, at most one of each other detail, the code of the call."""
    code, _, trailers = call_status(BY_REASON[reason]("m", field="f"))
    status = status_pb2.Status.FromString(dict(trailers)[TRAILER])
    kinds = [detail.TypeName() for detail in status.details]
    assert 1 == kinds.count("google.rpc.ErrorInfo")
    assert len(set(kinds)) == len(kinds)
    assert code.value[0] == status.code


@pytest.mark.parametrize("delay", ["soon", "nan", "-1"])
def test_a_delay_that_is_no_number_is_none(delay: str) -> None:
    """Whoever waits by it would fail without a name."""
    back = error_of(_Failed(*call_status(ProjectNotFoundError("m", retryDelaySeconds=delay))))
    assert "retryDelaySeconds" not in back.metadata


def _details(error: RecensionError) -> dict[str, Any]:
    status = status_pb2.Status.FromString(dict(call_status(error)[2])[TRAILER])
    found = {}
    for detail in status.details:
        name = detail.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        detail.Unpack(found[name])
    return found


def test_fitting_details_come_along() -> None:
    """A field, a resource, a delay."""
    assert (
        "known_at"
        == _details(InvalidArgumentError("m", field="known_at"))["BadRequest"].field_violations[0].field
    )
    assert "xx" == _details(ProjectNotFoundError("m", project="xx"))["ResourceInfo"].resource_name
    assert 2 == _details(OverloadedError("m", retryDelaySeconds=2))["RetryInfo"].retry_delay.seconds
    assert DOMAIN == _details(ProjectNotFoundError("m"))["ErrorInfo"].domain


def test_a_limit_of_the_callers_own_says_whose() -> None:
    """Beside the delay; that of a server that is busy for all names nobody."""
    found = _details(RateLimitedError("too often", subject="acme", retryDelaySeconds=0.25))
    (violation,) = found["QuotaFailure"].violations
    assert ("licensee:acme", "too often") == (violation.subject, violation.description)
    assert 250_000_000 == found["RetryInfo"].retry_delay.nanos
    assert "QuotaFailure" not in _details(OverloadedError("m", retryDelaySeconds=2))


def test_long_messages_fit_the_trailer() -> None:
    """A client takes 8 KiB of metadata by default."""
    error = InvalidArgumentError(
        "ü" * 100_000, hint="é" * 100_000, **{f"k{n}": "x" * 9_000 for n in range(50)}
    )
    _, details, trailers = call_status(error)
    size = len(dict(trailers)[TRAILER]) * 4 // 3 + 3 * len(details.encode())
    assert size < 8_000


@pytest.mark.parametrize(
    "code, kind",
    [
        (grpc.StatusCode.UNAVAILABLE, UnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.UNIMPLEMENTED, RecensionError),
        (grpc.StatusCode.UNKNOWN, RecensionError),
    ],
)
@pytest.mark.parametrize("trailers", [(), ((TRAILER, b"\xff\xff"),), ((TRAILER, b""),)])
def test_calls_without_our_status_are_named_by_code(
    code: grpc.StatusCode, kind: type[RecensionError], trailers: Any
) -> None:
    """A proxy's error, or a damaged trailer, still becomes an error of ours."""
    assert kind is type(error_of(_Failed(code, "d", trailers)))


def test_a_call_beyond_those_that_wait_is_to_come_again() -> None:
    """GRPC itself refuses it, and says no delay; another refusal without a reason is none to repeat."""
    crowd = error_of(_Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"))
    other = error_of(_Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "d"))
    assert [True, False] == [passing(crowd), passing(other)]


def test_a_newer_servers_reason_is_kept_as_text() -> None:
    """A reason that this version does not know is the base class."""

    class NewError(RecensionError):
        reason = "SOMETHING_NEW"

    assert RecensionError is type(error_of(_Failed(*call_status(NewError("m")))))
