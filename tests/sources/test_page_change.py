from __future__ import annotations

import json
from typing import Any

import pytest

from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Delete,
    Edit,
    Move,
    Presence,
    Restore,
    Visibility,
)
from recension.model.instant import parse_instant
from recension.sources.items import BadRecordError
from recension.sources.page_change import Change, Passed, Slot, edit_of, read_document
from tests.sources.helpers import shared

DCAUSSE = Contributor.named("DCausse (WMF)", 2490)


def real(name: str) -> Any:
    return json.loads(shared(f"wikimedia/events/{name}").read_bytes())


def change(value: object) -> Change:
    found = read_document(value)
    assert isinstance(found, Change), found
    return found


def at(text: str) -> int:
    return parse_instant(text)


def document(kind: str = "edit", **fields: Any) -> dict[str, Any]:
    """Return a document of page_change with all that is read; ``None`` leaves a field out."""
    whole = {
        "$schema": "/mediawiki/page/change/1.2.0",
        "meta": {"id": "m-1", "dt": "2024-10-04T15:16:27Z", "domain": "x.test", "stream": "s"},
        "page_change_kind": kind,
        "dt": "2024-10-04T15:16:26Z",
        "wiki_id": "p",
        "page": {"page_id": 7, "page_title": "Talk:An_apple", "namespace_id": 1},
        "performer": {"user_text": "Ann", "user_id": 9},
        "comment": "why",
        "revision": revision(),
    }
    return {name: value for name, value in (whole | fields).items() if value is not None}


def revision(**fields: Any) -> dict[str, Any]:
    whole = {
        "rev_id": 12,
        "rev_parent_id": 11,
        "rev_dt": "2024-10-04T15:16:26Z",
        "comment": "why",
        "editor": {"user_text": "Ann", "user_id": 9},
        "is_content_visible": True,
        "is_editor_visible": True,
        "is_comment_visible": True,
        "content_slots": {
            "main": {
                "slot_role": "main",
                "content_model": "wikitext",
                "content_format": "text/x-wiki",
                "content_sha1": "syvtbocopvw4f81bf07ocly0sl8ybqo",
                "content_size": 5,
            }
        },
    }
    return {name: value for name, value in (whole | fields).items() if value is not None}


# --- the real documents, field by field -------------------------------------------------------------


def test_create() -> None:
    """A create is a revision without a parent."""
    found = change(real("page_change/wikibase-item-create.json"))
    assert (found.project, found.page_id, found.title, found.namespace) == (
        "testwikidatawiki", 330275, "Q235989", 0,
    )  # fmt: skip
    assert found.time == found.seen_at == at("2024-10-04T15:09:55Z")
    assert found.source_id == "eventstreams:95cbd964-6e6e-420a-99c2-b774efc37796"
    assert found.happened is None
    event = edit_of(found, {"main": b"{}"})
    edit = event.what
    assert isinstance(edit, Edit)
    assert (event.page_id, event.time, event.source_id) == (330275, at("2024-10-04T15:09:55Z"), "")
    assert (edit.rev_id, edit.parent_rev_id, edit.title, edit.namespace) == (686138, 0, "Q235989", 0)
    assert (edit.contributor, edit.minor, edit.title_inferred) == (DCAUSSE, False, False)
    assert edit.comment == Comment.of(
        "/* wbeditentity-create:2|en */ WDQS Updater Test Item, This is a WDQS Updater Test Item"
    )
    (slot,) = edit.slots
    assert (slot.role, slot.model, slot.format) == ("main", "wikibase-item", "application/json")
    assert (slot.presence, slot.text) == (Presence.PRESENT, b"{}")
    assert (slot.claimed_sha1, slot.claimed_bytes) == ("byftmugbp7d41rtunql50ma07594wnl", 329)


@pytest.mark.parametrize(
    "name, page_id, title, namespace, rev_id, parent, minor",
    [
        ("wikibase-item-edit", 330275, "Q235989", 0, 686139, 686138, False),
        ("wikibase-lexeme-create", 330350, "Lexeme:L4227", 146, 686857, 0, False),
        ("wikibase-non-item-create", 330276, "User:DCausse (WMF)/Test", 2, 686143, 0, False),
        ("wikibase-property-edit", 728, "Property:P115", 120, 686147, 686146, False),
        (
            "mediainfo-edit-mediainfo-item", 114491269, "File:Iris foetidissima fruit (05).jpg", 6,
            934984984, 830021987, True,
        ),
        (
            "mediainfo-edit-non-mediainfo-item", 90146511, "File:Therese Peche (BM 1952,0308.9).jpg", 6,
            935026237, 935026196, True,
        ),
    ],
)  # fmt: skip
def test_edits(
    name: str, page_id: int, title: str, namespace: int, rev_id: int, parent: int, *, minor: bool
) -> None:
    """An edit is its revision, by the title of that moment, with spaces."""
    found = change(real(f"page_change/{name}.json"))
    assert (found.page_id, found.title, found.namespace, found.happened) == (page_id, title, namespace, None)
    said = found.revision
    assert said is not None
    assert (said.rev_id, said.parent_rev_id, said.minor, said.text_hidden) == (rev_id, parent, minor, False)
    assert said.time == found.time


