"""Is the audit log what was recorded? The tree is computed anew and compared with every checkpoint there is.

Who has the disk and the key can make a log whose own parts agree: only a checkpoint that is held
elsewhere shows it then. What parts do not agree is told where it is.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from recension.model.audit import STATEMENT, Entry, read_record
from recension.model.digest import digest_of, format_digest
from recension.model.errors import AuditDamagedError
from recension.model.manifest import canonical_json
from recension.model.merkle import EMPTY, Frontier, leaf_hash
from recension.model.note import VerifierKey
from recension.server.audit.checkpoints import audit_key
from recension.server.signing import signed_by
from recension.store.auditing import AuditHead, AuditStore, Day, day_of

_SLICE = 1024
_MOST = 1000
"""Findings that are told."""

Told = Callable[[int, int], None]
"""Is told how many records were read, and of how many."""


class Kind(StrEnum):
    """What is wrong."""

    CHANGED = "changed"
    """A record, or some of them, are not those that were recorded."""
    REMOVED = "removed"
    REORDERED = "reordered"
    REPEATED = "repeated"
    ADDED = "added"
    """There are records behind the end of the log."""
    TRUNCATED = "truncated"
    """The end is missing, and the log says so itself."""
    ROLLED_BACK = "rolled-back"
    """The log is whole and older than a checkpoint of it."""
    LEFT_OUT = "left-out"
    """A statement of the store's log was passed over when its log was taken over."""
    FORGED = "forged"
    """A checkpoint is not signed by a key of the server."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    index: int
    """Of the record, or the size of the checkpoint; of what was left out, the position in the store's log."""
    what: str


class Held(NamedTuple):
    """A checkpoint to compare with."""

    name: str
    """Where it was found."""
    note: str


@dataclass
class Verified:
    """What came out."""

    size: int = 0
    """Records that were read."""
    root: bytes = EMPTY
    compared: int = 0
    """Checkpoints that were compared with, and are of this log."""
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    """Findings beyond those."""

    def find(self, kind: Kind, index: int, what: str) -> None:
        """Tell of something."""
        if len(self.findings) < _MOST:
            self.findings.append(Finding(kind, index, what))
        else:
            self.more += 1

    @property
    def kinds(self) -> set[Kind]:
        """What kinds of things are wrong."""
        return {one.kind for one in self.findings}

    @property
    def document(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "size": self.size,
            "root": format_digest(self.root),
            "checkpoints": self.compared,
            "findings": [{"kind": one.kind, "index": one.index, "what": one.what} for one in self.findings],
            "more_findings": self.more,
        }


def verify(
    env: AuditStore,
    keys: Sequence[VerifierKey],
    held: Sequence[Held] = (),
    *,
    statements: Callable[[AuditHead], Iterable[Entry]] = lambda _: (),
    told: Told = lambda done, size: None,  # noqa: ARG005 - nobody is told
) -> Verified:
    """Read the whole log and say what is wrong. ``keys``: of the server, old ones too.

    ``statements``: what has to be among the records, of the store's log (``AuditLog.statements``).
    Raises ``AuditDamagedError`` or ``AuditUnusableError`` when it cannot be read at all.
    """
    result = Verified()
    head, days = env.head(), sorted(env.days().items())
    stored = [Held(f"the checkpoint of size {one.size}", one.note) for one in env.checkpoints()]
    expected = list(_expected(result, [audit_key(key) for key in keys], [*held, *stored]))
    finds = _Finds(days, result)
    roots = _read(env, head, {one.size for one in expected}, finds, result, told)
    for one in expected:
        _compare(one, head, roots, result)
    if result.size < head.size:
        result.find(
            Kind.TRUNCATED,
            result.size,
            f"the log ends at {result.size:,} records, its head says {head.size:,}",
        )
    elif not result.findings and result.root != head.root:
        result.find(Kind.CHANGED, result.size, "the records are not those of the head of the log")
    for statement in statements(head):
        if _mark_of(statement.fields) not in finds.taken_over:
            position, what = statement.fields["position"], statement.fields["statement"]
            result.find(
                Kind.LEFT_OUT,
                position,
                f"no record tells of the {what} statement at position {position:,} of the store's log",
            )
    return result


