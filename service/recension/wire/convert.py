"""Model <-> proto, both directions together.

Text larger than ``MAX_UNARY_TEXT`` is left out of a message and marked ``text_omitted``; several texts of one
answer share ``TextBudget``, so that no answer passes the 4 MiB that every gRPC client takes by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from recension.model import event as model
from recension.model.credit import LicensePeriod
from recension.model.digest import format_digest, parse_digest
from recension.model.errors import (
    BY_REASON,
    InvalidArgumentError,
    InvalidEventError,
    InvalidTimeError,
    RecensionError,
    VerificationError,
)
from recension.model.instant import check_instant
from recension.model.manifest import AsOf, Manifest, OnHidden, ProjectPart, Redirects, Selector, read_manifest
from recension.model.reading import (
    START,
    WHOLE,
    Change,
    ChangeKind,
    Entry,
    Place,
    ProjectInfo,
    Proof,
    Provenance,
    Revision,
    ServerInfo,
    Shard,
    SigningKey,
    Slot,
    TimelineItem,
)
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import checkpoint_service_pb2 as checkpoint_pb
from recension.v1 import event_pb2 as event_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire.status import canonical_code

MAX_UNARY_TEXT = 2 * 1024 * 1024
"""Bytes of one text above which it is left out of an answer; ``GetServerInfo`` says so to clients."""
MAX_ANSWER_TEXT = 3 * 1024 * 1024
"""Bytes of all texts of one unary answer."""
MAX_SOURCE_ID_BYTES = 512

_SECOND = 1_000_000
_NANOS = 1_000_000_000
_SLOT_PRESENCES = {
    event_pb.PRESENCE_UNSPECIFIED: model.Presence.PRESENT,
    event_pb.PRESENCE_PRESENT: model.Presence.PRESENT,
    event_pb.PRESENCE_HIDDEN: model.Presence.HIDDEN,
    event_pb.PRESENCE_LOST: model.Presence.LOST,
}

NamespaceOf = Callable[[str], int]
"""Derives a namespace number from a title's prefix, for events that state none."""


def no_prefixes(title: str) -> int:  # noqa: ARG001 - the shape of ``NamespaceOf``
    """Return the main namespace: nothing is known of the project's prefixes."""
    return 0


class TextBudget:
    """What is left for texts in one answer."""

    def __init__(self, each: int = MAX_UNARY_TEXT, total: int = MAX_ANSWER_TEXT) -> None:
        """``each``: largest single text in bytes; ``total``: all of them together."""
        self._each = each
        self._left = total

    def fits(self, size: int) -> bool:
        """Say whether there is room for a text."""
        return size <= self._each and size <= self._left

    def take(self, size: int) -> bool:
        """Reserve room for a text; False when it must be left out."""
        if not self.fits(size):
            return False
        self._left -= size
        return True


# --- times and as-of ----------------------------------------------------------------------------


