"""Where texts come from that a stream does not have, and what else of their revisions is hidden by now.

MediaWiki's REST API has the main slot of a revision (``/w/rest.php/v1/revision/ID``, its ``source``). It
knows no other slots, and refuses content that is no text, such as an item of Wikibase (400): these are asked
of the Action API (``action=query&prop=revisions&rvslots=…``), which has all of them as they were stored. It
is asked of hidden texts too: the REST API does not say whether the name and the comment are hidden with them.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Protocol
from urllib.parse import urlencode

from recension.model.errors import UpstreamUnreachableError
from recension.sources.http import Http
from recension.sources.items import BadRecordError
from recension.sources.json_fields import Fields, parse_json
from recension.sources.page_change import Shown

MAIN = "main"
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A text of 16 MiB, escaped."""

_SHOWN, _NO_TEXT, _REFUSED, _MISSING = 200, 400, 403, 404


class ContentSource(Protocol):
    """Shows revisions as they are now. May be used by several threads at once."""

    def revision(self, rev_id: int, roles: Collection[str]) -> Shown | None:
        """Return what upstream shows of a revision, with the texts of these slots.

        ``None`` when upstream has no such revision, or one of the slots not: not yet, or not any more. Raises
        ``UpstreamUnreachableError`` or ``UpstreamRefusedError`` when it could not be asked.
        """


class MediaWikiContent:
    """The texts of one wiki, by its own APIs."""

    def __init__(self, http: Http) -> None:
        """``http``: of the wiki's origin, such as ``https://en.wikipedia.org``."""
        self._http = http

    def revision(self, rev_id: int, roles: Collection[str]) -> Shown | None:
        """Return what the wiki shows, as ``ContentSource`` promises."""
        if set(roles) == {MAIN}:
            path = f"/w/rest.php/v1/revision/{rev_id}"
            status, answer = self._ask(path, frozenset({_SHOWN, _NO_TEXT, _REFUSED, _MISSING}))
            if status == _SHOWN:
                text = self._source(path, rev_id, answer)
                return Shown({MAIN: text}, answer.says_none("user"), answer.says_none("comment"))
            if status != _NO_TEXT:
                # Any proxy may refuse, or not know the address: only MediaWiki's own word counts.
                key = answer.text("errorKey")
                if key == "rest-permission-denied-revision":
                    return self._slots(rev_id, roles) or Shown({MAIN: None})
                if key == "rest-nonexistent-revision":
                    return None
                raise self._nonsense(path, f"it is answered with {status}")
        return self._slots(rev_id, roles)

    def _source(self, path: str, rev_id: int, answer: Fields) -> bytes:
        try:
            if answer.number("id") == rev_id and "source" in answer:
                return answer.text("source").encode()
        except BadRecordError as fault:
            raise self._nonsense(path, fault.message) from None
        raise self._nonsense(path, f"this is not revision {rev_id}")

    def _slots(self, rev_id: int, roles: Collection[str]) -> Shown | None:
        asked = {
            "action": "query",
            "prop": "revisions",
            "revids": rev_id,
            "rvprop": "ids|user|comment|content",
            "rvslots": "|".join(sorted(roles)),
            "format": "json",
            "formatversion": 2,
        }
        path = "/w/api.php"
        _, answer = self._ask(f"{path}?{urlencode(asked)}", frozenset({_SHOWN}))
        try:
            error = answer.part("error").text("code")
            for page in answer.part("query").objects("pages"):
                for revision in page.objects("revisions"):
                    if revision.number("revid") == rev_id:
                        slots = revision.part("slots")
                        found = {role: slots.part(role) for role in roles}
                        if all("content" in said or said.flag("texthidden") for said in found.values()):
                            return Shown(
                                {role: _text(said) for role, said in found.items()},
                                revision.flag("userhidden"),
                                revision.flag("commenthidden"),
                            )
        except BadRecordError as fault:
            raise self._nonsense(path, fault.message) from None
        if error:
            raise self._nonsense(path, f"it answers {error[:80]!r}")
        return None

    def _ask(self, path: str, good: frozenset[int]) -> tuple[int, Fields]:
        with self._http.ask("GET", path, headers={"Accept": "application/json"}, good=good) as answer:
            data, status = answer.whole(MAX_ANSWER_BYTES), answer.status
        if status != _SHOWN:
            return status, Fields(_error_of(data), "answer")
        try:
            return status, Fields(parse_json(data), "answer")
        except (ValueError, BadRecordError):
            raise self._nonsense(path, "the answer is no JSON object") from None

    def _nonsense(self, path: str, what: str) -> UpstreamUnreachableError:
        return UpstreamUnreachableError(
            f"{self._http.origin}{path.partition('?')[0]}: {what}",
            hint="look whether the address is that of a MediaWiki, and what stands before it",
        )


def _error_of(data: bytes) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(said: Fields) -> bytes | None:
    return None if said.flag("texthidden") else said.text("content").encode()
