"""Files against the snapshot that they say they are, without a server.

From the files' rows alone every leaf, every root and every number is computed again. Which pages are at fault
is said with the help of the leaves' files, where these fit the root themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from recension.model.errors import ExportError, RecensionError, VerificationError
from recension.model.manifest import ProjectPart
from recension.model.reading import Entry
from recension_client.export import forms
from recension_client.export.fetching import DATA, records_of
from recension_client.export.folder import Folder, digest_of
from recension_client.export.layout import INDEX, FileRecord, Index, Job, ShardFile, shard_files
from recension_client.export.roots import ShardTree, root_of
from recension_client.export.rows import Unreadable, check_texts, leaf_of, readable, size_of, withheld

MAX_NAMED = 1_000
"""Pages named of each project and kind; the rest is only counted."""


@dataclass(slots=True)
class Pages:
    """Some pages: all counted, the first of them named."""

    count: int = 0
    named: list[int] = field(default_factory=list)

    def add(self, page_id: int) -> None:
        """Count one, and name it unless there are many."""
        self.count += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(page_id)


@dataclass(slots=True)
class Findings:
    """What was found in the files of one project."""

    project: str
    pages: int = 0
    """Rows that were read."""
    text_bytes: int = 0
    differ: Pages = field(default_factory=Pages)
    """Rows that are not what the snapshot has for their page."""
    missing: Pages = field(default_factory=Pages)
    extra: Pages = field(default_factory=Pages)
    retracted: Pages = field(default_factory=Pages)
    """Rows that fit, without a text that was withdrawn or hidden: no fault."""
    problems: list[str] = field(default_factory=list)
    """What is wrong beyond single pages."""

    @property
    def ok(self) -> bool:
        """True when the files are the snapshot."""
        return not (self.problems or self.differ.count or self.missing.count or self.extra.count)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in all files."""

    projects: list[Findings]
    problems: list[str]
    """What is wrong with the folder or the list of its files."""

    @property
    def ok(self) -> bool:
        """True when the files are the snapshot."""
        return not self.problems and all(found.ok for found in self.projects)


def check(root: Folder, index: Index, *, watch: Callable[[int], None] = lambda _: None) -> Verdict:
    """Compare the files in a folder with the list that a lock, or the folder itself, has of them."""
    job = index.job
    shards = dict(zip(shard_files(job.manifest, job.form), index.files, strict=True))
    with root.folder(DATA) as data:
        problems = _strangers(data, job)
        found = []
        for part in job.manifest.parts:
            own = {file: record for file, record in shards.items() if file.part == part}
            found.append(_check_project(data, job, part, own, watch))
    return Verdict(found, problems)


def _strangers(data: Folder, job: Job) -> list[str]:
    """Return what lies in the folder and is not of the export."""
    files = shard_files(job.manifest, job.form)
    expected = {INDEX} | {file.folder for file in files}
    problems = [f"{name}: not a file of the export" for name in data.names() if name not in expected]
    for name in sorted(expected - {INDEX}):
        own = {each for file in files if file.folder == name for each in (file.name, file.leaves)}
        try:
            with data.folder(name) as folder:
                problems += [
                    f"{name}/{each}: not a file of the export" for each in folder.names() if each not in own
                ]
        except ExportError as error:
            problems.append(error.message)
    return problems


def _check_project(
    data: Folder,
    job: Job,
    part: ProjectPart,
    shards: dict[ShardFile, FileRecord],
    watch: Callable[[int], None],
) -> Findings:
    found = Findings(part.project)
    leaves = _leaves_of(data, part, list(shards))
    if leaves is None:
        found.problems.append("the files of leaves are not those of the root; pages can't be named by them")
    trees = []
    for place, (file, record) in enumerate(shards.items()):
        tree = ShardTree()
        trees.append(tree)
        known = None if leaves is None else _Known(leaves[place], found)
        try:
            with data.folder(file.folder) as folder, folder.open(file.name) as shard:
                if digest_of(shard) != (record.sha256, record.size_bytes):
                    found.problems.append(f"{record.path}: not the file of the list, its digest is another")
                shard.seek(0)
                rows = forms.entries(file.form, shard, part.project, job.terms[part.project])
                _check_rows(rows, file, tree, found, known, watch)
            with data.folder(file.folder) as folder, folder.open(file.leaves) as shard:
                if digest_of(shard)[0] != record.leaves_sha256:
                    found.problems.append(f"{file.folder}/{file.leaves}: its digest is another")
        except RecensionError as error:
            found.problems.append(f"{record.path}: {error.message}")
        if known is not None:
            known.close()
        tree.close()
    if root_of(trees) != part.root and found.ok:
        found.problems.append("the pages have another root than the snapshot")
    if found.pages != part.count and found.ok:
        found.problems.append(f"{found.pages:,} pages, the snapshot has {part.count:,}")
    if found.ok and not found.retracted.count and found.text_bytes != part.text_bytes:
        found.problems.append(f"{found.text_bytes:,} bytes of text, the snapshot has {part.text_bytes:,}")
    return found


def _check_rows(
    rows: Iterator[Entry | Unreadable],
    file: ShardFile,
    tree: ShardTree,
    found: Findings,
    known: _Known | None,
    watch: Callable[[int], None],
) -> None:
    for row in rows:
        found.pages += 1
        try:
            entry = check_texts(readable(row))
            leaf = leaf_of(entry)
        except VerificationError:
            named = row.page_id if type(row.page_id) is int else 0
            found.differ.add(named)
            if known is not None:
                known.pass_by(named)
            continue
        if not file.shard.holds(entry.page_id):
            raise VerificationError(f"page {entry.page_id} belongs into another file")
        tree.add(entry.page_id, entry.rev_id, leaf)
        size = size_of(entry)
        found.text_bytes += size
        watch(size)
        if known is not None and not known.take(entry.page_id, entry.rev_id, leaf):
            continue
        if withheld(entry):
            found.retracted.add(entry.page_id)


class _Known:
    """The leaves that a shard has by the root, and how its rows compare to them."""

    def __init__(self, leaves: bytes, found: Findings) -> None:
        self._leaves = records_of(leaves)
        self._found = found
        self._next = next(self._leaves, None)

    def take(self, page_id: int, rev_id: int, leaf: bytes) -> bool:
        """Say whether a row is what the snapshot has for its page."""
        known = self.pass_by(page_id)
        if known is None:
            self._found.extra.add(page_id)
        elif known != (page_id, rev_id, leaf):
            self._found.differ.add(page_id)
        return known == (page_id, rev_id, leaf)

    def pass_by(self, page_id: int) -> tuple[int, int, bytes] | None:
        """Return the leaf of a page; what lies before it is missing."""
        while self._next is not None and self._next[0] < page_id:
            self._found.missing.add(self._next[0])
            self._next = next(self._leaves, None)
        if self._next is None or self._next[0] != page_id:
            return None
        known, self._next = self._next, next(self._leaves, None)
        return known

    def close(self) -> None:
        """Take the rest as missing."""
        self.pass_by(1 << 63)


def _leaves_of(data: Folder, part: ProjectPart, shards: list[ShardFile]) -> list[bytes] | None:
    """Return the leaves' files of a project if together they have its root."""
    trees, held = [], []
    most = 48 * part.count
    try:
        for file in shards:
            with data.folder(file.folder) as folder:
                held.append(folder.read(file.leaves, most))
            tree = ShardTree()
            for record in records_of(held[-1]):
                tree.add(*record)
            tree.close()
            trees.append(tree)
    except RecensionError:
        return None
    return held if root_of(trees) == part.root else None
