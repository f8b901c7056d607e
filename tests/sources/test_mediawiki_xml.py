from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from recension.model.errors import (
    SourceCorruptError,
    SourceError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Edit,
    Event,
    Presence,
    SlotText,
)
from recension.model.instant import parse_instant
from recension.sources.items import MAX_EVENT_BYTES, MAX_EXCERPT_BYTES, Rejected, SiteInfo, Skipped
from recension.sources.mediawiki_xml import read_history
from tests.sources.helpers import (
    SITEINFO,
    Dribble,
    dump,
    edits,
    history,
    logitem,
    page,
    reasons,
    rejections,
    revision,
    until_fault,
)

SHA1 = "syvtbocopvw4f81bf07ocly0sl8ybqo"
MAIN = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"Hello", "", 5)


def only_edit(xml: str) -> Edit:
    (edit,) = edits(history(dump(page(xml))))
    return edit


def only_slot(text: str, rest: str = "") -> SlotText:
    (slot,) = only_edit(revision(text=text, rest=rest)).slots
    return slot


def fault_of(data: bytes) -> tuple[int, SourceError]:
    """How many edits come before the error that ends the dump, and the error."""
    items, fault = until_fault(read_history(Dribble(data, 1 << 20), Path("a.xml"), "p"))
    assert fault is not None
    return len(edits(items)), fault


def test_whole_revision() -> None:
    """A revision of schema 0.11 becomes one edit with all its fields."""
    rest = (
        "<parentid>3</parentid><contributor><username>Ann</username><id>9</id></contributor><minor/>"
        "<comment>why &amp; how</comment><origin>4</origin><model>css</model><format>text/css</format>"
    )
    text = f'<text bytes="6" sha1="{SHA1}" xml:space="preserve">Hello</text><sha1>fold</sha1>'
    items = history(dump(page(revision(4, text=text, rest=rest))))
    slot = SlotText("main", "css", "text/css", Presence.PRESENT, b"Hello", SHA1, 6)
    edit = Edit(
        rev_id=4,
        parent_rev_id=3,
        title="Apple",
        namespace=0,
        title_inferred=True,
        contributor=Contributor.named("Ann", 9),
        comment=Comment.of("why & how"),
        minor=True,
        slots=(slot,),
    )
    namespaces = {0: "", 1: "Talk", 3: "Benutzer Diskussion"}
    site = SiteInfo("testwiki", "Test", "https://t.example/wiki/Main", "first-letter", namespaces)
    assert [site, Event("p", 7, parse_instant("2001-01-15T13:15:00Z"), "", edit)] == items


@pytest.mark.parametrize("step", [1, 7, 64])
def test_place_of_chunk_ends_does_not_matter(step: int) -> None:
    """The same items come out however the input is cut into chunks."""
    revisions = revision(1) + revision("x", rest="<comment>ключ</comment>") + revision(3, rest="<unknown/>")
    data = dump(page(revisions, head="<title>Ключ</title><id>7</id>"))
    items = list(read_history(Dribble(data, step), Path("a.xml"), "p"))
    assert history(data) == items
    assert len(edits(items)) == 2


@pytest.mark.parametrize("version", ["0.3", "0.8", "0.10", "0.11", "9.9"])
def test_any_schema_version(version: str) -> None:
    """Elements count by their local names, in the namespace of any version."""
    assert len(edits(history(dump(page(revision()), version=version)))) == 1


def test_no_namespace_and_prefixes() -> None:
    """A dump without a namespace is read, and one whose elements carry a prefix."""
    plain = f"<mediawiki>{page(revision())}</mediawiki>"
    prefixed = plain.replace("</", "</m:").replace("<", "<m:").replace("<m:/m:", "</m:")
    assert [SiteInfo(), *history(plain.encode())[1:]] == history(prefixed.encode())
    assert len(edits(history(plain.encode()))) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_encodings_with_a_byte_order_mark(encoding: str) -> None:
    """UTF-16 with a byte order mark is read, and UTF-8 with or without one."""
    data = dump(page(revision(rest="<comment>Füße</comment>"))).decode().encode(encoding)
    assert [Comment.of("Füße")] == [edit.comment for edit in edits(history(data))]


# --- contributors and comments ------------------------------------------------------------------


