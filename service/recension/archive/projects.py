"""Projects: their numbers, definitions and what was learned of their titles."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from recension.archive.rows import Tally, read_tally
from recension.model.credit import LicensePeriod, check_periods
from recension.model.errors import DataLossError, InvalidArgumentError, ProjectNotFoundError
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import canonical_json
from recension.model.reading import ProjectInfo
from recension.store import keys
from recension.store.interface import View

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True)
class Definition:
    """What a project statement of the log says."""

    name: str
    base_url: str
    language: str
    license: str
    case: str = "first-letter"
    namespaces: dict[int, str] = field(default_factory=dict)
    """Namespace number to its localised name; learned from dumps."""
    licenses: tuple[LicensePeriod, ...] = ()
    """As of ``ProjectInfo``."""

    @property
    def periods(self) -> tuple[LicensePeriod, ...]:
        """From when on which licence is that of what was saved; at least one."""
        return self.licenses or (LicensePeriod(self.license),)

    def encode(self) -> bytes:
        """Return canonical JSON; the payload of the log's project statement."""
        document: dict[str, object] = {
            "name": self.name,
            "base_url": self.base_url,
            "language": self.language,
            "license": self.license,
            "case": self.case,
            "namespaces": {str(number): name for number, name in self.namespaces.items()},
        }
        if self.licenses:
            document["licenses"] = list(map(_period_document, self.licenses))
        return canonical_json(document)


def _period_document(period: LicensePeriod) -> dict[str, str]:
    since = {} if period.since is None else {"since": format_instant(period.since)}
    return {"license": period.license} | since


def _read_period(document: dict[str, str]) -> LicensePeriod:
    since = document.get("since")
    return LicensePeriod(document["license"], None if since is None else parse_instant(since))


def read_definition(payload: bytes) -> Definition:
    """Read a project statement back."""
    document = json.loads(payload)
    namespaces = {int(number): name for number, name in document.pop("namespaces").items()}
    licenses = tuple(map(_read_period, document.pop("licenses", ())))
    return Definition(**document, namespaces=namespaces, licenses=licenses)


def check_definition(info: ProjectInfo) -> Definition:
    """Return the definition of a new project. Raises ``InvalidArgumentError``."""
    if not _NAME.fullmatch(info.name):
        raise InvalidArgumentError(
            f"not a project name: {info.name[:80]!r}",
            hint="use 1 to 63 of a-z, 0-9, '_', '.', '-', beginning with a letter or digit",
            field="name",
        )
    if not info.base_url.startswith(("https://", "http://")):
        raise InvalidArgumentError("base_url begins with https:// or http://", field="base_url")
    for name in ("language", "license"):
        if not getattr(info, name):
            raise InvalidArgumentError(f"{name} is not empty", field=name)
    if info.licenses and check_periods(info.licenses)[-1].license != info.license:
        raise InvalidArgumentError("license is the last of licenses", field="license")
    return Definition(
        info.name, info.base_url.rstrip("/"), info.language, info.license, licenses=info.licenses
    )


def find_project(view: View, name: str) -> int | None:
    """Return a project's number, or ``None``."""
    raw = view.get(keys.project_number(name)) if 0 < len(name.encode()) <= 63 else None  # noqa: PLR2004
    return None if raw is None else int.from_bytes(raw, "big")


def project_number(view: View, name: str) -> int:
    """Return a project's number. Raises ``ProjectNotFoundError``."""
    number = find_project(view, name)
    if number is None:
        raise ProjectNotFoundError(
            f"no project {name[:80]!r}",
            hint="see `recension projects`, or `recension-server project list`",
            project=name[:80],
        )
    return number


class Numbers:
    """Projects' numbers, which never change: each is looked up once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, view: View, name: str) -> int:
        """Return a project's number. Raises ``ProjectNotFoundError``."""
        number = self._known.get(name)
        if number is None:
            number = self._known[name] = project_number(view, name)
        return number


def project_names(view: View) -> list[tuple[str, int]]:
    """Return (name, number) of all projects, by name."""
    rows = view.scan(b"P", b"Q")
    try:
        return [(key[1:].decode(), int.from_bytes(value, "big")) for key, value in rows]
    except UnicodeDecodeError:
        raise DataLossError("the name of a project is damaged") from None


def definition_of(view: View, number: int) -> Definition:
    """Return a project's newest definition."""
    row = view.last(keys.definition(number, 0), keys.definition(number, keys.END))
    if row is None:
        raise ProjectNotFoundError("a project without a definition", project=number)
    return read_definition(row[1])


def tally_of(view: View, number: int, known_at: int = keys.END - 1) -> tuple[int, Tally]:
    """Return (position, running counts) of a project as known at a position; (0, empty) before its first."""
    row = view.last(keys.tally(number, 0), keys.tally(number, known_at + 1))
    if row is None:
        return 0, Tally()
    return int.from_bytes(row[0][-8:], "big"), read_tally(row[1])
