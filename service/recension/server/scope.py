"""What one call of a licensee may be told: its agreement put to what the archive answers.

``Licensed`` asks before anything is answered. ``assured`` asks again where messages are built, in
other words, so that what found its way around the wrapper ends the call instead of reaching its caller.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TypeVar

from recension.model.access import Role
from recension.model.agreement import Agreement, Cadence, Grant, Version
from recension.model.credit import Attribution, Credited
from recension.model.decision import (
    FOREVER,
    ContentRequest,
    Decision,
    HappeningRequest,
    ProjectRequest,
    Reason,
    Request,
    RevisionRequest,
    SnapshotRequest,
    decide,
    grants_of,
    horizon_of,
    turning_times,
)
from recension.model.event import Delete, Move, Presence, Restore
from recension.model.manifest import Manifest
from recension.model.reading import (
    Change,
    Entry,
    ProjectInfo,
    Proof,
    Revision,
    RevisionDiff,
    Slot,
    TimelineItem,
)
from recension.model.seal import CONTENT, commitment, content_value
from recension.server.door import caller

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class OverGrantError(Exception):
    """An answer was about to say more than the caller's agreement grants: a fault of the server."""


_MOST_KEPT = 10_000
"""Agreements whose terms are held in memory, and what is remembered of each; more begin anew."""


class _Terms:
    """What follows from an agreement alone, whoever asks and when. Safe for concurrent use."""

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        grants = agreement.grants
        self.has_embargo = any(grant.freshness.cadence is not Cadence.REALTIME for grant in grants)
        unbounded = (None, None, None, None)
        self.whole = frozenset(
            project
            for grant in grants
            if (grant.namespaces, grant.slots, grant.earliest, grant.latest) == unbounded
            for project in grant.projects
        )
        """Projects of which one grant has all there is, once it is old enough."""
        self.turns = {project: turning_times(agreement, (project,)) for project in agreement.by_project}
        self.last_times = {project: _last_time(ours) for project, ours in agreement.by_project.items()}
        self.decided: dict[tuple[object, ...], Decision] = {}
        """What the rule said, by all that it looks at: times by the turns that they lie between."""
        self.windows: dict[tuple[str, int, str], list[Grant]] = {}
        """The grants that are about a slot, at whatever time."""


def _last_time(grants: Sequence[Grant]) -> int | None:
    ends = [grant.latest for grant in grants]
    return None if None in ends else max(end for end in ends if end is not None)


_terms: dict[bytes, _Terms] = {}
"""By the digest of the agreement, which says all of it."""


def _terms_of(agreement: Agreement) -> _Terms:
    found = _terms.get(agreement.digest)
    if found is None:
        found = _Terms(agreement)
        _keep(_terms, agreement.digest, found)
    return found


