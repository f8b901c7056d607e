"""When a question is asked again, and when it is given up: decisions alone, both clients act on them."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import grpc

from recension.model.errors import Fault, OverloadedError, RecensionError
from recension.wire.status import RETRY_DELAY, error_of


@dataclass(frozen=True, slots=True)
class Retry:
    """How a client bears with a server that is away. A deadline always goes before it."""

    patience_seconds: float = 60.0
    """How long a server that has answered before may be away, or a stream stand still."""
    first_tries: int = 4
    """Tries of a server that never answered: rather than away, it may be another than was meant."""
    first_pause_seconds: float = 0.1
    """Pauses double from here on; chance takes up to a half of each away, to spread clients out."""
    longest_pause_seconds: float = 5.0


DEFAULT = Retry()


class CutError(Exception):
    """A stream ended before its end; never leaves the client, which resumes it."""

    def __init__(self, cause: RecensionError) -> None:
        """``cause``: what is raised if it cannot be resumed."""
        super().__init__(cause.message)
        self.cause = cause


def passing(error: RecensionError) -> bool:
    """Say whether a later try may be answered: the server is away, shuts down, or asked to be tried again."""
    return error.fault is Fault.BUSY or (isinstance(error, OverloadedError) and RETRY_DELAY in error.metadata)


def cut_by(error: grpc.RpcError) -> RecensionError:
    """Return why a stream was interrupted. Raises the named error of one that was refused."""
    named = error_of(error)
    # A server cancels its calls when it is stopped hard, and one whose client takes nothing for long.
    if not passing(named) and getattr(error, "code", lambda: None)() is not grpc.StatusCode.CANCELLED:
        raise named from None
    return named


class Attempts:
    """The tries of one question or stream, and the time that is left for them."""

    def __init__(self, retry: Retry, seconds: float | None = None) -> None:
        """``seconds``: for all tries and pauses together; none means as long as it takes."""
        self._retry = retry
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._failures = 0
        self._failing_since = 0.0

    def remaining(self) -> float | None:
        """Return the seconds that the next try has, never below 0."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def moved(self) -> None:
        """Begin to count anew: something was received that need not be asked for again."""
        self._failures = 0

    def pause(self, error: RecensionError, *, known: bool) -> float:
        """Return how many seconds to wait before the next try.

        ``known``: the server has answered before. Raises ``error`` when there is to be none.
        """
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        retry = self._retry
        longest = min(retry.first_pause_seconds * 2 ** (self._failures - 1), retry.longest_pause_seconds)
        pause = random.uniform(longest / 2, longest)  # noqa: S311 - spreads clients out
        pause = max(pause, float(error.metadata.get(RETRY_DELAY, "0")))
        late = self._deadline is not None and now + pause >= self._deadline
        patient = known or self._failures < retry.first_tries
        if late or not patient or now + pause - self._failing_since > retry.patience_seconds:
            raise error from None
        return pause
