from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recension.model.errors import SourceFormatError, SourceLimitError
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Event,
    LogEntry,
    Move,
    Presence,
    Restore,
    SlotText,
    Visibility,
)
from recension.model.instant import format_instant, parse_instant
from recension.sources import events_ndjson
from recension.sources.events_ndjson import EventDecoder, read_events
from recension.sources.items import MAX_EVENT_BYTES, MAX_EXCERPT_BYTES, BadRecordError, Item
from tests.sources import strategies
from tests.sources.helpers import Dribble, edits, events, reasons, rejections

TIME = "2000-07-13T06:33:08Z"
SLOT = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": "Hello"}
EDIT: dict[str, Any] = {"revId": "1", "title": "Apple", "slots": [SLOT]}


def record(kind: str = "edit", *, top: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """An event as JSON; fields of None are taken out."""
    inner = {"edit": EDIT, "move": {"fromTitle": "A", "toTitle": "B"}, "visibility": {"revId": "1"}}
    body = {**inner.get(kind, {"title": "A"}), **fields}
    value = {"project": "p", "pageId": "7", "time": TIME, "sourceId": "s:1", kind: body, **(top or {})}
    return {key: item for key, item in value.items() if item is not ...}


def lines(*records: dict[str, Any] | bytes) -> bytes:
    return b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in records
    )


def what(value: dict[str, Any], namespaces: dict[str, int] | None = None) -> Any:
    (item,) = events(lines(value), namespaces)
    assert isinstance(item, Event), item
    return item.what


def test_whole_edit() -> None:
    """An edit with every field becomes the model's value."""
    slots = [
        {**SLOT, "claimedSha1": "abc", "claimedBytes": "5"},
        {"role": "x", "model": "m", "format": "f", "presence": "PRESENCE_HIDDEN"},
        {"role": "y", "model": "m", "format": "f", "presence": "PRESENCE_LOST", "claimedBytes": 9},
    ]
    value = record(
        revId="2", parentRevId="1", namespace=4, titleInferred=True, contributor={"name": "Ann", "id": "9"},
        comment="why", minor=True, slots=slots,
    )  # fmt: skip
    expected = Edit(
        rev_id=2,
        parent_rev_id=1,
        title="Apple",
        namespace=4,
        title_inferred=True,
        contributor=Contributor.named("Ann", 9),
        comment=Comment.of("why"),
        minor=True,
        slots=(
            SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"Hello", "abc", 5),
            SlotText("x", "m", "f", Presence.HIDDEN),
            SlotText("y", "m", "f", Presence.LOST, b"", "", 9),
        ),
    )
    assert [Event("p", 7, parse_instant(TIME), "s:1", expected)] == events(lines(value))


def test_defaults_may_be_missing_or_null() -> None:
    """A field that is missing or null has its default; other members of the oneof may be null."""
    nulls: dict[str, Any] = dict.fromkeys(
        ["parentRevId", "namespace", "titleInferred", "contributor", "comment", "commentHidden", "minor"]
    )
    assert what(record()) == what(record(**nulls, top={"move": None, "delete": None}))


def test_numbers_as_strings_and_as_numbers() -> None:
    """Numbers of 64 bits are accepted in both forms that a proto3 JSON parser accepts."""
    assert what(record(revId="5000000000", parentRevId="3")) == what(
        record(revId=5_000_000_000, parentRevId=3)
    )


def test_the_names_of_the_proto_file_are_read_too() -> None:
    """A proto3 JSON parser takes both names of a field, and so do we."""
    slot = {**SLOT, "claimedSha1": "abc", "claimedBytes": "5"}
    camel = record(revId="2", parentRevId="1", titleInferred=True, commentHidden=True, slots=[slot])

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                re.sub("([A-Z])", lambda match: "_" + match[1].lower(), name): plain(item)
                for name, item in value.items()
            }
        return [plain(item) for item in value] if isinstance(value, list) else value

    assert "page_id" in plain(camel)
    assert "claimed_sha1" in plain(camel)["edit"]["slots"][0]
    assert events(lines(camel)) == events(lines(plain(camel)))


