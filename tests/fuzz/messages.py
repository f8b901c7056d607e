"""Readers of what comes over the wire: requests, answers, tokens, and frames of the process that parses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from recension.archive.intake.frames import Batch, FrameError, unpack_batch
from recension.model import cursor
from recension.model.access import Role, Secret
from recension.model.errors import InvalidCursorError, RecensionError
from recension.model.event import NO_COMMENT, NOBODY, Edit, Event, Presence, SlotText
from recension.model.manifest import Selector
from recension.model.step import Record
from recension.model.tree import EMPTY_ROOT, build
from recension.server.cursors import Cursors
from recension.server.door import ANYBODY, Caller, act_for
from recension.server.tokens import Token, Tokens
from recension.sources.items import (
    BadRecordError,
    Progress,
    Rejected,
    Sighting,
    SiteInfo,
    Skipped,
    checked,
)
from recension.v1 import admin_service_pb2 as admin_pb
from recension.v1 import agreement_service_pb2 as agreement_pb
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import change_service_pb2 as change_pb
from recension.v1 import event_pb2 as event_pb
from recension.v1 import pin_service_pb2 as pin_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1 import usage_service_pb2 as usage_pb
from recension.wire import agreements, attribution, convert, differences, frames, pins, usage
from recension.wire.status import TRAILER, error_of, status_of
from recension_client.retrying import CutError
from recension_client.watching import Commit, Standing, WatchStream
from tests.fuzz.mutators import changed_json, messages_in, of_message, of_messages, of_sequence
from tests.fuzz.readback import PROJECT, stored
from tests.fuzz.target import Target

Reader = Callable[[Any], Any]
Form = tuple[type[Any], Reader, Reader | None]
"""A message, how it is read, and how what was read is written; ``None`` where nobody writes it alone."""

REQUESTS: tuple[Form, ...] = (
    (snapshot_pb.Selector, convert.selector_from_proto, convert.selector_to_proto),
    (revision_pb.AsOf, convert.wanted_as_of_from_proto, lambda found: convert.wanted_as_of_to_proto(*found)),
    (snapshot_pb.Shard, convert.shard_from_proto, convert.shard_to_proto),
    (snapshot_pb.Place, convert.place_from_proto, convert.place_to_proto),
    (admin_pb.Licensee, agreements.licensee_from_proto, agreements.licensee_to_proto),
)
ANSWERS: tuple[Form, ...] = (
    (catalog_pb.Project, convert.project_from_proto, convert.project_to_proto),
    (catalog_pb.GetServerInfoResponse, convert.server_info_from_proto, None),
    (revision_pb.Revision, convert.revision_from_proto, convert.revision_to_proto),
    (revision_pb.TimelineItem, convert.timeline_item_from_proto, convert.timeline_item_to_proto),
    (
        revision_pb.DiffRevisionsResponse,
        differences.revision_diff_from_proto,
        differences.revision_diff_to_proto,
    ),
    (revision_pb.GetAttributionResponse, attribution.credited_from_proto, None),
    (snapshot_pb.Snapshot, convert.manifest_from_proto, convert.manifest_to_proto),
    (snapshot_pb.Entry, convert.entry_from_proto, convert.entry_to_proto),
    (snapshot_pb.Change, convert.change_from_proto, convert.change_to_proto),
    (snapshot_pb.ProveEntryResponse, convert.proof_from_proto, convert.proof_to_proto),
    (pin_pb.Pin, pins.pin_from_proto, pins.pin_to_proto),
    (pin_pb.WithdrawnEntry, pins.withdrawn_from_proto, pins.withdrawn_to_proto),
    (agreement_pb.Agreement, agreements.agreement_from_proto, agreements.agreement_to_proto),
    (usage_pb.Usage, usage.usage_from_proto, usage.usage_to_proto),
)


def _message(forms: tuple[Form, ...]) -> Callable[[bytes], object]:
    """Read a message, of the form that the first byte names; written again it has to be read as the same."""

    def read(data: bytes) -> bool:
        kind, read_, write = forms[data[0] % len(forms)] if data else forms[0]
        message = kind.FromString(data[1:])
        found = read_(message)
        if write is not None and not any(map(_unsettled, messages_in(message))):
            written = write(found)  # nothing, of the place at which all begins
            assert written is None or found == read_(kind.FromString(written.SerializeToString()))
        return True

    return read


def _unsettled(message: object) -> bool:
    """Say whether a slot's text comes in pieces behind it, or twice: ``client.assembling`` settles that."""
    return isinstance(message, revision_pb.Slot) and bool(message.text_omitted or message.text_zstd)


