"""What recension itself records: one statement a commit, decided on the newest state."""

from __future__ import annotations

from collections.abc import Callable

from recension.archive.clock import Clock
from recension.archive.ingest import append_commit
from recension.archive.replay import statement_rows
from recension.model.errors import StoreFailedError
from recension.model.record import Head, Statement
from recension.store.interface import Store, View

_RACES = 100
"""A statement that loses this many races in a row is given up; each race lost is another writer's commit."""

Decide = Callable[[View, int, int], Statement | None]
"""Says by (view, position, now) what to record at that position; ``None`` for nothing. May raise.

Called anew when another writer was first."""


def record(store: Store, clock: Clock, decide: Decide) -> Head | None:
    """Append what ``decide`` says; the head then, or ``None`` if it is nothing. Durable when it returns.

    ``now`` is never before the newest commit. Raises what ``decide`` raises, ``StoreError``.
    """
    for _ in range(_RACES):
        head = store.log.head()
        position = head.position + 1
        with store.view() as view:
            statement = decide(view, position, max(clock(), head.recorded_at))
            if statement is None:
                return None
            rows = dict(statement_rows(view, position, statement))
        made = append_commit(store, head, clock, "", [statement], rows, [])
        if made is not None:
            return made
    raise StoreFailedError("the store is too busy to record a statement", hint="try again")
