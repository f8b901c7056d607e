"""What is looked for after an erasure, and what backups there are: small files of a data directory.

``retractions/POSITION.values`` has the digests and salts that a retraction destroyed, so that they can be
looked for once the file was written anew. Whoever reads it can test a guess of what was withdrawn, as whoever
reads the free pages of the store can until then; it goes when the receipt is signed.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recension.archive.retracting import Values
from recension.model.errors import StoreError, StoreFullError
from recension.model.private import write_private
from recension.store.directory import BACKUPS_FILE, RETRACTIONS_FOLDER

_FULL_HINT = "make room, then run the same again"


class Sought:
    """The values of all retractions of a data directory that have no receipt yet."""

    def __init__(self, data: Path) -> None:
        self.folder = data / RETRACTIONS_FOLDER

    def keep(self, position: int, values: Values) -> None:
        """Add values of a retraction; durable when it returns. Raises ``StoreError``."""
        before = self.read(position)
        lines = [
            f"{name} {value.hex()}\n"
            for name, old, new in zip(Values._fields, before, values, strict=True)
            for value in sorted(old | new)
        ]
        with _explained(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            write_private(self.path(position), "".join(lines))

    def read(self, position: int) -> Values:
        """Return what was kept of a retraction; nothing where nothing is left. Raises ``StoreError``."""
        values = Values(set(), set(), set())
        with _explained(self.folder):
            try:
                text = self.path(position).read_text(encoding="ascii")
            except FileNotFoundError:
                return values
        try:
            for line in text.splitlines():
                name, _, value = line.partition(" ")
                {"texts": values.texts, "salts": values.salts, "kept": values.kept}[name].add(
                    bytes.fromhex(value)
                )
        except (KeyError, ValueError):
            raise StoreError(f"{self.path(position)} is damaged", hint="remove it") from None
        return values

    def path(self, position: int) -> Path:
        """Return where the values of a retraction are."""
        return self.folder / f"{position}.values"

    def forget(self, position: int) -> None:
        """Remove the values of a retraction."""
        with _explained(self.folder):
            self.path(position).unlink(missing_ok=True)

    def report(self, position: int, document: dict[str, object]) -> Path:
        """Write what a retraction concerns; return where."""
        path = self.folder / f"{position}.json"
        with _explained(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            write_private(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
        return path


class Backups:
    """The backups that were made of a data directory."""

    def __init__(self, data: Path) -> None:
        self._path = data / BACKUPS_FILE

    def add(self, path: Path, made_at: str, position: int) -> None:
        """Note a backup. Raises ``StoreError``."""
        with _explained(self._path):
            known = [*self.known(), {"path": str(path), "made_at": made_at, "position": position}]
            write_private(self._path, json.dumps(known, indent=1) + "\n")

    def known(self) -> list[dict[str, str | int]]:
        """Return the backups that were made and are where they were put, as far as this machine sees."""
        with _explained(self._path):
            try:
                found = json.loads(self._path.read_text(encoding="utf-8"))
                return [one for one in found if os.path.lexists(one["path"])]
            except FileNotFoundError:
                return []
            except (ValueError, TypeError, KeyError):
                raise StoreError(f"{self._path} is damaged", hint="remove it") from None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        raise kind(f"{path} cannot be used: {error.strerror}", hint=_FULL_HINT, path=path) from None
