"""Pins: a licensee's named, dated hold on a snapshot, and its statements in the log (docs/format.md, 12).

Each statement holds the whole pin as it is from then on, so the index rows that it makes follow from itself.
The id is random: whoever sees the hash of a statement among others cannot guess its content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.event import MAX_ID, MAX_NAME_BYTES, utf8_bytes
from recension.model.instant import check_instant, format_instant, parse_instant
from recension.model.manifest import canonical_json

FORMAT = "recension/pin/v1"
NOBODY = ""
"""The one licensee of a server that knows none."""
ID_BYTES = 16
MAX_LABELS = 32
MAX_VALUE_BYTES = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class PinStatement:
    """A pin as it is from one log position on. Made and checked by ``make_pin`` and ``read_pin``."""

    owner: str
    """The licensee; ``NOBODY`` where none are known."""
    name: str
    id: bytes
    """16 random bytes, the same in all statements of the pin."""
    snapshot_id: bytes
    labels: tuple[tuple[str, str], ...]
    """By key."""
    readable_until: int
    """Microseconds since the epoch."""
    made_at: int
    """Log position of the pin's first statement."""
    deleted: bool = False
    agreement: bytes = b""
    """Digest of the agreement under which it was made, or last extended; empty where there was none."""
    encoded: bytes = field(compare=False, default=b"")
    """The canonical JSON."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin as an answer."""

    statement: PinStatement
    """The newest."""
    created_at: int
    """Transaction time of its first statement, microseconds since the epoch."""
    expired: bool

    @property
    def name(self) -> str:
        """Its name, unique among the live pins of its licensee."""
        return self.statement.name

    @property
    def snapshot_id(self) -> bytes:
        """The snapshot that is held."""
        return self.statement.snapshot_id

    @property
    def readable_until(self) -> int:
        """Until when, microseconds since the epoch."""
        return self.statement.readable_until

    @property
    def labels(self) -> dict[str, str]:
        """What the licensee wrote on it."""
        return dict(self.statement.labels)


def check_name(name: str) -> None:
    """Refuse what is no name of a pin. Raises ``InvalidArgumentError``."""
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"name: {name[:80]!r} is no name of a pin",
            hint="1 to 128 letters, digits, dots, dashes and underscores, a letter or digit first",
            field="name",
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse what are no labels. Raises ``InvalidArgumentError``."""
    if len(labels) > MAX_LABELS:
        raise InvalidArgumentError(f"labels: {len(labels)}, more than {MAX_LABELS}", field="labels")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key):
            raise InvalidArgumentError(
                f"labels: {key[:80]!r} is no key",
                hint="1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first",
                field="labels",
            )
        if utf8_bytes("labels", value) > MAX_VALUE_BYTES or _CONTROL.search(value):
            raise InvalidArgumentError(
                f"labels: the value of {key!r} has control characters, or more than {MAX_VALUE_BYTES} bytes",
                field="labels",
            )


def make_pin(
    owner: str,
    name: str,
    id_: bytes,
    snapshot_id: bytes,
    labels: Mapping[str, str],
    readable_until: int,
    made_at: int,
    *,
    deleted: bool = False,
    agreement: bytes = b"",
) -> PinStatement:
    """Return a statement with its canonical bytes. Raises ``InvalidArgumentError`` for what is none."""
    check_name(name)
    check_labels(labels)
    check_instant(readable_until)
    if utf8_bytes("owner", owner) > MAX_NAME_BYTES or len(id_) != ID_BYTES or not 0 < made_at <= MAX_ID:
        raise InvalidArgumentError("the owner, the id or the position is no pin's", field="pin")
    document: dict[str, Any] = {
        "format": FORMAT,
        "id": id_.hex(),
        "labels": dict(labels),
        "made_at": str(made_at),
        "name": name,
        "owner": owner,
        "readable_until": format_instant(readable_until),
        "snapshot": format_digest(snapshot_id),
    }
    if deleted:
        document["deleted"] = True
    if agreement:
        document["agreement"] = format_digest(agreement)
    kept = tuple(sorted(labels.items()))
    return PinStatement(
        owner,
        name,
        id_,
        snapshot_id,
        kept,
        readable_until,
        made_at,
        deleted,
        agreement,
        canonical_json(document),
    )


def read_pin(encoded: bytes) -> PinStatement:
    """Read a statement. Raises ``InvalidArgumentError`` for anything but what ``make_pin`` writes."""
    try:
        document = json.loads(encoded.decode())
        if document["format"] != FORMAT:
            raise InvalidArgumentError(
                f"unknown pin format {str(document['format'])[:80]!r}",
                hint="use a newer recension",
                field="format",
            )
        pin = make_pin(
            document["owner"],
            document["name"],
            bytes.fromhex(document["id"]),
            parse_digest(document["snapshot"], "snapshot"),
            document["labels"],
            parse_instant(document["readable_until"]),
            int(document["made_at"]),
            deleted=document.get("deleted", False) is True,
            agreement=parse_digest(document["agreement"], "agreement") if "agreement" in document else b"",
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"not a pin: {str(error)[:200]}", field="pin") from None
    if pin.encoded != encoded:
        raise InvalidArgumentError("not a pin: it would be written in another way", field="pin")
    return pin


class Pins(Protocol):
    """The pins of one licensee: the same in process and over the wire. Others do not exist here."""

    def create(
        self, name: str, snapshot_id: bytes, readable_until: int, labels: Mapping[str, str] | None = None
    ) -> tuple[Pin, bool]:
        """Make a pin, and say whether it is new; one with the same content is returned as it is.

        Raises ``SnapshotNotFoundError``, ``SnapshotReleasedError``, ``PinExistsError``, ``PinExpiredError``,
        ``InvalidArgumentError``.
        """
        ...

    def get(self, name: str) -> Pin:
        """Return a live pin. Raises ``PinNotFoundError``, ``PinExpiredError``."""
        ...

    def all(self, *, snapshot_id: bytes = b"", after: int = 0) -> Iterator[Pin]:
        """Yield pins in the order of their making, expired ones too, made at a position behind ``after``."""
        ...

    def extend(self, name: str, readable_until: int) -> Pin:
        """Make a pin live longer. Raises ``PinNotFoundError``, ``PinExpiredError``."""
        ...

    def delete(self, name: str, *, allow_missing: bool = False) -> None:
        """End a pin, live or expired. Raises ``PinNotFoundError`` unless ``allow_missing``."""
        ...
