"""Followers where something comes in between: withdrawals, faults, long walks, large commits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive import changes as changes_module
from recension.archive.changes import Changes
from recension.archive.retracting import Retractor, Wanted
from recension.model import errors
from recension.model.access import Role
from recension.model.event import (
    NO_COMMENT,
    NOBODY,
    Comment,
    Edit,
    Event,
    Move,
    Presence,
    SlotText,
    Visibility,
)
from recension.model.manifest import Selector
from recension.model.retraction import Reason
from recension.server import door, fanout
from recension.server.embargo import EmbargoClock
from recension.v1 import change_service_pb2 as pb
from recension_client.retrying import CutError
from recension_client.watching import Commit, Heartbeat, WatchStream
from tests.archive.helpers import NOW, World, edit
from tests.server.helpers import agree, refused, until
from tests.server.test_watch import HOUR, Place, W, other, place_at

NARROW = Selector.of(["w"], [0])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_at(tmp_path) as place:
        yield place


def retract(world: World, rev: int) -> None:
    retractor = Retractor(world.store)
    retractor.mask(retractor.plan("w", Wanted(revisions=frozenset({rev}))), "case-1", Reason.PRIVACY)


def up_to_now(call: Any) -> list[pb.WatchResponse]:
    """Return the messages of a call until nothing more is there."""
    found = []
    for message in call:
        found.append(message)
        if message.HasField("heartbeat") and not message.heartbeat.more:
            call.cancel()
            return found
    raise AssertionError


def hidden(commits: list[Commit]) -> list[int]:
    """Return the revisions that are said to be hidden."""
    return [item.what.rev_id for one in commits for item in one.events if isinstance(item.what, Visibility)]


# --- what is withdrawn ------------------------------------------------------------------------------


def test_what_is_hidden_during_an_embargo_is_hidden_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that were written before are forgotten, though their followers are not told why yet."""
    now = [NOW + 10 * HOUR]
    monkeypatch.setattr(EmbargoClock, "now", lambda self: now[0])
    with place_at(tmp_path) as place:
        agree(place.world.store, "acme", {"projects": ["w"], "freshness": {"delay_seconds": 3600}})
        key = place.key()
        follower = place.watch(key, position=0, view=2)
        told = place.told(follower, WatchStream(W, 0, text=True))
        while not isinstance(next(told), Heartbeat):
            pass
        place.world.add(place.world.event(4, 4, edit(40, "a secret", "Name of a person")))
        now[0] += HOUR
        assert "a secret" in repr(next(told))
        monkeypatch.setattr("recension.archive.retracting.system_clock", lambda: now[0] + 1)
        retractor = Retractor(place.world.store, clock=lambda: now[0] + 1)
        plan = retractor.plan("w", Wanted(revisions=frozenset({40})))
        retractor.mask(plan, "case-1", Reason.PRIVACY)
        late = up_to_now(place.watch(key, position=4, view=2))
        assert 40 == late[1].batch.steps[0].pages[0].after.rev_id
        assert "a secret" not in repr(late)
        assert not any(step.reason for step in late[1].batch.steps)
        assert place.fanout.running


def test_who_has_a_text_is_told_that_it_is_withdrawn(place: Place) -> None:
    """Whenever that is, and whatever its page was called when it was written."""
    world = place.world
    world.add(other(world, 70, 700))
    world.add(world.event(70, 5, Move("Talk 70", 1, "Now an article", 0, NOBODY, NO_COMMENT)))
    world.add(other(world, 71, 710))
    world.add(world.event(71, 5, edit(711, "newer", "Another")))
    grant = {"projects": ["w"], "namespaces": [0], "freshness": "realtime", "latest": "2020-12-31"}
    agree(world.store, "acme", grant)
    key = place.key()
    for rev in (3, 700, 710):
        retract(world, rev)
    assert [3, 700] == hidden(place.all_of(key, NARROW))
    assert [3, 700, 710] == hidden(place.all_of(place.key("op", Role.OPERATOR)))


# --- what breaks off --------------------------------------------------------------------------------


def test_a_stream_may_end_in_the_middle_of_a_commit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end names the last whole commit, and the follower goes on behind that."""
    monkeypatch.setattr(changes_module, "STEP_PAGES", 4)
    monkeypatch.setattr(fanout, "BATCH_BYTES", 1)
    every = place.all_of()
    place.world.add(*(place.world.event(page, 5, edit(page, "t", f"P{page}")) for page in range(100, 140)))
    stream = WatchStream(W, every[-1].standing)
    asked = stream.request()
    original = fanout.Fanout._send_next

    def leaving(self: Any, follower: Any) -> bool:
        more = original(self, follower)
        follower.leaves = not follower.whole
        return more

    with monkeypatch.context() as early:
        early.setattr(fanout.Fanout, "_send_next", leaving)
        messages = list(place.watch(position=asked.position, root=asked.root))
    assert messages[1].batch.steps[-1].continued
    assert [] == [one for message in messages[:-1] for one in stream.take(message)]
    with pytest.raises(CutError):
        stream.take(messages[-1])
    asked = stream.request()
    assert 4 == asked.position
    (commit, _) = [
        one
        for message in up_to_now(place.watch(position=asked.position, root=asked.root))
        for one in stream.take(message)
    ]
    assert isinstance(commit, Commit)
    assert 40 == len(commit.pages)


def test_a_line_that_begins_anew_leaves_nothing_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed between is told to those who were at its end, whoever found the fault."""
    told = place.told(place.watch(position=0))
    assert [3, 4, 4] == [next(told).standing.position for _ in range(3)]
    (line,) = place.fanout._lines.values()
    place.looking.stop()
    with monkeypatch.context() as broken:

        def fails(*arguments: Any, **named: Any) -> Any:
            raise errors.DataLossError("gone")

        broken.setattr(Changes, "told", fails)
        place.world.add(place.world.event(3, 4, edit(9, "nine", "C")))
        with pytest.raises(errors.DataLossError):  # as somebody would who begins to follow
            line.advance()
    place.fanout.look()
    one = next(told)
    assert isinstance(one, Commit)
    assert 5 == one.position


