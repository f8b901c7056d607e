"""Properties of the model that hold for any value, and the refusals of ``check_event``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import DataLossError, InvalidEventError, InvalidTimeError
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    MAX_ID,
    MAX_TITLE_BYTES,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    Happening,
    LogAction,
    LogEntry,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
    check_event,
)
from recension.model.instant import MAX_INSTANT, MIN_INSTANT, check_instant, format_instant, parse_instant
from recension.model.manifest import (
    AsOf,
    Manifest,
    OnHidden,
    ProjectPart,
    Redirects,
    Selector,
    make_manifest,
    read_manifest,
)
from recension.model.record import (
    Commit,
    Kind,
    Skeleton,
    Statement,
    decode_commit,
    encode_commit,
)
from recension.model.seal import (
    COMMENT,
    CONTRIBUTOR,
    FROM_TITLE,
    TITLE,
    SlotState,
    comment_value,
    commit_field,
    commit_fields,
    content_value,
    contributor_value,
    log_entry_value,
    read_comment,
    read_content,
    read_contributor,
    read_log_entry,
    read_title,
    title_value,
)
from recension.model.tree import EMPTY_ROOT, build, children_of, leaves_of, level_of, update

u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
ids = st.integers(1, MAX_ID)
hashes = st.binary(min_size=32, max_size=32)
names = st.text(max_size=40)
roles = st.text(min_size=1, max_size=40)
short = st.text(max_size=60)
optional_ids = st.integers(0, MAX_ID)
instants = st.integers(MIN_INSTANT, MAX_INSTANT)


@given(i32, names)
def test_title_round_trip(namespace: int, title: str) -> None:
    assert (namespace, title) == read_title(title_value(namespace, title))


@given(
    st.sampled_from([NOBODY, HIDDEN_CONTRIBUTOR, Contributor(Presence.LOST)])
    | st.builds(Contributor.named, names, st.none() | i64)
)
def test_contributor_round_trip(contributor: Contributor) -> None:
    assert contributor == read_contributor(contributor_value(contributor))


@given(
    st.sampled_from([NO_COMMENT, HIDDEN_COMMENT]) | st.builds(Comment, st.just(Presence.PRESENT), st.text())
)
def test_comment_round_trip(comment: Comment) -> None:
    assert comment == read_comment(comment_value(comment))


slots = st.builds(
    SlotState,
    roles,
    names,
    names,
    st.sampled_from([Presence.HIDDEN, Presence.LOST]),
    st.just(0),
    st.just(b""),
) | st.builds(SlotState, roles, names, names, st.just(Presence.PRESENT), u64, hashes)
contents = st.lists(slots, min_size=1, max_size=6, unique_by=lambda slot: slot.role)


@given(contents)
def test_content_round_trip_whatever_the_order(states: list[SlotState]) -> None:
    value = content_value(states)
    assert sorted(states, key=lambda slot: slot.role.encode()) == read_content(value)
    assert value == content_value(states[::-1])


@given(i32, names, st.lists(ids, max_size=8))
def test_log_entry_round_trip(namespace: int, title: str, rev_ids: list[int]) -> None:
    entry = log_entry(to_title=title, to_namespace=namespace, rev_ids=tuple(rev_ids))
    assert (namespace, title, tuple(rev_ids)) == read_log_entry(log_entry_value(entry))


def skeletons_of(
    kinds: list[Kind], pages: st.SearchStrategy[int], parents: st.SearchStrategy[int]
) -> st.SearchStrategy[Skeleton]:
    return st.builds(
        Skeleton,
        st.sampled_from(kinds),
        st.integers(0, 127),
        pages,
        optional_ids,
        parents,
        instants,
        i32,
        i32,
        u64,
        short,
        st.binary(min_size=16, max_size=16),
        hashes,
    )


skeletons = skeletons_of([kind for kind in Kind if kind < Kind.LOG_ENTRY], ids, optional_ids) | skeletons_of(
    [Kind.LOG_ENTRY], st.just(0), st.sampled_from(LogAction)
)
statements = st.builds(Statement, st.sampled_from([Kind.PROJECT, Kind.SNAPSHOT]), st.binary(max_size=80))
positions = st.integers(1, 2**64 - 1)
commits = st.builds(
    Commit, positions, instants, hashes, short, st.lists(skeletons | statements, max_size=5).map(tuple)
)


@given(commits)
def test_commit_round_trip(commit: Commit) -> None:
    assert commit == decode_commit(encode_commit(commit))


@given(commits, st.data())
def test_no_beginning_of_a_commit_is_a_commit(commit: Commit, data: st.DataObject) -> None:
    record = encode_commit(commit)
    part = record[: data.draw(st.integers(0, len(record) - 1))]
    with pytest.raises(DataLossError):
        decode_commit(part)
    with pytest.raises(DataLossError):
        decode_commit(record + b"\0")


# --- the tree, built twice ----------------------------------------------------------------------

Entries = dict[int, tuple[int, bytes]]

page_ids = st.integers(1, 80) | st.integers(1, 5000) | ids


def naive_root(entries: Entries) -> bytes:
    """Top-down, from the definition: no rows, no order of building, no code in common."""

    def node(level: int, below: Entries) -> bytes:
        if level == 0:
            records = [
                page.to_bytes(8, "big") + rev.to_bytes(8, "big") + leaf
                for page, (rev, leaf) in sorted(below.items())
            ]
        else:
            groups: dict[int, Entries] = defaultdict(dict)
            for page, entry in below.items():
                groups[page // 16**level][page] = entry
            records = [
                prefix.to_bytes(8, "big") + len(group).to_bytes(8, "big") + node(level - 1, group)
                for prefix, group in sorted(groups.items())
            ]
        return sha256(b"\1" + bytes([level]) + b"".join(records)).digest()

    level = 0
    while len({page // 16 ** (level + 1) for page in entries}) > 1:
        level += 1
    return node(level, entries)


@given(st.dictionaries(page_ids, st.tuples(ids, hashes), max_size=60))
def test_tree_is_the_definition(entries: Entries) -> None:
    nodes: dict[bytes, bytes] = {}
    rows = [(page, rev, leaf) for page, (rev, leaf) in sorted(entries.items())]
    root, count = build(rows, nodes.__setitem__)
    assert (naive_root(entries), len(entries)) == (root, count)

    def walk(digest: bytes) -> list[tuple[int, int, bytes]]:
        node = nodes[digest]
        assert digest == sha256(b"\1" + node).digest()
        if level_of(node) == 0:
            return [(leaf.page_id, leaf.rev_id, leaf.leaf) for leaf in leaves_of(node)]
        found = []
        for child in children_of(node):
            below = walk(child.digest)
            assert child.entries == len(below)
            found += below
        return found

    assert rows == walk(root)


@given(
    st.dictionaries(page_ids, st.binary(min_size=32, max_size=32), max_size=60),
    st.dictionaries(page_ids, st.none() | st.binary(min_size=32, max_size=32), max_size=20),
    st.data(),
)
def test_updated_tree_is_the_tree_built_anew(
    old: dict[int, bytes], changed: dict[int, bytes | None], data: st.DataObject
) -> None:
    """An update gives the root that a build gives, and stores every node that is new on the way to it."""
    removed = data.draw(st.lists(st.sampled_from(sorted(old)), max_size=60)) if old else []
    changes: dict[int, bytes | None] = {**changed, **dict.fromkeys(removed)}
    nodes: dict[bytes, bytes] = {}
    root, _ = build(((page, 1, leaf) for page, leaf in sorted(old.items())), nodes.__setitem__)
    new = {page: leaf for page, leaf in ({**old, **changes}).items() if leaf is not None}
    wanted: dict[bytes, bytes] = {}
    expected = build(((page, 1, leaf) for page, leaf in sorted(new.items())), wanted.__setitem__)
    steps = [(page, None if leaf is None else (1, leaf)) for page, leaf in sorted(changes.items())]
    made: dict[bytes, bytes] = {}
    assert expected == update(root, steps, nodes.__getitem__, made.__setitem__)
    assert wanted.items() <= (nodes | made).items()
    assert made.items() <= wanted.items()


def test_empty_tree_has_the_defined_root() -> None:
    assert sha256(b"\1\0").digest() == EMPTY_ROOT == naive_root({})


@given(st.dictionaries(page_ids, st.tuples(ids, hashes), min_size=1, max_size=20), st.data())
def test_any_other_entry_gives_another_root(entries: Entries, data: st.DataObject) -> None:
    def root(of: Entries) -> bytes:
        rows = [(page, rev, leaf) for page, (rev, leaf) in sorted(of.items())]
        return build(rows, lambda digest, node: None)[0]

    page = data.draw(st.sampled_from(sorted(entries)))
    rev, leaf = entries[page]
    assert root(entries) != root(entries | {page: (rev % MAX_ID + 1, leaf)})
    assert root(entries) != root({other: entry for other, entry in entries.items() if other != page})


# --- instants and manifests ---------------------------------------------------------------------


@given(instants)
def test_instant_round_trip(instant: int) -> None:
    text = format_instant(instant)
    assert instant == parse_instant(text)
    assert ("." in text) is (instant % 1_000_000 != 0)
    assert not text.removesuffix("Z").endswith("0") or "." not in text


@given(instants, instants)
def test_instants_in_canonical_form_without_fraction_sort_as_text(one: int, two: int) -> None:
    one, two = one // 1_000_000 * 1_000_000, two // 1_000_000 * 1_000_000
    assert (one < two) is (format_instant(one) < format_instant(two))


@pytest.mark.parametrize(
    "text,same_as",
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31t12:00:00z", "2026-01-31T12:00:00Z"),
        ("2026-01-31 12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31T12:00:00.1234569-00:30", "2026-01-31T12:30:00.123456Z"),
        (" 0001-01-01 ", "0001-01-01T00:00:00Z"),
    ],
)
def test_one_instant_has_one_canonical_form(text: str, same_as: str) -> None:
    assert same_as == format_instant(parse_instant(text))


@pytest.mark.parametrize(
    "text",
    ["", "2026", "2026-02-30", "2026-01-31T24:00:00Z", "2026-01-31T12:00:00", "0001-01-01T00:00:00+00:01",
     "9999-12-31T23:59:59-00:01", "2026-01-31T12:00:00.Z", "2026-01-31T12:00Z", "0000-01-01",
     "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00+00:60", "2026-01-31T12:00:00-12:99",
     "2026-01-31T12:00:00+99:00", "\uff12026-01-31", "2026-01-31T12:00:00.\u0663Z",
     "2026-01-31T1\uff12:00:00Z",
     "2026-01-31T12:60:00Z", "2026-01-31T12:00:61Z", "\u00a02026-01-31", "9999-12-31T23:59:59-23:59"],
)  # fmt: skip
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidTimeError):
        parse_instant(text)


@pytest.mark.parametrize("instant", [MIN_INSTANT - 1, MAX_INSTANT + 1])
def test_instant_outside_years_1_to_9999_is_refused(instant: int) -> None:
    with pytest.raises(InvalidTimeError):
        check_instant(instant)
    with pytest.raises(InvalidTimeError):
        format_instant(instant)


def test_a_leap_second_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidTimeError, match="leap second"):
        parse_instant("2016-12-31T23:59:60Z")


selectors = st.builds(
    Selector.of,
    st.lists(roles, min_size=1, max_size=3),
    st.lists(i32, max_size=3),
    st.lists(names, max_size=3),
    st.sampled_from(Redirects),
    st.integers(0, 2**53 - 1),
    st.sampled_from(OnHidden),
)
counts = st.integers(0, 2**53 - 1)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    selector = draw(selectors)
    parts = tuple(ProjectPart(name, draw(counts), draw(counts), draw(hashes)) for name in selector.projects)
    return make_manifest(selector, AsOf(draw(instants), draw(u64)), parts)


@given(manifests())
def test_manifest_round_trip(manifest: Manifest) -> None:
    again = read_manifest(manifest.encoded)
    assert manifest == again
    assert manifest.encoded == make_manifest(again.selector, again.as_of, again.parts).encoded
    assert manifest.snapshot_id == sha256(manifest.encoded).digest()


# --- what check_event refuses -------------------------------------------------------------------

SLOT = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"x")
EDIT = Edit(1, 0, "T", 0, False, NOBODY, NO_COMMENT, False, (SLOT,))  # noqa: FBT003 - a value
MOVE = Move("A", 0, "B", 0, NOBODY, NO_COMMENT)
DELETE = Delete("A", 0, NOBODY, NO_COMMENT)
RESTORE = Restore("A", 0, NOBODY, NO_COMMENT)
HIDE = Visibility(1, True, False, False)  # noqa: FBT003 - a value


def log_entry(
    log_id: int = 1,
    to_title: str = "",
    to_namespace: int = 0,
    rev_ids: tuple[int, ...] = (),
    action: LogAction = LogAction.DELETE,
) -> LogEntry:
    return LogEntry(
        log_id, action, "T", 0, to_title, to_namespace, rev_ids,
        False, False, False, NOBODY, NO_COMMENT,  # noqa: FBT003 - a value
    )  # fmt: skip


def event(what: Happening, page_id: int = 1) -> Event:
    return Event("enwiki", page_id, 0, "", what)


BAD_SLOTS = [
    replace(SLOT, presence=Presence.HIDDEN),
    replace(SLOT, presence=Presence.LOST),
    replace(SLOT, presence=Presence.ABSENT, text=b""),
    replace(SLOT, role="x" * 256),
    replace(SLOT, role="\ud800"),
    replace(SLOT, model="x" * 256),
    replace(SLOT, model="ü" * 128),
    replace(SLOT, model="\ud800"),
    replace(SLOT, format="x" * 256),
    replace(SLOT, format="\ud800"),
    replace(SLOT, claimed_sha1="ü" * 128),
    replace(SLOT, claimed_sha1="\ud800"),
    replace(SLOT, claimed_bytes=-1),
    replace(SLOT, claimed_bytes=MAX_ID + 1),
]
BAD_CONTRIBUTORS = [
    Contributor(Presence.HIDDEN, "name"),
    Contributor(Presence.ABSENT, "", 0),
    Contributor(Presence.LOST, "name", 1),
    Contributor.named("\ud800"),
    Contributor.named("name", 2**63),
    Contributor.named("name", -(2**63) - 1),
]
BAD_COMMENTS = [
    Comment(Presence.HIDDEN, "text"),
    Comment(Presence.ABSENT, "text"),
    Comment(Presence.LOST, "text"),
    Comment(Presence.PRESENT, "\ud800"),
]


@pytest.mark.parametrize(
    "good",
    [
        event(EDIT),
        event(replace(EDIT, rev_id=MAX_ID, parent_rev_id=MAX_ID), MAX_ID),
        event(replace(EDIT, title="ü" * (MAX_TITLE_BYTES // 2))),
        event(MOVE),
        event(DELETE),
        event(RESTORE),
        event(HIDE),
        event(log_entry(), 0),
        event(log_entry(to_title="B", to_namespace=-1, action=LogAction.MOVE), 0),
        event(log_entry(rev_ids=(3, MAX_ID, 3), action=LogAction.VISIBILITY), 0),
        replace(event(EDIT), time=MIN_INSTANT, project="ü" * 127 + "x"),
        replace(event(EDIT), time=MAX_INSTANT, source_id="\0" + "x" * 10_000),
        event(replace(EDIT, namespace=2**31 - 1, contributor=Contributor.named("", 2**63 - 1))),
        event(replace(EDIT, namespace=-(2**31), contributor=Contributor.named("\0", -(2**63)))),
        event(replace(EDIT, slots=(replace(SLOT, role="r" * 255, model="ü" * 127, claimed_bytes=MAX_ID),))),
        event(replace(EDIT, slots=(SLOT, SlotText("aux", "", "", Presence.LOST)))),
    ],
)
def test_good_event_passes(good: Event) -> None:
    check_event(good)


@pytest.mark.parametrize(
    "bad,field",
    [
        (event(EDIT, 0), "pageId"),
        (event(MOVE, -1), "pageId"),
        (event(HIDE, MAX_ID + 1), "pageId"),
        (event(replace(EDIT, rev_id=0)), "revId"),
        (event(replace(EDIT, rev_id=MAX_ID + 1)), "revId"),
        (event(replace(EDIT, parent_rev_id=-1)), "parentRevId"),
        (event(replace(EDIT, parent_rev_id=MAX_ID + 1)), "parentRevId"),
        (event(replace(EDIT, title="")), "title"),
        (event(replace(EDIT, title="a\nb")), "title"),
        (event(replace(EDIT, title="a\x7f")), "title"),
        (event(replace(EDIT, title="ü" * (MAX_TITLE_BYTES // 2) + "x")), "title"),
        (event(replace(EDIT, slots=())), "slots"),
        (event(replace(EDIT, slots=(SLOT, SLOT))), "slots"),
        (event(replace(EDIT, slots=(replace(SLOT, role=""),))), "slots"),
        (event(replace(MOVE, from_title="")), "fromTitle"),
        (event(replace(MOVE, to_title="\0")), "toTitle"),
        (event(replace(DELETE, title="")), "title"),
        (event(replace(RESTORE, title="")), "title"),
        (event(replace(HIDE, rev_id=0)), "revId"),
        (event(log_entry(log_id=0), 0), "logId"),
        (event(log_entry(log_id=MAX_ID + 1), 0), "logId"),
        (event(log_entry(), 1), "pageId"),
        (event(replace(log_entry(), title=""), 0), "title"),
        (event(replace(log_entry(), title="\udc80"), 0), "title"),
        (event(replace(log_entry(), namespace=2**31), 0), "namespace"),
        (event(log_entry(to_title="a\nb", action=LogAction.MOVE), 0), "toTitle"),
        (event(log_entry(to_title="B", to_namespace=2**31, action=LogAction.MOVE), 0), "namespace"),
        (event(log_entry(to_namespace=-(2**31) - 1), 0), "namespace"),
        (event(log_entry(rev_ids=(1, 0), action=LogAction.VISIBILITY), 0), "revIds"),
        (event(log_entry(rev_ids=(MAX_ID + 1,), action=LogAction.VISIBILITY), 0), "revIds"),
        (replace(event(EDIT), time=MIN_INSTANT - 1), "time"),
        (replace(event(EDIT), time=MAX_INSTANT + 1), "time"),
        (replace(event(log_entry(), 0), time=2**63), "time"),
        (replace(event(EDIT), project=""), "project"),
        (replace(event(EDIT), project="x" * 256), "project"),
        (replace(event(EDIT), project="ü" * 128), "project"),
        (replace(event(EDIT), project="\ud800"), "project"),
        (replace(event(EDIT), source_id="\ud800"), "sourceId"),
        (event(replace(EDIT, title="\ud800")), "title"),
        (event(replace(EDIT, namespace=2**31)), "namespace"),
        (event(replace(EDIT, namespace=-(2**31) - 1)), "namespace"),
        (event(replace(MOVE, from_namespace=2**31)), "namespace"),
        (event(replace(MOVE, to_namespace=2**31)), "namespace"),
        (event(replace(DELETE, namespace=2**31)), "namespace"),
        (event(replace(RESTORE, title="\udfff")), "title"),
        (event(replace(HIDE, rev_id=MAX_ID + 1)), "revId"),
        (event(HIDE, 0), "pageId"),
        (event(replace(EDIT, slots=(SLOT,) * 2**16)), "slots"),
        *((event(replace(EDIT, slots=(slot,))), "slots") for slot in BAD_SLOTS),
        *(
            (event(replace(what, contributor=who)), "contributor")
            for what in (EDIT, MOVE, DELETE, RESTORE, HIDE)
            for who in BAD_CONTRIBUTORS
        ),
        *(
            (event(replace(what, comment=comment)), "comment")
            for what in (EDIT, MOVE, DELETE, RESTORE, HIDE)
            for comment in BAD_COMMENTS
        ),
    ],
)
def test_bad_event_is_refused_and_the_field_named(bad: Event, field: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        check_event(bad)
    assert field == caught.value.metadata["field"]


@given(st.binary(min_size=16, max_size=16), st.lists(st.binary(max_size=80), min_size=1, max_size=4))
def test_commitments_of_all_fields_at_once(salt: bytes, values: list[bytes]) -> None:
    """All commitments of an event are those of its single fields, by the library's HMAC."""
    labels = (TITLE, FROM_TITLE, CONTRIBUTOR, COMMENT)[: len(values)]
    single = [commit_field(salt, label, value) for label, value in zip(labels, values, strict=True)]
    assert single == commit_fields(salt, labels, values)
