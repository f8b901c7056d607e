"""Pages in the order of training, beside the same pages in the snapshot's own."""

from __future__ import annotations

from collections import deque
from itertools import count

from recension.model.digest import format_digest
from recension.model.manifest import Selector
from recension_client.export.fetching import fetch
from recension_client.export.layout import Form
from recension_client.loaders import Served, Source, State, Unpacked, walk
from tests.bench.exports import COPIES, copies_of
from tests.bench.histories import PEPS, Bench
from tests.bench.measure import Report, spending
from tests.bench.peps import AS_OF
from tests.bench.served import served
from tests.bench.streams import rate

_ASKED = 0.6


def run(bench: Bench) -> None:
    """Print the table."""
    if not bench.has(PEPS):
        return
    data = copies_of(bench)
    report = Report(
        bench.console, "training: the newest peps corpus, many times, over loopback and from files"
    )
    epochs = count()

    def through(source: Source) -> None:
        deque(walk(source, State(1, next(epochs))), maxlen=0)

    with served(data) as (server, client):
        copies = client.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        size, wanted = copies.parts[0].text_bytes, copies.snapshot_id
        whole, said = rate(size, [server], lambda: deque(client.read(wanted), maxlen=0))
        report.row("ReadSnapshot, one server process", said)
        over_grpc = Served(client.target, format_digest(wanted))
        shuffled, said = rate(size, [server], lambda: through(over_grpc))
        report.row("in the order of training, by ReadEntries", said)
        share = shuffled / whole
        report.row("beside ReadSnapshot", f"{share:.2f}", "", "", f"{_ASKED}", share >= _ASKED)
        fetch(client, copies, bench.folder / "training", Form.JSONL)
    with spending() as spent:
        unpacked = Unpacked(bench.folder / "training", cache=bench.folder / "samples")
    report.row("JSON Lines checked and laid out, once", f"{size / spent.wall / 1e6:.0f} MB/s")
    _, said = rate(size, [], lambda: through(unpacked))
    report.row("in the order of training, from there", said)
    report.print()
