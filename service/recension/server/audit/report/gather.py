"""What a report of a licensee's month says, as a document. Everything in it is from the log, by its index.

What was delivered is told by the records of calls; pins, keys, agreements, retractions and answers by the
statements of the store's log that the records name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from recension.archive.affected import affected
from recension.archive.agreements import Agreements
from recension.archive.retracting import Retractor
from recension.model.access import check_owner
from recension.model.agreement import spans
from recension.model.audit import CALL, STATEMENT, Record
from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError, LicenseeNotFoundError
from recension.model.instant import format_instant
from recension.model.pin import read_pin
from recension.model.record import Kind, statements_of
from recension.model.retraction import Acknowledgement, read_acknowledgement, read_receipt, read_retraction
from recension.server.audit.log import STATEMENTS, AuditLog, Wanted
from recension.store.interface import Store

FORMAT = "recension/licensee-report/v1"
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_OK = "OK"
_LEFT = "CANCELLED"
"""How a call ends whose client leaves; it was not refused."""
_COUNTS = ("articles", "text_bytes", "messages", "bytes")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month, UTC."""

    name: str
    """``2026-11``"""
    since: int
    """Its first instant, microseconds since the epoch."""
    until: int
    """The first instant of the next."""

    @classmethod
    def read(cls, text: str) -> Month:
        """Read one. Raises ``InvalidArgumentError``."""
        found = _MONTH.fullmatch(text)
        if found is None or text < "0001" or text >= "9999-12":
            raise InvalidArgumentError(
                f"month: not a month: {text[:20]!r}", hint="write 2026-11", field="month"
            )
        year, month = int(found[1]), int(found[2])
        following = (year, month + 1) if month < 12 else (year + 1, 1)  # noqa: PLR2004 - of a year
        return cls(text, _first(year, month), _first(*following))


def _first(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass
class _Tally:
    """Sums of calls."""

    calls: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))

    def add(self, record: Record) -> None:
        self.calls += 1
        for name in _COUNTS:
            self.counts[name] += record.number(name)

    @property
    def document(self) -> Document:
        return {"calls": self.calls, **self.counts}


@dataclass
class _Gathered:
    """What one look at the month's records brings together."""

    all: _Tally = field(default_factory=_Tally)
    days: defaultdict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))
    methods: defaultdict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))
    subjects: defaultdict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))
    agreements: defaultdict[str, _Tally] = field(default_factory=lambda: defaultdict(_Tally))
    refusals: defaultdict[tuple[str, ...], int] = field(default_factory=lambda: defaultdict(int))
    statements: list[Record] = field(default_factory=list)
    retractions: list[Record] = field(default_factory=list)
    first: int | None = None
    last: int | None = None


def gather(store: Store, log: AuditLog, licensee: str, month: Month) -> Document:
    """Return the report of a month. Raises ``InvalidArgumentError``, ``AuditDamagedError``."""
    check_owner(licensee)
    found = _look(log, licensee, month)
    head = log.env.head()
    answers = list(_answers(store, log, licensee, month))
    return {
        "format": FORMAT,
        "licensee": licensee,
        "month": month.name,
        "delivered": {
            **found.all.document,
            "by_day": _by("day", found.days),
            "by_method": _by("method", found.methods),
            "by_project": _by("project", found.subjects),
            "by_agreement": _by("agreement", found.agreements),
        },
        "refused": [
            {"method": method, "outcome": outcome, "reason": reason, "true_reason": true, "calls": calls}
            for (method, outcome, reason, true), calls in sorted(found.refusals.items())
        ],
        "agreements": list(_agreements(store, licensee, month)),
        "pins": [_pin(store, one) for one in found.statements if one.get("statement") == "pin"],
        "keys": [
            {
                "at": format_instant(one.at),
                "key": one.get("key"),
                "role": one.get("role"),
                "what": "revoked" if one.fields.get("ended") else "made",
            }
            for one in found.statements
            if one.get("statement") == "api-key"
        ],
        "retractions": [
            _retraction(store, one, licensee, answers)
            for one in found.retractions
            if one.get("statement") == "retraction"
        ],
        "receipts": [_receipt(store, one) for one in found.retractions if one.get("statement") == "receipt"],
        "acknowledgements": [
            {
                "at": format_instant(at),
                "pin": said.pin.hex(),
                "snapshot": format_digest(said.snapshot_id),
                "through": said.through,
                "entries": said.entries,
            }
            for at, said in answers
            if at < month.until
        ],
        "log": {
            "records": head.size,
            "root": format_digest(head.root),
            "first": found.first,
            "last": found.last,
        },
    }


