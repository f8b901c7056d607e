"""What is decoded ahead is what the container holds, in its order, with its faults."""

from __future__ import annotations

import bz2
import gzip
import random
import threading
from pathlib import Path

import pytest

from recension.model.errors import SourceTruncatedError
from recension.sources.ahead import decoded_ahead
from recension.sources.containers import Container, open_container
from recension.sources.items import ByteSource

CONTENT = random.Random(1).randbytes(9_000_000)


def packed(folder: Path, content: bytes = CONTENT) -> Path:
    """Write a bz2 file."""
    path = folder / "x.xml.bz2"
    path.write_bytes(bz2.compress(b"<" + content, 1))
    return path


def pieces(source: ByteSource, size: int) -> list[bytes]:
    """Read all of a source."""
    found = []
    while piece := source.read(size):
        found.append(piece)
    assert not source.read(size)
    return found


@pytest.mark.parametrize("size", [70_001, 4_000_000])
def test_all_bytes_come_in_order(tmp_path: Path, size: int) -> None:
    """Whatever a parser asks for at once, it gets no more, and all of it."""
    with open_container(packed(tmp_path)) as container, decoded_ahead(container) as source:
        found = pieces(source, size)
    assert b"<" + CONTENT == b"".join(found)
    assert max(map(len, found)) <= size


def test_a_fault_comes_behind_what_was_decoded(tmp_path: Path) -> None:
    """A cut file gives what it holds before it is told to be cut, each time that it is asked."""
    path = packed(tmp_path)
    path.write_bytes(path.read_bytes()[:5_000_000])
    found = bytearray()
    with open_container(path) as container, decoded_ahead(container) as source:
        with pytest.raises(SourceTruncatedError):
            while piece := source.read(100_000):
                found += piece
        with pytest.raises(SourceTruncatedError):
            source.read(1)
    assert len(found) > 1_000_000
    assert (b"<" + CONTENT).startswith(found)


def test_little_is_decoded_ahead_and_nothing_after_the_end(tmp_path: Path) -> None:
    """Who reads no further holds some MiB, and leaves no thread behind."""
    before = threading.active_count()
    with open_container(packed(tmp_path)) as container:
        with decoded_ahead(container) as source:
            assert source.read(1) == b"<"
            assert threading.active_count() == before + 1
        assert threading.active_count() == before
        rest = len(b"".join(pieces(container, 1 << 20)))
    assert rest > len(CONTENT) - 6_000_000


def test_what_is_decoded_fast_is_read_by_itself(tmp_path: Path) -> None:
    """A thread would cost more than it brings."""
    path = tmp_path / "x.xml.gz"
    path.write_bytes(gzip.compress(b"<mediawiki/>"))
    with open_container(path) as container, decoded_ahead(container) as source:
        assert isinstance(source, Container)
