"""What no revision and no snapshot needs: nodes, event columns, blocks and rows of texts nothing leads to.

A killed ``CreateSnapshot`` leaves nodes, and an ingest that is killed near its end leaves columns; blocks and
rows of texts are left by faults alone. What is missing elsewhere
is damage, not garbage: a block whose texts are still looked for there, or that another is compressed against,
is kept and counted, and so is the row of a text that a revision names. Nodes can be computed again; so trees
of snapshots that no pin holds are garbage too if the operator says so, and their manifests stay.

Deletions are small transactions, each left out if a commit came since it was decided, and decided anew then:
killed anywhere, or run twice, the outcome is the same. A ``CreateSnapshot`` at the same time in another
process may lose nodes that its manifest does not name yet. Once the manifest is kept nothing of it is taken
away, so whoever keeps one looks afterwards, with ``lacks_nodes``, and builds the tree again if it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from secrets import token_bytes

from recension.archive.clock import Clock, system_clock
from recension.archive.history import edit_row
from recension.archive.pins import held_snapshots
from recension.archive.sealed import CONTENT_FIELD, TOGETHER, Sealed, open_sealed
from recension.archive.texts.block import TAIL, Block, read_block
from recension.archive.texts.reading import read_place
from recension.archive.texts.rows import read_page_block
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.event import Presence
from recension.model.manifest import read_manifest
from recension.model.seal import read_content
from recension.model.tree import children_of, level_of
from recension.store import keys
from recension.store.interface import Rewrite, Row, Store, View

_ROWS = 2000
"""Rows of one view and of one deletion: some 20 ms."""
_BLOCKS = 200
_OF_PART = 64
"""Rows of a part of the event columns in one deletion: half a megabyte."""
_DAY = 86_400_000_000


@dataclass(slots=True)
class Garbage:
    """What was found, and deleted if that was asked for."""

    nodes: int = 0
    node_bytes: int = 0
    blocks: int = 0
    block_bytes: int = 0
    text_rows: int = 0
    snapshots: int = 0
    """Released: their trees are no longer needed. Only what no other snapshot shares counts as nodes."""
    damaged: int = 0
    """Kept: blocks and rows that something still looks for. ``archive.check`` names them."""
    column_rows: int = 0
    """Of event columns."""
    column_bytes: int = 0

    @property
    def is_none(self) -> bool:
        """Whether there is nothing to delete."""
        return not (self.nodes or self.blocks or self.text_rows or self.column_rows or self.snapshots)


def collect(
    store: Store,
    *,
    delete: bool = False,
    unpinned_days: float | None = None,
    clock: Clock = system_clock,
    tell: Callable[[Garbage], None] = lambda _: None,
) -> Garbage:
    """Find garbage, and delete it if asked to; ``tell`` is called after each step.

    With ``unpinned_days``, snapshots made at least so many days ago that no live pin holds are released.

    For the holder of ``store.exclusive_writer()``. Memory: some 60 bytes for each node of all snapshots.
    Raises ``DataLossError``, with no node deleted, when a snapshot's tree cannot be read: what lies below
    would look like garbage.
    """
    found = Garbage()
    for _ in _text_rows(store, found, delete=delete):
        tell(found)
    for _ in _blocks(store, found, delete=delete):
        tell(found)
    for _ in _columns(store, found, delete=delete):
        tell(found)
    released: set[bytes] = set()
    if unpinned_days is not None:
        released = _release(store, int(unpinned_days * _DAY), clock, delete=delete)
        found.snapshots = len(released)
        tell(found)
    for _ in _nodes(store, found, released, delete=delete):
        tell(found)
    return found


def lacks_nodes(store: Store, root: bytes) -> bool:
    """Say whether a node of a tree is missing. Takes some 10 us a node."""
    try:
        _mark(store, [root], set())
    except _MissingNodeError:
        return True
    return False


class _Guard:
    """Notices a commit, whose row is not there yet, and a snapshot that is held again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.renew()

    def renew(self) -> None:
        with self._store.view() as view:
            self._next = keys.recorded(view.head().position + 1)
            self._token = view.get(keys.removed())

    def delete(self, index: dict[bytes, bytes], blobs: list[bytes]) -> bool:
        """Delete rows that are as they were read, and blobs; False, with nothing deleted, after a commit."""
        return self._change(Rewrite(dict(index), dict.fromkeys(index), dict.fromkeys(blobs)))

    def put(self, index: dict[bytes, bytes]) -> bool:
        """Put rows that are not there; False, with nothing put, after a commit."""
        return self._change(Rewrite(dict.fromkeys(index), dict(index), {}))

    def _change(self, change: Rewrite) -> bool:
        token = token_bytes(8)
        change.expected[self._next] = None
        change.expected[keys.removed()] = self._token
        # A snapshot in the making sees that nodes it found may be gone, and makes them again.
        change.index[keys.removed()] = token
        done = self._store.rewrite([change]) == [True]
        if done:
            self._token = token
        return done