@pytest.mark.parametrize("number", ["118", "1.18e2", "118.0", "1180e-1", "1.18E+2"])
@pytest.mark.parametrize("quoted", [False, True])
def test_whole_numbers_are_read_however_they_are_written(number: str, *, quoted: bool) -> None:
    """Exponents and zeros behind the point are no fraction, quoted or not."""
    line = lines(record()).replace(b'"7"', json.dumps(number).encode() if quoted else number.encode())
    (item,) = events(line)
    assert isinstance(item, Event)
    assert 118 == item.page_id


@pytest.mark.parametrize("name, number", [("UNSPECIFIED", 0), ("PRESENT", 1), ("HIDDEN", 2), ("LOST", 3)])
def test_a_presence_is_read_by_name_and_by_number(name: str, number: int) -> None:
    """A proto3 JSON parser takes both forms of an enum."""
    bare = {key: value for key, value in SLOT.items() if key != "text"}
    by_name, by_number = (
        what(record(slots=[{**bare, "presence": form}])) for form in (f"PRESENCE_{name}", number)
    )
    assert by_name == by_number
    assert max(number, 1) == by_name.slots[0].presence


@pytest.mark.parametrize(
    "value,namespaces,expected",
    [
        ({}, {}, (0, 0)),
        ({}, {"Talk": 1, "benutzer diskussion": 3}, (1, 3)),
        ({"fromNamespace": 8, "toNamespace": "9"}, {"Talk": 1}, (8, 9)),
        ({"fromNamespace": 0}, {"Talk": 1}, (0, 0)),
    ],
)
def test_namespaces_of_a_move(
    value: dict[str, Any], namespaces: dict[str, int], expected: tuple[int, int]
) -> None:
    """A move says its namespaces, or they follow from the project's table, or they are 0."""
    move = what(record("move", fromTitle="tALK:A", toTitle="Benutzer_Diskussion:B", **value), namespaces)
    assert expected == (move.from_namespace, move.to_namespace)


def test_other_kinds() -> None:
    """Moves, deletes, restores and visibility changes become the model's values."""
    who: dict[str, Any] = {"contributor": {"name": "Ann"}, "comment": "why"}
    ann = Contributor.named("Ann"), Comment.of("why")
    assert Move("A", 0, "B", 0, *ann) == what(record("move", **who))
    assert Delete("Talk:A", 1, *ann) == what(record("delete", title="Talk:A", **who), {"Talk": 1})
    assert Restore("A", 2, *ann) == what(record("restore", namespace=2, **who), {"Talk": 1})
    change = Visibility(1, text_hidden=False, comment_hidden=True, contributor_hidden=False)
    change = dataclasses.replace(change, contributor=ann[0], comment=ann[1])
    assert change == what(record("visibility", commentHidden=True, **who))
    assert Delete("A", 0, NOBODY, NO_COMMENT) == what(record("delete"))


def test_hidden_contributor_and_comment() -> None:
    """Hidden is said by a flag and is not the same as absent."""
    edit = what(record(contributor={"hidden": True}, commentHidden=True))
    assert (HIDDEN_CONTRIBUTOR, HIDDEN_COMMENT) == (edit.contributor, edit.comment)


def test_text_may_hold_any_character() -> None:
    """U+0000, noncharacters and unnormalised text pass unchanged."""
    text = "\x00\ufffe\U0010ffff e\u0301 \r\n"
    assert text.encode() == what(record(slots=[{**SLOT, "text": text}])).slots[0].text


