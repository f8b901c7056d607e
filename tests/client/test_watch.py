"""Following over the wire: what a lying server cannot pass off, restarts, the command."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model import errors
from recension.model.manifest import Selector
from recension.server.build import make_service
from recension.server.config import ServeConfig
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.v1 import change_service_pb2 as pb
from recension.v1.change_service_pb2_grpc import ChangeServiceStub
from recension_client import AsyncClient, Client
from recension_client.cli.main import main
from recension_client.watching import Commit, Heartbeat, Since, WatchStream
from tests.archive.helpers import World, edit, hide
from tests.client.test_restarts import PATIENT, Server
from tests.server import helpers

W = Selector.of(["w"])


def fill(world: World) -> None:
    for page in range(1, 41):
        world.add(world.event(page, 1, edit(page, f"text {page}", f"P{page}")))
    world.add(*(world.event(page, 2, edit(100 + page, f"newer {page}", f"P{page}")) for page in range(1, 9)))
    world.add(world.event(3, 3, hide(103)))


# --- lies ---------------------------------------------------------------------------------------

Messages = list[pb.WatchResponse]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The messages of an honest server: a start, a batch of some 40 commits, a heartbeat."""
    world = World()
    fill(world)
    with helpers.serving(world.store, tmp_path_factory.mktemp("w")) as served:
        call = ChangeServiceStub(served.channel).Watch(WatchStream(W, 0, text=True).request())
        found = [next(call).SerializeToString() for _ in range(3)]
        call.cancel()
    return found


def taken(messages: Messages) -> list[Commit | Heartbeat]:
    """Return what a client makes of messages."""
    stream = WatchStream(W, 0, text=True)
    stream.request()
    return [one for message in messages for one in stream.take(message)]


def steps_of(messages: Messages) -> Any:
    return messages[1].batch.steps


def _drop(messages: Messages) -> None:
    del steps_of(messages)[5]


def _drop_last(messages: Messages) -> None:
    del messages[1].batch.steps[-3:]
    messages.append(pb.WatchResponse(end=pb.WatchEnd(position=messages[2].heartbeat.position, root="")))


def _repeat(messages: Messages) -> None:
    steps_of(messages).insert(6, steps_of(messages)[5])


def _swap(messages: Messages) -> None:
    steps = list(steps_of(messages))
    steps[5], steps[6] = steps[6], steps[5]
    messages[1].batch.ClearField("steps")
    messages[1].batch.steps.extend(steps)


def _omit_page(messages: Messages) -> None:
    del next(step for step in steps_of(messages) if len(step.pages) > 3).pages[2]


def _invent_page(messages: Messages) -> None:
    step = steps_of(messages)[7]
    step.pages.add(page_id=9_999).CopyFrom(step.pages[0])
    step.pages[-1].page_id = step.pages[-1].entry.page_id = 9_999


def _wrong_root(messages: Messages) -> None:
    steps_of(messages)[4].root = steps_of(messages)[3].root


def _wrong_before(messages: Messages) -> None:
    steps_of(messages)[4].previous_root = steps_of(messages)[2].root


def _other_start(messages: Messages) -> None:
    messages[0].start.position = 1


def _another_root_at_the_start(messages: Messages) -> None:
    messages[0].start.root = steps_of(messages)[0].root


def _other_entry(messages: Messages) -> None:
    steps_of(messages)[4].pages[0].entry.title = "Another"


def _entry_of_other_page(messages: Messages) -> None:
    steps_of(messages)[4].pages[0].entry.CopyFrom(steps_of(messages)[5].pages[0].entry)


def _no_entry(messages: Messages) -> None:
    steps_of(messages)[4].pages[0].ClearField("entry")


def _other_text(messages: Messages) -> None:
    steps_of(messages)[4].pages[0].entry.slots[0].text = "Another"


def _other_former_record(messages: Messages) -> None:
    next(step for step in steps_of(messages) if step.pages[0].HasField("before")).pages[0].before.rev_id += 1


def _removed_page_comes_back(messages: Messages) -> None:
    page = steps_of(messages)[-1].pages[0]
    page.after.CopyFrom(page.before)


def _back_in_time(messages: Messages) -> None:
    steps_of(messages)[4].position = 1


def _heartbeat_in_the_past(messages: Messages) -> None:
    messages[2].heartbeat.position -= 1


def _heartbeat_in_a_commit(messages: Messages) -> None:
    steps_of(messages)[-1].continued = True


def _other_commit_within_one(messages: Messages) -> None:
    steps_of(messages)[4].continued = True


def _starts_twice(messages: Messages) -> None:
    messages.insert(1, messages[0])


def _does_not_start(messages: Messages) -> None:
    del messages[0]


