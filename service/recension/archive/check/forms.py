"""How the keys and values of each kind of index row are formed, and what a row is called to a person."""

from __future__ import annotations

from recension.store import keys
from recension.store.interface import Row

_FORMS: dict[bytes, tuple[str, int | None, int | None]] = {
    b"A": ("last removal", 1, None), b"B": ("commit time", 9, None), b"C": ("tally", 13, 40),
    b"D": ("text", 17, 8), b"E": ("edit", 41, None), b"F": ("pin name", 41, 0),
    b"G": ("block", 17, 38), b"H": ("tail", 21, 28), b"I": ("leaf", 13, 40),
    b"J": ("event columns", 17, None), b"K": ("text holder", 29, 0), b"L": ("log entry", 25, 10),
    b"M": ("mark", 33, 9), b"N": ("node", 33, None), b"O": ("pin", 33, None), b"P": ("project", None, 4),
    b"Q": ("definition", 13, None), b"R": ("revision", 25, 16),
    b"S": ("source", 21, None), b"T": ("title", 29, None), b"U": ("block user", 17, 0),
    b"V": ("visibility", 25, 25), b"W": ("page visibility", 25, 25), b"X": ("event run", 17, 41),
    b"Y": ("manifest", 9, None), b"Z": ("snapshot", 33, None), b"a": ("released snapshot", 33, 8),
    b"f": ("event facts", 17, None), b"g": ("stage", 21, None), b"h": ("pages of a stage", 25, None),
    b"i": ("event commitments", 21, None),
    b"m": ("source mark", 30, 0),
    b"k": ("signing key", 9, None), b"l": ("licensee", 25, None), b"u": ("API key", 17, None),
    b"d": ("acknowledgement", 33, None), b"e": ("receipt", 9, None), b"r": ("retraction", 9, None),
    b"v": ("withdrawn revision", 21, 1),
}  # fmt: skip
"""(name, bytes of the key, bytes of the value) of each kind of row; ``None`` where they differ."""
_ANY = ("unknown", None, None)
_PROJECTS = 2**31
_EDIT_BYTES = 21
"""Of an edit's value, without its content model."""


def is_key(key: bytes) -> bool:
    """Say whether a key is of a kind that there is, and as long as that kind's."""
    return key[:1] in _FORMS and _FORMS[key[:1]][1] in (None, len(key))


def is_formed(row: Row) -> bool:
    """Say whether a row can be read as its kind is. One of no kind is never read."""
    key, value = row
    _, key_bytes, value_bytes = _FORMS.get(key[:1], _ANY)
    if key_bytes not in (None, len(key)) or value_bytes not in (None, len(value)):
        return False
    match key[:1]:
        case b"E":
            return len(value) >= _EDIT_BYTES and _is_text(value[_EDIT_BYTES:])
        case b"P":
            return 0 < int.from_bytes(value, "big") < _PROJECTS
        case _:
            return True


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def page_of(key: bytes) -> tuple[int, int]:
    """Return (project, page) of the key of an edit, a mark, a block or a tail."""
    return int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:13], "big")


def name_of(key: bytes) -> str:
    """Say which row a key is of, to a person."""
    name, key_bytes, _ = _FORMS.get(key[:1], _ANY)
    if key[:1] == b"P":
        return f"project row {key[1:].decode(errors='replace')!r}"
    match key[:1] if len(key) == key_bytes else b"":
        case b"E":
            page, _, rev, position, ordinal = keys.read_edit(key)
            return f"edit row of page {page}, revision {rev}, event {position}.{ordinal}"
        case b"R" | b"V" | b"W":
            subject, position, ordinal = keys.read_revision(key)
            return f"{name} row of {subject}, event {position}.{ordinal}"
        case b"M":
            page, _, position, ordinal = keys.read_mark(key)
            return f"mark row of page {page}, event {position}.{ordinal}"
        case b"G" | b"H":
            return f"{name} row {int.from_bytes(key[13:], 'big')} of page {page_of(key)[1]}"
        case _:
            return f"{name} row {key.hex()}"