BAD: list[tuple[Any, str]] = [
    (b"not json", "INVALID_JSON"),
    (b"{", "INVALID_JSON"),
    (b"{} {}", "INVALID_JSON"),
    (b'{"project": "\x01"}', "INVALID_JSON"),
    (b'{"project": "\xff"}', "INVALID_UTF8"),
    (b"[]", "INVALID_FIELD"),
    (b"[" * 100_000, "NESTED_TOO_DEEP"),
    (b'{"a":' * 100_000, "NESTED_TOO_DEEP"),
    (b'{"pageId": 1' + b"0" * 5000 + b"}", "INVALID_JSON"),
    (b'{"project": "p", "project": "q"}', "DUPLICATE_KEY"),
    (
        lines(record()).strip().replace(b'"title": "Apple"', b'"title": "Apple", "title": "Apple"'),
        "DUPLICATE_KEY",
    ),
    (lines(record()).strip().replace(b'"7"', b"NaN"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"Infinity"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"7.5"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"1e-1"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"1e999999999"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"1e99999999999999999999"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"9.3e18"), "INVALID_FIELD"),
    (record(top={"pageId": "7.5"}), "INVALID_FIELD"),
    (record(top={"pageId": "1e999999999"}), "INVALID_FIELD"),
    (record(top={"pageId": ""}), "INVALID_FIELD"),
    (record(top={"pageId": "07.0"}), "INVALID_FIELD"),
    (record(top={"page_id": "7"}), "DUPLICATE_KEY"),
    (record(top={"page_ids": "7"}), "UNKNOWN_FIELD"),
    (record(slots=[{**SLOT, "presence": 4}]), "INVALID_FIELD"),
    (record(slots=[{**SLOT, "presence": True}]), "INVALID_FIELD"),
    (record(slots=[{**SLOT, "presence": []}]), "INVALID_FIELD"),
    (lines(record()).strip().replace(b'"7"', b"1e400"), "INVALID_FIELD"),
    (lines(record()).strip().replace(b"Hello", b"\\ud800"), "LONE_SURROGATE"),
    (lines(record()).strip().replace(b"Apple", b"\\udc00"), "LONE_SURROGATE"),
    (lines(record()).strip().replace(b"Apple", b"\\u0000"), "INVALID_EVENT"),
    (record(top={"surprise": None}), "UNKNOWN_FIELD"),
    (record(top={"edit": ...}), "INVALID_FIELD"),
    (record(top={"delete": {"title": "A"}}), "INVALID_FIELD"),
    (record(top={"project": "q"}), "WRONG_PROJECT"),
    (record(top={"project": ...}), "WRONG_PROJECT"),
    (record(top={"sourceId": ...}), "INVALID_FIELD"),
    (record(top={"sourceId": ""}), "INVALID_FIELD"),
    (record(top={"sourceId": "é" * 257}), "INVALID_FIELD"),
    (record(top={"sourceId": 5}), "INVALID_FIELD"),
    (record(top={"time": "yesterday"}), "INVALID_TIME"),
    (record(top={"time": "2000-07-13"}), "INVALID_TIME"),
    (record(top={"time": ...}), "INVALID_TIME"),
    (record(top={"pageId": "0"}), "INVALID_EVENT"),
    (record(top={"pageId": "-1"}), "INVALID_EVENT"),
    (record(top={"pageId": str(2**63)}), "INVALID_FIELD"),
    (record(top={"pageId": True}), "INVALID_FIELD"),
    (record(top={"pageId": "\u0667"}), "INVALID_FIELD"),
    (record(top={"pageId": " 7"}), "INVALID_FIELD"),
    (record(surprise=1), "UNKNOWN_FIELD"),
    (record(minor="true"), "INVALID_FIELD"),
    (record(namespace=2**31), "INVALID_FIELD"),
    (record(title=5), "INVALID_FIELD"),
    (record(title=""), "INVALID_EVENT"),
    (record(slots=[]), "INVALID_EVENT"),
    (record(slots={}), "INVALID_FIELD"),
    (record(slots=["x"]), "INVALID_FIELD"),
    (record(slots=[SLOT, SLOT]), "INVALID_EVENT"),
    (record(slots=[{**SLOT, "surprise": 1}]), "UNKNOWN_FIELD"),
    (record(slots=[{**SLOT, "text": 1}]), "INVALID_FIELD"),
    (record(slots=[{**SLOT, "presence": "PRESENCE_ABSENT"}]), "INVALID_FIELD"),
    (record(slots=[{**SLOT, "presence": "PRESENCE_HIDDEN"}]), "INVALID_FIELD"),
    (record(contributor="Ann"), "INVALID_FIELD"),
    (record(contributor={"surprise": 1}), "UNKNOWN_FIELD"),
    (record(contributor={"name": "Ann", "hidden": True}), "INVALID_FIELD"),
    (record(contributor={"name": "Ann", "id": -1}), "INVALID_EVENT"),
    (record(comment="why", commentHidden=True), "INVALID_FIELD"),
    (record(comment="x" * 70_000), "INVALID_EVENT"),
    (record("visibility", textHidden=1), "INVALID_FIELD"),
    (record("move", title="A"), "UNKNOWN_FIELD"),
]


