"""Proofs of one page: every shape of tree, what a proof must not show, and files with one byte changed."""

from __future__ import annotations

import json
from base64 import b85decode, b85encode
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model import reading
from recension.model.event import MAX_ID, Presence
from recension.model.manifest import AsOf, ProjectPart, Selector, canonical_json, make_manifest
from recension.model.proof import path_to
from recension.model.tree import build
from recension_client import verify
from recension_client.evidence import evidence
from recension_client.proof import proof_file
from recension_client.verify import leaf_of, snapshot_id, verify_proof

VECTORS = json.loads((Path(__file__).parent.parent / "golden" / "vectors.json").read_text(encoding="utf-8"))
SLOT = reading.Slot("main", "wikitext", "text/x-wiki", Presence.PRESENT, 5, sha256(b"hello").digest())
LOST = reading.Slot("extra", "json", "", Presence.LOST)


def entry_of(page: int, *, withheld: bool = False) -> reading.Entry:
    """Return the entry of a page, which depends on its id alone."""
    salt, secret = sha256(b"salt %d" % page).digest()[:16], sha256(b"content %d" % page).digest()
    shown = () if withheld else (SLOT, LOST)
    content = (b"", secret) if withheld else (secret[:16], b"")
    rev, time = page % 1_000 + 1, page % 10_000 * 1_000_001
    return reading.Entry("w", page, rev, time, f"Pagé {page}", 0, False, shown, salt, *content)  # noqa: FBT003


def prove(pages: list[int], page: int, *, withheld: bool = False) -> tuple[bytes, str]:
    """Return the proof of a page in the snapshot of some pages, as a file, and the snapshot's id."""
    nodes: dict[bytes, bytes] = {}
    entries = [entry_of(one, withheld=withheld) for one in pages]
    leaves = [(one.page_id, one.rev_id, leaf_of(evidence(one))) for one in entries]
    root, count = build(leaves, nodes.__setitem__)
    parts = (ProjectPart("v", 0, 0, build([], nodes.__setitem__)[0]), ProjectPart("w", count, 9, root))
    manifest = make_manifest(Selector.of(["v", "w"]), AsOf(1_700_000_000_000_000, 7), parts)
    path, prefix, leaf = path_to(root, page, nodes.__getitem__)
    entry = entry_of(page, withheld=withheld) if leaf else None
    return proof_file(reading.Proof(manifest, "w", page, entry, path, prefix)), snapshot_id(manifest.encoded)


def changed(proof: bytes, **values: Any) -> bytes:
    """Return the file with keys set, or left out where the value is ``None``."""
    document = {**json.loads(proof), **values}
    return canonical_json({key: value for key, value in document.items() if value is not None})


SHAPES = {
    "empty tree": ([], 5),
    "one page": ([5], 5),
    "beside one page": ([5], 6),
    "outside of one page's node": ([5], 21),
    "below the root's prefix": ([1_000, 1_001], 3),
    "above the root": ([1, 300], MAX_ID),
    "missing leaf": ([1, 17, 18, 300], 19),
    "missing child of the root": ([1, 300], 700),
    "missing child deep down": ([1, 17, 70_000], 64),
    "inner nodes with one child": ([1, 2**40], 2**40),
    "highest page": ([1, MAX_ID], MAX_ID),
    "full node": (list(range(16, 32)), 23),
    "several levels": (list(range(1, 700)), 345),
}


