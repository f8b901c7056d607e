"""The read protocol as the caller of this moment may use it: what stands between every answer and its caller.

It spells out every method, so that one that is added is decided on by someone. What a licensee may not see is
answered as what there is not, by the same errors, which are made here for both. What is served is written in
docs/licence.md; the rule itself is ``model.decision``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol, TypeVar

from recension.archive.changes import Followed, Told, check_followed
from recension.archive.clock import Clock, known_upto, system_clock
from recension.archive.horizons import Horizon, Horizons
from recension.archive.pages import present_text
from recension.model.access import Role
from recension.model.agreement import Version
from recension.model.credit import Attribution, Credited
from recension.model.decision import FOREVER, Reason, SnapshotRequest, grants_of
from recension.model.difference import DEFAULT_CONTEXT
from recension.model.digest import format_digest
from recension.model.errors import (
    AsOfOutOfRangeError,
    DataLossError,
    OutsideAgreementError,
    PageNotFoundError,
    PermissionDeniedError,
    ProjectNotFoundError,
    QuotaExhaustedError,
    RecensionError,
    RevisionNotFoundError,
    SnapshotNotFoundError,
)
from recension.model.event import Visibility
from recension.model.instant import MAX_INSTANT, format_instant
from recension.model.manifest import Manifest, Selector
from recension.model.reading import (
    START,
    WHOLE,
    Answer,
    Change,
    Entry,
    Place,
    ProjectInfo,
    Proof,
    Provenance,
    Revision,
    RevisionDiff,
    ServerInfo,
    Shard,
    StoredReader,
    TimelineItem,
    TimelinePlace,
    behind,
)
from recension.server.door import Caller, act_for, caller, no_agreement
from recension.server.metering import meter
from recension.server.scope import Scope, assurance, use
from recension.wire.convert import TextBudget

_Written = TypeVar("_Written")
Assure = Callable[[Any], Any]
"""Returns an answer that may be told, and raises for any other."""
_ANY = b""
"""In the place of a snapshot's id: whichever."""
ABSENT = "absent"
"""What the audit log is told of something that nobody would find."""


class Ruling(Protocol):
    """Knows the agreements: ``archive.agreements`` is it."""

    def current(self, licensee: str, now: int) -> Version | None:
        """Return the version that rules at an instant, microseconds since the epoch."""
        ...

    def retained(self, licensee: str, now: int) -> Version | None:
        """Return the version after whose end what was pinned under it can still be read at an instant."""
        ...


Pinned = Callable[[str, bytes, int], bool]
"""Says whether a licensee's live pin, made before an instant, holds a snapshot; any, if none is named."""


def nothing_pinned(owner: str, snapshot_id: bytes, before: int) -> bool:  # noqa: ARG001 - the shape of ``Pinned``
    """Say no."""
    return False


class Following:
    """What one follower is told. Those with the same ``terms`` are told the same."""

    def __init__(self, licensed: Licensed, what: Followed, version: Version | None) -> None:
        """``version``: of the agreement that grants it; ``None`` for who is not restricted."""
        self.what = what
        self.version = version
        self._licensed = licensed
        self._who = caller()

    @property
    def terms(self) -> tuple[object, ...]:
        """What is followed, and under which grants."""
        if self.version is None:
            return self.what, self._who.role
        return self.what, tuple(grants_of(self.version.agreement, self.what.project))

    @property
    def licensee(self) -> str:
        """Who follows; empty for who is not restricted."""
        return "" if self.version is None else self._who.owner

    def newest(self) -> Horizon:
        """Return the newest commit that exists for it now."""
        return self._licensed.newest(self)

    def told(self, told: Told, write: Callable[[Told, Assure], _Written]) -> _Written:
        """Return what ``write`` makes of a step as it may be told, each part of which it has to assure."""

        def run() -> _Written:
            act_for(self._who)
            return write(self._licensed.happened(self, told), assurance())

        return copy_context().run(run)


