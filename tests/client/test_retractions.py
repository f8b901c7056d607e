"""``recension retractions``: told what was withdrawn since the pin, out of the files, answered for."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest
import structlog

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.archive.retracting import Retractor, Wanted
from recension.model.retraction import Acknowledgement, Reason, Withdrawn
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension_client.async_client import AsyncClient
from recension_client.cli.main import main
from recension_client.client import Client
from recension_client.export.layout import read_index
from tests.archive.helpers import World, edit, hide

Run = Callable[..., str]


@pytest.fixture
def world() -> World:
    """Forty pages with one text each, of a project ``w``."""
    world = World()
    world.add(*(world.event(page, 1, edit(100 + page, f"text of {page} " * 30)) for page in range(1, 41)))
    return world


@pytest.fixture
def address(world: World, tmp_path: Path) -> Iterator[str]:
    """Serve it."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # stdout is the commands'
    config = ServeConfig(data=tmp_path / "data", threads=8)
    server: grpc.Server = make_server(Archive(world.store), Ingestor(world.store), world.store, config)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()
    structlog.reset_defaults()


@pytest.fixture
def run(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Run ``recension`` in a repository; it has to leave with ``status``."""
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")

    def run_(*arguments: str, status: int = 0) -> str:
        found = main(["--server", address, *arguments])
        written = capsysbinary.readouterr()
        assert found == status, (written.out + written.err).decode()
        return (written.out or written.err).decode()

    return run_


def pinned(run: Run, *fetch: str) -> None:
    """Pin all pages and fetch them."""
    run("pin", "w", "--at", "2020-02-01", "--name", "run", "--until", "2099-01-01", "--on-hidden", "keep")
    run("fetch", *fetch)


def retract(world: World, *revs: int) -> None:
    """Withdraw some revisions, and erase them."""
    retractor = Retractor(world.store)
    plan = retractor.plan("w", Wanted(revisions=frozenset(revs)))
    retractor.mask(plan, "case-1", Reason.COPYRIGHT)
    with world.store.exclusive_writer():
        retractor.erase(plan)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_from_the_news_to_the_answer(world: World, run: Run, form: str) -> None:
    """Listed with 1 until texts are gone and the answer is given; the files are those a fetch gives now."""
    if form == "parquet" and find_spec("pyarrow") is None:
        pytest.skip("no pyarrow here")
    pinned(run, "--form", form)
    assert run("retractions") == ""
    retract(world, 107)
    world.add(world.event(9, 3, hide(109)))

    rows = [json.loads(line) for line in run("retractions", "--json", status=1).splitlines()]
    assert [(row["page_id"], row["reason"], row["files"], row["outstanding"]) for row in rows] == [
        (7, "copyright", "text is there", True),
        (9, "upstream", "text is there", True),
    ]
    assert "apply" in run("retractions", "acknowledge", status=3)
    assert "retracted since: page 7" in run("verify", "--online", status=1)

    assert run("retractions", "apply") == "2 texts removed; the files now lack 2\n"
    assert run("retractions", "apply") == "0 texts removed; the files now lack 2\n"
    for path in Path("corpus").rglob("*"):
        assert not path.is_file() or b"text of 7 " not in path.read_bytes()
    assert "ok" in run("lock", "--check")
    assert "retracted: 7, 9 (2)" in run("verify", "--online")
    rows = [json.loads(line) for line in run("retractions", "--json", status=1).splitlines()]
    assert [(row["files"], row["acknowledged"]) for row in rows] == [("removed", False)] * 2

    shutil.copytree("corpus", "applied")
    shutil.rmtree("corpus")
    run("fetch")
    index = Path("corpus/data/index.json").read_bytes()
    assert index == Path("applied/data/index.json").read_bytes()
    for record in read_index(index).files:
        assert Path("corpus/data", record.path).read_bytes() == Path("applied/data", record.path).read_bytes()

    run("proof", "id:7", "-o", "page.proof")  # the root is the one of before, and the entry is in it
    run("proof", "verify", "page.proof")
    assert "answered for 2 entries of run" in run("retractions", "acknowledge")
    assert run("retractions", "acknowledge") == ""
    run("retractions")
    retract(world, 108)
    assert "no" in run("retractions", status=1)


def test_killed_before_the_list_was_written(world: World, run: Run) -> None:
    """A shard that took its place already is no damage to the next attempt."""
    pinned(run)
    retract(world, 107)
    index, lock = (Path(name).read_bytes() for name in ("corpus/data/index.json", "recension.lock"))
    run("retractions", "apply")
    done = Path("corpus/data/index.json").read_bytes()
    Path("corpus/data/index.json").write_bytes(index)
    Path("recension.lock").write_bytes(lock)
    assert "digest is another" in run("lock", "--check", status=1)
    run("retractions", "apply")
    assert Path("corpus/data/index.json").read_bytes() == done
    assert "ok" in run("lock", "--check")


def test_plain_text_goes_too(world: World, run: Run) -> None:
    """The rendition has no text of the page either, and is the lock's."""
    if find_spec("mwparserfromhell") is None:
        pytest.skip("no parser here")
    pinned(run, "--plain")
    assert json.loads(Path("corpus/plain/index.json").read_bytes())["files"][0]["without"] == 0
    retract(world, 107)
    run("retractions", "apply")
    assert json.loads(Path("corpus/plain/index.json").read_bytes())["files"][0]["without"] == 1
    assert "ok" in run("lock", "--check")


def test_lock_without_a_pin(run: Run) -> None:
    """Nobody knows since when, so it is an error with what to do."""
    run("pin", "w", "--at", "2020-02-01")
    assert "has no pin" in run("retractions", status=3)


def test_without_files(world: World, run: Run) -> None:
    """Whoever fetched nothing here still owes the answer."""
    run("pin", "w", "--at", "2020-02-01", "--name", "run", "--until", "2099-01-01")
    retract(world, 107)
    (row,) = (json.loads(line) for line in run("retractions", "--json", status=1).splitlines())
    assert (row["files"], row["outstanding"]) == ("-", True)
    run("retractions", "acknowledge")
    run("retractions")
    assert "names no files" in run("retractions", "apply", status=3)


def test_pin_of_the_same_name_is_another(run: Run) -> None:
    """A pin that took the name of the lock's is not asked about in its place."""
    pinned(run)
    run("pins", "delete", "run")
    Path("recension.lock").rename("kept.lock")
    pinned(run)
    assert "not there any more" in run("retractions", "--lock", "kept.lock", status=3)


def test_both_clients(world: World, address: str, run: Run) -> None:
    """Both ask page by page, and both answer."""
    pinned(run)
    retract(world, *range(101, 141))
    with Client(address) as client:
        entries = list(client.retractions("run"))

    async def ask() -> tuple[list[Withdrawn], Acknowledgement]:
        async with AsyncClient(address) as other:
            listed = [one async for one in other.retractions("run")]
            return listed, await other.acknowledge("run", entries[-1].position)

    listed, said = asyncio.run(ask())
    assert (len(entries), said.entries, listed) == (40, 40, entries)
    with Client(address) as client:
        assert all(one.acknowledged for one in client.retractions("run"))
        assert client.acknowledge("run", entries[-1].position) == said
