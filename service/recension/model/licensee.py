"""Licensees: who they are, and by which certificates or tokens they may be told (docs/format.md, 15)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from recension.model.access import check_owner
from recension.model.errors import InvalidArgumentError
from recension.model.event import MAX_ID
from recension.model.fields import HOSTILE
from recension.model.manifest import canonical_json

FORMAT = "recension/licensee/v1"
MAX_TEXT_BYTES = 256
MAX_CERTIFICATE_NAMES = 32
_CERTIFICATE_NAME = re.compile(r"(?:DNS|URI|email|IP):[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Licensee:
    """A licensee as it is from one log position on. Made and checked by ``make_licensee``."""

    name: str
    """The name that owns keys, pins and agreements."""
    made_at: int
    """Log position of this statement."""
    display_name: str = ""
    contact: str = ""
    certificate_names: tuple[str, ...] = ()
    """Subject alternative names of its client certificates, ``DNS:host`` or ``URI:...``; sorted."""
    jwt_subject: str = ""
    """The ``sub`` of its tokens."""
    ended: bool = False
    """Whether nothing is served to it any more, whatever its agreements say."""
    encoded: bytes = field(compare=False, repr=False, default=b"")
    """The canonical JSON."""


def make_licensee(
    name: str,
    made_at: int,
    *,
    display_name: str = "",
    contact: str = "",
    certificate_names: Iterable[str] = (),
    jwt_subject: str = "",
    ended: bool = False,
) -> Licensee:
    """Return a statement with its canonical bytes. Raises ``InvalidArgumentError`` for what is none."""
    check_owner(name)
    texts = {"display_name": display_name, "contact": contact, "jwt_subject": jwt_subject}
    for what, text in texts.items():
        if HOSTILE.search(text) or len(text.encode()) > MAX_TEXT_BYTES:
            raise InvalidArgumentError(
                f"{what}: it has characters that nobody sees, or more than {MAX_TEXT_BYTES} bytes",
                field=what,
            )
    names = tuple(sorted(set(certificate_names)))
    for one in names:
        if not _CERTIFICATE_NAME.fullmatch(one):
            raise InvalidArgumentError(
                f"certificate_names: {one[:80]!r} is no subject alternative name",
                hint="write DNS:client.example.org, or URI:, email: or IP: before the name",
                field="certificate_names",
            )
    if len(names) > MAX_CERTIFICATE_NAMES or not 0 < made_at <= MAX_ID:
        raise InvalidArgumentError(
            f"certificate_names: {len(names)}, more than {MAX_CERTIFICATE_NAMES}", field="certificate_names"
        )
    said: dict[str, Any] = {**texts, "certificate_names": list(names), "ended": bool(ended)}
    document = {name_: value for name_, value in said.items() if value}
    document |= {"format": FORMAT, "name": name, "made_at": str(made_at)}
    return Licensee(name, made_at, display_name, contact, names, jwt_subject, ended, canonical_json(document))


def read_licensee(encoded: bytes) -> Licensee:
    """Read a statement. Raises ``InvalidArgumentError`` for anything but what ``make_licensee`` writes."""
    try:
        document = json.loads(encoded.decode())
        if document.pop("format") != FORMAT:
            raise InvalidArgumentError(
                "unknown licensee format", hint="use a newer recension", field="format"
            )
        found = make_licensee(document.pop("name"), int(document.pop("made_at")), **document)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"not a licensee: {str(error)[:200]}", field="licensee") from None
    if found.encoded != encoded:
        raise InvalidArgumentError("not a licensee: it would be written in another way", field="licensee")
    return found
