"""Files with secrets: whole, durable, and readable by their owner alone."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

MODE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class OpenToOthersError(Exception):
    """Others than the owner may read or write the file; ``mode`` is its mode."""

    def __init__(self, mode: int) -> None:
        super().__init__(f"its mode is {mode:o}, so others may read or write it")
        self.mode = mode


def read_private(path: Path) -> str:
    """Return a file's text, ASCII. Raises ``OpenToOthersError``, ``OSError``, ``ValueError``."""
    with path.open(encoding="ascii") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & _OTHERS:
            raise OpenToOthersError(mode)
        return file.read()


def write_private(path: Path, text: str) -> None:
    """Put a file in place. Raises ``OSError``."""
    part = path.with_name(path.name + ".part")
    with suppress(FileNotFoundError):
        part.unlink()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
