"""The index made anew from the log and the blobs, into another store.

First the log is replayed, commit by commit, then each text block is decoded and its texts are hashed; nothing
of the old index is read. Four things are not said by log and blobs, and concern no answer: how often a block
was rewritten (0 afterwards), bounds of valid time that a merge of blocks had widened or an erased text had
set (narrower afterwards), rows of block users that are gone (left out), and where event columns and stages
are cut.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from recension.archive import columns, snapshots
from recension.archive.folding import keep_stages
from recension.archive.history import choice_of
from recension.archive.projects import project_names, project_number
from recension.archive.replay import (
    Holding,
    commit_rows,
    held_texts,
    holder_keys,
    titles_of,
)
from recension.archive.sealed import CONTENT_FIELD, Sealed, open_sealed, sealed_keys
from recension.archive.texts.block import TAIL, Block, prefix_text, read_block
from recension.archive.texts.reading import load, place_value
from recension.archive.texts.rows import GONE, SHORT_DIGEST, PageBlock, Tail
from recension.model.digest import digest_of
from recension.model.errors import DataLossError, InvalidArgumentError, StoreError
from recension.model.manifest import Manifest, read_manifest
from recension.model.record import Commit, Head, Kind, Skeleton, Statement, commit_hash, decode_commit
from recension.store import keys
from recension.store.interface import Outcome, Rewrite, Row, Store, View

_RECORDS = 32
_TOGETHER = 64
"""Blocks of one transaction."""
_ROWS = 20_000
_HELD_BYTES = 64 * 2**20
_LONGEST_CHAIN = 10_000
"""Ends a circle of references, which only damage can make."""
_AWAITED = struct.Struct(">IQq")
"""Value of a text's row until its block is found: the project, page and valid time that brought it. Longer
than a place, so that it is never taken for one."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild has done."""

    commits: int = 0
    snapshots: int = 0
    blocks: int = 0
    missing: int = 0
    """Texts that revisions name and no block holds; reading them is data loss."""


def rebuild(source: Store, target: Store, tell: Callable[[Rebuilt], None] = lambda _: None) -> Rebuilt:
    """Write the log, the blobs and a new index of ``source`` into ``target``; calls ``tell`` as it goes.

    For the holder of ``source.exclusive_writer()``, with no other writer. ``target`` is empty or was left by
    a rebuild of the same store that was ended; it is the same store once this returns, and until then lacks
    commits or texts. Raises ``StoreError`` for another target, and ``DataLossError`` when log or blobs are
    damaged, or say other snapshots than were kept.
    """
    done = Rebuilt()
    _check_target(source, target)
    for record in _records(source, target.log.head().position + 1):
        _replay(source, target, record, done)
        tell(done)
    for _ in _lay_texts(source, target, done):
        tell(done)
    done.missing = _drop_awaited(target)
    with target.view() as view:
        projects = project_names(view)
    for _, number in projects:
        columns.extend(target, number)
        keep_stages(target, number)
    tell(done)
    return done


def _check_target(source: Store, target: Store) -> None:
    head = target.log.head()
    if head.position and target.log.read(head.position, 1) != source.log.read(head.position, 1):
        raise StoreError("the target holds another log", hint="rebuild into an empty directory")


def _records(store: Store, position: int) -> Iterator[bytes]:
    while records := store.log.read(position, _RECORDS):
        yield from records
        position += len(records)


# --- the log --------------------------------------------------------------------------------------


def _replay(source: Store, target: Store, record: bytes, done: Rebuilt) -> None:
    commit = decode_commit(record)
    sealed, blobs = _sealed_of(source, commit)
    events = [item for item in commit.items if isinstance(item, Skeleton)]
    titles = [titles_of(event.kind, one) for event, one in zip(events, sealed, strict=True)]
    for item in commit.items:
        if isinstance(item, Statement) and item.kind is Kind.SNAPSHOT:
            _plant(target, _manifest(item.payload))
            done.snapshots += 1
    with target.view() as view:
        rows = commit_rows(view, commit, titles)
        rows.update(_held_rows(view, commit, events, sealed))
    head = Head(commit.position, commit.recorded_at, commit_hash(record))
    if target.commit(record, head, rows.items(), blobs) is not Outcome.OK:
        raise StoreError(
            f"commit {commit.position} does not follow the one before it",
            hint="run recension-server fsck; end other writers",
        )
    done.commits += 1


