"""Titles and names as they may be shown: whatever a server says, they steer nothing."""

from __future__ import annotations

import unicodedata

_HIDING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, directions that would reorder a line, lone surrogates, and what ends a line unseen."""


def visible(text: str) -> str:
    """Return a text in which nothing hides: each control or direction character is shown as a sign."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_sign, text))


def _sign(char: str) -> str:
    if char == "\t" or char.isprintable() or char == " ":
        return char
    if char < " ":
        return chr(0x2400 + ord(char))
    # Joiners are part of how some scripts are written.
    hides = unicodedata.category(char) in _HIDING and char not in "\u200c\u200d"
    return "\ufffd" if hides else char
