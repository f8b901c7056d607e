"""Agreements: what a licensee may be served, how fresh, how much and until when (docs/licence.md).

An agreement is a document: canonical JSON, named by its SHA-256 and never edited. Those of one licensee are
numbered 1, 2, 3; each is a version, and the newest whose time it is rules. The log has each version as a
statement, and the end of versions as another (docs/format.md, 15).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

from recension.model.access import check_owner
from recension.model.digest import format_digest, parse_digest
from recension.model.errors import RecensionError
from recension.model.event import MAX_ID
from recension.model.fields import SHOWN, Fields, bad, between, instant, list_of, matching, string
from recension.model.instant import check_instant, format_instant, parse_instant
from recension.model.manifest import canonical_json

FORMAT = "recension/agreement/v1"
VERSION_FORMAT = "recension/agreement-version/v1"
END_FORMAT = "recension/agreement-end/v1"

MAX_DOCUMENT_BYTES = 2**18
"""Of the canonical JSON."""
MAX_GRANTS = 100
MAX_PROJECTS = 1000
"""Of one grant. Wikimedia has about as many."""
MAX_NAMESPACES = 500
MAX_SLOTS = 16
MAX_LICENSES = 64
MAX_RATE = 1_000_000
MAX_AMOUNT = 2**53 - 1
"""Largest quota: any JSON library reads it without loss."""
MAX_DELAY_SECONDS = 10 * 366 * 86_400
MAX_RETENTION_DAYS = 36_600
MAX_STATEMENT_BYTES = 4096
MAX_URL_BYTES = 2048

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_SLOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,127}")
_URL = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?(?:[/?#][!-~]*)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_T = TypeVar("_T")


# --- values ---------------------------------------------------------------------------------------


class Cadence(StrEnum):
    """How the horizon of a grant moves: what was committed behind it does not exist for the licensee."""

    REALTIME = "realtime"
    """It is now."""
    DELAY = "delay"
    """It follows now at a distance."""
    DAILY = "daily"
    WEEKLY = "weekly"
    """From Monday on."""
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class Freshness:
    """How new what is served may be, by the time of its commit."""

    cadence: Cadence
    delay_seconds: int = 0
    """Of ``DELAY``, else 0."""


def horizon(freshness: Freshness, now: int) -> int:
    """Return the instant up to which what was committed may be served, itself included.

    Microseconds since the epoch, as ``now``. Of a cadence: the first instant (UTC) of now's day, week or
    month.
    """
    if freshness.cadence is Cadence.REALTIME:
        return now
    if freshness.cadence is Cadence.DELAY:
        return now - freshness.delay_seconds * _SECOND
    day = (_EPOCH + timedelta(microseconds=now)).replace(hour=0, minute=0, second=0, microsecond=0)
    if freshness.cadence is Cadence.WEEKLY:
        day -= timedelta(days=day.weekday())
    elif freshness.cadence is Cadence.MONTHLY:
        day = day.replace(day=1)
    return (day - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Grant:
    """A scope: what the licensee may be served. No two of an agreement cover the same."""

    projects: frozenset[str]
    """At least one."""
    freshness: Freshness
    namespaces: frozenset[int] | None = None
    """``None`` for all."""
    slots: frozenset[str] | None = None
    """Roles of slots; ``None`` for all."""
    earliest: int | None = None
    """First valid time that is covered, microseconds since the epoch; ``None`` for the beginning."""
    latest: int | None = None
    """Last valid time that is covered; ``None`` for no end."""

    def covers(self, project: str, namespace: int, slot: str) -> bool:
        """Say whether it is about these, at whatever time."""
        return (
            project in self.projects
            and (self.namespaces is None or namespace in self.namespaces)
            and (self.slots is None or slot in self.slots)
        )

    def overlaps(self, other: Grant) -> bool:
        """Say whether there is something that both cover."""
        return (
            not self.projects.isdisjoint(other.projects)
            and _share(self.namespaces, other.namespaces)
            and _share(self.slots, other.slots)
        )


def _share(one: frozenset[_T] | None, other: frozenset[_T] | None) -> bool:
    return one is None or other is None or not one.isdisjoint(other)


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast the licensee may ask; ``None`` for no limit."""

    requests_per_second: int | None = None
    burst: int | None = None
    """Requests at once after a pause; there is one where there is a rate."""
    concurrent_streams: int | None = None


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much the licensee may be served, by UTC day and month; ``None`` for no limit."""

    articles_per_day: int | None = None
    articles_per_month: int | None = None
    bytes_per_day: int | None = None
    """Of text, UTF-8."""
    bytes_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """The text of the contract, which lies elsewhere."""

    url: str
    sha256: bytes
    """Of what the URL gave, 32 bytes."""


class Duty(StrEnum):
    """What whoever shows an article has to show with it."""

    TITLE = "title"
    PERMALINK = "permalink"
    LICENSE = "license"
    CONTRIBUTORS = "contributors"
    MODIFICATION_NOTICE = "modification_notice"


@dataclass(frozen=True, slots=True)
class Attribution:
    """What the licensee has to show of where an article is from."""

    duties: tuple[Duty, ...] = ()
    """By name."""
    statement: str = ""
    """In words."""


@dataclass(frozen=True)
class Agreement:
    """A document. Made by ``parse_document`` alone, so that its bytes and its fields say the same."""

    licensee: str
    grants: tuple[Grant, ...]
    """In the order of their canonical JSON; at least one."""
    valid_from: int
    """Microseconds since the epoch."""
    valid_until: int | None
    """The first instant at which it is over; ``None`` for no end."""
    rates: Rates
    quotas: Quotas
    licenses: tuple[str, ...]
    """SPDX identifiers of what is served, sorted."""
    terms: Terms | None
    attribution: Attribution
    pin_retention_days: int
    """How long the licensee's pins can be read after the end."""
    encoded: bytes = field(compare=False, repr=False, default=b"")
    """The canonical JSON."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: 32 bytes."""
        return sha256(self.encoded).digest()

    @cached_property
    def name(self) -> str:
        """The digest as it is written: ``sha256:`` and 64 hex digits."""
        return format_digest(self.digest)

    @cached_property
    def by_project(self) -> Mapping[str, tuple[Grant, ...]]:
        """The grants that name each project."""
        names = frozenset().union(*(grant.projects for grant in self.grants))
        return {name: tuple(grant for grant in self.grants if name in grant.projects) for name in names}


