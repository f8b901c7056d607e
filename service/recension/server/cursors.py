"""Cursors and page tokens of a server: in a store with keys nobody but their own caller can use them.

There a token carries a MAC under a secret of the server, over the caller, the version of the agreement, and
the request that it continues. Without keys nobody is told from others, and a token is what ``model.cursor``
makes of it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Sequence
from functools import lru_cache

from recension.model import cursor
from recension.model.cursor import MAX_TOKEN_CHARACTERS, Bound, invalid, place_of
from recension.model.errors import StaleCursorError
from recension.model.pin import NOBODY
from recension.model.reading import START, Place
from recension.server.door import Caller, caller

_MAC_BYTES = 16
_KEY_LABEL = b"recension/cursor-key/v1"
_LABEL = b"recension/cursor/v2\0"
_encoded = json.JSONEncoder(separators=(",", ":")).encode
"""``json.dumps`` would make an encoder each time, and a stream has a token in each batch."""


class Cursors:
    """Makes and opens tokens. Safe for concurrent use; all processes of a server open those of the others."""

    def __init__(self, pepper: Callable[[], bytes], version: Callable[[Caller], str]) -> None:
        """``pepper``: the server's secret; ``version``: names the agreement that rules, if there is one."""
        self._pepper = pepper
        self._version = version

    def seal(self, bound: Bound, where: Sequence[str | int]) -> str:
        """Make the token that stands for ``where`` in the request ``bound``."""
        who = caller()
        if who.owner == NOBODY:
            return cursor.seal_token(bound, where)
        body = _encoded([self._version(who), *where]).encode()
        return base64.urlsafe_b64encode(self._mac(who, bound, body) + body).rstrip(b"=").decode()

    def open(self, token: str, bound: Bound, field: str) -> list[str | int]:
        """Return what ``seal`` was given.

        Raises ``InvalidCursorError`` naming ``field``; ``StaleCursorError`` when another version of the
        agreement rules now.
        """
        who = caller()
        if who.owner == NOBODY:
            return cursor.open_token(token, bound, field)
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise invalid(field)
        try:
            raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise invalid(field) from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        # The last character of base64 may have bits that mean nothing: a token has one form all the same.
        same = base64.urlsafe_b64encode(raw).rstrip(b"=") == token.encode()
        if not hmac.compare_digest(mac, self._mac(who, bound, body)) or not same:
            raise invalid(field)
        where: list[str | int] = json.loads(body)
        version = where.pop(0)
        if version != self._version(who):
            raise StaleCursorError(
                f"{field}: it was made under another version of your agreement than is in force now",
                hint="go on behind the last item that you have, with the field after where the method has"
                " one, and without it; else start again",
                field=field,
            )
        return where

    def seal_place(self, bound: Bound, place: Place) -> str:
        """Make the token of a place in a snapshot, a diff or a list."""
        return self.seal(bound, place)

    def open_place(self, token: str, bound: Bound, field: str) -> Place:
        """Return the place of a token; the start for an empty one."""
        return place_of(self.open(token, bound, field), field) if token else START

    def _mac(self, who: Caller, bound: Bound, body: bytes) -> bytes:
        fields = _encoded([who.owner, who.role, *bound]).encode()
        return hmac.digest(
            _key_of(self._pepper()), _LABEL + len(fields).to_bytes(4, "big") + fields + body, "sha256"
        )[:_MAC_BYTES]


@lru_cache(1)
def _key_of(pepper: bytes) -> bytes:
    return hmac.digest(pepper, _KEY_LABEL, "sha256")