class Licensed:
    """A ``StoredReader`` for whoever makes the call that is being answered. Safe for concurrent use."""

    def __init__(
        self,
        reader: StoredReader,
        agreements: Ruling,
        positions: Horizons,
        *,
        wall: Clock = system_clock,
        embargo: Clock = system_clock,
        pinned: Pinned = nothing_pinned,
    ) -> None:
        """``reader``: what there is; ``wall``: when agreements hold; ``embargo``: by what horizons move.

        ``pinned``: what can be read for a while after the end.
        """
        self._reader = reader
        self._agreements = agreements
        self._positions = positions
        self._wall = wall
        self._embargo = embargo
        self._pinned = pinned

    # --- who asks -----------------------------------------------------------------------------------

    def _scope(self, *, textless: bool = False) -> Scope | None:
        """Return what rules this call; ``None`` for a caller who is not restricted.

        ``textless``: the answer has no text, so auditors may have it. Raises ``NoAgreementError``.
        """
        who = caller()
        if who.role is Role.OPERATOR or (who.role is Role.AUDITOR and textless):
            return None
        if who.role is not Role.LICENSEE:
            raise PermissionDeniedError("an auditor reads no text", role=who.role)
        scope = self._ruling(who)
        if scope is None:
            meter().note(reason=Reason.NO_AGREEMENT)
            raise no_agreement(who.owner)
        return scope

    def standing(self, who: Caller) -> str:
        """Name the version of the agreement that a caller is under; empty for none."""
        if who.role is not Role.LICENSEE:
            return ""
        version = self._agreements.current(who.owner, self._wall())
        if version is not None:
            return version.name
        kept = self._agreements.retained(who.owner, self._wall())
        return "" if kept is None else f"pins of {kept.name}"

    def pinnable(self, owner: str) -> bytes:
        """Return the digest of the version that the caller pins under; empty for who is not restricted.

        Nothing is pinned for longer once none is in force, though it can be read yet. Raises
        ``NoAgreementError``.
        """
        who = caller()
        if who.role is not Role.LICENSEE:
            return b""
        version = self._agreements.current(owner, self._wall())
        if version is None:
            meter().note(reason=Reason.NO_AGREEMENT)
            raise no_agreement(owner)
        return version.digest

    def _ruling(self, who: Caller) -> Scope | None:
        version = meter().version or self._agreements.current(who.owner, self._wall())
        return None if version is None else self._under(version)

    def _scope_of(self, snapshot_id: bytes, *, textless: bool = False) -> Scope | None:
        """Return what rules the reading of a snapshot: for a while after the end, a pin that held it."""
        who = caller()
        if who.role is Role.LICENSEE and self._agreements.current(who.owner, self._wall()) is None:
            kept = self._agreements.retained(who.owner, self._wall())
            if kept is not None and self._pinned(who.owner, snapshot_id, kept.over_at or 0):
                return self._under(kept)
        return self._scope(textless=textless)

    def _under(self, version: Version) -> Scope:
        """Return the scope of a version, and take note of it."""
        scope = Scope(version, self._embargo)
        meter().note(agreement=version.name)
        use(scope)
        return scope

    def _known(self, scope: Scope, project: str, known_at: int) -> int | None:
        """Return the K that a question about a granted project is put at: 0 for the newest of all.

        ``None`` when nothing of the project is old enough. Raises ``AsOfOutOfRangeError``, and
        ``ProjectNotFoundError`` for one that is not granted.
        """
        self._check_project(scope, project)
        horizon = scope.horizon(project)
        if horizon == FOREVER:
            return known_at
        return known_upto(self._positions.at(horizon).position, known_at) or None

    def _check_project(self, scope: Scope, project: str) -> None:
        if not scope.names(project):
            raise _not_there(scope, absent_project(project))

    # --- changes ------------------------------------------------------------------------------------

    def following(self, selector: Selector) -> Following:
        """Return what the caller follows by a selector of one project.

        Raises ``InvalidArgumentError``, ``ProjectNotFoundError``, ``OutsideAgreementError``.
        """
        check_followed(selector)
        (project,) = selector.projects
        scope = self._scope()
        if scope is None:
            self._reader.project(project)
            return Following(self, Followed(selector, MAX_INSTANT), None)
        self._check_project(scope, project)
        last = scope.last_time(project)
        what = Followed(selector, MAX_INSTANT if last is None else last)
        decision = scope.decide(SnapshotRequest(project, selector.namespaces, what.valid_at), 0)
        if not decision.allowed:
            raise _not_there(scope, _outside(scope, project, decision.reason))
        return Following(self, what, scope.version)

    def newest(self, following: Following) -> Horizon:
        """Return the newest commit that exists for a follower now."""
        if following.version is not None:
            horizon = Scope(following.version, self._embargo).horizon(following.what.project)
            if horizon != FOREVER:
                return self._positions.at(horizon)
        return self._positions.at(FOREVER)

    def happened(self, following: Following, told: Told) -> Told:
        """Return a step as it may be told; in the context that it is told in, which is then ruled by it."""
        if following.version is None:
            return told
        scope = Scope(following.version, self._embargo)
        use(scope)
        what, position = following.what, told.step.position
        events = list(_happened(scope, self._reader, what.project, position, told.events, told.namespaces))
        shown = scope.contents(what.manifest(position), told.step.recorded_at)
        return told._replace(events=events, entries=[entry and shown(entry) for entry in told.entries])

    # --- catalog ------------------------------------------------------------------------------------

    def server_info(self) -> ServerInfo:
        """Return what the server is; of its log, what exists for the caller."""
        info = self._reader.server_info()
        who = caller()
        if who.role is not Role.LICENSEE:
            return info
        scope = self._ruling(who)
        projects = (
            {project for grant in scope.agreement.grants for project in grant.projects} if scope else ()
        )
        horizon = max((scope.horizon(project) for project in projects if scope), default=-1)
        if horizon == FOREVER:
            return info
        known = self._positions.at(horizon) if horizon >= 0 else Horizon(0, 0)
        return replace(info, position=known.position, recorded_at=known.recorded_at)

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        scope = self._scope(textless=True)
        found = self._reader.projects()
        if scope is None:
            return found
        return [self._project(scope, info) for info in found if scope.names(info.name)]

    def project(self, name: str) -> ProjectInfo:
        """Return one project. Raises ``ProjectNotFoundError``.

        Whoever reads a pin after the end is told where its pages come from, and under which licences.
        """
        scope = self._scope_of(_ANY, textless=True)
        if scope is None:
            return self._reader.project(name)
        self._check_project(scope, name)
        return self._project(scope, self._reader.project(name))

    def _project(self, scope: Scope, info: ProjectInfo) -> ProjectInfo:
        """Return a granted project; without counts, unless all that they count is granted."""
        is_over = scope.version.is_over(self._wall())
        if scope.is_whole(info.name) and not is_over:
            return info
        horizon = scope.horizon(info.name)
        position = 0 if is_over else info.position
        if position and horizon != FOREVER:
            position = self._positions.newest_of([info.name], self._positions.at(horizon).position)
        return replace(
            info,
            revisions=0,
            pages=0,
            position=position,
            first_event_at=None,
            last_event_at=None,
            unresolved_log_entries=0,
        )

    # --- single revisions and pages -----------------------------------------------------------------

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision. Raises ``RevisionNotFoundError``."""
        scope = self._scope()
        if scope is None:
            answer = self._reader.revision(project, rev_id, known_at=known_at, text=text)
        else:
            known = self._known(scope, project, known_at)
            answer = self._revision(scope, project, rev_id, known, text=text)
        _take(answer.revision)
        return answer

    def provenance(self, project: str, rev_id: int, *, known_at: int = 0) -> Provenance:
        """Return what a revision was read from; a licensee is told form and digest, no names and places."""
        scope = self._scope()
        if scope is None:
            return self._reader.provenance(project, rev_id, known_at=known_at)
        known = self._known(scope, project, known_at)
        known_at = self._revision(scope, project, rev_id, known, text=False).as_of.known_at
        told = self._reader.provenance(project, rev_id, known_at=known_at)
        return replace(told, source="", events=(0, 0), offsets={})

    def _revision(
        self, scope: Scope, project: str, rev_id: int, known_at: int | None, *, text: bool
    ) -> Answer:
        if known_at is not None:
            with suppress(RevisionNotFoundError):
                try:
                    answer = self._reader.revision(project, rev_id, known_at=known_at, text=text)
                except DataLossError:  # is told of what is granted alone
                    answer = self._reader.revision(project, rev_id, known_at=known_at, text=False)
                    if scope.revision(answer.revision) is not None:
                        raise
                shown = scope.revision(answer.revision)
                if shown is not None:
                    return Answer(shown, answer.as_of)
        raise _not_there(scope, absent_revision(project, rev_id))

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked; at most ``MAX_BATCH``."""
        scope = self._scope()
        if scope is None:
            out = self._reader.revisions(project, rev_ids, known_at=known_at, text=text)
        else:
            found: list[Revision | RecensionError | None] = [None] * len(rev_ids)
            try:
                known = self._known(scope, project, known_at)
            except AsOfOutOfRangeError as error:
                known, found = None, [error] * len(rev_ids)
            if known is not None:
                found = [*self._reader.revisions(project, rev_ids, known_at=known, text=text)]
            out = [
                self._tellable(scope, project, rev_id, known, one)
                if isinstance(one, DataLossError)
                else _shown(scope, project, rev_id, one)
                for rev_id, one in zip(rev_ids, found, strict=True)
            ]
        for place, one in enumerate(out):
            if isinstance(one, Revision):
                try:
                    _take(one)
                except QuotaExhaustedError as error:  # it refuses no item before
                    out[place] = error
        return out

    def _tellable(
        self, scope: Scope, project: str, rev_id: int, known_at: int | None, error: DataLossError
    ) -> Revision | RecensionError:
        """Return what a licensee is told of a damaged item of a batch."""
        try:
            self._revision(scope, project, rev_id, known_at, text=False)
        except RecensionError as other:
            return other
        return error

    def article(
        self,
        project: str,
        page: int | str,
        *,
        valid_at: int | None = None,
        known_at: int = 0,
        text: bool = True,
    ) -> Answer:
        """Return a page, by id or title, as it was. Raises ``PageNotFoundError``, ``AsOfOutOfRangeError``."""
        scope = self._scope()
        if scope is None:
            answer = self._reader.article(project, page, valid_at=valid_at, known_at=known_at, text=text)
        else:
            answer = self._article(scope, project, page, valid_at, known_at, text=text)
        _take(answer.revision)
        return answer

    def _article(
        self,
        scope: Scope,
        project: str,
        page: int | str,
        valid_at: int | None,
        known_at: int,
        *,
        text: bool,
    ) -> Answer:
        known = self._known(scope, project, known_at)
        at = self._time(scope, project, valid_at)
        if known is not None:
            with suppress(PageNotFoundError):
                try:
                    answer = self._reader.article(project, page, valid_at=at, known_at=known, text=text)
                except DataLossError:  # is told of what is granted alone
                    answer = self._reader.article(project, page, valid_at=at, known_at=known, text=False)
                    if scope.revision(answer.revision, answer.as_of.valid_at) is not None:
                        raise
                shown = scope.revision(answer.revision, answer.as_of.valid_at)
                if shown is not None:
                    return Answer(shown, answer.as_of)
        raise _not_there(scope, absent_page(project, page))

    def _time(self, scope: Scope, project: str, valid_at: int | None) -> int | None:
        """Return the T that a question means: without one now, or the last that is granted."""
        last = scope.last_time(project)
        return last if valid_at is None and last is not None and last < self._wall() else valid_at

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page by (valid time, revision id, position), behind ``after``."""
        scope = self._scope()
        if scope is None:
            return self._reader.timeline(project, page_id, known_at=known_at, after=after)
        known = self._known(scope, project, known_at)
        first = None
        if known is not None:
            with suppress(PageNotFoundError):
                # Places count what is shown, so the archive is asked for all of the instant that one is in.
                start = None if after is None else after._replace(nth=0)
                items = self._reader.timeline(project, page_id, known_at=known, after=start)
                shown = behind(_happened(scope, self._reader, project, known, items), after)
                whole = self._reader.timeline(project, page_id, known_at=known) if after else iter(())
                first = next(shown, None)
                exists = first or next(_happened(scope, self._reader, project, known, whole), None)
                if exists is not None:
                    return shown if first is None else chain((first,), shown)
        raise _not_there(scope, absent_page(project, page_id))

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size. Raises ``TextUnavailableError``."""
        scope = self._scope()
        if scope is None:
            text = self._reader.text(project, rev_id, role)
        else:
            known = self._known(scope, project, 0)
            text = present_text(self._revision(scope, project, rev_id, known, text=True).revision, role)
        meter().take(1, len(text))
        return text

    def diff_revisions(
        self,
        project: str,
        before: int,
        after: int,
        *,
        role: str = "main",
        context: int = DEFAULT_CONTEXT,
        known_at: int = 0,
    ) -> RevisionDiff:
        """Compare one slot of two revisions, with ``context`` equal lines around each difference.

        Counted as both texts.
        """
        scope = self._scope()
        known: int | None = known_at
        if scope is not None:
            known = self._known(scope, project, known_at)
            a = self._revision(scope, project, before, known, text=True)
            known = a.as_of.known_at
            b = self._revision(scope, project, after, known, text=True)
            for answer in (a, b):
                present_text(answer.revision, role)
        found = self._reader.diff_revisions(
            project, before, after, role=role, context=context, known_at=known or 0
        )
        if scope is not None:
            sides = [scope.revision(side) for side in (found.before, found.after)]
            if sides[0] is None or sides[1] is None:
                raise _not_there(scope, absent_revision(project, before if sides[0] is None else after))
            found = replace(found, before=sides[0], after=sides[1])
        slots = (found.before.slot(role), found.after.slot(role))
        meter().take(2, sum(slot.size_bytes for slot in slots if slot is not None))
        return found

    def revision_attribution(self, project: str, rev_id: int, *, known_at: int = 0) -> Credited:
        """Return whom to credit for a revision. Raises ``RevisionNotFoundError``.

        Whoever may read a revision is told all who made it, also before what is granted.
        """
        scope = self._scope()
        if scope is not None:
            known = self._known(scope, project, known_at)
            known_at = self._revision(scope, project, rev_id, known, text=False).as_of.known_at
        return self._reader.revision_attribution(project, rev_id, known_at=known_at)

    def article_attribution(
        self, project: str, page: int | str, *, valid_at: int | None = None, known_at: int = 0
    ) -> Credited:
        """Return whom to credit for a page as it was. Raises as ``article``."""
        scope = self._scope()
        if scope is not None:
            as_of = self._article(scope, project, page, valid_at, known_at, text=False).as_of
            valid_at, known_at = as_of.valid_at, as_of.known_at
        return self._reader.article_attribution(project, page, valid_at=valid_at, known_at=known_at)

    # --- snapshots ----------------------------------------------------------------------------------

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot.

        Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``, ``OutsideAgreementError``.
        """
        scope = self._scope()
        if scope is None:
            return self._reader.create_snapshot(selector, valid_at=valid_at, known_at=known_at)
        for project in selector.projects:
            self._check_project(scope, project)
        known = self._newest(scope, selector, known_at)
        lasts = [last for project in selector.projects if (last := scope.last_time(project)) is not None]
        if valid_at is None and lasts and min(lasts) < self._wall():
            valid_at = min(lasts)
        at = self._wall() if valid_at is None else valid_at
        for project in selector.projects:
            # K is within the horizon already, or the archive says that there is no such position.
            decision = scope.decide(SnapshotRequest(project, selector.namespaces, at), 0)
            if not decision.allowed:
                raise _not_there(scope, _outside(scope, project, decision.reason))
        try:
            manifest = self._reader.create_snapshot(selector, valid_at=valid_at, known_at=known)
        except AsOfOutOfRangeError as error:
            if "project" not in error.metadata:
                raise
            # The archive would say when the project's first event was, whose ever it is.
            raise AsOfOutOfRangeError(
                f"project {error.metadata['project']!r} has no events at that time",
                hint="ask for a later one",
                project=error.metadata["project"],
            ) from None
        self._noted(manifest)
        return manifest

    def _newest(self, scope: Scope, selector: Selector, known_at: int) -> int:
        """Return the K of a snapshot to be made: 0 for the archive's own choice.

        Without one the newest event of its projects that is old enough, as the archive chooses it.
        """
        horizon = min(scope.horizon(project) for project in selector.projects)
        if horizon == FOREVER:
            return known_at
        upto = self._positions.at(horizon).position
        known = known_upto(upto, known_at)
        if not known_at:
            known = self._positions.newest_of(selector.projects, upto)
        if not known:
            raise AsOfOutOfRangeError(
                "nothing of these projects is old enough for your agreement yet",
                hint="see its freshness with: recension agreement",
            )
        return known

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot. Raises ``SnapshotNotFoundError``."""
        return self._manifest(self._scope_of(snapshot_id, textless=True), snapshot_id)

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, those behind the one with the id ``after``."""
        scope = self._scope(textless=True)
        if scope is None:
            return self._reader.snapshots(after=after)
        if after:
            self._manifest(scope, after)
        found = self._reader.snapshots(after=after)
        return (manifest for manifest in found if scope.manifest(manifest, self._commit_time(manifest)))

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts by (project, page id)."""
        shown = self._contents(snapshot_id)
        return map(shown, self._reader.entries(snapshot_id, after=after))

    def read(
        self,
        snapshot_id: bytes,
        *,
        shard: Shard = WHOLE,
        after: Place = START,
        text: bool = True,
        stored: bool = False,
    ) -> Iterator[Entry]:
        """Yield a shard's entries by (project, page id), with texts unless ``text`` is off."""
        shown = self._contents(snapshot_id)
        found = self._reader.read(snapshot_id, shard=shard, after=after, text=text, stored=stored)
        return _counted(map(shown, found))

    def read_at(
        self, snapshot_id: bytes, indexes: Sequence[int], *, text: bool = True, stored: bool = False
    ) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked."""
        shown = self._contents(snapshot_id)
        return _counted(map(shown, self._reader.read_at(snapshot_id, indexes, text=text, stored=stored)))

    def diff(
        self, before: bytes, after: bytes, *, start: Place = START, text: bool = False
    ) -> Iterator[Change]:
        """Yield what differs between two snapshots of the same projects, by (project, page id)."""
        shown = self._contents(before), self._contents(after)
        changes = self._reader.diff(before, after, start=start, text=text)
        return _counted_changes(
            change._replace(
                before=None if change.before is None else shown[0](change.before),
                after=None if change.after is None else shown[1](change.after),
            )
            for change in changes
        )

    def attributions(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, since: bytes = b""
    ) -> Iterator[Attribution]:
        """Yield whom to credit for each page of a shard, by (project, page id), with all contributors.

        A licensee is not told of pages whose revision lies outside of what is granted.
        """
        scope = self._scope_of(snapshot_id)
        manifest = self._manifest(scope, snapshot_id)
        if since:
            self._manifest(self._scope_of(since), since)
        found = self._reader.attributions(snapshot_id, shard=shard, after=after, since=since)
        if scope is None:
            return found
        commit_time = self._commit_time(manifest)
        return (one for one in found if scope.attribution(one, commit_time))

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not. Raises ``ProjectNotFoundError``."""
        shown = self._contents(snapshot_id)
        proof = self._reader.prove(snapshot_id, project, page_id)
        return proof if proof.entry is None else replace(proof, entry=shown(proof.entry))

    def _manifest(self, scope: Scope | None, snapshot_id: bytes) -> Manifest:
        if scope is None:
            return self._noted(self._reader.snapshot(snapshot_id))
        with suppress(SnapshotNotFoundError):
            manifest = self._reader.snapshot(snapshot_id)
            if scope.manifest(manifest, self._commit_time(manifest)):
                return self._noted(manifest)
        raise _not_there(scope, absent_snapshot(snapshot_id))

    def _contents(self, snapshot_id: bytes) -> Callable[[Entry], Entry]:
        """Return what shows the entries of a snapshot. Raises ``SnapshotNotFoundError``."""
        scope = self._scope_of(snapshot_id)
        manifest = self._manifest(scope, snapshot_id)
        return _as_it_is if scope is None else scope.contents(manifest, self._commit_time(manifest))

    def _commit_time(self, manifest: Manifest) -> int:
        return self._positions.recorded_at(manifest.as_of.known_at)

    def _noted(self, manifest: Manifest) -> Manifest:
        meter().note(snapshot=format_digest(manifest.snapshot_id))
        return manifest