def _event(data: bytes) -> int:
    """Read an event as the server does, and store it."""
    event = checked(convert.event_from_proto(event_pb.Event.FromString(data)))
    assert event == convert.event_from_proto(convert.event_to_proto(event))
    return stored([event]) if event.project == PROJECT else 1


def _frame(data: bytes) -> bool:
    """Read a text in a zstd frame, of as many bytes as the first two say."""
    size = int.from_bytes(data[:2], "big")
    text = frames.decoded(data[2:], size, "the input")
    assert size == len(text)
    assert text == frames.decoded(frames.encoded(text), size, "the input")
    return True


def _batch(data: bytes) -> bool:
    """Read what a hostile parsing child sends: JSON, of as many bytes as the first two say, and the rest."""
    size = int.from_bytes(data[:2], "big")
    _, fed = unpack_batch(data[2 : 2 + size], memoryview(data)[2 + size :])
    return bool(fed.remarks or fed.events.events)


def _watch(data: bytes) -> int:
    """Follow a scope from nothing by messages, each behind its length in two bytes.

    Whoever applies the steps that are accepted has a tree of their root.
    """
    stream = WatchStream(Selector.of(["w"]), Standing(0, EMPTY_ROOT), text=True)
    stream.request()
    held: dict[int, Record] = {}
    steps = 0
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        message, data = data[2:end], data[end:]
        for one in stream.take(change_pb.WatchResponse.FromString(message)):
            if isinstance(one, Commit):
                _apply(held, one)
                steps += 1
    return steps


def _apply(held: dict[int, Record], commit: Commit) -> None:
    for page_id, before, after in (page.step for page in commit.pages):
        assert before == held.pop(page_id, None)
        if after is not None:
            held[page_id] = after
    records = ((page_id, *held[page_id]) for page_id in sorted(held))
    assert commit.root == build(records, lambda _digest, _node: None)[0]


def _batch_example() -> bytes:
    """Return a batch with an event and one of each remark."""
    batch = Batch(lambda _project, _key: bytes(16))
    slot = SlotText("main", "wikitext", "text/x-wiki", Presence.PRESENT, b"Hello")
    edit = Edit(
        1, 0, "Apple", 0, title_inferred=True, contributor=NOBODY, comment=NO_COMMENT, minor=False,
        slots=(slot,),
    )  # fmt: skip
    for item in (
        SiteInfo("d", "s", "b", "c", {0: "", 1: "Talk"}),
        Rejected("line 1", "BAD", "m", b"excerpt"),
        Sighting(7, 12, "T", 0, 10**15, "s", gone=True),
        Skipped({"<x>": 2}),
        Event(PROJECT, 7, 10**15, "", edit),
    ):
        batch.add(item)
    frame = batch.close().frame(Progress(1, 2))
    return len(frame.meta).to_bytes(2, "big") + frame.meta + b"".join(frame.body)


class _Failed(grpc.RpcError):
    """A call that ended with a status of the server's, whatever that is."""

    def __init__(self, trailer: bytes) -> None:
        self._trailer = trailer

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return "details"

    def trailing_metadata(self) -> Any:
        return ((TRAILER, self._trailer),)


def _status(data: bytes) -> bool:
    """Read the error that a server has sent; it can be sent on."""
    error = error_of(_Failed(data))
    assert isinstance(error, RecensionError)
    assert error.reason == error_of(_Failed(status_of(error)[1].SerializeToString())).reason
    return bool(status_pb2.Status.FromString(data).details)


# --- tokens ---------------------------------------------------------------------------------------