@pytest.mark.parametrize("bad,reason", BAD)
def test_bad_line_does_not_stop_the_batch(bad: Any, reason: str) -> None:
    """A line that breaks a rule is rejected with its reason and place, and the next one is read."""
    first = lines(record(revId="1"))
    items = events(first + lines(bad, record(revId="3")))
    assert [1, 3] == [edit.rev_id for edit in edits(items)]
    (rejected,) = rejections(items)
    assert (reason, f"line 2, byte {len(first)}") == (rejected.reason, rejected.position)
    assert lines(bad).strip()[:MAX_EXCERPT_BYTES] == rejected.excerpt


def test_unknown_field_is_named() -> None:
    """The message of an unknown field says which it is."""
    (rejected,) = rejections(events(lines(record(surprise=1))))
    assert "edit.surprise: there is no such field" == rejected.message


# --- lines --------------------------------------------------------------------------------------


def test_line_that_is_too_long() -> None:
    """A line above the limit is rejected without being held; one at the limit is read, and so is the next."""
    whole = lines(record(revId="2"))
    most = whole.strip().ljust(MAX_EVENT_BYTES) + b"\n"
    data = most + most.replace(b"\n", b" \n") + whole.strip() + b" " * (40 << 20) + b"\n" + whole
    items = events(data)
    assert ["LINE_TOO_LONG"] * 2 == reasons(items)
    assert 2 == len(edits(items))
    assert all(len(rejected.excerpt) == MAX_EXCERPT_BYTES for rejected in rejections(items))


def test_empty_lines_and_line_ends() -> None:
    """Empty lines are skipped but counted, and a carriage return before the line feed is white space."""
    good = lines(record()).strip()
    items = events(b"\n\r\n  \n" + good + b"\r\n\n" + b"bad\n")
    assert 1 == len(edits(items))
    assert [f"line 6, byte {6 + len(good) + 3}"] == [rejected.position for rejected in rejections(items)]


def test_byte_order_mark() -> None:
    """A byte order mark at the beginning is skipped and counted in the offsets, elsewhere it is no JSON."""
    items = events(b"\xef\xbb\xbf" + lines(record()) + b"\xef\xbb\xbf" + lines(record()))
    assert 1 == len(edits(items))
    assert ["INVALID_JSON"] == reasons(items)
    assert [f"line 2, byte {3 + len(lines(record()))}"] == [
        rejected.position for rejected in rejections(items)
    ]


def test_last_line_without_an_end() -> None:
    """The last line may lack its line feed; when it cannot be read, it is called truncated."""
    whole = lines(record()).strip()
    assert 1 == len(edits(events(whole)))
    for cut in range(1, len(whole)):
        assert ["TRUNCATED_LINE"] == reasons(events(whole[:cut]))
    assert ["TRUNCATED_LINE"] == reasons(events('{"project": "é'.encode()[:-1]))


def test_faulty_last_line_that_is_whole() -> None:
    """A last line that is whole JSON and wrong is called wrong, not truncated."""
    assert ["UNKNOWN_FIELD"] == reasons(events(lines(record(surprise=1)).strip()))


def test_no_lines() -> None:
    """No bytes are no events."""
    assert [] == events(b"")


@pytest.mark.parametrize("data", [b"<mediawiki/>", b"\xef\xbb\xbf \n<mediawiki/>", "{}".encode("utf-16")])
def test_another_format(data: bytes) -> None:
    """XML and UTF-16 are refused as a whole and not line by line."""
    with pytest.raises(SourceFormatError):
        events(data)


