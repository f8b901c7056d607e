"""Reading an index some of whose rows or pages are damaged: as far as it goes, and then past the damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recension.archive.check.forms import is_formed
from recension.model.errors import DataLossError
from recension.store.interface import Row, View


class PatientView:
    """A view that leaves out damaged and malformed index rows: each is told where its own kind is walked."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.head, self.blob, self.last_blob_key = view.head, view.blob, view.last_blob_key
        self.state = view.state

    def get(self, key: bytes) -> bytes | None:
        """Return the value of an index key, if it can be read."""
        try:
            value = self._view.get(key)
        except DataLossError:
            return None
        return value if value is not None and is_formed((key, value)) else None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of index keys, in the order asked."""
        return [self.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        """Return the rows of a range that can be read; at most ``limit`` if not 0."""
        out: list[Row] = []
        while True:
            rows, bad = scan_to_damage(self._view, start, stop, limit - len(out) if limit else 0)
            out += filter(is_formed, rows)
            if bad is not None and bad.key:
                start = bad.key + b"\0"
            elif bad is None and limit and rows and len(out) < limit:
                start = rows[-1][0] + b"\0"  # some were malformed, or it is the end
            else:
                return out

    def last(self, start: bytes, stop: bytes) -> Row | None:
        """Return the greatest row of a range that can be read."""
        while True:
            try:
                row = self._view.last(start, stop)
                if row is None or is_formed(row):
                    return row
                if row[0] >= stop:
                    return None  # damaged pages
                stop = row[0]
            except DataLossError as error:
                stop, _ = _span_of(error, start, stop)
                if not stop:
                    return None


@dataclass(frozen=True, slots=True)
class Damage:
    """Where rows cannot be read."""

    key: bytes
    """Of the row, or of the last that is concerned; empty when what follows cannot be reached."""
    error: DataLossError


def scan_to_damage(view: View, start: bytes, stop: bytes, limit: int) -> tuple[list[Row], Damage | None]:
    """Return the rows of a range up to its first damaged one, and that; or ``limit`` rows before it."""
    damage: Damage | None = None
    while True:
        try:
            rows, bad = _in_order(view.scan(start, stop, limit=limit), start)
        except DataLossError as error:  # of rows in several places the first is not always read first
            stop, last = _span_of(error, start, stop)
            damage = Damage(last, error)
            if not stop:
                return [], damage
        else:
            whole = not limit or len(rows) < limit
            return rows, bad or (damage if whole else None)


def _in_order(rows: list[Row], start: bytes) -> tuple[list[Row], Damage | None]:
    """Return the rows as far as they ascend: with damaged pages a walk could go round in a circle."""
    last = b""
    for at, (key, _) in enumerate(rows):
        if key <= last or key < start:
            return rows[:at], Damage(b"", DataLossError("rows are not in the order of their keys"))
        last = key
    return rows, None


def _span_of(error: DataLossError, start: bytes, stop: bytes) -> tuple[bytes, bytes]:
    """Return the first and the last key that damage concerns; empty if the error names none in the range."""
    said = error.metadata
    first = bytes.fromhex(said.get("key", "")) if said.get("table") == "index" else b""
    if not first or not start <= first < stop:
        return b"", b""
    return first, bytes.fromhex(said.get("upto", "")) or first
