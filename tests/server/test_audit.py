"""The audit log on a real server: what is recorded, in which order, and what happens when it can't be."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.agreements import Agreements
from recension.archive.keyring import Keyring
from recension.archive.ledger import Ledger
from recension.archive.pins import LicenseePins
from recension.model import errors
from recension.model.access import Role, Secret
from recension.model.audit import Call, Record
from recension.model.merkle import Frontier, leaf_hash
from recension.model.note import read_key
from recension.server import logs
from recension.server.audit import writer
from recension.server.audit.writer import Audit
from recension.server.pepper import Pepper
from recension.server.signing import Signer, signed_by
from recension.store.auditing import AuditHead, Change
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import admin_service_pb2 as admin_pb
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1.admin_service_pb2_grpc import AdminServiceStub
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.wire.convert import timestamp_to_proto
from recension.wire.status import error_of
from tests.server.helpers import (
    PAGE_BYTES,
    PAGES,
    PATIENCE_SECONDS,
    Served,
    agree,
    fill,
    refused,
    serving,
    until,
)
from tests.server.test_door import LATER, shown


class World:
    """A server whose callers have keys, and its audit log."""

    def __init__(self, served: Served, store: MemoryStore, data: Path, snapshot: str) -> None:
        self.served = served
        self.store = store
        self.snapshot = snapshot
        self.data = data
        self.keyring = Keyring(store, Pepper(data / PEPPER_FILE))
        self.revision = RevisionServiceStub(served.channel)
        self.log = served.service.audit.log

    def key(self, owner: str, role: Role = Role.LICENSEE) -> Secret:
        if role is Role.LICENSEE:
            agree(self.store, owner)
        return self.keyring.make(owner, role, LATER)

    def article(self, key: Secret, title: str = "Page 1") -> Any:
        request = revision_pb.GetArticleRequest(project="demo", title=title)
        return self.revision.GetArticle(request, metadata=shown(key))

    def calls(self, count: int) -> list[Record]:
        """Return the records of calls, once there are as many."""
        found: list[Record] = []

        def is_there() -> bool:
            found[:] = [one for one in self.log.records() if one.get("kind") == "call"]
            return len(found) >= count

        until(lambda: self.log.env.exists() and is_there())
        assert len(found) == count
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = MemoryStore()
    snapshot = fill(store)
    Pepper(tmp_path / PEPPER_FILE).make()
    with serving(store, tmp_path) as served:
        yield World(served, store, tmp_path, snapshot)
        served.service.audit.stop()


def test_a_record_tells_what_was_delivered(world: World) -> None:
    """Who asked what, by which key, and what they were told; of what is absent as of what is there."""
    key = world.key("acme")
    world.article(key)
    assert isinstance(refused(partial(world.article, key, "Nothing")), errors.PageNotFoundError)
    answered, absent = world.calls(2)
    assert {name: answered.fields[name] for name in answered.fields if name not in _OF_THE_MOMENT} == {
        "format": "recension/audit/v1",
        "kind": "call",
        "caller": "acme",
        "role": "licensee",
        "key": key.id.hex(),
        "agreement": agree(world.store, "acme").name,
        "method": "RevisionService/GetArticle",
        "project": "demo",
        "messages": 1,
        "outcome": "OK",
    }
    assert answered.number("bytes") > 400_000
    assert (absent.get("outcome"), absent.get("reason")) == ("NOT_FOUND", "PAGE_NOT_FOUND")
    assert absent.number("bytes") == 0


def test_the_log_knows_what_the_caller_is_not_told(world: World) -> None:
    """What is forbidden and what is absent look the same from outside, and are told apart here."""
    key = world.key("acme")
    version = agree(world.store, "acme", {"projects": ["demo"], "namespaces": [4], "freshness": "realtime"})
    told = [refused(partial(world.article, key, title)) for title in ("Page 1", "Nothing")]
    assert {type(error) for error in told} == {errors.PageNotFoundError}
    forbidden, absent = world.calls(2)
    assert (forbidden.get("reason"), absent.get("reason")) == ("PAGE_NOT_FOUND", "PAGE_NOT_FOUND")
    assert (forbidden.get("true_reason"), absent.get("true_reason")) == ("namespace", "absent")
    assert {forbidden.get("agreement"), absent.get("agreement")} == {version.name}
    assert forbidden.number("articles") == forbidden.number("text_bytes") == 0


def test_every_record_of_a_licensee_names_its_agreement(world: World) -> None:
    """Also where no text is asked for, and where a limit refuses the call before anything is looked up."""
    key = world.key("acme")
    version = agree(world.store, "acme", rates={"concurrent_streams": 1})
    pins = PinServiceStub(world.served.channel)
    pins.ListPins(pin_pb.ListPinsRequest(), metadata=shown(key))
    stream = world.served.read(world.snapshot, metadata=shown(key))
    next(stream)
    second = world.served.read(world.snapshot, metadata=shown(key))
    assert isinstance(refused(partial(next, second)), errors.StreamsExhaustedError)
    listed, limited = world.calls(2)
    assert (limited.get("reason"), listed.get("outcome")) == ("STREAMS_EXHAUSTED", "OK")
    assert {version.name} == {listed.get("agreement"), limited.get("agreement")}
    stream.cancel()
    world.calls(3)
    Agreements(world.store).end("acme")
    pins.ListPins(pin_pb.ListPinsRequest(), metadata=shown(key))
    assert not world.calls(4)[-1].get("agreement")


def test_texts_are_counted_as_they_leave(world: World) -> None:
    """Articles and the bytes of their texts, of a question and of a stream that is read to its end."""
    key = world.key("acme")
    agree(world.store, "acme")
    world.article(key)
    for _ in world.served.read(world.snapshot, metadata=shown(key)):
        pass
    one, all_ = world.calls(2)
    assert (one.number("articles"), one.number("text_bytes")) == (1, PAGE_BYTES + 2)
    assert all_.number("articles") == PAGES
    assert all_.number("text_bytes") == sum(PAGE_BYTES + len(f"{page} ") for page in range(1, PAGES + 1))


_OF_THE_MOMENT = ("bytes", "duration_us", "ended_at", "index", "request", "articles", "text_bytes")


def test_a_stream_that_is_left_tells_what_was_taken(world: World) -> None:
    """The record is written when it is over, with what gRPC took of it, and with the snapshot."""
    key = world.key("acme")
    stream = world.served.read(world.snapshot, metadata=shown(key))
    next(stream)
    stream.cancel()
    (left,) = world.calls(1)
    whole = list(world.served.read(world.snapshot, metadata=shown(key)))
    _, read = world.calls(2)
    assert (left.get("outcome"), read.get("outcome")) == ("CANCELLED", "OK")
    assert left.get("snapshot") == read.get("snapshot") == world.snapshot
    assert 0 < left.number("messages") < read.number("messages") == len(whole)
    assert left.number("bytes") < read.number("bytes") == sum(one.ByteSize() for one in whole)


def test_refusals_for_a_role_name_the_caller(world: World) -> None:
    """A caller who is known is recorded by name; strangers are counted, and recorded together."""
    key = world.key("jane", Role.AUDITOR)
    assert isinstance(refused(partial(world.article, key)), errors.PermissionDeniedError)
    assert isinstance(refused(partial(world.article, Secret.new())), errors.UnauthenticatedError)
    assert isinstance(refused(partial(world.article, Secret.new())), errors.UnauthenticatedError)
    (denied,) = world.calls(1)
    assert (denied.get("caller"), denied.get("outcome")) == ("jane", "PERMISSION_DENIED")
    world.served.service.audit.stop()
    (strangers,) = [one for one in world.log.records() if one.get("kind") == "strangers"]
    assert strangers.number("count") == 2


def test_without_keys_nothing_is_recorded(world: World) -> None:
    """Where nobody is told from others there is nobody to tell of, and no log is made."""
    world.served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest())
    world.served.service.audit.stop()
    assert not (world.data / "audit").exists()


def test_statements_are_taken_over_once_and_in_order(world: World) -> None:
    """Keys and pins, behind each other and before the calls that follow, whoever appends at the same time."""
    world.keyring.make("acme", Role.LICENSEE, LATER)
    pins = LicenseePins(world.store, "acme")
    snapshot = bytes.fromhex(world.snapshot.removeprefix("sha256:"))
    for number in range(5):
        pins.create(f"p{number}", snapshot, LATER)
    pins.extend("p0", LATER + 1)
    pins.delete("p1")
    threads = [threading.Thread(target=world.log.append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    names = "statement", "licensee", "pin", "first", "ended"
    told = [tuple(one.fields.get(name) for name in names) for one in world.log.records()]
    assert told == [
        ("api-key", "acme", None, True, None),
        *(("pin", "acme", f"p{number}", True, None) for number in range(5)),
        ("pin", "acme", "p0", None, None),
        ("pin", "acme", "p1", None, True),
    ]
    positions = [one.number("position") for one in world.log.records()]
    assert positions == sorted(set(positions))


def test_nothing_secret_is_recorded(world: World) -> None:
    """No text, no title, no key: neither what is stored, nor what a caller sends in any field of any kind."""
    key = world.key("acme")
    world.article(key)
    assert isinstance(refused(partial(world.article, key, "CanaryTitle")), errors.PageNotFoundError)
    list(world.served.read(world.snapshot, metadata=shown(key)))
    assert isinstance(refused(partial(world.article, Secret.new())), errors.UnauthenticatedError)
    world.calls(3)
    world.served.service.audit.stop()
    world.log.env.close()
    files = [path for path in (world.data / "audit").rglob("*") if path.is_file()]
    held = b"".join(path.read_bytes() for path in files)
    for canary in (b"xxxxxxxx", b"Page 1", b"CanaryTitle", key.secret, key.secret.hex().encode()):
        assert canary not in held
    assert key.id.hex().encode() in held


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_cannot_be_recorded_is_not_delivered(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Licensees are refused by name, operators are not; once it works again each call is there, once.

    That it cannot be written is known before it is tried, or not: then it is unknown what is there.
    """
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.01)
    env, update, failing = world.log.env, world.log.env.update, threading.Event()

    def fail(make: Callable[[AuditHead], Change | None]) -> AuditHead:
        if failing.is_set() and when == "before":
            raise errors.AuditUnusableError(f"no room in {world.data}")
        head = update(make)
        if failing.is_set():
            raise errors.AuditUnusableError(f"{world.data}: it is unknown whether that was stored")
        return head

    monkeypatch.setattr(env, "update", fail)
    key, operator = world.key("acme"), world.key("jane", Role.OPERATOR)
    world.article(key)
    failing.set()
    said: list[errors.RecensionError | None] = []
    until(
        lambda: isinstance(said[-1], errors.AuditUnusableError),
        lambda: said.append(_outcome(partial(world.article, key))),
    )
    assert said[-1] is not None
    assert str(world.data) not in said[-1].message
    world.article(operator)
    failing.clear()
    until(lambda: _outcome(partial(world.article, key)) is None)
    world.served.service.audit.stop()
    calls = [one for one in world.log.records() if one.get("kind") == "call"]
    assert len({one.get("request") for one in calls}) == len(calls)
    callers = [one.get("caller") for one in calls]
    assert callers.count("jane") == 1
    assert callers.count("acme") >= 3


