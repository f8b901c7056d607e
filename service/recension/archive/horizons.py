"""Which position an instant means: the newest commit that was recorded up to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from recension.archive.projects import find_project, tally_of
from recension.model.errors import DataLossError
from recension.store import keys
from recension.store.interface import Store, View


class Horizon(NamedTuple):
    """The newest commit up to an instant."""

    position: int
    """0 when there is none."""
    recorded_at: int
    """Microseconds since the epoch; 0 without a commit."""


class Horizons:
    """Finds positions by commit times, which only ever grow. Safe for concurrent use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._near = Horizon(0, 0)
        """Found last: from one question to the next an instant moves little."""

    def at(self, instant: int) -> Horizon:
        """Return the newest commit that was recorded up to an instant, itself included."""
        with self._store.view() as view:
            head = view.head()
            if head.recorded_at <= instant:
                return Horizon(head.position, head.recorded_at if head.position else 0)
            found = self._near
            if found.position > head.position or found.recorded_at > instant:
                found = Horizon(0, 0)
            # What is looked for lies in [found, above): beyond the nearest by doubled steps, then by halves.
            step, above = 1, head.position
            while found.position + step < above:
                further = found.position + step
                when = recorded_at(view, further)
                if when > instant:
                    above = further
                    break
                found, step = Horizon(further, when), step * 2
            while above - found.position > 1:
                middle = (above + found.position) // 2
                when = recorded_at(view, middle)
                if when > instant:
                    above = middle
                else:
                    found = Horizon(middle, when)
        self._near = found
        return found

    def recorded_at(self, position: int) -> int:
        """Return when a commit was recorded; of one that there is not, the end of time."""
        with self._store.view() as view:
            return recorded_at(view, position) if 0 < position <= view.head().position else keys.END

    def newest_of(self, projects: Sequence[str], position: int) -> int:
        """Return the newest commit up to a position that concerns one of some projects; 0 for none."""
        with self._store.view() as view:
            numbers = [find_project(view, name) for name in projects]
            return max(
                (tally_of(view, number, position)[0] for number in numbers if number is not None), default=0
            )


def recorded_at(view: View, position: int) -> int:
    """Return when a commit was recorded, microseconds since the epoch. Raises ``DataLossError``."""
    raw = view.get(keys.recorded(position))
    if raw is None:
        raise DataLossError(f"the time of commit {position} is missing", position=position)
    return int.from_bytes(raw, "big", signed=True)
