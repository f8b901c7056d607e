"""What a report tells, asked of a reader: counts of all changes, texts of the largest."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from recension.model.difference import TextDiff
from recension.model.errors import RecensionError, VerificationError
from recension.model.event import MAX_ID, Presence
from recension.model.manifest import Manifest
from recension.model.reading import Change, ChangeKind, Entry, Reader, Revision
from recension.textdiff.hunks import diff_texts

PAGE_BYTES = 32 * 1024
"""Text of one page's hunks."""
EXCERPT_BYTES = 3 * 1024
"""Text of a page that is whole in one snapshot and absent from the other."""
ALL_BYTES = 4 * 1024 * 1024
"""Text of all hunks of a report."""

_TOGETHER = 10
"""Revisions whose texts are asked for at once."""
_DAY = 86_400_000_000

_Largest = list[tuple[int, int, Change]]
"""A heap by weight and number."""

Watch = Callable[[Iterable[Change]], Iterable[Change]]


@dataclass(frozen=True, slots=True)
class ShownPage:
    """One changed page, with what differs in its main text."""

    change: Change
    diff: TextDiff | None
    """``None`` where ``note`` says why."""
    note: str = ""


@dataclass(slots=True)
class Report:
    """What differs between two snapshots."""

    before: Manifest
    after: Manifest
    kinds: Counter[ChangeKind] = field(default_factory=Counter)
    days: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Pages of B by the day since 1970 on which their revision was saved, and whether A lacks the page."""
    deltas: Counter[int] = field(default_factory=Counter)
    """Changes by the class of what they add in bytes; see ``class_of``."""
    bytes_grown: int = 0
    bytes_shrunk: int = 0
    pages: list[ShownPage] = field(default_factory=list)
    """Those of both snapshots, then those of one; the largest changes first."""

    @property
    def changes(self) -> int:
        """How many pages differ."""
        return self.kinds.total()


def gather(reader: Reader, before: bytes, after: bytes, *, pages: int, watch: Watch = iter) -> Report:
    """Compare two snapshots and return what a report tells of it; ``pages`` are told with their texts.

    All changes are counted, and only those that are shown are held: what this takes does not grow with them.
    ``watch`` passes the changes on as they come. Raises what the reader raises.
    """
    report = Report(reader.snapshot(before), reader.snapshot(after))
    # Pages of both snapshots, and those of one: neither crowds the other out.
    of_both: _Largest = []
    of_one: _Largest = []
    most = sum(part.count for manifest in (report.before, report.after) for part in manifest.parts)
    for number, change in enumerate(watch(reader.diff(before, after))):
        if number == most:
            raise VerificationError(f"the server tells more changes than both snapshots have pages, {most:,}")
        _count(report, change)
        largest = of_one if change.before is None or change.after is None else of_both
        # The number decides between equals, the earlier one first, and no change is ever compared.
        item = (_weight(change), -number, change)
        if len(largest) < pages:
            heapq.heappush(largest, item)
        else:
            heapq.heappushpop(largest, item)
    first = min(len(of_both), max(pages // 2, pages - len(of_one)))
    chosen = _sorted(of_both)[:first] + _sorted(of_one)[: pages - first]
    report.pages = list(_shown(reader, chosen))
    return report


def _sorted(largest: _Largest) -> list[Change]:
    return [change for _, _, change in sorted(largest, key=lambda item: item[:2], reverse=True)]


def class_of(delta: int) -> int:
    """Return the class of a change in size: 0 for none, else 1 to 5 by decades from under 100 B, signed."""
    size = abs(delta)
    if not size:
        return 0
    number = 1 + sum(size >= limit for limit in (100, 1_000, 10_000, 100_000))
    return number if delta > 0 else -number


def delta_of(change: Change) -> int:
    """Return what a change adds, in bytes of text."""
    return change.text_bytes_after - change.text_bytes_before


def _weight(change: Change) -> int:
    """Return how much a change matters to a reader: a withdrawn text comes before all others."""
    return MAX_ID if change.kind is ChangeKind.RETRACTED else abs(delta_of(change))


def _count(report: Report, change: Change) -> None:
    report.kinds[change.kind] += 1
    delta = delta_of(change)
    report.deltas[class_of(delta)] += 1
    if delta > 0:
        report.bytes_grown += delta
    else:
        report.bytes_shrunk -= delta
    after = change.after
    if after is not None and (change.before is None or change.before.rev_id != after.rev_id):
        report.days[after.timestamp // _DAY, change.before is None] += 1


def _shown(reader: Reader, changes: list[Change]) -> Iterator[ShownPage]:
    room = ALL_BYTES
    for texts, change in _with_texts(reader, changes):
        page = _page(change, texts, room)
        if page.diff is not None:
            room -= sum(len(line.text.encode()) for hunk in page.diff.hunks for line in hunk.lines)
        yield page


_Texts = dict[int, bytes | str]
"""By revision: the main text, or why there is none."""


def _with_texts(reader: Reader, changes: list[Change]) -> Iterator[tuple[_Texts, Change]]:
    """Yield each change with the texts of its revisions; a few are asked for at once."""
    for start in range(0, len(changes), _TOGETHER // 2):
        some = changes[start : start + _TOGETHER // 2]
        texts: dict[str, _Texts] = {}
        for project in {change.project for change in some}:
            entries = {
                entry.rev_id: entry
                for change in some
                if change.project == project and _reads(change)
                for entry in (change.before, change.after)
                if entry is not None
            }
            revisions = reader.revisions(project, list(entries)) if entries else []
            texts[project] = {
                rev_id: _text_of(entries[rev_id], outcome)
                for rev_id, outcome in zip(entries, revisions, strict=True)
            }
        for change in some:
            yield texts[change.project], change


def _reads(change: Change) -> bool:
    return change.kind not in {ChangeKind.MOVED, ChangeKind.RETRACTED}


def _text_of(entry: Entry, outcome: Revision | RecensionError) -> bytes | str:
    """Return an entry's main text, or why there is none. Raises ``VerificationError`` for another text."""
    slot = entry.slot()
    if slot is None:
        return "it has no main text"
    if slot.presence is not Presence.PRESENT:
        return f"the text is {slot.presence.name.lower()}"
    if isinstance(outcome, RecensionError):
        raise outcome
    held = outcome.slot()
    if held is None or held.text is None:
        return "the text was withdrawn"
    if held.digest != slot.digest:
        raise VerificationError(
            f"the text of revision {entry.rev_id} is not the one in the snapshot",
            hint="do not use it; the server or something on the way changed it",
        )
    return held.text


def _page(change: Change, texts: _Texts, room: int) -> ShownPage:
    if change.kind is ChangeKind.MOVED:
        return ShownPage(change, None, "Its text is the same.")
    if change.kind is ChangeKind.RETRACTED:
        return ShownPage(change, None, "Its text in A was withdrawn.")
    sides: list[bytes] = []
    for name, entry in (("A", change.before), ("B", change.after)):
        text = b"" if entry is None else texts[entry.rev_id]
        if isinstance(text, str):
            return ShownPage(change, None, f"Not compared: in {name} {text}.")
        sides.append(text)
    whole = None in {change.before, change.after}
    limit = min(EXCERPT_BYTES if whole else PAGE_BYTES, room)
    return ShownPage(change, diff_texts(*sides, room=max(limit, 0)))
