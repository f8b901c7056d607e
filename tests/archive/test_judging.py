"""What follows from changes of a stream, whatever their order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.judging import Judge, judge_changes, lacks_text, must_wait
from recension.archive.reader import Archive
from recension.model.errors import PageNotFoundError
from recension.model.event import Presence
from recension.model.instant import format_instant
from recension.model.reading import ProjectInfo, Revision
from recension.sources.page_change import Change, Complete, edit_of, read_document
from recension.store.memory import MemoryStore

LATER = 4_000_000_000_000_000
SECOND = 1_000_000
ALL = ("content", "comment", "editor")


def new_store() -> MemoryStore:
    store = MemoryStore()
    Ingestor(store).create_project(ProjectInfo("p", "https://t.example", "en", "CC-BY-SA-4.0"))
    return store


def change(kind: str, second: int, *, rev: int = 1, page: int = 7, hidden: tuple[str, ...] = ()) -> Change:
    """Return what page_change tells at a second about a page whose newest revision is of second ``rev``."""
    said: dict[str, Any] = {
        "rev_id": rev,
        "rev_dt": format_instant(rev * SECOND),
        **{f"is_{name}_visible": name not in hidden for name in ALL},
    }
    if "content" not in hidden:
        said["content_slots"] = {"main": {"content_model": "wikitext", "content_format": "text/x-wiki"}}
    if "comment" not in hidden:
        said["comment"] = "why"
    if "editor" not in hidden:
        said["editor"] = {"user_text": "Ann"}
    found = read_document(
        {
            "$schema": "/mediawiki/page/change/1.2.0",
            "meta": {"id": f"{kind}-{second}-{rev}", "dt": format_instant(second * SECOND)},
            "page_change_kind": kind,
            "dt": format_instant(second * SECOND),
            "wiki_id": "p",
            "page": {"page_id": page, "page_title": "A", "namespace_id": 0},
            "revision": said,
        }
    )
    assert isinstance(found, Change)
    return found


def complete(one: Change) -> Complete:
    edits = one.happened is None
    return Complete(one, edit_of(one, {"main": f"text {one.rev_id}".encode()}) if edits else None)


def take(store: MemoryStore, *changes: Complete) -> dict[str, int]:
    """Store what follows from changes of one batch; return what was ignored."""
    judged = judge_changes(store, "p", changes)
    appended = Ingestor(store).append("p", judged.events)
    assert not appended.rejected, appended.rejected
    return dict(judged.ignored)


def hidden_of(store: MemoryStore, rev: int) -> str:
    """Return what is hidden of a revision, by first letters."""
    *_, one = (
        item.what
        for item in Archive(store, clock=lambda: LATER).timeline("p", 7)
        if isinstance(item.what, Revision) and item.what.rev_id == rev
    )
    return (
        "t" * (one.slots[0].presence is Presence.HIDDEN)
        + "c" * (one.comment.presence is Presence.HIDDEN)
        + "u" * (one.contributor.presence is Presence.HIDDEN)
    )


def exists(store: MemoryStore) -> bool:
    try:
        Archive(store, clock=lambda: LATER).article("p", 7, valid_at=LATER)
    except PageNotFoundError:
        return False
    return True


EDIT = complete(change("create", 1))


def test_the_newest_statement_holds() -> None:
    """Of several visibility changes that of the newest time holds, whichever comes last."""
    stated = [
        complete(change("visibility_change", 5, hidden=ALL)),
        complete(change("visibility_change", 6, hidden=("comment",))),
        complete(change("visibility_change", 7, hidden=("editor", "content"))),
    ]
    for order in permutations(stated):
        store = new_store()
        for one in (EDIT, *order, *order):
            take(store, one)
        assert hidden_of(store, 1) == "tu"
        store = new_store()
        take(store, EDIT, *order)
        assert hidden_of(store, 1) == "tu"


def test_statements_of_one_instant() -> None:
    """What either of two statements of one second hides is hidden, in both orders, told once or twice."""
    stated = [
        complete(change("visibility_change", 5, hidden=("content",))),
        complete(replace(change("visibility_change", 5, hidden=("comment",)), source_id="another")),
    ]
    for order in permutations(stated):
        store = new_store()
        for one in (EDIT, *order, *order):
            take(store, one)
        assert hidden_of(store, 1) == "tc"


def test_suppression_and_return() -> None:
    """Suppressed, restored and shown: everything is back; in any order, in one batch and in many."""
    second = complete(change("edit", 3, rev=3))
    gone = complete(change("delete", 5, rev=3, hidden=ALL))
    back = complete(change("undelete", 8, rev=3))
    later = complete(change("visibility_change", 9, rev=3, hidden=("comment",)))
    for order in permutations((second, gone, back, later)):
        if order.index(second) > min(order.index(back), order.index(later)):
            continue  # they wait for the revision
        one_batch, many = new_store(), new_store()
        take(one_batch, EDIT, *order)
        for one in (EDIT, *order):
            take(many, one)
        for store in (one_batch, many):
            assert exists(store), order
            assert hidden_of(store, 1) == "", order
            assert hidden_of(store, 3) == "c", order


def test_suppression_that_is_kept() -> None:
    """Restored, and still hidden: the page is back, and what was suppressed is not."""
    second = complete(change("edit", 3, rev=3))
    gone = complete(change("delete", 5, rev=3, hidden=ALL))
    back = complete(change("undelete", 8, rev=3, hidden=ALL))
    for order in permutations((second, gone, back)):
        if order.index(second) > order.index(back):
            continue
        store = new_store()
        for one in (EDIT, *order):
            take(store, one)
        assert exists(store)
        assert hidden_of(store, 1) == hidden_of(store, 3) == "tcu", order


def test_an_edit_that_comes_after_its_suppression() -> None:
    """A revision that arrives late is hidden in the commit that brings it."""
    store = new_store()
    take(store, EDIT)
    take(store, complete(change("delete", 5, rev=3, hidden=ALL)))
    take(store, complete(change("edit", 3, rev=3)))
    assert hidden_of(store, 3) == "tcu"
    assert not exists(store)


def test_an_edit_after_the_suppression_is_not_hidden() -> None:
    """What was made after the page came back was never suppressed."""
    store = new_store()
    take(store, EDIT, complete(change("delete", 5, hidden=ALL)))
    take(store, complete(change("undelete", 8, hidden=ALL)), complete(change("edit", 9, rev=9)))
    assert hidden_of(store, 1) == "tcu"
    assert hidden_of(store, 9) == ""


def test_a_hidden_text_comes_back() -> None:
    """A text that was hidden when its revision came is taken once it is shown again, and not before."""
    store = new_store()
    shut = change("create", 1, hidden=("content",))
    take(store, Complete(shut, edit_of(shut, {})))
    take(store, EDIT)
    assert hidden_of(store, 1) == "t"
    shown = change("visibility_change", 5)
    with store.view() as view:
        assert lacks_text(view, 1, shown)
        assert not lacks_text(view, 1, change("create", 1))
    take(store, Complete(shown, edit_of(shown, {"main": b"text 1"})))
    assert hidden_of(store, 1) == ""
    assert Archive(store).text("p", 1) == b"text 1"
    with store.view() as view:
        assert not lacks_text(view, 1, shown)


def test_what_has_to_wait() -> None:
    """Events of a page or a revision that is not known wait; an edit never does."""
    store = new_store()

    def waits(*changes: Change) -> list[bool]:
        with store.view() as view:
            return [must_wait(view, 1, one) for one in changes]

    told = [change(kind, 5) for kind in ("create", "move", "delete", "undelete", "visibility_change")]
    assert waits(*told) == [False, True, True, True, True]
    take(store, EDIT)
    assert waits(*told) == [False] * 5
    assert waits(change("visibility_change", 5, rev=2), change("delete", 5, rev=2)) == [True, False]


def test_nothing_is_told_twice() -> None:
    """Said again, a change adds nothing to the log."""
    store = new_store()
    told = [
        EDIT, complete(change("delete", 5, hidden=ALL)), complete(change("undelete", 8)),
        complete(change("visibility_change", 9, hidden=("comment",))), complete(change("delete", 10)),
    ]  # fmt: skip
    take(store, *told)
    head = store.log.head()
    ignored = take(store, *told)
    assert store.log.head() == head
    assert ignored == {"told before": 4}


def test_delete_of_an_unknown_page() -> None:
    """What was never here cannot be deleted; it is counted, and no error."""
    store = new_store()
    assert take(store, complete(change("delete", 5))) == {"delete of a page that is not known": 1}


def test_the_judge_is_what_makes_the_order_irrelevant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its look at what is newer the last that comes would hold."""
    monkeypatch.setattr(Judge, "_last", lambda *_: None)
    monkeypatch.setattr(Judge, "_of_page", lambda *_: None)
    store = new_store()
    take(store, EDIT)
    take(store, complete(change("visibility_change", 7, hidden=("content",))))
    take(store, complete(change("visibility_change", 6)))
    assert hidden_of(store, 1) == ""
