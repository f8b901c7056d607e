"""What differs between two texts <-> proto, both directions together."""

from __future__ import annotations

from recension.model.difference import DiffLine, Hunk, LineKind, TextDiff, unified
from recension.model.errors import VerificationError
from recension.model.instant import format_instant
from recension.model.reading import Revision, RevisionDiff
from recension.v1 import revision_service_pb2 as pb
from recension.wire import convert

_KINDS = {
    pb.LINE_KIND_CONTEXT: LineKind.CONTEXT,
    pb.LINE_KIND_REMOVED: LineKind.REMOVED,
    pb.LINE_KIND_ADDED: LineKind.ADDED,
}
_KINDS_OUT = {value: key for key, value in _KINDS.items()}


def revision_diff_to_proto(found: RevisionDiff, *, with_unified: bool = False) -> pb.DiffRevisionsResponse:
    """Write what differs between two revisions."""
    return pb.DiffRevisionsResponse(
        revision_a=convert.revision_to_proto(found.before),
        revision_b=convert.revision_to_proto(found.after),
        diff=text_diff_to_proto(found.diff),
        unified="".join(unified_of(found)) if with_unified else "",
        as_of=pb.AsOf(known_at=found.known_at),
    )


def revision_diff_from_proto(message: pb.DiffRevisionsResponse) -> RevisionDiff:
    """Read what differs between two revisions. Raises ``VerificationError`` when it contradicts itself."""
    return RevisionDiff(
        convert.revision_from_proto(message.revision_a, text=False),
        convert.revision_from_proto(message.revision_b, text=False),
        text_diff_from_proto(message.diff),
        message.as_of.known_at,
    )


def unified_of(found: RevisionDiff) -> list[str]:
    """Return the lines of the unified diff of two revisions."""
    return list(unified(found.diff, _name(found.before), _name(found.after)))


def _name(revision: Revision) -> str:
    """Name a side by what no source chooses freely: a title could pose as a line of the diff."""
    return f"revision {revision.rev_id}\t{format_instant(revision.timestamp)}"


def text_diff_to_proto(diff: TextDiff) -> pb.TextDiff:
    """Write what differs between two texts."""
    return pb.TextDiff(
        hunks=map(_hunk_to_proto, diff.hunks),
        lines_removed=diff.lines_removed,
        lines_added=diff.lines_added,
        coarse=diff.coarse,
        truncated=diff.truncated,
    )


def text_diff_from_proto(message: pb.TextDiff) -> TextDiff:
    """Read what differs between two texts. Raises ``VerificationError`` when it contradicts itself."""
    hunks = tuple(map(_hunk_from_proto, message.hunks))
    end_a = end_b = 1
    for hunk in hunks:
        # What lies between two hunks is equal, so it is as long on both sides.
        if hunk.start_a < end_a or hunk.start_a - end_a != hunk.start_b - end_b:
            raise _contradiction(f"a hunk begins at lines {hunk.start_a} and {hunk.start_b}")
        end_a, end_b = hunk.start_a + hunk.count_a, hunk.start_b + hunk.count_b
    removed, added = (
        sum(line.kind is kind for hunk in hunks for line in hunk.lines)
        for kind in (LineKind.REMOVED, LineKind.ADDED)
    )
    more = message.lines_removed - removed, message.lines_added - added
    if min(more) < 0 or (more != (0, 0) and not message.truncated):
        raise _contradiction(f"it counts {more} lines that it does not tell")
    return TextDiff(
        hunks,
        message.lines_removed,
        message.lines_added,
        coarse=message.coarse,
        truncated=message.truncated,
    )


def _hunk_to_proto(hunk: Hunk) -> pb.Hunk:
    return pb.Hunk(
        start_a=hunk.start_a,
        count_a=hunk.count_a,
        start_b=hunk.start_b,
        count_b=hunk.count_b,
        lines=[
            pb.DiffLine(
                kind=_KINDS_OUT[line.kind],
                text=line.text,
                changed=[pb.TextRange(start=start, end=end) for start, end in line.changed],
                no_newline=line.no_newline,
            )
            for line in hunk.lines
        ],
    )


def _hunk_from_proto(message: pb.Hunk) -> Hunk:
    hunk = Hunk(message.start_a, message.start_b, tuple(map(_line_from_proto, message.lines)))
    if (hunk.count_a, hunk.count_b) != (message.count_a, message.count_b):
        raise _contradiction(f"a hunk counts {message.count_a} and {message.count_b} lines, and has others")
    return hunk


def _line_from_proto(message: pb.DiffLine) -> DiffLine:
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise _contradiction(f"a line of an unknown kind {message.kind}")
    if "\n" in message.text:
        raise _contradiction("a newline within a line")
    changed = tuple((one.start, one.end) for one in message.changed)
    last = -1
    for start, end in changed:
        if not last < start < end <= len(message.text) or kind is LineKind.CONTEXT:
            raise _contradiction(f"a range from {start} to {end} in a line of {len(message.text)}")
        last = end
    return DiffLine(kind, message.text, changed, message.no_newline)


def _contradiction(what: str) -> VerificationError:
    return VerificationError(
        f"the server's difference of two texts contradicts itself: {what}",
        hint="do not use it; the server or something on the way changed it",
    )
