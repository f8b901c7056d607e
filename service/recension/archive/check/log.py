"""The phase ``log``: the chain of records, what was sealed for them, and the index rows that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recension.archive.check.forms import name_of
from recension.archive.check.patience import PatientView
from recension.archive.check.state import Remedy
from recension.archive.check.work import Work
from recension.archive.projects import read_definition
from recension.archive.replay import LABELS, NO_DEFINITION, commit_rows, titles_of
from recension.archive.sealed import CONTENT_FIELD, TOGETHER, Sealed, open_sealed, sealed_keys
from recension.model import seal
from recension.model.access import read_key
from recension.model.agreement import read_statement
from recension.model.errors import DataLossError, InvalidArgumentError
from recension.model.licensee import read_licensee
from recension.model.manifest import read_manifest
from recension.model.mark import read_mark
from recension.model.note import read_key_statement
from recension.model.pin import read_pin
from recension.model.record import EMPTY_LOG, Commit, Kind, Skeleton, Statement, commit_hash, decode_commit
from recension.model.retraction import read_acknowledgement, read_receipt, read_retraction
from recension.store.interface import View

_COMMITMENT_BYTES = 32
_READERS: dict[Kind, tuple[Callable[[bytes], Any], ...]] = {
    Kind.EDIT: (seal.read_title, seal.read_contributor, seal.read_comment, seal.read_content),
    Kind.MOVE: (seal.read_title, seal.read_title, seal.read_contributor, seal.read_comment),
    Kind.DELETE: (seal.read_title, seal.read_contributor, seal.read_comment),
    Kind.RESTORE: (seal.read_title, seal.read_contributor, seal.read_comment),
    Kind.VISIBILITY: (seal.read_contributor, seal.read_comment),
    Kind.LOG_ENTRY: (seal.read_title, seal.read_log_entry, seal.read_contributor, seal.read_comment),
}


def check_log(work: Work) -> Iterator[bool]:
    """Walk the log; the cursor is the last position, its time, and the hash of its record if known."""
    state = work.state
    position, recorded_at, parent = state.cursor or (0, EMPTY_LOG.recorded_at, EMPTY_LOG.hash.hex())
    while position < state.known_at:
        position += 1
        commit, parent = _record(work, position, recorded_at, parent)
        if commit is not None:
            recorded_at = commit.recorded_at
            _check_commit(work, commit)
        state.reach([position, recorded_at, parent], position / state.known_at)
        yield True
    if parent and parent != state.head:
        work.find("log-head", f"commit {position}", "the head names another hash", Remedy.RESTORE)


def _record(work: Work, position: int, after: int, parent: str) -> tuple[Commit | None, str]:
    """Return a commit and the hash of its record, empty when it cannot be read."""

    def find(kind: str, what: str) -> None:
        work.find(kind, f"commit {position}", what, Remedy.RESTORE)

    try:
        (record,) = work.store.log.read(position, 1)
    except (DataLossError, ValueError) as error:
        find("log-record", str(error))
        return None, ""
    hash_ = commit_hash(record).hex()
    try:
        commit = decode_commit(record)
    except DataLossError as error:
        find("log-record", error.message)
        return None, hash_
    if commit.position != position:
        find("log-position", f"its record says {commit.position}")
        return None, hash_
    if parent and commit.parent.hex() != parent:
        find("log-chain", "its parent is not the record before it")
    if commit.recorded_at <= after and position > 1:
        find("log-time", "it was not recorded after the one before it")
    return commit, hash_


def _check_commit(work: Work, commit: Commit) -> None:
    events = [(ordinal, item) for ordinal, item in enumerate(commit.items) if isinstance(item, Skeleton)]
    work.state.commits += 1
    work.state.events += len(events)
    for item in commit.items:
        if isinstance(item, Statement):
            _check_statement(work, commit.position, item)
    with work.store.view() as view:
        sealed = _sealed_of(work, view, commit.position, len(events))
        titles = [
            _check_event(work, f"event {commit.position}.{ordinal}", event, one)
            for (ordinal, event), one in zip(events, sealed, strict=True)
        ]
        _check_rows(work, view, commit, titles)


def _check_statement(work: Work, position: int, item: Statement) -> None:
    try:
        if item.kind is Kind.SNAPSHOT:
            read_manifest(item.payload)
        elif item.kind is Kind.PIN:
            read_pin(item.payload)
        elif item.kind is Kind.KEY:
            read_key_statement(item.payload)
        elif item.kind is Kind.API_KEY:
            read_key(item.payload)
        elif item.kind is Kind.LICENSEE:
            read_licensee(item.payload)
        elif item.kind is Kind.AGREEMENT:
            read_statement(item.payload)
        elif item.kind is Kind.RETRACTION:
            read_retraction(item.payload)
        elif item.kind is Kind.RECEIPT:
            read_receipt(item.payload)
        elif item.kind is Kind.ACKNOWLEDGEMENT:
            read_acknowledgement(item.payload)
        elif item.kind is Kind.MARK:
            read_mark(item.payload)
        else:
            read_definition(item.payload)
    except (InvalidArgumentError, *NO_DEFINITION) as error:
        work.find("log-statement", f"commit {position}", str(error), Remedy.RESTORE)


def _sealed_of(work: Work, view: View, position: int, events: int) -> list[Sealed | None]:
    """Return the sealed values of a commit's events, ``None`` for those that cannot be read."""
    out: list[Sealed | None] = []
    for part, key in enumerate(sealed_keys(position, events)):
        wanted = min(TOGETHER, events - part * TOGETHER)
        some: list[Sealed | None] = []
        try:
            raw = view.blob(key)
            some += open_sealed(raw) if raw is not None else []
            what = f"there are values of {len(some)} events, not of {wanted}"
        except DataLossError as error:
            what = error.message
        if len(some) != wanted:
            place = f"events {position}.{part * TOGETHER} to {position}.{part * TOGETHER + wanted - 1}"
            work.find("sealed-damaged", place, what, Remedy.RESTORE)
            some = [None] * wanted
        out += some
    return out


