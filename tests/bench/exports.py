"""Fetching a snapshot into files, and checking them again: real commands, as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import NamedTemporaryFile

from recension.model.digest import format_digest
from recension.model.manifest import Selector
from recension.store.frames import FRAMES_DIRECTORY
from recension_client import verify
from recension_client.client import Client
from recension_client.export import fetching
from recension_client.export.checking import check
from recension_client.export.folder import Folder
from recension_client.export.layout import Form
from recension_client.export.roots import ShardTree
from recension_client.export.rows import check_texts, leaf_of
from tests.bench.histories import PEPS, Bench
from tests.bench.measure import Report, Spent, megabytes, spending
from tests.bench.memory import Watch, ingest
from tests.bench.peps import AS_OF
from tests.bench.served import NO_FRAMES, SERVER, processor_seconds, served

COPIES = "copies"
"""The project's name."""
_COPIES = 20
_MANY_COPIES = 100
"""1 GB: what starting the processes takes is next to nothing of that."""
_MOST_VERIFICATION = 0.15
_MOST_OF_UPDATE = 0.02
_COMMAND = (sys.executable, "-m", "recension_client.cli.main")


def copies_of(bench: Bench, copies: int = _COPIES) -> Path:
    """Return a store with the newest peps corpus many times in one project, made once for all sections."""
    data = bench.folder / ("copies" if copies == _COPIES else f"copies-{copies}")
    if data.exists():
        return data
    ingest(PEPS, data)
    with served(data) as (_, client):
        manifest = client.create_snapshot(Selector.of([PEPS.name]), valid_at=AS_OF)
        texts = [entry.slots[0].text or b"" for entry in client.read(manifest.snapshot_id)]
    make = ("project", "create", COPIES, "--base-url", "https://w.example", "--language", "en")
    subprocess.run([*SERVER, *make, "--license", "CC0-1.0", "--data", data], check=True, capture_output=True)
    pages = [text.decode() for text in texts] * copies
    _fill(data, "2020", {number: f"copy {number // len(texts)}\n{text}" for number, text in enumerate(pages)})
    return data


def run(bench: Bench) -> None:
    """Print the table."""
    if not bench.has(PEPS):
        return
    report = Report(bench.console, f"exports: the newest peps corpus, {_COPIES} times in one project")
    data = copies_of(bench)
    _fetches(report, bench, data, _COPIES)
    _fetches(report, bench, copies_of(bench, _MANY_COPIES), _MANY_COPIES)
    with served(data) as (_, client):
        copies = client.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        size = copies.parts[0].text_bytes
        os.environ["RECENSION_SERVER"] = client.target
        for form, name in ((Form.PARQUET, "parquet"), (Form.JSONL, "jsonl")):
            target = str(bench.folder / f"export-{name}")
            fetch = (*_COMMAND, "fetch", format_digest(copies.snapshot_id), target, "--form", name)
            spent = _timed(report, f"fetch to {form}, two workers", fetch, size, 100)
            _verification(report, client, copies.snapshot_id, spent)
            _timed(report, f"verify {form}", (*_COMMAND, "verify", target), size, 300)
            _verified(report, form, Path(target), size)
        lock = bench.folder / "recension.lock"
        pin = ("pin", COPIES, "--at", "2021-03-31T17:36:09Z", "--lock", str(lock))
        again = ("fetch", str(bench.folder / "export-jsonl"), "--lock", str(lock))
        subprocess.run([*_COMMAND, *pin], check=True, capture_output=True)
        subprocess.run([*_COMMAND, *again], check=True, capture_output=True)
    alone = (sys.executable, verify.__file__, str(lock), str(bench.folder / "export-jsonl"))
    _timed(report, "verify.py, JSON Lines", alone, size, 100)
    _update(report, bench, data)
    report.print()


