"""The log: one line a call, with what an operator needs and nothing that a client wrote."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from recension.archive.reader import Archive
from recension.server import logs
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1 import ingest_service_pb2 as ingest_pb
from recension.v1 import revision_service_pb2 as revision_pb
from recension.v1.revision_service_pb2_grpc import RevisionServiceStub
from tests.server.helpers import PAGE_BYTES, Served, fill, serving, until

CANARY = 'canary\n{"event": "request", "code": "OK"}\r\x1b[2J\u202e'
FIELDS = {
    *("event", "level", "timestamp", "request_id", "method", "peer"),
    *("code", "reason", "duration_ms", "messages", "bytes"),
}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What the process logs, as to a file or to a terminal."""
    stream: io.StringIO = getattr(request, "param", io.StringIO)()
    before = structlog.get_config()
    logs.configure(stream)
    yield stream
    structlog.configure(**before)


@pytest.fixture
def served(out: io.StringIO, tmp_path: Path) -> Iterator[Served]:
    store = MemoryStore()
    fill(store)
    with serving(store, tmp_path) as served:
        yield served


def _lines(out: io.StringIO, count: int) -> list[dict[str, Any]]:
    """Return the lines of calls, once there are so many; the audit log has lines of its own."""
    until(lambda: out.getvalue().count('"event": "request"') >= count)
    return [json.loads(line) for line in out.getvalue().splitlines() if '"event": "request"' in line]


def test_each_call_is_one_line(served: Served, out: io.StringIO) -> None:
    """Method, peer, status, reason, duration, messages and bytes; no text, no title, no metadata."""
    revisions = RevisionServiceStub(served.channel)
    article = revisions.GetArticle(
        revision_pb.GetArticleRequest(project="demo", title="Page 7"), metadata=(("x-key", "canary"),)
    )
    with pytest.raises(grpc.RpcError):
        revisions.GetArticle(revision_pb.GetArticleRequest(project="demo", title=CANARY))
    pieces = list(revisions.ReadText(revision_pb.ReadTextRequest(project="demo", rev_id=7)))
    batch = ingest_pb.AppendRequest(project="demo")
    batch.events.add(project=CANARY).edit.title = CANARY
    answers = list(served.ingest.Append(iter([batch, batch])))
    lines = _lines(out, 4)
    assert [FIELDS] * 4 == [set(line) for line in lines]
    one, refused, text, append = lines
    assert ("OK", "", 1, article.ByteSize()) == tuple(
        one[key] for key in ("code", "reason", "messages", "bytes")
    )
    assert one["bytes"] > PAGE_BYTES
    assert ("NOT_FOUND", "PAGE_NOT_FOUND", 0, 0) == tuple(
        refused[key] for key in ("code", "reason", "messages", "bytes")
    )
    assert (len(pieces), sum(piece.ByteSize() for piece in pieces)) == (text["messages"], text["bytes"])
    assert (2, sum(answer.ByteSize() for answer in answers)) == (append["messages"], append["bytes"])
    assert "/recension.v1.RevisionService/GetArticle" == refused["method"]
    assert all(line["duration_ms"] >= 0 and line["peer"].startswith("unix:") for line in lines)
    assert "canary" not in out.getvalue()
    assert "Page" not in out.getvalue()


@pytest.mark.parametrize("out", [io.StringIO, _Terminal], indirect=True, ids=["file", "terminal"])
def test_no_exception_forges_a_line(
    served: Served, out: io.StringIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What an exception says is indented or quoted, and steers no terminal."""

    def explode(_: object) -> Any:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(Archive, "projects", explode)
    with caplog.at_level(logging.CRITICAL), pytest.raises(grpc.RpcError):
        served.catalog.ListProjects(catalog_pb.ListProjectsRequest())
    until(
        lambda: any("ListProjects" in line and "duration_ms" in line for line in out.getvalue().splitlines())
    )
    written = out.getvalue()
    assert "RuntimeError" in written
    assert not {"\r", "\u202e"} & set(written)
    assert "\x1b[2J" not in written
    heads = [line for line in written.splitlines() if not line.startswith(" ")]
    assert not [line for line in heads if line.startswith(('{"event": "request", "code"', "canary"))]


@pytest.mark.parametrize("out", [io.StringIO, _Terminal], indirect=True, ids=["file", "terminal"])
def test_no_value_forges_a_line(out: io.StringIO) -> None:
    """Whatever a field holds, it stays one line, short, and without control characters of its own."""
    structlog.get_logger().info(logs.REQUEST, reason=CANARY, long="x" * 5_000)
    (line,) = out.getvalue().splitlines()
    assert "\x1b[2J" not in line
    assert "\u202e" not in line
    assert len(line) < 3_000
