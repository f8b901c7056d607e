"""The run that puts the phases together: from the beginning, or from where a state says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from recension.archive.check.columns import check_columns
from recension.archive.check.log import check_log
from recension.archive.check.pages import check_pages
from recension.archive.check.rows import check_rows
from recension.archive.check.snapshots import check_nodes, check_snapshots
from recension.archive.check.state import PHASES, State
from recension.archive.check.texts import check_blobs, check_texts
from recension.archive.check.work import Work
from recension.model.errors import DataLossError, StoreError
from recension.model.record import EMPTY_LOG, commit_hash
from recension.store.interface import Store

WALKS: dict[str, Callable[[Work], Iterator[bool]]] = {
    "log": check_log, "rows": check_rows, "pages": check_pages, "texts": check_texts, "blobs": check_blobs,
    "snapshots": check_snapshots, "nodes": check_nodes, "columns": check_columns,
}  # fmt: skip
"""By phase: goes on from the state's cursor, and yields after each step whether the check may end there."""
_WEIGHTS = (0.3, 0.1, 0.42, 0.04, 0.04, 0.07, 0.01, 0.02, 0.0)
"""Of each phase, and of being done."""


class Check:
    """A check of a store, from its beginning or from where ``state`` says. One thread."""

    def __init__(self, store: Store, state: State | None = None, *, shown: int = 100) -> None:
        """Keep the first ``shown`` findings. Raises ``StoreError`` if the state is of another store."""
        self.state = state or State()
        self._store = store
        if self.state.known_at < 0:
            head = store.log.head()
            self.state.known_at, self.state.head = head.position, head.hash.hex()
        else:
            self._check_same_log()
        self._work = Work(store, self.state, shown)

    @property
    def share(self) -> float:
        """Share of the work that is done, roughly."""
        phase = self.state.phase
        return sum(_WEIGHTS[:phase]) + _WEIGHTS[phase] * min(self.state.share, 1.0)

    def run(
        self, is_over: Callable[[], bool] = lambda: False, tell: Callable[[], None] = lambda: None
    ) -> State:
        """Go on until all is checked or ``is_over`` says so; ``tell`` is called after each step.

        A page is finished once it is begun, so this may go on for some seconds.
        """
        while not self.state.complete:
            for may_end in WALKS[PHASES[self.state.phase]](self._work):
                tell()
                if may_end and is_over():
                    return self.state
            self.state.phase += 1
            self.state.reach([], 0.0)
        tell()
        return self.state

    def _check_same_log(self) -> None:
        position = self.state.known_at
        try:
            records = self._store.log.read(position, 1) if position else []
        except DataLossError:
            return  # told by the phase ``log``
        head = commit_hash(records[0]) if records else EMPTY_LOG.hash
        if head.hex() != self.state.head:
            raise StoreError("the state is of another store", hint="check from the beginning")
