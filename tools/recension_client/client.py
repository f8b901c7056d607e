"""The client: the ``Reader`` protocol over the wire, with every text checked against its digest.

What is asked and how it is read is in ``questions`` and ``streams``, when it is asked again in ``retrying``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import dropwhile, islice
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import grpc

from recension.model.agreement import VersionInfo
from recension.model.credit import Attribution, Credited
from recension.model.difference import DEFAULT_CONTEXT
from recension.model.errors import RecensionError, UnreachableError
from recension.model.manifest import Manifest, Selector
from recension.model.pin import Pin
from recension.model.reading import (
    START,
    WHOLE,
    Answer,
    Change,
    Entry,
    Place,
    ProjectInfo,
    Proof,
    Provenance,
    Revision,
    RevisionDiff,
    ServerInfo,
    Shard,
    TimelineItem,
    TimelinePlace,
    behind,
)
from recension.model.retraction import Acknowledgement, Withdrawn
from recension.model.usage import Usage
from recension.v1 import revision_service_pb2 as revision_pb
from recension.wire.convert import TextBudget
from recension.wire.status import error_of
from recension_client import questions, retrying
from recension_client.ahead import Leave, closed
from recension_client.assembling import NO_ROOM, frames_room, omitted_roles, revision_of
from recension_client.channel import counted, way_to
from recension_client.corpus import Corpus, Snapshot, digest_given
from recension_client.questions import Channel, Listed, Question
from recension_client.retrying import Attempts, CutError, Retry, cut_by, passing
from recension_client.streams import (
    AttributionStream,
    ChangeStream,
    ChosenStream,
    EntryStream,
    Stream,
    TextStream,
)
from recension_client.trust import Inclusion
from recension_client.watching import Commit, Heartbeat, Since, WatchStream

_Item = TypeVar("_Item")


class Client:
    """Reads from one server. Usable from several threads; connects at the first question."""

    def __init__(
        self,
        target: str,
        *,
        key: str = "",
        tls_ca: str = "",
        tls_cert: str = "",
        timeout_seconds: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """``target``: ``host:port``.

        ``key``: what the operator gave to show, if the server asks for one. ``tls_ca``: path of the roots
        that the server's certificate has to lead to, or ``system``; empty without TLS. ``tls_cert``: path of
        one's own certificate and its private key, if the server asks for one.
        ``timeout_seconds``: deadline of each question, tries and pauses together, else 30, and 600 to make a
        snapshot; streams have none. ``retry``: when to ask again, within it.
        """
        self._way = way_to(target, key, tls_ca, tls_cert)
        self._timeout = timeout_seconds
        self._retry = retry or retrying.DEFAULT
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._closing = threading.Event()
        self._running: WeakSet[Leave] = WeakSet()
        self._counting = threading.Lock()
        self.received_bytes = 0
        """All messages received so far, as they came."""

    @property
    def target(self) -> str:
        """The server's ``host:port``."""
        return self._way.target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; streams that still run end."""
        self._closing.set()
        with self._lock:
            channel, self._channel = self._channel, None
            running = list(self._running)
        for leave in running:
            leave()
        if channel is not None:
            channel.close()

    # --- what is read page by page ---

    def corpus(self, project: str) -> Corpus:
        """Return one project, without asking anything yet."""
        return Corpus(self, project)

    def open(self, snapshot_id: str | bytes) -> Snapshot:
        """Return a snapshot to read. Raises ``SnapshotNotFoundError``."""
        return Snapshot(self, self.snapshot(digest_given(snapshot_id)))

    # --- catalog ---

    def server_info(self) -> ServerInfo:
        """Return what the server is."""
        return self._ask(questions.server_info())

    def projects(self) -> list[ProjectInfo]:
        """Return all projects by name."""
        return list(self._all(questions.projects))

    def project(self, name: str) -> ProjectInfo:
        """Return one project. Raises ``ProjectNotFoundError``."""
        return self._ask(questions.project(name))

    # --- revisions ---

    def revision(self, project: str, rev_id: int, *, known_at: int = 0, text: bool = True) -> Answer:
        """Return a revision. Raises ``RevisionNotFoundError``."""
        answer = self._ask(questions.revision(project, rev_id, known_at=known_at, text=text))
        return Answer(self._whole(answer.revision, text=text), questions.as_of_in(answer))

    def provenance(self, project: str, rev_id: int, *, known_at: int = 0) -> Provenance:
        """Return what a revision was read from. Raises ``RevisionNotFoundError``."""
        return self._ask(questions.provenance(project, rev_id, known_at=known_at))

    def revisions(
        self, project: str, rev_ids: Sequence[int], *, known_at: int = 0, text: bool = True
    ) -> list[Revision | RecensionError]:
        """Return one outcome for each id, in the order asked; at most ``MAX_BATCH``."""
        outcomes = self._ask(questions.revisions(project, rev_ids, known_at=known_at, text=text))
        room = frames_room()
        return [questions.error_in(one) or self._whole(one.revision, room, text=text) for one in outcomes]

    def article(
        self,
        project: str,
        page: int | str,
        *,
        valid_at: int | None = None,
        known_at: int = 0,
        text: bool = True,
    ) -> Answer:
        """Return a page, by id or title, as it was. Raises ``PageNotFoundError``, ``AsOfOutOfRangeError``."""
        question = questions.article(project, page, valid_at=valid_at, known_at=known_at, text=text)
        answer = self._ask(question)
        return Answer(self._whole(answer.revision, text=text), questions.as_of_in(answer))

    def timeline(
        self, project: str, page_id: int, *, known_at: int = 0, after: TimelinePlace | None = None
    ) -> Iterator[TimelineItem]:
        """Yield what happened to a page, behind ``after``. Raises ``PageNotFoundError``."""
        # The wire has no such place; what lies before it is fetched and left out.
        return behind(self._all(questions.timeline(project, page_id, known_at)), after)

    def text(self, project: str, rev_id: int, role: str = "main") -> bytes:
        """Return one slot's text of any size. Raises ``TextUnavailableError``."""
        stream = TextStream(project, rev_id, role)
        for _ in self.flow(stream):
            pass
        return stream.result()

    def diff_revisions(
        self,
        project: str,
        before: int,
        after: int,
        *,
        role: str = "main",
        context: int = DEFAULT_CONTEXT,
        known_at: int = 0,
    ) -> RevisionDiff:
        """Compare one slot of two revisions. Raises ``RevisionNotFoundError``, ``TextUnavailableError``."""
        return self._ask(
            questions.diff_revisions(project, before, after, role=role, context=context, known_at=known_at)
        )

    def revision_attribution(self, project: str, rev_id: int, *, known_at: int = 0) -> Credited:
        """Return whom to credit for a revision. Raises ``RevisionNotFoundError``."""
        return self._ask(questions.revision_attribution(project, rev_id, known_at=known_at))

    def article_attribution(
        self, project: str, page: int | str, *, valid_at: int | None = None, known_at: int = 0
    ) -> Credited:
        """Return whom to credit for a page as it was. Raises as ``article``."""
        question = questions.article_attribution(project, page, valid_at=valid_at, known_at=known_at)
        return self._ask(question)

    # --- snapshots ---

    def create_snapshot(
        self, selector: Selector, *, valid_at: int | None = None, known_at: int = 0
    ) -> Manifest:
        """Compute and keep a snapshot. Raises ``ProjectNotFoundError``, ``AsOfOutOfRangeError``."""
        return self._ask(questions.create_snapshot(selector, valid_at=valid_at, known_at=known_at))

    def snapshot(self, snapshot_id: bytes) -> Manifest:
        """Return a snapshot. Raises ``SnapshotNotFoundError``."""
        return self._ask(questions.snapshot(snapshot_id))

    def snapshots(self, *, after: bytes = b"") -> Iterator[Manifest]:
        """Yield the snapshots in the order of their making, behind the one with the id ``after``."""
        made = self._all(questions.snapshots)
        if not after:
            return made
        self.snapshot(after)
        # The wire has no such place; what lies before it is fetched and left out.
        return islice(dropwhile(lambda manifest: manifest.snapshot_id != after, made), 1, None)

    def entries(self, snapshot_id: bytes, *, after: Place = START) -> Iterator[Entry]:
        """Yield entries without texts."""
        return self._all(questions.entries(snapshot_id, after))

    def read(
        self,
        snapshot_id: bytes,
        *,
        shard: Shard = WHOLE,
        after: Place = START,
        text: bool = True,
        most_bytes: int | None = None,
    ) -> Iterator[Entry]:
        """Yield a shard's entries, with texts unless ``text`` is off; a cut stream is resumed unnoticed.

        ``most_bytes``: text that the snapshot has, by its manifest; a stream that announces more is refused
        before it is taken.
        """
        stream = EntryStream(snapshot_id, shard, after, text=text, most_bytes=most_bytes)
        return self._items(stream)

    def read_at(
        self,
        snapshot_id: bytes,
        indexes: Sequence[int],
        *,
        text: bool = True,
        most_bytes: int | None = None,
    ) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked; also after a cut.

        At most ``MAX_INDEXES``. Texts are those of the entries' digests; that the entries are the snapshot's
        is the server's word. ``most_bytes``: text that the snapshot has, by its manifest, as in ``read``.
        """
        return self._items(ChosenStream(snapshot_id, indexes, text=text, most_bytes=most_bytes))

    def attributions(
        self, snapshot_id: bytes, *, shard: Shard = WHOLE, after: Place = START, since: bytes = b""
    ) -> Iterator[Attribution]:
        """Yield whom to credit for each page of a shard; a cut stream is resumed unnoticed.

        ``since``: only pages whose entry is another than in that snapshot.
        """
        return self._items(AttributionStream(snapshot_id, shard, after, since))

    def prove(self, snapshot_id: bytes, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not; what is returned was checked."""
        return self._ask(questions.prove(snapshot_id, project, page_id))

    def diff(
        self,
        before: bytes,
        after: bytes,
        *,
        start: Place = START,
        text: bool = False,
        most_bytes: int | None = None,
    ) -> Iterator[Change]:
        """Yield what differs between two snapshots; a cut stream is resumed unnoticed.

        ``text`` brings the texts of both sides. ``most_bytes``: text of both, by their manifests, which are
        asked for where it is not given; a stream that announces more is refused before it is taken.
        """
        if text and most_bytes is None:
            parts = (*self.snapshot(before).parts, *self.snapshot(after).parts)
            most_bytes = sum(part.text_bytes for part in parts)
        stream = ChangeStream(before, after, start, text=text, most_bytes=most_bytes)
        return self._items(stream)

    # --- changes ---

    def watch(
        self, selector: Selector, since: Since = 0, *, text: bool = False
    ) -> Iterator[Commit | Heartbeat]:
        """Yield every commit that changes a scope, and heartbeats; without end, over cuts and restarts.

        ``selector``: of one project. ``since``: a log position, what was kept of the last commit, or a
        snapshot of the project. ``text``: with the texts of changed pages, those of at most 1 MiB.

        Each commit was checked to lead from the root before to its own. Raises ``ProjectNotFoundError``,
        ``RootMismatchError``, ``AsOfOutOfRangeError``, ``SnapshotReleasedError``, ``VerificationError``.
        """
        return self._items(WatchStream(selector, since, text=text))

    # --- pins ---

    def create_pin(
        self, name: str, snapshot_id: bytes, readable_until: int, labels: Mapping[str, str] | None = None
    ) -> Pin:
        """Make a pin, or return it if there is the same. ``readable_until``: microseconds since the epoch.

        Raises ``SnapshotNotFoundError``, ``PinExistsError``, ``PinExpiredError``, ``SnapshotReleasedError``.
        """
        return self._ask(questions.create_pin(name, snapshot_id, readable_until, labels))

    def pin(self, name: str) -> Pin:
        """Return a live pin. Raises ``PinNotFoundError``, ``PinExpiredError``."""
        return self._ask(questions.pin(name))

    def pins(self) -> Iterator[Pin]:
        """Yield the caller's pins in the order of their making, expired ones too."""
        return self._all(questions.pins)

    def retractions(self, pin: str) -> Iterator[Withdrawn]:
        """Yield what was withdrawn from a pin since it was made, by (project, revision id); never its text.

        An expired pin can be asked about too. Raises ``PinNotFoundError``.
        """
        return self._all(partial(questions.retractions, pin))

    def acknowledge(self, pin: str, through: int) -> Acknowledgement:
        """Answer for all that was withdrawn from a pin up to a log position: it is removed here.

        Raises ``PinNotFoundError``, ``InvalidArgumentError``.
        """
        return self._ask(questions.acknowledge(pin, through))

    def extend_pin(self, name: str, readable_until: int) -> Pin:
        """Make a pin live longer. ``readable_until``: microseconds since the epoch, none before the present.

        Raises ``PinNotFoundError``, ``PinExpiredError``, ``InvalidArgumentError``.
        """
        return self._ask(questions.extend_pin(name, readable_until))

    def delete_pin(self, name: str) -> None:
        """End a pin, live or expired; one that is not there is as good as ended."""
        self._ask(questions.delete_pin(name))

    # --- agreements ---

    def own_agreement(self, version: str = "") -> VersionInfo | None:
        """Return a version of the caller's agreement, by digest or ordinal; without one, what rules now.

        ``None`` for a caller who needs none. Raises ``AgreementNotFoundError``.
        """
        return self._ask(questions.own_agreement(version))

    def own_agreements(self) -> Iterator[VersionInfo]:
        """Yield all versions of the caller's agreement in the order of their being added."""
        return self._all(questions.own_agreements)

    def usage(self, licensee: str = "") -> Usage:
        """Return what the caller has used of what its agreement allows; operators may name others.

        Raises ``LicenseeNotFoundError``.
        """
        return self._ask(questions.usage(licensee))

    # --- signed checkpoints ---

    def checkpoint(self) -> str:
        """Return a signed checkpoint of now, unchecked: ``checkpoints.open_checkpoint`` does that.

        Raises ``NoSigningKeyError``, ``LogForkedError``, ``SigningKeyUnusableError``.
        """
        return self._ask(questions.checkpoint())

    def inclusion(self, snapshot_id: bytes, size: int) -> Inclusion:
        """Return the proof that a snapshot's manifest is a leaf of the log of a size, unchecked."""
        return self._ask(questions.inclusion(snapshot_id, size))

    def pin_inclusion(self, name: str, size: int) -> Inclusion:
        """Return the proof that a pin's newest statement is a leaf of the log of a size, unchecked."""
        return self._ask(questions.pin_inclusion(name, size))

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the log of the second size begins with that of the first, unchecked."""
        return self._ask(questions.consistency(first, second))

    # --- calls ---

    def _whole(self, message: revision_pb.Revision, room: TextBudget = NO_ROOM, *, text: bool) -> Revision:
        """Read a revision, and fetch the texts left out for their size."""
        roles = omitted_roles(message) if text else ()
        pieces = {role: self.text(message.project, message.rev_id, role) for role in roles}
        return revision_of(message, pieces, room, text=text)

    def _ask(self, question: Question[_Item]) -> _Item:
        attempts = Attempts(self._retry, self._timeout or question.seconds)
        while True:
            channel = self._open()
            try:
                answer = self._call(channel, question.method, question.request, attempts.remaining())
            except grpc.RpcError as error:
                if self._closing.is_set():
                    raise closed() from None
                named = error_of(error)
                if not passing(named):
                    raise named from None
                if self._closing.wait(self._pause(attempts, named, channel)):
                    raise closed() from None
            else:
                return question.read(answer)

    def _all(self, question: Callable[[str], Question[Listed[_Item]]]) -> Iterator[_Item]:
        token = ""
        while True:
            page = self._ask(question(token))
            yield from page.items
            if not page.following:
                return
            token = page.following

    def _items(self, stream: Stream[_Item]) -> Iterator[_Item]:
        for items in self.flow(stream):
            yield from items

    def flow(self, stream: Stream[_Item], leave: Leave | None = None) -> Iterator[Sequence[_Item]]:
        """Yield a stream's items as they come, over as many calls as it takes, unless ``leave`` ends it."""
        leave = leave or Leave()
        with self._lock:
            self._running.add(leave)
        attempts = Attempts(self._retry)
        while True:
            channel = self._open()
            call = self._call(channel, stream.method, stream.request())
            cause: RecensionError = UnreachableError("the stream was cut")
            try:
                leave.begin(call)
                for message in call:
                    items = stream.take(message)
                    if items:
                        attempts.moved()
                        yield items
                    if stream.finished:
                        return
            except CutError as cut:
                cause = cut.cause
            except grpc.RpcError as error:
                cause = cut_by(error)
            finally:
                call.cancel()
            if leave.asked or leave.wait(self._pause(attempts, cause, channel)):
                raise closed() from None

    def _call(
        self,
        channel: grpc.Channel,
        method: Callable[[Channel], Callable[..., Any]],
        request: object,
        seconds: float | None = None,
    ) -> Any:
        try:
            return method(channel)(request, timeout=seconds)
        except ValueError:  # what gRPC says of a channel that was closed just now
            if self._closing.is_set():
                raise closed() from None
            raise

    @property
    def _known(self) -> bool:
        """Whether the server has ever answered."""
        return self.received_bytes > 0

    def _pause(self, attempts: Attempts, error: RecensionError, channel: grpc.Channel) -> float:
        """Return how many seconds to wait before the next try. Raises ``error`` when there is to be none.

        Where no server was reached over a channel the next try connects anew: while no call waits gRPC looks
        every 5 s alone whether one is there again. What else runs over the channel goes on.
        """
        seconds = attempts.pause(error, known=self._known)
        if isinstance(error, UnreachableError):
            with self._lock:
                if self._channel is channel:
                    self._channel = None
        return seconds

    def _open(self) -> grpc.Channel:
        with self._lock:
            if self._closing.is_set():
                raise closed()
            if self._channel is None:
                self._channel = counted(self._way.channel(), self._received, self._way.metadata)
            return self._channel

    def _received(self, size: int) -> None:
        with self._counting:
            self.received_bytes += size
