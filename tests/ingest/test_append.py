"""What Append takes is what a file of events may hold."""

from __future__ import annotations

import json
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from recension.archive.ingest import Ingestor
from recension.archive.marks import mark_at
from recension.archive.reader import Archive
from recension.archive.texts import sorting
from recension.archive.texts.rows import page_blocks, tails_of
from recension.model.access import Role
from recension.model.errors import StoreError
from recension.model.mark import Mark
from recension.model.reading import ProjectInfo
from recension.server.door import Caller, act_for
from recension.server.gate import Gate
from recension.server.rpc.ingest import IngestRpc
from recension.sources.events_ndjson import read_events
from recension.sources.items import Rejected
from recension.store.memory import MemoryStore
from recension.v1 import event_pb2, ingest_service_pb2
from tests.sources.helpers import Dribble

SLOT = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": "Hello"}


def event(**edit: Any) -> dict[str, Any]:
    """An edit as proto3 JSON."""
    body = {"revId": "1", "title": "Apple", "slots": [SLOT], **edit}
    return {"project": "p", "pageId": "7", "time": "2001-01-15T13:15:00Z", "sourceId": "a", "edit": body}


@pytest.mark.parametrize(
    "value, taken",
    [
        (event(comment="x" * 65_536, contributor={"name": "Ann", "id": "0"}), True),
        (event(contributor={"name": "Ann", "id": "-5"}), False),
        (event(contributor={"name": "x" * 1025}), False),
        (event(comment="x" * 200_000), False),
        (event(slots=[{**SLOT, "role": f"r{number}"} for number in range(65)]), False),
        (event(namespace=-(2**31)), False),
    ],
)
def test_both_ways_in_have_the_same_limits(value: dict[str, Any], *, taken: bool) -> None:
    """An event that a file may not hold is refused by Append as well, with the same reason and message."""
    (item,) = read_events(Dribble(json.dumps(value).encode(), 4096), Path("a.ndjson"), "p")
    assert taken is not isinstance(item, Rejected)
    store = MemoryStore()
    ingestor = Ingestor(store)
    ingestor.create_project(ProjectInfo("p", "https://t.example", "en", "CC0-1.0"))
    message = json_format.ParseDict(value, event_pb2.Event())
    request = ingest_service_pb2.AppendRequest(project="p", events=[message])
    (answer,) = IngestRpc(ingestor, store, Gate(1)).Append(iter([request]), None)  # type: ignore[arg-type]
    assert taken is (answer.accepted == 1)
    expected = [(item.reason, item.message)] if isinstance(item, Rejected) else []
    assert expected == [(refused.reason, refused.message) for refused in answer.rejected]


def requests(order: list[int]) -> list[ingest_service_pb2.AppendRequest]:
    """Return appends of one revision each of page 7, of growing texts, in an order of their minutes."""
    made = []
    for minute in order:
        text = "".join(
            f"line {line} of what the article says\n" for line in range(200 * minute, 200 * minute + 300)
        )
        value = event(revId=str(minute + 1), slots=[{**SLOT, "text": text}])
        value |= {"time": f"2001-01-15T13:{minute:02}:00Z", "sourceId": f"s{minute}"}
        message = json_format.ParseDict(value, event_pb2.Event())
        made.append(ingest_service_pb2.AppendRequest(project="p", events=[message]))
    return made


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    Ingestor(made).create_project(ProjectInfo("p", "https://t.example", "en", "CC0-1.0"))
    return made


@pytest.mark.parametrize("breaks", [False, True])
def test_texts_are_sealed_when_a_stream_ends(store: MemoryStore, *, breaks: bool) -> None:
    """However it ends: a client that goes away leaves no more behind than one that says so."""
    answers = IngestRpc(Ingestor(store), store, Gate(1)).Append(iter(requests(list(range(40)))), None)  # type: ignore[arg-type]
    accepted = [next(answers).accepted for _ in range(39)]
    with store.view() as view:
        assert tails_of(view, 1, 7)
    answers.close() if breaks else accepted.extend(answer.accepted for answer in answers)  # type: ignore[attr-defined]
    assert [1] * (39 if breaks else 40) == accepted
    with store.view() as view:
        assert not tails_of(view, 1, 7)
        assert page_blocks(view, 1, 7)


def test_what_is_appended_has_the_owner_of_the_key_as_its_source(store: MemoryStore) -> None:
    """One mark a batch; of a batch that brings nothing new none, and nothing of a file."""

    def append() -> list[int]:
        act_for(Caller("ann", Role.OPERATOR))
        answers = IngestRpc(Ingestor(store), store, Gate(1)).Append(iter(requests([0, 1])), None)  # type: ignore[arg-type]
        return [answer.position for answer in answers]

    positions = copy_context().run(append)
    assert [Mark("append", "ann")] * 2 == [mark_at(store, position) for position in positions]
    head = store.log.head()
    copy_context().run(append)
    assert head == store.log.head()
    told = Archive(store).provenance("p", 1)
    assert ("append", "ann", b"", 0) == (told.form, told.source, told.digest, told.size_bytes)


def test_a_store_that_failed_is_left_alone(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sealed behind an error of the store, which is what the client is told."""
    ingestor = Ingestor(store)
    settled: list[bool] = []
    monkeypatch.setattr(ingestor, "settle", lambda **_: settled.append(True))
    answers = IngestRpc(ingestor, store, Gate(1)).Append(iter(requests([0, 1])), None)  # type: ignore[arg-type]
    next(answers)

    def fails(*_: object) -> None:
        raise StoreError("the disk is full", hint="make room")

    monkeypatch.setattr(store, "commit", fails)
    with pytest.raises(StoreError):
        next(answers)
    assert not settled


@pytest.mark.parametrize("pages", [0, 1])
def test_texts_are_sorted_when_streams_end(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """A history that arrives backwards lies in order of time behind them; with nothing sorted it does not."""
    monkeypatch.setattr("recension.archive.ingest._SORTED", pages)
    for module in ("writing", "sealing"):  # blocks of some four texts
        monkeypatch.setattr(f"recension.archive.texts.{module}.BLOCK_BYTES", 40_000)
    rpc = IngestRpc(Ingestor(store), store, Gate(1))
    for first in range(56, -1, -4):
        list(rpc.Append(iter(requests(list(range(first, first + 4)))), None))  # type: ignore[arg-type]
    with store.view() as view:
        rows = [row for _, row in page_blocks(view, 1, 7)]
    assert sorting._disordered(rows) is (pages == 0)