@pytest.mark.parametrize("pages, page", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("withheld", [False, True])
def test_each_shape_of_tree(pages: list[int], page: int, withheld: bool) -> None:  # noqa: FBT001
    """A page that is there is proved with its entry, any other as absent."""
    proof, wanted = prove(pages, page, withheld=withheld)
    shown = verify_proof(proof, wanted)
    assert (shown.project, shown.page_id) == ("w", page)
    assert (shown.entry is not None) is (page in pages)
    if shown.entry is not None:
        assert leaf_of(shown.entry) == leaf_of(evidence(entry_of(page, withheld=withheld)))


ids = st.integers(1, 5_000) | st.integers(1, MAX_ID) | st.integers(0, 59).map(lambda bits: 2**bits)


@given(st.sets(ids, max_size=40), ids)
def test_any_tree(pages: set[int], page: int) -> None:
    """Any page of any set of pages can be proved in or out."""
    for asked in (page, *list(pages)[:3]):
        proof, wanted = prove(sorted(pages), asked)
        assert (verify_proof(proof, wanted).entry is not None) is (asked in pages)


@pytest.mark.parametrize("shape", ["several levels", "inner nodes with one child", "full node"])
def test_one_bit_of_an_inclusion_proof(shape: str) -> None:
    """A proof of an entry with any bit flipped is refused: each meaning has one form."""
    proof, wanted = prove(*SHAPES[shape])
    verify_proof(proof, wanted)
    for other in flipped(proof):
        with pytest.raises(ValueError):  # noqa: PT011 - what is said differs
            verify_proof(other, wanted)


@pytest.mark.parametrize("shape", ["missing leaf", "above the root", "missing child deep down", "empty tree"])
def test_one_bit_of_an_absence_proof(shape: str) -> None:
    """A proof of absence with any bit flipped is refused, or says something else that is true.

    The node that lacks one page may lack others, and so may the other project: the answer names both.
    """
    pages, page = SHAPES[shape]
    proof, wanted = prove(pages, page)
    verify_proof(proof, wanted)
    said = set()
    for other in flipped(proof):
        with suppress(ValueError):
            shown = verify_proof(other, wanted)
            assert shown.entry is None
            said.add((shown.project, shown.page_id))
    assert ("w", page) not in said
    assert all(project == "v" or one not in pages for project, one in said)


def flipped(proof: bytes) -> Iterator[bytes]:
    """Yield the file with each of its bits flipped."""
    for at in range(len(proof)):
        for bit in range(8):
            other = bytearray(proof)
            other[at] ^= 1 << bit
            yield bytes(other)


def test_cut_and_lengthened() -> None:
    """No beginning of a file and nothing added to it is a proof."""
    proof, wanted = prove(*SHAPES["missing leaf"])
    for other in [proof[:at] for at in range(len(proof))] + [proof + b" ", b" " + proof, proof + proof]:
        with pytest.raises(ValueError):  # noqa: PT011 - what is said differs
            verify_proof(other, wanted)


def test_lies() -> None:
    """What a dishonest server could try is refused, each for its reason."""
    here, wanted = prove([1, 17, 300], 17)
    gone, _ = prove([1, 17, 300], 18)
    path = json.loads(here)["path"]
    emptied = [b85encode(b"\0\0\0").decode()]
    lies: dict[str, tuple[bytes, str]] = {
        "another snapshot": (here, "sha256:" + "0" * 64),
        "the snapshot id stands for": (changed(here, manifest={}), wanted),
        "no such project": (changed(here, project="x"), wanted),
        "another number of entries": (changed(here, project="v"), wanted),
        "goes on towards the page": (changed(here, entry=None), wanted),
        "path does not": (changed(gone, page_id="17"), wanted),
        "leads to a page that the tree has not": (changed(gone, entry=json.loads(here)["entry"]), wanted),
        "an entry is in a node of level 0": (changed(here, path=path[:-1]), wanted),
        "do not fall by one": (changed(here, path=[path[0], path[2]]), wanted),
        "an empty tree has no entry": (changed(here, path=[]), wanted),
        "of the path is empty": (changed(gone, path=emptied), wanted),
        "only the root": (changed(here, prefix="7"), wanted),
        "under the prefix of the root": (changed(gone, path=path[:1], prefix="0"), wanted),
        "other keys": (changed(here, note="x"), wanted),
        "another format": (changed(here, format="recension/proof/v2"), wanted),
    }
    for reason, (lie, of) in lies.items():
        said = "stands for" if reason == "another snapshot" else reason
        with pytest.raises(ValueError, match=said):
            verify_proof(lie, of)


@given(st.binary(max_size=60))
def test_nodes_are_written_in_one_way(node: bytes) -> None:
    """Whatever the bytes of a node, a proof with them is refused."""
    proof, wanted = prove([1, 17, 300], 18)
    honest = json.loads(proof)["path"]
    if b85encode(node).decode() not in honest:
        with pytest.raises(ValueError):  # noqa: PT011
            verify_proof(changed(proof, path=[*honest[:-1], b85encode(node).decode()]), wanted)


def test_long_numbers_are_refused() -> None:
    """A number in more bytes than it needs would be a second form of the same proof."""
    proof, wanted = prove([1, 2], 3)
    (node,) = json.loads(proof)["path"]
    raw = b85decode(node)
    assert raw[3:4] == b"\x02"
    longer = raw[:3] + b"\x82\x00" + raw[4:]
    with pytest.raises(ValueError, match="longer than it has to be"):
        verify_proof(changed(proof, path=[b85encode(longer).decode()]), wanted)


def test_small_for_a_million_pages() -> None:
    """A proof file in a snapshot of a million pages has at most 4,096 bytes."""
    nodes: dict[bytes, bytes] = {}
    target = 500_000
    entry = entry_of(target)
    leaf = leaf_of(evidence(entry))
    blank = bytes(32)
    pages = range(1, 1_000_001)
    leaves = ((page, 10**9 + page, blank) if page != target else (page, entry.rev_id, leaf) for page in pages)
    root, count = build(leaves, nodes.__setitem__)
    part = ProjectPart("enwiki", count, 25 * 10**9, root)
    manifest = make_manifest(Selector.of(["enwiki"], [0]), AsOf(1_700_000_000_000_000, 123_456), (part,))
    path, prefix, _ = path_to(root, target, nodes.__getitem__)
    proof = proof_file(reading.Proof(manifest, "enwiki", target, entry, path, prefix))
    assert verify_proof(proof, snapshot_id(manifest.encoded)).entry is not None
    assert len(proof) <= 4_096


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS["proofs"]])
def test_golden_proofs(case: dict[str, Any]) -> None:
    """The proofs of fixed trees stay as they were, to the byte."""
    pages, page = [int(one) for one in case["in"]["pages"]], int(case["in"]["page_id"])
    proof, wanted = prove(pages, page)
    assert case["out"] == {"proof": proof.decode(), "snapshot": wanted}
    assert (verify.verify_proof(proof, wanted).entry is not None) is (page in pages)
