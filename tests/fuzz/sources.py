"""Parsers of what upstream publishes."""

from __future__ import annotations

import contextlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from unittest import mock

from google.protobuf import json_format

from recension.model.errors import InvalidArgumentError, SourceError
from recension.model.event import Event
from recension.model.instant import format_instant, parse_instant
from recension.model.mark import Mark, read_mark
from recension.server.dumpsets import gather
from recension.sources import (
    runs,
    sevenzip,  # noqa: F401 - else it is imported late, and not instrumented
)
from recension.sources.containers import open_container
from recension.sources.dump_names import is_dump, read_name
from recension.sources.enterprise import read_articles
from recension.sources.enterprise_stream import _read_place, _Reader
from recension.sources.events_ndjson import EventDecoder, read_events
from recension.sources.eventstreams import read_place, written_place
from recension.sources.items import BadRecordError, ByteSource, Item, RunEnd, Sighting, Skipped, checked
from recension.sources.json_fields import parse_json
from recension.sources.lines import Lines
from recension.sources.mediawiki_log import read_log
from recension.sources.mediawiki_xml import read_history
from recension.sources.page_change import Passed, edit_of, happened_event, read_document
from recension.sources.php_values import PhpFormatError, PhpValue, unserialize
from recension.sources.sse import read_frames
from recension.sources.titles import fold_name, fold_table, namespace_of, plain_title
from recension.v1 import event_pb2 as event_pb
from recension.wire import convert
from tests.fuzz.mutators import changed_json, changed_xml
from tests.fuzz.readback import NAMESPACES, PROJECT, stored
from tests.fuzz.target import Target
from tests.sources.helpers import Dribble

_PATH = Path("input")
_MOST_DECODED = 32 * 1024 * 1024
Parser = Callable[[ByteSource], Iterator[Item]]


def _items(parser: Parser, source: ByteSource) -> tuple[list[Item], str]:
    """Return what comes before a named error, and the error's reason.

    What was passed over until then is left out: it may be counted some way beyond a file that is refused.
    """
    found: list[Item] = []
    try:
        found.extend(item for item in parser(source) if not isinstance(item, RunEnd))
    except SourceError as error:
        return [item for item in found if not isinstance(item, Skipped)], error.reason
    return found, ""


def _source(parser: Parser) -> Callable[[bytes], object]:
    """Read an input in one piece and in small ones, which has to be the same, and store what it says."""

    def read(data: bytes) -> int:
        found = _items(parser, io.BytesIO(data))
        step = len(data) // 8 + len(data) % 7 + 1  # some ten pieces, whose ends are everywhere
        assert found == _items(parser, Dribble(data, step)), f"in pieces of {step} bytes it is another"
        return stored(found[0])

    return read


def _history(source: ByteSource) -> Iterator[Item]:
    return read_history(source, _PATH, PROJECT)


def _log(source: ByteSource) -> Iterator[Item]:
    return read_log(source, _PATH, PROJECT)


def _events(source: ByteSource) -> Iterator[Item]:
    return read_events(source, _PATH, PROJECT, NAMESPACES)


def _articles(source: ByteSource) -> Iterator[Item]:
    return read_articles(source, _PATH, PROJECT, NAMESPACES)


def _one_event(data: bytes) -> Event:
    """Read a line as an event; protobuf's own parser of JSON has to take it too, and as the same.

    But for times, of which some are read here that a protobuf parser refuses.
    """
    event = EventDecoder(PROJECT, NAMESPACES).decode(data)
    table = fold_table(NAMESPACES)
    try:
        message = json_format.Parse(data, event_pb.Event())
    except json_format.ParseError as error:
        if "time field" in str(error):
            return event
        raise
    assert event == convert.event_from_proto(message, lambda title: namespace_of(title, table))
    return event


_SHARES = 3
_RUN_BYTES = 64


