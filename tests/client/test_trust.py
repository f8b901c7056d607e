"""What a licensee remembers of a server, against honest ones, a forked one and one that lies."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.ledger import Ledger
from recension.archive.pins import LicenseePins
from recension.model import errors
from recension.model.manifest import OnHidden
from recension.model.reading import ServerInfo, SigningKey
from recension.server.build import make_server
from recension.server.config import ServeConfig
from recension.server.signing import PrivateKey, Signer
from recension.store.interface import Store
from recension_client.checkpoints import check_grown, follow_keys, open_checkpoint
from recension_client.client import Client
from recension_client.trust import Inclusion, Log, Trust
from tests.archive.helpers import DAY, NOW, World, edit

NAME = "example.org/recension"


class Operated:
    """A server with a key of its own, and its operator."""

    def __init__(self, data: Path) -> None:
        data.mkdir()
        self.world = World()
        self.world.add(self.world.event(1, 1, edit(1, "x")))
        self.data = data
        self.signer = signer_of(self.world.store, data)

    @contextmanager
    def served(self) -> Iterator[Client]:
        config = ServeConfig(data=self.data, threads=4)
        server = make_server(self.world.archive, Ingestor(self.world.store), self.world.store, config)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with Client(f"127.0.0.1:{port}") as client:
            yield client
        server.stop(None).wait()


def signer_of(store: Store, data: Path) -> Signer:
    return Signer(store, Ledger(store), data / "signing.key", clock=lambda: NOW)


class Lying:
    """Says what another server says, but for some answers."""

    def __init__(self, real: Log, **answers: Any) -> None:
        self._real = real
        self._answers = answers

    def _say(self, name: str, *arguments: Any) -> Any:
        answer = self._answers.get(name)
        return answer(*arguments) if answer else getattr(self._real, name)(*arguments)

    def server_info(self) -> ServerInfo:
        info: ServerInfo = self._say("server_info")
        return info

    def checkpoint(self) -> str:
        return str(self._say("checkpoint"))

    def inclusion(self, snapshot_id: bytes, size: int) -> Inclusion:
        proof: Inclusion = self._say("inclusion", snapshot_id, size)
        return proof

    def pin_inclusion(self, name: str, size: int) -> Inclusion:
        proof: Inclusion = self._say("pin_inclusion", name, size)
        return proof

    def consistency(self, first: int, second: int) -> list[bytes]:
        return list(self._say("consistency", first, second))


@pytest.fixture
def operated(tmp_path: Path) -> Operated:
    return Operated(tmp_path / "data")


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path / "trust.json")


def test_a_server_that_only_grows_is_followed(operated: Operated, trust: Trust) -> None:
    """Over snapshots and rotations, with each look remembered, also by another process's object."""
    key = str(operated.signer.create(NAME))
    trust.begin(key)
    trust.begin(key)
    with operated.served() as client:
        sizes = [trust.refresh(client).size]
        for day in (2, 3, 4):
            wanted = operated.world.snapshot(day)
            sizes.append(trust.check_snapshot(client, wanted).size)
            operated.signer.rotate()
        operated.signer.rotate()
        sizes.append(Trust(trust._path).refresh(client).size)
        sizes.append(trust.refresh(client).size)
    assert sizes == [1, 2, 4, 6, 8, 8]


