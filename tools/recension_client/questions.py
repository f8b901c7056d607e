"""Questions as values: what is sent, and how the answer is read and checked. Both clients ask them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from recension.model.agreement import VersionInfo
from recension.model.credit import Credited
from recension.model.difference import MAX_CONTEXT
from recension.model.digest import format_digest
from recension.model.errors import RecensionError, VerificationError
from recension.model.event import MAX_ID
from recension.model.manifest import AsOf, Manifest, Selector
from recension.model.pin import Pin
from recension.model.reading import (
    MAX_PAGE,
    Entry,
    Place,
    ProjectInfo,
    Proof,
    Provenance,
    RevisionDiff,
    ServerInfo,
    TimelineItem,
)
from recension.model.retraction import Acknowledgement, Withdrawn, read_acknowledgement
from recension.model.usage import Usage
from recension.v1 import agreement_service_pb2 as agreement_pb
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import checkpoint_service_pb2 as checkpoint_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1 import usage_service_pb2 as usage_pb
from recension.v1.agreement_service_pb2_grpc import AgreementServiceStub
from recension.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recension.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from recension.v1.pin_service_pb2_grpc import PinServiceStub
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension.v1.usage_service_pb2_grpc import UsageServiceStub
from recension.wire import attribution, convert, differences
from recension.wire.agreements import agreement_from_proto
from recension.wire.pins import pin_from_proto, withdrawn_from_proto
from recension.wire.usage import usage_from_proto
from recension_client.proof import proof_file
from recension_client.trust import Inclusion
from recension_client.verify import verify_proof

Channel = grpc.Channel | grpc.aio.Channel

ANSWER_SECONDS = 30.0
CREATE_SECONDS = 600.0
"""Deadline of CreateSnapshot, whose work grows with the corpus."""

T = TypeVar("T")
"""What is answered."""


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One unary call. Each may be asked twice: what it makes is the same as what is there."""

    method: Callable[[Channel], Callable[..., Any]]
    request: object
    read: Callable[[Any], T]
    """Reads the answer, checked. Raises ``VerificationError``."""
    seconds: float = ANSWER_SECONDS
    """Its deadline, unless the client has one of its own."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """A page of a list."""

    items: list[T]
    following: str
    """Token of the next page, empty after the last."""


# --- catalog ---


def server_info() -> Question[ServerInfo]:
    """Ask what the server is."""
    return Question(
        lambda channel: CatalogServiceStub(channel).GetServerInfo,
        catalog_pb.GetServerInfoRequest(),
        convert.server_info_from_proto,
    )


def projects(token: str) -> Question[Listed[ProjectInfo]]:
    """Ask for projects by name."""

    def read(answer: catalog_pb.ListProjectsResponse) -> Listed[ProjectInfo]:
        return Listed(list(map(convert.project_from_proto, answer.projects)), answer.next_page_token)

    return Question(
        lambda channel: CatalogServiceStub(channel).ListProjects,
        catalog_pb.ListProjectsRequest(page_size=MAX_PAGE, page_token=token),
        read,
    )


def project(name: str) -> Question[ProjectInfo]:
    """Ask for one project."""

    def read(answer: catalog_pb.GetProjectResponse) -> ProjectInfo:
        return convert.project_from_proto(answer.project)

    return Question(
        lambda channel: CatalogServiceStub(channel).GetProject,
        catalog_pb.GetProjectRequest(project=name),
        read,
    )


# --- revisions; those with texts are read by ``assembling``, once what was left out for its size is there ---


def revision(
    project: str, rev_id: int, *, known_at: int, text: bool
) -> Question[revision_pb.GetRevisionResponse]:
    """Ask for a revision."""
    request = revision_pb.GetRevisionRequest(
        project=project, rev_id=id_of(rev_id), known_at=position_of(known_at), view=view_of(text=text)
    )
    return Question(lambda channel: RevisionServiceStub(channel).GetRevision, request, _as_sent)


def provenance(project: str, rev_id: int, *, known_at: int) -> Question[Provenance]:
    """Ask what a revision was read from."""
    request = revision_pb.GetRevisionRequest(
        project=project,
        rev_id=id_of(rev_id),
        known_at=position_of(known_at),
        view=view_of(text=False),
        with_provenance=True,
    )
    return Question(
        lambda channel: RevisionServiceStub(channel).GetRevision,
        request,
        lambda answer: convert.provenance_from_proto(answer.provenance),
    )


def revisions(
    project: str, rev_ids: Sequence[int], *, known_at: int, text: bool
) -> Question[Sequence[revision_pb.BatchGetRevisionsItem]]:
    """Ask for the outcome of each id, in the order asked."""

    def read(answer: revision_pb.BatchGetRevisionsResponse) -> Sequence[revision_pb.BatchGetRevisionsItem]:
        if len(answer.items) != len(rev_ids):
            raise VerificationError(f"{len(answer.items)} outcomes for {len(rev_ids)} revision ids")
        return answer.items

    request = revision_pb.BatchGetRevisionsRequest(
        project=project,
        rev_ids=map(id_of, rev_ids),
        known_at=position_of(known_at),
        view=view_of(text=text),
        accept_frames=True,
    )
    return Question(lambda channel: RevisionServiceStub(channel).BatchGetRevisions, request, read)


def error_in(outcome: revision_pb.BatchGetRevisionsItem) -> RecensionError | None:
    """Return why an id of a batch has no revision."""
    return convert.item_error_from_proto(outcome.error) if outcome.HasField("error") else None


def article(
    project: str, page: int | str, *, valid_at: int | None, known_at: int, text: bool
) -> Question[revision_pb.GetArticleResponse]:
    """Ask for a page, by id or title, as it was."""
    request = revision_pb.GetArticleRequest(
        project=project,
        as_of=convert.wanted_as_of_to_proto(valid_at, position_of(known_at)),
        view=view_of(text=text),
    )
    if isinstance(page, int):
        request.page_id = id_of(page)
    else:
        request.title = page
    return Question(lambda channel: RevisionServiceStub(channel).GetArticle, request, _as_sent)


def revision_attribution(project: str, rev_id: int, *, known_at: int) -> Question[Credited]:
    """Ask whom to credit for a revision."""
    request = revision_pb.GetAttributionRequest(
        project=project,
        rev_id=id_of(rev_id),
        as_of=convert.wanted_as_of_to_proto(None, position_of(known_at)),
    )
    return _attribution(request)


def article_attribution(
    project: str, page: int | str, *, valid_at: int | None, known_at: int
) -> Question[Credited]:
    """Ask whom to credit for a page, by id or title, as it was."""
    request = revision_pb.GetAttributionRequest(
        project=project, as_of=convert.wanted_as_of_to_proto(valid_at, position_of(known_at))
    )
    if isinstance(page, int):
        request.page_id = id_of(page)
    else:
        request.title = page
    return _attribution(request)


def _attribution(request: revision_pb.GetAttributionRequest) -> Question[Credited]:
    return Question(
        lambda channel: RevisionServiceStub(channel).GetAttribution, request, attribution.credited_from_proto
    )


def as_of_in(answer: revision_pb.GetRevisionResponse | revision_pb.GetArticleResponse) -> AsOf:
    """Return the as-of that an answer was resolved to."""
    return convert.as_of_from_proto(answer.as_of)


def timeline(project: str, page_id: int, known_at: int) -> Callable[[str], Question[Listed[TimelineItem]]]:
    """Ask what happened to a page."""

    def read(answer: revision_pb.ListRevisionsResponse) -> Listed[TimelineItem]:
        return Listed(list(map(convert.timeline_item_from_proto, answer.items)), answer.next_page_token)

    def question(token: str) -> Question[Listed[TimelineItem]]:
        request = revision_pb.ListRevisionsRequest(
            project=project,
            page_id=id_of(page_id),
            known_at=position_of(known_at),
            page_size=MAX_PAGE,
            page_token=token,
        )
        return Question(lambda channel: RevisionServiceStub(channel).ListRevisions, request, read)

    return question


def diff_revisions(
    project: str, before: int, after: int, *, role: str, context: int, known_at: int
) -> Question[RevisionDiff]:
    """Ask how one slot of two revisions differs."""

    def read(answer: revision_pb.DiffRevisionsResponse) -> RevisionDiff:
        found = differences.revision_diff_from_proto(answer)
        if (found.before.rev_id, found.after.rev_id) != (before, after):
            raise VerificationError("the server compared other revisions than was asked for")
        return found

    request = revision_pb.DiffRevisionsRequest(
        project=project,
        rev_id_a=id_of(before),
        rev_id_b=id_of(after),
        known_at=position_of(known_at),
        role=role,
        context_lines=max(-1, min(context, MAX_CONTEXT)),
    )
    return Question(lambda channel: RevisionServiceStub(channel).DiffRevisions, request, read)


# --- snapshots ---


def create_snapshot(selector: Selector, *, valid_at: int | None, known_at: int) -> Question[Manifest]:
    """Ask for a snapshot to be made and kept."""

    def read(answer: snapshot_pb.CreateSnapshotResponse) -> Manifest:
        manifest = convert.manifest_from_proto(answer.snapshot)
        if manifest.selector != selector or (valid_at is not None and manifest.as_of.valid_at != valid_at):
            raise VerificationError("the server made a snapshot of something else than was asked for")
        return manifest

    request = snapshot_pb.CreateSnapshotRequest(
        selector=convert.selector_to_proto(selector),
        as_of=convert.wanted_as_of_to_proto(valid_at, position_of(known_at)),
    )
    return Question(
        lambda channel: SnapshotServiceStub(channel).CreateSnapshot, request, read, CREATE_SECONDS
    )


def snapshot(snapshot_id: bytes) -> Question[Manifest]:
    """Ask for a snapshot."""

    def read(answer: snapshot_pb.GetSnapshotResponse) -> Manifest:
        manifest = convert.manifest_from_proto(answer.snapshot)
        if manifest.snapshot_id != snapshot_id:
            raise VerificationError("the server sent another snapshot than was asked for")
        return manifest

    request = snapshot_pb.GetSnapshotRequest(id=format_digest(snapshot_id))
    return Question(lambda channel: SnapshotServiceStub(channel).GetSnapshot, request, read)


def snapshots(token: str) -> Question[Listed[Manifest]]:
    """Ask for the snapshots in the order of their making."""

    def read(answer: snapshot_pb.ListSnapshotsResponse) -> Listed[Manifest]:
        return Listed(list(map(convert.manifest_from_proto, answer.snapshots)), answer.next_page_token)

    return Question(
        lambda channel: SnapshotServiceStub(channel).ListSnapshots,
        snapshot_pb.ListSnapshotsRequest(page_size=MAX_PAGE, page_token=token),
        read,
    )


def entries(snapshot_id: bytes, after: Place) -> Callable[[str], Question[Listed[Entry]]]:
    """Ask for entries without texts."""

    def read(answer: snapshot_pb.ListEntriesResponse) -> Listed[Entry]:
        found = [convert.entry_from_proto(message, text=False) for message in answer.entries]
        return Listed(found, answer.next_page_token)

    def question(token: str) -> Question[Listed[Entry]]:
        request = snapshot_pb.ListEntriesRequest(
            snapshot=format_digest(snapshot_id),
            page_size=MAX_PAGE,
            page_token=token,
            after=convert.place_to_proto(after),
        )
        return Question(lambda channel: SnapshotServiceStub(channel).ListEntries, request, read)

    return question


def prove(snapshot_id: bytes, project: str, page_id: int) -> Question[Proof]:
    """Ask for the proof that a page is in a snapshot, or that it is not."""
    wanted = format_digest(snapshot_id)

    def read(answer: snapshot_pb.ProveEntryResponse) -> Proof:
        proof = convert.proof_from_proto(answer)
        try:
            shown = verify_proof(proof_file(proof), wanted)
        except ValueError as error:
            raise VerificationError(f"the proof does not hold: {error}", pageId=page_id) from None
        if (shown.project, shown.page_id) != (project, page_id):
            raise VerificationError("the server proved something else than was asked for", pageId=page_id)
        return proof

    request = snapshot_pb.ProveEntryRequest(snapshot=wanted, project=project, page_id=id_of(page_id))
    return Question(lambda channel: SnapshotServiceStub(channel).ProveEntry, request, read)


# --- usage ---


def usage(licensee: str) -> Question[Usage]:
    """Ask what a licensee has used; the caller without a name."""

    def read(answer: usage_pb.GetUsageResponse) -> Usage:
        return usage_from_proto(answer.usage)

    return Question(
        lambda channel: UsageServiceStub(channel).GetUsage, usage_pb.GetUsageRequest(licensee=licensee), read
    )


# --- pins ---


def create_pin(
    name: str, snapshot_id: bytes, readable_until: int, labels: Mapping[str, str] | None
) -> Question[Pin]:
    """Ask for a pin to be made."""

    def read(answer: pin_pb.CreatePinResponse) -> Pin:
        made = pin_from_proto(answer.pin)
        if made.name != name or made.snapshot_id != snapshot_id:
            raise VerificationError("the server made another pin than was asked for")
        return made

    request = pin_pb.CreatePinRequest(
        name=name,
        snapshot=format_digest(snapshot_id),
        labels=dict(labels or {}),
        readable_until=convert.timestamp_to_proto(readable_until),
    )
    return Question(lambda channel: PinServiceStub(channel).CreatePin, request, read)


def pin(name: str) -> Question[Pin]:
    """Ask for a live pin."""

    def read(answer: pin_pb.GetPinResponse) -> Pin:
        found = pin_from_proto(answer.pin)
        if found.name != name:
            raise VerificationError("the server sent another pin than was asked for")
        return found

    return Question(lambda channel: PinServiceStub(channel).GetPin, pin_pb.GetPinRequest(name=name), read)


def pins(token: str) -> Question[Listed[Pin]]:
    """Ask for the caller's pins in the order of their making, expired ones too."""

    def read(answer: pin_pb.ListPinsResponse) -> Listed[Pin]:
        return Listed(list(map(pin_from_proto, answer.pins)), answer.next_page_token)

    return Question(
        lambda channel: PinServiceStub(channel).ListPins,
        pin_pb.ListPinsRequest(page_size=MAX_PAGE, page_token=token),
        read,
    )


