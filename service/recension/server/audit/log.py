"""The audit log as a whole: records are appended in groups, statements taken over, records found again.

What the store's own log says of grants, pins and purges was written there with its effect. Each group takes
over the statements that came since the last, and remembers with them up to which commit it has: so each is
here once, in order, whoever is killed when.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from recension.archive.clock import Clock, system_clock
from recension.model.audit import (
    FORMAT,
    REPLACED,
    STATEMENT,
    Entry,
    Record,
    read_record,
)
from recension.model.digest import digest_of, format_digest
from recension.model.errors import AuditDamagedError, AuditUnusableError
from recension.model.instant import format_instant
from recension.model.manifest import canonical_json
from recension.model.merkle import Frontier, leaf_hash
from recension.model.record import (
    NO_PARENT,
    Kind,
    Statement,
    commit_hash,
    recorded_at,
    statements_of,
)
from recension.store.auditing import AuditHead, AuditStore, Change, Day, day_of
from recension.store.interface import Store

STATEMENTS = {
    Kind.PIN: "pin",
    Kind.API_KEY: "api-key",
    Kind.LICENSEE: "licensee",
    Kind.AGREEMENT: "agreement",
    Kind.RETRACTION: "retraction",
    Kind.RECEIPT: "receipt",
    Kind.ACKNOWLEDGEMENT: "acknowledgement",
}
"""Kinds of statements of the store's log that are taken over, and what records call them."""
_COMMITS = 16
"""Read at once."""
_LOOKED_AT_BYTES = 8 << 20
"""Of commits without a statement; then it is remembered that they were passed over."""
_COMMIT_BYTES = 4096
"""What it takes to read the smallest commit, beside its bytes."""
_SLICE = 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records are looked for; what is empty or ``None`` does not matter."""

    licensee: str = ""
    """Who called, or whom a statement is about."""
    method: str = ""
    """``RevisionService/GetArticle``, or its last part."""
    outcome: str = ""
    """Name of a gRPC code, or the reason that the caller was told, or the true one."""
    agreement: str = ""
    """Digest of a version."""
    snapshot: str = ""
    since: int | None = None
    """Microseconds since the epoch."""
    until: int | None = None
    """The first instant that is not wanted any more."""

    def takes(self, record: Record) -> bool:
        """Say whether a record is looked for."""
        get = record.get
        return (
            (not self.licensee or self.licensee in (get("caller"), get("licensee")))
            and (not self.method or self.method in (get("method"), get("method").rpartition("/")[2]))
            and (not self.outcome or self.outcome in (get("outcome"), get("reason"), get("true_reason")))
            and (not self.agreement or self.agreement == get("agreement"))
            and (not self.snapshot or self.snapshot == get("snapshot"))
            and (self.since is None or self.since <= record.at)
            and (self.until is None or record.at < self.until)
        )


EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True)
class _Taken:
    """What the store's log has brought since a head of the audit log."""

    start: int
    position: int
    hash: bytes
    documents: list[Entry]
    more: bool

    @property
    def is_due(self) -> bool:
        """Say whether it is worth a write of its own."""
        return bool(self.documents) or self.more


