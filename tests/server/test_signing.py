"""Keys and checkpoints: what is signed, what is refused, and that a restored backup signs no fork."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recension.archive.ledger import Ledger, signing_keys
from recension.archive.pins import LicenseePins
from recension.archive.rebuild import rebuild
from recension.archive.stating import record
from recension.model import errors
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.note import checkpoint_text, read_key, signed_note
from recension.server import signing
from recension.server.main import main
from recension.server.signing import PrivateKey, Signer
from recension.store.interface import Store
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import checkpoint_service_pb2 as pb
from recension.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from recension.wire.convert import server_info_from_proto
from recension_client.checkpoints import _check_signature, check_grown, follow_keys, open_checkpoint
from recension_client.verify import check_inclusion
from tests.archive.helpers import NOW, World, edit
from tests.archive.test_check import found, put, rows
from tests.archive.test_rebuild import assert_same
from tests.server.helpers import Served, refused, serving

NAME = "example.org/recension"
VECTORS = json.loads((Path(__file__).parent.parent / "golden" / "vectors.json").read_text(encoding="utf-8"))
LATER = parse_instant("2999-01-01")


@pytest.fixture
def world() -> World:
    world = World()
    for day in range(1, 6):
        world.add(world.event(1, day, edit(day, f"text {day}")))
    return world


class Keys:
    """A signer over a store, and what it has said."""

    def __init__(self, store: Store, path: Path) -> None:
        self.store = store
        self.path = path
        self.signer = Signer(store, Ledger(store), path, clock=lambda: NOW)

    def on(self, store: Store) -> Keys:
        """Return the same key beside another store."""
        return Keys(store, self.path)

    def newest(self) -> str:
        with self.store.view() as view:
            return signing_keys(view)[-1].key

    def statements(self) -> list[str]:
        with self.store.view() as view:
            return [key.statement for key in signing_keys(view)]


@pytest.fixture
def keys(world: World, tmp_path: Path) -> Keys:
    return Keys(world.store, tmp_path / "k" / "signing.key")


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()


def copy_of(store: Store) -> MemoryStore:
    """Return a store as a backup of now would bring it back."""
    target = MemoryStore()
    rebuild(store, target)
    return target


def test_without_a_key_nothing_is_signed(keys: Keys, tmp_path: Path) -> None:
    """The error says so, and leaves nothing behind."""
    with pytest.raises(errors.NoSigningKeyError):
        keys.signer.checkpoint()
    with pytest.raises(errors.NoSigningKeyError):
        keys.signer.rotate()
    keys.signer.check()


def test_checkpoints_grow_and_are_consistent(world: World, keys: Keys) -> None:
    """Each is signed, contains what was recorded up to then, and begins with the one before."""
    world.snapshot(1)  # before there was a key
    made = keys.signer.create(NAME)
    ledger = Ledger(world.store)
    pins = LicenseePins(world.store, clock=lambda: NOW)
    before = open_checkpoint(keys.signer.checkpoint(), str(made))
    assert (before.origin, before.size) == (NAME, 2)
    position, after = 0, before
    for day in range(2, 6):
        snapshot_id = world.snapshot(day)
        pins.create(f"p{day}", snapshot_id, LATER)
        after = open_checkpoint(keys.signer.checkpoint(), str(made))
        assert after.size == before.size + 2
        check_grown(before, after, ledger.consistency(before.size, after.size)[1])
        proof = ledger.inclusion(ledger.position_of(snapshot_id), after.size)
        manifest = world.archive.snapshot(snapshot_id).encoded
        check_inclusion(manifest, proof.index, proof.size, proof.path, after.root)
        statement, position = pins.newest(f"p{day}")
        proof = ledger.inclusion(position)
        check_inclusion(statement.encoded, proof.index, proof.size, proof.path, after.root)
        before = after
    assert keys.signer.checkpoint() == keys.signer.checkpoint()
    with pytest.raises(errors.CheckpointOutOfRangeError):
        ledger.inclusion(position, after.size - 1)
    with pytest.raises(errors.CheckpointOutOfRangeError):
        ledger.consistency(1, after.size + 1)
    with pytest.raises(errors.InvalidArgumentError):
        ledger.consistency(after.size, 1)
    with pytest.raises(errors.SnapshotNotFoundError):
        ledger.position_of(bytes(32))


def test_files_are_for_their_owner_alone(keys: Keys) -> None:
    """Modes are 600 when made; a key that others may read is refused with what to do."""
    keys.signer.create(NAME)
    for path in keys.path.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    names = {path.name for path in keys.path.parent.iterdir()}
    assert names == {"signing.key", "signing.key.checkpoint", "signing.key.lock"}
    for mode in (0o640, 0o604, 0o620, 0o610):
        keys.path.chmod(mode)
        for call in (keys.signer.checkpoint, keys.signer.check, keys.signer.rotate):
            with pytest.raises(errors.SigningKeyUnusableError, match=f"its mode is {mode:o}") as caught:
                call()
            assert "chmod 600" in caught.value.hint
    keys.path.chmod(0o600)
    keys.signer.check()


def test_a_rotated_key_is_followed(world: World, keys: Keys) -> None:
    """The old key signs the new; from then on only the new one signs; whoever trusts the first follows."""
    first = str(keys.signer.create(NAME))
    before = open_checkpoint(keys.signer.checkpoint(), first)
    second = str(keys.signer.rotate())
    third = str(keys.signer.rotate())
    assert len({first, second, third}) == 3
    assert keys.newest() == third
    statements = keys.statements()
    for trusted in (first, second, third):
        assert follow_keys(trusted, statements) == third
    note = keys.signer.checkpoint()
    after = open_checkpoint(note, third)
    assert after.size == before.size + 2
    check_grown(before, after, Ledger(world.store).consistency(before.size, after.size)[1])
    with pytest.raises(errors.VerificationError, match="not signed with"):
        open_checkpoint(note, first)
    assert Keys(world.store, keys.path).signer.checkpoint() == note


def test_keys_that_do_not_follow_are_refused(keys: Keys) -> None:
    """A statement that was left out, swapped, forged or is another server's breaks the chain."""
    first = str(keys.signer.create(NAME))
    keys.signer.rotate()
    keys.signer.rotate()
    one, two, three = keys.statements()
    stranger = PrivateKey.new(NAME)
    forged = json.loads(three)
    forged["key"] = str(stranger.verifier)
    lies = {
        "does not follow": [one, three],
        "does not know": [two, three],
        "signature of": [one, two, json.dumps(forged, sort_keys=True, separators=(",", ":"))],
    }
    for said, statements in lies.items():
        with pytest.raises(errors.VerificationError, match=said):
            follow_keys(first, statements)
    with pytest.raises(errors.InvalidArgumentError):
        follow_keys(first, [one, "{}"])
    with pytest.raises(errors.InvalidArgumentError):
        follow_keys("example.org+00000000+AAAA", [one])


