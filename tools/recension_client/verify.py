"""Check what a server hands out against a snapshot id, by ``docs/format.md`` and nothing else.

Only the standard library is imported, so this file can be read, copied and trusted on its own. Section numbers
refer to that page. Functions raise ``VerifyError``; those named ``check_...`` return the problems they found.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from typing import Any

MAX_ID = 2**63 - 1
MAX_PROBLEMS = 100  # listed for each project, then the rest is not read
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{0,5}[1-9])?Z"
)
_LABELS = {
    name: f"recension/{name}/v1\0".encode()
    for name in ("title", "from-title", "contributor", "comment", "content", "log-entry")
}
FIELDS = tuple(_LABELS)


class VerifyError(ValueError):
    """The input is not what the format says it is."""


class Presence(IntEnum):
    """Whether there is a value (section 1)."""

    ABSENT = 0
    PRESENT = 1
    HIDDEN = 2
    LOST = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of an entry. Size, digest and text belong to a present one only."""

    role: str
    model: str
    format: str
    presence: Presence = Presence.PRESENT
    size: int = 0
    digest: bytes = b""
    text: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a reader is given (section 9): of title and content either the value with its salt, or the commitment."""

    page_id: int
    rev_id: int
    timestamp: int
    namespace: int = 0
    title: str | None = None
    title_salt: bytes = b""
    title_commitment: bytes = b""
    slots: Sequence[Slot] | None = None
    content_salt: bytes = b""
    content_commitment: bytes = b""


def _need(condition: object, message: str) -> None:
    if not condition:
        raise VerifyError(message)


def _pack(form: str, *values: object) -> bytes:
    try:
        return struct.pack(">" + form, *values)
    except struct.error as error:
        raise VerifyError(f"a number does not fit its place: {error}") from error


def _sized(form: str, text: str) -> bytes:
    raw = text.encode()
    return _pack(form, len(raw)) + raw


# Values, salts and commitments: sections 2 and 3


def title_value(namespace: int, title: str) -> bytes:
    """Return the canonical value of a title."""
    return _pack("i", namespace) + title.encode()


def contributor_value(presence: Presence, name: str = "", number: int | None = None) -> bytes:
    """Return the canonical value of a contributor."""
    if presence != Presence.PRESENT:
        _need(not name and number is None, "a contributor that is not present has neither name nor id")
        return _pack("B", presence)
    return b"\1" + (b"\0" if number is None else b"\1" + _pack("q", number)) + name.encode()


def comment_value(presence: Presence, text: str = "") -> bytes:
    """Return the canonical value of a comment."""
    _need(presence == Presence.PRESENT or not text, "a comment that is not present has no text")
    return _pack("B", presence) + text.encode()


def content_value(slots: Sequence[Slot]) -> bytes:
    """Return the canonical value of a content, its slots in any order."""
    roles = [slot.role for slot in slots]
    _need(all(roles) and len(set(roles)) == len(roles), "slot roles are unique and not empty")
    value = _pack("H", len(slots))
    for slot in sorted(slots, key=lambda slot: slot.role.encode()):
        value += _sized("H", slot.role) + _sized("H", slot.model) + _sized("H", slot.format)
        value += _pack("B", Presence(slot.presence))
        if slot.presence == Presence.PRESENT:
            _need(len(slot.digest) == 32, "a digest has 32 bytes")
            value += _pack("Q", slot.size) + slot.digest
        else:
            _need(
                not slot.size and not slot.digest and slot.text is None, "a slot has text but is not present"
            )
    return value


def log_entry_value(target: bytes, rev_ids: Iterable[int]) -> bytes:
    """Return the canonical value of a log entry; the target is a title value."""
    _need(len(target) >= 4, "a target has a namespace")
    return _pack("H", len(target)) + target + b"".join(_pack("Q", number) for number in rev_ids)


def field_salt(event_salt: bytes, field: str) -> bytes:
    """Derive the salt of one of ``FIELDS`` from that of its event."""
    _need(len(event_salt) == 16, "a salt has 16 bytes")
    return hmac.digest(event_salt, _LABELS[field], "sha256")[:16]


def commitment(salt: bytes, field: str, value: bytes) -> bytes:
    """Commit to a canonical value under the salt of its field."""
    _need(len(salt) == 16, "a salt has 16 bytes")
    return hmac.digest(salt, _LABELS["title" if field == "from-title" else field] + value, "sha256")


def title_commitment(salt: bytes, namespace: int, title: str) -> bytes:
    """Commit to a title; the salt is the field's, not the event's."""
    return commitment(salt, "title", title_value(namespace, title))


def content_commitment(salt: bytes, slots: Sequence[Slot]) -> bytes:
    """Commit to a content; the salt is the field's, not the event's."""
    return commitment(salt, "content", content_value(slots))


def sealed(commitments: Sequence[bytes]) -> bytes:
    """Return what a skeleton says of its fields."""
    _need(all(len(each) == 32 for each in commitments), "a commitment has 32 bytes")
    return sha256(b"recension/sealed/v1\0" + _pack("B", len(commitments)) + b"".join(commitments)).digest()


# Entries and trees: section 6


def entry_leaf(page_id: int, rev_id: int, timestamp: int, title: bytes, content: bytes) -> bytes:
    """Return the leaf of an entry from its two commitments."""
    _need(0 < page_id <= MAX_ID and 0 < rev_id <= MAX_ID, "an id is outside 1 to 2^63-1")
    _need(_FIRST <= timestamp <= _LAST, "a timestamp is outside the years 1 to 9999")
    _need(len(title) == len(content) == 32, "a commitment has 32 bytes")
    head = _pack("QQq", page_id, rev_id, timestamp)
    return sha256(b"\0recension/entry/v1\0" + head + title + content).digest()


class TreeBuilder:
    """Computes a root from leaves in page order. Keeps one open node for each level, so at most 16 of them."""

    def __init__(self) -> None:
        self.count = 0
        self._last = 0
        self._open: list[tuple[int, int, bytes]] = []  # by level: prefix, entries below, records so far

    def add(self, page_id: int, rev_id: int, leaf: bytes) -> None:
        """Take the next entry."""
        _need(0 < page_id <= MAX_ID and 0 < rev_id <= MAX_ID, "an id is outside 1 to 2^63-1")
        _need(page_id != self._last, f"page {page_id} occurs twice")
        _need(page_id > self._last, f"page {page_id} is out of order")
        _need(len(leaf) == 32, "a leaf has 32 bytes")
        self._last = page_id
        self.count += 1
        self._append(0, page_id, 1, _pack("QQ", page_id, rev_id) + leaf)

    def _append(self, level: int, key: int, below: int, record: bytes) -> None:
        if level == len(self._open):
            self._open.append((key >> 4, 0, b""))
        elif self._open[level][0] != key >> 4:
            self._close(level)
            self._open[level] = (key >> 4, 0, b"")
        prefix, count, records = self._open[level]
        self._open[level] = (prefix, count + below, records + record)

    def _close(self, level: int) -> None:
        prefix, count, records = self._open[level]
        self._append(level + 1, prefix, count, _pack("QQ", prefix, count) + _node(level, records))

    def root(self) -> bytes:
        """Return the root. Nothing can be added afterwards."""
        if not self._open:
            return _node(0, b"")
        level = 0
        while level + 1 < len(
            self._open
        ):  # a level above is open if, and only if, this one has a node closed
            self._close(level)
            level += 1
        self._last = MAX_ID
        return _node(level, self._open[level][2])


def _node(level: int, records: bytes) -> bytes:
    return sha256(b"\1" + _pack("B", level) + records).digest()


def tree_root(entries: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Return the root over (page_id, rev_id, leaf), ascending by page_id."""
    tree = TreeBuilder()
    for entry in entries:
        tree.add(*entry)
    return tree.root()