class _Expected(NamedTuple):
    name: str
    size: int
    root: bytes


def _expected(result: Verified, keys: Sequence[VerifierKey], held: Sequence[Held]) -> Iterator[_Expected]:
    for one in held:
        try:
            _, size, root = signed_by(keys, one.note)
        except ValueError as error:
            result.find(Kind.FORGED, 0, f"{one.name}: {error}")
        else:
            yield _Expected(one.name, size, root)


def _compare(one: _Expected, head: AuditHead, roots: dict[int, bytes], result: Verified) -> None:
    if one.size > result.size:
        kind = Kind.TRUNCATED if head.size >= one.size else Kind.ROLLED_BACK
        what = f"{one.name} is of {one.size:,} records, the log has {result.size:,}"
        result.find(kind, one.size, what)
    elif roots[one.size] != one.root:
        result.find(Kind.CHANGED, one.size, f"the first {one.size:,} records are not those of {one.name}")
    else:
        result.compared += 1


def _read(
    env: AuditStore,
    head: AuditHead,
    sizes: set[int],
    finds: _Finds,
    result: Verified,
    told: Told,
) -> dict[int, bytes]:
    """Read all records; return the roots of those sizes that there are."""
    tree, start, behind = Frontier(), 0, -1
    roots = {0: EMPTY}
    while rows := env.records(start, _SLICE):
        for index, encoded in rows:
            if index > behind + 1:
                result.find(Kind.REMOVED, behind + 1, f"records {behind + 1:,} to {index - 1:,} are missing")
            if index == head.size:
                result.find(Kind.ADDED, index, f"there are records behind the end, {head.size:,}")
            finds.look(index, encoded)
            tree.append(leaf_hash(encoded or b""))
            if tree.size in sizes:
                roots[tree.size] = tree.root()
            behind = index
        start = behind + 1
        told(tree.size, max(head.size, 1))
    result.size, result.root = tree.size, tree.root()
    return roots


class _Finds:
    """Looks at one record after the other."""

    def __init__(self, days: list[tuple[int, Day]], result: Verified) -> None:
        self._numbers = [number for number, _ in days]
        self._firsts = [day.first for _, day in days]
        self._days = [day for _, day in days]
        self._result = result
        self.taken_over: set[bytes] = set()
        """Marks of the statements of the store's log that there are records of."""

    def look(self, index: int, encoded: bytes | None) -> None:
        """Tell of a record that is not as it was written, or of another place."""
        if encoded is None:
            self._result.find(Kind.CHANGED, index, f"record {index:,} does not match its digest")
            return
        try:
            record = read_record(index, encoded)
        except AuditDamagedError as error:
            self._result.find(_kind_of(index, encoded), index, error.message)
            return
        if record.get("kind") == STATEMENT:
            self.taken_over.add(_mark_of(record.fields))
        if not self._is_in_its_days(index, record.at):
            self._result.find(
                Kind.CHANGED,
                index,
                f"record {index:,} would not be found by its time: the rows of days are wrong",
            )

    def _is_in_its_days(self, index: int, at: int) -> bool:
        """Say whether whoever looks for its time finds it (``AuditLog.records``)."""
        day = bisect_right(self._firsts, index) - 1
        return day >= 0 and self._numbers[day] >= day_of(at) and self._days[day].least <= at


def _mark_of(fields: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that tell a statement from others: where it stands, and what it says."""
    said = [fields.get(name, 0) for name in ("position", "ordinal", "commit", "payload")]
    return digest_of(canonical_json(said))[:16]


def _kind_of(index: int, encoded: bytes) -> Kind:
    """Say what became of a record that cannot be read as that of an index."""
    try:
        said = json.loads(encoded)["index"]
    except (ValueError, LookupError, TypeError):
        return Kind.CHANGED
    if type(said) is not int or said == index:
        return Kind.CHANGED
    return Kind.REPEATED if said == index - 1 else Kind.REORDERED
