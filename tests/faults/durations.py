"""How long a test of many random rounds goes on: a short slice in every run, hours in ``make torture``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

SECONDS = "RECENSION_TORTURE_SECONDS"
"""Environment variable: how long each of these tests goes on in ``make torture``; 300 if it is not set."""
SEED = "RECENSION_TORTURE_SEED"
"""Environment variable: repeats the rounds of a run that failed; its failure names the seed."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A seed, and the least number of rounds and of seconds."""

    seed: str
    seconds: float

    def rounds(self, least: int) -> Iterator[str]:
        """Yield the seed of each round."""
        until = time.monotonic() + self.seconds
        number = 0
        while number < least or time.monotonic() < until:
            yield f"{self.seed}/{number}"
            number += 1


def _long() -> Duration:
    seed = os.environ.get(SEED) or str(time.time_ns())
    return Duration(seed, float(os.environ.get(SECONDS, "300")))


DURATIONS = [
    pytest.param(Duration("short", 0), id="short"),
    pytest.param(_long(), id="long", marks=pytest.mark.torture),
]
