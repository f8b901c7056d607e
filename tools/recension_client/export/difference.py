"""An export from an older one: what has not changed is taken from its files, the rest asked for by revision.

Whatever comes from the older files is checked like what comes from a server, so damage in them costs a second
look and never a wrong row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby
from typing import Self

from recension.model.errors import ExportError, RecensionError, SnapshotNotFoundError, VerificationError
from recension.model.event import Presence
from recension.model.manifest import Manifest, ProjectPart
from recension.model.reading import MAX_BATCH, Entry
from recension_client.client import Client
from recension_client.export import forms
from recension_client.export.folder import Folder
from recension_client.export.layout import Index, ShardFile, overlapping, shard_files
from recension_client.export.rows import check_texts, readable, size_of

Change = tuple[int, Entry | None]
"""A page and its entry without texts; ``None`` where it is gone."""
Changes = dict[int, Entry | None]
"""By page id, ascending."""

MAX_CHANGES = 50_000
"""Changes that are kept in memory, about 1 KB each; beyond them all entries are compared instead."""
_BATCH_TEXT_BYTES = 2 * 1024 * 1024
"""Text that is asked for in one call, and kept back until its pages' turn."""


class Older:
    """The export that was fetched before."""

    def __init__(self, data: Folder, index: Index) -> None:
        self._data = data
        self._index = index
        self._files = shard_files(index.job.manifest, index.job.form)

    @classmethod
    def of(cls, root: Folder, index: Index) -> Self:
        """Open the export in a folder."""
        return cls(root.folder("data"), index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.__exit__(None, None, None)

    def holds(self, project: str) -> bool:
        """Say whether the project was part of it."""
        return project in self._index.job.terms

    def changes(self, client: Client, manifest: Manifest, part: ProjectPart) -> Changes | None:
        """Return what differs from the older snapshot; ``None`` where that cannot be said, or is too much."""
        old = self._index.job.manifest
        if old.selector.projects != manifest.selector.projects:
            return None
        if old.snapshot_id == manifest.snapshot_id:
            return {}
        found: Changes = {}
        most = part.count + next(each.count for each in old.parts if each.project == part.project)
        try:
            for change in client.diff(old.snapshot_id, manifest.snapshot_id, start=(part.project, 0)):
                if change.project != part.project:
                    break
                found[change.page_id] = change.after
                if len(found) > most:
                    raise VerificationError(f"{part.project}: more pages differ than there are")
                if len(found) > MAX_CHANGES:
                    return None
        except SnapshotNotFoundError:
            return None
        return found

    def changed(self, client: Client, file: ShardFile, changes: Changes) -> Iterator[Entry]:
        """Yield a shard's entries: the older ones, but for the changes."""
        own = [(page_id, entry) for page_id, entry in changes.items() if file.shard.holds(page_id)]
        return self._with_texts(client, file, _patched(self._rows(file), own))

    def compared(self, client: Client, snapshot_id: bytes, file: ShardFile) -> Iterator[Entry]:
        """Yield a shard's entries as the server lists them; texts that are here are not fetched."""
        project = file.part.project
        listed = client.read(snapshot_id, shard=file.shard, after=(project, 0), text=False)
        own = ((entry.page_id, entry) for entry in _while_of(listed, project))
        return self._with_texts(client, file, _looked_up(_until_damage(self._rows(file)), own))

    def _rows(self, file: ShardFile) -> Iterator[Entry]:
        """Yield the older entries that may belong into a shard, in page order."""
        streams = [self._shard(self._files[place], file) for place in overlapping(file, self._files)]
        return merge(*streams, key=lambda entry: entry.page_id)

    def _shard(self, old: ShardFile, file: ShardFile) -> Iterator[Entry]:
        project = old.part.project
        terms = self._index.job.terms[project]
        try:
            with self._data.folder(old.folder) as folder, folder.open(old.name) as shard:
                for found in forms.entries(old.form, shard, project, terms):
                    entry = check_texts(readable(found))
                    if file.shard.holds(entry.page_id):
                        yield entry
        except ExportError as error:
            raise VerificationError(f"the older export lacks a file: {error.message}") from None

    def _with_texts(
        self, client: Client, file: ShardFile, pairs: Iterable[tuple[Entry, Entry | None]]
    ) -> Iterator[Entry]:
        """Yield each wanted entry with its texts: from its older row where it has them, else fetched."""
        waiting: list[Entry] = []
        missing: list[Entry] = []
        held_bytes = 0
        for wanted, old in pairs:
            entry = wanted if old is wanted else _with_older_texts(wanted, old)
            if not _complete(entry):
                missing.append(entry)
            elif not missing:
                yield entry
                continue
            waiting.append(entry)
            held_bytes += size_of(entry)
            if len(missing) == MAX_BATCH or held_bytes >= _BATCH_TEXT_BYTES:
                yield from _filled(client, file.part.project, waiting, missing)
                waiting, missing, held_bytes = [], [], 0
        yield from _filled(client, file.part.project, waiting, missing)


def _while_of(entries: Iterable[Entry], project: str) -> Iterator[Entry]:
    for entry in entries:
        if entry.project > project:
            return
        yield entry


def _until_damage(rows: Iterator[Entry]) -> Iterator[Entry]:
    """Yield rows up to the first that cannot be read: the rest is fetched."""
    try:
        yield from rows
    except VerificationError:
        return


def _patched(
    rows: Iterator[Entry], changes: list[tuple[int, Entry | None]]
) -> Iterator[tuple[Entry, Entry | None]]:
    """Yield (entry, older row): the rows themselves, but for the changes."""
    both = merge(
        ((row.page_id, 0, row) for row in rows),
        ((page_id, 1, entry) for page_id, entry in changes),
        key=lambda item: item[:2],
    )
    for _, group in groupby(both, key=lambda item: item[0]):
        items = {side: entry for _, side, entry in group}
        wanted = items[1] if 1 in items else items[0]
        if wanted is not None:
            yield wanted, items.get(0)


def _looked_up(
    rows: Iterator[Entry], listed: Iterator[tuple[int, Entry]]
) -> Iterator[tuple[Entry, Entry | None]]:
    """Yield (entry, older row if there is one) for all that are listed."""
    row = next(rows, None)
    for page_id, entry in listed:
        while row is not None and row.page_id < page_id:
            row = next(rows, None)
        yield entry, row if row is not None and row.page_id == page_id else None


def _with_older_texts(wanted: Entry, old: Entry | None) -> Entry:
    """Return the entry with those of its texts that the older row has."""
    held = {} if old is None else {slot.digest: slot.text for slot in old.slots if slot.text is not None}
    if wanted.content_commitment:
        return wanted
    return wanted._replace(
        slots=tuple(
            slot._replace(text=held.get(slot.digest)) if slot.presence is Presence.PRESENT else slot
            for slot in wanted.slots
        )
    )


def _complete(entry: Entry) -> bool:
    return bool(entry.content_commitment) or all(
        slot.text is not None for slot in entry.slots if slot.presence is Presence.PRESENT
    )


def _filled(client: Client, project: str, waiting: list[Entry], missing: list[Entry]) -> Iterator[Entry]:
    """Yield what waited, the missing texts fetched by revision."""
    if not missing:
        return
    rev_ids = [entry.rev_id for entry in missing]
    answers = dict(zip(rev_ids, client.revisions(project, rev_ids), strict=True))
    for entry in waiting:
        if _complete(entry):
            yield entry
            continue
        answer = answers[entry.rev_id]
        if isinstance(answer, RecensionError):
            raise answer
        texts = {slot.role: slot.text for slot in answer.slots}
        slots = tuple(slot._replace(text=texts.get(slot.role, slot.text)) for slot in entry.slots)
        yield check_texts(entry._replace(slots=slots))