def _keep(kept: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = value


class Scope:
    """One licensee's agreement at one moment."""

    def __init__(self, version: Version, now: Callable[[], int]) -> None:
        """``now``: the clock of embargoes, asked once, and only where there is an embargo."""
        self.version = version
        self.agreement = version.agreement
        self.terms = _terms_of(version.agreement)
        self._now = now() if self.terms.has_embargo else 0
        self.refused: Reason | None = None
        """Why something was left out last; for the audit log alone."""

    # --- the first look -----------------------------------------------------------------------------

    def decide(self, request: Request, commit_time: int) -> Decision:
        """Decide on one thing."""
        return self._noted(decide(self.agreement, request, commit_time, self._now))

    def _noted(self, decision: Decision) -> Decision:
        if decision.reason is not Reason.GRANTED:
            self.refused = decision.reason
        return decision

    def names(self, project: str) -> bool:
        """Say whether a project exists for the caller."""
        known = self.terms.decided.get((project,))
        if known is None:
            known = decide(self.agreement, ProjectRequest(project), 0, self._now)
            _keep(self.terms.decided, (project,), known)
        return self._noted(known).allowed

    def horizon(self, project: str) -> int:
        """Return the instant up to which commits of a granted project exist; ``FOREVER`` for all of them."""
        return self._horizon(project)

    def _horizon(self, project: str) -> int:
        if not self.terms.has_embargo:
            return FOREVER
        return horizon_of(grants_of(self.agreement, project), self._now)

    def last_time(self, project: str) -> int | None:
        """Return the last valid time that is granted of a granted project; ``None`` without an end."""
        return self.terms.last_times.get(project)

    def is_whole(self, project: str) -> bool:
        """Say whether all of a project is granted as it comes, so that counts of it tell nothing else."""
        return any(
            (grant.namespaces, grant.slots, grant.earliest, grant.latest) == (None, None, None, None)
            and grant.freshness.cadence is Cadence.REALTIME
            for grant in grants_of(self.agreement, project)
        )

    def revision(self, revision: Revision, *times: int) -> Revision | None:
        """Return what there is of a revision; ``times``: what was asked about beside its own."""
        project, namespace, commit_time = revision.project, revision.namespace, revision.recorded_at
        roles = tuple([slot.role for slot in revision.slots])
        asked = (revision.timestamp, *times)
        turns = self.terms.turns.get(project)
        is_late = self.terms.has_embargo and turns is not None and commit_time > self.horizon(project)
        key = (
            project,
            namespace,
            roles,
            is_late,
            *([bisect_right(turns, time) for time in asked] if turns else ()),
        )
        decision = self.terms.decided.get(key)
        if decision is None:
            request = RevisionRequest(project, namespace, roles, asked)
            decision = decide(self.agreement, request, commit_time, self._now)
            _keep(self.terms.decided, key, decision)
        if not self._noted(decision).allowed:
            return None
        if len(decision.slots) == len(roles):
            return revision
        return replace(revision, slots=tuple(slot for slot in revision.slots if slot.role in decision.slots))

    def happening(self, project: str, item: TimelineItem) -> bool:
        """Say whether a move, delete or restore of a page exists."""
        what = item.what
        if isinstance(what, Move):
            namespaces: tuple[int, ...] = (what.from_namespace, what.to_namespace)
        elif isinstance(what, Delete | Restore):
            namespaces = (what.namespace,)
        else:
            return False
        return self.decide(HappeningRequest(project, namespaces, item.time), item.recorded_at).allowed

    def attribution(self, one: Attribution, commit_time: int) -> bool:
        """Say whether a page of a snapshot that exists is attributed."""
        request = HappeningRequest(one.project, (one.namespace,), one.timestamp)
        return self.decide(request, commit_time).allowed

    def manifest(self, manifest: Manifest, commit_time: int) -> bool:
        """Say whether a snapshot exists; ``commit_time`` is that of its K."""
        selector, valid_at = manifest.selector, manifest.as_of.valid_at
        return all(
            self.decide(SnapshotRequest(project, selector.namespaces, valid_at), commit_time).allowed
            for project in selector.projects
        )

    def contents(self, manifest: Manifest, commit_time: int) -> Callable[[Entry], Entry]:
        """Return what gives the entries of a snapshot that exists as they may be seen."""
        bare = all(
            any(
                grant.slots is None and grant.earliest is None and _holds(grant, manifest) for grant in grants
            )
            for grants in (grants_of(self.agreement, project) for project in manifest.selector.projects)
        )
        if bare:
            return _same
        turns = turning_times(self.agreement, manifest.selector.projects)
        decided: dict[tuple[str, int, tuple[str, ...], int], bool] = {}

        def shown(entry: Entry) -> Entry:
            project, namespace, time = entry.project, entry.namespace, entry.timestamp
            roles = tuple([slot.role for slot in entry.slots])
            # Streams ask much, and between two turns what is decided of the same slots is the same.
            key = project, namespace, roles, bisect_right(turns, time)
            allowed = decided.get(key)
            if allowed is None:
                request = ContentRequest(project, namespace, roles, time)
                allowed = decided[key] = self.decide(request, commit_time).allowed
            if allowed:
                return entry
            return withheld(entry, [role for role in roles if self._granted(project, namespace, role)])

        return shown

    # --- the second look ----------------------------------------------------------------------------

    def check(self, value: object) -> None:
        """Raise ``OverGrantError`` for an answer that says what is not granted. Asks nobody else."""
        match value:
            case Entry():
                self._check_slots(value.project, value.namespace, value.timestamp, value.slots)
            case Revision():
                if not self._in_time(value.project, value.recorded_at) or not value.slots:
                    raise _over(value.project, value.page_id)
                for slot in value.slots:
                    if not self._open(value.project, value.namespace, slot.role, value.timestamp):
                        raise _over(value.project, value.page_id)
            case TimelineItem():
                if isinstance(value.what, Revision):
                    self.check(value.what)
            case RevisionDiff():
                self.check(value.before)
                self.check(value.after)
            case Credited():
                self.check(value.attribution)
            case Attribution():
                self._check_selected(value.project, (value.namespace,))
            case Change():
                for side in (value.before, value.after):
                    if side is not None:
                        self.check(side)
            case Proof():
                self.check(value.manifest)
                if value.entry is not None:
                    self.check(value.entry)
            case Manifest():
                for project in value.selector.projects:
                    self._check_selected(project, value.selector.namespaces)
            case ProjectInfo():
                self._check_named(value.name)
            case _:
                raise OverGrantError(f"nobody knows whether {type(value).__name__} may be told")

    def _check_named(self, project: str) -> None:
        if not any(project in grant.projects for grant in self.agreement.grants):
            raise _over(project, 0)

    def _check_selected(self, project: str, namespaces: tuple[int, ...]) -> None:
        grants = [grant for grant in self.agreement.grants if project in grant.projects]
        named = {number for grant in grants for number in grant.namespaces or ()}
        if any(grant.namespaces is None for grant in grants):
            return
        if not namespaces or not named.issuperset(namespaces):
            raise _over(project, 0)

    def _check_slots(self, project: str, namespace: int, time: int, slots: tuple[Slot, ...]) -> None:
        for slot in slots:
            if slot.digest and not self._open(project, namespace, slot.role, time):
                raise _over(project, 0)

    def _open(self, project: str, namespace: int, role: str, time: int) -> bool:
        for grant in self._granted(project, namespace, role):
            low, high = grant.earliest, grant.latest
            if (low is None or time >= low) and (high is None or time <= high):
                return True
        return False

    def _granted(self, project: str, namespace: int, role: str) -> list[Grant]:
        """Return the grants that are about a slot, at whatever time."""
        key = (project, namespace, role)
        found = self.terms.windows.get(key)
        if found is None:
            found = [grant for grant in self.agreement.grants if grant.covers(*key)]
            _keep(self.terms.windows, key, found)
        return found

    def _in_time(self, project: str, commit_time: int) -> bool:
        return bool(grants_of(self.agreement, project)) and commit_time <= self._horizon(project)


def withheld(entry: Entry, roles: list[str]) -> Entry:
    """Return an entry that keeps its place in the tree without its content; of its slots some are named."""
    slots = tuple(
        Slot(slot.role, slot.model, slot.format, Presence.HIDDEN)
        for slot in entry.slots
        if slot.role in roles
    )
    if entry.content_commitment:
        return entry._replace(slots=slots)
    committed = commitment(entry.content_salt, CONTENT, content_value(entry.slots))
    return entry._replace(slots=slots, content_salt=b"", content_commitment=committed)


def _same(entry: Entry) -> Entry:
    return entry


def _holds(grant: Grant, manifest: Manifest) -> bool:
    """Say whether all entries of a snapshot are of a grant's namespaces."""
    chosen = manifest.selector.namespaces
    return grant.namespaces is None or (bool(chosen) and grant.namespaces.issuperset(chosen))


def _over(project: str, page_id: int) -> OverGrantError:
    return OverGrantError(f"project {project}, page {page_id or '?'}: not granted, and about to be told")


# --- where messages are built -------------------------------------------------------------------------

_scope: ContextVar[Scope | None] = ContextVar("scope", default=None)


def use(scope: Scope) -> None:
    """Let a scope rule what this context is answered."""
    _scope.set(scope)


def assured(value: _Value) -> _Value:
    """Return an answer that its caller may be told. Raises ``OverGrantError`` for any other."""
    if caller().role is not Role.LICENSEE:
        return assurance()(value)
    _ruling().check(value)
    return value


def assurance() -> Callable[[_Value], _Value]:
    """Return ``assured`` for the many answers of one call."""
    role = caller().role
    if role is Role.OPERATOR:
        return _unchecked
    if role is Role.AUDITOR:
        return _textless
    scope = _ruling()
    # Streams ask much: of entries nothing has to be asked where one grant has all of their project.
    whole = scope.terms.whole

    def checked(value: _Value) -> _Value:
        if not isinstance(value, Entry) or value.project not in whole:
            scope.check(value)
        return value

    return checked


def _ruling() -> Scope:
    scope = _scope.get()
    if scope is None:
        raise OverGrantError("an answer that no agreement was asked about")
    return scope


def _unchecked(value: _Value) -> _Value:
    return value


def _textless(value: _Value) -> _Value:
    if not isinstance(value, Manifest | ProjectInfo):
        raise OverGrantError(f"an auditor was about to be told {type(value).__name__}")
    return value
