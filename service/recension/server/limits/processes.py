"""Which process holds something, and whether it still lives: what a killed one held is free again."""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from pathlib import Path
from uuid import UUID

_PROCESS = struct.Struct(">16sIQ")
PROCESS_BYTES = _PROCESS.size
_NOWHERE = bytes(16)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> bytes:
    """Return the 16 bytes that name this run of the machine; zeros where nothing tells."""
    try:
        return UUID(_BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return _NOWHERE


def since_boot() -> int:
    """Return nanoseconds since the machine was started. Only ever grows, whatever clock is set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def this_process() -> bytes:
    """Return what names this process and no other, before or after: ``PROCESS_BYTES`` of them."""
    pid = os.getpid()
    return _PROCESS.pack(boot_id(), pid, _started(pid) or 0)


def is_alive(process: bytes) -> bool:
    """Say whether what ``this_process`` returned once, maybe elsewhere, still runs here."""
    boot, pid, started = _PROCESS.unpack(process)
    return bool(boot == boot_id() and started and _started(pid) == started)


def _started(pid: int) -> int | None:
    """Return when a process began, in ticks since boot; its number alone is given to others later."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])
