"""One page's credit as a row; ``docs/attribution.md`` names the columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from recension.model.credit import Attribution, ContributorKind, Share, license_of
from recension.model.errors import VerificationError
from recension.model.instant import format_instant

KINDS = {kind: kind.name.lower() for kind in ContributorKind}
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?")


class CreditRow(NamedTuple):
    """The columns in their order. Instants are microseconds since the epoch."""

    page_id: int
    rev_id: int
    title: str
    namespace: int
    title_inferred: bool
    timestamp: int
    """When the revision was saved: the last edit that counts."""
    first_edit_at: int
    url: str
    """Of the revision, by oldid; of the page's history where the revision is hidden."""
    text_hidden: bool
    license: str
    """SPDX id of what was saved at that time."""
    license_url: str | None
    edits: int
    hidden_edits: int
    unstated_edits: int
    contributors: tuple[Share, ...]


def row_of(found: Attribution, bases: Mapping[str, str]) -> CreditRow:
    """Return a page's row; ``bases`` are the addresses of the projects."""
    return CreditRow(
        found.page_id,
        found.rev_id,
        found.title,
        found.namespace,
        found.title_inferred,
        found.timestamp,
        found.first_edit_at,
        found.link(bases[found.project]),
        found.text_hidden,
        found.license,
        license_of(found.license).url or None,
        found.edits,
        found.hidden_edits,
        found.unstated_edits,
        found.shares,
    )


def checked_base(url: str) -> str:
    """Return a project's address if links can be made of it. Raises ``VerificationError``."""
    if not _ADDRESS.fullmatch(url):
        raise VerificationError(f"the server gives no address that can be linked to: {url[:80]!r}")
    return url


def share_document(share: Share) -> dict[str, object]:
    """Return a contributor as JSON has it."""
    person = share.person
    return {
        "kind": KINDS[person.kind],
        "name": person.name,
        "origin": person.origin or None,
        "id": person.id,
        "edits": share.edits,
    }


def encode_line(row: CreditRow) -> bytes:
    """Return a row as its line of JSON, keys in the order of the columns."""
    document = row._asdict()
    document["timestamp"] = format_instant(row.timestamp)
    document["first_edit_at"] = format_instant(row.first_edit_at)
    document["contributors"] = list(map(share_document, row.contributors))
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
