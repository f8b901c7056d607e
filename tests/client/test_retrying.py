"""When a question is asked again: the decisions alone, with a clock and a chance of the test's own."""

from __future__ import annotations

import grpc
import pytest

from recension.model.errors import (
    DeadlineError,
    DrainingError,
    OverloadedError,
    PageNotFoundError,
    QuotaExhaustedError,
    RateLimitedError,
    RecensionError,
    StoreFullError,
    StreamsExhaustedError,
    UnreachableError,
    VerificationError,
)
from recension_client import retrying
from recension_client.retrying import Attempts, Retry, passing

GONE = UnreachableError("gone")
RETRY = Retry(patience_seconds=60, first_tries=4, first_pause_seconds=1, longest_pause_seconds=8)


class Clock:
    """Stands in for the modules ``time`` and ``random``: chance takes nothing away."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def uniform(self, least: float, most: float) -> float:
        assert least == most / 2
        return most


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retrying, "time", clock)
    monkeypatch.setattr(retrying, "random", clock)
    return clock


def pauses(attempts: Attempts, clock: Clock, *, known: bool = True) -> list[float]:
    """Fail until it is given up; the pauses before."""
    found: list[float] = []
    while True:
        try:
            pause = attempts.pause(GONE, known=known)
        except UnreachableError:
            return found
        found.append(pause)
        clock.now += pause


def test_pauses_double_up_to_the_longest(clock: Clock) -> None:
    """They go on for as long as patience lasts."""
    assert [1, 2, 4, 8, 8, 8, 8, 8, 8] == pauses(Attempts(RETRY), clock)


def test_a_server_that_never_answered_is_given_up_soon(clock: Clock) -> None:
    """Four tries have three pauses between them."""
    assert [1, 2, 4] == pauses(Attempts(RETRY), clock, known=False)


def test_no_pause_outlasts_the_deadline(clock: Clock) -> None:
    """What is left for a try shrinks; a pause that would end behind the deadline is not made."""
    attempts = Attempts(RETRY, 10)
    assert 10 == attempts.remaining()
    assert [1, 2, 4] == pauses(attempts, clock)
    assert 3 == attempts.remaining()
    clock.now += 100
    assert 0 == attempts.remaining()
    assert Attempts(RETRY).remaining() is None


def test_what_moved_is_waited_for_anew(clock: Clock) -> None:
    """Patience and pauses begin again after each thing received."""
    attempts = Attempts(RETRY)
    for _ in range(20):
        assert [1, 2] == [attempts.pause(GONE, known=True), attempts.pause(GONE, known=True)]
        clock.now += 30
        attempts.moved()


def test_a_server_says_how_long_to_wait(clock: Clock) -> None:
    """A longer pause that it asks for is kept."""
    asked = OverloadedError("busy", retryDelaySeconds=7)
    assert 7 == Attempts(RETRY).pause(asked, known=True)
    with pytest.raises(OverloadedError):
        Attempts(RETRY, 5).pause(asked, known=True)


def test_a_quota_that_renews_in_days_is_not_waited_for(clock: Clock) -> None:
    """Whoever asked is told at once."""
    with pytest.raises(QuotaExhaustedError):
        Attempts(RETRY).pause(QuotaExhaustedError("used up", retryDelaySeconds=86_400), known=True)


@pytest.mark.parametrize(
    "error, expected",
    [
        (GONE, True),
        (DrainingError("m"), True),
        (OverloadedError("m", retryDelaySeconds=1), True),
        (RateLimitedError("m", retryDelaySeconds=0.1), True),
        (StreamsExhaustedError("m", retryDelaySeconds=1), True),
        (QuotaExhaustedError("m", retryDelaySeconds=1), True),
        (OverloadedError("m"), False),
        (StoreFullError("m"), False),
        (DeadlineError("m"), False),
        (PageNotFoundError("m"), False),
        (VerificationError("m"), False),
    ],
)
def test_only_what_passes_is_asked_again(error: RecensionError, expected: bool) -> None:  # noqa: FBT001
    assert expected is passing(error)


def test_an_interrupted_call_that_says_nothing_is_named() -> None:
    """A bare error of gRPC's has no code, and is not resumed."""
    with pytest.raises(RecensionError):
        retrying.cut_by(grpc.RpcError("bare"))
