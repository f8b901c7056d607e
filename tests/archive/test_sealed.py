"""Sealed values: what a blob of some events holds, with and without what was purged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.archive.sealed import (
    TOGETHER,
    Note,
    Sealed,
    each_sealed,
    find_sealed,
    open_sealed,
    pack_sealed,
    sealed_blobs,
    sealed_keys,
    with_sealed,
)
from recension.model.errors import DataLossError
from recension.model.event import Presence
from recension.model.seal import SlotState, commit_field, content_value, field_salt
from recension.store.interface import Rewrite
from recension.store.memory import MemoryStore
from tests.store.commits import following

LABELS = [b"a", b"b", b"c", b"d", b"e"]
CONTENT = content_value([SlotState("main", "wikitext", "text/x-wiki", Presence.PRESENT, 7, bytes(range(32)))])


@st.composite
def sealed_values(draw: st.DrawFn) -> Sealed:
    """Values of an event of any kind, some with a content, some with a field that was purged."""
    count = draw(st.integers(0, len(LABELS)))
    value = st.binary(max_size=70) | st.just(CONTENT) | st.just(CONTENT[-41:])
    values = tuple(draw(value) for _ in range(count))
    sha1 = st.text("0123456789abcdefghijklmnopqrstuvwxyz", max_size=31)
    notes = draw(st.lists(st.builds(Note, st.integers(0, 3), st.integers(-1, 2**40), sha1), max_size=2))
    sealed = Sealed(draw(st.binary(min_size=16, max_size=16)), values, tuple(notes))
    for field in draw(st.sets(st.integers(0, len(LABELS) - 1))):
        if field < count:
            sealed = sealed.purge(field, LABELS[:count])
    return sealed


def stored(sealed: Sequence[Sealed]) -> MemoryStore:
    store = MemoryStore()
    record, head = following()
    store.commit(record, head, [], sealed_blobs(1, pack_sealed(sealed)))
    return store


@given(sealed=st.lists(sealed_values(), min_size=1, max_size=TOGETHER + 3))
def test_what_goes_in_comes_out(sealed: list[Sealed]) -> None:
    """Each event has its values again, asked for by itself or with all."""
    blobs = sealed_blobs(1, pack_sealed(sealed))
    assert sealed_keys(1, len(sealed)) == [key for key, _ in blobs]
    assert sealed == [one for _, raw in blobs for one in open_sealed(raw)]
    with stored(sealed).view() as view:
        assert sealed == [find_sealed(view, 1, ordinal) for ordinal in range(len(sealed))]


@given(sealed=st.lists(sealed_values(), min_size=1, max_size=TOGETHER + 3), data=st.data())
def test_events_in_any_order(sealed: list[Sealed], data: st.DataObject) -> None:
    """Values that are read one after another are those asked for by themselves, each as often as asked."""
    asked = data.draw(st.lists(st.integers(0, len(sealed) - 1)))
    with stored(sealed).view() as view:
        assert [sealed[at] for at in asked] == list(each_sealed(view, [(1, at) for at in asked]))


@given(sealed=sealed_values(), data=st.data())
def test_a_field_is_sealed_as_before_its_event_was_purged(sealed: Sealed, data: st.DataObject) -> None:
    """Commitments stay whatever is purged, and so do the salts of all other fields."""
    labels = LABELS[: len(sealed.values)]
    fields = range(len(labels))
    gone = data.draw(st.sets(st.sampled_from(fields)) if labels else st.just(set[int]()))
    purged = sealed
    for field in gone:
        purged = purged.purge(field, labels)
    for field, before, after in zip(
        fields, sealed.sealings(fields, labels), purged.sealings(fields, labels), strict=True
    ):
        assert after == ((b"" if field in gone else before[0]), before[1])
        value = sealed.values[field]
        if sealed.salt and value is not None:
            assert before == (
                field_salt(sealed.salt, labels[field]),
                commit_field(sealed.salt, labels[field], value),
            )


def event(number: int) -> Sealed:
    value = f"value of {number}".encode()
    return Sealed(bytes([number]) * 16, (value, b"a name", b"", CONTENT), (Note(1, number, ""),))


def test_what_was_purged_is_not_in_the_blob() -> None:
    """A purge of one field leaves the others, its commitment, and the events beside it."""
    sealed = [event(number) for number in range(TOGETHER)]
    store = stored(sealed)
    purged = sealed[5].purge(3, LABELS[:4])
    blobs: dict[bytes, bytes | None] = {}
    with store.view() as view:
        with_sealed(view, blobs, 1, 5, purged)
        with_sealed(view, blobs, 1, 6, sealed[6].purge(0, LABELS[:4]))
    assert 1 == len(blobs)
    store.rewrite([Rewrite({}, {}, blobs)])
    (raw,) = blobs.values()
    assert raw is not None
    assert sealed[4].salt in raw
    assert sealed[5].salt not in raw
    with store.view() as view:
        assert purged == find_sealed(view, 1, 5)
        assert find_sealed(view, 1, 6).values[0] is None
        assert sealed[7] == find_sealed(view, 1, 7)
    assert commit_field(sealed[5].salt, LABELS[3], CONTENT) == purged.salts[3]
    assert field_salt(sealed[5].salt, LABELS[0]) == purged.field_salt(0, LABELS[0])
    with pytest.raises(DataLossError):
        purged.value(3)


def test_bytes_that_no_writer_makes() -> None:
    """They are refused by name, whatever is wrong with them."""
    ((_, raw),) = sealed_blobs(1, pack_sealed([event(number) for number in range(3)]))
    assert 3 == len(open_sealed(raw))
    for at in range(len(raw)):
        with pytest.raises(DataLossError):
            open_sealed(raw[:at])
    for wrong in (raw + b"?", b"", b"\0" * 4, bytes([4]) + raw[1:], raw[:1] + b"\2" + raw[2:]):
        with pytest.raises(DataLossError):
            open_sealed(wrong)


def test_an_event_that_is_not_there() -> None:
    """A missing blob and a missing event are both named."""
    with stored([event(1)]).view() as view:
        for position, ordinal in ((1, 1), (1, TOGETHER), (2, 0)):
            with pytest.raises(DataLossError, match="missing"):
                find_sealed(view, position, ordinal)
            with pytest.raises(DataLossError, match="missing"):
                list(each_sealed(view, [(1, 0), (position, ordinal)]))
        with pytest.raises(DataLossError, match="missing"):
            with_sealed(view, {}, 2, 0, event(1))
