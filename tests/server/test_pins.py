"""PinService over the wire: every method, every error by its name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from recension.archive.ingest import Ingestor
from recension.archive.pins import LicenseePins
from recension.model.event import Event, Visibility
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.server.rpc.revision import DEFAULT_PAGE
from recension.store.memory import MemoryStore
from recension.v1 import pin_service_pb2 as pb
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.wire.convert import timestamp_to_proto
from recension.wire.pins import pin_from_proto, pin_to_proto
from tests.server.conftest import World
from tests.server.helpers import refused

UNTIL = parse_instant("2999-01-01")


@pytest.fixture
def stub(world: World, store: MemoryStore) -> Iterator[PinServiceStub]:
    yield PinServiceStub(world.channel)
    pins = LicenseePins(store)
    for pin in list(pins.all()):
        pins.delete(pin.name)


@pytest.fixture(scope="module")
def snapshot(world: World) -> str:
    return f"sha256:{world.archive.create_snapshot(Selector.of(['demo'])).snapshot_id.hex()}"


def create(stub: PinServiceStub, name: str, snapshot: str, until: int = UNTIL, **labels: str) -> Any:
    request = pb.CreatePinRequest(
        name=name, snapshot=snapshot, labels=labels, readable_until=timestamp_to_proto(until)
    )
    return stub.CreatePin(request)


def test_each_method(stub: PinServiceStub, snapshot: str) -> None:
    """A pin is made, found, listed, extended, deleted; its statement says what its fields say."""
    made = create(stub, "run-1", snapshot, model="m")
    assert made.created
    assert not create(stub, "run-1", snapshot, model="m").created
    pin = stub.GetPin(pb.GetPinRequest(name="run-1")).pin
    assert pin == made.pin
    assert (pin.name, pin.snapshot, dict(pin.labels)) == ("run-1", snapshot, {"model": "m"})
    assert not pin.expired
    assert pin_to_proto(pin_from_proto(pin)) == pin
    later = timestamp_to_proto(UNTIL + 1)
    longer = stub.ExtendPin(pb.ExtendPinRequest(name="run-1", readable_until=later)).pin
    assert (longer.readable_until, longer.id) == (later, pin.id)
    assert list(stub.ListPins(pb.ListPinsRequest()).pins) == [longer]
    stub.DeletePin(pb.DeletePinRequest(name="run-1"))
    assert not stub.ListPins(pb.ListPinsRequest()).pins
    stub.DeletePin(pb.DeletePinRequest(name="run-1", allow_missing=True))


def test_pages(stub: PinServiceStub, snapshot: str) -> None:
    """All pins come once, page by page; a token goes with its request alone."""
    for n in range(7):
        create(stub, f"p{n}", snapshot)
    request = pb.ListPinsRequest(page_size=3)
    names = []
    while True:
        page = stub.ListPins(request)
        names += [pin.name for pin in page.pins]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"p{n}" for n in range(7)]
    token = stub.ListPins(pb.ListPinsRequest(page_size=3)).next_page_token
    for bad in (
        pb.ListPinsRequest(page_token=token[:-1]),
        pb.ListPinsRequest(page_token="x"),
        pb.ListPinsRequest(page_token=token, snapshot=snapshot),
    ):
        assert refused(partial(stub.ListPins, bad)).reason == "INVALID_CURSOR"
    assert len(stub.ListPins(pb.ListPinsRequest(snapshot=snapshot)).pins) == 7 <= DEFAULT_PAGE
    assert not stub.ListPins(pb.ListPinsRequest(snapshot=f"sha256:{'0' * 64}")).pins


def test_a_token_is_of_one_pin(stub: PinServiceStub, snapshot: str, store: MemoryStore) -> None:
    """A list of retractions does not go on in another pin that was given the name meanwhile."""
    create(stub, "p", snapshot)
    for rev in (2, 3):
        hidden = Visibility(rev, text_hidden=True, comment_hidden=False, contributor_hidden=False)
        Ingestor(store).append("demo", [Event("demo", rev, 1_000_000, f"h{rev}", hidden)])
    request = pb.ListRetractionsRequest(pin="p", page_size=1)
    page = stub.ListRetractions(request)
    request.page_token = page.next_page_token
    rest = stub.ListRetractions(request)
    assert [2, 3] == [one.rev_id for one in (*page.entries, *rest.entries)]
    stub.DeletePin(pb.DeletePinRequest(name="p"))
    assert "PIN_NOT_FOUND" == refused(partial(stub.ListRetractions, request)).reason
    create(stub, "p", snapshot)
    assert "INVALID_CURSOR" == refused(partial(stub.ListRetractions, request)).reason


def test_errors_by_name(stub: PinServiceStub, snapshot: str, store: MemoryStore) -> None:
    """What the contract says of each error is what comes."""
    none = f"sha256:{'0' * 64}"
    create(stub, "a", snapshot)
    past = LicenseePins(store, clock=lambda: 0)
    head = store.log.head().recorded_at
    past.create("over", bytes.fromhex(snapshot[7:]), head + 1)  # its own commit is not before that
    later = timestamp_to_proto(UNTIL + 1)
    calls = {
        "SNAPSHOT_NOT_FOUND": lambda: create(stub, "b", none),
        "PIN_EXISTS": lambda: create(stub, "a", snapshot, label="x"),
        "PIN_NOT_FOUND": lambda: stub.GetPin(pb.GetPinRequest(name="none")),
        "PIN_EXPIRED": lambda: stub.GetPin(pb.GetPinRequest(name="over")),
        "INVALID_ARGUMENT": lambda: create(stub, "b", snapshot, time.time_ns() // 1000 - 1),
        "INVALID_TIME": lambda: stub.CreatePin(
            pb.CreatePinRequest(name="b", snapshot=snapshot, readable_until=Timestamp(seconds=2**40))
        ),
    }
    assert {reason: refused(call).reason for reason, call in calls.items()} == {one: one for one in calls}
    others = [
        ("PIN_EXPIRED", lambda: stub.ExtendPin(pb.ExtendPinRequest(name="over", readable_until=later))),
        ("PIN_NOT_FOUND", lambda: stub.ExtendPin(pb.ExtendPinRequest(name="none", readable_until=later))),
        ("PIN_NOT_FOUND", lambda: stub.DeletePin(pb.DeletePinRequest(name="none"))),
        ("INVALID_ARGUMENT", lambda: create(stub, "a/b", snapshot)),
        ("INVALID_ARGUMENT", lambda: create(stub, "b", "sha256:0")),
        ("INVALID_ARGUMENT", lambda: stub.ListPins(pb.ListPinsRequest(page_size=-1))),
    ]
    for reason, call in others:
        assert refused(call).reason == reason
    error = refused(calls["PIN_EXPIRED"])
    assert error.metadata["snapshot"] == snapshot
    assert [pin.expired for pin in stub.ListPins(pb.ListPinsRequest()).pins] == [False, True]


def test_without_a_time_it_is_refused(stub: PinServiceStub, snapshot: str) -> None:
    """No time is the year 1970, which is not in the future."""
    request = pb.CreatePinRequest(name="a", snapshot=snapshot)
    assert refused(lambda: stub.CreatePin(request)).metadata["field"] == "readable_until"
