"""The content address: ``sha256:<64 hex>`` outside, 32 raw bytes inside."""

from __future__ import annotations

import re
from hashlib import sha256

from recension.model.errors import InvalidArgumentError

_FORM = re.compile(r"sha256:([0-9a-f]{64})")


def digest_of(content: bytes) -> bytes:
    """SHA-256 of ``content``: 32 bytes."""
    return sha256(content).digest()


def format_digest(raw: bytes) -> str:
    """Write 32 raw bytes as ``sha256:<64 hex>``, as OCI digests are written."""
    return f"sha256:{raw.hex()}"


def parse_digest(text: str, field: str = "digest") -> bytes:
    """Read ``sha256:<64 hex>``. Raises ``InvalidArgumentError`` naming ``field``."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidArgumentError(
            f"{field}: not a digest: {text[:80]!r}",
            hint="a digest is written sha256: and 64 lower-case hex digits",
            field=field,
        )
    return bytes.fromhex(match[1])
