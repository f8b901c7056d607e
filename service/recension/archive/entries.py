"""The entries of snapshots: what a leaf of a tree stands for, opened once and remembered.

A leaf commits to everything an entry says, so an entry that was opened for a leaf answers for it in every
snapshot, until something of it is hidden or erased. Both leave a trace in the index, and each view looks for
it before it takes anything from memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

from recension.archive.clock import while_fresh
from recension.archive.commitments import Basis
from recension.archive.history import Choice, any_hidden, choice_of, hidden_flags
from recension.archive.pins import check_held
from recension.archive.projects import Numbers
from recension.archive.recent import Recent
from recension.archive.sealed import CONTENT_FIELD, SealedReader
from recension.archive.shown import slots_of, with_stored, with_texts
from recension.archive.texts.hot import HotTexts
from recension.archive.trees import Node, TreeReader, bases_at, node_at
from recension.model.errors import InvalidArgumentError, ProjectNotFoundError
from recension.model.event import MAX_ID
from recension.model.manifest import Manifest, ProjectPart
from recension.model.proof import path_to
from recension.model.reading import Entry, Place, Proof, Shard
from recension.model.record import Flag
from recension.model.seal import read_title
from recension.model.tree import Leaf
from recension.store import keys
from recension.store.interface import Store, View

_SLICE = 256
"""Entries read in one view: some 20 ms with texts."""
_SLICE_BYTES = 4 * 1024 * 1024
"""Texts held at once for one stream; a slice ends with the text that reaches it."""
_REMEMBERED = 8192
"""Entries of a generation: some 7 MB, and there are two."""
_NODES = 1024
"""Tree nodes of a generation: 3 MB at most."""
_SLOTS = 4
"""An entry with more is not remembered."""
_NEWEST = keys.END - 1

_Stand = tuple[int, bytes | None, int]
"""Project number, newest removal, position of the log: nothing was hidden while they are the same."""


@dataclass(slots=True)
class Held:
    """An entry that was opened, without its texts."""

    entry: Entry
    content: bytes
    """Commitment of its content."""
    own_flags: int
    """Those of its edit: what was hidden of it as it came."""
    flags: int
    """What is hidden of it."""
    stand: _Stand
    """Up to which this is known."""


class Entries:
    """Reads the entries of snapshots. Safe for concurrent use."""

    def __init__(self, store: Store, numbers: Numbers, hot: HotTexts | None = None) -> None:
        self._store = store
        self._hot = hot
        self._number = numbers.of
        self._memory = Recent[Held](_REMEMBERED)
        self._nodes = Recent[Node](_NODES)
        self._removal: bytes | None = None

    def opener(self, view: View, project: str, manifest: Manifest) -> Opener:
        """Return what opens a project's leaves of a snapshot, for as long as the view is open."""
        choice = choice_of(manifest.selector, manifest.as_of)
        stand = self._number(view, project), view.get(keys.removed()), view.head().position
        if stand[1] != self._removal:  # what was erased is to be nowhere
            self._removal, self._memory = stand[1], Recent[Held](self._memory.size)
        return Opener(view, project, choice, stand, self._memory)

    def trees(self, view: View) -> TreeReader:
        """Return what reads trees, for as long as the view is open."""
        return TreeReader(view, self._nodes)

    def read(
        self, manifest: Manifest, shard: Shard, after: Place, *, text: bool, stored: bool = False
    ) -> Iterator[Entry]:
        """Yield a shard's entries by (project, page id), those behind a place."""
        for part in manifest.parts:
            if part.project < after[0]:
                continue
            last, more = after[1] if part.project == after[0] else 0, True
            while more:
                with self._store.view() as view:
                    check_held(view, manifest.snapshot_id)
                    opener = self.opener(view, part.project, manifest)
                    entries, more = _slice(opener, self.trees(view), part, shard, last)
                    if text:
                        whole = self._whole(view, entries, stored=stored)
                        entries, more = whole, more or len(whole) < len(entries)
                sent = 0
                for entry in while_fresh(entries):  # whoever takes them slowly gets the rest of a later view
                    yield entry
                    sent += 1
                more = more or sent < len(entries)
                if more:
                    last = entries[sent - 1].page_id

    def read_at(
        self, manifest: Manifest, indexes: Sequence[int], *, text: bool, stored: bool = False
    ) -> Iterator[Entry]:
        """Yield the entries at places of the order (project, page id), in the order asked."""
        sent = 0
        while sent < len(indexes):
            with self._store.view() as view:
                check_held(view, manifest.snapshot_id)
                entries = self._at(view, manifest, indexes[sent : sent + _SLICE])
                entries = self._whole(view, entries, stored=stored) if text else entries
            for entry in while_fresh(entries):
                yield entry
                sent += 1

    def _at(self, view: View, manifest: Manifest, indexes: Sequence[int]) -> list[Entry]:
        trees = self.trees(view)
        by_part: dict[int, list[tuple[int, Leaf]]] = {}
        starts = [0, *accumulate(part.count for part in manifest.parts)]
        for at, index in enumerate(indexes):
            number = bisect_right(starts, index) - 1
            leaf = trees.leaf_number(manifest.parts[number].root, index - starts[number])
            by_part.setdefault(number, []).append((at, leaf))
        entries: dict[int, Entry] = {}
        for number, wanted in by_part.items():
            opener = self.opener(view, manifest.parts[number].project, manifest)
            opened = opener.open([leaf for _, leaf in wanted])
            entries.update((at, held.entry) for (at, _), held in zip(wanted, opened, strict=True))
        return [entries[at] for at in range(len(indexes))]

    def _whole(self, view: View, entries: list[Entry], *, stored: bool) -> list[Entry]:
        """Return entries with their texts: the first of those given, as many as one stream may hold at once.

        ``stored``: texts as they are stored will do.
        """
        sizes = accumulate(sum(slot.size_bytes for slot in entry.slots) for entry in entries)
        entries = entries[: 1 + sum(size < _SLICE_BYTES for size in sizes)]
        some = [entry.slots for entry in entries]
        slots = with_stored(view, some, self._hot) if stored else with_texts(view, some)
        return [entry._replace(slots=its) for entry, its in zip(entries, slots, strict=True)]

    def prove(self, manifest: Manifest, project: str, page_id: int) -> Proof:
        """Prove that a page is in a snapshot, or that it is not."""
        if not 0 < page_id <= MAX_ID:
            raise InvalidArgumentError(
                f"{page_id} is not a page id", hint="page ids run from 1 to 2^63-1", field="page_id"
            )
        part = next((one for one in manifest.parts if one.project == project), None)
        if part is None:
            raise ProjectNotFoundError(
                f"the snapshot has no project {project!r}",
                hint=f"it has: {', '.join(manifest.selector.projects)}",
                project=project,
            )
        with self._store.view() as view:
            check_held(view, manifest.snapshot_id)
            path, prefix, leaf = path_to(part.root, page_id, lambda digest: node_at(view, digest))
            held = None if leaf is None else self.opener(view, project, manifest).open([leaf])[0]
        return Proof(manifest, project, page_id, None if held is None else held.entry, path, prefix)