# --- tree nodes -----------------------------------------------------------------------------------


class _MissingNodeError(DataLossError):
    """A node of a tree that is needed is not there."""


def hold_again(store: Store, snapshot_id: bytes) -> None:
    """Take back that a snapshot was released; whoever calls this sees to its nodes afterwards."""
    row = keys.released(snapshot_id)
    while True:
        with store.view() as view:
            value = view.get(row)
        if value is None:
            return
        store.rewrite([Rewrite({row: value}, {row: None, keys.removed(): token_bytes(8)}, {})])


def _release(store: Store, age: int, clock: Clock, *, delete: bool) -> set[bytes]:
    """Return the ids of snapshots that are older than ``age`` microseconds and that no live pin holds.

    With ``delete`` each gets a row that says so: from then on it is neither read nor pinned.
    """
    guard = _Guard(store)
    while True:
        rows: dict[bytes, bytes] = {}
        with store.view() as view:
            now = max(clock(), view.head().recorded_at)
            held = held_snapshots(view, now)
        for key, made_at in _manifest_rows(store):
            if now - made_at >= age and key[1:] not in held:
                rows[keys.released(key[1:])] = made_at.to_bytes(8, "big", signed=True)
        with store.view() as view:
            rows = {row: value for row, value in rows.items() if view.get(row) is None}
        if not delete or not rows or guard.put(rows):
            return {row[1:] for row in rows}
        guard.renew()


def _manifest_rows(store: Store) -> Iterator[tuple[bytes, int]]:
    """Yield the key of each snapshot and when it was made."""
    start = b"Z"
    while True:
        with store.view() as view:
            some = _scan(view, start, b"[")
            times = view.get_many([keys.recorded(int.from_bytes(value, "big")) for _, value in some])
        for (key, _), time in zip(some, times, strict=True):
            if time is not None:
                yield key, int.from_bytes(time, "big", signed=True)
        if len(some) < _ROWS:
            return
        start = some[-1][0] + b"\0"


def _nodes(store: Store, found: Garbage, released: set[bytes], *, delete: bool) -> Iterator[None]:
    guard = _Guard(store)
    needed: set[bytes] = set()
    _mark_manifests(store, released, needed, delete=delete)
    start = b"N"
    while True:
        with store.view() as view:
            rows = _scan(view, start, b"O")
        unneeded = {key: node for key, node in rows if _short(key[1:]) not in needed}
        if delete and unneeded and not guard.delete(unneeded, []):
            guard.renew()
            _mark_manifests(store, released, needed, delete=delete)
            continue
        found.nodes += len(unneeded)
        found.node_bytes += sum(len(key) + len(node) for key, node in unneeded.items())
        yield
        if len(rows) < _ROWS:
            return
        start = rows[-1][0] + b"\0"


