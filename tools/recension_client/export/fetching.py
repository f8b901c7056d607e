"""From a server into a folder: nothing gets its final name before the snapshot's roots fit.

    FOLDER/data/          the export, one or none: index.json, and a folder of shards for each project
    FOLDER/.recension/    what is being made: next/ as it will be, done/ what of it is finished

Each shard is written under another name, made durable and renamed, then recorded in ``done``: a killed fetch
goes on behind its last finished shard. The finished whole takes the place of an older one in one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Self

from recension.model.errors import (
    DiskFullError,
    ExportError,
    RecensionError,
    VerificationError,
)
from recension.model.manifest import Manifest, ProjectPart
from recension.model.reading import Entry
from recension.model.tree import RECORD
from recension_client.client import Client
from recension_client.export import forms
from recension_client.export.difference import Older
from recension_client.export.folder import Folder, digest_of, keep, naming
from recension_client.export.layout import (
    INDEX,
    MAX_INDEX_BYTES,
    FileRecord,
    Form,
    Index,
    Job,
    ShardFile,
    Terms,
    read_index,
    shard_files,
    terms_of,
)
from recension_client.export.roots import ShardTree, root_of
from recension_client.export.rows import check_sizes, leaf_of, row_of, size_of, withheld

DATA = "data"
WORK = ".recension"
_NEXT = "next"
_DONE = "done"
_OLD = "old"
_JOB = "job.json"
LOCK = "lock"
_MAX_RECORD_BYTES = 65_536

LEAST_RATIO = 3
"""Wikitext takes a third to a quarter of its bytes when compressed; less room is refused at once."""
ROW_BYTES = 200
"""What a row takes beside its text: salts and digests do not compress."""

Watch = Callable[[int], None]
"""Told the bytes of text of each entry that was written."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch has done."""

    index: Index
    received_bytes: int
    """All messages of the server's, as they came."""
    was_there: bool
    """Nothing had to be fetched."""


