"""Whether a store holds what a history has put there: all of it, nothing else, and sound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from recension.archive.check.run import Check
from recension.archive.reader import Archive
from recension.archive.texts.block import read_block
from recension.model.errors import NotAStoreError, RecensionError, RevisionNotFoundError
from recension.model.record import EMPTY_LOG, Head
from recension.store import keys
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import NOW
from tests.faults.answers import answer
from tests.faults.children import DiedError, in_a_child
from tests.faults.histories import History, text_of

SERVING_SECONDS = 5.0
_ABSENT = "absent"

Found = dict[int, bytes | str | None]


def problems_of(data: Path, history: History, done: int, seconds: int = 60) -> list[str]:
    """Return what is wrong with a store in which ``done`` steps are known to be done and the next was begun.

    Each begins with a word: ``died``; ``unnamed`` or ``named`` for errors; ``wrong`` or ``absent`` for texts,
    ``older`` or ``wrong`` for heads; ``slow``; ``loose`` for blocks; ``check`` for what the product finds.
    """
    try:
        return list(in_a_child(lambda: _problems(data, history, done), seconds))
    except DiedError as error:
        return [str(error)]


def _problems(data: Path, history: History, done: int) -> list[str]:
    started = time.monotonic()
    try:
        with closing(LmdbStore.open(data, force_mount=True)) as store:
            return list(_look(store, history, done, started))
    except NotAStoreError as error:
        return [] if not done else [f"named {error.reason}: {error}"]
    except RecensionError as error:
        return [f"named {error.reason}: {error}"]
    except Exception as error:  # noqa: BLE001 - whatever it is, it has no name
        return [f"unnamed {type(error).__name__}: {error}"]


def _look(store: Store, history: History, done: int, started: float) -> Iterator[str]:
    yield from _guarded(lambda: _history_problems(store, history, done, started))
    yield from _guarded(lambda: _chain_problems(store))
    yield from _guarded(lambda: _snapshot_problems(store))
    yield from _guarded(lambda: loose_blocks(store))
    yield from _guarded(lambda: [f"check {one.kind} {one.place}" for one in Check(store).run().shown])


def _guarded(look: Callable[[], list[str]]) -> list[str]:
    try:
        return look()
    except RecensionError as error:
        return [f"named {error.reason}: {error}"]
    except Exception as error:  # noqa: BLE001 - as above
        return [f"unnamed {type(error).__name__}: {error}"]


def _history_problems(store: Store, history: History, done: int, started: float) -> list[str]:
    """Compare head and texts with those after ``done`` steps, and after one more."""
    head = store.log.head()
    after = min(done + 1, len(history.steps))
    revisions = history.texts(after)
    if head == EMPTY_LOG and not done:
        return []
    archive = Archive(store, clock=lambda: NOW)
    found: Found = {}
    seconds = 0.0
    for rev in revisions:
        found[rev] = _read(archive, rev)
        seconds = seconds or time.monotonic() - started
    out = [f"slow: the first answer took {seconds:.1f} s"] if seconds > SERVING_SECONDS else []
    states = [(history.head(at), _expected(history, at, after)) for at in (done, after)]
    if (head, found) in states:
        return out
    expected = max(states, key=lambda state: state[0] == head)
    out += _head_problems(head, [state[0] for state in states])
    for rev, text in found.items():
        if text != expected[1][rev]:
            kind = str(text) if isinstance(text, str) else "wrong"
            out.append(f"{kind}: the text of revision {rev}")
    return out


def _head_problems(head: Head, expected: list[Head]) -> list[str]:
    if head in expected:
        return []
    kind = "older" if head.position < expected[0].position else "wrong"
    return [f"{kind}: the head is at {head.position}, not at {expected[0].position}"]


def _expected(history: History, done: int, after: int) -> Found:
    absent: Found = dict.fromkeys(history.texts(after), _ABSENT)
    return absent | history.texts(done)


def _read(archive: Archive, rev: int) -> bytes | str | None:
    try:
        return text_of(archive, rev)
    except RevisionNotFoundError:
        return _ABSENT
    except RecensionError as error:
        return f"named {error.reason}"


def _chain_problems(store: Store) -> list[str]:
    told = answer(store, ("log", 0))
    return [told] if " " in told else []


def _snapshot_problems(store: Store) -> list[str]:
    archive = Archive(store, clock=lambda: NOW)
    for manifest in archive.snapshots():
        for entry in archive.read(manifest.snapshot_id):
            assert entry.page_id
    return []


def loose_blocks(store: Store) -> list[str]:
    """Rows and text blocks name each other, one to one; return those that do not."""
    out = []
    with store.view() as view:
        named = {int.from_bytes(key[-8:], "big") for key, _ in view.scan(keys.tail(0, 0), b"I")}
        named |= {int.from_bytes(row[:8], "big") for _, row in view.scan(b"G", b"H")}
        for number in named:
            raw = view.blob(keys.block(number))
            if raw is None or not {read_block(raw).prefix} <= named | {0}:
                out.append(f"loose: block {number} or its prefix is missing")
        unnamed = set(range(1, max(named, default=0) + 1)) - named
        left = [number for number in unnamed if view.blob(keys.block(number)) is not None]
    return out + [f"loose: nothing names block {number}" for number in left]
