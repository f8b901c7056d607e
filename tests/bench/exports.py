"""Fetching a snapshot into files, and checking them again: real commands, as processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from recension.model.digest import format_digest
from recension.model.manifest import Selector
from recension_client import verify
from recension_client.export.layout import Form
from tests.bench.histories import PEPS, Bench
from tests.bench.measure import Report, spending
from tests.bench.memory import Watch, ingest
from tests.bench.peps import AS_OF
from tests.bench.served import SERVER, served

_COPIES = 20
_COMMAND = (sys.executable, "-m", "recension_client.cli.main")


def run(bench: Bench) -> None:
    """Print the table."""
    if not bench.has(PEPS):
        return
    report = Report(bench.console, f"exports: the newest peps corpus, {_COPIES} times in one project")
    data = bench.folder / "exports"
    ingest(PEPS, data)
    events = bench.folder / "copies.ndjson"
    with served(data) as (_, client):
        manifest = client.create_snapshot(Selector.of([PEPS.name]), valid_at=AS_OF)
        texts = [entry.slots[0].text or b"" for entry in client.read(manifest.snapshot_id)]
    _write_copies(events, [text.decode() for text in texts])
    make = ("project", "create", "copies", "--base-url", "https://w.example", "--language", "en")
    fill = ("ingest", "events", "copies", str(events), "--quiet")
    subprocess.run([*SERVER, *make, "--license", "CC0-1.0", "--data", data], check=True, capture_output=True)
    subprocess.run([*SERVER, *fill, "--data", data], check=True, capture_output=True)
    with served(data) as (_, client):
        copies = client.create_snapshot(Selector.of(["copies"]), valid_at=AS_OF)
        size = copies.parts[0].text_bytes
        os.environ["RECENSION_SERVER"] = client._target
        for form, name in ((Form.PARQUET, "parquet"), (Form.JSONL, "jsonl")):
            target = str(bench.folder / f"export-{name}")
            fetch = (*_COMMAND, "fetch", format_digest(copies.snapshot_id), target, "--form", name)
            _timed(report, f"fetch to {form}, two workers", fetch, size, 100)
            _timed(report, f"verify {form}", (*_COMMAND, "verify", target), size, 300)
        lock = bench.folder / "recension.lock"
        pin = ("pin", "copies", "--at", "2021-03-31T17:36:09Z", "--lock", str(lock))
        again = ("fetch", str(bench.folder / "export-jsonl"), "--lock", str(lock))
        subprocess.run([*_COMMAND, *pin], check=True, capture_output=True)
        subprocess.run([*_COMMAND, *again], check=True, capture_output=True)
    alone = (sys.executable, verify.__file__, str(lock), str(bench.folder / "export-jsonl"))
    _timed(report, "verify.py, JSON Lines", alone, size, 100)
    report.print()


def _write_copies(path: Path, texts: list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(_COPIES * len(texts)):
            copy, page = divmod(number, len(texts))
            slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki"}
            edit = {
                "revId": str(number + 1),
                "title": f"Page {number}",
                "contributor": {"name": "Ann"},
                "slots": [slot | {"text": f"copy {copy}\n{texts[page]}"}],
            }
            event: dict[str, object] = {
                "project": "copies",
                "pageId": str(number + 1),
                "time": "2020-01-01T00:00:00Z",
            }
            file.write(json.dumps(event | {"sourceId": str(number), "edit": edit}) + "\n")


def _timed(report: Report, what: str, command: tuple[str, ...], size: int, target: int) -> None:
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
