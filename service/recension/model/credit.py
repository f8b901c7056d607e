"""Whom to credit for a page, under which licence, and where it is found: attribution as values.

The rules are those of licences that ask for attribution: the source, the title, the authors, the licence with
its text, and whether anything was changed (``docs/attribution.md``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote

from recension.model.errors import InvalidArgumentError, InvalidTimeError
from recension.model.event import MAX_NAME_BYTES, Contributor, Presence
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import AsOf

MAX_LICENSES = 64
"""Periods of one project."""
MAX_CREDITED = 10_000
"""Contributors named in the attribution of a single page; a snapshot's names all."""
NAMED_IN_LINE = 3
"""Contributors whom a credit line names before it counts the others."""

NOTICE = (
    "The text is kept as it was saved upstream, byte for byte. "
    "Whoever changes it, by plain text, excerpts or translation too, has to say so."
)
"""Modification notice: what was changed on the way here, which is nothing."""

_SAFE_IN_TITLE = "/:@!$*,;~()"
"""What a title shows as it is, in a path and in a query alike. An apostrophe would end an HTML attribute."""
_LICENSE = re.compile(r"[A-Za-z0-9()][A-Za-z0-9.+() :-]*")
"""An SPDX id or expression."""
_PLAIN_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\+?")
_IMPORTED = re.compile(r"([^<>\s][^<>]*)>([^<>]+)")
_TEMPORARY = re.compile(r"~[0-9]{4}-[0-9][0-9-]*")
_MASKED_ADDRESS = re.compile(r"([0-9]{1,3}\.){3}xxx")
"""How the first wiki software showed addresses, as some histories still do."""


# --- contributors -------------------------------------------------------------------------------


class ContributorKind(IntEnum):
    """What a name stands for. The numbers are those of the wire."""

    REGISTERED = 1
    """An account of the project."""
    TEMPORARY = 2
    """An account that the wiki made for somebody without one: ``~2025-12345-6``."""
    ADDRESS = 3
    """Somebody without an account, shown by an address."""
    IMPORTED = 4
    """An account of another wiki, from which the revision was imported."""
    NAMED = 5
    """A name without an account: a script, or an account of another system."""


class Person(NamedTuple):
    """Somebody who is shown."""

    kind: ContributorKind
    name: str
    id: int | None = None
    """Of the account, where upstream states one."""
    origin: str = ""
    """The prefix of the wiki that an imported name is of: ``en``; ``imported`` where it was not kept."""

    @property
    def shown(self) -> str:
        """The name as it is read."""
        if self.kind is not ContributorKind.IMPORTED:
            return self.name
        return f"{self.name} (imported)" if self.origin == "imported" else f"{self.name} (of {self.origin})"


@lru_cache(maxsize=4096)
def person_of(contributor: Contributor) -> Person:
    """Return who is meant by a contributor who is present."""
    if contributor.presence is not Presence.PRESENT:
        raise ValueError("nobody is shown")
    name, number = contributor.name, contributor.id
    if _TEMPORARY.fullmatch(name):
        return Person(ContributorKind.TEMPORARY, name, number)
    if number:
        return Person(ContributorKind.REGISTERED, name, number)
    if imported := _IMPORTED.fullmatch(name):
        return Person(ContributorKind.IMPORTED, imported[2], number, imported[1])
    kind = ContributorKind.ADDRESS if _is_address(name) else ContributorKind.NAMED
    return Person(kind, name, number)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return _MASKED_ADDRESS.fullmatch(name) is not None
    return True


class Share(NamedTuple):
    """What one contributor has done to a page."""

    person: Person
    edits: int
    """Revisions up to the one that is attributed; moves and other entries of logs are none."""


# --- licences -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LicensePeriod:
    """From when on a licence is that of what is saved in a project."""

    license: str
    """SPDX id or expression."""
    since: int | None = None
    """Microseconds since the epoch; ``None`` for the first, which holds from the beginning."""


def read_periods(said: Sequence[str]) -> tuple[LicensePeriod, ...]:
    """Read ``SPDX``, then ``SPDX@DATE`` of each later licence. Raises ``InvalidArgumentError``."""
    periods = []
    for one in said:
        license_, at, date = one.partition("@")
        try:
            periods.append(LicensePeriod(license_.strip(), parse_instant(date) if at else None))
        except InvalidTimeError as error:
            raise _wrong_license(f"{one[:80]!r}: {error.message}") from None
    return check_periods(periods)


def write_periods(periods: Sequence[LicensePeriod]) -> str:
    """Return licences that follow one another as one text, which ``", "`` cuts for ``read_periods``."""
    return ", ".join(
        one.license if one.since is None else f"{one.license}@{format_instant(one.since)}" for one in periods
    )


def check_periods(periods: Sequence[LicensePeriod]) -> tuple[LicensePeriod, ...]:
    """Return the licences of a project if there is one for each instant. Raises ``InvalidArgumentError``."""
    if not 0 < len(periods) <= MAX_LICENSES:
        raise _wrong_license(f"a project has 1 to {MAX_LICENSES} licences")
    for period in periods:
        if not _LICENSE.fullmatch(period.license) or len(period.license) > MAX_NAME_BYTES:
            raise _wrong_license(f"not an SPDX licence: {period.license[:80]!r}")
    instants = [period.since for period in periods]
    later = [since for since in instants[1:] if since is not None]
    if instants[0] is not None or len(later) < len(instants) - 1 or later != sorted(set(later)):
        raise _wrong_license("the first licence has no date, each other one has, and they ascend")
    return tuple(periods)


