"""Targets with a fault of each kind: what the engine has to find, or it would find nothing."""

from __future__ import annotations

import time

from tests.fuzz.target import Target

SECRET = b"fuzz"
_OVER_THE_LIMIT = 1024 * 1024 * 1024


def crash(data: bytes) -> bool:
    """Fail behind four comparisons, which only whoever sees how far an input came gets through."""
    for at, wanted in enumerate(SECRET):
        if len(data) <= at or data[at] != wanted:
            return False
    raise KeyError("found")


def _hang(data: bytes) -> bool:
    time.sleep(600 if data[:1] == b"h" else 0)
    return True


def _memory(data: bytes) -> bool:
    return bool(bytearray(_OVER_THE_LIMIT if data[:1] == b"m" else 1))


CONTROLS = {
    target.name: target
    for target in (
        Target("control-crash", crash, most_bytes=16),
        Target("control-hang", _hang, words=(b"h",), most_bytes=16),
        Target("control-memory", _memory, words=(b"m",), most_bytes=16),
    )
}