def _mark_manifests(store: Store, released: set[bytes], needed: set[bytes], *, delete: bool) -> None:
    """Add what the manifests need, but for those that were released, or would be if this is not for show."""
    start = 0
    while True:
        with store.view() as view:
            row = next(iter(view.scan(keys.snapshot_at(start), keys.snapshot_at(keys.END), limit=1)), None)
            if row is None:
                return
            snapshot_id = sha256(row[1]).digest()
            gone = view.get(keys.released(snapshot_id)) is not None
        if gone or (snapshot_id in released and not delete):
            start = int.from_bytes(row[0][1:], "big") + 1
            continue
        try:
            _mark(store, [part.root for part in read_manifest(row[1]).parts], needed)
        except (InvalidArgumentError, _MissingNodeError) as error:
            raise DataLossError(
                f"the tree of a snapshot cannot be read: {error.message}",
                hint="run recension-server fsck; nodes are kept until then",
            ) from None
        start = int.from_bytes(row[0][1:], "big") + 1


def _mark(store: Store, roots: list[bytes], needed: set[bytes]) -> None:
    """Add all nodes of trees; those that are known already are not read again."""
    open_ = list(roots)
    while open_:
        with store.view() as view:
            for _ in range(_ROWS):
                if not open_:
                    return
                digest = open_.pop()
                if _short(digest) in needed:
                    continue
                node = view.get(keys.node(digest))
                if node is None:
                    raise _MissingNodeError(f"snapshot node {digest.hex()} is missing", node=digest.hex())
                needed.add(_short(digest))
                if level_of(node):
                    open_ += [child.digest for child in children_of(node)]


def _short(digest: bytes) -> bytes:
    """Return enough of a digest; of two that share it one is kept for nothing."""
    return digest[:8]


# --- texts ----------------------------------------------------------------------------------------


def _text_rows(store: Store, found: Garbage, *, delete: bool) -> Iterator[None]:
    """Rows of texts that lead nowhere: they would keep a text from being stored when it comes again."""
    guard = _Guard(store)
    start = b"D"
    while True:
        with store.view() as view:
            rows = _scan(view, start, b"E")
            lost = {key: value for key, value in rows if not _leads_to_text(view, value)}
        if lost:
            named = _named(store, set(lost))
            gone = {key: value for key, value in lost.items() if key not in named}
            if delete and gone and not guard.delete(gone, []):
                guard.renew()
                continue
            found.text_rows += len(gone)
            found.damaged += len(named)
        yield
        if len(rows) < _ROWS:
            return
        start = rows[-1][0] + b"\0"


def _leads_to_text(view: View, value: bytes) -> bool:
    number, ordinal = read_place(value)
    try:
        raw = view.blob(keys.block(number))
        return raw is not None and ordinal < len(read_block(raw).lengths)
    except DataLossError:
        return True  # it is there, and damaged