def license_at(periods: Sequence[LicensePeriod], instant: int) -> str:
    """Return the licence of what was saved at an instant; the periods are those of ``check_periods``."""
    held = [period.license for period in periods if period.since is None or period.since <= instant]
    return held[-1]


def _wrong_license(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"license: {message}", hint="CC-BY-SA-3.0 CC-BY-SA-4.0@2023-06-07", field="license"
    )


class License(NamedTuple):
    """A licence as people know it."""

    spdx: str
    title: str
    short: str
    url: str
    """Of its text; empty where none is known."""


_CREATIVE_COMMONS = "https://creativecommons.org"
_KNOWN = {
    one.spdx: one
    for one in (
        License(
            f"CC-{code}-{version}",
            f"Creative Commons {name} {version} {scope}",
            f"CC {code} {version}",
            f"{_CREATIVE_COMMONS}/licenses/{code.lower()}/{version}/",
        )
        for code, name in (("BY", "Attribution"), ("BY-SA", "Attribution-ShareAlike"))
        for version, scope in (("2.5", "Generic"), ("3.0", "Unported"), ("4.0", "International"))
    )
} | {
    "CC0-1.0": License(
        "CC0-1.0", "CC0 1.0 Universal", "CC0 1.0", f"{_CREATIVE_COMMONS}/publicdomain/zero/1.0/"
    )
}


def license_of(spdx: str) -> License:
    """Return what is known of an SPDX id or expression."""
    known = _KNOWN.get(spdx)
    if known is not None:
        return known
    listed = _PLAIN_LICENSE.fullmatch(spdx) and not spdx.startswith(("LicenseRef-", "DocumentRef-"))
    url = f"https://spdx.org/licenses/{spdx.removesuffix('+')}.html" if listed else ""
    return License(spdx, spdx, spdx, url)


# --- links --------------------------------------------------------------------------------------


def quote_title(title: str) -> str:
    """Return a title as MediaWiki has it in addresses."""
    return quote(title.replace(" ", "_"), safe=_SAFE_IN_TITLE)


def permalink(base_url: str, title: str, rev_id: int) -> str:
    """Return the address of one revision, whatever its page is called by now."""
    return f"{base_url}/w/index.php?title={quote_title(title)}&oldid={rev_id}"


def history_link(base_url: str, title: str) -> str:
    """Return the address of a page's history."""
    return f"{base_url}/w/index.php?title={quote_title(title)}&action=history"


# --- attribution --------------------------------------------------------------------------------


class Attribution(NamedTuple):
    """Whom to credit for one revision of a page, and how."""

    project: str
    page_id: int
    rev_id: int
    timestamp: int
    """When the revision was saved: also the time of the last edit that counts."""
    title: str
    """As in the answer or the snapshot that it is of."""
    namespace: int
    title_inferred: bool
    text_hidden: bool
    """Upstream does not show the revision any more."""
    license: str
    """SPDX id of what was saved at that time."""
    first_edit_at: int
    """Of the page's edits known."""
    edits: int
    """Revisions up to this one, all contributors together."""
    shares: tuple[Share, ...]
    """Most edits first; of those with as many, who came first."""
    hidden_edits: int = 0
    """By contributors whom upstream does not show, as known now, whatever the as-of."""
    unstated_edits: int = 0
    """Of which the source names nobody."""
    omitted: int = 0
    """Contributors left out of ``shares``, with fewer edits than those."""

    def link(self, base_url: str) -> str:
        """Return the revision's address; the page's history where the revision is not shown any more."""
        if self.text_hidden:
            return history_link(base_url, self.title)
        return permalink(base_url, self.title, self.rev_id)


@dataclass(frozen=True, slots=True)
class Credited:
    """The attribution of one revision, and the as-of that it was resolved to."""

    attribution: Attribution
    as_of: AsOf


def credit_line(attribution: Attribution, most: int = NAMED_IN_LINE) -> str:
    """Return the contributors in one line: ``most`` names, and how many more there are."""
    names = [share.person.shown for share in attribution.shares[:most]]
    more = len(attribution.shares) + attribution.omitted - len(names)
    if more:
        names.append(f"{more:,} other contributor{'s' * (more > 1)}")
    if attribution.hidden_edits:
        names.append("contributors whose names are hidden")
    if attribution.unstated_edits:
        names.append("contributors whom the source does not name")
    if len(names) > 1:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return "".join(names)


def statement(attribution: Attribution, base_url: str) -> str:
    """Return all that a licence with attribution asks for, in one paragraph of plain text."""
    license_ = license_of(attribution.license)
    where = f" ({license_.url})" if license_.url else ""
    by = credit_line(attribution)
    return (
        f"“{attribution.title}”, revision {attribution.rev_id} of {format_instant(attribution.timestamp)}, "
        f"{attribution.link(base_url)}{f', by {by}' if by else ''}; {license_.title}{where}. {NOTICE}"
    )
