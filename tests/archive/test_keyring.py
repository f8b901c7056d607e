"""Keys that callers show: made once, ended for good, and all their faults alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recension.archive.keyring import MAX_LIVE, Keyring
from recension.archive.rebuild import rebuild
from recension.model import errors
from recension.model.access import ID_BYTES, SECRET_BYTES, Role, Secret, make_key, read_key
from recension.model.instant import parse_instant
from recension.store import keys
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from tests.archive.test_check import found, put, rows
from tests.archive.test_rebuild import assert_same

PEPPER = bytes(range(32))
NOW = parse_instant("2026-01-01")
LATER = parse_instant("2027-01-01")


class Clock:
    """Stands where it is put."""

    now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with closing(LmdbStore.open(tmp_path / "data", create=True, force_mount=True)) as held:
        yield held


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyring(store: Store, clock: Clock) -> Keyring:
    return Keyring(store, lambda: PEPPER, clock=clock)


def test_a_key_is_made_found_and_ended(keyring: Keyring) -> None:
    """What a caller shows is found until it is revoked; once more revoking changes nothing."""
    assert keyring.is_empty()
    secret = keyring.make("acme", Role.LICENSEE, LATER)
    assert not keyring.is_empty()
    found = keyring.find(Secret.parse(secret.written))
    assert found is not None
    assert ("acme", Role.LICENSEE, LATER, secret.id) == (
        found.owner,
        found.role,
        found.expires_at,
        found.id,
    )
    assert keyring.is_live(secret.id)
    ended = keyring.revoke(secret.id)
    assert ended == keyring.revoke(secret.id)
    assert keyring.find(secret) is None
    assert not keyring.is_live(secret.id)
    assert [ended] == keyring.all()
    assert not keyring.is_empty()


def test_a_store_does_not_have_the_secret(store: Store, keyring: Keyring) -> None:
    """Neither what is shown nor its digest without the server's own secret can be read from it."""
    secret = keyring.make("acme", Role.LICENSEE, LATER)
    held = b"".join(record for _, record in enumerate(store.log.read(1, 10)))
    assert secret.id.hex().encode() in held
    for other in (secret.secret, secret.secret.hex().encode(), secret.verifier(b"").hex().encode()):
        assert other not in held
    assert secret.verifier(PEPPER).hex().encode() in held
    assert Keyring(store, lambda: bytes(32)).find(secret) is None


def test_an_expired_key_opens_nothing(keyring: Keyring, clock: Clock) -> None:
    """From the very microsecond on, also when the clock goes back behind what the log has."""
    secret = keyring.make("acme", Role.LICENSEE, LATER)
    clock.now = LATER - 1
    assert keyring.find(secret) is not None
    clock.now = LATER
    assert keyring.find(secret) is None
    keyring.make("acme", Role.LICENSEE, LATER + 1)
    clock.now = NOW
    assert keyring.find(secret) is None
    with pytest.raises(errors.InvalidArgumentError, match="not in the future"):
        keyring.make("acme", Role.LICENSEE, LATER)


def test_a_key_that_is_shown_again(store: Store, keyring: Keyring, clock: Clock) -> None:
    """It is remembered without another look, but for its end: revoked by whomever, or expired."""
    secret, other = (keyring.make("acme", Role.LICENSEE, LATER) for _ in range(2))
    asked = 0

    def pepper() -> bytes:
        nonlocal asked
        asked += 1
        return PEPPER

    door = Keyring(store, pepper, clock=clock)
    for _ in range(3):
        assert [secret.id, other.id] == [
            key and key.id for key in map(door.shown, (secret.written, other.written))
        ]
    assert 2 == asked
    keyring.revoke(secret.id)
    for _ in range(2):
        assert door.shown(secret.written) is None
        assert door.shown(other.written) is not None
    assert 5 == asked  # what is not good is never remembered
    clock.now = LATER
    assert door.shown(other.written) is None
    with pytest.raises(errors.InvalidArgumentError, match="no key"):
        door.shown(secret.written[:-1])


@pytest.mark.parametrize("what", ["id", "secret"])
def test_others_are_not_found(keyring: Keyring, what: str) -> None:
    """Another id, or another secret of the same id."""
    good = keyring.make("acme", Role.LICENSEE, LATER)
    other = {
        "id": Secret(bytes(ID_BYTES), good.secret),
        "secret": Secret(good.id, bytes(SECRET_BYTES)),
    }[what]
    assert keyring.find(other) is None


