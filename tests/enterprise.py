"""Wikimedia Enterprise, played by a local server: tokens, the realtime stream and all its faults, files."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from recension.model.instant import format_instant, parse_instant
from tests.upstream import Asked, Upstream

PARTITIONS = 50
START = parse_instant("2025-01-01")
SECOND = 1_000_000
USER, PASSWORD = "canary-user", "canary-of-a-password"
Record = dict[str, Any]


def token(number: int, *, life: float = 86_400) -> str:
    """Return a token that says when it ends, as upstream's do; of this one everything is a canary."""
    claims = json.dumps({"exp": time.time() + life, "canary-of-a-token": number}).encode()
    said = base64.urlsafe_b64encode(claims).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{said}.canary-signature-{number}"


@dataclass
class Faults:
    """What goes wrong, by chance; each is a probability."""

    cut: float = 0.0
    """Of a connection to end behind a record: in its middle, between two, by a reset or in good order."""
    repeat: float = 0.0
    """Of a record to come twice."""
    late: float = 0.0
    """Of a record to come up to ten records later than its turn."""
    refuse: float = 0.0
    """Of a question to be answered with 429, 500 or an expired token."""
    slow: float = 0.0
    """Of a record to come in dribs."""
    garbage: float = 0.0
    """Of a line that is no record to come before one that is."""


@dataclass
class Counts:
    """What went wrong."""

    cuts: int = 0
    repeats: int = 0
    late: int = 0
    refusals: int = 0
    garbage: int = 0

    @property
    def faults(self) -> int:
        """All that the figure of the stream's faults counts."""
        return self.cuts + self.repeats + self.late