def _shared(data: bytes) -> int:
    """Several processes that share a history, in runs of a page or two, give what one of them gives."""
    with mock.patch.object(runs, "RUN_BYTES", _RUN_BYTES):
        whole = _runs(data, runs.WHOLE)
        parts = [_runs(data, runs.Share(which, _SHARES)) for which in range(_SHARES)]
    for number, (found, reason) in enumerate(whole):
        assert (found, reason) == parts[number % _SHARES][number // _SHARES]
    return sum(len(found) for found, _ in whole)


def _runs(data: bytes, share: runs.Share) -> list[tuple[list[Item], str]]:
    """Return the items of each run of a share, and the reason of the error that ended it."""
    found: list[tuple[list[Item], str]] = [([], "")]
    try:
        for item in read_history(io.BytesIO(data), _PATH, PROJECT, share):
            if isinstance(item, RunEnd):
                found.append(([], ""))
            else:
                found[-1][0].append(item)
    except SourceError as error:
        found[-1] = [item for item in found[-1][0] if not isinstance(item, Skipped)], error.reason
    return found


# --- streams --------------------------------------------------------------------------------------


def _page_change(data: bytes) -> int:
    """Read a document of EventStreams; its revision, with texts that came, and what happened are stored."""
    try:
        value = parse_json(data)
    except ValueError:
        return 0
    change = read_document(value)
    if isinstance(change, Passed):
        return 0
    events = []
    if change.revision is not None:
        events.append(edit_of(change, {slot.role: b"text" for slot in change.revision.slots}))
    if change.happened is not None:
        events.append(happened_event(change))
    assert all(event == checked(event) for event in events)
    return stored(events) if change.project == PROJECT else 1


def _server_events(data: bytes) -> int:
    """Read frames in one piece and in small ones; where to go on is kept as a mark, and asked for again."""
    found = list(read_frames(io.BytesIO(data), "input"))
    assert found == list(read_frames(Dribble(data, len(data) % 7 + 1), "input"))
    good = 0
    for frame in found:
        place = read_place(frame.id)
        if place is None:
            continue
        asked = written_place(place)
        assert asked == written_place(read_place(asked) or {})
        with contextlib.suppress(InvalidArgumentError):
            mark = Mark("event-stream", "input", offsets=place)
            assert mark == read_mark(mark.encoded)
            good += 1
    return good


def _stream(data: bytes) -> int:
    """Read lines of Enterprise's stream, and keep the offsets of each as a mark."""
    reader = _Reader(PROJECT, NAMESPACES, {}, deque(maxlen=8))
    items: list[Item] = []
    for line in Lines(io.BytesIO(data), "input"):
        piece = reader.piece(line)
        items += [item for item in piece.items if isinstance(item, (Event, Sighting))]
        if piece.offsets:
            mark = Mark("enterprise-stream", "input", offsets=piece.offsets)
            assert mark == read_mark(mark.encoded)
            assert None is not _read_place(next(iter(piece.offsets.values())))[0]
    return stored(items)


# --- values ---------------------------------------------------------------------------------------


def _php(data: bytes) -> bool:
    value = unserialize(data)
    written = _serialize(value)
    assert _typed(value) == _typed(unserialize(written))
    return True


def _serialize(value: PhpValue) -> bytes:
    match value:
        case None:
            return b"N;"
        case bool():
            return b"b:%d;" % value
        case int():
            return b"i:%d;" % value
        case bytes():
            return b's:%d:"%s";' % (len(value), value)
        case _:
            inner = b"".join(_serialize(key) + _serialize(one) for key, one in value.items())
            return b"a:%d:{%s}" % (len(value), inner)


def _typed(value: PhpValue) -> object:
    """Tell ``True`` from 1."""
    if isinstance(value, dict):
        return [(key, _typed(one)) for key, one in value.items()]
    return type(value), value


def _name(data: bytes) -> bool:
    """The name of a dump's file: whatever it is, it is taken apart."""
    name = data.decode(errors="surrogateescape")
    part = read_name(name)
    assert name.endswith(part.packed)
    assert len(part.stem + part.packed) <= len(name)
    assert min(part.order) >= 0
    return is_dump(name)


def _listing(data: bytes) -> bool:
    """What lies beside a dump: a list of digests or the status, as the first byte says."""
    folder = _folder()
    names = ("sha256sums.txt", "md5sums.txt", "dumpstatus.json")
    name = names[data[0] % len(names)] if data else names[0]
    (folder / name).write_bytes(data[1:])
    try:
        (found,), faults = gather("dump", [folder / "p-20260101-pages-articles.xml"])
    finally:
        (folder / name).unlink()
    assert all(isinstance(fault, SourceError) for fault in faults)
    return bool(found.digests)


@cache
def _folder() -> Path:
    return Path(mkdtemp(prefix="recension-dump-"))


def _titles(data: bytes) -> bool:
    title = data.decode(errors="replace")
    plain = plain_title(title)
    assert plain == plain_title(plain)
    prefix, colon, _ = title.partition(":")
    table = fold_table({prefix: 7, "Talk": 1})
    if colon and fold_name(prefix) not in ("", "talk"):
        assert namespace_of(title, table) == (7 if prefix else 0)
    assert fold_name(title) == fold_name(plain)
    return True


def _instant(data: bytes) -> bool:
    at = parse_instant(data.decode(errors="replace"))
    assert at == parse_instant(format_instant(at))
    return True


# --- containers -----------------------------------------------------------------------------------


def _packed(data: bytes) -> bool:
    """Unpack an input in large pieces and in small ones, which has to be the same."""
    file = os.memfd_create("input")
    try:
        os.write(file, data)
        path = Path(f"/proc/self/fd/{file}")
        whole = _unpacked(path, 1024 * 1024)
        assert whole == _unpacked(path, 997)
    finally:
        os.close(file)
    return bool(whole[0])


def _unpacked(path: Path, size: int) -> tuple[bytes, str]:
    data = bytearray()
    try:
        with open_container(path, tar=True) as container:
            while len(data) < _MOST_DECODED and (
                piece := container.read(min(size, _MOST_DECODED - len(data)))
            ):
                assert len(piece) <= size
                data += piece
                assert 0 <= container.progress.done <= container.progress.total
    except SourceError as error:
        return bytes(data), error.reason
    return bytes(data), ""


_XML = (
    *(b"<page>", b"</page>", b"<revision>", b"</revision>", b"<title>", b"<ns>", b"<id>", b"<timestamp>"),
    *(b"<contributor>", b"<username>", b"<ip>", b"<comment", b"<minor/>", b"<model>", b"<format>", b"<sha1>"),
    *(b"<text", b"</text>", b" bytes='5'", b" sha1='", b" deleted='deleted'", b" location='tt:1'"),
    *(b"<content>", b"<role>", b"<parentid>", b"<siteinfo>", b"<namespace key='1'>", b"<case>first-letter"),
    *(b"<logitem>", b"<logtitle>", b"<params>", b"<type>", b"<action>", b"move", b"delete", b"restore"),
    *(b"<!DOCTYPE a [", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"&lt;", b"&#0;", b"&#xD800;", b"&x;"),
    *(b"<?xml version='1.0' encoding='utf-16'?>", b"xmlns:a='b'", b"2001-01-15T13:15:00Z"),
    *(b"9223372036854775808", b"-1", b"revision", b"nfield=", b"ofield="),
)  # fmt: skip
_PHP = (
    *(b"N;", b"b:1;", b"i:0;", b"i:-9223372036854775808;", b's:9:"4::target";', b's:7:"4::type";', b"a:1:{"),
    *(b"a:2:{i:0;", b's:6:"5::ids";', b's:9:"7::nfield";', b'";', b"}", b"d:0.5;", b'O:8:"stdClass":0:{}'),
)  # fmt: skip
_JSON = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"false", b"NaN", b"1e999", b"1.0", b"-1"),
    *(b"\\", b"\\u0000", b"\\ud800", b"\\udc00", b"\\n", b"\n", b"\xef\xbb\xbf", b"9223372036854775807"),
)  # fmt: skip
_EVENT = (
    *(b'"project":"p"', b'"pageId":', b'"time":', b'"sourceId":', b'"edit":{', b'"move":{', b'"delete":{'),
    *(b'"restore":{', b'"visibility":{', b'"revId":', b'"parentRevId":', b'"title":', b'"namespace":'),
    *(b'"fromTitle":', b'"toTitle":', b'"contributor":{', b'"comment":', b'"commentHidden":', b'"slots":[{'),
    *(b'"role":"main"', b'"presence":"PRESENCE_HIDDEN"', b'"text":"', b'"claimedSha1":', b'"page_id":'),
)  # fmt: skip
_ARTICLE = (
    *(b'"name":', b'"identifier":', b'"date_modified":', b'"version":{', b'"previous_version":{'),
    *(b'"namespace":{', b'"is_part_of":{"identifier":"p"}', b'"article_body":{', b'"html":', b'"wikitext":'),
    *(b'"event":{', b'"type":"update"', b'"type":"delete"', b'"type":"visibility-change"', b'"visibility":{'),
    *(b'"date_created":', b'"date_published":', b'"size":{"value":', b'"is_minor_edit":', b'"comment":'),
)  # fmt: skip
_MAGIC = (
    *(b"BZh9", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\xfd7zXZ\0", b"\x5d\0\0"),
    *(b"7z\xbc\xaf\x27\x1c", b"ustar\x0000", b"\0" * 16),
)  # fmt: skip

_FRAME = (b"data: ", b"id: ", b"event: ", b"retry: 5", b":", b"\r", b"\r\n")

TARGETS = (
    Target("history", _source(_history), words=_XML, mutate=changed_xml),
    Target("shares", _shared, words=_XML, mutate=changed_xml),
    Target("log", _source(_log), words=_XML + _PHP, mutate=changed_xml),
    Target("events", _source(_events), words=_JSON + _EVENT, mutate=changed_json),
    Target("event", _one_event, (BadRecordError,), _JSON + _EVENT, mutate=changed_json),
    Target("articles", _source(_articles), words=_JSON + _ARTICLE, mutate=changed_json),
    Target("tar", _source(_articles), words=_MAGIC + _JSON, most_bytes=8192),
    Target("packed", _packed, words=_MAGIC),
    Target("sevenzip", _packed, words=_MAGIC),
    Target("page-change", _page_change, (BadRecordError,), _JSON, mutate=changed_json),
    Target("server-events", _server_events, words=(*_JSON, *_FRAME)),
    Target("stream", _stream, words=_JSON + _ARTICLE, mutate=changed_json),
    Target("php", _php, (PhpFormatError,), _PHP),
    Target(
        "name", _name, (), (b"-20260101", b"-p1p2", b"r1r2", b"pages-meta-history1", b".xml", b".7z"), 256
    ),
    Target(
        "listing",
        _listing,
        words=(*_JSON, b'"jobs"', b'"files"', b'"status":"done"', b'"sha1"', b"  ", b" *"),
    ),
    Target("titles", _titles, (), (b":", b"_", b" ", b"Talk", "İ".encode(), "ß".encode()), 256),
    Target(
        "instant", _instant, words=(b"T", b"Z", b"+00:00", b"24:00:00", b"0000-00-00", b"."), most_bytes=64
    ),
)
