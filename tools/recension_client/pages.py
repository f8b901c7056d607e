"""The pages of a snapshot as a licensee reads them, in batches that can be gone on from. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from recension.model.cursor import Bound, open_place, seal_place
from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError, VerificationError
from recension.model.event import Presence
from recension.model.manifest import Manifest
from recension.model.reading import START, WHOLE, Change, ChangeKind, Entry, Place, Shard, Slot

MAX_BATCH_PAGES = 100_000
MAX_PREFETCH = 1_000
PREFETCH_BYTES = 64 * 1024 * 1024
"""Text that is read ahead at most, unless a single batch has more."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a snapshot. Its text was checked against its digest."""

    entry: Entry
    """All that is known of it: every slot, and what its leaf is computed from."""

    @property
    def project(self) -> str:
        """The corpus it is of."""
        return self.entry.project

    @property
    def page_id(self) -> int:
        """Stable across renames."""
        return self.entry.page_id

    @property
    def rev_id(self) -> int:
        """The revision that is its state in the snapshot."""
        return self.entry.rev_id

    @property
    def title(self) -> str:
        """Its title at T."""
        return self.entry.title

    @property
    def namespace(self) -> int:
        """Of that title."""
        return self.entry.namespace

    @property
    def timestamp(self) -> int:
        """When the revision was saved upstream, microseconds since the epoch."""
        return self.entry.timestamp

    @property
    def saved_at(self) -> datetime:
        """The same, UTC."""
        return _EPOCH + timedelta(microseconds=self.entry.timestamp)

    @property
    def presence(self) -> Presence:
        """Whether the main text is there, empty, hidden or lost; absent where there is no main slot."""
        slot = self._main
        return Presence.ABSENT if slot is None else slot.presence

    @property
    def digest(self) -> str:
        """``sha256:<64 hex>`` of the main text; empty unless it is present."""
        slot = self._main
        return format_digest(slot.digest) if slot is not None and slot.digest else ""

    @property
    def text(self) -> str | None:
        """The main text; none where it was not asked for or is not present. Raises ``VerificationError``."""
        slot = self._main
        return None if slot is None or slot.text is None else decoded(slot.text, self.page_id)

    @property
    def _main(self) -> Slot | None:
        return self.entry.slot()


def decoded(text: bytes, page_id: int) -> str:
    """Return a text as a string. Raises ``VerificationError`` for what is none."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise VerificationError(f"the text of page {page_id} is not UTF-8", pageId=page_id) from None


@dataclass(frozen=True, slots=True)
class PageBatch:
    """Some pages in the order of (project, page id), and where to go on behind them."""

    pages: tuple[Page, ...]
    token: str
    """For ``pages(resume=…)`` of the same snapshot and shard."""

    def __iter__(self) -> Iterator[Page]:
        return iter(self.pages)

    def __len__(self) -> int:
        return len(self.pages)

    @property
    def text_bytes(self) -> int:
        """Text of all slots, UTF-8 bytes."""
        return sum(slot.size_bytes for page in self.pages for slot in page.entry.slots)


@dataclass(frozen=True, slots=True)
class PageChange:
    """One page that differs between two snapshots."""

    kind: ChangeKind
    project: str
    page_id: int
    before: Page | None
    after: Page | None


def change_seen(change: Change) -> PageChange:
    """Return a change as a licensee reads it."""
    before, after = (None if entry is None else Page(entry) for entry in (change.before, change.after))
    return PageChange(change.kind, change.project, change.page_id, before, after)


def shard_of(shard: Shard | tuple[int, int]) -> Shard:
    """Return (index, count) as a shard. Raises ``InvalidArgumentError``."""
    made = shard if isinstance(shard, Shard) else Shard(*shard)
    if not 0 <= made.index < made.count < 2**31:
        raise InvalidArgumentError(
            f"shard: {made.index} of {made.count} is none",
            hint="shards go from 0 to count - 1",
            field="shard",
        )
    return made


@dataclass(slots=True)
class Batches:
    """Makes batches of one size of the entries of a shard, and checks at the end that none is missing.

    Raises ``InvalidArgumentError`` for limits out of range, ``InvalidCursorError`` for a token that is
    damaged, or of another snapshot or shard.
    """

    manifest: Manifest
    shard: Shard
    size: int
    """Pages in a batch."""
    resume: str
    """Token, or empty for the beginning."""
    start: Place = field(init=False)
    """Where to go on."""
    _held: deque[Page] = field(init=False, default_factory=deque)
    _seen: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_BATCH_PAGES:
            raise InvalidArgumentError(
                f"batch: {self.size} is not from 1 to {MAX_BATCH_PAGES}", field="batch"
            )
        self.start = open_place(self.resume, self._bound, "resume")

    def add(self, entries: Sequence[Entry]) -> Iterator[PageBatch]:
        """Yield the batches that are full with these."""
        self._seen += len(entries)
        self._held.extend(map(Page, entries))
        while len(self._held) >= self.size:
            yield self._batch(self.size)

    def end(self) -> Iterator[PageBatch]:
        """Yield what is left. Raises ``VerificationError`` when the whole has fewer pages than it should."""
        expected = sum(part.count for part in self.manifest.parts)
        if (self.shard, self.start) == (WHOLE, START) and self._seen != expected:
            raise VerificationError(f"{self._seen:,} pages came, the snapshot has {expected:,}")
        if self._held:
            yield self._batch(len(self._held))

    def _batch(self, size: int) -> PageBatch:
        pages = tuple(self._held.popleft() for _ in range(size))
        last = pages[-1]
        return PageBatch(pages, seal_place(self._bound, (last.project, last.page_id)))

    @property
    def _bound(self) -> Bound:
        return "pages", format_digest(self.manifest.snapshot_id), self.shard.index, self.shard.count


def check_prefetch(prefetch: int) -> None:
    """Refuse what is no number of batches. Raises ``InvalidArgumentError``."""
    if not 0 <= prefetch <= MAX_PREFETCH:
        raise InvalidArgumentError(f"prefetch: {prefetch} is not from 0 to {MAX_PREFETCH}", field="prefetch")


class Window(Generic[_T]):
    """What was read ahead, bounded in number and in bytes. Its users see to it that one looks at a time."""

    def __init__(self, most_items: int, most_bytes: int) -> None:
        """Bounds; one item is always let in."""
        self._most_items = most_items
        self._most_bytes = most_bytes
        self._held: deque[tuple[_T, int]] = deque()
        self._bytes = 0
        self.fault: BaseException | None = None
        """What the reading ended with, if not well."""
        self.ended = False

    def has_room(self, size: int) -> bool:
        """Say whether an item of some bytes may be put in."""
        return not self._held or (
            len(self._held) < self._most_items and self._bytes + size <= self._most_bytes
        )

    def put(self, item: _T, size: int) -> None:
        """Put one in."""
        self._held.append((item, size))
        self._bytes += size

    @property
    def ready(self) -> bool:
        """Whether there is something to take, or nothing more to come."""
        return bool(self._held) or self.ended

    def take(self) -> _T | None:
        """Take the oldest; none at the end. Raises what the reading ended with."""
        if self._held:
            item, size = self._held.popleft()
            self._bytes -= size
            return item
        if self.fault is not None:
            raise self.fault
        return None
