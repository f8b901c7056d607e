"""Cursors and tokens: where to go on, opaque and bound to the request that they continue.

A token is base64url of ``checksum 8 || JSON array``; the checksum covers the request's own fields too, so a
token that is damaged or taken to another request is refused. It is no secret and no authority: whoever
makes one up only reads on from another place of what they may read anyway.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Sequence
from hashlib import sha256

from recension.model.errors import InvalidCursorError
from recension.model.reading import START, Place

_CHECKSUM_BYTES = 8
MAX_TOKEN_CHARACTERS = 4096

Bound = Sequence[str | int]
"""The fields of the request that a token continues, beginning with the method's name."""


def seal_token(bound: Bound, where: Sequence[str | int]) -> str:
    """Make the token that stands for ``where`` in the request ``bound``."""
    body = json.dumps(list(where), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_checksum(bound, body) + body).rstrip(b"=").decode()


def open_token(token: str, bound: Bound, field: str) -> list[str | int]:
    """Return what ``seal_token`` was given. Raises ``InvalidCursorError`` naming ``field``."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise invalid(field)
    try:
        raw = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise invalid(field) from None
    body = raw[_CHECKSUM_BYTES:]
    if not hmac.compare_digest(raw[:_CHECKSUM_BYTES], _checksum(bound, body)):
        raise invalid(field)
    try:
        where = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid(field) from None
    if not isinstance(where, list) or not all(type(item) in (str, int) for item in where):
        raise invalid(field)
    return where


def seal_place(bound: Bound, place: Place) -> str:
    """Make the cursor of a place in a snapshot or a diff."""
    return seal_token(bound, place)


def open_place(token: str, bound: Bound, field: str) -> Place:
    """Return the place of a cursor; the start for an empty one."""
    if not token:
        return START
    return place_of(open_token(token, bound, field), field)


def place_of(where: Sequence[str | int], field: str) -> Place:
    """Return what a token stands for as a place. Raises ``InvalidCursorError``."""
    match where:
        case [str(project), int(page_id)]:
            return project, page_id
        case _:
            raise invalid(field)


def _checksum(bound: Bound, body: bytes) -> bytes:
    fields = json.dumps(list(bound), separators=(",", ":")).encode()
    return sha256(b"recension/cursor/v1\0" + len(fields).to_bytes(4, "big") + fields + body).digest()[
        :_CHECKSUM_BYTES
    ]


def invalid(field: str) -> InvalidCursorError:
    """Return the error of a token that is none."""
    return InvalidCursorError(
        f"{field}: it is damaged or belongs to another request",
        hint="send it back unchanged, with the same request, or start again without it",
        field=field,
    )
