"""What a command tells a person."""

from __future__ import annotations

import json
import sys

from recension.model.errors import RecensionError

NAMED_ERROR = 3
"""Exit status of a command that told an error with a name."""


def write_error(error: RecensionError) -> None:
    """Tell a person on standard error."""
    sys.stderr.write(f"error: {plain(error.message)}\n")
    if error.hint:
        sys.stderr.write(f"hint: {plain(error.hint)}\n")


def plain(text: str) -> str:
    """Spell out what a file name or upstream may use to steer a terminal, and what UTF-8 cannot hold."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def write_json(value: object) -> int:
    """Write a line of JSON to standard output; the exit status."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    return 0
