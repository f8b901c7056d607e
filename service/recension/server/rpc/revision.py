"""RevisionService over the read protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from recension.archive.clock import FRESH_SECONDS
from recension.archive.pages import check_present
from recension.model.cursor import Bound
from recension.model.difference import DEFAULT_CONTEXT
from recension.model.digest import digest_of, format_digest
from recension.model.errors import InvalidArgumentError, InvalidCursorError, RecensionError
from recension.model.reading import (
    MAX_BATCH,
    MAX_FRAME_TEXT,
    Reader,
    Revision,
    TimelineItem,
    TimelinePlace,
    place_behind,
)
from recension.server.cursors import Cursors
from recension.server.gate import Gate
from recension.server.paging import page_size_of, take_page
from recension.server.scope import assured
from recension.v1 import revision_service_pb2 as pb
from recension.v1.event_pb2 import PRESENCE_PRESENT
from recension.v1.revision_service_pb2_grpc import RevisionServiceServicer
from recension.wire import attribution, convert, differences
from recension.wire.frames import encoded

PIECE_BYTES = 512 * 1024
"""Size of a piece of a streamed text."""
DEFAULT_PAGE = 100


def wants_text(view: pb.RevisionView.ValueType) -> bool:
    """Say whether a Get or Read method sends texts. Raises ``InvalidArgumentError`` for an unknown view."""
    if view not in (pb.REVISION_VIEW_UNSPECIFIED, pb.REVISION_VIEW_BASIC, pb.REVISION_VIEW_FULL):
        raise InvalidArgumentError(f"view: {view} is not known", field="view", value=view)
    return view != pb.REVISION_VIEW_BASIC


def _item(outcome: Revision | RecensionError, budget: convert.TextBudget) -> pb.BatchGetRevisionsItem:
    if isinstance(outcome, RecensionError):
        return pb.BatchGetRevisionsItem(error=convert.item_error_to_proto(outcome))
    return pb.BatchGetRevisionsItem(revision=convert.revision_to_proto(assured(outcome), budget))


def _compress(revision: pb.Revision) -> None:
    """Put the texts of a revision into frames, but for those that frames make no smaller."""
    for slot in revision.slots:
        text = slot.text.encode()
        frame = encoded(text) if 0 < len(text) <= MAX_FRAME_TEXT else text
        if len(frame) < len(text):
            slot.text_zstd = frame
            slot.ClearField("text")


class RevisionRpc(RevisionServiceServicer):
    """Single revisions and the history of single pages."""

    def __init__(self, reader: Reader, gate: Gate, comparers: Gate, cursors: Cursors) -> None:
        """``reader``: where the answers come from; ``gate``: who may stream; ``comparers``: who compare."""
        self._cursors = cursors
        self._reader = reader
        self._gate = gate
        self._comparers = comparers

    def GetRevision(
        self, request: pb.GetRevisionRequest, context: grpc.ServicerContext
    ) -> pb.GetRevisionResponse:
        answer = self._reader.revision(
            request.project,
            request.rev_id,
            known_at=convert.known_at_from_proto(request.known_at),
            text=wants_text(request.view),
        )
        provenance = (
            self._reader.provenance(request.project, request.rev_id, known_at=answer.as_of.known_at)
            if request.with_provenance
            else None
        )
        return pb.GetRevisionResponse(
            revision=convert.revision_to_proto(assured(answer.revision)),
            as_of=convert.as_of_to_proto(answer.as_of),
            provenance=None if provenance is None else convert.provenance_to_proto(provenance),
        )

    def BatchGetRevisions(
        self, request: pb.BatchGetRevisionsRequest, context: grpc.ServicerContext
    ) -> pb.BatchGetRevisionsResponse:
        if len(request.rev_ids) > MAX_BATCH:
            raise InvalidArgumentError(
                f"rev_ids: {len(request.rev_ids)} ids, at most {MAX_BATCH}",
                hint="ask in several calls",
                field="rev_ids",
                count=len(request.rev_ids),
                limit=MAX_BATCH,
            )
        known_at = self._known_at(request.project, request.known_at)
        text = wants_text(request.view)
        budget = convert.TextBudget()
        items: list[pb.BatchGetRevisionsItem] = []
        for outcome in self._reader.revisions(
            request.project, list(request.rev_ids), known_at=known_at, text=False
        ):
            if text and isinstance(outcome, Revision):
                items.append(self._with_texts(outcome, known_at, budget))
            else:
                items.append(_item(outcome, budget))
        if request.accept_frames:
            for item in items:
                _compress(item.revision)
        return pb.BatchGetRevisionsResponse(items=items, as_of=pb.AsOf(known_at=known_at))

    def GetArticle(
        self, request: pb.GetArticleRequest, context: grpc.ServicerContext
    ) -> pb.GetArticleResponse:
        page: int | str
        match request.WhichOneof("page"):
            case "page_id":
                page = request.page_id
            case "title":
                page = request.title
            case _:
                raise InvalidArgumentError(
                    "page: neither page_id nor title is given", hint="set one of them", field="page"
                )
        valid_at, known_at = convert.wanted_as_of_from_proto(request.as_of)
        answer = self._reader.article(
            request.project, page, valid_at=valid_at, known_at=known_at, text=wants_text(request.view)
        )
        return pb.GetArticleResponse(
            revision=convert.revision_to_proto(assured(answer.revision)),
            as_of=convert.as_of_to_proto(answer.as_of),
        )

    def GetAttribution(
        self, request: pb.GetAttributionRequest, context: grpc.ServicerContext
    ) -> pb.GetAttributionResponse:
        valid_at, known_at = convert.wanted_as_of_from_proto(request.as_of)
        match request.WhichOneof("subject"):
            case "rev_id":
                credited = self._reader.revision_attribution(
                    request.project, request.rev_id, known_at=known_at
                )
            case "page_id" | "title" as subject:
                page = request.page_id if subject == "page_id" else request.title
                credited = self._reader.article_attribution(
                    request.project, page, valid_at=valid_at, known_at=known_at
                )
            case _:
                raise InvalidArgumentError(
                    "subject: neither rev_id nor page_id nor title is given",
                    hint="set one of them",
                    field="subject",
                )
        return attribution.credited_to_proto(assured(credited), self._reader.project(request.project))

    def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: grpc.ServicerContext
    ) -> pb.ListRevisionsResponse:
        size = page_size_of(request.page_size, DEFAULT_PAGE)
        bound = ("ListRevisions", request.project, request.page_id, request.known_at)
        # The token keeps the position that the first page was resolved to, so all pages are of one history.
        known_at, place = self._known_at(request.project, request.known_at), None
        if request.page_token:
            known_at, place = self._place_of(request.page_token, bound)
        timeline = self._reader.timeline(request.project, request.page_id, known_at=known_at, after=place)

        def convert_next(item: TimelineItem) -> pb.TimelineItem:
            nonlocal place
            place = place_behind(item, place)
            return convert.timeline_item_to_proto(assured(item))

        items, more = take_page(timeline, size, convert_next)
        token = self._cursors.seal(bound, [known_at, *place]) if more and place else ""
        return pb.ListRevisionsResponse(items=items, next_page_token=token, as_of=pb.AsOf(known_at=known_at))

    def ReadText(
        self, request: pb.ReadTextRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadTextResponse]:
        with self._gate.admit():
            role = request.role or "main"
            text = self._reader.text(request.project, request.rev_id, role)
            looked_at = time.monotonic()
            size = len(text)
            if not 0 <= request.offset <= size:
                raise InvalidArgumentError(
                    f"offset: {request.offset} is not within the text of {size} bytes",
                    field="offset",
                    value=request.offset,
                    size=size,
                )
            digest = format_digest(digest_of(text))
            # An empty text, or one that is read to its end, still answers with its size and digest.
            for offset in range(request.offset, size, PIECE_BYTES) or (request.offset,):
                if not context.is_active():
                    return
                if time.monotonic() - looked_at > FRESH_SECONDS:
                    self._check_present(request.project, request.rev_id, role)
                    looked_at = time.monotonic()
                piece = text[offset : offset + PIECE_BYTES]
                yield pb.ReadTextResponse(offset=offset, data=piece, size_bytes=size, digest=digest)

    def _check_present(self, project: str, rev_id: int, role: str) -> None:
        """Look whether a text may be told yet. Raises ``RevisionNotFoundError``, ``TextUnavailableError``."""
        check_present(assured(self._reader.revision(project, rev_id, text=False).revision), role)

    def DiffRevisions(
        self, request: pb.DiffRevisionsRequest, context: grpc.ServicerContext
    ) -> pb.DiffRevisionsResponse:
        with self._comparers.admit():
            found = self._reader.diff_revisions(
                request.project,
                request.rev_id_a,
                request.rev_id_b,
                role=request.role or "main",
                context=request.context_lines if request.HasField("context_lines") else DEFAULT_CONTEXT,
                known_at=convert.known_at_from_proto(request.known_at),
            )
        return differences.revision_diff_to_proto(assured(found), with_unified=request.unified)

    def _with_texts(
        self, found: Revision, known_at: int, budget: convert.TextBudget
    ) -> pb.BatchGetRevisionsItem:
        """Load the texts of a revision only if its answer has room for one of them."""
        if any(budget.fits(slot.size_bytes) for slot in found.slots):
            (whole,) = self._reader.revisions(found.project, [found.rev_id], known_at=known_at)
            return _item(whole, budget)
        item = _item(found, budget)
        for slot in item.revision.slots:
            slot.text_omitted = slot.presence == PRESENCE_PRESENT
        return item

    def _known_at(self, project: str, asked: int) -> int:
        """Return the K of an answer in several parts: without one the newest event of its project."""
        return convert.known_at_from_proto(asked) or self._reader.project(project).position

    def _place_of(self, token: str, bound: Bound) -> tuple[int, TimelinePlace]:
        """Return the position and the place that a token of ListRevisions stands for."""
        match self._cursors.open(token, bound, "page_token"):
            case [int(known_at), int(time), int(rev_id), int(position), int(nth)]:
                return known_at, TimelinePlace(time, rev_id, position, nth)
            case _:
                raise InvalidCursorError(
                    "page_token: it is of another version of the server",
                    hint="start again without it",
                    field="page_token",
                )
