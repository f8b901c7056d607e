"""The independent verifier against the frozen vectors, against the model, and against things gone wrong."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model import manifest as model_manifest
from recension.model import record as model_record
from recension.model import seal as model_seal
from recension.model import tree as model_tree
from recension.model.errors import RecensionError
from recension.model.event import MAX_ID, Presence
from recension.model.instant import MAX_INSTANT, MIN_INSTANT
from recension.model.manifest import AsOf, OnHidden, ProjectPart, Redirects, Selector, make_manifest
from recension_client import verify
from recension_client.verify import (
    Entry,
    Slot,
    check_chain,
    check_snapshot,
    commitment,
    content_commitment,
    entry_leaf,
    field_salt,
    leaf_of,
    read_commit,
    read_manifest,
    snapshot_id,
    title_commitment,
    tree_root,
)

VECTORS = json.loads((Path(__file__).parent.parent / "golden" / "vectors.json").read_text(encoding="utf-8"))
Json = dict[str, Any]


def cases(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in VECTORS[section]])


def slots_of(given: list[Json]) -> list[Slot]:
    slots = []
    for slot in given:
        text = slot["text"].encode() if "text" in slot else None
        size = int(slot.get("size", 0)) if text is None else len(text)
        digest = bytes.fromhex(slot.get("digest", "")) if text is None else sha256(text).digest()
        presence = Presence[slot["presence"]]
        slots.append(Slot(slot["role"], slot["model"], slot["format"], presence, size, digest, text))
    return slots


def test_imports_the_standard_library_only() -> None:
    source = Path(verify.__file__).read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    assert names <= set(sys.stdlib_module_names)
    assert len(source.splitlines()) <= 950


@cases("fields")
def test_field_vectors(case: Json) -> None:
    given, out = case["in"], case["out"]
    field, value = given["field"].replace("_", "-"), given["value"]
    salt = field_salt(bytes.fromhex(given["event_salt"]), field)
    assert out["field_salt"] == salt.hex()
    assert out["commitment"] == commitment(salt, field, bytes.fromhex(out["value"])).hex()
    if field in ("title", "from-title"):
        assert out["commitment"] == title_commitment(salt, value["namespace"], value["title"]).hex()
    if field == "content":
        assert out["commitment"] == content_commitment(salt, slots_of(value["slots"])).hex()


@cases("seals")
def test_seal_vectors(case: Json) -> None:
    out = case["out"]
    assert out["sealed"] == verify.sealed([bytes.fromhex(each) for each in out["commitments"]]).hex()


@cases("leaves")
def test_leaf_vectors(case: Json) -> None:
    given = case["in"]
    page, rev, time = (int(given[key]) for key in ("page_id", "rev_id", "timestamp"))
    leaf = entry_leaf(page, rev, time, bytes.fromhex(given["title"]), bytes.fromhex(given["content"]))
    assert case["out"]["leaf"] == leaf.hex()


@cases("trees")
def test_tree_vectors(case: Json) -> None:
    pages = case["in"]["page_ids"]
    rows = [(int(page), rev, sha256(f"leaf {page}".encode()).digest()) for rev, page in enumerate(pages, 1)]
    assert case["out"]["root"] == tree_root(iter(rows)).hex()


@cases("manifests")
def test_manifest_vectors(case: Json) -> None:
    raw = case["out"]["json"].encode()
    assert case["out"]["snapshot_id"] == snapshot_id(raw)
    assert read_manifest(raw) == json.loads(raw)


@cases("entries")
def test_entry_vectors(case: Json) -> None:
    given, out = case["in"], case["out"]
    entry = Entry(
        page_id=int(given["page_id"]),
        rev_id=int(given["rev_id"]),
        timestamp=int(given["timestamp"]),
        namespace=given.get("namespace", 0),
        title=given.get("title"),
        title_salt=bytes.fromhex(given.get("title_salt", "")),
        title_commitment=bytes.fromhex(given.get("title_commitment", "")),
        slots=slots_of(given["slots"]) if "slots" in given else None,
        content_salt=bytes.fromhex(given.get("content_salt", "")),
        content_commitment=bytes.fromhex(given.get("content_commitment", "")),
    )
    assert out["leaf"] == leaf_of(entry).hex()
    assert out["root_alone"] == tree_root([(entry.page_id, entry.rev_id, leaf_of(entry))]).hex()


RECORDS = [bytes.fromhex(case["out"]["record"]) for case in VECTORS["commits"]]
HEAD = bytes.fromhex(VECTORS["commits"][-1]["out"]["hash"])


def test_chain_vectors() -> None:
    assert check_chain(iter(RECORDS), head=HEAD) == []
    assert check_chain([], head=bytes(32)) == []
    for raw in RECORDS:
        theirs = model_record.decode_commit(raw)
        position, time, parent, project, items = read_commit(raw)
        assert (theirs.position, theirs.recorded_at, theirs.parent, theirs.project) == (
            position,
            time,
            parent,
            project,
        )
        assert [item[0] for item in items] == [item.kind for item in theirs.items]


IDS = st.integers(1, MAX_ID) | st.integers(1, 2000)
SALTS = st.binary(min_size=16, max_size=16)
HASHES = st.binary(min_size=32, max_size=32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INSTANTS = st.integers(MIN_INSTANT, MAX_INSTANT)


@given(SALTS, st.integers(-(2**31), 2**31 - 1), TEXTS)
def test_titles_agree_with_the_model(salt: bytes, namespace: int, title: str) -> None:
    value = model_seal.title_value(namespace, title)
    mine = title_commitment(field_salt(salt, "from-title"), namespace, title)
    assert mine == model_seal.commit_field(salt, model_seal.FROM_TITLE, value)


@given(
    SALTS, st.dictionaries(TEXTS.filter(bool), st.tuples(TEXTS, TEXTS, st.none() | st.binary()), min_size=1)
)
def test_contents_agree_with_the_model(salt: bytes, given: dict[str, tuple[str, str, bytes | None]]) -> None:
    mine, theirs = [], []
    for role, (model, form, text) in given.items():
        if text is None:
            mine.append(Slot(role, model, form, Presence.HIDDEN))
            theirs.append(model_seal.SlotState(role, model, form, Presence.HIDDEN))
        else:
            known = (len(text), sha256(text).digest())
            mine.append(Slot(role, model, form, Presence.PRESENT, *known))
            theirs.append(model_seal.SlotState(role, model, form, Presence.PRESENT, *known))
    expected = model_seal.commit_field(salt, model_seal.CONTENT, model_seal.content_value(theirs))
    assert expected == content_commitment(field_salt(salt, "content"), mine)


@given(IDS, IDS, INSTANTS, HASHES, HASHES)
def test_leaves_agree_with_the_model(page: int, rev: int, time: int, title: bytes, content: bytes) -> None:
    assert model_tree.entry_leaf(page, rev, time, title, content) == entry_leaf(
        page, rev, time, title, content
    )


@given(st.dictionaries(IDS, st.tuples(IDS, HASHES)))
def test_roots_agree_with_the_model(rows: dict[int, tuple[int, bytes]]) -> None:
    ordered = [(page, *rows[page]) for page in sorted(rows)]
    assert model_tree.build(ordered, lambda _digest, _node: None)[0] == tree_root(ordered)


@given(
    st.lists(TEXTS.filter(bool), min_size=1, max_size=4),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    st.lists(TEXTS, max_size=3),
    st.sampled_from(Redirects),
    st.sampled_from(OnHidden),
    st.integers(0, 2**53 - 1),
    INSTANTS,
    st.integers(0, 2**64 - 1),
)
def test_manifests_of_the_model_are_accepted(
    projects: list[str],
    namespaces: list[int],
    models: list[str],
    redirects: Redirects,
    on_hidden: OnHidden,
    age: int,
    valid_at: int,
    known_at: int,
) -> None:
    selector = Selector.of(projects, namespaces, models, redirects, age, on_hidden)
    parts = tuple(ProjectPart(name, 0, 0, model_tree.EMPTY_ROOT) for name in selector.projects)
    manifest = make_manifest(selector, AsOf(valid_at, known_at), parts)
    name = "sha256:" + manifest.snapshot_id.hex()
    assert check_snapshot(manifest.encoded, name, {part.project: [] for part in parts}) == []


@given(st.lists(st.tuples(TEXTS, st.lists(st.binary(max_size=30), max_size=3)), max_size=5))
def test_chains_of_the_model_are_accepted(given: list[tuple[str, list[bytes]]]) -> None:
    records: list[bytes] = []
    parent = bytes(32)
    for position, (project, payloads) in enumerate(given, 1):
        items = tuple(model_record.Statement(model_record.Kind.PROJECT, payload) for payload in payloads)
        commit = model_record.Commit(position, position, parent, project, items)
        records.append(model_record.encode_commit(commit))
        parent = model_record.commit_hash(records[-1])
    assert check_chain(records, head=parent) == []


@pytest.mark.parametrize("kind", [kind for kind in model_record.Kind if kind >= model_record.Kind.PROJECT])
def test_each_statement_of_the_log_is_known(kind: model_record.Kind) -> None:
    assert check_chain([with_item(bytes([kind]) + b"{}")]) == []


# Things gone wrong


def entry(page: int) -> Entry:
    text = f"text {page}".encode()
    slot = Slot("main", "wikitext", "text/x-wiki", Presence.PRESENT, len(text), sha256(text).digest(), text)
    return Entry(page, page + 1000, page, 0, f"T{page}", bytes(16), slots=[slot], content_salt=bytes(16))


ENTRIES = [entry(page) for page in (1, 2, 15, 16, 17, 300, 70_000)]
BYTES = sum(len(slot.text or b"") for each in ENTRIES for slot in each.slots or ())
ROOT = model_tree.build([(e.page_id, e.rev_id, leaf_of(e)) for e in ENTRIES], lambda _d, _n: None)[0]


def manifest_of(root: bytes = ROOT, count: int = len(ENTRIES), size: int = BYTES) -> bytes:
    return make_manifest(Selector.of(["a"]), AsOf(0, 1), (ProjectPart("a", count, size, root),)).encoded


def check(entries: list[Entry], manifest: bytes | None = None) -> list[str]:
    manifest = manifest or manifest_of()
    return check_snapshot(manifest, snapshot_id(manifest), {"a": iter(entries)})


def with_slot(**changes: Any) -> list[Entry]:
    slots = ENTRIES[0].slots
    assert slots
    return [replace(ENTRIES[0], slots=[replace(slots[0], **changes)]), *ENTRIES[1:]]


def test_a_good_snapshot_has_no_problems() -> None:
    assert check(ENTRIES) == []
    content = content_commitment(bytes(16), ENTRIES[0].slots or [])
    withheld = replace(ENTRIES[0], slots=None, content_salt=b"", content_commitment=content)
    title = title_commitment(bytes(16), 0, "T1")
    withheld = replace(withheld, title=None, title_salt=b"", title_commitment=title)
    assert check([withheld, *ENTRIES[1:]]) == []


A, B, *REST = ENTRIES
BAD_ENTRIES: dict[str, tuple[list[Entry], str]] = {
    "swapped text": (with_slot(text=b"text 2"), "not the one of its digest"),
    "swapped text and digest": (with_slot(text=b"text 2", digest=sha256(b"text 2").digest()), "another root"),
    "longer text": (with_slot(text=b"text 1 "), "not the one of its digest"),
    "another size": (with_slot(size=7), "not the one of its digest"),
    "missing text": (with_slot(text=None), "is missing"),
    "text of a hidden slot": (with_slot(presence=Presence.HIDDEN), "not present"),
    "unknown presence": (with_slot(presence=4), "unknown presence"),
    "short digest": (with_slot(digest=b"x"), "32 bytes"),
    "absent slot": (with_slot(presence=Presence.ABSENT, size=0, digest=b"", text=None), "unknown presence"),
    "long model": (with_slot(model="\u00fc" * 128), "255 bytes"),
    "long role": (with_slot(role="r" * 256), "255 bytes"),
    "no slots": ([replace(A, slots=[]), B, *REST], "at least one slot"),
    "negative size": (with_slot(size=-1), "does not fit"),
    "role without a name": (with_slot(role=""), "not empty"),
    "same role twice": ([replace(A, slots=[*(A.slots or ()), *(A.slots or ())]), B, *REST], "unique"),
    "dropped page": ([A, *REST], "6 entries, the manifest says 7"),
    "added page": ([*ENTRIES, entry(70_001)], "8 entries, the manifest says 7"),
    "nothing": ([], "0 entries, the manifest says 7"),
    "duplicate page": ([A, A, B, *REST], "page 1 occurs twice"),
    "duplicate page later": ([A, B, A, *REST], "out of order"),
    "reordered": ([B, A, *REST], "page 1 is out of order"),
    "reordered far apart": ([A, B, *REST[::-1]], "out of order"),
    "another title": ([replace(A, title="T2"), B, *REST], "another root"),
    "another namespace": ([replace(A, namespace=1), B, *REST], "another root"),
    "namespace too large": ([replace(A, namespace=2**31), B, *REST], "does not fit"),
    "another revision": ([replace(A, rev_id=5), B, *REST], "another root"),
    "another time": ([replace(A, timestamp=5), B, *REST], "another root"),
    "time out of range": ([replace(A, timestamp=MAX_INSTANT + 1), B, *REST], "outside"),
    "page 0": ([replace(A, page_id=0), B, *REST], "outside"),
    "page too large": ([*ENTRIES, replace(A, page_id=2**63)], "outside"),
    "revision 0": ([replace(A, rev_id=0), B, *REST], "outside"),
    "short title salt": ([replace(A, title_salt=bytes(15)), B, *REST], "16 bytes"),
    "long content salt": ([replace(A, content_salt=bytes(17)), B, *REST], "16 bytes"),
    "no salt": ([replace(A, title_salt=b""), B, *REST], "16 bytes"),
    "another salt": ([replace(A, title_salt=b"x" * 16), B, *REST], "another root"),
    "title shown and withheld": ([replace(A, title_commitment=bytes(32)), B, *REST], "either"),
    "content neither": ([replace(A, slots=None), B, *REST], "either"),
    "short commitment": ([replace(A, title=None, title_commitment=b"x"), B, *REST], "32 bytes"),
    "lone surrogate": ([replace(A, title="\ud800"), B, *REST], "surrogates"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_bad_entries_are_found(name: str) -> None:
    entries, expected = BAD_ENTRIES[name]
    assert any(expected in problem for problem in check(entries))


def level_0_of_all() -> bytes:
    rows = b"".join(model_tree.RECORD.pack(e.page_id, e.rev_id, leaf_of(e)) for e in ENTRIES)
    return model_tree.node_digest(b"\0" + rows)


def one_level_too_high() -> bytes:
    nodes: list[bytes] = []
    model_tree.build([(e.page_id, e.rev_id, leaf_of(e)) for e in ENTRIES], lambda _d, n: nodes.append(n))
    record = model_tree.RECORD.pack(0, len(ENTRIES), ROOT)
    return model_tree.node_digest(bytes([nodes[-1][0] + 1]) + record)


def relabelled() -> bytes:
    nodes: list[bytes] = []
    model_tree.build([(e.page_id, e.rev_id, leaf_of(e)) for e in ENTRIES], lambda _d, n: nodes.append(n))
    return model_tree.node_digest(bytes([nodes[-1][0] + 1]) + nodes[-1][1:])


@pytest.mark.parametrize("root", [bytes(32), level_0_of_all(), one_level_too_high(), relabelled()])
def test_a_wrong_root_or_level_is_found(root: bytes) -> None:
    assert check(ENTRIES, manifest_of(root)) == ["a: the entries have another root than the manifest says"]


def test_wrong_numbers_are_found() -> None:
    assert check(ENTRIES, manifest_of(count=8)) == ["a: 7 entries, the manifest says 8"]
    assert check(ENTRIES, manifest_of(size=1)) == [f"a: {BYTES} bytes of text, the manifest says 1"]


def test_projects_are_those_of_the_manifest() -> None:
    raw = manifest_of()
    assert check_snapshot(raw, snapshot_id(raw), {}) == ["a: given or named by the manifest, not both"]
    assert len(check_snapshot(raw, snapshot_id(raw), {"a": ENTRIES, "b": []})) == 1


def test_problems_are_not_listed_without_end() -> None:
    bad = [
        replace(entry(page), slots=[replace((entry(page).slots or [])[0], text=b"")])
        for page in range(1, 500)
    ]
    assert len(check(bad)) == verify.MAX_PROBLEMS


def test_a_manifest_of_another_id_is_refused() -> None:
    other = manifest_of(size=BYTES + 1)
    assert check_snapshot(other, snapshot_id(manifest_of()), {"a": ENTRIES}) != []


def edited(change: Callable[[Json], object]) -> bytes:
    document = json.loads(manifest_of())
    change(document)
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


GOOD = manifest_of()
BAD_MANIFESTS: dict[str, bytes] = {
    "empty": b"",
    "not an object": b"[]",
    "not UTF-8": b"\xff",
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "trailing newline": GOOD + b"\n",
    "white space": GOOD.replace(b":", b": ", 1),
    "escaped slash": GOOD.replace(b"recension/snapshot", b"recension\\/snapshot"),
    "escaped letter": GOOD.replace(b'"a"', b'"\\u0061"'),
    "escaped surrogate": GOOD.replace(b'"a"', b'"\\ud800"'),
    "repeated key": GOOD.replace(b'{"as_of"', b'{"as_of":1,"as_of"'),
    "keys out of order": json.dumps(dict(reversed(json.loads(GOOD).items())), separators=(",", ":")).encode(),
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "another format": edited(lambda m: m.update(format="recension/snapshot/v2")),
    "another key": edited(lambda m: m.update(more=1)),
    "no as_of": edited(lambda m: m.pop("as_of")),
    "no selector": edited(lambda m: m.update(selector=[])),
    "no selected projects": edited(lambda m: m["selector"].pop("projects")),
    "empty projects": edited(lambda m: (m["selector"].update(projects=[]), m.update(projects=[]))),
    "default spelled out": edited(lambda m: m["selector"].update(redirects="include")),
    "default age": edited(lambda m: m["selector"].update(min_age_seconds=0)),
    "default list": edited(lambda m: m["selector"].update(namespaces=[])),
    "unordered list": edited(lambda m: m["selector"].update(namespaces=[2, 1])),
    "repeated value": edited(lambda m: m["selector"].update(models=["b", "b"])),
    "mixed list": edited(lambda m: m["selector"].update(namespaces=[0, True])),
    "large namespace": edited(lambda m: m["selector"].update(namespaces=[2**31])),
    "low namespace": edited(lambda m: m["selector"].update(namespaces=[-(2**31) - 1])),
    "long model": edited(lambda m: m["selector"].update(models=["m" * 256])),
    "project without a name": edited(
        lambda m: (m["selector"].update(projects=[""]), m["projects"][0].update(project=""))
    ),
    "long project": edited(
        lambda m: (m["selector"].update(projects=["p" * 256]), m["projects"][0].update(project="p" * 256))
    ),
    "not a number": GOOD.replace(b'"count":7', b'"count":NaN'),
    "unknown selector key": edited(lambda m: m["selector"].update(more=1)),
    "age as a fraction": edited(lambda m: m["selector"].update(min_age_seconds=1.5)),
    "known_at as a number": edited(lambda m: m["as_of"].update(known_at=1)),
    "known_at with a zero": edited(lambda m: m["as_of"].update(known_at="01")),
    "known_at too large": edited(lambda m: m["as_of"].update(known_at=str(2**64))),
    "valid_at with zeros": edited(lambda m: m["as_of"].update(valid_at="2024-01-01T00:00:00.50Z")),
    "valid_at with an offset": edited(lambda m: m["as_of"].update(valid_at="2024-01-01T00:00:00+00:00")),
    "valid_at not a day": edited(lambda m: m["as_of"].update(valid_at="2023-02-29T00:00:00Z")),
    "valid_at at 24": edited(lambda m: m["as_of"].update(valid_at="2023-02-28T24:00:00Z")),
    "valid_at with a line end": edited(lambda m: m["as_of"].update(valid_at="2024-01-01T00:00:00Z\n")),
    "year 0": edited(lambda m: m["as_of"].update(valid_at="0000-01-01T00:00:00Z")),
    "parts not an array": edited(lambda m: m.update(projects={})),
    "no parts": edited(lambda m: m.update(projects=[])),
    "part twice": edited(lambda m: m["projects"].append(m["projects"][0])),
    "part of another project": edited(lambda m: m["projects"][0].update(project="b")),
    "part with another key": edited(lambda m: m["projects"][0].update(more=1)),
    "count as a fraction": edited(lambda m: m["projects"][0].update(count=7.0)),
    "count as a truth": edited(lambda m: m["projects"][0].update(count=True)),
    "bytes too large": edited(lambda m: m["projects"][0].update(bytes=2**53)),
    "negative bytes": edited(lambda m: m["projects"][0].update(bytes=-1)),
    "root in capitals": edited(lambda m: m["projects"][0].update(root="sha256:" + "A" * 64)),
    "root without a prefix": edited(lambda m: m["projects"][0].update(root="a" * 64)),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_bad_manifests_are_refused_under_their_own_id(name: str) -> None:
    raw = BAD_MANIFESTS[name]
    assert raw != GOOD
    assert len(check_snapshot(raw, snapshot_id(raw), {"a": ENTRIES})) == 1
    with pytest.raises(ValueError, match=r"."):
        read_manifest(raw)


def rebuilt(position: int = 1, time: int = 1, parent: bytes = bytes(32), tail: bytes = bytes(5)) -> bytes:
    head = position.to_bytes(8, "big") + time.to_bytes(8, "big", signed=True) + parent
    return b"recension/commit/v1\0" + head + tail


def with_item(item: bytes) -> bytes:
    return rebuilt(tail=b"\0" + (1).to_bytes(4, "big") + len(item).to_bytes(4, "big") + item)


def skeleton(kind: int = 1, page: int = 1, rev: int = 1, parent: int = 1, time: int = 0) -> bytes:
    head = bytes([kind, 0]) + b"".join(number.to_bytes(8, "big") for number in (page, rev, parent))
    return with_item(head + time.to_bytes(8, "big", signed=True) + bytes(65))


FIRST = rebuilt()
AFTER = sha256(FIRST).digest()
BAD_CHAINS: dict[str, list[bytes]] = {
    "empty record": [b""],
    "another magic": [b"x" + RECORDS[0][1:]],
    "first missing": RECORDS[1:],
    "one missing": [RECORDS[0], *RECORDS[2:]],
    "one twice": [RECORDS[0], RECORDS[0], *RECORDS[1:]],
    "reordered": [RECORDS[0], RECORDS[2], RECORDS[1], RECORDS[3]],
    "cut off": [RECORDS[0][:-1]],
    "followed": [RECORDS[0] + b"\0"],
    "edited": [RECORDS[0][:-3] + b"x" + RECORDS[0][-2:], *RECORDS[1:]],
    "parent of the first": [rebuilt(parent=b"x" * 32)],
    "position 0": [rebuilt(position=0)],
    "another parent": [FIRST, rebuilt(position=2, time=2)],
    "same time": [FIRST, rebuilt(position=2, time=1, parent=AFTER)],
    "time out of range": [rebuilt(time=MAX_INSTANT + 1)],
    "project not UTF-8": [rebuilt(tail=b"\1\xff" + bytes(4))],
    "count without items": [rebuilt(tail=b"\0" + b"\xff" * 4)],
    "empty item": [with_item(b"")],
    "unknown kind": [with_item(b"\x07" + bytes(98))],
    "unknown statement": [with_item(bytes([max(model_record.Kind) + 1]) + b"{}")],
    "short skeleton": [with_item(b"\1" + bytes(97))],
    "skeleton with a tail": [with_item(b"\1" + bytes(99))],
    "unknown flag": [with_item(b"\1\x80" + bytes(97))],
    "page 0": [skeleton(page=0)],
    "page too large": [skeleton(page=2**63)],
    "revision too large": [skeleton(rev=2**63)],
    "parent too large": [skeleton(parent=2**63)],
    "time of an event": [skeleton(time=MAX_INSTANT + 1)],
    "log entry of a page": [skeleton(kind=6)],
    "log entry of no action": [skeleton(kind=6, page=0, parent=0)],
    "log entry of another action": [skeleton(kind=6, page=0, parent=6)],
    "model not UTF-8": [with_item(b"\1" + bytes(97) + b"\1\xff")],
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_bad_chains_are_found(name: str) -> None:
    assert len(check_chain(BAD_CHAINS[name])) == 1


def test_skeletons_at_their_bounds_are_accepted() -> None:
    for record in (skeleton(), skeleton(kind=6, page=0, rev=0), skeleton(5, MAX_ID, MAX_ID, 0, MAX_INSTANT)):
        assert check_chain([record]) == []


def accepts(read: Callable[[bytes], object], raw: bytes) -> bool:
    """Say whether ``raw`` is read; a refusal has a name in the model and is a ``ValueError`` here."""
    try:
        read(raw)
    except (ValueError, RecensionError):
        return False
    return True


@pytest.mark.parametrize(
    "mine,theirs,raw",
    [
        (read_manifest, model_manifest.read_manifest, GOOD),
        *(
            (read_manifest, model_manifest.read_manifest, case["out"]["json"].encode())
            for case in VECTORS["manifests"]
        ),
        *(
            (read_commit, model_record.decode_commit, record)
            for record in [*RECORDS, skeleton(kind=6, page=0)]
        ),
    ],
)
def test_the_model_and_the_verifier_accept_the_same_bytes(
    mine: Callable[[bytes], object], theirs: Callable[[bytes], object], raw: bytes
) -> None:
    assert accepts(mine, raw)
    for at in range(len(raw)):
        for byte in {0, 1, raw[at] ^ 1, raw[at] ^ 0x80, 0xFF, ord("0"), ord("-"), ord('"')}:
            changed = raw[:at] + bytes([byte]) + raw[at + 1 :]
            assert accepts(mine, changed) is accepts(theirs, changed), changed
        for changed in (raw[:at], raw[:at] + raw[at + 1 :], raw[:at] + b"0" + raw[at:]):
            assert accepts(mine, changed) is accepts(theirs, changed), changed


@pytest.mark.parametrize("raw", [*BAD_MANIFESTS.values()], ids=[*BAD_MANIFESTS])
def test_the_model_refuses_the_same_manifests(raw: bytes) -> None:
    assert not accepts(model_manifest.read_manifest, raw)


def test_a_chain_cut_short_is_found_by_its_head() -> None:
    assert check_chain([FIRST, rebuilt(position=2, time=2, parent=AFTER)]) == []
    assert check_chain(RECORDS[:-1]) == []
    assert check_chain(RECORDS[:-1], head=HEAD) == ["the last record is not the head"]


def test_salts_and_fields_are_checked() -> None:
    for call in (field_salt, lambda salt, field: commitment(salt, field, b"")):
        with pytest.raises(ValueError, match="16 bytes"):
            call(bytes(15), "title")
        with pytest.raises(ValueError, match="known name"):
            call(bytes(16), "body")
    with pytest.raises(ValueError, match="32 bytes"):
        verify.sealed([bytes(31)])


def test_a_builder_is_closed_by_its_root() -> None:
    tree = verify.TreeBuilder()
    with pytest.raises(ValueError, match="32 bytes"):
        tree.add(1, 1, b"")
    tree.add(1, 1, bytes(32))
    assert tree.root() == tree.root() == tree_root([(1, 1, bytes(32))])
    with pytest.raises(ValueError, match="out of order"):
        tree.add(2, 1, bytes(32))


SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
ALIENS = st.characters(exclude_categories=["Cs"])


def forms(character: str) -> list[str]:
    """Return the ways in which JSON may write a character, that of the format first."""
    point = ord(character)
    if point > 0xFFFF:
        pair = character.encode("utf-16-be").hex()
        return [character, f"\\u{pair[:4]}\\u{pair[4:]}"]
    long = [f"\\u{point:04x}", f"\\u{point:04X}"]
    if character in SHORT:
        return [SHORT[character], *long]
    plain = [] if point < 0x20 else [character]
    return plain + (["\\/"] if character == "/" else []) + long


@given(
    st.lists(st.tuples(st.sampled_from('/"\\\n\x01aé\u2028\U0001f600') | ALIENS, st.integers(0, 3))),
    st.sampled_from(["", ' "', '"a","text":', '"\\\\\\\\","text":', "\n"]),
)
def test_one_way_to_write_a_text(choices: list[tuple[str, int]], junk: str) -> None:
    """Whatever JSON reads as a text, with more before it or not, only the format's way to write it passes."""
    text = "".join(character for character, _ in choices)
    written = junk + '"' + "".join(forms(each)[min(at, len(forms(each)) - 1)] for each, at in choices) + '"'
    canonical = json.dumps(text, ensure_ascii=False)
    assert (written == canonical) == verify._is_json_of(written.encode(), text.encode())
    assert verify._is_json_of(canonical.encode(), text.encode())
