"""The phase ``pages``: each page's blocks decoded and hashed, and what its revisions name as their texts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from recension.archive.check.forms import name_of, page_of
from recension.archive.check.patience import PatientView, scan_to_damage
from recension.archive.check.state import Remedy, summed
from recension.archive.check.work import Told, Work
from recension.archive.history import edit_row
from recension.archive.projects import project_names, tally_of
from recension.archive.retracting import withdrawn_flags
from recension.archive.rows import EditRow
from recension.archive.sealed import CONTENT_FIELD
from recension.archive.texts.block import TAIL, Block, parent
from recension.archive.texts.reading import place_value, read_place
from recension.archive.texts.rows import GONE, SHORT_DIGEST, read_page_block, read_tail
from recension.model.errors import DataLossError
from recension.model.event import Presence
from recension.model.instant import MAX_INSTANT, MIN_INSTANT
from recension.model.record import Flag
from recension.model.seal import read_content
from recension.store import keys
from recension.store.interface import Row, View

_EDITS = 256
_PAGE_KEY_BYTES = 13
"""A letter, a project and a page."""


def check_pages(work: Work) -> Iterator[bool]:
    """Walk the pages: blocks, tails, then revisions; the cursor is the last page that is done."""
    at = tuple(work.state.cursor or (0, 0))
    with work.store.view() as view:
        patient = PatientView(view)
        total = sum(tally_of(patient, number)[1].revisions for _, number in project_names(patient))
    seen = 0
    while (found := _next_page(work, *at)) is not None:
        at = found
        page = _Page(work, *at)
        for _ in page.check_blocks():
            yield False
        for rows in page.check_edits():
            seen += rows
            work.state.share = seen / max(total, 1)
            yield False
        page.count()
        work.state.cursor = list(at)
        yield True


def _next_page(work: Work, project: int, page: int) -> tuple[int, int] | None:
    """Return the next page that has a row of a block, a tail or an edit, damaged ones too."""
    found = []
    with work.store.view() as view:
        for letter in (b"E", b"G", b"H"):
            start = _page_key(letter, project, page + 1)
            rows, bad = scan_to_damage(view, start, bytes([letter[0] + 1]), 1)
            key = rows[0][0] if rows else bad.key if bad is not None else b""
            if bad is not None and not bad.key:
                work.find_damaged(bad, start)
            if key.strip(b"\0"):
                found.append(page_of(key.ljust(_PAGE_KEY_BYTES, b"\0")))
    return min(found, default=None)


def _page_key(letter: bytes, project: int, page: int) -> bytes:
    return letter + project.to_bytes(4, "big") + page.to_bytes(8, "big")


class _Page:
    """A page that is being checked; its texts are counted once it is done."""

    def __init__(self, work: Work, project: int, page: int) -> None:
        self._work = work
        self._page = project, page
        self._texts = self._text_bytes = 0
        self._vouched = work.state.vouched

    def count(self) -> None:
        state = self._work.state
        state.texts += self._texts
        state.text_bytes += self._text_bytes
        state.vouched = self._vouched

    def check_blocks(self) -> Iterator[None]:
        """Check the page's blocks; what is sealed meanwhile is looked at again."""
        seen: set[Row] = set()
        while True:
            new = [row for row in self._rows() if row not in seen]
            if not new:
                return
            for row in new:
                seen.add(row)
                self._work.find_twice(partial(self._block_faults, row=row))
                yield

    def _rows(self) -> list[Row]:
        out: list[Row] = []
        for letter in (b"G", b"H"):
            start, stop = _page_key(letter, *self._page), _page_key(letter, self._page[0], self._page[1] + 1)
            for _ in self._work.walk(start, stop, lambda _, rows: out.extend(rows)):
                pass
        return self._work.formed(out)

    def _block_faults(self, view: View, row: Row) -> list[Told]:
        key, value = row
        number = read_tail(key, value).number if key[:1] == b"H" else read_page_block(value).number
        place = f"block {number}"
        try:
            if view.get(key) != value:
                return []  # it was sealed or rewritten since
            found = self._work.held.block(view, number)
        except DataLossError as error:
            return [("block-damaged", place, error.message, Remedy.TEXT)]
        if found is None:
            return [("block-missing", place, f"{name_of(key)} names it", Remedy.TEXT)]
        block, digests = found
        index = TAIL if key[:1] == b"H" else int.from_bytes(key[-4:], "big")
        if (block.project, block.page, block.index) != (*page_of(key), index):
            return [("block-wrong", place, f"it is another than {name_of(key)} says", Remedy.REBUILD)]
        return self._row_faults(view, row, number, block, digests)

    def _row_faults(
        self, view: View, row: Row, number: int, block: Block, digests: list[bytes]
    ) -> list[Told]:
        """Compare all rows that a block makes with it; count its texts if they fit."""
        told: list[Told] = []
        if not _row_fits(view, row, block, digests):
            told.append(("row-wrong", name_of(row[0]), "its block says another value", Remedy.REBUILD))
        vouched: list[bytes] = []
        for ordinal, digest in enumerate(digests):
            try:
                found = view.get(keys.text(digest))
            except DataLossError:
                vouched.append(b"")  # so that rows and texts are compared one by one
                continue
            if found == place_value(number, ordinal):
                vouched.append(digest)
            elif block.lengths[ordinal]:
                what = "no row leads to it" if found is None else "its row leads elsewhere"
                told.append(("text-row-wrong", f"block {number}, text {ordinal}", what, Remedy.REBUILD))
        if block.prefix and not block.index:
            users = keys.block_user(block.prefix), keys.block_user(block.prefix, number)
            if None in PatientView(view).get_many(users):
                what = "no row says that its prefix is in another page's block"
                told.append(("user-missing", f"block {number}", what, Remedy.REBUILD))
        elif block.prefix and not _prefix_fits(view, block):
            what = "its prefix is not in a block of its page that offers it one: that may go"
            told.append(("prefix-elsewhere", f"block {number}", what, Remedy.TEXT))
        if not told:
            self._texts += len(digests)
            self._text_bytes += sum(block.lengths)
            self._vouched = summed(vouched, self._vouched)
        return told

    def check_edits(self) -> Iterator[int]:
        """Check what the page's revisions name as their texts; yield the number of rows."""
        project, page = self._page
        start, stop = keys.edits_from(project, page), keys.edits_from(project, page + 1)
        while True:
            with self._work.store.view() as view:
                rows = PatientView(view).scan(start, stop, limit=_EDITS)
            edits = [edit_row(row) for row in rows]
            self._work.find_twice(partial(self._edit_faults, edits=edits))
            yield len(rows)
            if len(rows) < _EDITS:
                return
            start = rows[-1][0] + b"\0"

    def _edit_faults(self, view: View, edits: list[EditRow]) -> list[Told]:
        told: list[Told] = []
        for edit in edits:
            if edit.position > self._work.state.known_at:
                continue
            sealed = self._work.held.sealed(view, edit.position, edit.ordinal)
            content = sealed.values[CONTENT_FIELD] if sealed and len(sealed.values) > CONTENT_FIELD else None
            try:
                slots = read_content(content) if content is not None else []
            except DataLossError:
                continue  # told by the phase ``log``, as what is missing; what was purged is no damage
            for slot in slots:
                if slot.presence is Presence.PRESENT:
                    told += self._slot_faults(view, slot.digest, edit.rev)
        return told

    def _is_withdrawn(self, view: View, rev: int) -> bool:
        """Say whether a text is to be erased: it goes before what names it, so it may be missing."""
        return bool(withdrawn_flags(view, self._page[0], rev) & Flag.TEXT_HIDDEN)

    def _slot_faults(self, view: View, digest: bytes, rev: int) -> list[Told]:
        place = f"text sha256:{digest.hex()}"
        try:
            value = view.get(keys.text(digest))
        except DataLossError:
            return []  # told by the phase ``texts``
        if value is None and self._is_withdrawn(view, rev):
            return []
        if value is None:
            return [("text-missing", place, f"revision {rev} names it, and no row leads to it", Remedy.TEXT)]
        number, ordinal = read_place(value)
        try:
            found = self._work.held.block(view, number)
            what = f"its block {number} is missing"
        except DataLossError as error:
            found, what = None, error.message
        if found is None:
            return [("text-missing", place, what, Remedy.TEXT)]
        block, digests = found
        if ordinal >= len(digests) or digests[ordinal] != digest:
            return [("text-wrong", place, f"another text lies in its place in block {number}", Remedy.TEXT)]
        holder = keys.text_holder(digest, *self._page)
        if (block.project, block.page) != self._page and PatientView(view).get(holder) is None:
            page = f"page {self._page[1]}"
            what = f"no row says that {page} holds it"
            return [("holder-missing", f"{place}, {page}", what, Remedy.REBUILD)]
        return []


