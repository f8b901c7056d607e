"""Make an input that is a finding smaller while it stays the same finding: ``shrink TARGET FILE``.

Rewrites the file. The same finding is the same exception out of the same line.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from recension.archive.intake.child import limit_resources
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

_MOST_TRIES = 5_000

Mark = tuple[str, str, int | None]


def mark_of(target: Target, data: bytes) -> Mark | None:
    """Return what an input does wrong, and where; ``None`` if nothing."""
    try:
        target.accepts(data)
    except Exception as error:  # noqa: BLE001 - whatever it is
        where = traceback.extract_tb(error.__traceback__)[-1]
        return type(error).__name__, where.filename, where.lineno
    return None


def shrunk(data: bytes, holds: Callable[[bytes], bool]) -> bytes:
    """Leave out of ``data`` what is not needed for ``holds``: halves first, single bytes last."""
    tries = 0
    size = len(data)
    while size and tries < _MOST_TRIES:
        at = 0
        while at < len(data) and tries < _MOST_TRIES:
            tries += 1
            less = data[:at] + data[at + size :]
            if holds(less):
                data = less
            else:
                at += size
        size //= 2
    return data


def main(arguments: Sequence[str]) -> None:
    """Shrink one file."""
    name, path = arguments
    target, file = TARGETS[name], Path(path)
    limit_resources()
    data = file.read_bytes()
    mark = mark_of(target, data)
    if mark is None:
        print(f"{file}: nothing is wrong with it")
        return
    file.write_bytes(shrunk(data, lambda less: mark_of(target, less) == mark))
    print(f"{file}: {mark}, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
