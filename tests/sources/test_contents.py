"""Texts of a MediaWiki, asked of a local server that answers as its APIs do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from recension.model.errors import UpstreamRefusedError, UpstreamUnreachableError
from recension.sources.contents import MediaWikiContent, Texts
from recension.sources.http import Http
from tests.upstream import Asked, Upstream

BIG = 5_000_000_000


def fetch(answer: Callable[[Asked], None], *roles: str) -> Texts | None:
    with Upstream(answer) as upstream:
        return MediaWikiContent(Http(upstream.origin)).texts(BIG, roles or ("main",))


def replies(status: int, body: object) -> Callable[[Asked], None]:
    return lambda asked: asked.reply(status, body)


def slots(said: Mapping[str, Any]) -> Callable[[Asked], None]:
    """Answer as the Action API does."""

    def answer(asked: Asked) -> None:
        assert asked.path == "/w/api.php"
        assert f"revids={BIG}" in asked.query
        asked.reply(200, {"query": {"pages": [{"revisions": [{"revid": BIG, "slots": said}]}]}})

    return answer


def test_main_slot() -> None:
    """The REST API has the main slot, byte for byte."""

    def answer(asked: Asked) -> None:
        assert asked.path == f"/w/rest.php/v1/revision/{BIG}"
        asked.reply(200, {"id": BIG, "source": "\u00e4\r\n\u0000 "})

    assert fetch(answer) == {"main": b"\xc3\xa4\r\n\x00 "}


def test_an_empty_text_is_a_text() -> None:
    """Empty is not missing."""
    assert fetch(replies(200, {"id": BIG, "source": ""})) == {"main": b""}


def test_hidden_and_missing() -> None:
    """What MediaWiki itself says of a revision is heard; the words of a proxy are not."""
    assert fetch(replies(403, {"errorKey": "rest-permission-denied-revision"})) == {"main": None}
    assert fetch(replies(404, {"errorKey": "rest-nonexistent-revision"})) is None
    for status in (403, 404):
        bodies: tuple[object, ...] = (b"<html>", {"errorKey": "rest-no-match"}, [])
        for body in bodies:
            with pytest.raises(UpstreamUnreachableError, match=f"answered with {status}"):
                fetch(replies(status, body))


def test_content_that_is_no_text() -> None:
    """What the REST API refuses to show as text is asked of the Action API."""

    def answer(asked: Asked) -> None:
        if asked.path.startswith("/w/rest.php"):
            asked.reply(400, {"errorKey": "rest-page-source-type-error"})
        else:
            slots({"main": {"content": "{}"}})(asked)

    assert fetch(answer) == {"main": b"{}"}


def test_slots() -> None:
    """Other slots come from the Action API: shown, hidden, and not there."""
    said = {"main": {"content": "a"}, "mediainfo": {"texthidden": True}}
    assert fetch(slots(said), "main", "mediainfo") == {"main": b"a", "mediainfo": None}
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