def extend_pin(name: str, readable_until: int) -> Question[Pin]:
    """Ask for a pin to live longer."""

    def read(answer: pin_pb.ExtendPinResponse) -> Pin:
        found = pin_from_proto(answer.pin)
        if found.name != name or found.readable_until < readable_until:
            raise VerificationError("the server extended another pin, or less, than was asked for")
        return found

    request = pin_pb.ExtendPinRequest(name=name, readable_until=convert.timestamp_to_proto(readable_until))
    return Question(lambda channel: PinServiceStub(channel).ExtendPin, request, read)


def retractions(pin: str, token: str) -> Question[Listed[Withdrawn]]:
    """Ask for a page of what was withdrawn from a pin."""

    def read(answer: pin_pb.ListRetractionsResponse) -> Listed[Withdrawn]:
        return Listed(list(map(withdrawn_from_proto, answer.entries)), answer.next_page_token)

    request = pin_pb.ListRetractionsRequest(pin=pin, page_size=MAX_PAGE, page_token=token)
    return Question(lambda channel: PinServiceStub(channel).ListRetractions, request, read)


def acknowledge(pin: str, through: int) -> Question[Acknowledgement]:
    """Ask for an answer about what was withdrawn from a pin to be recorded."""

    def read(answer: pin_pb.AcknowledgeRetractionResponse) -> Acknowledgement:
        said = read_acknowledgement(answer.statement.encode())
        if said.through < through:
            raise VerificationError("the server recorded another answer than was given")
        return said

    request = pin_pb.AcknowledgeRetractionRequest(pin=pin, through=through)
    return Question(lambda channel: PinServiceStub(channel).AcknowledgeRetraction, request, read)


