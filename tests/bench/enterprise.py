"""Articles of Wikimedia Enterprise: read, prepared and stored, a second of CPU; the memory of long lines."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recension.archive.clock import random_salts
from recension.archive.prepared import prepare
from recension.model.event import Event
from recension.sources.enterprise import read_articles
from tests.bench.histories import SHARED, Bench, Source, ingest
from tests.bench.measure import Report, megabytes, spending
from tests.bench.memory import ingest as watched

_REAL = (
    "sdk-python/articles.ndjson",
    "main-dataset/articles/enwiki/Josephine_Baker.json",
    "main-dataset/articles/frwiki/Alexandros_Ioannis_Ginnis.json",
)
_BYTES = 100_000_000
_LONG_BYTES = 16 * 2**20 - 4096
_LONG_LINES = 12
_TARGET = 80


def run(bench: Bench) -> None:
    """Print the table."""
    folder = SHARED / "wikimedia/wme"
    if not folder.is_dir():
        bench.console.print(
            "[bold red]SKIPPED[/] enterprise: the records of Wikimedia Enterprise are not here"
        )
        return
    path = bench.folder / "articles.ndjson"
    size, count = _write(path, _records([folder / name for name in _REAL]), _BYTES)
    report = Report(
        bench.console,
        f"enterprise: {count:,} articles, {megabytes(size)} of NDJSON: real records with the lines of "
        "their texts in another order; MB a second of CPU",
    )
    source = Source("p", "enterprise", path)
    with spending() as read:
        found = _read(path)
    report.row(
        f"read, {found:,} items", _rate(size, read.cpu), "", "", f"{_TARGET} MB/s", _met(size, read.cpu)
    )
    with spending() as prepared:
        _read(path, prepared=True)
    report.row(
        "read and prepared: hashed, sealed", _rate(size, prepared.cpu), "", "", f"{_TARGET} MB/s",
        _met(size, prepared.cpu),
    )  # fmt: skip
    summary, spent = ingest(source, bench.folder / "stored")
    report.row(
        f"ingested, {summary.revisions:,} revisions, durable, sealed: of the process that parses",
        _rate(size, spent.children), "", "", f"{_TARGET} MB/s", _met(size, spent.children),
    )  # fmt: skip
    report.row(
        "  of both processes together",
        f"{_rate(size, spent.cpu)}; {size / spent.wall / 1e6:.0f} MB/s of wall",
    )
    most, _, _ = watched(source, bench.folder / "watched")
    report.row("  memory of the largest process", str(most), "", "", "512 MiB", most.own < 512)
    long = bench.folder / "long.ndjson"
    size, count = _write(long, _long_records(), _LONG_BYTES * _LONG_LINES)
    most, seconds, _ = watched(Source("p", "enterprise", long), bench.folder / "long")
    report.row(
        f"{count} lines of 16 MiB: memory of the largest process", f"{most}; {seconds:.1f} s", "", "",
        "512 MiB", most.own < 512,
    )  # fmt: skip
    report.print()


def _read(path: Path, *, prepared: bool = False) -> int:
    found = 0
    with path.open("rb") as file:
        for item in read_articles(file, path, "p"):
            found += 1
            if prepared and isinstance(item, Event):
                prepare(item, random_salts)
    return found


def _write(path: Path, records: Iterator[Any], size: int) -> tuple[int, int]:
    """Write at least ``size`` bytes of records; return the bytes and how many there are."""
    written = count = 0
    with path.open("wb") as file:
        while written < size:
            written += file.write(json.dumps(next(records), ensure_ascii=False).encode() + b"\n")
            count += 1
    return written, count


def _records(paths: list[Path]) -> Iterator[Any]:
    """Yield real records as of other pages, without end; each has the lines of its texts in another order."""
    chance = random.Random(0)
    real: list[Any] = []
    for path in paths:
        for line in path.read_text().splitlines() if path.suffix == ".ndjson" else [path.read_text()]:
            said = json.loads(line)
            real += said if isinstance(said, list) else [said]
    number = 0
    while True:
        for record in real:
            number += 1
            body = {name: _shuffled(text, chance) for name, text in record["article_body"].items()}
            yield record | {
                "name": f"Page {number}",
                "identifier": number,
                "version": record["version"] | {"identifier": number},
                "is_part_of": {"identifier": "p"},
                "article_body": body,
            }


def _shuffled(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    chance.shuffle(lines)
    return "\n".join(lines)


def _long_records() -> Iterator[Any]:
    chance = random.Random(1)
    number = 0
    while True:
        number += 1
        record = {
            "name": f"Long {number}",
            "identifier": number,
            "date_modified": "2025-01-01T00:00:00Z",
            "version": {"identifier": number},
            "event": {"identifier": str(number), "type": "update", "date_created": "2025-01-01T00:00:01Z"},
            "article_body": {"wikitext": ""},
        }
        room = _LONG_BYTES - len(json.dumps(record))
        record["article_body"] = {"wikitext": f"{chance.random():.18f} " * (room // 21)}
        yield record


def _rate(size: int, seconds: float) -> str:
    return f"{size / seconds / 1e6:.0f} MB/s, {seconds:.2f} s"


def _met(size: int, seconds: float) -> bool:
    return size / seconds / 1e6 >= _TARGET
