"""Followers of changes on a real server: who is told what, and what becomes of the slow and the late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.garbage import collect
from recension.archive.horizons import recorded_at
from recension.archive.keyring import Keyring
from recension.archive.retracting import Retractor, Wanted
from recension.model import errors
from recension.model.access import Role, Secret
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Move, Presence, SlotText, Visibility
from recension.model.manifest import Selector
from recension.model.reading import ProjectInfo, Revision
from recension.model.retraction import Reason
from recension.model.tree import EMPTY_ROOT
from recension.server import door, fanout
from recension.server.build import Chore
from recension.server.embargo import EmbargoClock
from recension.server.pepper import Pepper
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import change_service_pb2 as pb
from recension.v1.change_service_pb2_grpc import ChangeServiceStub
from recension.wire import convert
from recension_client import Client
from recension_client.watching import Commit, Heartbeat, Standing, WatchStream
from tests.archive.helpers import NOW, World, edit, hide
from tests.server.helpers import PATIENCE_SECONDS, Served, agree, refused, serving, until
from tests.server.test_door import LATER, shown

W = Selector.of(["w"])
STALLED = 4
HOUR = 3_600_000_000


class Place:
    """A server whose followers are looked after all the time."""

    def __init__(self, served: Served, world: World, keyring: Keyring, looking: Chore) -> None:
        self.served, self.world, self.keyring, self.looking = served, world, keyring, looking
        self.changes = ChangeServiceStub(served.channel)
        self.fanout = served.service.fanout

    def key(self, owner: str = "acme", role: Role = Role.LICENSEE) -> Secret:
        return self.keyring.make(owner, role, LATER)

    def watch(self, key: Secret | None = None, selector: Selector = W, **said: Any) -> Any:
        request = pb.WatchRequest(selector=convert.selector_to_proto(selector), **said)
        return self.changes.Watch(request, metadata=shown(key) if key else (), timeout=PATIENCE_SECONDS)

    def told(self, call: Any, stream: WatchStream | None = None) -> Iterator[Commit | Heartbeat]:
        """Yield what a call brings, checked."""
        stream = stream or WatchStream(W, 0)
        for message in call:
            yield from stream.take(message)

    def all_of(self, key: Secret | None = None, selector: Selector = W) -> list[Commit]:
        """Return all commits that there are for a caller."""
        found: list[Commit] = []
        call = self.watch(key, selector, position=0)
        for one in self.told(call, WatchStream(selector, 0)):
            if isinstance(one, Heartbeat):
                call.cancel()
                return found
            found.append(one)
        raise AssertionError


@contextmanager
def place_at(tmp_path: Path, **options: Any) -> Iterator[Place]:
    world = World(MemoryStore())
    world.ingestor.create_project(ProjectInfo("shut", "https://w.example", "en", "CC0-1.0"))
    world.add(world.event(1, 1, edit(1, "one")), world.event(2, 2, edit(2, "two", "B")))
    world.add(world.event(1, 3, edit(3, "three")))
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    with serving(world.store, tmp_path, **options) as served:
        looking = Chore(served.service.fanout.look, 0.01)
        looking.start()
        try:
            yield Place(served, world, Keyring(world.store, pepper), looking)
        finally:
            looking.stop()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_at(tmp_path) as place:
        yield place


def other(world: World, page: int, rev: int, namespace: int = 1, text: str = "secret") -> Event:
    """Return an edit in another namespace."""
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, text.encode())
    what = Edit(rev, 0, f"Talk {page}", namespace, False, NOBODY, NO_COMMENT, False, (slot,))  # noqa: FBT003
    return world.event(page, 4, what)


# --- what is told -----------------------------------------------------------------------------------


def test_everything_then_each_as_it_is_committed(place: Place) -> None:
    """From nothing, over what there is, to what comes; the roots are those of snapshots at each position."""
    told = place.told(place.watch(position=0))
    seen = [next(told) for _ in range(3)]
    assert [(Commit, 3), (Commit, 4), (Heartbeat, 4)] == [(type(one), one.standing.position) for one in seen]
    place.world.add(place.world.event(3, 4, edit(9, "nine", "C")))
    place.world.add(place.world.event(1, 5, hide(3)))
    seen += [next(told), next(told)]
    for one in seen:
        at = one.standing
        manifest = place.world.archive.create_snapshot(W, valid_at=place.world.day(900), known_at=at.position)
        assert manifest.parts[0].root == at.root
    commits = [one for one in seen if isinstance(one, Commit)]
    assert [[1, 2], [1], [3], [1]] == [[page.step.page_id for page in one.pages] for one in commits]
    assert ["", "", "", "upstream"] == [one.reason for one in commits]
    (event,) = commits[-1].events
    assert isinstance(event.what, Visibility)
    revision = commits[2].events[0].what
    assert isinstance(revision, Revision)
    assert (9, "C") == (revision.rev_id, revision.title)


def test_goes_on_from_any_position_and_root(place: Place) -> None:
    """The second half of the commits follows from the standing after the first, whichever that is."""
    for number in range(10, 40):
        place.world.add(place.world.event(number, 4, edit(number, str(number), f"P{number}")))
    every = place.all_of()
    for at, commit in enumerate(every):
        stream = WatchStream(W, commit.standing)
        request = stream.request()
        call = place.watch(position=request.position, root=request.root)
        told = place.told(call, stream)
        rest = []
        while isinstance(one := next(told), Commit):
            rest.append(one)
        assert every[at + 1 :] == rest
        call.cancel()
    wrong = Standing(every[3].position, every[2].root)
    call = place.watch(position=wrong.position, root=f"sha256:{wrong.root.hex()}")
    assert isinstance(refused(lambda: list(call)), errors.RootMismatchError)
    assert isinstance(refused(lambda: list(place.watch(position=10_000))), errors.AsOfOutOfRangeError)


def test_from_a_snapshot(place: Place) -> None:
    """First what differs between it and the scope at its K, then what was committed behind that."""
    manifest = place.world.archive.create_snapshot(W, valid_at=place.world.day(1.5), known_at=4)
    stream = WatchStream(W, manifest)
    call = place.watch(snapshot=f"sha256:{manifest.snapshot_id.hex()}")
    told = place.told(call, stream)
    bridge, beat = next(told), next(told)
    assert isinstance(bridge, Commit)
    assert bridge.bridge
    assert manifest.parts[0].root == bridge.previous_root
    assert [1, 2] == [page.step.page_id for page in bridge.pages]
    assert Standing(4, place.all_of()[-1].root) == bridge.standing
    assert isinstance(beat, Heartbeat)
    place.world.add(place.world.event(3, 4, edit(9, "nine", "C")))
    assert [3] == [page.step.page_id for page in _commit(next(told)).pages]
    narrow = Selector.of(["w"], [0])
    call = place.watch(selector=narrow, snapshot=f"sha256:{manifest.snapshot_id.hex()}")
    assert isinstance(refused(lambda: list(call)), errors.InvalidArgumentError)


def _commit(one: Commit | Heartbeat) -> Commit:
    assert isinstance(one, Commit)
    return one


def test_texts_come_if_asked_for_as_far_as_there_is_room(place: Place) -> None:
    """Each is that of its digest; a large one is left out and said to be."""
    place.world.add(place.world.event(5, 4, edit(50, "ß" * 900_000, "Large")))
    call = place.watch(position=0, view=2)
    told = place.told(call, WatchStream(W, 0, text=True))
    commits = [_commit(next(told)) for _ in range(3)]
    texts = [[page.entry.slots[0].text for page in one.pages if page.entry] for one in commits]
    assert [[b"one", b"two"], [b"three"], [None]] == texts
    bare = place.all_of()
    assert all(page.entry.slots[0].text is None for one in bare for page in one.pages if page.entry)


# --- who is told ------------------------------------------------------------------------------------


def test_what_is_not_granted_leaves_no_trace(place: Place) -> None:
    """Neither its commits nor its pages are told; the root is that of what is granted."""
    world = place.world
    agree(world.store, "acme", {"projects": ["w"], "namespaces": [0], "freshness": "realtime"})
    key = place.key()
    scope = Selector.of(["w"], [0])
    before = place.all_of(key, scope)
    world.add(other(world, 70, 700))
    world.add(other(world, 71, 710), world.event(3, 4, edit(9, "nine", "C")))
    world.add(world.event(2, 5, Move("B", 0, "Secret place", 1, NOBODY, NO_COMMENT)))
    told = place.all_of(key, scope)
    assert before == told[: len(before)]
    new = told[len(before) :]
    assert [[3], [2]] == [[page.step.page_id for page in one.pages] for one in new]
    assert [[9], []] == [[event.what.rev_id for event in one.events] for one in new]  # type: ignore[union-attr]
    assert new[-1].pages[0].step.after is None
    assert "ecret" not in repr(told)
    assert len(told) < len(place.all_of(place.key("op", Role.OPERATOR)))
    for selector, error in (
        (W, errors.OutsideAgreementError),
        (Selector.of(["shut"], [0]), errors.ProjectNotFoundError),
        (Selector.of(["none"], [0]), errors.ProjectNotFoundError),
    ):
        assert isinstance(refused(lambda: list(place.watch(key, selector, position=0))), error)  # noqa: B023


def test_an_embargo_holds_back_commits_and_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is younger is told, not even that it is there; it comes when it is old enough."""
    now = [NOW + 1]  # the first commits are of NOW, a microsecond apart
    monkeypatch.setattr(EmbargoClock, "now", lambda self: now[0])
    with place_at(tmp_path) as place:
        agree(place.world.store, "acme", {"projects": ["w"], "freshness": {"delay_seconds": 3600}})
        key = place.key()
        told = place.told(place.watch(key, position=0))
        assert Heartbeat(Standing(0, EMPTY_ROOT), 0) == next(told)
        assert isinstance(refused(lambda: list(place.watch(key, position=3))), errors.AsOfOutOfRangeError)
        with place.world.store.view() as view:
            now[0] = recorded_at(view, 3) + HOUR
        assert 3 == next(told).standing.position
        now[0] += HOUR
        assert 4 == next(told).standing.position


