"""What a licence costs: a server with keys, agreements, limits and audit, beside a server without.

Both are asked in turns. Seconds of the processor tell it best: it is one server process and one client.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

from recension.archive.agreements import Agreements
from recension.archive.keyring import Keyring
from recension.model.access import Role
from recension.model.agreement import parse_document
from recension.model.instant import parse_instant
from recension.model.licensee import make_licensee
from recension.model.manifest import Selector
from recension.server.pepper import Pepper
from recension.store.directory import PEPPER_FILE
from recension.store.lmdb import LmdbStore
from recension_client.client import Client
from tests.bench.exports import COPIES, copies_of
from tests.bench.histories import PEPS, Bench
from tests.bench.measure import Report, latencies, spending
from tests.bench.peps import AS_OF
from tests.bench.served import processor_seconds, served

_CALLS = 2_000
_ROUNDS = 10
_RUNS = 9
_ASKED_CALL = 0.15
_ASKED_STREAM = 0.03
_TERMS = {
    "grants": [{"projects": [COPIES], "freshness": "realtime"}],
    "valid_from": "2020-01-01T00:00:00Z",
    "rates": {"requests_per_second": 1_000_000, "concurrent_streams": 100},
    "quotas": {"articles_per_day": 10**12, "bytes_per_month": 10**15},
}


def run(bench: Bench) -> None:
    """Print the table."""
    if not bench.has(PEPS):
        return
    plain = copies_of(bench)
    data = bench.folder / "licensed"
    shutil.copytree(plain, data)
    key = _license(data)
    report = Report(bench.console, "licence: key, agreement, limits and audit, beside a server without")
    with served(plain) as (one, anyone), served(data, key) as (two, licensee):
        snapshot = anyone.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        assert licensee.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF) == snapshot
        pages = [entry.page_id for entry in islice(anyone.entries(snapshot.snapshot_id), 200)]

        _calls(report, one, anyone, two, licensee, pages)

        def read(client: Client) -> None:
            for _ in client.read(snapshot.snapshot_id):
                pass

        cpu, wall = _turns([(one, lambda: read(anyone)), (two, lambda: read(licensee))])
        size = snapshot.parts[0].text_bytes
        _row(report, "ReadSnapshot, a MB", [[seconds * 1e6 / size for seconds in side] for side in cpu], "s")
        more = _more(cpu)
        report.row(
            "the same, wall",
            f"{size / wall[0] / 1e6:.0f} and {size / wall[1] / 1e6:.0f} MB/s",
            "",
            f"{more:+.1%}",
            f"{_ASKED_STREAM:.0%} of CPU",
            more < _ASKED_STREAM,
        )
    report.print()


def _calls(report: Report, one: int, anyone: Client, two: int, licensee: Client, pages: list[int]) -> None:
    def asking(client: Client) -> list[Callable[[], object]]:
        return [lambda page=page: client.article(COPIES, page) for page in islice(cycle(pages), _CALLS)]  # type: ignore[misc]

    sides = [asking(anyone), asking(licensee)]
    for calls in sides:
        for call in calls[: len(pages)]:
            call()
    before = [processor_seconds(one), processor_seconds(two)]
    spent: list[list[float]] = [[], []]
    walls = []
    for _ in range(_ROUNDS):
        walls.append([each.median for each in latencies(sides)])
        for side, pid in enumerate((one, two)):
            now = processor_seconds(pid)
            spent[side].append((now - before[side]) * 1e6 / _CALLS)
            before[side] = now
    _row(report, "GetArticle, the server's CPU", spent, "µs")
    plain, licensed = (statistics.median(each) for each in zip(*walls, strict=True))
    more = licensed / plain - 1
    report.row(
        "the same, as its client waits",
        f"{plain:.0f} and {licensed:.0f} µs",
        "",
        f"{more:+.1%}",
        f"{_ASKED_CALL:.0%}",
        more < _ASKED_CALL,
    )


def _turns(sides: list[tuple[int, Callable[[], None]]]) -> tuple[list[list[float]], list[float]]:
    """Return the servers' seconds of CPU of each run of each side, and the median seconds of the clock."""
    cpu: list[list[float]] = [[] for _ in sides]
    wall: list[list[float]] = [[] for _ in sides]
    for _ in range(_RUNS):
        for side, (pid, work) in enumerate(sides):
            before = processor_seconds(pid)
            with spending() as spent:
                work()
            cpu[side].append(processor_seconds(pid) - before)
            wall[side].append(spent.wall)
    return cpu, [statistics.median(each) for each in wall]


def _more(cpu: list[list[float]]) -> float:
    plain, licensed = map(statistics.median, cpu)
    return licensed / plain - 1


def _row(report: Report, what: str, cpu: list[list[float]], unit: str) -> None:
    plain, licensed = map(statistics.median, cpu)
    report.row(what, f"{plain:.4g} and {licensed:.4g} {unit}", "", f"{_more(cpu):+.1%}")


def _license(data: Path) -> str:
    """Make a licensee with an agreement, and return its key."""
    pepper = Pepper(data / PEPPER_FILE)
    pepper.make()
    with closing(LmdbStore.open(data)) as store:
        agreements = Agreements(store)
        agreements.add_licensee(make_licensee("acme", 1))
        agreements.add(parse_document(_TERMS, "acme"))
        return Keyring(store, pepper).make("acme", Role.LICENSEE, parse_instant("2999-01-01")).written
