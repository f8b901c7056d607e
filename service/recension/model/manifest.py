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
from recension.model.event import MAX_NAME_BYTES, utf8_bytes
from recension.model.instant import format_instant, parse_instant

FORMAT = "recension/snapshot/v1"
_MAX_NUMBER = 2**53
_ROOT_BYTES = 32


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
        if not 0 <= min_age_seconds < _MAX_NUMBER:
            raise InvalidArgumentError("min_age is not negative, and below 2^53 s", field="min_age")
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
    """Return the manifest with its canonical bytes. Selector keys at their default are left out.

    Raises ``InvalidArgumentError`` for a selector that is not in its normal form, parts that are not those of
    the selector's projects in their order, and numbers out of range.
    """
    _check_selector(selector)
    _check_parts(selector, parts)
    _need(_counts(as_of.known_at, 2**64), "known_at")
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


def _check_selector(selector: Selector) -> None:
    projects, numbers, models = selector.projects, selector.namespaces, selector.models
    _need(projects and _ascend(projects, str) and all(_sized(name, 1) for name in projects), "projects")
    _need(_ascend(numbers, int) and all(-(2**31) <= number < 2**31 for number in numbers), "namespaces")
    _need(_ascend(models, str) and all(_sized(name, 0) for name in models), "models")
    _need(_counts(selector.min_age_seconds, _MAX_NUMBER), "min_age")


def _check_parts(selector: Selector, parts: tuple[ProjectPart, ...]) -> None:
    _need(tuple(part.project for part in parts) == selector.projects, "parts")
    for part in parts:
        _need(_counts(part.count, _MAX_NUMBER) and _counts(part.text_bytes, _MAX_NUMBER), "parts")
        _need(len(part.root) == _ROOT_BYTES, "root")


def _need(good: object, field: str) -> None:
    if not good:
        raise InvalidArgumentError(f"{field}: no manifest holds this", field=field)


def _ascend(values: tuple[object, ...], kind: type) -> bool:
    """Say whether all are of exactly this type (a bool is no int) and strictly ascend."""
    return all(type(value) is kind for value in values) and values == tuple(sorted(set(values)))  # type: ignore[type-var]


def _sized(name: str, least: int) -> bool:
    return least <= utf8_bytes("selector", name) <= MAX_NAME_BYTES


def _counts(value: object, end: int) -> bool:
    return type(value) is int and 0 <= value < end


def read_manifest(encoded: bytes) -> Manifest:
    """Read canonical JSON back.

    Raises ``InvalidArgumentError`` for anything but the bytes that ``make_manifest`` writes.
    """
    try:
        document = json.loads(encoded.decode())
        if document["format"] != FORMAT:
            raise InvalidArgumentError(
                f"unknown manifest format {str(document['format'])[:80]!r}",
                hint="use a newer recension",
                field="format",
            )
        chosen, as_of = document["selector"], document["as_of"]
        manifest = make_manifest(
            Selector(
                tuple(chosen["projects"]),
                tuple(chosen.get("namespaces", ())),
                tuple(chosen.get("models", ())),
                Redirects(chosen.get("redirects", "include")),
                chosen.get("min_age_seconds", 0),
                OnHidden(chosen.get("on_hidden", "skip")),
            ),
            AsOf(parse_instant(as_of["valid_at"]), int(as_of["known_at"])),
            tuple(
                ProjectPart(part["project"], part["count"], part["bytes"], parse_digest(part["root"], "root"))
                for part in document["projects"]
            ),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"not a manifest: {str(error)[:200]}", field="manifest") from None
    if manifest.encoded != encoded:
        raise InvalidArgumentError("not a manifest: it would be written in another way", field="manifest")
    return manifest
