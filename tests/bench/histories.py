"""Histories that are stored twice: by recension and by git, one right after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from recension.archive.ingest import Ingestor
from recension.archive.intake.child import PARSERS
from recension.archive.intake.feed import Kind
from recension.model.event import Event
from recension.model.instant import format_instant, parse_instant
from recension.model.reading import ProjectInfo
from recension.server.ingest import Form, ingest_files, usable_workers
from recension.server.taking import Summary
from recension.sources.containers import open_container
from recension.store import keys
from recension.store.lmdb import LmdbStore
from tests.bench.git import Git, History, plain, write_stream
from tests.bench.measure import Spent, disk_bytes, spending

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"
_SAMPLE = ROOT / "service/recension/server/sample"
_KINDS: dict[Form, Kind] = {"events": "events", "dump": "history", "logging": "log"}
RELEASES = (
    *("1.8.0", "2.0.0", "2.2.0", "2.4.0", "3.0.0", "3.2.0", "3.4.0", "3.5.0", "4.0.0", "4.2.0", "4.4.0"),
    *("5.0.0", "5.2.0", "5.3.0", "6.0.0", "6.1.0", "6.2.0", "7.0.0", "7.1.0", "7.2.0", "7.3.0", "7.4.0"),
)
"""Of Sphinx, BSD-2-Clause: its wheels hold Python, templates, scripts and catalogues in 60 languages."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file with a history, and how to read it."""

    name: str
    kind: Form
    path: Path
    path_of: Callable[[str], str] = plain
    """A title as a path in git."""

    def events(self) -> Iterator[Event]:
        """Yield its events in the order of the file."""
        with open_container(self.path) as container:
            items = PARSERS[_KINDS[self.kind]](container, self.path, self.name, {})
            yield from (item for item in items if isinstance(item, Event))


PEPS = Source("peps", "events", SHARED / "peps/peps-events.ndjson.zst", str)
PEPS_DUMP = Source("peps", "dump", SHARED / "peps/peps-pages-meta-history.xml.zst", str)
AAWIKI = Source("aawiki", "dump", _SAMPLE / "aawiki-20260101-pages-meta-history.xml.7z")
ENWIKI = Source("enwiki", "dump", SHARED / "wikimedia/halfak-streaming/mw_dump_stub.xml")


def new_project(folder: Path, project: str) -> LmdbStore:
    """Return a new store with an empty project."""
    store = LmdbStore.open(folder, create=True)
    Ingestor(store).create_project(ProjectInfo(project, "https://w.example", "en", "CC0-1.0"))
    return store


def ingest(source: Source, folder: Path) -> tuple[Summary, Spent]:
    """Ingest a file into a new store as the command does: parser beside writer, sealed at the end."""
    with closing(new_project(folder, source.name)) as store, spending() as spent:
        summary = ingest_files(
            store,
            source.kind,
            source.name,
            [source.path],
            data=folder,
            quiet=True,
            workers=usable_workers(),
        )
    if summary.faults:
        raise summary.faults[0]
    return summary, spent


def text_bytes(store: LmdbStore) -> int:
    """Return the stored bytes of all texts: blocks with their headers, tails, and what is cut off them."""
    total, start, stop = 0, keys.block(0), keys.block(keys.END)
    while sizes := store.blob_sizes(start, stop, 10_000):
        total += sum(size for _, size in sizes)
        start = sizes[-1][0] + b"\0"
    return total


@dataclass
class Both:
    """One history, stored by both."""

    source: Source
    folder: Path
    git: Git
    history: History
    imported: Spent
    """What ``git fast-import`` took."""
    repacked: Spent
    ours: Spent
    summary: Summary
    uncompacted_bytes: int
    stored_bytes: int
    """Of the compacted store on disk, everything included, before anything is asked of it: what is asked
    for keeps its snapshots."""
    sizes: dict[str, int]
    """Of each table, after compaction."""

    @classmethod
    def store(cls, source: Source, folder: Path) -> Both:
        """Store it by git, then by us, then compact."""
        folder.mkdir(parents=True)
        stream = folder / "stream"
        events = source.events() if source is PEPS else iter(sorted(source.events(), key=lambda e: e.time))
        history = write_stream(events, stream, source.path_of)
        git = Git(folder / "git")
        with spending() as imported:
            git.fast_import(stream, history)
        with spending() as repacked:
            git.repack()
        stream.unlink()
        data = folder / "data"
        summary, ours = ingest(source, data)
        before = disk_bytes(data / "lmdb")
        with closing(LmdbStore.open(data)) as store:
            store.compact()
            sizes = {name: table.page_bytes for name, table in store.usage().tables.items()}
        after = disk_bytes(data / "lmdb")
        return cls(source, folder, git, history, imported, repacked, ours, summary, before, after, sizes)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    @property
    def theirs(self) -> Spent:
        """What git took in all."""
        return Spent(self.imported.wall + self.repacked.wall, self.imported.cpu + self.repacked.cpu)

    def open(self) -> LmdbStore:
        """Open the store."""
        return LmdbStore.open(self.data)

    @cached_property
    def text_bytes(self) -> int:
        """Bytes of the texts in it."""
        with closing(self.open()) as store:
            return text_bytes(store)

    @cached_property
    def pack(self) -> tuple[int, int]:
        """What git makes of the bare texts: (pack, index) bytes."""
        return self.git.pack_blobs(self.history)


