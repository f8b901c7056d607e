from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz.distance import Indel

from recension.model.difference import DiffLine, LineKind, TextDiff, unified
from recension.textdiff import hunks, sequences
from recension.textdiff.hunks import LINE_PAIRS, ROOM_BYTES, WORD_PAIRS, diff_texts
from recension.textdiff.sequences import Budget, differing
from recension.textdiff.words import words
from tests.textdiff.applying import applied, lines_of

# Few different lines make many equal ones; what Python alone takes for the end of a line is none here.
LINE = st.text("ab \r\u2028é", max_size=3)
TEXT = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(LINE, max_size=14), st.sampled_from(["", "\n"])
)
CONTEXT = st.integers(0, 4)


def diff(a: str, b: str, **options: int) -> TextDiff:
    return diff_texts(a.encode(), b.encode(), **options)


def changed(diff: TextDiff, kind: LineKind) -> list[DiffLine]:
    return [line for hunk in diff.hunks for line in hunk.lines if line.kind is kind]


@given(TEXT, TEXT, CONTEXT)
@example("a", "a\n", 0)
@example("", "", 3)
@example("\n", "", 0)
def test_hunks_lead_from_one_text_to_the_other_and_back(a: str, b: str, context: int) -> None:
    """A difference holds all that differs, and where."""
    found = diff(a, b, context=context)
    assert applied(found, a) == b
    assert applied(found, b, backwards=True) == a
    assert bool(found.hunks) == (a != b)
    assert not found.truncated
    assert [len(changed(found, LineKind.REMOVED)), len(changed(found, LineKind.ADDED))] == [
        found.lines_removed,
        found.lines_added,
    ]


@given(TEXT, TEXT, CONTEXT)
def test_ranges_lie_within_their_lines(a: str, b: str, context: int) -> None:
    """Ranges come in order, touch nowhere, and leave the same words on both sides."""
    for hunk in diff(a, b, context=context).hunks:
        for line in hunk.lines:
            last = -1
            for start, end in line.changed:
                assert last < start < end <= len(line.text)
                last = end
            assert line.kind is not LineKind.CONTEXT or not line.changed
            assert line.changed != ((0, len(line.text)),)


@given(TEXT, TEXT, CONTEXT)
def test_context_is_as_wide_as_asked(a: str, b: str, context: int) -> None:
    """No hunk begins or ends with more equal lines than were asked for, and none touches the next."""
    end = 0
    for hunk in diff(a, b, context=context).hunks:
        kinds = [line.kind for line in hunk.lines]
        head = next(at for at, kind in enumerate(kinds) if kind is not LineKind.CONTEXT)
        tail = next(at for at, kind in enumerate(reversed(kinds)) if kind is not LineKind.CONTEXT)
        assert head <= context
        assert tail <= context
        assert not end or hunk.start_a > end
        end = hunk.start_a + hunk.count_a


def test_git_takes_the_unified_text(tmp_path: Path) -> None:
    """What is written as unified text leads `git apply` there and back, ends without a newline too."""
    random_ = random.Random(5)
    for number in range(25):
        a = [f"line {random_.randrange(30)}\n" for _ in range(40)]
        b = [line for line in a if random_.random() > 0.1]
        b.insert(random_.randrange(len(b)), "new\n")
        before, after = "".join(a), "".join(b)
        if number % 2:
            before += "no newline"
        if number % 3:
            after += "none here"
        text = "".join(unified(diff(before, after), "a/file", "b/file"))
        (tmp_path / "file").write_text(before)
        for way, wanted in (((), after), (("-R",), before)):
            done = subprocess.run(
                ["git", "apply", *way, "-"],
                cwd=tmp_path,
                input=text,
                text=True,
                capture_output=True,
                check=False,
            )
            assert (0, "") == (done.returncode, done.stderr)
            assert wanted == (tmp_path / "file").read_text()


def test_an_equal_pair_of_texts_has_no_unified_text() -> None:
    """Nothing differs, nothing is written."""
    assert not list(unified(diff("a\n", "a\n"), "a", "b"))


def test_words() -> None:
    """Only the words that differ are marked, joined where space alone keeps them apart."""
    found = diff("The quick brown fox\nran.\n", "The very slow brown fox\nran!\n")
    (removed, second), (added, _) = changed(found, LineKind.REMOVED), changed(found, LineKind.ADDED)
    assert [removed.text[slice(*one)] for one in removed.changed] == ["quick"]
    assert [added.text[slice(*one)] for one in added.changed] == ["very slow"]
    assert second.changed == ((3, 4),)


def test_lines_without_a_word_in_common_differ_as_a_whole() -> None:
    """A few equal words in a rewritten line are chance, and would make a reader stumble."""
    found = diff("alpha beta gamma delta a\n", "one two three four a\n")
    assert [line.changed for line in changed(found, LineKind.REMOVED)] == [()]


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("two words", ["two", " ", "words"]),
        ("日本語です", ["日", "本", "語", "で", "す"]),
        ("हिन्दी", ["हि", "न्", "दी"]),
        ("e\u0301a", ["e\u0301", "a"]),
        ("\U0001f468\u200d\U0001f469!", ["\U0001f468\u200d\U0001f469", "!"]),
        ("Grüße_1, ok", ["Grüße_1", ",", " ", "ok"]),
    ],
)
def test_words_of_a_line(line: str, wanted: list[str]) -> None:
    """No word is torn from its marks; scripts without spaces are read character by character."""
    assert wanted == words(line)


@given(st.text())
def test_words_are_all_of_a_line(line: str) -> None:
    """Nothing lies between two words."""
    assert line == "".join(words(line))


