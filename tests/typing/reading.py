"""What a licensee would write: read a pinned corpus. Type-checked with everything else, never run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

from recension.model.credit import Attribution, Credited, statement
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
from recension_client import AsyncClient, AsyncSnapshot, Client, Page, PageBatch, Retry, Snapshot


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


def credits_of(client: Client, snapshot: Manifest, older: Manifest) -> Iterator[str]:
    """Name those who wrote what is new in a corpus."""
    for found in client.attributions(snapshot.snapshot_id, since=older.snapshot_id):
        assert_type(found, Attribution)
        yield statement(found, "https://aa.wikipedia.org")
    assert_type(client.article_attribution("aawiki", "Main Page"), Credited)


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


def in_batches(client: Client, done: str) -> Iterator[tuple[str, str | None]]:
    """Read a corpus from where an earlier run stopped."""
    snapshot = client.corpus("aawiki").as_of("2015-01-01", namespaces=[0])
    assert_type(snapshot, Snapshot)
    for batch in snapshot.pages(batch=100, shard=(0, 4), resume=done):
        assert_type(batch, PageBatch)
        assert_type(batch.token, str)
        yield from ((page.title, page.text) for page in batch)
    for change in client.open(snapshot.id).diff(snapshot):
        assert_type(change.before, Page | None)


async def awaited(server: str) -> list[str]:
    """Read a corpus in an event loop."""
    async with AsyncClient(server, retry=Retry(patience_seconds=600)) as client:
        snapshot = await client.corpus("aawiki").as_of()
        assert_type(snapshot, AsyncSnapshot)
        assert_type(await snapshot.text(1), str)
        return [page.title async for batch in snapshot.pages() for page in batch]


def over_the_wire(client: Client) -> int:
    """Hand a client to code that knows only the protocol."""
    return anywhere(client)
