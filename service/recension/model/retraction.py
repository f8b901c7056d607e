"""Retractions, receipts of erasures, and licensees' answers: their statements (docs/format.md, 16).

None of them says what a withdrawn value was. Each has a random id, so whoever sees its hash among the leaves
of the checkpoint log cannot guess the statement from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import InvalidArgumentError
from recension.model.event import MAX_ID, MAX_NAME_BYTES, utf8_bytes
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import canonical_json
from recension.model.record import Flag

RETRACTION_FORMAT = "recension/retraction/v1"
RECEIPT_FORMAT = "recension/erasure-receipt/v1"
ACKNOWLEDGEMENT_FORMAT = "recension/acknowledgement/v1"
ID_BYTES = 16
UPSTREAM = "upstream"
"""The reason of what upstream itself has hidden: no code of a retraction."""
_CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


class Reason(StrEnum):
    """Why something is withdrawn. Codes may be added, never renamed."""

    COPYRIGHT = "copyright"
    PRIVACY = "privacy"
    COURT_ORDER = "court-order"
    DEFAMATION = "defamation"
    CONTRIBUTOR_REQUEST = "contributor-request"
    LICENCE = "licence"
    SAFETY = "safety"
    ERROR = "error"
    OTHER = "other"


class Part(StrEnum):
    """What can be withdrawn of a revision."""

    TEXT = "text"
    COMMENT = "comment"
    CONTRIBUTOR = "contributor"


FLAGS = {
    Part.TEXT: Flag.TEXT_HIDDEN,
    Part.COMMENT: Flag.COMMENT_HIDDEN,
    Part.CONTRIBUTOR: Flag.CONTRIBUTOR_HIDDEN,
}


def flags_of(parts: Iterable[Part]) -> int:
    """Return the flags that hide some parts."""
    return sum(FLAGS[part] for part in set(parts))


def parts_of(flags: int) -> tuple[Part, ...]:
    """Return the parts that flags hide, by name."""
    return tuple(sorted(part for part, flag in FLAGS.items() if flags & flag))


@dataclass(frozen=True, slots=True)
class Retraction:
    """What is withdrawn by one commit, or brought back. Made by ``make_retraction``, ``read_retraction``."""

    id: bytes
    """16 random bytes."""
    case: str
    reason: Reason
    project: str
    parts: tuple[Part, ...]
    """By name."""
    revisions: int
    """How many; which, the visibility changes of the same commit say."""
    reverses: bytes = b""
    """Id of the retraction that is taken back; else empty."""
    escrow: bytes = b""
    """SHA-256 of the encrypted bundle of what was withdrawn; empty where none was made."""
    encoded: bytes = field(compare=False, default=b"")
    """The canonical JSON."""


def check_case(case: str) -> None:
    """Refuse what is no name of a case. Raises ``InvalidArgumentError``."""
    if not _CASE.fullmatch(case):
        raise InvalidArgumentError(
            f"case: {case[:80]!r} is no name of a case",
            hint="1 to 128 letters, digits, dots, dashes, colons and slashes; it is kept, so name no person",
            field="case",
        )


def make_retraction(
    id_: bytes,
    case: str,
    reason: Reason,
    project: str,
    parts: Iterable[Part],
    revisions: int,
    *,
    reverses: bytes = b"",
    escrow: bytes = b"",
) -> Retraction:
    """Return a statement with its canonical bytes. Raises ``InvalidArgumentError`` for what is none."""
    check_case(case)
    kept = tuple(sorted(set(parts)))
    if (
        len(id_) != ID_BYTES
        or len(reverses) not in (0, ID_BYTES)
        or not kept
        or not 0 < revisions <= MAX_ID
        or utf8_bytes("project", project) > MAX_NAME_BYTES
    ):
        raise InvalidArgumentError("the id, the parts or the number are no retraction's", field="retraction")
    document: dict[str, Any] = {
        "case": case,
        "format": RETRACTION_FORMAT,
        "id": id_.hex(),
        "parts": [part.value for part in kept],
        "project": project,
        "reason": reason.value,
        "revisions": revisions,
    }
    if reverses:
        document["reverses"] = reverses.hex()
    if escrow:
        document["escrow"] = format_digest(escrow)
    return Retraction(id_, case, reason, project, kept, revisions, reverses, escrow, canonical_json(document))


def read_retraction(encoded: bytes) -> Retraction:
    """Read a statement. Raises ``InvalidArgumentError`` for anything but what ``make_retraction`` writes."""

    def read(document: dict[str, Any]) -> Retraction:
        return make_retraction(
            bytes.fromhex(document["id"]),
            document["case"],
            Reason(document["reason"]),
            document["project"],
            [Part(part) for part in document["parts"]],
            _integer(document["revisions"]),
            reverses=bytes.fromhex(document.get("reverses", "")),
            escrow=parse_digest(document["escrow"], "escrow") if "escrow" in document else b"",
        )

    return _strictly(encoded, RETRACTION_FORMAT, "a retraction", read)


# --- receipts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was found after an erasure. Made by ``make_receipt`` and ``read_receipt``."""

    id: bytes
    """16 random bytes."""
    retraction: bytes
    """Id of the retraction."""
    position: int
    """Log position of its commit."""
    case: str
    compacted_at: int
    """When the file was written anew, microseconds since the epoch."""
    revisions: int
    fields: int
    """Sealed values that are gone, with their salts."""
    texts: int
    """Texts that are gone."""
    texts_kept: int
    """Texts that stay, because a revision that was not withdrawn holds the same."""
    values_searched: int
    """Digests and salts that were looked for in every file."""
    files_searched: int
    bytes_searched: int
    backups: tuple[str, ...]
    """Known backups from before the erasure: they still hold it."""
    note: str = ""
    """The signed note."""
    encoded: bytes = field(compare=False, default=b"")

    @property
    def body(self) -> bytes:
        """What is signed, less its last newline: canonical JSON."""
        return canonical_json(_receipt_document(self))


