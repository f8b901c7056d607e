"""Taking withdrawn texts out of fetched files: the rows stay, proved by their commitments, without the text.

What comes out is what a fetch would write now. A shard is written anew beside the old one and takes its place
in one step, so whoever is killed does it again; the list of the files, and the lock, follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from recension.model.errors import ExportDiffersError, VerificationError
from recension.model.reading import Entry
from recension.model.seal import CONTENT, commitment, content_value
from recension_client.export import forms
from recension_client.export.fetching import DATA, LOCK, WORK, read_held
from recension_client.export.folder import Folder, digest_of, keep, naming
from recension_client.export.layout import INDEX, FileRecord, Index, ShardFile, shard_files
from recension_client.export.rows import leaf_of, readable, row_of, size_of, withheld

Lost = Mapping[str, Mapping[int, int]]
"""By project: the pages whose text was withdrawn, and the revision of each."""


def still_there(root: Folder, index: Index, lost: Lost) -> set[tuple[str, int]]:
    """Return the (project, page) whose withdrawn text is in the files. Raises ``VerificationError``."""
    found: set[tuple[str, int]] = set()
    with root.folder(DATA) as data:
        for file, _ in _concerned(index, lost):
            with data.folder(file.folder) as folder:
                for entry in _entries(folder, file, index):
                    if _is_lost(entry, lost) and not entry.content_commitment:
                        found.add((entry.project, entry.page_id))
    return found


def withdraw(
    root: Folder, index: Index, lost: Lost, *, watch: Callable[[int], None] = lambda _: None
) -> Index:
    """Take withdrawn texts out of the files of an export; return the list of the files as they are then.

    Durable when it returns, but for the list in the folder: ``keep_list`` writes it. Raises
    ``ExportDiffersError`` where the files were written by another version of a library, ``VerificationError``
    where they are damaged, ``ExportError``.
    """
    here = forms.writer_name(index.job.form)
    if here != index.job.writer:
        raise ExportDiffersError(
            f"the files were written by {index.job.writer}, here is {here}",
            hint="install that version, or fetch anew: recension fetch --rewrite",
        )
    records = {record.path: record for record in index.files}
    with root.folder(WORK, create=True) as work, work.held(LOCK), root.folder(DATA) as data:
        for file, record in _concerned(index, lost):
            with data.folder(file.folder) as folder:
                records[record.path] = _rewritten(folder, file, record, index, lost, watch)
    return replace(index, files=tuple(records[record.path] for record in index.files))


def keep_list(root: Folder, index: Index) -> None:
    """Write the list of the files into the folder."""
    if read_held(root) != index:
        with root.folder(WORK, create=True) as work, work.held(LOCK), root.folder(DATA) as data:
            data.write(INDEX, index.encoded)


def _concerned(index: Index, lost: Lost) -> Iterator[tuple[ShardFile, FileRecord]]:
    files = shard_files(index.job.manifest, index.job.form)
    for file, record in zip(files, index.files, strict=True):
        if any(file.shard.holds(page_id) for page_id in lost.get(file.part.project, ())):
            yield file, record


def _entries(folder: Folder, file: ShardFile, index: Index) -> Iterator[Entry]:
    project = file.part.project
    with folder.open(file.name) as shard:
        for found in forms.entries(file.form, shard, project, index.job.terms[project]):
            yield readable(found)


def _is_lost(entry: Entry, lost: Lost) -> bool:
    return lost.get(entry.project, {}).get(entry.page_id) == entry.rev_id


def _rewritten(
    folder: Folder,
    file: ShardFile,
    record: FileRecord,
    index: Index,
    lost: Lost,
    watch: Callable[[int], None],
) -> FileRecord:
    part = f"{file.name}.part"
    text = less = 0
    with (
        naming(folder.path(file.name)),  # outermost: closing a file writes what is left, and may fail
        folder.create(part) as shard,
        forms.write(file.form, shard) as writer,
    ):
        for entry in _entries(folder, file, index):
            kept = _without_text(entry) if _is_lost(entry, lost) else entry
            text += size_of(kept)
            less += withheld(kept)
            writer.add(row_of(kept, index.job.terms[file.part.project]))
            watch(size_of(entry))
        writer.close()
        keep(shard)
        sha256, size = digest_of(shard)
    folder.rename(part, file.name)
    return replace(record, text_bytes=text, withheld=less, size_bytes=size, sha256=sha256)


def _without_text(entry: Entry) -> Entry:
    """Return an entry with the commitment of its content alone. Raises ``VerificationError``."""
    if entry.content_commitment:
        return entry
    committed = commitment(entry.content_salt, CONTENT, content_value(entry.slots))
    kept = entry._replace(slots=(), content_salt=b"", content_commitment=committed)
    if leaf_of(kept) != leaf_of(entry):
        raise VerificationError(f"page {entry.page_id} is not the snapshot's", pageId=entry.page_id)
    return kept
