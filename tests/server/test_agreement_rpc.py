"""AdminService and AgreementService on a real server: who says, who reads, and who sees what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recension.archive.keyring import Keyring
from recension.archive.pins import LicenseePins
from recension.model import errors
from recension.model.access import Role
from recension.model.agreement import Standing
from recension.model.digest import format_digest, parse_digest
from recension.model.event import Presence
from recension.model.instant import parse_instant
from recension.model.pin import read_pin
from recension.server.pepper import Pepper
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import admin_service_pb2 as pb
from recension.v1 import agreement_service_pb2 as own_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.admin_service_pb2_grpc import AdminServiceStub
from recension.v1.agreement_service_pb2_grpc import AgreementServiceStub
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.wire.agreements import TRAILER, agreement_from_proto
from recension.wire.convert import timestamp_to_proto
from tests.server.helpers import Served, fill, refused, serving
from tests.server.test_door import shown

LATER = parse_instant("2999-01-01")
DOCUMENT = {"grants": [{"projects": ["demo"], "freshness": "realtime"}], "valid_from": "2020-01-01"}


class World:
    """A server with an operator, an auditor and two licensees, and what each shows."""

    def __init__(self, served: Served, store: MemoryStore, keyring: Keyring) -> None:
        self.served = served
        self.store = store
        self.snapshot_id = next(served.archive.snapshots()).snapshot_id
        self.admin = AdminServiceStub(served.channel)
        self.own = AgreementServiceStub(served.channel)
        self.pins = PinServiceStub(served.channel)
        self.operator = shown(keyring.make("jane", Role.OPERATOR, LATER))
        self.auditor = shown(keyring.make("audit", Role.AUDITOR, LATER))
        self.acme = shown(keyring.make("acme", Role.LICENSEE, LATER))
        self.other = shown(keyring.make("other", Role.LICENSEE, LATER))

    def licensee(self, name: str = "acme", *, replace: bool = False, **fields: Any) -> pb.AddLicenseeResponse:
        """Add a licensee."""
        request = pb.AddLicenseeRequest(licensee=pb.Licensee(name=name, **fields), replace=replace)
        return self.admin.AddLicensee(request, metadata=self.operator)

    def agree(self, licensee: str = "acme", **fields: Any) -> pb.AddAgreementResponse:
        """Add a version."""
        document = json.dumps(DOCUMENT | fields)
        return self.admin.AddAgreement(
            pb.AddAgreementRequest(licensee=licensee, document=document), metadata=self.operator
        )

    def seen(self, who: Any, version: str = "") -> own_pb.GetOwnAgreementResponse:
        """Ask for one's own."""
        return self.own.GetOwnAgreement(own_pb.GetOwnAgreementRequest(version=version), metadata=who)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A server over a store of its own."""
    store = MemoryStore()
    fill(store)
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    with serving(store, tmp_path) as served:
        yield World(served, store, Keyring(store, pepper))


def test_licensees_by_rpc(world: World) -> None:
    """Added, said anew, listed by pages, ended."""
    first = world.licensee(display_name="Acme Ltd", certificate_names=["URI:b", "DNS:a"], jwt_subject="s")
    assert first.added
    assert ["DNS:a", "URI:b"] == list(first.licensee.certificate_names)
    again = world.licensee(display_name="Acme Ltd", certificate_names=["DNS:a", "URI:b"], jwt_subject="s")
    assert (False, first.licensee) == (again.added, again.licensee)
    assert isinstance(refused(lambda: world.licensee(contact="c")), errors.LicenseeExistsError)
    assert "c" == world.licensee(contact="c", replace=True).licensee.contact
    for name in ("bbb", "aaa"):
        world.licensee(name)
    names, token = [], ""
    while True:
        request = pb.ListLicenseesRequest(page_size=2, page_token=token)
        page = world.admin.ListLicensees(request, metadata=world.auditor)
        names += [one.name for one in page.licensees]
        token = page.next_page_token
        if not token:
            break
    assert ["aaa", "acme", "bbb"] == names
    ended = world.admin.EndLicensee(pb.EndLicenseeRequest(name="acme"), metadata=world.operator)
    assert ended.licensee.ended
    assert (
        ended.licensee
        == world.admin.GetLicensee(pb.GetLicenseeRequest(name="acme"), metadata=world.auditor).licensee
    )
    assert isinstance(refused(world.agree), errors.LicenseeEndedError)
    for bad in ({"name": "A"}, {"name": "a", "display_name": "\u202e"}):
        assert isinstance(refused(lambda fields=bad: world.licensee(**fields)), errors.InvalidArgumentError)  # type: ignore[misc]


def test_agreements_by_rpc(world: World) -> None:
    """Added, found by number and digest, listed by pages, ended; faults name their place."""
    assert isinstance(refused(world.agree), errors.LicenseeNotFoundError)
    world.licensee()
    first = world.agree()
    assert (True, 1, own_pb.STANDING_IN_FORCE) == (
        first.added,
        first.agreement.ordinal,
        first.agreement.standing,
    )
    assert (False, first.agreement) == (world.agree().added, world.agree().agreement)
    assert {**DOCUMENT, "licensee": "acme", "valid_from": "2020-01-01T00:00:00Z"} | {
        "format": "recension/agreement/v1"
    } == json.loads(first.agreement.document)
    second = world.agree(pin_retention_days=7).agreement
    world.agree(valid_from="2990-01-01")

    def get(version: str) -> own_pb.Agreement:
        request = pb.GetAgreementRequest(licensee="acme", version=version)
        found: own_pb.Agreement = world.admin.GetAgreement(request, metadata=world.auditor).agreement
        return found

    assert own_pb.STANDING_REPLACED == get("1").standing == get(first.agreement.version).standing
    assert second == get("2")
    assert own_pb.STANDING_TO_COME == get("").standing
    assert isinstance(refused(lambda: get("9")), errors.AgreementNotFoundError)

    ordinals, token = [], ""
    while True:
        listing = pb.ListAgreementsRequest(licensee="acme", page_size=2, page_token=token)
        page = world.admin.ListAgreements(listing, metadata=world.auditor)
        ordinals += [agreement_from_proto(one).version.ordinal for one in page.agreements]
        token = page.next_page_token
        if not token:
            break
    assert [1, 2, 3] == ordinals

    bad = refused(lambda: world.agree(rates={"requests_per_second": 0}))
    assert isinstance(bad, errors.InvalidAgreementError)
    assert "rates.requests_per_second" == bad.metadata["field"]
    assert isinstance(refused(lambda: world.agree(licensee="")), errors.InvalidAgreementError)
    for text in ("{", '{"a": 1, "a": 2}', "[" * 100_000, "null"):
        request = pb.AddAgreementRequest(licensee="acme", document=text)
        found = refused(lambda asked=request: world.admin.AddAgreement(asked, metadata=world.operator))  # type: ignore[misc]
        assert isinstance(found, errors.InvalidAgreementError)
    projects = [{"projects": ["x"], "freshness": "daily"}]
    assert isinstance(refused(lambda: world.agree(grants=projects)), errors.ProjectNotFoundError)

    past = pb.EndAgreementRequest(licensee="acme", ends_at=timestamp_to_proto(0))
    assert isinstance(
        refused(lambda: world.admin.EndAgreement(past, metadata=world.operator)), errors.InvalidArgumentError
    )
    late = pb.EndAgreementRequest(licensee="acme", ends_at=timestamp_to_proto(LATER))
    ended = world.admin.EndAgreement(late, metadata=world.operator).agreement
    assert timestamp_to_proto(LATER) == ended.ended_at
    world.admin.EndAgreement(pb.EndAgreementRequest(licensee="acme"), metadata=world.operator)
    assert isinstance(
        refused(lambda: world.admin.EndAgreement(late, metadata=world.operator)), errors.AgreementEndedError
    )
    assert own_pb.STANDING_OVER == get("").standing


def test_everyone_sees_their_own(world: World) -> None:
    """A licensee what rules it, and its versions; never those of another; an operator needs none."""
    none = refused(lambda: world.seen(world.acme))
    assert isinstance(none, errors.AgreementNotFoundError)
    world.licensee()
    world.licensee("other")
    unlike = refused(lambda: world.seen(world.acme))
    assert (none.message, none.hint, none.metadata) == (unlike.message, unlike.hint, unlike.metadata)
    first = world.agree().agreement
    assert first == world.seen(world.acme).agreement
    assert Standing.IN_FORCE is agreement_from_proto(first).standing
    second = world.agree(pin_retention_days=7).agreement
    assert second == world.seen(world.acme).agreement
    assert first.version == world.seen(world.acme, "1").agreement.version
    assert second == world.seen(world.acme, second.version).agreement
    listed = world.own.ListOwnAgreements(own_pb.ListOwnAgreementsRequest(page_size=1), metadata=world.acme)
    assert [1] == [one.ordinal for one in listed.agreements]
    following = own_pb.ListOwnAgreementsRequest(page_token=listed.next_page_token)
    rest = world.own.ListOwnAgreements(following, metadata=world.acme)
    assert ([2], "") == ([one.ordinal for one in rest.agreements], rest.next_page_token)

    for version in ("", "1", second.version):
        found = refused(lambda asked=version: world.seen(world.other, asked))  # type: ignore[misc]
        assert isinstance(found, errors.AgreementNotFoundError)
    empty = world.own.ListOwnAgreements(own_pb.ListOwnAgreementsRequest(), metadata=world.other)
    assert not empty.agreements
    operator = world.seen(world.operator)
    assert (True, False) == (operator.unrestricted, operator.HasField("agreement"))
    world.admin.EndLicensee(pb.EndLicenseeRequest(name="acme"), metadata=world.operator)
    assert isinstance(refused(lambda: world.seen(world.acme)), errors.AgreementNotFoundError)


def test_an_answer_names_the_agreement_that_it_was_given_under(world: World) -> None:
    """Behind the answer, in its trailing metadata; nothing is named to whom none rules."""

    def trailers(who: Any, version: str = "") -> dict[str, Any]:
        request = own_pb.GetOwnAgreementRequest(version=version)
        return dict(world.own.GetOwnAgreement.with_call(request, metadata=who)[1].trailing_metadata())

    world.licensee()
    world.agree()
    second = world.agree(pin_retention_days=7).agreement
    assert {TRAILER: second.version} == trailers(world.acme) == trailers(world.acme, "1")
    assert TRAILER not in trailers(world.operator)


def test_what_was_changed_on_the_way_is_noticed(world: World) -> None:
    """A document that is not the digest's, or fields that are not the document's."""
    world.licensee()
    good = world.agree().agreement
    assert good.version == agreement_from_proto(good).version.name
    for name, value in (
        ("document", good.document.replace("realtime", "monthly")),
        ("document", good.document + " "),
        ("document", "{"),
        ("version", "sha256:" + "0" * 64),
        ("licensee", "other"),
        ("standing", 0),
    ):
        bad = own_pb.Agreement()
        bad.CopyFrom(good)
        setattr(bad, name, value)
        with pytest.raises(errors.VerificationError):
            agreement_from_proto(bad)


def test_a_pin_names_the_agreement_that_it_was_made_under(world: World) -> None:
    """Made and extended under the one that rules then, not at all after the end; an operator's names none."""
    world.licensee()
    first = world.agree().agreement
    selector = snapshot_pb.Selector(projects=["demo"])
    made = world.served.snapshot.CreateSnapshot(
        snapshot_pb.CreateSnapshotRequest(selector=selector), metadata=world.operator
    )
    until = timestamp_to_proto(parse_instant("2900-01-01"))

    def create(who: Any) -> pin_pb.Pin:
        request = pin_pb.CreatePinRequest(name="p", snapshot=made.snapshot.id, readable_until=until)
        found: pin_pb.Pin = world.pins.CreatePin(request, metadata=who).pin
        return found

    assert "" == create(world.operator).agreement
    assert b"agreement" not in create(world.operator).statement.encode()
    pin = create(world.acme)
    assert first.version == pin.agreement
    assert parse_digest(first.version) == read_pin(pin.statement.encode()).agreement
    second = world.agree(pin_retention_days=7).agreement
    assert pin == create(world.acme)
    longer = pin_pb.ExtendPinRequest(name="p", readable_until=timestamp_to_proto(LATER))
    assert second.version == world.pins.ExtendPin(longer, metadata=world.acme).pin.agreement
    world.admin.EndAgreement(pb.EndAgreementRequest(licensee="acme"), metadata=world.operator)
    assert pin.snapshot == world.pins.GetPin(pin_pb.GetPinRequest(name="p"), metadata=world.acme).pin.snapshot
    another = pin_pb.CreatePinRequest(name="q", snapshot=made.snapshot.id, readable_until=until)
    later = pin_pb.ExtendPinRequest(name="p", readable_until=timestamp_to_proto(LATER + 1))
    for pinning in (
        lambda: world.pins.CreatePin(another, metadata=world.acme),
        lambda: world.pins.ExtendPin(later, metadata=world.acme),
    ):
        assert isinstance(refused(pinning), errors.NoAgreementError)
    assert world.pins.ExtendPin(later, metadata=world.operator).pin.name == "p"