def _named(store: Store, texts: set[bytes]) -> set[bytes]:
    """Return which rows of texts a revision names. Raises ``DataLossError`` if one cannot be read."""
    named: set[bytes] = set()
    start = b"E"
    held: tuple[bytes, list[Sealed]] = (b"", [])
    while True:
        with store.view() as view:
            rows = _scan(view, start, b"F")
            for row in rows:
                edit = edit_row(row)
                key = keys.sealed_blob(edit.position, edit.ordinal // TOGETHER)
                if held[0] != key:
                    held = key, open_sealed(view.blob(key) or b"")
                content = held[1][edit.ordinal % TOGETHER].values[CONTENT_FIELD]
                for slot in read_content(content) if content is not None else ():
                    if slot.presence is Presence.PRESENT and keys.text(slot.digest) in texts:
                        named.add(keys.text(slot.digest))
        if len(rows) < _ROWS:
            return named
        start = rows[-1][0] + b"\0"


@dataclass(frozen=True, slots=True)
class _Lying:
    """A block as it lies."""

    number: int
    prefix: int
    size: int
    named: bool
    """Whether its page names it."""


def _blocks(store: Store, found: Garbage, *, delete: bool) -> Iterator[None]:
    """Blocks that no page names, in which no text is looked for, and that no kept block needs as prefix."""
    orphans: dict[int, _Lying] = {}
    for block in _all_blocks(store, found):
        if block is not None and not block.named:
            orphans[block.number] = block
        yield
    if not orphans:
        return
    kept = _places(store, orphans.keys())
    used = {block.prefix for block in _all_blocks(store, Garbage()) if block is not None and block.named}
    needed = [*kept, *(used & orphans.keys())]
    while needed:  # and what those are compressed against
        number = needed.pop()
        kept.add(number)
        before = orphans[number].prefix
        if before in orphans and before not in kept:
            needed.append(before)
    found.damaged += len(kept)
    guard = _Guard(store)
    for number, block in orphans.items():
        if number in kept:
            continue
        while delete and not guard.delete({}, [keys.block(number)]):
            guard.renew()  # a commit names new blocks alone, so this one stays what it was
        found.blocks += 1
        found.block_bytes += block.size
        yield


def _all_blocks(store: Store, found: Garbage) -> Iterator[_Lying | None]:
    """Yield each block, ``None`` for one that cannot be read."""
    stop: bytes | None = keys.block(keys.END)
    while stop is not None:
        some: list[_Lying | None] = []
        with store.view() as view:
            for _ in range(_BLOCKS):
                before, stop = stop, view.last_blob_key(keys.block(0), stop)
                if stop is None:
                    break
                if stop >= before:
                    raise _out_of_order()
                try:
                    some.append(_lying(view, stop))
                except DataLossError:
                    found.damaged += 1
        yield from some


# --- event columns --------------------------------------------------------------------------------


def _columns(store: Store, found: Garbage, *, delete: bool) -> Iterator[None]:
    """Rows of parts and stages that no row names: it is written last, so a killed writer leaves them.

    Of each part that is named, one row of a family is read.
    """
    guard = _Guard(store)
    for letter in keys.OF_PARTS:
        start, stop = letter, bytes([letter[0] + 1])
        while True:
            with store.view() as view:
                rows = _scan(view, start, stop, 1)
                if not rows:
                    break
                key = rows[0][0]
                named = view.get(keys.naming(key)) is not None
                rows = [] if named else _scan(view, key, keys.behind_part(key), _OF_PART)
            if delete and rows and not guard.delete(dict(rows), []):
                guard.renew()
                continue
            found.column_rows += len(rows)
            found.column_bytes += sum(len(row) + len(value) for row, value in rows)
            start = keys.behind_part(key) if named else rows[-1][0] + b"\0"
            yield


def _scan(view: View, start: bytes, stop: bytes, limit: int = 0) -> list[Row]:
    """Return the next rows. Raises ``DataLossError`` where a walk over them could go round in a circle."""
    rows = view.scan(start, stop, limit=limit or _ROWS)
    if any(a[0] >= b[0] for a, b in pairwise(rows)) or (rows and rows[0][0] < start):
        raise _out_of_order()
    return rows


def _out_of_order() -> DataLossError:
    return DataLossError("rows are not in the order of their keys", hint="run recension-server fsck")


def _lying(view: View, key: bytes) -> _Lying:
    number = int.from_bytes(key[1:], "big")
    raw = view.blob(key) or b""
    block = read_block(raw)
    return _Lying(number, block.prefix, len(raw), is_named(view, number, block))


def is_named(view: View, number: int, block: Block) -> bool:
    """Say whether a block's page names it."""
    if block.index == TAIL:
        return view.get(keys.tail(block.project, block.page, number)) is not None
    row = view.get(keys.page_block(block.project, block.page, block.index))
    return row is not None and read_page_block(row).number == number


def _places(store: Store, blocks: AbstractSet[int]) -> set[int]:
    """Return which of some blocks a text is looked for in."""
    places: set[int] = set()
    start = b"D"
    while True:
        with store.view() as view:
            rows = _scan(view, start, b"E")
        places.update({read_place(value)[0] for _, value in rows} & blocks)
        if len(rows) < _ROWS:
            return places
        start = rows[-1][0] + b"\0"
