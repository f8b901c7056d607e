"""The archive's read protocol in process: ``model.reading.Reader`` over a store.

Every answer is made inside one short view; iterators read a slice, close it, and go on by key, so a slow
consumer holds no transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from recension.archive.clock import Clock, system_clock
from recension.archive.compare import Comparer
from recension.archive.credits import Credits, of_revision
from recension.archive.entries import Entries
from recension.archive.keeping import Keeper
from recension.archive.ledger import signing_keys
from recension.archive.pages import Pages
from recension.archive.projects import Numbers, definition_of, project_names, tally_of
from recension.archive.texts.hot import HotTexts
from recension.model.credit import MAX_CREDITED, Attribution, Credited
from recension.model.difference import DEFAULT_CONTEXT
from recension.model.errors import InvalidArgumentError, RecensionError
from recension.model.manifest import FORMAT, Manifest, Selector
from recension.model.reading import (
    MAX_INDEXES,
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
    TimelineItem,
    TimelinePlace,
)
from recension.store.interface import Store, View


class Archive:
    """Reads a store. Safe for concurrent use."""

    def __init__(self, store: Store, *, clock: Clock = system_clock, hot: HotTexts | None = None) -> None:
        """Read from ``store``; the clock is asked once for each answer that needs it.

        ``hot``: what is read in bulk more than once.
        """
        self._store = store
        self._numbers = Numbers()
        self._pages = Pages(store, clock, self._numbers)
        self._keeper = Keeper(store, clock, self._numbers)
        self._entries = Entries(store, self._numbers, hot)
        self._comparer = Comparer(store, self._numbers, self._entries)
        self._credits = Credits(store, self._numbers)

    # --- catalog --------------------------------------------------------------------------------

    def server_info(self) -> ServerInfo:
        """Return what the server is."""
        with self._store.view() as view:
            head = view.head()
            return ServerInfo(
                _version(), (FORMAT,), head.position, head.recorded_at, tuple(signing_keys(view))
            )

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        with self._store.view() as view:
            return [_project_info(view, number) for _, number in project_names(view)]

    def project(self, name: str) -> ProjectInfo:
        """Return one project."""
        with self._store.view() as view:
            return _project_info(view, self._numbers.of(view, name))

    # --- single revisions -----------------------------------------------------------------------

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision, named as at its own time."""
        return self._pages.revision(project, rev_id, known_at=known_at, text=text)

    def provenance(self, project: str, rev_id: int, *, known_at: int = 0) -> Provenance:
        """Return what a revision was read from."""
        return self._pages.provenance(project, rev_id, known_at=known_at)

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked."""
        return self._pages.revisions(project, rev_ids, known_at=known_at, text=text)

    def article(
        self,
        project: str,
        page: int | str,
        *,
        valid_at: int | None = None,
        known_at: int = 0,
        text: bool = True,
    ) -> Answer:
        """Return a page, by id or title, as it was."""
        return self._pages.article(project, page, valid_at=valid_at, known_at=known_at, text=text)

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size."""
        return self._pages.text(project, rev_id, role)

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page by (valid time, revision id, position), behind ``after``."""
        return self._pages.timeline(project, page_id, known_at=known_at, after=after)

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
        return self._pages.diff(project, (before, after), role, context, known_at)

    # --- attribution ----------------------------------------------------------------------------

    def revision_attribution(self, project: str, rev_id: int, *, known_at: int = 0) -> Credited:
        """Return whom to credit for a revision, named as at its own time."""
        return self._credited(self.revision(project, rev_id, known_at=known_at, text=False))

    def article_attribution(
        self, project: str, page: int | str, *, valid_at: int | None = None, known_at: int = 0
    ) -> Credited:
        """Return whom to credit for a page, by id or title, as it was."""
        return self._credited(self.article(project, page, valid_at=valid_at, known_at=known_at, text=False))

    def _credited(self, answer: Answer) -> Credited:
        (found,) = self._credits.of([of_revision(answer.revision)], answer.as_of.known_at)
        named, left = found.shares[:MAX_CREDITED], len(found.shares[MAX_CREDITED:])
        return Credited(found._replace(shares=named, omitted=left), answer.as_of)

    def attributions(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, since: bytes = b""
    ) -> Iterator[Attribution]:
        """Yield whom to credit for each page of a shard, by (project, page id)."""
        known_at = self.snapshot(snapshot_id).as_of.known_at
        entries: Iterator[Entry]
        if since:
            changes = self.diff(since, snapshot_id, start=after)
            changed = (change.after for change in changes if change.after is not None)
            entries = (entry for entry in changed if shard.holds(entry.page_id))
        else:
            entries = self.read(snapshot_id, shard=shard, after=after, text=False)
        return self._credits.of_entries(entries, known_at)

    # --- snapshots ------------------------------------------------------------------------------

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot; without K, as known at the newest event of its projects."""
        return self._keeper.create(selector, valid_at=valid_at, known_at=known_at)

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot."""
        return self._keeper.snapshot(snapshot_id)

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, those behind ``after``."""
        return self._keeper.snapshots(after=after)

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts by (project, page id)."""
        return self._entries.read(self.snapshot(snapshot_id), WHOLE, after, text=False)

    def read(
        self,
        snapshot_id: bytes,
        *,
        shard: Shard = WHOLE,
        after: Place = START,
        text: bool = True,
        stored: bool = False,
    ) -> Iterator[Entry]:
        """Yield a shard's entries by (project, page id)."""
        manifest = self.snapshot(snapshot_id)
        if not 0 <= shard.index < shard.count:
            raise InvalidArgumentError(
                f"no shard {shard.index} of {shard.count}", hint="shards run from 0 to count-1", field="shard"
            )
        return self._entries.read(manifest, shard, after, text=text, stored=stored)

    def read_at(
        self, snapshot_id: bytes, indexes: Sequence[int], *, text: bool = True, stored: bool = False
    ) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked."""
        manifest = self.snapshot(snapshot_id)
        count = sum(part.count for part in manifest.parts)
        if len(indexes) > MAX_INDEXES:
            raise InvalidArgumentError(
                f"{len(indexes):,} places in one call",
                hint=f"ask for at most {MAX_INDEXES:,}",
                field="indexes",
            )
        for index in indexes:
            if not 0 <= index < count:
                raise InvalidArgumentError(
                    f"no entry at place {index}",
                    hint=f"places run from 0 to {count - 1}" if count else "the snapshot is empty",
                    field="indexes",
                    value=index,
                )
        return self._entries.read_at(manifest, indexes, text=text, stored=stored)

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not."""
        return self._entries.prove(self.snapshot(snapshot_id), project, page_id)

    def diff(
        self, before: bytes, after: bytes, *, start: Place = START, text: bool = False
    ) -> Iterator[Change]:
        """Yield what differs between two snapshots of the same projects, by (project, page id)."""
        a, b = self.snapshot(before), self.snapshot(after)
        if a.selector.projects != b.selector.projects:
            raise InvalidArgumentError(
                "the snapshots are of different projects",
                hint="compare snapshots of the same projects",
                field="snapshot_b",
            )
        return self._comparer.diff(a, b, start, text=text)


def _version() -> str:
    try:
        return version("recension")
    except PackageNotFoundError:
        return "unknown"


def _project_info(view: View, number: int) -> ProjectInfo:
    definition = definition_of(view, number)
    position, tally = tally_of(view, number)
    spans = tally.revisions > 0
    return ProjectInfo(
        definition.name,
        definition.base_url,
        definition.language,
        definition.license,
        tally.revisions,
        tally.pages,
        position,
        tally.first_event_at if spans else None,
        tally.last_event_at if spans else None,
        tally.log_entries,
        definition.licenses,
    )
