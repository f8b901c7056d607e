"""One dump in every container, beside a parser that merely iterates over it."""

from __future__ import annotations

import bz2
import gzip
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mwxml  # type: ignore[import-untyped]
import py7zr

from recension.archive.reader import Archive
from recension.model.manifest import Selector
from recension.server.ingest import ingest_files, usable_workers
from recension.server.taking import Summary
from recension.sources.containers import open_container
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
    )
    rate = texts / theirs.wall / 1e6
    report.row(
        "mwxml, one process, plain XML: MB of text a second", "", f"{rate:.0f} ({theirs.cpu:.1f} s of CPU)"
    )
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
            f"{ours:.0f} MB/s, {spent.wall:.1f} s, CPU {spent.cpu:.1f}", f"{rate:.0f} MB/s",
            ratio(spent.wall, theirs.wall), target, met,
        )  # fmt: skip
        report.row(
            "  of it, the writer's thread; threads that seal; processes that parse",
            f"{spent.thread:.1f}; {spent.cpu - spent.thread - spent.children:.1f}; {spent.children:.1f} s",
        )
        most, _, _ = ingest(Source("peps", "dump", path), folder / f"again{name}")
        report.row("  memory of the largest process", str(most.own), "", "", "512 MiB", most.own < 512)
        report.row("  on disk", megabytes(disk_bytes(folder / f"data{name}" / "lmdb")))
    report.print()


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
