"""Selector, as-of and manifest: what a snapshot is the answer to, and the id that names the answer.

The manifest is canonical JSON (RFC 8785). All its numbers are integers below 2^53 except ids and
instants, which are written as strings, so any JSON library reads it without loss. Keys are ASCII, for
which RFC 8785's UTF-16 order and Python's code point order agree, and strings need only JSON's own
escapes; ``json.dumps`` with the settings below is therefore exact for this document.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.instant import format_instant, parse_instant

FORMAT = "recension/snapshot/v1"


class Redirects(StrEnum):
    """Whether a snapshot holds pages whose text is a redirect."""

    INCLUDE = "include"
    EXCLUDE = "exclude"
    ONLY = "only"


class OnHidden(StrEnum):
    """What becomes of a page whose current revision's text is hidden (DESIGN 2, rule 4)."""

    SKIP = "skip"
    FALL_BACK = "fall_back"
    """Take the newest revision whose text is not hidden."""
    KEEP = "keep"
    """Keep the entry, without its text."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which part of the corpus."""

    projects: tuple[str, ...]
    """Sorted, at least one."""
    namespaces: tuple[int, ...] = ()
    """Sorted; empty selects all."""
    models: tuple[str, ...] = ()
    """Content models of the main slot, sorted; empty selects all."""
    redirects: Redirects = Redirects.INCLUDE
    min_age_seconds: int = 0
    """Take the newest revision that is at least this old at T ("settled for 24 h")."""
    on_hidden: OnHidden = OnHidden.SKIP

    @staticmethod
    def of(
        projects: list[str],
        namespaces: list[int] | None = None,
        models: list[str] | None = None,
        redirects: Redirects = Redirects.INCLUDE,
        min_age_seconds: int = 0,
        on_hidden: OnHidden = OnHidden.SKIP,
    ) -> Selector:
        """Build a selector in its one normal form: sorted, without repetition."""
        if not projects:
            raise InvalidArgumentError("a selector names at least one project", field="projects")
        if not 0 <= min_age_seconds < 2**53:
            raise InvalidArgumentError("min_age is not negative", field="min_age")
        return Selector(
            tuple(sorted(set(projects))),
            tuple(sorted(set(namespaces or []))),
            tuple(sorted(set(models or []))),
            redirects,
            min_age_seconds,
            on_hidden,
        )


@dataclass(frozen=True, slots=True)
class AsOf:
    """Valid time and known-at, both resolved."""

    valid_at: int
    """T: microseconds since the epoch."""
    known_at: int
    """K: a log position."""


@dataclass(frozen=True, slots=True)
class ProjectPart:
    """One project's share of a snapshot."""

    project: str
    count: int
    """Entries."""
    text_bytes: int
    """Sum of the entries' text sizes, UTF-8, as they arrived; a later purge does not change it."""
    root: bytes
    """Root digest of the project's snapshot tree, 32 bytes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole statement that a snapshot id stands for."""

    selector: Selector
    as_of: AsOf
    parts: tuple[ProjectPart, ...]
    encoded: bytes = field(compare=False, default=b"")
    """The canonical JSON."""

    @property
    def snapshot_id(self) -> bytes:
        """SHA-256 of the canonical JSON: 32 bytes."""
        return sha256(self.encoded).digest()


def canonical_json(value: object) -> bytes:
    """Serialise by RFC 8785; only for documents without floats and with ASCII keys."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def make_manifest(selector: Selector, as_of: AsOf, parts: tuple[ProjectPart, ...]) -> Manifest:
    """Return the manifest with its canonical bytes. Selector keys at their default are left out."""
    chosen: dict[str, object] = {"projects": list(selector.projects)}
    if selector.namespaces:
        chosen["namespaces"] = list(selector.namespaces)
    if selector.models:
        chosen["models"] = list(selector.models)
    if selector.redirects is not Redirects.INCLUDE:
        chosen["redirects"] = selector.redirects.value
    if selector.min_age_seconds:
        chosen["min_age_seconds"] = selector.min_age_seconds
    if selector.on_hidden is not OnHidden.SKIP:
        chosen["on_hidden"] = selector.on_hidden.value
    document = {
        "format": FORMAT,
        "selector": chosen,
        "as_of": {"valid_at": format_instant(as_of.valid_at), "known_at": str(as_of.known_at)},
        "projects": [
            {
                "project": part.project,
                "count": part.count,
                "bytes": part.text_bytes,
                "root": format_digest(part.root),
            }
            for part in parts
        ],
    }
    return Manifest(selector, as_of, parts, canonical_json(document))


def read_manifest(encoded: bytes) -> Manifest:
    """Read canonical JSON back. Raises ``InvalidArgumentError`` when it is not a manifest of this format."""
    try:
        document = json.loads(encoded)
        if document["format"] != FORMAT:
            raise InvalidArgumentError(
                f"unknown manifest format {document['format']!r}",
                hint="use a newer recension",
                field="format",
            )
        chosen = document["selector"]
        selector = Selector(
            tuple(chosen["projects"]),
            tuple(chosen.get("namespaces", ())),
            tuple(chosen.get("models", ())),
            Redirects(chosen.get("redirects", "include")),
            chosen.get("min_age_seconds", 0),
            OnHidden(chosen.get("on_hidden", "skip")),
        )
        as_of = AsOf(parse_instant(document["as_of"]["valid_at"]), int(document["as_of"]["known_at"]))
        parts = tuple(
            ProjectPart(part["project"], part["count"], part["bytes"], parse_digest(part["root"], "root"))
            for part in document["projects"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgumentError(f"not a manifest: {error!r}", field="manifest") from None
    return Manifest(selector, as_of, parts, encoded)
