"""``ingest dump --complete``: what the dump no longer has becomes events of its time (``archive.roll``).

Only a dump that was read whole can say that something is missing, so all that speaks against it is a refusal:
parts that are listed and not there, a file that ends early, a record that could not be read. What was read by
then stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from recension.archive.ingest import Ingestor
from recension.archive.intake.frames import Fed
from recension.archive.prepared import prepare_all
from recension.archive.roll import Extent, Roll, vanished
from recension.model.errors import InvalidArgumentError, SourceIncompleteError
from recension.model.event import Delete, Event, Restore
from recension.model.instant import format_instant
from recension.model.mark import Mark
from recension.model.record import Kind
from recension.server.dumpsets import DumpSet
from recension.sources.dump_names import Holds
from recension.sources.items import Rejected
from recension.store.interface import Store

_BATCH = 512
_EXTENTS = {Holds.HISTORY: Extent.HISTORY, Holds.CURRENT: Extent.CURRENT, Holds.ARTICLES: Extent.ARTICLES}
_HINT = "fetch what is missing and run the ingest again, or leave --complete out"


FOLLOWED = ("deleted", "restored", "hidden")
"""What may follow from a complete dump."""


@dataclass(slots=True)
class Completion:
    """A dump that is said to be complete, while it is read and at its end."""

    sets: Sequence[DumpSet]
    made_at: int | None = None
    """When it was made, microseconds since the epoch; ``None`` until it is known."""
    source: str = "option"
    """What said so: ``option``, ``name`` or ``newest revision``."""
    extent: Extent | None = None
    roll: Roll = field(default_factory=Roll)
    counts: Counter[str] = field(default_factory=Counter)
    """What followed: pages that were deleted and restored, revisions that were hidden."""
    _unread: int = 0

    def begin(self) -> None:
        """Find out of when the dump is, and whether its files are all there.

        Raises ``SourceIncompleteError``; ``InvalidArgumentError`` for files of several dumps.
        """
        for one in self.sets:
            one.refuse_doubts(_HINT, gaps=True)
        names = {(one.made_at, one.holds) for one in self.sets}
        if len(names) > 1:
            raise InvalidArgumentError(
                f"--complete: these are {len(names)} dumps, by their names: "
                + ", ".join(sorted({one.name for one in self.sets})[:5]),
                hint="ingest one dump at a time, the older one first",
                field="complete",
            )
        for made_at, holds in names:
            self.extent = _EXTENTS.get(holds)
            if self.made_at is None and made_at is not None:
                self.made_at, self.source = made_at, "name"

    def date(self, newest_at: int | None) -> None:
        """Take a dump that does not say when it was made to be of the time of its newest revision.

        Raises ``SourceIncompleteError`` where there is none.
        """
        if newest_at is None:
            raise self._refusal("it has no revision")
        self.made_at, self.source = newest_at, "newest revision"

    def see(self, batch: Fed) -> None:
        """Note what a batch has, also of events that the store refuses: they are in the dump."""
        for event in batch.events.events:
            if event.skeleton.kind is Kind.EDIT:
                self.roll.see(event.skeleton)
        self._unread += sum(isinstance(remark, Rejected) for remark in batch.remarks)

    def end(self, store: Store, ingestor: Ingestor, project: str, *, faults: int) -> None:
        """Append what follows from the dump; durable when it returns.

        ``faults``: how many things went wrong with its files. Raises ``SourceIncompleteError``, and as
        ``append_prepared`` does.
        """
        made_at = self._made_at_of_all(faults)
        extent = self.extent or (Extent.HISTORY if self.roll.several else Extent.CURRENT)
        self.extent = extent
        events = vanished(store, project, self.roll, extent, made_at)
        mark = Mark("complete", f"complete:{self.sets[0].name}")
        while batch := list(islice(events, _BATCH)):
            ingestor.append_prepared(project, prepare_all(batch, ingestor.salts), mark)
            self.counts.update(map(_name, batch))

    def _made_at_of_all(self, faults: int) -> int:
        """Return when a dump was made that was read whole."""
        if faults:
            raise self._refusal("it was not read to its end")
        if self._unread:
            raise self._refusal(f"{self._unread:,} of its records could not be read")
        if self.made_at is None or not self.roll.greatest:
            raise self._refusal("it has no revision")
        return self.made_at

    def _refusal(self, why: str) -> SourceIncompleteError:
        return SourceIncompleteError(
            f"{self.sets[0].name}: nothing is taken to have vanished: {why}",
            hint=_HINT,
            path=self.sets[0].files[0],
        )

    def document(self) -> dict[str, object]:
        """Return what followed, for machines."""
        return {
            "made_at": "" if self.made_at is None else format_instant(self.made_at),
            "made_at_from": self.source,
            "extent": "" if self.extent is None else self.extent.value,
            **{name: self.counts[name] for name in FOLLOWED},
        }


@dataclass(frozen=True, slots=True)
class Whole:
    """What is asked of sets of files."""

    allow_incomplete: bool = False
    """Whether a folder is read although something says that it is not whole."""
    complete: bool = False
    """Whether the files are all of a wiki, so that what they lack is gone."""
    made_at: int | None = None
    """When that dump was made, microseconds since the epoch; ``None``: its name says so."""

    def completion(self, sets: Sequence[DumpSet], now: int) -> Completion | None:
        """Return what keeps the roll of a complete dump. Raises ``InvalidArgumentError``."""
        if not self.complete:
            return None
        if self.made_at is not None and self.made_at > now:
            raise InvalidArgumentError(
                "--made-at: that is in the future", hint="say of when the dump is", field="made_at"
            )
        return Completion(sets, self.made_at)


AS_IT_IS = Whole()
"""Files are what they are."""


def _name(event: Event) -> str:
    match event.what:
        case Delete():
            return "deleted"
        case Restore():
            return "restored"
        case _:
            return "hidden"
