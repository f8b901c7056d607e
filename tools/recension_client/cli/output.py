"""Where output goes: results to stdout and nothing else, everything said about them to stderr."""

from __future__ import annotations

import json
import os
import secrets
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

from recension.model.errors import RecensionError

_Item = TypeVar("_Item")

Styled = tuple[str, Sequence[tuple[str, str]]]
"""A line's style, and its texts, each with a style over that."""


_loud = True


def be_quiet() -> None:
    """Say nothing but results and errors from now on."""
    global _loud  # noqa: PLW0603 - one process, one command line
    _loud = False


def watches() -> bool:
    """Say whether a person watches stderr and wants to be told."""
    return _loud and sys.stderr.isatty()


def on_terminal() -> bool:
    """Say whether results go to a terminal."""
    return sys.stdout.isatty()


def write(content: bytes) -> None:
    """Write bytes to stdout as they are."""
    sys.stdout.buffer.write(content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole: a reader sees the old one or the new one, and a fault leaves the old."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as made:
            made.write(content)
            made.flush()
            os.fsync(made.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(content: bytes) -> None:
    """Write an article: the exact bytes into a file or pipe, without control characters on a terminal."""
    if not sys.stdout.isatty():
        write(content)
        return
    shown = clean(content.decode(errors="replace"), keep="\n\t")
    write((shown if shown.endswith("\n") else f"{shown}\n").encode())


def write_json(value: Mapping[str, object]) -> None:
    """Write one line of JSON; what could end a line or steer a terminal is escaped, as JSON allows."""
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "\x85\u2028\u2029":  # they may stand in JSON, but many a reader of lines ends one there
        line = line.replace(char, f"\\u{ord(char):04x}")
    if sys.stdout.isatty():
        line = "".join(f"\\u{ord(char):04x}" if _steers(char) else char for char in line)
    write(line.encode() + b"\n")


def write_tsv(fields: Sequence[object]) -> None:
    """Write one line of fields between tabs; nothing in a field is a tab or ends a line."""
    line = "\t".join(_escaped(str(field)) for field in fields)
    write((clean(line, keep="\t") if sys.stdout.isatty() else line).encode() + b"\n")


_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _escaped(field: str) -> str:
    if field.isascii() and field.isprintable() and "\\" not in field:
        return field
    return "".join(
        # Zl and Zp are the line and paragraph separators: many a reader of lines takes them for an end.
        f"\\u{ord(char):04x}"
        if char not in _ESCAPES and unicodedata.category(char) in {"Cc", "Zl", "Zp"}
        else _ESCAPES.get(char, char)
        for char in field
    )


def write_line(fields: Sequence[object], widths: Sequence[int]) -> None:
    """Write one line for a reader's eyes, in columns that do not need to see the lines to come."""
    padded = [str(field).ljust(width) for field, width in zip(fields, widths, strict=True)]
    line = "  ".join(padded).rstrip()
    write((clean(line) if sys.stdout.isatty() else line).encode() + b"\n")


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for a reader's eyes; no cell is folded, so that an id can be copied off any terminal."""
    from recension_client.cli import drawing  # noqa: PLC0415 - most commands draw nothing

    cells = ([clean(str(cell)) for cell in row] for row in rows)
    write("".join(f"{line}\n" for line in drawing.table(columns, cells, _NUMBERS)).encode())


def write_styled(lines: Iterable[Styled]) -> None:
    """Write lines in the colours that the terminal has; none is folded or cut."""
    from recension_client.cli import drawing  # noqa: PLC0415 - most commands draw nothing

    for line in drawing.styled(lines):
        write(line.encode())


_NUMBERS = {"revisions", "pages", "position", "known at", "entries", "bytes", "revision"}


def note(message: str) -> None:
    """Say something to the person at the terminal; nothing when nobody watches."""
    if watches():
        print(clean(message), file=sys.stderr)


def warn(message: str) -> None:
    """Say what makes a result less than it seems, to a person or a log."""
    if _loud:
        print(f"warning: {clean(message)}", file=sys.stderr)


def complain(error: RecensionError, *, as_json: bool) -> None:
    """Say what went wrong and what to do about it."""
    if as_json:
        value = {
            "error": {
                "reason": error.reason,
                "message": error.message,
                "hint": error.hint,
                "metadata": error.metadata,
            }
        }
        print(json.dumps(value, ensure_ascii=False), file=sys.stderr)
        return
    print(f"error: {clean(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {clean(error.hint)}", file=sys.stderr)


def clean(text: str, *, keep: str = "") -> str:
    """Drop control and direction characters, which could rewrite what a terminal shows."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if char in keep or not _steers(char))


def _steers(char: str) -> bool:
    # Cc: escape sequences. The bidirectional controls reorder a line, so a title could pose as another.
    return (
        unicodedata.category(char) == "Cc" or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def watched(items: Iterable[_Item], what: str, total: int | None) -> Iterator[_Item]:
    """Return the items under a progress bar on stderr, where that is a terminal and stdout is none.

    With both on one terminal the bar and the lines would overwrite each other.
    """
    if not watches() or sys.stdout.isatty():
        return iter(items)
    from recension_client.cli import drawing  # noqa: PLC0415 - most commands draw nothing

    return drawing.watched(items, what, total)


def transfer(what: str, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show a progress bar of bytes on stderr; yields what is told of each further piece, from any thread."""
    if not watches():
        return nullcontext(lambda _: None)
    from recension_client.cli import drawing  # noqa: PLC0415 - most commands draw nothing

    return drawing.transfer(what, total_bytes)