def _slice(
    opener: Opener, trees: TreeReader, part: ProjectPart, shard: Shard, last: int
) -> tuple[list[Entry], bool]:
    """Return the next entries without texts, at least one if there are any, and whether more may follow."""
    leaves: list[Leaf] = []
    more = False
    for run in trees.runs(part.root, last):
        if not shard.holds(run[0].page_id):  # and none of the others: they have all but four bits in common
            continue
        if len(leaves) >= _SLICE:
            more = True
            break
        leaves += run
    return [held.entry for held in opener.open(leaves)], more


class Opener:
    """Opens leaves inside one view."""

    def __init__(self, view: View, project: str, choice: Choice, stand: _Stand, memory: Recent[Held]) -> None:
        self._view = view
        self._project = project
        self._number = stand[0]
        self._choice = choice
        self._stand = stand
        self._memory = memory
        self._values = SealedReader(view)
        self.any_hidden = any_hidden(view, self._number)
        """Whether any visibility change of the project is known; if none is, no page is asked about."""

    def open(self, leaves: Sequence[Leaf]) -> list[Held]:
        """Return what leaves stand for. Raises ``DataLossError`` when the history says something else."""
        get, stand = self._memory.get, self._stand
        out = [get(leaf.leaf) for leaf in leaves]
        missing = [
            at
            for at, held in enumerate(out)
            if held is None or (held.stand != stand and not self._stands(held))
        ]
        for at, held in zip(missing, self._open([leaves[at] for at in missing]), strict=True):
            if len(held.entry.slots) <= _SLOTS:
                self._memory.put(leaves[at].leaf, held)
            out[at] = held
        return cast("list[Held]", out)

    def hidden(self, held: Held, known_at: int) -> bool:
        """Say whether the text of an entry was hidden as known at a position."""
        flags = held.own_flags
        if self.any_hidden:
            flags = hidden_flags(self._view, self._number, held.entry.rev_id, flags, known_at)
        return bool(flags & Flag.TEXT_HIDDEN)

    def _stands(self, held: Held) -> bool:
        """Say whether nothing of an entry was hidden or erased since; it need not be asked again then."""
        if held.stand[:2] != self._stand[:2] or self._flags(held.entry.rev_id, held.own_flags) != held.flags:
            return False
        held.stand = self._stand
        return True

    def _flags(self, rev: int, own: int) -> int:
        """Return what is hidden of a revision: it binds every answer about any T, so the newest decides."""
        return hidden_flags(self._view, self._number, rev, own, _NEWEST) if self.any_hidden else own

    def _open(self, leaves: list[Leaf]) -> list[Held]:
        bases = bases_at(self._view, self._values, self._number, leaves, self._choice)
        return [self._held(basis) for basis in bases]

    def _held(self, basis: Basis) -> Held:
        """Return an entry by its basis."""
        (edit, source), sealed, naming, (title_salt, _), (content_salt, committed) = basis
        own = edit.hidden
        flags = self._flags(edit.rev, own)
        hidden = bool(flags & Flag.TEXT_HIDDEN) or sealed.values[CONTENT_FIELD] is None
        namespace, title = read_title(naming.value(source.field))
        entry = Entry(
            self._project,
            edit.page,
            edit.rev,
            edit.time,
            title,
            namespace,
            source.inferred,
            slots_of(sealed, edit, flags),
            title_salt,
            b"" if hidden else content_salt,
            committed if hidden else b"",
            hidden,
        )
        return Held(entry, committed, own, flags, self._stand)