def check_path(root: bytes, page_id: int, nodes: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Return (rev_id, leaf) of one page from the nodes on its path, or None if they show it is absent (section 9)."""
    _need(0 < page_id <= MAX_ID and nodes, "a path has a page and at least one node")
    wanted, level, below = root, nodes[0][0] if nodes[0] else 16, -1
    for depth, node in enumerate(nodes):
        _need(level in range(16) and node[:1] == bytes([level]), "a node has the wrong level")
        _need(sha256(b"\1" + node).digest() == wanted, "a node is not the one its parent names")
        _need(len(node) % 48 == 1 and len(node) <= 1 + 16 * 48, "a node has the wrong length")
        records: list[tuple[int, int, bytes]] = list(struct.iter_unpack(">QQ32s", node[1:]))
        keys = [key for key, _, _ in records]
        _need(all(a < b for a, b in zip(keys, keys[1:], strict=False)), "records are out of order")
        _need(
            len({key >> 4 for key in keys}) == 1 or (node == b"\0" and depth == 0),
            "records do not belong together",
        )
        _need(depth or level == 0 or len(keys) > 1, "a root has one child")
        entries = sum(count for _, count, _ in records) if level else len(keys)
        _need(
            depth == 0 or (keys[0] >> 4 == page_id >> 4 * (level + 1) and entries == below),
            "a record disagrees",
        )
        found = next((record for record in records if record[0] == page_id >> 4 * level), None)
        if found is None or level == 0:
            _need(depth == len(nodes) - 1, "nodes follow the end of the path")
            return found and found[1:]
        _, below, wanted = found
        level -= 1
    raise VerifyError("the path ends early")


# Manifest and snapshot id: sections 7 and 8


def snapshot_id(manifest: bytes) -> str:
    """Return the id of the manifest with exactly these bytes."""
    return "sha256:" + sha256(manifest).hexdigest()


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _ascending(values: object, kind: type) -> bool:
    if type(values) is not list or not values or any(type(value) is not kind for value in values):
        return False
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def _is_instant(text: object) -> bool:
    match = _INSTANT.fullmatch(text) if isinstance(text, str) else None
    try:
        return match is not None and bool(datetime(*map(int, match.groups()[:6])))  # type: ignore[arg-type]  # noqa: DTZ001
    except ValueError:
        return False


def read_manifest(manifest: bytes) -> dict[str, Any]:
    """Return the manifest's document. Refuses any byte that the format would not have written."""
    try:
        document = json.loads(manifest.decode())
        again = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise VerifyError(f"the manifest is not JSON: {error}") from error
    _need(again == manifest, "the manifest is not canonical JSON")
    keys = {"format", "selector", "as_of", "projects"}
    _need(type(document) is dict and set(document) == keys, "the manifest has other keys")
    _need(document["format"] == "recension/snapshot/v1", "the manifest has another format")
    selector, as_of, parts = document["selector"], document["as_of"], document["projects"]
    _need(
        type(selector) is dict and _ascending(selector.get("projects"), str),
        "the selector's projects are wrong",
    )
    for key, value in selector.items():
        good = {
            "projects": True,
            "namespaces": _ascending(value, int) and all(abs(number) < 2**53 for number in value),
            "models": _ascending(value, str),
            "redirects": value in ("exclude", "only"),
            "min_age_seconds": _is_size(value) and value != 0,
            "on_hidden": value in ("fall_back", "keep"),
        }
        _need(good.get(key), f"the selector's {key} is wrong, unknown or at its default")
    _need(type(as_of) is dict and set(as_of) == {"known_at", "valid_at"}, "as_of has other keys")
    known = as_of["known_at"]
    _need(
        type(known) is str and re.fullmatch("0|[1-9][0-9]{0,19}", known) and int(known) < 2**64,
        "known_at is wrong",
    )
    _need(_is_instant(as_of["valid_at"]), "valid_at is wrong")
    _need(type(parts) is list, "projects is not an array")
    for part in parts:
        keys = {"bytes", "count", "project", "root"}
        _need(type(part) is dict and set(part) == keys, "a project has other keys")
        _need(_is_size(part["bytes"]) and _is_size(part["count"]), "a project's numbers are wrong")
        root = part["root"]
        _need(type(root) is str and re.fullmatch("sha256:[0-9a-f]{64}", root), "a project's root is wrong")
    _need(
        [part["project"] for part in parts] == selector["projects"], "projects are not those of the selector"
    )
    result: dict[str, Any] = document
    return result


# A whole snapshot: section 9


def check_entry(entry: Entry, *, texts: bool = True) -> tuple[bytes, list[str]]:
    """Return the leaf of an entry, and what is wrong with its texts. Without ``texts`` a text may be missing."""
    problems = []
    shown = entry.title is not None
    _need(shown != bool(entry.title_commitment), "a title is either shown or withheld")
    title = entry.title_commitment
    if entry.title is not None:
        title = title_commitment(entry.title_salt, entry.namespace, entry.title)
    shown = entry.slots is not None
    _need(shown != bool(entry.content_commitment), "a content is either shown or withheld")
    content = entry.content_commitment
    if entry.slots is not None:
        content = content_commitment(entry.content_salt, entry.slots)
        for slot in entry.slots:
            where = f"page {entry.page_id}, slot {slot.role}"
            if slot.presence == Presence.PRESENT and slot.text is None and texts:
                problems.append(f"{where}: the text is missing")
            if slot.text is not None and len(slot.text) != slot.size:
                problems.append(f"{where}: the text has another size")
            elif slot.text is not None and sha256(slot.text).digest() != slot.digest:
                problems.append(f"{where}: the text has another digest")
    return entry_leaf(entry.page_id, entry.rev_id, entry.timestamp, title, content), problems


def _check_project(part: dict[str, Any], entries: Iterable[Entry], *, texts: bool) -> list[str]:
    problems: list[str] = []
    tree, size, complete = TreeBuilder(), 0, True
    for entry in entries:
        try:
            leaf, found = check_entry(entry, texts=texts)
            tree.add(entry.page_id, entry.rev_id, leaf)
        except ValueError as error:
            return [*problems, f"page {entry.page_id}: {error}"]
        problems += found
        if len(problems) >= MAX_PROBLEMS:
            return [*problems[:MAX_PROBLEMS], "too many problems, the rest was not read"]
        slots = entry.slots or ()
        size += sum(slot.size for slot in slots)
        complete &= entry.slots is not None and all(slot.presence == Presence.PRESENT for slot in slots)
    if tree.count != part["count"]:
        problems.append(f"{tree.count} entries, the manifest says {part['count']}")
    if "sha256:" + tree.root().hex() != part["root"]:
        problems.append("the entries have another root than the manifest says")
    if complete and size != part["bytes"]:
        problems.append(f"{size} bytes of text, the manifest says {part['bytes']}")
    return problems


def check_snapshot(
    manifest: bytes, expected: str, entries: Mapping[str, Iterable[Entry]], *, texts: bool = True
) -> list[str]:
    """Return what is wrong with a snapshot asked for by its id, entries given by project; empty if nothing is."""
    if snapshot_id(manifest) != expected:
        return ["the manifest is not the one the snapshot id stands for"]
    try:
        parts = read_manifest(manifest)["projects"]
    except VerifyError as error:
        return [str(error)]
    names = {part["project"] for part in parts}
    problems = [f"{name}: not a project of the manifest" for name in entries if name not in names]
    for part in parts:
        name = part["project"]
        if name in entries:
            problems += [f"{name}: {found}" for found in _check_project(part, entries[name], texts=texts)]
        else:
            problems.append(f"{name}: no entries were given")
    return problems


# The chain of commits: sections 4 and 5


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit record, its items as they stand."""

    position: int
    recorded_at: int
    parent: bytes
    project: str
    items: tuple[bytes, ...]


def read_commit(record: bytes) -> Commit:
    """Read a commit record; every byte has to be accounted for."""
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        _need(at <= len(record), "the record ends early")
        return record[at - size : at]

    _need(take(20) == b"recension/commit/v1\0", "not a commit record")
    position, recorded_at, parent = struct.unpack(">Qq32s", take(48))
    _need(position > 0 and _FIRST <= recorded_at <= _LAST, "the position or the time is out of range")
    try:
        project = take(take(1)[0]).decode()
    except UnicodeDecodeError as error:
        raise VerifyError("the project is not UTF-8") from error
    items = tuple(take(int.from_bytes(take(4))) for _ in range(int.from_bytes(take(4))))
    _need(at == len(record), "bytes follow the last item")
    for item in items:
        _need(item and (1 <= item[0] <= 6 or item[0] in (16, 17)), "an item has an unknown kind")
        if item[0] <= 6:
            _check_skeleton(item)
    return Commit(position, recorded_at, parent, project, items)


def _check_skeleton(item: bytes) -> None:
    _need(len(item) >= 99 and len(item) == 99 + item[98], "a skeleton has the wrong length")
    kind, flags, page, rev, parent, time, _, before, size = struct.unpack_from(">BBQQQqiiQ", item)
    _need(flags < 128, "a skeleton has an unknown flag")
    _need(max(page, rev, parent) <= MAX_ID and (page == 0) == (kind == 6), "a skeleton has a wrong id")
    _need(kind != 6 or 1 <= parent <= 5, "a log entry has an unknown action")
    _need(_FIRST <= time <= _LAST, "a skeleton has a wrong time")
    _need(kind == 2 or before == 0, "only a move has a namespace before it")
    _need(kind == 1 or (size == 0 and len(item) == 99), "only an edit has text and a model")
    try:
        item[99:].decode()
    except UnicodeDecodeError as error:
        raise VerifyError("a skeleton's model is not UTF-8") from error


def check_chain(records: Iterable[bytes], *, head: bytes | None = None) -> list[str]:
    """Return the first thing wrong with a log read from its start; a chain without its known head may be cut short."""
    position, time, parent = 0, _FIRST - 1, bytes(32)
    for record in records:
        position += 1
        try:
            commit = read_commit(record)
            _need(commit.position == position, f"has position {commit.position}")
            _need(commit.parent == parent, "does not follow from the record before")
            _need(commit.recorded_at > time, "is not later than the record before")
        except VerifyError as error:
            return [f"commit {position}: {error}"]
        time, parent = commit.recorded_at, sha256(record).digest()
    return [] if head in (None, parent) else ["the last record is not the head"]
