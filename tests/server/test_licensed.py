"""What stands between every answer and its caller, on a real server and method by method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from recension.archive.agreements import Agreements
from recension.archive.horizons import Horizons
from recension.archive.ingest import Ingestor
from recension.archive.keyring import Keyring
from recension.archive.pins import LicenseePins
from recension.archive.reader import Archive
from recension.model import errors
from recension.model.access import Role, Secret
from recension.model.digest import format_digest
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Presence, SlotText
from recension.model.instant import parse_instant
from recension.model.manifest import Selector
from recension.model.mark import Mark, Origin, Span
from recension.model.reading import ProjectInfo, StoredReader
from recension.server import door, scope
from recension.server.door import Caller, act_for
from recension.server.licensed import Licensed
from recension.server.pepper import Pepper
from recension.store import keys
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import checkpoint_service_pb2 as checkpoint_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.wire import convert
from recension.wire.status import TRAILER, error_of
from recension_client import verify
from recension_client.client import Client
from recension_client.evidence import evidence
from tests.archive.test_check import put
from tests.server.helpers import PATIENCE_SECONDS, Served, agree, refused, serving, until
from tests.server.test_door import LATER, shown

DAY = 86_400_000_000
START = parse_instant("2024-01-01")
TEXT_BYTES = 300_000
PAGES = 40


def edit(project: str, page: int, rev: int, namespace: int, day: int, *roles: str) -> Event:
    """Return an edit; what it says has the word secret in it."""
    slots = tuple(
        SlotText(role, "wikitext", "text/x-wiki", Presence.PRESENT, b"secret %d " % rev + b"x" * TEXT_BYTES)
        for role in roles
    )
    what = Edit(
        rev, 0, f"Secret {page}", namespace, title_inferred=False, contributor=NOBODY, comment=NO_COMMENT,
        minor=False, slots=slots,
    )  # fmt: skip
    return Event(project, page, START + day * DAY, f"r{rev}", what)


class Place:
    """Two projects on a server; `open` is granted, or some of it, and `shut` never is."""

    def __init__(self, served: Served, store: MemoryStore, keyring: Keyring) -> None:
        self.served, self.store, self.keyring = served, store, keyring
        self.revision = RevisionServiceStub(served.channel)
        self.pins = PinServiceStub(served.channel)
        self.checkpoints = CheckpointServiceStub(served.channel)
        self.key: Secret = keyring.make("acme", Role.LICENSEE, LATER)
        at = {"valid_at": START + 400 * DAY}
        self.opened = served.archive.create_snapshot(Selector.of(["open"]), **at)
        self.shut = served.archive.create_snapshot(Selector.of(["shut"]), **at)

    def refused(self, call: Callable[..., Any], request: Any) -> tuple[Any, ...]:
        """Return all that a caller can see of a refusal."""
        with pytest.raises(grpc.RpcError) as caught:
            found = call(request, metadata=shown(self.key), timeout=PATIENCE_SECONDS)
            list(found) if hasattr(found, "__next__") else None
        error: Any = caught.value
        trailers = [(key, value) for key, value in error.trailing_metadata() if key != TRAILER]
        status = next(value for key, value in error.trailing_metadata() if key == TRAILER)
        return error.code(), error.details(), status, trailers


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    store = MemoryStore()
    ingestor = Ingestor(store)
    for name in ("open", "shut"):
        ingestor.create_project(ProjectInfo(name, "https://w.example", "en", "CC0-1.0"))
        first = 0 if name == "open" else 1_000
        for page in range(1, PAGES + 1):
            rev = first + page
            ingestor.append(name, [edit(name, first + page, rev, page % 2, page * 5, "main")])
    ingestor.append("open", [edit("open", 90, 90, 0, 300, "extra", "main")])
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    with serving(store, tmp_path) as served:
        yield Place(served, store, Keyring(store, pepper))


# --- method by method -------------------------------------------------------------------------------


def _calls(place: Place, project: str, snapshot: bytes, page: int) -> dict[str, Callable[[Licensed], Any]]:
    """Return a call of each method that asks for something of a project."""
    return {
        "server_info": lambda reader: reader.server_info(),
        "projects": lambda reader: reader.projects(),
        "project": lambda reader: reader.project(project),
        "revision": lambda reader: reader.revision(project, page),
        "provenance": lambda reader: reader.provenance(project, page),
        "revisions": lambda reader: reader.revisions(project, [page]),
        "article": lambda reader: reader.article(project, page),
        "timeline": lambda reader: list(reader.timeline(project, page)),
        "text": lambda reader: reader.text(project, page),
        "diff_revisions": lambda reader: reader.diff_revisions(project, page, page + 1),
        "revision_attribution": lambda reader: reader.revision_attribution(project, page),
        "article_attribution": lambda reader: reader.article_attribution(project, page),
        "create_snapshot": lambda reader: reader.create_snapshot(Selector.of([project])),
        "snapshot": lambda reader: reader.snapshot(snapshot),
        "snapshots": lambda reader: list(reader.snapshots()),
        "entries": lambda reader: list(reader.entries(snapshot)),
        "read": lambda reader: list(reader.read(snapshot)),
        "read_at": lambda reader: list(reader.read_at(snapshot, [0])),
        "diff": lambda reader: list(reader.diff(snapshot, snapshot)),
        "attributions": lambda reader: list(reader.attributions(snapshot)),
        "prove": lambda reader: reader.prove(snapshot, project, page),
    }


_TEXTLESS = {"server_info", "projects", "project", "snapshot", "snapshots"}
_METHODS = [name for name, _ in inspect.getmembers(StoredReader, inspect.isfunction) if name[0] != "_"]


def asked(reader: Licensed, call: Callable[[Licensed], Any], who: Caller) -> Any:
    """Return an answer in the name of someone, or its error."""

    def run() -> Any:
        act_for(who)
        try:
            return call(reader)
        except errors.RecensionError as error:
            return error

    return copy_context().run(run)


@pytest.mark.parametrize("method", _METHODS)
def test_each_method_is_decided_on(place: Place, method: str) -> None:
    """One that is added has to be spelled out, and to tell nothing of what is not granted."""
    assert method in vars(Licensed)
    assert not hasattr(Licensed, "__getattr__")
    reader = Licensed(place.served.archive, Agreements(place.store), Horizons(place.store))
    shut = _calls(place, "shut", place.shut.snapshot_id, 1_001)[method]
    opened = _calls(place, "open", place.opened.snapshot_id, 1)[method]
    acme, jane = Caller("acme", Role.LICENSEE), Caller("jane", Role.OPERATOR)
    if method != "server_info":
        assert isinstance(asked(reader, opened, acme), errors.NoAgreementError)
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime"})
    told = asked(reader, shut, acme)
    assert "shut" not in repr(told) or isinstance(told, errors.RecensionError)
    assert "ecret" not in repr(told)
    if method not in ("projects", "server_info", "snapshots"):
        assert isinstance(told, errors.RecensionError)
    assert not isinstance(asked(reader, opened, acme), errors.RecensionError)
    assert not isinstance(asked(reader, shut, jane), errors.RecensionError)
    audit = asked(reader, opened, Caller("eve", Role.AUDITOR))
    assert isinstance(audit, errors.PermissionDeniedError) is (method not in _TEXTLESS)


def test_a_licensee_is_told_which_file_it_was_and_not_its_name(place: Place) -> None:
    """Form, digest, size and time; names, places and numbers of sources are the operator's."""
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime"})
    mark = Mark("dump", "customers-of-jane.xml.bz2", Span(7, 9), file=bytes(8))
    ingestor = Ingestor(place.store)
    ingestor.append("open", [edit("open", 91, 91, 0, 301, "main")], mark)
    ingestor.append("open", [], replace(mark, origin=Origin(77, bytes(32))))
    stated = replace(mark, licenses={"CC-BY-SA-4.0": (93,)})
    ingestor.append("open", [edit("open", 93, 93, 0, 303, "main")], stated)
    ingestor.append("open", [edit("open", 92, 92, 0, 302, "main")], Mark("s", "https://s", offsets={"0": 5}))

    def told(rev: int, **metadata: Any) -> revision_pb.Provenance:
        request = revision_pb.GetRevisionRequest(project="open", rev_id=rev, with_provenance=True)
        return place.revision.GetRevision(request, timeout=PATIENCE_SECONDS, **metadata).provenance

    whole = told(91, metadata=shown(place.keyring.make("jane", Role.OPERATOR, LATER)))
    assert ("customers-of-jane.xml.bz2", 7, 9) == (whole.source, whole.first_event, whole.end_event)
    assert "CC-BY-SA-4.0" == told(93, metadata=shown(place.key)).stated_license
    less = told(91, metadata=shown(place.key))
    assert ("dump", format_digest(bytes(32)), 77) == (less.form, less.digest, less.size_bytes)
    assert (whole.position, whole.recorded_at) == (less.position, less.recorded_at)
    assert {"position", "recorded_at", "form", "digest", "size_bytes"} == {
        field.name for field, _ in less.ListFields()
    }
    stream = told(92, metadata=shown(place.key))
    assert ("s", "", "", {}) == (stream.form, stream.source, stream.digest, dict(stream.offsets))
    plain = revision_pb.GetRevisionRequest(project="open", rev_id=91)
    answer = place.revision.GetRevision(plain, timeout=PATIENCE_SECONDS, metadata=shown(place.key))
    assert not answer.HasField("provenance")


