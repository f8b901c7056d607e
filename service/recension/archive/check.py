"""Check a store: every text, commitment, hash, leaf, root anew, every reference both ways. Repairs nothing.

Eight phases follow one another, each a walk in small steps with a view of its own, so a check may be ended
after any step and go on later. What was appended after it began is left for the next one; to what is sealed
meanwhile it adapts, while a garbage collection at the same time may be told as a fault.

``log``
    The chain of records, each event's sealed values against ``sealed``, and every index row that they make.
``rows``
    Every index row has its event in the log.
``pages``
    Each page's blocks against their rows, each text against its digest's row, each revision's content.
``texts``
    Every row of a text, of its holders and of block users leads somewhere.
``blobs``
    Every blob is named by a row or by a commit.
``snapshots``
    Each tree node on the way, each entry against the history, and the counts of the manifest.
``nodes``
    Every node of a tree has its digest and its children.
``columns``
    Event columns say what the log does, without a gap.

No damage: a purged field, whose commitment is kept; a text that was erased, empty in its block; tree nodes
that no manifest names, which a killed ``CreateSnapshot`` leaves (``archive.garbage`` finds them).
"""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from hashlib import sha256
from typing import Any, Generic, TypeVar

from recension.archive.columns import _logged, _write
from recension.archive.history import Choice, edit_row, page_at, selects
from recension.archive.projects import find_project, project_names, read_definition, tally_of
from recension.archive.rebuild import Prefixes
from recension.archive.replay import (
    Facts,
    commit_rows,
    facts_of,
    open_sealed,
    sealed_keys,
)
from recension.archive.rows import EditRow
from recension.archive.sealed import CONTENT_FIELD, TOGETHER, Sealed
from recension.archive.texts.block import TAIL, Block, read_block
from recension.archive.texts.reading import load, place_value, read_place
from recension.archive.texts.rows import GONE, SHORT_DIGEST, read_page_block, read_tail
from recension.model.digest import digest_of
from recension.model.errors import DataLossError, InvalidArgumentError, StoreError
from recension.model.event import Presence
from recension.model.instant import MAX_INSTANT, MIN_INSTANT
from recension.model.manifest import Manifest, ProjectPart, read_manifest
from recension.model.record import EMPTY_LOG, Commit, Kind, Skeleton, Statement, decode_commit
from recension.model.seal import (
    read_comment,
    read_content,
    read_contributor,
    read_log_entry,
    read_title,
    seal,
)
from recension.model.tree import Leaf, children_of, entry_leaf, leaves_of, level_of, node_digest
from recension.store import keys
from recension.store.interface import Row, Store, View

_ROWS = 2000
"""Rows of one step: some 20 ms."""
_FEW = 200
"""Rows of one step where each may cost a block, or a walk over a page."""
_EDITS = 256
_COMMITS_HELD = 128
_BLOBS_HELD = 256
_BLOCKS_HELD = 4096
_REPEATED = 100_000
_PAGE_KEY_BYTES = 13
"""A letter, a project and a page."""
_END = b"\xff" * 65
_COMMITMENT_BYTES = 32
_LAST_PAGE = 2**63
_DIGESTS = 2**128


class Remedy(StrEnum):
    """What to do about a finding."""

    RESTORE = "restore the data directory from a backup: log or sealed values are damaged"
    TEXT = "restore the data directory from a backup: a text is damaged"
    REBUILD = "make the index anew with: recension-server rebuild"
    GC = "remove it with: recension-server gc --delete"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """Stable: may be added to, never renamed."""
    place: str
    what: str
    remedy: str


@dataclass(slots=True)
class State:
    """How far a check is and what it has found: all that is needed to go on in another process."""

    known_at: int = -1
    """Head when the check began; what came later is not looked at."""
    head: str = ""
    phase: int = 0
    cursor: list[Any] = field(default_factory=list)
    share: float = 0.0
    """Of the phase, roughly."""
    kinds: dict[str, int] = field(default_factory=dict)
    shown: list[Finding] = field(default_factory=list)
    """The first findings."""
    commits: int = 0
    events: int = 0
    rows: int = 0
    texts: int = 0
    text_bytes: int = 0
    entries: int = 0
    vouched: list[int] = field(default_factory=lambda: [0, 0])
    """(number, sum) of the digests of texts found in blocks, and at their rows."""
    seconds: float = 0.0

    @property
    def findings(self) -> int:
        """Number of findings."""
        return sum(self.kinds.values())

    @property
    def complete(self) -> bool:
        """Whether everything was checked."""
        return self.phase >= len(PHASES)

    def document(self) -> dict[str, Any]:
        """Return the state for a file."""
        return asdict(self)


def read_state(document: dict[str, Any]) -> State:
    """Return the state of a file. Raises ``StoreError`` for anything else."""
    fresh = asdict(State())
    try:
        shown = [Finding(**finding) for finding in document["shown"]]
        fits = all(type(value) is type(fresh[name]) for name, value in document.items())
        state = State(**{**document, "shown": shown}) if fits else None
    except (TypeError, KeyError, AttributeError):
        state = None
    if state is None:
        raise StoreError("not the state of a check", hint="check from the beginning")
    return state


PHASES = ("log", "rows", "pages", "texts", "blobs", "snapshots", "nodes", "columns")
_WEIGHTS = (0.3, 0.1, 0.42, 0.04, 0.04, 0.07, 0.01, 0.02)
_NAMES = {
    b"E": "edit", b"R": "revision", b"M": "mark", b"V": "visibility", b"W": "page visibility",
    b"S": "source", b"T": "title", b"D": "text", b"K": "text holder", b"C": "tally", b"P": "project",
    b"Q": "definition", b"L": "log entry", b"N": "node", b"Z": "snapshot", b"Y": "manifest",
    b"B": "commit time", b"G": "block", b"H": "tail", b"U": "block user", b"X": "event run",
    b"J": "event columns",
}  # fmt: skip
_OF_EVENTS = frozenset(b"ERMVWSTCPQLZYB")
_SIZES = {
    b"E": 41, b"R": 25, b"M": 33, b"V": 25, b"W": 25, b"S": 21, b"T": 29, b"D": 17, b"K": 29, b"C": 13,
    b"Q": 13, b"L": 25, b"N": 33, b"Z": 33, b"Y": 9, b"B": 9, b"G": 17, b"H": 21, b"U": 17, b"X": 17,
    b"J": 17,
}  # fmt: skip
"""Bytes of each kind of key, but those of project names."""
_VALUE_SIZES = {
    b"R": 16, b"M": 73, b"V": 25, b"W": 25, b"C": 40, b"L": 10, b"G": 38, b"H": 28, b"D": 8, b"K": 0,
    b"U": 0,
}  # fmt: skip
"""Bytes of each kind of value that is read as a whole."""
_PROJECTS = 2**31
_EDIT_BYTES = 85
"""Of an edit's value, without its content model."""