@pytest.mark.parametrize(
    "xml,expected",
    [
        ("<username>Ann</username><id>9</id>", Contributor.named("Ann", 9)),
        ("<username>Conversion script</username><id>0</id>", Contributor.named("Conversion script", 0)),
        ("<username>imported&gt;Ann</username><id>0</id>", Contributor.named("imported>Ann", 0)),
        ("<username></username><id>0</id>", Contributor.named("", 0)),
        ("<username />", Contributor.named("")),
        ("<username>Ann</username>", Contributor.named("Ann")),
        ("<username>~2025-12345-67</username><id>88</id>", Contributor.named("~2025-12345-67", 88)),
        ("<username>Broken import</username><id>-1</id>", Contributor.named("Broken import")),
        ("<ip>192.0.2.1</ip>", Contributor.named("192.0.2.1")),
        ("<ip>MediaWiki default</ip>", Contributor.named("MediaWiki default")),
        ("", NOBODY),
    ],
)
def test_contributors(xml: str, expected: Contributor) -> None:
    """Accounts, addresses, empty names and id 0 are kept as they are."""
    assert expected == only_edit(revision(rest=f"<contributor>{xml}</contributor>")).contributor


def test_hidden_contributor_and_comment() -> None:
    """What upstream hides is hidden, which is not the same as absent."""
    hidden = only_edit(revision(rest='<contributor deleted="deleted"/><comment deleted="deleted"/>'))
    absent = only_edit(revision())
    assert (HIDDEN_CONTRIBUTOR, HIDDEN_COMMENT) == (hidden.contributor, hidden.comment)
    assert (NOBODY, NO_COMMENT) == (absent.contributor, absent.comment)


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "xml,presence,size",
    [
        ('<text bytes="26" deleted="deleted" />', Presence.HIDDEN, 26),
        ('<text bytes="-1" deleted="deleted" />', Presence.HIDDEN, None),
        ('<text bytes="26" />', Presence.LOST, 26),
        ('<text bytes="26" sha1="abc"></text>', Presence.LOST, 26),
        ('<text bytes="0" />', Presence.PRESENT, 0),
        ('<text xml:space="preserve"></text>', Presence.PRESENT, None),
    ],
)
def test_hidden_lost_and_empty_are_three_things(xml: str, presence: Presence, size: int | None) -> None:
    """No content means hidden, lost or empty, by the flag and the stated size."""
    slot = only_slot(xml)
    assert (presence, size, b"") == (slot.presence, slot.claimed_bytes, slot.text)


def test_text_is_kept_to_the_byte() -> None:
    """White space, entities, CDATA and every script come through unchanged."""
    xml = "<text xml:space='preserve'>  \n&lt;b&gt; &#x41;<![CDATA[<&]]> कखग 😀\t\n</text>"
    assert "  \n<b> A<&] कखग 😀\t\n".replace("&]", "&") == only_slot(xml).text.decode()


def test_slots() -> None:
    """Other slots follow the main one, each with its own claims; the fold over all is nobody's claim."""
    extra = (
        "<content><role>mediainfo</role><origin>1</origin><model>wikibase-mediainfo</model>"
        f'<format>application/json</format><text bytes="2" sha1="{SHA1}">{{}}</text></content>'
        "<sha1>fold</sha1>"
    )
    slots = only_edit(revision(text='<text bytes="5">Hello</text>' + extra)).slots
    second = SlotText("mediainfo", "wikibase-mediainfo", "application/json", Presence.PRESENT, b"{}", SHA1, 2)
    assert (MAIN, second) == slots


def test_sha1_of_a_revision_is_that_of_its_only_slot() -> None:
    """Before 0.11 the claim stands at the revision; the claim at the text goes first."""
    at_revision = only_slot(f"<text>Hello</text><sha1>{SHA1}</sha1>")
    at_both = only_slot(f'<text sha1="{SHA1}">Hello</text><sha1>other</sha1>')
    nowhere = only_slot("<text>Hello</text><sha1 />")
    assert [SHA1, SHA1, ""] == [slot.claimed_sha1 for slot in (at_revision, at_both, nowhere)]


