"""Who may call what: the caller's key is looked at before a request is read, and again while a stream runs.

A store in which no key was ever made has no door: whoever reaches the port, on loopback, is its operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from recension.model.access import Role
from recension.model.errors import (
    AgreementChangedError,
    NoAgreementError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from recension.model.pin import NOBODY

LOOK_SECONDS = 2.0
"""A stream looks this often whether its caller's key is still good."""
_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Health is for everyone; whether reflection is served is configured."""
_CHANNELZ = "/grpc.channelz."
"""Tells of peers and sockets; whether it is served is configured too."""

_ALL = frozenset(Role)
_READERS = frozenset({Role.LICENSEE, Role.OPERATOR})
_OPERATORS = frozenset({Role.OPERATOR})
_OVERSEERS = frozenset({Role.OPERATOR, Role.AUDITOR})
ROLES: dict[str, frozenset[Role]] = {
    f"/recension.v1.{service}/{method}": roles
    for service, roles, methods in (
        ("CatalogService", _ALL, "GetServerInfo ListProjects GetProject"),
        (
            "RevisionService",
            _READERS,
            "GetRevision BatchGetRevisions GetArticle ListRevisions ReadText DiffRevisions GetAttribution",
        ),
        ("SnapshotService", _ALL, "GetSnapshot ListSnapshots"),
        (
            "SnapshotService",
            _READERS,
            "CreateSnapshot ListEntries ReadSnapshot ReadEntries DiffSnapshots ProveEntry ReadAttribution",
        ),
        (
            "PinService",
            _READERS,
            "CreatePin GetPin ListPins ExtendPin DeletePin ListRetractions AcknowledgeRetraction",
        ),
        ("CheckpointService", _ALL, "GetCheckpoint GetInclusionProof GetConsistencyProof"),
        ("ChangeService", _READERS, "Watch"),
        ("IngestService", _OPERATORS, "Append"),
        ("AgreementService", _READERS, "GetOwnAgreement ListOwnAgreements"),
        ("AdminService", _OVERSEERS, "GetLicensee ListLicensees GetAgreement ListAgreements"),
        ("AdminService", _OVERSEERS, "ListAuditRecords GetAuditCheckpoint ListAffectedPins"),
        ("AdminService", _OPERATORS, "AddLicensee EndLicensee AddAgreement EndAgreement Retract"),
        ("UsageService", _ALL, "GetUsage"),
    )
    for method in methods.split()
}
"""Which roles may call a method. One that is not listed is for nobody."""

Metadata = Sequence[tuple[str, str | bytes]]
Certificate = Mapping[str, Sequence[bytes]]
"""What gRPC says of a connection (``ServicerContext.auth_context``); empty without a client certificate."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    owner: str = NOBODY
    """The licensee, operator or auditor."""
    role: Role = Role.OPERATOR
    key_id: bytes = b""
    """Empty where no key was shown."""


ANYBODY = Caller()
_caller: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def caller() -> Caller:
    """Return who made the call that is being answered, in its streams too."""
    return _caller.get()


def act_for(who: Caller) -> None:
    """Answer a call of someone in this context."""
    _caller.set(who)


@dataclass(frozen=True, slots=True)
class Known:
    """A caller, and what the call showed."""

    caller: Caller
    still: Callable[[], bool]
    """Says whether what was shown is good yet: keys are revoked, certificates taken away, tokens expire."""


class Identity(Protocol):
    """Tells callers from each other."""

    def find(self, metadata: Metadata, certificate: Certificate) -> Known:
        """Return who calls. Raises ``UnauthenticatedError``, ``PepperUnusableError``."""
        ...


Standing = Callable[[Caller], str]
"""Names the version of the agreement that a caller is under at this moment; empty for none."""


def _nothing_agreed(who: Caller) -> str:  # noqa: ARG001 - the shape of ``Standing``
    return ""


class Admission:
    """Leave to make one call, as long as what the caller showed is good, and its agreement the same."""

    def __init__(self, known: Known, standing: Standing = _nothing_agreed) -> None:
        """``standing``: asked now, and again as long as the call lasts."""
        self.caller = known.caller
        self._still = known.still
        self._standing = standing
        self._agreed = standing(known.caller)
        self._looked_at = time.monotonic()

    def check(self) -> None:
        """Look again, if it is time to.

        Raises ``UnauthenticatedError`` once it is not good any more, ``NoAgreementError`` or
        ``AgreementChangedError`` once the agreement that the call began under does not rule any more.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if not self._still():
            raise stranger()
        if self._agreed and (agreed := self._standing(self.caller)) != self._agreed:
            raise _changed(self.caller) if agreed else no_agreement(self.caller.owner)


class Door:
    """Lets calls in."""

    def __init__(
        self, identity: Identity, standing: Standing = _nothing_agreed, *, asks_certificates: bool = False
    ) -> None:
        """``identity``: tells who calls; ``asks_certificates``: whether clients show any."""
        self.asks_certificates = asks_certificates
        self._identity = identity
        self._standing = standing

    def admit(
        self,
        method: str,
        metadata: Metadata,
        certificate: Certificate,
        know: Callable[[Caller], None] = lambda _: None,
        *,
        lasts: bool = True,
    ) -> Admission:
        """Let a call in. ``know`` is told who calls, before they are refused for their role.

        ``lasts``: whether its admission is checked again; else nobody asks here what was agreed. Raises
        ``UnauthenticatedError``, ``PermissionDeniedError``, ``PepperUnusableError``.
        """
        if method.startswith(_OPEN):
            return Admission(Known(ANYBODY, lambda: True))
        known = self._identity.find(metadata, certificate)
        who = known.caller
        know(who)
        if who.role not in (_OPERATORS if method.startswith(_CHANNELZ) else ROLES.get(method, ())):
            raise PermissionDeniedError(
                f"the role {who.role} does not open {method.rpartition('/')[2]}",
                hint="ask the operator for a key of another role",
                role=who.role,
            )
        return Admission(known, self._standing if lasts else _nothing_agreed)


def no_agreement(owner: str) -> NoAgreementError:
    """Return the error of a licensee to whom nothing is granted at this moment."""
    return NoAgreementError(
        f"no agreement of {owner} is in force",
        hint="recension agreement shows those that there are; the operator makes another",
        licensee=owner,
    )


def _changed(who: Caller) -> AgreementChangedError:
    return AgreementChangedError(
        f"another version of the agreement of {who.owner} is in force now than when this began",
        hint="go on behind the last item that came, without its cursor; see it with: recension agreement",
        licensee=who.owner,
    )


def stranger() -> UnauthenticatedError:
    """Return the error of who shows nothing that is good: whatever is wrong, it is the same."""
    return UnauthenticatedError(
        "this server answers callers with a key alone, and this call has none that is good",
        hint="set RECENSION_KEY, or name a file with --key-file; a key may be expired, revoked or mistyped:"
        " its owner asks the operator for another",
    )