def _fetches(report: Report, bench: Bench, data: Path, copies: int) -> None:
    """Fetch what was never read before, and what was read twice, so that its frames are kept."""
    shutil.rmtree(data / FRAMES_DIRECTORY, ignore_errors=True)
    for before in (0, 2):
        with served(data, "", *(() if before else NO_FRAMES)) as (server, client):
            manifest = client.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
            size = manifest.parts[0].text_bytes
            os.environ["RECENSION_SERVER"] = client.target
            for _ in range(before):
                for _ in client.read(manifest.snapshot_id):
                    pass
            for form, name in ((Form.PARQUET, "parquet"), (Form.JSONL, "jsonl")):
                target = bench.folder / f"fetch-{name}"
                command = (
                    *_COMMAND,
                    "fetch",
                    format_digest(manifest.snapshot_id),
                    str(target),
                    "--form",
                    name,
                )
                spent = processor_seconds(server)
                what = (
                    f"fetch to {form}, {megabytes(size)}, {'read before' if before else 'for the first time'}"
                )
                _timed(report, what, command, size, 100)
                spent = (processor_seconds(server) - spent) * 1e9 / size
                report.row("CPU of the server for it", f"{spent:.1f} ms a MB")
                shutil.rmtree(target)


def _verified(report: Report, form: Form, target: Path, size: int) -> None:
    """Verify in this process: a command's start takes as long as some 100 MB do."""
    with Folder.at(target) as root, spending() as spent:
        found = check(root, fetching.read_held(root))
    rate = size / spent.cpu / 1e6
    what = f"the same of {form} without its start, of CPU" + ("" if found.ok else ": NOT OK")
    report.row(what, f"{rate:.0f} MB/s", "", "", "300 MB/s", rate >= 300)


def _verification(report: Report, client: Client, snapshot_id: bytes, fetch: Spent) -> None:
    """Measure by itself what of a fetch checks what came: digests of texts, leaves and the tree."""
    tree, seconds = ShardTree(), 0.0
    for entry in client.read(snapshot_id):
        began = time.thread_time()
        tree.add(entry.page_id, entry.rev_id, leaf_of(check_texts(entry)))
        seconds += time.thread_time() - began
    tree.close()
    share = seconds / fetch.children
    report.row("of its CPU, verification", f"{share:.0%}", "", "", "15 %", share < _MOST_VERIFICATION)


def _update(report: Report, bench: Bench, data: Path) -> None:
    """Edit one page of a hundred, and compare what an update receives with a whole fetch."""
    with served(data) as (_, client):
        before = client.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        edited = [entry for entry in client.read(before.snapshot_id) if entry.page_id % 100 == 0]
    texts = {entry.page_id - 1: f"{(entry.slots[0].text or b'').decode()} more" for entry in edited}
    _fill(data, "2021", texts)
    with served(data) as (_, client):
        after = client.create_snapshot(Selector.of([COPIES]), valid_at=AS_OF)
        done = fetching.fetch(client, after, bench.folder / "export-jsonl", Form.JSONL)
        whole = fetching.fetch(client, after, bench.folder / "export-whole", Form.JSONL)
    share = done.received_bytes / whole.received_bytes
    report.row(
        f"update with {len(edited)} of {before.parts[0].count:,} pages edited, of the bytes of a whole fetch",
        f"{share:.1%}: {megabytes(done.received_bytes)}", "", "", "2 %", share < _MOST_OF_UPDATE,
    )  # fmt: skip


def _fill(data: Path, year: str, texts: dict[int, str]) -> None:
    """Save a text for each of some pages."""
    with NamedTemporaryFile("w", encoding="utf-8", suffix=".ndjson") as file:
        for number, text in texts.items():
            slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": text}
            event = {
                "project": COPIES,
                "pageId": str(number + 1),
                "time": f"{year}-01-01T00:00:00Z",
                "sourceId": f"{year} {number}",
                "edit": {
                    "revId": f"{year}{number:06}",
                    "title": f"Page {number}",
                    "contributor": {"name": "Ann"},
                    "slots": [slot],
                },
            }
            file.write(json.dumps(event) + "\n")
        file.flush()
        fill = ("ingest", "events", COPIES, file.name, "--quiet")
        subprocess.run([*SERVER, *fill, "--data", data], check=True, capture_output=True)


def _timed(report: Report, what: str, command: tuple[str, ...], size: int, target: int) -> Spent:
    with (
        spending() as spent,
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as process,
        Watch(process.pid) as watch,
    ):
        status = process.wait()
    rate = size / spent.wall / 1e6
    measured = f"{rate:.0f} MB/s, {size / spent.children / 1e6:.0f} MB/s of CPU, {watch.most}"
    report.row(
        what + (f", exit status {status}" if status else ""),
        measured,
        "",
        "",
        f"{target} MB/s",
        rate >= target,
    )
    return spent