def test_changed_checkpoints_are_refused(keys: Keys) -> None:
    """Not one bit of a checkpoint can be another; lines of unknown keys are ignored."""
    key = str(keys.signer.create(NAME))
    note = keys.signer.checkpoint()
    raw = note.encode()
    for at in range(len(raw)):
        other = bytearray(raw)
        other[at] ^= 1
        with pytest.raises((errors.VerificationError, UnicodeDecodeError)):
            open_checkpoint(other.decode(), key)
    stranger = PrivateKey.new(NAME)
    text = note.rpartition("\n\n")[0] + "\n"
    line = signed_note(text, stranger.verifier, stranger.sign(text.encode())).rpartition("\n\n")[2]
    assert open_checkpoint(note + line, key) == open_checkpoint(note, key)
    with pytest.raises(errors.VerificationError, match="the checkpoint is of"):
        open_checkpoint(note, str(PrivateKey.new("example.org/other").verifier))


def test_the_example_of_the_specification() -> None:
    """Key id and signature are those of c2sp.org/signed-note, as another program made them."""
    key = read_key("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    encoded = "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    raw = b64decode(encoded)
    assert raw[:4] == key.id
    text = "This is an example message.\n"
    assert signed_note(text, key, raw[4:]) == f"{text}\n\u2014 example.com/foo {encoded}\n"
    _check_signature(key, raw[4:], text.encode())
    with pytest.raises(errors.VerificationError):
        _check_signature(key, raw[4:], text.encode() + b"\n")


def test_a_restored_backup_signs_no_fork(world: World, keys: Keys) -> None:
    """A store without all that was signed is refused, also once it has grown longer in another way."""
    key = str(keys.signer.create(NAME))
    backup, complete = copy_of(world.store), copy_of(world.store)
    world.snapshot(2)
    signed = keys.signer.checkpoint()
    world.snapshot(3)
    restored = keys.on(backup)
    for _ in range(4):
        with pytest.raises(errors.LogForkedError) as caught:
            restored.signer.checkpoint()
        with pytest.raises(errors.LogForkedError):
            restored.signer.rotate()
        assert "newer backup" in caught.value.hint
        world.snapshot(4)
        LicenseePins(backup, clock=lambda: NOW).create(
            f"p{_}", World.snapshot(_reopened(backup), 5 - _), LATER
        )
    assert keys.path.with_name("signing.key.checkpoint").read_text() == signed
    assert open_checkpoint(keys.signer.checkpoint(), key).size > open_checkpoint(signed, key).size
    # Control: without the last checkpoint, the same backup would have been signed for.
    keys.path.with_name("signing.key.checkpoint").write_text(
        _first_checkpoint(keys.on(complete)), encoding="utf-8"
    )
    assert open_checkpoint(keys.on(backup).signer.checkpoint(), key)


def _reopened(store: MemoryStore) -> World:
    """Return a world over a store that has its project already."""
    world = World.__new__(World)
    world.store = store
    world.archive = type(World().archive)(store, clock=lambda: NOW)
    return world


def _first_checkpoint(keys: Keys) -> str:
    checkpoint = keys.path.with_name("signing.key.checkpoint")
    checkpoint.unlink()
    keys.path.rename(keys.path.with_name("signing.key.new"))  # as if it had just been made
    return keys.signer.checkpoint()


def test_a_backup_up_to_the_last_checkpoint_goes_on(world: World, keys: Keys) -> None:
    """What was recorded but not signed for may be lost."""
    key = str(keys.signer.create(NAME))
    world.snapshot(2)
    signed = open_checkpoint(keys.signer.checkpoint(), key)
    backup = copy_of(world.store)
    world.snapshot(3)
    after = open_checkpoint(keys.on(backup).signer.checkpoint(), key)
    assert after == signed


def test_a_lost_key_is_replaced_by_name(world: World, keys: Keys) -> None:
    """Only when asked for, under another name; clients that hold the old key do not follow."""
    first = str(keys.signer.create(NAME))
    with pytest.raises(errors.SigningKeyExistsError):
        keys.signer.create("example.org/new")
    for path in keys.path.parent.iterdir():
        path.unlink()
    with pytest.raises(errors.SigningKeyUnusableError, match="missing"):
        keys.signer.checkpoint()
    with pytest.raises(errors.SigningKeyExistsError):
        keys.signer.create("example.org/new")
    with pytest.raises(errors.InvalidArgumentError):
        keys.signer.create(NAME, replace=True)
    second = str(keys.signer.create("example.org/new", replace=True))
    assert open_checkpoint(keys.signer.checkpoint(), second).size == 2
    with pytest.raises(errors.VerificationError, match="does not follow"):
        follow_keys(first, keys.statements())


def test_files_that_are_not_what_they_should_be(world: World, keys: Keys) -> None:
    """A key of another log, no key at all, a missing or damaged checkpoint: each is named."""
    keys.signer.create(NAME)
    good = keys.path.read_text()
    checkpoint = keys.path.with_name("signing.key.checkpoint")
    kept = checkpoint.read_text()

    def spoil(path: Path, text: str | None, said: str) -> None:
        before = path.read_text()
        path.unlink()
        if text is not None:
            path.write_text(text)
            path.chmod(0o600)
        with pytest.raises(errors.SigningKeyUnusableError, match=said):
            keys.signer.checkpoint()
        path.write_text(before)
        path.chmod(0o600)

    spoil(keys.path, PrivateKey.new(NAME).encode(), "the log names")
    spoil(keys.path, good[:-3], "no signing key")
    spoil(keys.path, "", "no signing key")
    spoil(keys.path, None, "missing")
    spoil(checkpoint, None, "last signed checkpoint is missing")
    spoil(checkpoint, "x", "cannot be read")
    spoil(checkpoint, kept.replace("\n1\n", "\none\n"), "cannot be read")
    assert keys.signer.checkpoint() == kept
    assert PrivateKey.decode(good).encode() == good


@pytest.mark.parametrize("what", ["create", "rotate"])
def test_a_killed_command_is_finished_by_the_next(
    world: World, keys: Keys, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended before or after any write, the key that the log names is the one that signs."""

    class EndedError(Exception):
        pass

    def ends(after: int, *, done: bool) -> Callable[..., Any]:
        left = after

        def step(*arguments: Any, _real: Callable[..., Any]) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not done:
                raise EndedError
            out = _real(*arguments)
            if left < 0:
                raise EndedError
            return out

        return step

    real_write, real_record, real_replace = Signer._write, record, Path.replace
    for done in (False, True):
        for after in range(6):
            store = copy_of(world.store)
            path = keys.path.parent / f"{what}-{done}-{after}" / "signing.key"
            path.parent.mkdir()
            one = Keys(store, path)
            if what == "rotate":
                one.signer.create(NAME)
            step = ends(after, done=done)
            monkeypatch.setattr(Signer, "_write", lambda *a, s=step: s(*a, _real=real_write))
            monkeypatch.setattr(signing, "record", lambda *a, s=step: s(*a, _real=real_record))
            monkeypatch.setattr(Path, "replace", lambda *a, s=step: s(*a, _real=real_replace))
            try:
                (one.signer.rotate if what == "rotate" else lambda one=one: one.signer.create(NAME))()
            except EndedError:
                pass
            finally:
                monkeypatch.undo()
            try:
                note = one.signer.checkpoint()
            except errors.NoSigningKeyError:
                assert what == "create"
                one.signer.create(NAME)
                note = one.signer.checkpoint()
            assert open_checkpoint(note, one.newest())
            assert follow_keys(json.loads(one.statements()[0])["key"], one.statements()) == one.newest()


def test_a_rebuilt_store_has_the_same_log(world: World, keys: Keys) -> None:
    """Keys and leaves come back row by row; lost and wrong rows are found."""
    world.snapshot(2)
    keys.signer.create(NAME)
    keys.signer.rotate()
    LicenseePins(world.store, clock=lambda: NOW).create("a", world.snapshot(3), LATER)
    assert found(world.store) == {}
    copy = copy_of(world.store)
    assert_same(world.store, copy)
    assert Ledger(copy).newest() == Ledger(world.store).newest()
    key, value = rows(world.store, b"I")[1]
    for other, kind in ((None, "row-missing"), (value[:-1] + bytes([value[-1] ^ 1]), "row-wrong")):
        put(world.store, {key: other})
        assert kind in found(world.store)
        put(world.store, {key: value})
    put(world.store, {key[:-1] + b"\1": value, b"k" + bytes(8): b"{}"})
    assert found(world.store) == {"row-orphan": 2}
    put(world.store, {key: None, key[:-1] + b"\1": None})
    with pytest.raises(errors.DataLossError):
        Ledger(world.store).newest()


# --- over the wire, and commands ----------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a project."""
    path = tmp_path / "data"
    with closing(LmdbStore.open(path, create=True, force_mount=True)) as store:
        world = World(store)
        world.add(world.event(1, 1, edit(1, "x")))
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_commands(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key is made, listed, rotated; a second one is refused; another path is taken."""
    assert run("key", "list", "--data", data) == 0
    assert "no keys yet" in capsys.readouterr().err
    assert run("key", "create", NAME, "--data", data) == 0
    first = capsys.readouterr().out.strip()
    assert (data / "signing.key").stat().st_mode & 0o777 == 0o600
    assert run("key", "create", NAME, "--data", data) == 3
    assert "error: " in capsys.readouterr().err
    assert run("key", "create", "a b", "--data", data) == 3
    assert run("key", "rotate", "--data", data, "--json") == 0
    capsys.readouterr()
    shutil.move(data / "signing.key", data.parent / "elsewhere.key")
    shutil.move(data / "signing.key.checkpoint", data.parent / "elsewhere.key.checkpoint")
    assert run("key", "rotate", "--data", data) == 3
    assert "missing" in capsys.readouterr().err
    assert run("key", "rotate", "--data", data, "--signing-key", data.parent / "elsewhere.key") == 0
    capsys.readouterr()
    assert run("key", "list", "--data", data) == 0
    assert capsys.readouterr().out.startswith(f"{first}\tleaf 0\t")
    assert run("key", "list", "--data", data, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [key["leaf_index"] for key in listed] == [0, 1, 2]
    assert run("fsck", "--data", data) == 0


def test_a_server_with_an_open_key_does_not_start(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says why before it takes a port."""
    assert run("key", "create", NAME, "--data", data) == 0
    (data / "signing.key").chmod(0o644)
    assert run("serve", "--data", data, "--listen", "127.0.0.1:0") == 3
    assert "others may read" in capsys.readouterr().err


@pytest.fixture
def served(data: Path, tmp_path: Path) -> Iterator[Served]:
    with closing(LmdbStore.open(data, force_mount=True)) as store, serving(store, data) as one:
        yield one


def test_over_the_wire(served: Served, data: Path) -> None:
    """Checkpoint, keys, inclusion and consistency, each checked by the client's side; errors by name."""
    stub = CheckpointServiceStub(served.channel)
    assert refused(lambda: stub.GetCheckpoint(pb.GetCheckpointRequest())).reason == "NO_SIGNING_KEY"
    info = server_info_from_proto(served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest()))
    assert info.signing_keys == ()
    store = served.archive._store
    Signer(store, Ledger(store), data / "signing.key").create(NAME)  # as an operator would, beside the server
    info = server_info_from_proto(served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest()))
    (key,) = info.signing_keys
    before = open_checkpoint(stub.GetCheckpoint(pb.GetCheckpointRequest()).checkpoint, key.key)
    manifest = served.archive.create_snapshot(Selector.of(["w"]))
    snapshot = f"sha256:{manifest.snapshot_id.hex()}"
    after = open_checkpoint(stub.GetCheckpoint(pb.GetCheckpointRequest()).checkpoint, key.key)
    proof = stub.GetInclusionProof(pb.GetInclusionProofRequest(snapshot=snapshot, size=after.size))
    assert proof.leaf.encode() == manifest.encoded
    check_inclusion(proof.leaf.encode(), proof.leaf_index, proof.size, list(proof.path), after.root)
    grown = stub.GetConsistencyProof(
        pb.GetConsistencyProofRequest(first_size=before.size, second_size=after.size)
    )
    check_grown(before, after, list(grown.path))
    none = f"sha256:{'0' * 64}"
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("SNAPSHOT_NOT_FOUND", lambda: stub.GetInclusionProof(pb.GetInclusionProofRequest(snapshot=none))),
        ("PIN_NOT_FOUND", lambda: stub.GetInclusionProof(pb.GetInclusionProofRequest(pin="none"))),
        ("INVALID_ARGUMENT", lambda: stub.GetInclusionProof(pb.GetInclusionProofRequest())),
        (
            "INVALID_ARGUMENT",
            lambda: stub.GetInclusionProof(pb.GetInclusionProofRequest(snapshot=snapshot, size=-1)),
        ),
        (
            "CHECKPOINT_OUT_OF_RANGE",
            lambda: stub.GetInclusionProof(pb.GetInclusionProofRequest(snapshot=snapshot, size=1)),
        ),
        ("INVALID_ARGUMENT", lambda: stub.GetConsistencyProof(pb.GetConsistencyProofRequest())),
        (
            "CHECKPOINT_OUT_OF_RANGE",
            lambda: stub.GetConsistencyProof(pb.GetConsistencyProofRequest(first_size=99)),
        ),
    ]
    for reason, call in calls:
        assert refused(call).reason == reason
    (data / "signing.key").chmod(0o644)
    assert refused(lambda: stub.GetCheckpoint(pb.GetCheckpointRequest())).reason == "SIGNING_KEY_UNUSABLE"


