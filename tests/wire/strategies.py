"""Model values that can go over the wire."""

from __future__ import annotations

from hypothesis import strategies as st

from recension.model.digest import digest_of
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import MAX_INSTANT, MIN_INSTANT
from recension.model.manifest import AsOf, Manifest, OnHidden, ProjectPart, Redirects, Selector, make_manifest
from recension.model.reading import Change, ChangeKind, Entry, ProjectInfo, Revision, Slot, TimelineItem

instants = st.integers(MIN_INSTANT, MAX_INSTANT)
ids = st.integers(1, 2**63 - 1)
numbers = st.integers(-(2**31), 2**31 - 1)
positions = st.integers(0, 2**53 - 1)
words = st.text(max_size=20)
names = st.text(min_size=1, max_size=20)
titles = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
digests = st.binary(min_size=32, max_size=32)

people = st.one_of(
    st.just(NOBODY),
    st.just(HIDDEN_CONTRIBUTOR),
    st.builds(Contributor.named, words, st.none() | st.integers(-(2**63), 2**63 - 1)),
)
comments = st.builds(Comment.of, words) | st.just(HIDDEN_COMMENT)


@st.composite
def slots(draw: st.DrawFn, *, text: bool = True, frames: bool = False) -> Slot:
    """``frames``: a text may be there as a frame, of any bytes: what passes it on does not look into it."""
    role, presence = draw(names), draw(st.sampled_from(list(Presence)))
    if frames and draw(st.booleans()):
        size = draw(st.integers(0, 60))
        return Slot(
            role,
            "wikitext",
            "",
            presence,
            size,
            draw(digests),
            frame=draw(st.binary(min_size=1, max_size=60)),
        )
    if presence is not Presence.PRESENT:
        return Slot(role, draw(words), draw(words), presence)
    body = draw(words).encode()
    verdict = draw(st.sampled_from(["exact", "exact_after_crlf", "mismatch", "absent"]))
    return Slot(
        role, "wikitext", "text/x-wiki", presence, len(body), digest_of(body), body if text else None, verdict
    )


def revisions(*, text: bool = True) -> st.SearchStrategy[Revision]:
    return st.builds(
        Revision,
        project=names,
        page_id=ids,
        rev_id=ids,
        parent_rev_id=ids,
        timestamp=instants,
        title=titles,
        namespace=numbers,
        title_inferred=st.booleans(),
        contributor=people,
        comment=comments,
        minor=st.booleans(),
        redirect=st.booleans(),
        slots=st.lists(slots(text=text), max_size=3).map(tuple),
        position=positions,
        recorded_at=instants,
    )


def entries(*, text: bool = True, frames: bool = False) -> st.SearchStrategy[Entry]:
    return st.builds(
        Entry,
        project=names,
        page_id=ids,
        rev_id=ids,
        timestamp=instants,
        title=titles,
        namespace=numbers,
        title_inferred=st.booleans(),
        slots=st.lists(slots(text=text, frames=frames), max_size=3).map(tuple),
        title_salt=st.binary(min_size=16, max_size=16),
        content_salt=st.binary(max_size=16),
        content_commitment=st.binary(max_size=32),
        text_hidden=st.booleans(),
    )


moves = st.builds(Move, titles, numbers, titles, numbers, people, comments)
deletes = st.builds(Delete, titles, numbers, people, comments)
restores = st.builds(Restore, titles, numbers, people, comments)
visibilities = st.builds(
    Visibility, ids, st.booleans(), st.booleans(), st.booleans(), contributor=people, comment=comments
)
timeline_items = st.builds(
    TimelineItem,
    instants,
    positions,
    instants,
    st.one_of(revisions(text=False), moves, deletes, restores, visibilities),
)
present_texts = st.builds(
    SlotText,
    role=names,
    model=words,
    format=words,
    presence=st.just(Presence.PRESENT),
    text=words.map(str.encode),
    claimed_sha1=words,
    claimed_bytes=st.none() | st.integers(0, 2**40),
)
absent_texts = st.builds(
    SlotText, names, words, words, st.sampled_from([Presence.HIDDEN, Presence.LOST]), st.just(b"")
)
edits = st.builds(
    Edit,
    rev_id=ids,
    parent_rev_id=ids,
    title=titles,
    namespace=numbers,
    title_inferred=st.booleans(),
    contributor=people,
    comment=comments,
    minor=st.booleans(),
    slots=st.lists(
        present_texts | absent_texts, min_size=1, max_size=3, unique_by=lambda slot: slot.role
    ).map(tuple),
)
events = st.builds(
    Event, names, ids, instants, names, st.one_of(edits, moves, deletes, restores, visibilities)
)
changes = st.builds(
    Change,
    st.sampled_from(list(ChangeKind)),
    names,
    ids,
    st.none() | entries(text=False),
    st.none() | entries(text=False),
)
selectors = st.builds(
    Selector.of,
    st.lists(names, min_size=1, max_size=3),
    st.lists(numbers, max_size=3),
    st.lists(names, max_size=3),
    st.sampled_from(list(Redirects)),
    st.integers(0, 2**31),
    st.sampled_from(list(OnHidden)),
)
as_ofs = st.builds(AsOf, instants, positions)
projects = st.builds(
    ProjectInfo,
    name=names,
    base_url=words,
    language=words,
    license=words,
    revisions=positions,
    pages=positions,
    position=positions,
    first_event_at=st.none() | instants,
    last_event_at=st.none() | instants,
    unresolved_log_entries=positions,
)


def parts_of(project: str) -> st.SearchStrategy[ProjectPart]:
    return st.builds(ProjectPart, st.just(project), positions, positions, digests)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    selector = draw(selectors)
    held = tuple(draw(parts_of(project)) for project in selector.projects)
    return make_manifest(selector, draw(as_ofs), held)