def test_what_went_around_the_wrapper_is_not_told(place: Place) -> None:
    """A servicer that forgets to ask ends its call, where the message is built."""
    answer = place.served.archive.revision("open", 1).revision

    def tell() -> Any:
        act_for(Caller("acme", Role.LICENSEE))
        return scope.assured(answer)

    with pytest.raises(scope.OverGrantError):
        copy_context().run(tell)


# --- forbidden and absent ---------------------------------------------------------------------------


def test_forbidden_and_absent_are_the_same_bytes(place: Place) -> None:
    """Status, message, details and trailers: what is there and not granted says what is not there says."""
    agree(
        place.store,
        "acme",
        {"projects": ["open"], "namespaces": [0], "slots": ["main"], "freshness": "realtime"},
    )
    nothing, shut = format_digest(bytes(32)), format_digest(place.shut.snapshot_id)
    whole = format_digest(place.opened.snapshot_id)
    get, snapshot = place.revision, place.served.snapshot

    def article(project: str, page: int) -> tuple[Any, Any]:
        return get.GetArticle, revision_pb.GetArticleRequest(project=project, page_id=page)

    def revision(project: str, rev: int) -> tuple[Any, Any]:
        return get.GetRevision, revision_pb.GetRevisionRequest(project=project, rev_id=rev)

    def differ(one: str) -> tuple[Any, Any]:
        return snapshot.DiffSnapshots, snapshot_pb.DiffSnapshotsRequest(snapshot_a=one, snapshot_b=one)

    until_ = convert.timestamp_to_proto(LATER)
    pairs: list[tuple[tuple[Any, Any], tuple[Any, Any], dict[str, str]]] = [
        (revision("open", 1), revision("open", 7_777), {"7777": "1"}),
        (article("open", 1), article("open", 7_777), {"7777": "1"}),
        (revision("shut", 1_001), revision("none", 1_001), {"none": "shut"}),
        (article("shut", 1_001), article("none", 1_001), {"none": "shut"}),
        (
            (place.served.catalog.GetProject, catalog_pb.GetProjectRequest(project="shut")),
            (place.served.catalog.GetProject, catalog_pb.GetProjectRequest(project="none")),
            {"none": "shut"},
        ),
        (
            (get.ListRevisions, revision_pb.ListRevisionsRequest(project="open", page_id=1)),
            (get.ListRevisions, revision_pb.ListRevisionsRequest(project="open", page_id=7_777)),
            {"7777": "1"},
        ),
        (
            (get.ReadText, revision_pb.ReadTextRequest(project="open", rev_id=90, role="extra")),
            (get.ReadText, revision_pb.ReadTextRequest(project="open", rev_id=90, role="there")),
            {"there": "extra"},
        ),
        *(
            ((call, make(snapshot=found)), (call, make(snapshot=nothing)), {nothing: found})
            for found in (shut, whole)
            for call, make in (
                (snapshot.ReadSnapshot, snapshot_pb.ReadSnapshotRequest),
                (snapshot.ReadEntries, partial(snapshot_pb.ReadEntriesRequest, indexes=[0])),
                (snapshot.ListEntries, snapshot_pb.ListEntriesRequest),
                (snapshot.ReadAttribution, snapshot_pb.ReadAttributionRequest),
                (snapshot.ProveEntry, partial(snapshot_pb.ProveEntryRequest, project="open", page_id=1)),
                (place.pins.CreatePin, partial(pin_pb.CreatePinRequest, name="p", readable_until=until_)),
                (place.checkpoints.GetInclusionProof, checkpoint_pb.GetInclusionProofRequest),
            )
        ),
        (differ(shut), differ(nothing), {nothing: shut}),
    ]
    for forbidden, absent, named in pairs:
        code, details, status, trailers = place.refused(*absent)
        assert code is grpc.StatusCode.NOT_FOUND
        for mine, theirs in named.items():
            details = details.replace(mine, theirs)
        other = place.refused(*forbidden)
        assert (code, details, trailers) == (other[0], other[1], other[3])
        if all(len(mine) == len(theirs) for mine, theirs in named.items()):
            for mine, theirs in named.items():
                status = status.replace(mine.encode(), theirs.encode())
            assert status == other[2]
    # Negative control: who may read it is told.
    jane = place.keyring.make("jane", Role.OPERATOR, LATER)
    assert get.GetRevision(revision("shut", 1_001)[1], metadata=shown(jane)).revision.rev_id == 1_001


