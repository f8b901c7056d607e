"""Who calls, by what a call shows: a key, a token of the licensee's own issuer, a client certificate.

What is shown has to be good, and to agree: a key that comes with the certificate of another licensee is
refused. A store in which no key was ever made has no door: whoever reaches the port is its operator, unless a
certificate or a token says that it is a licensee.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from recension.archive.keyring import Keyring
from recension.model.access import PREFIX, Role
from recension.model.errors import InvalidArgumentError, PepperUnusableError, UnauthenticatedError
from recension.server.door import ANYBODY, Caller, Certificate, Known, Metadata, stranger
from recension.server.tokens import Tokens

_HEADER = "authorization"
_SCHEME = "bearer "
_KINDS = (("peer_dns", "DNS"), ("peer_uri", "URI"), ("peer_email", "email"), ("peer_ip", "IP"))
"""Subject alternative names as gRPC has them, and as statements of licensees write them."""
_PREFIXES = PREFIX, PREFIX.encode()


class Names(Protocol):
    """By what licensees are told from others."""

    def by_certificate(self, name: str) -> str | None:
        """Return the licensee that has a subject alternative name."""
        ...

    def by_subject(self, subject: str) -> str | None:
        """Return the licensee that has the ``sub`` of a token."""
        ...


_caller_of = lru_cache(1024)(Caller)


class Identification:
    """Tells callers from each other. Safe for concurrent use."""

    def __init__(self, keyring: Keyring, names: Names, tokens: Tokens | None = None) -> None:
        """``tokens``: checks those of licensees; without it none is good."""
        self._keyring = keyring
        self._names = names
        self._tokens = tokens

    def find(self, metadata: Metadata, certificate: Certificate) -> Known:
        """Return who calls. Raises ``UnauthenticatedError``, ``PepperUnusableError``."""
        for name, value in metadata:
            if name != _HEADER and _PREFIXES[isinstance(value, bytes)] in value:  # type: ignore[operator]
                raise _misplaced()
        certified = self._certified(certificate)
        if certified is not None and not certified:
            raise stranger()
        shown = [value for name, value in metadata if name == _HEADER]
        known = self._shown(shown) if shown else None
        if known is None and certified and not shown:
            known = Known(Caller(certified, Role.LICENSEE), lambda: self._certified(certificate) == certified)
        if known is None and not certified and self._keyring.is_empty():
            known = Known(ANYBODY, self._keyring.is_empty)
        if known is None or (certified and known.caller.owner != certified):
            raise stranger()
        return known

    def _certified(self, certificate: Certificate) -> str | None:
        """Return the licensee whose certificate it is; ``None`` if it is nobody's, empty if it is two's."""
        if not certificate:
            return None
        owners = {
            owner
            for kind, prefix in _KINDS
            for name in certificate.get(kind, ())
            if (owner := self._names.by_certificate(f"{prefix}:{name.decode(errors='replace')}"))
        }
        return (owners.pop() if len(owners) == 1 else "") if owners else None

    def _shown(self, values: list[str | bytes]) -> Known | None:
        """Return whose key or token a header shows, if there is one header and what it shows is good."""
        (value, *more) = values
        if more or not isinstance(value, str) or not value.lower().startswith(_SCHEME):
            return None
        text = value[len(_SCHEME) :].strip()
        if not text.startswith(PREFIX):
            return self._bearer_of(text)
        try:
            key = self._keyring.shown(text)
        except InvalidArgumentError:
            return None
        except PepperUnusableError:
            if self._keyring.is_empty():  # there is no pepper before the first key
                return None
            raise
        if key is None:
            return None
        return Known(_caller_of(key.owner, key.role, key.id), lambda: self._keyring.is_live(key.id))

    def _bearer_of(self, text: str) -> Known | None:
        owner = self._owner(text)
        if owner is None:
            return None
        return Known(Caller(owner, Role.LICENSEE), lambda: self._owner(text) == owner)

    def _owner(self, text: str) -> str | None:
        """Return the licensee that a token is of, if it is good and its issuer may speak for that one."""
        token = self._tokens.read(text) if self._tokens is not None else None
        owner = None if token is None else self._names.by_subject(token.subject)
        if token is None or owner is None or (token.speaks_for and owner not in token.speaks_for):
            return None
        return owner


def _misplaced() -> UnauthenticatedError:
    return UnauthenticatedError(
        "a key is shown in another place than the header authorization, where proxies write it down",
        hint="send it as the header authorization: Bearer rcn_..., and ask the operator to revoke this one",
    )
