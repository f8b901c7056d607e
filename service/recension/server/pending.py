"""What a follower could not take yet, for a person to see: one JSON file for each project.

Below ``DATA/pending``. Losing it loses nothing: the mark in the log does not pass what is pending, so that a
follower reads it again; the file has only since when it waits, and why.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recension.model.errors import InvalidTimeError
from recension.model.instant import format_instant, parse_instant

_FOLDER = "pending"
_MAX_WHY_CHARS = 200


class Pending(NamedTuple):
    """One change that waits."""

    source_id: str
    page_id: int
    rev_id: int
    waits_for: str
    """``text``: to be fetched. ``page``: an event of a page or revision that is not known yet."""
    since: int
    """Microseconds since the epoch."""
    tries: int
    why: str
    """What the last try met."""

    def document(self) -> dict[str, Any]:
        """Return it for machines."""
        return {**self._asdict(), "since": format_instant(self.since), "why": self.why[:_MAX_WHY_CHARS]}


class PendingFile:
    """The file of one project. One follower at a time."""

    def __init__(self, data: Path, project: str) -> None:
        """In a data directory."""
        self._path = data / _FOLDER / f"{project}.json"

    def read(self) -> list[Pending]:
        """Return what the last follower left; nothing where that cannot be read."""
        try:
            return [_read(one) for one in json.loads(self._path.read_bytes())]
        except (OSError, ValueError, TypeError, LookupError, RecursionError, InvalidTimeError):
            return []

    def write(self, pending: Sequence[Pending]) -> None:
        """Replace what is there; nothing pending, no file. A disk that is full is no reason to stop."""
        with contextlib.suppress(OSError):
            if not pending:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            part = self._path.with_suffix(".part")
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump([one.document() for one in pending], file)
            part.replace(self._path)


def read_all(data: Path) -> Iterator[tuple[str, list[Pending]]]:
    """Yield (project, what waits) of each project of which something does."""
    for path in sorted((data / _FOLDER).glob("*.json")):
        pending = PendingFile(data, path.stem).read()
        if pending:
            yield path.stem, pending


def _read(document: dict[str, Any]) -> Pending:
    return Pending(**{**document, "since": parse_instant(document["since"])})