def needed_bytes(manifest: Manifest) -> int:
    """Return how much room an export takes at least, about."""
    return sum(part.text_bytes // LEAST_RATIO + part.count * ROW_BYTES for part in manifest.parts)


def fetch(
    client: Client,
    manifest: Manifest,
    target: Path,
    form: Form,
    *,
    terms: Mapping[str, Terms] | None = None,
    workers: int = 2,
    watch: Watch = lambda _: None,
    accept: Callable[[Index], None] = lambda _: None,
) -> Fetched:
    """Materialise a snapshot in ``target``; an older export there saves fetching what has not changed.

    ``accept`` is called with the finished export before it takes its place, and may refuse it.
    ``terms``: those of a lock, else the server is asked. Raises ``VerificationError`` when the server does
    not send the snapshot, ``DiskFullError``, ``ExportError`` for a folder that cannot be used.
    """
    before = client.received_bytes
    names = [part.project for part in manifest.parts]
    known = dict(terms) if terms is not None else {name: terms_of(client.project(name)) for name in names}
    job = Job(manifest, form, forms.writer_name(form), known)
    with ExitStack() as stack:
        root = stack.enter_context(Folder.at(target, create=True))
        work = stack.enter_context(root.folder(WORK, create=True))
        stack.enter_context(work.held(LOCK))
        _recover(root, work)
        held = _held(root)
        if held is not None and held.job == job and _whole(root, held):
            accept(held)
            return Fetched(held, client.received_bytes - before, was_there=True)
        staging = stack.enter_context(_Staging.of(work, job))
        if not staging.finished():
            _check_room(root, manifest)
            older = None if held is None else stack.enter_context(Older.of(root, held))
            _Run(client, staging, older, workers, watch).run()
        index = staging.index()
        accept(index)
        _swap(root, work)
        return Fetched(index, client.received_bytes - before, was_there=False)


def read_held(root: Folder) -> Index:
    """Return the index of the export in a folder. Raises ``ExportError`` where there is none."""
    if not root.has(DATA):
        raise ExportError(f"nothing was fetched into {root.shown}", hint="run: recension fetch")
    with root.folder(DATA) as data:
        if not data.has(INDEX):
            raise ExportError(
                f"{data.shown} is no export: it has no {INDEX}", hint="move it away, or name another folder"
            )
        return read_index(data.read(INDEX, MAX_INDEX_BYTES))


def _held(root: Folder) -> Index | None:
    """Return the older export; one whose list is damaged is refused rather than overwritten."""
    return read_held(root) if root.has(DATA) else None


def _whole(root: Folder, index: Index) -> bool:
    """Say whether all files are there as they were written."""
    return next(differing(root, index), None) is None


def differing(root: Folder, index: Index) -> Iterator[str]:
    """Yield what is not as the index has it, by the digests of the files alone."""
    files = shard_files(index.job.manifest, index.job.form)
    try:
        with root.folder(DATA) as data:
            for record, file in zip(index.files, files, strict=True):
                with data.folder(file.folder) as folder:
                    for name, digest in ((file.name, record.sha256), (file.leaves, record.leaves_sha256)):
                        with folder.open(name) as shard:
                            if digest_of(shard)[0] != digest:
                                yield f"{folder.path(name)}: its digest is another"
    except ExportError as error:
        yield error.message


def _check_room(root: Folder, manifest: Manifest) -> None:
    needed, free = needed_bytes(manifest), root.free_bytes()
    if free < needed:
        raise DiskFullError(
            f"the snapshot takes about {needed:,} bytes, {root.shown} has room for {free:,}",
            hint="make room, or fetch into another folder",
            neededBytes=needed,
            freeBytes=free,
        )


def _recover(root: Folder, work: Folder) -> None:
    """Finish a swap that was killed between its two steps."""
    if work.has(_OLD):
        if not root.has(DATA):
            work.move(_NEXT, root, DATA)
        work.remove(_OLD)


def _swap(root: Folder, work: Folder) -> None:
    """Give the finished export its name; the older one goes."""
    if not root.has(DATA):
        work.move(_NEXT, root, DATA)
    elif not root.exchange(DATA, work, _NEXT):
        root.move(DATA, work, _OLD)
        work.move(_NEXT, root, DATA)
    for name in (_JOB, _DONE, _NEXT, _OLD):
        work.remove(name)


class _Staging:
    """The export being made, and what of it is finished."""

    def __init__(self, work: Folder, job: Job) -> None:
        self.job = job
        self.files = shard_files(job.manifest, job.form)
        self._work = work
        self._next = work.folder(_NEXT, create=True)
        self._done = work.folder(_DONE, create=True)

    @staticmethod
    def of(work: Folder, job: Job) -> _Staging:
        """Go on with what was begun, if it was for the same job; else begin anew."""
        begun = work.read(_JOB, MAX_INDEX_BYTES) if work.has(_JOB) else b""
        if begun != job.encoded:
            for name in (_JOB, _DONE, _NEXT):
                work.remove(name)
            work.write(_JOB, job.encoded)
        return _Staging(work, job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._next.__exit__(None, None, None)
        self._done.__exit__(None, None, None)

    def finished(self) -> bool:
        """Say whether the whole is there, its roots checked."""
        return self._next.has(INDEX)

    def index(self) -> Index:
        """Return the list of the finished whole."""
        return read_index(self._next.read(INDEX, MAX_INDEX_BYTES))

    def finish(self, records: list[FileRecord]) -> None:
        """Write the list, whose being there says that the whole is finished."""
        self._next.write(INDEX, Index(self.job, tuple(records)).encoded)

    def folder(self, file: ShardFile) -> Folder:
        """Open the folder of a shard."""
        return self._next.folder(file.folder, create=True)

    def record(self, file: ShardFile) -> FileRecord | None:
        """Return what was written of a shard, if it is finished and nothing of it has changed since."""
        name = _record_name(file)
        if not self._done.has(name):
            return None
        try:
            record = FileRecord(**json.loads(self._done.read(name, _MAX_RECORD_BYTES)))
            with self.folder(file) as folder, folder.open(file.name) as shard:
                same = digest_of(shard) == (record.sha256, record.size_bytes)
            with self.folder(file) as folder, folder.open(file.leaves) as leaves:
                return record if same and digest_of(leaves)[0] == record.leaves_sha256 else None
        except (ValueError, TypeError, ExportError):
            return None

    def keep(self, file: ShardFile, record: FileRecord) -> None:
        """Record a shard as finished."""
        self._done.write(_record_name(file), json.dumps(asdict(record)).encode())

    def forget(self, file: ShardFile) -> None:
        """Have a shard made again."""
        self._done.remove(_record_name(file))

    def tree(self, file: ShardFile) -> ShardTree:
        """Return the lower levels of the tree of a finished shard."""
        tree = ShardTree()
        with self.folder(file) as folder, folder.open(file.leaves) as leaves:
            for page_id, rev_id, leaf in records_of(leaves.read()):
                tree.add(page_id, rev_id, leaf)
        tree.close()
        return tree


def records_of(leaves: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the (page id, revision id, leaf) of a leaves' file. Raises ``VerificationError``."""
    if len(leaves) % RECORD.size:
        raise VerificationError("a file of leaves ends inside a record")
    return RECORD.iter_unpack(leaves)


def _record_name(file: ShardFile) -> str:
    return f"{file.folder}-{file.name}.json"


class _Run:
    """One attempt to fill what is missing of the staging folder."""

    def __init__(
        self, client: Client, staging: _Staging, older: Older | None, workers: int, watch: Watch
    ) -> None:
        self._client = client
        self._staging = staging
        self._older = older
        self._workers = workers
        self._watch = watch
        self._stop = Event()
        self._most_bytes = sum(part.text_bytes for part in staging.job.manifest.parts)

    def run(self) -> None:
        """Fill it, check the roots and finish it. Raises ``VerificationError`` when they do not fit."""
        records: dict[str, FileRecord] = {}
        for part in self._staging.job.manifest.parts:
            made = self._part(part)
            records |= {record.path: record for record in made}
        self._staging.finish([records[f"{file.folder}/{file.name}"] for file in self._staging.files])

    def _part(self, part: ProjectPart) -> list[FileRecord]:
        files = [file for file in self._staging.files if file.part == part]
        ways = self._ways(part)
        way = next(ways)
        while True:
            try:
                made = self._fill(files, way)
                check_part(part, [self._staging.tree(file) for file in files], made)
            except VerificationError:
                for file in files:
                    self._staging.forget(file)
                # The older export, or the comparison with it, may be at fault: ask for more, then give up.
                following = next(ways, None)
                if following is None:
                    raise
                way = following
            else:
                return made

    def _ways(self, part: ProjectPart) -> Iterator[Callable[[ShardFile], Iterator[Entry]]]:
        """Yield the ways to come by a project's entries, the least bytes first."""
        if self._older is not None and self._older.holds(part.project):
            older = self._older
            changes = older.changes(self._client, self._staging.job.manifest, part)
            if changes is not None:
                yield lambda file: older.changed(self._client, file, changes)
            yield lambda file: older.compared(self._client, self._staging.job.manifest.snapshot_id, file)
        yield self._read

    def _read(self, file: ShardFile) -> Iterator[Entry]:
        """Yield a shard's entries as the server streams them."""
        snapshot_id, project = self._staging.job.manifest.snapshot_id, file.part.project
        stream = self._client.read(
            snapshot_id, shard=file.shard, after=(project, 0), most_bytes=self._most_bytes
        )
        for entry in stream:
            if entry.project > project:
                return
            yield entry

    def _fill(self, files: list[ShardFile], way: Callable[[ShardFile], Iterator[Entry]]) -> list[FileRecord]:
        self._stop.clear()
        with ThreadPoolExecutor(self._workers, "fetch") as pool:
            futures = [pool.submit(self._shard, file, way) for file in files]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                for future in futures:
                    future.cancel()
        # The first fault is the cause; what was stopped because of it only says so.
        faults = [future.exception() for future in futures if not future.cancelled()]
        for fault in sorted(filter(None, faults), key=lambda fault: isinstance(fault, _StoppedError)):
            raise fault
        return [future.result() for future in futures]

    def _shard(self, file: ShardFile, way: Callable[[ShardFile], Iterator[Entry]]) -> FileRecord:
        if (finished := self._staging.record(file)) is not None:
            self._watch(finished.text_bytes)
            return finished
        with self._staging.folder(file) as folder:
            record = self._write(folder, file, way(file))
        self._staging.keep(file, record)
        return record

    def _write(self, folder: Folder, file: ShardFile, entries: Iterator[Entry]) -> FileRecord:
        shard_part, leaves_part = f"{file.name}.part", f"{file.leaves}.part"
        tree, text, less = ShardTree(), 0, 0
        terms = self._staging.job.terms[file.part.project]
        with (
            naming(folder.path(file.name)),  # outermost: closing a file writes what is left, and may fail
            folder.create(shard_part) as shard,
            folder.create(leaves_part) as leaves,
            forms.write(file.form, shard) as writer,
        ):
            for entry in entries:
                if self._stop.is_set():
                    raise _StoppedError("stopped")
                leaf = _checked(entry, file)
                tree.add(entry.page_id, entry.rev_id, leaf)
                text += size_of(entry)
                less += withheld(entry)
                if tree.count > file.part.count or text > file.part.text_bytes:
                    raise VerificationError(
                        f"{file.part.project}: the server sends more than the snapshot has, "
                        f"{file.part.count:,} pages and {file.part.text_bytes:,} bytes of text"
                    )
                leaves.write(RECORD.pack(entry.page_id, entry.rev_id, leaf))
                writer.add(row_of(entry, terms))
                self._watch(size_of(entry))
            writer.close()
            keep(shard)
            keep(leaves)
            (sha256, size), (leaves_sha256, _) = digest_of(shard), digest_of(leaves)
        folder.rename(leaves_part, file.leaves)
        folder.rename(shard_part, file.name)
        path = f"{file.folder}/{file.name}"
        return FileRecord(path, tree.count, text, less, size, sha256, leaves_sha256)


def check_part(part: ProjectPart, trees: list[ShardTree], records: list[FileRecord]) -> None:
    """Refuse shards that are not together what the snapshot says. Raises ``VerificationError``."""
    count, root = sum(tree.count for tree in trees), root_of(trees)
    if count != part.count:
        raise VerificationError(
            f"{part.project}: {count:,} pages came, the snapshot has {part.count:,}", project=part.project
        )
    if root != part.root:
        raise VerificationError(
            f"{part.project}: the pages are not those of the snapshot, their root is another",
            hint="do not use them; the server or something on the way changed them",
            expected=part.root.hex(),
            actual=root.hex(),
        )
    text = sum(record.text_bytes for record in records)
    if text != part.text_bytes and not any(record.withheld for record in records):
        raise VerificationError(
            f"{part.project}: {text:,} bytes of text, the snapshot has {part.text_bytes:,}",
            project=part.project,
        )


def _checked(entry: Entry, file: ShardFile) -> bytes:
    """Return the leaf of an entry that belongs into a shard."""
    if entry.project != file.part.project or not file.shard.holds(entry.page_id):
        raise VerificationError(
            f"the server sent page {entry.page_id} of {entry.project[:80]!r} where it does not belong"
        )
    return leaf_of(check_sizes(entry))  # each way here has compared texts with their digests


class _StoppedError(RecensionError):
    """Another shard failed first."""
