"""The dataset as Croissant 1.1 describes it: its files with their digests, its records, and its source."""

from __future__ import annotations

import json
from collections.abc import Iterator

from recension.model.credit import license_of
from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension_client.credits.facts import Facts
from recension_client.credits.writing import CREDITS
from recension_client.export.layout import Form, folder_of

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
MARK = '"sdPublisher": {'
_CONTEXT: dict[str, object] = {  # the whole of the recommended one: validators warn of any other
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "description": {"@container": "@language"},
    "name": {"@container": "@language"},
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "recordSet": "cr:recordSet",
    "source": "cr:source",
    **{
        name: f"cr:{name}"
        for name in (
            "arrayShape",
            "equivalentProperty",
            "fileProperty",
            "format",
            "isArray",
            "md5",
            "parentField",
            "path",
            "references",
            "regex",
            "repeated",
            "replace",
            "samplingRate",
            "separator",
            "subField",
            "transform",
        )
    },
}
_COLUMNS = (
    ("id", "sc:Text", "Page id in decimal."),
    ("url", "sc:URL", "Address of the article."),
    ("title", "sc:Text", "Title at the snapshot's time, with its namespace."),
    ("text", "sc:Text", "Text of the main slot; null where it is withheld."),
    ("page_id", "sc:Integer", "Page id."),
    ("rev_id", "sc:Integer", "Revision id."),
    ("timestamp", "sc:DateTime", "When the revision was saved."),
    ("namespace", "sc:Integer", "Namespace of the title."),
    ("digest", "sc:Text", "SHA-256 of the text."),
    ("license", "sc:Text", "SPDX id of the licence of the revision's day."),
)
_CREDIT_COLUMNS = (
    ("page_id", "sc:Integer", "Page id."),
    ("rev_id", "sc:Integer", "Revision id."),
    ("title", "sc:Text", "Title at the snapshot's time."),
    ("url", "sc:URL", "Address of the revision."),
    ("license", "sc:Text", "SPDX id of the licence of the revision's day."),
    ("edits", "sc:Integer", "Edits up to the revision."),
    ("hidden_edits", "sc:Integer", "Those by contributors whose names are hidden."),
)


def document(facts: Facts) -> bytes:
    """Return ``croissant.json``."""
    return (json.dumps(_dataset(facts), ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _dataset(facts: Facts) -> dict[str, object]:
    manifest = facts.index.job.manifest
    snapshot = format_digest(manifest.snapshot_id)
    valid_at = format_instant(manifest.as_of.valid_at)
    bases = [facts.projects[part.project].base_url for part in manifest.parts]
    year, month, day = map(int, facts.day.split("-"))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.name,
        "conformsTo": CONFORMS_TO,
        "description": (
            f"{facts.pages:,} pages as they stood at {valid_at}: snapshot {snapshot}. "
            f"The licence and the contributors of each page are in {CREDITS}."
        ),
        "url": bases[0],
        "license": [license_of(spdx).url or spdx for spdx in facts.credits.licenses],
        "creator": [
            {"@type": "sc:Organization", "name": f"Contributors of {part.project}", "url": base}
            for part, base in zip(manifest.parts, bases, strict=True)
        ],
        "datePublished": facts.day,
        "dateModified": facts.day,
        "inLanguage": facts.languages,
        "version": f"{year}.{month}.{day}",
        "identifier": snapshot,
        "isLiveDataset": False,
        "citeAs": _citation(facts, snapshot),
        "prov:wasDerivedFrom": [{"@id": base} for base in bases],
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"snapshot known at position {manifest.as_of.known_at} of {facts.server}",
        },
        "sdPublisher": {"@type": "sc:Organization", "name": "recension"},
        "distribution": list(_distribution(facts)),
        "recordSet": list(_record_sets(facts)),
    }


def _citation(facts: Facts, snapshot: str) -> str:
    key = "".join(char for char in facts.name if char.isalnum() or char == "-")
    base = facts.projects[next(iter(facts.projects))].base_url
    return (
        f"@misc{{{key}, title = {{{facts.name}}}, year = {{{facts.day[:4]}}}, "
        f"note = {{snapshot {snapshot}}}, howpublished = {{{base}}}}}"
    )


def _distribution(facts: Facts) -> Iterator[dict[str, object]]:
    for record in facts.index.files:
        kind = _encodings(facts.index.job.form)
        yield _file(f"data/{record.path}", record.size_bytes, record.sha256, kind)
    for each in facts.credits.files:
        if each.path.startswith("rows/"):
            kind = _encodings(facts.credits.form)
            yield _file(f"{CREDITS}/{each.path}", each.size_bytes, each.sha256, kind)
    for part in facts.index.job.manifest.parts:
        folder = folder_of(part.project)
        form, credited = facts.index.job.form, facts.credits.form
        yield _file_set(folder, f"data/{folder}/*.{form}", _encodings(form))
        pattern = f"{CREDITS}/rows/{folder}-[0-9]*.{credited}"
        yield _file_set(f"{folder}-credits", pattern, _encodings(credited))


def _encodings(form: Form) -> str | list[str]:
    """Return the MIME types of files, the outer one last."""
    return "application/x-parquet" if form is Form.PARQUET else ["application/jsonlines", "application/zstd"]


def _file(path: str, size: int, sha256: str, kind: str | list[str]) -> dict[str, object]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def _file_set(name: str, pattern: str, kind: str | list[str]) -> dict[str, object]:
    """Return the files of a record set, which lie beside this one."""
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "description": f"The files of {name}.",
        "encodingFormat": kind,
        "includes": pattern,
    }


def _record_sets(facts: Facts) -> Iterator[dict[str, object]]:
    for part in facts.index.job.manifest.parts:
        folder = folder_of(part.project)
        yield _record_set(folder, "Pages", _COLUMNS, parquet=facts.index.job.form is Form.PARQUET)
        yield _record_set(
            f"{folder}-credits", "Whom to credit, a page a record", _CREDIT_COLUMNS,
            parquet=facts.credits.form is Form.PARQUET,
        )  # fmt: skip


def _record_set(
    name: str, what: str, columns: tuple[tuple[str, str, str], ...], *, parquet: bool
) -> dict[str, object]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{what} of {name}.",
        "key": {"@id": f"{name}/page_id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": f"{name}/{column}",
                "description": about,
                "dataType": kind,
                "source": {
                    "fileSet": {"@id": f"{name}-files"},
                    "extract": {"column": column} if parquet else {"jsonPath": f"$.{column}"},
                },
            }
            for column, kind, about in columns
        ],
    }
