"""The command ``diff``: what differs between two snapshots, or between two revisions."""

from __future__ import annotations

import argparse
import re
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from recension.model.difference import DEFAULT_CONTEXT, DiffLine, Hunk, LineKind
from recension.model.digest import parse_digest
from recension.model.errors import ExtraMissingError, InvalidArgumentError
from recension.model.event import MAX_ID
from recension.model.instant import format_instant
from recension.model.reading import Change, Entry, Reader, Revision, RevisionDiff
from recension.wire.differences import unified_of
from recension_client.cli import forms, output
from recension_client.cli.arguments import DIFFERENT, OK, Commands, asking

_STYLES = {LineKind.CONTEXT: "", LineKind.REMOVED: "red", LineKind.ADDED: "green"}
_WIDTHS = (12, 10, 24, 0)
PAGES, MAX_PAGES = 200, 2_000
"""Changed pages that a report shows with their texts, unless asked otherwise, and at most."""


@dataclass(frozen=True, slots=True)
class _RevisionName:
    """A revision as the command line names it; without a project where there is but one."""

    project: str
    rev_id: int


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("diff", "write what differs between two snapshots or two revisions", asking(_diff))
    for name in ("before", "after"):
        one.add_argument(
            name,
            metavar="AB"[name == "after"],
            type=_side,
            help="snapshot id, sha256:<64 hex>; or revision, PROJECT:REV, or REV where there is one project",
        )
    one.add_argument(
        "--tsv",
        action="store_true",
        help="of snapshots: kind, page id, title in A and B, revision in A and B",
    )
    one.add_argument("--unified", action="store_true", help="of revisions: a unified diff, as patch reads it")
    one.add_argument(
        "--context",
        metavar="N",
        type=_lines,
        help=f"of revisions: equal lines around each difference (default: {DEFAULT_CONTEXT})",
    )
    one.add_argument(
        "--html", metavar="FILE", type=Path, help="of snapshots: write a page for people into this file"
    )
    one.add_argument(
        "--pages",
        metavar="N",
        type=_pages,
        help=f"with --html: changed pages that are shown with their texts, the largest (default: {PAGES})",
    )
    one.add_argument("--exit-code", action="store_true", help="leave with 1 when they differ")


def _side(text: str) -> bytes | _RevisionName:
    match = re.fullmatch(r"(?:([^:]+):)?([0-9]{1,19})", text)
    if match is None:
        return parse_digest(text, "snapshot")
    if not 1 <= int(match[2]) <= MAX_ID:
        raise InvalidArgumentError(
            f"{match[2]} is not a revision id", hint=f"revision ids go from 1 to {MAX_ID}"
        )
    return _RevisionName(match[1] or "", int(match[2]))


