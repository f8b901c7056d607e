"""What a licensee remembers of a server: the key that is trusted, and the newest checkpoint that was seen.

Kept in one small file, which ``trust_of`` finds by the name of the server's log. Each look at the server has
to follow from it: the key by the signatures of the keys between, the checkpoint by a proof that the log has
only grown. A log that was rolled back or forked is refused, and the file stays as it was; what shows the fork
is kept in a file beside it, for whoever audits the server.
"""

from __future__ import annotations

import fcntl
import json
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError, VerificationError
from recension.model.manifest import canonical_json
from recension.model.note import read_key
from recension.model.pin import PinStatement
from recension.model.reading import ServerInfo
from recension_client.checkpoints import Checkpoint, check_grown, follow_keys, open_checkpoint
from recension_client.verify import check_inclusion, read_checkpoint, snapshot_id

FORMAT = "recension/trust/v1"
EVIDENCE = "recension/evidence/v1"


class Inclusion(NamedTuple):
    """A leaf of the checkpoint log and its audit path."""

    leaf: bytes
    leaf_index: int
    size: int
    path: list[bytes]


class Log(Protocol):
    """What is asked of a server; a ``Client`` is one."""

    def server_info(self) -> ServerInfo:
        """Return what the server is, its keys among it."""
        ...

    def checkpoint(self) -> str:
        """Return a signed checkpoint of now."""
        ...

    def inclusion(self, snapshot_id: bytes, size: int) -> Inclusion:
        """Return the proof that a snapshot's manifest is a leaf of the tree of a size."""
        ...

    def pin_inclusion(self, name: str, size: int) -> Inclusion:
        """Return the proof that the newest statement of a pin is a leaf of the tree of a size."""
        ...

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the tree of the second size begins with that of the first."""
        ...


class _State(NamedTuple):
    key: str
    checkpoint: str
    """Empty until one was seen."""


class Trust:
    """One server's key and newest checkpoint, in a file. Safe for concurrent use by several processes."""

    def __init__(self, path: Path) -> None:
        """``path``: the file; ``begin`` makes it."""
        self._path = path

    def begin(self, key: str) -> None:
        """Trust a verifier key. The same again changes nothing.

        Raises ``InvalidArgumentError`` for what is none, and when another key is trusted already.
        """
        read_key(key)
        with self._locked():
            if self._path.exists() and self._read().key != key:
                raise InvalidArgumentError(
                    f"{self._path} trusts another key: {self._read().key}",
                    hint="to trust this one instead, remove the file, and know why",
                    field="key",
                )
            if not self._path.exists():
                self._write(_State(key, ""))

    @property
    def key(self) -> str:
        """The key that is trusted, as of the last look. Raises ``InvalidArgumentError`` if there is none."""
        return self._read().key

    def refresh(self, log: Log, known: str = "") -> Checkpoint:
        """Return the server's checkpoint of now, and remember it and the newest key.

        ``known``: a key that the newest has to follow from too; where nothing is remembered, it is the first.
        Raises ``VerificationError`` when the log does not follow from ``known`` and what is remembered; when
        it was signed and does not, the error says where both checkpoints are kept.
        """
        with self._locked():
            state = _State(known, "") if known and not self._path.exists() else self._read()
            if known:
                follow_keys(known, [one.statement for one in log.server_info().signing_keys])
            key, note, keys = self._ask(log, state.key)
            new = open_checkpoint(note, key)
            if state.checkpoint:
                old = _remembered(state.checkpoint)
                path = log.consistency(old.size, new.size) if old.size < new.size else []
                try:
                    check_grown(old, new, path)
                except VerificationError as error:
                    raise self._kept(error, state, note, path, keys) from None
            self._write(_State(key, note))
        return new

    def _kept(
        self, error: VerificationError, state: _State, refused: str, path: list[bytes], keys: list[str]
    ) -> VerificationError:
        """Keep what shows that a log is another than it was; return the error that says where."""
        document = {
            "format": EVIDENCE,
            "trusted": state.key,
            "remembered": state.checkpoint,
            "refused": refused,
            "consistency": [b64encode(one).decode() for one in path],
            "keys": keys,
        }
        content = canonical_json(document)
        beside = self._path.with_name(f"{self._path.stem}.{sha256(content).hexdigest()[:16]}.evidence.json")
        try:
            _put(beside, content)
        except OSError as failed:
            return VerificationError(
                f"{error.message}; what shows it cannot be kept: {failed}", hint=error.hint
            )
        return VerificationError(
            f"{error.message}; both checkpoints are kept in {beside}",
            hint="show that file to the operator of the server, and to whoever audits it",
            evidence=beside,
        )

    def check_snapshot(self, log: Log, wanted: bytes, known: str = "") -> Checkpoint:
        """Return a checkpoint, remembered from now on, that contains the manifest of a snapshot.

        ``known``: as of ``refresh``. Raises ``VerificationError``.
        """
        checkpoint = self.refresh(log, known)
        proof = log.inclusion(wanted, checkpoint.size)
        _check_leaf(proof, checkpoint, snapshot_id(proof.leaf) == format_digest(wanted), "snapshot")
        return checkpoint

    def check_pin(self, log: Log, wanted: PinStatement, known: str = "") -> Checkpoint:
        """Return a checkpoint, remembered from now on, that contains a pin's newest statement.

        ``known``: as of ``refresh``. Raises ``VerificationError``.
        """
        checkpoint = self.refresh(log, known)
        proof = log.pin_inclusion(wanted.name, checkpoint.size)
        _check_leaf(proof, checkpoint, proof.leaf == wanted.encoded, "pin")
        return checkpoint

    def _ask(self, log: Log, trusted: str) -> tuple[str, str, list[str]]:
        """Return (newest key, checkpoint, statements of all keys).

        The checkpoint is asked for once more if a key came between the two questions.
        """
        key = follow_keys(trusted, [one.statement for one in log.server_info().signing_keys])
        note = log.checkpoint()
        statements = [one.statement for one in log.server_info().signing_keys]
        newest = follow_keys(key, statements)
        return newest, note if newest == key else log.checkpoint(), statements

    def _read(self) -> _State:
        try:
            raw = self._path.read_bytes()
            document = json.loads(raw)
            state = _State(document["key"], document["checkpoint"])
            if document["format"] != FORMAT or canonical_json(document) != raw:
                raise ValueError("written in another way")  # noqa: TRY301 - told as the others are
            read_key(state.key)
            if state.checkpoint:
                _remembered(state.checkpoint)
        except FileNotFoundError:
            raise InvalidArgumentError(
                f"{self._path} does not exist: no key is trusted yet",
                hint="ask the operator for the server's key, and begin with it",
                field="key",
            ) from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InvalidArgumentError(
                f"{self._path} cannot be read: {error}", hint="restore it, or begin anew", field="key"
            ) from None
        return state

    def _write(self, state: _State) -> None:
        """Put the file in place, durable and whole."""
        document = {"format": FORMAT, "key": state.key, "checkpoint": state.checkpoint}
        try:
            _put(self._path, canonical_json(document))
        except OSError as error:
            raise _unusable(error) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            file = self._path.with_name(self._path.name + ".lock").open("ab")
        except OSError as error:
            raise _unusable(error) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _check_leaf(proof: Inclusion, checkpoint: Checkpoint, is_wanted: bool, what: str) -> None:  # noqa: FBT001
    """Refuse a proof of another leaf than the one that is wanted, or of another tree than the signed one."""
    if not is_wanted or proof.size != checkpoint.size:
        raise VerificationError("the server proved something else than was asked for")
    try:
        check_inclusion(proof.leaf, proof.leaf_index, proof.size, proof.path, checkpoint.root)
    except ValueError as error:
        raise VerificationError(f"the {what} is not in the log that was signed: {error}") from None


def _put(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def trust_of(key: str) -> Trust:
    """Return what this user remembers of the log that a verifier key is of.

    It lies below ``$XDG_STATE_HOME``, else ``~/.local/state``, by the log's name: a key that was rotated and
    the one before, and all locks of one server, share one memory. Raises ``InvalidArgumentError``.
    """
    name = read_key(key).name.replace("/", "+")  # which no name has
    try:
        given = Path(os.environ.get("XDG_STATE_HOME", ""))
        state = given if given.is_absolute() else Path.home() / ".local" / "state"
        folder = state / "recension" / "logs"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:
        raise _unusable(error) from None
    return Trust(folder / f"{name}.json")


def _unusable(error: Exception) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the memory of signed logs cannot be used: {error}",
        hint="set XDG_STATE_HOME to a directory that can be written",
        field="key",
    )


def _remembered(note: str) -> Checkpoint:
    origin, size, root, _ = read_checkpoint(note)
    return Checkpoint(origin, size, root)
