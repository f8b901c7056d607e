"""Who may call what: the caller's key is looked at before a request is read, and again while a stream runs.

A store in which no key was ever made has no door: whoever reaches the port, on loopback, is its operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from recension.archive.keyring import Keyring
from recension.model.access import Role, Secret
from recension.model.errors import InvalidArgumentError, PermissionDeniedError, UnauthenticatedError
from recension.model.pin import NOBODY

LOOK_SECONDS = 2.0
"""A stream looks this often whether its caller's key is still good."""
_HEADER = "authorization"
_SCHEME = "bearer "
_OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Health is for everyone; whether reflection is served is configured."""

_ALL = frozenset(Role)
_READERS = frozenset({Role.LICENSEE, Role.OPERATOR})
_OPERATORS = frozenset({Role.OPERATOR})
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
        ("IngestService", _OPERATORS, "Append"),
    )
    for method in methods.split()
}
"""Which roles may call a method. One that is not listed is for nobody."""

Metadata = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    owner: str = NOBODY
    """The licensee, operator or auditor."""
    role: Role = Role.OPERATOR
    key_id: bytes = b""
    """Empty where nobody is told from others."""


_ANYBODY = Caller()
_caller: ContextVar[Caller] = ContextVar("caller", default=_ANYBODY)


def caller() -> Caller:
    """Return who made the call that is being answered, in its streams too."""
    return _caller.get()


def act_for(who: Caller) -> None:
    """Answer a call of someone in this context."""
    _caller.set(who)


class Admission:
    """Leave to make one call, as long as the caller's key is good."""

    def __init__(self, keyring: Keyring | None, who: Caller) -> None:
        """``keyring``: where to look again; ``None`` for a method that is open."""
        self.caller = who
        self._keyring = keyring
        self._looked_at = time.monotonic()

    def check(self) -> None:
        """Look again, if it is time to. Raises ``UnauthenticatedError`` once the key is not good any more."""
        now = time.monotonic()
        if self._keyring is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        who = self.caller
        if not (self._keyring.is_live(who.key_id) if who.key_id else self._keyring.is_empty()):
            raise _stranger()


class Door:
    """Lets calls in."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def admit(
        self, method: str, metadata: Metadata, know: Callable[[Caller], None] = lambda _: None
    ) -> Admission:
        """Let a call in. ``know`` is told who calls, before they are refused for their role.

        Raises ``UnauthenticatedError``, ``PermissionDeniedError``, ``PepperUnusableError``.
        """
        if method.startswith(_OPEN):
            return Admission(None, _ANYBODY)
        if self._keyring.is_empty():
            return Admission(self._keyring, _ANYBODY)
        shown = _shown(metadata)
        key = None if shown is None else self._keyring.find(shown)
        if key is None:
            raise _stranger()
        who = Caller(key.owner, key.role, key.id)
        know(who)
        if key.role not in ROLES.get(method, ()):
            raise PermissionDeniedError(
                f"a key of the role {key.role} does not open {method.rpartition('/')[2]}",
                hint="ask the operator for a key of another role",
                role=key.role,
            )
        return Admission(self._keyring, who)


def _shown(metadata: Metadata) -> Secret | None:
    """Return the key of a call, if it shows just one and that can be a key."""
    values = [value for name, value in metadata if name == _HEADER]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_SCHEME):
        return None
    try:
        return Secret.parse(values[0][len(_SCHEME) :])
    except InvalidArgumentError:
        return None


def _stranger() -> UnauthenticatedError:
    return UnauthenticatedError(
        "this server answers callers with a key alone, and this call has none that is good",
        hint="set RECENSION_KEY, or name a file with --key-file; a key may be expired, revoked or mistyped:"
        " its owner asks the operator for another",
    )