def test_a_wider_selector_is_told_what_is_granted(place: Place) -> None:
    """It is refused with what the caller's own agreement says, and one that fits is made."""
    agree(place.store, "acme", {"projects": ["open"], "namespaces": [0], "freshness": "realtime"})
    make = place.served.snapshot.CreateSnapshot
    wide = snapshot_pb.CreateSnapshotRequest(selector=convert.selector_to_proto(Selector.of(["open"])))
    code, details, _, _ = place.refused(make, wide)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "the namespaces 0" in details
    fits = snapshot_pb.CreateSnapshotRequest(selector=convert.selector_to_proto(Selector.of(["open"], [0])))
    made = make(fits, metadata=shown(place.key)).snapshot
    assert made.selector.namespaces == [0]


def test_withheld_entries_still_prove_the_root(place: Place) -> None:
    """Those from before what is granted, and those with a slot that is not: the root is the manifest's."""
    agree(
        place.store,
        "acme",
        {"projects": ["open"], "slots": ["main"], "freshness": "realtime", "earliest": "2024-03-01"},
    )
    with Client(place.served.target, key=place.key.written) as client:
        entries = list(client.read(place.opened.snapshot_id))
    builder = verify.TreeBuilder()
    for entry in entries:
        builder.add(entry.page_id, entry.rev_id, verify.leaf_of(evidence(entry)))
    assert builder.root() == place.opened.parts[0].root
    shown_pages = {entry.page_id for entry in entries if entry.slots[0].text is not None}
    bound = parse_instant("2024-03-01")
    assert shown_pages == {page for page in range(1, PAGES + 1) if START + page * 5 * DAY >= bound}
    assert {entry.page_id for entry in entries} == {*range(1, PAGES + 1), 90}
    both = next(entry for entry in entries if entry.page_id == 90)
    assert [slot.role for slot in both.slots] == ["main"]
    assert both.content_commitment
    assert not both.text_hidden


