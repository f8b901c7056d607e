"""EventStreams and the wiki behind them, played by a local server: documents, texts, and all their faults."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any
from urllib.parse import parse_qs

from recension.model.instant import format_instant, parse_instant
from tests.upstream import Asked, Upstream

Document = dict[str, Any]
START = parse_instant("2025-01-01")
SECOND = 1_000_000
STREAM = "mediawiki.page_change.v1"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
VISIBLE = (("content", 1), ("comment", 2), ("editor", 4))


def base36(data: bytes) -> str:
    """Return a SHA-1 as MediaWiki writes it."""
    number = int.from_bytes(sha1(data, usedforsecurity=False).digest(), "big")
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits.rjust(31, "0")


@dataclass
class Rev:
    """A revision as the wiki has it."""

    rev_id: int
    parent: int
    time: int
    texts: dict[str, bytes]
    user: str
    comment: str
    hidden: int = 0
    """1 the text, 2 the comment, 4 the contributor."""


@dataclass
class Page:
    """A page as the wiki has it."""

    page_id: int
    title: str
    alive: bool = True
    suppressed: bool = False
    revs: list[Rev] = field(default_factory=list)


class Wiki:
    """A wiki that changes by chance, and writes down what its event streams would tell."""

    def __init__(self, chance: random.Random, project: str = "p") -> None:
        self.project = project
        self.pages: dict[int, Page] = {}
        self.texts: dict[int, dict[str, bytes]] = {}
        self.documents: list[Document] = []
        """In the order in which it happened."""
        self._chance = chance
        self._now = START
        self._rev_id = 5_000_000_000 + 1_000_000 * ord(project[0])
        self._page_id = 0

    def live(self, events: int, pages: int) -> None:
        """Let some things happen."""
        for _ in range(events):
            self._now += self._chance.choice((0, 1, 1, 5, 60)) * SECOND
            if len(self.pages) < pages and self._chance.random() < 0.2:
                self.create()
                continue
            if not self.pages:
                continue
            page = self._chance.choice(list(self.pages.values()))
            self._now += SECOND  # nobody does two things to a page in one second, but edit it
            if not page.alive:
                self.undelete(page, shows=self._chance.random() < 0.6)
                continue
            kinds: list[Callable[[Page], None]] = [
                self.edit, self.edit, self.edit, self.edit, self.edit, self.move, self.delete, self.suppress,
                self.hide_newest, self.hide_old,
            ]  # fmt: skip
            self._chance.choice(kinds)(page)
            if self._chance.random() < 0.3 and page.alive:
                self.edit(page)

    def create(self) -> Page:
        """Make a page."""
        self._page_id += 1
        page = self.pages[self._page_id] = Page(self._page_id, f"Page {self._page_id}")
        self._revise(page)
        self._tell("create", page)
        return page

    def edit(self, page: Page) -> None:
        """Edit a page."""
        self._revise(page)
        self._tell("edit", page)

    def move(self, page: Page) -> None:
        """Move a page; it leaves a redirect, which is a page of its own."""
        before, page.title = page.title, f"{page.title.split('/')[0]}/{self._rev_id}"
        self._revise(page, page.revs[-1].texts)
        self._tell("move", page, prior_state={"page": {"page_title": before.replace(" ", "_")}})

    def delete(self, page: Page) -> None:
        """Delete a page."""
        self._tell("delete", page)
        page.alive = False

    def suppress(self, page: Page) -> None:
        """Delete a page, and hide all of it."""
        page.alive, page.suppressed = False, True
        for rev in page.revs:
            rev.hidden = 7
        self._tell("delete", page, performer=None, comment=None)

    def undelete(self, page: Page, *, shows: bool = True) -> None:
        """Bring a page back; ``shows``: with what was suppressed."""
        page.alive = True
        if page.suppressed and shows:
            for rev in page.revs:
                rev.hidden = 0
        page.suppressed = False
        self._tell("undelete", page)

    def hide_newest(self, page: Page) -> None:
        """Hide or show something of the newest revision: two streams tell of it."""
        page.revs[-1].hidden = self._chance.randrange(8)
        self._tell("visibility_change", page)
        self._tell_elder(page, page.revs[-1])

    def hide_old(self, page: Page) -> None:
        """Hide or show something of an old revision: one stream tells of it."""
        rev = self._chance.choice(page.revs)
        if rev is page.revs[-1]:
            return
        rev.hidden = self._chance.randrange(8)
        self._tell_elder(page, rev)

    # --- documents --------------------------------------------------------------------------------

    def _revise(self, page: Page, texts: dict[str, bytes] | None = None) -> None:
        self._rev_id += self._chance.randrange(1, 3)
        if texts is None:
            texts = {"main": b"text \xc3\xa4 %d\n" % self._chance.randrange(10**6)}
            if self._chance.random() < 0.2:
                texts["mediainfo"] = b'{"id":"M%d"}' % self._rev_id
        parent = page.revs[-1].rev_id if page.revs else 0
        user = f"User {self._chance.randrange(5)}"
        page.revs.append(Rev(self._rev_id, parent, self._now, texts, user, f"comment {self._rev_id}"))
        self.texts[self._rev_id] = texts

    def _tell(self, kind: str, page: Page, **more: Any) -> None:
        rev = page.revs[-1]
        document: Document = {
            "$schema": "/mediawiki/page/change/1.2.0",
            "meta": self._meta(STREAM),
            "page_change_kind": kind,
            "dt": format_instant(self._now),
            "wiki_id": self.project,
            "page": {
                "page_id": page.page_id,
                "page_title": page.title.replace(" ", "_"),
                "namespace_id": 0,
                "is_redirect": False,
            },
            "performer": {"user_text": rev.user},
            "comment": f"why {kind}",
            "revision": self._revision(rev),
            **more,
        }
        self.documents.append({name: value for name, value in document.items() if value is not None})

    def _revision(self, rev: Rev) -> Document:
        said: Document = {
            "rev_id": rev.rev_id,
            "rev_parent_id": rev.parent,
            "rev_dt": format_instant(rev.time),
            "is_minor_edit": False,
            **{f"is_{name}_visible": not rev.hidden & bit for name, bit in VISIBLE},
        }
        if not rev.hidden & 1:
            said["content_slots"] = {
                role: {
                    "slot_role": role,
                    "content_model": "wikitext" if role == "main" else "wikibase-mediainfo",
                    "content_format": "text/x-wiki" if role == "main" else "application/json",
                    "content_sha1": base36(text),
                    "content_size": len(text),
                    "origin_rev_id": rev.rev_id,
                }
                for role, text in rev.texts.items()
            }
        if not rev.hidden & 2:
            said["comment"] = rev.comment
        if not rev.hidden & 4:
            said["editor"] = {"user_text": rev.user}
        return said

    def _tell_elder(self, page: Page, rev: Rev) -> None:
        self.documents.append(
            {
                "$schema": "/mediawiki/revision/visibility-change/1.0.0",
                "meta": self._meta("mediawiki.revision-visibility-change"),
                "database": self.project,
                "dt": format_instant(self._now),
                "page_id": page.page_id,
                "page_title": page.title.replace(" ", "_"),
                "page_namespace": 0,
                "rev_id": rev.rev_id,
                "visibility": {
                    "text": not rev.hidden & 1,
                    "comment": not rev.hidden & 2,
                    "user": not rev.hidden & 4,
                },
            }
        )

    def _meta(self, stream: str) -> Document:
        number = len(self.documents)
        return {
            "id": f"{self.project}-{number:08d}",
            "stream": stream,
            "domain": f"{self.project}.test",
            "dt": format_instant(self._now),
        }


def history(seed: int, *, events: int = 60, pages: int = 6, project: str = "p") -> Wiki:
    """Return a wiki of which much happened."""
    wiki = Wiki(random.Random(seed), project)
    wiki.create()
    wiki.live(events, pages)
    return wiki


@dataclass
class Faults:
    """What goes wrong, by chance; each is a probability."""

    cut: float = 0.0
    """Of the connection to end behind a document: between two, within one, or by a reset."""
    repeat: float = 0.0
    """Of a document to be sent once more, later."""
    late: float = 0.0
    """Of a document to be sent up to ten others later than its turn."""
    refuse: float = 0.0
    """Of a connection, or a question for a text, to be answered with 429 or 500."""
    garbage: float = 0.0
    """Of something to come before a document that is none."""
    missing: float = 0.0
    """Of a text not to be there yet."""
    wrong: float = 0.0
    """Of a text to be another one than it should be, the first time."""


@dataclass
class Counts:
    """What went wrong."""

    cuts: int = 0
    repeats: int = 0
    late: int = 0
    refusals: int = 0
    garbage: int = 0
    missing: int = 0
    wrong: int = 0

    @property
    def faults(self) -> int:
        """All together."""
        return sum(vars(self).values())


class Service:
    """Sends the documents of wikis, and answers for their texts."""

    def __init__(
        self, *wikis: Wiki, faults: Faults | None = None, chance: random.Random | None = None
    ) -> None:
        self.counts = Counts()
        self.closing = threading.Event()
        self.places: list[str] = []
        """The ``Last-Event-ID`` of each connection, or what it gave instead."""
        self.text_status: dict[int, int] = {}
        """Of revisions whose texts are not given, the status that is answered."""
        self.hidden: dict[int, int] = {}
        """Of revisions, what is not shown beside the text: 2 the comment, 4 the contributor."""
        self.text_seconds = 0.0
        """For which an answer is late."""
        self._wikis = wikis
        self._faults = faults or Faults()
        self._chance = chance or random.Random(0)
        self.texts_asked: list[int] = []
        """Revisions, in the order in which their texts were asked for."""
        self.most_at_once = 0
        """Texts that were asked for at once."""
        self._lock = threading.Lock()
        self._answering = 0
        self._at = START // 1000
        self.sent: list[tuple[str, int, Document]] = []
        """(topic, time in ms, document), in the order in which it is sent."""
        self.publish(self._disorder([one for wiki in wikis for one in wiki.documents]))

    def publish(self, documents: list[Document]) -> None:
        """Send more; now and then from the other data centre, and several in one millisecond."""
        for document in documents:
            centre = "codfw" if self._chance.random() < 0.2 else "eqiad"
            self._at += len(self.sent) % 2
            self.sent.append((f"{centre}.{STREAM}", self._at, document))
        # Nothing else has its time, so who has come behind it has read everything.
        self._at += 1
        self.sent.append((f"eqiad.{STREAM}", self._at, {"meta": {"domain": "canary"}}))

    @property
    def last_place(self) -> dict[str, str]:
        """Where a follower goes on that has read everything."""
        return self._place_at(len(self.sent) - 1)

    def serve(self) -> Upstream:
        """Return the server."""
        return Upstream(self.answer)

    def answer(self, asked: Asked) -> None:
        """Answer a request."""
        if asked.path.startswith("/v2/stream/"):
            self._stream(asked)
        else:
            self._text(asked)

    # --- the stream -------------------------------------------------------------------------------

    def _disorder(self, documents: list[Document]) -> list[Document]:
        chance, faults = self._chance, self._faults
        places: list[tuple[float, Document]] = []
        for number, document in enumerate(documents):
            late = chance.random() < faults.late
            self.counts.late += late
            places.append((number + (chance.uniform(1, 10) if late else 0), document))
            if chance.random() < faults.repeat:
                self.counts.repeats += 1
                places.append((number + chance.uniform(0, 30), document))
        return [document for _, document in sorted(places, key=lambda one: one[0])]

    def _place_at(self, index: int) -> dict[str, str]:
        place = {}
        for topic in (f"eqiad.{STREAM}", f"codfw.{STREAM}"):
            times = [at for name, at, _ in self.sent[: index + 1] if name == topic]
            place[f"{topic}/0"] = f"timestamp:{times[-1]}" if times else "offset:-1"
        return place

    def _stream(self, asked: Asked) -> None:
        with self._lock:
            chance = random.Random(self._chance.random())
        if chance.random() < self._faults.refuse:
            self.counts.refusals += 1
            asked.reply(chance.choice((429, 500)))
            return
        last_id = asked.headers.get("Last-Event-ID") or ""
        self.places.append(last_id or asked.query)
        begin = {
            part["topic"]: part.get("timestamp", 2**62) for part in json.loads(last_id or "[]")
        }  # upstream begins at the end of a topic of which it is given offset -1
        asked.head(200, Content_Type="text/event-stream; charset=utf-8")
        asked.raw(b":ok\n\n")
        index = 0
        while not self.closing.is_set():
            if index == len(self.sent):
                time.sleep(0.005)
                continue
            topic, at, document = self.sent[index]
            if at >= begin.get(topic, 0):
                self._send(asked, chance, index, document)
            index += 1
        asked.cut()

    def _send(self, asked: Asked, chance: random.Random, index: int, document: Document) -> None:
        faults = self._faults
        if chance.random() < faults.garbage:
            self.counts.garbage += 1
            asked.raw(chance.choice(GARBAGE))
        parts = []
        for name, said in self._place_at(index).items():
            topic, _, partition = name.rpartition("/")
            kind, _, value = said.partition(":")
            parts.append({"topic": topic, "partition": int(partition), kind: int(value)})
        frame = f"event: message\nid: {json.dumps(parts)}\ndata: {json.dumps(document)}\n\n".encode()
        if chance.random() < faults.cut:
            self.counts.cuts += 1
            how = chance.randrange(3)
            asked.raw(frame if how == 0 else frame[: chance.randrange(len(frame))])
            asked.cut(reset=how == 2)
        asked.raw(frame)

    # --- texts ------------------------------------------------------------------------------------

    def _text(self, asked: Asked) -> None:
        query = parse_qs(asked.query)
        of_slots = asked.path == "/w/api.php"
        rev_id = int(query["revids"][0]) if of_slots else int(asked.path.rpartition("/")[2])
        with self._lock:
            self._answering += 1
            self.most_at_once = max(self.most_at_once, self._answering)
            chance = random.Random(self._chance.random())
            self.texts_asked.append(rev_id)
            tries = self.texts_asked.count(rev_id)
        if self.text_seconds:
            time.sleep(self.text_seconds)
        with self._lock:
            self._answering -= 1
        faults = self._faults
        status = self.text_status.get(rev_id, 200)
        if chance.random() < faults.refuse:
            self.counts.refusals += 1
            status = 500
        elif chance.random() < faults.missing:
            self.counts.missing += 1
            status = 404
        texts = next((wiki.texts[rev_id] for wiki in self._wikis if rev_id in wiki.texts), None)
        if texts is None:
            status = 404
        elif tries == 1 and chance.random() < faults.wrong:
            self.counts.wrong += 1
            texts = {role: text + b"another" for role, text in texts.items()}
        if of_slots:
            self._answer_slots(asked, status, rev_id, texts or {})
        elif status != 200:
            keys = {404: "rest-nonexistent-revision", 403: "rest-permission-denied-revision"}
            asked.reply(status, {"errorKey": keys.get(status, "other"), "httpCode": status})
        else:
            assert texts is not None
            hidden = self.hidden.get(rev_id, 0)
            user = None if hidden & 4 else {"id": None, "name": "somebody"}
            comment = None if hidden & 2 else ""
            asked.reply(
                200, {"id": rev_id, "source": texts["main"].decode(), "user": user, "comment": comment}
            )

    def _answer_slots(self, asked: Asked, status: int, rev_id: int, texts: dict[str, bytes]) -> None:
        if status == 404:
            asked.reply(200, {"query": {"badrevids": {str(rev_id): {"revid": rev_id, "missing": True}}}})
            return
        if status not in (200, 403):
            asked.reply(status)
            return
        slots: Document = {
            role: {"texthidden": True} if status == 403 else {"content": text.decode()}
            for role, text in texts.items()
        }
        revision: Document = {"revid": rev_id, "slots": slots}
        hidden = self.hidden.get(rev_id, 0)
        revision |= {name: True for name, bit in (("commenthidden", 2), ("userhidden", 4)) if hidden & bit}
        asked.reply(200, {"query": {"pages": [{"revisions": [revision]}]}})


def _frame(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


GARBAGE = [
    b":keep-alive\n\n",
    b"data: {\n\n",
    b"data\n\n",
    b"event: other\ndata: {}\n\n",
    _frame({"meta": {"domain": "canary", "stream": STREAM}}),
    _frame({"meta": {"domain": "x.test", "stream": "mediawiki.recentchange"}}),
    _frame({"$schema": "/mediawiki/page/change/1.2.0", "meta": {"dt": "2025-01-01"}, "wiki_id": "other"}),
    _frame([]),
]
