"""Answers as rows of JSON: the keys are the words of the protocol, times RFC 3339, digests ``sha256:...``."""

from __future__ import annotations

from typing import assert_never

from recension.model.difference import DiffLine
from recension.model.digest import format_digest
from recension.model.event import Comment, Contributor, Delete, Move, Presence, Restore, Visibility
from recension.model.instant import format_instant
from recension.model.manifest import AsOf, Manifest
from recension.model.pin import Pin
from recension.model.reading import (
    Change,
    Entry,
    ProjectInfo,
    Provenance,
    Revision,
    RevisionDiff,
    Slot,
    TimelineItem,
)

Row = dict[str, object]


def instant(at: int | None) -> str | None:
    """Write a time, if there is one."""
    return None if at is None else format_instant(at)


def digest(slot: Slot | None) -> str:
    """Write the digest of a slot's text; empty when there is no text to name."""
    return format_digest(slot.digest) if slot is not None and slot.digest else ""


def text(slot: Slot | None) -> str | None:
    """Return a slot's text; ``None`` when it is not here."""
    return None if slot is None or slot.text is None else slot.text.decode()


def project_row(project: ProjectInfo) -> Row:
    """Describe a project."""
    return {
        "project": project.name,
        "base_url": project.base_url,
        "language": project.language,
        "license": project.license,
        "revisions": project.revisions,
        "pages": project.pages,
        "position": project.position,
        "first_event_at": instant(project.first_event_at),
        "last_event_at": instant(project.last_event_at),
        "unresolved_log_entries": project.unresolved_log_entries,
    }


def pin_row(pin: Pin) -> Row:
    """Describe a pin."""
    return {
        "name": pin.name,
        "id": pin.statement.id.hex(),
        "snapshot": format_digest(pin.snapshot_id),
        "readable_until": format_instant(pin.readable_until),
        "expired": pin.expired,
        "created_at": format_instant(pin.created_at),
        "labels": dict(pin.labels),
        "agreement": format_digest(pin.statement.agreement) if pin.statement.agreement else None,
    }


def as_of_row(as_of: AsOf) -> Row:
    """Describe an as-of."""
    return {"valid_at": format_instant(as_of.valid_at), "known_at": as_of.known_at}


def slot_row(slot: Slot) -> Row:
    """Describe a slot, with its text where it is here."""
    row: Row = {
        "role": slot.role,
        "model": slot.model,
        "format": slot.format,
        "presence": slot.presence.name.lower(),
        "size_bytes": slot.size_bytes,
        "digest": digest(slot),
    }
    if slot.sha1_verdict:
        row["sha1_verdict"] = slot.sha1_verdict
    if slot.text is not None:
        row["text"] = slot.text.decode()
    return row


def revision_row(revision: Revision) -> Row:
    """Describe a revision."""
    return {
        "project": revision.project,
        "page_id": revision.page_id,
        "rev_id": revision.rev_id,
        "parent_rev_id": revision.parent_rev_id,
        "timestamp": format_instant(revision.timestamp),
        "title": revision.title,
        "namespace": revision.namespace,
        "title_inferred": revision.title_inferred,
        "contributor": _contributor(revision.contributor),
        "comment": _comment(revision.comment),
        "minor": revision.minor,
        "redirect": revision.redirect,
        "slots": [slot_row(slot) for slot in revision.slots],
        "position": revision.position,
        "recorded_at": format_instant(revision.recorded_at),
    }


def provenance_row(told: Provenance) -> Row:
    """Describe what a revision was read from; what is not told is left out."""
    row: Row = {
        "position": told.position,
        "recorded_at": format_instant(told.recorded_at),
        "form": told.form,
        "digest": format_digest(told.digest) if told.digest else "",
        "size_bytes": told.size_bytes,
        "source": told.source,
        "events": list(told.events) if told.events[1] else [],
        "offsets": dict(told.offsets),
        "stated_license": told.stated_license,
    }
    return {key: value for key, value in row.items() if value}


