"""Who may call what, on a real server: without keys everyone, with keys their owners by their roles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from recension.archive.keyring import Keyring
from recension.model import errors
from recension.model.access import Role, Secret
from recension.model.digest import format_digest
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.reading import Entry
from recension.server import door, logs
from recension.server.build import SERVICES
from recension.server.licensed import Licensed
from recension.server.pepper import Pepper
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import ingest_service_pb2 as ingest_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.wire.convert import timestamp_to_proto
from recension.wire.status import error_of
from tests.server.helpers import PATIENCE_SECONDS, Served, agree, fill, refused, serving, until

LATER = parse_instant("2999-01-01")


class Keyed:
    """A server, its keys, and the metadata that shows one."""

    def __init__(self, served: Served, keyring: Keyring) -> None:
        self.served = served
        self.keyring = keyring

    def key(self, owner: str, role: Role = Role.LICENSEE) -> Secret:
        if role is Role.LICENSEE:
            agree(self.keyring._store, owner)
        return self.keyring.make(owner, role, LATER)


def shown(key: Secret | str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call with a key."""
    return (("authorization", f"Bearer {key.written if isinstance(key, Secret) else key}"),)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    """A server over a store of its own, for keys stay for ever."""
    store = MemoryStore()
    fill(store)
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    with serving(store, tmp_path) as served:
        yield Keyed(served, Keyring(store, pepper))


def info(keyed: Keyed, metadata: Any = ()) -> Any:
    return keyed.served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), metadata=metadata)


def test_every_method_has_its_roles() -> None:
    """A method that is added is for nobody until someone says for whom."""
    pool: Any = descriptor_pool.Default()  # type: ignore[no-untyped-call]
    services = [pool.FindServiceByName(name) for name in SERVICES]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert methods == set(door.ROLES)


def test_without_keys_everyone_is_the_operator(keyed: Keyed) -> None:
    """On loopback, as long as no key was ever made; what a call shows does not matter then."""
    assert info(keyed).version
    assert info(keyed, shown("anything")).version


def test_from_the_first_key_on_nobody_else(keyed: Keyed) -> None:
    """No key, half a one, two: the same answer, before a request is read."""
    good = keyed.key("acme")
    assert info(keyed, shown(good)).version
    assert info(keyed, (("authorization", f"BEARER {good.written} "),)).version
    expired = keyed.keyring.make("acme", Role.LICENSEE, LATER)
    keyed.keyring.revoke(expired.id)
    wrong = [
        (),
        shown(""),
        shown(good.written[:-1]),
        shown(Secret.new()),
        shown(Secret(good.id, bytes(32))),
        shown(expired),
        shown(good) + shown(good),
        (("authorization", good.written),),
        (("authorization", f"Basic {good.written}"),),
    ]
    said = {
        (type(error), error.message, error.hint, tuple(error.metadata))
        for error in (refused(partial(info, keyed, metadata)) for metadata in wrong)
    }
    assert [errors.UnauthenticatedError] == [each[0] for each in said]
    raw: Any = keyed.served.channel.unary_unary("/recension.v1.CatalogService/GetServerInfo")
    assert isinstance(refused(lambda: raw(b"\xff\xff")), errors.UnauthenticatedError)
    stream = keyed.served.read("sha256:" + "0" * 64)
    assert isinstance(refused(lambda: next(stream)), errors.UnauthenticatedError)


