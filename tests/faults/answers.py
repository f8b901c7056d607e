"""Everything that a store answers about one project, so that two stores can be compared."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from recension.archive.reader import Archive
from recension.model.errors import Fault, RecensionError
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.record import EMPTY_LOG, commit_hash, decode_commit
from recension.store.interface import Store

PROJECT = "aawiki"
NOW = 1_900_000_000_000_000
TIMES = ("2006-01-01", "2010-01-01", "2020-01-01", "2026-01-01")

Question = tuple[str, int | bytes]


def take_snapshots(store: Store) -> list[bytes]:
    """Keep a snapshot at each of ``TIMES``; returns their ids."""
    archive = Archive(store, clock=lambda: NOW)
    return [
        archive.create_snapshot(Selector.of([PROJECT]), valid_at=parse_instant(time)).snapshot_id
        for time in TIMES
    ]


def questions(store: Store) -> list[Question]:
    """Return all that can be asked of a sound store."""
    archive = Archive(store, clock=lambda: NOW)
    snapshots = [manifest.snapshot_id for manifest in archive.snapshots()]
    pages = sorted({entry.page_id for name in snapshots for entry in archive.entries(name)})
    revisions = [
        item.what.rev_id
        for page in pages
        for item in archive.timeline(PROJECT, page)
        if hasattr(item.what, "rev_id")
    ]
    return [
        ("log", 0),
        ("projects", 0),
        *(("snapshot", name) for name in snapshots),
        *(("article", page) for page in pages),
        *(("timeline", page) for page in pages),
        *(("revision", rev_id) for rev_id in revisions),
    ]


def answer(store: Store, question: Question) -> str:
    """Return the digest of an answer, or how it failed: that something does not exist is no failure."""
    try:
        return sha256(repr(_ask(store, *question)).encode("utf-8", "backslashreplace")).hexdigest()
    except RecensionError as error:
        kind = "absent" if error.fault in {Fault.ABSENT, Fault.RANGE} else "named"
        return f"{kind} {error.reason}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it has no name
        return f"unnamed {type(error).__name__}: {error}"


def _ask(store: Store, kind: str, about: int | bytes) -> object:
    archive = Archive(store, clock=lambda: NOW)
    by_kind: dict[str, Callable[[], object]] = {
        "log": lambda: _chain(store),
        "projects": archive.projects,
        "snapshot": lambda: (archive.snapshot(bytes(about)), list(archive.read(bytes(about)))),
        "article": lambda: archive.article(PROJECT, int(about)),
        "timeline": lambda: list(archive.timeline(PROJECT, int(about))),
        "revision": lambda: archive.revision(PROJECT, int(about)).revision,
    }
    return by_kind[kind]()


def _chain(store: Store) -> object:
    """Read the log; each record has to name the one before, and the head the last."""
    head, parent = store.log.head(), EMPTY_LOG.hash
    for record in store.log.read(1, head.position + 1):
        assert parent == decode_commit(record).parent
        parent = commit_hash(record)
    assert parent == head.hash
    return head