def test_a_rollback_and_a_fork_are_named_by_the_client(world: World, keys: Keys) -> None:
    """A smaller log, one that goes another way, and one of another name."""
    key = str(keys.signer.create(NAME))
    old = open_checkpoint(keys.signer.checkpoint(), key)
    world.snapshot(2)
    new = open_checkpoint(keys.signer.checkpoint(), key)
    path = Ledger(world.store).consistency(old.size, new.size)[1]
    check_grown(old, new, path)
    with pytest.raises(errors.VerificationError, match="rolled back"):
        check_grown(new, old, path)
    for other in (old._replace(root=bytes(32)), new._replace(size=old.size)):
        with pytest.raises(errors.VerificationError, match="forked"):
            check_grown(other, new if other.size == old.size else old, path)
    with pytest.raises(errors.VerificationError, match="different logs"):
        check_grown(old._replace(origin="x"), new, path)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS["checkpoints"]])
def test_golden_checkpoints(case: dict[str, Any]) -> None:
    """A fixed key signs a fixed tree with fixed bytes."""
    given = case["in"]
    key = PrivateKey(given["key_name"], bytes.fromhex(given["seed"]))
    root = bytes.fromhex(given["root"])
    text = checkpoint_text(given["key_name"], int(given["size"]), root)
    note = signed_note(text, key.verifier, key.sign(text.encode()))
    assert case["out"] == {"key": str(key.verifier), "note": note}
    assert open_checkpoint(note, str(key.verifier)) == (given["key_name"], int(given["size"]), root)