_Told = tuple[str, str, str, Remedy]
_K = TypeVar("_K")
_V = TypeVar("_V")


class _Held(Generic[_K, _V]):
    """The last values that were asked for."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[_K, _V] = OrderedDict()

    def get(self, key: _K, make: Callable[[], _V]) -> _V:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        value = self._held[key] = make()
        if len(self._held) > self._limit:
            self._held.popitem(last=False)
        return value

    def clear(self) -> None:
        self._held.clear()


def _is_text(raw: bytes, is_there: bool) -> bool:  # noqa: FBT001 - both have to hold
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return is_there


def _is_formed(row: Row) -> bool:
    """Say whether a row can be read as its kind is."""
    key, value = row
    letter = key[:1]
    if letter == b"E" and not _is_text(value[_EDIT_BYTES:], len(value) >= _EDIT_BYTES):
        return False
    if letter == b"P" and not (len(value) == 4 and 0 < int.from_bytes(value, "big") < _PROJECTS):  # noqa: PLR2004
        return False
    return len(key) == _SIZES.get(letter, len(key)) and len(value) == _VALUE_SIZES.get(letter, len(value))


class _PatientView:
    """A view that leaves out damaged and malformed index rows: each is told where its own kind is walked."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.head, self.blob, self.last_blob_key = view.head, view.blob, view.last_blob_key

    def get(self, key: bytes) -> bytes | None:
        try:
            value = self._view.get(key)
        except DataLossError:
            return None
        return value if value is not None and _is_formed((key, value)) else None

    def get_many(self, keys_: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(key) for key in keys_]

    def scan(self, start: bytes, stop: bytes, *, limit: int = 0) -> list[Row]:
        out: list[Row] = []
        while True:
            rows, bad = scan_to_damage(self._view, start, stop, limit - len(out) if limit else 0)
            out += filter(_is_formed, rows)
            if bad is not None and bad.key:
                start = bad.key + b"\0"
            elif bad is None and limit and rows and len(out) < limit:
                start = rows[-1][0] + b"\0"  # some were malformed, or it is the end
            else:
                return out

    def last(self, start: bytes, stop: bytes) -> Row | None:
        while True:
            try:
                row = self._view.last(start, stop)
                if row is None or _is_formed(row):
                    return row
                if row[0] >= stop:
                    return None  # damaged pages
                stop = row[0]
            except DataLossError as error:
                stop = _key_of(error, start, stop)
                if not stop:
                    return None


@dataclass(frozen=True, slots=True)
class _Damage:
    key: bytes
    """Of the row; empty when the pages are damaged, and what follows cannot be reached."""
    error: DataLossError


def scan_to_damage(view: View, start: bytes, stop: bytes, limit: int) -> tuple[list[Row], _Damage | None]:
    """Return the rows of a range up to its first damaged one, and that."""
    try:
        return _in_order(view.scan(start, stop, limit=limit), start)
    except DataLossError as error:
        key = _key_of(error, start, stop)
        try:
            rows, bad = _in_order(view.scan(start, key) if key else [], start)
        except DataLossError as other:
            return [], _Damage(b"", other)
        return rows, bad or _Damage(key, error)


def _in_order(rows: list[Row], start: bytes) -> tuple[list[Row], _Damage | None]:
    """Return the rows as far as they ascend: with damaged pages a walk could go round in a circle."""
    last = b""
    for at, (key, _) in enumerate(rows):
        if key <= last or key < start:
            return rows[:at], _Damage(b"", DataLossError("rows are not in the order of their keys"))
        last = key
    return rows, None


def _key_of(error: DataLossError, start: bytes, stop: bytes) -> bytes:
    """Return the key of the index row that is damaged; empty if the error names none in the range."""
    key = bytes.fromhex(error.metadata.get("key", "")) if error.metadata.get("table") == "index" else b""
    return key if start <= key < stop else b""