def test_a_stream_ends_when_it_cannot_be_recorded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was under way is ended by name; its record is kept, and told in the server's log at the end."""
    key = world.key("acme")
    said = StringIO()
    logs.configure(said)
    audit = world.served.service.audit
    stream = world.served.read(world.snapshot, metadata=shown(key))
    next(stream)

    def fail(make: Callable[[AuditHead], Change | None]) -> AuditHead:
        raise errors.AuditUnusableError("no room")

    monkeypatch.setattr(world.log.env, "update", fail)
    audit.append(Call(1, "r1", "acme", "licensee", "", "m", "OK", 1, project="é\ud800" + "x" * 999))
    until(lambda: isinstance(_outcome(partial(world.article, key)), errors.AuditUnusableError))
    assert isinstance(refused(lambda: list(stream)), errors.AuditUnusableError)
    audit.stop()

    def unwritten() -> list[dict[str, Any]]:
        lines = map(json.loads, said.getvalue().splitlines())
        return [one for one in lines if one["event"] == logs.AUDIT_UNWRITTEN]

    until(lambda: any(one["method"] == "SnapshotService/ReadSnapshot" for one in unwritten()))
    assert "r1" in {one["request"] for one in unwritten()}


def test_a_call_waits_while_no_place_is_free(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded: a call is let in when there is a place for its record, and none is dropped."""
    monkeypatch.setattr(writer, "WAIT_SECONDS", 0.01)
    env = world.log.env
    update, going = env.update, threading.Event()

    def wait(make: Callable[[AuditHead], Change | None]) -> AuditHead:
        assert going.wait(PATIENCE_SECONDS)
        return update(make)

    env.make()
    monkeypatch.setattr(env, "update", wait)
    audit = Audit(world.log, NoCheckpoints(), places=3)
    monkeypatch.setattr(audit, "_turn", lambda: True)
    assert all(audit.admit(Role.LICENSEE) for _ in range(3))
    with pytest.raises(errors.OverloadedError):
        audit.admit(Role.LICENSEE)
    monkeypatch.undo()
    going.set()
    for number in range(3):
        audit.append(Call(1, f"r{number}", "acme", "licensee", "", "m", "OK", 1))
    assert audit.admit(Role.LICENSEE)
    audit.stop()
    assert [one.get("request") for one in world.log.records()] == ["r0", "r1", "r2"]


class NoCheckpoints:
    """Signs nothing."""

    def sign(self) -> object:
        raise errors.NoSigningKeyError("no key")

    def signed_at(self) -> int:
        return 0


def _outcome(call: Callable[[], Any]) -> errors.RecensionError | None:
    try:
        call()
    except grpc.RpcError as error:
        return error_of(error)
    return None


def test_an_auditor_reads_the_log(world: World) -> None:
    """Page by page, filtered or all of it, with a signed checkpoint of exactly that; a licensee may not."""
    operator, auditor, licensee = (
        world.key(role.value, role) for role in (Role.OPERATOR, Role.AUDITOR, Role.LICENSEE)
    )
    for _ in range(5):
        world.article(operator)
    world.calls(5)
    admin = AdminServiceStub(world.served.channel)
    with pytest.raises(grpc.RpcError) as caught:
        admin.GetAuditCheckpoint(admin_pb.GetAuditCheckpointRequest(), metadata=shown(auditor))
    assert isinstance(error_of(caught.value), errors.NoSigningKeyError)
    signer = Signer(world.store, Ledger(world.store), world.data / "signing.key")
    key = signer.create("example.org/w")

    def listed(**wanted: Any) -> list[admin_pb.AuditRecord]:
        found: list[admin_pb.AuditRecord] = []
        request = admin_pb.ListAuditRecordsRequest(page_size=2, **wanted)
        while True:
            answer = admin.ListAuditRecords(request, metadata=shown(auditor))
            assert len(answer.records) <= 2
            found += answer.records
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    mine = listed(licensee="operator", method="GetArticle", outcome="OK")
    assert len(mine) == 5
    assert listed(until=timestamp_to_proto(0)) == []
    assert len(listed(since=timestamp_to_proto(1), licensee="operator", method="GetArticle")) == 5
    signed = admin.GetAuditCheckpoint(admin_pb.GetAuditCheckpointRequest(), metadata=shown(auditor))
    origin, size, root = signed_by([read_key(signed.key)], signed.checkpoint)
    assert (origin, read_key(signed.key).public) == ("example.org/w/audit", key.public)
    tree = Frontier()
    for record in listed()[:size]:
        assert record.index == tree.size
        tree.append(leaf_hash(record.document.encode()))
    assert (tree.size, tree.root()) == (size, root)
    for call in (
        partial(admin.ListAuditRecords, admin_pb.ListAuditRecordsRequest()),
        partial(admin.GetAuditCheckpoint, admin_pb.GetAuditCheckpointRequest()),
    ):
        assert isinstance(refused(partial(call, metadata=shown(licensee))), errors.PermissionDeniedError)
    wrong = admin_pb.ListAuditRecordsRequest(page_token="x")
    assert isinstance(
        refused(lambda: admin.ListAuditRecords(wrong, metadata=shown(auditor))), errors.InvalidCursorError
    )
