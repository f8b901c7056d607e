"""What a server has signed: checkpoints opened with a key that is trusted, and keys followed from it.

Signatures are checked by ``cryptography``, which the extra ``verify`` brings. Everything else about
checkpoints, inclusion and consistency among it, needs nothing but ``recension_client.verify``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from recension.model.errors import ExtraMissingError, VerificationError
from recension.model.note import VerifierKey, read_key, read_key_statement, to_be_signed
from recension_client.verify import check_consistency, read_checkpoint

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:  # pragma: no cover - the bare installation, which the packaging test has
    CAN_VERIFY = False
else:
    CAN_VERIFY = True


class Checkpoint(NamedTuple):
    """Size and root of a server's checkpoint log, at one time."""

    origin: str
    size: int
    root: bytes


def open_checkpoint(note: str, key: str) -> Checkpoint:
    """Return what a key has signed. ``key``: a verifier key, as ``GetServerInfo`` names them.

    Raises ``VerificationError`` unless that very key has signed the note, ``InvalidArgumentError`` for what
    is none, and ``ExtraMissingError`` if signatures cannot be checked here.
    """
    trusted = read_key(key)
    try:
        origin, size, root, signatures = read_checkpoint(note)
    except ValueError as error:
        raise VerificationError(f"the checkpoint cannot be read: {error}") from None
    if origin != trusted.name:
        raise VerificationError(
            f"the checkpoint is of {origin[:200]!r}, the key is of {trusted.name!r}",
            hint="is it the right server?",
        )
    own = [raw for name, id_, raw in signatures if (name, id_) == (trusted.name, trusted.id)]
    if not own:
        raise VerificationError(
            f"the checkpoint is not signed with {key}", hint="the key may have been rotated: follow_keys"
        )
    text = note.rpartition("\n\n")[0] + "\n"
    for raw in own:
        _check_signature(trusted, raw, text.encode())
    return Checkpoint(origin, size, root)


def follow_keys(trusted: str, statements: Iterable[str]) -> str:
    """Return the newest key that a trusted one leads to. ``statements``: of all keys, as the log has them.

    Raises ``VerificationError`` when the log does not name the trusted key, or goes on with a key that the
    one before has not signed.
    """
    current = read_key(trusted)
    found = False
    for encoded in statements:
        statement = read_key_statement(encoded.encode())
        if not found:
            found = statement.key == current
            continue
        if statement.previous != current:
            raise VerificationError(
                f"the key {statement.key} does not follow from {current}",
                hint="the server lost its key, or is another; ask its operator before trusting the new one",
            )
        _check_signature(current, statement.signature, to_be_signed(statement.key, current))
        current = statement.key
    if not found:
        raise VerificationError(
            f"the server does not know the key {trusted}", hint="it may be another server, or lost its log"
        )
    return str(current)


def check_grown(before: Checkpoint, after: Checkpoint, path: list[bytes]) -> None:
    """Refuse a log that has lost or changed anything since ``before``; ``path`` is the consistency proof.

    Raises ``VerificationError``.
    """
    if before.origin != after.origin:
        raise VerificationError(f"{before.origin!r} and {after.origin!r} are different logs")
    if after.size < before.size:
        raise VerificationError(
            f"the log was rolled back: {before.size} leaves were signed, now {after.size}",
            hint="keep both checkpoints: together they prove it",
        )
    try:
        check_consistency(before.size, after.size, path, (before.root, after.root))
    except ValueError as error:
        raise VerificationError(
            f"the log was forked: {error}", hint="keep both checkpoints: together they prove it"
        ) from None


def _check_signature(key: VerifierKey, signature: bytes, message: bytes) -> None:
    if not CAN_VERIFY:
        raise ExtraMissingError(
            "signatures cannot be checked here", hint="pip install 'recension[verify]'", extra="verify"
        )
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise VerificationError(
            f"a signature of {key} is wrong", hint="do not trust what was signed; ask the operator"
        ) from None
