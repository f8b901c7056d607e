"""What a report shows: words and numbers as they are read, bars as they are drawn, lines as they are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from recension.model.difference import DiffLine, LineKind
from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension.model.manifest import Manifest
from recension.model.reading import ChangeKind, Entry
from recension_client.report.gather import Report, ShownPage, delta_of
from recension_client.visible import visible

MAX_BARS = 48
"""Bars of the timeline."""
_EQUAL, _EDGE = 240, 100
"""An equal stretch of a changed line that is longer is cut in its middle, so much stays on both sides."""
_WHOLE = 1_200
"""A line that is equal or new as a whole is cut behind so many characters."""
_HEIGHT = 100
_NEXT_UNIT = 999.5
"""What would be written as 1,000 of a unit is written in the next."""
_DAY = 86_400_000_000

KINDS = {
    ChangeKind.ADDED: "added",
    ChangeKind.EDITED: "edited",
    ChangeKind.MOVED: "moved",
    ChangeKind.EDITED_AND_MOVED: "edited and moved",
    ChangeKind.REMOVED: "removed",
    ChangeKind.RETRACTED: "retracted",
}
"""As they are read; with hyphens they are the names of classes in the page."""
_CLASSES = {
    -5: "shrank ≥ 100 kB",
    -4: "shrank 10 to 99 kB",
    -3: "shrank 1 to 9 kB",
    -2: "shrank 100 to 999 B",
    -1: "shrank < 100 B",
    0: "same size",
    1: "grew < 100 B",
    2: "grew 100 to 999 B",
    3: "grew 1 to 9 kB",
    4: "grew 10 to 99 kB",
    5: "grew ≥ 100 kB",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a list: how long it is of 100."""

    label: str
    count: str
    length: float
    style: str


