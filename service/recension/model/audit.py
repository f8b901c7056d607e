"""Records of the audit log: what was asked and delivered, by whom and under what terms (docs/format.md, 17).

A record is canonical JSON, and its bytes are a leaf of the log's Merkle tree (RFC 6962). What is empty or 0
is left out. No record holds a text, a title or a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from recension.model.errors import AuditDamagedError, InvalidTimeError
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import canonical_json

FORMAT = "recension/audit/v1"
ORIGIN_SUFFIX = "/audit"
"""Follows the signing key's name in the origin of a checkpoint, so that it is never one of another log."""
CALL, STATEMENT, STRANGERS, REPLACED = "call", "statement", "strangers", "replaced"
"""Kinds of records."""
_KINDS = frozenset({CALL, STATEMENT, STRANGERS, REPLACED})
_NUMBERS = frozenset(
    "articles bytes count duration_us index messages ordinal position taken text_bytes".split()  # noqa: SIM905
)
"""Fields that are numbers; all others are texts, or true."""
MAX_TEXT = 255
"""Characters of what a caller named."""
_INSTANTS = ("ended_at", "recorded_at", "since", "until")
_UNWRITABLE = re.compile("[\ud800-\udfff]")


class Entry(NamedTuple):
    """A record that has no index yet."""

    at: int
    """When it happened, microseconds since the epoch."""
    fields: Mapping[str, Any]


class Call(NamedTuple):
    """One call that is over: what was delivered, not what was promised."""

    ended_at: int
    """Microseconds since the epoch."""
    request: str
    """The id that the server's log names too."""
    caller: str
    """The licensee, operator or auditor."""
    role: str
    key: str
    """Id of the key that was shown, hex; empty for callers known otherwise."""
    method: str
    """``RevisionService/GetArticle``."""
    outcome: str
    """Name of the gRPC code."""
    duration_us: int
    agreement: str = ""
    """Digest of the agreement's version that decided."""
    project: str = ""
    snapshot: str = ""
    pin: str = ""
    articles: int = 0
    text_bytes: int = 0
    """Of the texts of these articles, UTF-8."""
    messages: int = 0
    bytes: int = 0
    """Of all messages, encoded."""
    reason: str = ""
    """What the caller was told."""
    true_reason: str = ""
    """What is true, where the caller was told less: that something is there, and forbidden."""

    @property
    def entry(self) -> Entry:
        """The record without its index."""
        fields: dict[str, Any] = {name: value for name, value in zip(CALL_FIELDS, self, strict=True) if value}
        for name in _NAMED:
            if name in fields:
                fields[name] = _UNWRITABLE.sub("\ufffd", fields[name][:MAX_TEXT])
        fields["kind"] = CALL
        fields["ended_at"] = _written(self.ended_at)
        return Entry(self.ended_at, fields)


CALL_FIELDS = Call._fields
_NAMED = ("project", "snapshot", "pin")


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read."""

    index: int
    """0, 1, 2 ..."""
    encoded: bytes
    fields: Mapping[str, Any]

    @property
    def at(self) -> int:
        """When it happened: a call's end, a statement's transaction time; microseconds since the epoch."""
        return instant_of(self.fields)

    def get(self, name: str) -> str:
        """Return a field that is text; empty without it."""
        return str(self.fields.get(name, ""))

    def number(self, name: str) -> int:
        """Return a field that is a number; 0 without it."""
        return int(self.fields.get(name, 0))


def _written(instant: int) -> str:
    """Return ``format_instant``, of which a server asks many in one second."""
    second, micros = divmod(instant, 1_000_000)
    start = _second(second)
    return f"{start}.{micros:06d}".rstrip("0") + "Z" if micros else f"{start}Z"


@lru_cache(4)
def _second(second: int) -> str:
    return format_instant(second * 1_000_000)[:-1]


def encode_record(index: int, document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record, the leaf of that index."""
    return canonical_json({**document, "format": FORMAT, "index": index})


def read_record(index: int, encoded: bytes) -> Record:
    """Read a record. Raises ``AuditDamagedError`` for bytes that are none, or that of another index."""
    try:
        fields = json.loads(encoded)
        if fields["format"] != FORMAT or type(fields["index"]) is not int:
            raise ValueError("another format")  # noqa: TRY301 - one place says what is wrong
        if canonical_json(fields) != encoded:
            raise ValueError("it would be written in another way")  # noqa: TRY301 - see above
        for name, value in fields.items():
            is_number = type(value) is int and value >= 0
            if not (is_number if name in _NUMBERS else isinstance(value, str) or value is True):
                raise ValueError(f"{name} is not what it is in others")  # noqa: TRY301 - see above
        if fields["kind"] not in _KINDS:
            raise ValueError("it is of no kind")  # noqa: TRY301 - see above
        instant_of(fields)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InvalidTimeError) as error:
        raise AuditDamagedError(f"record {index} is no record: {str(error)[:200]}", index=index) from None
    if fields["index"] != index:
        raise AuditDamagedError(
            f"record {fields['index']} stands in the place of {index}", index=index, found=fields["index"]
        )
    return Record(index, encoded, fields)


def instant_of(fields: Mapping[str, Any]) -> int:
    """Return when a record happened. Raises ``ValueError`` for one that does not say."""
    for name in _INSTANTS:
        if name in fields:
            return parse_instant(fields[name])
    raise ValueError("it has no time")