@dataclass(frozen=True)
class Version:
    """An agreement as a licensee has it."""

    agreement: Agreement
    ordinal: int
    """1, 2, 3 in the order of their being added."""
    made_at: int
    """Log position of its statement."""
    ends_at: int | None = None
    """Instant at which it was ended, whatever it says itself; ``None`` if it was not."""

    @property
    def digest(self) -> bytes:
        """The agreement's: 32 bytes."""
        return self.agreement.digest

    @property
    def name(self) -> str:
        """The agreement's digest as it is written."""
        return self.agreement.name

    @cached_property
    def over_at(self) -> int | None:
        """The first instant at which it does not hold any more; ``None`` for no end."""
        ends = [end for end in (self.agreement.valid_until, self.ends_at) if end is not None]
        return min(ends, default=None)

    def holds(self, now: int) -> bool:
        """Say whether an instant is of its time."""
        return self.agreement.valid_from <= now and not self.is_over(now)

    def is_over(self, now: int) -> bool:
        """Say whether its time is over at an instant."""
        over_at = self.over_at
        return over_at is not None and over_at <= now


def in_force(versions: Iterable[Version], now: int) -> Version | None:
    """Return the version that rules at an instant: the newest that holds; ``None`` if none does."""
    found: Version | None = None
    for version in versions:
        if version.holds(now) and (found is None or version.ordinal > found.ordinal):
            found = version
    return found


class Standing(StrEnum):
    """What a version is at an instant."""

    IN_FORCE = "in_force"
    TO_COME = "to_come"
    REPLACED = "replaced"
    """It would hold, and a newer one rules."""
    OVER = "over"


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version as an answer."""

    version: Version
    added_at: int
    """Transaction time of its statement, microseconds since the epoch."""
    standing: Standing


def standing_of(version: Version, versions: Iterable[Version], now: int) -> Standing:
    """Return what one of a licensee's versions is at an instant."""
    if version.is_over(now):
        return Standing.OVER
    if not version.holds(now):
        return Standing.TO_COME
    return Standing.IN_FORCE if in_force(versions, now) == version else Standing.REPLACED


def spans(versions: Sequence[Version]) -> list[tuple[int, int | None, Version]]:
    """Return (from, until, version) of all times that a version rules, in their order; no end is ``None``."""
    edges = {one.agreement.valid_from for one in versions} | {one.over_at for one in versions} - {None}
    found: list[tuple[int, int | None, Version]] = []
    for edge in sorted(edge for edge in edges if edge is not None):
        rules = in_force(versions, edge)
        if found and found[-1][1] is None:
            start, _, before = found[-1]
            if before == rules:
                continue
            found[-1] = start, edge, before
        if rules is not None:
            found.append((edge, None, rules))
    return found


