"""ReadSnapshot over loopback to one client, from one server process and from two, beside one with no work.

Of two corpora: copies in one project, each compressed against the page that it is a copy of; and the newest
texts of a real history, of which most lie in frames that need no other. What is read for the first time, what
for the second, when its frames are kept, and what later, have rows of their own.
"""

from __future__ import annotations

import shutil
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
from recension.store.frames import FRAMES_DIRECTORY
from recension.v1 import snapshot_service_pb2 as pb
from recension_client.client import Client
from tests.bench.exports import COPIES, copies_of
from tests.bench.histories import PEPS, Bench
from tests.bench.measure import Report, spending
from tests.bench.peps import AS_OF
from tests.bench.prebuilt import METHOD
from tests.bench.served import NO_FRAMES, processor_seconds, served

_RUNS = 5
_SECONDS = 3
"""How often a second read is measured, of a server that has just begun."""
_LEAST_BYTES = 100_000_000
"""A smaller corpus is read as often as that takes, in each run."""
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
    with served(data, "", *NO_FRAMES) as (one, first), served(data, "", *NO_FRAMES) as (two, second):
        copies = first.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        size = copies.parts[0].text_bytes
        wanted = copies.snapshot_id
        both = [one, two], [first, second]
        _row(report, "texts read for the first time, checked by the client", size, [one], [first], wanted)
        _row(report, "the same, two server processes", size, *both, wanted)
        head = first.create_snapshot(Selector.of([PEPS.name]))
        text = head.parts[0].text_bytes
        _row(report, "the newest corpus itself, for the first time", text, [one], [first], head.snapshot_id)
    said = []
    for _ in range(_SECONDS):
        shutil.rmtree(data / FRAMES_DIRECTORY, ignore_errors=True)
        with served(data) as (one, first):
            _checked([first], wanted)
            said.append(rate(size, [one], partial(_checked, [first], wanted), 1)[1])
    report.row("for the second time, when their frames are kept", "; ".join(said))
    with served(data) as (one, first), served(data) as (two, second):
        both = [one, two], [first, second]
        for client in both[1]:
            _checked([client], wanted)
        _row(report, "later, one server process", size, [one], [first], wanted)
        _row(report, "later, two server processes", size, *both, wanted, _ASKED_RATE)
        for _ in range(2):
            _checked([first], head.snapshot_id)
        _row(report, "the newest corpus itself, later", text, [one], [first], head.snapshot_id)
        for frames in (False, True):
            _beside_prebuilt(report, first.target, one, wanted, size, frames=frames)
    report.print()


def _row(
    report: Report,
    what: str,
    size: int,
    servers: list[int],
    clients: list[Client],
    wanted: bytes,
    asked: int = 0,
) -> None:
    """Read a snapshot again and again; say how fast, and what part of its bytes was received."""
    before = sum(client.received_bytes for client in clients)
    times = max(_LEAST_BYTES // size, 1)

    def read() -> None:
        for _ in range(times):
            _checked(clients, wanted)

    fast, said = rate(size * times, servers, read)
    wire = (sum(client.received_bytes for client in clients) - before) / (size * times * _RUNS)
    said += f"; {wire:.2f} of the bytes received"
    if asked:
        report.row(what, said, "", "", f"{asked} MB/s", fast > asked)
    else:
        report.row(what, said)


def _beside_prebuilt(
    report: Report, target: str, server: int, wanted: bytes, text_bytes: int, *, frames: bool
) -> None:
    """Compare messages that nobody looks at with as many that were made before, of their size on average."""
    request = pb.ReadSnapshotRequest(snapshot=format_digest(wanted), accept_frames=frames)
    asked = request.SerializeToString()
    sizes = _sizes(target, _READ, asked)
    total = sum(sizes)
    what = "frames" if frames else "plain texts"
    ours, said = rate(total, [server], lambda: _sizes(target, _READ, asked))
    text = f", {ours * text_bytes / total:.0f} MB/s of text" if frames else ""
    report.row(f"its messages with {what}, one server process", said + text)
    with _prebuilt(total // len(sizes), len(sizes)) as made:
        ceiling, said = rate(total, [], lambda: _sizes(made, METHOD, b""))
    report.row(f"{len(sizes)} messages made before of {total // len(sizes):,} bytes", said)
    share = ours / ceiling
    report.row(
        f"messages with {what} beside them, in bytes on the wire",
        f"{share:.2f}",
        "",
        "",
        f"{_ASKED_SHARE}",
        share >= _ASKED_SHARE,
    )


def rate(size: int, servers: list[int], read: Callable[[], object], runs: int = _RUNS) -> tuple[float, str]:
    """Return the median MB/s, and it in words with what 1 MB takes of the processors."""
    rates, ours, theirs = [], [], []
    for _ in range(runs):
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