def _as_it_is(entry: Entry) -> Entry:
    return entry


def _shown(
    scope: Scope, project: str, rev_id: int, found: Revision | RecensionError | None
) -> Revision | RecensionError:
    """Return one outcome of a batch as the caller may see it."""
    if isinstance(found, Revision):
        found = scope.revision(found)
    if found is None or isinstance(found, RevisionNotFoundError):
        return _not_there(scope, absent_revision(project, rev_id))
    return found


def _happened(
    scope: Scope,
    reader: StoredReader,
    project: str,
    known_at: int,
    items: Iterable[TimelineItem],
    namespaces: Mapping[int, frozenset[int]] | None = None,
) -> Iterator[TimelineItem]:
    """Yield the items of a timeline that exist for the caller.

    ``namespaces``: of a follower, who was told of revisions as those of any of these, by revision. That one
    is hidden it has to hear whenever that was.
    """
    for item in items:
        what = item.what
        if isinstance(what, Revision):
            shown = scope.revision(what)
            if shown is not None:
                yield item if shown is what else replace(item, what=shown)
        elif isinstance(what, Visibility):
            with suppress(RevisionNotFoundError):
                whose = reader.revision(project, what.rev_id, known_at=known_at, text=False).revision
                if namespaces is None:
                    is_served = scope.revision(whose, item.time) is not None
                else:
                    named = namespaces.get(what.rev_id, ())
                    is_served = any(scope.revision(replace(whose, namespace=one)) for one in named)
                if is_served:
                    yield item
        elif scope.happening(project, item):
            yield item