def test_bytes_without_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that never comes to an end of line, or has nothing between them, is given up."""
    monkeypatch.setattr("recension.sources.lines.MAX_BARREN_BYTES", 1 << 20)
    for data in (b"x" * (3 << 20), b"\n" * (3 << 20)):
        with pytest.raises(SourceLimitError):
            list(read_events(Dribble(data, 100_000), Path("a.ndjson"), "p"))


@pytest.mark.parametrize("step", [1, 5, 100])
def test_place_of_chunk_ends_does_not_matter(step: int) -> None:
    """The same items come out however the input is cut into chunks."""
    data = b"\xef\xbb\xbf" + lines(record(), b"bad", b"", record(comment="é"), b"last").strip()
    assert events(data) == list(read_events(Dribble(data, step), Path("a.ndjson"), "p"))


# --- any event ----------------------------------------------------------------------------------


def to_json(event: Event) -> dict[str, Any]:
    """The proto3 JSON of an event, as a writer of ours would make it."""
    value: dict[str, Any] = {
        "project": event.project,
        "pageId": str(event.page_id),
        "time": format_instant(event.time),
        "sourceId": event.source_id,
    }
    inner: dict[str, Any] = {"contributor": contributor_json(event.what.contributor)}
    if event.what.comment.presence is Presence.HIDDEN:
        inner["commentHidden"] = True
    inner["comment"] = event.what.comment.text
    kind = type(event.what).__name__.lower()
    match event.what:
        case Edit() as edit:
            inner |= {"revId": str(edit.rev_id), "parentRevId": edit.parent_rev_id, "title": edit.title}
            inner |= {"namespace": edit.namespace, "titleInferred": edit.title_inferred, "minor": edit.minor}
            inner["slots"] = [slot_json(slot) for slot in edit.slots]
        case Move() as move:
            inner |= {"fromTitle": move.from_title, "fromNamespace": move.from_namespace}
            inner |= {"toTitle": move.to_title, "toNamespace": move.to_namespace}
        case Visibility() as change:
            inner.pop("commentHidden", None)
            inner |= {"revId": change.rev_id, "textHidden": change.text_hidden}
            inner |= {"commentHidden": change.comment_hidden, "contributorHidden": change.contributor_hidden}
        case Delete() | Restore():
            inner |= {"title": event.what.title, "namespace": event.what.namespace}
        case LogEntry():
            raise ValueError("an event stream has no log entries")
    return {**value, kind: inner}


def contributor_json(who: Contributor) -> dict[str, Any] | None:
    if who.presence is Presence.ABSENT:
        return None
    if who.presence is Presence.HIDDEN:
        return {"hidden": True}
    return {"name": who.name, "id": None if who.id is None else str(who.id)}


def slot_json(slot: SlotText) -> dict[str, Any]:
    return {
        "role": slot.role, "model": slot.model, "format": slot.format, "text": slot.text.decode(),
        "presence": f"PRESENCE_{slot.presence.name}", "claimedSha1": slot.claimed_sha1,
        "claimedBytes": slot.claimed_bytes,
    }  # fmt: skip


@given(strategies.upstream_events(), st.booleans())
def test_round_trip(event: Event, ascii_only: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    """Every event that the model allows survives its JSON."""
    line = json.dumps(to_json(event), ensure_ascii=ascii_only).encode()
    assert event == EventDecoder("p", {}).decode(line)


@given(st.binary(max_size=200))
def test_no_other_error(data: bytes) -> None:
    """Any bytes give an event or the one named error."""
    with contextlib.suppress(BadRecordError):
        EventDecoder("p", {}).decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.sampled_from(["edit", "slots", "contributor", "role", "time"]), max_size=3), json_values)
def test_no_other_error_from_json(path: list[str], value: Any) -> None:
    """Any JSON in the place of any field gives an event or the one named error."""
    top = copy.deepcopy(record())
    place: Any = top
    for key in path:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[0]
        if not isinstance(place, dict | list):
            return
    if isinstance(place, dict):
        place["title" if path == ["edit"] else "name"] = value
    with contextlib.suppress(BadRecordError):
        EventDecoder("p", {}).event(top)


def test_reader_takes_any_source() -> None:
    """A plain file object is a source."""
    items: list[Item] = list(read_events(io.BytesIO(lines(record())), Path("a"), "p"))
    assert 1 == len(items)


def test_xml_is_refused_with_the_commands_that_read_it() -> None:
    """The hint names the commands as they are called."""
    with pytest.raises(SourceFormatError) as refused:
        list(read_events(Dribble(b"<mediawiki>", 4096), Path("a.xml"), "p"))
    assert "commands dump and logging" in refused.value.hint


# --- a long text, cut out -----------------------------------------------------------------------


def parsed(line: bytes) -> tuple[object, str, str]:
    """What a line holds, or the reason and message of what is wrong with it."""
    try:
        return EventDecoder("p", {}).decode(line), "", ""
    except BadRecordError as error:
        return None, error.reason, error.message


_RAW = (
    "Hello", "\\n", '\\"', "\\\\", "\\/", "\\u0041", "\\ud83d\\ude00", "\\ud800", "\\u0000", "\u00e9",
    '"', "\\", "\x01", "\t", "NaN", "Infinity", '"text":"', '"text": "x"', ":", "{", "}", "[", "]", ",", " ",
    "\U0001f600", "\\x",
)  # fmt: skip
raw_texts = st.just("Hello") | st.lists(st.sampled_from(_RAW) | st.text(max_size=4), max_size=6).map("".join)
_PLAIN = '"role":"main","model":"m","format":"f"'
members = st.sampled_from(
    [
        _PLAIN, '"presence":2', '"presence":"PRESENCE_LOST"', '"claimedBytes":7', '"claimedBytes":7.0',
        '"claimedBytes":1e400', '"claimedBytes":18446744073709551616', '"claimedSha1":"NaN"', '"role":NaN',
        '"text":""', '"text" : "again"', '"t\\u0065xt":"again"', '"text":null', '"text":NaN',
        '"x\\"text":"y"', '"role":"a\\\\"', '"model":"\\ud800"', '"claimed_bytes":1', '"claimedBytes":1',
        '"role":Infinity', '"role":{"text":"x"}',
    ]
)  # fmt: skip
_HEAD = '"project":"p","pageId":7,"time":"2000-07-13T06:33:08Z","sourceId":"s"'
wholes = st.sampled_from(
    [
        "{" + _HEAD + ',"edit":{"revId":1,"title":"A","slots":[{%}]}}',
        '{"edit":{"slots":[{%}],"title":"A","revId":"1"},' + _HEAD + "}",
        "{" + _HEAD + ',"edit":{"revId":1,"title":"A","slots":[{%},{%}]}}',
        '{"text":"x","edit":{%},"project":"p"}', '{"edit":{"slots":[{%}]},"edit":{"slots":[{%}]}}',
        '\ufeff{"edit":{"slots":[{%}]}}', '{"edit":{"slots":{%}}}', '{"edit":[{%}]}',
        '{"edit":{"slots":[[{%}]]}}', "[{%}]", "{%}", " {%} {%}",
    ]
)  # fmt: skip


@st.composite
def long_lines(draw: st.DrawFn) -> bytes:
    """Lines in which texts stand where they do, and where they should not, sound and not."""

    def slot() -> str:
        around = draw(st.lists(members, max_size=3)) if draw(st.booleans()) else [_PLAIN]
        text = draw(st.sampled_from(['"text":"%"', '"text": "%"', '"text" :"%"', '"text":%']))
        around.insert(draw(st.integers(0, len(around))), text.replace("%", draw(raw_texts)))
        return ",".join(around)

    parts = draw(wholes).split("%")
    line = parts[0] + "".join(slot() + part for part in parts[1:])
    data = line.encode("utf-8", "surrogatepass")
    at = draw(st.integers(0, len(data)))
    return draw(st.sampled_from([data, data, data, data[:at], data[:at] + b"\xff" + data[at:]]))


@settings(max_examples=1000)
@given(long_lines())
@example(
    b'{%b,"edit":{"revId":1,"title":"A","slots":[{"text" :"a"},{"role":"b","text":"c"}]}}' % _HEAD.encode()
)
def test_cut_text_changes_nothing(line: bytes) -> None:
    """A line whose text is read apart gives the same event or error as one that is read at once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(events_ndjson, "_CUT_BYTES", len(line) + 1)
        expected = parsed(line)
        patched.setattr(events_ndjson, "_CUT_BYTES", 0)
        patched.setattr(events_ndjson, "_BEHIND_BYTES", 64)
        assert expected == parsed(line)


def test_long_texts_are_cut() -> None:
    """The line of a long text as anybody writes it is read the fast way, with its text in any place."""
    slot = {**SLOT, "text": 'a "quoted" \\ line\n\u00e9' * 400}
    for made in (slot, dict(reversed(slot.items()))):
        for ascii_only in (False, True):
            value = record(slots=[made])
            line = json.dumps(value, ensure_ascii=ascii_only).encode()
            assert value == events_ndjson._cut(line)
            assert None is events_ndjson._cut(line.replace(b'"text"', b'"text": "", "text"', 1))
