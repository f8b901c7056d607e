"""What a licensee's quota and other licensees leave a follower: texts, places, scopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recension.model import errors
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.server import fanout
from recension.server.limits import desk
from recension.wire.status import RETRY_DELAY
from recension_client.watching import Commit, Heartbeat, WatchStream
from tests.archive.helpers import edit
from tests.server.helpers import agree, refused, until
from tests.server.test_watch import Place, W, place_at

DAY = 86_400 * 1_000_000
PAGES = 10
TEXT = "a text of 20 bytes. "


def texts(one: Commit) -> list[bytes | None]:
    return [page.entry.slots[0].text for page in one.pages if page.entry]


def told_until(place: Place, call: Any, stream: WatchStream, position: int) -> list[Commit]:
    """Return the commits of a call, which is then left, up to a position."""
    found: list[Commit] = []
    for one in place.told(call, stream):
        found += [one] if isinstance(one, Commit) else []
        if one.standing.position >= position and isinstance(one, Heartbeat):
            call.cancel()
            return found
    raise AssertionError


@pytest.mark.parametrize(
    "quotas, first, pages, next_day",
    [
        ({"articles_per_day": 4}, 2, 3, 3),
        ({"bytes_per_day": 60}, 1, 3, 3),
        ({"articles_per_day": 4, "bytes_per_day": 60}, 1, 3, 3),
        ({"articles_per_day": 1}, 1, 1, 1),
        ({"bytes_per_day": 3}, 0, 2, 0),
    ],
)
def test_a_quota_smaller_than_a_message_holds_nobody_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quotas: dict[str, int],
    first: int,
    pages: int,
    next_day: int,
) -> None:
    """What it would never have room for comes with less text; what it has room for tomorrow is sent then."""
    now = [parse_instant("2026-03-01T12:00:00Z")]
    monkeypatch.setattr(desk, "system_clock", lambda: now[0])
    with place_at(tmp_path) as place:
        world = place.world

        def commit(start: int, pages: int) -> None:
            world.add(*(world.event(at, 4, edit(at, TEXT, f"P{at}")) for at in range(start, start + pages)))

        head = world.store.log.head().position
        commit(100, PAGES)
        agree(world.store, "acme", quotas=quotas)
        key, stream = place.key(), WatchStream(W, head, text=True)

        def follow() -> list[Commit]:
            asked = stream.request()
            call = place.watch(key, position=asked.position, root=asked.root, view=2)
            return told_until(place, call, stream, world.store.log.head().position)

        (one,) = follow()
        assert [TEXT.encode()] * first + [None] * (PAGES - first) == texts(one)
        assert all(page.entry and page.entry.slots[0].digest for page in one.pages)
        commit(200, pages)
        if next_day:
            for _ in range(2):  # whoever has used up its quota hears when it is renewed
                error = refused(follow)
                assert isinstance(error, errors.QuotaExhaustedError)
                assert DAY // 2 == 1_000_000 * float(error.metadata[RETRY_DELAY])
            now[0] += DAY
        (one,) = follow()
        assert [TEXT.encode()] * next_day + [None] * (pages - next_day) == texts(one)


def scope(namespace: int) -> Selector:
    return Selector.of(["w"], [namespace])


def refusal(place: Place, *asked: Any) -> Exception:
    """Return why a call is refused that has to be."""
    return refused(lambda: next(place.watch(*asked, position=0)))


def begun(place: Place, *asked: Any) -> Any:
    """Follow, and return the call when it has started."""
    call = place.watch(*asked, position=0)
    assert next(call).HasField("start")
    return call


def test_one_licensee_leaves_scopes_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has its own share of scopes is refused another, and followers of them are not; others come in."""
    monkeypatch.setattr(fanout, "_MAX_LINES", 3)
    monkeypatch.setattr(fanout, "_OWN_LINES", 2)
    with place_at(tmp_path) as place:
        for licensee in ("acme", "beta"):
            agree(place.world.store, licensee)
        acme, beta = place.key(), place.key("beta")
        calls = [begun(place, acme, scope(namespace)) for namespace in (0, 1)]
        error = refusal(place, acme, scope(2))
        assert isinstance(error, errors.StreamsExhaustedError)
        assert ("2", "acme") == (error.metadata["limit"], error.metadata["subject"])
        assert float(error.metadata[RETRY_DELAY])
        calls.append(begun(place, acme, scope(1)))
        calls.append(begun(place, beta, scope(2)))
        assert (
            type(refusal(place, beta, scope(3))) is errors.OverloadedError
        )  # all of the server's are in use
        calls.append(begun(place, beta, scope(1)))
        calls[0].cancel()
        until(lambda: place.fanout.running == 4)
        calls.append(begun(place, acme, scope(4)))
        # Negative control: without a share of its own the one would leave the other none.
        monkeypatch.setattr(fanout, "_OWN_LINES", 3)
        monkeypatch.setattr(fanout, "_MAX_LINES", 4)
        calls.append(begun(place, acme, scope(5)))
        assert type(refusal(place, beta, scope(6))) is errors.OverloadedError


def test_one_licensee_leaves_places_to_others(tmp_path: Path) -> None:
    """Half of them are for others, whatever the agreement says of streams."""
    with place_at(tmp_path, followers=3) as place:
        for licensee in ("acme", "beta"):
            agree(place.world.store, licensee)
        acme, beta = place.key(), place.key("beta")
        calls = [begun(place, acme) for _ in range(2)]
        error = refusal(place, acme)
        assert isinstance(error, errors.StreamsExhaustedError)
        calls.append(begun(place, beta))
        assert type(refusal(place, beta)) is errors.OverloadedError
        for call in calls:
            call.cancel()
        until(lambda: place.fanout.running == 0)
