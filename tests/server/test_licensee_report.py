"""``recension-server report licensee``: what it tells of a month, and a browser that looks at its page."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from recension.archive.agreements import Agreements
from recension.archive.keyring import Keyring
from recension.archive.pins import LicenseePins
from recension.archive.rebuild import rebuild
from recension.archive.retracting import Retractor, Wanted
from recension.archive.stating import record
from recension.model.access import Role
from recension.model.agreement import parse_document
from recension.model.audit import Call
from recension.model.errors import InvalidArgumentError
from recension.model.instant import format_instant, parse_instant
from recension.model.licensee import make_licensee
from recension.model.record import Kind, Statement
from recension.model.retraction import Part, Reason, make_acknowledgement
from recension.server.audit.log import AuditLog
from recension.server.audit.report.gather import Month, gather
from recension.server.audit.report.page import render
from recension.server.main import main
from recension.store.auditing import AuditStore
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import NOW, World, edit
from tests.client.browser import Browser, browsing
from tests.client.test_report import PAYLOADS

DAY = 86_400 * 1_000_000
LATER = parse_instant("2999-01-01")


class Reported:
    """A store in which a licensee has done everything, in its month and around it."""

    def __init__(self, data: Path) -> None:
        self.world = world = World()
        self.now = NOW + 44 * DAY
        self.data = data
        world.add(*(world.event(page, 1, edit(page, f"text {page}")) for page in range(1, 6)))
        clock = lambda: self.now  # noqa: E731 - the clock of all that follow
        self.month = Month.read(format_instant(self.now)[:7])
        snapshot = world.snapshot(2)
        store = world.store
        agreements = Agreements(store, clock=clock)
        agreements.add_licensee(make_licensee("acme", 1))
        for since in ("2000-01-01", format_instant(self.now)[:10]):
            grants = [{"projects": ["w"], "freshness": "realtime"}]
            document = {"licensee": "acme", "grants": grants, "valid_from": since}
            agreements.add(parse_document(document))
        self.key = Keyring(store, lambda: bytes(32), clock=clock).make("acme", Role.LICENSEE, LATER)
        pins = LicenseePins(store, "acme", clock=clock)
        pins.create("corpus", snapshot, LATER)
        pins.create("other", snapshot, LATER)
        pins.extend("corpus", LATER + DAY)
        pins.delete("other")
        retractor = Retractor(store, clock=clock)
        plan = retractor.plan("w", Wanted(revisions=frozenset({2, 3})), (Part.TEXT,))
        (position,) = retractor.mask(plan, "case-1", Reason.PRIVACY)
        (open_,) = retractor.mask(
            retractor.plan("w", Wanted(revisions=frozenset({4})), (Part.TEXT,)), "case-2", Reason.ERROR
        )
        assert position < open_
        pin = pins.get("corpus").statement

        def answered(view: Any, at: int, now: int) -> Statement:
            said = make_acknowledgement(
                bytes(16), "acme", b"", pin.id, pin.made_at, pin.snapshot_id, position, 2
            )
            return Statement(Kind.ACKNOWLEDGEMENT, said.encoded)

        record(store, clock, answered)
        self.log = AuditLog(store, AuditStore(data), clock=clock)
        self.log.append([one.entry for one in self._calls()])

    def _calls(self) -> Iterator[Call]:
        for number, payload in enumerate(PAYLOADS):
            yield self._call(number, "acme", payload, self.now + DAY * (number % 3))
        yield self._call(50, "umbrella", "w", self.now)
        yield self._call(51, "acme", "w", self.month.until)
        yield self._call(52, "acme", "w", self.month.since - 1)
        refused = {"outcome": "NOT_FOUND", "reason": "PAGE_NOT_FOUND", "true_reason": "FORBIDDEN"}
        yield self._call(53, "acme", "w", self.now, articles=0, text_bytes=0, **refused)
        yield self._call(54, "acme", "w", self.now, outcome="CANCELLED")

    def _call(self, number: int, caller: str, project: str, ended_at: int, **fields: Any) -> Call:
        counted: dict[str, Any] = {
            "outcome": "OK",
            "articles": 2,
            "text_bytes": 3_000,
            "bytes": 4_000,
            "messages": 1,
        }
        return Call(
            ended_at,
            f"r{number}",
            caller,
            "licensee",
            "",
            "RevisionService/GetArticle",
            duration_us=5,
            project=project,
            agreement="sha256:" + "a" * 64,
            **(counted | fields),
        )

    @property
    def document(self) -> dict[str, Any]:
        return gather(self.world.store, self.log, "acme", self.month)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reported]:
    one = Reported(tmp_path_factory.mktemp("reported"))
    yield one
    one.log.env.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as one:
        yield one


def test_what_was_delivered_adds_up(reported: Reported) -> None:
    """The sums of days, methods, projects and agreements are all of the month, of this licensee alone."""
    delivered = reported.document["delivered"]
    number = len(PAYLOADS) + 1
    assert delivered["calls"] == number + 1
    assert (delivered["articles"], delivered["text_bytes"]) == (2 * number, 3_000 * number)
    for table in ("by_day", "by_method", "by_project", "by_agreement"):
        for name in ("calls", "articles", "text_bytes", "messages", "bytes"):
            assert delivered[name] == sum(row[name] for row in delivered[table])
    assert len(delivered["by_day"]) == 3
    assert reported.document["refused"] == [
        {
            "method": "RevisionService/GetArticle",
            "outcome": "NOT_FOUND",
            "reason": "PAGE_NOT_FOUND",
            "true_reason": "FORBIDDEN",
            "calls": 1,
        }
    ]


def test_statements_of_the_month_are_told(reported: Reported) -> None:
    """Pins as they were made, extended and ended; versions in force; retractions, and which were answered."""
    document = reported.document
    pins = [(one["pin"], one["what"]) for one in document["pins"]]
    assert pins == [("corpus", "made"), ("other", "made"), ("corpus", "extended"), ("other", "ended")]
    assert [(one["ordinal"], one["until"] is None) for one in document["agreements"]] == [
        (1, False),
        (2, True),
    ]
    assert [(one["key"], one["what"]) for one in document["keys"]] == [(reported.key.id.hex(), "made")]
    first, second = document["retractions"]
    assert (first["case"], first["reason"], first["revisions"]) == ("case-1", "privacy", 2)
    assert [(one["pin"], one["entries"]) for one in first["pins"]] == [("corpus", 2)]
    assert first["pins"][0]["answered_at"] is not None
    assert second["pins"] == [{"pin": "corpus", "entries": 1, "answered_at": None}]
    (answer,) = document["acknowledgements"]
    assert answer["entries"] == 2
    assert document["log"]["root"].startswith("sha256:")


def test_other_months_and_others_are_empty(reported: Reported) -> None:
    """Nothing of another month or licensee is told, and what is no month or name is refused."""
    store, log = reported.world.store, reported.log
    other = gather(store, log, "umbrella", Month.read("1999-12"))
    assert other["delivered"]["calls"] == 0
    assert not any(other[name] for name in ("refused", "pins", "keys", "agreements", "retractions"))
    umbrella = gather(store, log, "umbrella", reported.month)
    assert (umbrella["delivered"]["calls"], umbrella["pins"], umbrella["agreements"]) == (1, [], [])
    assert [one["pins"] for one in umbrella["retractions"]] == [[], []]
    assert Month.read("2026-12").until == Month.read("2027-01").since == parse_instant("2027-01-01")
    for bad in ("2026-13", "2026-1", "2026", "", "9999-12", "2026-11-01", "٢٠٢٦-11"):
        with pytest.raises(InvalidArgumentError):
            Month.read(bad)


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_whole_and_safe(reported: Reported, browser: Browser, tmp_path: Path, dark: bool) -> None:  # noqa: FBT001
    """A browser shows every row without a complaint, on a screen and a phone; no payload runs; it prints."""
    path = tmp_path / "report.html"
    path.write_text(render(reported.document, "test"), encoding="utf-8")
    for width in (1280, 390):
        browser.size(width, dark=dark)
        browser.complaints()
        browser.open(path)
        assert browser.complaints() == []
        assert browser.ask("window.canary === undefined")
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
        rows = browser.ask("[...document.querySelectorAll('td bdi')].map(one => one.textContent)")
        assert isinstance(rows, list)
        shown = {payload[:255].replace("\u202e", "\ufffd") for payload in PAYLOADS}
        assert shown <= set(rows)
        assert browser.ask(
            "document.querySelectorAll('script, img, iframe, link, svg [onload]').length === 0"
        )
        assert browser.ask("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_the_command_writes_both(
    reported: Reported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON on stdout, a page in a file; a month or a name that is none ends with an error that has a name."""
    data, page = tmp_path / "data", tmp_path / "report.html"
    with closing(LmdbStore.open(data, create=True)) as store:
        rebuild(reported.world.store, store)
    arguments = ["report", "licensee", "acme", "--month", reported.month.name, "--data", str(data)]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["pin"] for one in told["pins"]] == ["corpus", "other", "corpus", "other"]
    assert told["delivered"]["calls"] == 0
    assert main([*arguments, "--html", str(page)]) == 0
    assert "corpus" in page.read_text(encoding="utf-8")
    assert main([*arguments, "--html", str(tmp_path)]) == 3
    assert main(["report", "licensee", "No Name", "--month", "2026-11", "--data", str(data)]) == 3
    assert main(["report", "licensee", "acme", "--month", "November", "--data", str(data)]) == 3