def test_slots() -> None:
    """Each slot has its own role, model, digest and size; they are sorted by role."""
    found = change(real("page_change/mediainfo-edit-mediainfo-item.json"))
    assert found.revision is not None
    assert found.revision.slots == (
        Slot("main", "wikitext", "text/x-wiki", "m90k2zfbwag2a9aas3zellewegk0hv1", 513),
        Slot("mediainfo", "wikibase-mediainfo", "application/json", "spohp31hti1xz1lf3kpxazirnvbw1pk", 1519),
    )


def test_delete() -> None:
    """A delete is of the page, by who deleted it, with the comment of the deletion."""
    found = change(real("page_change/wikibase-item-delete.json"))
    assert found.time == at("2024-10-04T15:26:14Z")
    assert not found.suppresses
    assert isinstance(found.happened, Delete)
    assert (found.happened.title, found.happened.contributor) == ("Q235989", DCAUSSE)
    assert found.happened.comment.text.startswith('content was: "WDQS Updater Test Item"')
    assert found.rev_id == 686140


def test_undelete() -> None:
    """An undelete is a restore at its own time, of a revision that is older."""
    found = change(real("page_change/wikibase-item-undelete.json"))
    assert found.time == at("2024-10-04T15:27:28Z")
    assert found.happened == Restore("Q235989", 0, DCAUSSE, NO_COMMENT)
    assert found.revision is not None
    assert (found.revision.rev_id, found.revision.time) == (686140, at("2024-10-04T15:20:41Z"))


def test_visibility_change() -> None:
    """A visibility change says all three flags of the page's newest revision."""
    found = change(real("page_change/wikibase-item-visibility-change.json"))
    assert found.time == at("2024-10-04T16:16:05Z")
    assert found.happened == Visibility(
        686140, text_hidden=False, comment_hidden=True, contributor_hidden=False, contributor=DCAUSSE
    )
    assert found.revision is not None
    assert found.revision.comment == HIDDEN_COMMENT
    assert found.revision.contributor == DCAUSSE


def test_move() -> None:
    """A move has the title before it, and a revision of its own; the redirect is another page."""
    found = change(real("sdk-go/page-change.json")[0])
    who = Contributor.named("Svidrigayloff", 48379723)
    assert found.happened == Move(
        "Draft:Varvara Prohorova", 118, "Varvara Prohorova", 0, who,
        Comment.of("Перенос черновика в основное пространство"),
    )  # fmt: skip
    assert (found.page_id, found.title, found.namespace) == (77777155, "Varvara Prohorova", 0)
    assert (found.time, found.seen_at) == (at("2024-09-12T06:58:34Z"), at("2024-09-12T06:58:40Z"))
    event = edit_of(found, {"main": b""})
    assert isinstance(event.what, Edit)
    assert (event.what.rev_id, event.what.parent_rev_id, event.what.minor) == (1245305770, 1244038894, True)
    assert (event.what.title, event.what.title_inferred) == ("Varvara Prohorova", False)


def test_elder_streams() -> None:
    """The elder streams say the same in other words."""
    created = change(real("sdk-go/page-create.json")[0]["data"])
    assert (created.project, created.page_id, created.namespace) == ("enwiki", 72231974, 3)
    assert created.revision is not None
    assert created.revision.slots == (
        Slot("main", "wikitext", "text/x-wiki", "r4lvci69mz8a7qo6ordioivfdcovzax", 1262),
    )
    assert created.revision.time == at("2022-11-11T15:55:09Z")
    assert created.revision.contributor == Contributor.named("ClueBot NG", 13286072)

    edited = change(real("sdk-go/revision-create.json")[0]["data"])
    assert edited.revision is not None
    assert (edited.revision.rev_id, edited.revision.parent_rev_id) == (516364180, 352825217)
    assert edited.revision.slots == (
        Slot("main", "wikitext", "text/x-wiki", "9l7wfzoonyo08ijitgih1l720ixjtry", 173),
    )

    deleted = change(real("sdk-go/page-delete.json")[0]["data"])
    assert (deleted.project, deleted.page_id) == ("mgwiktionary", 4656021)
    assert isinstance(deleted.happened, Delete)
    assert deleted.happened.contributor == Contributor.named("Jagwar", 177)
    assert deleted.revision is None

    moved = change(real("sdk-go/page-move.json")[0]["data"])
    assert moved.happened == Move(
        "Coulon", 0, "Coulon (gemeente)", 0, Contributor.named("AGL", 147337), NO_COMMENT
    )
    assert moved.time == at("2020-12-01T10:44:35Z")

    hidden = change(real("sdk-go/revision-visibility-change.json")[0]["data"])
    assert isinstance(hidden.happened, Visibility)
    assert (hidden.happened.rev_id, hidden.happened.text_hidden) == (123, True)
    assert not hidden.happened.comment_hidden
    assert not hidden.happened.contributor_hidden
    assert hidden.source_id == "eventstreams:visibility:123:123:1591815436000000"