def _receipt_document(receipt: Receipt) -> dict[str, Any]:
    return {
        "backups": list(receipt.backups),
        "bytes_searched": str(receipt.bytes_searched),
        "case": receipt.case,
        "compacted_at": format_instant(receipt.compacted_at),
        "fields": receipt.fields,
        "files_searched": receipt.files_searched,
        "format": RECEIPT_FORMAT,
        "id": receipt.id.hex(),
        "position": str(receipt.position),
        "retraction": receipt.retraction.hex(),
        "revisions": receipt.revisions,
        "texts": receipt.texts,
        "texts_kept": receipt.texts_kept,
        "values_searched": receipt.values_searched,
    }


def make_receipt(receipt: Receipt, note: str) -> Receipt:
    """Return a receipt with its signed note and canonical bytes. Raises ``InvalidArgumentError``."""
    check_case(receipt.case)
    if {len(receipt.id), len(receipt.retraction)} != {ID_BYTES} or not 0 < receipt.position <= MAX_ID:
        raise InvalidArgumentError("the ids or the position are no receipt's", field="receipt")
    document = _receipt_document(receipt)
    if not note.startswith(receipt.body.decode() + "\n\n"):
        raise InvalidArgumentError("the note is of another receipt", field="receipt")
    encoded = canonical_json({**document, "note": note})
    return replace(receipt, note=note, encoded=encoded)


def read_receipt(encoded: bytes) -> Receipt:
    """Read a statement; the signature is not checked.

    Raises ``InvalidArgumentError`` for anything but what ``make_receipt`` writes.
    """

    def read(document: dict[str, Any]) -> Receipt:
        backups = document["backups"]
        if type(backups) is not list or any(type(one) is not str for one in backups):
            raise ValueError("backups are no list of strings")
        return make_receipt(
            Receipt(
                bytes.fromhex(document["id"]),
                bytes.fromhex(document["retraction"]),
                int(document["position"]),
                document["case"],
                parse_instant(document["compacted_at"]),
                _integer(document["revisions"]),
                _integer(document["fields"]),
                _integer(document["texts"]),
                _integer(document["texts_kept"]),
                _integer(document["values_searched"]),
                _integer(document["files_searched"]),
                int(document["bytes_searched"]),
                tuple(backups),
            ),
            document["note"],
        )

    return _strictly(encoded, RECEIPT_FORMAT, "a receipt", read)


