"""What each command does: ask the reader, then write. Options are already checked by ``cli.main``."""

from __future__ import annotations

from argparse import Namespace
from typing import assert_never

from recension.model.digest import format_digest
from recension.model.errors import TextUnavailableError
from recension.model.event import Delete, Move, Presence, Restore, Visibility
from recension.model.instant import format_instant
from recension.model.manifest import Manifest, Selector
from recension.model.reading import Entry, Reader, Revision, Shard, TimelineItem
from recension_client.cli import forms, output

OK = 0
DIFFERENT = 1


def projects(reader: Reader, options: Namespace) -> int:
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


def show(reader: Reader, options: Namespace) -> int:
    """Write an article as it was."""
    answer = reader.article(options.project, options.page, valid_at=options.at, known_at=options.known_at)
    revision, as_of = answer.revision, answer.as_of
    if options.json:
        output.write_json(forms.revision_row(revision) | {"as_of": forms.as_of_row(as_of)})
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


def log(reader: Reader, options: Namespace) -> int:
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


def snapshot(reader: Reader, options: Namespace) -> int:
    """Make a snapshot and name it."""
    selector = Selector.of(
        options.projects,
        options.namespace,
        options.model,
        options.redirects,
        options.min_age,
        options.on_hidden,
    )
    manifest = reader.create_snapshot(selector, valid_at=options.at, known_at=options.known_at)
    if options.json:
        output.write_json(forms.snapshot_row(manifest))
        return OK
    for part in manifest.parts:
        output.note(f"{part.project}: {part.count:,} entries, {part.text_bytes:,} bytes of text")
    output.note(f"as of {format_instant(manifest.as_of.valid_at)} known at {manifest.as_of.known_at}")
    output.write(f"{format_digest(manifest.snapshot_id)}\n".encode())
    return OK


def snapshots(reader: Reader, options: Namespace) -> int:
    """List the snapshots."""
    if options.json:
        for manifest in reader.snapshots():
            output.write_json(forms.snapshot_row(manifest))
        return OK
    rows = map(_snapshot_cells, reader.snapshots())
    if options.tsv:
        for row in rows:
            output.write_tsv(row)
    else:
        output.write_table(["snapshot", "valid at", "known at", "projects", "entries", "bytes"], rows)
    return OK


def _snapshot_cells(manifest: Manifest) -> tuple[object, ...]:
    return (
        format_digest(manifest.snapshot_id),
        format_instant(manifest.as_of.valid_at),
        manifest.as_of.known_at,
        ",".join(manifest.selector.projects),
        _count(manifest),
        sum(part.text_bytes for part in manifest.parts),
    )


def ls(reader: Reader, options: Namespace) -> int:
    """List a snapshot's entries."""
    manifest = reader.snapshot(options.snapshot)
    widths = (10, 40, 12, 0)
    if not (options.json or options.tsv):
        output.write_line(("page", "title", "revision", "digest"), widths)
    # Entries of the bulk stream without texts: one call for all, instead of one for each page of a list.
    entries = reader.read(options.snapshot, text=False)
    for entry in output.watched(entries, "entries", _count(manifest)):
        if options.json:
            output.write_json(forms.entry_row(entry))
            continue
        fields = (entry.page_id, entry.title, entry.rev_id, forms.digest(entry.slot()))
        if options.tsv:
            output.write_tsv(fields)
        else:
            output.write_line(fields, widths)
    return OK


def cat(reader: Reader, options: Namespace) -> int:
    """Write a snapshot, or one shard of it, as lines of JSON."""
    shard: Shard = options.shard
    total = _count(reader.snapshot(options.snapshot)) // shard.count
    for entry in output.watched(reader.read(options.snapshot, shard=shard), "articles", total):
        output.write_json(forms.article_row(entry))
    return OK


def diff(reader: Reader, options: Namespace) -> int:
    """Write what differs between two snapshots."""
    found = 0
    sizes = [_count(reader.snapshot(id_)) for id_ in (options.before, options.after)]
    # How many pages differ is known only at the end, unless one side is empty; a guess would mislead.
    total = max(sizes) if 0 in sizes else None
    widths = (12, 10, 24, 0)
    if not (options.json or options.tsv):
        output.write_line(("kind", "page", "revisions", "title"), widths)
    for change in output.watched(reader.diff(options.before, options.after), "changes", total):
        found += 1
        if options.json:
            output.write_json(forms.change_row(change))
            continue
        before, after = change.before, change.after
        fields = (
            change.kind.value,
            change.page_id,
            *_sides(before, after),
        )
        if options.tsv:
            output.write_tsv(fields)
        else:
            kind, page_id, title_a, title_b, rev_a, rev_b = fields
            title = title_a if title_a == title_b or not title_b else title_b if not title_a else ""
            title = title or f"{title_a} -> {title_b}"
            output.write_line((kind, page_id, f"{rev_a or '-'} -> {rev_b or '-'}", title), widths)
    if not found:
        output.note("no difference")
    return DIFFERENT if found and options.exit_code else OK


def _sides(before: Entry | None, after: Entry | None) -> tuple[str, str, str, str]:
    return (
        before.title if before else "",
        after.title if after else "",
        str(before.rev_id) if before else "",
        str(after.rev_id) if after else "",
    )


def _count(manifest: Manifest) -> int:
    return sum(part.count for part in manifest.parts)