def timestamp_to_proto(instant: int) -> Timestamp:
    """Write an instant; filled directly, which costs half of ``FromMicroseconds``."""
    seconds, micros = divmod(instant, _SECOND)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def timestamp_from_proto(message: Timestamp, field: str = "time") -> int:
    """Read an instant; digits beyond the microsecond are cut. Raises ``InvalidTimeError``."""
    if not 0 <= message.nanos < _NANOS:
        raise InvalidTimeError(f"{field}: nanos lie in 0 to 999,999,999", field=field, value=message.nanos)
    return check_instant(message.seconds * _SECOND + message.nanos // 1000)


def as_of_to_proto(as_of: AsOf) -> revision_pb.AsOf:
    """Write a resolved as-of."""
    return revision_pb.AsOf(valid_at=timestamp_to_proto(as_of.valid_at), known_at=as_of.known_at)


def as_of_from_proto(message: revision_pb.AsOf) -> AsOf:
    """Read a resolved as-of."""
    return AsOf(timestamp_from_proto(message.valid_at, "as_of.valid_at"), message.known_at)


def wanted_as_of_to_proto(valid_at: int | None, known_at: int) -> revision_pb.AsOf:
    """Write the as-of of a request: no T means now, 0 means the newest K."""
    return revision_pb.AsOf(
        valid_at=None if valid_at is None else timestamp_to_proto(valid_at), known_at=known_at
    )


def wanted_as_of_from_proto(message: revision_pb.AsOf) -> tuple[int | None, int]:
    """Read the as-of of a request: (T or None for now, K or 0 for the newest)."""
    valid_at = (
        timestamp_from_proto(message.valid_at, "as_of.valid_at") if message.HasField("valid_at") else None
    )
    return valid_at, known_at_from_proto(message.known_at, "as_of.known_at")


def known_at_from_proto(value: int, field: str = "known_at") -> int:
    """Read a position. Raises ``InvalidArgumentError`` when it is negative."""
    if value < 0:
        raise InvalidArgumentError(f"{field}: a position is not negative", field=field, value=value)
    return value


# --- catalog ------------------------------------------------------------------------------------


def project_to_proto(info: ProjectInfo) -> catalog_pb.Project:
    """Write a project."""
    first, last = info.first_event_at, info.last_event_at
    return catalog_pb.Project(
        name=info.name,
        base_url=info.base_url,
        language=info.language,
        license=info.license,
        revisions=info.revisions,
        pages=info.pages,
        position=info.position,
        first_event_at=None if first is None else timestamp_to_proto(first),
        last_event_at=None if last is None else timestamp_to_proto(last),
        unresolved_log_entries=info.unresolved_log_entries,
        license_periods=[
            catalog_pb.LicensePeriod(
                license=period.license,
                since=None if period.since is None else timestamp_to_proto(period.since),
            )
            for period in info.licenses
        ],
    )


def project_from_proto(message: catalog_pb.Project) -> ProjectInfo:
    """Read a project."""
    return ProjectInfo(
        name=message.name,
        base_url=message.base_url,
        language=message.language,
        license=message.license,
        revisions=message.revisions,
        pages=message.pages,
        position=message.position,
        first_event_at=(
            timestamp_from_proto(message.first_event_at) if message.HasField("first_event_at") else None
        ),
        last_event_at=timestamp_from_proto(message.last_event_at)
        if message.HasField("last_event_at")
        else None,
        unresolved_log_entries=message.unresolved_log_entries,
        licenses=tuple(
            LicensePeriod(
                period.license,
                timestamp_from_proto(period.since, "since") if period.HasField("since") else None,
            )
            for period in message.license_periods
        ),
    )


def signing_key_to_proto(key: SigningKey) -> checkpoint_pb.SigningKey:
    """Write a signing key."""
    return checkpoint_pb.SigningKey(
        key=key.key, statement=key.statement, position=key.position, leaf_index=key.leaf_index
    )


def server_info_from_proto(message: catalog_pb.GetServerInfoResponse) -> ServerInfo:
    """Read what a server is."""
    return ServerInfo(
        version=message.version,
        formats=tuple(message.formats),
        position=message.position,
        recorded_at=timestamp_from_proto(message.recorded_at, "recorded_at"),
        signing_keys=tuple(map(_signing_key_from_proto, message.signing_keys)),
    )


def _signing_key_from_proto(message: checkpoint_pb.SigningKey) -> SigningKey:
    return SigningKey(message.key, message.statement, message.position, message.leaf_index)


# --- people, comments, slots --------------------------------------------------------------------


def contributor_to_proto(contributor: model.Contributor) -> event_pb.Contributor | None:
    """Write a contributor; ``None`` leaves the field unset: there is none."""
    match contributor.presence:
        case model.Presence.PRESENT:
            return event_pb.Contributor(name=contributor.name, id=contributor.id)
        case model.Presence.HIDDEN:
            return event_pb.Contributor(hidden=True)
        case _:
            return None


def contributor_from_proto(message: event_pb.Contributor, *, given: bool) -> model.Contributor:
    """Read a contributor; ``given`` is the ``HasField`` of the message around it."""
    if not given:
        return model.NOBODY
    if message.hidden:
        if message.name or message.HasField("id"):
            raise InvalidEventError(
                "contributor: a hidden contributor has neither name nor id", field="contributor"
            )
        return model.HIDDEN_CONTRIBUTOR
    return model.Contributor.named(message.name, message.id if message.HasField("id") else None)


def _comment(text: str, *, hidden: bool) -> model.Comment:
    if not hidden:
        return model.Comment.of(text)
    if text:
        raise InvalidEventError("comment: a hidden comment has no text", field="comment")
    return model.HIDDEN_COMMENT


def slot_to_proto(slot: Slot, budget: TextBudget | None = None) -> revision_pb.Slot:
    """Write a slot. A text or frame that the budget has no room for is left out and marked."""
    message = slot_head_to_proto(slot)
    if slot.text is not None:
        if (budget or TextBudget()).take(len(slot.text)):
            message.text = slot.text.decode()
        else:
            message.text_omitted = True
    elif slot.frame is not None and slot.presence is model.Presence.PRESENT:
        if (budget or TextBudget()).take(slot.size_bytes):
            message.text_zstd = slot.frame
        else:
            message.text_omitted = True
    return message


def slot_head_to_proto(slot: Slot) -> revision_pb.Slot:
    """Write a slot without its text."""
    return revision_pb.Slot(
        role=slot.role,
        model=slot.model,
        format=slot.format,
        presence=cast("event_pb.Presence.ValueType", int(slot.presence)),
        digest=format_digest(slot.digest) if slot.digest else "",
        size_bytes=slot.size_bytes,
        sha1_verdict=slot.sha1_verdict,
    )


def slot_from_proto(message: revision_pb.Slot, *, text: bool = True) -> Slot:
    """Read a slot; ``text`` says whether texts were asked for, as an empty one looks like none."""
    digest = parse_digest(message.digest, "digest") if message.digest else b""
    presence = _presence(message.presence, given=bool(digest))
    held = text and presence is model.Presence.PRESENT and not message.text_omitted
    frame = message.text_zstd if held else b""
    return Slot(
        role=message.role,
        model=message.model,
        format=message.format,
        presence=presence,
        size_bytes=message.size_bytes,
        digest=digest,
        text=message.text.encode() if held and not (frame and not message.text) else None,
        sha1_verdict=message.sha1_verdict,
        frame=frame or None,
    )


def _presence(value: int, *, given: bool) -> model.Presence:
    if value == event_pb.PRESENCE_UNSPECIFIED:
        return model.Presence.PRESENT if given else model.Presence.ABSENT
    try:
        return model.Presence(value)
    except ValueError:
        raise InvalidArgumentError(
            f"presence: {value} is not known", hint="use a newer recension", field="presence"
        ) from None


# --- revisions and timelines --------------------------------------------------------------------


def provenance_to_proto(told: Provenance) -> revision_pb.Provenance:
    """Return what a revision was read from."""
    return revision_pb.Provenance(
        position=told.position,
        recorded_at=timestamp_to_proto(told.recorded_at),
        form=told.form,
        digest=format_digest(told.digest) if told.digest else "",
        size_bytes=told.size_bytes,
        source=told.source,
        first_event=told.events[0],
        end_event=told.events[1],
        offsets=told.offsets,
        stated_license=told.stated_license,
    )


def provenance_from_proto(message: revision_pb.Provenance) -> Provenance:
    """Read what a revision was read from. Raises ``InvalidArgumentError``."""
    return Provenance(
        message.position,
        timestamp_from_proto(message.recorded_at),
        message.form,
        parse_digest(message.digest) if message.digest else b"",
        message.size_bytes,
        message.source,
        (message.first_event, message.end_event),
        dict(message.offsets),
        message.stated_license,
    )


def revision_to_proto(revision: Revision, budget: TextBudget | None = None) -> revision_pb.Revision:
    """Write a revision."""
    shared = budget or TextBudget()
    return revision_pb.Revision(
        project=revision.project,
        page_id=revision.page_id,
        rev_id=revision.rev_id,
        parent_rev_id=revision.parent_rev_id,
        timestamp=timestamp_to_proto(revision.timestamp),
        title=revision.title,
        namespace=revision.namespace,
        title_inferred=revision.title_inferred,
        contributor=contributor_to_proto(revision.contributor),
        comment=revision.comment.text,
        comment_presence=cast("event_pb.Presence.ValueType", int(revision.comment.presence)),
        minor=revision.minor,
        redirect=revision.redirect,
        slots=[slot_to_proto(slot, shared) for slot in revision.slots],
        position=revision.position,
        recorded_at=timestamp_to_proto(revision.recorded_at),
    )


def revision_from_proto(message: revision_pb.Revision, *, text: bool = True) -> Revision:
    """Read a revision; ``text`` says whether texts were asked for."""
    return Revision(
        project=message.project,
        page_id=message.page_id,
        rev_id=message.rev_id,
        parent_rev_id=message.parent_rev_id,
        timestamp=timestamp_from_proto(message.timestamp, "timestamp"),
        title=message.title,
        namespace=message.namespace,
        title_inferred=message.title_inferred,
        contributor=contributor_from_proto(message.contributor, given=message.HasField("contributor")),
        comment=model.Comment(
            _presence(message.comment_presence, given=bool(message.comment)), message.comment
        ),
        minor=message.minor,
        redirect=message.redirect,
        slots=tuple(slot_from_proto(slot, text=text) for slot in message.slots),
        position=message.position,
        recorded_at=timestamp_from_proto(message.recorded_at, "recorded_at"),
    )


def timeline_item_to_proto(item: TimelineItem) -> revision_pb.TimelineItem:
    """Write a timeline item."""
    message = revision_pb.TimelineItem(
        time=timestamp_to_proto(item.time),
        position=item.position,
        recorded_at=timestamp_to_proto(item.recorded_at),
    )
    match item.what:
        case Revision() as edit:
            message.edit.CopyFrom(revision_to_proto(edit))
        case model.Move() as move:
            message.move.CopyFrom(_move_to_proto(move))
        case model.Delete() as delete:
            message.delete.CopyFrom(_titled_to_proto(delete, event_pb.PageDelete))
        case model.Restore() as restore:
            message.restore.CopyFrom(_titled_to_proto(restore, event_pb.PageRestore))
        case model.Visibility() as visibility:
            message.visibility.CopyFrom(_visibility_to_proto(visibility))
    return message


def timeline_item_from_proto(message: revision_pb.TimelineItem) -> TimelineItem:
    """Read a timeline item."""
    what: Revision | model.Move | model.Delete | model.Restore | model.Visibility
    match message.WhichOneof("kind"):
        case "edit":
            what = revision_from_proto(message.edit, text=False)
        case "move":
            what = _move(message.move, no_prefixes)
        case "delete":
            what = _titled(message.delete, model.Delete, no_prefixes)
        case "restore":
            what = _titled(message.restore, model.Restore, no_prefixes)
        case "visibility":
            what = _visibility(message.visibility)
        case _:
            raise InvalidArgumentError(
                "timeline item of an unknown kind", hint="use a newer recension", field="kind"
            )
    return TimelineItem(
        time=timestamp_from_proto(message.time),
        position=message.position,
        recorded_at=timestamp_from_proto(message.recorded_at, "recorded_at"),
        what=what,
    )


# --- snapshots ----------------------------------------------------------------------------------

_REDIRECTS: dict[snapshot_pb.Redirects.ValueType, Redirects] = {
    snapshot_pb.REDIRECTS_INCLUDE: Redirects.INCLUDE,
    snapshot_pb.REDIRECTS_EXCLUDE: Redirects.EXCLUDE,
    snapshot_pb.REDIRECTS_ONLY: Redirects.ONLY,
}
_ON_HIDDEN: dict[snapshot_pb.OnHidden.ValueType, OnHidden] = {
    snapshot_pb.ON_HIDDEN_SKIP: OnHidden.SKIP,
    snapshot_pb.ON_HIDDEN_FALL_BACK: OnHidden.FALL_BACK,
    snapshot_pb.ON_HIDDEN_KEEP: OnHidden.KEEP,
}
_CHANGE_KINDS: dict[snapshot_pb.ChangeKind.ValueType, ChangeKind] = {
    snapshot_pb.CHANGE_KIND_ADDED: ChangeKind.ADDED,
    snapshot_pb.CHANGE_KIND_REMOVED: ChangeKind.REMOVED,
    snapshot_pb.CHANGE_KIND_EDITED: ChangeKind.EDITED,
    snapshot_pb.CHANGE_KIND_MOVED: ChangeKind.MOVED,
    snapshot_pb.CHANGE_KIND_EDITED_AND_MOVED: ChangeKind.EDITED_AND_MOVED,
    snapshot_pb.CHANGE_KIND_RETRACTED: ChangeKind.RETRACTED,
}
_REDIRECTS_OUT = {value: key for key, value in _REDIRECTS.items()}
_ON_HIDDEN_OUT = {value: key for key, value in _ON_HIDDEN.items()}
_CHANGE_KINDS_OUT = {value: key for key, value in _CHANGE_KINDS.items()}


def selector_to_proto(selector: Selector) -> snapshot_pb.Selector:
    """Write a selector."""
    return snapshot_pb.Selector(
        projects=selector.projects,
        namespaces=selector.namespaces,
        models=selector.models,
        redirects=_REDIRECTS_OUT[selector.redirects],
        min_age=Duration(seconds=selector.min_age_seconds) if selector.min_age_seconds else None,
        on_hidden=_ON_HIDDEN_OUT[selector.on_hidden],
    )


def selector_from_proto(message: snapshot_pb.Selector) -> Selector:
    """Read a selector into its normal form. Raises ``InvalidArgumentError``."""
    if message.min_age.nanos:
        raise InvalidArgumentError("min_age: whole seconds, without a fraction", field="min_age")
    redirects = _REDIRECTS.get(message.redirects or snapshot_pb.REDIRECTS_INCLUDE)
    if redirects is None:
        raise InvalidArgumentError(f"redirects: {message.redirects} is not known", field="redirects")
    on_hidden = _ON_HIDDEN.get(message.on_hidden or snapshot_pb.ON_HIDDEN_SKIP)
    if on_hidden is None:
        raise InvalidArgumentError(f"on_hidden: {message.on_hidden} is not known", field="on_hidden")
    return Selector.of(
        list(message.projects),
        list(message.namespaces),
        list(message.models),
        redirects,
        message.min_age.seconds,
        on_hidden,
    )


def part_to_proto(part: ProjectPart) -> snapshot_pb.SnapshotPart:
    """Write one project's share of a snapshot."""
    return snapshot_pb.SnapshotPart(
        project=part.project, count=part.count, text_bytes=part.text_bytes, root=format_digest(part.root)
    )


def manifest_to_proto(manifest: Manifest) -> snapshot_pb.Snapshot:
    """Write a snapshot: its id, its canonical JSON, and the same as fields."""
    return snapshot_pb.Snapshot(
        id=format_digest(manifest.snapshot_id),
        manifest=manifest.encoded.decode(),
        selector=selector_to_proto(manifest.selector),
        as_of=as_of_to_proto(manifest.as_of),
        parts=[part_to_proto(part) for part in manifest.parts],
    )


def manifest_from_proto(message: snapshot_pb.Snapshot) -> Manifest:
    """Read a snapshot from its canonical JSON alone. Raises ``VerificationError`` if the id is another's."""
    manifest = read_manifest(message.manifest.encode())
    actual = format_digest(manifest.snapshot_id)
    if message.id != actual:
        raise VerificationError(
            f"the manifest's digest is {actual}, the server says {message.id}",
            hint="do not use this snapshot; the server or something on the way changed it",
            expected=message.id,
            actual=actual,
        )
    return manifest


def entry_to_proto(
    entry: Entry, budget: TextBudget | None = None, *, slots: bool = True
) -> snapshot_pb.Entry:
    """Write an entry, without its slots if they are written apart."""
    shared = budget or TextBudget()
    return snapshot_pb.Entry(
        project=entry.project,
        page_id=entry.page_id,
        rev_id=entry.rev_id,
        timestamp=timestamp_to_proto(entry.timestamp),
        title=entry.title,
        namespace=entry.namespace,
        title_inferred=entry.title_inferred,
        slots=[slot_to_proto(slot, shared) for slot in entry.slots] if slots else None,
        title_salt=entry.title_salt,
        content_salt=entry.content_salt,
        content_commitment=entry.content_commitment,
        text_hidden=entry.text_hidden,
    )


def entry_from_proto(
    message: snapshot_pb.Entry, *, text: bool = True, slots: tuple[Slot, ...] | None = None
) -> Entry:
    """Read an entry; ``text`` says whether texts were asked for, ``slots`` are those that were read."""
    if slots is None:
        slots = tuple([slot_from_proto(slot, text=text) for slot in message.slots])
    return Entry(
        project=message.project,
        page_id=message.page_id,
        rev_id=message.rev_id,
        timestamp=timestamp_from_proto(message.timestamp, "timestamp"),
        title=message.title,
        namespace=message.namespace,
        title_inferred=message.title_inferred,
        slots=slots,
        title_salt=message.title_salt,
        content_salt=message.content_salt,
        content_commitment=message.content_commitment,
        text_hidden=message.text_hidden,
    )


def proof_to_proto(proof: Proof) -> snapshot_pb.ProveEntryResponse:
    """Write a proof of an entry or of its absence."""
    return snapshot_pb.ProveEntryResponse(
        manifest=proof.manifest.encoded.decode(),
        project=proof.project,
        page_id=proof.page_id,
        entry=None if proof.entry is None else entry_to_proto(proof.entry),
        path=proof.path,
        prefix=proof.prefix,
    )


def proof_from_proto(message: snapshot_pb.ProveEntryResponse) -> Proof:
    """Read a proof; nothing of it is checked yet."""
    return Proof(
        manifest=read_manifest(message.manifest.encode()),
        project=message.project,
        page_id=message.page_id,
        entry=entry_from_proto(message.entry, text=False) if message.HasField("entry") else None,
        path=tuple(message.path),
        prefix=message.prefix if message.HasField("prefix") else None,
    )


def change_to_proto(change: Change, budget: TextBudget | None = None) -> snapshot_pb.Change:
    """Write a change; both sides share the budget."""
    shared = budget or TextBudget()
    return snapshot_pb.Change(
        kind=_CHANGE_KINDS_OUT[change.kind],
        project=change.project,
        page_id=change.page_id,
        before=None if change.before is None else entry_to_proto(change.before, shared),
        after=None if change.after is None else entry_to_proto(change.after, shared),
        text_bytes_before=change.text_bytes_before,
        text_bytes_after=change.text_bytes_after,
    )


def change_from_proto(message: snapshot_pb.Change, *, text: bool = False) -> Change:
    """Read a change; ``text`` says whether texts were asked for."""
    kind = _CHANGE_KINDS.get(message.kind)
    if kind is None:
        raise InvalidArgumentError(
            f"change of an unknown kind {message.kind}", hint="use a newer recension", field="kind"
        )
    return Change(
        kind=kind,
        project=message.project,
        page_id=message.page_id,
        before=entry_from_proto(message.before, text=text) if message.HasField("before") else None,
        after=entry_from_proto(message.after, text=text) if message.HasField("after") else None,
    )


def shard_to_proto(shard: Shard) -> snapshot_pb.Shard:
    """Write a shard."""
    return snapshot_pb.Shard(index=shard.index, count=shard.count)


def place_to_proto(place: Place) -> snapshot_pb.Place | None:
    """Write a place; none for the start."""
    return None if place == START else snapshot_pb.Place(project=place[0], page_id=place[1])


def place_from_proto(message: snapshot_pb.Place) -> Place:
    """Read a place. Raises ``InvalidArgumentError`` for a page id that no page has."""
    if message.page_id < 0:
        raise InvalidArgumentError(
            f"after.page_id: not a page id: {message.page_id}",
            hint="page ids are positive; leave it out to start at the beginning",
            field="after.page_id",
        )
    return message.project, message.page_id


def shard_from_proto(message: snapshot_pb.Shard) -> Shard:
    """Read a shard; count 0 means no sharding. Raises ``InvalidArgumentError``."""
    if message.count == 0 and message.index == 0:
        return WHOLE
    if message.count < 1 or not 0 <= message.index < message.count:
        raise InvalidArgumentError(
            f"shard: index {message.index} of {message.count}",
            hint="a shard's index runs from 0 to count-1",
            field="shard",
            index=message.index,
            count=message.count,
        )
    return Shard(message.index, message.count)


# --- single outcomes of a batch -----------------------------------------------------------------


def item_error_to_proto(error: RecensionError) -> revision_pb.ItemError:
    """Write why one item of a batch has no answer."""
    return revision_pb.ItemError(
        code=canonical_code(error).value[0], reason=error.reason, message=error.message
    )


def item_error_from_proto(message: revision_pb.ItemError) -> RecensionError:
    """Read why one item of a batch has no answer."""
    return BY_REASON.get(message.reason, RecensionError)(message.message)


# --- events -------------------------------------------------------------------------------------


def event_to_proto(event: model.Event) -> event_pb.Event:
    """Write an event. Raises ``InvalidEventError`` for a log entry, which has no place on the wire."""
    message = event_pb.Event(
        project=event.project,
        page_id=event.page_id,
        time=timestamp_to_proto(event.time),
        source_id=event.source_id,
    )
    match event.what:
        case model.Edit() as edit:
            message.edit.CopyFrom(_edit_to_proto(edit))
        case model.Move() as move:
            message.move.CopyFrom(_move_to_proto(move))
        case model.Delete() as delete:
            message.delete.CopyFrom(_titled_to_proto(delete, event_pb.PageDelete))
        case model.Restore() as restore:
            message.restore.CopyFrom(_titled_to_proto(restore, event_pb.PageRestore))
        case model.Visibility() as visibility:
            message.visibility.CopyFrom(_visibility_to_proto(visibility))
        case model.LogEntry():
            raise InvalidEventError("a log entry is ingested from a file, not sent", field="kind")
    return message


def event_from_proto(message: event_pb.Event, namespace_of: NamespaceOf = no_prefixes) -> model.Event:
    """Read an event and check it. Raises ``InvalidEventError`` or ``InvalidTimeError`` naming the field."""
    what: model.Happening
    match message.WhichOneof("kind"):
        case "edit":
            what = _edit(message.edit)
        case "move":
            what = _move(message.move, namespace_of)
        case "delete":
            what = _titled(message.delete, model.Delete, namespace_of)
        case "restore":
            what = _titled(message.restore, model.Restore, namespace_of)
        case "visibility":
            what = _visibility(message.visibility)
        case _:
            raise InvalidEventError(
                "kind: one of edit, move, delete, restore, visibility is set", field="kind"
            )
    if not 1 <= len(message.source_id.encode()) <= MAX_SOURCE_ID_BYTES:
        raise InvalidEventError(f"sourceId: it has 1 to {MAX_SOURCE_ID_BYTES} bytes", field="sourceId")
    if not message.HasField("time"):
        raise InvalidTimeError("time: it is missing", field="time")
    event = model.Event(
        message.project, message.page_id, timestamp_from_proto(message.time), message.source_id, what
    )
    model.check_event(event)
    return event


def _edit_to_proto(edit: model.Edit) -> event_pb.Edit:
    return event_pb.Edit(
        rev_id=edit.rev_id,
        parent_rev_id=edit.parent_rev_id,
        title=edit.title,
        namespace=edit.namespace,
        contributor=contributor_to_proto(edit.contributor),
        comment=edit.comment.text,
        minor=edit.minor,
        slots=[
            event_pb.SlotContent(
                role=slot.role,
                model=slot.model,
                format=slot.format,
                text=slot.text.decode(),
                presence=cast("event_pb.Presence.ValueType", int(slot.presence)),
                claimed_sha1=slot.claimed_sha1,
                claimed_bytes=slot.claimed_bytes,
            )
            for slot in edit.slots
        ],
        title_inferred=edit.title_inferred,
        comment_hidden=edit.comment.presence is model.Presence.HIDDEN,
    )


def _edit(message: event_pb.Edit) -> model.Edit:
    return model.Edit(
        rev_id=message.rev_id,
        parent_rev_id=message.parent_rev_id,
        title=message.title,
        namespace=message.namespace,
        title_inferred=message.title_inferred,
        contributor=contributor_from_proto(message.contributor, given=message.HasField("contributor")),
        comment=_comment(message.comment, hidden=message.comment_hidden),
        minor=message.minor,
        slots=tuple(map(_slot_text, message.slots)),
    )


def _slot_text(message: event_pb.SlotContent) -> model.SlotText:
    presence = _SLOT_PRESENCES.get(message.presence)
    if presence is None:
        raise InvalidEventError(f"slots.presence: {message.presence} is not known", field="slots.presence")
    if message.text and presence is not model.Presence.PRESENT:
        raise InvalidEventError(f"slots.text: a slot that is {presence.name} has no text", field="slots.text")
    return model.SlotText(
        role=message.role,
        model=message.model,
        format=message.format,
        presence=presence,
        text=message.text.encode(),
        claimed_sha1=message.claimed_sha1,
        claimed_bytes=message.claimed_bytes if message.HasField("claimed_bytes") else None,
    )


def _move_to_proto(move: model.Move) -> event_pb.Move:
    return event_pb.Move(
        from_title=move.from_title,
        to_title=move.to_title,
        contributor=contributor_to_proto(move.contributor),
        comment=move.comment.text,
        from_namespace=move.from_namespace,
        to_namespace=move.to_namespace,
        comment_hidden=move.comment.presence is model.Presence.HIDDEN,
    )


def _move(message: event_pb.Move, namespace_of: NamespaceOf) -> model.Move:
    source, target = message.from_title, message.to_title
    return model.Move(
        from_title=source,
        from_namespace=(
            message.from_namespace if message.HasField("from_namespace") else namespace_of(source)
        ),
        to_title=target,
        to_namespace=message.to_namespace if message.HasField("to_namespace") else namespace_of(target),
        contributor=contributor_from_proto(message.contributor, given=message.HasField("contributor")),
        comment=_comment(message.comment, hidden=message.comment_hidden),
    )


_Titled = TypeVar("_Titled", model.Delete, model.Restore)
_TitledPb = TypeVar("_TitledPb", event_pb.PageDelete, event_pb.PageRestore)


def _titled_to_proto(what: model.Delete | model.Restore, message: type[_TitledPb]) -> _TitledPb:
    return message(
        title=what.title,
        contributor=contributor_to_proto(what.contributor),
        comment=what.comment.text,
        namespace=what.namespace,
        comment_hidden=what.comment.presence is model.Presence.HIDDEN,
    )


def _titled(
    message: event_pb.PageDelete | event_pb.PageRestore, what: type[_Titled], namespace_of: NamespaceOf
) -> _Titled:
    return what(
        title=message.title,
        namespace=message.namespace if message.HasField("namespace") else namespace_of(message.title),
        contributor=contributor_from_proto(message.contributor, given=message.HasField("contributor")),
        comment=_comment(message.comment, hidden=message.comment_hidden),
    )


def _visibility_to_proto(visibility: model.Visibility) -> event_pb.VisibilityChange:
    return event_pb.VisibilityChange(
        rev_id=visibility.rev_id,
        text_hidden=visibility.text_hidden,
        comment_hidden=visibility.comment_hidden,
        contributor_hidden=visibility.contributor_hidden,
        contributor=contributor_to_proto(visibility.contributor),
        comment=visibility.comment.text,
        log_comment_hidden=visibility.comment.presence is model.Presence.HIDDEN,
    )


def _visibility(message: event_pb.VisibilityChange) -> model.Visibility:
    return model.Visibility(
        rev_id=message.rev_id,
        text_hidden=message.text_hidden,
        comment_hidden=message.comment_hidden,
        contributor_hidden=message.contributor_hidden,
        contributor=contributor_from_proto(message.contributor, given=message.HasField("contributor")),
        comment=_comment(message.comment, hidden=message.log_comment_hidden),
    )
