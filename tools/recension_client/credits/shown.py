"""What the pages for people show: words and numbers as they are read, in whichever form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from recension.model.credit import NOTICE, license_of
from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension_client.credits.rows import CreditRow
from recension_client.credits.writing import Credits
from recension_client.visible import visible


class Shown(NamedTuple):
    """One credited page."""

    page_id: int
    title: str
    url: str
    about: str
    license: str
    license_url: str | None
    notes: tuple[str, ...]
    people: list[tuple[str, str]]
    """Name and number of edits."""
    others: str
    """Those who are not named; empty if there are none."""


def shown(row: CreditRow) -> Shown:
    """Return what is shown of a row."""
    notes = (("its title is of a later time",) * row.title_inferred) + (
        ("upstream does not show this revision any more",) * row.text_hidden
    )
    edits = f"{count(row.edits, 'edit')} since {day(row.first_edit_at)}"
    return Shown(
        row.page_id,
        visible(row.title),
        row.url,
        f"revision {row.rev_id} of {day(row.timestamp)}, {edits}",
        visible(license_of(row.license).short),
        row.license_url,
        notes,
        [(visible(share.person.shown), f"{share.edits:,}") for share in row.contributors],
        "; ".join(_others(row)),
    )


def _others(row: CreditRow) -> Iterator[str]:
    if row.hidden_edits:
        yield f"{count(row.hidden_edits, 'edit')} by contributors whose names are hidden"
    if row.unstated_edits:
        yield f"{count(row.unstated_edits, 'edit')} of which the source names no contributor"


def heading(made: Credits) -> str:
    """Return what the credits are of."""
    return f"Credits of {', '.join(made.manifest.selector.projects)}"


def facts(made: Credits) -> list[str]:
    """Return what the index says before its tables."""
    as_of, snapshot = made.manifest.as_of, format_digest(made.manifest.snapshot_id)
    lines = [f"Snapshot {snapshot}, as of {format_instant(as_of.valid_at)} known at {as_of.known_at}."]
    if made.since:
        lines.append(f"Only pages that are others than in snapshot {format_digest(made.since)}.")
    counts = f"{count(made.pages, 'page')}, {count(made.edits, 'edit')}"
    lines.append(f"{counts}. Who was hidden by position {made.known_at} is not named.")
    if made.uncredited:
        lines.append(f"{count(made.uncredited, 'page')} of the snapshot lie outside of what was granted.")
    return [*lines, NOTICE]


def licenses(made: Credits) -> list[tuple[str, str, str]]:
    """Return (name, address or nothing, pages) of each licence."""
    return [
        (visible(known.title), known.url, f"{pages:,}")
        for spdx, pages in made.licenses.items()
        for known in (license_of(spdx),)
    ]


def count(number: int, what: str) -> str:
    """Write a number of things."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def day(instant: int) -> str:
    """Write the day of an instant."""
    return format_instant(instant)[:10]