# --- what leaves is counted before it does ------------------------------------------------------------


def _take(revision: Revision) -> None:
    """Count the texts of a revision that its answer has room for."""
    budget = TextBudget()
    sizes = [len(slot.text) for slot in revision.slots if slot.text is not None]
    left = [size for size in sizes if budget.take(size)]
    if left:
        meter().take(1, sum(left))


def _counted(entries: Iterator[Entry]) -> Iterator[Entry]:
    take = meter().take
    for entry in entries:
        size, there = _texts(entry)
        if there:
            take(1, size)
        yield entry


def _counted_changes(changes: Iterator[Change]) -> Iterator[Change]:
    take = meter().take
    for change in changes:
        for side in (change.before, change.after):
            if side is not None:
                size, there = _texts(side)
                if there:
                    take(1, size)
        yield change


def _texts(entry: Entry) -> tuple[int, bool]:
    """Return the bytes of an entry's texts, and whether it has any text."""
    size, there = 0, False
    for slot in entry.slots:
        carried = slot.carried_bytes
        if carried is not None:
            size, there = size + carried, True
    return size, there


# --- what there is not, and what there is not for the caller ------------------------------------------


_Error = TypeVar("_Error", bound=RecensionError)


def _not_there(scope: Scope, error: _Error) -> _Error:
    """Return an error; the audit log is told why it is one."""
    meter().note(reason=scope.refused or ABSENT)
    return error


