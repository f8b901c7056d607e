import json

import pytest

from recension.model.instant import format_instant
from recension.sources.enterprise_stream import FORM, OVERLAP, OVERLAP_SECONDS, EnterpriseStream
from recension.sources.http import Http
from recension.sources.items import Rejected, Skipped
from recension.sources.piece import Offsets, Piece
from tests.enterprise import SECOND, START, Enterprise, Record, record
from tests.upstream import Asked, Upstream

NOW = START // SECOND
DAY = 86_400


def pieces(lines: list[bytes], offsets: Offsets, since: int | None = None) -> tuple[list[Piece], Record]:
    """Return what a connection gives of these lines, and what was asked."""
    asked: list[Record] = []

    def answer(question: Asked) -> None:
        asked.append(question.document)
        with question.chunked() as write:
            for line in lines:
                write(line + b"\n")

    with Upstream(answer) as upstream:
        stream = EnterpriseStream(Http(upstream.origin), "p", since=since, clock=lambda: START)
        assert (FORM, f"{upstream.origin}/v2/articles?project=p") == (stream.form, stream.source)
        return list(stream.connect(offsets)), asked[0]


def test_where_a_stream_begins() -> None:
    """Of every partition it is said, since one of which nothing is said begins at its end."""
    (first,), asked = pieces([], {})
    assert {"since": format_instant(START)} == first.offsets
    assert list(range(10)) == asked["parts"]
    assert {str(number): format_instant(START) for number in range(50)} == asked["since_per_partition"]
    assert ({}, [{"field": "is_part_of.identifier", "value": "p"}]) == (asked["offsets"], asked["filters"])
    _, asked = pieces([], {}, since=0)
    assert "1970-01-01T00:00:00Z" == asked["since_per_partition"]["49"]


def test_where_a_stream_goes_on() -> None:
    """By offset, a little before the newest; by time where the offset may be gone, or none is known."""
    offsets = {
        "since": "2024-12-31T00:00:00Z",
        "3": f"500@{NOW - 10}",
        "4": f"500@{NOW - 2 * DAY}",
        "5": f"7@{NOW}",
        "6": "nonsense",
    }
    none, asked = pieces([], offsets)
    assert [] == none
    assert {"3": 501 - OVERLAP, "5": 0} == asked["offsets"]
    assert format_instant((NOW - 2 * DAY - OVERLAP_SECONDS) * SECOND) == asked["since_per_partition"]["4"]
    assert {"2024-12-31T00:00:00Z"} == {asked["since_per_partition"][name] for name in ("0", "6", "49")}
    assert 48 == len(asked["since_per_partition"])


def test_what_a_record_says_of_its_place() -> None:
    """The newest offset of a partition counts, whichever comes last; what cannot be read is rejected."""
    service = Enterprise()
    service.publish([record(second, "update", "A", 1, second) for second in (1, 2)])
    (partition,) = [records for records in service.partitions if records]
    name = str(partition[0]["event"]["partition"])
    other = record(3, "update", "B", 2, 3, project="q")
    lines = [*map(json.dumps, [partition[1], partition[0], other]), "", '{"event": {"offset": 9}}', "{", "{"]
    found, _ = pieces([line.encode() for line in lines], {"since": "2024-12-31T00:00:00Z"})
    assert {name: f"{partition[1]['event']['offset']}@{NOW + 1}"} == found[0].offsets
    assert ({}, START) == (found[1].offsets, found[1].upstream_at)
    assert ((Skipped({"records of other projects": 1}),), {}) == (tuple(found[2].items), found[2].offsets)
    (bad,), (cut,), (again,) = (piece.items for piece in found[3:])
    assert isinstance(bad, Rejected)
    assert isinstance(cut, Rejected)
    assert ("partition 0, offset 9", "INVALID_JSON") == (bad.position, cut.reason)
    assert Skipped({"rejected before": 1}) == again


@pytest.mark.parametrize(
    "event", [[], {"offset": -1}, {"offset": 2**60}, {"offset": "7"}, {"offset": 7, "partition": 50}]
)
def test_places_that_are_none(event: object) -> None:
    """They are not taken for where to go on."""
    said = record(1, "update", "A", 1, 1) | {"event": event}
    (piece,), _ = pieces([json.dumps(said).encode()], {"since": "2024-12-31T00:00:00Z"})
    assert {} == piece.offsets
