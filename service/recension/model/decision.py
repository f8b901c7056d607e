"""What an agreement allows: one rule for all that a caller may be told (docs/licence.md, What is served).

``decide`` allows nothing that a grant does not name. It reads no clock and no store: what an answer says is
told to it, and so is when that was committed. What is allowed of a text is decided slot by slot; what is
allowed of an entry of a snapshot is its content as a whole, because one commitment covers all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from recension.model.agreement import Agreement, Cadence, Grant, horizon

FOREVER = 2**63 - 1
"""The horizon of what is served at once."""


class Reason(StrEnum):
    """Why something is served or not. The caller is never told; the audit log is."""

    GRANTED = "granted"
    NO_AGREEMENT = "no_agreement"
    """No version is in force."""
    PROJECT = "project"
    """No grant names the project."""
    EMBARGO = "embargo"
    """It was committed after the horizon."""
    NAMESPACE = "namespace"
    WINDOW = "window"
    """A valid time lies outside of what is granted for that namespace."""
    SLOT = "slot"
    """No slot of it is granted; of an entry, not all of them."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer."""

    reason: Reason
    slots: frozenset[str] = frozenset()
    """Roles that may be shown of a record."""

    @property
    def allowed(self) -> bool:
        """Whether it exists for the caller."""
        return self.reason is Reason.GRANTED


# --- what can be asked ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectRequest:
    """Whether a project exists."""

    project: str


@dataclass(frozen=True, slots=True)
class RevisionRequest:
    """One revision: alone, in a page's timeline, or as the state of a page at a time."""

    project: str
    namespace: int
    """Of the title in the answer."""
    roles: tuple[str, ...]
    """Of its slots."""
    times: tuple[int, ...]
    """The revision's own timestamp, and the time that was asked about if there is one."""


@dataclass(frozen=True, slots=True)
class HappeningRequest:
    """A move, delete or restore in a page's timeline."""

    project: str
    namespaces: tuple[int, ...]
    """Of each title that it names."""
    time: int


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """One project of a snapshot, to be made or read: the commit is that of its K."""

    project: str
    namespaces: tuple[int, ...]
    """The selector's; empty for all."""
    valid_at: int


@dataclass(frozen=True, slots=True)
class ContentRequest:
    """The content of an entry in a snapshot that is allowed: all of its slots, or none."""

    project: str
    namespace: int
    roles: tuple[str, ...]
    time: int
    """The revision's own timestamp."""


Request = ProjectRequest | RevisionRequest | HappeningRequest | SnapshotRequest | ContentRequest


# --- the rule ---------------------------------------------------------------------------------------


def decide(agreement: Agreement | None, request: Request, commit_time: int, now: int) -> Decision:
    """Decide on one thing.

    ``agreement``: the version in force, or ``None``. ``commit_time``: when what is answered was committed.
    ``now``: by a clock that does not run ahead. Both in microseconds since the epoch.
    """
    if agreement is None:
        return Decision(Reason.NO_AGREEMENT)
    grants = grants_of(agreement, request.project)
    if not grants:
        return Decision(Reason.PROJECT)
    if commit_time > horizon_of(grants, now):
        return Decision(Reason.EMBARGO)
    match request:
        case ProjectRequest():
            return Decision(Reason.GRANTED)
        case SnapshotRequest():
            return _all(grants, request.namespaces or (None,), request.valid_at)
        case HappeningRequest():
            return _all(grants, request.namespaces, request.time)
        case RevisionRequest():
            return _slots(grants, request.namespace, request.roles, request.times)
        case ContentRequest():
            found = _slots(grants, request.namespace, request.roles, (request.time,))
            whole = not found.allowed or found.slots.issuperset(request.roles)
            return found if whole else Decision(Reason.SLOT)
        case _:
            assert_never(request)


def grants_of(agreement: Agreement, project: str) -> Sequence[Grant]:
    """Return the grants that name a project."""
    return agreement.by_project.get(project, ())


def horizon_of(grants: Sequence[Grant], now: int) -> int:
    """Return the instant up to which commits of a project exist, by its grants: the slowest decides.

    A document whose grants of one project differ in this is refused, so that no answer mixes two horizons.
    """
    return min(
        FOREVER if grant.freshness.cadence is Cadence.REALTIME else horizon(grant.freshness, now)
        for grant in grants
    )


def turning_times(agreement: Agreement, projects: Sequence[str]) -> list[int]:
    """Return the valid times, ascending, from which on other windows of some projects are open than before.

    Of one thing, what is decided is the same for all times between two of them.
    """
    turns: set[int] = set()
    for grant in agreement.grants:
        if not grant.projects.isdisjoint(projects):
            turns.update({grant.earliest} if grant.earliest is not None else ())
            turns.update({grant.latest + 1} if grant.latest is not None else ())
    return sorted(turns)


def _all(grants: Sequence[Grant], namespaces: Sequence[int | None], time: int) -> Decision:
    """Allow what touches some namespaces, if each is granted at that time; ``None`` stands for all."""
    for namespace in namespaces:
        covering = [grant for grant in grants if _covers(grant, namespace)]
        if not covering:
            return Decision(Reason.NAMESPACE)
        if not any(_within(grant, time) for grant in covering):
            return Decision(Reason.WINDOW)
    return Decision(Reason.GRANTED)


def _slots(grants: Sequence[Grant], namespace: int, roles: Sequence[str], times: Sequence[int]) -> Decision:
    """Allow those slots that are granted in that namespace at all of these times, if there is one."""
    covering = [grant for grant in grants if _covers(grant, namespace)]
    if not covering:
        return Decision(Reason.NAMESPACE)
    open_then = [grant for grant in covering if all(_within(grant, time) for time in times)]
    if not open_then:
        return Decision(Reason.WINDOW)
    slots = frozenset(
        role for role in roles if any(grant.slots is None or role in grant.slots for grant in open_then)
    )
    return Decision(Reason.GRANTED, slots) if slots else Decision(Reason.SLOT)


def _covers(grant: Grant, namespace: int | None) -> bool:
    return grant.namespaces is None or (namespace is not None and namespace in grant.namespaces)


def _within(grant: Grant, time: int) -> bool:
    return (grant.earliest is None or grant.earliest <= time) and (
        grant.latest is None or time <= grant.latest
    )