def test_eldest() -> None:
    """Documents of 2018 name their schema in ``meta.schema_uri``."""
    deleted = change(real("legacy-wdqs/page-delete.json"))
    assert (deleted.project, deleted.page_id) == ("wikidatawiki", 4875)
    restored = change(real("legacy-wdqs/page-undelete.json"))
    assert restored.happened == Restore(
        "Q32451604", 0, Contributor.named("\u05d9Bot", 777), Comment.of("it is better to merge it")
    )
    created = change(real("legacy-wdqs/create-event-full.json"))
    assert created.revision is not None
    assert created.revision.slots == (Slot("main", "wikitext", "wikibase-item", "123fewfwe", 1571),)


def test_real_files_are_all_understood() -> None:
    """Every real file gives changes, or is passed over by its name, or says why it cannot be read."""
    outcomes: dict[str, set[str]] = {}
    for folder in ("page_change", "sdk-go", "legacy-wdqs"):
        for path in sorted(shared(f"wikimedia/events/{folder}").glob("*.json")):
            text = path.read_text()
            try:
                values = [json.loads(text)]
            except ValueError:
                values = [json.loads(line) for line in text.splitlines()]
            values = values[0] if isinstance(values[0], list) else values
            for value in values:
                try:
                    found = read_document(value.get("data", value))
                    said = found.what if isinstance(found, Passed) else "change"
                except BadRecordError as error:
                    said = error.reason
                outcomes.setdefault(said, set()).add(f"{folder}/{path.stem}")
    reconcile = "page_change/reconcile-reconcile-creation"
    others = {what: sorted(names) for what, names in outcomes.items() if what != "change"}
    assert others == {
        "document of /rdf_streaming_updater/reconcile/1.0.0": [reconcile, f"{reconcile}-unrelated-source"],
        "document of mediawiki/revision/score": ["sdk-go/revision-score"],
        "document of rdf-streaming-updater.lapsed-action": ["legacy-wdqs/late-events"],
        "document of mediawiki/page/properties-change": [
            "legacy-wdqs/prop-change", "legacy-wdqs/prop-change-wb",
        ],
        "UNKNOWN_SCHEMA": [
            "legacy-wdqs/create-event", "legacy-wdqs/create-event-ms", "legacy-wdqs/rc-domain",
            "legacy-wdqs/rc-namespace",
        ],
    }  # fmt: skip
    assert len(outcomes["change"]) == 10 + 6 + 3


# --- what it may meet -------------------------------------------------------------------------------


def test_suppressed_delete() -> None:
    """A delete that names nobody and hides its revision hides the page; who did it and why stay hidden."""
    hidden = revision(
        editor=None, comment=None, content_slots=None,
        is_content_visible=False, is_editor_visible=False, is_comment_visible=False,
    )  # fmt: skip
    found = change(document("delete", performer=None, comment=None, revision=hidden))
    assert found.suppresses
    assert found.happened == Delete("Talk:An apple", 1, HIDDEN_CONTRIBUTOR, HIDDEN_COMMENT)


def test_delete_of_a_hidden_revision_is_no_suppression() -> None:
    """A page whose newest revision was hidden before, wholly even, may be deleted like any other."""
    hidden = {f"is_{what}_visible": False for what in ("content", "editor", "comment")}
    for said in (revision(is_content_visible=False), revision(**hidden)):
        found = change(document("delete", revision=said))
        assert not found.suppresses
        assert found.happened == Delete("Talk:An apple", 1, Contributor.named("Ann", 9), Comment.of("why"))


@pytest.mark.parametrize("kind", ["move", "delete", "undelete", "visibility_change"])
def test_a_revision_that_is_told_in_part(kind: str) -> None:
    """What happened to a page is heard, whatever the document lacks of its revision."""
    seen = {f"is_{what}_visible": True for what in ("content", "editor", "comment")}
    found = change(document(kind, revision={"rev_id": 12, **seen}))
    assert found.revision is None
    assert found.happened is not None
    assert found.rev_id == (12 if kind == "visibility_change" else 0)