@pytest.mark.parametrize("attributes", ['id="43" location="tt:43"', 'id="43"', 'bytes="0" location="tt:1"'])
def test_stub_dump(attributes: str) -> None:
    """A stub dump is refused at its first revision: it has no texts."""
    count, fault = fault_of(dump(page(revision(text=f"<text {attributes} />"))))
    assert (0, SourceFormatError) == (count, type(fault))
    assert "this is a stub dump, it has no texts" in fault.message


# --- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "title,ns,expected",
    [
        ("Talk:Apple", "<ns>4</ns>", 4),
        ("Talk:Apple", "", 1),
        ("tALK:Apple", "", 1),
        ("Benutzer_Diskussion:Ann", "", 3),
        ("Trek: The Movie", "", 0),
        ("Apple", "", 0),
    ],
)
def test_namespace(title: str, ns: str, expected: int) -> None:
    """The namespace is the stated one, else that of the title's prefix."""
    items = history(dump(page(revision(), head=f"<title>{title}</title>{ns}<id>7</id>")))
    assert [expected] == [edit.namespace for edit in edits(items)]


def test_order_of_elements_does_not_matter() -> None:
    """Children are read by name: the order differs from version to version."""
    time = "<timestamp>2001-01-01T00:00:00Z</timestamp>"
    shuffled = f"<revision><sha1>x</sha1><text>a</text><minor/>{time}<id>1</id></revision>"
    items = history(dump(page(shuffled, head="<id>7</id><ns>0</ns><title>Apple</title>")))
    assert [(1, True)] == [(edit.rev_id, edit.minor) for edit in edits(items)]


def test_heads_of_pages_do_not_leak() -> None:
    """A page without an id or title does not get those of the page before it."""
    data = dump(
        page(revision(1))
        + page(revision(2), head="<title>Pear</title>")
        + page(revision(3), head="<id>8</id>")
    )
    items = history(data)
    assert [1] == [edit.rev_id for edit in edits(items)]
    assert ["MISSING_ID", "MISSING_TITLE"] == reasons(items)


@pytest.mark.parametrize(
    "bad,reason",
    [
        (revision(2, time="yesterday"), "INVALID_TIME"),
        (revision(2, time="2001-13-15T13:15:00Z"), "INVALID_TIME"),
        (revision(2, time="2001-01-15"), "INVALID_TIME"),
        (revision(""), "MISSING_ID"),
        (revision("two"), "INVALID_NUMBER"),
        (revision("٢"), "INVALID_NUMBER"),
        (revision("9" * 5000), "INVALID_NUMBER"),
        (revision(2**63), "INVALID_EVENT"),
        (revision(0), "INVALID_EVENT"),
        (revision(2, rest="<parentid>-4</parentid>"), "INVALID_EVENT"),
        (revision(2, rest="<contributor><username>A</username><id>x</id></contributor>"), "INVALID_NUMBER"),
        (revision(2, text="<text bytes='many'>a</text>"), "INVALID_NUMBER"),
        (revision(2, text=""), "MISSING_TEXT"),
        (revision(2, text="<text>a</text><content><text>b</text></content>"), "INVALID_EVENT"),
        (
            revision(2, text="<text>a</text><content><role>main</role><text>b</text></content>"),
            "INVALID_EVENT",
        ),
        (revision(2, rest=f"<comment>{'x' * 70_000}</comment>"), "INVALID_EVENT"),
    ],
)
def test_bad_revision_does_not_stop_the_dump(bad: str, reason: str) -> None:
    """A fault inside a revision costs that revision alone, and says where it is."""
    items = history(dump(page(revision(1) + bad + revision(3))))
    assert [1, 3] == [edit.rev_id for edit in edits(items)]
    (rejected,) = rejections(items)
    assert reason == rejected.reason
    assert rejected.position.startswith("line 1, byte ")
    assert rejected.excerpt.startswith(b"<revision>")
    assert len(rejected.excerpt) <= MAX_EXCERPT_BYTES


def test_title_with_control_characters() -> None:
    """A page whose title has a line break is left out, revision by revision."""
    items = history(
        dump(page(revision(1) + revision(2), head="<title>A&#10;B</title><id>7</id>") + page(revision(3)))
    )
    assert ["INVALID_EVENT", "INVALID_EVENT"] == reasons(items)
    assert [3] == [edit.rev_id for edit in edits(items)]