def absent_project(project: str) -> ProjectNotFoundError:
    """Return the error of a project that a licensee does not see."""
    return ProjectNotFoundError(
        f"no project {project[:80]!r}",
        hint="recension projects lists those of your agreement",
        project=project[:80],
    )


def absent_revision(project: str, rev_id: int) -> RevisionNotFoundError:
    """Return the error of a revision that a licensee does not see."""
    return RevisionNotFoundError(f"no revision {rev_id} in {project!r}", project=project, revId=rev_id)


def absent_page(project: str, page: int | str) -> PageNotFoundError:
    """Return the error of a page that a licensee does not see."""
    name = f"page {page}" if isinstance(page, int) else f"page titled {page[:200]!r}"
    return PageNotFoundError(
        f"no {name} in {project!r} at that as-of",
        hint="check the id, or the title's spelling and namespace prefix, and what your agreement covers",
        project=project,
        page=page,
    )


def absent_snapshot(snapshot_id: bytes) -> SnapshotNotFoundError:
    """Return the error of a snapshot that a licensee does not see."""
    name = format_digest(snapshot_id)
    return SnapshotNotFoundError(
        f"no snapshot {name}", hint="list the snapshots with: recension snapshots", snapshot=name
    )


def _outside(scope: Scope, project: str, reason: Reason) -> OutsideAgreementError:
    """Return the error of a selector that takes too much: it says what the caller's own agreement grants."""
    said = []
    for grant in scope.agreement.grants:
        if project in grant.projects:
            which = "all namespaces"
            if grant.namespaces is not None:
                which = f"the namespaces {', '.join(map(str, sorted(grant.namespaces)))}"
            since = "" if grant.earliest is None else f" from {format_instant(grant.earliest)}"
            until = "" if grant.latest is None else f" to {format_instant(grant.latest)}"
            said.append(f"{which}{since}{until}")
    return OutsideAgreementError(
        f"your agreement covers of {project!r} {'; '.join(said)}: the selector or its time takes more",
        hint="select these namespaces, at a time of that window"
        if reason is Reason.WINDOW
        else "select these namespaces",
        project=project,
    )