# --- an agreement that changes ----------------------------------------------------------------------


def test_an_agreement_ends_in_an_open_stream(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent already arrives; then the stream ends with the reason."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    agree(place.store, "acme")
    stream = place.served.read(format_digest(place.opened.snapshot_id), metadata=shown(place.key))
    next(stream)
    Agreements(place.store).end("acme")
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert isinstance(error_of(caught.value), errors.NoAgreementError)
    until(place.served.idle)


def test_a_client_goes_on_under_the_next_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose agreement is replaced ends with its reason, and the client resumes it by its place."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    agree(place.store, "acme")
    snapshot = format_digest(place.opened.snapshot_id)
    stream = place.served.read(snapshot, metadata=shown(place.key))
    cursor = next(stream).batch.cursor
    with Client(place.served.target, key=place.key.written) as client:
        entries = client.read(place.opened.snapshot_id)
        pages = [next(entries).page_id]
        agree(place.store, "acme", pin_retention_days=1)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert isinstance(error_of(caught.value), errors.AgreementChangedError)
        pages += [entry.page_id for entry in entries]
    assert pages == [*range(1, PAGES + 1), 90]
    again = snapshot_pb.ReadSnapshotRequest(snapshot=snapshot, cursor=cursor)
    code, details, _, _ = place.refused(place.served.snapshot.ReadSnapshot, again)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "another version of your agreement" in details


def test_another_licensees_agreement_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of both."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    agree(place.store, "acme")
    agree(place.store, "other")
    stream = place.served.read(format_digest(place.opened.snapshot_id), metadata=shown(place.key))
    next(stream)
    agree(place.store, "other", pin_retention_days=1)
    Agreements(place.store).end("other")
    last = snapshot_pb.ReadSnapshotResponse()
    for message in stream:
        last = message
    assert last.end.complete


def test_a_delay_follows_the_clock(place: Place) -> None:
    """What was committed just now is not there yet, nor are positions of it; a later clock finds it."""
    version = agree(place.store, "acme", {"projects": ["open"], "freshness": {"delay_seconds": 3_600}})
    assert version.ordinal == 1
    moment = [place.store.log.head().recorded_at]
    reader = Licensed(
        Archive(place.store), Agreements(place.store), Horizons(place.store), embargo=lambda: moment[0]
    )
    acme = Caller("acme", Role.LICENSEE)
    early = asked(reader, lambda one: one.article("open", 1), acme)
    assert isinstance(early, errors.PageNotFoundError)
    assert 0 == asked(reader, lambda one: one.server_info(), acme).position
    moment[0] += 3_600_000_000
    assert 1 == asked(reader, lambda one: one.article("open", 1), acme).revision.page_id
    late = asked(reader, lambda one: one.article("open", 1, known_at=10**6), acme)
    assert isinstance(late, errors.AsOfOutOfRangeError)


def test_a_pin_is_extended_by_what_is_agreed_now(place: Place) -> None:
    """What it holds has to be granted yet; what there is not, and what is not granted, is one answer."""
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime"})
    LicenseePins(place.store, "acme").create("p", place.opened.snapshot_id, LATER)
    request = pin_pb.ExtendPinRequest(name="p", readable_until=convert.timestamp_to_proto(LATER + 1))
    assert "p" == place.pins.ExtendPin(request, metadata=shown(place.key)).pin.name
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime", "namespaces": [0]})
    request.readable_until.CopyFrom(convert.timestamp_to_proto(LATER + 2))
    error = refused(lambda: place.pins.ExtendPin(request, metadata=shown(place.key)))
    assert isinstance(error, errors.SnapshotNotFoundError)


def test_damage_is_told_of_what_is_granted_alone(place: Place) -> None:
    """A damaged text of what is not granted is absent as whatever else is not granted."""
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime", "namespaces": [0]})
    blocks = [key for key, _ in place.store.blob_sizes(keys.block(0), keys.block(keys.END), 1_000)]
    put(place.store, {}, dict.fromkeys(blocks, b"damaged"))
    reader = Licensed(place.served.archive, Agreements(place.store), Horizons(place.store))
    acme = Caller("acme", Role.LICENSEE)
    absent = (errors.RevisionNotFoundError, errors.PageNotFoundError)
    for rev, expected in ((2, (errors.DataLossError,)), (1, absent)):
        for name in ("revision", "revisions", "article", "text", "diff_revisions"):
            told = asked(reader, _calls(place, "open", b"", rev)[name], acme)
            assert isinstance(told[0] if name == "revisions" else told, expected), name


# --- after the end ----------------------------------------------------------------------------------


def test_pins_can_be_read_for_a_while_after_the_end(place: Place) -> None:
    """What a pin of the time before holds, and nothing else, for as long as the last version says."""
    pins = LicenseePins(place.store, "acme")
    pins.create("p", place.opened.snapshot_id, LATER)
    other = place.served.archive.create_snapshot(Selector.of(["open"]), valid_at=START + 250 * DAY)
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime"}, pin_retention_days=7)
    moment = [place.store.log.head().recorded_at]
    reader = Licensed(
        place.served.archive,
        Agreements(place.store),
        Horizons(place.store),
        wall=lambda: moment[0],
        pinned=lambda owner, *asked: LicenseePins(place.store, owner).held(*asked),
    )
    acme = Caller("acme", Role.LICENSEE)
    calls = _calls(place, "open", place.opened.snapshot_id, 1)
    kept = {"snapshot", "entries", "read", "read_at", "diff", "attributions", "prove"}
    before = {name: repr(asked(reader, calls[name], acme)) for name in kept}
    ended_at = Agreements(place.store).end("acme")[0].over_at
    assert ended_at is not None
    LicenseePins(place.store, "acme", clock=lambda: ended_at + 1).create("late", other.snapshot_id, LATER)

    standings = set()
    for moment[0] in (ended_at, ended_at + 7 * DAY - 1):
        standings.add(reader.standing(acme))
        for name, call in calls.items():
            told = asked(reader, call, acme)
            if name in kept:
                assert before[name] == repr(told)
            elif name == "project":
                assert ("open", 0, 0, 0) == (told.name, told.position, told.revisions, told.pages)
            elif name != "server_info":
                assert isinstance(told, errors.NoAgreementError)
        shut = asked(reader, lambda one: one.project("shut"), acme)
        assert isinstance(shut, errors.ProjectNotFoundError)
        for name in kept:
            unpinned = _calls(place, "open", other.snapshot_id, 1)[name]
            assert isinstance(asked(reader, unpinned, acme), errors.NoAgreementError)
            stranger = asked(reader, calls[name], Caller("other", Role.LICENSEE))
            assert isinstance(stranger, errors.NoAgreementError)
    assert 1 == len(standings)
    assert not standings & {"", Agreements(place.store).version("acme").name}
    moment[0] = ended_at + 7 * DAY
    assert "" == reader.standing(acme)
    for name in (*kept, "project"):
        assert isinstance(asked(reader, calls[name], acme), errors.NoAgreementError)
    moment[0] = ended_at
    pins.delete("p")
    for name in ("read", "project"):
        assert isinstance(asked(reader, calls[name], acme), errors.NoAgreementError)


def test_an_ended_licensee_reads_no_pins(place: Place) -> None:
    """Whatever was agreed; nor does anyone whose agreement keeps nothing."""
    LicenseePins(place.store, "acme").create("p", place.opened.snapshot_id, LATER)
    snapshot = format_digest(place.opened.snapshot_id)
    agree(place.store, "acme", {"projects": ["open"], "freshness": "realtime"}, pin_retention_days=7)
    Agreements(place.store).end("acme")
    assert list(place.served.read(snapshot, metadata=shown(place.key)))
    with Client(place.served.target, key=place.key.written) as client:
        assert "open" == client.project("open").name
    Agreements(place.store).end_licensee("acme")
    stream = place.served.read(snapshot, metadata=shown(place.key))
    assert isinstance(refused(lambda: next(stream)), errors.NoAgreementError)
