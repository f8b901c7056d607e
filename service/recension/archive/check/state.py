"""What a check has found and how far it is, as values that a file can keep: reads no store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from recension.archive.texts.rows import SHORT_DIGEST
from recension.model.errors import StoreError

PHASES = ("log", "rows", "pages", "texts", "blobs", "snapshots", "nodes", "columns")
_DIGESTS = 2 ** (8 * SHORT_DIGEST)


class Remedy(StrEnum):
    """What to do about a finding."""

    RESTORE = "restore the data directory from a backup: log or sealed values are damaged"
    TEXT = "restore the data directory from a backup: a text is damaged"
    REBUILD = "make the index anew with: recension-server rebuild"
    GC = "remove it with: recension-server gc --delete"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """Stable: may be added to, never renamed."""
    place: str
    what: str
    remedy: str


@dataclass(slots=True)
class State:
    """How far a check is and what it has found: all that is needed to go on in another process."""

    known_at: int = -1
    """Head when the check began; what came later is not looked at."""
    head: str = ""
    phase: int = 0
    cursor: list[Any] = field(default_factory=list)
    share: float = 0.0
    """Of the phase, roughly."""
    kinds: dict[str, int] = field(default_factory=dict)
    shown: list[Finding] = field(default_factory=list)
    """The first findings."""
    commits: int = 0
    events: int = 0
    texts: int = 0
    text_bytes: int = 0
    entries: int = 0
    vouched: list[int] = field(default_factory=lambda: [0, 0])
    """(number, sum) of the digests of texts found in blocks, and at their rows."""
    seconds: float = 0.0

    @property
    def findings(self) -> int:
        """Number of findings."""
        return sum(self.kinds.values())

    @property
    def complete(self) -> bool:
        """Whether everything was checked."""
        return self.phase >= len(PHASES)

    def reach(self, cursor: list[Any], share: float) -> None:
        """Note how far a phase is."""
        self.cursor, self.share = cursor, share

    def document(self) -> dict[str, Any]:
        """Return the state for a file."""
        return asdict(self)


def read_state(document: dict[str, Any]) -> State:
    """Return the state of a file. Raises ``StoreError`` for anything else."""
    fresh = asdict(State())
    try:
        shown = [Finding(**finding) for finding in document["shown"]]
        fits = all(type(value) is type(fresh[name]) for name, value in document.items())
        state = State(**{**document, "shown": shown}) if fits else None
    except (TypeError, KeyError, AttributeError):
        state = None
    if state is None:
        raise StoreError("not the state of a check", hint="check from the beginning")
    return state


def summed(digests: Iterable[bytes], before: Sequence[int]) -> list[int]:
    """Return (number, sum) of digests and of those before: the same for the same ones in any order."""
    number, total = before
    for digest in digests:
        number += 1
        total += int.from_bytes(digest[:SHORT_DIGEST], "big")
    return [number, total % _DIGESTS]
