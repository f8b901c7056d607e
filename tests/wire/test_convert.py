from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import (
    InvalidArgumentError,
    InvalidEventError,
    InvalidTimeError,
    VerificationError,
)
from recension.model.event import HIDDEN_COMMENT, NO_COMMENT, Event, Presence
from recension.model.manifest import AsOf, Manifest, ProjectPart, Selector
from recension.model.reading import Change, Entry, ProjectInfo, Revision, Shard, Slot, TimelineItem
from recension.v1 import event_pb2 as event_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.wire import convert
from tests.wire import strategies as some


@given(some.instants)
def test_instants_survive(instant: int) -> None:
    """Every instant of the model comes back unchanged."""
    assert instant == convert.timestamp_from_proto(convert.timestamp_to_proto(instant))


@given(some.revisions())
def test_revisions_survive(revision: Revision) -> None:
    """A revision with texts comes back equal; an empty text stays a text."""
    assert revision == convert.revision_from_proto(convert.revision_to_proto(revision))


@given(some.timeline_items)
def test_timelines_survive(item: TimelineItem) -> None:
    """Each kind of timeline item comes back equal."""
    assert item == convert.timeline_item_from_proto(convert.timeline_item_to_proto(item))


@given(some.entries())
def test_entries_survive(entry: Entry) -> None:
    """An entry with its salts comes back equal."""
    assert entry == convert.entry_from_proto(convert.entry_to_proto(entry))


@given(some.changes)
def test_changes_survive(change: Change) -> None:
    """A change comes back equal, with one side, both or none."""
    assert change == convert.change_from_proto(convert.change_to_proto(change))


@given(some.events)
def test_events_survive(event: Event) -> None:
    """An event comes back equal."""
    assert event == convert.event_from_proto(convert.event_to_proto(event))


@given(some.manifests())
def test_manifests_survive(manifest: Manifest) -> None:
    """A snapshot comes back with the same canonical bytes, hence the same id."""
    back = convert.manifest_from_proto(convert.manifest_to_proto(manifest))
    assert (manifest, manifest.encoded) == (back, back.encoded)


@given(some.selectors, some.as_ofs, some.projects)
def test_questions_survive(selector: Selector, as_of: AsOf, info: ProjectInfo) -> None:
    """Selector, as-of and project come back equal."""
    assert selector == convert.selector_from_proto(convert.selector_to_proto(selector))
    assert as_of == convert.as_of_from_proto(convert.as_of_to_proto(as_of))
    assert info == convert.project_from_proto(convert.project_to_proto(info))


@given(st.none() | some.instants, some.positions)
def test_open_as_ofs_survive(valid_at: int | None, known_at: int) -> None:
    """A question without times stays without them."""
    message = convert.wanted_as_of_to_proto(valid_at, known_at)
    assert (valid_at, known_at) == convert.wanted_as_of_from_proto(message)


def test_a_large_text_is_left_out() -> None:
    """A text beyond the limit is marked, and reads back as not held."""
    text = b"x" * (convert.MAX_UNARY_TEXT + 1)
    message = convert.slot_to_proto(Slot("main", "", "", Presence.PRESENT, len(text), b"d" * 32, text))
    assert message.text_omitted
    assert not message.text
    assert convert.slot_from_proto(message).text is None


def test_texts_share_a_budget() -> None:
    """Texts that fit alone are left out once the answer is full."""
    slot = Slot("main", "", "", Presence.PRESENT, 4, b"d" * 32, b"abcd")
    budget = convert.TextBudget(each=4, total=7)
    assert [False, True] == [convert.slot_to_proto(slot, budget).text_omitted for _ in range(2)]


def test_another_id_is_noticed() -> None:
    """A manifest under another snapshot's id is refused."""
    message = snapshot_pb.Snapshot()
    message.CopyFrom(convert.manifest_to_proto(_manifest()))
    message.id = "sha256:" + "0" * 64
    with pytest.raises(VerificationError):
        convert.manifest_from_proto(message)


@pytest.mark.parametrize(
    "selector",
    [
        snapshot_pb.Selector(),
        snapshot_pb.Selector(projects=["a"], min_age=Duration(nanos=1)),
        snapshot_pb.Selector(projects=["a"], min_age=Duration(seconds=-1)),
        snapshot_pb.Selector(projects=["a"], redirects=9),  # type: ignore[arg-type]
        snapshot_pb.Selector(projects=["a"], on_hidden=9),  # type: ignore[arg-type]
    ],
    ids=["empty", "fraction", "negative", "redirects", "on-hidden"],
)
def test_bad_selectors_are_refused(selector: snapshot_pb.Selector) -> None:
    """No project, a fraction of a second, a negative age, unknown choices."""
    with pytest.raises(InvalidArgumentError):
        convert.selector_from_proto(selector)