def _sealed_of(source: Store, commit: Commit) -> tuple[list[Sealed], list[Row]]:
    events = sum(isinstance(item, Skeleton) for item in commit.items)
    sealed: list[Sealed] = []
    blobs: list[Row] = []
    with source.view() as view:
        for key in sealed_keys(commit.position, events):
            raw = view.blob(key)
            if raw is None:
                raise DataLossError(f"sealed values of commit {commit.position} are missing")
            blobs.append((key, raw))
            sealed += open_sealed(raw)
    if len(sealed) != events:
        raise DataLossError(f"commit {commit.position} has {events} events and values of {len(sealed)}")
    return sealed, blobs


def _held_rows(
    view: View, commit: Commit, events: list[Skeleton], sealed: list[Sealed]
) -> dict[bytes, bytes]:
    """Return the rows that await the texts which a commit brought, and those of further holders."""
    held: list[Holding] = []
    awaited: dict[bytes, bytes] = {}
    known = set()
    number = project_number(view, commit.project) if events else 0
    for event, one in zip(events, sealed, strict=True):
        if event.kind is not Kind.EDIT:
            continue
        for digest, page in held_texts(number, event.page_id, one.values[CONTENT_FIELD]):
            held.append((digest, page))
            row = keys.text(digest)
            if view.get(row) is not None:
                known.add(digest)
            else:
                awaited.setdefault(row, _AWAITED.pack(*page, event.time))
    return {**awaited, **dict.fromkeys(holder_keys(held, known.__contains__), b"")}


def _manifest(payload: bytes) -> Manifest:
    try:
        return read_manifest(payload)
    except InvalidArgumentError as error:
        raise DataLossError(f"the log holds a manifest that cannot be read: {error.message}") from None


def _plant(target: Store, manifest: Manifest) -> None:
    """Store the trees of a snapshot; they have to come out as they were."""
    choice = choice_of(manifest.selector, manifest.as_of)
    for part in manifest.parts:
        with target.view() as view:
            number = project_number(view, part.project)
        # Or each snapshot would be made from all of the log before it.
        columns.extend(target, number)
        keep_stages(target, number)
        if snapshots.build_part(target, part.project, number, manifest.selector, choice) != part:
            raise DataLossError(
                f"snapshot {manifest.snapshot_id.hex()} does not follow from the log",
                hint="run recension-server fsck",
            )


# --- blocks in bulk -------------------------------------------------------------------------------


class Prefixes:
    """Decodes blocks, and remembers what they offered as prefix: a chain is not decoded again for each."""

    def __init__(self, held_bytes: int = _HELD_BYTES) -> None:
        """Hold up to ``held_bytes`` of text."""
        self._texts: OrderedDict[int, bytes] = OrderedDict()
        self._limit = held_bytes
        self._held = 0

    def clear(self) -> None:
        """Forget what may have changed."""
        self._texts.clear()
        self._held = 0

    def texts(self, view: View, number: int, block: Block) -> list[bytes]:
        """Return all texts of a block. Raises ``DataLossError`` when it or a block before it is damaged."""
        texts = block.split(self._before(view, block))
        if block.serves:
            self._offer(number, prefix_text(texts))
        return texts

    def _before(self, view: View, block: Block) -> bytes:
        chain: list[tuple[int, Block]] = []
        at = block.prefix
        text = b""
        while at:
            held = self._texts.get(at)
            if held is not None:
                self._texts.move_to_end(at)
                text = held
                break
            before = load(view, at)
            if not before.serves or len(chain) > _LONGEST_CHAIN:
                raise DataLossError(f"text block {at} offers no prefix", block=at)
            chain.append((at, before))
            at = before.prefix
        for at, before in reversed(chain):
            text = before.offer(text)
            self._offer(at, text)
        return text

    def _offer(self, number: int, text: bytes) -> None:
        self._held += len(text) - len(self._texts.get(number, b""))
        self._texts[number] = text
        while self._held > self._limit:
            self._held -= len(self._texts.popitem(last=False)[1])


