"""Each meaning has one form: what is read back is what would be written, and all else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import DataLossError, InvalidArgumentError, InvalidEventError, RecensionError
from recension.model.event import NO_COMMENT, NOBODY, Comment, Contributor, LogAction, Presence
from recension.model.manifest import AsOf, ProjectPart, Selector, make_manifest, read_manifest
from recension.model.record import Commit, Kind, Skeleton, Statement, decode_commit, encode_commit
from recension.model.seal import (
    SlotState,
    comment_value,
    content_value,
    contributor_value,
    read_comment,
    read_content,
    read_contributor,
    read_log_entry,
    read_title,
    title_value,
)
from recension.model.tree import EMPTY_NODE, RECORD, build, children_of, leaves_of, level_of
from tests.model.values import read_node, write_log_entry, write_node

Json = dict[str, Any]

DIGEST = bytes(range(32))
TEXT = SlotState("main", "wikitext", "text/x-wiki", Presence.PRESENT, 3, DIGEST)
LOST = SlotState("aux", "", "é", Presence.LOST)


def nodes() -> Iterator[bytes]:
    made: list[bytes] = [EMPTY_NODE]
    entries = [(page, 9, DIGEST) for page in (1, 2, 15, 16, 40, 300, 2**63 - 1)]
    build(entries, lambda _digest, node: made.append(node))
    return iter(made)


def skeleton(**changes: Any) -> Skeleton:
    made = Skeleton(Kind.EDIT, 3, 12, 100, 99, 981173106000000, 0, 0, 22, "wikitext", bytes(16), DIGEST)
    return replace(made, **changes)


def commit(*items: Skeleton | Statement, **changes: Any) -> Commit:
    return replace(Commit(2, 1700000000000001, DIGEST, "dé", items), **changes)


LOG_ENTRY = skeleton(kind=Kind.LOG_ENTRY, page_id=0, parent_rev_id=LogAction.OTHER, model="", text_bytes=0)
COMMIT = commit(skeleton(), LOG_ENTRY, Statement(Kind.PROJECT, b"{}"))
PARTS = (ProjectPart("a", 7, 70, DIGEST), ProjectPart("é", 0, 0, DIGEST))
SELECTOR = Selector.of(["é", "a"], [3, -1], ["x\n"], min_age_seconds=9)
MANIFEST = make_manifest(SELECTOR, AsOf(1704067200500000, 12), PARTS).encoded

Form = tuple[Callable[[bytes], Any], Callable[[Any], bytes], type[RecensionError], bytes]

FORMS: list[Form] = [
    (read_title, lambda found: title_value(*found), DataLossError, title_value(-1, "Zü𝄞")),
    *(
        (read_contributor, contributor_value, DataLossError, contributor_value(who))
        for who in (NOBODY, Contributor.named("Zü"), Contributor.named("Al", 7), Contributor(Presence.HIDDEN))
    ),
    *(
        (read_comment, comment_value, DataLossError, comment_value(comment))
        for comment in (NO_COMMENT, Comment.of("Zü"), Comment(Presence.HIDDEN))
    ),
    (read_content, content_value, DataLossError, content_value([TEXT, LOST, LOST._replace(role="z")])),
    (read_content, content_value, DataLossError, content_value([TEXT._replace(role="r" * 255)])),
    (read_log_entry, write_log_entry, DataLossError, write_log_entry((-1, "Zü", (3, 1)))),
    *((read_node, write_node, DataLossError, node) for node in nodes()),
    (decode_commit, encode_commit, DataLossError, encode_commit(COMMIT)),
    (read_manifest, lambda found: found.encoded, InvalidArgumentError, MANIFEST),
]
IDS = [f"{form[0].__name__}-{number}" for number, form in enumerate(FORMS)]
forms = pytest.mark.parametrize("form", FORMS, ids=IDS)


def strict(form: Form, value: bytes) -> bool:
    """Say whether ``value`` is read; then it is what would be written."""
    read, write, error, _ = form
    try:
        found = read(value)
    except error:
        return False
    assert value == write(found)
    return True


@forms
def test_what_was_written_is_read(form: Form) -> None:
    assert strict(form, form[3])


@forms
def test_a_byte_changed_is_refused_or_means_something_else(form: Form) -> None:
    value = form[3]
    for at in range(len(value)):
        for byte in {0, 1, 2, 3, 4, 0x7F, 0x80, 0xFF, value[at] ^ 1, value[at] ^ 0x80, ord("0"), ord(" ")}:
            strict(form, value[:at] + bytes([byte]) + value[at + 1 :])


@forms
def test_a_value_cut_short_or_longer_is_refused_or_means_something_else(form: Form) -> None:
    value = form[3]
    for at in range(len(value) + 1):
        strict(form, value[:at])
        for byte in b"\0\1 \xff":
            strict(form, value[:at] + bytes([byte]) + value[at:])
            strict(form, value[:at] + value[at + 1 :])


@forms
@given(noise=st.binary(max_size=120))
def test_noise_is_refused_or_means_something(form: Form, noise: bytes) -> None:
    strict(form, noise)


@pytest.mark.parametrize("number", [n for n, form in enumerate(FORMS) if form[0] is not read_title])
def test_what_has_an_end_ends_there(number: int) -> None:
    """Only a name, a title and a comment take the rest."""
    form = FORMS[number]
    open_ended = form[0] in (read_contributor, read_comment) and form[3][:1] == b"\1"
    assert strict(form, form[3] + b"x") is open_ended


# --- single refusals ----------------------------------------------------------------------------

RAW_SLOT = b"\0\4main\0\0\0\0\2"
DAMAGED: list[tuple[Callable[[bytes], object], bytes]] = [
    (read_title, b""),
    (read_title, b"\0\0\0"),
    (read_title, b"\0\0\0\0\xff"),
    (read_title, b"\0\0\0\0\xed\xa0\x80"),
    (read_title, b"\0\0\0\0\xc0\x80"),
    (read_contributor, b""),
    (read_contributor, b"\4"),
    (read_contributor, b"\0x"),
    (read_contributor, b"\2\0"),
    (read_contributor, b"\1"),
    (read_contributor, b"\1\2name"),
    (read_contributor, b"\1\1" + bytes(7)),
    (read_contributor, b"\1\0\xff"),
    (read_comment, b""),
    (read_comment, b"\4"),
    (read_comment, b"\2text"),
    (read_comment, b"\0text"),
    (read_comment, b"\1\xff"),
    (read_content, b""),
    (read_content, b"\0\0"),
    (read_content, b"\0\1"),
    (read_content, b"\0\2" + RAW_SLOT),
    (read_content, b"\0\2" + RAW_SLOT * 2),
    (read_content, b"\0\2" + RAW_SLOT + b"\0\1a\0\0\0\0\2"),
    (read_content, b"\0\1" + RAW_SLOT + b"\0"),
    (read_content, b"\0\1\0\0\0\0\0\0\2"),
    (read_content, b"\0\1" + RAW_SLOT[:-1] + b"\0"),
    (read_content, b"\0\1" + RAW_SLOT[:-1] + b"\4"),
    (read_content, b"\0\1" + RAW_SLOT[:-1] + b"\1" + bytes(39)),
    (read_content, b"\0\1\1\0" + b"r" * 256 + b"\0\0\0\0\2"),
    (read_log_entry, b""),
    (read_log_entry, b"\0\3\0\0\0"),
    (read_log_entry, b"\0\5\0\0\0\0"),
    (read_log_entry, b"\0\4\0\0\0\0" + bytes(7)),
    (read_log_entry, b"\0\4\0\0\0\0" + bytes(8)),
    (read_log_entry, b"\0\4\0\0\0\0\x80" + bytes(7)),
    (level_of, b""),
    (level_of, b"\x10"),
    (children_of, b"\1"),
    (children_of, b"\0" + RECORD.pack(1, 1, DIGEST)),
    (children_of, b"\1" + RECORD.pack(1, 0, DIGEST)),
    (children_of, b"\1" + RECORD.pack(1, 17, DIGEST)),
    (children_of, b"\1" + RECORD.pack(2**59, 1, DIGEST)),
    (children_of, b"\1" + RECORD.pack(1, 1, DIGEST) * 2),
    (leaves_of, b"\0" + RECORD.pack(0, 1, DIGEST)),
    (leaves_of, b"\0" + RECORD.pack(1, 0, DIGEST)),
    (leaves_of, b"\0" + RECORD.pack(2**63, 1, DIGEST)),
    (leaves_of, b"\0" + RECORD.pack(1, 2**63, DIGEST)),
    (leaves_of, b"\1" + RECORD.pack(1, 1, DIGEST)),
    (leaves_of, b"\0" + RECORD.pack(1, 1, DIGEST) + b"\0"),
    (leaves_of, b"\0" + RECORD.pack(2, 1, DIGEST) + RECORD.pack(1, 1, DIGEST)),
    (leaves_of, b"\0" + RECORD.pack(15, 1, DIGEST) + RECORD.pack(16, 1, DIGEST)),
    (leaves_of, b"\0" + b"".join(RECORD.pack(page, 1, DIGEST) for page in range(1, 18))),
]


@pytest.mark.parametrize("read,value", DAMAGED)
def test_damage_is_named(read: Callable[[bytes], object], value: bytes) -> None:
    with pytest.raises(DataLossError):
        read(value)


@pytest.mark.parametrize(
    "bad",
    [
        commit(position=0),
        commit(recorded_at=253402300800000000),
        commit(recorded_at=-62135596800000001),
        commit(skeleton(flags=128)),
        commit(skeleton(page_id=0)),
        commit(skeleton(page_id=2**63)),
        commit(skeleton(rev_id=2**63)),
        commit(skeleton(parent_rev_id=2**63)),
        commit(skeleton(time=253402300800000000)),
        commit(replace(LOG_ENTRY, page_id=1)),
        commit(replace(LOG_ENTRY, parent_rev_id=0)),
        commit(replace(LOG_ENTRY, parent_rev_id=7)),
    ],
)
def test_a_commit_out_of_range_is_damaged(bad: Commit) -> None:
    with pytest.raises(DataLossError):
        decode_commit(encode_commit(bad))


def test_bytes_after_an_items_model_are_damage() -> None:
    record = encode_commit(commit(skeleton()))
    size = 99 + len("wikitext")
    longer = record.replace(size.to_bytes(4, "big"), (size + 1).to_bytes(4, "big")) + b"x"
    with pytest.raises(DataLossError):
        decode_commit(longer)


@pytest.mark.parametrize(
    "slots",
    [
        [],
        [TEXT, TEXT],
        [TEXT._replace(role="")],
        [TEXT._replace(role="r" * 256)],
        [TEXT._replace(model="m" * 256)],
        [TEXT._replace(format="é" * 128)],
        [TEXT._replace(digest=b"")],
        [TEXT._replace(digest=DIGEST[1:])],
        [TEXT._replace(size_bytes=-1)],
        [TEXT._replace(size_bytes=2**64)],
        [TEXT._replace(presence=Presence.ABSENT, size_bytes=0, digest=b"")],
        [TEXT._replace(presence=Presence.HIDDEN, size_bytes=0)],
        [TEXT._replace(presence=Presence.LOST, digest=b"")],
    ],
)
def test_a_content_that_no_edit_has_is_refused(slots: list[SlotState]) -> None:
    with pytest.raises(InvalidEventError) as caught:
        content_value(slots)
    assert "slots" == caught.value.metadata["field"]


def test_what_is_withheld_has_no_value() -> None:
    for comment in (
        Comment(Presence.HIDDEN, "x"),
        Comment(Presence.LOST, "x"),
        Comment(Presence.ABSENT, "x"),
    ):
        with pytest.raises(InvalidEventError, match="comment"):
            comment_value(comment)
    for who in (Contributor(Presence.HIDDEN, "x"), Contributor(Presence.ABSENT, "", 0)):
        with pytest.raises(InvalidEventError, match="contributor"):
            contributor_value(who)


@pytest.mark.parametrize("rev_id", [0, -1, 2**63])
def test_a_log_entry_names_revisions(rev_id: int) -> None:
    with pytest.raises(InvalidEventError) as caught:
        write_log_entry((0, "", (rev_id,)))
    assert "revIds" == caught.value.metadata["field"]


@pytest.mark.parametrize(
    "entries",
    [
        [(2, 1, DIGEST), (1, 1, DIGEST)],
        [(1, 1, DIGEST), (1, 2, DIGEST)],
        [(1, 1, DIGEST), (17, 1, DIGEST), (2, 1, DIGEST)],
        [(0, 1, DIGEST)],
        [(-1, 1, DIGEST)],
        [(2**63, 1, DIGEST)],
        [(1, 0, DIGEST)],
        [(1, 2**63, DIGEST)],
        [(1, 1, DIGEST[1:])],
        [(1, 1, DIGEST + b"x")],
    ],
)
def test_a_tree_is_built_of_ascending_pages(entries: list[tuple[int, int, bytes]]) -> None:
    with pytest.raises(DataLossError):
        build(entries, lambda _digest, _node: None)


# --- manifests ----------------------------------------------------------------------------------


def edited(change: Callable[[Json], object]) -> bytes:
    document = json.loads(MANIFEST)
    change(document)
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def test_the_edited_manifest_is_canonical() -> None:
    assert MANIFEST == edited(lambda _: None)


BAD_MANIFESTS: dict[str, bytes] = {
    "empty": b"",
    "not an object": b"[]",
    "null": b"null",
    "no keys": b"{}",
    "not UTF-8": b"\xff",
    "UTF-16": MANIFEST.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + MANIFEST,
    "trailing newline": MANIFEST + b"\n",
    "white space": MANIFEST.replace(b":", b": ", 1),
    "escaped letter": MANIFEST.replace(b'"a"', b'"\\u0061"'),
    "escaped surrogate": MANIFEST.replace(b'"a"', b'"\\ud800"'),
    "repeated key": MANIFEST.replace(b'{"as_of"', b'{"as_of":1,"as_of"'),
    "repeated equal key": MANIFEST.replace(b'"count":7', b'"count":7,"count":7'),
    "keys out of order": json.dumps(
        dict(reversed(json.loads(MANIFEST).items())), ensure_ascii=False, separators=(",", ":")
    ).encode(),
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "not a number": MANIFEST.replace(b'"count":7', b'"count":NaN'),
    "number with a sign": MANIFEST.replace(b'"count":0', b'"count":-0'),
    "number of many digits": MANIFEST.replace(b'"count":7', b'"count":' + b"7" * 5000),
    "another format": edited(lambda m: m.update(format="recension/snapshot/v2")),
    "another key": edited(lambda m: m.update(more=1)),
    "no as_of": edited(lambda m: m.pop("as_of")),
    "as_of with more": edited(lambda m: m["as_of"].update(more=1)),
    "no selector": edited(lambda m: m.update(selector=[])),
    "no selected projects": edited(lambda m: (m["selector"].update(projects=[]), m.update(projects=[]))),
    "projects as one string": edited(lambda m: m["selector"].update(projects="aé")),
    "default spelled out": edited(lambda m: m["selector"].update(redirects="include")),
    "default age": edited(lambda m: m["selector"].update(min_age_seconds=0)),
    "default list": edited(lambda m: m["selector"].update(namespaces=[])),
    "unknown redirects": edited(lambda m: m["selector"].update(redirects="maybe")),
    "redirects as a list": edited(lambda m: m["selector"].update(redirects=["only"])),
    "unordered list": edited(lambda m: m["selector"].update(namespaces=[2, 1])),
    "unordered projects": edited(lambda m: (m["selector"]["projects"].reverse(), m["projects"].reverse())),
    "repeated value": edited(lambda m: m["selector"].update(models=["b", "b"])),
    "mixed list": edited(lambda m: m["selector"].update(namespaces=[0, True])),
    "namespaces as fractions": edited(lambda m: m["selector"].update(namespaces=[1.0])),
    "large namespace": edited(lambda m: m["selector"].update(namespaces=[2**31])),
    "models as numbers": edited(lambda m: m["selector"].update(models=[1])),
    "long model": edited(lambda m: m["selector"].update(models=["m" * 256])),
    "unknown selector key": edited(lambda m: m["selector"].update(more=1)),
    "age as a fraction": edited(lambda m: m["selector"].update(min_age_seconds=1.5)),
    "age as a whole fraction": edited(lambda m: m["selector"].update(min_age_seconds=1.0)),
    "age as a truth": edited(lambda m: m["selector"].update(min_age_seconds=True)),
    "large age": edited(lambda m: m["selector"].update(min_age_seconds=2**53)),
    "known_at as a number": edited(lambda m: m["as_of"].update(known_at=1)),
    "known_at with a zero": edited(lambda m: m["as_of"].update(known_at="01")),
    "known_at in other digits": edited(lambda m: m["as_of"].update(known_at="\uff11")),
    "known_at below 0": edited(lambda m: m["as_of"].update(known_at="-1")),
    "known_at too large": edited(lambda m: m["as_of"].update(known_at=str(2**64))),
    "valid_at with zeros": edited(lambda m: m["as_of"].update(valid_at="2024-01-01T00:00:00.50Z")),
    "valid_at as a date": edited(lambda m: m["as_of"].update(valid_at="2024-01-01")),
    "valid_at with an offset": edited(lambda m: m["as_of"].update(valid_at="2024-01-01T00:00:00+00:00")),
    "valid_at as a number": edited(lambda m: m["as_of"].update(valid_at=0)),
    "parts not an array": edited(lambda m: m.update(projects={})),
    "no parts": edited(lambda m: m.update(projects=[])),
    "part missing": edited(lambda m: m["projects"].pop()),
    "part twice": edited(lambda m: m["projects"].append(m["projects"][1])),
    "parts in another order": edited(lambda m: m["projects"].reverse()),
    "part of another project": edited(lambda m: m["projects"][0].update(project="b")),
    "part with another key": edited(lambda m: m["projects"][0].update(more=1)),
    "count as a fraction": edited(lambda m: m["projects"][0].update(count=7.0)),
    "count as a truth": edited(lambda m: m["projects"][0].update(count=True)),
    "count too large": edited(lambda m: m["projects"][0].update(count=2**53)),
    "negative bytes": edited(lambda m: m["projects"][0].update(bytes=-1)),
    "root in capitals": edited(lambda m: m["projects"][0].update(root="sha256:" + "A" * 64)),
    "root without a prefix": edited(lambda m: m["projects"][0].update(root="a" * 64)),
    "root as a number": edited(lambda m: m["projects"][0].update(root=1)),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_what_is_no_manifest_is_refused(name: str) -> None:
    assert BAD_MANIFESTS[name] != MANIFEST
    with pytest.raises(InvalidArgumentError):
        read_manifest(BAD_MANIFESTS[name])


@pytest.mark.parametrize(
    "selector,as_of,parts",
    [
        (SELECTOR, AsOf(0, 1), PARTS[:1]),
        (SELECTOR, AsOf(0, 1), PARTS[::-1]),
        (SELECTOR, AsOf(0, 1), (*PARTS, PARTS[1])),
        (SELECTOR, AsOf(0, -1), PARTS),
        (SELECTOR, AsOf(0, 2**64), PARTS),
        (SELECTOR, AsOf(253402300800000000, 1), PARTS),
        (SELECTOR, AsOf(0, 1), (replace(PARTS[0], count=-1), PARTS[1])),
        (SELECTOR, AsOf(0, 1), (replace(PARTS[0], text_bytes=2**53), PARTS[1])),
        (SELECTOR, AsOf(0, 1), (replace(PARTS[0], root=DIGEST[1:]), PARTS[1])),
        (Selector(()), AsOf(0, 1), ()),
        (Selector(("",)), AsOf(0, 1), (replace(PARTS[0], project=""),)),
        (Selector(("p" * 256,)), AsOf(0, 1), (replace(PARTS[0], project="p" * 256),)),
        (Selector(("\ud800",)), AsOf(0, 1), (replace(PARTS[0], project="\ud800"),)),
        (replace(SELECTOR, namespaces=(2, 1)), AsOf(0, 1), PARTS),
        (replace(SELECTOR, namespaces=(-(2**31) - 1,)), AsOf(0, 1), PARTS),
        (replace(SELECTOR, models=("a", "a")), AsOf(0, 1), PARTS),
        (replace(SELECTOR, min_age_seconds=-1), AsOf(0, 1), PARTS),
    ],
)
def test_a_manifest_says_nothing_impossible(
    selector: Selector, as_of: AsOf, parts: tuple[ProjectPart, ...]
) -> None:
    with pytest.raises(InvalidArgumentError):
        make_manifest(selector, as_of, parts)


def test_the_vector_of_every_escape_has_a_part_for_its_project() -> None:
    path = Path(__file__).parent.parent / "golden" / "vectors.json"
    for vector in json.loads(path.read_text(encoding="utf-8"))["manifests"]:
        chosen = read_manifest(vector["out"]["json"].encode())
        assert chosen.selector.projects == tuple(part.project for part in chosen.parts)