def _look(log: AuditLog, licensee: str, month: Month) -> _Gathered:
    found = _Gathered()
    for record in log.records(Wanted(since=month.since, until=month.until)):
        if found.first is None:
            found.first = record.index
        found.last = record.index
        kind = record.get("kind")
        if kind == CALL and record.get("caller") == licensee:
            _add(found, record)
        elif kind == STATEMENT and record.get("statement") in ("retraction", "receipt"):
            found.retractions.append(record)
        elif kind == STATEMENT and record.get("licensee") == licensee:
            found.statements.append(record)
    return found


def _add(found: _Gathered, record: Record) -> None:
    get = record.get
    if get("outcome") not in (_OK, _LEFT):
        found.refusals[get("method"), get("outcome"), get("reason"), get("true_reason")] += 1
    for tally in (
        found.all,
        found.days[format_instant(record.at)[:10]],
        found.methods[get("method")],
        found.subjects[get("project") or get("snapshot")],
        found.agreements[get("agreement")],
    ):
        tally.add(record)


def _by(name: str, tallies: dict[str, _Tally]) -> list[Document]:
    return [{name: key, **tally.document} for key, tally in sorted(tallies.items())]


def _agreements(store: Store, licensee: str, month: Month) -> Iterator[Document]:
    try:
        versions = Agreements(store).versions(licensee)
    except LicenseeNotFoundError:
        return
    for start, end, version in spans(versions):
        if start < month.until and (end is None or end > month.since):
            yield {
                "agreement": version.name,
                "ordinal": version.ordinal,
                "from": format_instant(start),
                "until": None if end is None else format_instant(end),
            }


def _pin(store: Store, record: Record) -> Document:
    said = read_pin(_payload(store, record))
    what = "ended" if record.fields.get("ended") else "made" if record.fields.get("first") else "extended"
    return {
        "at": format_instant(record.at),
        "pin": said.name,
        "what": what,
        "snapshot": format_digest(said.snapshot_id),
        "readable_until": format_instant(said.readable_until),
    }


def _answers(
    store: Store, log: AuditLog, licensee: str, month: Month
) -> Iterator[tuple[int, Acknowledgement]]:
    """Yield (time, answer) of all that a licensee has acknowledged since a month began."""
    for record in log.records(Wanted(licensee=licensee, since=month.since)):
        if record.get("statement") == STATEMENTS[Kind.ACKNOWLEDGEMENT]:
            yield record.at, read_acknowledgement(_payload(store, record))


def _retraction(
    store: Store, record: Record, licensee: str, answers: list[tuple[int, Acknowledgement]]
) -> Document:
    position = record.number("position")
    said = read_retraction(_payload(store, record))
    _, plan = Retractor(store).plan_of(position)
    places = {target.place for target in plan.targets.values()}
    pins = affected(store, places).licensees.get(licensee, [])
    return {
        "at": format_instant(record.at),
        "position": position,
        "case": said.case,
        "reason": said.reason.value,
        "project": said.project,
        "parts": [part.value for part in said.parts],
        "revisions": said.revisions,
        "taken_back": said.reverses.hex(),
        "pins": [
            {
                "pin": pin.statement.name,
                "entries": pin.entries,
                "answered_at": next(
                    (
                        format_instant(at)
                        for at, answer in answers
                        if answer.pin == pin.statement.id and answer.through >= position
                    ),
                    None,
                ),
            }
            for pin in pins
        ],
    }


def _receipt(store: Store, record: Record) -> Document:
    said = read_receipt(_payload(store, record))
    return {
        "at": format_instant(record.at),
        "case": said.case,
        "position": said.position,
        "revisions": said.revisions,
        "texts": said.texts,
    }


def _payload(store: Store, record: Record) -> bytes:
    """Return the statement that a record names."""
    (commit,) = store.log.read(record.number("position"), 1)
    return dict(statements_of(commit, STATEMENTS))[record.number("ordinal")].payload
