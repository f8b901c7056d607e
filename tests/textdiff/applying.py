"""Hunks applied to a text, naively: what a difference of two texts has to be good for."""

from __future__ import annotations

from recension.model.difference import LineKind, TextDiff


def lines_of(text: str) -> list[str]:
    """Return the lines with their newlines; a newline is the only thing that ends one."""
    pieces = text.split("\n")
    lines = [f"{piece}\n" for piece in pieces[:-1]]
    return [*lines, pieces[-1]] if pieces[-1] else lines


def applied(diff: TextDiff, text: str, *, backwards: bool = False) -> str:
    """Return B made of A, or A of B; every line that the hunks name has to be where they say."""
    gone, come = LineKind.REMOVED, LineKind.ADDED
    if backwards:
        gone, come = come, gone
    lines = lines_of(text)
    out: list[str] = []
    at = 0
    for hunk in diff.hunks:
        start, target = (hunk.start_b, hunk.start_a) if backwards else (hunk.start_a, hunk.start_b)
        assert at <= start - 1 <= len(lines)
        out += lines[at : start - 1]
        at = start - 1
        assert target - 1 == len(out)
        for line in hunk.lines:
            whole = line.text if line.no_newline else f"{line.text}\n"
            if line.kind is not come:
                assert lines[at] == whole
                at += 1
            if line.kind is not gone:
                out.append(whole)
    return "".join(out + lines[at:])