def test_position_and_excerpt_across_chunks() -> None:
    """The excerpt of a bad record is its own beginning, wherever the chunks end."""
    bad = revision("x", rest=f"<comment>{'y' * 5000}</comment>")
    data = dump(page("\n" + revision(1) + "\n" + bad + revision(3)))
    for step in (3, 100, 4096):
        (rejected,) = rejections(list(read_history(Dribble(data, step), Path("a.xml"), "p")))
        assert f"line 3, byte {data.index(bad.encode())}" == rejected.position
        assert bad.encode()[:MAX_EXCERPT_BYTES] == rejected.excerpt


def test_what_is_passed_over_is_counted() -> None:
    """Unknown elements, uploads and a second head are counted and skipped, with the records inside them."""
    upload = "<upload><timestamp>x</timestamp><contents encoding='base64'>AAAA</contents></upload>"
    thread = f"<DiscussionThreading><deep>{revision(99)}</deep></DiscussionThreading>"
    redirect = "<redirect title='B' /><restrictions>edit=sysop</restrictions>"
    body = page(redirect + revision(1, rest="<surprise/>") + upload * 2 + thread) + SITEINFO
    items = history(dump(body))
    assert [1] == [edit.rev_id for edit in edits(items)]
    counts = {"<DiscussionThreading>": 1, "<siteinfo>": 1, "<surprise>": 1, "<upload>": 2}
    assert Skipped(counts) == items[-1]


def test_dump_without_head() -> None:
    """A head is always the first item, be it empty."""
    assert SiteInfo() == history(dump(page(revision()), siteinfo=""))[0]


def test_logging_dump() -> None:
    """A logging dump is refused by its first entry."""
    _, fault = fault_of(dump(logitem("delete", "delete")))
    assert "logging dump" in fault.message


# --- hostile and broken XML ---------------------------------------------------------------------

LAUGHS = (
    '<!DOCTYPE mediawiki [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "prolog",
    [
        LAUGHS,
        '<!DOCTYPE mediawiki [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE mediawiki SYSTEM "http://192.0.2.1/x.dtd">',
        "<!DOCTYPE mediawiki>",
        '<!DOCTYPE mediawiki [<!ENTITY % p SYSTEM "http://192.0.2.1/p">%p;]>',
    ],
)
def test_document_types_are_refused(prolog: str) -> None:
    """Any DOCTYPE ends the parse before an entity is expanded or fetched."""
    data = prolog.encode() + dump(page(revision(text="<text>&c;&x;</text>")))
    count, fault = fault_of(data)
    assert (0, SourceFormatError) == (count, type(fault))
    assert "DOCTYPE" in fault.message


def test_undefined_entity() -> None:
    """An entity that XML does not define ends the parse, after everything before it, with its place."""
    body = page(revision(1) + revision(2) + revision(3, text="<text>\n&nbsp;</text>") + revision(4))
    count, fault = fault_of(dump(body))
    assert (2, SourceCorruptError) == (count, type(fault))
    assert "undefined entity" in fault.message
    assert ("2", "Apple") == (fault.metadata["line"], fault.metadata["page"])


@pytest.mark.parametrize("data", [b"<html><body/></html>", b"<page/>", b"<revision><id>1</id></revision>"])
def test_wrong_root(data: bytes) -> None:
    """Another root element is another format."""
    _, fault = fault_of(data)
    assert SourceFormatError is type(fault)


@pytest.mark.parametrize(
    "data", [b"{}", b"hello", b"\x00\x01\x02", b'<?xml version="1.0" encoding="no-such"?><a/>']
)
def test_not_xml(data: bytes) -> None:
    """What is not XML at all is another format, not damage."""
    _, fault = fault_of(data)
    assert SourceFormatError is type(fault)


def test_deep_nesting() -> None:
    """Elements nested beyond the limit end the parse at once, known or not."""
    for name in ("x", "revision", "page", "title"):
        count, fault = fault_of(dump(page(revision(1)) + f"<{name}>" * 2_000_000))
        assert (1, SourceLimitError) == (count, type(fault))


