from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import SourceLimitError
from recension.sources import sse
from recension.sources.sse import ServerEvent, read_frames


class Pieces:
    """Bytes that come in pieces of given lengths, over and over."""

    def __init__(self, data: bytes, lengths: list[int]) -> None:
        self._file = io.BytesIO(data)
        self._lengths = lengths
        self._reads = 0

    def read(self, size: int, /) -> bytes:
        length = self._lengths[self._reads % len(self._lengths)]
        self._reads += 1
        return self._file.read(min(size, length))


def frames(data: bytes, *lengths: int) -> list[ServerEvent]:
    return list(read_frames(Pieces(data, list(lengths) or [2**20]), "test"))


@given(
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_frames(end: bytes, lengths: list[int]) -> None:
    """Fields, comments, several lines of data, and an id that holds, wherever the bytes are cut."""
    lines = [
        b"\xef\xbb\xbf:ok", b"", b"event: message", b'id: [{"offset":1}]',
        b"data: a", b"data:b", b"data", b"",
        b"retry: 5", b"unknown: x", b"", b"event: error", b"data:  c", b"", b"data: cut",
    ]  # fmt: skip
    assert frames(end.join(lines), *lengths) == [
        ServerEvent("message", '[{"offset":1}]', b"a\nb\n"),
        ServerEvent("error", '[{"offset":1}]', b" c"),
    ]


def test_ids() -> None:
    """An id with a null byte, or one that is too long, is none; an empty one takes the last away."""
    long = b"x" * (sse.MAX_ID_BYTES + 1)
    found = frames(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid: " + long + b"\ndata: c\n\nid\ndata: d\n\n")
    assert [frame.id for frame in found] == ["1", "1", "1", ""]


def test_long_frames_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a frame that is too long the beginning is kept, in one line and in many, and the next is whole."""
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)
    monkeypatch.setattr(sse, "_MAX_LINE_BYTES", 20)
    data = b"data: " + b"x" * 1000 + b"\n\n" + b"data: 12345\n" * 5 + b"\ndata: whole\n\n"
    long, many, whole = frames(data, 7)
    assert (long.cut, long.data) == (True, b"x" * 10)
    assert many.cut
    assert len(many.data) <= 20
    assert whole == ServerEvent("message", "", b"whole")


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no lines at all is no stream of events."""
    monkeypatch.setattr(sse, "MAX_BARREN_BYTES", 1000)
    with pytest.raises(SourceLimitError, match="without the end of a line"):
        frames(b"x" * 5000, 100)
