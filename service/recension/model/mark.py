"""Marks: what the events of a commit were read from, and how far (docs/format.md, 18).

A commit that an ingest makes has one mark behind its events. Of a file it says which of the file's events the
commit has; once the file was read to its end, another one says what file that was. Of a stream it says where
to go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.event import MAX_ID
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import canonical_json

MAX_SOURCE_BYTES = 1024
MAX_LICENSE_CHARS = 200
"""Of what a source states of a licence; SPDX ids are far shorter."""
FILE_BYTES = 8
"""Of what a file is known by before it was read."""
MAX_OFFSETS_BYTES = 64 * 1024
"""Of the canonical JSON of all offsets of a mark."""
_MAX_NUMBER = 2**53 - 1
"""Any JSON reader holds a number up to this one exactly."""
_PLAIN = ("form", "source", "from", "to", "bytes")
_FORM = re.compile(r"[a-z][a-z0-9-]{0,31}")
_FILE = re.compile(r"[0-9a-f]{16}")
_OFFSET = re.compile(r"[!-~]{1,128}")


class Span(NamedTuple):
    """Which events of a file, numbered from 0 in its order: from ``start`` up to, and without, ``stop``."""

    start: int
    stop: int


class Origin(NamedTuple):
    """A file as it lay on disk, compressed where it was."""

    size_bytes: int
    digest: bytes
    """SHA-256 of its bytes."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What was read of a source. Raises ``InvalidArgumentError`` when it is made of what is no mark's."""

    form: str
    """Of the input: ``dump``, ``logging``, ``events``, ``enterprise``, ``append``, the kinds of streams."""
    source: str
    """Name of a file without its folder; of a stream its origin, its path and what was asked, no secrets; of
    ``append`` the owner of the key that sent it, empty on a server without keys."""
    span: Span | None = None
    """Of a file."""
    origin: Origin | None = None
    """Of a file that was read to its end."""
    file: bytes = b""
    """Of a file, which other files of its name are told from by it: the first eight bytes of SHA-256 over its
    size and its first and its last MiB."""
    offsets: Mapping[str, int | str] = field(default_factory=dict)
    """Where to go on with a stream, as it counts: by partition, or under one name for all."""
    upstream_at: int | None = None
    """Time of the newest thing that its source told up to here, microseconds since the epoch."""
    licenses: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Revisions of its commit by the licence that the source states of them, ascending: its word, no more."""
    encoded: bytes = field(init=False, compare=False, repr=False, default=b"")
    """The canonical JSON."""

    def __post_init__(self) -> None:
        """Check the fields, and write them."""
        _need(_FORM.fullmatch(self.form), "form")
        _need(len(self.source.encode(errors="replace")) <= MAX_SOURCE_BYTES, "source")
        document: dict[str, Any] = {"form": self.form, "source": self.source}
        if self.span is not None:
            _need(all(map(_counts, self.span)) and self.span.start <= self.span.stop, "from, to")
            _need(len(self.file) == FILE_BYTES, "file")
            document |= {"file": self.file.hex(), "from": self.span.start, "to": self.span.stop}
        else:
            _need(not self.file, "file")
        if self.origin is not None:
            _need(self.span is not None, "from, to")
            _need(_counts(self.origin.size_bytes), "bytes")
            document |= {"bytes": self.origin.size_bytes, "sha256": format_digest(self.origin.digest)}
        if self.offsets:
            _need(all(_is_offset(*one) for one in self.offsets.items()), "offsets")
            document["offsets"] = dict(self.offsets)
            _need(len(canonical_json(document["offsets"])) <= MAX_OFFSETS_BYTES, "offsets")
        if self.upstream_at is not None:
            document["upstream_at"] = format_instant(self.upstream_at)
        if self.licenses:
            _need(all(_is_stated(*one) for one in self.licenses.items()), "licenses")
            document["licenses"] = [
                {"license": license_, "rev_ids": list(map(str, self.licenses[license_]))}
                for license_ in sorted(self.licenses)
            ]
        try:
            object.__setattr__(self, "encoded", canonical_json(document))
        except UnicodeEncodeError:
            _need(None, "source or offsets")

    @property
    def stands_alone(self) -> bool:
        """Whether it may say something without events: how far a stream was read, or what a file was."""
        return bool(self.offsets) or self.origin is not None

    def adds_to(self, before: Mark | None) -> bool:
        """Say whether it tells, without events, more than the newest mark of its source, or file, before it.

        Of a stream that it is further. Of a file that it ends what was marked of its events: one that brought
        nothing leaves no mark.
        """
        if self.origin is not None:
            return before is not None and before.origin is None
        return bool(self.offsets) and (before is None or before.offsets != self.offsets)


def read_mark(encoded: bytes) -> Mark:
    """Read a mark. Raises ``InvalidArgumentError`` for anything but what ``Mark`` writes."""
    try:
        document = json.loads(encoded.decode())
        stated = {key: document[key] for key in _PLAIN if key in document}
        _need(set(map(type, stated.values())) <= {str, int}, "a field")
        _need(_FILE.fullmatch(document.get("file", "0" * 16)), "file")
        mark = Mark(
            document["form"],
            document["source"],
            Span(document["from"], document["to"]) if "from" in document else None,
            Origin(document["bytes"], parse_digest(document["sha256"])) if "bytes" in document else None,
            bytes.fromhex(document.get("file", "")),
            document.get("offsets", {}),
            parse_instant(document["upstream_at"]) if "upstream_at" in document else None,
            {one["license"]: tuple(map(int, one["rev_ids"])) for one in document.get("licenses", [])},
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgumentError(f"not a mark: {str(error)[:200]}", field="mark") from None
    if mark.encoded != encoded:
        raise InvalidArgumentError("not a mark: it would be written in another way", field="mark")
    return mark


def _is_offset(name: object, value: object) -> bool:
    named = isinstance(name, str) and _OFFSET.fullmatch(name)
    return bool(named) and (type(value) is str or (type(value) is int and abs(value) <= _MAX_NUMBER))


def _is_stated(license_: object, rev_ids: tuple[int, ...]) -> bool:
    named = isinstance(license_, str) and 0 < len(license_) <= MAX_LICENSE_CHARS
    ascending = all(before < after for before, after in pairwise((0, *rev_ids)))
    return named and bool(rev_ids) and ascending and rev_ids[-1] <= MAX_ID


def _counts(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_NUMBER


def _need(holds: object, what: str) -> None:
    if not holds:
        raise InvalidArgumentError(f"{what}: that is no mark's", field=what)
