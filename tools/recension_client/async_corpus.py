"""What a licensee holds, for asyncio: ``Corpus`` and ``Snapshot``, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from recension.model.manifest import Manifest, OnHidden, Redirects, Selector
from recension.model.pin import Pin
from recension.model.reading import MAX_INDEXES, WHOLE, Entry, ProjectInfo, Shard
from recension_client.ahead import closed
from recension_client.corpus import (
    BATCH_PAGES,
    PREFETCH,
    SnapshotFacts,
    When,
    digest_given,
    entry_proved,
    instant_of,
    taken,
    wanted_text,
)
from recension_client.pages import (
    PREFETCH_BYTES,
    Batches,
    Page,
    PageBatch,
    PageChange,
    Window,
    change_seen,
    check_prefetch,
    shard_of,
)
from recension_client.streams import ChangeStream, ChosenStream, EntryStream

if TYPE_CHECKING:
    from recension_client.async_client import AsyncClient  # which makes what is here


class AsyncSnapshot(SnapshotFacts):
    """An exact corpus on a server, to be read. Made by ``AsyncCorpus.as_of`` and ``AsyncClient.open``."""

    def __init__(self, client: AsyncClient, manifest: Manifest) -> None:
        """``client``: where it is read from."""
        super().__init__(manifest)
        self._client = client

    def pages(
        self,
        *,
        batch: int = BATCH_PAGES,
        prefetch: int = PREFETCH,
        prefetch_bytes: int = PREFETCH_BYTES,
        shard: Shard | tuple[int, int] = WHOLE,
        resume: str = "",
        text: bool = True,
    ) -> AsyncGenerator[PageBatch, None]:
        """Yield the pages in the order of (project, page id), ``batch`` at a time, the last batch fewer.

        ``prefetch``: batches read ahead in a task of their own, with at most ``prefetch_bytes`` of text;
        0 reads as the caller goes. ``shard``: (index, count), one of several parts that are the whole
        together. ``resume``: token of a batch, to go on behind it. ``text``: off leaves the texts out.

        A server that goes away is waited for, and the pages go on without gap or repeat. Whoever leaves
        early frees the stream and the task, at once by ``contextlib.aclosing``.

        Raises ``InvalidArgumentError``, ``InvalidCursorError``, ``SnapshotReleasedError``,
        ``UnreachableError``, ``VerificationError``.
        """
        batches = Batches(self.manifest, shard_of(shard), batch, resume)
        check_prefetch(prefetch)
        stream = EntryStream(self.digest, batches.shard, batches.start, text=text, most_bytes=self.text_bytes)
        return self._pages(stream, batches, Window(prefetch, prefetch_bytes) if prefetch else None)

    async def _pages(
        self, stream: EntryStream, batches: Batches, window: Window[PageBatch] | None
    ) -> AsyncGenerator[PageBatch, None]:
        flow = self._client.flow(stream)
        if window is None:
            async with aclosing(flow):
                async for entries in flow:
                    for batch in batches.add(entries):
                        yield batch
            for batch in batches.end():
                yield batch
            return
        ahead = _Ahead(window)
        task = asyncio.create_task(ahead.fill(flow, batches), name="recension-pages")
        try:
            while (following := await ahead.take()) is not None:
                yield following
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def read(self, positions: Iterable[int], *, text: bool = True) -> AsyncGenerator[Page, None]:
        """Yield the pages at positions from 0 to ``count`` - 1 of the order (project, page id), as asked.

        Texts are those of the digests; that the pages are the snapshot's is the server's word. Raises
        ``InvalidArgumentError`` for a position that the snapshot has not.
        """
        for some in taken(positions, MAX_INDEXES):
            async with aclosing(
                self._client.flow(ChosenStream(self.digest, some, text=text, most_bytes=self.text_bytes))
            ) as flow:
                async for entries in flow:
                    for entry in entries:
                        yield Page(entry)

    async def entry(self, page_id: int, *, project: str = "") -> Entry:
        """Return a page's entry, without texts, proved to be in the snapshot.

        Raises ``PageNotFoundError``, proved too; ``VerificationError``.
        """
        return entry_proved(await self._client.prove(self.digest, self.project_given(project), page_id))

    async def text(self, page_id: int, *, role: str = "main", project: str = "") -> str:
        """Return a page's text, proved to be in the snapshot.

        Raises ``PageNotFoundError``, ``TextUnavailableError``, ``VerificationError``.
        """
        wanted = wanted_text(await self.entry(page_id, project=project), role)
        return wanted.text(await self._client.text(wanted.entry.project, wanted.entry.rev_id, role))

    async def diff(self, after: SnapshotFacts, *, text: bool = False) -> AsyncGenerator[PageChange, None]:
        """Yield what differs in a later snapshot, by (project, page id); ``text`` brings both texts."""
        most_bytes = self.text_bytes + after.text_bytes
        stream = ChangeStream(self.digest, after.digest, text=text, most_bytes=most_bytes)
        async with aclosing(self._client.flow(stream)) as flow:
            async for changes in flow:
                for change in changes:
                    yield change_seen(change)

    async def pin(self, name: str, *, until: When, labels: Mapping[str, str] | None = None) -> Pin:
        """Hold the snapshot on the server until a time, or return the pin if there is the same.

        Raises ``PinExistsError``, ``PinExpiredError``, ``SnapshotReleasedError``.
        """
        return await self._client.create_pin(name, self.digest, instant_of(until), labels)


class AsyncCorpus:
    """One project of a server."""

    def __init__(self, client: AsyncClient, project: str) -> None:
        """Asks nothing yet."""
        self._client = client
        self.project = project

    async def info(self) -> ProjectInfo:
        """Return what is held of it. Raises ``ProjectNotFoundError``."""
        return await self._client.project(self.project)

    async def as_of(
        self,
        when: When | None = None,
        *,
        known_at: int = 0,
        namespaces: Iterable[int] = (),
        models: Iterable[str] = (),
        redirects: Redirects = Redirects.INCLUDE,
        min_age_seconds: int = 0,
        on_hidden: OnHidden = OnHidden.SKIP,
    ) -> AsyncSnapshot:
        """Make the snapshot of a time, now unless it is given, as known at a position, else the newest.

        Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``, ``InvalidTimeError``.
        """
        selector = Selector.of(
            [self.project], list(namespaces), list(models), redirects, min_age_seconds, on_hidden
        )
        valid_at = None if when is None else instant_of(when)
        manifest = await self._client.create_snapshot(selector, valid_at=valid_at, known_at=known_at)
        return AsyncSnapshot(self._client, manifest)

    async def snapshot(self, snapshot_id: str | bytes) -> AsyncSnapshot:
        """Return a snapshot that is there. Raises ``SnapshotNotFoundError``."""
        return AsyncSnapshot(self._client, await self._client.snapshot(digest_given(snapshot_id)))

    async def snapshots(self) -> AsyncIterator[AsyncSnapshot]:
        """Yield the snapshots that hold this project, in the order of their making."""
        async for manifest in self._client.snapshots():
            if self.project in manifest.selector.projects:
                yield AsyncSnapshot(self._client, manifest)

    async def pin(self, name: str) -> Pin:
        """Return a live pin, whose ``snapshot_id`` it holds. Raises ``PinNotFoundError``."""
        return await self._client.pin(name)


class _Ahead:
    """A window that one task fills while another takes.

    No generator: an event loop that ends closes all of them at once, and one whose end has to be waited for
    must not be closed by another meanwhile.
    """

    def __init__(self, window: Window[PageBatch]) -> None:
        self._window = window
        self._changed = asyncio.Condition()

    async def fill(self, flow: AsyncGenerator[Sequence[Entry], None], batches: Batches) -> None:
        """Read all there is."""
        fault: BaseException | None = None
        try:
            async with aclosing(flow):
                async for entries in flow:
                    for batch in batches.add(entries):
                        await self._put(batch)
            for batch in batches.end():
                await self._put(batch)
        except asyncio.CancelledError:
            fault = closed()  # whoever reads on must not take this for the end
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the batches are taken
            fault = error
        finally:
            async with self._changed:
                self._window.fault, self._window.ended = fault, True
                self._changed.notify_all()

    async def _put(self, batch: PageBatch) -> None:
        size = batch.text_bytes
        async with self._changed:
            await self._changed.wait_for(lambda: self._window.has_room(size))
            self._window.put(batch, size)
            self._changed.notify_all()

    async def take(self) -> PageBatch | None:
        """Return the oldest batch, none at the end. Raises what the reading ended with."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._window.ready)
            batch = self._window.take()
            self._changed.notify_all()
        return batch
