"""The attribution of one revision as a document, in the shape of Wikimedia's Attribution API."""

from __future__ import annotations

from urllib.parse import urlsplit

from recension.model.agreement import Version
from recension.model.credit import NOTICE, Credited, credit_line, history_link, license_of, statement
from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension.model.reading import ProjectInfo
from recension_client.credits.rows import share_document


def document_of(credited: Credited, project: ProjectInfo, agreement: Version | None) -> dict[str, object]:
    """Return what ``GetAttribution`` answers, and the caller's terms if there are any; ids are numbers."""
    found, base = credited.attribution, project.base_url
    license_ = license_of(found.license)
    return {
        "essential": {
            "title": found.title,
            "credit": credit_line(found) or None,
            "license": {
                "url": license_.url or None,
                "title": license_.title,
                "short": license_.short,
                "spdx_id": license_.spdx,
            },
            "link": found.link(base),
            "source_wiki": {
                "site_name": urlsplit(base).netloc,
                "site_id": project.name,
                "site_language": project.language,
                "page_language": project.language,
            },
        },
        "trust_and_relevance": {
            "last_updated": format_instant(found.timestamp),
            "contributor_counts": len(found.shares) + found.omitted,
        },
        "project": found.project,
        "page_id": found.page_id,
        "rev_id": found.rev_id,
        "namespace": found.namespace,
        "title_inferred": found.title_inferred,
        "text_hidden": found.text_hidden,
        "contributors": list(map(share_document, found.shares)),
        "contributors_omitted": found.omitted,
        "edits": found.edits,
        "hidden_edits": found.hidden_edits,
        "unstated_edits": found.unstated_edits,
        "first_edit_at": format_instant(found.first_edit_at),
        "history_link": history_link(base, found.title),
        "modification_notice": NOTICE,
        "statement": statement(found, base),
        "agreement": None if agreement is None else terms_of(agreement),
        "as_of": {
            "valid_at": format_instant(credited.as_of.valid_at),
            "known_at": credited.as_of.known_at,
        },
    }


def terms_of(version: Version) -> dict[str, object]:
    """Return what an agreement says of how articles may be shown."""
    agreement = version.agreement
    terms = agreement.terms
    return {
        "version": agreement.name,
        "terms": None if terms is None else {"url": terms.url, "sha256": format_digest(terms.sha256)},
        "duties": [duty.value for duty in agreement.attribution.duties],
        "statement": agreement.attribution.statement or None,
    }
