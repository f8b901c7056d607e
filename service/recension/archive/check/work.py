"""What each phase is given: the store, the state that it moves on, a way to tell, and the walk over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from recension.archive.check.forms import is_formed, name_of
from recension.archive.check.held import Held
from recension.archive.check.patience import Damage, scan_to_damage
from recension.archive.check.state import Finding, Remedy, State
from recension.store.interface import Row, Store, View

ROWS = 2000
"""Rows of one step: some 20 ms."""
FEW = 200
"""Rows of one step where each may cost a block, or a walk over a page."""
_REPEATED = 100_000
Told = tuple[str, str, str, Remedy]
"""(kind, place, what, remedy) of a finding."""


class Work:
    """A check under way. One thread."""

    def __init__(self, store: Store, state: State, shown: int) -> None:
        self.store = store
        self.state = state
        self.held = Held(store)
        self._shown = shown
        self._told = {(one.kind, one.place) for one in state.shown}

    def find(self, kind: str, place: str, what: str, remedy: Remedy) -> None:
        """Tell a finding, once."""
        if (kind, place) in self._told:
            return
        if len(self._told) < _REPEATED:
            self._told.add((kind, place))
        self.state.kinds[kind] = self.state.kinds.get(kind, 0) + 1
        if len(self.state.shown) < self._shown:
            self.state.shown.append(Finding(kind, place, what, remedy.value))

    def find_twice(self, look: Callable[[View], list[Told]]) -> None:
        """Tell what is still so at a second look: what was held in memory may have been erased meanwhile."""
        told: list[Told] = []
        for _ in range(2):
            with self.store.view() as view:
                told = look(view)
            if not told:
                return
            self.held.forget()
        for one in told:
            self.find(*one)

    def find_damaged(self, bad: Damage, start: bytes) -> None:
        """Tell the damage behind the rows from ``start`` on."""
        if bad.key:
            self.find("row-damaged", name_of(bad.key), bad.error.message, Remedy.REBUILD)
        else:
            self.find("pages-damaged", f"index from {start.hex()} on", bad.error.message, Remedy.RESTORE)

    def formed(self, rows: list[Row]) -> list[Row]:
        """Return the rows that can be read; the others are told."""
        for row in rows:
            if not is_formed(row):
                self.find_alien(row[0])
        return [row for row in rows if is_formed(row)]

    def find_alien(self, key: bytes) -> None:
        """Tell a row that is of no kind, or not formed as its kind is."""
        self.find("row-alien", f"row {key.hex()}", "no row has such a form", Remedy.REBUILD)

    def walk(
        self, start: bytes, stop: bytes, visit: Callable[[View, list[Row]], None], size: int = ROWS
    ) -> Iterator[bytes]:
        """Visit the rows of a range, some at a time in one view; yield the next key when it is closed.

        Damaged rows are told and passed over.
        """
        while True:
            with self.store.view() as view:
                rows, bad = scan_to_damage(view, start, stop, size)
                if bad is not None:
                    self.find_damaged(bad, start)
                if rows:
                    visit(view, rows)
            whole = bad is None and len(rows) < size
            if (bad is not None and not bad.key) or (whole and not rows):
                return
            start = (bad.key if bad is not None else rows[-1][0]) + b"\0"
            yield start
            if whole:
                return
