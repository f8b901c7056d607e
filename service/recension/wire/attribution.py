"""Attribution to proto and back: of one revision in full, of many pages in batches that name people once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast
from urllib.parse import urlsplit

from recension.model.credit import (
    NOTICE,
    Attribution,
    ContributorKind,
    Credited,
    Person,
    Share,
    credit_line,
    history_link,
    license_of,
    statement,
)
from recension.model.errors import InvalidArgumentError, VerificationError
from recension.model.reading import ProjectInfo
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire.convert import as_of_from_proto, as_of_to_proto, timestamp_from_proto, timestamp_to_proto

MAX_SHARES = 20_000
"""Contributors of one record: some 600 KB. A page with more goes on in the next batch."""
_KINDS = {int(kind): kind for kind in ContributorKind}


# --- one revision -------------------------------------------------------------------------------


def credited_to_proto(credited: Credited, project: ProjectInfo) -> revision_pb.GetAttributionResponse:
    """Write the attribution of one revision; ``project`` is its own."""
    found = credited.attribution
    license_ = license_of(found.license)
    saved_at = timestamp_to_proto(found.timestamp)
    message = revision_pb.Attribution(
        project=found.project,
        page_id=found.page_id,
        rev_id=found.rev_id,
        timestamp=saved_at,
        namespace=found.namespace,
        title_inferred=found.title_inferred,
        text_hidden=found.text_hidden,
        essential=revision_pb.EssentialSignals(
            title=found.title,
            credit=credit_line(found),
            license=revision_pb.License(
                url=license_.url, title=license_.title, short=license_.short, spdx_id=license_.spdx
            ),
            link=found.link(project.base_url),
            source_wiki=revision_pb.SourceWiki(
                site_name=urlsplit(project.base_url).netloc,
                site_id=project.name,
                site_language=project.language,
                page_language=project.language,
            ),
        ),
        trust_and_relevance=revision_pb.TrustSignals(
            last_updated=saved_at, contributor_counts=len(found.shares) + found.omitted
        ),
        contributors=[
            revision_pb.ContributorShare(contributor=_person_to_proto(share.person), edits=share.edits)
            for share in found.shares
        ],
        contributors_omitted=found.omitted,
        edits=found.edits,
        hidden_edits=found.hidden_edits,
        unstated_edits=found.unstated_edits,
        first_edit_at=timestamp_to_proto(found.first_edit_at),
        history_link=history_link(project.base_url, found.title),
        modification_notice=NOTICE,
        statement=statement(found, project.base_url),
    )
    return revision_pb.GetAttributionResponse(attribution=message, as_of=as_of_to_proto(credited.as_of))


def credited_from_proto(message: revision_pb.GetAttributionResponse) -> Credited:
    """Read the attribution of one revision; what follows from the rest is left to ``model.credit``."""
    found = message.attribution
    return Credited(
        Attribution(
            found.project,
            found.page_id,
            found.rev_id,
            timestamp_from_proto(found.timestamp, "timestamp"),
            found.essential.title,
            found.namespace,
            found.title_inferred,
            found.text_hidden,
            found.essential.license.spdx_id,
            timestamp_from_proto(found.first_edit_at, "first_edit_at"),
            found.edits,
            tuple(Share(_person_from_proto(share.contributor), share.edits) for share in found.contributors),
            found.hidden_edits,
            found.unstated_edits,
            found.contributors_omitted,
        ),
        as_of_from_proto(message.as_of),
    )


def _person_to_proto(person: Person) -> revision_pb.CreditedContributor:
    return revision_pb.CreditedContributor(
        kind=cast("revision_pb.ContributorKind.ValueType", int(person.kind)),
        name=person.name,
        id=person.id,
        origin=person.origin,
    )


def _person_from_proto(message: revision_pb.CreditedContributor) -> Person:
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise InvalidArgumentError(
            f"contributor of an unknown kind {message.kind}", hint="use a newer recension", field="kind"
        )
    return Person(kind, message.name, message.id if message.HasField("id") else None, message.origin)


# --- many pages ---------------------------------------------------------------------------------


class AttributionBatch:
    """Some pages of an attribution stream."""

    def __init__(self) -> None:
        """Begin with none."""
        self.size = 0
        """Bytes so far, about."""
        self._message = snapshot_pb.AttributionBatch()
        self._places: dict[Person, int] = {}

    def __bool__(self) -> bool:
        """Say whether it holds a page."""
        return bool(self._message.pages)

    def add(self, found: Attribution) -> None:
        """Take a page, which has at most ``MAX_SHARES`` contributors."""
        self._add(
            snapshot_pb.PageAttribution(
                project=found.project,
                page_id=found.page_id,
                rev_id=found.rev_id,
                timestamp=timestamp_to_proto(found.timestamp),
                title=found.title,
                namespace=found.namespace,
                title_inferred=found.title_inferred,
                text_hidden=found.text_hidden,
                license=found.license,
                first_edit_at=timestamp_to_proto(found.first_edit_at),
                hidden_edits=found.hidden_edits,
                unstated_edits=found.unstated_edits,
            ),
            found.shares,
        )

    def _add(self, page: snapshot_pb.PageAttribution, shares: Sequence[Share]) -> None:
        places = self._places
        for share in shares:
            place = places.get(share.person)
            if place is None:
                place = places[share.person] = len(places)
                person = _person_to_proto(share.person)
                self._message.contributors.append(person)
                self.size += 4 + len(person.name) + len(person.origin)
            page.contributors.append(place)
            page.edits.append(share.edits)
        self._message.pages.append(page)
        self.size += 64 + len(page.title) + 4 * len(shares)

    def message(self, cursor: str) -> snapshot_pb.ReadAttributionResponse:
        """Return the message of a stream that has all that was taken."""
        self._message.cursor = cursor
        return snapshot_pb.ReadAttributionResponse(batch=self._message)

    @classmethod
    def pieces(cls, found: Attribution, cursor: str) -> Iterator[snapshot_pb.ReadAttributionResponse]:
        """Yield the messages of a page of any number of contributors, alone; the last has the cursor."""
        rest = iter(found.shares)
        some = tuple(islice(rest, MAX_SHARES))
        first = True
        while some or first:
            batch, following = cls(), tuple(islice(rest, MAX_SHARES))
            if first:
                batch.add(found._replace(shares=some))
            else:
                batch._add(snapshot_pb.PageAttribution(project=found.project, page_id=found.page_id), some)
            batch._message.pages[0].continued = bool(following)
            yield batch.message("" if following else cursor)
            some, first = following, False


def attributions_of(batch: snapshot_pb.AttributionBatch) -> list[Attribution]:
    """Read the pages of a batch. Raises ``VerificationError`` for contributors that it does not name."""
    people = list(map(_person_from_proto, batch.contributors))
    return [_attribution_of(page, people) for page in batch.pages]


def shares_of(batch: snapshot_pb.AttributionBatch) -> tuple[Share, ...]:
    """Read the contributors with whom the only page of a batch goes on. Raises ``VerificationError``."""
    people = list(map(_person_from_proto, batch.contributors))
    return _shares(batch.pages[0], people)


def _attribution_of(page: snapshot_pb.PageAttribution, people: Sequence[Person]) -> Attribution:
    shares = _shares(page, people)
    return Attribution(
        page.project,
        page.page_id,
        page.rev_id,
        timestamp_from_proto(page.timestamp, "timestamp"),
        page.title,
        page.namespace,
        page.title_inferred,
        page.text_hidden,
        page.license,
        timestamp_from_proto(page.first_edit_at, "first_edit_at"),
        sum(page.edits) + page.hidden_edits + page.unstated_edits,
        shares,
        page.hidden_edits,
        page.unstated_edits,
    )


def _shares(page: snapshot_pb.PageAttribution, people: Sequence[Person]) -> tuple[Share, ...]:
    places, edits = page.contributors, page.edits
    if len(places) != len(edits) or (places and not 0 <= min(places) <= max(places) < len(people)):
        raise VerificationError(f"the contributors of page {page.page_id} are not those of their batch")
    return tuple(map(Share, [people[place] for place in places], edits))