def timeline_row(item: TimelineItem) -> Row:
    """Describe one thing of a timeline."""
    head: Row = {
        "time": format_instant(item.time),
        "kind": kind_of(item),
        "position": item.position,
        "recorded_at": format_instant(item.recorded_at),
    }
    what = item.what
    match what:
        case Revision():
            return head | revision_row(what)
        case Move():
            head |= {
                "from_title": what.from_title,
                "from_namespace": what.from_namespace,
                "to_title": what.to_title,
                "to_namespace": what.to_namespace,
            }
        case Delete() | Restore():
            head |= {"title": what.title, "namespace": what.namespace}
        case Visibility():
            head |= {
                "rev_id": what.rev_id,
                "text_hidden": what.text_hidden,
                "comment_hidden": what.comment_hidden,
                "contributor_hidden": what.contributor_hidden,
            }
        case _ as never:
            assert_never(never)
    return head | {"contributor": _contributor(what.contributor), "comment": _comment(what.comment)}


def kind_of(item: TimelineItem) -> str:
    """Name what happened, as the event format does."""
    return "edit" if isinstance(item.what, Revision) else type(item.what).__name__.lower()


def snapshot_row(manifest: Manifest) -> Row:
    """Describe a snapshot."""
    chosen = manifest.selector
    return {
        "snapshot": format_digest(manifest.snapshot_id),
        "as_of": as_of_row(manifest.as_of),
        "selector": {
            "projects": list(chosen.projects),
            "namespaces": list(chosen.namespaces),
            "models": list(chosen.models),
            "redirects": chosen.redirects.value,
            "min_age_seconds": chosen.min_age_seconds,
            "on_hidden": chosen.on_hidden.value,
        },
        "parts": [
            {
                "project": part.project,
                "count": part.count,
                "text_bytes": part.text_bytes,
                "root": format_digest(part.root),
            }
            for part in manifest.parts
        ],
        "manifest": manifest.encoded.decode(),
    }


def entry_row(entry: Entry) -> Row:
    """Describe an entry without its texts."""
    row: Row = {
        "project": entry.project,
        "page_id": entry.page_id,
        "rev_id": entry.rev_id,
        "title": entry.title,
        "namespace": entry.namespace,
        "timestamp": format_instant(entry.timestamp),
        "digest": digest(entry.slot()),
    }
    if entry.title_inferred:
        row["title_inferred"] = True
    if entry.text_hidden:
        row["text_hidden"] = True
    return row


def article_row(entry: Entry) -> Row:
    """Describe an entry with its texts: the main one as ``text``, others under ``slots``."""
    row = entry_row(entry) | {"text": text(entry.slot())}
    others = [slot_row(slot) for slot in entry.slots if slot.role != "main"]
    return row | {"slots": others} if others else row


def change_row(change: Change) -> Row:
    """Describe a page that differs."""
    return {
        "kind": change.kind.value,
        "project": change.project,
        "page_id": change.page_id,
        "before": None if change.before is None else entry_row(change.before),
        "after": None if change.after is None else entry_row(change.after),
        "text_bytes_before": change.text_bytes_before,
        "text_bytes_after": change.text_bytes_after,
    }


def revision_diff_row(found: RevisionDiff) -> Row:
    """Describe what differs between two revisions; ranges count Unicode code points."""
    diff = found.diff
    return {
        "before": revision_row(found.before),
        "after": revision_row(found.after),
        "known_at": found.known_at,
        "lines_removed": diff.lines_removed,
        "lines_added": diff.lines_added,
        "coarse": diff.coarse,
        "truncated": diff.truncated,
        "hunks": [
            {
                "start_a": hunk.start_a,
                "count_a": hunk.count_a,
                "start_b": hunk.start_b,
                "count_b": hunk.count_b,
                "lines": [_line_row(line) for line in hunk.lines],
            }
            for hunk in diff.hunks
        ],
    }


def _line_row(line: DiffLine) -> Row:
    row: Row = {"kind": line.kind.name.lower(), "text": line.text}
    if line.changed:
        row["changed"] = [list(one) for one in line.changed]
    if line.no_newline:
        row["no_newline"] = True
    return row


def _contributor(contributor: Contributor) -> Row | None:
    match contributor.presence:
        case Presence.PRESENT:
            return {"name": contributor.name, "id": contributor.id}
        case Presence.HIDDEN:
            return {"hidden": True}
        case _:
            return None


def _comment(comment: Comment) -> str | Row | None:
    match comment.presence:
        case Presence.PRESENT:
            return comment.text
        case Presence.HIDDEN:
            return {"hidden": True}
        case _:
            return None
