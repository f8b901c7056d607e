"""The signing key of a server, its file, and the checkpoints that are signed with it.

Three files lie beside each other. ``KEY`` is the private key, readable by its owner alone. ``KEY.checkpoint``
is the last checkpoint that was signed: it is written before a signature leaves this module, and nothing is
signed for a store that does not contain it, which is how a restored backup cannot fork the log. ``KEY.lock``
lets one process at a time decide. A new key is written as ``KEY.new`` first; once the log names it, it takes
its place, by whoever reads it next if the process that made it was killed.
"""

from __future__ import annotations

import fcntl
import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from recension.archive.clock import Clock, system_clock
from recension.archive.ledger import Ledger, current_key, key_statement
from recension.archive.stating import record
from recension.model.errors import (
    CheckpointOutOfRangeError,
    InvalidArgumentError,
    LogForkedError,
    NoSigningKeyError,
    SigningKeyExistsError,
    SigningKeyUnusableError,
)
from recension.model.note import (
    ED25519,
    KeyStatement,
    VerifierKey,
    check_key_name,
    checkpoint_text,
    make_key_statement,
    signed_note,
    to_be_signed,
)
from recension.model.private import MODE, OpenToOthersError, read_private, sync_directory, write_private
from recension.model.record import Statement
from recension.store.interface import Store, View

_PREFIX = "PRIVATE+KEY"
_SEED_BYTES = 32
_TEXT_LINES = 3