_BOUND = ("ListRevisions", "p", 7)
_ANN = Caller("ann", Role.LICENSEE, b"12345678")


def _cursor(data: bytes) -> bool:
    """Read a token as it came, and as one whose checksum is right; with keys, none is made up."""
    text = data.decode(errors="surrogateescape")
    act_for(_ANN)
    try:
        Cursors(lambda: bytes(32), lambda _: "v1").open(text, _BOUND, "page_token")
    except InvalidCursorError:
        pass
    else:
        raise AssertionError("a token was made up")
    finally:
        act_for(ANYBODY)
    for token in (
        text,
        base64.urlsafe_b64encode(cursor._checksum(_BOUND, data) + data).rstrip(b"=").decode(),
    ):
        try:
            where = cursor.open_token(token, _BOUND, "page_token")
        except InvalidCursorError:
            continue
        assert where == cursor.open_token(cursor.seal_token(_BOUND, where), _BOUND, "page_token")
        cursor.place_of(where, "page_token")
        return True
    return False


@cache
def _tokens() -> tuple[Tokens, Ed25519PrivateKey]:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    one = {"kty": "OKP", "crv": "Ed25519", "x": public}
    with TemporaryDirectory() as folder:
        path = Path(folder, "issuers.json")
        path.write_text(json.dumps({"issuers": [{"iss": "i", "aud": "a", "keys": [one]}]}))
        tokens = Tokens(path)
        tokens._look = lambda: tokens._stamp  # type: ignore[method-assign]  # the file is gone by the first token
        return tokens, key


def _token(data: bytes) -> bool:
    """Read a token as it came; claims that are JSON are signed by an issuer that is trusted."""
    tokens, key = _tokens()
    text = data.decode(errors="replace")
    if data.startswith(b"{"):
        text = jwt.api_jws.encode(data, key, "EdDSA")
    found = tokens.read(text)
    assert found is None or isinstance(found, Token)
    return found is not None


def _key(data: bytes) -> bool:
    text = data.decode(errors="replace")
    assert text.strip() == Secret.parse(text).written
    return True


_TAGS = (
    b"\x08\x01",
    b"\x0a\x01a",
    b"\x12\x01b",
    b"\x1a\x02\x08\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80",
)
_CLAIMS = (
    b'"iss":"i"',
    b'"aud":"a"',
    b'"exp":',
    b'"iat":',
    b'"sub":',
    b'"nbf":',
    b"1e400",
    b"NaN",
    b"[",
    b"{}",
    b"null",
)
_ARRAYS = (
    b"[0,0,[],[],[],[]]",
    b'["rejected","","A","",0]',
    b'["site","","","","",[]]',
    b'["skipped",[]]',
    b"[1,",
)
_REFUSED = (RecensionError, DecodeError)

TARGETS = (
    Target(
        "requests",
        _message(REQUESTS),
        _REFUSED,
        _TAGS,
        mutate=of_messages(tuple(form[0] for form in REQUESTS)),
    ),
    Target(
        "answers", _message(ANSWERS), _REFUSED, _TAGS, mutate=of_messages(tuple(form[0] for form in ANSWERS))
    ),
    Target("wire-event", _event, (*_REFUSED, BadRecordError), _TAGS, mutate=of_message(event_pb.Event)),
    Target(
        "status",
        _status,
        (DecodeError,),
        (*_TAGS, b"recension", b"REVISION_NOT_FOUND", b"type.googleapis.com/"),
    ),
    Target("frame", _frame, words=(b"\x28\xb5\x2f\xfd",), most_bytes=1024),
    Target("batch", _batch, (FrameError,), _ARRAYS, examples=(_batch_example(),)),
    Target(
        "cursor", _cursor, words=(b'["p",1]', b"[", b"]", b'"', b",", b"-1", b"1.0", b"="), most_bytes=512
    ),
    Target("watch", _watch, (*_REFUSED, CutError), _TAGS, mutate=of_sequence(change_pb.WatchResponse)),
    Target("token", _token, words=_CLAIMS, most_bytes=1024, mutate=changed_json),
    Target("key", _key, words=(b"rcn_", b"_"), most_bytes=128),
)