class Check:
    """A check of a store, from its beginning or from where ``state`` says. One thread."""

    def __init__(self, store: Store, state: State | None = None, *, shown: int = 100) -> None:
        """Keep the first ``shown`` findings. Raises ``StoreError`` if the state is of another store."""
        self.state = state or State()
        self._store = store
        self._shown = shown
        self._told: set[tuple[str, str]] = {(one.kind, one.place) for one in self.state.shown}
        self._prefixes = Prefixes()
        self._commits: _Held[int, Commit | None] = _Held(_COMMITS_HELD)
        self._sources: _Held[int, frozenset[bytes]] = _Held(_COMMITS_HELD)
        self._sealed: _Held[bytes, list[Sealed] | None] = _Held(_BLOBS_HELD)
        self._digests: _Held[bytes, list[bytes]] = _Held(_BLOCKS_HELD)
        self._numbers: dict[int, str] = {}
        self._page = _Page()
        if self.state.known_at < 0:
            head = store.log.head()
            self.state.known_at, self.state.head = head.position, head.hash.hex()
        else:
            self._check_same_log()

    def run(
        self, is_over: Callable[[], bool] = lambda: False, tell: Callable[[], None] = lambda: None
    ) -> State:
        """Go on until all is checked or ``is_over`` says so; ``tell`` is called after each step.

        A page is finished once it is begun, so this may go on for some seconds.
        """
        walks = (
            self._log,
            self._rows,
            self._pages,
            self._texts,
            self._blobs,
            self._snapshots,
            self._nodes,
            self._columns,
        )
        while not self.state.complete:
            for may_end in walks[self.state.phase]():
                tell()
                if may_end and is_over():
                    return self.state
            self.state.phase += 1
            self.state.cursor = []
            self.state.share = 0.0
        tell()
        return self.state

    @property
    def share(self) -> float:
        """Share of the work that is done, roughly."""
        return sum(_WEIGHTS[: self.state.phase]) + (
            0.0 if self.state.complete else _WEIGHTS[self.state.phase] * min(self.state.share, 1.0)
        )

    def _check_same_log(self) -> None:
        position = self.state.known_at
        try:
            records = self._store.log.read(position, 1) if position else []
        except DataLossError:
            return  # told by the phase ``log``
        head = sha256(records[0]).hexdigest() if records else EMPTY_LOG.hash.hex()
        if head != self.state.head:
            raise StoreError("the state is of another store", hint="check from the beginning")

    def _find(self, kind: str, place: str, what: str, remedy: Remedy) -> None:
        if (kind, place) in self._told:
            return
        if len(self._told) < _REPEATED:
            self._told.add((kind, place))
        state = self.state
        state.kinds[kind] = state.kinds.get(kind, 0) + 1
        if len(state.shown) < self._shown:
            state.shown.append(Finding(kind, place, what, remedy.value))

    def _tell_twice_found(self, look: Callable[[View], list[_Told]]) -> None:
        """Tell what is still so at a second look: what was held in memory may have been erased meanwhile."""
        told: list[_Told] = []
        for _ in range(2):
            with self._store.view() as view:
                told = look(view)
            if not told:
                return
            self._prefixes.clear()
            self._digests.clear()
            self._sealed.clear()
        for one in told:
            self._find(*one)

    def _walk(
        self, start: bytes, stop: bytes, visit: Callable[[View, list[Row]], None], size: int = _ROWS
    ) -> Iterator[bytes]:
        """Visit the rows of a range, some at a time in one view; yield the next key when it is closed.

        Damaged rows are told and passed over.
        """
        while True:
            with self._store.view() as view:
                rows, bad = scan_to_damage(view, start, stop, size)
                if bad is not None:
                    self._tell_damaged(bad, start)
                if rows:
                    visit(view, rows)
            self.state.rows += len(rows)
            whole = bad is None and len(rows) < size
            if (bad is not None and not bad.key) or (whole and not rows):
                return
            start = (bad.key if bad is not None else rows[-1][0]) + b"\0"
            yield start
            if whole:
                return

    def _tell_damaged(self, bad: _Damage, start: bytes) -> None:
        if bad.key:
            self._find("row-damaged", _place(bad.key), bad.error.message, Remedy.REBUILD)
        else:
            self._find("pages-damaged", f"index from {start.hex()} on", bad.error.message, Remedy.RESTORE)

    # --- log --------------------------------------------------------------------------------------

    def _log(self) -> Iterator[bool]:
        """Walk the log; the cursor is the last position, its time, and the hash of its record if known."""
        state = self.state
        position, recorded_at, parent = state.cursor or (0, EMPTY_LOG.recorded_at, EMPTY_LOG.hash.hex())
        while position < state.known_at:
            position += 1
            commit, hash_ = self._record(position, recorded_at, parent)
            if commit is not None:
                recorded_at = commit.recorded_at
                self._commit(commit)
            parent = hash_
            state.cursor = [position, recorded_at, parent]
            state.share = position / state.known_at
            yield True
        if parent and parent != state.head:
            self._find("log-head", f"commit {position}", "the head names another hash", Remedy.RESTORE)

    def _record(self, position: int, after: int, parent: str) -> tuple[Commit | None, str]:
        """Return a commit and the hash of its record, empty when it cannot be read."""
        place = f"commit {position}"
        try:
            (record,) = self._store.log.read(position, 1)
        except (DataLossError, ValueError) as error:
            self._find("log-record", place, str(error), Remedy.RESTORE)
            return None, ""
        hash_ = sha256(record).hexdigest()
        try:
            commit = decode_commit(record)
        except DataLossError as error:
            self._find("log-record", place, error.message, Remedy.RESTORE)
            return None, hash_
        if commit.position != position:
            self._find("log-position", place, f"its record says {commit.position}", Remedy.RESTORE)
            return None, hash_
        if parent and commit.parent.hex() != parent:
            self._find("log-chain", place, "its parent is not the record before it", Remedy.RESTORE)
        if commit.recorded_at <= after and position > 1:
            self._find("log-time", place, "it was not recorded after the one before it", Remedy.RESTORE)
        return commit, hash_

    def _commit(self, commit: Commit) -> None:
        events = [(ordinal, item) for ordinal, item in enumerate(commit.items) if isinstance(item, Skeleton)]
        self.state.commits += 1
        self.state.events += len(events)
        for item in commit.items:
            if isinstance(item, Statement):
                self._statement(commit.position, item)
        with self._store.view() as view:
            sealed = self._sealed_of(view, commit.position, len(events))
            facts = [
                self._event(f"event {commit.position}.{ordinal}", event, one)
                for (ordinal, event), one in zip(events, sealed, strict=True)
            ]
            self._rows_of(view, commit, facts)

    def _statement(self, position: int, item: Statement) -> None:
        try:
            if item.kind is Kind.SNAPSHOT:
                read_manifest(item.payload)
            else:
                read_definition(item.payload)
        except (InvalidArgumentError, ValueError, LookupError, TypeError, AttributeError) as error:
            self._find("log-statement", f"commit {position}", str(error), Remedy.RESTORE)

    def _sealed_of(self, view: View, position: int, events: int) -> list[Sealed | None]:
        """Return the sealed values of a commit's events, ``None`` for those that cannot be read."""
        out: list[Sealed | None] = []
        for part, key in enumerate(sealed_keys(position, events)):
            wanted = min(TOGETHER, events - part * TOGETHER)
            place = f"events {position}.{part * TOGETHER} to {position}.{part * TOGETHER + wanted - 1}"
            some: list[Sealed | None] = []
            try:
                raw = view.blob(key)
                some += open_sealed(raw) if raw is not None else []
                what = f"there are values of {len(some)} events, not of {wanted}"
            except DataLossError as error:
                what = error.message
            if len(some) != wanted:
                self._find("sealed-damaged", place, what, Remedy.RESTORE)
                some = [None] * wanted
            out += some
        return out

    def _event(self, place: str, event: Skeleton, sealed: Sealed | None) -> Facts | None:
        """Check an event's values against its commitments and its skeleton; return what its rows take."""
        if sealed is None:
            return None
        try:
            facts = facts_of(event.kind, sealed)
        except (DataLossError, IndexError) as error:
            self._find("sealed-damaged", place, str(error), Remedy.RESTORE)
            return None
        if (
            any(len(one) != _COMMITMENT_BYTES for one in facts.commitments)
            or seal(list(facts.commitments)) != event.sealed
        ):
            self._find("sealed-hash", place, "its sealed values are not those of the log", Remedy.RESTORE)
            return None
        try:
            differs = _differs(event, sealed.values)
        except DataLossError as error:
            differs = error.message
        if differs:
            self._find("sealed-value", place, differs, Remedy.RESTORE)
        return facts

    def _rows_of(self, view: View, commit: Commit, facts: Sequence[Facts | None]) -> None:
        """Compare the rows that a commit makes with those that are stored."""
        patient = _PatientView(view)
        try:
            expected = commit_rows(patient, commit, facts)
        except DataLossError as error:
            self._find("row-missing", f"commit {commit.position}", error.message, Remedy.REBUILD)
            return
        for key, value in expected.items():
            try:
                stored = view.get(key)
            except DataLossError as error:
                self._find("row-damaged", _place(key), error.message, Remedy.REBUILD)
                continue
            if stored is None:
                self._find("row-missing", _place(key), "the log says that it is there", Remedy.REBUILD)
            elif stored != value:
                self._find("row-wrong", _place(key), "the log says another value", Remedy.REBUILD)

    # --- rows -------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[bool]:
        """Walk the rows that events make, and look for those of no kind; the cursor is the next key."""
        start = bytes.fromhex(self.state.cursor[0]) if self.state.cursor else b"\0"
        for letter in range(start[0], _END[0]):
            begin, end = max(start, bytes([letter])), bytes([letter + 1])
            if letter not in _OF_EVENTS and bytes([letter]) in _NAMES:
                continue
            for next_ in self._walk(begin, end, self._check_rows, _FEW if letter == ord("T") else _ROWS):
                self.state.cursor = [next_.hex()]
                self.state.share = max(letter - 0x41, 0) / 26
                yield True

    def _check_rows(self, view: View, rows: list[Row]) -> None:
        patient = _PatientView(view)
        for row in rows:
            self._check_row(patient, row)

    def _check_row(self, view: View, row: Row) -> None:
        key, _ = row
        letter = key[:1]
        named = letter in _NAMES and len(key) == _SIZES.get(letter, len(key))
        if not named or (letter == b"P" and not _is_formed(row)):
            self._find("row-alien", f"row {key.hex()}", "no row has such a form", Remedy.REBUILD)
        elif not self._has_event(view, row):
            self._find("row-orphan", _place(key), "nothing in the log makes it", Remedy.REBUILD)

    def _has_event(self, view: View, row: Row) -> bool:
        """Say whether a row's event is in the log; what came after the check began is taken for granted."""
        key, value = row
        letter = key[:1]
        number = int.from_bytes(key[1:5], "big")
        match letter:
            case b"E":
                page, time, rev, position, ordinal = keys.read_edit(key)
                return self._is_event(
                    view, number, position, ordinal,
                    lambda one: (one.kind, one.page_id, one.time, one.rev_id) == (Kind.EDIT, page, time, rev),
                )  # fmt: skip
            case b"R":
                rev, position, ordinal = keys.read_revision(key)
                return self._is_event(
                    view, number, position, ordinal, lambda one: (one.kind, one.rev_id) == (Kind.EDIT, rev)
                )
            case b"V" | b"W":
                subject, position, ordinal = keys.read_revision(key)
                return self._is_event(
                    view, number, position, ordinal,
                    lambda one: one.kind is Kind.VISIBILITY
                    and subject == (one.rev_id if letter == b"V" else one.page_id),
                )  # fmt: skip
            case b"M":
                page, time, position, ordinal = keys.read_mark(key)
                marks = (Kind.MOVE, Kind.DELETE, Kind.RESTORE)
                return self._is_event(
                    view, number, position, ordinal,
                    lambda one: one.kind in marks and (one.page_id, one.time) == (page, time),
                )  # fmt: skip
            case b"L":
                time, position, ordinal = keys.read_log_entry(key)
                return self._is_event(
                    view, number, position, ordinal,
                    lambda one: (one.kind, one.time) == (Kind.LOG_ENTRY, time),
                )  # fmt: skip
            case b"T":
                return self._has_title(view, key)
            case _:
                return self._has_commit(view, number, key, value)

    def _has_commit(self, view: View, number: int, key: bytes, value: bytes) -> bool:
        """The same of rows that name a whole commit."""
        letter = key[:1]
        if letter == b"P":
            named = int.from_bytes(value, "big")
            first = view.scan(keys.definition(named, 0), keys.definition(named, keys.END), limit=1)
            try:
                return bool(first) and read_definition(first[0][1]).name.encode() == key[1:]
            except (ValueError, LookupError, TypeError, AttributeError):
                return True  # told by the phase ``log``
        position = int.from_bytes(value if letter in b"SZ" else key[-8:], "big")
        if position > self.state.known_at:
            return position <= view.head().position
        commit = self._commit_at(position)
        if commit is None:
            return position > 0  # told by the phase ``log``
        if letter in b"SC" and commit.project != self._name(view, number):
            return False
        match letter:
            case b"S":
                return key[5:] in self._sources.get(position, lambda: _sources(commit))
            case b"C":
                return any(isinstance(item, Skeleton) for item in commit.items)
            case b"Q":
                own = commit.project == self._name(view, number)
                return bool(_statements(commit, Kind.PROJECT)) and own
            case b"Z":
                return key[1:] in {sha256(one).digest() for one in _statements(commit, Kind.SNAPSHOT)}
            case b"Y":
                return bool(_statements(commit, Kind.SNAPSHOT))
            case _:
                return True

    def _is_event(
        self, view: View, number: int, position: int, ordinal: int, fits: Callable[[Skeleton], bool]
    ) -> bool:
        if position > self.state.known_at:
            return position <= view.head().position
        commit = self._commit_at(position)
        if commit is None:
            return position > 0  # told by the phase ``log``
        if ordinal >= len(commit.items) or commit.project != self._name(view, number):
            return False
        item = commit.items[ordinal]
        return isinstance(item, Skeleton) and fits(item)

    def _commit_at(self, position: int) -> Commit | None:
        def read() -> Commit | None:
            try:
                records = self._store.log.read(position, 1) if position else []
                return decode_commit(records[0]) if records else None
            except DataLossError:
                return None

        return self._commits.get(position, read)

    def _name(self, view: View, number: int) -> str:
        if number not in self._numbers:
            self._numbers = {known: name for name, known in project_names(view)}
        return self._numbers.get(number, "")

    def _has_title(self, view: View, key: bytes) -> bool:
        """Say whether an event of a page named it so: mostly its last edit did."""
        number, page = int.from_bytes(key[1:5], "big"), int.from_bytes(key[-8:], "big")
        marks = view.scan(keys.marks_from(number, page), keys.marks_from(number, page + 1))
        for row, _ in marks:
            _, _, position, ordinal = keys.read_mark(row)
            if self._titles(view, position, ordinal, number, page, key):
                return True
        start, stop = keys.edits_from(number, page), keys.edits_from(number, page + 1)
        last = view.last(start, stop)
        if last is not None and self._titles(view, *keys.read_edit(last[0])[3:], number, page, key):
            return True
        while rows := view.scan(start, stop, limit=_ROWS):
            for row, _ in rows:
                if self._titles(view, *keys.read_edit(row)[3:], number, page, key):
                    return True
            start = rows[-1][0] + b"\0"
        return False

    def _titles(self, view: View, position: int, ordinal: int, number: int, page: int, key: bytes) -> bool:
        commit = self._commit_at(position)
        sealed = self._sealed_at(view, position, ordinal)
        if commit is None or sealed is None or ordinal >= len(commit.items):
            return True  # told by the phase ``log``
        item = commit.items[ordinal]
        if not isinstance(item, Skeleton) or len(sealed.values) < 2:  # noqa: PLR2004 - a title and another
            return False
        try:
            named = [
                value for value in sealed.values[: 2 if item.kind is Kind.MOVE else 1] if value is not None
            ]
            return any(keys.title(number, read_title(value)[1], page) == key for value in named)
        except DataLossError:
            return True  # told by the phase ``log``

    def _sealed_at(self, view: View, position: int, ordinal: int) -> Sealed | None:
        """Return the sealed values of an event, ``None`` if they cannot be read."""
        key = keys.sealed_blob(position, ordinal // TOGETHER)

        def read() -> list[Sealed] | None:
            try:
                raw = view.blob(key)
                return None if raw is None else open_sealed(raw)
            except DataLossError:
                return None

        some = self._sealed.get(key, read)
        return None if some is None or ordinal % TOGETHER >= len(some) else some[ordinal % TOGETHER]

    # --- pages ------------------------------------------------------------------------------------

    def _pages(self) -> Iterator[bool]:
        """Walk the pages: blocks, tails, then revisions; the cursor is the last page that is done."""
        state = self.state
        project, page = state.cursor or (0, 0)
        total = self._revisions()
        seen = 0
        while True:
            found = self._next_page(project, page)
            if found is None:
                return
            project, page = found
            self._page = _Page()
            for _ in self._page_texts(project, page):
                yield False
            for rows in self._page_edits(project, page):
                seen += rows
                state.share = seen / max(total, 1)
                yield False
            self._page.add_to(state)
            state.cursor = [project, page]
            yield True

    def _revisions(self) -> int:
        with self._store.view() as view:
            patient = _PatientView(view)
            return sum(tally_of(patient, number)[1].revisions for _, number in project_names(patient))

    def _next_page(self, project: int, page: int) -> tuple[int, int] | None:
        """Return the next page that has a row of a block, a tail or an edit, damaged ones too."""
        found = []
        with self._store.view() as view:
            for letter in (b"E", b"G", b"H"):
                start = letter + project.to_bytes(4, "big") + (page + 1).to_bytes(8, "big")
                rows, bad = scan_to_damage(view, start, bytes([letter[0] + 1]), 1)
                key = rows[0][0] if rows else bad.key if bad is not None else b""
                key = key.ljust(_PAGE_KEY_BYTES, b"\0")
                if bad is not None and not bad.key:
                    self._tell_damaged(bad, start)
                if key.strip(b"\0"):
                    found.append((int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:13], "big")))
        return min(found, default=None)

    def _page_texts(self, project: int, page: int) -> Iterator[None]:
        """Check a page's blocks; what is sealed meanwhile is looked at again."""
        seen: set[Row] = set()
        while True:
            new: list[Row] = []

            def take(_: View, rows: list[Row], new: list[Row] = new) -> None:
                new += [row for row in self._formed(rows) if row not in seen]

            for letter in (b"G", b"H"):
                start, stop = (
                    letter + project.to_bytes(4, "big") + one.to_bytes(8, "big") for one in (page, page + 1)
                )
                for _ in self._walk(start, stop, take):
                    pass
            if not new:
                return
            for row in new:
                seen.add(row)
                self._tell_twice_found(partial(self._block_faults, row=row))
                yield

    def _block_faults(self, view: View, row: Row) -> list[_Told]:
        key, value = row
        number = read_tail(key, value).number if key[:1] == b"H" else read_page_block(value).number
        try:
            if view.get(key) != value:
                return []  # it was sealed or rewritten since
            return self._faults_in_block(view, row, number)
        except DataLossError as error:
            return [("block-damaged", f"block {number}", error.message, Remedy.TEXT)]

    def _faults_in_block(self, view: View, row: Row, number: int) -> list[_Told]:
        key, _ = row
        told: list[_Told] = []
        index = TAIL if key[:1] == b"H" else int.from_bytes(key[-4:], "big")
        place = f"block {number}"
        raw = view.blob(keys.block(number))
        if raw is None:
            return [("block-missing", place, f"{_place(key)} names it", Remedy.TEXT)]
        block = read_block(raw)
        wanted = (int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:13], "big"), index)
        if (block.project, block.page, block.index) != wanted:
            return [("block-wrong", place, f"it is another than {_place(key)} says", Remedy.REBUILD)]
        texts = self._prefixes.texts(view, number, block)
        digests = [digest_of(text) for text in texts]
        self._digests.get(digest_of(raw), lambda: digests)
        if not _row_fits(view, row, block, digests):
            told.append(("row-wrong", _place(key), "its block says another value", Remedy.REBUILD))
        page = _Page(len(texts), sum(block.lengths))
        for ordinal, (text, digest) in enumerate(zip(texts, digests, strict=True)):
            try:
                found = view.get(keys.text(digest))
            except DataLossError:
                page.vouched += 1  # so that rows and texts are compared one by one
                continue
            if found == place_value(number, ordinal):
                page.vouched += 1
                page.digests += _number(digest)
            elif text:
                what = "no row leads to it" if found is None else "its row leads elsewhere"
                told.append(("text-row-wrong", f"block {number}, text {ordinal}", what, Remedy.REBUILD))
        if block.prefix and not block.index:
            users = keys.block_user(block.prefix), keys.block_user(block.prefix, number)
            if None in _PatientView(view).get_many(users):
                what = "no row says that its prefix is in another page's block"
                told.append(("user-missing", place, what, Remedy.REBUILD))
        if not told:
            self._page.add(page)
        return told

    def _page_edits(self, project: int, page: int) -> Iterator[int]:
        """Check what a page's revisions name as their texts; yield the number of rows."""
        start, stop = keys.edits_from(project, page), keys.edits_from(project, page + 1)
        while True:
            with self._store.view() as view:
                rows = _PatientView(view).scan(start, stop, limit=_EDITS)
            edits = [edit_row(row) for row in rows]
            self._tell_twice_found(partial(self._edit_faults, project=project, edits=edits))
            yield len(rows)
            if len(rows) < _EDITS:
                return
            start = rows[-1][0] + b"\0"

    def _edit_faults(self, view: View, project: int, edits: list[EditRow]) -> list[_Told]:
        told = []
        for edit in edits:
            if edit.position > self.state.known_at:
                continue
            sealed = self._sealed_at(view, edit.position, edit.ordinal)
            content = sealed.values[CONTENT_FIELD] if sealed and len(sealed.values) > CONTENT_FIELD else None
            if content is None:
                continue  # purged, or told by the phase ``log``
            try:
                slots = read_content(content)
            except DataLossError:
                continue  # told by the phase ``log``
            for slot in slots:
                if slot.presence is Presence.PRESENT:
                    told += self._slot_faults(view, (project, edit.page), slot.digest, edit.rev)
        return told

    def _slot_faults(self, view: View, page: tuple[int, int], digest: bytes, rev: int) -> list[_Told]:
        place = f"text sha256:{digest.hex()}"
        try:
            value = view.get(keys.text(digest))
        except DataLossError:
            return []  # told by the phase ``texts``
        if value is None:
            return [("text-missing", place, f"revision {rev} names it, and no row leads to it", Remedy.TEXT)]
        number, ordinal = read_place(value)
        try:
            raw = view.blob(keys.block(number))
            if raw is None:
                return [("text-missing", place, f"its block {number} is missing", Remedy.TEXT)]
            block = read_block(raw)
            digests = self._digests.get(
                digest_of(raw), lambda: list(map(digest_of, self._prefixes.texts(view, number, block)))
            )
        except DataLossError as error:
            return [("text-missing", place, error.message, Remedy.TEXT)]
        if ordinal >= len(digests) or digests[ordinal] != digest:
            return [("text-wrong", place, f"another text lies in its place in block {number}", Remedy.TEXT)]
        holder = keys.text_holder(digest, *page)
        if (block.project, block.page) != page and _PatientView(view).get(holder) is None:
            what = f"no row says that page {page[1]} holds it"
            return [("holder-missing", f"{place}, page {page[1]}", what, Remedy.REBUILD)]
        return []

    # --- texts ------------------------------------------------------------------------------------

    def _texts(self) -> Iterator[bool]:
        """Walk the rows of texts, holders and users; the cursor is the next key, and what was counted."""
        state = self.state
        start, number, total, closely = state.cursor or (b"D".hex(), 0, 0, False)
        for letter in (b"D", b"J", b"K", b"U", b"X"):
            begin, stop = max(bytes.fromhex(start), letter), bytes([letter[0] + 1])
            if begin >= stop:
                continue
            counted = [number, total]
            visit = partial(self._check_text_rows, closely=closely, counted=counted)
            for next_ in self._walk(begin, stop, visit, _FEW):
                number, total = counted
                state.cursor = [next_.hex(), number, total % _DIGESTS, closely]
                state.share = next_[1] / 256
                yield True
            if letter == b"D" and [number, total % _DIGESTS] != state.vouched and not closely:
                # There are other rows than texts: compare each with the text itself.
                state.cursor = [b"D".hex(), 0, 0, True]
                yield from self._texts()
                return

    def _check_text_rows(self, view: View, rows: list[Row], *, closely: bool, counted: list[int]) -> None:
        formed = self._formed(rows)
        if rows[0][0][:1] == b"D":
            counted[0] += len(rows)
            counted[1] += sum(_number(key[1:]) for key, _ in rows)
            self._check_places(view, formed, closely=closely)
        elif rows[0][0][:1] == b"K":
            self._check_holders(view, formed)

    def _formed(self, rows: list[Row]) -> list[Row]:
        """Return the rows that can be read; the others are told."""
        for row in rows:
            if not _is_formed(row):
                self._find("row-alien", f"row {row[0].hex()}", "no row has such a form", Remedy.REBUILD)
        return [row for row in rows if _is_formed(row)]

    def _check_places(self, view: View, rows: list[Row], *, closely: bool) -> None:
        by_block: dict[int, list[tuple[bytes, int]]] = {}
        for key, value in rows:
            number, ordinal = read_place(value)
            by_block.setdefault(number, []).append((key, ordinal))
        for number, some in sorted(by_block.items()):
            try:
                raw = view.blob(keys.block(number))
                block = None if raw is None else read_block(raw)
                digests = (
                    [digest_of(text) for text in self._prefixes.texts(view, number, block)]
                    if closely and block is not None
                    else None
                )
            except DataLossError:
                continue  # told by the phase ``pages`` or ``blobs``
            for key, ordinal in some:
                if block is None:
                    self._find("text-row-orphan", _place(key), f"block {number} is missing", Remedy.GC)
                elif ordinal >= len(block.lengths):
                    what = f"block {number} has {len(block.lengths)} texts"
                    self._find("text-row-orphan", _place(key), what, Remedy.GC)
                elif digests is not None and keys.text(digests[ordinal]) != key:
                    what = f"another text lies in its place in block {number}"
                    self._find("text-row-orphan", _place(key), what, Remedy.REBUILD)

    def _check_holders(self, view: View, rows: list[Row]) -> None:
        for key, _ in rows:
            try:
                held = view.get(b"D" + key[1 : 1 + SHORT_DIGEST]) is not None
            except DataLossError:
                continue
            if not held:
                self._find("row-orphan", _place(key), "its text is not stored", Remedy.REBUILD)

    # --- blobs ------------------------------------------------------------------------------------

    def _blobs(self) -> Iterator[bool]:
        """Walk the blobs downwards; the cursor is the last key."""
        state = self.state
        stop = bytes.fromhex(state.cursor[0]) if state.cursor else _END
        while True:
            with self._store.view() as view:
                for _ in range(_FEW):
                    try:
                        key = view.last_blob_key(b"", stop)
                    except DataLossError as error:
                        self._find(
                            "pages-damaged", f"blobs before {stop.hex()}", error.message, Remedy.RESTORE
                        )
                        return
                    if key is None:
                        return
                    if key >= stop:
                        what = "blobs are not in the order of their keys"
                        self._find("pages-damaged", f"blobs before {stop.hex()}", what, Remedy.RESTORE)
                        return
                    stop = key
                    self._check_blob(_PatientView(view), key)
            state.cursor = [stop.hex()]
            state.share = 1 - int.from_bytes(stop[1:9], "big") / max(state.known_at, 1)
            yield True

    def _check_blob(self, view: View, key: bytes) -> None:
        if key[:1] == b"t" and len(key) == 9:  # noqa: PLR2004 - the layout of keys.block
            number = int.from_bytes(key[1:], "big")
            try:
                block = load(view, number)
            except DataLossError as error:
                self._find("block-damaged", f"block {number}", error.message, Remedy.TEXT)
                return
            if block.index == TAIL:
                named = view.get(keys.tail(block.project, block.page, number)) is not None
            else:
                row = view.get(keys.page_block(block.project, block.page, block.index))
                named = row is not None and read_page_block(row).number == number
            if not named:
                what = f"page {block.page} does not name it"
                self._find("block-orphan", f"block {number}", what, Remedy.GC)
        elif key[:1] == b"s" and len(key) == 13:  # noqa: PLR2004 - the layout of keys.sealed_blob
            position, part = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big")
            if position > self.state.known_at:
                return
            commit = self._commit_at(position)
            events = sum(isinstance(item, Skeleton) for item in commit.items) if commit is not None else 0
            if (commit is not None or not position) and part * TOGETHER >= events:
                place = f"sealed values {position}, part {part}"
                self._find("sealed-orphan", place, "no event has them", Remedy.REBUILD)
        else:
            self._find("blob-alien", f"blob {key.hex()}", "no blob has such a key", Remedy.REBUILD)

    # --- snapshots --------------------------------------------------------------------------------

    def _snapshots(self) -> Iterator[bool]:
        """Walk the manifests, their parts and the pages of these; the cursor is a place in all three."""
        state = self.state
        position, at, page, count, size = state.cursor or (0, 0, 0, 0, 0)
        while True:
            with self._store.view() as view:
                start, stop = keys.snapshot_at(position), keys.snapshot_at(state.known_at + 1)
                rows = _PatientView(view).scan(start, stop, limit=1)
            if not rows:
                return
            position = int.from_bytes(rows[0][0][1:], "big")
            try:
                manifest = read_manifest(rows[0][1])
            except InvalidArgumentError:
                position, at = position + 1, 0
                continue  # told by the phase ``log``
            for part in manifest.parts[at:]:
                walk = _Part(self._store, self._find, manifest, part)
                for place in walk.steps(page, count, size):
                    state.cursor = [position, at, *place]
                    state.share = position / max(state.known_at, 1)
                    yield True
                state.entries += part.count
                at, page, count, size = at + 1, 0, 0, 0
                state.cursor = [position, at, 0, 0, 0]
            position, at = position + 1, 0
            state.cursor = [position, 0, 0, 0, 0]
            yield True

    # --- nodes ------------------------------------------------------------------------------------

    def _nodes(self) -> Iterator[bool]:
        """Walk the tree nodes; the cursor is the next key."""
        start = bytes.fromhex(self.state.cursor[0]) if self.state.cursor else b"N"
        for next_ in self._walk(start, b"O", self._check_nodes):
            self.state.cursor = [next_.hex()]
            self.state.share = next_[1] / 256
            yield True

    def _check_nodes(self, view: View, rows: list[Row]) -> None:
        for key, node in rows:
            what = _node_fault(view, key, node)
            if what:
                self._find("node-wrong", _place(key), what, Remedy.REBUILD)

    # --- columns ----------------------------------------------------------------------------------

    def _columns(self) -> Iterator[bool]:
        """Make the runs of each project's event columns again; the cursor is the last run that is done."""
        state = self.state
        project, done = state.cursor or (0, 0)
        with self._store.view() as view:
            names = project_names(_PatientView(view))
        for name, number in sorted(names, key=lambda one: one[1]):
            if number < project:
                continue
            after = done if number == project else 0
            while True:
                with self._store.view() as view:
                    start, stop = keys.event_run(number, after + 1), keys.event_run(number + 1)
                    rows = _PatientView(view).scan(start, stop, limit=1)
                if not rows or keys.read_event_run(rows[0][0])[0] > state.known_at:
                    break
                upto = keys.read_event_run(rows[0][0])[0]
                self._check_run(name, number, after, upto)
                after = upto
                state.cursor = [number, after]
                state.share = after / max(state.known_at, 1)
                yield True

    def _check_run(self, name: str, number: int, after: int, upto: int) -> None:
        place = f"event columns of project {name!r}, commits {after + 1} to {upto}"
        try:
            expected = _run_rows(self._store, name, number, after, upto)
            with self._store.view() as view:
                stored = view.get_many(list(expected))
                runs = view.scan(keys.event_run(number, upto), keys.event_run(number, upto + 1))
        except DataLossError as error:
            self._find("columns-damaged", place, error.message, Remedy.REBUILD)
            return
        named = [key for key in expected if key[:1] == b"X"]
        if stored != list(expected.values()) or [key for key, _ in runs] != sorted(named):
            self._find("columns-wrong", place, "the log says others", Remedy.REBUILD)