def delete_pin(name: str) -> Question[None]:
    """Ask for a pin to be ended, if it is there: an answer may be lost, and the question asked again."""

    def read(_: pin_pb.DeletePinResponse) -> None:
        """Nothing is said."""

    request = pin_pb.DeletePinRequest(name=name, allow_missing=True)
    return Question(lambda channel: PinServiceStub(channel).DeletePin, request, read)


# --- agreements ---


def own_agreement(version: str) -> Question[VersionInfo | None]:
    """Ask for a version of the caller's agreement, without a name for the one that rules."""

    def read(answer: agreement_pb.GetOwnAgreementResponse) -> VersionInfo | None:
        if answer.unrestricted and not answer.HasField("agreement"):
            return None
        found = agreement_from_proto(answer.agreement)
        if version not in {"", found.version.name, str(found.version.ordinal)}:
            raise VerificationError("the server sent another agreement than was asked for")
        return found

    request = agreement_pb.GetOwnAgreementRequest(version=version)
    return Question(lambda channel: AgreementServiceStub(channel).GetOwnAgreement, request, read)


def own_agreements(token: str) -> Question[Listed[VersionInfo]]:
    """Ask for all versions of the caller's agreement in the order of their being added."""

    def read(answer: agreement_pb.ListOwnAgreementsResponse) -> Listed[VersionInfo]:
        return Listed(list(map(agreement_from_proto, answer.agreements)), answer.next_page_token)

    return Question(
        lambda channel: AgreementServiceStub(channel).ListOwnAgreements,
        agreement_pb.ListOwnAgreementsRequest(page_size=MAX_PAGE, page_token=token),
        read,
    )


