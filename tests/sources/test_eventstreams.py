"""Places in a stream, and one connection that several projects share."""

from __future__ import annotations

import json
import random
import threading

import pytest

from recension.model.errors import UpstreamUnreachableError
from recension.sources.eventstreams import Hub, Inbox, Told, oldest, read_place, written_place
from recension.sources.http import Http, Patience
from recension.sources.items import Rejected
from recension.sources.page_change import Change, Passed
from tests.eventstreams import START, STREAM, Service, Wiki, history
from tests.sources.helpers import shared
from tests.upstream import Asked, Upstream

NOW = "2025-06-01T00:00:00Z"


def stamped(**times: int) -> dict[str, int | str]:
    return {f"{topic}.x/0": f"timestamp:{at}" for topic, at in times.items()}


def test_real_ids() -> None:
    """The id of a real document says where to go on, and is sent back as it came but for the unread topic."""
    frame = json.loads(shared("wikimedia/events/sdk-go/page-delete.json").read_bytes())[0]
    place = read_place(json.dumps(frame["id"]))
    assert place == {
        "eqiad.mediawiki.page-delete/0": "timestamp:1605727161001",
        "codfw.mediawiki.page-delete/0": "offset:-1",
    }
    assert json.loads(written_place(place)) == [
        {"topic": "codfw.mediawiki.page-delete", "partition": 0, "timestamp": 1605727161001},
        {"topic": "eqiad.mediawiki.page-delete", "partition": 0, "timestamp": 1605727161001},
    ]


@pytest.mark.parametrize(
    "last_id",
    ["", "x", "5", "{}", "[]", "[5]", '[{"topic":1,"partition":0,"offset":1}]', "[" * 100_000,
     '[{"topic":"a","partition":"0","offset":1}]', '[{"topic":"a","partition":0}]',
     json.dumps([{"topic": f"t{n}", "partition": 0, "offset": n} for n in range(65)])],
)  # fmt: skip
def test_ids_that_say_nothing(last_id: str) -> None:
    """An id of another form is none: the place before it holds."""
    assert read_place(last_id) is None


def test_nothing_read_yet() -> None:
    """Before the first document there is no id to send."""
    assert written_place({"since": NOW}) == ""
    assert oldest([{}, {}], NOW) == {"since": NOW}
    assert oldest([{"since": "2025-01-01T00:00:00Z"}, {}], NOW) == {"since": "2025-01-01T00:00:00Z"}


def test_the_oldest_place() -> None:
    """Of several projects the oldest place counts, topic by topic; an unread topic asks for nothing."""
    one, other = stamped(eqiad=5, codfw=9), stamped(eqiad=7, codfw=3)
    assert oldest([one, other], NOW) == stamped(eqiad=5, codfw=3)
    assert oldest([{"a/0": "offset:-1"}, {"a/0": "timestamp:4"}], NOW) == {"a/0": "timestamp:4"}
    assert oldest([{"a/0": "offset:5"}, {"a/0": "offset:4"}], NOW) == {"a/0": "offset:4"}
    assert oldest([{"a/0": "offset:5"}, {"a/0": "timestamp:4"}], NOW) == {"a/0": "timestamp:4"}


def test_a_new_project_beside_others() -> None:
    """A project that begins goes along with the others, unless it is to begin before them."""
    old = stamped(eqiad=1_748_736_000_000)  # 2025-06-01
    assert oldest([old, {"since": "2025-07-01T00:00:00Z"}], NOW) == old
    assert oldest([old, {}], "2025-05-01T00:00:00Z") == {"since": "2025-05-01T00:00:00Z"}


def test_two_projects_share_a_connection() -> None:
    """Each gets its own documents, in their order, and all are told how far the stream was read."""
    wikis = [history(1, events=20, project="p"), history(2, events=20, project="q")]
    service = Service(*wikis)
    with service.serve() as upstream:
        hub = Hub(Http(upstream.origin), [STREAM], ["p", "q"], since=START)
        inboxes = [hub.join("p", {}), hub.join("q", {})]
        for wiki, inbox in zip(wikis, inboxes, strict=True):
            told, place = drained(inbox, lambda place: place == service.last_place)
            found = [one.what.source_id for one in told if isinstance(one.what, Change)]
            assert found == [f"eventstreams:{document['meta']['id']}" for document in wiki.documents]
            assert place == service.last_place
        assert upstream.asked == [f"GET /v2/stream/{STREAM}"]
        service.closing.set()
        hub.stop()


def drained(inbox: Inbox, done: object) -> tuple[list[Told], object]:
    found: list[Told] = []
    place: object = None
    for _ in range(1000):
        told, place, _ = inbox.take(0.1, 10)
        found += told
        if callable(done) and done(place):
            break
    return found, place


def ended(answer: bytes) -> tuple[list[Told], Inbox]:
    """Return what a connection gives that ends at once."""

    def reply(asked: Asked) -> None:
        asked.reply(200, answer, Content_Type="text/event-stream")

    with Upstream(reply) as upstream:
        hub = Hub(Http(upstream.origin), [STREAM], ["p"], since=START)
        inbox = hub.join("p", {})
        found: list[Told] = []
        while not inbox.ended:
            found += inbox.take(1.0, 10)[0]
        return found, inbox


def test_the_same_streams_are_one_source() -> None:
    """In whatever order they are named, the following goes on where it was."""
    http = Http("http://localhost:1")
    assert Hub(http, ["b", "a"], ["p"]).source == Hub(http, ["a", "b", "a"], ["p"]).source


def test_what_is_no_document() -> None:
    """What cannot be read is rejected with where it was; the stream goes on behind it."""
    told, inbox = ended(
        b'id: [{"topic":"a","partition":0,"offset":1}]\ndata: {\n\ndata: []\n\n'
        b'data: {"meta": {"domain": "canary"}}\n\n'
    )
    inbox.raise_error()
    bad, worse, canary = (one.what for one in told)
    assert isinstance(bad, Rejected)
    assert (bad.reason, bad.excerpt) == ("INVALID_JSON", b"{")
    assert '"offset":1' in bad.position
    assert isinstance(worse, Rejected)
    assert worse.reason == "INVALID_FIELD"
    assert canary == Passed("canary")


def test_upstream_says_that_it_failed() -> None:
    """An event of the kind error ends the connection, to be made anew."""
    _, inbox = ended(b"event: error\ndata: {}\n\n")
    with pytest.raises(UpstreamUnreachableError, match="error of its own"):
        inbox.raise_error()


def test_stop_ends_a_silent_connection() -> None:
    """A connection on which nothing comes is left at once, and so is one that was never made."""
    wiki = Wiki(random.Random(0))
    service = Service(wiki)
    with service.serve() as upstream:
        hub = Hub(Http(upstream.origin, patience=Patience(idle_seconds=60)), [STREAM], ["p"], since=START)
        inbox = hub.join("p", {})
        threading.Timer(0.1, hub.stop).start()
        while not inbox.ended:
            inbox.take(60.0, 10)
        assert hub.join("p", {}).ended
        service.closing.set()