class AuditLog:
    """The audit log of a store. Safe for concurrent use, by several processes too."""

    def __init__(self, store: Store, env: AuditStore, *, clock: Clock = system_clock) -> None:
        """``store``: whose statements are taken over; ``env``: where the log lies."""
        self._store = store
        self._clock = clock
        self._followed: tuple[int, bytes] = 0, NO_PARENT
        self.env = env

    def append(self, documents: Sequence[Entry] = (), *, all_: bool = True) -> bool:
        """Append records, behind the statements that the store's log has brought; durable when it returns.

        Without ``all_`` only some of these statements are taken over, in a time that does not depend on
        how many there are; says whether there are more. Raises ``AuditUnusableError``, ``AuditDamagedError``;
        then it is unknown whether the records were written: ``find`` says so.
        """
        self.env.make()
        while documents or self._is_behind():
            taken = self._new_statements(self.env.head())
            more = self._write(taken, documents)
            if more is None:
                continue  # another process was first
            documents = ()
            if not (more and all_):
                return more
        return False

    def catch_up(self) -> str:
        """Take over what the store's log has brought, and say why not, if that cannot be written now.

        Raises ``AuditUnusableError`` if there is no log, and none can be made; ``AuditDamagedError``.
        """
        try:
            self.append()
        except AuditUnusableError as error:
            if not self.env.exists():
                raise
            return error.message
        return ""

    def statements(self, head: AuditHead) -> Iterator[Entry]:
        """Yield what has to be recorded of the store's log, as far as it was taken over by a head.

        Nothing of a store that was replaced since: the next group tells that, and takes its statements over.
        """
        position, upto = 0, head.taken if self._is_followed(head) else 0
        while position < upto and (records := self._store.log.read(position + 1, _COMMITS)):
            for position, record in enumerate(records[: upto - position], position + 1):  # noqa: B020 - it goes on
                for ordinal, one in statements_of(record, STATEMENTS):
                    yield _document(position, ordinal, record, commit_hash(record), one)

    def find(self, request: str, since: int) -> bool:
        """Say whether the record of a call stands at the end of the log, behind the index ``since``."""
        return any(one.get("request") == request for one in self._from(since, None))

    def records(
        self, wanted: Wanted = EVERYTHING, *, after: int = -1, before: int | None = None
    ) -> Iterator[Record]:
        """Yield the records that are looked for, in order, behind an index. Reads a slice at a time.

        Raises ``AuditDamagedError`` at one that is not as it was written.
        """
        start, stop = self._span(wanted)
        start = max(start, after + 1)
        if before is not None:
            stop = before if stop is None else min(stop, before)
        yield from filter(wanted.takes, self._from(start, stop))

    def _from(self, start: int, stop: int | None) -> Iterator[Record]:
        while stop is None or start < stop:
            rows = self.env.records(start, _SLICE if stop is None else min(_SLICE, stop - start))
            for index, encoded in rows:
                if index != start:
                    raise AuditDamagedError(f"record {start} is missing", index=start)
                if encoded is None:
                    raise AuditDamagedError(f"record {index} does not match its digest", index=index)
                yield read_record(index, encoded)
                start += 1
            if len(rows) < _SLICE:
                return

    def _span(self, wanted: Wanted) -> tuple[int, int | None]:
        """Return the indexes outside of which no record has a time that is looked for."""
        start, stop = 0, None
        days = sorted(self.env.days().items()) if (wanted.since, wanted.until) != (None, None) else []
        if wanted.since is not None and days:
            later = [day.first for number, day in days if number >= day_of(wanted.since)]
            start = later[0] if later else self.env.head().size
        if wanted.until is not None:
            for _, day in reversed(days):
                if day.least < wanted.until:
                    break
                stop = day.first
        return start, stop

    def _is_behind(self) -> bool:
        """Say whether the store's log goes on behind what was taken over."""
        return self._store.log.head().position != self.env.head().taken

    def _new_statements(self, head: AuditHead) -> _Taken:
        position, hash_ = head.taken, head.taken_hash
        documents: list[Entry] = []
        if not self._is_followed(head):
            position, hash_, documents = self._go_back(head)
        more, looked_at = True, 0
        while more and not documents and looked_at < _LOOKED_AT_BYTES:
            records = self._store.log.read(position + 1, _COMMITS)
            more = len(records) == _COMMITS
            looked_at += sum(map(len, records)) + _COMMIT_BYTES * len(records)
            for position, record in enumerate(records, position + 1):  # noqa: B020 - it goes on
                hash_ = commit_hash(record)
                documents += [
                    _document(position, ordinal, record, hash_, one)
                    for ordinal, one in statements_of(record, STATEMENTS)
                ]
        return _Taken(head.taken, position, hash_, documents, more)

    def _is_followed(self, head: AuditHead) -> bool:
        """Say whether the store still has the commit up to which its log was taken over."""
        if not head.taken or self._followed == (head.taken, head.taken_hash):
            return True
        if _hash_at(self._store, head.taken) != head.taken_hash:
            return False
        self._followed = (head.taken, head.taken_hash)
        return True

    def _go_back(self, head: AuditHead) -> tuple[int, bytes, list[Entry]]:
        """Return the newest commit that both have, of a store that was restored from a backup."""
        position, hash_ = 0, NO_PARENT
        for record in self._backwards(head.size):
            if record.fields.get("kind") == STATEMENT:
                there = record.number("position")
                if _hash_at(self._store, there).hex() == record.get("commit"):
                    position, hash_ = there, bytes.fromhex(record.get("commit"))
                    break
        newest = self._store.log.head()
        now = max(self._clock(), newest.recorded_at)
        said = {
            "kind": REPLACED,
            "recorded_at": format_instant(now),
            "position": newest.position,
            "taken": head.taken,
            "commit": head.taken_hash.hex(),
        }
        return position, hash_, [Entry(now, said)]

    def _backwards(self, size: int) -> Iterator[Record]:
        while size:
            start = max(size - _SLICE, 0)
            yield from reversed(list(self._from(start, size)))
            size = start

    def _write(self, taken: _Taken, documents: Sequence[Entry]) -> bool | None:
        """Write one group; say whether the store's log goes on, or ``None`` if another process was first."""
        if not documents and not taken.is_due:
            return False
        group = [*taken.documents, *documents]
        lost = False

        def make(head: AuditHead) -> Change | None:
            nonlocal lost
            lost = head.taken != taken.start
            return None if lost else self._change(head, taken, group)

        self.env.update(make)
        return None if lost else taken.more

    def _change(self, head: AuditHead, taken: _Taken, group: list[Entry]) -> Change:
        encoded = [_encoded(index, one.fields) for index, one in enumerate(group, head.size)]
        tree = Frontier(head.size, head.peaks)
        for record in encoded:
            tree.append(leaf_hash(record))
        times = [one.at for one in group]
        logged_at = max(self._clock(), head.logged_at, *times) if times else head.logged_at
        day = head.day
        if times:
            is_new = not head.size or day_of(logged_at) != day_of(head.logged_at)
            day = Day(head.size, min(times)) if is_new else Day(day.first, min(day.least, *times))
        made = AuditHead(tree.size, tree.peaks, taken.position, taken.hash, logged_at, day)
        return Change(made, encoded)


