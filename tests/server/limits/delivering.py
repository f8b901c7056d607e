"""A process that brings licensees articles until it is killed, and writes down what left it.

``delivering DATA OUT STREAMS SEED HABIT``: each record of ``OUT`` is two numbers, articles and bytes, written
when they leave. The habit ``early`` is a negative control: it settles before it sends.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import threading
from pathlib import Path

from recension.archive.clock import system_clock
from recension.model.agreement import Quotas as Limits
from recension.server.limits.pools import Pools
from recension.server.limits.quotas import Quotas
from recension.server.metering import Meter
from recension.store.counters import QUOTAS, Counters

LEFT = struct.Struct(">qq")
OWNER = "acme"
LIMITS = Limits(articles_per_day=10**9, bytes_per_month=2**50)
MESSAGE_BYTES = 512 * 1024


def deliver(pools: Pools, out: int, seed: int, habit: str) -> None:
    """Answer one stream after the other."""
    chance = random.Random(seed)
    while True:
        meter = Meter()
        allowance = pools.of(OWNER).begin(LIMITS, streaming=True)
        meter.draw_on(allowance)
        for _ in range(chance.randrange(40)):
            articles, size = 0, 0
            typical = chance.choice((2_000, 20_000, 400_000))
            while size < MESSAGE_BYTES and articles < 200:
                one = chance.randrange(2 * typical)
                meter.take(1, one)
                articles, size = articles + 1, size + one
            if habit == "early":
                allowance.settle()
                pools.settle(idle_seconds=0)
            meter.delivered()
            os.write(out, LEFT.pack(articles, size))
        if chance.randrange(2):
            meter.take(1, 1)  # and its client leaves before it does
        if habit != "early":
            allowance.settle()


def main() -> None:
    data, out, streams, seed, habit = sys.argv[1:]
    pools = Pools(Quotas(Counters(Path(data), QUOTAS, force_mount=True)), system_clock)
    written = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(int(streams)):
        threading.Thread(target=deliver, args=(pools, written, int(seed) + number, habit)).start()


if __name__ == "__main__":
    main()
