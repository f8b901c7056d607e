"""Any event that the model allows."""

from __future__ import annotations

from hypothesis import strategies as st

from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    MAX_ID,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    LogAction,
    LogEntry,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import MAX_INSTANT, MIN_INSTANT

ids = st.integers(1, MAX_ID)
namespaces = st.integers(-(2**31) + 1, 2**31 - 1)
names = st.text(max_size=30)
instants = st.integers(MIN_INSTANT, MAX_INSTANT)
titles = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
contributors = (
    st.just(NOBODY)
    | st.just(HIDDEN_CONTRIBUTOR)
    | st.builds(Contributor.named, names, st.none() | st.integers(0, MAX_ID))
)
shown_comments = st.just(NO_COMMENT) | st.builds(Comment.of, st.text(min_size=1, max_size=30))
comments = shown_comments | st.just(HIDDEN_COMMENT)
claims = st.none() | st.integers(0, MAX_ID)


@st.composite
def slots(draw: st.DrawFn, role: str) -> SlotText:
    presence = draw(st.sampled_from([Presence.PRESENT, Presence.HIDDEN, Presence.LOST]))
    text = draw(st.text()).encode() if presence is Presence.PRESENT else b""
    return SlotText(role, draw(names), draw(names), presence, text, draw(names), draw(claims))


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    roles = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
    return Edit(
        draw(ids),
        draw(st.integers(0, MAX_ID)),
        draw(titles),
        draw(namespaces),
        draw(st.booleans()),
        draw(contributors),
        draw(comments),
        draw(st.booleans()),
        tuple(draw(slots(role)) for role in roles),
    )


flags = st.booleans()
moves = st.builds(Move, titles, namespaces, titles, namespaces, contributors, comments)
deletes = st.builds(Delete, titles, namespaces, contributors, comments)
restores = st.builds(Restore, titles, namespaces, contributors, comments)
visibilities = st.builds(Visibility, ids, flags, flags, flags, contributors, shown_comments)
entries = st.builds(
    LogEntry,
    ids,
    st.sampled_from(LogAction),
    titles,
    namespaces,
    titles | st.just(""),
    namespaces,
    st.lists(ids, max_size=5).map(tuple),
    flags,
    flags,
    flags,
    contributors,
    comments,
)


def upstream_events() -> st.SearchStrategy[Event]:
    """Events of every kind that an event stream carries, of project ``p``."""
    happenings = edits() | moves | deletes | restores | visibilities
    return st.builds(Event, st.just("p"), ids, instants, st.text(min_size=1, max_size=30), happenings)


def events() -> st.SearchStrategy[Event]:
    """Events of every kind, log entries and edits of a dump included."""
    logged = st.builds(Event, st.just("p"), st.just(0), instants, names, entries)
    dumped = st.builds(Event, st.just("p"), ids, instants, st.just(""), edits())
    return upstream_events() | logged | dumped
