"""Tokens of licensees' own issuers: JWTs signed with Ed25519, checked against a file of trusted keys.

The file is JSON, and is read again when it changes::

    {"issuers": [{"iss": "https://login.example", "aud": "recension", "licensees": ["acme"],
                  "keys": [{"kty": "OKP", "crv": "Ed25519", "x": "...", "kid": "2026"}]}]}

An issuer speaks for the licensees that it names; where there is but one, it may name none and speak for all.
PyJWT is the extra ``recension[jwt]``; this module alone imports it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from recension.model.access import check_owner
from recension.model.errors import ExtraMissingError, RecensionError, TokenKeysUnusableError
from recension.server import logs

try:
    import jwt
except ImportError:
    jwt = None  # type: ignore[assignment] # the extra is not installed

_ALGORITHM = "EdDSA"
_CLAIMS = ["exp", "iat", "aud", "sub", "iss"]
_LEEWAY_SECONDS = 30
"""How far the clocks of issuers may be from ours."""
_MOST_SECONDS = 24 * 3600
"""A token lives no longer: what was issued cannot be taken back one by one."""
_MAX_BYTES = 4096
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Token:
    """What a good token says."""

    subject: str
    speaks_for: frozenset[str]
    """Licensees; empty for all."""


@dataclass(frozen=True, slots=True)
class _Issuer:
    name: str
    audience: str
    licensees: frozenset[str]
    keys: Mapping[str, Any]
    """By ``kid``; the empty one is of a key without."""


class Tokens:
    """Checks tokens. Safe for concurrent use."""

    def __init__(self, path: Path) -> None:
        """``path``: the file of trusted keys. Raises ``ExtraMissingError``, ``TokenKeysUnusableError``."""
        if jwt is None:
            raise ExtraMissingError(
                "tokens need PyJWT", hint="pip install 'recension[server,jwt]'", extra="jwt"
            )
        self._path = path
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._issuers = self._read()

    def read(self, text: str) -> Token | None:
        """Return what a token says; ``None`` for one that is not good, whatever is wrong with it."""
        if len(text) > _MAX_BYTES:
            return None
        try:
            unchecked = jwt.decode_complete(text, options={"verify_signature": False})
            issuer = self._trusted().get(unchecked["payload"].get("iss", ""))
            if issuer is None:
                return None
            key = issuer.keys.get(unchecked["header"].get("kid", ""))
            if key is None:
                return None
            claims = jwt.decode(
                text,
                key,
                algorithms=[_ALGORITHM],
                audience=issuer.audience,
                issuer=issuer.name,
                leeway=_LEEWAY_SECONDS,
                options={"require": _CLAIMS},
            )
            seconds = claims["exp"] - claims["iat"]  # PyJWT takes numbers that are written as text
        except (jwt.PyJWTError, TypeError, AttributeError, ValueError, RecursionError):
            return None
        if seconds > _MOST_SECONDS:
            return None
        return Token(str(claims["sub"]), issuer.licensees)

    def _trusted(self) -> Mapping[str, _Issuer]:
        """Return the issuers by their names, read again if the file has changed.

        What cannot be used is told in the log, and those before stay.
        """
        try:
            stamp = self._look()
            if stamp != self._stamp:
                with self._lock:
                    self._stamp = stamp
                    self._issuers = self._read()
        except TokenKeysUnusableError as error:
            structlog.get_logger().error(logs.ISSUERS_UNUSABLE, message=error.message)
        return self._issuers

    def _look(self) -> _Stamp:
        try:
            found = self._path.stat()
        except OSError as error:
            raise _unusable(self._path, error.strerror or "it cannot be read") from None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> Mapping[str, _Issuer]:
        try:
            document = json.loads(self._path.read_bytes())
            issuers = [_issuer(one) for one in document["issuers"]]
        except OSError as error:
            raise _unusable(self._path, error.strerror or "it cannot be read") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
            raise _unusable(self._path, f"it is no list of issuers: {str(error)[:200]}") from None
        except RecensionError as error:
            raise _unusable(self._path, error.message) from None
        named = {issuer.name: issuer for issuer in issuers}
        if len(named) != len(issuers) or not named:
            raise _unusable(self._path, "each issuer stands in it once, and there is at least one")
        if len(named) > 1 and not all(issuer.licensees for issuer in issuers):
            raise _unusable(self._path, "of several issuers each has to name the licensees it speaks for")
        return named


def _issuer(document: Mapping[str, Any]) -> _Issuer:
    """Read an issuer. Raises ``ValueError``, ``LookupError`` and others for what is none."""
    unknown = set(document) - {"iss", "aud", "licensees", "keys"}
    if unknown:
        raise ValueError(f"there is no field {min(unknown)!r}")
    name, audience, licensees = document["iss"], document["aud"], document.get("licensees", [])
    if not all(isinstance(text, str) and text for text in (name, audience, *licensees)):
        raise ValueError("iss, aud and licensees are text")
    for licensee in licensees:
        check_owner(licensee)
    keys: dict[str, Any] = {}
    for one in document["keys"]:
        if (one.get("kty"), one.get("crv")) != ("OKP", "Ed25519") or "d" in one:
            raise ValueError("a key is the public half of one of Ed25519: kty OKP, crv Ed25519, no d")
        keys[one.get("kid", "")] = jwt.PyJWK(one, algorithm=_ALGORITHM).key
    if len(keys) != len(document["keys"]) or not keys:
        raise ValueError("each key has a kid of its own, and there is at least one")
    return _Issuer(name, audience, frozenset(licensees), keys)


def _unusable(path: Path, what: str) -> TokenKeysUnusableError:
    return TokenKeysUnusableError(f"{path}: {what}", hint="see docs/licence.md, Identity")
