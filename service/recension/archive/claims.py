"""Upstream's claims about a text, checked and recorded, never a reason to refuse (DESIGN section 3)."""

from __future__ import annotations

import re
from enum import IntEnum
from hashlib import sha1

from recension.archive.sealed import Note
from recension.model.event import Presence, SlotText

_CLAIM = re.compile(r"[0-9a-z]{1,31}")
"""MediaWiki's form of a SHA-1: base 36, lower case, padded to 31 digits by most writers."""


class Verdict(IntEnum):
    """What became of a SHA-1 claim. The numbers are stored."""

    ABSENT = 0
    EXACT = 1
    EXACT_AFTER_CRLF = 2
    """Equal once every LF is CRLF again: the XML writer strips carriage returns."""
    MISMATCH = 3


def check_claims(slot: SlotText) -> Note:
    """Return the verdict on a slot's claims."""
    if slot.presence is not Presence.PRESENT:
        return Note(Verdict.ABSENT, -1, "")
    claimed_bytes = -1 if slot.claimed_bytes is None else slot.claimed_bytes
    if not slot.claimed_sha1:
        return Note(Verdict.ABSENT, claimed_bytes, "")
    if _CLAIM.fullmatch(slot.claimed_sha1):
        claim = int(slot.claimed_sha1, 36)
        if _sha1(slot.text) == claim:
            return Note(Verdict.EXACT, claimed_bytes, "")
        if b"\n" in slot.text and _sha1(slot.text.replace(b"\n", b"\r\n")) == claim:
            return Note(Verdict.EXACT_AFTER_CRLF, claimed_bytes, "")
    return Note(Verdict.MISMATCH, claimed_bytes, slot.claimed_sha1)


def _sha1(text: bytes) -> int:
    return int.from_bytes(sha1(text, usedforsecurity=False).digest(), "big")


# MediaWiki's redirect magic word and its translations in large wikis (languages/messages/*, "redirect").
_REDIRECT = re.compile(
    (
        r"\s*#\s*(?:redirect|weiterleitung|redirection|redirecci[oó]n|redirecionamento|rinvia|doorverwijzing"
        r"|перенаправление|перенаправлення|patrz|przekieruj|tam|omdirigering|omdiriger|ohjaus|uudelleenohjaus"
        r"|تحويل|تغییر_مسیر|הפניה|重定向|転送|リダイレクト|넘겨주기|đổi|alih)\s*:?\s*\[\["
    ),
    re.IGNORECASE,
)


def is_redirect(slot: SlotText) -> bool:
    """Say whether a main slot's wikitext is a redirect."""
    if slot.model != "wikitext" or b"#" not in slot.text[:64]:
        return False
    return _REDIRECT.match(slot.text[:256].decode(errors="replace")) is not None
