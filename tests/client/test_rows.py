"""Rows of exports: what is written comes back, and whatever else stands in a file is told from it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ArrowInvalid

from recension.model.digest import digest_of
from recension.model.errors import VerificationError
from recension.model.event import Presence
from recension.model.instant import format_instant
from recension.model.reading import Entry, Slot
from recension_client import verify
from recension_client.export import parquet
from recension_client.export.jsonl import _exact, decode_entry, decode_line, encode_line
from recension_client.export.layout import Terms
from recension_client.export.rows import Row, Unreadable, entry_of, leaf_of, read_entry, row_of
from tests.wire.strategies import entries

TERMS = Terms("https://w.example", "CC0-1.0")


def given_slot(text: str, role: str) -> Slot:
    raw = text.encode()
    return Slot(role, "wikitext", "text/x-wiki", Presence.PRESENT, len(raw), digest_of(raw), raw)


some_entries = st.builds(
    lambda entry, texts, withheld: entry._replace(
        title_inferred=False,
        slots=() if withheld else tuple(given_slot(text, role) for role, text in texts.items()),
        content_salt=b"" if withheld else b"c" * 16,
        content_commitment=b"w" * 32 if withheld else b"",
        text_hidden=False,
    ),
    entries(),
    st.dictionaries(st.sampled_from(["main", "notes", "html"]), st.text(), max_size=3),
    st.booleans(),
)


def one() -> Entry:
    """Return an entry of two slots."""
    slots = given_slot('tab\t "quoted" \\ \u2028 \x01 \x7f ünï', "main"), given_slot("{}", "notes")
    return Entry("w", 7, 8, 10**15, "A/ä", 0, title_inferred=False, slots=slots, title_salt=b"t" * 16,
                 content_salt=b"c" * 16, content_commitment=b"")  # fmt: skip


def standard(row: Row) -> bytes:
    """Return the line as the standard library writes it."""
    document = row._asdict() | {"text": said(row.text), "timestamp": format_instant(row.timestamp)}
    for name in ("title_salt", "content_salt", "content_commitment"):
        document[name] = None if document[name] is None else document[name].hex()
    if row.slots is not None:
        document["slots"] = [slot._asdict() | {"text": said(slot.text)} for slot in row.slots]
    return as_line(document)


def said(text: bytes | None) -> str | None:
    return None if text is None else text.decode()


def as_line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@given(some_entries)
def test_lines_come_back(entry: Entry) -> None:
    """An entry is written as the standard library would write it, and read from that alone."""
    row = row_of(entry, TERMS)
    line = encode_line(row)
    assert standard(row) == line
    assert row == decode_line(line)
    assert entry == entry_of(row, entry.project, TERMS)
    assert entry == _exact(line, entry.project, TERMS)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 9)
    | st.floats(0, 9)
    | st.sampled_from(["", "main", "a/b", "7"]),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.data())
def test_a_line_with_a_value_changed_gives_the_same_by_either_way(data: st.DataObject) -> None:
    """Whatever stands in a line, it states an entry by the short way only if it does by the long one."""
    document = json.loads(encode_line(row_of(one(), TERMS)))
    place = data.draw(st.sampled_from([document, *document["slots"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(VALUES)
    same_by_both(as_line(document))


@given(st.data())
def test_a_line_with_a_byte_changed_gives_the_same_by_either_way(data: st.DataObject) -> None:
    """The same of bytes that are changed, put in or left out."""
    line = bytearray(encode_line(row_of(one(), TERMS)))
    at = data.draw(st.integers(0, len(line) - 1))
    piece = data.draw(
        st.sampled_from([b"", b"u", b"/", b"\\/", b"\\u0041", b"\\u001F", b" ", b"A", b"\t", b'"', b"0"])
    )
    line[at : at + data.draw(st.integers(0, 1))] = piece
    same_by_both(bytes(line))


def same_by_both(line: bytes) -> None:
    by_the_long: Entry | Unreadable | None
    try:
        by_the_long = read_entry(decode_line(line), "w", TERMS)
    except VerificationError:
        by_the_long = None
        with pytest.raises(VerificationError):
            decode_entry(line, "w", TERMS)
    else:
        assert by_the_long == decode_entry(line, "w", TERMS)
    assert _exact(line, "w", TERMS) == (by_the_long if isinstance(by_the_long, Entry) else None)


@given(st.lists(some_entries, max_size=5))
def test_columns_come_back(some: list[Entry]) -> None:
    """The same of Parquet, for any number of rows."""
    rows = [row_of(entry, TERMS) for entry in some]
    assert rows == list(parquet.read(written(rows)))


def written(rows: list[Row]) -> io.BytesIO:
    file = io.BytesIO()
    with parquet.Writer(file) as writer:
        for row in rows:
            writer.add(row)
        writer.close()
    file.seek(0)
    return file


def test_columns_of_two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group ends with the row that fills it; rows come back in their order."""
    monkeypatch.setattr(parquet, "GROUP_ROWS", 3)
    rows = [row_of(one()._replace(page_id=page), TERMS) for page in range(1, 9)]
    assert rows == list(parquet.read(written(rows)))


