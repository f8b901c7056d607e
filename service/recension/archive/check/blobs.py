"""The phase ``blobs``: every blob is a block that its page names, or holds values of a commit's events."""

from __future__ import annotations

from collections.abc import Iterator

from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy
from recension.archive.check.work import FEW, Work
from recension.archive.garbage import is_named
from recension.archive.sealed import TOGETHER
from recension.archive.texts.reading import load
from recension.model.errors import DataLossError
from recension.model.record import Skeleton
from recension.store.interface import View

_END = b"\xff" * 65


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
