"""Statements of retractions, receipts and answers: one form each, and all else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from recension.model.errors import InvalidArgumentError
from recension.model.manifest import canonical_json
from recension.model.record import Flag
from recension.model.retraction import (
    Part,
    Reason,
    Receipt,
    flags_of,
    make_acknowledgement,
    make_receipt,
    make_retraction,
    parts_of,
    read_acknowledgement,
    read_receipt,
    read_retraction,
)

ID = bytes(range(16))
RETRACTION = make_retraction(
    ID, "2026/17", Reason.PRIVACY, "w", [Part.TEXT, Part.COMMENT], 3, reverses=ID[::-1], escrow=bytes(32)
)
_RECEIPT = Receipt(ID, ID[::-1], 7, "2026/17", 1_000_000, 3, 6, 2, 1, 8, 20, 2**40, ("then",))
RECEIPT = make_receipt(_RECEIPT, f"{_RECEIPT.body.decode()}\n\n- log c2lnbmVk\n")
ANSWER = make_acknowledgement(ID, "acme", bytes(8), ID[::-1], 5, bytes(32), 9, 3)
ALL: list[tuple[bytes, Callable[[bytes], Any]]] = [
    (RETRACTION.encoded, read_retraction),
    (RECEIPT.encoded, read_receipt),
    (ANSWER.encoded, read_acknowledgement),
]


def test_what_is_read_is_what_was_written() -> None:
    """Parts come in order and once; a receipt's body is what its note signs."""
    assert read_retraction(RETRACTION.encoded) == RETRACTION
    assert RETRACTION.parts == (Part.COMMENT, Part.TEXT)
    assert read_receipt(RECEIPT.encoded) == RECEIPT
    assert RECEIPT.note.startswith(RECEIPT.body.decode())
    assert read_acknowledgement(ANSWER.encoded) == ANSWER


@pytest.mark.parametrize("encoded, read", ALL)
def test_all_else_is_refused(encoded: bytes, read: Callable[[bytes], Any]) -> None:
    """A key more, less or of another kind, another order, another format, bytes that are no JSON."""
    document = json.loads(encoded)
    wrong = [encoded + b"\n", encoded[:-1], b"[]", b"\xff", b"", b'{"format":1}']
    wrong.append(canonical_json(document | {"more": "x"}))
    wrong.append(canonical_json(document | {"format": "recension/other/v1"}))
    wrong.append(json.dumps(document).encode())
    for key in document:
        wrong.append(canonical_json({name: value for name, value in document.items() if name != key}))
        if key not in ("reverses", "escrow"):
            wrong.append(canonical_json(document | {key: [["x"]]}))
    for one in wrong:
        assert one != encoded
        try:
            again = read(one)
        except InvalidArgumentError:
            continue
        assert again.encoded == one  # a key that may be left out was


@pytest.mark.parametrize("case", ["", " ", "a b", "-", "é", "x" * 129])
def test_names_that_are_no_case(case: str) -> None:
    """A case is named by letters, digits and some marks."""
    with pytest.raises(InvalidArgumentError):
        make_retraction(ID, case, Reason.OTHER, "w", [Part.TEXT], 1)


def test_values_that_cannot_be() -> None:
    """No parts, no revisions, a short id, a note of another receipt, a position that is none."""
    with pytest.raises(InvalidArgumentError):
        make_retraction(ID, "c", Reason.OTHER, "w", [], 1)
    with pytest.raises(InvalidArgumentError):
        make_retraction(ID, "c", Reason.OTHER, "w", [Part.TEXT], 0)
    with pytest.raises(InvalidArgumentError):
        make_retraction(ID[1:], "c", Reason.OTHER, "w", [Part.TEXT], 1)
    with pytest.raises(InvalidArgumentError):
        make_receipt(_RECEIPT, "{}\n\n- log c2lnbmVk\n")
    with pytest.raises(InvalidArgumentError):
        make_acknowledgement(ID, "acme", b"", ID, 0, bytes(32), 9, 3)


def test_parts_and_flags() -> None:
    """Each part hides one thing, and each flag says which."""
    assert flags_of([Part.TEXT, Part.TEXT]) == Flag.TEXT_HIDDEN
    assert parts_of(flags_of(Part)) == (Part.COMMENT, Part.CONTRIBUTOR, Part.TEXT)
    assert parts_of(Flag.MINOR) == ()