def _lines(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def _pages(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_PAGES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pages from 1 to {MAX_PAGES:,}")
    return int(text)


def _diff(reader: Reader, options: Namespace) -> int:
    """Write what differs between two snapshots or two revisions."""
    before, after = options.before, options.after
    if isinstance(before, bytes) and isinstance(after, bytes):
        _refuse(options, ("unified", "context"), "of two revisions, not of snapshots")
        differ = _report(reader, options) if options.html else _snapshots(reader, options)
    elif isinstance(before, _RevisionName) and isinstance(after, _RevisionName):
        _refuse(options, ("tsv", "html", "pages"), "of two snapshots, not of revisions")
        differ = _revisions(reader, options)
    else:
        raise InvalidArgumentError(
            "a snapshot and a revision cannot be compared", hint="name two snapshots, or two revisions"
        )
    return DIFFERENT if differ and options.exit_code else OK


def _refuse(options: Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            raise InvalidArgumentError(f"--{name} is {why}", hint="recension diff --help")


# --- two snapshots ---


def _snapshots(reader: Reader, options: Namespace) -> bool:
    found = 0
    sizes = [_count(reader, id_) for id_ in (options.before, options.after)]
    # How many pages differ is known only at the end, unless one side is empty; a guess would mislead.
    total = max(sizes) if 0 in sizes else None
    if not (options.json or options.tsv):
        output.write_line(("kind", "page", "revisions", "title"), _WIDTHS)
    for change in output.watched(reader.diff(options.before, options.after), "changes", total):
        found += 1
        if options.json:
            output.write_json(forms.change_row(change))
        elif options.tsv:
            output.write_tsv((change.kind.value, change.page_id, *_sides(change.before, change.after)))
        else:
            output.write_line(_cells(change), _WIDTHS)
    if not found:
        output.note("no difference")
    return bool(found)


def _report(reader: Reader, options: Namespace) -> bool:
    """Write the page: whole, or not at all."""
    try:
        from recension_client.report.gather import gather  # noqa: PLC0415 - of an extra
        from recension_client.report.page import render  # noqa: PLC0415 - of an extra
    except ModuleNotFoundError as error:
        raise ExtraMissingError(
            f"reports need {error.name}, which is not installed",
            hint="pip install 'recension[report]'",
            module=error.name,
        ) from None
    report = gather(
        reader,
        options.before,
        options.after,
        pages=PAGES if options.pages is None else options.pages,
        watch=lambda changes: output.watched(changes, "changes", None),
    )
    output.replace_file(options.html, render(report, version("recension")).encode())
    output.note(f"{options.html}: {report.changes:,} changed pages, {len(report.pages):,} shown")
    return bool(report.changes)


def _count(reader: Reader, snapshot_id: bytes) -> int:
    return sum(part.count for part in reader.snapshot(snapshot_id).parts)


def _cells(change: Change) -> tuple[object, ...]:
    title_a, title_b, rev_a, rev_b = _sides(change.before, change.after)
    both = title_a and title_b and title_a != title_b
    title = f"{title_a} -> {title_b}" if both else title_a or title_b
    return change.kind.value, change.page_id, f"{rev_a or '-'} -> {rev_b or '-'}", title


def _sides(before: Entry | None, after: Entry | None) -> tuple[str, str, str, str]:
    return (
        before.title if before else "",
        after.title if after else "",
        str(before.rev_id) if before else "",
        str(after.rev_id) if after else "",
    )


# --- two revisions ---


def _revisions(reader: Reader, options: Namespace) -> bool:
    before, after = _in_one_project(reader, options.before, options.after)
    context = DEFAULT_CONTEXT if options.context is None else options.context
    found = reader.diff_revisions(before.project, before.rev_id, after.rev_id, context=context)
    if options.json:
        output.write_json(forms.revision_diff_row(found))
    elif options.unified or not output.on_terminal():
        output.write_text("".join(unified_of(found)).encode())
    else:
        output.write_styled(_shown(found))
    diff = found.diff
    if diff.truncated:
        output.warn(
            f"too large to be told whole: {diff.lines_removed} lines were removed, {diff.lines_added} added"
        )
    if diff.coarse:
        output.warn("too large to be compared closely: some of what it tells as replaced is equal")
    if not diff.hunks:
        output.note("no difference")
    return bool(diff.lines_removed or diff.lines_added)


def _in_one_project(
    reader: Reader, before: _RevisionName, after: _RevisionName
) -> tuple[_RevisionName, _RevisionName]:
    """Return both names with their project. Raises ``InvalidArgumentError`` unless it is clear, and one."""
    named = {name.project for name in (before, after) if name.project}
    if not named:
        named = {project.name for project in reader.projects()}
        if len(named) != 1:
            raise InvalidArgumentError(
                f"revision {before.rev_id} of which project?",
                hint="name it as PROJECT:REV; recension projects",
            )
    if len(named) > 1:
        raise InvalidArgumentError(
            f"the revisions are of two projects, {' and '.join(sorted(named))}",
            hint="compare revisions of one project",
        )
    (project,) = named
    return _RevisionName(project, before.rev_id), _RevisionName(project, after.rev_id)


def _shown(found: RevisionDiff) -> Iterator[output.Styled]:
    for mark, revision, style in (("-", found.before, "bold red"), ("+", found.after, "bold green")):
        yield style, [(output.clean(f"{mark * 3} {_named(revision)}"), "")]
    for hunk in found.diff.hunks:
        yield "cyan", [(_where(hunk), "")]
        yield from map(_line, hunk.lines)


def _named(revision: Revision) -> str:
    return f"{revision.title}  revision {revision.rev_id}  {format_instant(revision.timestamp)}"


def _where(hunk: Hunk) -> str:
    return f"@@ line {hunk.start_a} -> {hunk.start_b} @@"


def _line(line: DiffLine) -> output.Styled:
    shown = [(line.kind.value, "")]
    at = 0
    for start, end in line.changed:
        shown += [(_safe(line.text[at:start]), ""), (_safe(line.text[start:end]), "bold reverse")]
        at = end
    shown.append((_safe(line.text[at:]), ""))
    if line.no_newline:
        shown.append(("  (no newline at the end)", "dim"))
    return _STYLES[line.kind], shown


def _safe(text: str) -> str:
    return output.clean(text, keep="\t")
