"""Answers, as values: what the archive in process and the client over the wire both return.

Times are microseconds since the epoch, digests and commitments 32 raw bytes, sizes UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from recension.model.credit import Attribution, Credited, LicensePeriod
from recension.model.difference import DEFAULT_CONTEXT, TextDiff
from recension.model.errors import RecensionError
from recension.model.event import Comment, Contributor, Delete, Move, Presence, Restore, Visibility
from recension.model.manifest import AsOf, Manifest, Selector

MAX_BATCH = 100
"""Largest number of revision ids in one batch call."""
MAX_PAGE = 1_000
"""Largest page of a list call."""
MAX_INDEXES = 10_000
"""Largest number of places in one call."""
MAX_FRAME_TEXT = 1024 * 1024
"""Largest text that is sent as a zstd frame, in bytes."""
MAX_BATCH_FRAME_TEXT = 2 * MAX_FRAME_TEXT
"""Most text, in bytes, that the frames of one batch hold together: whoever decodes them has to know."""


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """One corpus and what is held of it."""

    name: str
    base_url: str
    language: str
    license: str
    """SPDX id of what is saved now."""
    revisions: int = 0
    pages: int = 0
    position: int = 0
    """Newest commit of this project; 0 before the first event."""
    first_event_at: int | None = None
    last_event_at: int | None = None
    unresolved_log_entries: int = 0
    licenses: tuple[LicensePeriod, ...] = ()
    """Those that follow one another in time; the last is ``license``. Empty where it is the only one."""

    @property
    def periods(self) -> tuple[LicensePeriod, ...]:
        """From when on which licence is that of what was saved; at least one."""
        return self.licenses or (LicensePeriod(self.license),)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that a server signs its checkpoints with, or has signed them with."""

    key: str
    """Verifier key as in c2sp.org/signed-note."""
    statement: str
    """Canonical JSON, as in the log (``model.note``)."""
    position: int
    leaf_index: int
    """Of the statement in the checkpoint log."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is."""

    version: str
    formats: tuple[str, ...]
    position: int
    recorded_at: int
    signing_keys: tuple[SigningKey, ...] = ()
    """The newest last; none when the server signs nothing."""


class Slot(NamedTuple):
    """One named content of a revision."""

    role: str
    model: str
    format: str
    presence: Presence
    size_bytes: int = 0
    digest: bytes = b""
    text: bytes | None = None
    """The content; ``None`` when not asked for, not present, or left out for its size."""
    sha1_verdict: str = ""
    """What became of upstream's SHA-1 claim: exact, exact_after_crlf, mismatch or absent."""
    frame: bytes | None = None
    """The content as a zstd frame, in place of ``text``; nobody compared it with ``digest`` yet."""

    @property
    def carried_bytes(self) -> int | None:
        """Bytes of the text that comes along, in whichever form; ``None`` when none does."""
        if self.text is not None:
            return len(self.text)
        return None if self.frame is None else self.size_bytes


