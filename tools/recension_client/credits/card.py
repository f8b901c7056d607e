"""The dataset card: Markdown for people, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from recension.model.agreement import Version
from recension.model.credit import NOTICE, license_of
from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension_client.credits.facts import Facts
from recension_client.credits.markdown import escaped, linked
from recension_client.credits.rows import checked_base
from recension_client.credits.writing import CREDITS, ROWS
from recension_client.export.layout import folder_of
from recension_client.visible import visible

MARK = "<!-- dataset card made by recension -->"
_HUB = {
    **{
        f"CC-BY{share}-{version}": f"cc-by{share.lower()}-{version}"
        for share, version in (("", "2.5"), ("", "3.0"), ("", "4.0"), ("-SA", "3.0"), ("-SA", "4.0"))
    },
    **{spdx: spdx.lower() for spdx in ("Apache-2.0", "CC0-1.0", "MIT")},
    **{
        f"GFDL-{version}-{kind}": "gfdl" for version in ("1.1", "1.2", "1.3") for kind in ("only", "or-later")
    },
}
"""Licences by the names that the hub knows them by."""
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_LARGEST = "10M<n<100M"
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


def card(facts: Facts) -> str:
    """Return the card."""
    return "\n".join(["---", *_front(facts), "---", "", MARK, "", *_body(facts)]) + "\n"


def _front(facts: Facts) -> Iterator[str]:
    """Yield lines of YAML; each value is written as JSON, which YAML takes as it is."""
    names = [_HUB.get(spdx, "other") for spdx in facts.credits.licenses]
    yield f"pretty_name: {json.dumps(facts.name)}"
    yield f"license: {json.dumps(sorted(set(names)))}"
    others = [spdx for spdx in facts.credits.licenses if spdx not in _HUB]
    if others:
        yield f"license_name: {json.dumps(', '.join(others))}"
    yield f"language: {json.dumps([one for one in facts.languages if _LANGUAGE.fullmatch(one)])}"
    size = next((name for most, name in _SIZES if facts.pages < most), _LARGEST)
    yield f"size_categories: {json.dumps([size])}"
    yield 'tags: ["recension"]'
    yield "configs:"
    for part in facts.index.job.manifest.parts:
        folder = folder_of(part.project)
        yield f"- config_name: {json.dumps(folder)}"
        yield f"  data_files: {json.dumps(f'data/{folder}/*.{facts.index.job.form}')}"


def _body(facts: Facts) -> Iterator[str]:
    manifest, made = facts.index.job.manifest, facts.credits
    text = sum(part.text_bytes for part in manifest.parts)
    withheld = sum(record.withheld for record in facts.index.files)
    yield f"# {escaped(facts.name)}"
    yield ""
    yield (
        f"{facts.pages:,} pages, {text:,} bytes of text, as they stood at "
        f"{format_instant(manifest.as_of.valid_at)} (known at position {manifest.as_of.known_at})."
    )
    if withheld:
        yield f"{withheld:,} of them come without a text that was withdrawn."
    yield ""
    yield "## Licence"
    yield ""
    yield "Each page is under the licence of the day on which its revision was saved:"
    yield ""
    yield "| licence | pages |"
    yield "|---|---:|"
    for spdx, pages in made.licenses.items():
        known = license_of(spdx)
        yield f"| {linked(visible(known.title), known.url)} | {pages:,} |"
    yield ""
    yield "The column `license` of the rows names the licence of the day on which the revision was saved."
    yield ""
    yield "## Attribution"
    yield ""
    yield f"`{CREDITS}/{ROWS}` names, of each page, its address by revision, its licence and its contributors"
    yield f"up to that revision with the number of their edits: {made.edits:,} edits,"
    yield f"{made.hidden_edits:,} of them by contributors whose names are hidden,"
    yield f"{made.unstated_edits:,} by contributors whom the source does not name."
    yield f"Names hidden by position {made.known_at} are not in it. Make it anew before you show it."
    yield ""
    yield NOTICE
    yield ""
    if made.uncredited:
        yield f"{made.uncredited:,} pages of it lie outside of what was granted, and have no credits."
        yield ""
    if facts.agreement is not None:
        yield "## Terms"
        yield ""
        yield from _terms(facts.agreement)
        yield ""
    yield "## Provenance"
    yield ""
    yield "| what | |"
    yield "|---|---|"
    yield f"| snapshot | `{format_digest(manifest.snapshot_id)}` |"
    for part in manifest.parts:
        base = checked_base(facts.projects[part.project].base_url)
        yield f"| source of {escaped(part.project)} | {linked(base, base)} |"
        yield f"| root of {escaped(part.project)} | `{format_digest(part.root)}`, {part.count:,} pages |"
    yield f"| as of | {format_instant(manifest.as_of.valid_at)}, known at {manifest.as_of.known_at} |"
    yield f"| served by | {escaped(visible(facts.server))} |"
    yield f"| server key | {_code(facts.server_key) if facts.server_key else 'this server signs nothing'} |"
    yield f"| written by | {escaped(facts.index.job.writer)} |"
    yield ""
    yield "The snapshot id is the SHA-256 of this manifest, against which the files are checked:"
    yield ""
    yield "```json"
    yield manifest.encoded.decode()
    yield "```"
    yield ""
    yield "```sh"
    yield "recension verify ."
    yield "```"


def _terms(version: Version) -> Iterator[str]:
    agreement = version.agreement
    yield f"Served to {escaped(agreement.licensee)} under the agreement `{agreement.name}`."
    if agreement.terms is not None:
        digest = format_digest(agreement.terms.sha256)
        yield f"Its terms are {linked(agreement.terms.url, agreement.terms.url)}, `{digest}`."
    duties = [duty.value.replace("_", " ") for duty in agreement.attribution.duties]
    if duties:
        yield f"Whoever shows a page shows with it: {', '.join(duties)}."
    if agreement.attribution.statement:
        yield escaped(visible(agreement.attribution.statement))


def _code(text: str) -> str:
    return f"`{text}`"
