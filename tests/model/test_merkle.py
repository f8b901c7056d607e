"""The Merkle tree against the vectors of RFC 6962's authors, its definition, and the verifier."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.merkle import EMPTY, MerkleTree, leaf_hash
from recension_client.verify import check_consistency, check_inclusion

# https://github.com/google/certificate-transparency/blob/master/python/ct/crypto/merkle_test.py
LEAVES = [
    bytes.fromhex(one)
    for one in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_of(leaves: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree


def defined(leaves: list[bytes]) -> bytes:
    """Return the root as section 2.1 defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def numbered(size: int) -> list[bytes]:
    return [b"leaf %d" % n for n in range(size)]


def test_roots_of_the_vectors() -> None:
    """Every size of the well-known tree has its well-known root, also once the tree has grown."""
    tree = tree_of(LEAVES)
    assert [tree.root(size).hex() for size in range(9)] == ROOTS
    assert EMPTY.hex() == ROOTS[0]


def test_paths_of_the_vectors() -> None:
    """Proofs of the well-known tree, hash by hash."""
    tree = tree_of(LEAVES)
    assert [one.hex() for one in tree.inclusion(5, 8)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[4],
    ]
    assert tree.inclusion(0, 1) == tree.consistency(1, 1) == []
    assert [one.hex() for one in tree.consistency(6, 8)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        ROOTS[4],
    ]


def test_every_proof_of_every_size() -> None:
    """Up to 40 leaves, each proof holds where it was made for, and nowhere else."""
    leaves = numbered(40)
    tree = tree_of(leaves)
    roots = [tree.root(size) for size in range(41)]
    assert roots == [defined(leaves[:size]) for size in range(41)]
    for size in range(1, 41):
        for index in range(size):
            path = tree.inclusion(index, size)
            check_inclusion(leaves[index], index, size, path, roots[size])
            with pytest.raises(ValueError):  # noqa: PT011 - one of several reasons
                check_inclusion(leaves[index - 1], index, size, path, roots[size] if size > 1 else EMPTY)
        for first in range(1, size + 1):
            path = tree.consistency(first, size)
            check_consistency(first, size, path, (roots[first], roots[size]))
            for lie in ((roots[first - 1], roots[size]), (roots[first], roots[size - 1])):
                with pytest.raises(ValueError):  # noqa: PT011
                    check_consistency(first, size, path, lie)


@given(st.integers(1, 300), st.data())
def test_changed_proofs_are_refused(size: int, data: st.DataObject) -> None:
    """A path with a hash changed, dropped, added or swapped shows nothing."""
    leaves = numbered(size)
    tree = tree_of(leaves)
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))
    roots = tree.root(first), tree.root(size)

    def included(path: list[bytes]) -> None:
        check_inclusion(leaves[index], index, size, path, roots[1])

    def consistent(path: list[bytes]) -> None:
        check_consistency(first, size, path, roots)

    for path, check in (
        (tree.inclusion(index, size), included),
        (tree.consistency(first, size), consistent),
    ):
        check(path)
        at = data.draw(st.integers(0, len(path)))
        others = [[*path[:at], bytes(32), *path[at:]], [*path, bytes(32)], [*path[:at], b"short", *path[at:]]]
        if path:
            at %= len(path)
            others += [path[:at] + path[at + 1 :], [*path[:at], bytes(32), *path[at + 1 :]]]
        for other in others:
            with pytest.raises(ValueError):  # noqa: PT011
                check(other)


def test_places_that_are_none() -> None:
    """A leaf beyond the tree and sizes out of order are refused."""
    tree = tree_of(numbered(4))
    for index, size in ((4, 4), (-1, 4), (0, 0)):
        with pytest.raises(ValueError, match="outside"):
            check_inclusion(b"leaf 0", index, size, [], tree.root(4))
    for first, second in ((0, 4), (4, 3)):
        with pytest.raises(ValueError, match="order"):
            check_consistency(first, second, [], (tree.root(first), tree.root(second)))
