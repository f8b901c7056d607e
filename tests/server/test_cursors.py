"""Cursors and page tokens: nobody but their own caller, agreement and request can use them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from random import Random
from typing import Any

import pytest

from recension.model import cursor
from recension.model.access import Role
from recension.model.errors import InvalidCursorError, StaleCursorError
from recension.server.cursors import Cursors
from recension.server.door import ANYBODY, Caller, act_for

SECRET = bytes(range(32))
ACME = Caller("acme", Role.LICENSEE, b"a" * 8)
CALLERS = [
    ACME,
    Caller("other", Role.LICENSEE, b"b" * 8),
    Caller("acme", Role.OPERATOR, b"c" * 8),
    Caller("acm", Role.LICENSEE),
    Caller("jane", Role.OPERATOR, b"d" * 8),
]
BOUNDS: list[cursor.Bound] = [
    ("ReadSnapshot", "sha256:aa", 0, 1),
    ("ReadSnapshot", "sha256:ab", 0, 1),
    ("ReadSnapshot", "sha256:aa", 1, 4),
    ("ListEntries", "sha256:aa"),
    ("ListSnapshots",),
]


def cursors(version: str = "sha256:1", secret: bytes = SECRET) -> Cursors:
    return Cursors(lambda: secret, lambda who: version if who.role is Role.LICENSEE else "")


def acting(who: Caller, act: Callable[[], Any]) -> Any:
    def run() -> Any:
        act_for(who)
        return act()

    return copy_context().run(run)


def opened(token: str, who: Caller, bound: cursor.Bound, by: Cursors | None = None) -> Any:
    return acting(who, lambda: (by or cursors()).open_place(token, bound, "cursor"))


def test_ten_thousand_that_are_not_ones_own() -> None:
    """Swapped between callers, requests and servers, mutated and cut: none is taken."""
    random, tried = Random(3), 0
    all_of = {
        (who, at): acting(who, partial(cursors().seal_place, bound, ("w", 7)))
        for who in CALLERS
        for at, bound in enumerate(BOUNDS)
    }
    made = [*all_of.values(), *(cursor.seal_place(bound, ("w", 7)) for bound in BOUNDS)]
    while tried < 10_000:
        who, at = random.choice(CALLERS), random.randrange(len(BOUNDS))
        token = random.choice(made)
        kind = random.randrange(5)
        if kind == 0:
            where = random.randrange(len(token))
            token = token[:where] + random.choice("ABCDwxyz0189-_=!é") + token[where + 1 :]
        elif kind == 1:
            token = token[: random.randrange(1, len(token))]
        elif kind == 2:
            raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
            token = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        elif kind == 3:
            token += random.choice(("A", "=", "AAAA", "\0"))
        if token == all_of[who, at]:
            continue
        tried += 1
        with pytest.raises(InvalidCursorError):
            opened(token, who, BOUNDS[at])
    for (who, at), token in all_of.items():
        assert ("w", 7) == opened(token, who, BOUNDS[at])
        with pytest.raises(InvalidCursorError):
            opened(token, who, BOUNDS[at], cursors(secret=bytes(32)))


def test_one_of_another_version() -> None:
    """It is told from a damaged one, and says how to go on; operators have no agreement that changes."""
    token = acting(ACME, lambda: cursors().seal_place(BOUNDS[0], ("w", 7)))
    with pytest.raises(StaleCursorError) as caught:
        opened(token, ACME, BOUNDS[0], cursors("sha256:2"))
    assert "field after" in caught.value.hint
    jane = CALLERS[-1]
    token = acting(jane, lambda: cursors().seal_place(BOUNDS[0], ("w", 7)))
    assert ("w", 7) == opened(token, jane, BOUNDS[0], cursors("sha256:2"))


def test_without_keys_they_are_plain() -> None:
    """Where nobody is told from others there is no secret, and none is asked for."""

    def no_secret() -> bytes:
        raise AssertionError

    plain = Cursors(no_secret, lambda _: "")
    token = acting(ANYBODY, lambda: plain.seal_place(BOUNDS[0], ("w", 7)))
    assert token == cursor.seal_place(BOUNDS[0], ("w", 7))
    assert ("w", 7) == opened(token, ANYBODY, BOUNDS[0], plain)


def test_a_long_one_is_not_read() -> None:
    """Its length is looked at first."""
    with pytest.raises(InvalidCursorError):
        opened("A" * 5_000, ACME, BOUNDS[0])