class _Captured:
    """Takes the rows that would be stored."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def put_derived(self, rows: Iterator[Row]) -> None:
        """Take rows."""
        self.rows.update(rows)


def _run_rows(store: Store, name: str, number: int, after: int, upto: int) -> dict[bytes, bytes]:
    """Return the rows of a run of event columns, as they are made."""
    times, pages, positions = array("q"), array("q"), array("q")
    for position, events in _logged(store, name, after):
        if position > upto:
            break
        for time, page in events:
            times.append(time)
            pages.append(page)
            positions.append(position)
    captured = _Captured()
    if times:
        _write(captured, number, after, upto, times, pages, positions)  # type: ignore[arg-type]
    return captured.rows


@dataclass(slots=True)
class _Page:
    """What was found of a page's texts."""

    texts: int = 0
    text_bytes: int = 0
    vouched: int = 0
    digests: int = 0

    def add(self, block: _Page) -> None:
        """Add what was found of one block."""
        self.texts += block.texts
        self.text_bytes += block.text_bytes
        self.vouched += block.vouched
        self.digests += block.digests

    def add_to(self, state: State) -> None:
        """Count a page that is done."""
        state.texts += self.texts
        state.text_bytes += self.text_bytes
        number, total = state.vouched
        state.vouched = [number + self.vouched, (total + self.digests) % _DIGESTS]


