from __future__ import annotations

import pytest

from recension.model.event import (
    HIDDEN_COMMENT,
    HIDDEN_CONTRIBUTOR,
    NO_COMMENT,
    NOBODY,
    Comment,
    Contributor,
    Event,
    LogAction,
    LogEntry,
)
from recension.model.instant import parse_instant
from recension.sources.items import SiteInfo, Skipped
from tests.sources.helpers import dump, entries, log, logitem, reasons

MOVED = 'a:2:{s:9:"4::target";s:13:"Yasujirō Ozu";s:10:"5::noredir";s:1:"0";}'


def visibility(kind: str = "revision", ids: str = 'a:1:{i:0;s:2:"12";}', bits: str = "i:1;") -> str:
    size = len(kind)
    return (
        f's:7:"4::type";s:{size}:"{kind}";s:6:"5::ids";{ids}s:9:"6::ofield";i:0;s:9:"7::nfield";{bits}'
    ).join(("a:4:{", "}"))


def only_entry(item: str) -> LogEntry:
    (entry,) = entries(log(dump(item)))
    return entry


def test_whole_entry() -> None:
    """A move becomes one log entry without a page id, idempotent by its log id."""
    who = "<contributor><username>Ann</username><id>9</id></contributor><comment>why</comment>"
    items = log(dump(logitem("move", "move", MOVED, title="Talk:Old_name", rest=who)))
    entry = LogEntry(
        log_id=5,
        action=LogAction.MOVE,
        title="Talk:Old_name",
        namespace=1,
        to_title="Yasujirō Ozu",
        to_namespace=0,
        rev_ids=(),
        text_hidden=False,
        comment_hidden=False,
        contributor_hidden=False,
        contributor=Contributor.named("Ann", 9),
        comment=Comment.of("why"),
    )
    assert isinstance(items[0], SiteInfo)
    assert [Event("p", 0, parse_instant("2005-01-01T00:00:00Z"), "log:5", entry)] == items[1:]


@pytest.mark.parametrize(
    "kind,action,params,expected",
    [
        ("move", "move", "Talk:New", LogAction.MOVE),
        ("move", "move_redir", "Talk:New\n1", LogAction.MOVE),
        ("delete", "delete", "", LogAction.DELETE),
        ("delete", "delete_redir", "a:0:{}", LogAction.DELETE),
        ("delete", "delete_redir2", "", LogAction.DELETE),
        ("delete", "restore", "whatever", LogAction.RESTORE),
        ("delete", "revision", "revision\n12,13\nofield=0\nnfield=1", LogAction.VISIBILITY),
        ("delete", "revision", "oldid\n12,13\nofield=0\nnfield=1", LogAction.VISIBILITY),
        ("merge", "merge", "New\n20140804160710", LogAction.OTHER),
        ("import", "upload", "", LogAction.OTHER),
        ("import", "interwiki", 'a:1:{s:14:"4:number:count";i:3;}', LogAction.OTHER),
    ],
)
def test_actions(kind: str, action: str, params: str, expected: LogAction) -> None:
    """The actions that change what a page was are kept, in the old form of parameters too."""
    assert expected == only_entry(logitem(kind, action, params)).action


@pytest.mark.parametrize(
    "params,target,namespace",
    [
        ("talk:New_name\n1", "talk:New_name", 1),
        ("New name", "New name", 0),
        ('a:1:{s:9:"4::target";s:8:"Talk:New";}', "Talk:New", 1),
        ('a:2:{i:0;s:8:"Talk:New";i:1;s:1:"1";}', "Talk:New", 1),
    ],
)
def test_targets_of_moves(params: str, target: str, namespace: int) -> None:
    """The target of a move is read from every form, with its namespace by prefix."""
    entry = only_entry(logitem("move", "move", params))
    assert (target, namespace) == (entry.to_title, entry.to_namespace)


@pytest.mark.parametrize(
    "params",
    [
        "Talk:New\n20140804160710",
        'a:2:{s:7:"4::dest";s:8:"Talk:New";s:13:"5::mergepoint";s:14:"20140804160710";}',
        'a:2:{s:12:"4:title:dest";s:8:"Talk:New";s:22:"5:timestamp:mergepoint";s:14:"20140804160710";}',
        'a:2:{i:0;s:8:"Talk:New";i:1;s:14:"20140804160710";}',
    ],
)
def test_a_merge_names_where_revisions_went(params: str) -> None:
    """Histories that were merged are kept with both titles, whichever form the parameters have."""
    entry = only_entry(logitem("merge", "merge", params))
    assert ("Apple", "Talk:New", 1) == (entry.title, entry.to_title, entry.to_namespace)