@dataclass(frozen=True, slots=True)
class Column:
    """One time of the timeline: two parts upon each other, in a drawing that is 100 high."""

    x: float
    width: float
    edited: float
    added: float
    label: str

    @property
    def top_of_edited(self) -> float:
        """Where the lower part begins, from above."""
        return round(_HEIGHT - self.edited, 3)

    @property
    def top_of_added(self) -> float:
        """Where the upper part begins, from above."""
        return round(_HEIGHT - self.edited - self.added, 3)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line."""

    text: str
    style: str
    """``same``, ``mark`` for what differs, or ``cut`` for what says how much was left out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a difference, or the gap before a hunk."""

    kind: str
    number: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One changed page."""

    kind: str
    style: str
    project: str
    title: str
    old_title: str
    about: str
    delta: str
    trend: str
    lines: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Everything that the page's template asks for."""

    title: str
    span: str
    before: Side
    after: Side
    projects: str
    tiles: tuple[tuple[str, str, str], ...]
    kinds: tuple[Bar, ...]
    sizes: tuple[Bar, ...]
    columns: tuple[Column, ...]
    most: str
    first_day: str
    last_day: str
    outside: str
    pages: tuple[Page, ...]
    limit: str


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two snapshots."""

    snapshot: str
    valid_at: str
    known_at: str


def draw(report: Report) -> Drawing:
    """Return what a report shows."""
    columns, most, outside = _columns(report)
    a, b = report.before.as_of.valid_at, report.after.as_of.valid_at
    span = f"{_date(a)} → {_date(b)}"
    projects = ", ".join(report.after.selector.projects)
    return Drawing(
        title=f"{projects}: what changed",
        span=span,
        before=_side(report.before),
        after=_side(report.after),
        projects=projects,
        tiles=tuple(_tiles(report)),
        kinds=_bars(
            [(name, report.kinds[kind], _style(name)) for kind, name in KINDS.items() if report.kinds[kind]]
        ),
        sizes=_bars(
            [
                (label, report.deltas[number], "down" if number < 0 else "up" if number else "level")
                for number, label in _CLASSES.items()
                if report.deltas[number]
            ]
        ),
        columns=columns,
        most=f"{most:,}",
        first_day=_date(min(a, b)),
        last_day=_date(max(a, b)),
        outside=_many(outside, "changed page is", "changed pages are") if outside else "",
        pages=tuple(_page(page, several=len(report.after.selector.projects) > 1) for page in report.pages),
        limit=_limit(report),
    )


def size(number: int) -> str:
    """Write a number of bytes for a reader."""
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < _NEXT_UNIT:
            break
        value, unit = value / 1_000, larger
    return f"{value:.3g} {unit}" if value < _NEXT_UNIT else f"{value:,.0f} {unit}"


def _signed(number: int) -> str:
    mark = "+" if number > 0 else "−" if number < 0 else "±"  # noqa: RUF001 - a minus sign
    return f"{mark}{size(abs(number))}"


def _tiles(report: Report) -> Iterator[tuple[str, str, str]]:
    pages = [sum(part.count for part in manifest.parts) for manifest in (report.before, report.after)]
    text = [sum(part.text_bytes for part in manifest.parts) for manifest in (report.before, report.after)]
    share = f"{100 * report.changes / max(*pages, 1):.3g} % of the larger side" if report.changes else ""
    yield "changed pages", f"{report.changes:,}", share
    yield "pages", f"{pages[1]:,}", f"{pages[0]:,} before"
    yield "text", size(text[1]), f"{size(text[0])} before"
    yield "grown", _signed(report.bytes_grown), "where pages grew or came"
    yield "shrunk", _signed(-report.bytes_shrunk), "where pages shrank or went"


def _bars(items: Sequence[tuple[str, int, str]]) -> tuple[Bar, ...]:
    most = max((count for _, count, _ in items), default=1)
    return tuple(
        Bar(label, f"{count:,}", round(100 * count / most, 2), style) for label, count, style in items
    )


def _columns(report: Report) -> tuple[tuple[Column, ...], int, int]:
    """Return the timeline's columns, the highest number of pages in one, and how many lie outside."""
    first, last = sorted(manifest.as_of.valid_at // _DAY for manifest in (report.before, report.after))
    days = last - first + 1
    per_bar = -(-days // MAX_BARS)
    bars = -(-days // per_bar)
    counts = [[0, 0] for _ in range(bars)]
    outside = 0
    for (day, comes), count in report.days.items():
        if first <= day <= last:
            counts[(day - first) // per_bar][comes] += count
        else:
            outside += count
    most = max(map(sum, counts))
    if not most:
        return (), 0, outside
    width = 100 / bars
    columns = []
    for number, (edited, added) in enumerate(counts):
        start = first + number * per_bar
        stop = min(start + per_bar - 1, last)
        when = _day(start) if start == stop else f"{_day(start)} to {_day(stop)}"
        columns.append(
            Column(
                round(number * width, 4),
                round(width * 0.86, 4),
                round(_HEIGHT * edited / most, 3),
                round(_HEIGHT * added / most, 3),
                f"{when}: {edited:,} edited, {added:,} added",
            )
        )
    return tuple(columns), most, outside


def _page(shown: ShownPage, *, several: bool) -> Page:
    change, diff = shown.change, shown.diff
    sides = [entry for entry in (change.before, change.after) if entry is not None]
    old, entry = sides[0].title, sides[-1]
    delta = delta_of(change)
    notes = [shown.note] if shown.note else []
    rows: tuple[Row, ...] = ()
    lines = ""
    if diff is not None:
        rows = tuple(_rows(shown))
        lines = f"+{diff.lines_added:,} −{diff.lines_removed:,} lines"  # noqa: RUF001 - a minus sign
        if not diff.lines_added and not diff.lines_removed:
            notes.append("The main text is the same.")
        if diff.truncated:
            notes.append("More differs than is shown here.")
        if diff.coarse:
            notes.append("Too large to be compared closely: some of what is marked may be equal.")
    name = KINDS[change.kind]
    return Page(
        kind=name,
        style=_style(name),
        project=visible(change.project) if several else "",
        title=visible(entry.title),
        old_title=visible(old) if old != entry.title else "",
        about=_about(change.page_id, change.before, change.after),
        delta=_signed(delta),
        trend="up" if delta > 0 else "down" if delta < 0 else "level",
        lines=lines,
        rows=rows,
        notes=tuple(notes),
    )


def _about(page_id: int, before: Entry | None, after: Entry | None) -> str:
    sides = [
        "—" if entry is None else f"revision {entry.rev_id} of {_date(entry.timestamp)}"
        for entry in (before, after)
    ]
    return f"page {page_id} · {sides[0]} → {sides[1]}"


def _rows(shown: ShownPage) -> Iterator[Row]:
    if shown.diff is None:
        return
    for hunk in shown.diff.hunks:
        a, b = hunk.start_a, hunk.start_b
        yield Row("gap", "", (Piece(f"line {b:,}" if hunk.count_b else f"line {a:,} before", "same"),))
        for line in hunk.lines:
            number = a if line.kind is LineKind.REMOVED else b
            a += line.kind is not LineKind.ADDED
            b += line.kind is not LineKind.REMOVED
            yield Row(line.kind.name.lower(), f"{number}", tuple(_pieces(line)))


def _pieces(line: DiffLine) -> Iterator[Piece]:
    if not line.changed:
        yield from _cut(line.text, "same", _WHOLE, _WHOLE, 0)
        return
    at = 0
    for start, end in line.changed:
        yield from _cut(line.text[at:start], "same", _EQUAL, _EDGE if at else 0, _EDGE)
        yield from _cut(line.text[start:end], "mark", _WHOLE, _WHOLE, 0)
        at = end
    yield from _cut(line.text[at:], "same", _EQUAL, _EDGE, 0)


def _cut(text: str, style: str, most: int, head: int, tail: int) -> Iterator[Piece]:
    """Yield a stretch, or its ends and how much lies between them when it is long."""
    if len(text) <= most:
        if text:
            yield Piece(visible(text), style)
        return
    if head:
        yield Piece(visible(text[:head]), style)
    yield Piece(f"⋯ {len(text) - head - tail:,} characters ⋯", "cut")
    if tail:
        yield Piece(visible(text[-tail:]), style)


def _side(manifest: Manifest) -> Side:
    return Side(
        format_digest(manifest.snapshot_id),
        format_instant(manifest.as_of.valid_at),
        f"{manifest.as_of.known_at:,}",
    )


def _limit(report: Report) -> str:
    shown = len(report.pages)
    if shown == report.changes:
        return ""
    return (
        f"The {shown:,} largest of {report.changes:,} changed pages are shown; the numbers above are of all."
    )


def _many(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _style(name: str) -> str:
    return name.replace(" ", "-")


def _date(instant: int) -> str:
    return format_instant(instant)[:10]


def _day(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()
