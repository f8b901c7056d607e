from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recension.model.errors import VerificationError
from recension.textdiff.hunks import diff_texts
from recension.v1 import revision_service_pb2 as pb
from recension.wire import differences

TEXT = st.text("ab \n中", max_size=40)


@given(TEXT, TEXT, st.integers(0, 3))
def test_differences_of_texts_survive(a: str, b: str, context: int) -> None:
    """What differs comes back equal, ranges and missing newlines included."""
    found = diff_texts(a.encode(), b.encode(), context=context)
    assert found == differences.text_diff_from_proto(differences.text_diff_to_proto(found))


def honest() -> pb.TextDiff:
    found = diff_texts(b"one two\nx\n" + b"same\n" * 20 + b"last", b"one 2\nx\n" + b"same\n" * 20 + b"end")
    return differences.text_diff_to_proto(found)


def lie(message: pb.TextDiff, name: str) -> None:
    """Change a difference in one way that no honest server would."""
    first, second = message.hunks
    removed = first.lines[0]
    match name:
        case "kind":
            removed.kind = pb.LINE_KIND_UNSPECIFIED
        case "newline":
            removed.text = "one\ntwo"
        case "range beyond":
            removed.changed[0].end = 100
        case "range backwards":
            removed.changed[0].start = removed.changed[0].end
        case "ranges out of order":
            removed.changed.add(start=0, end=2)
        case "range of context":
            first.lines[2].changed.add(start=0, end=1)
        case "count of a hunk":
            first.count_a += 1
        case "count of all":
            message.lines_added += 1
        case "fewer than told":
            message.lines_removed = 0
        case "overlap":
            second.start_a = second.start_b = 2
        case "gap":
            second.start_a += 1
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "kind",
        "newline",
        "range beyond",
        "range backwards",
        "ranges out of order",
        "range of context",
        "count of a hunk",
        "count of all",
        "fewer than told",
        "overlap",
        "gap",
    ],
)
def test_a_difference_that_contradicts_itself_is_refused(name: str) -> None:
    """Whoever draws a difference can rely on its numbers."""
    message = honest()
    differences.text_diff_from_proto(message)
    lie(message, name)
    with pytest.raises(VerificationError):
        differences.text_diff_from_proto(message)


def test_a_truncated_difference_may_count_more_than_it_tells() -> None:
    """Counts are those of the whole texts."""
    message = honest()
    message.lines_added += 5
    message.truncated = True
    assert differences.text_diff_from_proto(message).lines_added == 7
