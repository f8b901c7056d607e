"""Rates and streams at once: exact, by one process and by several, over restarts and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import RateLimitedError, StreamsExhaustedError
from recension.server.limits import processes, rates
from recension.server.limits.processes import PROCESS_BYTES, is_alive, since_boot, this_process
from recension.server.limits.rates import Rates, advance
from recension.store.counters import RATES, Counters
from recension.wire.status import RETRY_DELAY

SECOND = 1_000_000_000


class Ticks:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Ticks:
    return Ticks()


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    with closing(Counters(tmp_path, RATES, force_mount=True)) as opened:
        yield opened


def passes(counted: Rates, per_second: int = 10, burst: int = 5, owner: str = "acme") -> bool:
    try:
        counted.ask(owner, per_second, burst)
    except RateLimitedError:
        return False
    return True


@given(
    st.integers(1, 1_000_000),
    st.integers(1, 100),
    st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=200),
)
def test_never_more_than_rate_and_burst(per_second: int, burst: int, pauses: list[int]) -> None:
    """Between any two instants so many pass and no more, and who is refused passes at the delay."""
    now = paid = 10 * SECOND
    passed = []
    for pause in pauses:
        now += pause
        after, wait = advance(paid, now, per_second, burst)
        if wait:
            assert after == paid
            assert 0 == advance(paid, now + wait, per_second, burst)[1]
            assert advance(paid, now + wait - 1, per_second, burst)[1]
        else:
            passed.append(now)
        paid = after
    for first, since in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= per_second * (passed[last] - since) / SECOND + burst


def test_a_burst_and_then_the_rate(counters: Counters, clock: Ticks) -> None:
    """What is refused costs nothing, and is told when to come again; each licensee has a rate of its own."""
    counted = Rates(counters, clock=clock)
    assert passes(counted, owner="first")
    clock.now += SECOND
    assert [True] * 5 + [False] * 3 == [passes(counted) for _ in range(8)]
    assert passes(counted, owner="other")
    with pytest.raises(RateLimitedError) as refused:
        counted.ask("acme", 10, 5)
    assert 0.1 == float(refused.value.metadata[RETRY_DELAY])
    clock.now += SECOND // 10
    assert [True, False] == [passes(counted) for _ in range(2)]
    clock.now += 100 * SECOND
    assert [True] * 5 + [False] == [passes(counted) for _ in range(6)]


def test_counters_that_were_lost_begin_without_a_burst(counters: Counters, clock: Ticks) -> None:
    """After a loss of power nobody knows what was asked: the burst comes back with time."""
    counted = Rates(counters, clock=clock)
    assert [True, False] == [passes(counted) for _ in range(2)]
    clock.now += SECOND // 10
    assert [True, False] == [passes(counted) for _ in range(2)]
    again = Rates(counters, clock=clock)
    clock.now += SECOND
    assert [True] * 5 + [False] == [passes(again) for _ in range(6)]


def test_another_start_of_the_machine_begins_anew(counters: Counters, clock: Ticks) -> None:
    """Its clock begins at nothing again, and nobody holds a stream."""
    clock.now = 10**6 * SECOND
    counted = Rates(counters, clock=clock)
    clock.now += SECOND
    assert passes(counted)
    with ExitStack() as held:
        held.enter_context(counted.stream("acme", 1))
        clock.now = 2 * SECOND
        with patch.object(rates, "boot_id", lambda: b"another start...."[:16]):
            later = Rates(counters, clock=clock)
            assert [True, False] == [passes(later) for _ in range(2)]
        assert 0 == later.streams("acme")


def test_an_agreement_that_changes_its_rates(counters: Counters, clock: Ticks) -> None:
    """What was paid under another rate never locks anyone out for longer than a burst is worth."""
    counted = Rates(counters, clock=clock)
    assert passes(counted, owner="first")
    clock.now += 10**4 * SECOND
    assert passes(counted, per_second=1, burst=1_000)
    while passes(counted, per_second=1, burst=1_000):
        pass
    assert not passes(counted, per_second=1_000, burst=10)
    clock.now += SECOND // 1_000
    assert passes(counted, per_second=1_000, burst=10)


def test_streams_at_once(counters: Counters) -> None:
    """As many as the agreement says; a place is free when its stream has ended, however it did."""
    counted = Rates(counters)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(counted.stream("acme", 3))
        with pytest.raises(StreamsExhaustedError, match="all 3 streams"), counted.stream("acme", 3):
            pass
        with counted.stream("other", 1):
            assert (3, 1) == (counted.streams("acme"), counted.streams("other"))
    with pytest.raises(ZeroDivisionError), counted.stream("acme", 1):
        raise ZeroDivisionError
    with counted.stream("acme", 1):
        pass
    assert 0 == counted.streams("acme")


_HOLD = """
import sys
from pathlib import Path
from recension.server.limits.rates import Rates
from recension.store.counters import RATES, Counters
counted = Rates(Counters(Path(sys.argv[1]), RATES, force_mount=True))
with counted.stream("acme", 1):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_stream_of_a_killed_process_is_free_again(counters: Counters, tmp_path: Path) -> None:
    """While it lives nobody has its place."""
    counted = Rates(counters)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert b"held\n" == other.stdout.readline()
        with pytest.raises(StreamsExhaustedError), counted.stream("acme", 1):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with counted.stream("acme", 1):
        pass


_ASK = """
import json, sys, time
from pathlib import Path
from recension.model.errors import RateLimitedError
from recension.server.limits.rates import Rates
from recension.store.counters import RATES, Counters
counted = Rates(Counters(Path(sys.argv[1]), RATES, force_mount=True))
print("ready", flush=True)
sys.stdin.readline()
passed = []
until = time.monotonic() + 0.5
while time.monotonic() < until:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    try:
        counted.ask("acme", 200, 20)
    except RateLimitedError:
        continue
    passed.append((before, time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
print(json.dumps(passed), flush=True)
"""


def test_four_processes_together_keep_the_rate(counters: Counters, tmp_path: Path) -> None:
    """Never above rate and burst, however the processes are scheduled."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _ASK, str(tmp_path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(4)
        ]
        for child in children:
            assert child.stdout
            assert "ready\n" == child.stdout.readline()
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        passed = sorted(
            tuple(each) for child in children if child.stdout for each in json.loads(child.stdout.readline())
        )
    assert len(passed) > 20
    for first, (since, _) in enumerate(passed):
        for last in range(first, len(passed)):
            # All of these passed between the first's question and the last's answer.
            took = max(after for _, after in passed[first : last + 1]) - since
            assert last - first + 1 <= 200 * took / SECOND + 20


def test_processes_are_told_apart() -> None:
    """One that lives, one that has ended, another with its number, one before the machine's last start."""
    me = this_process()
    assert PROCESS_BYTES == len(me)
    assert is_alive(me)
    assert not is_alive(bytes(16) + me[16:]) or processes.boot_id() == bytes(16)
    assert not is_alive(me[:-1] + bytes([me[-1] ^ 1]))
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert processes._started(ended.pid) is None
    assert 0 < since_boot() <= since_boot()
