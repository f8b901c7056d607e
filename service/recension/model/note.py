"""Checkpoints as C2SP signed notes (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), but for the signing.

A key's statement in the log has its format here too: of all keys but the first it is signed by the key
before, so whoever knows one key can follow to the newest (docs/format.md, section 13).
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from hashlib import sha256

from recension.model.errors import InvalidArgumentError
from recension.model.manifest import canonical_json

FORMAT = "recension/key/v1"
ED25519 = b"\x01"
"""Signature type of c2sp.org/signed-note."""
KEY_BYTES = 32
SIGNATURE_BYTES = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
"""A part of what signed notes allow: schemeless URLs in ASCII."""
_ID_BYTES = 4
_DASH = "— "


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a signing key."""

    name: str
    public: bytes
    """32 bytes, Ed25519."""

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature names its key."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64encode(ED25519 + self.public).decode()}"


def check_key_name(name: str) -> None:
    """Refuse what is no name of a key. Raises ``InvalidArgumentError``."""
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"name: {name[:80]!r} is no name of a key",
            hint="a URL without scheme, of letters, digits, dots, dashes and slashes: example.org/recension",
            field="name",
        )


def read_key(text: str) -> VerifierKey:
    """Read a verifier key. Raises ``InvalidArgumentError`` unless it would be written so."""
    try:
        name, _, rest = text.partition("+")
        raw = b64decode(rest.partition("+")[2], validate=True)
        check_key_name(name)
        key = VerifierKey(name, raw[1:])
    except (Base64Error, ValueError) as error:
        raise InvalidArgumentError(f"not a verifier key: {error}", field="key") from None
    if raw[:1] != ED25519 or len(key.public) != KEY_BYTES or str(key) != text:
        raise InvalidArgumentError(f"not a verifier key of Ed25519: {text[:200]!r}", field="key")
    return key


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Return what is signed of a checkpoint."""
    return f"{origin}\n{size}\n{b64encode(root).decode()}\n"


def signed_note(text: str, key: VerifierKey, signature: bytes) -> str:
    """Return a note of a text that ends in a newline and the signature of it."""
    return f"{text}\n{_DASH}{key.name} {b64encode(key.id + signature).decode()}\n"


# --- statements of keys ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyStatement:
    """A key that checkpoints are signed with from here on."""

    key: VerifierKey
    previous: VerifierKey | None
    """The key before; none for the first, and for one that follows a loss."""
    signature: bytes
    """That of the key before over ``to_be_signed``; empty without one."""
    encoded: bytes = field(compare=False, default=b"")


def to_be_signed(key: VerifierKey, previous: VerifierKey) -> bytes:
    """Return what the key before signs of a statement."""
    return canonical_json(_document(key, previous))


def make_key_statement(
    key: VerifierKey, previous: VerifierKey | None = None, signature: bytes = b""
) -> KeyStatement:
    """Return a statement with its canonical bytes. Raises ``InvalidArgumentError`` for what is none."""
    document = _document(key, previous)
    if (previous is None) != (not signature) or len(signature) not in (0, SIGNATURE_BYTES):
        raise InvalidArgumentError("a key after another has its signature, and no other has one", field="key")
    if signature:
        document["signature"] = b64encode(signature).decode()
    return KeyStatement(key, previous, signature, canonical_json(document))


def read_key_statement(encoded: bytes) -> KeyStatement:
    """Read a statement; the signature is not checked.

    Raises ``InvalidArgumentError`` for anything but what ``make_key_statement`` writes.
    """
    try:
        document = json.loads(encoded.decode())
        if document["format"] != FORMAT:
            raise InvalidArgumentError("unknown key format", hint="use a newer recension", field="format")
        previous = document.get("previous")
        statement = make_key_statement(
            read_key(document["key"]),
            None if previous is None else read_key(previous),
            b64decode(document.get("signature", ""), validate=True),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgumentError(f"not a statement of a key: {str(error)[:200]}", field="key") from None
    if statement.encoded != encoded:
        raise InvalidArgumentError("not a statement of a key: it would be written otherwise", field="key")
    return statement


def _document(key: VerifierKey, previous: VerifierKey | None) -> dict[str, str]:
    document = {"format": FORMAT, "key": str(key)}
    return document if previous is None else {**document, "previous": str(previous)}
