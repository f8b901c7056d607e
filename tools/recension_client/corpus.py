"""What a licensee holds: a corpus, and exact snapshots of it that are read page by page."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import (
    InvalidArgumentError,
    InvalidTimeError,
    PageNotFoundError,
    TextUnavailableError,
)
from recension.model.event import Presence
from recension.model.instant import check_instant, parse_instant
from recension.model.manifest import AsOf, Manifest, OnHidden, Redirects, Selector
from recension.model.pin import Pin
from recension.model.reading import MAX_INDEXES, WHOLE, Entry, ProjectInfo, Proof, Shard, Slot
from recension_client.ahead import Leave, read_ahead
from recension_client.assembling import checked
from recension_client.pages import (
    PREFETCH_BYTES,
    Batches,
    Page,
    PageBatch,
    PageChange,
    Window,
    change_seen,
    check_prefetch,
    decoded,
    shard_of,
)
from recension_client.streams import ChangeStream, ChosenStream, EntryStream

if TYPE_CHECKING:
    from recension_client.client import Client  # which makes what is here

BATCH_PAGES = 256
PREFETCH = 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

When = str | int | date | datetime
"""A time: RFC 3339 or a date as text, microseconds since the epoch, a date (its first instant in UTC), or a
datetime that knows its zone."""


def instant_of(when: When) -> int:
    """Return a time in microseconds since the epoch. Raises ``InvalidTimeError``."""
    if isinstance(when, str):
        return parse_instant(when)
    if isinstance(when, int):
        return check_instant(when)
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    if when.tzinfo is None:
        raise InvalidTimeError(f"{when} has no time zone", hint="give it one: tzinfo=UTC", value=when)
    return check_instant((when - _EPOCH) // timedelta(microseconds=1))


def taken(positions: Iterable[int], most: int) -> Iterator[list[int]]:
    """Yield positions in lists of at most so many."""
    rest = iter(positions)
    return iter(lambda: list(islice(rest, most)), [])


def digest_given(snapshot: str | bytes) -> bytes:
    """Return a snapshot's id as 32 bytes. Raises ``InvalidArgumentError``."""
    return snapshot if isinstance(snapshot, bytes) else parse_digest(snapshot, "snapshot")


class SnapshotFacts:
    """What a snapshot's manifest says. Two of the same id are equal."""

    def __init__(self, manifest: Manifest) -> None:
        """``manifest``: was checked against the id."""
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotFacts) and self.manifest == other.manifest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def id(self) -> str:
        """``sha256:<64 hex>`` of the manifest."""
        return format_digest(self.digest)

    @property
    def digest(self) -> bytes:
        """The id as 32 bytes."""
        return self.manifest.snapshot_id

    @property
    def as_of(self) -> AsOf:
        """Both times, resolved."""
        return self.manifest.as_of

    @property
    def selector(self) -> Selector:
        """Which part of the corpus it is."""
        return self.manifest.selector

    @property
    def roots(self) -> dict[str, str]:
        """Root of each project's snapshot tree, ``sha256:<64 hex>``."""
        return {part.project: format_digest(part.root) for part in self.manifest.parts}

    @property
    def root(self) -> str:
        """The root, where there is one project. Raises ``InvalidArgumentError``."""
        return self.roots[self.project_given("")]

    @property
    def count(self) -> int:
        """Pages."""
        return sum(part.count for part in self.manifest.parts)

    @property
    def text_bytes(self) -> int:
        """Text of all pages and slots as it arrived, UTF-8 bytes."""
        return sum(part.text_bytes for part in self.manifest.parts)

    def project_given(self, project: str) -> str:
        """Return the project that is meant. Raises ``InvalidArgumentError`` unless it is clear."""
        names = self.manifest.selector.projects
        if not project and len(names) == 1:
            return names[0]
        if project not in names:
            raise InvalidArgumentError(
                f"project: {project!r} is not of this snapshot" if project else "project: there are several",
                hint=f"name one of {', '.join(names)}",
                field="project",
            )
        return project


@dataclass(frozen=True, slots=True)
class Wanted:
    """A page of a snapshot, and the text of it that is to be read."""

    entry: Entry
    slot: Slot

    def text(self, sent: bytes) -> str:
        """Return the text that was sent for it, if it is that. Raises ``VerificationError``."""
        where = f"page {self.entry.page_id}, slot {self.slot.role}"
        return decoded(checked(sent, self.slot.digest, where), self.entry.page_id)


def entry_proved(proof: Proof) -> Entry:
    """Return the entry of a proof that was checked. Raises ``PageNotFoundError``."""
    if proof.entry is None:
        raise PageNotFoundError(
            f"page {proof.page_id} of {proof.project!r} is not in the snapshot",
            project=proof.project,
            pageId=proof.page_id,
        )
    return proof.entry


def wanted_text(entry: Entry, role: str) -> Wanted:
    """Return what to read. Raises ``TextUnavailableError``."""
    slot = entry.slot(role)
    if slot is None or slot.presence is not Presence.PRESENT:
        state = f"has no slot {role!r}" if slot is None else f"is {slot.presence.name.lower()}"
        raise TextUnavailableError(
            f"the text of page {entry.page_id} {state}", project=entry.project, revId=entry.rev_id, role=role
        )
    return Wanted(entry, slot)


