"""Many followers in one process, as bytes: what they are sent is looked at once however many are sent it.

Reads one line of JSON from stdin, says when all have caught up, and tells at the end of stdin what it saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from typing import Any

import grpc

from recension.v1 import change_service_pb2 as pb
from recension.v1.revision_service_pb2 import REVISION_VIEW_FULL

_METHOD = "/recension.v1.ChangeService/Watch"
_EACH = 50
"""Streams of one connection: a server takes a hundred."""
_TOGETHER = 25
"""Streams that begin together."""


class Followers:
    """What all of them saw."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        """Seconds from a commit to its arrival at a follower, one for each of both."""
        self.positions: list[int] = []
        self._read: dict[bytes, list[tuple[int, float]]] = {}
        """Of messages: position and time of each of their commits."""

    async def follow(
        self, channel: grpc.aio.Channel, place: int, position: int, caught_up: asyncio.Event
    ) -> None:
        request = pb.WatchRequest(position=position)
        request.selector.projects.append("fanout")
        call = _watch(channel, request)
        async for message in call:
            now = time.time()
            for at, committed in self._steps(message):
                self.positions[place] = max(at, self.positions[place])
                self.delays.append(now - committed)
            if message[:1] == b"\x1a":  # field 3, a heartbeat
                caught_up.set()

    def _steps(self, message: bytes) -> list[tuple[int, float]]:
        found = self._read.get(message)
        if found is None:
            steps = pb.WatchResponse.FromString(message).batch.steps
            found = [
                (step.position, step.recorded_at.seconds + step.recorded_at.nanos / 1e9)
                for step in steps
                if not step.continued
            ]
            if len(self._read) > _EACH:
                self._read.clear()
            self._read[message] = found
        return found


def _watch(channel: grpc.aio.Channel, request: pb.WatchRequest) -> Any:
    method: Any = channel.unary_stream(_METHOD)
    return method(request.SerializeToString())


async def stall(channel: grpc.aio.Channel, position: int) -> Any:
    """Open a stream that nobody reads."""
    request = pb.WatchRequest(position=position, view=REVISION_VIEW_FULL)
    request.selector.projects.append("fanout")
    call = _watch(channel, request)
    await call.read()
    return call


async def main() -> None:
    """Follow until stdin ends."""
    loop = asyncio.get_running_loop()
    asked = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    followers = Followers()
    followers.positions = [0] * asked["followers"]
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels: list[grpc.aio.Channel] = []
    tasks, kept = [], []
    all_caught_up: list[Coroutine[Any, Any, Any]] = []
    for at in range(asked["followers"] + asked["stalled"]):
        if at % _TOGETHER == 0:  # a server refuses calls while many wait
            await asyncio.gather(*all_caught_up)
            all_caught_up.clear()
        if at % _EACH == 0:
            channels.append(grpc.aio.insecure_channel(asked["target"], options=options))
        if at >= asked["followers"]:
            kept.append(await stall(channels[-1], asked["position"]))
            continue
        caught_up = asyncio.Event()
        all_caught_up.append(caught_up.wait())
        tasks.append(asyncio.create_task(followers.follow(channels[-1], at, asked["position"], caught_up)))
    await asyncio.gather(*all_caught_up)
    followers.delays.clear()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    delays = sorted(followers.delays)
    print(
        json.dumps(
            {
                "arrivals": len(delays),
                "median": delays[len(delays) // 2] if delays else 0,
                "p99": delays[len(delays) * 99 // 100] if delays else 0,
                "slowest": delays[-1] if delays else 0,
                "behind": min(followers.positions),
                "failed": sum(task.done() for task in tasks),
            }
        ),
        flush=True,
    )
    sys.stdout.close()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