def test_a_rollback_and_a_fork_are_refused_and_change_nothing(
    operated: Operated, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older note of the same server, and a longer log of another history under the same key."""
    trust.begin(str(operated.signer.create(NAME)))
    key_file = (operated.data / "signing.key").read_bytes()
    with operated.served() as client:
        old = client.checkpoint()
        operated.world.snapshot(2)
        new = trust.refresh(client)
        kept = trust._path.read_bytes()
        with pytest.raises(errors.VerificationError, match="rolled back"):
            trust.refresh(Lying(client, checkpoint=lambda: old))
        assert trust._path.read_bytes() == kept

        fork = Operated(tmp_path / "fork")
        secret = PrivateKey.decode(key_file.decode())
        monkeypatch.setattr(PrivateKey, "new", lambda _: secret)  # an operator who has the key
        fork.signer.create(NAME)
        for day in (3, 4, 5):
            fork.world.snapshot(day)
        with fork.served() as other:
            assert int(other.checkpoint().split("\n")[1]) > new.size
            with pytest.raises(errors.VerificationError, match="forked"):
                trust.refresh(other)
            with pytest.raises(errors.VerificationError, match="forked"):
                trust.refresh(Lying(other, consistency=lambda first, second: []))
        assert trust._path.read_bytes() == kept
        assert trust.refresh(client) == new


def test_what_shows_a_fork_is_kept_beside(
    operated: Operated, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checkpoints that the trusted keys have signed and that no log has: an auditor needs no more."""
    first = str(operated.signer.create(NAME))
    trust.begin(first)
    secret = PrivateKey.decode((operated.data / "signing.key").read_text())
    with operated.served() as client:
        operated.world.snapshot(2)
        trust.refresh(client)
    assert not list(tmp_path.glob("*.evidence.json"))
    fork = Operated(tmp_path / "fork")
    with monkeypatch.context() as patch:
        patch.setattr(PrivateKey, "new", lambda _: secret)
        fork.signer.create(NAME)
    for day in (3, 4, 5):
        fork.world.snapshot(day)
    second = str(fork.signer.rotate())
    with fork.served() as other:
        with pytest.raises(errors.VerificationError, match="forked"):
            trust.refresh(other)
        with pytest.raises(errors.VerificationError, match="forked") as caught:
            trust.refresh(other)
        (beside,) = tmp_path.glob("*.evidence.json")
        assert str(beside) == caught.value.metadata["evidence"]
        assert str(beside) in caught.value.message
        shown = json.loads(beside.read_bytes())
        key = follow_keys(shown["trusted"], shown["keys"])
        assert [first, second] == [shown["trusted"], key]
        old, new = open_checkpoint(shown["remembered"], first), open_checkpoint(shown["refused"], key)
        assert [2, 5] == [old.size, new.size]
        path = [b64decode(one) for one in shown["consistency"]]
        with pytest.raises(errors.VerificationError, match="forked"):
            check_grown(old, new, path)
        beside.unlink()
        beside.with_name(f"{beside.name}.part").mkdir()  # in its way
        with pytest.raises(errors.VerificationError, match=r"forked.*cannot be kept"):
            trust.refresh(other)


def test_a_stranger_is_refused(operated: Operated, trust: Trust) -> None:
    """Another key, no key, a key that does not follow, a note that nobody signed."""
    trust.begin(str(operated.signer.create(NAME)))
    stranger = PrivateKey.new(NAME)
    with operated.served() as client:
        info = client.server_info()
        forged = SigningKey(str(stranger.verifier), "{}", 1, 0)
        note = client.checkpoint()
        lies: list[tuple[type[errors.RecensionError], Log]] = [
            (errors.VerificationError, Lying(client, server_info=lambda: replace(info, signing_keys=()))),
            (
                errors.InvalidArgumentError,
                Lying(client, server_info=lambda: replace(info, signing_keys=(*info.signing_keys, forged))),
            ),
            (errors.VerificationError, Lying(client, checkpoint=lambda: note.replace("\n1\n", "\n2\n"))),
            (errors.VerificationError, Lying(client, checkpoint=lambda: "nothing")),
        ]
        for error, log in lies:
            with pytest.raises(error):
                trust.refresh(log)
        with pytest.raises(errors.InvalidArgumentError, match="another key"):
            trust.begin(str(stranger.verifier))
        assert trust.refresh(client).size == 1


def test_a_snapshot_outside_of_the_log_is_refused(operated: Operated, trust: Trust) -> None:
    """A proof of another snapshot, of another size, and one that leads elsewhere."""
    trust.begin(str(operated.signer.create(NAME)))
    one, two = operated.world.snapshot(2), operated.world.snapshot(3, on_hidden=OnHidden.KEEP)
    assert one != two
    with operated.served() as client:
        honest = client.inclusion(one, 3)
        assert trust.check_snapshot(client, one).size == 3
        for proof in (
            client.inclusion(two, 3),
            honest._replace(size=2),
            honest._replace(leaf_index=honest.leaf_index + 1),
            honest._replace(path=honest.path[:-1]),
            honest._replace(leaf=honest.leaf + b" "),
        ):
            with pytest.raises(errors.VerificationError):
                trust.check_snapshot(Lying(client, inclusion=lambda *_, proof=proof: proof), one)
        with pytest.raises(errors.SnapshotNotFoundError):
            trust.check_snapshot(client, bytes(32))


def test_a_pin_outside_of_the_log_is_refused(operated: Operated, trust: Trust) -> None:
    """Its newest statement is a leaf of what was signed; no other pin's is, nor an older one of its own."""
    trust.begin(str(operated.signer.create(NAME)))
    wanted = operated.world.snapshot(2)
    pins = LicenseePins(operated.world.store, clock=lambda: NOW)
    pins.create("other", wanted, NOW + DAY)
    older, _ = pins.create("mine", wanted, NOW + DAY)
    with operated.served() as client:
        stale = client.pin_inclusion("mine", 4)
        assert trust.check_pin(client, older.statement).size == 4
        pins.extend("mine", NOW + 2 * DAY)
        pin = client.pin("mine")
        honest = client.pin_inclusion("mine", 5)
        for proof in (
            stale,
            client.pin_inclusion("other", 5),
            honest._replace(size=4),
            honest._replace(leaf_index=honest.leaf_index - 1),
            honest._replace(path=honest.path[:-1]),
            honest._replace(leaf=stale.leaf),
        ):
            with pytest.raises(errors.VerificationError):
                trust.check_pin(Lying(client, pin_inclusion=lambda *_, proof=proof: proof), pin.statement)
        with pytest.raises(errors.VerificationError, match="something else"):
            trust.check_pin(client, older.statement)
        assert trust.check_pin(client, pin.statement).size == 5


def test_a_server_without_a_key_says_so(operated: Operated, trust: Trust) -> None:
    """Asked directly, the error has its name; a licensee who trusts a key is told that it is not known."""
    trust.begin(str(PrivateKey.new(NAME).verifier))
    with operated.served() as client:
        with pytest.raises(errors.NoSigningKeyError):
            client.checkpoint()
        with pytest.raises(errors.VerificationError, match="does not know"):
            trust.refresh(client)


def test_a_damaged_file_is_named(operated: Operated, trust: Trust) -> None:
    """Nothing is taken from a file that is not as it was written."""
    with operated.served() as client:
        with pytest.raises(errors.InvalidArgumentError, match="does not exist"):
            trust.refresh(client)
        trust.begin(str(operated.signer.create(NAME)))
        trust.refresh(client)
        good = trust._path.read_bytes()
        for bad in (
            b"",
            b"{}",
            good[:-1],
            good + b" ",
            good.replace(b"trust/v1", b"trust/v2"),
            b"[]",
            b"\xff",
        ):
            trust._path.write_bytes(bad)
            with pytest.raises(errors.InvalidArgumentError, match="cannot be read"):
                trust.refresh(client)
        trust._path.write_bytes(good)
        assert trust.refresh(client)