def test_a_text_that_is_no_utf8_is_in_no_file() -> None:
    """It is refused when it is written."""
    row = row_of(one(), TERMS)._replace(text=b"\xff")
    with pytest.raises(ArrowInvalid):
        written([row])
    with pytest.raises(UnicodeDecodeError):
        encode_line(row)


OTHER_VALUES: list[tuple[str, object]] = [
    ("title", 7),
    ("text", ["a"]),
    ("timestamp", "2001-09-09"),
    ("timestamp", 5),
    ("timestamp", "9999-99-99T00:00:00Z"),
    ("title_salt", "AB"),
    ("title_salt", "a b"),
    ("title_salt", 1),
    ("slots", 1),
    ("slots", [1]),
    ("more", 1),
]


@pytest.mark.parametrize("name,value", OTHER_VALUES, ids=str)
def test_a_line_with_other_values_is_named(name: str, value: object) -> None:
    """JSON that is well written and no row: the page is known, and no entry comes of it."""
    document = json.loads(encode_line(row_of(one(), TERMS)))
    refused(document | {name: value})


@pytest.mark.parametrize(
    "name,value", [("role", None), ("role", 5), ("model", []), ("text", 1), ("more", 1)], ids=str
)
def test_a_line_with_another_slot_is_named(name: str, value: object) -> None:
    """The same of what is in a slot."""
    document = json.loads(encode_line(row_of(one(), TERMS)))
    document["slots"][0][name] = value
    refused(document)


def test_a_line_without_a_column_is_named() -> None:
    """The same of what is missing."""
    for name in ("url", "slots"):
        document = json.loads(encode_line(row_of(one(), TERMS)))
        del document[name]
        refused(document)
    document = json.loads(encode_line(row_of(one(), TERMS)))
    del document["slots"][1]["digest"]
    refused(document)


def refused(document: dict[str, Any]) -> None:
    row = decode_line(as_line(document))
    assert isinstance(row, Unreadable)
    assert 7 == row.page_id
    found = decode_entry(as_line(document), "w", TERMS)
    assert isinstance(found, Unreadable)
    assert 7 == found.page_id
    with pytest.raises(VerificationError, match="not a row"):
        entry_of(row, "w", TERMS)


OTHER_COLUMNS: list[tuple[str, object]] = [
    ("id", "8"),
    ("url", "https://w.example/wiki/B"),
    ("license", "MIT"),
    ("digest", None),
    ("digest", "sha256:" + "A" * 64),
    ("content_salt", None),
    ("content_commitment", b"c" * 32),
    ("slots", None),
    ("page_id", None),
    ("page_id", True),
    ("page_id", 7.0),
    ("rev_id", "8"),
    ("timestamp", None),
    ("timestamp", 2**62),
    ("title", None),
]


@pytest.mark.parametrize("name,value", OTHER_COLUMNS, ids=str)
def test_a_row_that_is_no_entry(name: str, value: object) -> None:
    """Columns that follow from others are compared with these; ids and times are whole numbers in range."""
    row = row_of(one(), TERMS)
    assert one() == entry_of(row, "w", TERMS)
    with pytest.raises(VerificationError):
        entry_of(row._replace(**{name: value}), "w", TERMS)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [None, 5, []])
def test_an_entry_with_other_kinds_of_values_has_no_leaf(model: Any) -> None:
    """A column that may not be null may be, in a file that somebody made."""
    slot = one().slots[0]._replace(model=model)
    assert leaf_of(one())
    with pytest.raises(VerificationError):
        leaf_of(one()._replace(slots=(slot,)))
    with pytest.raises(VerificationError):
        leaf_of(one()._replace(title_salt=model))


LICENSES = "CC-BY-SA-3.0, CC-BY-SA-4.0@2001-09-09T01:46:40Z, CC0-1.0@2001-09-09T01:46:40.5Z"


@given(st.integers(10**15 - 10**6, 10**15 + 10**6))
def test_a_row_has_the_licence_of_its_day(timestamp: int) -> None:
    """From the very instant on; and the verifier that stands alone reads the same from the lock."""
    terms = Terms("https://w.example", LICENSES)
    entry = one()._replace(timestamp=timestamp)
    row = row_of(entry, terms)
    later = (timestamp >= 10**15) + (timestamp >= 10**15 + 500_000)
    assert ("CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0")[later] == row.license
    assert row.license == verify._license_at(LICENSES, format_instant(timestamp))
    assert entry == entry_of(row, entry.project, terms)
    with pytest.raises(VerificationError, match="license"):
        entry_of(row._replace(license="CC-BY-4.0"), entry.project, terms)


@pytest.mark.parametrize("licenses", ["A@2020-01-01", "A, B", "A, B@2020-01-01, C@2019-01-01", "A, B@never"])
def test_terms_that_say_no_licence(licenses: str) -> None:
    """A lock whose licences do not follow one another is refused where a row is compared with it."""
    with pytest.raises(VerificationError, match="license"):
        entry_of(row_of(one(), TERMS), "w", Terms("https://w.example", licenses))
