"""What describes an export to people and to machines, beside its files: ``README.md`` and ``croissant.json``.

Neither is part of what a root proves; both follow from the index of the export and of its credits.
"""

from __future__ import annotations

from recension.model.digest import format_digest
from recension.model.errors import ExportDiffersError, ExportError
from recension_client.credits import card, croissant
from recension_client.credits.facts import Facts
from recension_client.export.fetching import read_held
from recension_client.export.folder import Folder
from recension_client.export.layout import Index

CARD = "README.md"
CROISSANT = "croissant.json"
_MAX_BYTES = 64 * 1024 * 1024


def describable(root: Folder, snapshot_id: bytes) -> Index:
    """Return the list of a folder's files if they are a snapshot's and can be described.

    Raises ``ExportDiffersError`` where the folder holds another one, ``ExportError`` where it holds none, and
    where others wrote files of the names that are written here.
    """
    index = read_held(root)
    held = index.job.manifest.snapshot_id
    if snapshot_id != held:
        raise ExportDiffersError(
            f"{root.shown} holds {format_digest(held)}, the credits are of {format_digest(snapshot_id)}",
            hint="fetch that snapshot there first",
        )
    for name, mark in ((CARD, card.MARK), (CROISSANT, croissant.MARK)):
        if root.has(name) and mark.encode() not in root.read(name, _MAX_BYTES):
            raise ExportError(f"{root.path(name)} was written by somebody else", hint="move it away")
    return index


def write(root: Folder, facts: Facts) -> None:
    """Write both."""
    root.write(CARD, card.card(facts).encode("utf-8", "replace"))
    root.write(CROISSANT, croissant.document(facts))