def test_what_is_withdrawn_is_told_and_forgotten(place: Place) -> None:
    """Followers hear the reason; who comes later is not sent what others were sent before."""
    every = place.told(place.watch(position=0))
    assert [3, 4, 4] == [next(every).standing.position for _ in range(3)]
    place.world.add(place.world.event(4, 4, edit(40, "fine", "Name of a person")))
    assert "Name of" in repr(next(every))
    retractor = Retractor(place.world.store)
    plan = retractor.plan("w", Wanted(revisions=frozenset({40})))
    retractor.mask(plan, "case-1", Reason.PRIVACY)
    withdrawn = _commit(next(every))
    assert "privacy" == withdrawn.reason
    assert 32 == len(withdrawn.retraction)
    late = place.all_of()
    assert withdrawn == late[-1]
    shown_of = next(event.what for one in late for event in one.events if _rev(event.what) == 40)
    assert isinstance(shown_of, Revision)
    assert [Presence.HIDDEN] == [slot.presence for slot in shown_of.slots]


def _rev(what: object) -> int:
    return what.rev_id if isinstance(what, Revision) else 0


def test_a_key_is_revoked_and_an_agreement_ends_in_an_open_stream(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower is told why, though nothing is committed."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(fanout, "_CHECK_SECONDS", 0.0)
    agree(place.world.store, "acme")
    revoked, changed = place.key(), place.key()
    calls = [place.watch(key, position=0) for key in (revoked, changed)]
    for call in calls:
        while not next(call).HasField("heartbeat"):
            pass
    place.keyring.revoke(revoked.id)
    assert isinstance(refused(lambda: list(calls[0])), errors.UnauthenticatedError)
    agree(place.world.store, "acme", {"projects": ["w"], "namespaces": [0], "freshness": "realtime"})
    assert isinstance(refused(lambda: list(calls[1])), errors.AgreementChangedError)
    until(lambda: place.fanout.running == 0)


def test_followers_count_as_streams_and_texts_against_the_quota(place: Place) -> None:
    """As the agreement says; a place is free again when its follower has left."""
    document = {
        "rates": {"concurrent_streams": 2},
        "quotas": {"articles_per_day": 3},
    }
    agree(place.world.store, "acme", **document)
    key = place.key()
    calls = [place.watch(key, position=0) for _ in range(2)]
    for call in calls:
        next(call)
    assert isinstance(refused(lambda: next(place.watch(key, position=0))), errors.StreamsExhaustedError)
    calls[0].cancel()

    def admitted() -> bool:
        try:
            call = place.watch(key, position=0, view=2)
            return bool(next(call).HasField("start") and next(call).HasField("batch"))
        except grpc.RpcError:
            return False

    until(admitted)
    calls[1].cancel()
    until(
        lambda: isinstance(
            refused(lambda: list(place.watch(key, position=0, view=2))), errors.QuotaExhaustedError
        )
    )


def test_auditors_follow_nothing(place: Place) -> None:
    """There are titles in it."""
    place.key()
    audit = place.key("eve", Role.AUDITOR)
    assert isinstance(refused(lambda: list(place.watch(audit, position=0))), errors.PermissionDeniedError)


# --- the slow, the late and the gone ----------------------------------------------------------------


def test_stalled_followers_hurt_nobody(place: Place) -> None:
    """They hold no thread of the queries; what is sent to others goes on, however much they were not sent."""
    stalled = [place.watch(position=0, view=2) for _ in range(STALLED)]
    for call in stalled:
        next(call)
    told = place.told(place.watch(position=0, view=2), WatchStream(W, 0, text=True))
    position = 0
    for number in range(100, 130):
        place.world.add(place.world.event(number, 4, edit(number, "x" * 900_000 + str(number), f"P{number}")))
        while position < place.world.store.log.head().position:
            position = next(told).standing.position
    assert STALLED + 1 == place.fanout.running
    place.served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), timeout=PATIENCE_SECONDS)
    for call in stalled:
        call.cancel()
    until(lambda: place.fanout.running == 1)