def test_two_keys_at_a_time(keyring: Keyring, clock: Clock) -> None:
    """The present one and the next; an ended or expired one makes room, and others have their own."""
    made = [keyring.make("acme", Role.LICENSEE, LATER) for _ in range(MAX_LIVE)]
    with pytest.raises(errors.ApiKeysExhaustedError, match=made[0].id.hex()):
        keyring.make("acme", Role.LICENSEE, LATER)
    keyring.make("other", Role.AUDITOR, LATER)
    keyring.revoke(made[0].id)
    keyring.make("acme", Role.LICENSEE, LATER + 2)
    clock.now = LATER + 1
    keyring.make("acme", Role.LICENSEE, LATER + 2)
    assert ["acme"] * 4 + ["other"] == [key.owner for key in keyring.all()]


def test_a_key_that_there_is_not(keyring: Keyring) -> None:
    """Revoking it is an error with a name."""
    with pytest.raises(errors.ApiKeyNotFoundError):
        keyring.revoke(bytes(ID_BYTES))


@pytest.mark.parametrize("owner", ["", "A", "a b", "a/b", "-a", "a" * 64, "ä", "a\n"])
def test_what_is_no_owner(keyring: Keyring, owner: str) -> None:
    """It is refused before anything is made."""
    with pytest.raises(errors.InvalidArgumentError, match="owner"):
        keyring.make(owner, Role.LICENSEE, LATER)
    assert keyring.is_empty()


def test_a_typo_is_no_key() -> None:
    """Each single character that is another, is missing or is doubled; the error does not repeat it."""
    text = Secret(b"12345678", bytes(range(32))).written
    assert Secret.parse(f" {text}\n").written == text
    for at, char in enumerate(text):
        wrong = "1" if char == "0" else "0"
        for typo in (
            text[:at] + wrong + text[at + 1 :],
            text[:at] + text[at + 1 :],
            text[:at] + char + text[at:],
        ):
            with pytest.raises(errors.InvalidArgumentError) as caught:
                Secret.parse(typo)
            assert typo[-30:] not in str(caught.value)
    assert text[21:] not in repr(Secret.parse(text))


def test_statements_are_read_as_they_are_written() -> None:
    """Anything else is refused by name."""
    key = make_key(b"12345678", "acme", Role.OPERATOR, bytes(32), LATER, 7)
    assert key == read_key(key.encoded)
    good = key.encoded
    for bad in (
        b"",
        b"[]",
        good + b" ",
        good.replace(b"operator", b"king"),
        good.replace(b"key/v1", b"key/v2"),
        good.replace(b'"7"', b'"0"'),
        good.replace(b'"7"', b"7"),
        good.replace(b"acme", b"ACME"),
        good.replace(b'"verifier":"00', b'"verifier":"'),
        good[:-1] + b',"revoked":false}',
        b"[" * 100_000,
    ):
        with pytest.raises(errors.InvalidArgumentError):
            read_key(bad)


def test_rows_follow_from_the_log(keyring: Keyring, store: Store) -> None:
    """Made anew from the log they are the same."""
    first = keyring.make("acme", Role.LICENSEE, LATER)
    keyring.make("acme", Role.OPERATOR, LATER)
    keyring.revoke(first.id)
    target = MemoryStore()
    rebuild(store, target)
    assert_same(store, target)
    assert keyring.all() == Keyring(target, lambda: PEPPER).all()


def test_damage_is_found() -> None:
    """A lost, foreign or unreadable row or statement of a key is told for what it is."""

    def made() -> tuple[MemoryStore, Keyring, Secret]:
        store = MemoryStore()
        keyring = Keyring(store, lambda: PEPPER, clock=lambda: NOW)
        return store, keyring, keyring.make("acme", Role.LICENSEE, LATER)

    store, keyring, secret = made()
    assert found(store) == {}
    put(store, {rows(store, b"u")[0][0]: None})
    assert found(store) == {"row-missing": 1}
    assert keyring.find(secret) is None
    store, keyring, secret = made()
    key = rows(store, b"u")[0][0]
    put(store, {key: b"{}"})
    assert found(store) == {"row-wrong": 1}
    with pytest.raises(errors.DataLossError):
        keyring.find(secret)
    store, _, _ = made()
    put(store, {keys.api_key(bytes(ID_BYTES), 1): b"{}"})
    assert found(store) == {"row-orphan": 1}