def test_a_walk_that_the_line_has_outrun_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the line forgets where the walk ended in that moment, another walk begins there."""
    original, asked = fanout.Fanout._join, []

    def outrun(self: Any, follower: Any, position: int) -> bytes:
        if follower.walk is None or position != 4:
            return original(self, follower, position)
        asked.append(position)
        if len(asked) < 3:
            return b""
        if len(asked) == 3:  # the walk has ended
            place.world.add(place.world.event(3, 4, edit(9, "nine", "C")))
            follower.line.advance()
            follower.line._forget(follower.line.reach.position, follower.line.reach.root)
        return original(self, follower, position)

    monkeypatch.setattr(fanout.Fanout, "_join", outrun)
    assert [3, 4, 5] == [one.position for one in place.all_of()]
    assert len(asked) > 2


def test_nothing_is_sent_to_a_key_that_was_revoked_while_it_was_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that took."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(fanout, "_CHECK_SECONDS", 1e6)  # what looks from time to time does not
    agree(place.world.store, "acme")
    key = place.key()
    original = Changes.told

    def revoked(*arguments: Any, **named: Any) -> Any:
        place.keyring.revoke(key.id)
        return original(*arguments, **named)

    monkeypatch.setattr(Changes, "told", revoked)
    call = place.watch(key, position=0)
    assert next(call).HasField("start")
    assert isinstance(refused(lambda: next(call)), errors.UnauthenticatedError)


# --- what is long or large --------------------------------------------------------------------------


def test_a_walk_past_other_commits_says_how_far_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a stream that is cut goes on there, however little of the log is of its scope."""
    monkeypatch.setattr(fanout, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(fanout, "_STRIDE", 2)
    for number in range(10):
        place.world.add(other(place.world, 70, 700 + number))
    call = place.watch(selector=Selector.of(["w"], [4]), position=3)
    _, *beats = up_to_now(call)
    said = [(beat.heartbeat.position, beat.heartbeat.more) for beat in beats]
    assert [(position, True) for position in range(5, 14, 2)] == said[:5]
    assert (14, False) == said[-1]
    assert all(beat.heartbeat.recorded_at.seconds for beat in beats)


def test_long_histories_in_one_commit_fit_into_messages(place: Place) -> None:
    """Many events of a page come in several steps of the commit."""
    comment = Comment(Presence.PRESENT, "x" * 500)

    def event(number: int) -> Event:
        slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"t")
        what = Edit(1000 + number, 0, "Long", 0, False, NOBODY, comment, False, (slot,))  # noqa: FBT003
        return place.world.event(500, 5 + number / 100, what)

    place.world.add(*map(event, range(3000)))
    commit = place.all_of()[-1]
    assert [1000 + number for number in range(3000)] == [item.what.rev_id for item in commit.events]  # type: ignore[union-attr]
    assert [3999] == [page.step.after and page.step.after.rev_id for page in commit.pages]
    messages = up_to_now(place.watch(position=4))
    assert all(message.ByteSize() < 2 * fanout.BATCH_BYTES for message in messages)
    assert len(messages) > 4


def test_a_line_takes_in_no_more_at_once_than_it_remembers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much was committed since."""
    monkeypatch.setattr(fanout, "_KEPT_BYTES", 1)
    monkeypatch.setattr(fanout, "BATCH_BYTES", 1)
    call = place.watch(position=4)
    up_to = [next(call) for _ in range(2)]
    assert up_to[-1].HasField("heartbeat")
    (line,) = place.fanout._lines.values()
    place.looking.stop()
    for number in range(10, 20):
        place.world.add(place.world.event(number, 4, edit(number, str(number), f"P{number}")))
    assert line.advance_some()
    assert line.reach.position < 14
    line.advance()
    assert 14 == line.reach.position
    place.fanout.look()
    positions = [step.position for _ in range(10) for step in next(call).batch.steps]
    assert list(range(5, 15)) == positions


def test_who_left_before_their_turn_holds_up_nobody(tmp_path: Path) -> None:
    """Neither places nor threads are theirs any more."""
    with place_at(tmp_path, followers=2, threads=4) as place:
        place.all_of()
        until(lambda: place.fanout.running == 0)
        with place.fanout._building:  # somebody's tree is being made
            for namespace in (4, 5, 6):
                call = place.watch(selector=Selector.of(["w"], [namespace]), position=0)
                until(lambda: place.fanout.running == 1)
                call.cancel()
                with pytest.raises(grpc.RpcError):
                    next(call)
                until(lambda: place.fanout.running == 0)
            assert next(place.watch(position=4)).HasField("start")