LIES = [
    *(_drop, _repeat, _swap, _omit_page, _invent_page, _wrong_root, _wrong_before),
    *(_other_start, _another_root_at_the_start, _other_entry, _entry_of_other_page, _no_entry, _other_text),
    *(_other_former_record, _removed_page_comes_back, _back_in_time, _heartbeat_in_the_past),
    *(_heartbeat_in_a_commit, _other_commit_within_one, _starts_twice, _does_not_start, _drop_last),
]


@pytest.mark.parametrize("lie", LIES)
def test_no_lie_passes(honest: list[bytes], lie: Callable[[Messages], None]) -> None:
    """Whatever is left out, made up, bent, moved or repeated is refused."""
    messages = [pb.WatchResponse.FromString(one) for one in honest]
    assert 43 == len(taken(messages))  # the truth is taken
    lie(messages)
    with pytest.raises(errors.VerificationError):
        taken(messages)


def test_nodes_are_needed_and_have_to_be_those_of_the_tree(tmp_path: Path) -> None:
    """Whoever has a root alone is sent what shows a step; without it, or with other nodes, it is refused."""
    world = World()
    fill(world)
    with helpers.serving(world.store, tmp_path) as served, Client(served.target) as client:
        standing = next(one.standing for one in client.watch(W) if one.standing.position == 20)
        call = ChangeServiceStub(served.channel).Watch(WatchStream(W, standing).request())
        start, batch = (next(call) for _ in range(2))
        call.cancel()
    for bend in (0, 1, 2):
        stream = WatchStream(W, standing)
        stream.request()
        stream.take(start)
        nodes = batch.batch.steps[0].nodes
        if bend == 0:
            assert stream.take(batch)
            continue
        nodes[0] = nodes[0][:-1] if bend == 1 else nodes[0][:-1] + bytes([nodes[0][-1] ^ 1])
        with pytest.raises(errors.VerificationError):
            stream.take(batch)


def test_a_snapshot_of_another_root_is_refused() -> None:
    """Whoever starts from a pin knows where it starts."""
    world = World()
    fill(world)
    manifest = world.archive.create_snapshot(W, valid_at=world.day(9))
    stream = WatchStream(W, manifest)
    stream.request()
    start = pb.WatchStart(position=manifest.as_of.known_at, root=f"sha256:{bytes(32).hex()}")
    with pytest.raises(errors.VerificationError):
        stream.take(pb.WatchResponse(start=start))
    with pytest.raises(errors.InvalidArgumentError):
        WatchStream(Selector.of(["other"]), manifest)


def test_nothing_begins_or_leads_elsewhere(tmp_path: Path) -> None:
    """At position 0 there is nothing; a snapshot is of its K, and leads to the scope once, at the start."""
    world = World()
    fill(world)
    manifest = world.archive.create_snapshot(W, valid_at=world.day(1.5))
    with helpers.serving(world.store, tmp_path) as served:
        changes = ChangeServiceStub(served.channel)

        def answers(asked: pb.WatchRequest) -> Messages:
            call = changes.Watch(asked)
            found = [next(call) for _ in range(3)]
            call.cancel()
            return found

        late = answers(WatchStream(W, 20).request())
        bridge = answers(WatchStream(W, manifest).request())
    assert taken_from(20, late)
    late[0].start.position = 0
    with pytest.raises(errors.VerificationError):
        taken_from(0, late)
    assert 2 == len(taken_from(manifest, bridge))
    step = bridge[1].batch.steps[0]
    bent = [pb.WatchResponse.FromString(one.SerializeToString()) for one in bridge]
    bent[1].batch.steps[0].position += 1
    with pytest.raises(errors.VerificationError):
        taken_from(manifest, bent)
    bent[0].start.position += 1
    with pytest.raises(errors.VerificationError):
        taken_from(manifest, bent)
    start = pb.WatchStart(position=step.position, root=step.previous_root)
    with pytest.raises(errors.VerificationError):
        taken_from(step.position, [pb.WatchResponse(start=start), bridge[1]])


def taken_from(since: Since, messages: Messages) -> list[Commit | Heartbeat]:
    """Return what a client makes of messages that it asked for."""
    stream = WatchStream(W, since)
    stream.request()
    return [one for message in messages for one in stream.take(message)]


# --- restarts -----------------------------------------------------------------------------------