def test_health_is_for_everyone(keyed: Keyed) -> None:
    """Who watches a server holds no key."""
    keyed.key("acme")
    stub = health_pb2_grpc.HealthStub(keyed.served.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("role", Role)
def test_each_method_for_each_role(keyed: Keyed, role: Role) -> None:
    """What the table says is what happens: denied by name, or something else."""
    key = keyed.key("someone", role)
    pool: Any = descriptor_pool.Default()  # type: ignore[no-untyped-call]
    for method, roles in door.ROLES.items():
        service, _, name = method[1:].rpartition("/")
        described = pool.FindServiceByName(service).methods_by_name[name]
        request = GetMessageClass(described.input_type)()
        call: Any = keyed.served.channel.stream_stream(method)
        try:
            list(call(iter([request.SerializeToString()]), metadata=shown(key), timeout=PATIENCE_SECONDS))
            denied = False
        except grpc.RpcError as error:
            denied = isinstance(error_of(error), errors.PermissionDeniedError)
        assert denied is (role not in roles), method


def test_pins_are_their_owners(keyed: Keyed) -> None:
    """What one licensee pins does not exist for another, and names may be the same."""
    acme, other = keyed.key("acme"), keyed.key("other")
    manifest = next(keyed.served.archive.snapshots())
    stub = PinServiceStub(keyed.served.channel)
    request = pin_pb.CreatePinRequest(
        name="run", snapshot=f"sha256:{manifest.snapshot_id.hex()}", readable_until=timestamp_to_proto(LATER)
    )
    mine = stub.CreatePin(request, metadata=shown(acme)).pin
    absent = refused(lambda: stub.GetPin(pin_pb.GetPinRequest(name="run"), metadata=shown(other)))
    never = refused(lambda: stub.GetPin(pin_pb.GetPinRequest(name="none"), metadata=shown(other)))
    assert (type(absent), absent.hint) == (type(never), never.hint)
    assert isinstance(absent, errors.PinNotFoundError)
    assert not stub.ListPins(pin_pb.ListPinsRequest(), metadata=shown(other)).pins
    theirs = stub.CreatePin(request, metadata=shown(other)).pin
    assert mine.id != theirs.id
    stub.DeletePin(pin_pb.DeletePinRequest(name="run"), metadata=shown(other))
    assert stub.GetPin(pin_pb.GetPinRequest(name="run"), metadata=shown(acme)).pin == mine
    second = keyed.key("acme")
    assert stub.GetPin(pin_pb.GetPinRequest(name="run"), metadata=shown(second)).pin == mine


def test_a_key_is_revoked_in_an_open_stream(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent already arrives; then the stream ends with the reason."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    manifest = next(keyed.served.archive.snapshots())
    key = keyed.key("acme")
    stream = keyed.served.read(f"sha256:{manifest.snapshot_id.hex()}", metadata=shown(key))
    next(stream)
    keyed.keyring.revoke(key.id)
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    assert isinstance(error_of(caught.value), errors.UnauthenticatedError)
    until(keyed.served.idle)


def test_an_open_stream_of_a_good_key_goes_on(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the one before: another's key is revoked, and the stream ends whole."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    manifest = next(keyed.served.archive.snapshots())
    key, others = keyed.key("acme"), keyed.key("other")
    stream = keyed.served.read(f"sha256:{manifest.snapshot_id.hex()}", metadata=shown(key))
    next(stream)
    keyed.keyring.revoke(others.id)
    last = snapshot_pb.ReadSnapshotResponse()
    for message in stream:
        last = message
    assert last.end.complete


def test_a_silent_append_ends_too(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator whose key is revoked while nothing is sent holds no stream."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    key = keyed.key("jane", Role.OPERATOR)

    ended: list[bool] = []

    def requests() -> Iterator[ingest_pb.AppendRequest]:
        until(lambda: ended)
        yield from ()

    stream = keyed.served.ingest.Append(requests(), metadata=shown(key), timeout=PATIENCE_SECONDS)
    keyed.keyring.revoke(key.id)
    try:
        assert isinstance(refused(lambda: next(stream)), errors.UnauthenticatedError)
    finally:
        ended.append(True)


def test_no_secret_in_the_log(keyed: Keyed) -> None:
    """The line of a call names the owner and the key's id, and nothing of the secret."""
    key = keyed.key("acme")
    out = StringIO()
    logs.configure(out)
    try:
        info(keyed, shown(key))
        refused(lambda: info(keyed, shown(key.written[:-1] + "x")))
        until(lambda: out.getvalue().count('"event": "request"') >= 2)
    finally:
        logs.configure()
    lines = [json.loads(line) for line in out.getvalue().splitlines() if '"event": "request"' in line]
    assert ("acme", key.id.hex()) == (lines[0]["caller"], lines[0]["key"])
    assert "caller" not in lines[1]
    assert key.secret.hex() not in out.getvalue()
    assert key.written[21:60] not in out.getvalue()


@pytest.mark.parametrize("fault", ["missing", "short", "open to others"])
def test_a_pepper_that_cannot_be_used(keyed: Keyed, tmp_path: Path, fault: str) -> None:
    """Nobody comes in; a client is not told where the file is."""
    key = keyed.key("acme")
    path = tmp_path / PEPPER_FILE
    if fault == "missing":
        path.unlink()
    elif fault == "short":
        path.write_text("00\n")
    else:
        path.chmod(0o644)
    error = refused(lambda: info(keyed, shown(key)))
    assert isinstance(error, errors.PepperUnusableError)
    assert str(tmp_path) not in error.message + error.hint
    with pytest.raises(errors.PepperUnusableError, match=PEPPER_FILE):
        Pepper(path)()


def test_a_pepper_is_made_once(tmp_path: Path) -> None:
    """Readable by its owner alone, and never replaced."""
    pepper = Pepper(tmp_path / "p")
    pepper.make()
    before = (tmp_path / "p").read_bytes()
    Pepper(tmp_path / "p").make()
    assert before == (tmp_path / "p").read_bytes()
    assert 0o600 == (tmp_path / "p").stat().st_mode & 0o777
    with pytest.raises(errors.PepperUnusableError, match="cannot be"):
        Pepper(tmp_path / "none" / "p").make()


def test_who_calls_is_known_in_streams_too(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every item of a stream, and not to the next call of the same thread."""
    seen: list[str] = []
    plain = Licensed.read

    def spied(*arguments: Any, **named: Any) -> Iterator[Entry]:
        seen.append(door.caller().owner)
        for entry in plain(*arguments, **named):
            seen.append(door.caller().owner)
            yield entry

    monkeypatch.setattr(Licensed, "read", spied)
    keys = {owner: keyed.key(owner) for owner in ("acme", "initech")}
    made = keyed.served.archive.create_snapshot(Selector.of(["demo"]))
    snapshot = format_digest(made.snapshot_id)
    for owner, key in keys.items():
        seen.clear()
        assert list(keyed.served.read(snapshot, metadata=shown(key)))
        assert set(seen) == {owner}
        assert len(seen) > 1


def test_a_key_shown_to_a_store_without_keys(tmp_path: Path) -> None:
    """It matters to nobody, and there is no pepper yet that it could be looked at with."""
    store = MemoryStore()
    fill(store)
    with serving(store, tmp_path) as served:
        assert served.catalog.GetServerInfo(
            catalog_pb.GetServerInfoRequest(), metadata=shown(Secret.new())
        ).version
        assert not (tmp_path / PEPPER_FILE).exists()