def retained(versions: Sequence[Version], now: int) -> Version | None:
    """Return the version that ruled last, while what was pinned under it can still be read after its end.

    ``None`` while one rules, when none ever did, and once ``pin_retention_days`` are over.
    """
    if in_force(versions, now) is not None:
        return None
    ended = [(stop, version) for _, stop, version in spans(versions) if stop is not None and stop <= now]
    if not ended:
        return None
    stop, version = ended[-1]
    return version if now < stop + version.agreement.pin_retention_days * _DAY else None


# --- documents ------------------------------------------------------------------------------------


def parse_document(document: object, licensee: str = "") -> Agreement:
    """Read an agreement as it was parsed from JSON, YAML or TOML: mappings, lists, strings and integers.

    ``licensee``: whose it is to be, if the document does not say so itself. Raises ``InvalidAgreementError``,
    whose ``field`` names the place: ``grants[0].projects[2]``.
    """
    fields = Fields(document, "", _DOCUMENT)
    if fields.take("format", string, FORMAT) != FORMAT:
        raise bad("format", f"it is not {FORMAT!r}", "leave it out, or use a newer recension")
    named = fields.take("licensee", _licensee, "")
    if licensee and named and named != licensee:
        raise bad(
            "licensee", f"the document is {named}'s, not {licensee}'s", "leave it out, or name the other"
        )
    owner = named or _licensee(licensee, "licensee")
    pairs = sorted(
        ((canonical_json(_grant_document(grant)), grant) for grant in fields.need("grants", _grants)),
        key=lambda pair: pair[0],
    )
    grants = tuple(grant for _, grant in pairs)
    valid_from = fields.need("valid_from", instant)
    valid_until = fields.take("valid_until", instant, None)
    if valid_until is not None and valid_until <= valid_from:
        raise bad("valid_until", f"it is not after valid_from, {format_instant(valid_from)}")
    agreement = Agreement(
        owner,
        grants,
        valid_from,
        valid_until,
        fields.take("rates", _rates, Rates()),
        fields.take("quotas", _quotas, Quotas()),
        fields.take("licenses", _licenses, ()),
        fields.take("terms", _terms, None),
        fields.take("attribution", _attribution, Attribution()),
        fields.take("pin_retention_days", between(0, MAX_RETENTION_DAYS), 0),
    )
    encoded = canonical_json(_document(agreement))
    if len(encoded) > MAX_DOCUMENT_BYTES:
        raise bad("", f"the document has {len(encoded)} bytes, more than {MAX_DOCUMENT_BYTES}")
    return replace(agreement, encoded=encoded)


def _document(agreement: Agreement) -> dict[str, Any]:
    """Return the one form in which an agreement is written: what says nothing is left out."""
    duties, terms, until = agreement.attribution.duties, agreement.terms, agreement.valid_until
    said = {
        "attribution": _said(
            duties=[duty.value for duty in duties], statement=agreement.attribution.statement
        ),
        "format": FORMAT,
        "grants": [_grant_document(grant) for grant in agreement.grants],
        "licensee": agreement.licensee,
        "licenses": list(agreement.licenses),
        "pin_retention_days": agreement.pin_retention_days,
        "quotas": _limits(agreement.quotas, _QUOTAS),
        "rates": _limits(agreement.rates, _RATES),
        "terms": {} if terms is None else {"sha256": format_digest(terms.sha256), "url": terms.url},
        "valid_from": format_instant(agreement.valid_from),
        "valid_until": "" if until is None else format_instant(until),
    }
    return _said(**said)


def _grant_document(grant: Grant) -> dict[str, Any]:
    document: dict[str, Any] = {"projects": sorted(grant.projects)}
    freshness = grant.freshness
    late = freshness.cadence is Cadence.DELAY
    document["freshness"] = {"delay_seconds": freshness.delay_seconds} if late else freshness.cadence.value
    if grant.namespaces is not None:
        document["namespaces"] = sorted(grant.namespaces)
    if grant.slots is not None:
        document["slots"] = sorted(grant.slots)
    if grant.earliest is not None:
        document["earliest"] = format_instant(grant.earliest)
    if grant.latest is not None:
        document["latest"] = format_instant(grant.latest)
    return document