@dataclass
class Enterprise:
    """The service: what it has, who may ask, and how it misbehaves."""

    partitions: list[list[Record]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    faults: Faults = field(default_factory=Faults)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    counts: Counts = field(default_factory=Counts)
    asked: list[Any] = field(default_factory=list)
    """What each connection to the stream asked for."""
    finite: bool = False
    """Whether a connection ends when all has come."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What can be fetched, by path."""
    handlers: dict[str, Callable[[Asked], None]] = field(default_factory=dict)
    """Answers of a test's own, by path."""
    tokens: list[str] = field(default_factory=list)
    logins: int = 0
    refreshes: int = 0
    life: float = 86_400.0
    renewing: bool = False
    """Whether the token was refused since something was answered."""
    closing: threading.Event = field(default_factory=threading.Event)

    def publish(self, records: Sequence[Record], *, offset: int = 1000) -> None:
        """Put records into their partitions, in their order; each gets its partition, offset and time."""
        for number, record in enumerate(records):
            name = f"/{record['is_part_of']['identifier']}/{record['name']}"
            partition = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % PARTITIONS
            place = offset + len(self.partitions[partition]) * 3  # of other projects there are some between
            published = record["event"].get("date_published") or format_instant(START + number * SECOND)
            event = record["event"] | {"partition": partition, "offset": place, "date_published": published}
            self.partitions[partition].append(record | {"event": event})

    def serve(self) -> Upstream:
        """Return the server."""
        return Upstream(self.answer)

    def answer(self, asked: Asked) -> None:
        """Answer one request."""
        if (handler := self.handlers.get(asked.path)) is not None:
            handler(asked)
        elif asked.path in ("/v1/login", "/v1/token-refresh"):
            self._login(asked)
        elif asked.headers["Authorization"] not in [f"Bearer {one}" for one in self.tokens]:
            asked.reply(401, {"message": f"not {asked.headers['Authorization']}"})
        elif asked.path == "/v2/articles" and asked.method == "POST":
            self._stream(asked)
        elif asked.path in self.files:
            self._file(asked, self.files[asked.path])
        else:
            asked.reply(404, {"message": "no such thing"})

    # --- tokens ---------------------------------------------------------------------------------

    def _login(self, asked: Asked) -> None:
        said = asked.document
        good = said.get("username") == USER and (
            said.get("password") == PASSWORD or said.get("refresh_token") == "canary-of-a-refresh-token"
        )
        if not good:
            asked.reply(401, {"message": f"{said} is not good"})
            return
        self.logins += asked.path == "/v1/login"
        self.refreshes += asked.path == "/v1/token-refresh"
        self.tokens.append(token(self.logins + self.refreshes, life=self.life))
        answer = {"access_token": self.tokens[-1]}
        if asked.path == "/v1/login":
            answer["refresh_token"] = "canary-of-a-refresh-token"
        asked.reply(200, answer)

    # --- the stream -----------------------------------------------------------------------------

    def _stream(self, asked: Asked) -> None:
        wanted = asked.document
        self.asked.append(wanted)
        if self.chance.random() < self.faults.refuse:
            self.counts.refusals += 1
            match self.chance.randrange(3):
                case 0 if not self.renewing:  # twice in a row would be the end
                    self.renewing = True
                    self.tokens.clear()
                    asked.reply(401)
                case 1:
                    asked.reply(500, {"message": "no"})
                case _:
                    asked.reply(429, b"", Retry_After="0")
            return
        self.renewing = False
        with asked.chunked() as write:
            for record in self._order(list(self._wanted(wanted))):
                data = json.dumps(record, ensure_ascii=False).encode() + b"\n"
                if self.chance.random() < self.faults.garbage:
                    self.counts.garbage += 1
                    write(
                        self.chance.choice([b"\n", b"{garbage\n", b"[]\n", b"\xff\xfe\n", b'{"name": 7}\n'])
                    )
                self._cut(asked, write, data)
                if self.chance.random() < self.faults.slow:
                    for at in range(0, len(data), 11):
                        write(data[at : at + 11])
                else:
                    write(data)
            while not self.finite and not self.closing.wait(0.02):
                pass

    def _wanted(self, wanted: Any) -> Iterator[Record]:
        """Yield what is asked for, as upstream's own code decides it: no offsets without parts."""
        filters = {one["field"]: one["value"] for one in wanted.get("filters", [])}
        assert set(filters) <= {"is_part_of.identifier"}
        parts = wanted.get("parts") or []
        chosen = [five for part in parts for five in range(part * 5, part * 5 + 5)]
        offsets = {int(one): at for one, at in wanted.get("offsets", {}).items() if int(one) in chosen}
        since = {
            int(one): at for one, at in wanted.get("since_per_partition", {}).items() if int(one) in chosen
        }
        assert not set(offsets) & set(since)
        for partition in chosen or range(PARTITIONS):
            for record in self.partitions[partition]:
                event = record["event"]
                if partition in offsets:
                    come = event["offset"] >= offsets[partition]
                elif partition in since:
                    come = parse_instant(event["date_published"]) >= parse_instant(since[partition])
                else:
                    come = False  # it begins at its end
                if come and record["is_part_of"]["identifier"] == filters.get(
                    "is_part_of.identifier", record["is_part_of"]["identifier"]
                ):
                    yield record

    def _order(self, records: list[Record]) -> list[Record]:
        """Return records as they are sent: by time; with faults, each partition nearly in its order."""
        if self.faults == Faults():
            return sorted(records, key=lambda one: one["event"]["date_published"])
        queues: dict[int, list[Record]] = {}
        for record in records:
            queues.setdefault(record["event"]["partition"], []).append(record)
        order = []
        while queues:
            partition = self.chance.choice(sorted(queues))
            order.append(queues[partition].pop(0))
            if not queues[partition]:
                del queues[partition]
        for at, record in enumerate(list(order)):
            if self.chance.random() < self.faults.repeat:
                self.counts.repeats += 1
                order.insert(self.chance.randrange(at, len(order)), record)
        for at in range(len(order)):
            if self.chance.random() < self.faults.late:
                self.counts.late += 1
                order.insert(at + self.chance.randrange(10), order.pop(at))
        return order

    def _cut(self, asked: Asked, write: Callable[[bytes], None], data: bytes) -> None:
        if self.chance.random() >= self.faults.cut:
            return
        self.counts.cuts += 1
        match self.chance.randrange(4):
            case 0:
                write(data[: self.chance.randrange(1, len(data))])
                asked.cut()
            case 1:
                write(data[: len(data) // 2])
                asked.cut(reset=True)
            case 2:
                asked.raw(b"%x\r\n%s" % (len(data), data[:-5]))
                asked.cut()
            case _:
                asked.raw(b"0\r\n\r\n")
                asked.cut()

    # --- files ----------------------------------------------------------------------------------

    def _file(self, asked: Asked, data: bytes) -> None:
        tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        said = asked.headers.get("Range", "")
        if asked.headers.get("If-Match", tag) != tag:
            asked.reply(412)
        elif said.startswith("bytes="):
            start = int(said.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                asked.reply(416)
            else:
                asked.reply(
                    206, data[start:], ETag=tag, Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}"
                )
        else:
            asked.reply(200, data, ETag=tag)


# --- records ------------------------------------------------------------------------------------


def record(
    second: int,
    kind: str,
    name: str,
    page: int,
    rev: int,
    *,
    project: str = "p",
    text: str = "",
    edited: int | None = None,
) -> Record:
    """Return a record of Enterprise of an event of ``second``; ``edited``: when its revision was saved."""
    at = START + second * SECOND
    fields: Record = {
        "name": name if kind == "update" else name.replace(" ", "_"),
        "identifier": page,
        "is_part_of": {"identifier": project},
        "date_modified": format_instant(START + (second if edited is None else edited) * SECOND),
        "version": {"identifier": rev, "editor": {"identifier": 9, "name": f"Editor {rev % 7}"}},
        "namespace": {},
        "event": {
            "identifier": f"{second}-{kind}-{name}-{rev}",
            "type": kind,
            "date_created": format_instant(at),
        },
    }
    if kind == "update":
        fields["article_body"] = {"wikitext": text or f"text of {rev}", "html": f"<p>{rev}</p>"}
        fields["license"] = [{"identifier": "CC-BY-SA-4.0"}]
    return fields


def history(chance: random.Random, *, pages: int, events: int, project: str = "p") -> list[Record]:
    """Return what upstream tells of a small wiki: edits, moves, deletes, undeletes and hidden revisions."""
    names = [f"Page {number}" for number in range(pages * 2)]
    chance.shuffle(names)
    titles: dict[int, str] = {page: names.pop() for page in range(1, pages + 1)}
    newest: dict[int, tuple[int, int]] = {}
    gone: set[int] = set()
    out: list[Record] = []
    for second in range(10, 10 + events * 10, 10):
        page = chance.randint(1, pages)
        rev, edited = newest.get(page, (0, 0))
        what = chance.random()
        if page in gone:
            gone.discard(page)  # it comes back as it was
            out.append(record(second, "update", titles[page], page, rev, project=project, edited=edited))
        elif not rev or what < 0.6:
            newest[page] = rev, edited = second * 10, second
            out.append(record(second, "update", titles[page], page, rev, project=project, edited=edited))
        elif what < 0.75:
            old, titles[page] = titles[page], names.pop(0)
            names.append(old)
            newest[page] = rev, edited = second * 10, second
            both = [
                record(second, "update", titles[page], page, rev, project=project, edited=edited),
                record(second + 1, "delete", old, page, rev, project=project, edited=edited),
            ]
            chance.shuffle(both)
            out.extend(both)
        elif what < 0.9:
            gone.add(page)
            out.append(record(second, "delete", titles[page], page, rev, project=project, edited=edited))
        else:
            hidden = record(
                second, "visibility-change", titles[page], page, rev, project=project, edited=edited
            )
            shown = {name: True for name in ("text", "editor", "comment") if chance.random() < 0.5}
            out.append(hidden | {"visibility": shown})
    return out