@dataclass(frozen=True, slots=True)
class Revision:
    """One saved state of a page, with the page's title at the as-of of the answer."""

    project: str
    page_id: int
    rev_id: int
    parent_rev_id: int
    timestamp: int
    title: str
    namespace: int
    title_inferred: bool
    contributor: Contributor
    comment: Comment
    minor: bool
    redirect: bool
    slots: tuple[Slot, ...]
    position: int
    recorded_at: int

    def slot(self, role: str = "main") -> Slot | None:
        """Return the slot of that role, if the revision has it."""
        return next((slot for slot in self.slots if slot.role == role), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A revision and the as-of that it was resolved to."""

    revision: Revision
    as_of: AsOf


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a revision was read from, as the log says."""

    position: int
    """Of the commit that brought it."""
    recorded_at: int
    form: str = ""
    """Of the source, as in ``Mark.form``; empty where the log does not say."""
    digest: bytes = b""
    """Of the file that it came from, 32 bytes; empty for what came otherwise or was not read to its end."""
    size_bytes: int = 0
    """Of that file."""
    source: str = ""
    """Name of the file, address of the stream, or owner of the key; operators alone are told."""
    events: tuple[int, int] = (0, 0)
    """Which events of the file the commit was made of: from the first number up to, without, the second."""
    offsets: Mapping[str, str] = field(default_factory=dict)
    """Where the stream went on behind the commit."""
    stated_license: str = ""
    """What the source said of its licence; what it is served under follows from its project and its day."""


@dataclass(frozen=True, slots=True)
class RevisionDiff:
    """What differs between one slot of two revisions, which come without texts."""

    before: Revision
    after: Revision
    diff: TextDiff
    known_at: int


@dataclass(frozen=True, slots=True)
class TimelineItem:
    """One thing in a page's timeline; an edit is a ``Revision`` without texts."""

    time: int
    position: int
    recorded_at: int
    what: Revision | Move | Delete | Restore | Visibility


class Entry(NamedTuple):
    """One page in a snapshot, with what is needed to recompute its leaf."""

    project: str
    page_id: int
    rev_id: int
    timestamp: int
    title: str
    namespace: int
    title_inferred: bool
    slots: tuple[Slot, ...]
    title_salt: bytes
    """Salt of the title field, 16 bytes."""
    content_salt: bytes
    """Salt of the content field, 16 bytes; empty when the content is withheld."""
    content_commitment: bytes
    """Commitment of the content, 32 bytes, when it is withheld; else empty."""
    text_hidden: bool = False

    def slot(self, role: str = "main") -> Slot | None:
        """Return the slot of that role, if the entry has it."""
        for slot in self.slots:  # asked of every entry: a generator takes twice as long
            if slot.role == role:
                return slot
        return None


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether a snapshot holds a page, and why that is so; ``recension_client.verify`` checks it."""

    manifest: Manifest
    project: str
    page_id: int
    entry: Entry | None
    """Without texts; ``None`` when the snapshot does not hold the page."""
    path: tuple[bytes, ...]
    """Short forms of the tree's nodes from the root towards the page (``model.proof``)."""
    prefix: int | None = None
    """Of the root, where the page lies outside of it."""


class ChangeKind(StrEnum):
    """How a page differs between two snapshots."""

    ADDED = "added"
    REMOVED = "removed"
    EDITED = "edited"
    MOVED = "moved"
    EDITED_AND_MOVED = "edited+moved"
    RETRACTED = "retracted"
    """A's text was hidden by the time of B: B no longer holds that revision, or keeps it without its text."""


class Change(NamedTuple):
    """One page that differs."""

    kind: ChangeKind
    project: str
    page_id: int
    before: Entry | None
    after: Entry | None

    @property
    def text_bytes_before(self) -> int:
        """Text of the entry in A that is present now, all slots together."""
        return _text_bytes(self.before)

    @property
    def text_bytes_after(self) -> int:
        """Text of the entry in B that is present now, all slots together."""
        return _text_bytes(self.after)


def _text_bytes(entry: Entry | None) -> int:
    return sum(slot.size_bytes for slot in entry.slots) if entry is not None else 0


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count``: the pages with ``(page_id >> 8) % count == index``."""

    index: int = 0
    count: int = 1

    def holds(self, page_id: int) -> bool:
        """Say whether a page belongs to this part."""
        return (page_id >> 8) % self.count == self.index


WHOLE = Shard()

# A place in a snapshot or a diff: everything up to and including this (project, page_id) was delivered.
Place = tuple[str, int]
START: Place = ("", 0)


class TimelinePlace(NamedTuple):
    """A place in a timeline: all before, and the first ``nth`` items of the first three, were delivered."""

    time: int
    rev_id: int
    """0 for what concerns no revision."""
    position: int
    nth: int


def place_behind(item: TimelineItem, before: TimelinePlace | None) -> TimelinePlace:
    """Return the place behind an item that follows the place ``before``."""
    what = item.what
    rev_id = what.rev_id if isinstance(what, Revision | Visibility) else 0
    here = (item.time, rev_id, item.position)
    already = before.nth if before is not None and before[:3] == here else 0
    return TimelinePlace(*here, already + 1)


def behind(items: Iterator[TimelineItem], after: TimelinePlace | None) -> Iterator[TimelineItem]:
    """Yield the items behind a place; they begin at the first item of its time, revision and position."""
    place = None
    for item in items:
        place = place_behind(item, place)
        if after is None or place > after:
            yield item


def _always() -> bool:
    return True


wanted: ContextVar[Callable[[], bool]] = ContextVar("wanted", default=_always)
"""Says whether anybody still waits for an answer. Work that takes long asks between its steps, and ends with
``DeadlineError`` when nobody does. It belongs to a call, not to a question, hence to no method below."""


class Reader(Protocol):
    """The read protocol: the same in process and over the wire, so one test suite serves both.

    ``known_at`` 0 means the newest position; ``valid_at`` None means now. Every answer that used a clock
    returns the as-of it resolved to. Iterators hold no transaction between items.
    """

    def server_info(self) -> ServerInfo:
        """Return what the server is."""
        ...

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        ...

    def project(self, name: str) -> ProjectInfo:
        """Return one project. Raises ``ProjectNotFoundError``."""
        ...

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision. Raises ``RevisionNotFoundError``."""
        ...

    def provenance(self, project: str, rev_id: int, *, known_at: int = 0) -> Provenance:
        """Return what a revision was read from. Raises ``RevisionNotFoundError``.

        Names of sources and places in them are for operators alone.
        """
        ...

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked; at most ``MAX_BATCH``."""
        ...

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
        ...

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page by (valid time, revision id, position), behind ``after``.

        Raises ``PageNotFoundError``, also for a page of which nothing was known at K.
        """
        ...

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size. Raises ``TextUnavailableError``."""
        ...

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

        Raises ``RevisionNotFoundError``, and ``TextUnavailableError`` for a text that is hidden, lost or in
        no such slot.
        """
        ...

    def revision_attribution(self, project: str, rev_id: int, *, known_at: int = 0) -> Credited:
        """Return whom to credit for a revision, named as at its own time. Raises ``RevisionNotFoundError``.

        Names at most ``MAX_CREDITED`` contributors.
        """
        ...

    def article_attribution(
        self, project: str, page: int | str, *, valid_at: int | None = None, known_at: int = 0
    ) -> Credited:
        """Return whom to credit for a page, by id or title, as it was; else as ``revision_attribution``.

        Raises ``PageNotFoundError``, ``AsOfOutOfRangeError``.
        """
        ...

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot. Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``."""
        ...

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot. Raises ``SnapshotNotFoundError``."""
        ...

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, those behind the one with the id ``after``.

        Raises ``SnapshotNotFoundError`` for an ``after`` that is none.
        """
        ...

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts by (project, page id)."""
        ...

    def read(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, text: bool = True
    ) -> Iterator[Entry]:
        """Yield a shard's entries by (project, page id), with texts unless ``text`` is off."""
        ...

    def read_at(self, snapshot_id: bytes, indexes: Sequence[int], *, text: bool = True) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked.

        The first entry's place is 0. At most ``MAX_INDEXES``. Raises ``InvalidArgumentError`` for a place
        that the snapshot has not.
        """
        ...

    def diff(
        self, before: bytes, after: bytes, *, start: Place = START, text: bool = False
    ) -> Iterator[Change]:
        """Yield what differs between two snapshots of the same projects, by (project, page id).

        ``text`` brings the texts of both sides.
        """
        ...

    def attributions(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, since: bytes = b""
    ) -> Iterator[Attribution]:
        """Yield whom to credit for each page of a shard, by (project, page id), with all contributors.

        ``since``: only pages whose entry is another than in that snapshot, which is of the same projects.
        """
        ...

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not. Raises ``ProjectNotFoundError``."""
        ...


class StoredReader(Reader, Protocol):
    """The read protocol inside a server, where texts may leave as they are stored."""

    def read(
        self,
        snapshot_id: bytes,
        *,
        shard: Shard = WHOLE,
        after: Place = START,
        text: bool = True,
        stored: bool = False,
    ) -> Iterator[Entry]:
        """Yield a shard's entries; with ``stored`` texts are not compared with their digests.

        An entry's only slot may then have a ``frame`` in place of a text of ``MAX_FRAME_TEXT`` at most:
        whoever counts texts asks for ``carried_bytes``.
        """
        ...

    def read_at(
        self, snapshot_id: bytes, indexes: Sequence[int], *, text: bool = True, stored: bool = False
    ) -> Iterator[Entry]:
        """Yield the entries at places, ``stored`` as in ``read``."""
        ...
