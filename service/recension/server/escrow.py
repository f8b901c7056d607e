"""Escrow: what a retraction destroys, encrypted to a key that lies elsewhere, for a deliberate way back.

A bundle is the ciphertext of HPKE (RFC 9180) in its base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256
and ChaCha20-Poly1305, the info being ``recension/escrow/v1``: 32 bytes of encapsulated key, then the sealed
rest. The plain text is deflated JSON.
"""

from __future__ import annotations

import json
import os
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from recension.archive.restoring import Kept, Withheld
from recension.archive.retracting import Place
from recension.archive.sealed import Note, Sealed
from recension.model.errors import InvalidArgumentError, StoreError, VerificationError
from recension.model.private import OpenToOthersError, read_private, sync_directory

FORMAT = "recension/escrow/v1"
MAX_TEXT_BYTES = 1 << 30
"""Texts of one bundle: it is made in memory, three times as much for a moment."""
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def read_public(path: Path) -> X25519PublicKey:
    """Return the public key of a file, PEM. Raises ``InvalidArgumentError``."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{path} holds no public key: {error}", field="escrow_key") from None
    if not isinstance(key, X25519PublicKey):
        raise InvalidArgumentError(
            f"{path} holds no X25519 key",
            hint="openssl genpkey -algorithm X25519 -out secret.pem; openssl pkey -in secret.pem -pubout",
            field="escrow_key",
        )
    return key


def write_bundle(path: Path, withheld: Withheld, names: dict[int, str], key: X25519PublicKey) -> bytes:
    """Encrypt to a key, into a file that does not exist yet; return its SHA-256. Durable when it returns.

    Raises ``InvalidArgumentError`` for too much, ``StoreError``.
    """
    if sum(map(len, withheld.texts.values())) > MAX_TEXT_BYTES:
        raise InvalidArgumentError(
            f"the texts have more than {MAX_TEXT_BYTES:,} bytes",
            hint="retract less at once",
            field="escrow_key",
        )
    bundle = _SUITE.encrypt(_packed(withheld, names), key, FORMAT.encode())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(bundle)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.absolute().parent)
    except FileExistsError:
        raise InvalidArgumentError(
            f"{path} exists",
            hint="name another file; keep both until one is in a retraction",
            field="escrow_out",
        ) from None
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", path=path) from None
    return sha256(bundle).digest()


def read_bundle(path: Path, numbers: dict[str, int], secret: Path) -> tuple[bytes, Withheld]:
    """Return the SHA-256 of a bundle and what it holds.

    Raises ``InvalidArgumentError``, ``VerificationError``.
    """
    try:
        bundle = path.read_bytes()
        key = load_pem_private_key(read_private(secret).encode(), None)
    except OpenToOthersError as error:
        raise InvalidArgumentError(f"{secret}: {error}", hint=f"chmod 600 {secret}", field="secret") from None
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgumentError(f"the bundle or its key cannot be read: {error}", field="bundle") from None
    if not isinstance(key, X25519PrivateKey):
        raise InvalidArgumentError(f"{secret} holds no X25519 key", field="secret")
    try:
        document = json.loads(zlib.decompress(_SUITE.decrypt(bundle, key, FORMAT.encode())))
        return sha256(bundle).digest(), _withheld(document, numbers)
    except (InvalidTag, ValueError, LookupError, TypeError, zlib.error) as error:
        raise VerificationError(
            f"{path} cannot be opened with {secret}: {type(error).__name__}",
            hint="it is of another key, or damaged",
        ) from None


def _packed(withheld: Withheld, names: dict[int, str]) -> bytes:
    document = {
        "format": FORMAT,
        "edits": [
            {
                "project": names[one.place.number],
                "page": one.place.page,
                "rev": one.place.rev,
                "time": one.time,
                "event": list(one.event),
                "salt": _text(one.sealed.salt),
                "values": [None if value is None else _text(value) for value in one.sealed.values],
                "notes": [list(note) for note in one.sealed.notes],
                "salts": [_text(salt) for salt in one.sealed.salts],
            }
            for one in withheld.edits
        ],
        "texts": [_text(text) for text in withheld.texts.values()],
    }
    return zlib.compress(json.dumps(document).encode())


def _withheld(document: dict[str, Any], numbers: dict[str, int]) -> Withheld:
    if document["format"] != FORMAT:
        raise ValueError("unknown format")
    edits = tuple(
        Kept(
            Place(numbers[one["project"]], one["page"], one["rev"]),
            one["time"],
            (one["event"][0], one["event"][1]),
            Sealed(
                b64decode(one["salt"]),
                tuple(None if value is None else b64decode(value) for value in one["values"]),
                tuple(Note(*note) for note in one["notes"]),
                tuple(map(b64decode, one["salts"])),
            ),
        )
        for one in document["edits"]
    )
    texts = map(b64decode, document["texts"])
    return Withheld(edits, {sha256(text).digest(): text for text in texts})


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
