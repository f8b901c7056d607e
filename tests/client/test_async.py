"""The client for asyncio: what it shares with the other is tested there; here, what awaiting adds."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing

import pytest

from recension.model import errors
from recension.model.manifest import OnHidden
from recension.model.reading import ChangeKind
from recension_client import AsyncClient, AsyncCorpus, AsyncSnapshot, Client, Corpus, PageBatch, Snapshot
from recension_client.retrying import Retry
from tests.archive.helpers import World, edit, hide
from tests.client.lying import lying
from tests.client.test_lies import dropping
from tests.server.helpers import Served, serving, until

PAGES = 300
LARGE = 200
HIDDEN = 7
FIRST, SECOND = "2020-01-02T12:00:00Z", "2020-01-10"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = World()
    pages = range(1, PAGES + 1)
    world.add(*(world.event(page, 1, edit(page, f"text {page} " * 500, f"P{page}")) for page in pages))
    world.add(world.event(LARGE, 1.2, edit(10_200, "ä" * 1_500_000, f"P{LARGE}")))
    world.add(world.event(3, 2, edit(10_003, "newer", "P3")), world.event(HIDDEN, 1, hide(HIDDEN)))
    with serving(world.store, tmp_path_factory.mktemp("served")) as served:
        yield served


def asking(served: Served, ask: Callable[[AsyncSnapshot], Awaitable[None]]) -> None:
    """Ask in an event loop of its own, in which nothing may be left."""

    async def run() -> None:
        async with AsyncClient(served.target) as client:
            await ask(await client.corpus("w").as_of(FIRST, on_hidden=OnHidden.KEEP))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not reading()

    asyncio.run(run())
    until(served.idle)


def reading() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "recension-pages"]


async def ids(batches: AsyncIterator[PageBatch]) -> list[int]:
    return [page.page_id async for batch in batches for page in batch]


@pytest.mark.parametrize(
    "awaited, other", [(AsyncClient, Client), (AsyncCorpus, Corpus), (AsyncSnapshot, Snapshot)]
)
def test_offers_what_the_other_does(awaited: type, other: type) -> None:
    """The same public names with the same parameters."""

    def public(cls: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(cls, inspect.isfunction)
        return {
            name: [str(one).split(":")[0] for one in inspect.signature(method).parameters.values()]
            for name, method in methods
            if not name.startswith("_")
        }

    theirs = public(other)
    if other is Client:
        theirs["flow"].remove("leave")
    else:
        assert "flow" not in theirs
    assert theirs == public(awaited)
    made = [list(inspect.signature(cls).parameters.values()) for cls in (other, awaited)]
    assert [one.name for one in made[0]] == [one.name for one in made[1]]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_same_pages(served: Served, prefetch: int) -> None:
    """Batches, texts and tokens are those of the other client."""
    with Client(served.target) as client:
        expected = list(client.corpus("w").as_of(FIRST, on_hidden=OnHidden.KEEP).pages(batch=64))

    async def ask(snapshot: AsyncSnapshot) -> None:
        assert expected == [batch async for batch in snapshot.pages(batch=64, prefetch=prefetch)]
        rest = [batch async for batch in snapshot.pages(batch=64, resume=expected[1].token)]
        assert expected[2:] == rest
        shards = [await ids(snapshot.pages(shard=(index, 2))) for index in range(2)]
        assert list(range(1, PAGES + 1)) == sorted(shards[0] + shards[1])
        with pytest.raises(errors.InvalidCursorError):
            snapshot.pages(resume=expected[1].token, shard=(0, 2))

    asking(served, ask)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_leaving_early_frees_everything(served: Served, prefetch: int) -> None:
    """A break, an exception, a close and a cancelled task leave no stream and no task."""

    async def read_slowly(snapshot: AsyncSnapshot, begun: asyncio.Event) -> None:
        async for _ in snapshot.pages(batch=1, prefetch=prefetch):
            begun.set()
            await asyncio.sleep(3600)

    async def ask(snapshot: AsyncSnapshot) -> None:
        async for batch in snapshot.pages(batch=1, prefetch=prefetch):
            assert batch
            break
        async with aclosing(snapshot.pages(batch=1, prefetch=prefetch)) as pages:
            await anext(pages)
        with pytest.raises(ZeroDivisionError):
            async for batch in snapshot.pages(batch=1, prefetch=prefetch):
                print(len(batch) // 0)
        begun = asyncio.Event()
        task = asyncio.create_task(read_slowly(snapshot, begun))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asking(served, ask)


def test_a_cancelled_question_stays_cancelled(served: Served) -> None:
    """A task that is cancelled while it waits for the server ends as such."""

    async def ask(snapshot: AsyncSnapshot) -> None:
        task = asyncio.create_task(ids(snapshot.pages(batch=1, prefetch=0)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asking(served, ask)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_closing_the_client_ends_its_streams(served: Served, prefetch: int) -> None:
    """Who reads on is told that the client is closed, not that the task was cancelled."""

    async def ask(snapshot: AsyncSnapshot) -> None:
        client = AsyncClient(served.target)
        pages = (await client.open(snapshot.id)).pages(batch=1, prefetch=prefetch)
        await anext(pages)
        await client.close()
        with pytest.raises(errors.UnreachableError, match="closed"):
            await ids(pages)
        with pytest.raises(errors.UnreachableError, match="closed"):
            await client.projects()

    asking(served, ask)


def test_single_pages_differences_and_pins(served: Served) -> None:
    """What a corpus and a snapshot offer beside pages, awaited."""

    async def ask(snapshot: AsyncSnapshot) -> None:
        async with AsyncClient(served.target) as client:
            corpus = client.corpus("w")
            assert "w" == (await corpus.info()).name
            assert snapshot == await corpus.snapshot(snapshot.id)
            assert snapshot in [one async for one in corpus.snapshots()]
            later = await corpus.as_of(SECOND, on_hidden=OnHidden.KEEP)
            assert [(3, ChangeKind.EDITED)] == [
                (change.page_id, change.kind) async for change in snapshot.diff(later)
            ]
            made = await later.pin("run", until="2099-01-01")
            assert made == await corpus.pin("run")
            assert made in [one async for one in client.pins()]
            extended = await client.extend_pin("run", made.readable_until + 1)
            assert extended == await corpus.pin("run") != made
            await client.delete_pin("run")
            assert "run" not in [one.name async for one in client.pins()]
        assert "P3" == (await snapshot.entry(3)).title
        assert 3_000_000 == len((await snapshot.text(LARGE)).encode())
        assert [LARGE, 1] == [page.page_id async for page in snapshot.read([LARGE - 1, 0])]
        with pytest.raises(errors.PageNotFoundError):
            await snapshot.entry(10**9)
        with pytest.raises(errors.TextUnavailableError):
            await snapshot.text(HIDDEN)

    asking(served, ask)


def test_an_error_comes_where_the_batches_are_taken(served: Served) -> None:
    """A lie that the reading task found out, by its name."""

    async def ask(snapshot: AsyncSnapshot) -> None:
        with lying(served.target, dropping) as address:
            async with AsyncClient(address) as client:
                with pytest.raises(errors.VerificationError, match="pages came, the snapshot has"):
                    await ids((await client.open(snapshot.id)).pages())

    asking(served, ask)


def test_a_server_that_is_not_there() -> None:
    """It is tried again, then named."""

    async def ask() -> None:
        retry = Retry(first_pause_seconds=0.001)
        async with AsyncClient("127.0.0.1:1", retry=retry) as client:
            with pytest.raises(errors.UnreachableError):
                await client.projects()

    asyncio.run(ask())


def test_a_pause_ends_when_the_client_is_closed() -> None:
    """Who waits for the next try does not wait for ever."""

    async def ask() -> None:
        client = AsyncClient(
            "127.0.0.1:1",
            retry=Retry(first_pause_seconds=3600, longest_pause_seconds=3600, patience_seconds=10**6),
            timeout_seconds=10**6,
        )
        task = asyncio.create_task(client.projects())
        while not task.done():
            await asyncio.sleep(0.05)
            await client.close()
        with pytest.raises(errors.UnreachableError, match="closed"):
            await task

    asyncio.run(ask())


LEAVING = """
import asyncio, sys
from recension_client import AsyncClient, Client

address, snapshot = sys.argv[1:]
pages = Client(address).open(snapshot).pages(batch=1)
print(len(next(pages)))

async def begin():
    pages = (await AsyncClient(address).open(snapshot)).pages(batch=1)
    print(len(await anext(pages)))

asyncio.run(begin())
"""


def test_a_program_may_end_in_the_middle(served: Served) -> None:
    """Streams, threads and tasks that are open then do not hold it up, and it says nothing of them."""
    with Client(served.target) as client:
        snapshot = client.corpus("w").as_of(FIRST)
    command = [sys.executable, "-c", LEAVING, served.target, snapshot.id]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ("1\n1\n", "") == (done.stdout, done.stderr)
    until(served.idle)
