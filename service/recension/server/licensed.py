"""The read protocol as the caller of this moment may use it: what stands between every answer and its caller.

It spells out every method, so that one that is added is decided on by someone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recension.model.credit import Attribution, Credited
from recension.model.difference import DEFAULT_CONTEXT
from recension.model.errors import RecensionError
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
    Revision,
    RevisionDiff,
    ServerInfo,
    Shard,
    StoredReader,
    TimelineItem,
    TimelinePlace,
)


class Licensed:
    """A ``StoredReader`` for whoever makes the call that is being answered. Safe for concurrent use."""

    def __init__(self, reader: StoredReader) -> None:
        """``reader``: what there is."""
        self._reader = reader

    def server_info(self) -> ServerInfo:
        """Return what the server is."""
        return self._reader.server_info()

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        return self._reader.projects()

    def project(self, name: str) -> ProjectInfo:
        """Return one project. Raises ``ProjectNotFoundError``."""
        return self._reader.project(name)

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision. Raises ``RevisionNotFoundError``."""
        return self._reader.revision(project, rev_id, known_at=known_at, text=text)

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked; at most ``MAX_BATCH``."""
        return self._reader.revisions(project, rev_ids, known_at=known_at, text=text)

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
        return self._reader.article(project, page, valid_at=valid_at, known_at=known_at, text=text)

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page by (valid time, revision id, position), behind ``after``."""
        return self._reader.timeline(project, page_id, known_at=known_at, after=after)

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size. Raises ``TextUnavailableError``."""
        return self._reader.text(project, rev_id, role)

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
        """Compare one slot of two revisions, with ``context`` equal lines around each difference."""
        return self._reader.diff_revisions(
            project, before, after, role=role, context=context, known_at=known_at
        )

    def revision_attribution(self, project: str, rev_id: int, *, known_at: int = 0) -> Credited:
        """Return whom to credit for a revision. Raises ``RevisionNotFoundError``."""
        return self._reader.revision_attribution(project, rev_id, known_at=known_at)

    def article_attribution(
        self, project: str, page: int | str, *, valid_at: int | None = None, known_at: int = 0
    ) -> Credited:
        """Return whom to credit for a page as it was. Raises as ``article``."""
        return self._reader.article_attribution(project, page, valid_at=valid_at, known_at=known_at)

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot. Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``."""
        return self._reader.create_snapshot(selector, valid_at=valid_at, known_at=known_at)

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot. Raises ``SnapshotNotFoundError``."""
        return self._reader.snapshot(snapshot_id)

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, those behind the one with the id ``after``."""
        return self._reader.snapshots(after=after)

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts by (project, page id)."""
        return self._reader.entries(snapshot_id, after=after)

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
        return self._reader.read(snapshot_id, shard=shard, after=after, text=text, stored=stored)

    def read_at(
        self, snapshot_id: bytes, indexes: Sequence[int], *, text: bool = True, stored: bool = False
    ) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked."""
        return self._reader.read_at(snapshot_id, indexes, text=text, stored=stored)

    def diff(
        self, before: bytes, after: bytes, *, start: Place = START, text: bool = False
    ) -> Iterator[Change]:
        """Yield what differs between two snapshots of the same projects, by (project, page id)."""
        return self._reader.diff(before, after, start=start, text=text)

    def attributions(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, since: bytes = b""
    ) -> Iterator[Attribution]:
        """Yield whom to credit for each page of a shard, by (project, page id), with all contributors."""
        return self._reader.attributions(snapshot_id, shard=shard, after=after, since=since)

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not. Raises ``ProjectNotFoundError``."""
        return self._reader.prove(snapshot_id, project, page_id)
