"""Sorting a page's blocks by time again, where texts came in another order.

Neighbours in time differ least, so a history that arrived shuffled takes a third more bytes. Answers do not
depend on the order of texts in blocks, so this may happen at any time or never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

from recension.archive.texts.rows import PageBlock, page_blocks, tails_of
from recension.archive.texts.sealing import Plan, Text, add_block, live_texts
from recension.archive.texts.writing import Page, TextWriter, cut_blocks
from recension.store import keys
from recension.store.interface import Store, View

_MOST_BYTES = 256 * 2**20
"""A page with more text than that stays as it is: it would not fit into the writer's memory."""
_DISORDER = 0.25
"""Share of late blocks, above which sorting is worth its time."""
_END_OF_TIME = 2**62

Times = Mapping[bytes, int]
"""By the first bytes of a text's digest, the valid time of the first edit that has it."""


def sort_pages(
    store: Store, writer: TextWriter, pages: Iterable[Page], times_of: Callable[[View, Page], Times]
) -> int:
    """Sort the pages for which that is worth it; return how many. Nothing may be sealed meanwhile."""
    count = 0
    for key in pages:
        with store.view() as view:
            plan = plan_sort(view, writer, key, times_of)
        if plan is not None:
            count += store.rewrite([plan.compress()]) == [True]
            plan.done(writer)
            writer.forget(key)
    return count


def plan_sort(
    view: View, writer: TextWriter, key: Page, times_of: Callable[[View, Page], Times]
) -> Plan | None:
    """Return how to sort a page's sealed blocks; ``None`` where that is not worth it, or cannot be done.

    Blocks that other pages are compressed against stay where they are; a page with tails is sealed first.
    """
    blocks = page_blocks(view, *key)
    rows = [row for _, row in blocks]
    if not _disordered(rows) or sum(row.raw_bytes for row in rows) > _MOST_BYTES:
        return None
    if tails_of(view, *key) or any(view.get(keys.block_user(row.number)) is not None for row in rows):
        return None
    plan = Plan(key, 0)
    texts: list[Text] = []
    for index, row in blocks:
        plan.expected[keys.page_block(*key, index)] = row.encode()
        plan.expected[keys.block_user(row.number)] = None
        plan.index[keys.page_block(*key, index)] = None
        plan.blobs[keys.block(row.number)] = None
        texts += live_texts(view, row)
    plan.unuse(view, rows[0].number)
    times = times_of(view, key)
    texts = [_timed(text, times.get(text.digest, _END_OF_TIME)) for text in texts]
    texts.sort(key=lambda text: text.first_time)
    runs = list(cut_blocks(texts, [len(text.text) for text in texts]))
    ids = sorted(row.number for row in rows)
    if len(runs) > len(ids):  # each block needs the id of an old one
        runs[len(ids) - 1 :] = [[text for run in runs[len(ids) - 1 :] for text in run]]
    for at, run in enumerate(runs):
        add_block(view, writer, plan, at, ids[at - len(runs)], run)
    return plan


def _timed(text: Text, time: int) -> Text:
    return replace(text, first_time=time, last_time=time)


def _disordered(rows: list[PageBlock]) -> bool:
    """Say whether many blocks are late: they reach back behind the middle of the time of the block before.

    Where neighbours overlap by less, texts came in order but for a few.
    """
    late = sum(2 * row.first_time < before.first_time + before.last_time for before, row in pairwise(rows))
    return late > _DISORDER * len(rows)
