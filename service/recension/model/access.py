"""Keys that callers show, and what the log says of them (docs/format.md, 14).

A key is written ``rcn_<id>_<secret>``: 16 hex digits that name it, then 72 that are the secret, 32 random
bytes, and the CRC-32 of what stands before it, so that a typo is told from a key that is not known. It is
shown once. The log has its HMAC under a secret of the server's: nobody who reads a store can show the key.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from zlib import crc32

from recension.model.errors import InvalidArgumentError
from recension.model.event import MAX_ID
from recension.model.instant import check_instant, format_instant, parse_instant
from recension.model.manifest import canonical_json

FORMAT = "recension/api-key/v1"
PREFIX = "rcn_"
ID_BYTES = 8
SECRET_BYTES = 32
VERIFIER_BYTES = 32
_OWNER = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_WRITTEN = re.compile(r"rcn_([0-9a-f]{16})_([0-9a-f]{64})([0-9a-f]{8})")


class Role(StrEnum):
    """What the owner of a key may do."""

    LICENSEE = "licensee"
    """Read, and pin."""
    OPERATOR = "operator"
    """Everything, ingest included."""
    AUDITOR = "auditor"
    """See what there is and what was signed; no titles, no texts."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A key as its owner holds it. Never logged, never stored."""

    id: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Secret:
        """Make one."""
        return cls(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Read what ``written`` gave. Raises ``InvalidArgumentError``, which does not repeat it."""
        found = _WRITTEN.fullmatch(text.strip())
        if found is None or int(found[3], 16) != crc32(f"{PREFIX}{found[1]}_{found[2]}".encode()):
            raise InvalidArgumentError(
                "that is no key: it has a typo, or is not whole",
                hint="a key is rcn_, 16 hex digits, _ and 72 hex digits",
                field="key",
            )
        return cls(bytes.fromhex(found[1]), bytes.fromhex(found[2]))

    @property
    def written(self) -> str:
        """The text that its owner is given."""
        text = f"{PREFIX}{self.id.hex()}_{self.secret.hex()}"
        return f"{text}{crc32(text.encode()):08x}"

    def verifier(self, pepper: bytes) -> bytes:
        """Return what is kept of the secret, 32 bytes; ``pepper`` is the server's own secret."""
        return hmac.digest(pepper, b"recension/api-key/v1\0" + self.id + self.secret, "sha256")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is from one log position on. Made and checked by ``make_key`` and ``read_key``."""

    id: bytes
    owner: str
    """The licensee, or the person who operates or audits."""
    role: Role
    verifier: bytes = field(repr=False)
    expires_at: int
    """Microseconds since the epoch."""
    made_at: int
    """Log position of its first statement."""
    revoked: bool = False
    encoded: bytes = field(compare=False, repr=False, default=b"")
    """The canonical JSON."""

    def is_live(self, now: int) -> bool:
        """Say whether it opens anything at an instant."""
        return not self.revoked and now < self.expires_at


def check_owner(owner: str) -> None:
    """Refuse what is no name of a licensee. Raises ``InvalidArgumentError``."""
    if not _OWNER.fullmatch(owner):
        raise InvalidArgumentError(
            f"owner: {owner[:80]!r} is no name of a licensee",
            hint="1 to 63 of a-z, 0-9, dots, dashes and underscores, a letter or digit first",
            field="owner",
        )


def make_key(
    id_: bytes,
    owner: str,
    role: Role,
    verifier: bytes,
    expires_at: int,
    made_at: int,
    *,
    revoked: bool = False,
) -> ApiKey:
    """Return a statement with its canonical bytes. Raises ``InvalidArgumentError`` for what is none."""
    check_owner(owner)
    check_instant(expires_at)
    if len(id_) != ID_BYTES or len(verifier) != VERIFIER_BYTES or not 0 < made_at <= MAX_ID:
        raise InvalidArgumentError("the id, the verifier or the position is no key's", field="key")
    document: dict[str, Any] = {
        "expires_at": format_instant(expires_at),
        "format": FORMAT,
        "id": id_.hex(),
        "made_at": str(made_at),
        "owner": owner,
        "role": role.value,
        "verifier": verifier.hex(),
    }
    if revoked:
        document["revoked"] = True
    return ApiKey(id_, owner, role, verifier, expires_at, made_at, revoked, canonical_json(document))


def revoked(key: ApiKey) -> ApiKey:
    """Return the statement that ends a key."""
    return make_key(key.id, key.owner, key.role, key.verifier, key.expires_at, key.made_at, revoked=True)


def read_key(encoded: bytes) -> ApiKey:
    """Read a statement. Raises ``InvalidArgumentError`` for anything but what ``make_key`` writes."""
    try:
        document = json.loads(encoded.decode())
        if document["format"] != FORMAT:
            raise InvalidArgumentError(
                f"unknown key format {str(document['format'])[:80]!r}",
                hint="use a newer recension",
                field="format",
            )
        key = make_key(
            bytes.fromhex(document["id"]),
            document["owner"],
            Role(document["role"]),
            bytes.fromhex(document["verifier"]),
            parse_instant(document["expires_at"]),
            int(document["made_at"]),
            revoked=document.get("revoked", False) is True,
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"not a key: {str(error)[:200]}", field="key") from None
    if key.encoded != encoded:
        raise InvalidArgumentError("not a key: it would be written in another way", field="key")
    return key