def test_a_late_follower_walks_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the line has forgotten is computed anew, and is the same."""
    monkeypatch.setattr(fanout, "_KEPT_BYTES", 1)
    for number in range(10, 30):
        place.world.add(place.world.event(number, 4, edit(number, str(number), f"P{number}")))
    first = place.told(place.watch(position=0))
    seen: list[Commit | Heartbeat] = []
    for number in range(30, 50):
        place.world.add(place.world.event(number, 4, edit(number, str(number), f"P{number}")))
        while not seen or seen[-1].standing.position < place.world.store.log.head().position:
            seen.append(next(first))
    assert [one for one in seen if isinstance(one, Commit)] == place.all_of()


def test_a_server_that_drains_sends_its_followers_on(place: Place) -> None:
    """With where they are; whoever comes then is told that it drains."""
    call = place.watch(position=0)
    messages = [next(call) for _ in range(3)]
    place.fanout.drain()
    (end,) = list(call)
    assert 4 == end.end.position
    assert messages[1].batch.steps[-1].root == end.end.root
    assert isinstance(refused(lambda: list(place.watch(position=0))), errors.DrainingError)
    until(lambda: place.fanout.running == 0)


def test_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    """The others are told to come again."""
    with place_at(tmp_path, followers=2) as place:
        calls = [place.watch(position=0) for _ in range(2)]
        for call in calls:
            next(call)
        assert isinstance(refused(lambda: list(place.watch(position=0))), errors.OverloadedError)
        calls[0].cancel()
        until(lambda: place.fanout.running == 1)
        next(place.watch(position=0))


def test_many_followers_share_what_is_computed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is read once for all of them, under whichever agreements that grant the same."""
    agree(place.world.store, "acme")
    agree(place.world.store, "beta")
    keys = [place.key(), place.key("beta")]
    calls = [place.watch(keys[at % 2], position=0) for at in range(20)]
    tolds = [place.told(call) for call in calls]
    for told in tolds:
        while not isinstance(next(told), Heartbeat):
            pass
    asked = []
    original = place.fanout._changes.told

    def counted(*arguments: Any, **named: Any) -> Any:
        asked.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(place.fanout._changes, "told", counted)
    place.world.add(place.world.event(3, 4, edit(9, "nine", "C")))
    commits = [next(told) for told in tolds]
    assert all(commits[0] == one for one in commits)
    assert 1 == len(asked)


