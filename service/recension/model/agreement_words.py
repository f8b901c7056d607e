"""Agreements in words: their fields one by one as a person reads them, and in what two differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from recension.model.agreement import Agreement, Cadence, Grant, VersionInfo
from recension.model.instant import format_instant

_NOTHING = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that two agreements have otherwise; empty on the side that lacks it."""

    field: str
    before: str
    after: str


def row_of(info: VersionInfo) -> dict[str, str | int | None]:
    """Describe a version, but for its document."""
    version = info.version
    return {
        "licensee": version.agreement.licensee,
        "ordinal": version.ordinal,
        "version": version.name,
        "standing": info.standing.value,
        "valid_from": format_instant(version.agreement.valid_from),
        "valid_until": _instant(version.agreement.valid_until),
        "ended_at": _instant(version.ends_at),
        "added_at": format_instant(info.added_at),
        "position": version.made_at,
    }


def _instant(at: int | None) -> str | None:
    return None if at is None else format_instant(at)


def shown(info: VersionInfo) -> list[tuple[str, str]]:
    """Return (field, value) of a version and of all that its document says."""
    facts = [(name, str(value)) for name, value in row_of(info).items() if value is not None]
    told = {name for name, _ in facts}
    return facts + [(name, value) for name, value in words_of(info.version.agreement) if name not in told]


def words_of(agreement: Agreement) -> list[tuple[str, str]]:
    """Return (field, value) of all that an agreement says, grants first."""
    said = [(f"grant {at}", grant_words(grant)) for at, grant in enumerate(agreement.grants, 1)]
    return said + list(_flat("", _rest(agreement)))


def grant_words(grant: Grant) -> str:
    """Return a grant in one line."""
    return "; ".join(f"{name} {value}" for name, value in _grant_fields(grant).items())


def differences(before: Agreement, after: Agreement) -> list[Difference]:
    """Return in what two agreements differ: grants first, field by field where two cover the same."""
    gone = [grant for grant in before.grants if grant not in after.grants]
    new = [grant for grant in after.grants if grant not in before.grants]
    found = []
    for grant in gone:
        heir = next((other for other in new if grant.overlaps(other)), None)
        if heir is None:
            found.append(Difference("grant", grant_words(grant), _NOTHING))
            continue
        new.remove(heir)
        found += _compared(f"grant of {_subject(grant)}: ", _grant_fields(grant), _grant_fields(heir))
    found += [Difference("grant", _NOTHING, grant_words(grant)) for grant in new]
    return found + _compared("", dict(_flat("", _rest(before))), dict(_flat("", _rest(after))))


def _compared(prefix: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(prefix + name, before.get(name, _NOTHING), after.get(name, _NOTHING))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]


def _rest(agreement: Agreement) -> dict[str, object]:
    """Return what an agreement says beside its grants."""
    document: dict[str, object] = json.loads(agreement.encoded)
    return {name: value for name, value in document.items() if name not in {"grants", "format", "licensee"}}


def _flat(place: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _flat(f"{place}.{name}" if place else name, one)
    elif isinstance(value, list):
        yield place, ", ".join(map(str, value))
    else:
        yield place, str(value)


def _grant_fields(grant: Grant) -> dict[str, str]:
    freshness = grant.freshness
    late = freshness.cadence is Cadence.DELAY
    fields = {
        "projects": ", ".join(sorted(grant.projects)),
        "namespaces": "all" if grant.namespaces is None else ", ".join(map(str, sorted(grant.namespaces))),
        "slots": "all" if grant.slots is None else ", ".join(sorted(grant.slots)),
        "freshness": f"{freshness.delay_seconds} s late" if late else freshness.cadence.value,
    }
    if grant.earliest is not None:
        fields["from"] = format_instant(grant.earliest)
    if grant.latest is not None:
        fields["to"] = format_instant(grant.latest)
    return fields


def _subject(grant: Grant) -> str:
    names = sorted(grant.projects)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
