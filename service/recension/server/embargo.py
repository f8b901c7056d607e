"""The clock that embargoes are kept by: it never runs ahead of the time that is known to have passed.

A wall clock that jumps forward would serve early what is not to be served yet. So beside it goes what the
machine counted since a moment at which the wall clock was trusted (``CLOCK_BOOTTIME``, sleep included): now
is the lesser of both. What was now is kept in a file, for the next start. After a restart of the machine
nothing was counted: then a wall clock up to a day ahead of the file is trusted, and beyond that the operator
is asked. A clock that goes back releases nothing early, and holds back what it takes for the future.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

from recension.archive.clock import Clock, system_clock
from recension.model.errors import ClockUnusableError, InvalidTimeError
from recension.model.instant import format_instant, parse_instant
from recension.model.private import MODE, OpenToOthersError, read_private, write_private

PERSIST_SECONDS = 60.0
"""How often now is written down."""
TRUSTED_AHEAD = 24 * 3600 * 1_000_000
"""How far the wall clock may be ahead of what was written down before a restart, in microseconds."""
SLACK = 60 * 1_000_000
"""How far now may be ahead of what was counted: wall clocks are corrected by small steps."""
_LOOK_SECONDS = 1.0
_FORMAT = "recension/clock/v1"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_clock() -> int:
    """Return the microseconds since the machine was started, those in which it slept included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def boot_id() -> str:
    """Return what tells this start of the machine from others."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment at which it was known what time it is. Microseconds throughout."""

    boot: str
    """Which start of the machine it belongs to."""
    wall_at: int
    """Since the epoch."""
    boot_at: int
    """Since the start of the machine, at that moment."""
    last: int
    """Now, when it was written down last."""
    held: bool = False
    """The wall clock was too far ahead to be trusted, and nobody has said since that it is right."""


@dataclass(frozen=True, slots=True)
class State:
    """What an operator is told."""

    now: int
    """By which embargoes are kept."""
    wall: int
    held: bool

    @property
    def behind(self) -> int:
        """How far the wall clock is ahead of it, in microseconds."""
        return self.wall - self.now


class EmbargoClock:
    """The clock of a data directory. Safe for concurrent use, by several processes too."""

    def __init__(
        self,
        path: Path,
        *,
        wall: Clock = system_clock,
        since_boot: Clock = boot_clock,
        boot: str | None = None,
    ) -> None:
        """``path``: its file, which may not exist yet; the rest is injected for tests."""
        self._path = path
        self._wall = wall
        self._since_boot = since_boot
        self._boot = boot
        self._lock = Lock()
        self._anchor: Anchor | None = None
        self._stamp: tuple[int, int] | None = None
        self._looked_at = 0.0

    def now(self) -> int:
        """Return now, microseconds since the epoch. Raises ``ClockUnusableError``."""
        return self._now(self._known(), self._wall())

    def state(self) -> State:
        """Return what an operator is told. Raises ``ClockUnusableError``."""
        anchor, wall = self._known(), self._wall()
        return State(self._now(anchor, wall), wall, anchor.held)

    def persist(self) -> None:
        """Write now down, durably. Raises ``ClockUnusableError``."""
        with self._locked():
            anchor = self._established()
            self._write(replace(anchor, last=max(anchor.last, self._now(anchor, self._wall()))))

    def confirm(self) -> State:
        """Trust the wall clock as it is now: the operator says that it is right."""
        with self._locked():
            wall = self._wall()
            self._write(Anchor(self._boot_id(), wall, self._since_boot(), wall))
            self._anchor = None
        return self.state()

    def _now(self, anchor: Anchor, wall: int) -> int:
        counted = anchor.wall_at + self._since_boot() - anchor.boot_at
        return min(wall, counted + SLACK)

    def _known(self) -> Anchor:
        """Return the anchor of this start of the machine, as of a second ago at most."""
        moment = time.monotonic()
        anchor = self._anchor
        if anchor is not None and moment - self._looked_at < _LOOK_SECONDS:
            return anchor
        with self._lock:
            if self._anchor is None or self._stamp != self._stamped():
                with self._locked():
                    found = self._read()
                    anchor = self._established()
                    if anchor != found:
                        self._write(anchor)
                    self._anchor, self._stamp = anchor, self._stamped()
            self._looked_at = moment
            return self._anchor

    def _established(self) -> Anchor:
        """Return the anchor of this start of the machine; made from what was written down in another one."""
        found, boot = self._read(), self._boot_id()
        wall, counted = self._wall(), self._since_boot()
        if found is None:
            return Anchor(boot, wall, counted, wall)
        if found.boot == boot and counted >= found.boot_at:
            return found
        if wall > found.last + TRUSTED_AHEAD:
            return Anchor(boot, found.last, counted, found.last, held=True)
        return Anchor(boot, max(wall, found.last), counted, found.last)

    def _boot_id(self) -> str:
        if self._boot is None:
            self._boot = boot_id()
        return self._boot

    def _stamped(self) -> tuple[int, int] | None:
        with suppress(FileNotFoundError):
            found = self._path.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def _read(self) -> Anchor | None:
        try:
            document = json.loads(read_private(self._path))
            if document.pop("format") != _FORMAT:
                raise _unusable(self._path, "it is of another version")
            document |= {name: parse_instant(document[name]) for name in ("wall_at", "last")}
            anchor = Anchor(**document)
            if (type(anchor.boot), type(anchor.boot_at), type(anchor.held)) != (str, int, bool):
                raise _unusable(self._path, "it is damaged")
        except FileNotFoundError:
            return None
        except OpenToOthersError as error:
            raise _unusable(self._path, str(error)) from None
        except OSError as error:
            raise _unusable(self._path, os.strerror(error.errno or 0)) from None
        except (ValueError, LookupError, TypeError, AttributeError, InvalidTimeError, RecursionError):
            raise _unusable(self._path, "it is damaged") from None
        return anchor

    def _write(self, anchor: Anchor) -> None:
        document = asdict(anchor) | {
            "format": _FORMAT,
            "wall_at": format_instant(anchor.wall_at),
            "last": format_instant(anchor.last),
        }
        try:
            write_private(self._path, json.dumps(document, sort_keys=True) + "\n")
        except OSError as error:
            raise _unusable(self._path, os.strerror(error.errno or 0)) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise _unusable(path, os.strerror(error.errno or 0)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _unusable(path: Path, what: str) -> ClockUnusableError:
    return ClockUnusableError(
        f"{path}: {what}",
        hint="look whether the machine's time is right, then: recension-server clock confirm",
    )