@pytest.mark.parametrize(
    "params",
    [
        'a:3:{s:6:"4::ids";a:2:{i:0;s:2:"12";i:1;i:13;}s:9:"5::ofield";i:0;s:9:"6::nfield";i:6;}',
        'a:3:{s:6:"4::ids";s:5:"12,13";s:9:"5::ofield";s:1:"0";s:9:"6::nfield";s:1:"6";}',
        "12,13\nofield=0\nnfield=6",
        "logid\n12,13\nofield=0\nnfield=6",
    ],
)
def test_hidden_log_entries(params: str) -> None:
    """What hides other log entries is kept with their ids, and with what is hidden of them."""
    entry = only_entry(logitem("delete", "event", params, title="Special:Log/delete"))
    assert (LogAction.CONCEALMENT, (12, 13)) == (entry.action, entry.rev_ids)
    assert (False, True, True) == (entry.text_hidden, entry.comment_hidden, entry.contributor_hidden)


@pytest.mark.parametrize("bits", range(16))
def test_visibility_bits(bits: int) -> None:
    """Bit 1 hides the text, 2 the comment, 4 the contributor; 8 hides from administrators too."""
    flags = bool(bits & 1), bool(bits & 2), bool(bits & 4)
    for params in (visibility(bits=f"i:{bits};"), f"revision\n12\nofield=0\nnfield={bits}"):
        entry = only_entry(logitem("delete", "revision", params))
        assert flags == (entry.text_hidden, entry.comment_hidden, entry.contributor_hidden)
        assert (12,) == entry.rev_ids


@pytest.mark.parametrize(
    "params,expected",
    [
        (visibility(ids='a:2:{i:0;s:2:"12";i:1;i:5000000000;}'), (12, 5_000_000_000)),
        (visibility(ids='s:5:"12,13";', bits='s:1:"1";'), (12, 13)),
        ("revision\n12,13\nofield=0\nnfield=1", (12, 13)),
    ],
)
def test_hidden_revisions(params: str, expected: tuple[int, ...]) -> None:
    """Revision ids come as strings, ints or a list with commas."""
    assert expected == only_entry(logitem("delete", "revision", params)).rev_ids


def test_other_entries_are_counted() -> None:
    """Entries of other kinds give no item of their own; the last item counts them."""
    others = (
        logitem("upload", "upload")
        + logitem("upload", "upload")
        + logitem("patrol", "")
        + logitem("delete", "revision", visibility("oldimage"))
        + logitem("delete", "revision", "archive\n12\nofield=0\nnfield=1")
        + logitem("delete", "revision", "oldid\n12,13")
    )
    items = log(dump(others + logitem("delete", "delete")))
    assert 1 == len(entries(items))
    assert Skipped({"delete/revision:other": 3, "patrol/": 1, "upload/upload": 2}) == items[-1]


@pytest.mark.parametrize(
    "item,reason",
    [
        (logitem("delete", "delete", title=""), "MISSING_TITLE"),
        (
            logitem("delete", "delete").replace("<logtitle>Apple</logtitle>", '<text deleted="deleted"/>'),
            "HIDDEN_ACTION",
        ),
        (logitem("delete", "delete").replace("<id>5</id>", ""), "MISSING_ID"),
        (logitem("delete", "delete").replace("2005-01-01T", "x"), "INVALID_TIME"),
        (logitem("delete", "delete", title="A&#10;B"), "INVALID_EVENT"),
        (logitem("delete", "delete", title="x" * 10_001), "INVALID_EVENT"),
        (logitem("move", "move", ""), "MISSING_TITLE"),
        (logitem("move", "move", 'a:1:{s:9:"4::target";s:99:"x";}'), "INVALID_PARAMS"),
        (logitem("move", "move", "a:0:{}"), "MISSING_TITLE"),
        (logitem("delete", "revision", visibility(bits="i:16;")), "INVALID_PARAMS"),
        (logitem("delete", "revision", visibility(bits="N;")), "MISSING_ID"),
        (logitem("delete", "revision", visibility(ids="a:0:{}")), "INVALID_PARAMS"),
        (logitem("delete", "revision", visibility(ids='a:1:{i:0;s:1:"x";}')), "INVALID_NUMBER"),
        (logitem("delete", "revision", "revision"), "MISSING_ID"),
    ],
)
def test_bad_entry_does_not_stop_the_dump(item: str, reason: str) -> None:
    """An entry that cannot be used is rejected with a reason, and the next one is read."""
    items = log(dump(item + logitem("delete", "delete", title="Next")))
    assert [reason] == reasons(items)
    assert ["Next"] == [entry.title for entry in entries(items)]


def test_hidden_and_absent() -> None:
    """A hidden performer or comment is not the same as none."""
    hidden = only_entry(
        logitem("delete", "delete", rest='<contributor deleted="deleted"/><comment deleted="deleted"/>')
    )
    absent = only_entry(logitem("delete", "delete"))
    assert (HIDDEN_CONTRIBUTOR, HIDDEN_COMMENT) == (hidden.contributor, hidden.comment)
    assert (NOBODY, NO_COMMENT) == (absent.contributor, absent.comment)