def _prefix_fits(view: View, block: Block) -> bool:
    """Say whether whoever changes the block of a prefix would find it used, by the rows of their page.

    The prefix of a later block is in the block before it that offers it one, that of a tail in any block or
    tail of its page.
    """
    patient, page = PatientView(view), (block.project, block.page)
    if block.index == TAIL:
        start, stop = keys.page_block(*page, 0), keys.page_block(block.project, block.page + 1, 0)
        return patient.get(keys.tail(*page, block.prefix)) is not None or block.prefix in {
            read_page_block(row).number for _, row in patient.scan(start, stop)
        }
    above = parent(block.index, lone=True)
    if above < 0:
        return False
    row = patient.get(keys.page_block(*page, above))
    return row is None or read_page_block(row).number == block.prefix


def _row_fits(view: View, row: Row, block: Block, digests: list[bytes]) -> bool:
    """Say whether a block's or tail's row says what the block does."""
    key, value = row
    if key[:1] == b"G":
        page_block = read_page_block(value)
        times = page_block.first_time, page_block.last_time
        sizes = page_block.texts, page_block.raw_bytes
        return sizes == (len(block.lengths), sum(block.lengths)) and all(
            _has_edit(view, key, time) for time in times
        )
    tail = read_tail(key, value)
    if len(block.lengths) != 1 or tail.size != block.lengths[0]:
        return False
    if tail.digest == GONE:
        return not tail.size
    return tail.digest == digests[0][:SHORT_DIGEST] and _has_edit(view, key, tail.time)


def _has_edit(view: View, key: bytes, time: int) -> bool:
    """Say whether the page of a block's row has an edit of that instant: every text came with one."""
    if not MIN_INSTANT <= time <= MAX_INSTANT:
        return False
    page = page_of(key)
    start, stop = keys.edits_from(*page, time), keys.edits_from(*page, time + 1)
    return bool(PatientView(view).scan(start, stop, limit=1))
