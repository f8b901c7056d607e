"""Content File Exports beside the rows of the table that they are written from."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from recension.archive.claims import Verdict, check_claims
from recension.model.event import Contributor, Edit, Event, Presence
from recension.model.instant import parse_instant
from recension.sources.items import Item
from recension.sources.mediawiki_xml import read_history
from tests.sources.helpers import dump, read_file, reasons, shared

FOLDER = "wikimedia/refinery-content-export"
Row = dict[str, Any]


def rows(wiki: str) -> list[Row]:
    with gzip.open(shared(f"{FOLDER}/wmf_content_mediawiki_content_history_v1.json.gz"), "rt") as file:
        return [row for row in map(json.loads, file) if row["wiki_id"] == wiki]


def compare(items: Iterable[Item], table: Iterable[Row]) -> int:
    """Hold every event beside the row of its revision; returns how many there were."""
    by_id = {row["revision_id"]: row for row in table}
    count = 0
    for item in items:
        if not isinstance(item, Event) or not isinstance(item.what, Edit):
            continue
        edit, row = item.what, by_id[item.what.rev_id]
        count += 1
        assert (item.page_id, edit.namespace) == (row["page_id"], row["page_namespace_id"])
        assert (item.time, edit.minor) == (parse_instant(row["revision_dt"]), row["revision_is_minor_edit"])
        assert edit.parent_rev_id == row.get("revision_parent_id", 0)
        assert edit.title == row["page_title"].replace("_", " ")
        assert edit.contributor == expected_contributor(row)
        if row["revision_comment_is_visible"]:
            assert edit.comment.text == row.get("revision_comment", "")
        else:
            assert edit.comment.presence is Presence.HIDDEN
        slots = {slot.role: slot for slot in edit.slots}
        visible = row["revision_content_is_visible"]
        assert slots.keys() == (row["revision_content_slots"].keys() if visible else {"main"})
        for role, slot in slots.items():
            facts = row["revision_content_slots"][role]
            assert slot.model == facts["content_model"]
            if visible:
                assert slot.format == facts["content_format"]
                assert slot.text == facts["content_body"].encode()
                assert (Presence.PRESENT, facts["content_size"]) == (slot.presence, slot.claimed_bytes)
                assert check_claims(slot).verdict == Verdict.EXACT
            else:
                assert (Presence.HIDDEN, b"", None) == (slot.presence, slot.text, slot.claimed_bytes)
    return count


def expected_contributor(row: Row) -> Contributor:
    """Say what an export makes of a row's user: one that is not known is written as one that is hidden."""
    if not row["user_is_visible"] or row.get("user_text") is None:
        return Contributor(Presence.HIDDEN)
    return Contributor.named(row["user_text"], row.get("user_id"))


def test_a_real_export_equals_the_rows() -> None:
    """Each revision of the real export of Simple English says what the table says."""
    items, fault = read_file(shared(f"{FOLDER}/simplewiki-content-export-2025-11.xml"), read_history)
    assert (None, []) == (fault, reasons(items))
    assert 33 == compare(items, rows("simplewiki"))


def test_slots_of_commons_equal_the_rows() -> None:
    """Pages of Commons, 27 of 59 revisions with a slot of structured data, say what the table says."""
    table = rows("commonswiki")
    source = io.BytesIO(dump(export(table)))
    assert 59 == compare(read_history(source, Path("a.xml"), "p"), table)
    assert 27 == sum(len(row["revision_content_slots"]) > 1 for row in table)


def export(table: list[Row]) -> str:
    """Write rows of one page as the export does: by time, the main slot in the revision, others behind it."""
    ordered = sorted(table, key=lambda row: (row["revision_dt"], row["revision_id"]))
    title = escape(ordered[0]["page_title"].replace("_", " "))
    head = f"<title>{title}</title><ns>{table[0]['page_namespace_id']}</ns><id>{table[0]['page_id']}</id>"
    return f"<page>{head}{''.join(map(revision, ordered))}</page>"


def revision(row: Row) -> str:
    slots = row["revision_content_slots"]
    parent = f"<parentid>{row['revision_parent_id']}</parentid>" if row.get("revision_parent_id") else ""
    who = '<contributor deleted="deleted" />'
    if row.get("user_text") is not None:
        name, user = escape(row["user_text"]), row.get("user_id")
        who = f"<ip>{name}</ip>" if user is None else f"<username>{name}</username><id>{user}</id>"
        who = f"<contributor>{who}</contributor>"
    others = "".join(
        f"<content><role>{role}</role>{slot(facts)}</content>"
        for role, facts in slots.items()
        if role != "main"
    )
    return (
        f"<revision><id>{row['revision_id']}</id>{parent}<timestamp>{row['revision_dt'][:19]}Z</timestamp>"
        f"{who}{'<minor />' if row['revision_is_minor_edit'] else ''}"
        f"<comment>{escape(row['revision_comment'])}</comment>{slot(slots['main'])}{others}"
        f"<sha1>{row['revision_sha1']}</sha1></revision>"
    )


def slot(facts: dict[str, Any]) -> str:
    attributes = f'bytes="{facts["content_size"]}" sha1="{facts["content_sha1"]}" xml:space="preserve"'
    return (
        f"<origin>{facts['origin_rev_id']}</origin><model>{facts['content_model']}</model>"
        f"<format>{facts['content_format']}</format><text {attributes}>{escape(facts['content_body'])}</text>"
    )
