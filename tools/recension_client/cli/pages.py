"""Commands about projects and single pages: ``projects``, ``show``, ``log``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, assert_never

from recension.model.errors import TextUnavailableError
from recension.model.event import Delete, Move, Presence, Restore, Visibility
from recension.model.instant import format_instant
from recension.model.reading import Reader, Revision, TimelineItem
from recension_client.cli import arguments, forms, output
from recension_client.cli.arguments import OK, Commands, asking


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    commands.add("projects", "list the projects", asking(_projects))

    one = commands.add("show", "write an article as it was", asking(_show))
    arguments.page(one)
    arguments.as_of(one)
    one.add_argument(
        "--provenance", action="store_true", help="say what its revision was read from, in place of its text"
    )

    one = commands.add(
        "log", "write what happened to a page: edits, moves, deletes, restores, visibility", asking(_log)
    )
    arguments.page(one)
    arguments.as_of(one, at_help="a time when the page had the title (default: now)")


def _projects(reader: Reader, options: Namespace) -> int:
    """List the projects."""
    held = reader.projects()
    if options.json:
        for project in held:
            output.write_json(forms.project_row(project))
        return OK
    output.write_table(
        ["project", "language", "license", "pages", "revisions", "position", "first event", "last event"],
        (
            (
                project.name,
                project.language,
                project.license,
                project.pages,
                project.revisions,
                project.position,
                forms.instant(project.first_event_at) or "",
                forms.instant(project.last_event_at) or "",
            )
            for project in held
        ),
    )
    return OK


def _show(reader: Reader, options: Namespace) -> int:
    """Write an article as it was."""
    answer = reader.article(
        options.project,
        options.page,
        valid_at=options.at,
        known_at=options.known_at,
        text=not options.provenance,
    )
    revision, as_of = answer.revision, answer.as_of
    told: dict[str, Any] = {}
    if options.provenance:
        told = forms.provenance_row(
            reader.provenance(options.project, revision.rev_id, known_at=as_of.known_at)
        )
    if options.json:
        row = forms.revision_row(revision) | {"as_of": forms.as_of_row(as_of)}
        output.write_json(row | ({"provenance": told} if options.provenance else {}))
        return OK
    if options.provenance:
        output.write_table(["revision", str(revision.rev_id)], ((key, str(told[key])) for key in told))
        return OK
    main = revision.slot()
    if main is None or main.text is None:
        state = "has no main slot" if main is None else f"is {main.presence.name.lower()}"
        raise TextUnavailableError(
            f"the text of revision {revision.rev_id} {state}",
            hint="--json shows what is known of the revision",
            project=revision.project,
            revId=revision.rev_id,
        )
    output.note(
        f"{revision.title}: revision {revision.rev_id} of {format_instant(revision.timestamp)}, "
        f"as of {format_instant(as_of.valid_at)} known at {as_of.known_at}"
    )
    output.write_text(main.text)
    return OK


def _log(reader: Reader, options: Namespace) -> int:
    """Write what happened to a page."""
    items = reader.timeline(options.project, _page_id(reader, options), known_at=options.known_at)
    if options.json:
        for item in items:
            output.write_json(forms.timeline_row(item))
        return OK
    output.write_table(["time", "kind", "revision", "by", "what"], map(_log_cells, items))
    return OK


def _page_id(reader: Reader, options: Namespace) -> int:
    if isinstance(options.page, int):
        return options.page
    answer = reader.article(
        options.project, options.page, valid_at=options.at, known_at=options.known_at, text=False
    )
    return answer.revision.page_id


def _log_cells(item: TimelineItem) -> tuple[str, str, str, str, str]:
    what = item.what
    by = "(hidden)" if what.contributor.presence is Presence.HIDDEN else what.contributor.name
    said = "(comment hidden)" if what.comment.presence is Presence.HIDDEN else what.comment.text
    rev_id = about = ""
    match what:
        case Revision():
            rev_id = str(what.rev_id)
        case Move():
            about = f"{what.from_title} -> {what.to_title}"
        case Delete() | Restore():
            about = what.title
        case Visibility():
            rev_id = str(what.rev_id)
            flags = {
                "text": what.text_hidden,
                "comment": what.comment_hidden,
                "name": what.contributor_hidden,
            }
            hidden = [name for name, on in flags.items() if on]
            about = f"hidden: {', '.join(hidden)}" if hidden else "shown again"
        case _ as never:
            assert_never(never)
    return (
        format_instant(item.time),
        forms.kind_of(item),
        rev_id,
        by,
        "; ".join(part for part in (about, said) if part),
    )
