"""Between calls and the audit log: a call hands over its record and goes, a thread writes them in groups.

The place of a record is reserved when its call is let in: a call waits there while none is free, before
anything is delivered, so that none ever waits at its end and none is dropped for want of room. What cannot
be written stays here and is tried again; meanwhile licensees are refused. What is still here when
the process ends is told in the server's log, whole.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from contextlib import suppress
from typing import Protocol

import structlog

from recension.archive.clock import Clock, system_clock
from recension.model.access import Role
from recension.model.audit import STRANGERS, Call, Entry
from recension.model.errors import AuditUnusableError, OverloadedError, RecensionError
from recension.model.instant import format_instant
from recension.server import logs
from recension.server.audit.log import AuditLog
from recension.store.auditing import day_of
from recension.wire.status import RETRY_DELAY

GROUP_SECONDS = 0.1
GROUP_RECORDS = 100
"""A group is written when its oldest record is that old, or when it has so many."""
PLACES = 10_000
"""Records that wait, and calls that run, at most."""
WAIT_SECONDS = 10.0
"""How long a call waits for a place."""
_RETRY_SECONDS = 1.0
_MOST_AT_ONCE = 10 * GROUP_RECORDS
_LOOK_SECONDS = 60.0
"""How often a process without calls looks whether a day is over, and strangers are told."""


class Checkpoints(Protocol):
    """What signs checkpoints of the log."""

    def sign(self) -> object:
        """Sign one of now. Raises ``NoSigningKeyError`` and more."""
        ...

    def signed_at(self) -> int:
        """Return when the newest was signed, microseconds since the epoch; 0 before the first."""
        ...


class Audit:
    """What calls use. Safe for concurrent use. Nothing is touched before the first call of a known caller."""

    def __init__(
        self, log: AuditLog, checkpoints: Checkpoints, *, clock: Clock = system_clock, places: int = PLACES
    ) -> None:
        """``checkpoints``: signs one for each day in which records were written."""
        self.log = log
        """What is written to."""
        self._checkpoints = checkpoints
        self._clock = clock
        self._places = threading.BoundedSemaphore(places)
        self._lines = structlog.get_logger()
        self._queue: deque[Call | Entry] = deque()
        self._group: list[Call | Entry] = []
        """What is being written, or has to be tried again."""
        self._in_doubt = 0
        """Behind which index of the log to look for it, and 1; 0 if it was not tried yet."""
        self._wake = threading.Event()
        self._full = threading.Event()
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: RecensionError | None = None
        self._has_left = False
        """Whether nothing is written any more."""
        self._strangers = 0
        self._strangers_since = 0
        self._signed_on = -1

    # --- what calls do ----------------------------------------------------------------------------

    def admit(self, role: Role) -> bool:
        """Reserve a place for the record of a call; ``False`` for an operator's while there is none to have.

        Raises ``AuditUnusableError`` for a licensee while the log cannot be written, and ``OverloadedError``
        when no place is free in time.
        """
        if self._thread is None:
            self._start()
        self.check(role)
        if self._places.acquire(blocking=False):
            return True
        if self._failure is not None:
            return False
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise OverloadedError(
                "too many calls wait to be recorded", hint="try again in a moment", **{RETRY_DELAY: 1}
            )
        return True

    def check(self, role: Role) -> None:
        """Raise ``AuditUnusableError`` for a licensee while the log cannot be written."""
        if self._failure is not None and role is Role.LICENSEE:
            raise AuditUnusableError(self._failure.message, hint=self._failure.hint)

    def append(self, call: Call, *, has_place: bool = True) -> None:
        """Hand over the record of a call that is over. Never waits."""
        if not has_place:
            self._lines.error(logs.AUDIT_UNWRITTEN, **call.entry.fields)
            return
        self._queue.append(call)
        if not self._wake.is_set():
            self._wake.set()
        if len(self._queue) >= GROUP_RECORDS:
            self._full.set()
        if self._has_left:
            self._tell_unwritten()

    def stranger(self) -> None:
        """Count a call without a key that is good; they are recorded together, once a minute at most."""
        with self._counting:
            if not self._strangers:
                self._strangers_since = self._clock()
            self._strangers += 1
        if self._thread is None:
            self._start()

    def stop(self) -> None:
        """Write what is left, and sign it. Returns when that is done, or cannot be."""
        self._stopping.set()
        self._wake.set()
        self._full.set()
        if self._thread is not None:
            self._thread.join()
            self.log.env.close()

    # --- the thread -------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._turn()  # so that the first call is refused already
                self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wait()
            self._tell_strangers(_LOOK_SECONDS)
            if self._turn():
                self._sign_daily()
        self._tell_strangers(0)
        while (self._queue or self._group) and self._turn():
            pass
        self._sign()
        self._leave()

    def _wait(self) -> None:
        if self._failure is None:
            self._wake.wait(_LOOK_SECONDS)
            self._full.wait(GROUP_SECONDS)
        else:
            self._stopping.wait(_RETRY_SECONDS)

    def _turn(self) -> bool:
        """Write what is there; say whether that was done. What failed stays, and is first the next time."""
        self._wake.clear()
        self._full.clear()
        if not self._group:
            self._group = self._next()
        try:
            self._write()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be delivered unrecorded
            self._fail(error)
            return False
        self._group = []
        if self._failure is not None:
            self._lines.info(logs.AUDIT_USABLE)
            self._failure = None
        return True

    def _next(self) -> list[Call | Entry]:
        group: list[Call | Entry] = []
        while self._queue and len(group) < _MOST_AT_ONCE:
            group.append(self._queue.popleft())
        if self._queue:
            self._wake.set()
            self._full.set()
        return group

    def _write(self) -> None:
        if not (self._in_doubt and self.log.find(_request_of(self._group[0]), self._in_doubt - 1)):
            self.log.env.make()
            self._in_doubt = self.log.env.head().size + 1 if self._group else 0
            if self.log.append(list(map(_entry_of, self._group)), all_=False):
                self._wake.set()
                self._full.set()
        self._in_doubt = 0
        if calls := sum(isinstance(one, Call) for one in self._group):
            self._places.release(calls)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, RecensionError):
            self._lines.error(logs.AUDIT_UNUSABLE, exc_info=error)
            error = AuditUnusableError("the audit log fails", hint="the server's log has the cause")
        elif self._failure is None or self._failure.message != error.message:
            self._lines.error(logs.AUDIT_UNUSABLE, reason=error.reason, message=error.message)
        self._failure = error

    def _tell_strangers(self, seconds: float) -> None:
        """Record how many there were, if the first of them was so long ago."""
        now = self._clock()
        with self._counting:
            if not self._strangers or now - self._strangers_since < seconds * 1_000_000:
                return
            count, since, self._strangers = self._strangers, self._strangers_since, 0
        told = {
            "kind": STRANGERS,
            "request": secrets.token_hex(8),
            "count": count,
            "since": format_instant(since),
            "until": format_instant(now),
        }
        self._queue.append(Entry(since, told))

    def _sign_daily(self) -> None:
        today = day_of(self._clock())
        if self._signed_on == today:
            return
        self._signed_on = today
        if day_of(self._checkpoints.signed_at()) != today:
            self._sign()

    def _sign(self) -> None:
        try:
            self._checkpoints.sign()
        except RecensionError as error:
            self._lines.warning(logs.AUDIT_UNSIGNED, reason=error.reason, message=error.message)

    def _leave(self) -> None:
        """Tell what found no place in the log, and from now on what comes later."""
        self._has_left = True
        self._queue.extendleft(reversed(self._group))
        self._tell_unwritten()

    def _tell_unwritten(self) -> None:
        with suppress(IndexError):  # another thread may take them out too
            while True:
                one = self._queue.popleft()
                self._lines.error(logs.AUDIT_UNWRITTEN, **_entry_of(one).fields)


def _request_of(one: Call | Entry) -> str:
    return one.request if isinstance(one, Call) else str(one.fields["request"])


def _entry_of(one: Call | Entry) -> Entry:
    return one.entry if isinstance(one, Call) else one
