"""Texts in frames: what goes in comes out, and nothing else does."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.digest import digest_of, format_digest
from recension.model.errors import VerificationError
from recension.model.event import Presence
from recension.model.reading import MAX_FRAME_TEXT
from recension.v1 import revision_service_pb2 as pb
from recension.wire import convert
from recension.wire.frames import decoded, encoded
from recension_client.assembling import NO_ROOM, frames_room, revision_of

bodies = st.text(max_size=300).map(str.encode)


@given(bodies)
def test_a_text_goes_there_and_back(text: bytes) -> None:
    """Also an empty one."""
    assert decoded(encoded(text), len(text), "here") == text


@given(bodies, st.data())
def test_a_frame_that_was_changed_is_refused_or_of_the_told_size(text: bytes, data: st.DataObject) -> None:
    """Any byte of it: never another error, never more than was made room for."""
    frame = bytearray(encoded(text))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(VerificationError):
        assert len(decoded(bytes(frame), len(text), "here")) == len(text)


@given(st.binary(max_size=60), st.integers(-1, 2**60))
def test_bytes_that_are_no_frame(raw: bytes, size: int) -> None:
    """Whatever size they are said to have."""
    with pytest.raises(VerificationError):
        decoded(raw, size, "here")


def test_a_frame_after_a_frame_is_refused() -> None:
    """Nothing comes beside a text."""
    with pytest.raises(VerificationError, match="holds no text"):
        decoded(encoded(b"one") + encoded(b"two"), 3, "here")


def revision(text: bytes) -> pb.Revision:
    """Return a revision whose text comes in a frame."""
    slot = pb.Slot(
        role="main", size_bytes=len(text), text_zstd=encoded(text), digest=format_digest(digest_of(text))
    )
    found = pb.Revision(project="w", page_id=1, rev_id=1, title="T", slots=[slot])
    found.timestamp.seconds = 1
    return found


def test_revisions_in_frames_have_a_room_together() -> None:
    """Those of an answer; where none were asked for there is none."""
    text = bytes(MAX_FRAME_TEXT)
    room = frames_room()
    for _ in range(convert.MAX_ANSWER_TEXT // MAX_FRAME_TEXT):
        (slot,) = revision_of(revision(text), {}, room, text=True).slots
        assert (slot.text, slot.frame, slot.presence) == (text, None, Presence.PRESENT)
    for left in (room, NO_ROOM):
        with pytest.raises(VerificationError, match="too large, or was not asked for"):
            revision_of(revision(text), {}, left, text=True)
