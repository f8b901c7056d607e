"""What Append takes is what a file of events may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from recension.archive.ingest import Ingestor
from recension.model.reading import ProjectInfo
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