# --- the texts ------------------------------------------------------------------------------------


def _lay_texts(source: Store, target: Store, done: Rebuilt) -> Iterator[None]:
    """Write each block and the rows that find its texts; yield after each transaction."""
    prefixes = Prefixes()
    stop: bytes | None = keys.block(keys.END)
    while stop is not None:
        changes: list[Rewrite | None] = []
        taken: dict[bytes, tuple[int, int]] = {}
        while stop is not None and len(changes) < _TOGETHER:
            with source.view() as old, target.view() as new:
                before, stop = stop, old.last_blob_key(keys.block(0), stop)
                if stop is not None and stop >= before:
                    raise DataLossError("blobs are not in the order of their keys")
                if stop is not None:
                    changes.append(_lay_block(old, new, stop, prefixes, taken))
        target.rewrite([change for change in changes if change is not None])
        done.blocks += len(changes)
        yield


def _lay_block(
    old: View, new: View, key: bytes, prefixes: Prefixes, taken: dict[bytes, tuple[int, int]]
) -> Rewrite | None:
    """Return what to write for a block; ``None`` if an earlier run has done it."""
    number = int.from_bytes(key[1:], "big")
    raw = old.blob(key)
    if raw is None:
        raise DataLossError(f"text block {number} is missing", block=number)
    if new.blob(key) == raw:
        return None
    block = read_block(raw)
    texts = prefixes.texts(old, number, block)
    index: dict[bytes, bytes | None] = {}
    times = []
    digests = []
    for ordinal, text in enumerate(texts):
        digest = digest_of(text)
        row = keys.text(digest)
        place = number, ordinal
        time = _await(new.get(row), block, text, place)
        if time is None or taken.setdefault(row, place) != place:
            digests.append(GONE)  # erased, or a second copy
            continue
        digests.append(digest[:SHORT_DIGEST])
        index[row] = place_value(*place)
        times += time
    index.update(_block_rows(number, block, digests[0], times or _any_time(new, block)))
    if block.prefix and not block.index:
        index.update({keys.block_user(block.prefix): b"", keys.block_user(block.prefix, number): b""})
    return Rewrite({}, index, {key: raw})


def _await(value: bytes | None, block: Block, text: bytes, place: tuple[int, int]) -> list[int] | None:
    """Return the valid time of a text, none if no event says it; ``None`` if it does not lie here.

    An empty text is one only where an event says so; elsewhere it is what is left of an erased one.
    """
    if value is not None and len(value) == _AWAITED.size:
        project, page, time = _AWAITED.unpack(value)
        return [time] if text or (project, page) == (block.project, block.page) else None
    if value is not None:
        return [] if value == place_value(*place) else None
    return [] if text else None


def _any_time(view: View, block: Block) -> list[int]:
    """Return the valid time of a page's last edit, for a block whose texts were all erased."""
    start = keys.edits_from(block.project, block.page)
    last = view.last(start, keys.edits_from(block.project, block.page + 1))
    return [keys.read_edit(last[0])[1]] if last is not None else []


def _block_rows(number: int, block: Block, digest: bytes, times: list[int]) -> dict[bytes, bytes]:
    first, last = (min(times), max(times)) if times else (0, 0)
    if block.index == TAIL:
        row = keys.tail(block.project, block.page, number)
        return {row: Tail(number, digest, first, block.lengths[0]).encode()}
    page_block = PageBlock(number, 0, len(block.lengths), sum(block.lengths), first, last)
    return {keys.page_block(block.project, block.page, block.index): page_block.encode()}


def _drop_awaited(target: Store) -> int:
    """Delete the rows whose text was in no block, and return their number."""
    start, stop = b"D", b"E"
    dropped = 0
    while True:
        with target.view() as view:
            rows = view.scan(start, stop, limit=_ROWS)
        gone = {key: value for key, value in rows if len(value) == _AWAITED.size}
        if gone:
            target.rewrite([Rewrite(dict(gone), dict.fromkeys(gone), {})])
        dropped += len(gone)
        if len(rows) < _ROWS:
            return dropped
        start = rows[-1][0] + b"\0"
