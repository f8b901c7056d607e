"""What a licensee would write: read a pinned corpus. Type-checked with everything else, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import PageNotFoundError, RecensionError
from recension.model.instant import parse_instant
from recension.model.manifest import Manifest, OnHidden, Redirects, Selector
from recension.model.reading import (
    Answer,
    Change,
    ChangeKind,
    Entry,
    ProjectInfo,
    Reader,
    Revision,
    Shard,
    TimelineItem,
)
from recension_client.client import Client


def corpus(server: str) -> Manifest:
    """Name a corpus: a selector and an as-of give a snapshot."""
    selector = Selector.of(
        ["aawiki"], [0], ["wikitext"], Redirects.EXCLUDE, min_age_seconds=86_400, on_hidden=OnHidden.FALL_BACK
    )
    with Client(server, timeout_seconds=10.0) as client:
        assert_type(client.projects(), list[ProjectInfo])
        manifest = client.create_snapshot(selector, valid_at=parse_instant("2015-01-01"))
        assert_type(format_digest(manifest.snapshot_id), str)
        return client.snapshot(parse_digest(format_digest(manifest.snapshot_id), "snapshot"))


def texts(client: Client, snapshot: Manifest, worker: int, workers: int) -> Iterator[tuple[str, bytes]]:
    """Read one worker's share of a corpus."""
    entries = client.read(snapshot.snapshot_id, shard=Shard(worker, workers))
    assert_type(entries, Iterator[Entry])
    for entry in entries:
        slot = entry.slot()
        if slot is not None and slot.text is not None:
            yield entry.title, slot.text


def page(client: Client, title: str) -> str:
    """Read one article as it was, and what happened to it."""
    try:
        answer = client.article("aawiki", title, valid_at=parse_instant("2006-01-01T12:00:00Z"))
    except PageNotFoundError as error:
        return error.hint
    assert_type(answer, Answer)
    assert_type(client.timeline("aawiki", answer.revision.page_id), Iterator[TimelineItem])
    for outcome in client.revisions("aawiki", [1, 2], text=False):
        if isinstance(outcome, RecensionError):
            return outcome.reason
        assert_type(outcome, Revision)
    return client.text("aawiki", answer.revision.rev_id).decode()


def withdrawn(client: Client, before: bytes, after: bytes) -> list[int]:
    """Compare two corpora."""
    changes = client.diff(before, after)
    assert_type(changes, Iterator[Change])
    return [change.page_id for change in changes if change.kind is ChangeKind.RETRACTED]


def anywhere(reader: Reader) -> int:
    """Take whatever reads: a client is one of many."""
    return sum(part.count for snapshot in reader.snapshots() for part in snapshot.parts)


def over_the_wire(client: Client) -> int:
    """Hand a client to code that knows only the protocol."""
    return anywhere(client)
