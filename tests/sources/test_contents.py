"""Texts of a MediaWiki, asked of a local server that answers as its APIs do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from recension.model.errors import UpstreamRefusedError, UpstreamUnreachableError
from recension.sources.contents import MediaWikiContent
from recension.sources.http import Http
from recension.sources.page_change import Shown
from tests.upstream import Asked, Upstream

BIG = 5_000_000_000


def fetch(answer: Callable[[Asked], None], *roles: str) -> Shown | None:
    with Upstream(answer) as upstream:
        return MediaWikiContent(Http(upstream.origin)).revision(BIG, roles or ("main",))


def replies(status: int, body: object) -> Callable[[Asked], None]:
    return lambda asked: asked.reply(status, body)


def slots(said: Mapping[str, Any], **more: bool) -> Callable[[Asked], None]:
    """Answer as the Action API does."""

    def answer(asked: Asked) -> None:
        assert asked.path == "/w/api.php"
        assert f"revids={BIG}" in asked.query
        asked.reply(200, {"query": {"pages": [{"revisions": [{"revid": BIG, "slots": said, **more}]}]}})

    return answer


def test_main_slot() -> None:
    """The REST API has the main slot, byte for byte."""

    def answer(asked: Asked) -> None:
        assert asked.path == f"/w/rest.php/v1/revision/{BIG}"
        asked.reply(200, {"id": BIG, "source": "\u00e4\r\n\u0000 "})

    assert fetch(answer) == Shown({"main": b"\xc3\xa4\r\n\x00 "})


def test_an_empty_text_is_a_text() -> None:
    """Empty is not missing."""
    assert fetch(replies(200, {"id": BIG, "source": ""})) == Shown({"main": b""})


def test_hidden_and_missing() -> None:
    """What MediaWiki itself says of a revision is heard; the words of a proxy are not."""
    assert fetch(replies(404, {"errorKey": "rest-nonexistent-revision"})) is None
    for status in (403, 404):
        bodies: tuple[object, ...] = (b"<html>", {"errorKey": "rest-no-match"}, [])
        for body in bodies:
            with pytest.raises(UpstreamUnreachableError, match=f"answered with {status}"):
                fetch(replies(status, body))


@pytest.mark.parametrize(
    "user, comment, hidden",
    [
        ({"id": None, "name": "a"}, "", (False, False)),
        (None, "why", (True, False)),
        ({"id": 7, "name": "a"}, None, (False, True)),
        (None, None, (True, True)),
    ],
)
def test_what_else_is_hidden(user: object, comment: object, hidden: tuple[bool, bool]) -> None:
    """A name or a comment that is null is hidden; one that is empty, or not told of at all, is not."""
    shown = fetch(replies(200, {"id": BIG, "source": "a", "user": user, "comment": comment}))
    assert shown == Shown({"main": b"a"}, *hidden)
    more = {"userhidden": hidden[0], "commenthidden": hidden[1]}
    assert fetch(slots({"mediainfo": {"content": "a"}}, **more), "mediainfo") == Shown(
        {"mediainfo": b"a"}, *hidden
    )


def test_of_a_hidden_text_the_other_api_is_asked_what_else_is() -> None:
    """The REST API says no more than that; where the Action API knows nothing, the text alone is hidden."""

    def answer(asked: Asked) -> None:
        if asked.path.startswith("/w/rest.php"):
            asked.reply(403, {"errorKey": "rest-permission-denied-revision"})
        else:
            then(asked)

    then = slots({"main": {"texthidden": True}}, userhidden=True, suppressed=True)
    assert fetch(answer) == Shown({"main": None}, contributor_hidden=True)
    then = replies(200, {"query": {"badrevids": {"7": {"missing": True}}}})
    assert fetch(answer) == Shown({"main": None})


def test_content_that_is_no_text() -> None:
    """What the REST API refuses to show as text is asked of the Action API."""

    def answer(asked: Asked) -> None:
        if asked.path.startswith("/w/rest.php"):
            asked.reply(400, {"errorKey": "rest-page-source-type-error"})
        else:
            slots({"main": {"content": "{}"}})(asked)

    assert fetch(answer) == Shown({"main": b"{}"})


def test_slots() -> None:
    """Other slots come from the Action API: shown, hidden, and not there."""
    said = {"main": {"content": "a"}, "mediainfo": {"texthidden": True}}
    assert fetch(slots(said), "main", "mediainfo") == Shown({"main": b"a", "mediainfo": None})
    assert fetch(slots(said), "main", "other") is None
    assert fetch(replies(200, {"query": {"badrevids": {"7": {"missing": True}}}}), "mediainfo") is None


@pytest.mark.parametrize(
    "status, body",
    [
        (200, b"no JSON"),
        (200, []),
        (200, {"id": 7, "source": "of another revision"}),
        (200, {"id": BIG}),
        (200, {"id": BIG, "source": 5}),
        (200, {"id": BIG, "source": "\ud800"}),
        (500, b""),
        (429, b""),
    ],
)
def test_nonsense(status: int, body: object) -> None:
    """An answer that cannot be right is no text; it is asked again."""
    with pytest.raises(UpstreamUnreachableError):
        fetch(replies(status, body))


@pytest.mark.parametrize(
    "body", [{"error": {"code": "maxlag"}}, {"query": {"pages": {}}}, {"query": {"pages": [1]}}, b"["]
)
def test_nonsense_of_slots(body: object) -> None:
    """The same of the Action API, and its errors, which come with status 200."""
    with pytest.raises(UpstreamUnreachableError):
        fetch(replies(200, body), "mediainfo")


def test_refused() -> None:
    """Who may not ask at all is told so."""
    with pytest.raises(UpstreamRefusedError):
        fetch(replies(401, b""))