def _said(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _limits(limits: Rates | Quotas, names: Iterable[str]) -> dict[str, int]:
    return {name: value for name in names if (value := getattr(limits, name)) is not None}


# --- reading of fields ----------------------------------------------------------------------------

_DOCUMENT = (
    *("format", "licensee", "grants", "valid_from", "valid_until", "rates", "quotas", "licenses"),
    *("terms", "attribution", "pin_retention_days"),
)
_GRANT = ("projects", "namespaces", "slots", "earliest", "latest", "freshness")
_RATES = ("requests_per_second", "burst", "concurrent_streams")
_NO_LIMIT = "leave it out for no limit"
_QUOTAS = ("articles_per_day", "articles_per_month", "bytes_per_day", "bytes_per_month")


def _licensee(value: object, place: str) -> str:
    name = string(value, place)
    try:
        check_owner(name)
    except RecensionError as error:
        raise bad(place, f"{name[:SHOWN]!r} is no name of a licensee", error.hint) from None
    return name


def _grants(value: object, place: str) -> list[Grant]:
    if isinstance(value, list | tuple) and not value:
        raise bad(place, "there is none, so nothing would be served", "end the agreement instead")
    grants = list_of(_grant, MAX_GRANTS)(value, place)
    for at, grant in enumerate(grants):
        for before, other in enumerate(grants[:at]):
            if grant.overlaps(other):
                raise bad(
                    f"{place}[{at}]",
                    f"it covers some of what {place}[{before}] covers, so they contradict each other",
                    "divide them by project, namespace or slot",
                )
            shared = grant.projects & other.projects
            if shared and grant.freshness != other.freshness:
                raise bad(
                    f"{place}[{at}].freshness",
                    f"it is another than that of {place}[{before}], which grants {min(shared)} too",
                    "say the same for all of a project: an answer is of one moment",
                )
    return grants


def _grant(value: object, place: str) -> Grant:
    fields = Fields(value, place, _GRANT)
    namespaces = fields.take("namespaces", list_of(between(-(2**31), 2**31 - 1), MAX_NAMESPACES), None)
    slots = fields.take("slots", list_of(matching(_SLOT, "name of a slot"), MAX_SLOTS), None)
    grant = Grant(
        frozenset(fields.need("projects", list_of(matching(_PROJECT, "name of a project"), MAX_PROJECTS))),
        fields.need("freshness", _freshness),
        None if namespaces is None else frozenset(namespaces),
        None if slots is None else frozenset(slots),
        fields.take("earliest", instant, None),
        fields.take("latest", instant, None),
    )
    if grant.earliest is not None and grant.latest is not None and grant.latest < grant.earliest:
        raise bad(f"{place}.latest", f"it is before earliest, {format_instant(grant.earliest)}")
    return grant


def _freshness(value: object, place: str) -> Freshness:
    if isinstance(value, Mapping):
        seconds = Fields(value, place, ("delay_seconds",)).need(
            "delay_seconds", between(1, MAX_DELAY_SECONDS)
        )
        return Freshness(Cadence.DELAY, seconds)
    word = string(value, place)
    words = [one.value for one in Cadence if one is not Cadence.DELAY]
    if word not in words:
        raise bad(
            place, f"{word[:SHOWN]!r} is no freshness", f"one of {', '.join(words)}, or delay_seconds: 86400"
        )
    return Freshness(Cadence(word))


def _rates(value: object, place: str) -> Rates:
    fields = Fields(value, place, _RATES)
    rate, burst, streams = (fields.take(name, between(1, MAX_RATE, _NO_LIMIT), None) for name in _RATES)
    if burst is not None and rate is None:
        raise bad(f"{place}.burst", "there is no requests_per_second that it could exceed")
    return Rates(rate, rate if burst is None else burst, streams)


def _quotas(value: object, place: str) -> Quotas:
    fields = Fields(value, place, _QUOTAS)
    quotas = Quotas(*(fields.take(name, between(1, MAX_AMOUNT, _NO_LIMIT), None) for name in _QUOTAS))
    for what, day, month in (
        ("articles", quotas.articles_per_day, quotas.articles_per_month),
        ("bytes", quotas.bytes_per_day, quotas.bytes_per_month),
    ):
        if day is not None and month is not None and day > month:
            raise bad(f"{place}.{what}_per_day", "it is more than may be served in a month")
    return quotas


def _licenses(value: object, place: str) -> tuple[str, ...]:
    spdx = matching(_SPDX, "SPDX identifier")
    return tuple(sorted(list_of(spdx, MAX_LICENSES)(value, place)))


def _terms(value: object, place: str) -> Terms:
    fields = Fields(value, place, ("url", "sha256"))
    return Terms(
        fields.need("url", matching(_URL, "https URL", MAX_URL_BYTES)), fields.need("sha256", _digest)
    )


def _digest(value: object, place: str) -> bytes:
    text = string(value, place)
    try:
        return parse_digest(text if text.startswith("sha256:") else f"sha256:{text}", "sha256")
    except RecensionError as error:
        raise bad(place, f"{text[:SHOWN]!r} is no SHA-256", error.hint) from None


def _attribution(value: object, place: str) -> Attribution:
    fields = Fields(value, place, ("duties", "statement"))
    duties: list[Duty] = fields.take("duties", list_of(_duty, len(Duty)), [])
    return Attribution(tuple(sorted(duties)), fields.take("statement", _statement, ""))


def _duty(value: object, place: str) -> Duty:
    word = string(value, place)
    try:
        return Duty(word)
    except ValueError:
        raise bad(place, f"{word[:SHOWN]!r} is no duty", f"one of {', '.join(Duty)}") from None


def _statement(value: object, place: str) -> str:
    text = string(value, place)
    if not text.strip() or len(text.encode()) > MAX_STATEMENT_BYTES:
        raise bad(place, f"it has not from 1 to {MAX_STATEMENT_BYTES} bytes")
    return text


# --- statements of the log ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class End:
    """Versions of a licensee end at an instant, all up to one; those added later are not meant."""

    licensee: str
    ends_at: int
    """Microseconds since the epoch."""
    upto: int
    """Ordinal of the newest that ends."""
    made_at: int
    """Log position of the statement."""
    encoded: bytes = field(compare=False, repr=False, default=b"")


def version_statement(agreement: Agreement, ordinal: int, made_at: int) -> bytes:
    """Return the canonical bytes of the statement that adds a version."""
    _check_numbers(ordinal, made_at)
    return canonical_json(
        {
            "agreement": json.loads(agreement.encoded),
            "format": VERSION_FORMAT,
            "made_at": str(made_at),
            "ordinal": ordinal,
        }
    )


def make_end(licensee: str, ends_at: int, upto: int, made_at: int) -> End:
    """Return the statement that ends versions. Raises ``InvalidArgumentError`` for what is none."""
    check_owner(licensee)
    check_instant(ends_at)
    _check_numbers(upto, made_at)
    document = {
        "ends_at": format_instant(ends_at),
        "format": END_FORMAT,
        "licensee": licensee,
        "made_at": str(made_at),
        "upto": upto,
    }
    return End(licensee, ends_at, upto, made_at, canonical_json(document))


def read_statement(encoded: bytes) -> Version | End:
    """Read a statement of the log. Raises ``InvalidAgreementError`` unless it would be written so."""
    try:
        document = json.loads(encoded.decode())
        made_at = int(document["made_at"])
        found: Version | End
        if document["format"] == VERSION_FORMAT:
            found = Version(parse_document(document["agreement"]), document["ordinal"], made_at)
            again = version_statement(found.agreement, found.ordinal, made_at)
        elif document["format"] == END_FORMAT:
            found = make_end(
                document["licensee"], parse_instant(document["ends_at"]), document["upto"], made_at
            )
            again = found.encoded
        else:
            raise bad(
                "format", f"unknown format {str(document['format'])[:SHOWN]!r}", "use a newer recension"
            )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise bad("", f"not a statement of an agreement: {str(error)[:200]}") from None
    except RecensionError as error:
        raise bad("", f"not a statement of an agreement: {error.message}", error.hint) from None
    if again != encoded:
        raise bad("", "not a statement of an agreement: it would be written in another way")
    return found


def _check_numbers(ordinal: int, made_at: int) -> None:
    if type(ordinal) is not int or not 0 < ordinal < 2**31 or not 0 < made_at <= MAX_ID:
        raise bad("", "the ordinal or the position is no agreement's")


def licensee_of(statement: Version | End) -> str:
    """Return whose statement it is."""
    return statement.agreement.licensee if isinstance(statement, Version) else statement.licensee


def versions_of(statements: Iterable[Version | End]) -> tuple[Version, ...]:
    """Return the versions of one licensee as its statements, in the order of the log, leave them."""
    versions: list[Version] = []
    for one in statements:
        if isinstance(one, Version):
            versions.append(one)
            continue
        versions = [
            Version(
                version.agreement, version.ordinal, version.made_at, _sooner(version.ends_at, one.ends_at)
            )
            if version.ordinal <= one.upto
            else version
            for version in versions
        ]
    return tuple(versions)


def _sooner(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