def test_what_is_visible_is_never_guessed() -> None:
    """A visibility change that does not say all is refused, and a restore that does not shows nothing."""
    unsaid = revision(is_comment_visible=None)
    with pytest.raises(BadRecordError, match="what is visible"):
        read_document(document("visibility_change", revision=unsaid))
    assert change(document("undelete", revision=unsaid)).revision is None


def test_delete_in_the_second_of_the_last_edit() -> None:
    """The page is gone after its last edit, whose second it shares."""
    found = change(document("delete"))
    assert found.revision is not None
    assert found.time == found.revision.time + 1


def test_hidden_text_needs_no_fetch() -> None:
    """A text that upstream hides is hidden, and its digest is not kept."""
    event = edit_of(change(document(revision=revision(is_content_visible=False))), {})
    assert isinstance(event.what, Edit)
    (slot,) = event.what.slots
    assert (slot.presence, slot.text, slot.claimed_sha1) == (Presence.HIDDEN, b"", "")


def test_text_that_a_source_hides() -> None:
    """A text that the content source does not show is hidden, not lost and not empty."""
    event = edit_of(change(document()), {"main": None})
    assert isinstance(event.what, Edit)
    assert event.what.slots[0].presence is Presence.HIDDEN


def test_text_in_the_document() -> None:
    """A text that the document has is not asked for."""
    slots = {"main": {"content_model": "wikitext", "content_body": "Hellö"}}
    event = edit_of(change(document(revision=revision(content_slots=slots))), {})
    assert isinstance(event.what, Edit)
    assert event.what.slots[0].text == "Hellö".encode()


def test_nobody_is_named_of_listed_pages() -> None:
    """Who is not told is not hidden."""
    found = change(document(performer=None, revision=revision(editor=None)))
    assert found.revision is not None
    assert found.revision.contributor == NOBODY


def test_hidden_editor() -> None:
    """An editor who is hidden stays hidden, whatever else the document has."""
    found = change(document(revision=revision(is_editor_visible=False)))
    assert found.revision is not None
    assert found.revision.contributor == HIDDEN_CONTRIBUTOR


def test_canaries_and_other_projects() -> None:
    """Upstream's own documents and those of other projects are passed over, by name."""
    assert read_document(document(meta={"domain": "canary", "stream": "s"})) == Passed("canary")
    assert read_document(document(), ["q"]) == Passed("other projects")
    assert isinstance(read_document(document(), ["p"]), Change)


@pytest.mark.parametrize("version", ["1.0.0", "1.3.0", "1.11.0", "2.0.0"])
def test_later_versions(version: str) -> None:
    """Any version is read, and what is new in it is passed over."""
    new = document() | {"$schema": f"/mediawiki/page/change/{version}", "later": {"a": [1]}}
    assert change(new) == change(document())


def test_large_ids() -> None:
    """Ids have 64 bits."""
    found = change(document(revision=revision(rev_id=5_000_000_000, rev_parent_id=2**63 - 1)))
    assert found.rev_id == 5_000_000_000


@pytest.mark.parametrize(
    "value, reason",
    [
        ([], "INVALID_FIELD"),
        ({}, "UNKNOWN_SCHEMA"),
        (document(wiki_id=None), "INVALID_FIELD"),
        (document(page_change_kind="merge"), "UNKNOWN_KIND"),
        (document(page={"page_id": 7}), "INVALID_FIELD"),
        (document(page={"page_id": 0, "page_title": "A", "namespace_id": 0}), "INVALID_EVENT"),
        (document(revision=None), "INVALID_FIELD"),
        (document(revision=revision(rev_id=None)), "INVALID_FIELD"),
        (document(revision=revision(rev_id=2**63)), "INVALID_FIELD"),
        (document(revision=revision(rev_dt="yesterday")), "INVALID_FIELD"),
        (document(revision=revision(content_slots={"": {}})), "INVALID_EVENT"),
        (document(revision=revision(content_slots={"main": {"content_size": 2**25}})), "TEXT_TOO_LARGE"),
        (document(meta={"stream": "s"}), "INVALID_FIELD"),
        (document(page={"page_id": 7, "page_title": "A\nb", "namespace_id": 0}), "INVALID_EVENT"),
    ],
)
def test_what_cannot_be_read_is_named(value: object, reason: str) -> None:
    """A document that breaks a rule is refused with a reason."""
    with pytest.raises(BadRecordError) as caught:
        read_document(value)
    assert caught.value.reason == reason


def test_elder_visibility_without_a_state() -> None:
    """A visibility change that does not say what is visible is refused rather than read as all hidden."""
    value = dict(real("sdk-go/revision-visibility-change.json")[0]["data"])
    del value["visibility"]
    with pytest.raises(BadRecordError, match="visibility"):
        read_document(value)