def test_a_tree_that_was_removed_is_made_again(place: Place) -> None:
    """Nothing holds it against garbage collection; followers do not notice."""
    world = place.world
    for number in range(10, 200):
        world.add(world.event(number, 4, edit(number, str(number), f"P{number}")))
    head = world.store.log.head().position
    stream = WatchStream(W, head)
    stream.request()
    told = place.told(place.watch(position=head), stream)
    assert isinstance(next(told), Heartbeat)
    assert collect(world.store, delete=True).nodes
    world.add(world.event(3, 5, edit(900, "nine", "C")))
    one = next(told)
    assert [3] == [page.step.page_id for page in _commit(one).pages]
    assert one == place.all_of()[-1]


def test_a_fault_of_the_store_ends_the_followers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told; whoever comes afterwards is served again."""
    told = place.told(place.watch(position=0))
    assert [3, 4, 4] == [next(told).standing.position for _ in range(3)]
    with monkeypatch.context() as broken:

        def fails(*arguments: Any, **named: Any) -> Any:
            raise errors.DataLossError("gone")

        broken.setattr(place.fanout._changes, "told", fails)
        place.world.add(place.world.event(3, 4, edit(9, "nine", "C")))
        assert isinstance(refused(lambda: next(told)), errors.DataLossError)
    assert 5 == place.all_of()[-1].position


def test_a_client_that_is_closed_leaves(place: Place) -> None:
    """Its iterator ends, and its place is free."""
    client = Client(place.served.target)
    watching = client.watch(W)
    next(watching)
    threading.Timer(0.05, client.close).start()
    with pytest.raises(errors.UnreachableError):
        list(watching)
    until(lambda: place.fanout.running == 0)
