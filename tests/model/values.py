"""Canonical values whose readers and writers have other shapes, under one: what is read is written again."""

from __future__ import annotations

from recension.model.event import NO_COMMENT, NOBODY, LogAction, LogEntry
from recension.model.seal import log_entry_value
from recension.model.tree import RECORD, children_of, leaves_of, level_of


def write_log_entry(found: tuple[int, str, tuple[int, ...]]) -> bytes:
    namespace, title, rev_ids = found
    return log_entry_value(
        LogEntry(
            1, LogAction.OTHER, "T", 0, title, namespace, rev_ids,
            False, False, False, NOBODY, NO_COMMENT,  # noqa: FBT003 - a value
        )
    )  # fmt: skip


def read_node(node: bytes) -> tuple[int, list[tuple[int, int, bytes]]]:
    if level_of(node) == 0:
        return 0, [(leaf.page_id, leaf.rev_id, leaf.leaf) for leaf in leaves_of(node)]
    return level_of(node), [(child.prefix, child.entries, child.digest) for child in children_of(node)]


def write_node(found: tuple[int, list[tuple[int, int, bytes]]]) -> bytes:
    level, records = found
    return bytes([level]) + b"".join(RECORD.pack(*record) for record in records)