# --- answers of licensees -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A licensee's answer: what was withdrawn from a pin up to a position is removed."""

    id: bytes
    """16 random bytes."""
    owner: str
    key_id: bytes
    """Of the API key that the answer was given with; empty where callers have none."""
    pin: bytes
    """Id of the pin."""
    pin_made_at: int
    """Log position of the pin's first statement."""
    snapshot_id: bytes
    through: int
    """Log position up to which everything withdrawn is answered for."""
    entries: int
    """How many entries of the pin that are, as the server counted them."""
    encoded: bytes = field(compare=False, default=b"")


def make_acknowledgement(
    id_: bytes,
    owner: str,
    key_id: bytes,
    pin: bytes,
    pin_made_at: int,
    snapshot_id: bytes,
    through: int,
    entries: int,
) -> Acknowledgement:
    """Return a statement with its canonical bytes. Raises ``InvalidArgumentError`` for what is none."""
    if (
        {len(id_), len(pin)} != {ID_BYTES}
        or utf8_bytes("owner", owner) > MAX_NAME_BYTES
        or not 0 < pin_made_at <= MAX_ID
        or not 0 < through <= MAX_ID
        or not 0 <= entries <= MAX_ID
    ):
        raise InvalidArgumentError("the ids or positions are no answer's", field="acknowledgement")
    document: dict[str, Any] = {
        "entries": entries,
        "format": ACKNOWLEDGEMENT_FORMAT,
        "id": id_.hex(),
        "key": key_id.hex(),
        "owner": owner,
        "pin": pin.hex(),
        "pin_made_at": str(pin_made_at),
        "snapshot": format_digest(snapshot_id),
        "through": str(through),
    }
    encoded = canonical_json(document)
    return Acknowledgement(id_, owner, key_id, pin, pin_made_at, snapshot_id, through, entries, encoded)


def read_acknowledgement(encoded: bytes) -> Acknowledgement:
    """Read a statement. Raises ``InvalidArgumentError`` for anything but what was written."""

    def read(document: dict[str, Any]) -> Acknowledgement:
        return make_acknowledgement(
            bytes.fromhex(document["id"]),
            document["owner"],
            bytes.fromhex(document["key"]),
            bytes.fromhex(document["pin"]),
            int(document["pin_made_at"]),
            parse_digest(document["snapshot"], "snapshot"),
            int(document["through"]),
            _integer(document["entries"]),
        )

    return _strictly(encoded, ACKNOWLEDGEMENT_FORMAT, "an acknowledgement", read)


class _Encoded(Protocol):
    @property
    def encoded(self) -> bytes: ...


_T = TypeVar("_T", bound=_Encoded)


def _strictly(encoded: bytes, format_: str, what: str, read: Callable[[dict[str, Any]], _T]) -> _T:
    """Return what a statement says; each meaning has one form."""
    try:
        document = json.loads(encoded.decode())
        if document["format"] != format_:
            raise InvalidArgumentError(
                f"unknown format {str(document['format'])[:80]!r}",
                hint="use a newer recension",
                field="format",
            )
        said = read(document)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"not {what}: {str(error)[:200]}", field="statement") from None
    if said.encoded != encoded:
        raise InvalidArgumentError(f"not {what}: it would be written in another way", field="statement")
    return said


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{str(value)[:80]!r} is not an integer")
    return value


# --- what a licensee is told ----------------------------------------------------------------------


class Withdrawn(NamedTuple):
    """One entry of a pin of which something was withdrawn since the pin was made."""

    project: str
    page_id: int
    rev_id: int
    parts: tuple[Part, ...]
    reason: str
    """A ``Reason``, or ``UPSTREAM``."""
    position: int
    """Log position from which it is withdrawn."""
    withdrawn_at: int
    """Transaction time of that, microseconds since the epoch."""
    acknowledged: bool
    """Whether the licensee has answered for it."""


class Duties(Protocol):
    """What a licensee owes to what was withdrawn: the same in process and over the wire."""

    def retractions(self, pin: str, *, after: tuple[str, int] = ("", 0)) -> Iterator[Withdrawn]:
        """Yield what was withdrawn from a pin since it was made, by (project, revision id), behind a place.

        An expired pin can be asked about too. Raises ``PinNotFoundError``.
        """
        ...

    def acknowledge(self, pin: str, through: int) -> Acknowledgement:
        """Answer for all that was withdrawn from a pin up to a log position; durable when it returns.

        Raises ``PinNotFoundError``, ``InvalidArgumentError`` for a position that is in the future.
        """
        ...