def _document(position: int, ordinal: int, record: bytes, hash_: bytes, one: Statement) -> Entry:
    """Return what is recorded of a statement: where it stands, its digest, and whom it is about."""
    at = recorded_at(record)
    named = _named(one)
    document: dict[str, Any] = {
        "kind": STATEMENT,
        "statement": STATEMENTS[one.kind],
        "position": position,
        "commit": hash_.hex(),
        "recorded_at": format_instant(at),
        "payload": format_digest(digest_of(one.payload)),
        **{name: value for name, value in named.items() if isinstance(value, str) and value},
    }
    fields = _fields(one)
    if ordinal:
        document["ordinal"] = ordinal
    if fields.get("deleted") is True or fields.get("revoked") is True:
        document["ended"] = True
    if str(position) == fields.get("made_at"):
        document["first"] = True
    return Entry(at, document)


def _encoded(index: int, fields: Mapping[str, Any]) -> bytes:
    """Return ``encode_record``, at a tenth of its cost."""
    return orjson.dumps({**fields, "format": FORMAT, "index": index}, option=orjson.OPT_SORT_KEYS)


def _named(one: Statement) -> dict[str, Any]:
    """Return whom and what a statement is about."""
    fields = _fields(one)
    match one.kind:
        case Kind.PIN:
            return {
                "licensee": fields.get("owner"),
                "pin": fields.get("name"),
                "snapshot": fields.get("snapshot"),
            }
        case Kind.API_KEY:
            return {"licensee": fields.get("owner"), "key": fields.get("id"), "role": fields.get("role")}
        case Kind.LICENSEE:
            return {"licensee": fields.get("name")}
        case Kind.AGREEMENT if isinstance(document := fields.get("agreement"), dict):
            return {
                "licensee": document.get("licensee"),
                "agreement": format_digest(digest_of(canonical_json(document))),
            }
        case Kind.ACKNOWLEDGEMENT:
            return {
                "licensee": fields.get("owner"),
                "key": fields.get("key"),
                "snapshot": fields.get("snapshot"),
            }
        case _:
            return {name: fields.get(name) for name in ("licensee", "project", "case", "retraction")}


def _fields(one: Statement) -> dict[str, Any]:
    try:
        fields = json.loads(one.payload)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _hash_at(store: Store, position: int) -> bytes:
    """Return the hash of a commit; empty bytes if there is none at that position."""
    records = store.log.read(position, 1) if position else []
    return commit_hash(records[0]) if records else b""