class PrivateKey:
    """A key that signs. It is written as other programs for signed notes write theirs."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._seed = seed
        self.verifier = VerifierKey(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def new(cls, name: str) -> PrivateKey:
        """Make a key."""
        check_key_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)

    def encode(self) -> str:
        """Return the key as a line of text. It is a secret."""
        raw = b64encode(ED25519 + self._seed).decode()
        return f"{_PREFIX}+{self.verifier.name}+{self.verifier.id.hex()}+{raw}\n"

    @classmethod
    def decode(cls, text: str) -> PrivateKey:
        """Read what ``encode`` writes. Raises ``ValueError``."""
        rest = text.removeprefix(f"{_PREFIX}+").rstrip("\n")
        name, _, rest = rest.partition("+")
        raw = b64decode(rest.partition("+")[2], validate=True)
        if raw[:1] != ED25519 or len(raw) != 1 + _SEED_BYTES:
            raise ValueError("no Ed25519 key")
        key = cls(name, raw[1:])
        if key.encode() != text:
            raise ValueError("written in another way")
        return key


class Signer:
    """Signs checkpoints of a store's log. Safe for concurrent use, by several processes too."""

    def __init__(self, store: Store, ledger: Ledger, path: Path, *, clock: Clock = system_clock) -> None:
        """``path``: the key's file; it may not exist yet."""
        self._store = store
        self._ledger = ledger
        self._path = path
        self._clock = clock

    @property
    def _new_path(self) -> Path:
        return self._path.with_name(self._path.name + ".new")

    @property
    def _checkpoint_path(self) -> Path:
        return self._path.with_name(self._path.name + ".checkpoint")

    def check(self) -> None:
        """Refuse a key that is there and cannot be used. Raises ``SigningKeyUnusableError``."""
        with self._store.view() as view:
            named = current_key(view)
        if named is not None and (self._path.exists() or self._new_path.exists()):
            with self._locked():
                self._load()

    def checkpoint(self) -> str:
        """Return a signed checkpoint of all that was recorded up to now.

        Raises ``NoSigningKeyError``, ``SigningKeyUnusableError``, ``LogForkedError``.
        """
        with self._store.view() as view:
            _named(view)  # nothing is created beside a key that was never made
        with self._locked():
            return self._sign(self._load())

    @contextmanager
    def lent(self) -> Iterator[tuple[PrivateKey, Path]]:
        """Lend the key that the log names, and the path of its file, to one process at a time.

        What it signs must be told from a checkpoint of the log by its origin. Raises as ``checkpoint`` does.
        """
        with self._store.view() as view:
            _named(view)
        with self._locked():
            yield self._load(), self._path

    def sign(self, text: str) -> str:
        """Return a signed note of a text that ends in a newline. Raises as ``checkpoint`` does."""
        with self.lent() as (key, _):
            return signed_note(text, key.verifier, key.sign(text.encode()))

    def create(self, name: str, *, replace: bool = False) -> VerifierKey:
        """Make the first key. With ``replace``, one that does not follow from the key in the log.

        Raises ``SigningKeyExistsError``, ``InvalidArgumentError``.
        """
        key = PrivateKey.new(name)
        with self._locked():
            for path in (self._path, self._checkpoint_path):
                if path.exists():
                    raise SigningKeyExistsError(
                        f"{path} exists",
                        hint="another key follows it with: recension-server key rotate. If it is of"
                        " another log, move it away, and its checkpoint too",
                    )

            def decide(view: View, position: int, now: int) -> Statement:  # noqa: ARG001 - a decision's shape
                _check_free(current_key(view), name, replace=replace)
                return key_statement(make_key_statement(key.verifier))

            with self._store.view() as view:
                _check_free(current_key(view), name, replace=replace)
            self._write(self._new_path, key.encode())
            record(self._store, self._clock, decide)
            self._sign(self._load())
        return key.verifier

    def rotate(self) -> VerifierKey:
        """Make another key of the same name, which the present one signs, and use it from now on.

        Raises as ``checkpoint`` does.
        """
        with self._locked():
            old = self._load()
            self._sign(old)  # whoever has lost a part of the log does not go on with another key
            key = PrivateKey.new(old.verifier.name)
            signature = old.sign(to_be_signed(key.verifier, old.verifier))
            self._write(self._new_path, key.encode())

            def decide(view: View, position: int, now: int) -> Statement:  # noqa: ARG001 - a decision's shape
                known = _named(view)
                if known.key != old.verifier:
                    raise _unusable(self._path, f"the log names another key by now, {known.key}")
                return key_statement(make_key_statement(key.verifier, old.verifier, signature))

            record(self._store, self._clock, decide)
            self._sign(self._load())
        return key.verifier

    # --- with the lock held ---------------------------------------------------------------------

    def _load(self) -> PrivateKey:
        """Return the key that the log names, and finish what a process that was killed had begun."""
        with self._store.view() as view:
            named = _named(view).key
        if self._new_path.exists():
            key = self._read(self._new_path)
            if key.verifier == named:
                if not self._checkpoint_path.exists():  # the very first; later it is missed
                    self._write(self._checkpoint_path, self._note(key, *self._ledger.newest()))
                self._new_path.replace(self._path)
                sync_directory(self._path.parent)
                return key
        if not self._path.exists():
            raise _unusable(self._path, f"it is missing; the log names the key {named}")
        key = self._read(self._path)
        if key.verifier != named:
            raise _unusable(self._path, f"it holds the key {key.verifier}, the log names {named}")
        return key

    def _sign(self, key: PrivateKey) -> str:
        """Return a checkpoint of now, unless the log has lost or changed what was signed before."""
        size, root = self._ledger.newest()
        last, last_size, last_root = self._last()
        try:
            is_kept = self._ledger.root(last_size) == last_root
        except CheckpointOutOfRangeError:
            is_kept = False
        if not is_kept:
            raise LogForkedError(
                f"the log has {size} leaves and does not contain the {last_size} that were signed before",
                hint="restore a newer backup. If the loss is final, move the key and its checkpoint away, and"
                " make one with another name: recension-server key create --replace",
                size=size,
                signedSize=last_size,
            )
        note = self._note(key, size, root)
        if note != last:
            self._write(self._checkpoint_path, note)
        return note

    def _note(self, key: PrivateKey, size: int, root: bytes) -> str:
        text = checkpoint_text(key.verifier.name, size, root)
        return signed_note(text, key.verifier, key.sign(text.encode()))

    def _last(self) -> tuple[str, int, bytes]:
        """Return the last checkpoint that was signed, its size and its root."""
        path = self._checkpoint_path
        try:
            note = path.read_text(encoding="utf-8")
            _, size, root = note.split("\n")[:_TEXT_LINES]
            return note, int(size), b64decode(root, validate=True)
        except FileNotFoundError:
            raise _unusable(path, "the last signed checkpoint is missing") from None
        except (OSError, ValueError) as error:
            raise _unusable(path, f"the last signed checkpoint cannot be read: {error}") from None

    def _read(self, path: Path) -> PrivateKey:
        try:
            return PrivateKey.decode(read_private(path))
        except OpenToOthersError as error:
            hint = f"if nobody did, chmod 600 {path}; else rotate the key"
            raise _unusable(path, str(error), hint=hint) from None
        except OSError as error:
            raise _unusable(path, os.strerror(error.errno or 0)) from None
        except (ValueError, Base64Error):
            raise _unusable(path, "it holds no signing key") from None

    def _write(self, path: Path, text: str) -> None:
        """Put a file in place, durable and whole, for its owner alone."""
        try:
            write_private(path, text)
        except OSError as error:
            raise _unusable(path, f"it cannot be written: {os.strerror(error.errno or 0)}") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise _unusable(path, f"it cannot be opened: {os.strerror(error.errno or 0)}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def signed_by(keys: Iterable[VerifierKey], note: str) -> tuple[str, int, bytes]:
    """Return origin, size and root of a checkpoint that one of the keys has signed under its own name.

    Raises ``ValueError`` for any other.
    """
    text, _, signatures = note.partition("\n\n")
    origin, size, root = text.split("\n")
    if not size.isdecimal():
        raise ValueError("it says no size")
    signed = {tuple(line.removeprefix("— ").split(" ")) for line in signatures.rstrip("\n").split("\n")}
    for key in keys:
        for name, encoded in (one for one in signed if len(one) == 2):  # noqa: PLR2004 - a name and a signature
            raw = b64decode(encoded, validate=True)
            if (name, raw[: len(key.id)]) == (key.name, key.id) == (origin, key.id):
                public = Ed25519PublicKey.from_public_bytes(key.public)
                try:
                    public.verify(raw[len(key.id) :], f"{text}\n".encode())
                except InvalidSignature:
                    raise ValueError(f"the signature of {key.name} is wrong") from None
                return origin, int(size), b64decode(root, validate=True)
    raise ValueError("no key of this server has signed it")


def _check_free(known: KeyStatement | None, name: str, *, replace: bool) -> None:
    """Refuse a key that would not follow from the one in the log, unless that is what is wanted."""
    if known is not None and not replace:
        raise SigningKeyExistsError(
            f"the log names the key {known.key}",
            hint="put its file back; or, if it is lost, use --replace, and tell the clients",
        )
    if known is not None and known.key.name == name:
        raise InvalidArgumentError(
            f"name: {name!r} is that of the key in the log",
            hint="choose another: clients hold the old name to what was signed with it",
            field="name",
        )


def _named(view: View) -> KeyStatement:
    named = current_key(view)
    if named is None:
        raise NoSigningKeyError(
            "this server has no signing key, so it signs nothing",
            hint="its operator makes one with: recension-server key create",
        )
    return named


def _unusable(path: Path, what: str, *, hint: str = "") -> SigningKeyUnusableError:
    return SigningKeyUnusableError(
        f"{path}: {what}", hint=hint or "put the file back from where keys are kept; see docs/operations.md"
    )