@dataclass(frozen=True, slots=True)
class _Hole:
    """Pages of a tree that cannot be read."""

    first: int
    last: int


class _Part:
    """One project's share of a snapshot, compared with the history page by page."""

    def __init__(
        self,
        store: Store,
        find: Callable[[str, str, str, Remedy], None],
        manifest: Manifest,
        part: ProjectPart,
    ) -> None:
        self._store = store
        self._find = find
        self._part = part
        self._selector = manifest.selector
        self._place = f"snapshot sha256:{manifest.snapshot_id.hex()}, project {part.project}"
        self._choice = Choice(
            manifest.as_of.valid_at,
            manifest.as_of.known_at,
            manifest.selector.min_age_seconds,
            manifest.selector.on_hidden,
        )
        self._holes = False

    def steps(self, page: int, count: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield (last page done, entries, bytes) after each step."""
        while page < _LAST_PAGE:
            with self._store.view() as view:
                number = find_project(_PatientView(view), self._part.project)
                if number is None:
                    self._find("snapshot-project", self._place, "there is no such project", Remedy.REBUILD)
                    return
                expected, sizes, unread, upto = self._expected(view, number, page)
                self._compare(view, expected, unread, page, upto)
            count += len(expected)
            size += sum(sizes)
            page = upto
            if unread:
                self._holes = True
            yield page, count, size
        if not self._holes and (count, size) != (self._part.count, self._part.text_bytes):
            what = f"the history has {count} entries of {size} bytes, the manifest others"
            self._find("snapshot-count", self._place, what, Remedy.REBUILD)

    def _expected(
        self, view: View, number: int, page: int
    ) -> tuple[dict[int, tuple[int, bytes]], list[int], set[int], int]:
        """Return (leaves by page, text sizes, pages that cannot be read, last page) of the next pages."""
        patient = _PatientView(view)
        leaves: dict[int, tuple[int, bytes]] = {}
        sizes: list[int] = []
        unread: set[int] = set()
        for _ in range(_FEW):
            start = keys.edits_from(number, page + 1)
            rows = patient.scan(start, keys.edits_to(number), limit=1)
            if not rows:
                return leaves, sizes, unread, _LAST_PAGE
            page = keys.read_edit(rows[0][0])[0]
            try:
                state = page_at(view, number, page, self._choice)
            except (DataLossError, struct.error, ValueError, LookupError):
                unread.add(page)  # told by the phases ``log`` and ``rows``
                continue
            if state is not None and selects(self._selector, state):
                edit = state.edit
                leaf = entry_leaf(edit.page, edit.rev, edit.time, state.title.commitment, edit.content)
                leaves[page] = edit.rev, leaf
                sizes.append(edit.text_bytes)
        return leaves, sizes, unread, page

    def _compare(
        self, view: View, expected: dict[int, tuple[int, bytes]], unread: set[int], after: int, upto: int
    ) -> None:
        found: dict[int, tuple[int, bytes]] = {}
        holes: list[_Hole] = []
        for item in self._leaves(view, self._part.root, None, after, upto):
            if isinstance(item, _Hole):
                holes.append(item)
            else:
                found[item.page_id] = item.rev_id, item.leaf
        for page in sorted(expected.keys() | found.keys()):
            if page in unread or any(hole.first <= page <= hole.last for hole in holes):
                continue
            if expected.get(page) != found.get(page):
                what = (
                    "its entry is not in the tree"
                    if page not in found
                    else "the history has no such entry"
                    if page not in expected
                    else "its leaf does not follow from the history"
                )
                self._find("snapshot-leaf", f"{self._place}, page {page}", what, Remedy.REBUILD)

    def _leaves(
        self, view: View, digest: bytes, above: tuple[int, int, int] | None, after: int, upto: int
    ) -> Iterator[Leaf | _Hole]:
        """Yield the leaves of a subtree with ``after`` < page id <= ``upto``, and what cannot be read.

        ``above`` is what its parent says of it: (level, prefix, entries); ``None`` for a root.
        """
        level, prefix, _ = above or (0, 0, 0)
        records: list[Any] = []
        hole = (
            _Hole(0, _LAST_PAGE)
            if above is None
            else _Hole(prefix << 4 * level + 4, (prefix + 1 << 4 * level + 4) - 1)
        )
        try:
            node = view.get(keys.node(digest))
            what = "it is missing" if node is None else ""
            if node is not None:
                if node_digest(node) != digest:
                    what = "it does not match its digest"
                elif above is not None and level_of(node) != level:
                    what = "it is of another level than its parent says"
                else:
                    level = level_of(node)
                    records = leaves_of(node) if level == 0 else children_of(node)
                    what = _records_fault(records, level, above)
        except DataLossError as error:
            what = error.message
        if what:
            self._find("snapshot-node", f"{self._place}, node {digest.hex()}", what, Remedy.REBUILD)
            yield hole
            return
        for record in records:
            if level == 0:
                if after < record.page_id <= upto:
                    yield record
            elif (record.prefix + 1) << 4 * level > after and record.prefix << 4 * level <= upto:
                below = level - 1, record.prefix, record.count
                yield from self._leaves(view, record.digest, below, after, upto)


def _records_fault(records: list[Any], level: int, above: tuple[int, int, int] | None) -> str:
    """Return what a node's records do not share with its parent; empty if they do."""
    if above is None:
        return ""
    _, prefix, count = above
    ids = [record.page_id if level == 0 else record.prefix for record in records]
    if any(one >> 4 != prefix for one in ids):
        return "it lies under another prefix"
    if count != (len(records) if level == 0 else sum(record.count for record in records)):
        return "it has another number of entries than its parent says"
    return ""


def _node_fault(view: View, key: bytes, node: bytes) -> str:
    if node_digest(node) != key[1:]:
        return "it does not match its digest"
    try:
        if level_of(node) == 0:
            leaves_of(node)
            return ""
        children = view.get_many([keys.node(child.digest) for child in children_of(node)])
    except DataLossError as error:
        return error.message
    return "a child is missing" if None in children else ""


def _row_fits(view: View, row: Row, block: Block, digests: list[bytes]) -> bool:
    """Say whether a block's or tail's row says what the block does."""
    key, value = row
    if key[:1] == b"G":
        page_block = read_page_block(value)
        times = page_block.first_time, page_block.last_time
        sizes = page_block.texts, page_block.raw_bytes
        return sizes == (len(block.lengths), sum(block.lengths)) and all(
            _has_edit(view, key, time) for time in times
        )
    tail = read_tail(key, value)
    if len(block.lengths) != 1 or tail.size != block.lengths[0]:
        return False
    if tail.digest == GONE:
        return not tail.size
    return tail.digest == digests[0][:SHORT_DIGEST] and _has_edit(view, key, tail.time)


def _has_edit(view: View, key: bytes, time: int) -> bool:
    """Say whether the page of a block's row has an edit of that instant: every text came with one."""
    if not MIN_INSTANT <= time <= MAX_INSTANT:
        return False
    page = int.from_bytes(key[1:5], "big"), int.from_bytes(key[5:13], "big")
    start, stop = keys.edits_from(*page, time), keys.edits_from(*page, time + 1)
    return bool(_PatientView(view).scan(start, stop, limit=1))


def _differs(event: Skeleton, values: Sequence[bytes | None]) -> str:
    """Return in what an event's sealed values do not fit its skeleton; empty if they do. Reads them all."""
    readers: dict[Kind, tuple[Callable[[bytes], Any], ...]] = _READERS
    read = [
        None if value is None else reader(value)
        for reader, value in zip(readers[event.kind], values, strict=True)
    ]
    if event.kind is not Kind.VISIBILITY and read[0] is not None and read[0][0] != event.namespace:
        return "its title has another namespace than the log says"
    if event.kind is Kind.MOVE and read[1] is not None and read[1][0] != event.from_namespace:
        return "its old title has another namespace than the log says"
    content = read[CONTENT_FIELD] if event.kind is Kind.EDIT else None
    if content is not None and sum(slot.size_bytes for slot in content) != event.text_bytes:
        return "its texts have another size than the log says"
    return ""


_READERS: dict[Kind, tuple[Callable[[bytes], Any], ...]] = {
    Kind.EDIT: (read_title, read_contributor, read_comment, read_content),
    Kind.MOVE: (read_title, read_title, read_contributor, read_comment),
    Kind.DELETE: (read_title, read_contributor, read_comment),
    Kind.RESTORE: (read_title, read_contributor, read_comment),
    Kind.VISIBILITY: (read_contributor, read_comment),
    Kind.LOG_ENTRY: (read_title, read_log_entry, read_contributor, read_comment),
}


def _sources(commit: Commit) -> frozenset[bytes]:
    return frozenset(item.source for item in commit.items if isinstance(item, Skeleton))


def _statements(commit: Commit, kind: Kind) -> list[bytes]:
    return [item.payload for item in commit.items if isinstance(item, Statement) and item.kind is kind]


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:SHORT_DIGEST], "big")


def _place(key: bytes) -> str:
    """Say which row a key is of, to a person."""
    name = _NAMES.get(key[:1], "unknown")
    if key[:1] == b"P":
        return f"project row {key[1:].decode(errors='replace')!r}"
    if len(key) != _SIZES.get(key[:1]):
        return f"{name} row {key.hex()}"
    match key[:1]:
        case b"E":
            page, _, rev, position, ordinal = keys.read_edit(key)
            return f"edit row of page {page}, revision {rev}, event {position}.{ordinal}"
        case b"R" | b"V" | b"W":
            subject, position, ordinal = keys.read_revision(key)
            return f"{name} row of {subject}, event {position}.{ordinal}"
        case b"M":
            page, _, position, ordinal = keys.read_mark(key)
            return f"mark row of page {page}, event {position}.{ordinal}"
        case b"G" | b"H":
            rest = int.from_bytes(key[13:], "big")
            return f"{name} row {rest} of page {int.from_bytes(key[5:13], 'big')}"
        case _:
            return f"{name} row {key.hex()}"
