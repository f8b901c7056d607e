"""Short forms of tree nodes: what a proof of an entry sends of each node on its path (docs/format.md, 11).

A node's digest is over all its records, so a proof carries them all; what the verifier knows is left out:
page ids and prefixes follow from the page, and the record on the path from the node below it.
"""

from __future__ import annotations

from collections.abc import Callable

from recension.model.tree import Child, Leaf, children_of, leaves_of, level_of

_RADIX = 16
_VARINT = 7


def shorten(node: bytes, page_id: int) -> bytes:
    """Return the short form of a node on the path to a page; its record for the page, if any, is left out.

    ``u8 level || u16 present || records``: bit i of ``present`` says that there is a record whose page id or
    prefix ends in the hex digit i; each but the page's own is ``varint rev_id or count || 32 bytes``.
    """
    level = level_of(node)
    records = _records(node, level)
    present = sum(1 << (key % _RADIX) for key, _, _ in records)
    own = page_id >> (4 * level)
    out = bytearray([level]) + present.to_bytes(2, "big")
    for key, number, digest in records:
        if key != own:
            out += _varint(number) + digest
    return bytes(out)


def path_to(
    root: bytes, page_id: int, get: Callable[[bytes], bytes]
) -> tuple[tuple[bytes, ...], int | None, Leaf | None]:
    """Return (short nodes from the root towards a page, prefix of the root, the page's leaf).

    The prefix is given only when the page lies outside of it, the leaf only when the tree has one; an empty
    tree has an empty path. ``get`` returns the node of a digest.
    """
    path: list[bytes] = []
    digest = root
    while True:
        node = get(digest)
        level = level_of(node)
        records = _records(node, level)
        if not records:
            return (), None, None
        path.append(shorten(node, page_id))
        prefix = records[0][0] >> 4
        if prefix != page_id >> (4 * (level + 1)):
            return tuple(path), prefix, None
        own = next((record for record in records if record[0] == page_id >> (4 * level)), None)
        if own is None:
            return tuple(path), None, None
        if level == 0:
            return tuple(path), None, Leaf(*own)
        digest = own[2]


def _records(node: bytes, level: int) -> list[tuple[int, int, bytes]]:
    if level:
        return [_of_child(child) for child in children_of(node)]
    return [(leaf.page_id, leaf.rev_id, leaf.leaf) for leaf in leaves_of(node)]


def _of_child(child: Child) -> tuple[int, int, bytes]:
    return child.prefix, child.entries, child.digest


def _varint(number: int) -> bytes:
    """Return seven bits a byte, the lowest first, the top bit set in all bytes but the last."""
    out = bytearray()
    while number >> _VARINT:
        out.append(number & 0x7F | 0x80)
        number >>= _VARINT
    out.append(number)
    return bytes(out)