def test_a_follower_outlives_servers(tmp_path: Path) -> None:
    """Killed and drained in the middle, while commits are made: no gap, no repeat, the same commits anew."""
    data = tmp_path / "data"
    with ExitStack() as held, tempfile.TemporaryFile() as log:
        store = held.enter_context(closing(LmdbStore.open(data, create=True, force_mount=True)))
        world = World(store)
        server = Server(data, log)
        server.start()
        held.callback(lambda: server.stop(signal.SIGTERM))
        client = held.enter_context(Client(server.address, retry=PATIENT))
        watching = client.watch(W)
        seen: list[Commit] = []
        for number in range(60):
            world.add(world.event(number % 20 + 1, number, edit(number + 1, f"{number}", f"P{number % 20}")))
            if number == 20:
                server.restart(signal.SIGKILL)
            if number == 40:
                server.restart(signal.SIGTERM)
            if number % 5 == 4:
                while not seen or seen[-1].position < store.log.head().position:
                    one = next(watching)
                    seen += [one] if isinstance(one, Commit) else []
        assert sorted({one.position for one in seen}) == [one.position for one in seen]
        assert all(before.root == one.previous_root for before, one in pairwise(seen))
        assert 60 == sum(len(one.events) for one in seen)
        assert seen == asyncio.run(_awaited(server.address, len(seen)))


async def _awaited(address: str, count: int) -> list[Commit | Heartbeat]:
    found = []
    async with AsyncClient(address, retry=PATIENT) as client:
        async for one in client.watch(W):
            found.append(one)
            if len(found) == count:
                return found
    raise AssertionError


# --- the command --------------------------------------------------------------------------------


@contextmanager
def served_by_port(store: Store, directory: Path) -> Iterator[str]:
    """Serve a store at an address that a command may be told."""
    service = make_service(Archive(store), Ingestor(store), store, ServeConfig(data=directory))
    port = service.server.add_insecure_port("127.0.0.1:0")
    service.server.start()
    yield f"127.0.0.1:{port}"
    service.server.stop(None).wait()


def test_the_command_goes_on_where_it_was(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With a state file each run writes what the one before did not; from a lock it begins with a bridge."""
    state, lock = tmp_path / "state.json", tmp_path / "recension.lock"
    world = World()
    fill(world)
    with served_by_port(world.store, tmp_path) as address:

        def command(*options: str) -> tuple[int, bytes, bytes]:
            capfdbinary.readouterr()
            status = main(["--server", address, *options])
            return (status, *capfdbinary.readouterr())

        def follow(*options: str) -> list[dict[str, Any]]:
            status, out, _ = command("follow", "w", "--exit-when-caught-up", *options)
            assert 0 == status
            # The server logs here too.
            return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]

        first = follow("--state", str(state))
        assert [] == follow("--state", str(state))
        assert first == follow("--from", "0")
        world.add(world.event(50, 9, edit(999, "last", "Last")))
        (last,) = follow("--state", str(state), "--text")
        assert first[-1]["root"] == last["previous_root"]
        assert "last" == last["pages"][0]["entry"]["text"]
        assert "upstream" == first[-1]["reason"]
        held = json.loads(state.read_text())
        assert (last["position"], last["root"]) == (held["position"], held["root"])

        assert 0 == command("pin", "w", "--at", "2020-01-02T12:00:00Z", "--lock", str(lock))[0]
        bridge, *rest = follow("--from", str(lock))
        assert bridge["bridge"]
        assert not rest
        assert last["root"] == bridge["root"]
        state.write_text(json.dumps(held | {"root": first[0]["root"]}))
        assert b"something was missed" in command("follow", "w", "--state", str(state))[2]
        for damaged in ("{}", "[", json.dumps(held | {"selector": {}})):
            state.write_text(damaged)
            status, _, said = command("follow", "w", "--state", str(state))
            assert (3, b"error: ") == (status, said[:7])
        assert 3 == command("follow", "w", "--namespace", "4", "--from", str(lock))[0]
        assert b"cannot be held" in command("follow", "w", "--state", str(tmp_path / "none" / "s"))[2]
        assert 3 == command("follow", "w", "other", "--from", "0")[0]


def test_one_run_at_a_time_has_a_state_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another one is refused by name; behind the end of the first, however it ended, the next goes on."""
    state = tmp_path / "state.json"
    world = World()
    fill(world)
    with served_by_port(world.store, tmp_path) as address:
        follow = ["--server", address, "follow", "w", "--state", str(state)]
        first = subprocess.Popen(
            [sys.executable, "-m", "recension_client.cli.main", *follow], stdout=subprocess.PIPE
        )
        with first:
            try:
                assert first.stdout is not None
                first.stdout.readline()
                assert 3 == main([*follow, "--exit-when-caught-up"])
                assert f"{state} is used by another run" in capfd.readouterr().err
                assert 0 == main([*follow[:-1], str(tmp_path / "other.json"), "--exit-when-caught-up"])
            finally:
                first.kill()
        assert 0 == main([*follow, "--exit-when-caught-up"])
