"""ReadSnapshot over loopback to one client, from one server process and from two, beside one with no work.

Of two corpora: copies in one project, each compressed against the page that it is a copy of; and the newest
texts of a real history, read again and again, of which most lie in frames that need no other.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc

from recension.model.digest import format_digest
from recension.model.manifest import Selector
from recension.model.reading import Shard
from recension.v1 import snapshot_service_pb2 as pb
from recension_client.client import Client
from tests.bench.exports import COPIES, copies_of
from tests.bench.histories import PEPS, Bench
from tests.bench.measure import Report, spending
from tests.bench.peps import AS_OF
from tests.bench.prebuilt import METHOD
from tests.bench.served import processor_seconds, served

_RUNS = 5
_HEADS = 12
"""How often the real corpus is read in a run: as much text as the copies have."""
_ASKED_RATE = 320
_ASKED_SHARE = 0.5
_READ = "/recension.v1.SnapshotService/ReadSnapshot"


def run(bench: Bench) -> None:
    """Print the table."""
    if not bench.has(PEPS):
        return
    data = copies_of(bench)
    report = Report(
        bench.console, f"streams: the newest peps corpus, many times, over loopback; {_RUNS} runs"
    )
    with served(data) as (one, first), served(data) as (two, second):
        copies = first.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        size = copies.parts[0].text_bytes
        wanted = copies.snapshot_id
        fast, said = rate(size, [one], lambda: _checked([first], wanted))
        report.row("ReadSnapshot, texts checked by the client, one server process", said)
        fast, said = rate(size, [one, two], lambda: _checked([first, second], wanted))
        report.row("the same, two server processes", said, "", "", f"{_ASKED_RATE} MB/s", fast > _ASKED_RATE)
        head = first.create_snapshot(Selector.of([PEPS.name]))
        text = head.parts[0].text_bytes * _HEADS
        for servers, clients in (([one], [first]), ([one, two], [first, second])):
            before = sum(client.received_bytes for client in clients)
            fast, said = rate(text, servers, partial(_again, clients, head.snapshot_id))
            wire = (sum(client.received_bytes for client in clients) - before) / (text * _RUNS)
            what = f"the newest corpus itself, {_HEADS} times, {len(servers)} server processes"
            said += f"; {wire:.2f} of its bytes received"
            report.row(what, said, "", "", f"{_ASKED_RATE} MB/s", fast > _ASKED_RATE)
        request = pb.ReadSnapshotRequest(snapshot=format_digest(wanted)).SerializeToString()
        sizes = _sizes(first.target, _READ, request)
        plain, said = rate(sum(sizes), [one], lambda: _sizes(first.target, _READ, request))
        report.row("its bytes alone, not looked at, one server process", said)
    with _prebuilt(sum(sizes) // len(sizes), len(sizes)) as target:
        ceiling, said = rate(sum(sizes), [], lambda: _sizes(target, METHOD, b""))
        report.row(f"{len(sizes)} messages made before of {sum(sizes) // len(sizes):,} bytes", said)
    share = plain / ceiling
    report.row("ReadSnapshot beside them", f"{share:.2f}", "", "", f"{_ASKED_SHARE}", share >= _ASKED_SHARE)
    report.print()


def rate(size: int, servers: list[int], read: Callable[[], object]) -> tuple[float, str]:
    """Return the median MB/s, and it in words with what 1 MB takes of the processors."""
    rates, ours, theirs = [], [], []
    for _ in range(_RUNS):
        before = sum(map(processor_seconds, servers))
        with spending() as spent:
            read()
        rates.append(size / spent.wall / 1e6)
        ours.append(spent.cpu * 1e9 / size)
        theirs.append((sum(map(processor_seconds, servers)) - before) * 1e9 / size)
    fast, client, server = map(statistics.median, (rates, ours, theirs))
    cpu = f"CPU a MB: client {client:.1f} ms" + (f", server {server:.1f}" if servers else "")
    return fast, f"{fast:.0f} MB/s; {cpu}"


def _checked(clients: list[Client], snapshot_id: bytes) -> None:
    """Read a shard of each server's at once, as any user would."""

    def shard(index: int) -> None:
        for _ in clients[index].read(snapshot_id, shard=Shard(index, len(clients))):
            pass

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(shard, range(len(clients))))


def _again(clients: list[Client], snapshot_id: bytes) -> None:
    for _ in range(_HEADS):
        _checked(clients, snapshot_id)


def _sizes(target: str, method: str, request: bytes) -> list[int]:
    """Return how many bytes each message of a stream has."""
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        read: Any = channel.unary_stream(method)
        return [len(message) for message in read(request)]


@contextmanager
def _prebuilt(size: int, count: int) -> Iterator[str]:
    command = (sys.executable, "-m", "tests.bench.prebuilt", str(size), str(count))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