def _check_event(work: Work, place: str, event: Skeleton, sealed: Sealed | None) -> Sequence[str]:
    """Check an event's values against their seal and its skeleton; return the titles that can be read."""
    if sealed is None:
        return ()
    try:
        titles = titles_of(event.kind, sealed)
        labels = LABELS[event.kind]
        commitments = [committed for _, committed in sealed.sealings(range(len(labels)), labels)]
    except (DataLossError, IndexError) as error:
        work.find("sealed-damaged", place, str(error), Remedy.RESTORE)
        return ()
    if any(len(one) != _COMMITMENT_BYTES for one in commitments) or seal.seal(commitments) != event.sealed:
        work.find("sealed-hash", place, "its sealed values are not those of the log", Remedy.RESTORE)
        return ()
    try:
        differs = _differs(event, sealed.values)
    except DataLossError as error:
        differs = error.message
    if differs:
        work.find("sealed-value", place, differs, Remedy.RESTORE)
    return titles


def _differs(event: Skeleton, values: Sequence[bytes | None]) -> str:
    """Return in what an event's sealed values do not fit its skeleton; empty if they do. Reads them all."""
    read = [
        None if value is None else reader(value)
        for reader, value in zip(_READERS[event.kind], values, strict=True)
    ]
    if event.kind is not Kind.VISIBILITY and read[0] is not None and read[0][0] != event.namespace:
        return "its title has another namespace than the log says"
    if event.kind is Kind.MOVE and read[1] is not None and read[1][0] != event.from_namespace:
        return "its old title has another namespace than the log says"
    content = read[CONTENT_FIELD] if event.kind is Kind.EDIT else None
    if content is not None and sum(slot.size_bytes for slot in content) != event.text_bytes:
        return "its texts have another size than the log says"
    return ""


def _check_rows(work: Work, view: View, commit: Commit, titles: Sequence[Sequence[str]]) -> None:
    """Compare the rows that a commit makes with those that are stored."""
    try:
        expected = commit_rows(PatientView(view), commit, titles)
    except DataLossError as error:
        work.find("row-missing", f"commit {commit.position}", error.message, Remedy.REBUILD)
        return
    for key, value in expected.items():
        try:
            stored = view.get(key)
        except DataLossError as error:
            work.find("row-damaged", name_of(key), error.message, Remedy.REBUILD)
            continue
        if stored is None:
            work.find("row-missing", name_of(key), "the log says that it is there", Remedy.REBUILD)
        elif stored != value:
            work.find("row-wrong", name_of(key), "the log says another value", Remedy.REBUILD)