@pytest.mark.parametrize("index, count", [(1, 0), (-1, 0), (2, 2), (-1, 2), (0, -1)])
def test_bad_shards_are_refused(index: int, count: int) -> None:
    """An index lies within its count."""
    with pytest.raises(InvalidArgumentError):
        convert.shard_from_proto(snapshot_pb.Shard(index=index, count=count))


def test_no_shard_is_the_whole() -> None:
    """The default message means no sharding."""
    assert Shard(0, 1) == convert.shard_from_proto(snapshot_pb.Shard())


def _event(**changes: object) -> event_pb.Event:
    slot = event_pb.SlotContent(role="main", text="x")
    edit = event_pb.Edit(rev_id=1, title="T", slots=[slot])
    event = event_pb.Event(project="p", page_id=1, time=Timestamp(seconds=1), source_id="s", edit=edit)
    for path, value in changes.items():
        target: object = event
        *way, last = path.split("__")
        for step in way:
            target = getattr(target, step)
        if value is None:
            target.ClearField(last)  # type: ignore[attr-defined]
        else:
            setattr(target, last, value)
    return event


@pytest.mark.parametrize(
    "change, field",
    [
        ({"page_id": 0}, "pageId"),
        ({"edit__rev_id": -1}, "revId"),
        ({"edit__title": ""}, "title"),
        ({"edit__title": "a\nb"}, "title"),
        ({"source_id": ""}, "sourceId"),
        ({"source_id": "s" * 513}, "sourceId"),
        ({"edit": None}, "kind"),
        ({"edit__slots": None}, "slots"),
    ],
)
def test_bad_events_are_refused(change: dict[str, object], field: str) -> None:
    """The wire is as strict as the model, and names the field."""
    with pytest.raises(InvalidEventError) as caught:
        convert.event_from_proto(_event(**change))
    assert field == caught.value.metadata["field"]


def test_contradictions_are_refused() -> None:
    """What is hidden has no value."""
    for contradiction in (
        event_pb.Edit(comment="x", comment_hidden=True),
        event_pb.Edit(contributor=event_pb.Contributor(name="x", hidden=True)),
        event_pb.Edit(slots=[event_pb.SlotContent(text="x", presence=event_pb.PRESENCE_HIDDEN)]),
        event_pb.Edit(slots=[event_pb.SlotContent(presence=9)]),  # type: ignore[arg-type]
    ):
        event = _event()
        event.edit.MergeFrom(contradiction)
        with pytest.raises(InvalidEventError):
            convert.event_from_proto(event)


@pytest.mark.parametrize(
    "kind, flag",
    [
        ("move", "comment_hidden"),
        ("delete", "comment_hidden"),
        ("restore", "comment_hidden"),
        ("visibility", "log_comment_hidden"),
    ],
)
def test_a_hidden_log_comment_is_no_empty_one(kind: str, flag: str) -> None:
    """Hidden, empty and spoken log comments stay three things, and a hidden one with text is refused."""
    what: Any = {
        "move": event_pb.Move(from_title="A", to_title="B"),
        "delete": event_pb.PageDelete(title="A"),
        "restore": event_pb.PageRestore(title="A"),
        "visibility": event_pb.VisibilityChange(rev_id=1),
    }[kind]
    message = _event(edit=None)
    getattr(message, kind).CopyFrom(what)
    assert NO_COMMENT == convert.event_from_proto(message).what.comment
    setattr(getattr(message, kind), flag, True)
    event = convert.event_from_proto(message)
    assert HIDDEN_COMMENT == event.what.comment
    assert getattr(getattr(convert.event_to_proto(event), kind), flag)
    getattr(message, kind).comment = "x"
    with pytest.raises(InvalidEventError):
        convert.event_from_proto(message)


def test_times_are_needed_and_whole() -> None:
    """A missing time and impossible nanoseconds are refused."""
    with pytest.raises(InvalidTimeError):
        convert.event_from_proto(_event(time=None))
    with pytest.raises(InvalidTimeError):
        convert.timestamp_from_proto(Timestamp(nanos=-1))
    with pytest.raises(InvalidTimeError):
        convert.timestamp_from_proto(Timestamp(seconds=2**60))


def test_a_missing_namespace_is_derived() -> None:
    """Log events without a namespace take it from the title."""
    event = _event(edit=None)
    event.move.from_title, event.move.to_title = "Talk:A", "B"
    what = convert.event_from_proto(event, lambda title: 1 if title.startswith("Talk:") else 0).what
    assert (1, 0) == (what.from_namespace, what.to_namespace)  # type: ignore[union-attr]


def _manifest() -> Manifest:
    from recension.model.manifest import make_manifest  # noqa: PLC0415

    return make_manifest(Selector.of(["p"]), AsOf(0, 1), (ProjectPart("p", 0, 0, bytes(32)),))