@pytest.mark.parametrize(
    "token",
    [b'<page a="' + b"x" * (24 << 20), b"<!--" + b"x" * (24 << 20), b"<" + b"x" * (24 << 20)],
)
def test_huge_tokens(token: bytes) -> None:
    """An attribute, comment or name of many megabytes is refused after eight, in linear time."""
    count, fault = fault_of(dump(page(revision(1)))[: -len("</mediawiki>")] + token)
    assert (1, SourceLimitError) == (count, type(fault))


def test_text_above_the_limit() -> None:
    """A text of more than 16 MiB costs its revision and not the dump."""
    huge = revision(2, text=f"<text>{'x' * (MAX_EVENT_BYTES + (3 << 20))}</text>")
    wide = revision(3, text=f"<text>{'é' * (MAX_EVENT_BYTES // 2 + 1)}</text>")
    most = revision(4, text=f"<text>{'x' * MAX_EVENT_BYTES}</text>")
    items = history(dump(page(revision(1) + huge + wide + most + revision(5))))
    assert [1, 4, 5] == [edit.rev_id for edit in edits(items)]
    assert ["TEXT_TOO_LARGE"] * 2 == reasons(items)


def test_record_of_many_elements() -> None:
    """A revision of very many elements is left out without being kept."""
    items = history(dump(page(revision(1, rest="<x/>" * 50_000) + revision(2))))
    assert ["TOO_MANY_ELEMENTS"] == reasons(items)
    assert [2] == [edit.rev_id for edit in edits(items)]


def test_huge_title() -> None:
    """A title without end is refused while it comes in."""
    _, fault = fault_of(dump("<page><title>" + "x" * (MAX_EVENT_BYTES + (2 << 20))))
    assert SourceLimitError is type(fault)


class Endless:
    """The head of a page, and then ``left`` times the same bytes."""

    def __init__(self, head: bytes, one: bytes, left: int) -> None:
        self._head = head
        self._one = one
        self._left = left

    def read(self, size: int, /) -> bytes:
        head, self._head = self._head, b""
        count = min(self._left, 100)
        self._left -= count
        return head + self._one * count


def test_page_of_many_revisions_streams() -> None:
    """A page of many revisions is read in the memory of a few, unknown siblings included."""
    one = revision(text=f"<text>{'x' * 200}</text>", rest="<minor/>").encode() + b"<unknown/>"
    source = Endless(b"<mediawiki><page><title>A</title><id>1</id>", one, 10_000)
    count, last, peak = 0, None, 0
    tracemalloc.start()
    try:
        for item in read_history(source, Path("a.xml"), "p"):
            count += isinstance(item, Event)
            last = item
    except SourceTruncatedError:
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (10_000, Skipped({"<unknown>": 10_000})) == (count, last)
    assert peak < 3 << 20


def test_every_cut_is_named() -> None:
    """A dump cut at any byte gives what was complete, and then says that it is cut."""
    data = dump(page(revision(1) + revision(2)))
    ends = [
        index + len("</revision>") for index in range(len(data)) if data.startswith(b"</revision>", index)
    ]
    for cut in range(1, len(data)):
        count, fault = fault_of(data[:cut])
        assert (sum(end <= cut for end in ends), SourceTruncatedError) == (count, type(fault))


def test_mismatched_tags() -> None:
    """Markup that is not well-formed ends the parse with the place and the page."""
    count, fault = fault_of(dump(page(revision(1) + "<revision><id>2</revision>")))
    assert (1, SourceCorruptError) == (count, type(fault))
    assert fault.metadata["byte"].isdigit()


def test_half_surrogate_in_utf16() -> None:
    """Characters that are none end the parse with a named error."""
    data = (
        dump(page(revision(1)))
        .decode()
        .encode("utf-16-le")
        .replace("Hello".encode("utf-16-le"), b"\x00\xdcH\x00")
    )
    _, fault = fault_of(b"\xff\xfe" + data)
    assert SourceCorruptError is type(fault)


def test_rejected_names_the_record() -> None:
    """The message of a rejection says which page and revision it is about."""
    (rejected,) = rejections(history(dump(page(revision(12, time="never")))))
    assert isinstance(rejected, Rejected)
    assert "page 'Apple', revision '12', its timestamp is not a time: 'never'" == rejected.message
