from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from recension.model.errors import (
    RecensionError,
    SourceCorruptError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.model.event import NOBODY, Comment, Contributor, Edit, Event, Presence, Visibility
from recension.model.instant import parse_instant
from recension.sources import enterprise, json_fields
from recension.sources.containers import open_container
from recension.sources.enterprise import read_articles
from recension.sources.items import Item, Rejected, Sighting, Skipped
from tests.sources.helpers import shared

TIME = "2025-01-02T03:04:05Z"
AT = parse_instant(TIME)
DELETE: dict[str, Any] = {"event": {"identifier": "d-1", "type": "delete", "date_created": TIME}}


def record(**fields: Any) -> dict[str, Any]:
    """Return a record with all that this parser reads; ``None`` leaves a field out."""
    whole = {
        "name": "Talk:Old apple",
        "identifier": 7,
        "date_modified": TIME,
        "version": {
            "identifier": 12,
            "comment": "why",
            "is_minor_edit": True,
            "editor": {"identifier": 9, "name": "Ann"},
            "size": {"value": 5, "unit_text": "B"},
        },
        "previous_version": {"identifier": 11},
        "namespace": {"identifier": 1},
        "is_part_of": {"identifier": "p"},
        "article_body": {"html": "<p>Hello</p>", "wikitext": "Hello"},
        "event": {"identifier": "u-1", "type": "update", "date_created": TIME},
    }
    return {name: value for name, value in (whole | fields).items() if value is not None}


def items(data: bytes, folder: Path) -> list[Item]:
    """Parse a file as the child process does."""
    path = folder / "articles"
    path.write_bytes(data)
    with open_container(path, tar=True) as container:
        return list(read_articles(container, path, "p", {"Talk": 1}))


def parsed(folder: Path, *records: object) -> list[Item]:
    return items(b"\n".join(json.dumps(each).encode() for each in records), folder)


def only_edit(folder: Path, **fields: Any) -> Edit:
    found = parsed(folder, record(**fields))
    event = found[0]
    assert isinstance(event, Event), found
    assert isinstance(event.what, Edit)
    return event.what


def test_whole_record(tmp_path: Path) -> None:
    """An update is a revision, and that its page has that name."""
    event, sighting = parsed(tmp_path, record())
    assert isinstance(event, Event)
    edit = event.what
    assert isinstance(edit, Edit)
    assert ("p", 7, AT, "") == (event.project, event.page_id, event.time, event.source_id)
    assert (12, 11, "Talk:Old apple", 1) == (edit.rev_id, edit.parent_rev_id, edit.title, edit.namespace)
    assert (False, True) == (edit.title_inferred, edit.minor)
    assert (Contributor.named("Ann", 9), Comment.of("why")) == (edit.contributor, edit.comment)
    assert [("main", "wikitext", b"Hello", 5), ("html", "html", b"<p>Hello</p>", None)] == [
        (slot.role, slot.model, slot.text, slot.claimed_bytes) for slot in edit.slots
    ]
    assert {Presence.PRESENT} == {slot.presence for slot in edit.slots}
    assert Sighting(7, 12, "Talk:Old apple", 1, AT, "enterprise:u-1", gone=False, edited_at=AT) == sighting


@pytest.mark.parametrize(
    "said,expected",
    [
        ([{"identifier": "CC-BY-SA-3.0", "name": "…", "url": "…"}], "CC-BY-SA-3.0"),
        ([{"identifier": "B"}, {"identifier": "A"}, {"identifier": "B"}, {}], "A AND B"),
        ([{"identifier": "x" * 1000}], "x" * 200),
        ([], ""),
        (None, ""),
        ("CC0", ""),
        ([7], ""),
        ([{"identifier": 7}], ""),
    ],
)
def test_what_a_record_says_of_its_licence(tmp_path: Path, said: object, expected: str) -> None:
    """It goes with the sighting; what cannot be read of it rejects nothing."""
    _, sighting = parsed(tmp_path, record(license=said))
    assert isinstance(sighting, Sighting)
    assert (AT, expected) == (sighting.edited_at, sighting.license)


def test_what_is_left_out(tmp_path: Path) -> None:
    """False, 0 and empty ones are; so is whatever the project's record has not."""
    bare = only_edit(
        tmp_path,
        name="Apple",
        version={"identifier": 12},
        previous_version=None,
        namespace={},
        article_body={"wikitext": ""},
        event=None,
    )
    assert (0, 0, NOBODY, False) == (bare.parent_rev_id, bare.namespace, bare.contributor, bare.minor)
    assert (True, b"", None) == (bare.title_inferred, bare.slots[0].text, bare.slots[0].claimed_bytes)
    assert only_edit(tmp_path, namespace=None).namespace == 1, "it follows from the name"


def test_names_have_spaces(tmp_path: Path) -> None:
    """Deletes come with underscores."""
    assert only_edit(tmp_path, name="Talk:Old_apple").title == "Talk:Old apple"


@pytest.mark.parametrize(
    "event,inferred",
    [
        ({"type": "update", "date_created": "2025-01-02T03:04:05.999999999Z"}, False),
        ({"type": "update", "date_published": "2025-01-02T03:13:00Z"}, False),
        ({"type": "update", "date_created": "2025-08-02T03:04:05.1Z"}, True),
        ({"type": "update", "date_created": "2025-01-02T03:04:00Z"}, True),
        ({"type": "update"}, True),
    ],
)
def test_a_name_is_of_the_events_moment(tmp_path: Path, event: dict[str, Any], *, inferred: bool) -> None:
    """A snapshot's record may be years behind its revision: then the revision's own name is not known."""
    assert only_edit(tmp_path, event=event).title_inferred is inferred


@pytest.mark.parametrize(
    "editor,expected",
    [
        ({"name": "192.0.2.1", "is_anonymous": True}, Contributor.named("192.0.2.1")),
        ({"identifier": 5, "name": "192.0.2.1", "is_anonymous": True}, Contributor.named("192.0.2.1")),
        ({"identifier": 8, "name": "~2025-12345-67"}, Contributor.named("~2025-12345-67", 8)),
        ({}, NOBODY),
        (None, NOBODY),
    ],
)
def test_editors(tmp_path: Path, editor: object, expected: Contributor) -> None:
    """Addresses have no id; of listed pages nobody is named."""
    assert expected == only_edit(tmp_path, version={"identifier": 12, "editor": editor}).contributor


def test_a_delete_is_of_a_name(tmp_path: Path) -> None:
    """It has no text; its editor is who did it; the page id may be missing."""
    event = {"identifier": "u-2", "type": "delete", "date_created": "2025-01-02T04:04:05+01:00"}
    deleted = record(name="Old_apple", namespace={}, article_body=None, event=event)
    who = Contributor.named("Ann", 9)
    assert [Sighting(7, 12, "Old apple", 0, AT, "enterprise:u-2", gone=True, contributor=who)] == parsed(
        tmp_path, deleted
    )
    (nameless,) = parsed(tmp_path, {**deleted, "identifier": None})
    assert isinstance(nameless, Sighting)
    assert nameless.page_id == 0


@pytest.mark.parametrize("name", ["editor", "user"])
def test_visibility(tmp_path: Path, name: str) -> None:
    """True is shown; what is hidden is left out."""
    event = {"identifier": "u-3", "type": "visibility-change", "date_created": TIME}
    (found,) = parsed(
        tmp_path, record(article_body=None, event=event, visibility={"text": False, name: True})
    )
    hidden = Visibility(12, text_hidden=True, comment_hidden=True, contributor_hidden=False)
    assert Event("p", 7, AT, "enterprise:u-3:visibility", hidden) == found


@pytest.mark.parametrize(
    "fields,reason",
    [
        ({"version": None}, "NO_VERSION"),
        ({"article_body": {"html": "x"}}, "NO_WIKITEXT"),
        ({"article_body": None}, "NO_WIKITEXT"),
        ({"name": None}, "INVALID_FIELD"),
        ({"name": ["x"]}, "INVALID_FIELD"),
        ({"identifier": None}, "INVALID_EVENT"),
        ({"identifier": -1}, "INVALID_FIELD"),
        ({"identifier": 1.5}, "INVALID_FIELD"),
        ({"identifier": 2**63}, "INVALID_FIELD"),
        ({"identifier": 1e300}, "INVALID_FIELD"),
        ({"identifier": True}, "INVALID_FIELD"),
        ({"date_modified": None}, "INVALID_FIELD"),
        ({"date_modified": "yesterday"}, "INVALID_FIELD"),
        ({"is_part_of": {"identifier": "other" * 10**5}}, "OTHER_PROJECT"),
        ({"is_part_of": "p"}, "INVALID_FIELD"),
        ({"version": {"identifier": 1, "is_minor_edit": "yes"}}, "INVALID_FIELD"),
        ({"event": {"type": "delete"}}, "INVALID_FIELD"),
        ({"event": {"type": "visibility-change"}}, "INVALID_FIELD"),
        ({"event": {"identifier": "e" * 2000, "date_created": TIME}}, "INVALID_EVENT"),
        (DELETE | {"identifier": 2**64}, "INVALID_FIELD"),
        (DELETE | {"identifier": 1e300}, "INVALID_FIELD"),
        (DELETE | {"version": {"identifier": 2**64}}, "INVALID_FIELD"),
        (DELETE | {"version": {"editor": {"name": "n" * 2000}}}, "INVALID_EVENT"),
        (DELETE | {"namespace": {"identifier": 2**40}}, "INVALID_EVENT"),
        (DELETE | {"event": DELETE["event"] | {"identifier": "e" * 2000}}, "INVALID_EVENT"),
    ],
)
def test_records_that_cannot_be_used(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    """Each is named, and the next one is read."""
    bad, *good = parsed(tmp_path, record(**fields), record())
    assert isinstance(bad, Rejected), bad
    assert reason == bad.reason
    assert len(bad.message) < 200
    assert len(good) == 2


@pytest.mark.parametrize("value", [1, "x", None])
def test_what_is_no_record(tmp_path: Path, value: object) -> None:
    """A value that is no object is one bad record."""
    bad, *good = parsed(tmp_path, value, record())
    assert isinstance(bad, Rejected)
    assert "INVALID_FIELD" == bad.reason
    assert len(good) == 2


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    """The last one lacks its end."""
    whole = json.dumps(record()).encode()
    bad, _, _, cut = items(b"{]\n" + whole + b"\n" + whole[:50], tmp_path)
    assert isinstance(bad, Rejected)
    assert isinstance(cut, Rejected)
    assert ("INVALID_JSON", "TRUNCATED_LINE") == (bad.reason, cut.reason)
    assert (bad.position, bad.excerpt) == ("line 1, byte 0", b"{]")


@pytest.mark.parametrize(
    "long",
    [
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"name": "half \\ud800", "identifier": 1}',
        b'{"name": "n", "event": {"type": "\\udc00"}, "identifier": 1}',
        b'{"name": "\xff"}',
        b'{"a":' * 200_000,
    ],
    ids=["nan", "infinity", "half", "half-kind", "utf8", "deep"],
)
def test_long_lines_are_read_as_strictly(tmp_path: Path, long: bytes) -> None:
    """Another reader takes less memory for them; what is wrong is one bad record, and the next is read."""
    good = json.dumps(record(name="Lenge \N{PILE OF POO}")).encode()  # a pair of surrogates in JSON
    line = long + b" " * json_fields._QUICK_BYTES
    bad, *rest = items(b"\n".join((line, good + line[len(long) :], good)), tmp_path)
    assert isinstance(bad, Rejected), bad
    assert bad.reason in {"INVALID_JSON", "INVALID_FIELD"}
    edit, seen, *short = rest
    assert [edit, seen] == short
    assert isinstance(seen, Sighting)
    assert seen.title == "Lenge \N{PILE OF POO}"


def test_events_of_other_kinds_are_counted(tmp_path: Path) -> None:
    """So are lines that are the keys of messages."""
    key = {"type": "articles", "identifier": "/enwiki/Apple"}
    other = record(event={"type": "explosion"})
    assert [Skipped({"event of type explosion": 1, "keys of messages": 2})] == parsed(
        tmp_path, key, key, other
    )


def tar(*files: bytes, form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo("folder/"))
        for number, data in enumerate(files):
            info = tarfile.TarInfo(f"../../chunk_{number}.ndjson")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def test_every_shape_gives_the_same(tmp_path: Path) -> None:
    """Lines, an array, a document over several lines, a tar archive of files, packed or not."""
    lines = [json.dumps(record(identifier=page)).encode() for page in (1, 2, 3)]
    expected = items(b"\n".join(lines), tmp_path)
    assert len(expected) == 6
    whole = [record(identifier=page) for page in (1, 2, 3)]
    shapes = [
        b"\xef\xbb\xbf" + b"\r\n".join(lines),
        json.dumps(whole).encode(),
        b"\xef\xbb\xbf" + json.dumps(whole, indent=2).encode(),
        gzip.compress(b"\n".join(lines)),
        tar(lines[0], b"\n".join(lines[1:]) + b"\n"),
        gzip.compress(tar(*lines)),
        gzip.compress(tar(*lines, form=tarfile.PAX_FORMAT)),
        gzip.compress(tar(*lines, form=tarfile.GNU_FORMAT)),
    ]
    for shape in shapes:
        assert expected == items(shape, tmp_path), shape[:40]
    assert expected[:2] == items(json.dumps(whole[0], indent=4).encode(), tmp_path)


def test_documents_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut answer, and one that is too large, are named."""
    document = json.dumps([record()], indent=1).encode()
    monkeypatch.setattr(enterprise, "MAX_DOCUMENT_BYTES", len(document))
    assert len(items(document, tmp_path)) == 2
    for data in (document[:-3], document + b" "):
        with pytest.raises(SourceFormatError) as caught:
            items(data, tmp_path)
        assert caught.value.hint


def test_damaged_archives(tmp_path: Path) -> None:
    """What was complete comes first; then the fault is named, wherever the archive ends."""
    line = json.dumps(record()).encode() + b"\n"
    whole = tar(line * 40, line * 40)
    for cut in range(600, len(whole) - 10_240, 4099):
        path = tmp_path / "cut.tar"
        path.write_bytes(whole[:cut])
        found: list[Item] = []
        with pytest.raises(RecensionError) as caught, open_container(path, tar=True) as container:
            found.extend(read_articles(container, path, "p"))
        assert isinstance(caught.value, SourceTruncatedError), caught.value


def test_archives_that_go_on_behind_an_end(tmp_path: Path) -> None:
    """What comes behind a damaged header or an end is told, not lost."""
    line = json.dumps(record()).encode() + b"\n"
    whole = tar(line, line)
    damaged = bytearray(whole)
    damaged[whole.index(b"chunk_1")] ^= 1
    assert len(items(whole + bytes(4096), tmp_path)) == 4
    for data in (bytes(damaged), whole + whole, whole + b"more".ljust(1024, b"\0")):
        with pytest.raises(SourceCorruptError, match="neither a header nor its end") as caught:
            items(data, tmp_path)
        assert caught.value.hint


def test_an_archive_of_very_many_files(tmp_path: Path) -> None:
    """They are forgotten one by one."""
    data = tarfile.TarInfo("empty").tobuf() * 6000 + bytes(1024)
    tracemalloc.start()
    try:
        assert items(data, tmp_path) == []
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_bomb_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without an end of line is not read for ever."""
    monkeypatch.setattr("recension.sources.lines.MAX_BARREN_BYTES", 2**20)
    with pytest.raises(SourceLimitError):
        items(gzip.compress(tar(bytes(3 * 2**20))), tmp_path)


@pytest.mark.parametrize(
    "name,expected",
    [
        ("wikimedia/wme/main-dataset/articles/enwiki/Josephine_Baker.json", (255083, "Josephine Baker")),
        ("wikimedia/wme/main-dataset/articles/frwiki/Alexandros_Ioannis_Ginnis.json",
         (15442292, "Alexandros Ioannis Ginnis")),
    ],
)  # fmt: skip
def test_real_answers(name: str, expected: tuple[int, str]) -> None:
    """What On-demand answered in January 2025: both texts, and the count of bytes is right."""
    path = shared(name)
    project = path.parent.name
    with open_container(path) as container:
        event, sighting = read_articles(container, path, project)
    assert isinstance(event, Event)
    assert isinstance(event.what, Edit)
    assert isinstance(sighting, Sighting)
    assert expected == (event.page_id, event.what.title)
    main, html = event.what.slots
    assert len(main.text) == main.claimed_bytes
    assert html.text.startswith(b"<!DOCTYPE html>")
    assert event.what.title_inferred is (sighting.time - event.time > 600_000_000)


def test_real_lines() -> None:
    """Three articles of three projects, of 2023; of the others each is rejected as such."""
    path = shared("wikimedia/wme/sdk-python/articles.ndjson")
    for project in ("dewiki", "enwiki", "ruwiki"):
        with open_container(path) as container:
            found = list(read_articles(container, path, project))
        assert [2, 2] == [
            sum(isinstance(item, kind) for item in found) for kind in (Event | Sighting, Rejected)
        ]
        assert {"OTHER_PROJECT"} == {item.reason for item in found if isinstance(item, Rejected)}


def test_real_stream_lines() -> None:
    """A delete with underscores; updates of which but a few fields were asked for."""
    path = shared("wikimedia/wme/sdk-python/stream-samples.ndjson")
    with open_container(path) as container:
        found = list(read_articles(container, path, "ukwiki"))
    (seen,) = [item for item in found if isinstance(item, Sighting)]
    assert (True, "Писарівка (Ямпільський район)") == (seen.gone, seen.title)