class Snapshot(SnapshotFacts):
    """An exact corpus on a server, to be read. Made by ``Corpus.as_of`` and ``Client.open``."""

    def __init__(self, client: Client, manifest: Manifest) -> None:
        """``client``: where it is read from."""
        super().__init__(manifest)
        self._client = client

    def pages(
        self,
        *,
        batch: int = BATCH_PAGES,
        prefetch: int = PREFETCH,
        prefetch_bytes: int = PREFETCH_BYTES,
        shard: Shard | tuple[int, int] = WHOLE,
        resume: str = "",
        text: bool = True,
    ) -> Generator[PageBatch, None, None]:
        """Yield the pages in the order of (project, page id), ``batch`` at a time, the last batch fewer.

        ``prefetch``: batches read ahead in a thread of their own, with at most ``prefetch_bytes`` of text;
        0 reads as the caller goes. ``shard``: (index, count), one of several parts that are the whole
        together. ``resume``: token of a batch, to go on behind it. ``text``: off leaves the texts out.

        A server that goes away is waited for, and the pages go on without gap or repeat. Whoever leaves
        early frees the stream and the thread, at once by ``contextlib.closing``.

        Raises ``InvalidArgumentError``, ``InvalidCursorError``, ``SnapshotReleasedError``,
        ``UnreachableError``, ``VerificationError``.
        """
        batches = Batches(self.manifest, shard_of(shard), batch, resume)
        check_prefetch(prefetch)
        stream = EntryStream(self.digest, batches.shard, batches.start, text=text, most_bytes=self.text_bytes)
        return self._pages(stream, batches, Window(prefetch, prefetch_bytes) if prefetch else None)

    def _pages(
        self, stream: EntryStream, batches: Batches, window: Window[PageBatch] | None
    ) -> Generator[PageBatch, None, None]:
        leave = Leave()

        def read() -> Iterator[PageBatch]:
            for entries in self._client.flow(stream, leave):
                yield from batches.add(entries)
            yield from batches.end()

        if window is None:
            yield from read()
        else:
            with read_ahead(read(), window, leave) as found:
                yield from found

    def read(self, positions: Iterable[int], *, text: bool = True) -> Generator[Page, None, None]:
        """Yield the pages at positions from 0 to ``count`` - 1 of the order (project, page id), as asked.

        Texts are those of the digests; that the pages are the snapshot's is the server's word. Raises
        ``InvalidArgumentError`` for a position that the snapshot has not.
        """
        for some in taken(positions, MAX_INDEXES):
            for entries in self._client.flow(
                ChosenStream(self.digest, some, text=text, most_bytes=self.text_bytes)
            ):
                yield from map(Page, entries)

    def entry(self, page_id: int, *, project: str = "") -> Entry:
        """Return a page's entry, without texts, proved to be in the snapshot.

        Raises ``PageNotFoundError``, proved too; ``VerificationError``.
        """
        return entry_proved(self._client.prove(self.digest, self.project_given(project), page_id))

    def text(self, page_id: int, *, role: str = "main", project: str = "") -> str:
        """Return a page's text, proved to be in the snapshot.

        Raises ``PageNotFoundError``, ``TextUnavailableError``, ``VerificationError``.
        """
        wanted = wanted_text(self.entry(page_id, project=project), role)
        return wanted.text(self._client.text(wanted.entry.project, wanted.entry.rev_id, role))

    def diff(self, after: SnapshotFacts, *, text: bool = False) -> Generator[PageChange, None, None]:
        """Yield what differs in a later snapshot, by (project, page id); ``text`` brings both texts."""
        most_bytes = self.text_bytes + after.text_bytes
        stream = ChangeStream(self.digest, after.digest, text=text, most_bytes=most_bytes)
        for changes in self._client.flow(stream):
            yield from map(change_seen, changes)

    def pin(self, name: str, *, until: When, labels: Mapping[str, str] | None = None) -> Pin:
        """Hold the snapshot on the server until a time, or return the pin if there is the same.

        Raises ``PinExistsError``, ``PinExpiredError``, ``SnapshotReleasedError``.
        """
        return self._client.create_pin(name, self.digest, instant_of(until), labels)


class Corpus:
    """One project of a server."""

    def __init__(self, client: Client, project: str) -> None:
        """Asks nothing yet."""
        self._client = client
        self.project = project

    def info(self) -> ProjectInfo:
        """Return what is held of it. Raises ``ProjectNotFoundError``."""
        return self._client.project(self.project)

    def as_of(
        self,
        when: When | None = None,
        *,
        known_at: int = 0,
        namespaces: Iterable[int] = (),
        models: Iterable[str] = (),
        redirects: Redirects = Redirects.INCLUDE,
        min_age_seconds: int = 0,
        on_hidden: OnHidden = OnHidden.SKIP,
    ) -> Snapshot:
        """Make the snapshot of a time, now unless it is given, as known at a position, else the newest.

        Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``, ``InvalidTimeError``.
        """
        selector = Selector.of(
            [self.project], list(namespaces), list(models), redirects, min_age_seconds, on_hidden
        )
        valid_at = None if when is None else instant_of(when)
        manifest = self._client.create_snapshot(selector, valid_at=valid_at, known_at=known_at)
        return Snapshot(self._client, manifest)

    def snapshot(self, snapshot_id: str | bytes) -> Snapshot:
        """Return a snapshot that is there. Raises ``SnapshotNotFoundError``."""
        return Snapshot(self._client, self._client.snapshot(digest_given(snapshot_id)))

    def snapshots(self) -> Iterator[Snapshot]:
        """Yield the snapshots that hold this project, in the order of their making."""
        for manifest in self._client.snapshots():
            if self.project in manifest.selector.projects:
                yield Snapshot(self._client, manifest)

    def pin(self, name: str) -> Pin:
        """Return a live pin, whose ``snapshot_id`` it holds. Raises ``PinNotFoundError``."""
        return self._client.pin(name)