# --- what is withdrawn ------------------------------------------------------------------------------


def test_retracting_by_rpc(world: World) -> None:
    """A dry run says what the real one does and changes nothing; once more there is nothing left to do."""
    snapshot = world.snapshot_id
    for name in ("b", "a"):
        LicenseePins(world.store, "acme").create(name, snapshot, LATER)
    LicenseePins(world.store, "zed").create("z", snapshot, LATER)
    request = pb.RetractRequest(project="demo", rev_ids=[1], page_ids=[2], reason="privacy", case_id="2026-1")
    head = world.store.log.head()
    dry = world.admin.Retract(request, metadata=world.operator)
    assert head == world.store.log.head()
    assert (2, 2, 2, 1, 3, ["acme", "zed"], [], False) == (
        dry.revisions, dry.revisions_left, dry.texts, dry.snapshots, dry.pins, list(dry.licensees),
        list(dry.positions), dry.erased,
    )  # fmt: skip
    affected = pb.ListAffectedPinsRequest(case_id="2026-1", page_size=2)
    none = refused(lambda: world.admin.ListAffectedPins(affected, metadata=world.auditor))
    assert isinstance(none, errors.CaseNotFoundError)

    request.confirm = True
    done = world.admin.Retract(request, metadata=world.operator)
    assert done.positions
    assert done.erased
    assert dry.texts == done.texts
    assert dry.text_bytes == done.text_bytes > 0
    hidden = world.served.archive.revision("demo", 1).revision.slots[0]
    assert (Presence.HIDDEN, None) == (hidden.presence, hidden.text)
    again = world.admin.Retract(request, metadata=world.operator)
    assert (2, 0, [], True) == (again.revisions, again.revisions_left, list(again.positions), again.erased)

    pins: list[pb.AffectedPin] = []
    while True:
        page = world.admin.ListAffectedPins(affected, metadata=world.auditor)
        pins += page.pins
        affected.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert [("acme", "b", 2), ("acme", "a", 2), ("zed", "z", 2)] == [
        (pin.owner, pin.name, pin.revisions) for pin in pins
    ]
    assert {format_digest(snapshot)} == {pin.snapshot for pin in pins}
    affected.page_token = world.admin.ListAffectedPins(
        pb.ListAffectedPinsRequest(case_id="2026-1", page_size=1), metadata=world.auditor
    ).next_page_token
    affected.case_id = "2026-2"
    assert isinstance(
        refused(lambda: world.admin.ListAffectedPins(affected, metadata=world.operator)),
        errors.InvalidCursorError,
    )
    for who in (world.auditor, world.acme):
        error = refused(lambda who=who: world.admin.Retract(request, metadata=who))  # type: ignore[misc]
        assert isinstance(error, errors.PermissionDeniedError)


@pytest.mark.parametrize(
    "fields, kind",
    [
        ({"rev_ids": []}, errors.InvalidArgumentError),
        ({"rev_ids": range(1, 1_002)}, errors.InvalidArgumentError),
        ({"case_id": ""}, errors.InvalidArgumentError),
        ({"reason": "because"}, errors.InvalidArgumentError),
        ({"parts": ["title"]}, errors.InvalidArgumentError),
        ({"project": "none"}, errors.ProjectNotFoundError),
        ({"rev_ids": [77_777]}, errors.RevisionNotFoundError),
        ({"page_ids": [77_777]}, errors.PageNotFoundError),
        ({"contributors": ["Nobody else"]}, errors.ContributorNotFoundError),
    ],
)
def test_what_cannot_be_retracted(world: World, fields: dict[str, Any], kind: type) -> None:
    """It is refused whole, confirmed or not."""
    said: dict[str, Any] = {"project": "demo", "rev_ids": [1], "reason": "other", "case_id": "c"}
    head = world.store.log.head()
    request = pb.RetractRequest(**said | fields, confirm=True)
    error = refused(lambda: world.admin.Retract(request, metadata=world.operator))
    assert isinstance(error, kind)
    assert head == world.store.log.head()