# --- signed checkpoints ---


def checkpoint() -> Question[str]:
    """Ask for a signed checkpoint of now."""

    def read(answer: checkpoint_pb.GetCheckpointResponse) -> str:
        return answer.checkpoint

    return Question(
        lambda channel: CheckpointServiceStub(channel).GetCheckpoint,
        checkpoint_pb.GetCheckpointRequest(),
        read,
    )


def inclusion(snapshot_id: bytes, size: int) -> Question[Inclusion]:
    """Ask for the proof that a snapshot's manifest is a leaf of the log of a size."""
    return _inclusion(checkpoint_pb.GetInclusionProofRequest(snapshot=format_digest(snapshot_id), size=size))


def pin_inclusion(name: str, size: int) -> Question[Inclusion]:
    """Ask for the proof that the newest statement of a pin is a leaf of the log of a size."""
    return _inclusion(checkpoint_pb.GetInclusionProofRequest(pin=name, size=size))


def _inclusion(request: checkpoint_pb.GetInclusionProofRequest) -> Question[Inclusion]:
    def read(proof: checkpoint_pb.GetInclusionProofResponse) -> Inclusion:
        return Inclusion(proof.leaf.encode(), proof.leaf_index, proof.size, list(proof.path))

    return Question(lambda channel: CheckpointServiceStub(channel).GetInclusionProof, request, read)


def consistency(first: int, second: int) -> Question[list[bytes]]:
    """Ask for the proof that the log of the second size begins with that of the first."""

    def read(answer: checkpoint_pb.GetConsistencyProofResponse) -> list[bytes]:
        return list(answer.path)

    request = checkpoint_pb.GetConsistencyProofRequest(first_size=first, second_size=second)
    return Question(lambda channel: CheckpointServiceStub(channel).GetConsistencyProof, request, read)


# --- as the wire can carry it ---


def id_of(number: int) -> int:
    """Return an id as the wire can carry it: beyond 64 bits nothing has one, and nothing has 0."""
    return number if -MAX_ID <= number <= MAX_ID else 0


def position_of(number: int) -> int:
    """Return a position as the wire can carry it: one that is as far out of range."""
    return max(-MAX_ID, min(number, MAX_ID))


def view_of(*, text: bool) -> revision_pb.RevisionView.ValueType:
    """Return whether texts come along, as the wire says it."""
    return revision_pb.REVISION_VIEW_FULL if text else revision_pb.REVISION_VIEW_BASIC


def _as_sent(answer: T) -> T:
    return answer