def test_an_insertion_stands_as_far_down_as_it_may() -> None:
    """A paragraph that is added is told as it was written, not shifted by a line that looks the same."""
    found = diff("a\n\nb\n\nc\n", "a\n\nb\n\nx\n\nc\n", context=0)
    assert [line.text for line in changed(found, LineKind.ADDED)] == ["x", ""]


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)), st.integers(0, 60))
def test_sequences_differ_truly_under_any_budget(a: list[int], b: list[int], pairs: int) -> None:
    """However little may be spent, what lies between two regions is equal."""
    budget = Budget(pairs)
    i = j = 0
    for region in [*differing(a, b, budget), sequences.Region(len(a), len(a), len(b), len(b))]:
        assert a[i : region.a_start] == b[j : region.b_start]
        i, j = region.a_stop, region.b_stop
    assert budget.left >= 0


def shuffled(lines: list[str]) -> str:
    random.Random(3).shuffle(lines)
    return "".join(lines)


HOSTILE = {
    "one letter": ("a" * 1_000_000, "b" * 1_000_000),
    "one letter more": ("a" * 1_000_000, "a" * 1_000_001),
    "words of one line": ("a b " * 250_000, "a c " * 250_000),
    "short lines": ("x\n" * 100_000, "".join(f"{n % 97}\n" for n in range(100_000))),
    "newlines": ("\n" * 100_000, "\n \n" * 100_000),
    "permuted lines": ("".join(f"{n}\n" for n in range(60_000)), shuffled([f"{n}\n" for n in range(60_000)])),
    "two kinds of line": (shuffled(["a\n", "b\n"] * 30_000), shuffled(["a\n", "b\n", "b\n"] * 20_000)),
    "too many lines": ("x\n" * 1_500_000, "y\n" * 1_500_000),
    "nothing and much": ("", "z\n" * 1_500_000),
}


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pairs of items of each comparison that the library is asked for."""
    asked: list[int] = []
    real = Indel.opcodes

    class Counting:
        @staticmethod
        def opcodes(a: list[int], b: list[int]) -> Any:
            asked.append(len(a) * len(b))
            return real(a, b)

    monkeypatch.setattr(sequences, "Indel", Counting)
    return asked


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_stay_within_bounds(name: str, pairs: list[int]) -> None:
    """No two texts make more work than the budgets allow, nor an answer larger than its room."""
    a, b = HOSTILE[name]
    found = diff(a, b)
    assert sum(pairs) <= LINE_PAIRS + WORD_PAIRS
    assert max(pairs, default=0) <= LINE_PAIRS
    held = sum(len(line.text.encode()) for hunk in found.hunks for line in hunk.lines)
    assert held <= ROOM_BYTES
    if not found.truncated:
        assert applied(found, a) == b
        assert applied(found, b, backwards=True) == a
    else:
        told = len(changed(found, LineKind.REMOVED)) + len(changed(found, LineKind.ADDED))
        assert told < found.lines_removed + found.lines_added
        assert sum(len(text) for text in (a, b)) > ROOM_BYTES / 10


def test_the_count_of_pairs_sees_what_is_spent(pairs: list[int]) -> None:
    """The measure of the bounds is no constant: three lines against two are six pairs."""
    diff("a\nb\nc\n", "x\ny\n")
    assert pairs[0] == 6


def test_beyond_the_budget_lines_are_told_as_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not compared closely is told as replaced, and the answer says that it is coarse."""
    monkeypatch.setattr(hunks, "LINE_PAIRS", 8)
    a, b = "x\nx\ny\ny\n", "y\ny\nx\nx\n"
    found = diff(a, b)
    assert found.coarse
    assert applied(found, a) == b
    assert (found.lines_removed, found.lines_added) == (4, 4)


def test_lines_that_each_text_holds_once_split_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long texts with a few changes are told exactly, however small the budget."""
    monkeypatch.setattr(hunks, "LINE_PAIRS", 100)
    lines = [f"line {number}\n" for number in range(1_000)]
    other = lines.copy()
    other[10], other[500], other[900] = "changed\n", "changed\n", "changed\n"
    found = diff("".join(lines), "".join(other))
    assert not found.coarse
    assert (found.lines_removed, found.lines_added) == (3, 3)
    assert applied(found, "".join(lines)) == "".join(other)


def test_beyond_the_room_hunks_end_early() -> None:
    """The hunks that fit are whole, the counts are those of the whole texts, and the answer says so."""
    a = "".join(f"line {number}\n" for number in range(1_000))
    b = a.replace("0\n", "zero\n")
    found = diff(a, b, room=1_000)
    assert found.truncated
    assert (found.lines_removed, found.lines_added) == (100, 100)
    assert 0 < len(found.hunks) < 100
    assert applied(found, a).startswith("line zero\nline 1\n")
    whole = diff(a, b)
    assert found.hunks[:-1] == whole.hunks[: len(found.hunks) - 1]
    assert not whole.truncated


def test_context_beyond_the_limit_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for all lines around a difference gets at most so many."""
    monkeypatch.setattr(hunks, "MAX_CONTEXT", 5)
    lines = [f"{number}\n" for number in range(40)]
    found = diff("".join(lines), "".join([*lines[:20], "new\n", *lines[20:]]), context=2**40)
    assert len(found.hunks[0].lines) == 11


def test_a_line_ends_at_a_newline_alone() -> None:
    """Returns and the separators of Unicode belong to their lines."""
    assert len(lines_of("a\r\u2028b\x0b\nc")) == 2
    found = diff("a\rb\n", "a\rc\n")
    assert (found.lines_removed, found.lines_added) == (1, 1)
