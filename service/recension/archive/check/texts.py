"""The phases ``texts`` and ``blobs``: each row of a text or of a holder leads to it, each blob is of use.

Texts found in blocks and rows of texts are counted against each other; only where the counts differ is each
row compared with the text itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from recension.archive.check.forms import name_of
from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy, summed
from recension.archive.check.work import FEW, Work
from recension.archive.garbage import is_named
from recension.archive.sealed import TOGETHER
from recension.archive.texts.block import read_block
from recension.archive.texts.reading import load, read_place
from recension.archive.texts.rows import SHORT_DIGEST
from recension.model.errors import DataLossError
from recension.model.record import Skeleton
from recension.store import keys
from recension.store.interface import Row, View

_END = b"\xff" * 65


def check_texts(work: Work) -> Iterator[bool]:
    """Walk the rows of texts, holders and users; the cursor is the next key, and what was counted."""
    state = work.state
    start, *counted, closely = state.cursor or (b"D".hex(), 0, 0, False)

    def visit(view: View, rows: list[Row]) -> None:
        nonlocal counted
        formed = work.formed(rows)
        if rows[0][0][:1] == b"D":
            counted = summed((key[1:] for key, _ in rows), counted)
            _check_places(work, view, formed, closely=closely)
        elif rows[0][0][:1] == b"K":
            _check_holders(work, view, formed)

    for letter in (b"D", b"J", b"K", b"U", b"X", b"g"):
        begin, stop = max(bytes.fromhex(start), letter), bytes([letter[0] + 1])
        if begin >= stop:
            continue
        for next_ in work.walk(begin, stop, visit, FEW):
            state.reach([next_.hex(), *counted, closely], next_[1] / 256)
            yield True
        if letter == b"D" and counted != state.vouched and not closely:
            # There are other rows than texts: compare each with the text itself.
            state.cursor = [b"D".hex(), 0, 0, True]
            yield from check_texts(work)
            return


def _check_places(work: Work, view: View, rows: list[Row], *, closely: bool) -> None:
    by_block: dict[int, list[tuple[bytes, int]]] = {}
    for key, value in rows:
        number, ordinal = read_place(value)
        by_block.setdefault(number, []).append((key, ordinal))
    for number, some in sorted(by_block.items()):
        try:
            raw = view.blob(keys.block(number))
            size = 0 if raw is None else len(read_block(raw).lengths)
            found = work.held.block(view, number) if closely else None
        except DataLossError:
            continue  # told by the phase ``pages`` or ``blobs``
        for key, ordinal in some:
            what, remedy = "", Remedy.GC
            if raw is None:
                what = f"block {number} is missing"
            elif ordinal >= size:
                what = f"block {number} has {size} texts"
            elif found is not None and keys.text(found[1][ordinal]) != key:
                what, remedy = f"another text lies in its place in block {number}", Remedy.REBUILD
            if what:
                work.find("text-row-orphan", name_of(key), what, remedy)


def _check_holders(work: Work, view: View, rows: list[Row]) -> None:
    for key, _ in rows:
        try:
            held = view.get(b"D" + key[1 : 1 + SHORT_DIGEST]) is not None
        except DataLossError:
            continue
        if not held:
            work.find("row-orphan", name_of(key), "its text is not stored", Remedy.REBUILD)


# --- blobs ----------------------------------------------------------------------------------------


def check_blobs(work: Work) -> Iterator[bool]:
    """Walk the blobs downwards; the cursor is the last key."""
    state = work.state
    stop = bytes.fromhex(state.cursor[0]) if state.cursor else _END
    while True:
        with work.store.view() as view:
            for _ in range(FEW):
                key = _before(work, view, stop)
                if key is None:
                    return
                _check_blob(work, PatientView(view), key)
                stop = key
        state.reach([stop.hex()], 1 - int.from_bytes(stop[1:9], "big") / max(state.known_at, 1))
        yield True


def _before(work: Work, view: View, stop: bytes) -> bytes | None:
    """Return the last blob key before another; ``None`` when there is none, or damaged pages end the walk."""
    try:
        key = view.last_blob_key(b"", stop)
        what = "blobs are not in the order of their keys" if key is not None and key >= stop else ""
    except DataLossError as error:
        key, what = None, error.message
    if what:
        work.find("pages-damaged", f"blobs before {stop.hex()}", what, Remedy.RESTORE)
    return None if what else key


def _check_blob(work: Work, view: View, key: bytes) -> None:
    if key[:1] == b"t" and len(key) == 9:  # noqa: PLR2004 - the layout of keys.block
        number = int.from_bytes(key[1:], "big")
        try:
            block = load(view, number)
        except DataLossError as error:
            work.find("block-damaged", f"block {number}", error.message, Remedy.TEXT)
            return
        if not is_named(view, number, block):
            what = f"page {block.page} does not name it"
            work.find("block-orphan", f"block {number}", what, Remedy.GC)
    elif key[:1] == b"s" and len(key) == 13:  # noqa: PLR2004 - the layout of keys.sealed_blob
        position, part = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big")
        if position > work.state.known_at:
            return
        commit = work.held.commit(position)
        events = sum(isinstance(item, Skeleton) for item in commit.items) if commit is not None else 0
        if (commit is not None or not position) and part * TOGETHER >= events:
            place = f"sealed values {position}, part {part}"
            work.find("sealed-orphan", place, "no event has them", Remedy.REBUILD)
    else:
        work.find("blob-alien", f"blob {key.hex()}", "no blob has such a key", Remedy.REBUILD)