# --- a history of releases ----------------------------------------------------------------------


def releases(console: Console, cache: Path) -> Source | None:
    """Return successive releases of a package as a history: each file a page, each change a revision.

    No package of PyPI or Debian that we know ships its own history. The wheels are downloaded once.
    """
    events = cache / "sphinx-events.ndjson"
    source = Source("sphinx", "events", events, str)
    if events.exists():
        return source
    cache.mkdir(parents=True, exist_ok=True)
    for version in RELEASES:
        if list(cache.glob(f"sphinx-{version}-*.whl")) or list(cache.glob(f"Sphinx-{version}-*.whl")):
            continue
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", str(cache), f"sphinx=={version}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            said = (done.stderr.strip() or "pip failed").splitlines()[-1]
            console.print(f"[bold red]SKIPPED[/] the history of releases: {said}")
            return None
    part = events.with_suffix(".part")
    with part.open("w") as file:
        for line in _release_events(cache):
            file.write(json.dumps(line) + "\n")
    part.rename(events)
    return source


def _release_events(cache: Path) -> Iterator[dict[str, object]]:
    pages: dict[str, int] = {}
    alive: dict[str, bytes] = {}
    revisions = 0
    start = parse_instant("2018-01-01")
    for number, version in enumerate(RELEASES):
        time = format_instant(start + number * 90 * 86_400_000_000)
        wheel = next(path for path in cache.glob("*.whl") if path.name.split("-")[1] == version)
        now = dict(_files(wheel))
        for path in sorted(alive.keys() - now.keys()):
            what = {"title": path, "comment": f"gone in {version}"}
            yield {**_event(pages[path], time, f"{version}:{path}"), "delete": what}
        for path, text in now.items():
            if alive.get(path) == text:
                continue
            revisions += 1
            page = pages.setdefault(path, len(pages) + 1)
            slot = {"role": "main", "model": "text", "format": "text/plain", "text": text.decode()}
            edit = {"revId": str(revisions), "title": path, "comment": f"as of {version}", "slots": [slot]}
            yield {**_event(page, time, f"{version}:{path}"), "edit": edit}
        alive = now


def _event(page: int, time: str, source: str) -> dict[str, object]:
    return {"project": "sphinx", "pageId": str(page), "time": time, "sourceId": source}


def _files(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the text files of a wheel by path, without the metadata, whose folder bears the version."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if ".dist-info/" in name or name.endswith("/"):
                continue
            text = archive.read(name)
            try:
                text.decode()
            except UnicodeDecodeError:
                continue
            if b"\0" not in text:
                yield name, text


# --- what all sections share --------------------------------------------------------------------


@dataclass
class Bench:
    """One run of the benchmarks."""

    console: Console
    folder: Path
    """Thrown away at the end."""
    cache: Path
    """Kept: what was downloaded."""
    revisions: int
    """Of the largest synthetic history."""
    pages: int
    """Of the project whose pages have one revision each."""
    replayed: int
    """Pages of the project whose events are planted."""
    window: int
    """Of git's packer in adversarial cases, where 250 would take many minutes."""

    @cached_property
    def peps(self) -> Both | None:
        """The peps history, stored by both; ``None`` where a checkout has no shared data."""
        if not self.has(PEPS):
            return None
        self.console.print("storing the peps history by git, then by recension …")
        return Both.store(PEPS, self.folder / "peps")

    def sources(self) -> list[Source]:
        """Return the histories that are here, beside peps."""
        found = [source for source in (AAWIKI, ENWIKI) if self.has(source)]
        made = releases(self.console, self.cache)
        return [*found, made] if made else found

    def has(self, source: Source) -> bool:
        """Say whether a history is here; if not, loudly."""
        if not source.path.exists():
            self.console.print(f"[bold red]SKIPPED[/] {source.name}: {source.path.name} is not here")
        return source.path.exists()


def cache_folder() -> Path:
    """Return where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recension-bench"
