"""The keys that callers show: made, ended, and found by what a caller shows."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256

from recension.archive.clock import Clock, system_clock
from recension.archive.stating import record
from recension.model.access import (
    ID_BYTES,
    VERIFIER_BYTES,
    ApiKey,
    Role,
    Secret,
    check_owner,
    make_key,
    read_key,
    revoked,
)
from recension.model.errors import (
    ApiKeyNotFoundError,
    ApiKeysExhaustedError,
    DataLossError,
    InvalidArgumentError,
)
from recension.model.instant import format_instant
from recension.model.record import Kind, Statement
from recension.store import keys
from recension.store.interface import State, Store, View

MAX_LIVE = 2
"""Live keys of one owner: the present one, and the next while callers move to it."""


class Keyring:
    """All keys of a store. Safe for concurrent use, by several processes too."""

    def __init__(self, store: Store, pepper: Callable[[], bytes], *, clock: Clock = system_clock) -> None:
        """``pepper``: returns the server's own secret, 32 bytes; asked when a key is made or looked for."""
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._good: dict[bytes, tuple[State, int, ApiKey]] = {}
        """Keys that were shown and good, by a digest of what was shown: in which state of the store, whose
        newest commit was made when."""

    def make(self, owner: str, role: Role, expires_at: int) -> Secret:
        """Make a key, and return what its owner is told, once.

        Raises ``ApiKeysExhaustedError`` when the owner has ``MAX_LIVE`` live ones, ``InvalidArgumentError``.
        """
        check_owner(owner)
        secret = Secret.new()
        verifier = secret.verifier(self._pepper())

        def decide(view: View, position: int, now: int) -> Statement:
            if expires_at <= now:
                raise InvalidArgumentError(
                    f"expires_at: {format_instant(expires_at)} is not in the future", field="expires_at"
                )
            live = [key for key in _newest(view) if key.owner == owner and key.is_live(now)]
            if len(live) >= MAX_LIVE:
                raise ApiKeysExhaustedError(
                    f"{owner} has {len(live)} live keys: {', '.join(key.id.hex() for key in live)}",
                    hint="revoke the one that is no longer used: recension-server apikey revoke ID",
                    owner=owner,
                )
            made = make_key(secret.id, owner, role, verifier, expires_at, position)
            return Statement(Kind.API_KEY, made.encoded)

        record(self._store, self._clock, decide)
        return secret

    def revoke(self, key_id: bytes) -> ApiKey:
        """End a key for good; once more changes nothing. Raises ``ApiKeyNotFoundError``."""

        def decide(view: View, position: int, now: int) -> Statement | None:  # noqa: ARG001 - a decision's shape
            key = _of(view, key_id)
            if key is None:
                raise ApiKeyNotFoundError(
                    f"no key {key_id.hex()}", hint="list them with: recension-server apikey list"
                )
            return None if key.revoked else Statement(Kind.API_KEY, revoked(key).encoded)

        record(self._store, self._clock, decide)
        with self._store.view() as view:
            ended = _of(view, key_id)
        assert ended is not None  # noqa: S101 - no statement is ever removed
        return ended

    def all(self) -> list[ApiKey]:
        """Return all keys, ended ones too, by owner and in the order of their making."""
        with self._store.view() as view:
            return sorted(_newest(view), key=lambda key: (key.owner, key.made_at))

    def is_empty(self) -> bool:
        """Say whether no key was ever made: then there is nobody to be told from others."""
        with self._store.view() as view:
            return not view.scan(*_RANGE, limit=1)

    def find(self, secret: Secret) -> ApiKey | None:
        """Return the live key that a caller shows; ``None`` for an unknown, expired or revoked one alike.

        All of these take as long.
        """
        return self._found(secret)[2]

    def _found(self, secret: Secret) -> tuple[State, int, ApiKey | None]:
        """Return the key, and in which state of the store, whose newest commit was made when."""
        shown = secret.verifier(self._pepper())
        with self._store.view() as view:
            key = _of(view, secret.id) or _read(_NOBODYS.encoded)
            state, recorded_at = view.state, view.head().recorded_at
        same = hmac.compare_digest(shown, key.verifier)
        return state, recorded_at, key if same and key.is_live(max(self._clock(), recorded_at)) else None

    def shown(self, text: str) -> ApiKey | None:
        """Return the live key whose written form a caller shows; ``None`` for anything else.

        A good one is found sooner when it comes again, as long as nothing was written to the store. Raises
        ``InvalidArgumentError`` for what is no key.
        """
        mark = sha256(text.encode()).digest()
        good = self._good.get(mark)
        if good is not None:
            state, recorded_at, key = good
            if state == self._store.state and key.is_live(max(self._clock(), recorded_at)):
                return key
        state, recorded_at, found = self._found(Secret.parse(text))
        if found is not None:
            if len(self._good) >= _GOOD:
                self._good.clear()
            self._good[mark] = state, recorded_at, found
        return found

    def is_live(self, key_id: bytes) -> bool:
        """Say whether a key that was found before is still good."""
        with self._store.view() as view:
            key = _of(view, key_id)
            return key is not None and key.is_live(max(self._clock(), view.head().recorded_at))


_GOOD = 10_000
"""Good keys that are held in memory; more begin anew."""
_NOBODYS = make_key(bytes(ID_BYTES), "nobody", Role.AUDITOR, bytes(VERIFIER_BYTES), 0, 1, revoked=True)
"""Takes the place of a key that there is not."""
_RANGE = keys.api_key(b""), keys.api_key(b"\xff" * 9)


def _of(view: View, key_id: bytes) -> ApiKey | None:
    row = view.last(keys.api_key(key_id), keys.api_key(key_id, keys.END))
    return None if row is None else _read(row[1])


def _newest(view: View) -> Iterator[ApiKey]:
    yield from {key.id: key for key in (_read(value) for _, value in view.scan(*_RANGE))}.values()


@lru_cache(1024)
def _read(payload: bytes) -> ApiKey:
    try:
        return read_key(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"a key is damaged: {error.message}") from None
