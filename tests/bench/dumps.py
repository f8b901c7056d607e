"""One dump in every container, beside a parser that merely iterates over it."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import sys
from bisect import bisect_left
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import mwxml  # type: ignore[import-untyped]
import py7zr

from recension.archive.reader import Archive
from recension.model.manifest import Selector
from recension.server.ingest import ingest_files, usable_workers
from recension.server.taking import Summary
from recension.sources.containers import open_container
from recension.sources.mediawiki_xml import read_history
from recension.store.lmdb import LmdbStore
from tests.bench.histories import PEPS_DUMP, Bench, Source, new_project
from tests.bench.measure import Report, Spent, disk_bytes, megabytes, ratio, spending
from tests.bench.memory import ingest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_SEED = b"the same salts for all"
_CHUNK = 4 * 2**20
_PARTS = 6


def run(bench: Bench) -> None:
    """Print the table."""
    if not bench.has(PEPS_DUMP):
        return
    folder = bench.folder / "dumps"
    folder.mkdir()
    plain = folder / "peps-pages-meta-history.xml"
    _unpack(PEPS_DUMP.path, plain)
    texts, theirs = _iterate(plain)
    report = Report(
        bench.console,
        f"dumps: peps, {texts / 1e6:.0f} MB of text, {os.cpu_count()} processors, durable, sealed; "
        "beside mwxml, which iterates over the pages and keeps nothing",
        *("what", "measured", "mwxml, same run", "ours / mwxml", "target", ""),
    )
    rate = texts / theirs.wall / 1e6
    with spending() as parsing:
        _parse(plain)
    report.row(
        "plain XML parsed in one process, nothing stored: CPU",
        f"{parsing.cpu:.1f} s", f"{theirs.cpu:.1f} s", ratio(parsing.cpu, theirs.cpu),
    )  # fmt: skip
    known: tuple[bytes, str] | None = None
    for name, pack in _PACKS.items():
        path = plain.with_name(plain.name + name)
        pack(plain, path)
        summary, spent, answer = _ingest(path, folder / f"data{name}")
        ours = texts / spent.wall / 1e6
        quick = name in ("", ".gz", ".zst")
        target = "60 MB/s; 3 times mwxml" if quick else "the same entries and root"
        known = known or answer
        same = answer == known
        met = same and (not quick or (ours >= 60 and spent.wall * 3 <= theirs.wall))
        report.row(
            f"{name or 'plain'} ({megabytes(path.stat().st_size)}), {summary.revisions:,} revisions"
            + ("" if same else ": ANOTHER ROOT"),
            f"{ours:.0f} MB/s, {spent.wall:.1f} s, CPU {spent.cpu:.1f}",
            f"{rate:.0f} MB/s, {theirs.wall:.1f} s",
            ratio(spent.wall, theirs.wall), target, met,
        )  # fmt: skip
        report.row(
            "  of it, the writer's thread; threads that seal; processes that parse",
            f"{spent.thread:.1f}; {spent.cpu - spent.thread - spent.children:.1f}; {spent.children:.1f} s",
        )
        most, _, _ = ingest(Source("peps", "dump", path), folder / f"again{name}")
        report.row("  memory of the largest process", str(most), "", "", "512 MiB", most.own < 512)
        report.row("  on disk", megabytes(disk_bytes(folder / f"data{name}" / "lmdb")))
    parts = _split(plain, folder / "parts")
    summary, spent, answer = _ingest(parts, folder / "data-parts")
    report.row(
        f".bz2 in {_PARTS} parts, {usable_workers()} read at a time",
        f"{texts / spent.wall / 1e6:.0f} MB/s, {spent.wall:.1f} s, CPU {spent.cpu:.1f}", "", "",
        "the same entries and root", answer == known,
    )  # fmt: skip
    report.print()


def _split(plain: Path, folder: Path) -> Path:
    """Write a dump as parts of about one size, in a folder; return that."""
    folder.mkdir()
    data = plain.read_bytes()
    ends = [match.end() for match in re.finditer(b"</page>", data)]
    first = data.index(b"<page>")
    wanted = [first + number * (ends[-1] - first) // _PARTS for number in range(1, _PARTS + 1)]
    cuts = [first, *(ends[bisect_left(ends, place)] for place in wanted)]
    for number, (start, stop) in enumerate(pairwise(cuts), 1):
        part = data[:first] + data[start:stop] + data[ends[-1] :]
        name = f"peps-20260822-pages-meta-history{number}.xml.bz2"
        (folder / name).write_bytes(bz2.compress(part))
    return folder


def _unpack(packed: Path, plain: Path) -> None:
    with open_container(packed) as container, plain.open("wb") as file:
        while chunk := container.read(_CHUNK):
            file.write(chunk)


def _iterate(plain: Path) -> tuple[int, Spent]:
    """Return the bytes of text in a dump, and what it takes mwxml to tell."""
    size = 0
    with spending() as spent, plain.open("rb") as file:
        for page in mwxml.Dump.from_file(file):
            for revision in page:
                size += len((revision.text or "").encode())
    return size, spent


def _parse(plain: Path) -> None:
    with open_container(plain) as container:
        for _ in read_history(container, plain, "peps"):
            pass


def _pack_7z(plain: Path, path: Path) -> None:
    with py7zr.SevenZipFile(path, "w") as archive:
        archive.write(plain, "contents")


def _pack_with(squeeze: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    """Return what packs a file as several units behind one another, as parallel packers do."""

    def pack(plain: Path, path: Path) -> None:
        with plain.open("rb") as source, path.open("wb") as target:
            while chunk := source.read(8 * _CHUNK):
                target.write(squeeze(chunk))

    return pack


_PACKS: dict[str, Callable[[Path, Path], None]] = {
    "": lambda _plain, _path: None,
    ".zst": _pack_with(zstd.compress),
    ".gz": _pack_with(gzip.compress),
    ".bz2": _pack_with(bz2.compress),
    ".7z": _pack_7z,
}


def _ingest(path: Path, data: Path) -> tuple[Summary, Spent, tuple[bytes, str]]:
    """Ingest with salts that are the same for all; return what it took, the root and the digests of texts."""
    with closing(new_project(data, "peps")) as store, spending() as spent:
        summary = ingest_files(
            store, "dump", "peps", [path], data=data, quiet=True, seed=_SEED, workers=usable_workers()
        )
    if summary.faults:
        raise summary.faults[0]
    with closing(LmdbStore.open(data)) as store:
        archive = Archive(store)
        made = archive.create_snapshot(Selector.of(["peps"]))
        entries = [(one.page_id, one.rev_id, one.slots) for one in archive.entries(made.snapshot_id)]
    return summary, spent, (made.parts[0].root, repr(entries))
